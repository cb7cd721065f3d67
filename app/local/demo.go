package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"allregions/app/local/acr"
	"allregions/app/local/dapr"
	"allregions/app/local/stack"
	"allregions/app/replication"
)

// scene is one push of the demo: when which region's webhook fires, and which
// outcomes must come out of the topic.
type scene struct {
	title    string
	image    string
	tag      string
	begin    time.Duration   // after the demo's begin
	regions  []time.Duration // after the scene's begin, in the order of demoRegions
	outcomes []string
}

var demoRegions = []string{"westeurope", "eastus", "japaneast"}

const demoTimeout = 9 * time.Second

// demoDue is when a notification times out: some time after its deadline.
var demoDue = demoTimeout + replication.Plan{Timeout: demoTimeout}.Grace()

var scenes = []scene{
	{"one push", "shop/cart", "v1.4.2", 0, seconds(0, 1.5, 3.5), []string{"completed"}},
	{"two interleaved pushes", "shop/api", "v7", 5 * time.Second, seconds(0, 2, 4), []string{"completed"}},
	{"", "shop/web", "v7", 5500 * time.Millisecond, seconds(2, 0, 3), []string{"completed"}},
	{"a region is missing, and comes late", "shop/pay", "v2.0", 10500 * time.Millisecond, seconds(0, 1, 13.5), []string{"timedout", "recovered"}},
}

func seconds(s ...float64) (d []time.Duration) {
	for _, x := range s {
		d = append(d, time.Duration(x*float64(time.Second)))
	}
	return d
}

// slack is how long the last notification may take after it is due.
const slack = 15 * time.Second

// push is a scene that is played.
type push struct {
	scene
	acr.Push
	fired map[string]time.Time // by region
	came  []string             // outcomes that came out of the topic, in order
}

// fact is something that happened: a webhook was answered, or an event came.
type fact struct {
	push    *push
	at      time.Time
	region  string
	answer  int
	err     error
	outcome string
	missing []string
}

func demo(ctx context.Context, args []string) error {
	o := stack.Options{Timeout: demoTimeout}
	flags := flag.NewFlagSet("demo", flag.ContinueOnError)
	flags.IntVar(&o.Port, "port", 0, "port of the service; 0 for any free one")
	if err := parse(flags, args); err != nil {
		return err
	}
	if err := finishOptions(&o, demoRegions); err != nil {
		return err
	}
	facts := make(chan fact, 64)
	byID := map[string]*push{}
	var pushes []*push
	for _, sc := range scenes {
		p := &push{scene: sc, Push: acr.NewPush(sc.image, sc.tag), fired: map[string]time.Time{}}
		pushes = append(pushes, p)
		byID[p.ID] = p
	}
	o.Events = func(event []byte) {
		var e struct {
			Type string
			Data struct {
				ID      string
				Missing []string
			}
		}
		if err := json.Unmarshal(event, &e); err != nil || byID[e.Data.ID] == nil {
			facts <- fact{err: fmt.Errorf("an event that nobody expected came out of the topic: %s", event)}
			return
		}
		_, outcome, _ := strings.Cut(e.Type, "acr.replication.")
		facts <- fact{push: byID[e.Data.ID], at: time.Now(), outcome: outcome, missing: e.Data.Missing}
	}
	o.Progress("Starting the service and Dapr on this machine ...", false)
	s, err := stack.Start(ctx, o)
	if err != nil {
		return err
	}
	defer s.Stop()
	registry := &acr.Registry{LoginServer: "contoso.azurecr.io", ServiceURL: s.URL, Key: s.Key}
	return play(ctx, s, registry, pushes, facts, newStage(os.Stdout, pushes), slack)
}

// running is a stack as far as play needs it.
type running interface {
	Failed() <-chan struct{}
	Err() error
}

// play fires the webhooks and returns nil when every expected notification
// came out of the topic, and nothing else.
func play(ctx context.Context, s running, registry *acr.Registry, pushes []*push, facts chan fact, stage *stage, slack time.Duration) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	begin := time.Now()
	var due time.Duration
	for _, p := range pushes {
		p.At = begin.Add(p.begin)
		for i, region := range demoRegions {
			after := p.begin + p.regions[i]
			due = max(due, after)
			if slices.Contains(p.outcomes, "timedout") {
				due = max(due, p.begin+demoDue)
			}
			go func() {
				select {
				case <-time.After(time.Until(begin.Add(after))):
				case <-ctx.Done():
					return
				}
				status, _, err := registry.Fire(ctx, p.Push, region)
				facts <- fact{push: p, at: time.Now(), region: region, answer: status, err: err}
			}()
		}
	}
	deadline := time.After(due + slack)
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	stage.begin(registry.ServiceURL, begin)
	for {
		stage.draw(time.Now())
		select {
		case f := <-facts:
			if f.err != nil {
				return f.err
			}
			if f.region != "" {
				if f.answer != http.StatusAccepted {
					return fmt.Errorf("the webhook of %s for %s:%s was answered with %d", f.region, f.push.image, f.push.tag, f.answer)
				}
				f.push.fired[f.region] = f.at
			} else {
				f.push.came = append(f.push.came, f.outcome)
			}
			stage.tell(f)
			if finished(pushes) {
				stage.draw(time.Now())
				stage.end()
				return nil
			}
		case <-tick.C:
		case <-deadline:
			return errors.New("not every notification came out of the topic: " + shortfall(pushes))
		case <-s.Failed():
			return s.Err()
		case <-ctx.Done():
			return errors.New("interrupted")
		}
	}
}

