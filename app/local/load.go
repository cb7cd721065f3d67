package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"allregions/app/local/acr"
	"allregions/app/local/process"
	"allregions/app/local/stack"
)

// The orders in which load sends webhooks.
const (
	sequential  = "sequential"  // a sender sends those of a notification one after another
	interleaved = "interleaved" // one region of a hundred notifications, then the next region
	together    = "together"    // several senders send those of a notification at once, which then wait for one another
	duplicates  = "duplicates"  // as sequential, each webhook twice
	open        = "open"        // as sequential, without the last region
	retag       = "retag"       // as sequential, and each push moves the same tag
)

// batch is how many notifications are interleaved.
const batch = 100

// load sends webhooks as fast as they are answered, and reports how that went.
func load(ctx context.Context, args []string) error {
	var n, concurrency, others int
	var regions, url, key, mode string
	var asJSON, compare bool
	flags := flag.NewFlagSet("load", flag.ContinueOnError)
	flags.IntVar(&n, "notifications", 1000, "how many notifications")
	flags.IntVar(&concurrency, "concurrency", 16, "how many webhooks at a time")
	flags.StringVar(&mode, "mode", sequential, "sequential, interleaved, together, duplicates, open: without the last region, or retag: one tag that moves")
	flags.StringVar(&regions, "regions", "westeurope,eastus,japaneast", "regions that must report, comma separated")
	flags.StringVar(&url, "url", "", "of a running service (default: a new local stack, which is measured, too)")
	flags.StringVar(&key, "key", "", "key of that service")
	flags.IntVar(&others, "open", 0, "leave so many other notifications open before, and compare with a second stack without them")
	flags.BoolVar(&compare, "baseline", false, "then send the same to a hand-written service without Dapr, and compare")
	flags.BoolVar(&asJSON, "json", false, "print JSON")
	if err := parse(flags, args); err != nil {
		return err
	}
	if n < 1 || concurrency < 1 || others < 0 {
		return errors.New("-notifications and -concurrency: at least 1")
	}
	if others > 0 && url != "" {
		return errors.New("-open needs stacks of its own: leave -url out")
	}
	list := strings.Split(regions, ",")
	trains, err := plan(n, list, mode)
	if err != nil {
		return err
	}
	var local *stack.Stack
	if url == "" {
		if local, err = startForLoad(ctx, list, timeoutFor(mode, others)); err != nil {
			return err
		}
		defer local.Stop()
		url, key = local.URL, local.Key
	}
	here := at(url, key, processesOf(local)...)
	var r *loadReport
	if others == 0 {
		r, err = here.fire(ctx, trains, concurrency)
	} else {
		r, err = compareOpen(ctx, here, trains, n, others, list, mode, concurrency)
	}
	if ctx.Err() != nil {
		return errInterrupted
	}
	if err != nil {
		return err
	}
	r.Mode, r.Notifications, r.Concurrency, r.Open = mode, n, concurrency, others
	if err := r.countJoins(ctx, url, key, trains, concurrency); err != nil {
		return err
	}
	if compare {
		if local != nil {
			local.Stop() // it has had its turn
		}
		b, err := measureBaseline(ctx, trains, mode, regions, concurrency)
		if err != nil {
			return err
		}
		b.Notifications = n
		r.Baseline = b
	}
	if asJSON {
		e := json.NewEncoder(os.Stdout)
		e.SetIndent("", "  ")
		return e.Encode(r)
	}
	r.print(os.Stdout)
	return nil
}

var errInterrupted = errors.New("interrupted")

// timeoutFor is that of the notifications: the default, unless some are to stay
// open. The outcome of one that is open for long costs a call more, for its reminder
// is far ahead.
func timeoutFor(mode string, others int) time.Duration {
	if mode == open || others > 0 {
		return 24 * time.Hour
	}
	return 2 * time.Minute
}

func startForLoad(ctx context.Context, regions []string, timeout time.Duration) (*stack.Stack, error) {
	o := stack.Options{Timeout: timeout}
	if err := finishOptions(&o, regions); err != nil {
		return nil, err
	}
	return stack.Start(ctx, o)
}

// loaded is a running service, and those of its processes that are ours.
type loaded struct {
	registry  *acr.Registry
	processes []*process.Process
}

func at(url, key string, processes ...*process.Process) loaded {
	return loaded{&acr.Registry{LoginServer: "contoso.azurecr.io", ServiceURL: strings.TrimSuffix(url, "/"), Key: key}, processes}
}

