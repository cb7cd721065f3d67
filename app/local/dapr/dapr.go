// Package dapr finds or builds Dapr's programs, and knows how to start them so
// that they stay on this machine: everything listens on 127.0.0.1.
package dapr

import (
	"bufio"
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
	"strings"
	"sync/atomic"
	"syscall"
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
// which takes minutes. Root is the root of this repository.
func Find(ctx context.Context, root string, progress Progress) (Programs, error) {
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
	paths := map[string]string{}
	if home, err := os.UserHomeDir(); err == nil {
		if found, ok := initialized(ctx, filepath.Join(home, ".dapr", "bin"), version); ok {
			paths = found
		}
	}
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

// initialized looks into the directory where `dapr init` puts programs: daprd
// always, the others with --slim. They count if daprd is of the wanted minor
// version.
func initialized(ctx context.Context, dir, version string) (paths map[string]string, ok bool) {
	paths = map[string]string{}
	for _, name := range names {
		path := filepath.Join(dir, name)
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			paths[name] = path
		}
	}
	if paths["daprd"] == "" {
		return nil, false
	}
	have, err := versionOf(ctx, paths["daprd"])
	if err != nil || minor(have) != minor(version) {
		return nil, false
	}
	return paths, true
}

func versionOf(ctx context.Context, daprd string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, daprd, "--version").Output()
	if err != nil {
		return "", fmt.Errorf("ask %s for its version: %w", daprd, err)
	}
	return strings.TrimSpace(string(out)), nil
}

func minor(version string) string {
	parts := strings.SplitN(strings.TrimPrefix(version, "v"), ".", 3)
	return strings.Join(parts[:min(2, len(parts))], ".")
}

// ensure builds what is missing in dir. Several processes may call it at once:
// one builds, the others wait.
func ensure(ctx context.Context, module, dir, version string, programs []string, progress Progress) error {
	if complete(dir, programs) {
		return nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make a place for Dapr's programs: %w", err)
	}
	unlock, err := lock(ctx, filepath.Join(dir, "lock"), progress)
	if err != nil {
		return err
	}
	defer unlock()
	if complete(dir, programs) {
		return nil
	}
	progress(fmt.Sprintf("Building Dapr %s (%s), once: about 2 minutes of downloads, then 5 on two cores, less on more. Interrupted, it continues where it stopped.",
		version, strings.Join(programs, ", ")), false)
	start := time.Now()
	if err := build(ctx, module, dir, programs, version, progress); err != nil {
		return err
	}
	progress(fmt.Sprintf("Built Dapr %s in %s; kept in %s", version, time.Since(start).Round(time.Second), dir), false)
	return nil
}

func complete(dir string, programs []string) bool {
	for _, name := range programs {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			return false
		}
	}
	return true
}

func lock(ctx context.Context, path string, progress Progress) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("lock: %w", err)
	}
	for told := false; ; told = true {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		if !told {
			progress("Another process builds Dapr; waiting for it.", false)
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, errors.New("another process still builds Dapr; wait for it, then run this again")
		case <-time.After(200 * time.Millisecond):
		}
	}
}

func build(ctx context.Context, module, dir string, programs []string, version string, progress Progress) error {
	group, err := process.NewGroup()
	if err != nil {
		return err
	}
	defer group.Kill()
	tmp, err := os.MkdirTemp(dir, "build-")
	if err != nil {
		return fmt.Errorf("make a place for the build: %w", err)
	}
	defer os.RemoveAll(tmp)

	var packages []string
	for _, name := range programs {
		packages = append(packages, "github.com/dapr/dapr/cmd/"+name)
	}
	ldflags := "-s -w -X github.com/dapr/dapr/pkg/buildinfo.version=" + version

	// The list is what downloads; it also says how much there is to compile.
	total, err := goCommand(ctx, group, module, "download Dapr's modules", func(n int) {
		progress(fmt.Sprintf("downloading: %d modules so far", n), true)
	}, append(append([]string{"list", "-deps"}, buildFlags...), packages...))
	if err != nil {
		return err
	}
	args := append([]string{"build", "-v", "-o", tmp + string(filepath.Separator), "-ldflags", ldflags}, buildFlags...)
	if _, err := goCommand(ctx, group, module, "build Dapr", func(n int) {
		progress(fmt.Sprintf("compiling: %d of about %d packages", n, total), true)
	}, append(args, packages...)); err != nil {
		return err
	}
	for _, name := range programs {
		if err := os.Rename(filepath.Join(tmp, name), filepath.Join(dir, name)); err != nil {
			return fmt.Errorf("keep %s: %w", name, err)
		}
	}
	return nil
}

// goCommand runs the go tool in module. It reports how many lines stderr has
// had, and returns how many stdout had.
func goCommand(ctx context.Context, group *process.Group, module, what string, report func(n int), args []string) (lines int, err error) {
	cmd := exec.Command("go", args...)
	cmd.Dir = module
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off")
	counted := &lineCounter{}
	cmd.Stdout = counted
	stderr := &lineCounter{}
	cmd.Stderr = stderr
	p, err := group.Start("go", cmd)
	if err != nil {
		return 0, fmt.Errorf("%s: %w; is Go on the PATH?", what, err)
	}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-p.Done():
			if err := p.Err(); err != nil {
				return 0, fmt.Errorf("%s: %s; check the network and GOPROXY, then run this again", what, stderr.last())
			}
			return int(counted.n.Load()), nil
		case <-tick.C:
			report(int(stderr.n.Load()))
		case <-ctx.Done():
			p.Signal(syscall.SIGKILL)
			<-p.Done()
			if errors.Is(ctx.Err(), context.DeadlineExceeded) {
				return 0, fmt.Errorf("%s: not finished in the time that there was; run this again, it continues where it stopped", what)
			}
			return 0, fmt.Errorf("%s: interrupted; run this again, it continues where it stopped", what)
		}
	}
}

// lineCounter counts lines and keeps the end of what it is given.
type lineCounter struct {
	n    atomic.Int64
	tail strings.Builder
}

func (c *lineCounter) Write(p []byte) (int, error) {
	c.n.Add(int64(strings.Count(string(p), "\n")))
	if c.tail.Len() > 1<<16 {
		c.tail.Reset()
	}
	return c.tail.Write(p)
}

// last is the last line that says something, for an error message.
func (c *lineCounter) last() string {
	return LastLine(strings.NewReader(c.tail.String()))
}

// LastLine returns the last line of r that is not empty.
func LastLine(r io.Reader) string {
	last := "no output"
	scan := bufio.NewScanner(r)
	scan.Buffer(nil, 1<<20)
	for scan.Scan() {
		if line := strings.TrimSpace(scan.Text()); line != "" {
			last = line
		}
	}
	return last
}
