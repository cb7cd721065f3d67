package actor

import (
	"strconv"
	"strings"
	"time"
)

const reminderPrefix = "check-"

// ReminderName returns a new name for a reminder that is registered at now. A call to
// Dapr that timed out may still be done, now or much later: it may register a reminder
// whose record was never saved, or remove one that the next attempt needs. So each
// attempt names its own, which no other attempt replaces or removes. The record has the
// name of the one that counts. Every other one removes itself when it is Orphaned.
//
// Previous is the name that the record has so far, or "". The new one differs from it,
// whatever the clock says.
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

// saveBy is the longest time from the registration of a reminder to the save of the
// record that names it: twice the longest turn.
const saveBy = 40 * time.Second

// Orphaned tells whether no record will ever name this reminder, if none does at now.
// Before that, such a record may be on its way.
func Orphaned(name string, now time.Time) bool {
	at, ok := registered(name)
	return !ok || now.Sub(time.UnixMicro(at)) >= saveBy
}
