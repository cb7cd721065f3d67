package main

import (
	"compress/gzip"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"strings"
	"testing"
)

// release makes this another version until the test ends.
func release(t *testing.T, version string) {
	before := linked
	linked = version
	t.Cleanup(func() { linked = before })
}

func TestVersion(t *testing.T) {
	built := &debug.BuildInfo{Settings: []debug.BuildSetting{{Key: "vcs.modified", Value: "true"}, {Key: "vcs.revision", Value: "0123456789abcdef"}}}
	for _, tt := range []struct {
		name, linked string
		info         *debug.BuildInfo
		want         string
	}{
		{"a release", "v1.2.3", built, "v1.2.3"},
		{"a commit", "", built, "0123456789ab"},
		{"neither", "", &debug.BuildInfo{}, "unknown"},
		{"no information", "", nil, "unknown"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := versionOf(tt.linked, tt.info); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

// The image has this binary and a base of less than 2 MB: it is at most 25 MB compressed.
// What the Dockerfile tells the linker is what the binary says.
func TestImage(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the service")
	}
	_, flags, _ := strings.Cut(read(t, "Dockerfile"), `-ldflags "`)
	flags, _, _ = strings.Cut(flags, `"`)
	program := filepath.Join(t.TempDir(), "allregions")
	build := exec.CommandContext(t.Context(), "go", "build", "-buildvcs=false", "-ldflags", strings.ReplaceAll(flags, "$VERSION", "v1.2.3"), "-o", program, ".")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if out, err := exec.CommandContext(t.Context(), program, "version").Output(); string(out) != "v1.2.3\n" || err != nil {
		t.Errorf("%q, %v", out, err)
	}
	file, err := os.Open(program)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var size counter
	compressed := gzip.NewWriter(&size)
	if _, err := io.Copy(compressed, file); err != nil {
		t.Fatal(err)
	}
	compressed.Close()
	const most = 23 << 20
	if t.Logf("%.1f MB", float64(size)/1e6); size > most {
		t.Errorf("the binary has %d bytes compressed, want at most %d", size, most)
	}
}

// counter counts what is written to it.
type counter int

func (c *counter) Write(p []byte) (int, error) {
	*c += counter(len(p))
	return len(p), nil
}
