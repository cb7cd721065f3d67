package load

import (
	"context"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"allregions/app/local/process"
	"allregions/app/local/stack"
)

// startBaseline starts the hand-written service of the directory baseline, which does
// the same without Dapr.
func startBaseline(tb testing.TB, o Options) *system {
	tb.Helper()
	s, err := newSystem("hand-written service without Dapr", o)
	if err != nil {
		tb.Fatal(err)
	}
	dir := tb.TempDir()
	program := filepath.Join(dir, "baseline")
	build := exec.Command("go", "test", "-c", "-o", program, ".")
	build.Dir = "baseline"
	if out, err := build.CombinedOutput(); err != nil {
		tb.Fatalf("%v: %s", err, out)
	}
	var port int
	if err := process.FreePorts(&port); err != nil {
		tb.Fatal(err)
	}
	group, err := process.NewGroup()
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(group.Kill)
	address := "127.0.0.1:" + strconv.Itoa(port)
	s.registry.ServiceURL, s.registry.Key = "http://"+address, "baseline"
	p, err := group.Start("baseline", exec.Command(program, address, filepath.Join(dir, "baseline.db"), strings.Join(o.Stack.Regions, ","), s.registry.Key))
	if err != nil {
		tb.Fatal(err)
	}
	s.processes = []*process.Process{p}
	ctx, cancel := context.WithTimeout(tb.Context(), 10*time.Second)
	defer cancel()
	if err := process.Until(ctx, "the baseline is not ready", func() error {
		return stack.Get(ctx, s.registry.ServiceURL+"/readyz", "", nil)
	}); err != nil {
		tb.Fatal(err)
	}
	return s
}

// The service that ours is compared with does the same join.
func TestBaseline(t *testing.T) {
	if testing.Short() {
		t.Skip("compiles SQLite")
	}
	o := Options{Notifications: 20, Concurrency: 8, Mode: sequential, Stack: stack.Options{Regions: threeRegions}}
	reports, err := compare(t.Context(), o, startBaseline(t, o))
	if err != nil {
		t.Fatal(err)
	}
	if r := reports[0]; r.Joined != 20 || r.Answers["202"] != 60 || runtime.GOOS == "linux" && (len(r.Processes) != 1 || r.Processes[0].PeakMiB < 1) {
		t.Errorf("got %+v", r)
	}
}
