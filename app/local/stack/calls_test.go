package stack

import (
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"allregions/app/local/acr"
)

// counts are the calls of a sidecar, as its own metrics tell them.
type counts map[string]int

// Each of these metrics counts calls by the labels in the expression.
var counted = []*regexp.Regexp{
	regexp.MustCompile(`^dapr_grpc_io_server_completed_rpcs\{.*grpc_server_method="/dapr.proto.runtime.v1.Dapr/(\w+)"`),
	regexp.MustCompile(`^dapr_component_state_count\{.*component="(\w+)",.*operation="(\w+)"`),
	regexp.MustCompile(`^dapr_component_(pubsub)_(egress)_count\{`),
}

func scrape(t *testing.T, s *Stack) counts {
	t.Helper()
	_, body := request(t, http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d/metrics", s.MetricsPort), "")
	c := counts{}
	for line := range strings.Lines(string(body)) {
		for _, re := range counted {
			if m := re.FindStringSubmatch(line); m != nil {
				value, err := strconv.ParseFloat(strings.TrimSpace(line[strings.LastIndexByte(line, ' ')+1:]), 64)
				if err != nil {
					t.Fatalf("%s: %v", line, err)
				}
				c[strings.Join(m[1:], " ")] += int(value)
			}
		}
	}
	return c
}

// since is how many calls of each kind there were from before to c.
func (c counts) since(before counts) counts {
	d := maps.Clone(c)
	for name, n := range before {
		d[name] -= n
	}
	maps.DeleteFunc(d, func(_ string, n int) bool { return n == 0 })
	return d
}

// states is how many calls of state stores the service made.
func (c counts) states() int {
	return c["GetState"] + c["GetBulkState"] + c["SaveState"] + c["ExecuteStateTransaction"]
}

// The README says how many calls of Dapr a notification costs; so does Dapr.
func TestCalls(t *testing.T) {
	if raceEnabled {
		t.Skip("the calls are the same")
	}
	readme, err := os.ReadFile(filepath.Join("..", "..", "..", "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(readme), "\n## Speed\n")
	table, _, _ = strings.Cut(table, "\n## ")
	rows := regexp.MustCompile("(?m)^\\| .* \\| `([\\w ]+)` \\| (\\d*)(R?)(?: ?\\+ ?(\\d))? \\|$").FindAllStringSubmatch(table, -1)
	if len(rows) < 7 {
		t.Fatalf("the README's table has %d rows that can be read", len(rows))
	}
	for _, tt := range []struct {
		regions string
		cosmos  bool
	}{{"westeurope,eastus", false}, {"westeurope,eastus,japaneast,centralindia,uksouth", false}, {"westeurope,eastus,japaneast", true}} {
		t.Run(fmt.Sprint(tt), func(t *testing.T) {
			t.Parallel()
			regions := strings.Split(tt.regions, ",")
			s, _ := start(t, Options{Regions: regions, Cosmos: tt.cosmos})
			registry := acr.Registry{LoginServer: "contoso.azurecr.io", ServiceURL: s.URL, Key: s.Key}
			push := func() {
				p := acr.NewPush("shop/cart", "v1")
				p.Tag = "v" + p.ID // a new one: a tag that moves costs a read and a second write
				for _, r := range regions {
					if status, body, err := registry.Fire(t.Context(), p, r); err != nil || status != http.StatusAccepted {
						t.Fatalf("%s: %d %s, %v", r, status, body, err)
					}
				}
			}
			push() // the first one pays for what is done once
			var before counts
			eventually(t, soon, "the last call is made, after the answer", func() bool {
				before = scrape(t, s)
				return before["UnregisterActorReminder"] > 0
			})
			push()
			want := counts{}
			for _, row := range rows {
				n, _ := strconv.Atoi(row[2])
				if row[3] == "R" {
					n = max(n, 1) * len(regions)
				}
				more, _ := strconv.Atoi(row[4])
				want[row[1]] = n + more
			}
			var got counts
			// Dapr counts a call after its answer.
			for deadline := time.Now().Add(soon); !maps.Equal(got, want); time.Sleep(20 * time.Millisecond) {
				got = scrape(t, s).since(before)
				if time.Now().After(deadline) {
					t.Fatalf("calls:\n  Dapr %v\nREADME %v", got, want)
				}
			}
		})
	}
}

// While a notification is open for long, its reminder rests until the deadline.
func TestReminderRests(t *testing.T) {
	t.Parallel()
	const timeout = 62 * time.Second // the first firing comes 60 s before it ends
	sub := newSubscriber()
	s, r := start(t, Options{Timeout: timeout, Events: sub.take})
	st := fire(t, r, acr.NewPush("shop/cart", "v1"), "westeurope", http.StatusAccepted)
	var due string
	eventually(t, soon, "the reminder rests until the deadline", func() bool {
		due = reminder(t, s, st.ID)
		at, err := time.Parse(time.RFC3339, due)
		return err == nil && at.Sub(st.Deadline).Abs() < time.Second
	})
	if os.Getenv("WAIT_FOR_DEADLINES") != "" { // it is another minute
		sub.wait(t, st.ID, 1, timeout+soon)
	}
}
