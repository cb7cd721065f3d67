package process

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// GoBuild builds the package that the last argument names, as the program, in the
// module of dir.
func GoBuild(ctx context.Context, dir, program string, args ...string) error {
	cmd := exec.CommandContext(ctx, "go", append([]string{"build", "-o", program}, args...)...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOWORK=off")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w: %s", filepath.Base(program), err, LastLine(out))
	}
	return nil
}

// LastLine returns the last line of a program's output.
func LastLine(output []byte) string {
	lines := strings.Split(strings.TrimSpace(string(output)), "\n")
	return cmp.Or(strings.TrimSpace(lines[len(lines)-1]), "no output")
}
