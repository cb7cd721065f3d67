package chaos

import (
	"bytes"
	"log"
	"os"
	"testing"
	"time"

	"allregions/app/local/stack"
)

// testSeed keeps the test the same from one change to the next. Other seeds are
// for `go run ./app/local chaos`.
const testSeed = 20261127

// testChaos is how long the faults of the test go on.
const testChaos = time.Minute

// prepare skips the test where a cluster cannot be started, or is not to be.
func prepare(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("needs Dapr, and a minute")
	}
	if err := stack.FindRedis(); err != nil {
		t.Skip(err)
	}
	if err := stack.PrepareTest(t.Context(), t.Deadline); err != nil {
		t.Fatal(err)
	}
}

// startTest starts a cluster that ends with the test.
func startTest(t *testing.T, timeout time.Duration) *cluster {
	t.Helper()
	prepare(t)
	logger := log.New(t.Output(), "", log.Ltime)
	c, err := startCluster(t.Context(), t.TempDir(), Options{Seed: testSeed, Timeout: timeout, Regions: testAll}, logger)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.kill)
	return c
}

// linesOf counts the lines of a service's log with that message.
func linesOf(t *testing.T, path, msg string) int {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return bytes.Count(data, []byte(`"msg":"`+msg+`"`))
}

// eventually waits for a condition.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(readyTimeout); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", readyTimeout, what)
		}
	}
}

func total(counts map[string]int) (n int) {
	for _, c := range counts {
		n += c
	}
	return n
}

// A minute of chaos breaks no promise.
func TestChaos(t *testing.T) {
	prepare(t)
	report, err := Run(t.Context(), Options{
		Length: testChaos, Seed: testSeed, Timeout: 8 * time.Second, Regions: testAll,
		Log: t.Output(),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("\n%s", report)
	if n := len(report.Violations); n > 0 {
		t.Errorf("%d promises were broken; logs and record: %s", n, report.Dir)
	}

	// What never worked could not break a promise, and what never failed could
	// not either.
	promised := report.Answers["200"] + report.Answers["202"]
	if promised < total(report.Answers)/10 || promised == total(report.Answers) {
		t.Errorf("%d of %d webhooks were accepted", promised, total(report.Answers))
	}
	for _, outcome := range []string{"replicated", "timedOut"} {
		if report.Outcomes[outcome] == 0 {
			t.Errorf("no notification is %s", outcome)
		}
	}
	if report.Swept == 0 {
		t.Error("nothing came from ACR's log")
	}
	if report.Reminded == 0 {
		t.Error("no reminder decided anything")
	}
	for _, trouble := range []trouble{throttled, unavailable, slow, lost} {
		if report.StoreHits[string(trouble)] == 0 {
			t.Errorf("the store's trouble %q hit nothing", trouble)
		}
	}
	for _, fault := range []string{"SIGTERM service and daprd", "target " + string(targetSlow), "target " + string(targetDead)} {
		if report.Faults[fault] == 0 {
			t.Errorf("no %s", fault)
		}
	}
	if len(report.Faults) < 10 {
		t.Errorf("faults: %v", report.Faults)
	}
}
