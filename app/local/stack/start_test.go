package stack

import (
	"syscall"
	"testing"
	"time"
)

// From the start of the process to its readiness, beside a sidecar that runs
// already: what a new replica's first webhook may have to wait for.
func BenchmarkColdStart(b *testing.B) {
	if err := PrepareTest(b.Context(), func() (time.Time, bool) { return time.Time{}, false }); err != nil {
		b.Fatal(err)
	}
	s, err := Start(b.Context(), Options{Regions: regions, Key: "test-key"})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Stop()
	if err := s.Process(ServiceProcess).Signal(syscall.SIGKILL); err != nil {
		b.Fatal(err)
	}
	<-s.Process(ServiceProcess).Done()
	for b.Loop() {
		cmd := s.service(s.Replicas[0])
		if err := cmd.Start(); err != nil {
			b.Fatal(err)
		}
		for deadline := time.Now().Add(soon); ready(s) != nil; time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				b.Fatal("it is never ready")
			}
		}
		b.StopTimer()
		cmd.Process.Kill()
		cmd.Wait()
		b.StartTimer()
	}
}
