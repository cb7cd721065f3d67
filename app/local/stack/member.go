package stack

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"allregions/app/local/process"
)

// member is a process of the stack.
type member struct {
	name    string
	log     io.Writer // nil: its file
	command func() *exec.Cmd

	mu      sync.Mutex
	held    int // how many have it down until they call Release
	running *process.Process
}

// restartDelay is how long a process that ended by itself stays away. Sidecars
// end at start when the store or the broker is away, as they do on Azure.
const restartDelay = 500 * time.Millisecond

// terminateTimeout is when Container Apps kills what has not ended after SIGTERM.
const terminateTimeout = 30 * time.Second

// run starts a process as a member.
func (s *Stack) run(name string, log io.Writer, command func() *exec.Cmd) error {
	m := &member{name: name, log: log, command: command}
	s.members[name] = m
	m.mu.Lock()
	defer m.mu.Unlock()
	return s.launch(m)
}

// launch starts the process; the caller holds m.mu.
func (s *Stack) launch(m *member) error {
	log := m.log
	if log == nil {
		f, err := os.OpenFile(s.LogPath(m.name), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
		if err != nil {
			return fmt.Errorf("log of %s: %w", m.name, err)
		}
		defer f.Close() // the child has its own
		log = f
	}
	cmd := m.command()
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Args[0] = filepath.Join(s.Dir, m.name) // so that ps tells whose it is
	p, err := s.group.Start(m.name, cmd)
	if err != nil {
		return err
	}
	m.running = p
	go s.watch(m, p)
	return nil
}

// watch does what is to be done when the process has ended by itself.
func (s *Stack) watch(m *member, p *process.Process) {
	<-p.Done()
	m.mu.Lock()
	held := m.held > 0 || m.running != p
	m.mu.Unlock()
	if held || s.stopping.Load() {
		return
	}
	if s.options.Ended == nil {
		s.cancel(fmt.Errorf("%s ended (%s)%s", m.name, p.State(), s.lastWords(m.name)))
		return
	}
	s.options.Ended(m.name, p.State())
	select {
	case <-s.ctx.Done():
		return
	case <-time.After(restartDelay):
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.held > 0 || m.running != p {
		return
	}
	if err := s.launch(m); err != nil {
		s.cancel(err)
	}
}

// Hold ends a process by a signal, and keeps it down until Release.
func (s *Stack) Hold(name string, sig syscall.Signal) error {
	m := s.members[name]
	m.mu.Lock()
	defer m.mu.Unlock()
	m.held++
	return m.running.Signal(sig)
}

// Release starts a process again that Hold has ended, unless somebody else has held it
// meanwhile. It kills what does not end in terminateTimeout.
func (s *Stack) Release(name string) error {
	m := s.members[name]
	p := s.Process(name)
	select {
	case <-p.Done():
	case <-time.After(terminateTimeout):
		if err := p.Signal(syscall.SIGKILL); err != nil {
			return err
		}
		<-p.Done()
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.held--; m.held > 0 {
		return nil
	}
	return s.launch(m)
}

// Process returns the process with that name that runs now, or ran last.
func (s *Stack) Process(name string) *process.Process {
	m := s.members[name]
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.running
}

func (s *Stack) logs() string { return filepath.Join(s.Dir, "logs") }

// LogPath is the path of a process' log.
func (s *Stack) LogPath(name string) string { return filepath.Join(s.logs(), name+".log") }

// lastWords are the last line of a process' log, and where that is.
func (s *Stack) lastWords(name string) string {
	data, err := os.ReadFile(s.LogPath(name))
	if err != nil {
		return "" // it goes elsewhere, where somebody sees it
	}
	return fmt.Sprintf(": %s; its log: %s", process.LastLine(data), s.LogPath(name))
}
