package process

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// clockTicks is how many of the kernel's ticks make a second: 100 on every Linux
// that Go runs on.
const clockTicks = 100

// Usage returns how many seconds of CPU the process has used, and how much memory
// it had in RAM at most, in MiB. Linux only.
func Usage(pid int) (cpu float64, peakMiB int, err error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, 0, err
	}
	// The name, in parentheses, may have anything in it.
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	for _, i := range []int{11, 12} { // utime and stime, fields 14 and 15 of the line
		ticks, err := strconv.Atoi(fields[i])
		if err != nil {
			return 0, 0, fmt.Errorf("/proc/%d/stat: %w", pid, err)
		}
		cpu += float64(ticks) / clockTicks
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, 0, err
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kib, err := strconv.Atoi(strings.Fields(rest)[0])
			if err != nil {
				return 0, 0, fmt.Errorf("/proc/%d/status: %w", pid, err)
			}
			return cpu, kib / 1024, nil
		}
	}
	return 0, 0, fmt.Errorf("/proc/%d/status: no VmHWM", pid)
}

// ResetPeak makes Usage count the peak from now on.
func ResetPeak(pid int) error {
	return os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte("5"), 0)
}
