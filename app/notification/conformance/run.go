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

	"allregions/app/actor"
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
	records actor.Records
	acr     *eventLog // nil for none
	damage  func(*notification.Actor)
	depth   int // of turns that run in another

	failures    map[fake.Failure]bool // that happened
	interrupted bool                  // whether a turn was

	queue []waiting
	posts map[replication.Region][]post
	fired map[replication.Region]time.Time // by ACR, whether it came or not

	complaints []string
}

// post is a webhook that came.
type post struct {
	from, to time.Time // of its turn, or of when the queue accepted it
	reached  time.Time // when it was in its notification
	accepted bool      // whether it got its 2xx
}

// waiting is an event in the queue.
type waiting struct {
	region         replication.Region
	accepted, next time.Time // and when it is delivered
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
		r.records = faultyRecords{b.Records, r.world}
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
	r := &run{trial: c, ctx: ctx, id: "n1", world: w, records: w, failures: map[fake.Failure]bool{},
		posts: map[replication.Region][]post{}, fired: map[replication.Region]time.Time{}}
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
	turn actor.Turn
}

func (r *run) process() *process {
	p := &process{Actor: &notification.Actor{Records: r.records, Reminders: r.world, Topic: r.world, Catalog: r.world,
		Timeout: r.timeout, Now: func() time.Time { return r.world.Now }, Tracer: tracer{}, Log: slog.New(slog.DiscardHandler)}}
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
	turn, err := p.Methods()[method](ctx, id, body)
	p.turn = turn
	return turn.Reply, err
}

// end does what the turn has left for when its caller has the reply.
func (p *process) end(ctx context.Context) {
	for _, do := range []func(context.Context){p.turn.After, p.turn.Settle} {
		if do != nil {
			do(ctx)
		}
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
	if r.timeout > time.Hour {
		r.pass(r.timeout)
	}
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
	if slices.Contains(r.lost, region) {
		return
	}
	if wait := r.queued[region]; wait > 0 && len(r.posts[region]) == 0 {
		r.queue = append(r.queue, waiting{region, r.world.Now, r.world.Now.Add(wait)})
		r.posts[region] = append(r.posts[region], post{from: r.world.Now, to: r.world.Now, accepted: true})
		return
	}
	r.post(region)
}

// redelivery is how long the queue waits before it brings an event again.
const redelivery = 5 * time.Second

// deliver brings what is due in the queue, until it is taken.
func (r *run) deliver() {
	for i := 0; i < len(r.queue); i++ {
		w := r.queue[i]
		if w.next.After(r.world.Now) {
			continue
		}
		r.queue[i].next = r.world.Now.Add(redelivery)
		e := r.event(w.region)
		e.ReceivedAt, e.Via = w.accepted, replication.ViaQueue
		if r.give(e) == nil {
			r.posts[w.region][0].reached = r.world.Now
			r.queue = slices.DeleteFunc(r.queue, func(x waiting) bool { return x.region == w.region })
			i--
		}
	}
}

// event is what ACR sends.
func (r *run) event(region replication.Region) replication.Event {
	return replication.Event{ID: r.id, Action: "push", Registry: "contoso.azurecr.io", Repository: "shop/" + r.id,
		Tag: "v1", Digest: "sha256:aa", Size: 1<<53 + 1, Region: region, Time: begin}
}

func (r *run) post(region replication.Region) {
	sent := post{from: r.world.Now}
	err := r.give(r.event(region))
	sent.to, sent.reached, sent.accepted = r.world.Now, r.world.Now, err == nil
	r.posts[region] = append(r.posts[region], sent)
}

// give gives an event to its actor. Its nil error is what the sender gets a 2xx for,
// also if the process dies after its reply.
func (r *run) give(e replication.Event) (err error) {
	defer fake.Survive()
	err = errDied
	p := r.process()
	_, err = (&notification.Client{Actors: p}).Add(r.ctx, e, r.awaited())
	r.tolerate("add "+string(e.Region), err)
	p.end(r.ctx)
	return err
}

// errDied is the error of a process that died before it could reply.
var errDied = errors.New("the process died")

func (r *run) remind(name string) error { return fake.Fire(r.ctx, r.process().Remind, r.id, name) }

func (r *run) status() (notification.Status, error) {
	return r.client().Status(r.ctx, r.id)
}

// client reads.
func (r *run) client() *notification.Client {
	return &notification.Client{Records: r.records, Index: r.world}
}

// pass lets time go by, with the reminders and the queue.
func (r *run) pass(d time.Duration) {
	for end := r.world.Now.Add(d); ; {
		next := end
		for _, w := range r.queue {
			if w.next.Before(next) {
				next = w.next
			}
		}
		for _, err := range r.world.Pass(next.Sub(r.world.Now), r.id, r.remind) {
			r.complain("reminder: %v", err)
		}
		r.deliver()
		if !r.world.Now.Before(end) {
			return
		}
	}
}

// tolerate complains of an error without a cause.
func (r *run) tolerate(what string, err error) {
	if err != nil && (!errors.Is(err, fake.Err) || r.world.Failed+r.world.Refused == 0) {
		r.complain("%s: %v", what, err)
	}
}

// faultyRecords are records whose reads and writes fail as the world's do. They have
// no stale reads.
type faultyRecords struct {
	actor.Records
	world *fake.World
}

func (f faultyRecords) Load(ctx context.Context, id string) (value []byte, version string, err error) {
	err = f.world.Read("load", func(bool) error { value, version, err = f.Records.Load(ctx, id); return err })
	return value, version, err
}

func (f faultyRecords) Save(ctx context.Context, id string, value []byte, version string) error {
	return f.world.Write("save", func() error {
		err := f.Records.Save(ctx, id, value, version)
		if errors.Is(err, actor.ErrConflict) {
			f.world.Refused++
			err = fmt.Errorf("%w: %w", fake.ErrConflict, err)
		}
		return err
	})
}
