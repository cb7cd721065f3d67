package stack

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"allregions/app/local/dapr"
)

// Root returns the root directory of the repository that the working directory
// is in.
func Root(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "env", "GOMOD").Output()
	if err != nil {
		return "", errors.New("cannot run the go tool; is Go on the PATH?")
	}
	root := filepath.Dir(strings.TrimSpace(string(out)))
	if _, err := os.Stat(filepath.Join(root, "app", "local", "runtime", "go.mod")); err != nil {
		return "", errors.New("this is not the repository; run it from the directory that holds dapr.yaml")
	}
	return root, nil
}

// testTime is what a test needs behind a build of Dapr.
const testTime = 3 * time.Minute

// PrepareTest is for tests that start a stack, or a program that does. It builds
// Dapr if need be, as long as that leaves time for the tests; deadline is theirs.
func PrepareTest(ctx context.Context, deadline func() (time.Time, bool)) error {
	root, err := Root(ctx)
	if err != nil {
		return err
	}
	if err := readSources(root); err != nil {
		return err
	}
	if end, ok := deadline(); ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, end.Add(-testTime))
		defer cancel()
	}
	_, err = dapr.Find(ctx, root, dapr.TestProgress())
	return err
}

// readSources lists every directory with files that a stack is made of. `go test` keeps
// a result for as long as what the test itself has asked for stays the same: of a
// directory, names, sizes and times. Without this it would answer "(cached)" after a
// change of the service, which the go tool and daprd read in processes of their own.
func readSources(root string) error {
	for _, dir := range []string{"app", "components"} {
		if err := filepath.WalkDir(filepath.Join(root, dir), func(_ string, _ fs.DirEntry, err error) error { return err }); err != nil {
			return fmt.Errorf("read the sources: %w", err)
		}
	}
	return nil
}
