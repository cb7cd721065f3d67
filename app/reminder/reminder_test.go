package reminder

import (
	"testing"
	"time"
)

func TestName(t *testing.T) {
	now := time.Date(2026, 11, 22, 8, 0, 0, 123456789, time.UTC)
	name := Name(now)
	if name != Name(now.In(time.FixedZone("", 3600))) {
		t.Error("depends on the zone")
	}
	if later := Name(now.Add(time.Microsecond)); later == name {
		t.Errorf("two attempts are called %s", name)
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
		{Name(now), false},
		{Name(now.Add(-saveBy + time.Second)), false},
		{Name(now.Add(-saveBy)), true},
		{Name(now.Add(time.Second)), false}, // another replica's clock
		{Common, true},                      // nobody knows since when
		{"", true},
		{prefix, true},
		{prefix + "!", true},
		{"other-" + Name(now)[len(prefix):], true},
	} {
		if got := Orphaned(tt.name, now); got != tt.want {
			t.Errorf("%q: %v", tt.name, got)
		}
	}
}
