package process

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A test that starts this program again, as a parent that ends in a certain way
// with a child running.
const parentEnv = "PROCESS_TEST_PARENT"

func TestMain(m *testing.M) {
	if end := os.Getenv(parentEnv); end != "" {
		parent(end)
	}
	os.Exit(m.Run())
}

func parent(end string) {
	g, err := NewGroup()
	if err != nil {
		panic(err)
	}
	// A child with a child of its own, deaf to SIGTERM.
	p, err := g.Start("child", exec.Command("sh", "-c", `trap "" TERM INT HUP; sleep 1000 & echo $!; wait`))
	if err != nil {
		panic(err)
	}
	old, err := g.Start("old", exec.Command("true"))
	if err != nil {
		panic(err)
	}
	<-old.Done()
	fmt.Println(p.PID)
	switch end {
	case "exit":
		os.Exit(3)
	case "panic":
		panic("the end")
	case "stop":
		g.Stop(50 * time.Millisecond)
		os.Exit(0)
	}
	time.Sleep(time.Minute) // to be killed
}

// However the parent ends, its child and its child's child end, too.
func TestNothingIsLeft(t *testing.T) {
	if _, err := exec.LookPath("ps"); err != nil {
		t.Skip("no ps on this machine")
	}
	for _, end := range []string{"exit", "panic", "stop", "kill"} {
		t.Run(end, func(t *testing.T) {
			t.Parallel()
			cmd := exec.Command(os.Args[0])
			cmd.Env = append(os.Environ(), parentEnv+"="+end)
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			defer cmd.Wait()
			line, err := bufio.NewReader(out).ReadString('\n')
			if err != nil {
				t.Fatal(err)
			}
			pid, err := strconv.Atoi(strings.TrimSpace(line))
			if err != nil {
				t.Fatal(err)
			}
			if end == "kill" {
				if !alive(-pid) {
					t.Fatal("the child is not there")
				}
				cmd.Process.Kill()
			}
			for deadline := time.Now().Add(10 * time.Second); alive(-pid); time.Sleep(20 * time.Millisecond) {
				if time.Now().After(deadline) {
					syscall.Kill(-pid, syscall.SIGKILL)
					t.Fatal("the child is left")
				}
			}
		})
	}
}

// alive tells whether a process, or with a negative number any of its group, is
// there and not only waits to be buried.
func alive(pid int) bool {
	if syscall.Kill(pid, 0) != nil {
		return false
	}
	column := "pid="
	if pid < 0 {
		column, pid = "pgid=", -pid
	}
	out, err := exec.Command("ps", "-eo", "stat=,"+column).Output()
	if err != nil {
		return true
	}
	for line := range strings.Lines(string(out)) {
		if f := strings.Fields(line); len(f) == 2 && f[1] == strconv.Itoa(pid) && !strings.HasPrefix(f[0], "Z") {
			return true
		}
	}
	return false
}

func TestStartAndStop(t *testing.T) {
	g, err := NewGroup()
	if err != nil {
		t.Fatal(err)
	}
	p, err := g.Start("sleep", exec.Command("sleep", "1000"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := g.Start("nothing", exec.Command("/does/not/exist")); err == nil || !strings.Contains(err.Error(), "start nothing") {
		t.Errorf("%v", err)
	}
	g.Stop(5 * time.Second)
	if got := p.State(); got != "signal: terminated" {
		t.Errorf("ended with %s", got)
	}
	if err := p.Signal(syscall.SIGTERM); err != nil {
		t.Errorf("signal to what has ended: %v", err)
	}
	if _, err := g.Start("late", exec.Command("true")); err == nil {
		t.Error("started after the stop")
	}
	g.Stop(0) // again
}

func TestLastLine(t *testing.T) {
	for in, want := range map[string]string{"": "no output", "a\nb\n\n  \n": "b", "one": "one"} {
		if got := LastLine([]byte(in)); got != want {
			t.Errorf("%q: %q", in, got)
		}
	}
}

func TestUsage(t *testing.T) {
	cpu, peak, err := Usage(os.Getpid())
	if os.IsNotExist(err) {
		t.Skip("no /proc")
	}
	if err != nil || cpu < 0 || cpu > 1000 || peak < 1 || peak > 10_000 {
		t.Errorf("%v s, %d MiB, %v", cpu, peak, err)
	}
	// A peak is of its time.
	hold, err := syscall.Mmap(-1, 0, 256<<20, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(hold); i += 4096 {
		hold[i] = 1
	}
	_, high, err := Usage(os.Getpid())
	if err := errors.Join(err, syscall.Munmap(hold), ResetPeak(os.Getpid())); err != nil {
		t.Fatal(err)
	}
	if _, low, err := Usage(os.Getpid()); err != nil || high < 256 || low > high-200 {
		t.Errorf("%d MiB, then %d, %v", high, low, err)
	}
}
