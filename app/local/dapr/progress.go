package dapr

import (
	"fmt"
	"os"
	"time"
)

// Progress shows steps that take long, one line each. Of volatile lines, which say how
// far a step is, most are dropped.
type Progress func(line string, volatile bool)

// ShowProgress writes to f: of the volatile lines, one in 15 s.
func ShowProgress(f *os.File) Progress {
	last := time.Now()
	return func(line string, volatile bool) {
		if volatile {
			if time.Since(last) < 15*time.Second {
				return
			}
			last = time.Now()
		}
		fmt.Fprintln(f, line)
	}
}

// TestProgress shows progress to somebody who waits for `go test`, which keeps
// what a test writes until it has ended.
func TestProgress() Progress {
	tty, err := os.OpenFile("/dev/tty", os.O_WRONLY, 0)
	if err != nil {
		tty = os.Stderr
	}
	return ShowProgress(tty)
}
