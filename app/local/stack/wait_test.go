package stack

import (
	"bytes"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"allregions/app/local/acr"
)

// output is what a program writes, while it writes it.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// waiting is a run of wait-for-image.
type waiting struct {
	*exec.Cmd
	said    *output
	outputs string // path
}

func waitForImage(t *testing.T, s *Stack, shell string, env ...string) waiting {
	t.Helper()
	for _, program := range []string{shell, "curl"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("no %s on the PATH", program)
		}
	}
	w := waiting{exec.CommandContext(t.Context(), shell, "../../../.github/actions/wait/wait-for-image.sh"), &output{}, filepath.Join(t.TempDir(), "outputs")}
	w.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "NO_PROXY=*", "URL=" + s.URL, "KEY=" + s.Key, "GITHUB_ACTIONS=true",
		"GITHUB_OUTPUT=" + w.outputs}, env...)
	w.Stdout, w.Stderr = w.said, w.said
	if err := w.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("%s: %s said\n%s", shell, env, w.said)
		}
	})
	return w
}

func (w waiting) until(t *testing.T, text string) {
	t.Helper()
	eventually(t, soon, "the script says "+text, func() bool { return strings.Contains(w.said.String(), text) })
}

// ends checks how the script ends: with an exit code, and the outputs status and missing.
func (w waiting) ends(t *testing.T, code int, status, missing string) {
	t.Helper()
	w.Wait()
	outputs, err := os.ReadFile(w.outputs)
	if got := w.ProcessState.ExitCode(); got != code || err != nil || !strings.HasPrefix(string(outputs), "status="+status+"\nmissing="+missing+"\nduration=") {
		t.Errorf("exit code %d, outputs %q, %v; want %d, %s, %q", got, outputs, err, code, status, missing)
	}
}

// A pipeline waits from before the first webhook until the last, through the kill -9 of
// the service, and a stop and start of it.
func TestWaitForImage(t *testing.T) {
	t.Parallel()
	sub := newSubscriber()
	s, r := start(t, Options{Timeout: 40 * time.Second, Events: sub.take})
	type pipeline struct {
		all, some, late, never waiting
		p, other               acr.Push
	}
	var pipelines []pipeline
	for _, shell := range []string{"dash", "bash"} {
		p, other := acr.NewPush("shop/"+shell, "v1"), acr.NewPush("shop/"+shell, "v2")
		image := "IMAGES=" + p.Repository + "@" + p.Digest
		pipelines = append(pipelines, pipeline{
			all:   waitForImage(t, s, shell, image, "TIMEOUT=200"),
			some:  waitForImage(t, s, shell, image, "TIMEOUT=200", "REGIONS=eastus"),
			late:  waitForImage(t, s, shell, "IMAGES=contoso.azurecr.io/"+other.Repository+":v2@"+other.Digest, "TIMEOUT=200"),
			never: waitForImage(t, s, shell, "IMAGES="+p.Repository+":v3", "TIMEOUT=3"),
			p:     p, other: other,
		})
	}
	for _, l := range pipelines {
		l.all.until(t, "no region has reported it yet")
		l.some.until(t, "no region has reported it yet")
		l.never.ends(t, 2, "none", "")
	}
	for _, l := range pipelines {
		fire(t, r, l.p, "westeurope", http.StatusAccepted)
		fire(t, r, l.other, "japaneast", http.StatusAccepted)
	}
	for _, l := range pipelines {
		l.all.until(t, "missing: eastus,japaneast\n")
		l.some.until(t, "missing: eastus\n")
	}
	for _, sig := range []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM} {
		if err := s.Hold(ServiceProcess, sig); err != nil {
			t.Fatal(err)
		}
		for _, l := range pipelines { // whoever was in a wait, or between two
			l.all.until(t, "asking again")
		}
		if err := s.Release(ServiceProcess); err != nil {
			t.Fatal(err)
		}
		eventually(t, soon, "the service is ready again", func() bool { return ready(s) == nil })
	}
	for _, l := range pipelines {
		for _, region := range []string{"eastus", "japaneast"} {
			eventually(t, soon, "the webhook of "+region+" is taken", func() bool {
				code, _, err := r.Fire(t.Context(), l.p, region)
				return err == nil && (code == http.StatusAccepted || code == http.StatusOK)
			})
			if region == "eastus" {
				l.some.ends(t, 0, "replicated", "")
			}
		}
		l.all.ends(t, 0, "replicated", "")
		if e := sub.wait(t, l.p.ID, 1, soon); e.Type != "acr.replication.completed" {
			t.Errorf("%+v", e)
		}
	}
	for _, l := range pipelines {
		l.late.ends(t, 1, "timedOut", "westeurope,eastus")
		l.late.until(t, "\n::error title=wait for image::contoso.azurecr.io/"+l.other.Repository+":v2@"+l.other.Digest+" is not in time in: westeurope,eastus\n")
	}
}
