package intake

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"allregions/app/notification"
	"allregions/app/notification/fake"
	"allregions/app/replication"
)

func TestJudge(t *testing.T) {
	away := errors.New("actor n1: away")
	for name, tt := range map[string]struct {
		err  error
		age  time.Duration
		want string
	}{
		"at once":                    {away, 0, "notYet, again in 5s: actor n1: away"},
		"another clock":              {away, -time.Hour, "notYet, again in 5s: actor n1: away"},
		"after 50 s":                 {away, 50 * time.Second, "notYet, again in 5s: actor n1: away"},
		"after two minutes":          {away, 2 * time.Minute, "notYet, again in 12s: actor n1: away"},
		"after 500 s":                {away, 500 * time.Second, "notYet, again in 50s: actor n1: away"},
		"after hours":                {away, 8 * time.Hour, "notYet, again in 50s: actor n1: away"},
		"just before a day":          {away, giveUpAfter - 1, "notYet, again in 50s: actor n1: away"},
		"after a day":                {away, giveUpAfter, "givenUp: actor n1: away"},
		"after a year":               {away, 365 * giveUpAfter, "givenUp: actor n1: away"},
		"no event":                   {notOurs{away}, 0, "notOurs: actor n1: away"},
		"no event, old":              {notOurs{away}, giveUpAfter, "notOurs: actor n1: away"},
		"an unexpected region":       {fmt.Errorf("add: %w", &notification.RefusedError{Region: "mars"}), 0, `unexpected: add: region "mars" is not expected; expected: `},
		"an unexpected region, late": {&notification.RefusedError{Region: "mars"}, giveUpAfter, `unexpected: region "mars" is not expected; expected: `},
	} {
		t.Run(name, func(t *testing.T) {
			if got := judge(tt.err, tt.age).String(); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

// The service gives an event up before Service Bus does, which counts the tries; and it
// tries often at first.
func TestTriesOfADay(t *testing.T) {
	bicep, err := os.ReadFile("../../infra/servicebus.bicep")
	if err != nil {
		t.Fatal(err)
	}
	_, own, _ := strings.Cut(string(bicep), "\nresource delivered ")
	count := regexp.MustCompile(`maxDeliveryCount: (\d+)`).FindStringSubmatch(own)
	if count == nil {
		t.Fatal("the subscription has no maxDeliveryCount")
	}
	most, err := strconv.Atoi(count[1])
	if err != nil {
		t.Fatal(err)
	}
	tries, minute := 0, 0
	age := time.Duration(0)
	for f := judge(fake.Err, age); f.Pause > 0; f = judge(fake.Err, age) { // tries that take no time are the most
		if tries++; age < time.Minute {
			minute++
		}
		age += f.Pause
	}
	if age < giveUpAfter || tries > most-200 || minute < 10 {
		t.Errorf("%d tries in %v, %d of them in the first minute; Service Bus gives up after %d", tries, age, minute, most)
	}
}

// An event that cannot be delivered comes again, later each time; after a day it is a
// dead letter, and counted.
func TestGiveUp(t *testing.T) {
	w := newWorld()
	i, _, dead := w.intake(away{fake.Err})
	var told []string
	i.Delivered = func(region replication.Region, result string) { told = append(told, string(region)+" "+result) }
	message := received(t)
	for _, tt := range []struct{ age, pause time.Duration }{
		{0, 5 * time.Second}, {2 * time.Minute, 12 * time.Second}, {time.Hour, 50 * time.Second}, {giveUpAfter - 1, 50 * time.Second},
	} {
		w.Now = t0.Add(tt.age)
		err := i.Deliver(t.Context(), message)
		later, ok := errors.AsType[Fate](err)
		if !ok || later.RetryAfter() != tt.pause || !errors.Is(err, fake.Err) {
			t.Errorf("after %v: got %v, want a pause of %v", tt.age, err, tt.pause)
		}
	}
	w.Now = t0.Add(giveUpAfter)
	for range 2 { // brokers deliver twice
		if err := i.Deliver(t.Context(), message); err != nil {
			t.Fatal(err)
		}
	}
	s, err := i.DeadLetters.Summary(t.Context())
	if err != nil || s.Count != 1 || s.Last == nil || s.Last.Event != "n1/eastus" || !strings.HasPrefix(s.Last.Reason, "givenUp: ") || !s.Last.At.Equal(w.Now) {
		t.Errorf("counted %+v, %v", s, err)
	}
	if len(dead.events) != 2 || !strings.Contains(dead.events[0], `"reason":"givenUp: `) {
		t.Errorf("dead letters %q", dead.events)
	}
	if want := []string{"eastus failed", "eastus failed", "eastus failed", "eastus failed", "eastus dead", "eastus dead"}; !slices.Equal(told, want) {
		t.Errorf("told %q, want %q", told, want)
	}
}

// A dead letter that cannot be published, or not be counted, comes again, and is then
// counted once: both as "lost" and as "done, but reported lost".
func TestEveryWriteOfADeadLetterFails(t *testing.T) {
	for _, how := range []fake.Failure{fake.Lost, fake.Reported} {
		t.Run("count "+how.String(), func(t *testing.T) {
			w := newWorld()
			i, _, dead := w.intake(w)
			letters := fake.New(t0)
			i.DeadLetters.Records, letters.Fail = letters, fake.At(0, how)
			err := i.Deliver(t.Context(), []byte("{"))
			later, ok := errors.AsType[Fate](err)
			if !ok || later.RetryAfter() < minPause {
				t.Errorf("got %v, want a later try", err)
			}
			if err := i.Deliver(t.Context(), []byte("{")); err != nil {
				t.Error(err)
			}
			if s, err := i.DeadLetters.Summary(t.Context()); err != nil || s.Count != 1 || len(dead.ids) != 2 {
				t.Errorf("counted %d, %v; published %q", s.Count, err, dead.ids)
			}
		})
	}
	t.Run("publish", func(t *testing.T) {
		w := newWorld()
		i, _, dead := w.intake(w)
		dead.fail = fake.Err
		if err := i.Deliver(t.Context(), []byte("{")); !errors.Is(err, fake.Err) {
			t.Errorf("got %v", err)
		}
		if s, err := i.DeadLetters.Summary(t.Context()); err != nil || s.Count != 0 || s.Last != nil {
			t.Errorf("counted %+v, %v, and nothing is dead yet", s, err)
		}
	})
}

// rereading is a registry that has a new region, once it is read again.
type rereading struct {
	news  replication.Region
	asked []replication.Region
	err   error
}

func (r *rereading) Expected(_ context.Context, registry string) (replication.Awaited, error) {
	if r.err != nil || registry != "contoso.azurecr.io" {
		return replication.Awaited{}, r.err
	}
	return replication.Awaited{Expected: append(slices.Clone(plan.Expected), r.news)}, nil
}

func (r *rereading) Recheck(_ context.Context, registry string, region replication.Region) bool {
	r.asked = append(r.asked, region)
	return region == r.news && registry == "contoso.azurecr.io"
}

// A queued event of a new region is the first news of it, as a webhook is.
func TestNewRegionInTheQueue(t *testing.T) {
	for name, tt := range map[string]struct {
		region replication.Region
		err    error
		asked  int
		told   string
		again  bool
	}{
		"expected":              {"eastus", nil, 0, "eastus started", false},
		"new":                   {"brazilsouth", nil, 1, "brazilsouth started", false},
		"made up":               {"mars", nil, 1, " dead", false},
		"new, and nobody knows": {"brazilsouth", fake.Err, 1, " failed", true},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld()
			queueing, queue, _ := w.intake(away{fake.Err})
			if _, err := queueing.Add(t.Context(), event(tt.region), plan.Awaited); err != nil {
				t.Fatal(err)
			}
			r, told := &rereading{news: "brazilsouth", err: tt.err}, ""
			i, _, _ := w.intake(w)
			i.Regions, i.Log = r, slog.New(slog.DiscardHandler)
			i.Delivered = func(region replication.Region, result string) { told = string(region) + " " + result }
			err := i.Deliver(t.Context(), []byte(queue.events[0]))
			if (err != nil) != tt.again || len(r.asked) != tt.asked || told != tt.told {
				t.Errorf("got %v, asked for %v, told %q; want an error: %v, %d, %q", err, r.asked, told, tt.again, tt.asked, tt.told)
			}
			if tt.told == "brazilsouth started" && !slices.Contains(w.status(t).Missing, "eastus") {
				t.Errorf("%+v", w.status(t))
			}
		})
	}
}