// processesOf are those of a stack that are measured; nil has none.
func processesOf(s *stack.Stack) (processes []*process.Process) {
	if s == nil {
		return nil
	}
	for _, name := range []string{stack.ServiceProcess, stack.SidecarProcess, stack.SchedulerProcess} {
		processes = append(processes, s.Process(name))
	}
	return processes
}

// fire sends the trains, and measures the processes meanwhile.
func (l loaded) fire(ctx context.Context, trains []train, concurrency int) (*loadReport, error) {
	var processes []measured
	for _, p := range l.processes {
		m, err := measure(p)
		if errors.Is(err, fs.ErrNotExist) {
			break // only Linux has /proc
		}
		if err != nil {
			return nil, err
		}
		processes = append(processes, m)
	}
	r := fireAll(ctx, l.registry, trains, concurrency)
	for _, p := range processes {
		used, err := p.since(r.Webhooks)
		if err != nil {
			return nil, err
		}
		r.Processes = append(r.Processes, used)
	}
	return r, nil
}

// rounds is how often the two stacks of compareOpen take turns: a machine is not as
// fast from one minute to the next.
const rounds = 8

// compareOpen leaves others open, and then sends the trains of n notifications there
// and the same to a new stack, by turns.
func compareOpen(ctx context.Context, full loaded, trains []train, n, others int, regions []string, mode string, concurrency int) (*loadReport, error) {
	if err := openAll(ctx, full.registry, others, regions[0], concurrency); err != nil {
		return nil, err
	}
	s, err := startForLoad(ctx, regions, timeoutFor(mode, others))
	if err != nil {
		return nil, err
	}
	defer s.Stop()
	empty := at(s.URL, s.Key, processesOf(s)...)
	same, err := plan(n, regions, mode)
	if err != nil {
		return nil, err
	}
	with, without := &loadReport{}, &loadReport{}
	for round := range rounds {
		turns := []func() error{
			func() error { return with.fire(ctx, full, part(trains, round), concurrency) },
			func() error { return without.fire(ctx, empty, part(same, round), concurrency) },
		}
		if round%2 == 1 {
			slices.Reverse(turns)
		}
		for _, turn := range turns {
			if err := turn(); err != nil {
				return nil, err
			}
		}
	}
	with.Without = without
	return with, nil
}

// part is what is sent in a round.
func part(trains []train, round int) []train {
	return trains[len(trains)*round/rounds : len(trains)*(round+1)/rounds]
}

// fire adds to r what comes of more trains.
func (r *loadReport) fire(ctx context.Context, l loaded, trains []train, concurrency int) error {
	more, err := l.fire(ctx, trains, concurrency)
	if err == nil {
		r.add(more)
	}
	return err
}

// add makes r the report of both, one after the other.
func (r *loadReport) add(more *loadReport) {
	for i, p := range more.Processes {
		if len(r.Processes) == i {
			r.Processes = append(r.Processes, processUsage{Name: p.Name})
		}
		sum := &r.Processes[i]
		sum.CPUPer1000 = (sum.CPUPer1000*float64(r.Webhooks) + p.CPUPer1000*float64(more.Webhooks)) / float64(r.Webhooks+more.Webhooks)
		sum.PeakMiB = max(sum.PeakMiB, p.PeakMiB)
	}
	if r.Answers == nil {
		r.Answers = map[string]int{}
	}
	for status, n := range more.Answers {
		r.Answers[status] += n
	}
	r.CPUs = more.CPUs
	r.Webhooks += more.Webhooks
	r.Seconds += more.Seconds
	r.latencies = append(r.latencies, more.latencies...)
	r.rank()
}

// settle is how long a reminder takes to fire first, and to rest then.
const settle = 35 * time.Second

// openAll leaves n notifications open, of which one region has reported.
func openAll(ctx context.Context, registry *acr.Registry, n int, region string, concurrency int) error {
	fmt.Fprintf(os.Stderr, "Opening %d notifications.\n", n)
	trains, err := plan(n, []string{region}, sequential)
	if err != nil {
		return err
	}
	r := fireAll(ctx, registry, trains, concurrency)
	if accepted := r.Answers[strconv.Itoa(http.StatusAccepted)]; accepted != n && ctx.Err() == nil {
		return fmt.Errorf("of %d notifications only %d could be opened: %v", n, accepted, r.Answers)
	}
	fmt.Fprintf(os.Stderr, "Opened them in %.0f s, %.0f a second. Waiting %v for their reminders to rest.\n", r.Seconds, r.PerSecond, settle)
	select {
	case <-time.After(settle):
		return nil
	case <-ctx.Done():
		return errInterrupted
	}
}

