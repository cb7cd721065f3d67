package repository

import (
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode"
)

// The front door fits a few screens, draws the flow, and leads to every other page.
func TestFrontDoor(t *testing.T) {
	const most = 200
	front := read(t, "README.md")
	if n := strings.Count(front, "\n"); n > most {
		t.Errorf("README.md has %d lines, want at most %d", n, most)
	}
	if !strings.Contains(front, "\n```mermaid\nflowchart ") {
		t.Error("README.md has no diagram that GitHub draws")
	}
	var linked []string
	for _, row := range rowsOf(t, "README.md", "## Documentation") {
		linked = append(linked, submatches(`\]\(([^)]*\.md)\)`, row[0])...)
	}
	slices.Sort(linked)
	want := slices.DeleteFunc(filesIn(t, ".", ".md"), func(page string) bool { return page == "README.md" })
	slices.Sort(want)
	if !slices.Equal(linked, want) {
		t.Errorf("README.md links\n%q, want\n%q", linked, want)
	}
}

// withoutCode is a page without code blocks, and perhaps without code spans.
func withoutCode(text string, spans bool) string {
	text = regexp.MustCompile("(?ms)^```.*?^```$").ReplaceAllString(text, "")
	if spans {
		text = regexp.MustCompile("`[^`\n]*`").ReplaceAllString(text, "")
	}
	return text
}

// anchors are the names under which GitHub links a page's headings.
func anchors(text string) []string {
	var names []string
	for _, heading := range submatches(`(?m)^#+ (.*)$`, withoutCode(text, false)) {
		names = append(names, strings.Map(func(r rune) rune {
			switch {
			case r == ' ':
				return '-'
			case r == '-' || r == '_' || unicode.IsLetter(r) || unicode.IsDigit(r):
				return unicode.ToLower(r)
			}
			return -1
		}, heading))
	}
	return names
}

// Every link to a file of the repository, and to a heading, leads there.
func TestLinks(t *testing.T) {
	for _, page := range filesIn(t, ".", ".md") {
		t.Run(page, func(t *testing.T) {
			for _, link := range submatches(`\]\(([^)\s]+)\)`, withoutCode(read(t, page), true)) {
				if regexp.MustCompile(`^https://`).MatchString(link) {
					continue
				}
				file, anchor, hasAnchor := strings.Cut(link, "#")
				target := path.Join(path.Dir(page), file)
				if file == "" {
					target = page
				}
				if _, err := os.Stat(filepath.Join(root, target)); err != nil || strings.HasPrefix(target, "..") {
					t.Errorf("the link %s leads to no file of the repository: %v", link, err)
					continue
				}
				if hasAnchor && !slices.Contains(anchors(read(t, target)), anchor) {
					t.Errorf("the link %s leads to none of the headings %q", link, anchors(read(t, target)))
				}
			}
		})
	}
}

