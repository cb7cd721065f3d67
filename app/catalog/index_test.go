package catalog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"allregions/app/actor"
)

var t0 = time.Date(2026, 11, 17, 16, 52, 1, 343145347, time.UTC)

// nth is the nth notification about a tag, of an image of its own.
func nth(n int) []Entry {
	return Entries(Image{"", "shop/cart", fmt.Sprintf("sha256:%d", n), "v1"}, fmt.Sprintf("n%d", n), t0.Add(time.Duration(n)*time.Millisecond))
}

// tag is the nth notification's entry for the tag alone.
func tag(n int) []Entry { return nth(n)[1:] }

var v1 = Image{Repository: "shop/cart", Tag: "v1"}

// key is that of v1.
var key = tag(0)[0].key()

// what becomes of a call.
type what int

const (
	done     what = iota
	lost          // it does not happen
	reported      // it happens, and the caller is told that it did not
	late          // it happens a second and a half later
	hangs         // it never comes back, and does not happen
)

var errAway = errors.New("the store is away")

// store is the records of all replicas, in memory, for any number of goroutines.
type store struct {
	mu      sync.Mutex
	records map[string]record
	calls   []string                              // "load KEY" and "save KEY", in order
	becomes func(call, key string, n int) what    // of the nth call, from 0; nil for done
	takes   func(call, key string) time.Duration  // how long a call takes; nil for no time
	watch   func(key string, before, after Entry) // of each record that is replaced
}

type record struct {
	value []byte
	n     int // how often it was saved
}

func newStore() *store { return &store{records: map[string]record{}} }

func (s *store) note(call, key string) what {
	s.mu.Lock()
	n := len(s.calls)
	s.calls = append(s.calls, call+" "+key)
	becomes, takes := s.becomes, s.takes
	s.mu.Unlock()
	if takes != nil {
		time.Sleep(takes(call, key))
	}
	if becomes == nil {
		return done
	}
	return becomes(call, key, n)
}

func (s *store) Load(ctx context.Context, key string) ([]byte, string, error) {
	switch s.note("load", key) {
	case lost, reported, late:
		return nil, "", errAway
	case hangs:
		<-ctx.Done()
		return nil, "", ctx.Err()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	r, ok := s.records[key]
	if !ok {
		return nil, "", nil
	}
	return bytes.Clone(r.value), strconv.Itoa(r.n), nil
}

func (s *store) Save(ctx context.Context, key string, value []byte, version string) error {
	switch s.note("save", key) {
	case lost:
		return errAway
	case reported:
		s.save(key, value, version)
		return errAway
	case late:
		time.AfterFunc(1500*time.Millisecond, func() { s.save(key, value, version) })
		return errAway
	case hangs:
		<-ctx.Done()
		return ctx.Err()
	}
	return s.save(key, value, version)
}

func (s *store) save(key string, value []byte, version string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, ok := s.records[key]
	if ok && version != strconv.Itoa(r.n) || !ok && version != "" {
		return actor.ErrConflict
	}
	if s.watch != nil && ok {
		s.watch(key, newestOf(r.value), newestOf(value))
	}
	s.records[key] = record{bytes.Clone(value), r.n + 1}
	return nil
}

// newestOf is the newest entry of a record.
func newestOf(data []byte) Entry {
	entries, _ := decode(data)
	return append(entries, Entry{})[0]
}

// counted complains if not exactly these calls were made since it was asked last.
func (s *store) counted(t *testing.T, saves, loads int) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	got := map[string]int{}
	for _, call := range s.calls {
		name, _, _ := strings.Cut(call, " ")
		got[name]++
	}
	s.calls = nil
	if got["save"] != saves || got["load"] != loads {
		t.Errorf("got %d saves and %d loads, want %d and %d", got["save"], got["load"], saves, loads)
	}
}

func (s *store) set(becomes func(call, key string, n int) what) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.becomes = becomes
}

func always(w what) func(string, string, int) what {
	return func(string, string, int) what { return w }
}

func index(s actor.Records) *Index { return NewIndex(s, slog.New(slog.DiscardHandler)) }

// settle waits for entries, and for the end of what x does.
func settle(t *testing.T, x *Index, entries []Entry) error {
	t.Helper()
	err := x.Send(entries)(t.Context())
	flush(t, x)
	return err
}

