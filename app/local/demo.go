package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"allregions/app/local/acr"
	"allregions/app/local/stack"
)

var demoRegions = []string{"westeurope", "eastus", "japaneast"}

const demoTimeout = 9 * time.Second

// slack is how long the last notification may take after the last webhook.
const slack = 15 * time.Second

// push is one push of the demo.
type push struct {
	acr.Push
	fires    []float64 // seconds after the begin, in the order of demoRegions
	outcomes []string  // that must come out of the topic
	answered int       // webhooks
	came     []string  // outcomes that came out of the topic, in order
}

func newPush(repository, tag string, fires []float64, outcomes ...string) *push {
	return &push{Push: acr.NewPush(repository, tag), fires: fires, outcomes: outcomes}
}

// demoPushes are one that is replicated, two interleaved ones, and one with a region
// that is late.
func demoPushes() []*push {
	return []*push{
		newPush("shop/cart", "v1.4.2", []float64{0, 1.5, 3.5}, "completed"),
		newPush("shop/api", "v7", []float64{5, 7, 9}, "completed"),
		newPush("shop/web", "v7", []float64{7.5, 5.5, 8.5}, "completed"),
		newPush("shop/pay", "v2.0", []float64{10.5, 11.5, 24}, "timedout", "recovered"),
	}
}

// fact is something that happened: a webhook was answered, or an event came.
type fact struct {
	id      string // of the push
	region  string // "" for an event
	answer  int
	outcome string
	missing []string
	err     error
}

func demo(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("demo", flag.ContinueOnError)
	port := flags.Int("port", 0, "port of the service; 0 for any free one")
	if err := parse(flags, args); err != nil {
		return err
	}
	o, err := stackOptions(demoRegions)
	if err != nil {
		return err
	}
	o.Timeout, o.Port = demoTimeout, *port
	facts := make(chan fact, 64)
	o.Events = func(event []byte) {
		var e struct {
			Type string
			Data struct {
				ID      string
				Missing []string
			}
		}
		err := json.Unmarshal(event, &e)
		facts <- fact{id: e.Data.ID, outcome: strings.TrimPrefix(e.Type, "acr.replication."), missing: e.Data.Missing, err: err}
	}
	fmt.Fprintln(os.Stderr, "Starting the service and Dapr on this machine ...")
	s, err := stack.Start(ctx, o)
	if err != nil {
		return err
	}
	defer s.Stop()
	fmt.Printf("Service at %s, regions %s, timeout %s.\nA simulated registry pushes images; each region's webhook fires when its replica has the image.\n\n",
		s.URL, strings.Join(demoRegions, ", "), demoTimeout)
	simulator := &acr.Registry{LoginServer: "contoso.azurecr.io", ServiceURL: s.URL, Key: s.Key}
	return play(ctx, s, simulator, demoPushes(), facts, os.Stdout, slack)
}

// running is a stack as far as play needs it.
type running interface {
	Failed() <-chan struct{}
	Err() error
}

// play fires the webhooks, and shows what happens. It returns nil when every expected
// notification came out of the topic, and nothing else.
func play(ctx context.Context, s running, simulator *acr.Registry, pushes []*push, facts chan fact, out io.Writer, slack time.Duration) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	begin := time.Now()
	byID := map[string]*push{}
	last := begin
	for _, p := range pushes {
		byID[p.ID] = p
		p.At = begin
		for i, region := range demoRegions {
			at := begin.Add(time.Duration(p.fires[i] * float64(time.Second)))
			if at.After(last) {
				last = at
			}
			go func() {
				select {
				case <-time.After(time.Until(at)):
				case <-ctx.Done():
					return
				}
				status, _, err := simulator.Fire(ctx, p.Push, region)
				facts <- fact{id: p.ID, region: region, answer: status, err: err}
			}()
		}
	}
	deadline := time.After(time.Until(last) + slack)
	for slices.ContainsFunc(pushes, unfinished) {
		select {
		case f := <-facts:
			p := byID[f.id]
			if p == nil {
				return fmt.Errorf("an event that nobody expected came out of the topic: %+v", f)
			}
			line, err := p.add(f)
			if err != nil {
				return err
			}
			fmt.Fprintf(out, "%5.1fs  %s\n", time.Since(begin).Seconds(), line)
		case <-deadline:
			return errors.New("not every notification came out of the topic: " + shortfall(pushes))
		case <-s.Failed():
			return s.Err()
		case <-ctx.Done():
			return errors.New("interrupted")
		}
	}
	counts, total := map[string]int{}, 0
	for _, p := range pushes {
		total += len(p.came)
		for _, outcome := range p.came {
			counts[outcome]++
		}
	}
	var parts []string
	for _, outcome := range slices.Sorted(maps.Keys(counts)) {
		parts = append(parts, fmt.Sprintf("%d %s", counts[outcome], outcome))
	}
	fmt.Fprintf(out, "\n%d pushes, %d webhooks, %d notifications on the topic: %s.\nEach one that was due, and no other.\n",
		len(pushes), len(pushes)*len(demoRegions), total, strings.Join(parts, ", "))
	return nil
}

// add adds a fact to a push, and returns the line that shows it.
func (p *push) add(f fact) (line string, err error) {
	if f.err != nil {
		return "", f.err
	}
	image := fmt.Sprintf("%-17s", p.Repository+":"+p.Tag)
	if f.region == "" {
		p.came = append(p.came, f.outcome)
		line = fmt.Sprintf("%s NOTIFICATION acr.replication.%s", image, f.outcome)
		if len(f.missing) > 0 {
			line += ", missing " + strings.Join(f.missing, ", ")
		}
		return line, nil
	}
	if f.answer != http.StatusAccepted {
		return "", fmt.Errorf("the webhook of %s for %s was answered with %d", f.region, image, f.answer)
	}
	p.answered++
	return fmt.Sprintf("%s webhook of %s: %d, %d of %d regions", image, f.region, f.answer, p.answered, len(demoRegions)), nil
}

func unfinished(p *push) bool {
	return p.answered < len(demoRegions) || !slices.Equal(p.came, p.outcomes)
}

func shortfall(pushes []*push) string {
	var all []string
	for _, p := range pushes {
		if !slices.Equal(p.came, p.outcomes) {
			all = append(all, fmt.Sprintf("%s:%s expected %v, got %v", p.Repository, p.Tag, p.outcomes, p.came))
		}
	}
	return strings.Join(all, "; ")
}
