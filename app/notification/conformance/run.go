package conformance

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"runtime/debug"
	"slices"
	"testing"
	"time"

	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"allregions/app/notification"
	"allregions/app/notification/fake"
	"allregions/app/replication"
)

var begin = time.Date(2026, 11, 17, 16, 52, 1, 343145347, time.UTC)

// run is a trial that is run.
type run struct {
	trial
	ctx     context.Context
	id      string
	world   *fake.World
	backend Backend
	acr     *eventLog  // nil for none
	rng     *rand.Rand // of what an actor does at the same time
	damage  func(*notification.Actor)
	depth   int // of turns that run in another

	failures    map[fake.Failure]bool // that happened
	interrupted bool                  // whether a turn was

	posts map[replication.Region][]post
	fired map[replication.Region]time.Time // by ACR, whether it came or not

	complaints []string
}

// post is a webhook that came.
type post struct {
	from, to time.Time // of its turn
	accepted bool      // whether it got its 2xx
}

func (p post) String() string {
	return fmt.Sprintf("%v to %v, accepted %v", p.from, p.to, p.accepted)
}

// run returns what is wrong. Damage, if not nil, is done to each actor.
func (c trial) run(t *testing.T, b *Backend, damage func(*notification.Actor)) (complaints []string) {
	r := c.begin(t.Context())
	r.damage = damage
	if b != nil {
		r.id = fmt.Sprintf("c%x", rand.Uint64())
		if err := b.Activate(r.id); err != nil {
			t.Fatalf("activate %s: %v", r.id, err)
		}
		r.backend = Backend{Process: func() notification.Store { return faultyStore{b.Process(), r.world, b.Conflict} }, Documents: faultyDocuments{b.Documents, r.world}}
	}
	func() {
		defer r.recover()
		r.play()
		r.check()
	}()
	return r.complaints
}

// clean is the world after a story without failures, in memory. What is wrong with it
// is a complaint of its run.
func (c trial) clean() *fake.World {
	r := c.begin(context.Background())
	func() {
		defer r.recover()
		r.play()
	}()
	return r.world
}

func (c trial) begin(ctx context.Context) *run {
	w := fake.New(begin)
	r := &run{trial: c, ctx: ctx, id: "n1", world: w, rng: rand.New(rand.NewPCG(c.order, 2)), failures: map[fake.Failure]bool{},
		posts: map[replication.Region][]post{}, fired: map[replication.Region]time.Time{}}
	r.backend = Backend{Process: func() notification.Store { return w.Process() }, Documents: w}
	if c.log != "" {
		r.acr = &eventLog{r, map[replication.Region]bool{}}
	}
	w.Fail, w.FailRead, w.Delay = r.noted(c.fail), r.noted(c.failRead), c.delay
	if c.overlap != nil {
		w.Before = func(n int, _ string) { r.interrupt(c.overlap(n)) }
	}
	return r
}

// noted is fail, and notes what came out of it.
func (r *run) noted(fail func(int, string) fake.Failure) func(int, string) fake.Failure {
	if fail == nil {
		return nil
	}
	return func(n int, what string) fake.Failure {
		how := fail(n, what)
		r.failures[how] = true
		return how
	}
}

func (r *run) complain(format string, args ...any) {
	r.complaints = append(r.complaints, fmt.Sprintf("%s; %s: ", r.story, cmp.Or(r.wrong, "no failure"))+fmt.Sprintf(format, args...))
}

// recover makes a panic a complaint: the fakes panic at what nobody may do.
func (r *run) recover() {
	if p := recover(); p != nil {
		r.complain("%v\n%s", p, debug.Stack())
	}
}

// process is one that lives for one turn.
type process struct {
	*notification.Actor
	after []func()
}

func (r *run) process() *process {
	p := &process{}
	p.Actor = &notification.Actor{Store: r.backend.Process(), Documents: r.backend.Documents, Reminders: r.world, Topic: r.world,
		Timeout: timeout, Together: fake.Shuffled(r.rng), Now: func() time.Time { return r.world.Now }, Tracer: tracer{}, Log: slog.New(slog.DiscardHandler),
		After: func(ctx context.Context, do func(context.Context)) { p.after = append(p.after, func() { do(ctx) }) }}
	if r.acr != nil {
		p.EventLog = r.acr
	}
	if r.damage != nil {
		r.damage(p.Actor)
	}
	return p
}

