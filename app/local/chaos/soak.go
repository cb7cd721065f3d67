package chaos

import "time"

// A soak is a long run of one replica with SQLite and Redis, and without a target: many
// more notifications at a time than chaos has, and the only fault is a power failure, again
// and again. ACR's log must be readable for longer than the run.
const (
	soakGap     = 25 * time.Millisecond // roughly, between two pushes
	soakCatchUp = 6 * time.Hour
	killGap     = 2 * time.Minute
	killedFor   = time.Second
)

// soakLength is how long the load of a soak goes on for at least that many notifications.
func soakLength(notifications int) time.Duration {
	meanGap := (shortest(soakGap) + longest(soakGap)) / 2
	return time.Duration(notifications)*meanGap*101/100 + calm
}

// planKills returns the kills of everything within length.
func planKills(length time.Duration) (faults []fault) {
	for at := killGap; at+killedFor <= length; at += killGap {
		faults = append(faults, fault{card: card{kill, all}, after: at, lasts: killedFor, targets: all})
	}
	return faults
}
