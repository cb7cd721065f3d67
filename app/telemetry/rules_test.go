package telemetry

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

func file(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// The rules are valid, and fire when they must and not when all is well.
func TestRules(t *testing.T) {
	if _, err := exec.LookPath("promtool"); err != nil {
		t.Skip("needs promtool, of Debian's package prometheus")
	}
	for _, args := range [][]string{{"check", "rules", "rules.yaml"}, {"test", "rules", "rules.test.yaml"}} {
		if out, err := exec.CommandContext(t.Context(), "promtool", args...).CombinedOutput(); err != nil {
			t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
}

// Every rule is tested both ways, and leads to a row of "When things fail".
func TestRunbooks(t *testing.T) {
	rules, tests, faults := file(t, "rules.yaml"), file(t, "rules.test.yaml"), file(t, filepath.Join("..", "README.md"))
	alerts := strings.Split(rules, "      - alert: ")[1:]
	if len(alerts) < 10 {
		t.Fatalf("%d alerts", len(alerts))
	}
	row := regexp.MustCompile(`runbook_url: https://github\.com/OWNER/allregions/blob/main/app/README\.md#when-things-fail:~:text=([\w%]+)\n`)
	for _, alert := range alerts {
		name, _, _ := strings.Cut(alert, "\n")
		m := row.FindStringSubmatch(alert)
		if m == nil || !strings.Contains(faults, "\n| `"+strings.ReplaceAll(m[1], "%2D", "-")+"` |") {
			t.Errorf("%s leads to no row: %q", name, m)
		}
		if !strings.Contains(tests, "- alertname: "+name+"\n") || !strings.Contains(tests, "{alertname: "+name+", ") {
			t.Errorf("%s is not tested both ways", name)
		}
	}
}

// Rules and dashboard ask for metrics that there are, by labels that they have.
func TestQueries(t *testing.T) {
	tel, _ := begin(t, false)
	story(tel.Metrics)
	text := page(tel)
	var board struct {
		Panels []struct {
			ID      int
			Title   string
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal([]byte(file(t, "dashboard.json")), &board); err != nil || len(board.Panels) < 10 {
		t.Fatalf("%d panels, %v", len(board.Panels), err)
	}
	queries := file(t, "rules.yaml")
	for _, panel := range board.Panels {
		for _, target := range panel.Targets {
			queries += "\n" + target.Expr
		}
	}
	var asked []string
	for _, m := range regexp.MustCompile(`\b(allregions_\w+)(?:\{([^}]*)\})?`).FindAllStringSubmatch(queries, -1) {
		name := m[1]
		asked = append(asked, strings.TrimSuffix(name, "_bucket"))
		if !strings.Contains(text, "\n"+name+"{") && !strings.Contains(text, "\n"+name+" ") {
			t.Errorf("there is no %s", name)
			continue
		}
		for _, label := range regexp.MustCompile(`(\w+)(?:=~|!=|=)"`).FindAllStringSubmatch(m[2], -1) {
			if !strings.Contains(labelsOf(text, name), label[1]) {
				t.Errorf("%s has the labels %s, not %s", name, labelsOf(text, name), label[1])
			}
		}
	}
	for _, m := range regexp.MustCompile(`(?m)^# TYPE (allregions_\w+) `).FindAllStringSubmatch(text, -1) {
		if !slices.Contains(asked, m[1]) {
			t.Errorf("neither a rule nor the dashboard has %s", m[1])
		}
	}
}