func TestAnchors(t *testing.T) {
	page := "# HTTP and events\n```sh\n# no heading\n```\n## What it costs: at `rest`, 50 %\n"
	if got, want := anchors(page), []string{"http-and-events", "what-it-costs-at-rest-50-"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// The first change that CONTRIBUTING walks through begins with lines that are
// there, or, when a reader has made it, ends with such lines.
func TestFirstChange(t *testing.T) {
	var code strings.Builder
	for _, file := range filesIn(t, "app", ".go") {
		code.WriteString(read(t, file))
	}
	page := section(t, ".github/CONTRIBUTING.md", "## A first change, step by step")
	diffs := regexp.MustCompile("```diff\n-(.*)\n\\+(.*)\n```").FindAllStringSubmatch(page, -1)
	if len(diffs) != 2 {
		t.Errorf("got %d changed lines, want 2", len(diffs))
	}
	for _, diff := range diffs {
		before, after := strings.Count(code.String(), "\n"+diff[1]+"\n"), strings.Count(code.String(), "\n"+diff[2]+"\n")
		if before+after != 1 {
			t.Errorf("the code has %d lines %q and %d lines %q, want one of them once", before, diff[1], after, diff[2])
		}
	}
}

// CI runs what the README tells people to run.
func TestREADMECommands(t *testing.T) {
	readme, ci := read(t, "README.md"), read(t, ".ci/run")
	for _, command := range []string{"go run ./app/local demo", "go test -timeout 20m ./..."} {
		if !strings.Contains(readme, "\n"+command+"\n") || !strings.Contains(ci, "\n"+command+"\n") {
			t.Errorf("%q is not a line of both README.md and .ci/run", command)
		}
	}
}

// Every command of app/local that a page names is there, and app/local/README.md
// has every flag of up and load.
func TestLocalCommands(t *testing.T) {
	if testing.Short() {
		t.Skip("builds app/local")
	}
	program := filepath.Join(t.TempDir(), "local")
	build := exec.Command("go", "build", "-o", program, "./app/local")
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	usage, err := exec.Command(program, "help").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, usage)
	}
	commands := submatches(`(?m)^  (\w+)\b`, string(usage))
	for _, page := range filesIn(t, ".", ".md") {
		for _, command := range submatches(`go run \./app/local ([a-z]\w*)`, read(t, page)) {
			if !slices.Contains(commands, command) {
				t.Errorf("%s names the command %s; there are %q", page, command, commands)
			}
		}
	}
	for _, command := range []string{"up", "load"} {
		help, err := exec.Command(program, command, "-h").CombinedOutput()
		if err != nil {
			t.Fatalf("%s -h: %v\n%s", command, err, help)
		}
		want := submatches(`(?m)^  (-\w+)`, string(help))
		got := submatches("`(-[a-z]+)[ `]", section(t, "app/local/README.md", "## "+command))
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("%s: app/local/README.md has the flags %q, want %q", command, got, want)
		}
	}
}

