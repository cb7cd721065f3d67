// Package dapr finds or builds Dapr's programs, and knows how to start them so
// that they stay on this machine: everything listens on 127.0.0.1.
package dapr

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"time"

	"allregions/app/local/process"
)

// Programs are the paths of Dapr's programs.
type Programs struct {
	Daprd, Placement, Scheduler string
	Version                     string // of Daprd
}

// names of the programs, which are those of their packages in Dapr's module.
var names = []string{"daprd", "placement", "scheduler"}

// buildFlags is how Dapr's own releases are built, but for the alpha
// components. Without the tag daprd panics at start.
var buildFlags = []string{"-mod=readonly", "-trimpath", "-tags", "stablecomponents"}

// Find returns Dapr's programs. It takes those of `dapr init` if they are of the
// pinned minor version, those that it built before, and builds what is missing,
// which takes minutes and is told to progress. Root is the root of this repository.
func Find(ctx context.Context, root string, progress io.Writer) (Programs, error) {
	module := filepath.Join(root, "app", "local", "runtime")
	version, hash, err := pinned(module)
	if err != nil {
		return Programs{}, err
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return Programs{}, fmt.Errorf("no place to keep Dapr's programs: %w; set HOME", err)
	}
	built := filepath.Join(cache, "allregions", "dapr-"+version+"-"+hash)
	home, err := os.UserHomeDir()
	if err != nil {
		return Programs{}, err
	}
	paths := initialized(ctx, filepath.Join(home, ".dapr", "bin"), version)
	var missing []string
	for _, name := range names {
		if paths[name] == "" {
			paths[name] = filepath.Join(built, name)
			missing = append(missing, name)
		}
	}
	if err := ensure(ctx, module, built, version, missing, progress); err != nil {
		return Programs{}, err
	}
	p := Programs{Daprd: paths["daprd"], Placement: paths["placement"], Scheduler: paths["scheduler"]}
	p.Version, err = versionOf(ctx, p.Daprd)
	return p, err
}

var requirement = regexp.MustCompile(`(?m)^\s*(?:require )?github\.com/dapr/dapr v(\S+)`)

// pinned reads the version of Dapr that the module pins, and a hash of all that
// a build depends on.
func pinned(module string) (version, hash string, err error) {
	h := sha256.New()
	fmt.Fprintln(h, runtime.GOOS, runtime.GOARCH, buildFlags)
	for _, name := range []string{"go.mod", "go.sum"} {
		data, err := os.ReadFile(filepath.Join(module, name))
		if err != nil {
			return "", "", fmt.Errorf("read what pins Dapr: %w", err)
		}
		if m := requirement.FindSubmatch(data); m != nil && name == "go.mod" {
			version = string(m[1])
		}
		h.Write(data)
	}
	if version == "" {
		return "", "", fmt.Errorf("%s pins no version of github.com/dapr/dapr", module)
	}
	return version, hex.EncodeToString(h.Sum(nil))[:12], nil
}

// initialized finds the programs in the directory where `dapr init` puts them:
// daprd always, the others with --slim. They count if daprd is of the wanted minor
// version.
func initialized(ctx context.Context, dir, version string) map[string]string {
	paths := map[string]string{}
	for _, name := range names {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			paths[name] = path
		}
	}
	minor := version[:strings.LastIndexByte(version, '.')+1] // "1.16." of 1.16.5
	if have, err := versionOf(ctx, paths["daprd"]); err != nil || !strings.HasPrefix(have, minor) {
		clear(paths)
	}
	return paths
}

func versionOf(ctx context.Context, daprd string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, daprd, "--version").Output()
	if err != nil {
		return "", fmt.Errorf("ask %s for its version: %w", daprd, err)
	}
	return strings.TrimPrefix(strings.TrimSpace(string(out)), "v"), nil
}

// ensure builds what is missing in dir. Several processes may call it at once:
// one builds, the others wait.
func ensure(ctx context.Context, module, dir, version string, programs []string, progress io.Writer) error {
	if complete(dir, programs) {
		return nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make a place for Dapr's programs: %w", err)
	}
	path := filepath.Join(dir, "lock")
	unlock, err := process.Lock(path)
	if errors.Is(err, process.ErrLocked) {
		fmt.Fprintln(progress, "Another process builds Dapr; waiting for it.")
		err = process.Until(ctx, "another process builds Dapr; wait for it, then run this again", func() (err error) {
			unlock, err = process.Lock(path)
			return err
		})
	}
	if err != nil {
		return err
	}
	defer unlock()
	if complete(dir, programs) {
		return nil
	}
	fmt.Fprintf(progress, "Building Dapr %s (%s), once: about 2 minutes of downloads, then 5 on two cores, less on more. Interrupted, it continues where it stopped.\n",
		version, strings.Join(programs, ", "))
	start := time.Now()
	if err := build(ctx, module, dir, programs, version, progress); err != nil {
		return err
	}
	fmt.Fprintf(progress, "Built Dapr %s in %s; kept in %s\n", version, time.Since(start).Round(time.Second), dir)
	return nil
}

func complete(dir string, programs []string) bool {
	return !slices.ContainsFunc(programs, func(name string) bool {
		_, err := os.Stat(filepath.Join(dir, name))
		return err != nil
	})
}

func build(ctx context.Context, module, dir string, programs []string, version string, progress io.Writer) error {
	tmp, err := os.MkdirTemp(dir, "build-")
	if err != nil {
		return fmt.Errorf("make a place for the build: %w", err)
	}
	defer os.RemoveAll(tmp)
	ldflags := "-s -w -X github.com/dapr/dapr/pkg/buildinfo.version=" + version
	args := append([]string{"build", "-v", "-o", tmp + string(filepath.Separator), "-ldflags", ldflags}, buildFlags...)
	for _, name := range programs {
		args = append(args, "github.com/dapr/dapr/cmd/"+name)
	}
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = module
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off")
	output := &buildOutput{progress: progress, shown: time.Now()}
	cmd.Stdout, cmd.Stderr = output, output
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("build Dapr: %w: %s; check the network and GOPROXY, then run this again", err, process.LastLine(output.all))
	}
	for _, name := range programs {
		if err := os.Rename(filepath.Join(tmp, name), filepath.Join(dir, name)); err != nil {
			return fmt.Errorf("keep %s: %w", name, err)
		}
	}
	return nil
}

// buildOutput says every 15 s how far `go build -v` is, which writes a line for each
// module that it downloads and for each package that it compiles.
type buildOutput struct {
	progress io.Writer
	shown    time.Time
	all      []byte
}

func (o *buildOutput) Write(p []byte) (int, error) {
	o.all = append(o.all, p...)
	if time.Since(o.shown) > 15*time.Second {
		o.shown = time.Now()
		modules := bytes.Count(o.all, []byte("go: downloading "))
		fmt.Fprintf(o.progress, "%d modules downloaded, %d packages compiled\n", modules, bytes.Count(o.all, []byte("\n"))-modules)
	}
	return len(p), nil
}

// TestProgress shows progress to somebody who waits for `go test`, which keeps
// what a test writes until it has ended.
func TestProgress() io.Writer {
	if tty, err := os.OpenFile("/dev/tty", os.O_WRONLY, 0); err == nil {
		return tty
	}
	return os.Stderr
}
