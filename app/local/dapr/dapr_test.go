package dapr

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"allregions/app/local/process"
)

const module = "../runtime"

func TestPinned(t *testing.T) {
	version, hash, err := pinned(module)
	if err != nil || version != "1.16.5" || len(hash) != 12 {
		t.Errorf("%q, %q, %v", version, hash, err)
	}
	if _, _, err := pinned(t.TempDir()); err == nil {
		t.Error("a directory without a module: no error")
	}
}

// Whatever changes a build changes the place where it is kept.
func TestPinnedHash(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "go.sum"), "a", 0o644)
	write(t, filepath.Join(dir, "go.mod"), "module m\nrequire github.com/dapr/dapr v1.16.5\n", 0o644)
	_, first, err := pinned(dir)
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "go.sum"), "b", 0o644)
	if _, second, err := pinned(dir); err != nil || first == second {
		t.Errorf("%q, %q, %v", first, second, err)
	}
	write(t, filepath.Join(dir, "go.mod"), "module m\n", 0o644)
	if _, _, err := pinned(dir); err == nil {
		t.Error("a module without Dapr: no error")
	}
}

func write(t *testing.T, path, data string, mode os.FileMode) {
	t.Helper()
	if err := os.WriteFile(path, []byte(data), mode); err != nil {
		t.Fatal(err)
	}
}

// fakeDaprd is a daprd as far as its version goes.
func fakeDaprd(t *testing.T, dir, version string) {
	t.Helper()
	write(t, filepath.Join(dir, "daprd"), "#!/bin/sh\n[ \"$1\" = --version ] && echo "+version+"\n", 0o755)
}

func TestInitialized(t *testing.T) {
	for version, want := range map[string]bool{"1.16.0": true, "1.16.9": true, "v1.16.9": true, "1.15.5": false, "1.17.0": false, "1.160.0": false, "edge": false} {
		t.Run(version, func(t *testing.T) {
			dir := t.TempDir()
			fakeDaprd(t, dir, version)
			paths := initialized(t.Context(), dir, "1.16.5")
			if (paths["daprd"] != "") != want || paths["placement"] != "" {
				t.Errorf("got %v, want one: %v", paths, want)
			}
		})
	}
	if paths := initialized(t.Context(), t.TempDir(), "1.16.5"); len(paths) > 0 {
		t.Errorf("in an empty directory: got %v", paths)
	}
	dir := t.TempDir()
	fakeDaprd(t, dir, "1.16.2")
	write(t, filepath.Join(dir, "placement"), "", 0o755)
	write(t, filepath.Join(dir, "scheduler"), "", 0o644) // not a program
	if paths := initialized(t.Context(), dir, "1.16.5"); paths["placement"] == "" || paths["scheduler"] != "" {
		t.Errorf("slim: got %v", paths)
	}
	write(t, filepath.Join(dir, "daprd"), "#!/bin/sh\nexit 1\n", 0o755)
	if paths := initialized(t.Context(), dir, "1.16.5"); len(paths) > 0 {
		t.Errorf("a daprd that does not run was taken: got %v", paths)
	}
}

// A module that cannot be downloaded is one line that says what to do, and
// leaves nothing that looks like a build.
func TestNoProxy(t *testing.T) {
	t.Setenv("GOPROXY", "off")
	t.Setenv("GOFLAGS", "-modcacherw")
	t.Setenv("GOMODCACHE", t.TempDir())
	dir := t.TempDir()
	err := ensure(t.Context(), module, dir, "1.16.5", []string{"placement"}, io.Discard)
	if err == nil || strings.Contains(err.Error(), "\n") || !strings.Contains(err.Error(), "build Dapr: ") ||
		!strings.Contains(err.Error(), "check the network and GOPROXY") {
		t.Errorf("%v", err)
	}
	if complete(dir, []string{"placement"}) {
		t.Error("something was kept")
	}
}

func TestInterruptedBuild(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Nanosecond)
	defer cancel()
	err := ensure(ctx, module, t.TempDir(), "1.16.5", []string{"placement"}, io.Discard)
	if err == nil || !strings.Contains(err.Error(), "run this again") {
		t.Errorf("%v", err)
	}
}

// One builds, the others wait for it.
func TestEnsureWaitsForTheOther(t *testing.T) {
	dir := t.TempDir()
	unlock, err := process.Lock(filepath.Join(dir, "lock"))
	if err != nil {
		t.Fatal(err)
	}
	shown, progress := io.Pipe()
	done := make(chan error, 1)
	go func() { done <- ensure(t.Context(), "/does/not/exist", dir, "1.16.5", []string{"placement"}, progress) }()
	if line, err := bufio.NewReader(shown).ReadString('\n'); !strings.Contains(line, "Another process builds Dapr") {
		t.Errorf("shown: %q, %v", line, err)
	}
	write(t, filepath.Join(dir, "placement"), "", 0o755) // the other has built it
	unlock()
	if err := <-done; err != nil {
		t.Errorf("%v", err)
	}
}

// Every program is told to stay on this machine, as far as it listens.
func TestCommandsStayOnThisMachine(t *testing.T) {
	p := Programs{Daprd: "daprd", Placement: "placement", Scheduler: "scheduler"}
	for name, args := range map[string][]string{
		"daprd":     Sidecar{AppID: "a", Dir: "/d", Components: "/c"}.Command(p).Args,
		"placement": Placement{Dir: "/d"}.Command(p).Args,
		"scheduler": Scheduler{Dir: "/d"}.Command(p).Args,
	} {
		for i, arg := range args {
			if strings.HasSuffix(arg, "-address") || strings.HasSuffix(arg, "-addresses") {
				if host, _, _ := strings.Cut(args[i+1], ":"); host != "127.0.0.1" {
					t.Errorf("%s %s %s", name, arg, args[i+1])
				}
			}
		}
		if !strings.Contains(fmt.Sprint(args), "-address 127.0.0.1") {
			t.Errorf("%s: %v", name, args)
		}
	}
	if env := strings.Join(Sidecar{}.Command(p).Env, "\n"); !strings.Contains(env, "DAPR_HOST_IP=127.0.0.1") {
		t.Error("daprd may announce another address of this machine")
	}
}
