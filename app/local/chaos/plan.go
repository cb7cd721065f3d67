package chaos

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"time"

	"allregions/app/local/acr"
	"allregions/app/local/stack"
)

// The plans are computed before anything runs, each from a random source of its
// own: a seed means the same pushes and the same faults at the same times. What
// then comes of it depends on the machine.

const (
	loadStream  = 1
	faultStream = 2
	storeStream = 3
)

func source(seed, stream uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, stream)) }

// between is a duration from lo to hi.
func between(rng *rand.Rand, lo, hi time.Duration) time.Duration {
	return lo + time.Duration(rng.Int64N(int64(hi-lo)))
}

// The kinds of pushes.
const (
	complete   = "complete"
	repeated   = "repeated"   // a region posts twice
	incomplete = "incomplete" // a region never posts
	late       = "late"       // a region posts after the deadline
)

// shot is one webhook.
type shot struct {
	after   time.Duration // since the begin
	push    acr.Push
	region  string
	replica int
}

// pushGap is roughly the mean time between two pushes.
const pushGap = 350 * time.Millisecond

// shortest and longest are the bounds of the time between two pushes.
func shortest(gap time.Duration) time.Duration { return gap / 7 }
func longest(gap time.Duration) time.Duration  { return 2 * gap }

// planLoad returns the webhooks of pushes that begin within length, about a gap apart,
// in the order of their times, and how many pushes of each kind there are. Those of a
// push come in any order, each to any replica, among those of others.
func planLoad(rng *rand.Rand, gap, length, timeout time.Duration, regions []string, replicas int) (shots []shot, kinds map[string]int) {
	const (
		spread = 3 * time.Second // between a push's webhooks
		lateBy = 4 * time.Second
	)
	kinds = map[string]int{}
	number := 0
	for begin := time.Duration(0); begin < length-spread; begin += between(rng, shortest(gap), longest(gap)) {
		number++
		p := newPush(rng, number)
		kind := []string{complete, complete, complete, repeated, incomplete, late}[rng.IntN(6)]
		if kind == late && begin > length-2*spread-timeout-lateBy {
			kind = complete // or the late webhook would come after everything else
		}
		kinds[kind]++
		order := slices.Clone(regions)
		rng.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
		fire := func(after time.Duration, region string) {
			shots = append(shots, shot{after, p, region, rng.IntN(replicas)})
		}
		last := order[len(order)-1]
		for _, region := range order[:len(order)-1] {
			fire(begin+between(rng, 0, spread), region)
		}
		switch kind {
		case incomplete:
		case late:
			fire(begin+spread+timeout+between(rng, time.Second/2, lateBy), last)
		default:
			fire(begin+between(rng, 0, spread), last)
		}
		if kind == repeated {
			fire(begin+between(rng, 0, 2*spread), order[0])
		}
	}
	slices.SortStableFunc(shots, func(a, b shot) int { return cmp.Compare(a.after, b.after) })
	return shots, kinds
}

func newPush(rng *rand.Rand, number int) acr.Push {
	var b [48]byte
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
	p := acr.PushOf(b, "chaos/image", "v"+strconv.Itoa(number))
	p.At = time.Time{} // a seed has one plan; Fire's caller knows when it happens
	return p
}

// verb is what a fault does.
type verb string

const (
	kill   verb = "kill -9" // and start again when the fault is over
	pause  verb = "SIGSTOP" // and SIGCONT
	hinder verb = "store"   // the trouble is the target

	// terminate is how Container Apps stops a replica: SIGTERM to the service and
	// its sidecar at once. Both start again when they have ended.
	terminate verb = "SIGTERM"

	// disturb is trouble at the target of the notifications.
	disturb verb = "target"
)

// card is a fault that has no time and no replica yet.
type card struct {
	verb  verb
	names []string // of processes, of the same replica if perReplica; or one trouble
}

// kind is what faults are counted by.
func (c card) kind() string { return string(c.verb) + " " + strings.Join(c.names, " and ") }

// perReplica tells whether there is one for each replica.
func (c card) perReplica() bool {
	return c.names[0] == stack.ServiceProcess || c.names[0] == stack.SidecarProcess
}

// control tells whether the fault costs Dapr's control plane its memory, from
// which it takes half a minute to recover.
func (c card) control() bool {
	return c.verb == kill && (slices.Contains(c.names, stack.SchedulerProcess) || slices.Contains(c.names, stack.PlacementProcess))
}