// faults says which tests show a row of "When things fail" in app/README.md, by the
// row's name.
var faults = map[string][]string{
	"region-missing":              {"TestFlow", "TestTimeoutThenRecovery", "TestLateBeforeDue"},
	"webhook-lost":                {"TestEventLogIsAskedBeforeTheTimeout", "TestWhenTheEventLogIsAsked", "TestEventLog"},
	"push-unseen":                 {"TestSweep", "TestSweepFails", "TestHowFarALogIsRead", "TestALogChangesWhileItIsRead", "TestFromTheEventLog"},
	"old-push-swept":              {"TestSuperseded", "TestOrderOfASweep"},
	"ids-disagree":                {"TestDoIDsAgree", "TestDisagreementIsToldOnce", "TestOtherNotificationOfTheImage"},
	"webhook-twice":               {"TestFlow", "TestDuplicateWritesNothing", "TestHistories"},
	"bad-request":                 {"TestRefusalWritesNothing", "TestPayloadIsRefused", "TestEverythingNeedsAKey", "TestGuessingKeys"},
	"actor-unreachable":           {"TestQueue", "TestQueueAndBack", "TestEveryWriteFailsWithAQueue", "TestEventsThatHadToWait", "TestTheQueueKeepsWhatTheRecordDoesNotShow"},
	"actor-and-queue-unreachable": {"TestBothWaysFail", "TestBrokerAwayForAMoment", "TestImageStoreAway"},
	"broker-or-index-down":        {"TestBrokerDown", "TestDeafAfterTheSave", "TestOutcomeAdvancesTheReminder", "TestStateStoreAway", "TestIndexIsNotSettled", "TestSendUntilItIsSaved", "TestCatalogSettlesBoth"},
	"queue-holds":                 {"TestQueueHolds", "TestJudge", "TestTriesOfADay", "TestGiveUp", "TestRedelivery"},
	"dead-letter":                 {"TestQueue", "TestDeadLetters", "TestEveryWriteOfADeadLetterFails", "TestNewRegionInTheQueue", "TestDeadLettersAreCounted"},
	"killed-between-writes":       {"TestFakes", "TestConformance"},
	"killed-while-others-run":     {"TestChaos", "TestConformance"},
	"scheduler-late":              {"TestARemovalCannotTakeAnotherTurnsReminder", "TestARemovalCannotTakeAnotherStartsReminder", "TestAReminderWaitsForItsState", "TestFakes"},
	"reminder-lost":               {"TestReminderIsLost", "TestSecondNet", "TestLook"},
	"two-versions":                {"TestTwoVersions", "TestUnknownFieldsSurvive", "TestEveryFormatIsRead", "TestReminderIsAdopted", "TestWindowFormat"},
	"service-gone-during-call":    {"TestAMessageIsDoneOnlyWhenItIsTaken", "TestTake", "TestACallWithoutAReplyHasFailed"},
	"everything-killed":           {"TestSurvivesKill"},
	"deadline-while-down":         {"TestDeadlinePassesWhileDown", "TestReadsDecideNothing"},
	"clock-jump":                  {"TestJumpingClocks"},
	"arm-away":                    {"TestOneAsksForAll", "TestBeforeThereIsARecord"},
	"replica-hidden":              {"TestLearn", "TestObserve", "TestReplicasOfATimeout"},
	"holder-killed":               {"TestTheHolderIsKilled", "TestTheWorkOnTheRegistrySurvives"},
	"registry-reminder-lost":      {"TestLostReminderOfTheRegistry", "TestAWorkerRepairsItsReminder"},
	"webhook-unreachable":         {"TestPings", "TestRetries"},
	"webhook-changed":             {"TestWebhooksAreMadeAndMended", "TestPlan"},
	"webhook-rights-missing":      {"TestWebhooksFail", "TestRetries"},
	"sidecar-away":                {"TestTheSidecarIsAway", "TestServe", "TestReadyz", "TestWhatIsHandedOver", "TestHandOverEnds"},
	"replica-stops":               {"TestDrain", "TestRollingDeploy", "TestWaitEndsWithTheReplica"},
	"target-fails":                {"TestTargets", "TestVerdicts", "TestEveryWriteOfADeliveryFails"},
	"filter-fails":                {"TestAFilterFails", "TestFilterFailsAtRunTime", "TestTargets"},
	"collector-away":              {"TestCollectorAway", "TestComplaints"},
	"hostile-callers":             {"TestSlowCallers", "TestTenThousandConnections", "TestGuessingKeys", "TestSmuggling"},
}

func TestREADMEFaults(t *testing.T) {
	var rows []string
	for _, row := range rowsOf(t, "app/README.md", "## When things fail") {
		rows = append(rows, strings.Trim(row[0], "`"))
	}
	slices.Sort(rows)
	if want := slices.Sorted(maps.Keys(faults)); !slices.Equal(rows, want) {
		t.Errorf("got %q, want %q", rows, want)
	}
	var tests strings.Builder
	for _, file := range filesIn(t, "app", "_test.go") {
		tests.WriteString(read(t, file))
	}
	for row, names := range faults {
		for _, name := range names {
			if !strings.Contains(tests.String(), "\nfunc "+name+"(t *testing.T) {") {
				t.Errorf("%s: there is no %s", row, name)
			}
		}
	}
}

// The lines of the log that "When things fail" quotes are messages in the code.
func TestREADMELogLines(t *testing.T) {
	var code strings.Builder
	for _, file := range filesIn(t, "app", ".go") {
		if !strings.HasSuffix(file, "_test.go") && !strings.HasPrefix(file, "app/local/") {
			code.WriteString(read(t, file))
		}
	}
	quoted := 0
	for _, row := range rowsOf(t, "app/README.md", "## When things fail") {
		for _, lines := range submatches("\\blines? ((?:`[^`]+`(?:, )?)+)", row[len(row)-1]) {
			for _, line := range submatches("`([^`]+)`", lines) {
				quoted++
				if !strings.Contains(code.String(), `"`+line+`"`) {
					t.Errorf("%s: the service logs no %q", row[0], line)
				}
			}
		}
	}
	if quoted < 15 {
		t.Errorf("the table quotes %d lines, want at least 15: is it read?", quoted)
	}
}
