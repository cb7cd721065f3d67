package dapr

import (
	"fmt"
	"os"
	"time"
)

// Progress is told of steps that take long, one line each. A volatile line may
// be overwritten by the next one, or dropped.
type Progress func(line string, volatile bool)

// IsTerminal tells whether f is a terminal that understands cursor movements.
func IsTerminal(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0 && os.Getenv("TERM") != "dumb"
}

// ShowProgress writes to f: each volatile line in place of the last on a
// terminal, and one in 15 s elsewhere.
func ShowProgress(f *os.File) Progress {
	const clear = "\r\x1b[K"
	terminal, overwrite, last := IsTerminal(f), false, time.Now()
	return func(line string, volatile bool) {
		switch {
		case volatile && terminal:
			fmt.Fprint(f, clear, line)
			overwrite = true
			return
		case volatile && time.Since(last) < 15*time.Second:
			return
		case volatile:
			last = time.Now()
		}
		if overwrite {
			fmt.Fprint(f, clear)
			overwrite = false
		}
		fmt.Fprintln(f, line)
	}
}

// TestProgress shows progress to somebody who waits for `go test`, which keeps
// what a test writes until it has ended.
func TestProgress() Progress {
	if tty, err := os.OpenFile("/dev/tty", os.O_WRONLY, 0); err == nil {
		return ShowProgress(tty)
	}
	return ShowProgress(os.Stderr)
}
