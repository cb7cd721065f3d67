package api

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"allregions/app/catalog"
	"allregions/app/notification"
	"allregions/app/replication"
)

// answers is what a server answers to one request for an image after the other; the last
// one stays. A reading of the status alone does not count.
type answers []http.HandlerFunc

func (a answers) serve(asked *atomic.Int64) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		n := asked.Load()
		if r.URL.Query().Get("require") != "" {
			n = asked.Add(1)
		}
		a[min(max(int(n), 1), len(a))-1](w, r)
	}
}

// with answers as the service does when the image stands like this; without a status, as
// before the first webhook.
func with(st notification.Status, arrived ...replication.Region) http.HandlerFunc {
	for _, region := range arrived {
		st.Regions = append(st.Regions, notification.RegionStatus{Region: region})
	}
	answer := func(image catalog.Image) (notification.Status, error) {
		if st.Status == "" || image.Repository != "shop/cart" || image.Digest != "" && image.Digest != "sha256:aa" {
			return notification.Status{}, notification.ErrNotFound
		}
		return st, nil
	}
	h := newHandler(&backend{
		status: func(context.Context, string) (notification.Status, error) {
			return answer(catalog.Image{Repository: "shop/cart"})
		},
		find: func(_ context.Context, image catalog.Image) (notification.Status, error) { return answer(image) },
	}, io.Discard)
	return func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		if q.Has("wait") { // it would take that long
			q.Set("wait", "1ms")
		}
		r.URL.RawQuery = q.Encode()
		h.ServeHTTP(w, r)
	}
}

func says(code int, contentType, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", contentType)
		w.WriteHeader(code)
		fmt.Fprint(w, body)
	}
}

// ofRegistry answers only who asks about that registry.
func ofRegistry(registry string, answer http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if got := r.URL.Query().Get("registry"); got != registry {
			http.Error(w, "asked about "+got, http.StatusBadRequest)
			return
		}
		answer(w, r)
	}
}

// breaks closes the connection, as a process does that is killed.
func breaks(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }

// waited is how a run of wait-for-image ended.
type waited struct {
	code                   int
	stdout, stderr, output string
}

// waitForImage runs the script under a shell. Without a value, a variable is not set.
func waitForImage(t *testing.T, shell string, env map[string]string) (w waited) {
	t.Helper()
	var stdout, stderr strings.Builder
	output := filepath.Join(t.TempDir(), "output")
	cmd := exec.CommandContext(t.Context(), shell, "../../.github/actions/wait/wait-for-image.sh")
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "NO_PROXY=*", "OUTPUT=" + output}
	for name, value := range env {
		if value != "" {
			cmd.Env = append(cmd.Env, name+"="+value)
		}
	}
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); cmd.ProcessState == nil {
		t.Fatal(err)
	}
	written, err := os.ReadFile(output)
	if err != nil {
		t.Fatalf("%v\n%s%s", err, &stdout, &stderr)
	}
	return waited{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String(), string(written)}
}