// Invoke makes the process a Dapr that reaches its actor at once.
func (p *process) Invoke(ctx context.Context, id, method string, body []byte) ([]byte, error) {
	return p.Methods()[method](ctx, id, body)
}

// end does what the turn has left for when its caller has the answer.
func (p *process) end() {
	for _, do := range p.after {
		do()
	}
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

func (r *run) play() {
	for _, step := range r.steps {
		if step.region == "" {
			r.pass(step.pass)
			continue
		}
		if _, ok := r.fired[step.region]; !ok { // not yet, while another turn ran
			r.fire(step.region)
		}
		r.pass(time.Second)
	}
	r.pass(time.Hour)
}

// turn is one that runs while another one does.
type turn string

const (
	event  turn = "an event" // of the next region, or again of the first
	firing turn = "a firing" // of the reminder, or of the last one that there was
	status turn = "a status"
)

var turns = []turn{event, firing, status}

// interrupt runs another turn, in another process.
func (r *run) interrupt(by turn) {
	if by == "" || r.depth == 2 {
		return
	}
	r.interrupted = true
	r.depth++
	defer func() { r.depth-- }()
	defer fake.Survive()
	r.world.Now = r.world.Now.Add(time.Millisecond)
	switch by {
	case event:
		r.fire(r.next())
	case firing:
		if name, ok := r.world.Newest(r.id); ok {
			r.tolerate("reminder", r.remind(name))
		}
	case status:
		if _, err := r.status(); !errors.Is(err, notification.ErrNotFound) {
			r.tolerate("status", err)
		}
	}
}

// next is the region whose event comes next; if all have come, that of the first step.
func (r *run) next() replication.Region {
	var first replication.Region
	for _, step := range r.steps {
		if _, ok := r.fired[step.region]; !ok && step.region != "" {
			return step.region
		}
		if first == "" {
			first = step.region
		}
	}
	return first
}

// fire is what ACR does when a region has the image.
func (r *run) fire(region replication.Region) {
	if _, ok := r.fired[region]; !ok {
		r.fired[region] = r.world.Now
	}
	if !slices.Contains(r.lost, region) {
		r.post(region)
	}
}

// event is what ACR sends.
func (r *run) event(region replication.Region) replication.Event {
	return replication.Event{ID: r.id, Action: "push", Registry: "contoso.azurecr.io", Repository: "shop/" + r.id,
		Tag: "v1", Digest: "sha256:aa", Size: 1<<53 + 1, Region: region, Time: begin}
}

func (r *run) post(region replication.Region) {
	sent := post{from: r.world.Now}
	defer fake.Survive()
	defer func() {
		sent.to = r.world.Now
		r.posts[region] = append(r.posts[region], sent)
	}()
	p := r.process()
	client := &notification.Client{Actors: p, Documents: r.backend.Documents}
	_, err := client.Add(r.ctx, r.event(region), regions)
	sent.accepted = err == nil
	r.tolerate("add "+string(region), err)
	p.end()
}

func (r *run) remind(name string) error {
	p := r.process()
	err := p.Remind(r.ctx, r.id, name)
	p.end()
	return err
}

func (r *run) status() (notification.Status, error) {
	p := r.process()
	st, err := (&notification.Client{Actors: p, Documents: r.backend.Documents}).Status(r.ctx, r.id)
	p.end()
	return st, err
}

func (r *run) pass(d time.Duration) {
	for _, err := range r.world.Pass(d, r.id, r.remind) {
		r.complain("reminder: %v", err)
	}
}

// tolerate complains of an error without a cause.
func (r *run) tolerate(what string, err error) {
	if err != nil && (!errors.Is(err, fake.Err) || r.world.Failed+r.world.Refused == 0) {
		r.complain("%s: %v", what, err)
	}
}

// faultyStore is a store whose reads and writes fail as the world's do. It has no
// stale reads.
type faultyStore struct {
	notification.Store
	world    *fake.World
	conflict error
}

func (f faultyStore) Load(ctx context.Context, id string) (state []byte, err error) {
	err = f.world.Read("load", func(bool) error { state, err = f.Store.Load(ctx, id); return err })
	return state, err
}

func (f faultyStore) Save(ctx context.Context, id string, state []byte) error {
	return f.world.Write("save", func() error {
		err := f.Store.Save(ctx, id, state)
		if errors.Is(err, f.conflict) {
			f.world.Refused++
			err = fmt.Errorf("%w: %w", fake.ErrConflict, err)
		}
		return err
	})
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