func flush(t *testing.T, x *Index) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
	defer cancel()
	if err := x.Flush(ctx); err != nil {
		t.Error(err)
	}
}

// leads complains if an image does not lead to this.
func leads(t *testing.T, s *store, image Image, want string) {
	t.Helper()
	if got, err := index(peek{s}).Find(t.Context(), image); err != nil || got != want {
		t.Errorf("%+v leads to %q, %v, want %q", image, got, err, want)
	}
}

// peek reads a store in which nothing happens, and which does not count.
type peek struct{ *store }

func (p peek) Load(_ context.Context, key string) ([]byte, string, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.records[key].value, "", nil
}

func bubble(t *testing.T, name string, do func(t *testing.T)) {
	t.Run(name, func(t *testing.T) { synctest.Test(t, do) })
}

func TestEntries(t *testing.T) {
	digest := Entry{Repository: "shop/cart", Digest: "sha256:1", Notification: "n1", StartedAt: t0}
	tag := Entry{Repository: "shop/cart", Tag: "v1", Notification: "n1", StartedAt: t0}
	for _, tt := range []struct {
		name  string
		image Image
		want  []Entry
	}{
		{"both", Image{"", "shop/cart", "sha256:1", "v1"}, []Entry{digest, tag}},
		{"untagged", Image{"", "shop/cart", "sha256:1", ""}, []Entry{digest}},
		{"without a digest", Image{"", "shop/cart", "", "v1"}, []Entry{tag}},
		{"neither", Image{"", "shop/cart", "", ""}, nil},
		{"no repository", Image{"", "", "sha256:1", "v1"}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := Entries(tt.image, "n1", t0); !slices.Equal(got, tt.want) {
				t.Errorf("got %+v, want %+v", got, tt.want)
			}
		})
	}
}

// Each name has a key of its own, which is no notification's, and which any store
// takes.
func TestKeys(t *testing.T) {
	seen := map[string]Entry{}
	for _, e := range []Entry{
		{Repository: "shop/cart", Tag: "v1"}, {Repository: "shop/cart", Digest: "v1"}, {Repository: "shop/car", Tag: "tv1"},
		{Repository: "shop/cart", Tag: "v2"}, {Repository: "shop", Tag: "cart:v1"}, {Repository: "shop/cart:v1", Digest: "x"},
		{Repository: strings.Repeat("x", 255), Tag: strings.Repeat("y", 128)}, {Repository: "shop/cart", Tag: "@v1"}, {Repository: "shop/cart", Tag: "V1"},
	} {
		key := e.key()
		if other, ok := seen[key]; ok {
			t.Errorf("%+v and %+v have the key %s", e, other, key)
		}
		seen[key] = e
		if !strings.HasPrefix(key, "image.") || len(key) > 64 || strings.ContainsAny(key, "/|\\?#: ") {
			t.Errorf("%+v has the key %q", e, key)
		}
	}
}

