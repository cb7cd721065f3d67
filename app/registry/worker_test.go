package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/containerregistry/armcontainerregistry"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/containerregistry/armcontainerregistry/fake"

	"allregions/app/actor"
	"allregions/app/replication"
)

// universe is Azure, a store with a scheduler, and the processes of the service. Its clock
// is synctest's.
type universe struct {
	t   *testing.T
	own map[string]any // what the replicas say
	out *bytes.Buffer
	log *slog.Logger

	mu        sync.Mutex
	armErr    error         // of every call of Azure
	armSlow   chan struct{} // while it is not nil and open, Azure does not answer
	asked     []string
	storeErr  error // of every call of the store, the scheduler and the actor
	doc       []byte
	version   int
	rechecks  int // how often the actor was asked for a reading
	reminders []string
	processes []*process // those that live; the first one hosts the actor
}

// process is one replica of the service.
type process struct {
	*Worker
	actor *Actor
	kill  context.CancelFunc
}

func newUniverse(t *testing.T, own map[string]any) *universe {
	out := &bytes.Buffer{}
	u := &universe{t: t, own: own, out: out, log: slog.New(slog.NewTextHandler(out, nil))}
	go func() {
		for {
			select {
			case <-t.Context().Done():
				return
			case <-time.After(Period):
				u.fire()
			}
		}
	}()
	return u
}

// fire fires the reminders that are there.
func (u *universe) fire() {
	u.mu.Lock()
	reminders, processes := slices.Clone(u.reminders), slices.Clone(u.processes)
	u.mu.Unlock()
	for _, name := range reminders {
		if len(processes) > 0 {
			processes[0].actor.Remind(u.t.Context(), contoso, name)
		}
	}
}

// start starts a process.
func (u *universe) start(holder string, fallback Static) *process {
	u.t.Helper()
	p := &process{}
	view := &View{Name: "Contoso", Records: u, Fallback: fallback, Now: time.Now, Log: u.log}
	p.Worker = NewWorker(view, holder, u, reader(u.t, gate{u}, nil))
	p.actor = &Actor{Records: u, Reminders: u, Wake: func(string) { p.Wake() }, Now: time.Now, Log: u.log}
	ctx, cancel := context.WithCancel(u.t.Context())
	p.kill = func() {
		cancel()
		u.mu.Lock()
		defer u.mu.Unlock()
		u.processes = slices.DeleteFunc(u.processes, func(x *process) bool { return x == p })
	}
	u.mu.Lock()
	u.processes = append(u.processes, p)
	u.mu.Unlock()
	go view.Follow(ctx)
	go p.Run(ctx)
	synctest.Wait()
	return p
}

// gate is the way to Azure.
type gate struct{ u *universe }

func (g gate) Do(r *http.Request) (*http.Response, error) {
	g.u.mu.Lock()
	g.u.asked = append(g.u.asked, r.URL.Path)
	err, slow, own := g.u.armErr, g.u.armSlow, maps.Clone(g.u.own)
	g.u.mu.Unlock()
	if slow != nil {
		select {
		case <-slow:
		case <-r.Context().Done():
			return nil, r.Context().Err()
		}
	}
	if err != nil {
		return nil, nonRetriable{err}
	}
	var page []*armcontainerregistry.Replication
	for name := range own {
		page = append(page, inList(name))
	}
	return fake.NewServerFactoryTransport(azure(own, page)).Do(r)
}

// nonRetriable is an error that Azure's SDK does not try again.
type nonRetriable struct{ error }

func (nonRetriable) NonRetriable() {}

// readings is how often the registry was read.
func (u *universe) readings() (n int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, path := range u.asked {
		if strings.HasSuffix(path, "/registries/contoso") {
			n++
		}
	}
	return n
}

func (u *universe) set(change func()) {
	u.mu.Lock()
	defer u.mu.Unlock()
	change()
}

func (u *universe) Load(_ context.Context, key string) ([]byte, string, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if key != contoso {
		u.t.Errorf("load of %q", key)
	}
	version := ""
	if u.doc != nil {
		version = fmt.Sprint(u.version)
	}
	return u.doc, version, u.storeErr
}

func (u *universe) Save(_ context.Context, _ string, doc []byte, version string) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	switch {
	case u.storeErr != nil:
		return u.storeErr
	case (u.doc != nil || version != "") && version != fmt.Sprint(u.version):
		return actor.ErrConflict
	}
	u.doc, u.version = doc, u.version+1
	return nil
}

func (u *universe) Register(_ context.Context, _, name string, _ time.Time, _ time.Duration) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.storeErr == nil {
		u.reminders = append(u.reminders, name)
	}
	return u.storeErr
}

func (u *universe) Unregister(_ context.Context, _, name string) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.reminders = slices.DeleteFunc(u.reminders, func(x string) bool { return x == name })
	return u.storeErr
}

