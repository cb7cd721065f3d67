package api

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"

	"allregions/app/catalog"
	"allregions/app/notification"
	"allregions/app/replication"
)

// pipelineExample is what app/api/README.md tells pipelines to run, with each of the words
// replaced, which are in it once.
func pipelineExample(t *testing.T, replace map[string]string) string {
	t.Helper()
	readme, err := os.ReadFile(filepath.Join("..", "api", "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile("(?s)\n### In a pipeline\n.*?\n```sh\n(.*?)```\n").FindSubmatch(readme)
	if found == nil {
		t.Fatal("README.md has no example of a pipeline")
	}
	script := string(found[1])
	for old, text := range replace {
		if strings.Count(script, old) != 1 {
			t.Fatalf("the example has %q %d times:\n%s", old, strings.Count(script, old), script)
		}
		script = strings.Replace(script, old, text, 1)
	}
	return script
}

// The page's command goes on while the image is not everywhere, however short the
// wait is, and fails for everything but yes.
func TestPipelineExample(t *testing.T) {
	if testing.Short() {
		t.Skip("takes some seconds")
	}
	if _, err := exec.LookPath("curl"); err != nil {
		t.Skip("needs curl")
	}
	const none = replication.Status("")
	for name, tt := range map[string]struct {
		answers []replication.Status // to one request after the other; the last one stays
		patient string               // how long it asks again
		exit    int
		least   int64 // requests
		shows   string
	}{
		"everywhere":       {[]replication.Status{none, replication.Collecting, replication.Replicated}, "900", 0, 3, `"status":"replicated"`},
		"a region missing": {[]replication.Status{replication.Collecting, replication.TimedOut}, "900", 22, 2, "409"},
		"never a webhook":  {[]replication.Status{none}, "1", 22, 2, "503"},
		"never decided":    {[]replication.Status{replication.Collecting}, "1", 22, 2, "503"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var requests atomic.Int64
			answer := func() (notification.Status, error) {
				now := tt.answers[min(int(requests.Load()), len(tt.answers))-1]
				if now == none {
					return notification.Status{}, notification.ErrNotFound
				}
				return notification.Status{ID: "a", Action: "push", Status: now, Missing: []replication.Region{"eastus"}}, nil
			}
			h := newHandler(&backend{
				status: func(context.Context, string) (notification.Status, error) { return answer() },
				find:   func(context.Context, catalog.Image) (notification.Status, error) { return answer() },
			}, io.Discard)
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				requests.Add(1)
				h.ServeHTTP(w, r)
			}))
			defer server.Close()

			var stdout, stderr bytes.Buffer
			cmd := exec.CommandContext(t.Context(), "sh", "-c", pipelineExample(t, map[string]string{
				"https://HOST": server.URL, "wait=60s": "wait=10ms", "--retry-max-time 900": "--retry-max-time " + tt.patient}))
			// No proxy, and no settings of whoever runs the test.
			cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "NO_PROXY=*", "READ_KEY=" + readKey}
			cmd.Stdout, cmd.Stderr = &stdout, &stderr
			err := cmd.Run()
			if exit, ok := errors.AsType[*exec.ExitError](err); err != nil && !ok || cmd.ProcessState.ExitCode() != tt.exit {
				t.Errorf("exit %v, %v", exit, err)
			}
			if n := requests.Load(); n < tt.least || tt.patient == "900" && n > tt.least {
				t.Errorf("%d requests, want %d", n, tt.least)
			}
			if out := stdout.String() + stderr.String(); !strings.Contains(out, tt.shows) || (tt.exit == 0) != strings.Contains(out, `"id":"a"`) {
				t.Errorf("it shows %s%s", &stdout, &stderr)
			}
		})
	}
}
