package actor

import (
	"strconv"
	"strings"
	"time"
)

const reminderPrefix = "check-"

// ReminderName names a reminder that is registered at now: each attempt to begin
// something has one of its own. A call that its caller has given up may still be
// done, now or much later: a reminder is registered whose record was never saved, or
// one is removed while the next attempt relies on it. With names of their own, one
// attempt's reminder is not what another one replaces or removes. The record keeps
// the name of the one that it relies on; every other one removes itself, when it is
// Orphaned.
//
// Previous is the one that the record relies on so far, or "": the new name differs
// from it, whatever the clock says.
func ReminderName(now time.Time, previous string) string {
	at := now.UnixMicro()
	if last, ok := registered(previous); ok {
		at = max(at, last+1)
	}
	return reminderPrefix + strconv.FormatInt(at, 36)
}

// registered is when a reminder with that name was registered, in microseconds.
func registered(name string) (at int64, ok bool) {
	at, err := strconv.ParseInt(strings.TrimPrefix(name, reminderPrefix), 36, 64)
	return at, err == nil && strings.HasPrefix(name, reminderPrefix)
}

// saveBy is how long after a reminder the record that relies on it is saved at the
// latest: twice the longest turn.
const saveBy = 40 * time.Second

// Orphaned tells whether a reminder with that name, on which no record relies at now,
// is one on which none ever will. Before that, such a record may be on its way.
func Orphaned(name string, now time.Time) bool {
	at, ok := registered(name)
	return !ok || now.Sub(time.UnixMicro(at)) >= saveBy
}
