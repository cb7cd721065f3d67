package stack

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"allregions/app/local/acr"
	"allregions/app/local/process"
)

// pageThrough returns the whole list of a replica, in pages, and complains of what is in it
// twice.
func pageThrough(t *testing.T, s *Stack, url string, limit int) map[string]status {
	t.Helper()
	all := map[string]status{}
	for cursor := ""; ; {
		code, body := request(t, http.MethodGet, fmt.Sprintf("%s/notifications?since=1h&limit=%d&cursor=%s", url, limit, cursor), s.Key)
		var page struct {
			Notifications []status
			Cursor        string
		}
		if err := json.Unmarshal(body, &page); err != nil || code != http.StatusOK {
			t.Fatalf("%d %s, %v", code, body, err)
		}
		for _, st := range page.Notifications {
			if _, ok := all[st.ID]; ok {
				t.Errorf("%s is in the list twice", st.ID)
			}
			all[st.ID] = st
		}
		if cursor = page.Cursor; cursor == "" {
			return all
		}
	}
}

// fireUntilTaken posts a webhook to one replica after another, until one takes it.
func fireUntilTaken(ctx context.Context, s *Stack, p acr.Push, region string) error {
	ctx, cancel := context.WithTimeout(ctx, soon)
	defer cancel()
	for try := 0; ; try++ {
		replica := s.Replicas[try%len(s.Replicas)]
		r := acr.Registry{LoginServer: "contoso.azurecr.io", ServiceURL: replica.URL, Key: s.Key}
		if code, _, err := r.Fire(ctx, p, region); err == nil && code/100 == 2 {
			return nil
		} else if ctx.Err() != nil {
			return fmt.Errorf("%s of %s was not taken: %d, %v", region, p.ID, code, err)
		}
	}
}

