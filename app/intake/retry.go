package intake

import (
	"fmt"
	"time"
)

// Reason names why a message of the queue is not in its notification.
type Reason string

const (
	NotOurs    Reason = "notOurs"    // no event of this service
	Unexpected Reason = "unexpected" // its region is not expected
	GivenUp    Reason = "givenUp"    // it could not be delivered in a day
	NotYet     Reason = "notYet"     // it could not be delivered, and is tried again
)

// The queue holds an event for a day. At first an event is tried every few seconds, for
// most outages are short. Later, tries are so far apart that a day has fewer than the
// 2,000 after which Service Bus takes a message away (infra/servicebus.bicep).
const (
	minPause    = 5 * time.Second
	maxPause    = 50 * time.Second // less than the 60 s after which Dapr takes a delivery for failed
	pauseShare  = 10               // the pause is this part of the event's age
	giveUpAfter = 24 * time.Hour
)

// Fate is what is to be done with a message that could not be delivered.
type Fate struct {
	Reason Reason
	Pause  time.Duration // until the next try; 0 for a dead letter
}

func (f Fate) String() string {
	if f.Pause == 0 {
		return "dead letter: " + string(f.Reason)
	}
	return fmt.Sprintf("again in %s: %s", f.Pause.Round(time.Second/10), f.Reason)
}

// judge decides on an event that was accepted age ago, and could not be delivered because
// of err.
func judge(err error, age time.Duration) Fate {
	switch {
	case isA[notOurs](err):
		return Fate{Reason: NotOurs}
	case refused(err):
		return Fate{Reason: Unexpected}
	case age >= giveUpAfter:
		return Fate{Reason: GivenUp}
	}
	return Fate{NotYet, pause(age)}
}

func pause(age time.Duration) time.Duration { return min(max(age/pauseShare, minPause), maxPause) }

// notOurs is what is wrong with a message that is no event of this service.
type notOurs struct{ error }

// laterError is why a message must come again.
type laterError struct {
	error
	fate Fate
}

func (l laterError) Error() string { return fmt.Sprintf("%v; %s", l.error, l.fate) }

func (l laterError) Unwrap() error { return l.error }

// RetryAfter is how long the message must be held before it comes again.
func (l laterError) RetryAfter() time.Duration { return l.fate.Pause }
