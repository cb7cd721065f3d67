package actor

import (
	"testing"
	"time"
)

func TestReminderName(t *testing.T) {
	now := time.Date(2026, 11, 22, 8, 0, 0, 123456789, time.UTC)
	name := ReminderName(now, "")
	if name != ReminderName(now.In(time.FixedZone("", 3600)), "") {
		t.Error("depends on the zone")
	}
	if later := ReminderName(now.Add(time.Microsecond), ""); later == name {
		t.Errorf("two attempts are called %s", name)
	}
	for _, clock := range []time.Duration{0, -time.Hour, time.Hour} {
		if next := ReminderName(now.Add(clock), name); next == name || Orphaned(next, now.Add(clock)) {
			t.Errorf("after %s, on a clock that is off by %v: %s", name, clock, next)
		}
	}
	for _, c := range name {
		if c != '-' && (c < '0' || c > '9') && (c < 'a' || c > 'z') {
			t.Errorf("%s has %q, which may mean something in a URL or a key", name, c)
		}
	}
}

func TestOrphaned(t *testing.T) {
	now := time.Date(2026, 11, 22, 8, 0, 0, 0, time.UTC)
	for _, tt := range []struct {
		name string
		want bool
	}{
		{ReminderName(now, ""), false},
		{ReminderName(now.Add(-saveBy+time.Second), ""), false},
		{ReminderName(now.Add(-saveBy), ""), true},
		{ReminderName(now.Add(time.Second), ""), false}, // another replica's clock
		{"check", true},
		{"", true},
		{reminderPrefix, true},
		{reminderPrefix + "!", true},
		{"other-" + ReminderName(now, "")[len(reminderPrefix):], true},
	} {
		if got := Orphaned(tt.name, now); got != tt.want {
			t.Errorf("%q: %v", tt.name, got)
		}
	}
}