func TestNewer(t *testing.T) {
	e := Entry{Notification: "b", StartedAt: t0}
	for _, tt := range []struct {
		name string
		than Entry
		want bool
	}{
		{"an older one", Entry{Notification: "c", StartedAt: t0.Add(-1)}, true},
		{"a newer one", Entry{Notification: "a", StartedAt: t0.Add(1)}, false},
		{"of the same time, before it", Entry{Notification: "a", StartedAt: t0}, true},
		{"of the same time, behind it", Entry{Notification: "c", StartedAt: t0}, false},
		{"itself, in another zone", Entry{Notification: "b", StartedAt: t0.In(time.FixedZone("", 3600))}, false},
		{"nothing", Entry{}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := e.Newer(tt.than); got != tt.want {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}

// The newest notification counts, in whatever order they are sent, together or one
// after the other.
func TestNewestWins(t *testing.T) {
	const n = 20
	for seed := range uint64(20) {
		for _, pause := range []time.Duration{0, time.Millisecond, 50 * time.Millisecond} {
			bubble(t, fmt.Sprintf("%d, every %v", seed, pause), func(t *testing.T) {
				s := newStore()
				s.watch = func(key string, before, after Entry) {
					if !after.Newer(before) {
						t.Errorf("%+v was replaced by %+v", before, after)
					}
				}
				x := index(s)
				for _, i := range rand.New(rand.NewPCG(seed, 1)).Perm(n) {
					x.Send(nth(i))
					time.Sleep(pause)
				}
				flush(t, x)
				leads(t, s, v1, "n19")
				for i := range n {
					leads(t, s, Image{Repository: "shop/cart", Digest: fmt.Sprintf("sha256:%d", i)}, fmt.Sprintf("n%d", i))
				}
			})
		}
	}
}

// A name that many pushes share costs a write per batch, and each other one costs one.
func TestCoalescing(t *testing.T) {
	bubble(t, "in one batch", func(t *testing.T) {
		s := newStore()
		x := index(s)
		x.Send(nth(0))
		synctest.Wait() // that is a batch
		for i := range 1000 {
			x.Send(nth(i))
		}
		flush(t, x)
		s.counted(t, 1000+2, 1)
		leads(t, s, v1, "n999")
	})
	bubble(t, "in 10 batches", func(t *testing.T) {
		s := newStore()
		x := index(s)
		for i := range 1000 {
			x.Send(tag(i))
			time.Sleep(10 * batchPause / 1000)
		}
		flush(t, x)
		s.mu.Lock()
		calls := len(s.calls)
		s.mu.Unlock()
		if calls > 2*12 {
			t.Errorf("%d calls", calls)
		}
		leads(t, s, v1, "n999")
	})
	// A write that takes long is one of its name at a time.
	bubble(t, "in a slow store", func(t *testing.T) {
		s := newStore()
		s.takes = func(string, string) time.Duration { return 200 * time.Millisecond }
		x := index(s)
		begin := time.Now()
		for i := range 1000 {
			x.Send(tag(i))
			time.Sleep(time.Millisecond)
		}
		flush(t, x)
		took := time.Since(begin)
		s.mu.Lock()
		calls := len(s.calls)
		s.mu.Unlock()
		if most := int(took/(200*time.Millisecond)) + 1; calls > most {
			t.Errorf("%d calls in %v, want at most %d", calls, took, most)
		}
		leads(t, s, v1, "n999")
	})
}

// What is known to be stored costs nothing, and nobody waits for it.
func TestKnownEntries(t *testing.T) {
	bubble(t, "sent while it is written", func(t *testing.T) {
		s := newStore()
		s.takes = func(string, string) time.Duration { return time.Second }
		x := index(s)
		first := x.Send(tag(1))
		time.Sleep(time.Millisecond)
		again := x.Send(tag(1))
		if err := errors.Join(first(t.Context()), again(t.Context())); err != nil {
			t.Error(err)
		}
		flush(t, x)
		s.counted(t, 1, 0)
	})
	bubble(t, "sent again", func(t *testing.T) {
		s := newStore()
		x := index(s)
		for range 3 { // the turns of three regions
			x.Send(nth(1))
		}
		if err := settle(t, x, nth(1)); err != nil {
			t.Error(err)
		}
		s.counted(t, 2, 0)
		begin := time.Now()
		for _, again := range [][]Entry{nth(1), tag(0), nil} {
			if err := settle(t, x, again); err != nil || time.Since(begin) != 0 {
				t.Errorf("%+v: %v after %v", again, err, time.Since(begin))
			}
		}
		s.counted(t, 0, 0)
		leads(t, s, v1, "n1")
	})
}

// Somebody else may have stored the name. A new name needs no read; then what is there
// is compared.
func TestConflict(t *testing.T) {
	for _, tt := range []struct {
		name         string
		there, sent  int
		saves, loads int
		want         string
	}{
		{"an older one is there", 1, 2, 2, 1, "n2"},
		{"a newer one is there", 5, 1, 1, 1, "n5"},
		{"the same is there", 1, 1, 1, 1, "n1"},
	} {
		bubble(t, tt.name, func(t *testing.T) {
			s := newStore()
			if err := settle(t, index(s), tag(tt.there)); err != nil {
				t.Fatal(err)
			}
			s.counted(t, 1, 0)
			x := index(s)
			// Afterwards everything is known that is not newer than what is there.
			for n := tt.sent; n <= max(tt.sent, tt.there); n++ {
				if err := settle(t, x, tag(n)); err != nil {
					t.Error(err)
				}
			}
			s.counted(t, tt.saves, tt.loads)
			leads(t, s, v1, tt.want)
		})
	}
	bubble(t, "others change it between the read and the save", func(t *testing.T) {
		s := newStore()
		x := index(s)
		for _, e := range []int{0, 100} {
			if err := settle(t, x, tag(e)); err != nil {
				t.Fatal(err)
			}
		}
		s.counted(t, 2, 1)
		other := index(s)
		s.set(func(call, _ string, n int) what {
			if call == "save" && n < 2*(maxTries-1) { // but for the last try
				value, _ := encode(tag(101 + n))
				s.mu.Lock()
				r := s.records[key]
				s.records[key] = record{value, r.n + 1}
				s.mu.Unlock()
			}
			return done
		})
		if err := settle(t, other, tag(200)); err != nil {
			t.Error(err)
		}
		s.set(nil)
		leads(t, s, v1, "n200")
	})
}

// Who has tried in vain has not stored it, and does not say so.
func TestEndlessConflict(t *testing.T) {
	bubble(t, "", func(t *testing.T) {
		s := newStore()
		if err := settle(t, index(s), tag(0)); err != nil {
			t.Fatal(err)
		}
		s.counted(t, 1, 0)
		c := &conflicting{store: s}
		x := index(c)
		if err := x.Send(tag(1))(t.Context()); !errors.Is(err, actor.ErrConflict) {
			t.Errorf("got %v, want %v", err, actor.ErrConflict)
		}
		s.counted(t, 0, maxTries)
		leads(t, s, v1, "n0")
		c.over.Store(true)
		flush(t, x)
		leads(t, s, v1, "n1")
	})
}

// conflicting is a store in which somebody else is always faster.
type conflicting struct {
	*store
	over atomic.Bool
}

func (c *conflicting) Save(ctx context.Context, key string, value []byte, version string) error {
	if c.over.Load() {
		return c.store.Save(ctx, key, value, version)
	}
	return actor.ErrConflict
}

// Who waits for what fails is told so at once. It is tried again after a second, and a
// second later, until it is stored.
func TestFailingStore(t *testing.T) {
	for name, becomes := range map[string]what{"lost": lost, "reported": reported, "late": late} {
		bubble(t, name, func(t *testing.T) {
			var log bytes.Buffer
			s := newStore()
			s.set(always(becomes))
			x := NewIndex(s, slog.New(slog.NewTextHandler(&log, nil)))
			begin := time.Now()
			if err := x.Send(tag(1))(t.Context()); !errors.Is(err, errAway) || !strings.HasPrefix(err.Error(), "index: ") || time.Since(begin) != 0 {
				t.Errorf("%v after %v", err, time.Since(begin))
			}
			s.counted(t, 1, 0)
			time.Sleep(retryPause - 1)
			s.counted(t, 0, 0)
			again := x.Send(tag(1))
			time.Sleep(batchPause)
			synctest.Wait()
			s.counted(t, 1, 0)
			if err := again(t.Context()); !errors.Is(err, errAway) {
				t.Errorf("the second try: %v", err)
			}
			s.set(nil)
			last := x.Send(tag(1))
			if err := last(t.Context()); err != nil || time.Since(begin) > 2*(retryPause+batchPause) {
				t.Errorf("the third try: %v after %v", err, time.Since(begin))
			}
			flush(t, x)
			leads(t, s, v1, "n1")
			if n := strings.Count(log.String(), "the index is written later"); n != 2 || !strings.Contains(log.String(), errAway.Error()) {
				t.Errorf("the log has %d lines:\n%s", n, &log)
			}
			time.Sleep(time.Hour) // what is late is there
			leads(t, s, v1, "n1")
		})
	}
}

// A store that is away fills no log, however much is to be written.
func TestFailuresAreLoggedSeldom(t *testing.T) {
	bubble(t, "", func(t *testing.T) {
		var log bytes.Buffer
		s := newStore()
		s.set(always(lost))
		x := NewIndex(s, slog.New(slog.NewTextHandler(&log, nil)))
		begin := time.Now()
		for i := range 1000 {
			x.Send(nth(i))
			time.Sleep(3 * time.Millisecond)
		}
		s.set(nil)
		flush(t, x)
		if most, n := int(time.Since(begin)/retryPause)+1, strings.Count(log.String(), "\n"); n > most || n < most-2 {
			t.Errorf("%d lines in %v, want about %d", n, time.Since(begin), most)
		}
	})
}

// A name that cannot be written, or not soon, holds up no other, and a hot one is
// tried no more often.
func TestOneNameFails(t *testing.T) {
	for name, becomes := range map[string]what{"it fails": lost, "it hangs": hangs} {
		bubble(t, name, func(t *testing.T) {
			var log bytes.Buffer
			s := newStore()
			s.set(func(_, of string, _ int) what {
				if of == key {
					return becomes
				}
				return done
			})
			x := NewIndex(s, slog.New(slog.NewTextHandler(&log, nil)))
			begin := time.Now()
			for i := range 1000 {
				sent := time.Now()
				x.Send(tag(i))
				if err := x.Send(nth(i)[:1])(t.Context()); err != nil || time.Since(sent) > batchPause {
					t.Fatalf("%d: %v after %v", i, err, time.Since(sent))
				}
				time.Sleep(5 * time.Millisecond)
			}
			seconds := int(time.Since(begin)/time.Second) + 1
			synctest.Wait() // nothing logs meanwhile
			s.mu.Lock()
			tries := 0
			for _, call := range s.calls {
				if strings.HasSuffix(call, key) {
					tries++
				}
			}
			s.mu.Unlock()
			if tries > seconds || strings.Count(log.String(), "\n") > seconds {
				t.Errorf("%d tries in %d s, and the log is\n%s", tries, seconds, &log)
			}
			s.set(nil)
			flush(t, x)
			leads(t, s, v1, "n999")
		})
	}
}

// Nothing waits for a store longer than writeLimit.
func TestHangingStore(t *testing.T) {
	bubble(t, "", func(t *testing.T) {
		s := newStore()
		s.set(always(hangs))
		x := index(s)
		begin := time.Now()
		impatient, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		settled := x.Send(tag(1))
		if err := settled(impatient); !errors.Is(err, context.DeadlineExceeded) || time.Since(begin) != time.Second {
			t.Errorf("who waits a second: %v after %v", err, time.Since(begin))
		}
		if err := settled(t.Context()); !errors.Is(err, context.DeadlineExceeded) || time.Since(begin) != writeLimit {
			t.Errorf("who waits: %v after %v", err, time.Since(begin))
		}
		s.set(nil)
		flush(t, x)
		leads(t, s, v1, "n1")
	})
}

// What waits is bounded. Who is refused is told so, and a name that waits already is
// not refused.
func TestMaxPending(t *testing.T) {
	bubble(t, "", func(t *testing.T) {
		s := newStore()
		s.set(always(hangs))
		x := index(s)
		for i := range atATime {
			x.Send(Entries(Image{"", "busy", fmt.Sprint(i), ""}, "n", t0))
		}
		synctest.Wait()
		time.Sleep(batchPause)
		synctest.Wait()
		const more = maxPending - atATime
		for i := range more {
			x.Send(nth(i)[:1])
		}
		begin := time.Now()
		refused := Entries(Image{"", "shop/cart", "", "refused"}, "n", t0)
		if err := x.Send(refused)(t.Context()); err == nil || time.Since(begin) != 0 {
			t.Errorf("one too many: %v after %v", err, time.Since(begin))
		}
		again := nth(7)[:1]
		again[0].Notification, again[0].StartedAt = "again", t0.Add(time.Hour)
		settled, older := x.Send(again), x.Send(nth(7)[:1])
		x.mu.Lock()
		if n := len(x.pending); n != maxPending {
			t.Errorf("%d wait", n)
		}
		x.mu.Unlock()
		s.set(nil)
		if err := errors.Join(settled(t.Context()), older(t.Context())); err != nil {
			t.Error(err)
		}
		flush(t, x)
		leads(t, s, Image{Repository: "shop/cart", Digest: "sha256:7"}, "again")
		leads(t, s, Image{Repository: "shop/cart", Digest: fmt.Sprint("sha256:", more-1)}, fmt.Sprint("n", more-1))
		leads(t, s, Image{Repository: "shop/cart", Tag: "refused"}, "")
		if err := settle(t, x, refused); err != nil {
			t.Error(err)
		}
		leads(t, s, Image{Repository: "shop/cart", Tag: "refused"}, "n")
	})
}

func TestFlush(t *testing.T) {
	bubble(t, "nothing", func(t *testing.T) {
		begin := time.Now()
		flush(t, index(newStore()))
		if time.Since(begin) != 0 {
			t.Errorf("after %v", time.Since(begin))
		}
	})
	bubble(t, "what is written now, and what waits", func(t *testing.T) {
		s := newStore()
		s.takes = func(string, string) time.Duration { return time.Second }
		x := index(s)
		for i := range 3 {
			x.Send(nth(i))
			synctest.Wait()
		}
		flush(t, x)
		leads(t, s, v1, "n2")
		leads(t, s, Image{Repository: "shop/cart", Digest: "sha256:2"}, "n2")
		x.Send(nth(3)) // it goes on afterwards
		flush(t, x)
		leads(t, s, v1, "n3")
	})
	bubble(t, "a store that is away", func(t *testing.T) {
		s := newStore()
		s.set(always(lost))
		x := index(s)
		x.Send(tag(1))
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		begin := time.Now()
		if err := x.Flush(ctx); !errors.Is(err, context.DeadlineExceeded) || time.Since(begin) != 10*time.Second {
			t.Errorf("%v after %v", err, time.Since(begin))
		}
		s.set(nil)
		flush(t, x)
		leads(t, s, v1, "n1")
	})
}

// A write that is lost, done and reported lost, or done late, leaves the newest there,
// whichever it is.
func TestLateAndLostWrites(t *testing.T) {
	orders := map[string][]int{"rising": {1, 2, 3}, "falling": {3, 2, 1}, "newest first": {3, 1, 2}, "newest between": {1, 3, 2}, "the same again": {3, 3, 3}}
	for name, order := range orders {
		for _, pause := range []time.Duration{0, 100 * time.Millisecond, 2 * time.Second} {
			for at := range 6 {
				for how, becomes := range map[string]what{"lost": lost, "reported": reported, "late": late, "hangs": hangs} {
					bubble(t, fmt.Sprintf("%s, every %v, call %d %s", name, pause, at, how), func(t *testing.T) {
						s := newStore()
						s.set(func(_, _ string, n int) what {
							if n == at {
								return becomes
							}
							return done
						})
						s.watch = func(_ string, before, after Entry) {
							if !after.Newer(before) {
								t.Errorf("%+v was replaced by %+v", before, after)
							}
						}
						x := index(s)
						for _, n := range order {
							x.Send(tag(n))
							time.Sleep(pause)
						}
						flush(t, x)
						leads(t, s, v1, "n3")
						time.Sleep(time.Hour)
						leads(t, s, v1, "n3")
					})
				}
			}
		}
	}
}

// Replicas write the same names at the same time, to a store in which all kinds of
// things happen. Whoever is told that his is settled finds it, or a newer one, at once
// and from then on.
func TestReplicas(t *testing.T) {
	const names, notifications = 3, 60
	for seed := range uint64(30) {
		bubble(t, fmt.Sprint(seed), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 3))
			var mu sync.Mutex // of rng
			chance := func(n int) int { mu.Lock(); defer mu.Unlock(); return rng.IntN(n) }
			s := newStore()
			s.takes = func(string, string) time.Duration { return time.Duration(chance(40)) * time.Millisecond }
			s.becomes = func(string, string, int) what {
				if n := chance(60); n < 4 {
					return []what{lost, reported, late, hangs}[n]
				}
				return done
			}
			s.watch = func(_ string, before, after Entry) {
				if !after.Newer(before) {
					t.Errorf("%+v was replaced by %+v", before, after)
				}
			}
			replicas := []*Index{index(s), index(s)}
			there := func(e Entry) Entry {
				s.mu.Lock()
				defer s.mu.Unlock()
				return newestOf(s.records[e.key()].value)
			}
			newest := map[string]Entry{}
			var all sync.WaitGroup
			for i := range notifications {
				entries := Entries(Image{"", "shop/cart", fmt.Sprintf("sha256:%d", i), fmt.Sprintf("v%d", chance(names))}, fmt.Sprintf("n%d", i), t0.Add(time.Duration(chance(1000))))
				for _, e := range entries {
					if e.Newer(newest[e.key()]) {
						newest[e.key()] = e
					}
				}
				for range 1 + chance(3) { // turns
					settled := replicas[chance(2)].Send(entries)
					all.Go(func() {
						if settled(t.Context()) != nil {
							return
						}
						for _, e := range entries {
							if found := there(e); e.Newer(found) {
								t.Errorf("%+v is settled, and %+v is there", e, found)
							}
						}
					})
				}
				time.Sleep(time.Duration(chance(30)) * time.Millisecond)
			}
			all.Wait()
			for _, x := range replicas {
				flush(t, x)
			}
			time.Sleep(time.Hour)
			for _, want := range newest {
				if got := there(want); got != want {
					t.Errorf("got %+v, want %+v", got, want)
				}
			}
		})
	}
}