// Invoke runs a turn on the host.
func (u *universe) Invoke(ctx context.Context, id, method string, body []byte) ([]byte, error) {
	u.mu.Lock()
	if u.storeErr != nil || len(u.processes) == 0 {
		u.mu.Unlock()
		return nil, errAway
	}
	host := u.processes[0]
	if method == methodRecheck {
		u.rechecks++
	}
	u.mu.Unlock()
	turn, err := host.actor.Methods()[method](ctx, id, body)
	return turn.Reply, err
}

func (p *process) expect(t *testing.T, want ...replication.Region) {
	t.Helper()
	got, err := p.Expected(t.Context())
	if !slices.Equal(got.Expected, want) || (err != nil) != (len(want) == 0) {
		t.Errorf("%s: got %v, %v, want %v", p.holder, got, err, want)
	}
}

func wait(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// One process asks Azure, and all know what it said.
func TestOneAsksForAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := newUniverse(t, map[string]any{"westeurope": "Succeeded", "eastus": "Succeeded", "japaneast": "Creating"})
		a, b := u.start("a", Static{"uksouth"}), u.start("b", Static{"uksouth"})
		wait(viewInterval)
		for _, p := range u.processes {
			p.expect(t, "westeurope", "eastus")
		}
		if u.readings() != 1 {
			t.Errorf("%d readings", u.readings())
		}

		// A new replica is seen by itself; what cannot be read changes nothing.
		u.set(func() { u.own["japaneast"], u.own["eastus"] = "Succeeded", 500 })
		wait(10*time.Minute + viewInterval)
		for _, p := range u.processes {
			p.expect(t, "westeurope", "eastus", "japaneast")
		}
		u.set(func() { u.armErr = errAway })
		wait(20 * time.Minute)
		b.expect(t, "westeurope", "eastus", "japaneast")
		if s := b.Status(); s.Source != fromAzure || s.Read.Error != "read registry contoso: away" || len(s.Regions) != 3 {
			t.Errorf("%+v, %+v", s, s.Read)
		}

		// After a restart while Azure is away, the last answer counts, not the list.
		a.kill()
		b.kill()
		wait(time.Hour)
		c := u.start("c", Static{"uksouth"})
		wait(time.Second)
		c.expect(t, "westeurope", "eastus", "japaneast")
		if got := c.Replicas([]replication.Region{"eastus", "mars"}); len(got) != 1 || got["eastus"] != "Succeeded" {
			t.Errorf("%v", got)
		}

		// A store that forgets does not make them unknown, and has them again soon.
		u.set(func() { u.doc = nil })
		if err := c.load(t.Context()); err != nil {
			t.Fatal(err)
		}
		c.expect(t, "westeurope", "eastus", "japaneast")
		u.set(func() { u.armErr, u.own["eastus"] = nil, "Succeeded" })
		wait(2 * viewInterval)
		c.expect(t, "westeurope", "eastus", "japaneast")
		wait(Period)
		if r, err := decodeRecord(u.doc); err != nil || len(r.Replicas.expected()) != 3 {
			t.Errorf("%s, %v", u.doc, err)
		}
	})
}

// Until there is a record, the list counts if there is one, but not before the store has
// answered: what Azure said before may be there.
func TestBeforeThereIsARecord(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := newUniverse(t, map[string]any{"westeurope": "Succeeded"})
		u.armErr, u.storeErr = errAway, errAway
		a, b := u.start("a", nil), u.start("b", Static{"uksouth"})
		b.expect(t)
		u.set(func() { u.storeErr = nil })
		wait(2 * time.Second)
		b.expect(t, "uksouth")
		if s := b.Status(); s.Source != fromSettings || len(s.Regions) != 1 || !s.Regions[0].Expected || s.Name != "Contoso" {
			t.Errorf("%+v", s)
		}
		wait(viewInterval)
		if _, err := a.Expected(t.Context()); err == nil || !strings.Contains(err.Error(), "not known: read registry contoso: away") {
			t.Errorf("%v", err)
		}
		if n := u.readings(); n != 1 {
			t.Errorf("%d readings in 12 s", n)
		}
		u.set(func() { u.armErr = nil })
		wait(Period + viewInterval)
		a.expect(t, "westeurope")
		b.expect(t, "westeurope")
	})
}

// The holder of the lease is killed in the middle of its work: another one takes over.
func TestTheHolderIsKilled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := newUniverse(t, map[string]any{"westeurope": "Succeeded"})
		u.armSlow = make(chan struct{})
		a, b := u.start("a", nil), u.start("b", nil)
		wait(leaseTime - 5*time.Second) // a keeps its lease
		a.kill()
		u.set(func() { close(u.armSlow) })
		b.expect(t)
		wait(leaseTime + Period + time.Second)
		b.expect(t, "westeurope")
		if !strings.Contains(u.out.String(), "holder=b decision=takenOver") || u.readings() != 2 {
			t.Errorf("%d readings\n%s", u.readings(), u.out)
		}
	})
}

