package conformance

import (
	"fmt"
	"iter"
	"slices"
	"strings"
	"time"

	"allregions/app/notification"
	"allregions/app/replication"
)

const timeout = 2 * time.Minute

// longTimeout is one whose reminder is too far ahead to repeat a publication.
const longTimeout = 2 * time.Hour

var regions = []replication.Region{"westeurope", "eastus", "japaneast"}

// optional is a region that nobody waits for.
const optional replication.Region = "uksouth"

// story is what happens to a notification from outside.
type story struct {
	steps   []step
	timeout time.Duration

	// What ACR's event log does, if there is one; and whose webhooks do not come.
	log  logMode
	lost []replication.Region

	// Whose webhooks were accepted by the queue, and for how long it keeps them.
	queued map[replication.Region]time.Duration
}

// step is a region's event, or a time in which none comes.
type step struct {
	region replication.Region
	pass   time.Duration
}

// awaited are all regions of a story.
func (s story) awaited() replication.Awaited {
	a := replication.Awaited{Expected: regions}
	if slices.Contains(s.steps, step{region: optional}) {
		a.Optional = []replication.Region{optional}
	}
	return a
}

func (s story) String() string {
	var words []string
	for _, step := range s.steps {
		switch {
		case step.region == "":
			words = append(words, step.pass.String())
		case slices.Contains(s.lost, step.region):
			words = append(words, fmt.Sprintf("(%s)", step.region))
		case s.queued[step.region] > 0:
			words = append(words, fmt.Sprintf("%s/%v", step.region, s.queued[step.region]))
		default:
			words = append(words, string(step.region))
		}
	}
	if s.log != "" {
		words = append(words, "event log "+string(s.log))
	}
	return strings.Join(words, " ")
}

// pauses are longer than the reminder's period; in the last minute; and just before
// the deadline.
var pauses = []time.Duration{notification.Period + time.Second, 75 * time.Second, timeout - 2500*time.Millisecond}

// overdue is when the deadline has passed, and when the grace has, too.
var overdue = []time.Duration{timeout + time.Second, timeout + notification.Period + time.Second}

// stories are all orders of three events, a pause and the passing of the deadline.
func stories() iter.Seq[story] {
	return func(yield func(story) bool) {
		n := 0
		for _, pause := range pauses {
			for _, passed := range overdue {
				for s := range orders(&n, pause, passed) {
					s.timeout = timeout
					if !yield(s) {
						return
					}
				}
			}
		}
	}
}

// longStories are those of a long timeout.
func longStories() iter.Seq[story] {
	return func(yield func(story) bool) {
		n := 0
		for s := range orders(&n, 10*time.Minute, longTimeout+notification.Period+time.Second) {
			s.timeout = longTimeout
			if !yield(s) {
				return
			}
		}
	}
}

// orders are all orders of three events and two times. Which region is which makes no
// difference to most of a story, so that the regions take turns.
func orders(n *int, pause, passed time.Duration) iter.Seq[story] {
	return func(yield func(story) bool) {
		for a := range 5 {
			for b := range 5 {
				if a == b {
					continue
				}
				var s story
				names := regionsInOrder(uint64(*n))
				for at := range 5 {
					switch at {
					case a:
						s.steps = append(s.steps, step{pass: pause})
					case b:
						s.steps = append(s.steps, step{pass: passed})
					default:
						s.steps = append(s.steps, step{region: names[0]})
						names = names[1:]
					}
				}
				*n++
				if !yield(s) {
					return
				}
			}
		}
	}
}

// waits are how long the queue keeps an event: a moment, within the grace, and beyond
// it.
var waits = []time.Duration{5 * time.Second, 25 * time.Second, 3 * time.Minute}

// storiesWithQueue are those in which the first, the second or the last event has to
// wait, or all of them, longer than the deadline.
func storiesWithQueue() iter.Seq[story] {
	return func(yield func(story) bool) {
		n := 0
		for s := range stories() {
			var order []replication.Region
			for _, step := range s.steps {
				if step.region != "" {
					order = append(order, step.region)
				}
			}
			s.queued = map[replication.Region]time.Duration{order[n%3]: waits[n/3%len(waits)]}
			if n%5 == 0 {
				for i, region := range order {
					s.queued[region] = 3*time.Minute + time.Duration(i)*10*time.Second
				}
			}
			n++
			if !yield(s) {
				return
			}
		}
	}
}

// storiesWithOptional are some in which an optional region reports, at each point in turn.
func storiesWithOptional() iter.Seq[story] {
	return func(yield func(story) bool) {
		n := 0
		for s := range stories() {
			if n++; n%2 > 0 {
				continue
			}
			s.steps = slices.Insert(s.steps, n/2%(len(s.steps)+1), step{region: optional})
			if !yield(s) {
				return
			}
		}
	}
}

// regionsInOrder is the nth order of the regions.
func regionsInOrder(n uint64) []replication.Region {
	r := slices.Concat(regions[n%3:], regions[:n%3])
	if n/3%2 == 1 {
		r[1], r[2] = r[2], r[1]
	}
	return r
}

// storiesWithLog are those in which webhooks do not come: the first, the second, the
// last, or all but the first; each with one of the pauses.
func storiesWithLog() iter.Seq[story] {
	return func(yield func(story) bool) {
		n, i := 0, 0
		for s := range stories() {
			i++
			var order []replication.Region
			for _, step := range s.steps {
				if step.region != "" {
					order = append(order, step.region)
				}
			}
			for j, lost := range [][]replication.Region{order[:1], order[1:2], order[2:], order[1:]} {
				if (i+j)%len(pauses) > 0 {
					continue
				}
				s.lost, s.log = lost, logModes[n%len(logModes)]
				n++
				if !yield(s) {
					return
				}
			}
		}
	}
}
