package process

import (
	"errors"
	"fmt"
	"os"

	"github.com/prometheus/procfs"
)

// Usage returns how many seconds of CPU the process has used, and how much memory
// it had in RAM at most, in MiB. Linux only.
func Usage(pid int) (cpu float64, peakMiB int, err error) {
	p, err := procfs.NewProc(pid)
	if err != nil {
		return 0, 0, err
	}
	stat, err := p.Stat()
	status, err2 := p.NewStatus()
	return stat.CPUTime(), int(status.VmHWM >> 20), errors.Join(err, err2)
}

// ResetPeak makes Usage count the peak from now on.
func ResetPeak(pid int) error {
	return os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte("5"), 0)
}
