package main

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"allregions/app/local/acr"
	"allregions/app/local/process"
)

func TestPlan(t *testing.T) {
	regions := []string{"a", "b", "c"}
	for mode, want := range map[string]string{
		sequential:  "1a1b1c 2a2b2c",
		duplicates:  "1a1a1b1b1c1c 2a2a2b2b2c2c",
		open:        "1a1b 2a2b",
		retag:       "1a1b1c 2a2b2c",
		together:    "1a 1b 1c 2a 2b 2c",
		interleaved: "1a 2a 1b 2b 1c 2c",
	} {
		trains, err := plan(2, regions, mode)
		if err != nil {
			t.Fatal(err)
		}
		numbers, images := map[string]string{}, map[string]bool{}
		var got []string
		for _, train := range trains {
			var one string
			for _, s := range train {
				images[s.push.Repository+":"+s.push.Tag] = true
				if numbers[s.push.ID] == "" {
					numbers[s.push.ID] = string(rune('1' + len(numbers)))
				}
				one += numbers[s.push.ID] + s.region
			}
			got = append(got, one)
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s: %q, want %q", mode, got, want)
		}
		if (len(images) == 1) != (mode == retag) {
			t.Errorf("%s: got the images %v", mode, images)
		}
	}
	if trains, err := plan(250, regions, interleaved); err != nil || len(trains) != 750 || trains[99][0].region != "a" || trains[100][0].region != "b" || trains[300][0].region != "a" || trains[749][0].region != "c" {
		t.Errorf("%d webhooks, %v", len(trains), err)
	}
	if _, err := plan(1, regions, "random"); err == nil {
		t.Error("a mode that there is not: no error")
	}
}

func TestPercentile(t *testing.T) {
	var sorted []time.Duration
	for i := range 200 {
		sorted = append(sorted, time.Duration(i+1)*time.Millisecond)
	}
	for p, want := range map[int]float64{0: 1, 50: 100, 95: 190, 99: 198, 100: 200} {
		if got := percentile(sorted, p); got != want {
			t.Errorf("p%d: %v, want %v", p, got, want)
		}
	}
	if one, none := percentile(sorted[:1], 99), percentile(nil, 99); one != 1 || none != 0 {
		t.Errorf("of one: %v, of none: %v", one, none)
	}
}

func TestLoadReport(t *testing.T) {
	var mu sync.Mutex
	seen := map[string]int{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		seen[r.Method]++
		switch {
		case r.Method == http.MethodGet && seen["GET"] == 1:
			w.WriteHeader(http.StatusConflict)
		case r.Method == http.MethodPost && seen["POST"] == 1:
			w.WriteHeader(http.StatusServiceUnavailable)
		case r.Method == http.MethodPost:
			w.WriteHeader(http.StatusAccepted)
		}
	}))
	defer server.Close()
	trains, err := plan(10, []string{"a", "b"}, sequential)
	if err != nil {
		t.Fatal(err)
	}
	r := fireAll(t.Context(), &acr.Registry{ServiceURL: server.URL}, trains, 4)
	if err := r.countJoins(t.Context(), server.URL, "k", trains, 4); err != nil {
		t.Fatal(err)
	}
	if r.Webhooks != 20 || r.Answers["503"] != 1 || r.Answers["202"] != 19 || r.Joined != 9 || r.PerSecond <= 0 || r.P50 <= 0 || r.Max < r.P99 {
		t.Errorf("%+v", r)
	}
	var out bytes.Buffer
	r.print(&out)
	if !strings.Contains(out.String(), "(9 of 0 joined)") || !strings.Contains(out.String(), "map[202:19 503:1]") || !strings.Contains(out.String(), "not joined   map[409:1]") {
		t.Errorf("%s", &out)
	}
	if _, err := replicated(context.Background(), "http://127.0.0.1:1", "k"); err == nil {
		t.Error("nobody answers: no error")
	}
}

func TestRounds(t *testing.T) {
	for _, n := range []int{1, 7, 8, 1003} {
		trains := make([]train, n)
		sent := 0
		for round := range rounds {
			sent += len(part(trains, round))
		}
		if sent != n {
			t.Errorf("of %d trains %d are sent", n, sent)
		}
	}
	r := &loadReport{}
	for _, more := range []*loadReport{
		{Webhooks: 3, Seconds: 1, Answers: map[string]int{"202": 3}, latencies: []time.Duration{5e6, 1e6, 3e6}, Processes: []processUsage{{"service", 1, 40}}},
		{Webhooks: 1, Seconds: 1, Answers: map[string]int{"202": 0, "503": 1}, latencies: []time.Duration{4e6}, Processes: []processUsage{{"service", 5, 30}}},
	} {
		r.add(more)
	}
	if r.Webhooks != 4 || r.PerSecond != 2 || r.P50 != 3 || r.P99 != 5 || r.Answers["202"] != 3 || r.Answers["503"] != 1 || r.Processes[0] != (processUsage{"service", 2, 40}) {
		t.Errorf("%+v", r)
	}
	if err := load(t.Context(), []string{"-open", "1", "-url", "http://127.0.0.1:1"}); err == nil || !strings.Contains(err.Error(), "-open needs") {
		t.Errorf("%v", err)
	}
}

// The service that ours is compared with does the same join.
func TestBaseline(t *testing.T) {
	regions := []string{"westeurope", "eastus", "japaneast"}
	trains, err := plan(20, regions, duplicates)
	if err != nil {
		t.Fatal(err)
	}
	b, err := measureBaseline(t.Context(), trains, duplicates, strings.Join(regions, ","), 8)
	if err != nil {
		t.Fatal(err)
	}
	if b.Joined != 20 || b.Answers["202"] != 120 || runtime.GOOS == "linux" && (len(b.Processes) != 1 || b.Processes[0].PeakMiB < 1) {
		t.Errorf("%+v", b)
	}
	r := &loadReport{PerSecond: b.PerSecond / 2, Baseline: b}
	var out bytes.Buffer
	r.print(&out)
	if !strings.Contains(out.String(), "0.50 of its webhooks/s") {
		t.Errorf("%s", &out)
	}
}

// Notifications that are to be open are, or there is no measurement.
func TestOpenAll(t *testing.T) {
	refuse := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) }))
	defer refuse.Close()
	if err := openAll(t.Context(), &acr.Registry{ServiceURL: refuse.URL}, 3, "a", 2); err == nil || !strings.Contains(err.Error(), "of 3 notifications only 0") {
		t.Errorf("%v", err)
	}
}

func TestUsage(t *testing.T) {
	cpu, peak, err := process.Usage(os.Getpid())
	if os.IsNotExist(err) {
		t.Skip("no /proc")
	}
	if err != nil || cpu < 0 || cpu > 1000 || peak < 1 || peak > 10_000 {
		t.Errorf("%v s, %d MiB, %v", cpu, peak, err)
	}
	// A peak is of its time.
	hold, err := syscall.Mmap(-1, 0, 256<<20, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(hold); i += 4096 {
		hold[i] = 1
	}
	_, high, err := process.Usage(os.Getpid())
	if err := errors.Join(err, syscall.Munmap(hold), process.ResetPeak(os.Getpid())); err != nil {
		t.Fatal(err)
	}
	if _, low, err := process.Usage(os.Getpid()); err != nil || high < 256 || low > high-200 {
		t.Errorf("%d MiB, then %d, %v", high, low, err)
	}
}
