package intake

import (
	"fmt"
	"time"

	"allregions/app/notification"
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

// Fate is what is to be done with a message that could not be delivered. It is the error
// of one that must come again.
type Fate struct {
	Reason Reason
	Pause  time.Duration // until the next try; 0 for a dead letter
	Err    error
}

func (f Fate) String() string {
	if f.Pause == 0 {
		return fmt.Sprintf("%s: %v", f.Reason, f.Err)
	}
	return fmt.Sprintf("%s, again in %s: %v", f.Reason, f.Pause.Round(time.Second/10), f.Err)
}

func (f Fate) Error() string { return f.String() }
func (f Fate) Unwrap() error { return f.Err }

// RetryAfter is how long the message must be held before it comes again.
func (f Fate) RetryAfter() time.Duration { return f.Pause }

// judge decides on an event that was accepted age ago, and could not be delivered because
// of err.
func judge(err error, age time.Duration) Fate {
	switch {
	case isA[notOurs](err):
		return Fate{Reason: NotOurs, Err: err}
	case isA[*notification.RefusedError](err):
		return Fate{Reason: Unexpected, Err: err}
	case age >= giveUpAfter:
		return Fate{Reason: GivenUp, Err: err}
	}
	return later(err, age)
}

func later(err error, age time.Duration) Fate {
	return Fate{Reason: NotYet, Pause: min(max(age/pauseShare, minPause), maxPause), Err: err}
}

// notOurs is what is wrong with a message that is no event of this service.
type notOurs struct{ error }
