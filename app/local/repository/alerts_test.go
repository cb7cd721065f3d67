package repository

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
)

// Azure's alerts look for lines that the service logs, and name rows of "When things
// fail"; there are none without an address.
func TestInfraAlerts(t *testing.T) {
	alerts := read(t, "infra/alerts.bicep")
	var code strings.Builder
	for _, file := range filesIn(t, "app", ".go") {
		if !strings.HasSuffix(file, "_test.go") && !strings.HasPrefix(file, "app/local/") {
			code.WriteString(read(t, file))
		}
	}
	var texts []string
	for _, query := range submatches(`(?m)^    query: '(.*)'$`, alerts) {
		texts = append(texts, submatches(`msg == "([^"]+)"`, query)...)
		for _, list := range submatches(`\bin \(([^)]*)\)`, query) {
			texts = append(texts, submatches(`"([^"]+)"`, list)...)
		}
	}
	if len(texts) < 10 {
		t.Errorf("the alerts look for %q", texts)
	}
	for _, text := range texts {
		if !strings.Contains(code.String(), `"`+text+`"`) {
			t.Errorf("the service logs no %q", text)
		}
	}
	for _, word := range []string{`Started`, `TimedOut`} { // in the text of a decision
		if value := oneOf(t, `(?m)^\t`+word+`\s+(?:Reason|Status)\s*= "(\w+)"`, read(t, "app/replication/replication.go")); !strings.Contains(alerts, `"`+value+`"`) {
			t.Errorf("no %q", value)
		}
	}
	var rows []string
	for _, row := range rowsOf(t, "app/README.md", "## When things fail") {
		rows = append(rows, strings.Trim(row[0], "`"))
	}
	named := submatches(`\$\{runbook\}: (.*)\.'`, alerts)
	if len(named) != 5 {
		t.Errorf("%d alerts name their rows, want 5", len(named))
	}
	for _, names := range named {
		for name := range strings.SplitSeq(names, ", ") {
			if !slices.Contains(rows, name) {
				t.Errorf("%s is no row", name)
			}
		}
	}

	for name, want := range map[string]int{"existing": 0, "everything": 6} {
		var snapshot struct {
			PredictedResources []struct {
				Type       string
				Properties struct {
					EmailReceivers []struct{ EmailAddress string }
				}
			}
		}
		if err := json.Unmarshal([]byte(read(t, "infra/test/"+name+".snapshot.json")), &snapshot); err != nil {
			t.Fatal(err)
		}
		got := 0
		for _, r := range snapshot.PredictedResources {
			if r.Type == "Microsoft.Insights/scheduledQueryRules" || r.Type == "Microsoft.Insights/actionGroups" {
				got++
			}
			for _, to := range r.Properties.EmailReceivers {
				if to.EmailAddress != "ops@example.com" {
					t.Errorf("mail to %q", to.EmailAddress)
				}
			}
		}
		if got != want {
			t.Errorf("%s: %d resources for alerts, want %d", name, got, want)
		}
	}
}
