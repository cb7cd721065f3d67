// Package conformance shows, for a store of records, that a notification survives
// everything that can happen between its reads and writes. The same suite runs on the
// fakes and on what a real sidecar stores. It knows an actor by its ports, its turns
// and what comes out of it, and nothing of how it works.
//
// Three regions report, one of them perhaps late, or by way of the queue; the reminder
// fires in between; in every order. The callers try nothing twice, as ACR does not,
// but for the queue, which brings an event until it is taken. In each of these
// stories:
//
//   - each write is lost, or is done and reported as lost, or is the last one before
//     the process dies; in memory, a save or a call about reminders is also done after
//     it was given up, at once or after the reminder has fired;
//   - each read fails, or, in memory, finds what was there before the last save;
//   - before each read and each write another turn runs, from its beginning to its
//     end: another region's event, a firing of the reminder, or a status;
//   - a webhook does not come, and ACR's event log, if it can be read, has it;
//   - an event that was accepted waits in the queue, until long after the deadline;
//   - a region that nobody waits for reports, also as the first one, or after the end;
//   - several of these happen at once.
//
// Whatever happens:
//
//   - an accepted event is in its notification, with the time at which it came;
//   - a notification reaches exactly one of replicated and timedOut, and then
//     perhaps recovered; each is on the topic soon, always with the same content, also
//     if it is published in another trace than the one in which it was decided;
//   - timedOut comes after the deadline, and names what was not accepted by then, and
//     nothing else: if all was, and reached the actor before it was due, the
//     notification is replicated;
//   - the record tells the end, and the image leads to it;
//   - no reminder is left, and nothing is left to do.
package conformance

import (
	"fmt"
	"iter"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"allregions/app/actor"
	"allregions/app/notification/fake"
)

// Backend is what the suite runs on.
type Backend struct {
	Records actor.Records
}

// atMost is how many complaints are worth reading.
const atMost = 20

// Run runs one of every stride cases, 1 for all of them, and returns how many. A
// nil backend is for each case a new one in memory.
func Run(t *testing.T, b *Backend, stride int) (cases int) {
	t.Helper()
	return runFrom(t, b, 0, stride)
}

// runFrom runs case n and each that is a multiple of stride behind it.
func runFrom(t *testing.T, b *Backend, n, stride int) (cases int) {
	t.Helper()
	i, complaints := 0, 0
	for c := range all() {
		if b != nil && c.memory {
			continue
		}
		if i++; i%stride != n {
			continue
		}
		for _, complaint := range c.run(t, b, nil) {
			if complaints++; complaints > atMost {
				t.Fatal("and so on")
			}
			t.Error(complaint)
		}
		cases++
	}
	return cases
}

// trial is one case: a story, and what goes wrong in it.
type trial struct {
	story
	wrong string // for people

	fail, failRead func(n int, what string) fake.Failure
	overlap        func(n int) turn // what runs before the nth call; "" for nothing
	delay          time.Duration    // of what is late

	memory bool // whether only a store in memory can do that
}

// delays are those of what is late.
var delays = []time.Duration{500 * time.Millisecond, 1500 * time.Millisecond, 32 * time.Second}

// all are the cases.
func all() iter.Seq[trial] {
	return func(yield func(trial) bool) {
		for _, cases := range []iter.Seq[trial]{each(stories()), each(storiesWithLog()), each(storiesWithQueue()), each(storiesWithOptional()), each(longStories()), several()} {
			for c := range cases {
				if !yield(c) {
					return
				}
			}
		}
	}
}

// each are the stories with each failure, alone.
func each(stories iter.Seq[story]) iter.Seq[trial] {
	return func(yield func(trial) bool) {
		n := 0
		for s := range stories {
			// What a story calls without any failure may fail.
			clean := trial{story: s}.clean()
			cases := slices.Concat([]trial{{story: s}}, failedWrites(s, clean.Writes), failedReads(s, clean.Reads), overlaps(s, clean.Calls))
			for _, c := range cases {
				n++
				c.delay = delays[n%len(delays)]
				if !yield(c) {
					return
				}
			}
		}
	}
}

func failedWrites(s story, writes []string) (cases []trial) {
	for at, what := range writes {
		for _, how := range []fake.Failure{fake.Lost, fake.Reported, fake.Crashed, fake.Late} {
			cases = append(cases, trial{story: s, wrong: fmt.Sprintf("write %d, %s, %s", at, what, how), fail: fake.At(at, how), memory: how == fake.Late})
		}
	}
	return cases
}

func failedReads(s story, reads []string) (cases []trial) {
	for at, what := range reads {
		for _, how := range []fake.Failure{fake.Lost, fake.Stale} {
			cases = append(cases, trial{story: s, wrong: fmt.Sprintf("read %d, %s, %s", at, what, how), failRead: fake.At(at, how), memory: how == fake.Stale})
		}
	}
	return cases
}

func overlaps(s story, calls []string) (cases []trial) {
	for at, what := range calls {
		for _, other := range turns {
			cases = append(cases, trial{story: s, wrong: fmt.Sprintf("%s before call %d, %s", other, at, what), overlap: func(n int) turn {
				if n == at {
					return other
				}
				return ""
			}})
		}
	}
	return cases
}

// several are stories in which much goes wrong.
func several() iter.Seq[trial] {
	return func(yield func(trial) bool) {
		choice := slices.Collect(stories())
		for _, more := range []iter.Seq[story]{storiesWithLog(), storiesWithQueue(), storiesWithOptional(), longStories()} {
			choice = slices.AppendSeq(choice, more)
		}
		for seed := range uint64(4000) {
			rng := rand.New(rand.NewPCG(seed, 1))
			oneOf := func(n int, failures ...fake.Failure) func(int, string) fake.Failure {
				return func(int, string) fake.Failure {
					if rng.IntN(n) > 0 {
						return fake.None
					}
					return failures[rng.IntN(len(failures))]
				}
			}
			c := trial{story: choice[rng.IntN(len(choice))], wrong: fmt.Sprint("seed ", seed), delay: delays[rng.IntN(len(delays))],
				fail: oneOf(5, fake.Lost, fake.Reported, fake.Crashed, fake.Late)}
			if seed%2 == 0 {
				c.failRead = oneOf(8, fake.Lost, fake.Stale)
			}
			if seed%4 < 2 {
				c.overlap = func(int) turn {
					if rng.IntN(12) > 0 {
						return ""
					}
					return turns[rng.IntN(len(turns))]
				}
			}
			if !yield(c) {
				return
			}
		}
	}
}
