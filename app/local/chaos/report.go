package chaos

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"reflect"
	"strconv"
	"strings"
	"syscall"
	"time"

	"allregions/app/local/stack"
)

// Report is what a run has shown.
type Report struct {
	Seed    uint64
	Length  time.Duration
	Settled time.Duration // from the end of the last fault until everything was finished

	Pushes     map[string]int // by kind
	Answers    map[string]int // to posts, by status, or why there was none: nobody is there, or he is killed or frozen
	Refused    string         // the share of webhooks that had a 503
	Refusals   map[string]int // webhooks that had a 503, by reason
	Outcomes   map[string]int // notifications by status
	Faults     map[string]int // by kind
	StoreHits  map[string]int // requests of the store that were hit, by trouble, and the late writes among them
	TargetHits map[string]int // attempts at the target that were hit, by trouble
	Restarts   map[string]int // processes that ended by themselves, by name

	Swept     int // events that came from ACR's log
	Published int // messages on the topic
	Reminded  int // outcomes that a reminder brought about

	// FalseTimeouts are notifications that timed out although every region had its
	// 2xx before the deadline; Unexplained are those of them that no fault explains.
	FalseTimeouts, Unexplained int

	Violations []Violation
	Dir        string // with the logs and the record, if they are kept
}

// newReport returns what the record alone shows.
func newReport(r Record) *Report {
	report := &Report{Answers: map[string]int{}, Outcomes: map[string]int{}, Published: len(r.Events)}
	for _, p := range r.Posts {
		if p.Status > 0 {
			p.Unanswered = strconv.Itoa(p.Status)
		}
		report.Answers[p.Unanswered]++
	}
	report.Refused = fmt.Sprintf("%.1f %%", 100*float64(report.Answers["503"])/float64(max(1, len(r.Posts))))
	for _, st := range r.Statuses {
		report.Outcomes[st.Status]++
		for _, region := range st.Regions {
			if region.Via == "event-log" {
				report.Swept++
			}
		}
	}
	all, calm := r.FalseTimeouts()
	report.FalseTimeouts, report.Unexplained = len(all), len(calm)
	return report
}

// readLogs counts in the services' logs the webhooks that had a 503, and the outcomes
// that a reminder decided. Those that it only published are not logged.
func (r *run) readLogs(report *Report) error {
	report.Refusals = map[string]int{}
	for i := range r.Replicas {
		data, err := os.ReadFile(r.LogPath(r.Name(stack.ServiceProcess, i)))
		if err != nil {
			return fmt.Errorf("read the services' logs: %w", err)
		}
		for line := range bytes.Lines(data) {
			var l struct {
				Msg, Decision, Path, Err string
				Reminder                 bool
			}
			switch err := json.Unmarshal(line, &l); {
			case err != nil: // not a line of ours
			case l.Msg == "cannot answer" && strings.HasPrefix(l.Path, "/webhooks/"):
				report.Refusals[refusal(l.Err)]++
			case l.Msg == "decided" && l.Reminder && strings.Contains(l.Decision, "timedOut"):
				report.Reminded++
			}
		}
	}
	return nil
}

// unanswered names the reason why a webhook had no answer.
func unanswered(err error) string {
	switch {
	case err == nil:
		return ""
	case errors.Is(err, context.DeadlineExceeded):
		return "no answer in time"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "nobody listens"
	}
	return "connection lost"
}

// refusal names the reason of a 503 in one of a few ways. What the queue says
// decides: an event is refused only when that fails, too.
func refusal(err string) string {
	if _, queue, ok := strings.Cut(err, "queue: "); ok {
		err = queue
	}
	switch {
	case strings.Contains(err, "no other replica"):
		return "sidecar away, and no other replica"
	case strings.Contains(err, "redis streams: "):
		return "broker away"
	case strings.Contains(err, "connection refused"), strings.Contains(err, "code = Unavailable"):
		return "sidecar away"
	case strings.Contains(err, "DeadlineExceeded"), strings.Contains(err, "deadline exceeded"):
		return "broker silent"
	case strings.Contains(err, "expected regions: "):
		return "regions not known yet"
	}
	return "other: " + err[:min(len(err), 100)]
}

// String is the report for people: a line for each field.
func (r *Report) String() string {
	var b strings.Builder
	for field, value := range reflect.ValueOf(*r).Fields() {
		fmt.Fprintf(&b, "%-13s %v\n", field.Name, value)
	}
	return b.String()
}