type loadShot struct {
	push   acr.Push
	region string
}

// train is what one sender sends, each webhook when the one before is answered.
type train []loadShot

// plan is all webhooks in the order in which senders take them.
func plan(n int, regions []string, mode string) (trains []train, err error) {
	pushes := make([]acr.Push, n)
	for i := range pushes {
		pushes[i] = acr.NewPush("load/image-"+strconv.Itoa(i%1000), "v"+strconv.Itoa(i/1000))
		if mode == retag {
			pushes[i] = acr.NewPush("load/image", "latest")
		}
	}
	switch mode {
	case sequential, duplicates, open, retag:
		if mode == open {
			regions = regions[:len(regions)-1]
		}
		for _, p := range pushes {
			var t train
			for _, region := range regions {
				t = append(t, loadShot{p, region})
				if mode == duplicates {
					t = append(t, loadShot{p, region})
				}
			}
			trains = append(trains, t)
		}
	case together:
		for _, p := range pushes {
			for _, region := range regions {
				trains = append(trains, train{{p, region}})
			}
		}
	case interleaved:
		for group := range slices.Chunk(pushes, batch) {
			for _, region := range regions {
				for _, p := range group {
					trains = append(trains, train{{p, region}})
				}
			}
		}
	default:
		return nil, fmt.Errorf("-mode: %q is none of sequential, interleaved, together, duplicates, open, retag", mode)
	}
	return trains, nil
}

// loadReport is what came of it. Latencies are milliseconds.
type loadReport struct {
	Mode          string         `json:"mode"`
	Notifications int            `json:"notifications"`
	Concurrency   int            `json:"concurrency"`
	Open          int            `json:"open"`              // other notifications that were open
	Without       *loadReport    `json:"without,omitempty"` // the same without them
	CPUs          int            `json:"cpus"`
	Webhooks      int            `json:"webhooks"`
	Seconds       float64        `json:"seconds"`
	PerSecond     float64        `json:"webhooksPerSecond"`
	P50           float64        `json:"p50"`
	P95           float64        `json:"p95"`
	P99           float64        `json:"p99"`
	Max           float64        `json:"max"`
	Answers       map[string]int `json:"answers"` // by HTTP status; "none" without an answer
	Joined        int            `json:"joined"`  // notifications that are replicated
	JoinsPerSec   float64        `json:"joinsPerSecond"`
	Unjoined      map[string]int `json:"unjoined,omitempty"` // what was answered about the others, by HTTP status
	Processes     []processUsage `json:"processes,omitempty"`
	Baseline      *loadReport    `json:"baseline,omitempty"`

	latencies []time.Duration
}