func finished(pushes []*push) bool {
	for _, p := range pushes {
		if len(p.fired) < len(demoRegions) || !slices.Equal(p.came, p.outcomes) {
			return false
		}
	}
	return true
}

func shortfall(pushes []*push) string {
	var all []string
	for _, p := range pushes {
		if !slices.Equal(p.came, p.outcomes) {
			all = append(all, fmt.Sprintf("%s:%s expected %v, got %v", p.image, p.tag, p.outcomes, p.came))
		}
	}
	return strings.Join(all, "; ")
}

// stage shows the demo: a table that is redrawn on a terminal, plain lines
// elsewhere.
type stage struct {
	file     *os.File
	terminal bool
	pushes   []*push
	start    time.Time
	drawn    int // lines of the table on the screen
}

func newStage(f *os.File, pushes []*push) *stage {
	return &stage{file: f, terminal: dapr.IsTerminal(f), pushes: pushes}
}

func (st *stage) begin(url string, at time.Time) {
	st.start = at
	fmt.Fprintf(st.file, "Service at %s, regions %s, timeout %s.\nA simulated registry pushes images; each region's webhook fires when its replica has the image.\n\n",
		url, strings.Join(demoRegions, ", "), demoTimeout)
}

// tell writes a line of what happened, where there is no table to show it in.
func (st *stage) tell(f fact) {
	if st.terminal {
		return
	}
	image := f.push.image + ":" + f.push.tag
	if f.region != "" {
		fmt.Fprintf(st.file, "%5.1fs  %-17s webhook of %s: %d, %d of %d regions\n",
			f.at.Sub(st.start).Seconds(), image, f.region, f.answer, len(f.push.fired), len(demoRegions))
		return
	}
	missing := ""
	if len(f.missing) > 0 {
		missing = ", missing " + strings.Join(f.missing, ", ")
	}
	fmt.Fprintf(st.file, "%5.1fs  %-17s NOTIFICATION acr.replication.%s%s\n", f.at.Sub(st.start).Seconds(), image, f.outcome, missing)
}

func (st *stage) draw(now time.Time) {
	if !st.terminal {
		return
	}
	var b strings.Builder
	if st.drawn > 0 {
		fmt.Fprintf(&b, "\x1b[%dA", st.drawn)
	}
	st.drawn = 0
	line := func(format string, args ...any) {
		fmt.Fprintf(&b, "\x1b[K"+format+"\n", args...)
		st.drawn++
	}
	line("%5.1fs %-17s %s", now.Sub(st.start).Seconds(), "", header())
	for _, p := range st.pushes {
		if p.title != "" {
			line("       \x1b[2m%s\x1b[0m", p.title)
		}
		cells := ""
		for _, r := range demoRegions {
			mark := "\x1b[2m" + pad("·") + "\x1b[0m"
			if at, ok := p.fired[r]; ok {
				mark = "\x1b[32m" + pad(fmt.Sprintf("✔ %.1fs", at.Sub(st.start).Seconds())) + "\x1b[0m"
			}
			cells += mark
		}
		outcome := ""
		for _, o := range p.came {
			color := "32"
			if o == "timedout" {
				color = "31"
			}
			outcome += fmt.Sprintf("\x1b[%sm%s\x1b[0m ", color, o)
		}
		line("       %-17s %s%s", p.image+":"+p.tag, cells, outcome)
	}
	fmt.Fprint(st.file, b.String())
}

func header() (h string) {
	for _, r := range demoRegions {
		h += pad(r)
	}
	return h + "notifications on the topic"
}

func pad(s string) string { return s + strings.Repeat(" ", max(1, 13-len([]rune(s)))) }

func (st *stage) end() {
	counts := map[string]int{}
	n := 0
	for _, p := range st.pushes {
		for _, o := range p.came {
			counts[o]++
			n++
		}
	}
	var parts []string
	for _, o := range slices.Sorted(maps.Keys(counts)) {
		parts = append(parts, fmt.Sprintf("%d %s", counts[o], o))
	}
	fmt.Fprintf(st.file, "\n%d pushes, %d webhooks, %d notifications on the topic: %s.\nEach one that was due, and no other.\n",
		len(st.pushes), len(st.pushes)*len(demoRegions), n, strings.Join(parts, ", "))
}
