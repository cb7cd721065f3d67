// Package reminder names the reminders of actors, one name for each attempt to
// begin something.
//
// A call that its caller has given up may still be done, now or much later: a
// reminder is registered whose state was never saved, or one is removed while the
// next attempt relies on it. With a name of its own, an attempt's reminder is not
// what another attempt replaces or removes. The state keeps the name of the one that
// it relies on; every other one removes itself, when it is Orphaned.
package reminder

import (
	"strconv"
	"strings"
	"time"
)

// Common is the name that all reminders had before they had names of their own. It
// is that of a state that has none.
const Common = "check"

const prefix = Common + "-"

// Name returns the name of a reminder that is registered at now.
func Name(now time.Time) string {
	return prefix + strconv.FormatInt(now.UnixMicro(), 36)
}

// saveBy is how long after a reminder the state that relies on it is saved at the
// latest: twice the longest turn.
const saveBy = 40 * time.Second

// Orphaned tells whether a reminder with that name, on which no state relies at now,
// is one on which none ever will. Before that, such a state may be on its way.
func Orphaned(name string, now time.Time) bool {
	at, err := strconv.ParseInt(strings.TrimPrefix(name, prefix), 36, 64)
	return err != nil || !strings.HasPrefix(name, prefix) || now.Sub(time.UnixMicro(at)) >= saveBy
}