func fireAll(ctx context.Context, registry *acr.Registry, trains []train, concurrency int) *loadReport {
	http.DefaultTransport.(*http.Transport).MaxIdleConnsPerHost = concurrency
	queue := make(chan train, len(trains))
	for _, t := range trains {
		queue <- t
	}
	close(queue)
	var mu sync.Mutex // of the two
	var latencies []time.Duration
	var statuses []int
	var wg sync.WaitGroup
	begin := time.Now()
	for range concurrency {
		wg.Go(func() {
			for t := range queue {
				for _, shot := range t {
					if ctx.Err() != nil {
						return
					}
					sent := time.Now()
					status, _, _ := registry.Fire(ctx, shot.push, shot.region)
					took := time.Since(sent)
					mu.Lock()
					statuses, latencies = append(statuses, status), append(latencies, took)
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	r := &loadReport{CPUs: runtime.NumCPU(), Webhooks: len(statuses), Seconds: time.Since(begin).Seconds(), Answers: map[string]int{}, latencies: latencies}
	r.rank()
	for _, status := range statuses {
		name := strconv.Itoa(status)
		if status == 0 {
			name = "none"
		}
		r.Answers[name]++
	}
	return r
}

// rank works out what follows from the sums.
func (r *loadReport) rank() {
	r.PerSecond = float64(r.Webhooks) / r.Seconds
	slices.Sort(r.latencies)
	r.P50, r.P95, r.P99, r.Max = percentile(r.latencies, 50), percentile(r.latencies, 95), percentile(r.latencies, 99), percentile(r.latencies, 100)
}

// percentile is the smallest value that p percent of the sorted ones do not
// exceed, in milliseconds.
func percentile(sorted []time.Duration, p int) float64 {
	if len(sorted) == 0 {
		return 0
	}
	i := (len(sorted)*p + 99) / 100
	return float64(sorted[max(i, 1)-1]) / float64(time.Millisecond)
}

// countJoins asks for every notification that has had all its webhooks.
func (r *loadReport) countJoins(ctx context.Context, url, key string, trains []train, concurrency int) error {
	if r.Mode == open {
		return nil
	}
	ids := map[string]bool{}
	for _, t := range trains {
		ids[t[0].push.ID] = true
	}
	queue := make(chan string, len(ids))
	for id := range ids {
		queue <- id
	}
	close(queue)
	var joined atomic.Int64
	var first error
	unjoined := map[string]int{}
	var mu sync.Mutex // first and unjoined
	var wg sync.WaitGroup
	for range concurrency {
		wg.Go(func() {
			for id := range queue {
				status, err := replicated(ctx, url+"/notifications/"+id+"?require=replicated&wait=5s", key)
				if err != nil {
					mu.Lock()
					first = cmp.Or(first, err)
					mu.Unlock()
					return
				}
				if status == http.StatusOK {
					joined.Add(1)
					continue
				}
				mu.Lock()
				unjoined[strconv.Itoa(status)]++
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	r.Joined, r.Unjoined = int(joined.Load()), unjoined
	r.JoinsPerSec = float64(r.Joined) / r.Seconds
	return first
}

func replicated(ctx context.Context, url, key string) (int, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, err
	}
	req.Header.Set("Authorization", "Bearer "+key)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode, err
}

func (r *loadReport) print(w io.Writer) {
	fmt.Fprintf(w, "%s: %d notifications, %d webhooks, %d at a time, %d CPUs, %d other notifications open\n\n", r.Mode, r.Notifications, r.Webhooks, r.Concurrency, r.CPUs, r.Open)
	fmt.Fprintf(w, "  joins/s      %8.0f   (%d of %d joined)\n", r.JoinsPerSec, r.Joined, r.Notifications)
	if len(r.Unjoined) > 0 {
		fmt.Fprintf(w, "  not joined   %v\n", r.Unjoined)
	}
	r.printNumbers(w)
	if o := r.Without; o != nil {
		fmt.Fprintf(w, "\n%.2f of the webhooks/s of a stack without the others, which had every other turn:\n\n", r.PerSecond/o.PerSecond)
		o.printNumbers(w)
	}
	if b := r.Baseline; b != nil {
		fmt.Fprintf(w, "\nwithout Dapr, in one process of one replica; %.2f of its webhooks/s:\n\n", r.PerSecond/b.PerSecond)
		b.print(w)
	}
}

func (r *loadReport) printNumbers(w io.Writer) {
	fmt.Fprintf(w, "  webhooks/s   %8.0f\n", r.PerSecond)
	fmt.Fprintf(w, "  p50 ms       %8.1f\n  p95 ms       %8.1f\n  p99 ms       %8.1f\n  max ms       %8.1f\n  answers      %v\n", r.P50, r.P95, r.P99, r.Max, r.Answers)
	for _, p := range r.Processes {
		fmt.Fprintf(w, "  %-12s %8.2f CPU seconds per 1,000 webhooks, %d MiB at most\n", p.Name, p.CPUPer1000, p.PeakMiB)
	}
}

// measured is what a process had used when the load began.
type measured struct {
	process *process.Process
	cpu     float64
}

type processUsage struct {
	Name       string  `json:"name"`
	CPUPer1000 float64 `json:"cpuSecondsPer1000Webhooks"`
	PeakMiB    int     `json:"peakMiB"`
}

func measure(p *process.Process) (measured, error) {
	cpu, _, err := process.Usage(p.PID)
	return measured{p, cpu}, errors.Join(err, process.ResetPeak(p.PID))
}

func (m measured) since(webhooks int) (processUsage, error) {
	cpu, peak, err := process.Usage(m.process.PID)
	return processUsage{m.process.Name, (cpu - m.cpu) * 1000 / float64(webhooks), peak}, err
}
