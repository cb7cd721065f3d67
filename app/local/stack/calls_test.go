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
	_, body := request(t, http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d/metrics", s.Replicas[0].Sidecar.MetricsPort), "")
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

// apart counts writes of the index that went to SQLite together, a digest's and a
// tag's, as those that they are.
func (c counts) apart() counts {
	n := c["statestore transaction"]
	c["SaveState"] += 2 * n
	c["statestore set"] += 2 * n
	c["ExecuteStateTransaction"] -= n
	c["statestore transaction"] -= n
	maps.DeleteFunc(c, func(_ string, n int) bool { return n == 0 })
	return c
}

// states is how many calls of state stores the service made.
func (c counts) states() int {
	return c["GetState"] + c["GetBulkState"] + c["SaveState"] + c["ExecuteStateTransaction"]
}

// cost is what the README says about a kind of call, for each way in which a
// notification may go.
type cost struct {
	call  string
	times [2]func(regions int) int
}

// costs are the rows of the README's table.
func costs(t *testing.T) (rows []cost) {
	t.Helper()
	readme, err := os.ReadFile(filepath.Join("..", "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(readme), "\n### Speed\n")
	table, _, _ = strings.Cut(table, "\n## ")
	for _, m := range regexp.MustCompile("(?m)^\\| [^|]* \\| `([\\w ]+)` \\| ([^|]*) \\| ([^|]*) \\|$").FindAllStringSubmatch(table, -1) {
		rows = append(rows, cost{m[1], [2]func(int) int{formula(t, m[2]), formula(t, m[3])}})
	}
	if len(rows) < 9 {
		t.Fatalf("the README's table has %d rows that can be read", len(rows))
	}
	return rows
}

// formula is a number of calls, such as 2, R, or R + 1.
func formula(t *testing.T, s string) func(regions int) int {
	t.Helper()
	m := regexp.MustCompile(`^(?:(\d+)|R(?: ([+−]) (\d+))?)$`).FindStringSubmatch(s)
	if m == nil {
		t.Fatalf("the README's table has %q", s)
	}
	fixed, _ := strconv.Atoi(m[1])
	more, _ := strconv.Atoi(m[3])
	return func(regions int) int {
		switch {
		case m[1] != "":
			return fixed
		case m[2] == "−":
			return regions - more
		}
		return regions + more
	}
}

// The README says how many calls of Dapr a notification costs; so does Dapr.
func TestCalls(t *testing.T) {
	rows := costs(t)
	const complete, timedOut = 0, 1
	for _, tt := range []struct {
		name    string
		regions int
		way     int
		o       Options
	}{
		{"SQLite", 2, complete, Options{}},
		{"SQLite", 5, complete, Options{}},
		{"Cosmos", 3, complete, Options{Cosmos: true}},
		{"SQLite, timed out", 3, timedOut, Options{Timeout: time.Second}},
		{"Cosmos, timed out", 2, timedOut, Options{Timeout: time.Second, Cosmos: true}},
	} {
		t.Run(fmt.Sprintf("%s, %d regions", tt.name, tt.regions), func(t *testing.T) {
			t.Parallel()
			tt.o.Regions = []string{"westeurope", "eastus", "japaneast", "centralindia", "uksouth"}[:tt.regions]
			s, r := start(t, tt.o)
			push := func() {
				p := acr.NewPush("shop/cart", "v1")
				p.Tag = "v" + p.ID                             // a new one: a tag that moves costs a read and a second write
				for _, region := range tt.o.Regions[tt.way:] { // who times out lacks one
					fire(t, r, p, region, http.StatusAccepted)
				}
			}
			eventually(t, 2*soon, "all is in the list of the same ten minutes", func() bool {
				now := time.Now()
				return now.Truncate(10 * time.Minute).Equal(now.Add(soon).Truncate(10 * time.Minute))
			})
			push() // the first one pays for what is done once
			var before counts
			eventually(t, soon, "the last call is made, after the answer", func() bool {
				before = scrape(t, s)
				return before["UnregisterActorReminder"] > 0
			})
			want := counts{}
			for _, row := range rows {
				want[row.call] = row.times[tt.way](tt.regions)
			}
			var got counts
			for range 3 { // a slow call of the list joins what would be two
				push()
				// Dapr counts a call after its answer.
				for deadline := time.Now().Add(soon / 3); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
					if got = scrape(t, s).since(before).apart(); maps.Equal(got, want) {
						return
					}
				}
				before = scrape(t, s)
			}
			t.Fatalf("calls:\n  Dapr %v\nREADME %v", got, want)
		})
	}
}
