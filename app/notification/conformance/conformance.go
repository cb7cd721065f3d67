// Package conformance shows, for a state store and a document store, that a
// notification survives everything that can happen between its writes. The same
// suite runs on the fakes and on what a real sidecar stores.
//
// Three regions report, one of them perhaps late; the reminder fires in between;
// in every order; what an actor does at the same time it does here one after
// another, in an order that is another one in each story. Each write of each of these stories is lost, or is done and
// reported as lost, or is the last one before the process dies; in memory, a save or
// a call about reminders is also done after it was given up, at once or after the
// reminder has fired. The callers try nothing twice, as ACR does not. Whatever happens:
//
//   - an accepted event is in its notification;
//   - a notification reaches exactly one of replicated and timedOut, and then
//     perhaps recovered; each is on the topic, always with the same content, also
//     if it is published in another trace than the one in which it was decided;
//   - the document tells the end, and the image leads to it;
//   - no reminder is left, and nothing is left to do.
package conformance

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"allregions/app/notification"
	"allregions/app/notification/fake"
	"allregions/app/replication"
)

// Documents is what an actor and a client need of a document store.
type Documents interface {
	notification.Documents
	notification.Lookup
}

// Backend is what the suite runs on.
type Backend struct {
	Store     notification.Store
	Documents Documents

	// Activate makes a new id ready for Load and Save.
	Activate func(id string) error
}

var (
	regions = []replication.Region{"westeurope", "eastus", "japaneast"}
	begin   = time.Date(2026, 11, 17, 16, 52, 1, 343145347, time.UTC)
)

const timeout = 2 * time.Minute

// delays are those of what is late.
var delays = []time.Duration{500 * time.Millisecond, 1500 * time.Millisecond, 32 * time.Second}

// The steps of a story beside the events of the regions.
const (
	pause    = "pause"    // for longer than the reminder's period
	deadline = "deadline" // until it has passed
)

// stories are all orders of the steps.
func stories() iter.Seq[[]string] {
	steps := []string{pause, deadline}
	for _, r := range regions {
		steps = append(steps, string(r))
	}
	return func(yield func([]string) bool) {
		var permute func(k int) bool
		permute = func(k int) bool {
			if k == len(steps) {
				return yield(slices.Clone(steps))
			}
			for i := k; i < len(steps); i++ {
				steps[k], steps[i] = steps[i], steps[k]
				if !permute(k + 1) {
					return false
				}
				steps[k], steps[i] = steps[i], steps[k]
			}
			return true
		}
		permute(0)
	}
}

// Run runs one of every stride cases, 1 for all of them, and returns how many. A
// nil backend is for each case a new one in memory.
func Run(t *testing.T, b *Backend, stride int) (cases int) {
	n := 0
	due := func() bool { n++; return n%stride == 0 }
	order := uint64(0)
	for steps := range stories() {
		order++
		// What a story writes without any failure, it may fail to write.
		clean := newRun(t, nil, steps, order, nil)
		clean.play()
		clean.check()
		for at, what := range clean.world.Writes {
			for _, how := range []fake.Failure{fake.Lost, fake.Reported, fake.Crashed, fake.Late} {
				if how == fake.Late && b != nil {
					continue
				}
				if due() {
					r := newRun(t, b, steps, order, fake.At(at, how))
					r.world.Delay = delays[n%len(delays)]
					r.name = fmt.Sprintf("%s, write %d, %s, %s", r.name, at, what, how)
					r.play()
					r.check()
					cases++
				}
			}
		}
	}
	// And several failures in one story.
	for seed := range uint64(3000) {
		if !due() {
			continue
		}
		rng := rand.New(rand.NewPCG(seed, 1))
		all := slices.Collect(stories())
		r := newRun(t, b, all[rng.IntN(len(all))], seed, func(int, string) fake.Failure {
			if rng.IntN(4) > 0 {
				return fake.None
			}
			return fake.Failure(1 + rng.IntN(int(fake.Late)))
		})
		r.world.Delay = delays[rng.IntN(len(delays))]
		r.name = fmt.Sprintf("%s, seed %d", r.name, seed)
		r.play()
		r.check()
		cases++
	}
	return cases
}

// run is one case.
type run struct {
	t        *testing.T
	name, id string
	steps    []string
	world    *fake.World
	backend  Backend
	accepted []replication.Region
	order    *rand.Rand // of what an actor does at the same time
}

func newRun(t *testing.T, b *Backend, steps []string, order uint64, fail func(int, string) fake.Failure) *run {
	w := fake.New(begin)
	w.Fail = fail
	r := &run{t: t, name: strings.Join(steps, " "), id: "n1", steps: steps, world: w, backend: Backend{Store: w, Documents: w}, order: rand.New(rand.NewPCG(order, 2))}
	if b != nil {
		r.id = fmt.Sprintf("c%x", rand.Uint64())
		if err := b.Activate(r.id); err != nil {
			t.Fatalf("%s: activate: %v", r.name, err)
		}
		r.backend = Backend{Store: faultyStore{b.Store, w}, Documents: faultyDocuments{b.Documents, w}}
	}
	return r
}

// actor is a process.
func (r *run) actor() *notification.Actor {
	return &notification.Actor{Store: r.backend.Store, Documents: r.backend.Documents, Reminders: r.world, Topic: r.world,
		Timeout: timeout, Together: fake.Shuffled(r.order), Now: func() time.Time { return r.world.Now }, Tracer: tracer{}, Log: slog.New(slog.DiscardHandler)}
}

