package chaos

import (
	"maps"
	"reflect"
	"slices"
	"testing"
	"time"

	"allregions/app/local/stack"
)

const testLength = 75 * time.Second

func TestPlanLoad(t *testing.T) {
	const timeout = 8 * time.Second
	plan := func(seed uint64) ([]shot, map[string]int) {
		return planLoad(source(seed, loadStream), pushGap, testLength, timeout, testAll, replicas)
	}
	shots, kinds := plan(1)
	again, _ := plan(1)
	if !reflect.DeepEqual(shots, again) {
		t.Error("a seed has two plans")
	}
	if other, _ := plan(2); reflect.DeepEqual(shots, other) {
		t.Error("two seeds have one plan")
	}
	type push struct {
		regions     map[string]int
		first, last time.Duration
	}
	pushes := map[string]*push{}
	hit := map[int]bool{}
	for i, s := range shots {
		p := pushes[s.push.ID]
		if p == nil {
			p = &push{regions: map[string]int{}, first: s.after}
			pushes[s.push.ID] = p
		}
		p.regions[s.region]++
		p.last = s.after
		hit[s.replica] = true
		if i > 0 && s.after < shots[i-1].after {
			t.Fatal("not in order")
		}
		if s.after > testLength+5*time.Second {
			t.Errorf("a webhook at %v", s.after)
		}
	}
	found := map[string]int{}
	for id, p := range pushes {
		times := 0
		for _, n := range p.regions {
			times += n
		}
		switch {
		case len(p.regions) == 2 && times == 2:
			found[incomplete]++
		case len(p.regions) == 3 && times == 4:
			found[repeated]++
		case len(p.regions) == 3 && times == 3 && p.last-p.first > timeout:
			found[late]++
		case len(p.regions) == 3 && times == 3:
			found[complete]++
		default:
			t.Errorf("%s: %+v", id, p)
		}
	}
	if !maps.Equal(found, kinds) || len(kinds) != 4 || len(hit) != replicas {
		t.Errorf("found %v, said %v; replicas %v", found, kinds, hit)
	}
}

// The minute of the test has each trouble of the store, for long enough to hit
// something. A change of the deck needs another seed.
func TestPlanOfTheTest(t *testing.T) {
	planned := map[string]time.Duration{}
	for _, f := range planFaults(source(testSeed, faultStream), testChaos, replicas) {
		if f.verb == hinder {
			planned[f.names[0]] += f.lasts
		}
	}
	for _, trouble := range []trouble{throttled, unavailable, slow, lost} {
		if planned[string(trouble)] < 2*time.Second {
			t.Errorf("%s only for %v", trouble, planned[string(trouble)])
		}
	}
}

func TestPlanFaults(t *testing.T) {
	if a, b := planFaults(source(1, faultStream), testLength, replicas), planFaults(source(1, faultStream), testLength, replicas); !reflect.DeepEqual(a, b) {
		t.Error("a seed has two plans")
	}
	for seed := range uint64(200) {
		faults := planFaults(source(seed, faultStream), testLength, replicas)
		var kinds []string
		for i, f := range faults {
			kinds = append(kinds, f.kind())
			if f.after+f.lasts > testLength {
				t.Fatalf("seed %d: %v at %v is not over in time", seed, f, f.after)
			}
			hit := map[byte]bool{}
			for _, g := range faults[:i+1] {
				if g.after+g.lasts <= f.after {
					continue
				}
				for _, name := range g.targets {
					if n := name[len(name)-1]; n >= '1' && n <= '9' && name[len(name)-2] == '-' {
						hit[n] = true
					}
					if g.after < f.after && slices.Contains(f.targets, name) {
						t.Errorf("seed %d: %v during %v", seed, f, g)
					}
				}
				if g.after < f.after && f.verb == hinder && g.verb == hinder {
					t.Errorf("seed %d: %v during %v", seed, f, g)
				}
			}
			if len(hit) >= replicas {
				t.Errorf("seed %d: every replica is hit at %v", seed, f.after)
			}
		}
		for _, f := range faults {
			if over, end := f.lastsUntil(), f.after+f.lasts; over < end || (f.names[0] == stack.SchedulerProcess && f.verb == kill) != (over > end) && f.names[0] != stack.PlacementProcess {
				t.Errorf("seed %d: %v lasts until %v", seed, f, over)
			}
		}
		slices.Sort(kinds)
		if n := len(slices.Compact(kinds)); n < 10 {
			t.Errorf("seed %d: %d kinds of faults", seed, n)
		}
	}
}

// A soak sends what it was asked for, and little more; nothing of the load comes without
// a kill of everything in the two minutes before.
func TestPlanSoak(t *testing.T) {
	const notifications = 20_000
	for seed := range uint64(5) {
		length := soakLength(notifications)
		_, kinds := planLoad(source(seed, loadStream), soakGap, length, time.Minute, testAll, 1)
		if n := total(kinds); n < notifications || n > notifications*11/10 {
			t.Errorf("seed %d: got %d notifications, want %d", seed, n, notifications)
		}
		kills := planKills(length - calm)
		if len(kills) != int((length-calm-killedFor)/killGap) {
			t.Errorf("got %d kills in %v", len(kills), length)
		}
		for i, f := range kills {
			if f.after != time.Duration(i+1)*killGap || f.verb != kill || !f.control() || f.perReplica() || len(f.targets) != 5 {
				t.Errorf("kill %d: %v after %v", i+1, f, f.after)
			}
		}
	}
}