// What cannot be read leads nowhere: nobody finds it, and it is replaced.
func TestBrokenEntry(t *testing.T) {
	for _, broken := range []string{"{", `"x"`, "{}", "null"} {
		bubble(t, broken, func(t *testing.T) {
			s := newStore()
			s.records[key] = record{[]byte(broken), 1}
			if err := settle(t, index(s), tag(1)); err != nil {
				t.Error(err)
			}
			leads(t, s, v1, "n1")
		})
	}
}

func TestFind(t *testing.T) {
	bubble(t, "", func(t *testing.T) {
		s := newStore()
		x := index(s)
		if err := settle(t, x, nth(1)); err != nil {
			t.Fatal(err)
		}
		s.counted(t, 2, 0)
		for image, want := range map[Image]string{
			v1:                                   "n1",
			{"", "shop/cart", "sha256:1", ""}:    "n1",
			{"", "shop/cart", "sha256:2", "v1"}:  "n1", // the tag leads
			{"", "shop/cart", "sha256:1", "v2"}:  "",
			{"", "shop/car", "", "v1"}:           "",
			{"", "shop/cart", "", "sha256:1"}:    "",
			{"", "shop/cart", "sha256:none", ""}: "",
		} {
			if got, err := x.Find(t.Context(), image); err != nil || got != want {
				t.Errorf("%+v leads to %q, %v, want %q", image, got, err, want)
			}
			s.counted(t, 0, 1)
		}
		s.set(always(lost))
		if got, err := x.Find(t.Context(), v1); !errors.Is(err, errAway) || got != "" {
			t.Errorf("the store is away: %q, %v", got, err)
		}
		s.set(nil)
		s.records[key] = record{[]byte("{"), 9}
		if got, err := x.Find(t.Context(), v1); err == nil || got != "" {
			t.Errorf("a broken entry: %q, %v", got, err)
		}
	})
}