// tracer makes every span another one: if it were that of a publication which is
// published, and not that of the decision, an event would have two contents.
type tracer struct{ noop.Tracer }

func (tracer) Start(ctx context.Context, _ string, _ ...trace.SpanStartOption) (context.Context, trace.Span) {
	var c trace.SpanContextConfig
	binary.NativeEndian.PutUint64(c.TraceID[:], 1+rand.Uint64N(math.MaxUint64))
	binary.NativeEndian.PutUint64(c.SpanID[:], 1+rand.Uint64N(math.MaxUint64))
	ctx = trace.ContextWithSpanContext(ctx, trace.NewSpanContext(c))
	return ctx, trace.SpanFromContext(ctx)
}

// Invoke makes the run a Dapr that reaches the actor at once.
func (r *run) Invoke(ctx context.Context, id, method string, body []byte) ([]byte, error) {
	return r.actor().Methods()[method](ctx, id, body)
}

func (r *run) client() *notification.Client {
	return &notification.Client{Actors: r, Documents: r.backend.Documents}
}

func (r *run) play() {
	for _, step := range r.steps {
		switch step {
		case pause:
			r.pass(replication.Period + time.Second)
		case deadline:
			r.pass(timeout + time.Second)
		default:
			r.add(replication.Region(step))
			r.pass(time.Second)
		}
	}
	r.pass(time.Hour)
}

func (r *run) add(region replication.Region) {
	defer fake.Survive()
	_, err := r.client().Add(r.t.Context(), replication.Event{ID: r.id, Action: "push", Registry: "contoso.azurecr.io", Repository: "shop/" + r.id,
		Tag: "v1", Digest: "sha256:aa", Size: 1<<53 + 1, Region: region, Time: begin}, regions)
	switch {
	case err == nil:
		r.accepted = append(r.accepted, region)
	case !errors.Is(err, fake.Err):
		r.t.Errorf("%s: add %s: %v", r.name, region, err)
	}
}

func (r *run) pass(d time.Duration) {
	for _, err := range r.world.Pass(d, r.id, func(name string) error { return r.actor().Remind(r.t.Context(), r.id, name) }) {
		r.t.Errorf("%s: reminder: %v", r.name, err)
	}
}

func (r *run) check() {
	r.t.Helper()
	fail := func(format string, args ...any) {
		r.t.Helper()
		r.t.Errorf("%s: "+format, append([]any{r.name}, args...)...)
	}
	r.world.Fail = nil
	ctx := r.t.Context()
	if len(r.world.Reminders) != 0 {
		fail("a reminder is left")
	}
	st, err := r.client().Status(ctx, r.id)
	if errors.Is(err, notification.ErrNotFound) && len(r.accepted) == 0 && len(r.world.Topic) == 0 {
		return // each webhook was refused, and nothing happened
	}
	if err != nil {
		fail("status: %v", err)
		return
	}
	for _, region := range r.accepted {
		if slices.Contains(st.Missing, region) {
			fail("%s was accepted and is missing", region)
		}
	}
	var outcomes []string
	for _, id := range r.world.Topic {
		if _, outcome, _ := strings.Cut(id, "/"); !slices.Contains(outcomes, outcome) {
			outcomes = append(outcomes, outcome)
		}
	}
	want := []string{string(st.Status)}
	if st.Status == replication.Recovered {
		want = []string{string(replication.TimedOut), string(replication.Recovered)}
	}
	if !st.Concluded() || !slices.Equal(outcomes, want) {
		fail("is %s, and the topic has %q", st.Status, r.world.Topic)
	}
	data, err := r.backend.Documents.Get(ctx, r.id)
	var doc struct{ Status replication.Status }
	if err != nil || json.Unmarshal(data, &doc) != nil || doc.Status != st.Status {
		fail("is %s, and the document says %s, %v", st.Status, data, err)
	}
	for _, image := range []notification.Image{{Digest: "sha256:aa"}, {Tag: "v1"}, {Digest: "sha256:aa", Tag: "v1"}} {
		image.Repository = "shop/" + r.id
		if found, err := r.client().Find(ctx, image); err != nil || found.ID != r.id {
			fail("%+v leads to %q, %v", image, found.ID, err)
		}
	}
}

// faultyStore is a store whose writes fail as the world's do.
type faultyStore struct {
	notification.Store
	world *fake.World
}

func (f faultyStore) Save(ctx context.Context, id string, state []byte) error {
	return f.world.Write("save", func() error { return f.Store.Save(ctx, id, state) })
}

type faultyDocuments struct {
	Documents
	world *fake.World
}

func (f faultyDocuments) Put(ctx context.Context, key string, doc []byte) error {
	return f.world.Write("document", func() error { return f.Documents.Put(ctx, key, doc) })
}

func (f faultyDocuments) Create(ctx context.Context, key string, doc []byte) (created bool, err error) {
	err = f.world.Write("index", func() error { created, err = f.Documents.Create(ctx, key, doc); return err })
	return created, err
}

func (f faultyDocuments) Update(ctx context.Context, key string, change func([]byte) ([]byte, bool, error)) error {
	return f.world.Write("index", func() error { return f.Documents.Update(ctx, key, change) })
}
