package load

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"allregions/app/local/stack"
)

func TestPlan(t *testing.T) {
	regions := []string{"a", "b", "c"}
	for mode, want := range map[string]string{
		sequential: "1a1b1c 2a2b2c",
		retag:      "1a1b1c 2a2b2c",
		together:   "1a 1b 1c 2a 2b 2c",
	} {
		t.Run(mode, func(t *testing.T) {
			trains, err := plan(2, regions, mode)
			if err != nil {
				t.Fatal(err)
			}
			numbers, images := map[string]string{}, map[string]bool{}
			var got []string
			for _, train := range trains {
				var one string
				for _, w := range train {
					images[w.push.Repository+":"+w.push.Tag] = true
					if numbers[w.push.ID] == "" {
						numbers[w.push.ID] = string(rune('1' + len(numbers)))
					}
					one += numbers[w.push.ID] + w.region
				}
				got = append(got, one)
			}
			if strings.Join(got, " ") != want {
				t.Errorf("got %q, want %q", got, want)
			}
			if (len(images) == 1) != (mode == retag) {
				t.Errorf("got the images %v", images)
			}
		})
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

// fake is a system that answers by a function of the request's method and its number.
func fake(t *testing.T, answer func(method string, n int) int) *system {
	t.Helper()
	var mu sync.Mutex
	seen := map[string]int{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		seen[r.Method]++
		w.WriteHeader(answer(r.Method, seen[r.Method]))
	}))
	t.Cleanup(server.Close)
	s, err := newSystem("service", Options{Notifications: 10, Mode: sequential, URL: server.URL + "/", Stack: stack.Options{Regions: []string{"a", "b"}}})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestReport(t *testing.T) {
	s := fake(t, func(method string, n int) int {
		switch {
		case method == http.MethodGet && n == 1:
			return http.StatusConflict
		case method == http.MethodPost && n == 1:
			return http.StatusServiceUnavailable
		case method == http.MethodPost:
			return http.StatusAccepted
		}
		return http.StatusOK
	})
	for turn := range 2 {
		if err := s.fire(t.Context(), part(s.trains, turn, 2), 4); err != nil {
			t.Fatal(err)
		}
	}
	s.used = []Usage{{Name: "daprd", PeakMiB: 40, cpu: 2}}
	r, err := s.report(t.Context(), Options{Notifications: 10, Concurrency: 4, Mode: sequential})
	if err != nil {
		t.Fatal(err)
	}
	if r.Webhooks != 20 || r.Answers["503"] != 1 || r.Answers["202"] != 19 || r.Joined != 9 || r.PerSecond <= 0 || r.P50 <= 0 || r.Max < r.P99 || r.Processes[0].CPUPer1000 != 100 {
		t.Errorf("got %+v", r)
	}
	var out bytes.Buffer
	r.Print(&out)
	for _, want := range []string{"(9 of 10 joined)", "map[202:19 503:1]", "daprd          100.00 CPU seconds per 1,000 webhooks, 40 MiB"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, &out)
		}
	}
	s.registry.ServiceURL = "http://127.0.0.1:1"
	if _, err := s.report(t.Context(), Options{Concurrency: 1}); err == nil {
		t.Error("nobody answers: no error")
	}
}

func TestOptions(t *testing.T) {
	for want, o := range map[string]Options{
		"at least 1": {Concurrency: 1},
		"-mode: ":    {Notifications: 1, Concurrency: 1, Mode: "random"},
	} {
		if _, err := Run(t.Context(), o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}