// What a replica remembers is bounded, and forgetting it costs two calls and changes
// nothing.
func TestKnownIsBounded(t *testing.T) {
	bubble(t, "", func(t *testing.T) {
		s := newStore()
		x := index(s)
		for i := range maxKnown + 1 {
			x.Send(nth(i)[:1])
			if i%1000 == 0 {
				flush(t, x)
			}
		}
		flush(t, x)
		if n := len(x.known); n != 1 {
			t.Errorf("%d are known, want 1", n)
		}
		s.counted(t, maxKnown+1, 0)
		if err := settle(t, x, nth(0)[:1]); err != nil {
			t.Error(err)
		}
		s.counted(t, 1, 1)
		leads(t, s, Image{Repository: "shop/cart", Digest: "sha256:0"}, "n0")
	})
}

// What is stored says what it is, to a person too.
func TestStoredEntry(t *testing.T) {
	for want, entries := range map[string][]Entry{
		`{"kind":"index","repository":"shop/cart","tag":"v1","notification":"n1","startedAt":"2026-11-17T16:52:01.344145347Z"}`:          nth(1)[1:],
		`{"kind":"index","repository":"shop/cart","digest":"sha256:1","notification":"n1","startedAt":"2026-11-17T16:52:01.344145347Z"}`: nth(1)[:1],
		`{"kind":"index","registry":"b.azurecr.io","repository":"shop/cart","tag":"v1","notification":"n2","startedAt":"2026-11-17T16:52:01.345145347Z",` +
			`"others":[{"registry":"a.azurecr.io","repository":"shop/cart","tag":"v1","notification":"n1","startedAt":"2026-11-17T16:52:01.344145347Z"}]}`: {at("b", 2), at("a", 1)},
	} {
		data, err := encode(entries)
		if err != nil || string(data) != want {
			t.Errorf("got %s, %v, want %s", data, err, want)
		}
		if got, err := decode(data); err != nil || !slices.Equal(got, entries) {
			t.Errorf("got %+v, %v, want %+v", got, err, entries)
		}
	}
}