// What a killed replica had not sent to the list is sent again: a minute after all is
// due, each notification is listed as it is, once. Who pages meanwhile sees none twice.
func TestListSurvivesAKill(t *testing.T) {
	t.Parallel()
	const timeout, replicas, senders, each = time.Minute, 3, 6, 50
	s, _ := start(t, Options{Replicas: replicas, Redis: true, Timeout: timeout, Settings: map[string]string{"WEBHOOK_TOPIC": "acr-webhooks"}})
	want := map[string]string{}
	var mu sync.Mutex
	half, done := make(chan struct{}), make(chan struct{})
	var load, pager sync.WaitGroup
	for n := range senders {
		load.Go(func() {
			for i := range each {
				if n == 0 && i == each/2 {
					close(half)
				}
				p, wait := acr.NewPush(fmt.Sprintf("shop/s%d", n), fmt.Sprintf("v%d", i)), "replicated"
				for _, region := range regions {
					if i%5 == 0 && region == "japaneast" {
						wait = "timedOut"
					} else if err := fireUntilTaken(t.Context(), s, p, region); err != nil {
						t.Error(err)
					}
				}
				mu.Lock()
				want[p.ID] = wait
				mu.Unlock()
			}
		})
	}
	pager.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
				pageThrough(t, s, s.Replicas[0].URL, 7)
			}
		}
	})
	<-half
	for _, kind := range []string{ServiceProcess, SidecarProcess} {
		if err := s.Hold(Numbered(kind, replicas-1), syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	load.Wait()
	var differs string
	eventually(t, timeout+timeout/4+time.Minute, "all is listed as it is", func() bool {
		listed := pageThrough(t, s, s.Replicas[1].URL, 50)
		differs = ""
		for id, st := range want {
			if got := listed[id].Status; got != st {
				differs += fmt.Sprintf("%s is listed as %q, and %s; ", id, got, st)
			}
		}
		if differs != "" {
			time.Sleep(500 * time.Millisecond)
		}
		return differs == "" && len(listed) == len(want)
	})
	close(done)
	pager.Wait()
	for id, st := range pageThrough(t, s, s.URL, 200) {
		if real := get200(t, s, "/notifications/"+id); real.Status != st.Status || len(real.Regions) != len(st.Regions) || !real.StartedAt.Equal(st.StartedAt) {
			t.Errorf("%s is %+v, and listed as %+v", id, real, st)
		}
	}
}

// What the scheduler loses, the list has registered again.
func TestReminderIsLost(t *testing.T) {
	t.Parallel()
	sub := newSubscriber()
	const timeout, grace = 4 * time.Second, time.Second
	s, r := start(t, Options{Timeout: timeout, Events: sub.take})
	p := acr.NewPush("shop/cart", "v1")
	due := fire(t, r, p, "eastus", http.StatusAccepted).Deadline.Add(grace)
	eventually(t, timeout, "it is in the list", func() bool { return pageThrough(t, s, s.URL, 50)[p.ID].ID != "" })
	data, _, err := s.dapr.Records("images", "").Load(t.Context(), p.ID)
	if err != nil {
		t.Fatal(err)
	}
	var stored record
	if err := json.Unmarshal(data, &stored); err != nil || stored.Actor.Reminder == "" {
		t.Fatalf("%s, %v", data, err)
	}
	if err := s.dapr.Actors("Notification").Unregister(t.Context(), p.ID, stored.Actor.Reminder); err != nil || reminder(t, s, p.ID) != "" {
		t.Fatalf("the reminder is there: %v", err)
	}
	if time.Now().After(due) {
		t.Fatal("it was due before its reminder was lost")
	}
	e := sub.wait(t, p.ID, 1, time.Until(due.Add(2*time.Minute)))
	if e.Type != "acr.replication.timedout" || e.Time.Before(due.Add(time.Minute)) {
		t.Errorf("%s, %v after it was due", e.Type, e.Time.Sub(due))
	}
	eventually(t, soon, "the reminder is gone", func() bool { return reminder(t, s, p.ID) == "" })
	eventually(t, soon, "the list's reminder is gone", func() bool {
		reminders, err := s.Scheduler.Reminders(t.Context(), "Recent")
		return err == nil && len(reminders) == 0
	})
	if !strings.Contains(tail(s.LogPath(ServiceProcess), 100), "overdue, its reminder is set again") {
		t.Error("the log does not say so")
	}
}

// install makes the program with that build tag, or without one, what a replica starts
// the next time.
func install(t *testing.T, s *Stack, tag string) {
	t.Helper()
	root, err := Root(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(s.Dir, "service-"+tag)
	if err := process.GoBuild(t.Context(), root, program, "-tags="+tag, "./app"); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(program, s.program()); err != nil {
		t.Fatal(err)
	}
}

// decisions counts the saved decisions of a replica about each notification, by its log.
func decisions(t *testing.T, s *Stack, replica int) map[string]int {
	t.Helper()
	data, err := os.ReadFile(s.LogPath(Numbered(ServiceProcess, replica)))
	if err != nil {
		t.Fatal(err)
	}
	n := map[string]int{}
	for text := range strings.Lines(string(data)) {
		var line struct{ Msg, Notification, Decision string }
		json.Unmarshal([]byte(text), &line)
		reason, _, _ := strings.Cut(line.Decision, ",")
		if line.Msg == "decided" && strings.Contains("started recorded completed", reason) {
			n[line.Notification]++
		}
	}
	return n
}

// Two versions take turns on the same records, one of which counts its saves in fields
// that the other does not know: the count survives.
func TestTwoVersions(t *testing.T) {
	t.Parallel()
	const this, next, senders, each = 0, 1, 4, 15
	s, _ := start(t, Options{Replicas: 2, Timeout: 10 * time.Minute})
	restart := func(replica int, between func()) {
		t.Helper()
		service, sidecar := Numbered(ServiceProcess, replica), Numbered(SidecarProcess, replica)
		if err := errors.Join(s.Hold(service, syscall.SIGTERM), s.Hold(sidecar, syscall.SIGTERM)); err != nil {
			t.Fatal(err)
		}
		between()
		if err := errors.Join(s.Release(sidecar), s.Release(service)); err != nil {
			t.Fatal(err)
		}
		eventually(t, soon, service+" is ready", func() bool {
			return Get(t.Context(), s.Replicas[replica].URL+"/readyz", "", nil) == nil
		})
	}
	restart(next, func() { install(t, s, "nextversion") })
	install(t, s, "thisversion") // for the other one

	pushes := make([][]acr.Push, senders)
	for n := range pushes {
		for i := range each {
			pushes[n] = append(pushes[n], acr.NewPush("shop/cart", fmt.Sprintf("v%d-%d", n, i)))
		}
	}
	fireAll := func(region string) {
		var load sync.WaitGroup
		for _, mine := range pushes {
			load.Go(func() {
				for _, p := range mine {
					if err := fireUntilTaken(t.Context(), s, p, region); err != nil {
						t.Error(err)
					}
				}
			})
		}
		load.Wait()
	}
	fireAll(regions[0])
	restart(this, func() { fireAll(regions[1]) }) // all of it by the next version
	install(t, s, "nextversion")
	restart(next, func() { fireAll(regions[2]) }) // all of it by this one

	listed := map[string]status{}
	eventually(t, soon, "all is listed", func() bool {
		listed = pageThrough(t, s, s.URL, 50)
		return len(listed) == senders*each
	})
	ofThis, ofNext := decisions(t, s, this), decisions(t, s, next)
	both := 0
	for id := range listed {
		data, _, err := s.dapr.Records("images", "").Load(t.Context(), id)
		var r struct {
			Status      string
			SavesOfNext int
			Actor       struct{ Saves, SavesOfNext int }
		}
		if err := json.Unmarshal(data, &r); err != nil || r.Status != "replicated" {
			t.Fatalf("%s: %s, %v", id, data, err)
		}
		// What a reminder had to do is saved, too, and decides nothing.
		more := r.Actor.Saves - ofThis[id] - ofNext[id]
		if err != nil || more < 0 || r.SavesOfNext < ofNext[id] || r.SavesOfNext > ofNext[id]+more || r.Actor.SavesOfNext != r.SavesOfNext {
			t.Errorf("%s: %d saves by this version, %d by the next one; the record counts %d, %d and %d", id, ofThis[id], ofNext[id], r.Actor.Saves, r.SavesOfNext, r.Actor.SavesOfNext)
		}
		if ofThis[id] > 0 && ofNext[id] > 0 {
			both++
		}
	}
	if both != len(listed) {
		t.Errorf("%d of %d records were saved by both", both, len(listed))
	}
}
