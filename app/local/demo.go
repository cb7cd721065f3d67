package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
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
	outcome string
	missing []string
	err     error
}

// factOf is that an event came out of the topic.
func factOf(event []byte) fact {
	var e struct {
		Type string
		Data struct {
			ID      string
			Missing []string
		}
	}
	err := json.Unmarshal(event, &e)
	return fact{id: e.Data.ID, outcome: strings.TrimPrefix(e.Type, "acr.replication."), missing: e.Data.Missing, err: err}
}

func demo(ctx context.Context, args []string) error {
	if err := parse(flag.NewFlagSet("demo", flag.ContinueOnError), args); err != nil {
		return err
	}
	facts := make(chan fact, 64)
	_, o := stackFlags("demo")
	o.Timeout = demoTimeout
	o.Events = func(event []byte) { facts <- factOf(event) }
	fmt.Fprintln(os.Stderr, "Starting the service and Dapr on this machine ...")
	s, err := stack.Start(ctx, *o)
	if err != nil {
		return err
	}
	defer s.Stop()
	ctx, cancel := context.WithCancelCause(ctx)
	go func() {
		<-s.Failed()
		cancel(s.Err())
	}()
	fmt.Printf("Service at %s, regions %s, timeout %s, read key %s.\nA simulated registry pushes images; each region's webhook fires when its replica has the image.\n\n",
		s.URL, strings.Join(demoRegions, ", "), demoTimeout, o.ReadKey)
	simulator := &acr.Registry{LoginServer: "contoso.azurecr.io", ServiceURL: s.URL, Key: s.Key}
	return play(ctx, simulator, demoPushes(), facts, os.Stdout, slack)
}

// play fires the webhooks, and shows what happens. It returns nil when every expected
// notification came out of the topic, and nothing else.
func play(ctx context.Context, simulator *acr.Registry, pushes []*push, facts chan fact, out io.Writer, slack time.Duration) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	begin := time.Now()
	byID := map[string]*push{}
	var last time.Duration
	for _, p := range pushes {
		byID[p.ID] = p
		p.At = begin
		for i, region := range demoRegions {
			after := time.Duration(p.fires[i] * float64(time.Second))
			last = max(last, after)
			time.AfterFunc(after, func() { facts <- fire(ctx, simulator, p, region) })
		}
	}
	deadline := time.After(last + slack)
	for slices.ContainsFunc(pushes, unfinished) {
		select {
		case f := <-facts:
			p := byID[f.id]
			switch {
			case f.err != nil:
				return f.err
			case p == nil:
				return fmt.Errorf("an event that nobody expected came out of the topic: %+v", f)
			}
			fmt.Fprintf(out, "%5.1fs  %-17s %s\n", time.Since(begin).Seconds(), p.Repository+":"+p.Tag, p.add(f))
		case <-deadline:
			return errors.New("not every notification came out of the topic: " + shortfall(pushes))
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	fmt.Fprintf(out, "\n%d pushes, %d webhooks: each notification that was due came out of the topic, and no other.\n",
		len(pushes), len(pushes)*len(demoRegions))
	return nil
}

// fire fires one webhook. Any answer but a 202 is an error.
func fire(ctx context.Context, simulator *acr.Registry, p *push, region string) fact {
	status, _, err := simulator.Fire(ctx, p.Push, region)
	if err == nil && status != http.StatusAccepted {
		err = fmt.Errorf("the webhook of %s for %s:%s was answered with %d", region, p.Repository, p.Tag, status)
	}
	return fact{id: p.ID, region: region, err: err}
}

// add adds a fact to a push, and returns what shows it.
func (p *push) add(f fact) string {
	if f.region != "" {
		p.answered++
		return fmt.Sprintf("webhook of %s: %d, %d of %d regions", f.region, http.StatusAccepted, p.answered, len(demoRegions))
	}
	p.came = append(p.came, f.outcome)
	line := "NOTIFICATION acr.replication." + f.outcome
	if len(f.missing) > 0 {
		line += ", missing " + strings.Join(f.missing, ", ")
	}
	return line
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
