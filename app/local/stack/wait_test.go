package stack

import (
	"bytes"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
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
// the service and a deploy of it.
func TestWaitForImage(t *testing.T) {
	t.Parallel()
	sub := newSubscriber()
	s, r := start(t, Options{Timeout: 20 * time.Second, Events: sub.take, Ended: func(name, state string) { t.Logf("%s ended: %s", name, state) }})
	for _, shell := range []string{"dash", "bash"} {
		t.Run(shell, func(t *testing.T) {
			p, other := acr.NewPush("shop/"+shell, "v1"), acr.NewPush("shop/"+shell, "v2")
			image := "IMAGES=" + p.Repository + "@" + p.Digest
			all := waitForImage(t, s, shell, image, "TIMEOUT=120")
			some := waitForImage(t, s, shell, image, "REGIONS=eastus", "TIMEOUT=120")
			late := waitForImage(t, s, shell, "IMAGES=contoso.azurecr.io/"+other.Repository+":v2@"+other.Digest, "TIMEOUT=120")
			never := waitForImage(t, s, shell, "IMAGES="+p.Repository+":v3", "TIMEOUT=5")
			all.until(t, "no region has reported it yet")
			some.until(t, "no region has reported it yet")

			fire(t, r, p, "westeurope", http.StatusAccepted)
			fire(t, r, other, "japaneast", http.StatusAccepted)
			all.until(t, "missing: eastus,japaneast\n")
			some.until(t, "missing: eastus\n")

			for i, sig := range []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM} {
				before := s.Process(ServiceProcess)
				if err := before.Signal(sig); err != nil {
					t.Fatal(err)
				}
				<-before.Done()
				all.until(t, []string{"no answer; asking again", "answer 503; asking again"}[i])
				if err := s.Ready(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			region := func(name string) {
				eventually(t, soon, "the webhook of "+name+" is taken", func() bool {
					code, _, err := r.Fire(t.Context(), p, name)
					return err == nil && (code == http.StatusAccepted || code == http.StatusOK)
				})
			}
			region("eastus")
			some.ends(t, 0, "replicated", "")
			region("japaneast")
			all.ends(t, 0, "replicated", "")
			late.ends(t, 1, "timedOut", "westeurope,eastus")
			late.until(t, "\n::error title=wait for image::contoso.azurecr.io/"+other.Repository+":v2@"+other.Digest+" is not in time in: westeurope,eastus\n")
			never.ends(t, 2, "none", "")

			// The script has told no lie: it ended after the event.
			if e := sub.wait(t, p.ID, 1, soon); e.Type != "acr.replication.completed" || !slices.Equal(e.Data.Missing, []string{}) {
				t.Errorf("%+v", e)
			}
		})
	}
}