// at is the nth notification's entry for the tag, in a registry; "" is none.
func at(registry string, n int) Entry {
	e := tag(n)[0]
	if registry != "" {
		e.Registry = registry + ".azurecr.io"
	}
	return e
}

// Each registry has its own newest notification about an image. Who names none of several
// is told so.
func TestRegistries(t *testing.T) {
	for _, tt := range []struct {
		name     string
		sent     []Entry
		registry string
		want     string // a notification, or registries
	}{
		{"one", []Entry{at("a", 1)}, "", "n1"},
		{"another one is asked for", []Entry{at("a", 1)}, "b.azurecr.io", ""},
		{"two", []Entry{at("a", 1), at("b", 2)}, "", "[a.azurecr.io b.azurecr.io]"},
		{"the older of two", []Entry{at("a", 1), at("b", 2)}, "a.azurecr.io", "n1"},
		{"the newer of two, by its name", []Entry{at("a", 1), at("b", 2)}, "B", "n2"},
		{"the newest of each", []Entry{at("a", 1), at("b", 2), at("a", 3), at("b", 1)}, "a", "n3"},
		{"a region's host is asked for", []Entry{at("a", 1), at("b", 2)}, "a.eastus.geo.azurecr.io", "n1"},
		{"a hash behind the name", []Entry{at("a-1x2y", 1), at("b", 2)}, "a", "n1"},
		{"a hash behind one name", []Entry{at("a-1x2y", 1), at("a-3z", 2)}, "a", "[a-1x2y.azurecr.io a-3z.azurecr.io]"},
		{"ACR does not say", []Entry{at("", 1)}, "", "n1"},
		{"ACR does not always say", []Entry{at("", 2), at("a", 1)}, "", "n2"},
		{"ACR does not say which is asked for", []Entry{at("", 2), at("a", 1)}, "a", "n1"},
	} {
		bubble(t, tt.name, func(t *testing.T) {
			s := newStore()
			for i, e := range tt.sent {
				if err := settle(t, index(s), tt.sent[i:i+1]); err != nil {
					t.Fatalf("%+v: %v", e, err)
				}
			}
			image := v1
			image.Registry = tt.registry
			got, err := index(s).Find(t.Context(), image)
			if several, ok := errors.AsType[*AmbiguousError](err); ok {
				got, err = fmt.Sprint(several.Registries), nil
			}
			if got != tt.want || err != nil {
				t.Errorf("got %q, %v, want %q", got, err, tt.want)
			}
		})
	}
}