// A holder that cannot reach the actor any more ends its work before another one begins.
func TestTheHolderLosesItsLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := newUniverse(t, map[string]any{"westeurope": "Succeeded"})
		a := u.start("a", nil)
		ctx, stop := a.keepLease(t.Context())
		defer stop()
		u.set(func() { u.storeErr = errAway })
		wait(leaseTime - time.Second)
		if ctx.Err() != nil {
			t.Errorf("lost too early: %v", context.Cause(ctx))
		}
		wait(keepInterval + time.Second)
		if !errors.Is(context.Cause(ctx), errLost) {
			t.Errorf("%v", context.Cause(ctx))
		}
	})
}

// The webhooks of a new region come for many pushes at once: one of them has the replicas
// read, and all of them get what that brings, whichever process reads.
func TestRecheck(t *testing.T) {
	for _, reader := range []string{"a", "b"} {
		t.Run(reader+" reads", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				u := newUniverse(t, map[string]any{"westeurope": "Succeeded"})
				a, b := u.start("a", nil), u.start("b", nil)
				u.set(func() { u.own["eastus"] = "Succeeded" })
				if a.Recheck(t.Context(), "eastus") || u.readings() != 1 {
					t.Errorf("%d readings within a minute", u.readings())
				}
				wait(recheckInterval)
				u.set(func() { u.armSlow = make(chan struct{}) })
				time.AfterFunc(time.Second, func() { close(u.armSlow) })
				if reader == "b" {
					go b.Recheck(t.Context(), "eastus")
					synctest.Wait()
				}
				var wg sync.WaitGroup
				for range 100 {
					wg.Go(func() {
						if !a.Recheck(t.Context(), "eastus") {
							t.Error("a new region was refused while it was being read")
						}
					})
				}
				wg.Wait()
				for range 1000 {
					if a.Recheck(t.Context(), "mars") {
						t.Fatal("mars is expected")
					}
				}
				if u.readings() != 2 || u.rechecks != map[string]int{"a": 2, "b": 3}[reader] {
					t.Errorf("%d readings, asked for %d times", u.readings(), u.rechecks)
				}
			})
		})
	}
}

// Whoever cannot wait for a reading does not.
func TestRecheckIsShort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := newUniverse(t, map[string]any{"westeurope": "Succeeded"})
		p := u.start("a", nil)
		wait(recheckInterval)
		u.set(func() { u.armSlow = make(chan struct{}) })
		begin := time.Now()
		if p.Recheck(t.Context(), "eastus") || time.Since(begin) != recheckTimeout {
			t.Errorf("after %v", time.Since(begin))
		}
	})
}

// A reminder that is lost is set again.
func TestAWorkerRepairsItsReminder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := newUniverse(t, map[string]any{"westeurope": "Succeeded"})
		u.start("a", nil)
		u.set(func() { u.reminders = nil })
		wait(every[readReplicas] + stalledAfter + viewInterval)
		if u.readings() != 2 || len(u.reminders) != 1 {
			t.Errorf("%d readings, reminders %v", u.readings(), u.reminders)
		}
	})
}

func TestFixedLearnsNothing(t *testing.T) {
	s := Fixed{replication.Awaited{Expected: []replication.Region{"eastus"}, Optional: []replication.Region{"uksouth"}}}
	if !s.Recheck(t.Context(), "any", "eastus") || !s.Recheck(t.Context(), "any", "uksouth") || s.Recheck(t.Context(), "any", "mars") {
		t.Error("a fixed list has changed")
	}
	if server, err := s.Registry("any", "contoso.azurecr.io"); server != "contoso.azurecr.io" || err != nil {
		t.Errorf("%q, %v", server, err)
	}
	if got := s.Registries(); len(got) != 1 || got[0].Source != fromSettings ||
		!slices.Equal(got[0].Regions, []RegionStatus{{Region: "eastus", Expected: true}, {Region: "uksouth", Optional: true}}) {
		t.Errorf("%+v", got)
	}
}

// slowStore answers with what was there before do.
type slowStore struct {
	data []byte
	do   func()
}

func (s slowStore) Load(context.Context, string) ([]byte, string, error) {
	s.do()
	return s.data, "1", nil
}

// What the actor answers while the store is being read is newer than what the store says.
func TestTheActorsAnswerIsNewer(t *testing.T) {
	old, err := settled().encode()
	if err != nil {
		t.Fatal(err)
	}
	v := &View{Now: time.Now, Log: slog.New(slog.DiscardHandler)}
	for _, step := range []struct {
		do   func()
		want string
	}{{func() {}, ""}, {func() { v.learn(record{LoginServer: "new"}) }, "new"}} {
		v.Records = slowStore{old, step.do}
		if err := v.load(t.Context()); err != nil {
			t.Fatal(err)
		}
		if r, _ := v.current(); r.LoginServer != step.want {
			t.Errorf("got %q, want %q", r.LoginServer, step.want)
		}
	}
}
