// Package process starts child processes that do not outlive this one, however
// it ends: by returning, by a signal, by a panic, or by kill -9.
//
// Unix only. Each child leads a process group of its own, so that a Ctrl-C in
// the terminal reaches this process alone and the children are stopped in
// order. A shell waits at the end of a pipe from this process; when the pipe
// closes without a word, it kills every group that is left.
package process

import (
	"errors"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"sync"
	"syscall"
	"time"
)

// reaper reads "add PID" and "del PID" lines. It ends when its input does.
const reaper = `
pids=" "
while read -r op pid; do
	case $op in
	add) pids="$pids$pid " ;;
	del) pids="${pids%%" $pid "*} ${pids#*" $pid "}" ;;
	esac
done
for pid in $pids; do kill -s KILL -- "-$pid"; done
`

// Group is a set of child processes.
type Group struct {
	reaper *exec.Cmd
	pipe   io.WriteCloser

	mu      sync.Mutex
	running []*Process // in order of start
	closed  bool
}

// NewGroup returns an empty group. Stop it, or its reaper stays until this
// process ends.
func NewGroup() (*Group, error) {
	cmd := exec.Command("sh", "-c", reaper)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // no signal of the terminal's reaches it
	pipe, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the shell that cleans up: %w", err)
	}
	return &Group{reaper: cmd, pipe: pipe}, nil
}

// Process is one child.
type Process struct {
	Name string
	PID  int

	cmd  *exec.Cmd
	done chan struct{}
}

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// State says how the process ended, after Done is closed, such as "exit status 1".
func (p *Process) State() string {
	<-p.done
	return p.cmd.ProcessState.String()
}

// Signal signals the process and whatever it started in its group. A process
// that has ended is no error.
func (p *Process) Signal(sig syscall.Signal) error {
	select {
	case <-p.done:
		return nil
	default:
	}
	if err := syscall.Kill(-p.PID, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("signal %s: %w", p.Name, err)
	}
	return nil
}

// Start starts cmd as a member of the group.
func (g *Group) Start(name string, cmd *exec.Cmd) (*Process, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return nil, fmt.Errorf("start %s: stopping", name)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.WaitDelay = 2 * time.Second // for what a child of the child keeps open
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	p := &Process{Name: name, PID: cmd.Process.Pid, cmd: cmd, done: make(chan struct{})}
	fmt.Fprintf(g.pipe, "add %d\n", p.PID)
	g.running = append(g.running, p)
	go func() {
		cmd.Wait() // State says what came of it
		g.mu.Lock()
		defer g.mu.Unlock()
		if !g.closed {
			fmt.Fprintf(g.pipe, "del %d\n", p.PID)
		}
		g.running = slices.DeleteFunc(g.running, func(x *Process) bool { return x == p })
		close(p.done)
	}()
	return p, nil
}

// Stop ends every process, the youngest first: SIGTERM, and SIGKILL to what is
// still there after grace. When it returns none is left.
func (g *Group) Stop(grace time.Duration) {
	g.mu.Lock()
	g.closed = true
	running := slices.Clone(g.running)
	g.mu.Unlock()
	for _, p := range slices.Backward(running) {
		p.Signal(syscall.SIGTERM)
		select {
		case <-p.done:
		case <-time.After(grace):
			p.Signal(syscall.SIGKILL)
			<-p.done
		}
	}
	// The shell must not see the end of the pipe: its numbers may by now be
	// those of other processes.
	g.reaper.Process.Kill()
	g.pipe.Close()
	g.reaper.Wait()
}

// Kill ends every process at once, as kill -9 does.
func (g *Group) Kill() {
	g.mu.Lock()
	g.closed = true
	for _, p := range g.running {
		p.Signal(syscall.SIGKILL)
	}
	g.mu.Unlock()
	g.Stop(0)
}