// fault is something that goes wrong for a while.
type fault struct {
	card
	after, lasts time.Duration
	targets      []string // the card's names, numbered if they are processes of a replica
}

func (f fault) String() string {
	return fmt.Sprintf("%s %v for %.1fs", f.verb, f.targets, f.lasts.Seconds())
}

var (
	service   = []string{stack.ServiceProcess}
	daprd     = []string{stack.SidecarProcess}
	both      = []string{stack.ServiceProcess, stack.SidecarProcess}
	scheduler = []string{stack.SchedulerProcess}
	placement = []string{stack.PlacementProcess}
	redis     = []string{stack.RedisProcess}
	all       = []string{stack.RedisProcess, stack.SchedulerProcess, stack.PlacementProcess, stack.ServiceProcess, stack.SidecarProcess} // of a soak
)

// deck has every kind of fault; those that hit a replica, twice.
var deck = []card{
	{kill, service}, {kill, service}, {kill, daprd}, {kill, daprd}, {kill, both}, {terminate, both}, {terminate, both},
	{pause, service}, {pause, service}, {pause, daprd}, {pause, daprd},
	{kill, scheduler}, {pause, scheduler}, {kill, placement}, {pause, placement}, {kill, redis}, {pause, redis},
	{hinder, []string{string(throttled)}}, {hinder, []string{string(unavailable)}}, {hinder, []string{string(slow)}},
	{hinder, []string{string(lost)}}, {hinder, []string{string(lost)}},
	{disturb, []string{string(targetSlow)}}, {disturb, []string{string(targetDead)}},
}

const (
	// gap is how long nothing hits again what was hit.
	gap = 2 * time.Second
	// controlGap is the same for the control plane after a kill.
	controlGap = 40 * time.Second
	// controlRecovery is how long Dapr does not answer after that: the scheduler until the lease
	// of its old self is over, placement until it has hosts again.
	controlRecovery = 25 * time.Second
	// calm is how long the load goes on after the last fault.
	calm = 25 * time.Second
)

// lastsUntil is when the consequences of the fault are over, after the begin.
func (f fault) lastsUntil() time.Duration {
	if f.control() {
		return f.after + f.lasts + controlRecovery
	}
	return f.after + f.lasts
}

// planFaults returns faults that begin and end within length, in the order of
// their begins. At any time at most all but one of the replicas are hit, at most
// one trouble of the store, and no process twice.
func planFaults(rng *rand.Rand, length time.Duration, replicas int) (faults []fault) {
	var hand []card
	busy := map[string]time.Duration{} // until when, by process, replica, or "store"
	var controlUntil time.Duration
	for at := 3 * time.Second; ; at += between(rng, time.Second, 4*time.Second) {
		if len(hand) < len(deck)/2 {
			more := slices.Clone(deck)
			rng.Shuffle(len(more), func(i, j int) { more[i], more[j] = more[j], more[i] })
			hand = append(hand, more...)
		}
		lasts := between(rng, time.Second, 6*time.Second)
		if at+lasts > length {
			return faults
		}
		replica := rng.IntN(replicas)
		others := 0
		for i := range replicas {
			if i != replica && busy[stack.Numbered("replica", i)] > at {
				others++
			}
		}
		place := func(c card) string {
			switch {
			case c.perReplica():
				return stack.Numbered("replica", replica)
			case c.verb == hinder || c.verb == disturb:
				return string(c.verb)
			}
			return c.names[0]
		}
		i := slices.IndexFunc(hand, func(c card) bool {
			return busy[place(c)] <= at && (!c.perReplica() || others < replicas-1) && (!c.control() || controlUntil <= at)
		})
		if i < 0 {
			continue
		}
		c := hand[i]
		hand = slices.Delete(hand, i, i+1)
		f := fault{card: c, after: at, lasts: lasts, targets: slices.Clone(c.names)}
		if c.verb == kill {
			f.lasts = lasts / 2
		}
		if c.perReplica() {
			for i, name := range f.targets {
				f.targets[i] = stack.Numbered(name, replica)
			}
		}
		busy[place(c)] = at + f.lasts + gap
		if c.control() {
			controlUntil = at + f.lasts + controlGap
		}
		faults = append(faults, f)
	}
}