// Registries that push one name at the same time lose nothing to each other.
func TestRegistriesAtOnce(t *testing.T) {
	bubble(t, "", func(t *testing.T) {
		s := newStore()
		s.takes = func(string, string) time.Duration { return time.Millisecond }
		replicas := []*Index{index(s), index(s)}
		for n := range 100 {
			for i, registry := range []string{"a", "b", "c"} {
				replicas[(n+i)%2].Send([]Entry{at(registry, n)})
			}
			time.Sleep(7 * time.Millisecond)
		}
		for _, x := range replicas {
			flush(t, x)
		}
		for _, registry := range []string{"a", "b", "c"} {
			leads(t, s, Image{Registry: registry, Repository: "shop/cart", Tag: "v1"}, "n99")
		}
		// An older one changes nothing, and nor does what each replica has sent itself.
		if err := errors.Join(settle(t, replicas[0], []Entry{at("a", 1)}), settle(t, index(s), []Entry{at("b", 98)})); err != nil {
			t.Error(err)
		}
		leads(t, s, Image{Registry: "b", Repository: "shop/cart", Tag: "v1"}, "n99")
	})
}

// Whoever makes up registries does not make the record grow for ever.
func TestRegistriesAreBounded(t *testing.T) {
	var entries []Entry
	for n := range 3 * maxRegistries {
		entries = at(fmt.Sprint("r", n), n).with(entries)
	}
	if n := len(entries); n != maxRegistries || entries[0] != at("r47", 47) || entries[n-1] != at("r32", 32) {
		t.Errorf("got %d: %+v", n, entries)
	}
}