// The script for pipelines, against the answers of the service and of what stands in
// front of it.
func TestWaitForImage(t *testing.T) {
	if testing.Short() {
		t.Skip("takes some seconds")
	}
	status := func(s replication.Status, missing ...replication.Region) notification.Status {
		return notification.Status{ID: "a", Action: "push", Status: s, Missing: append([]replication.Region{}, missing...)}
	}
	deleted := status(replication.Replicated)
	deleted.Action = "delete"
	none := with(notification.Status{})
	collecting := with(status(replication.Collecting, "eastus", "japaneast"), "westeurope")
	everywhere := with(status(replication.Replicated), "westeurope", "eastus", "japaneast")
	timedOut := with(status(replication.TimedOut, "eastus"), "westeurope", "japaneast")
	ingress := says(404, "text/html", "<h1>Container App is stopped or does not exist.</h1>")
	unready := says(503, "text/plain", "upstream connect error")
	const image = "shop/cart@sha256:aa"
	for _, tt := range []struct {
		name    string
		answers answers
		env     map[string]string
		code    int
		asked   int64 // requests, at least; exactly, if the end is not the timeout
		output  string
		says    []string
	}{
		{"everywhere", answers{none, collecting, everywhere}, nil, 0, 3, "replicated  ", []string{"no region has reported it yet", "missing: eastus,japaneast", "shop/cart@sha256:aa: in all regions"}},
		{"recovered", answers{with(status(replication.Recovered), "westeurope")}, nil, 0, 1, "replicated  ", nil},
		{"a deploy in mid-wait", answers{collecting, unready, breaks, ingress, says(429, "text/plain", ""), everywhere}, nil, 0, 6, "replicated  ", []string{"answer 503; asking again", "no answer; asking again", "answer 404; asking again"}},
		{"not in time", answers{collecting, timedOut}, nil, 1, 2, "timedOut eastus ", []string{image + " is not in time in: eastus"}},
		{"not in time, on GitHub", answers{timedOut}, map[string]string{"GITHUB_ACTIONS": "true"}, 1, 1, "timedOut eastus ", []string{"::add-mask::" + key1 + "\n", "::error title=wait for image::" + image + " is not in time in: eastus\n"}},
		{"not in time, on Azure", answers{timedOut}, map[string]string{"TF_BUILD": "True"}, 1, 1, "timedOut eastus ", []string{"##vso[task.setsecret]" + key1 + "\n", "##vso[task.logissue type=error]" + image,
			"##vso[task.setvariable variable=missing;isOutput=true]eastus\n"}},
		{"deleted", answers{with(deleted, "westeurope")}, nil, 1, 1, "gone  ", []string{"no push"}},
		{"nothing yet", answers{none}, map[string]string{"TIMEOUT": "2"}, 2, 1, "none  ", []string{"no region has reported it within 2 s"}},
		{"undecided", answers{collecting}, map[string]string{"TIMEOUT": "2"}, 2, 1, "collecting eastus,japaneast ", []string{"undecided after 2 s, missing: eastus,japaneast"}},
		{"never an answer", answers{breaks}, map[string]string{"TIMEOUT": "2"}, 3, 1, "unreachable  ", []string{"does not answer"}},
		{"no answer any more", answers{collecting, breaks}, map[string]string{"TIMEOUT": "3"}, 3, 2, "unreachable eastus,japaneast ", nil},
		{"two images", answers{everywhere}, map[string]string{"IMAGES": image + "\n  contoso.azurecr.io/shop/cart:v1@sha256:aa "}, 0, 2, "replicated  ", []string{"done: 2"}},
		{"several registries", answers{says(409, "application/problem+json", `{"type": "urn:allregions:problem:ambiguous", "registries": ["contoso.azurecr.io", "fabrikam.azurecr.io"]}`)}, nil, 3, 1, "refused  ", []string{"is in several registries: write LOGIN_SERVER/" + image}},
		{"of one registry", answers{ofRegistry("contoso.azurecr.io", everywhere)}, map[string]string{"IMAGES": "contoso.azurecr.io/" + image}, 0, 1, "replicated  ", nil},
		{"of no registry", answers{ofRegistry("", everywhere)}, map[string]string{"IMAGES": "localhost:5000/" + image}, 0, 1, "replicated  ", nil},
		{"another image", answers{everywhere}, map[string]string{"IMAGES": "shop/cart@sha256:bb", "TIMEOUT": "2"}, 2, 1, "none  ", nil},

		{"a region of interest", answers{none, collecting}, map[string]string{"REGIONS": "WestEurope"}, 0, 2, "replicated  ", []string{"westeurope"}},
		{"regions of interest", answers{collecting, with(status(replication.Collecting, "japaneast"), "westeurope", "eastus")}, map[string]string{"REGIONS": "westeurope, eastus"}, 0, 2, "replicated  ", []string{"missing: eastus\n", "westeurope eastus\n"}},
		{"not in time elsewhere", answers{timedOut}, map[string]string{"REGIONS": "westeurope\njapaneast"}, 0, 1, "replicated  ", nil},
		{"not in time there", answers{timedOut}, map[string]string{"REGIONS": "westeurope eastus"}, 1, 1, "timedOut eastus ", nil},
		{"a region of nobody", answers{collecting}, map[string]string{"REGIONS": "mars", "TIMEOUT": "2"}, 2, 1, "collecting mars ", nil},
		{"a region of nobody, all others there", answers{everywhere}, map[string]string{"REGIONS": "mars"}, 3, 1, "refused mars ", []string{"these are not among them: mars"}},
		{"regions of a deleted image", answers{with(deleted, "westeurope")}, map[string]string{"REGIONS": "westeurope"}, 1, 1, "gone  ", nil},

		{"wrong key", answers{everywhere}, map[string]string{"KEY": "wrong"}, 3, 1, "refused  ", []string{"refuses the key"}},
		{"a key of signs", answers{everywhere}, map[string]string{"KEY": `"\$(x)'%s`}, 3, 1, "refused  ", []string{"refuses the key"}},
		{"another service", answers{says(200, "text/html", "<html>hello</html>")}, nil, 3, 1, "refused  ", []string{"not as the service does"}},
		{"another service's path", answers{everywhere}, map[string]string{"URL": "/path"}, 3, 1, "refused  ", []string{"not the address of the service"}},
		{"http", answers{says(301, "text/plain", "")}, nil, 3, 1, "refused  ", []string{"answers 301"}},

		{"no key", nil, map[string]string{"KEY": "-"}, 3, 0, "refused  ", []string{"KEY: not set"}},
		{"key of two lines", nil, map[string]string{"KEY": "a\nb"}, 3, 0, "refused  ", []string{"KEY: "}},
		{"no image", nil, map[string]string{"IMAGES": " \n"}, 3, 0, "refused  ", []string{"IMAGES: not set"}},
		{"no tag", nil, map[string]string{"IMAGES": "shop/cart"}, 3, 0, "refused  ", []string{`IMAGES: "shop/cart" is neither`}},
		{"no name", nil, map[string]string{"IMAGES": "shop/cart:v1&tag=v2"}, 3, 0, "refused  ", []string{"IMAGES: "}},
		{"a pattern", nil, map[string]string{"IMAGES": "*"}, 3, 0, "refused  ", []string{`IMAGES: "*"`}},
		{"no number", nil, map[string]string{"TIMEOUT": "5m"}, 3, 0, "refused  ", []string{"TIMEOUT: "}},
		{"no address", nil, map[string]string{"URL": "file:///etc/passwd"}, 3, 0, "refused  ", []string{"URL: "}},
		{"no region", nil, map[string]string{"REGIONS": "west*"}, 3, 0, "refused  ", []string{"REGIONS: "}},
	} {
		for _, shell := range []string{"dash", "bash"} {
			t.Run(tt.name+" under "+shell, func(t *testing.T) {
				t.Parallel()
				for _, program := range []string{shell, "curl"} {
					if _, err := exec.LookPath(program); err != nil {
						t.Skipf("no %s on the PATH", program)
					}
				}
				var asked atomic.Int64
				server := httptest.NewUnstartedServer(tt.answers.serve(&asked))
				server.Config.ErrorLog = nil
				server.Start()
				defer server.Close()
				env := map[string]string{"URL": server.URL + "/", "KEY": key1, "IMAGES": image, "TIMEOUT": "60"}
				for name, value := range tt.env {
					switch {
					case value == "-":
						value = ""
					case strings.HasPrefix(value, "/"):
						value = server.URL + value
					}
					env[name] = value
				}
				start := time.Now()
				got := waitForImage(t, shell, env)
				outputs := strings.Join(outputValues(got.output), " ")
				if got.code != tt.code || !strings.HasPrefix(outputs, tt.output) {
					t.Errorf("exit code %d, outputs %q; want %d, %q\n%s%s", got.code, outputs, tt.code, tt.output, got.stdout, got.stderr)
				}
				if n := asked.Load(); n < tt.asked || n > tt.asked && tt.env["TIMEOUT"] == "" {
					t.Errorf("asked %d times, want %d\n%s%s", n, tt.asked, got.stdout, got.stderr)
				}
				if took := time.Since(start); tt.env["TIMEOUT"] != "" && took > 10*time.Second {
					t.Errorf("it took %v", took)
				}
				for _, want := range tt.says {
					if !strings.Contains(got.stdout+got.stderr, want) {
						t.Errorf("no %q in\n%s%s", want, got.stdout, got.stderr)
					}
				}
				if (got.code == 0) != (got.stderr == "") {
					t.Errorf("exit code %d, and stderr %q", got.code, got.stderr)
				}
				if lines := strings.Split(got.stdout+got.stderr, "\n"); slices.ContainsFunc(lines, func(line string) bool {
					return strings.Contains(line, env["KEY"]) && env["KEY"] != "" && !strings.HasPrefix(line, "::add-mask::") && !strings.HasPrefix(line, "##vso[task.setsecret]") && env["KEY"] != "wrong"
				}) {
					t.Errorf("it shows the key:\n%s%s", got.stdout, got.stderr)
				}
			})
		}
	}
}

// outputValues are the values of the three outputs, in order.
func outputValues(output string) (values []string) {
	for i, line := range strings.Split(strings.TrimSuffix(output, "\n"), "\n") {
		name, value, _ := strings.Cut(line, "=")
		if i > 2 || name != []string{"status", "missing", "duration"}[i] {
			return []string{"not the outputs: " + output}
		}
		values = append(values, value)
	}
	return values
}
