package load

import (
	"context"
	"os"
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
	s := &system{name: "hand-written service without Dapr"}
	if err := s.prepare(o); err != nil {
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

var threeRegions = []string{"westeurope", "eastus", "japaneast"}

// The service and a hand-written one get the same webhooks, by turns.
func BenchmarkBaseline(b *testing.B) {
	if err := stack.PrepareTest(b.Context(), func() (time.Time, bool) { return time.Time{}, false }); err != nil {
		b.Fatal(err)
	}
	o := Options{Notifications: 2000, Concurrency: 64, Mode: sequential, Stack: stack.Options{Regions: threeRegions, Key: "k"}}
	for b.Loop() {
		ours := &system{name: "service"}
		if err := ours.prepare(o); err != nil {
			b.Fatal(err)
		}
		if err := ours.startStack(b.Context(), o); err != nil {
			b.Fatal(err)
		}
		reports, err := compare(b.Context(), o, []*system{ours, startBaseline(b, o)})
		ours.stop()
		if err != nil {
			b.Fatal(err)
		}
		Print(os.Stdout, reports)
		b.ReportMetric(reports[0].PerSecond, "webhooks/s")
		b.ReportMetric(reports[1].PerSecond, "baseline-webhooks/s")
	}
}

// The service that ours is compared with does the same join.
func TestBaseline(t *testing.T) {
	if testing.Short() {
		t.Skip("compiles SQLite")
	}
	o := Options{Notifications: 20, Concurrency: 8, Mode: duplicates, Stack: stack.Options{Regions: threeRegions}}
	reports, err := compare(t.Context(), o, []*system{startBaseline(t, o)})
	if err != nil {
		t.Fatal(err)
	}
	if r := reports[0]; r.Joined != 20 || r.Answers["202"] != 120 || runtime.GOOS == "linux" && (len(r.Processes) != 1 || r.Processes[0].PeakMiB < 1) {
		t.Errorf("got %+v", r)
	}
}
