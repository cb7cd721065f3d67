package repository

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// compiler is the path of Bicep, which these tests have in CI, or beside the repository.
func compiler(t *testing.T) string {
	t.Helper()
	for _, name := range []string{"bicep", filepath.Join(root, "..", "shared", "bicep", "bicep")} {
		if path, err := exec.LookPath(name); err == nil {
			if path, err = filepath.Abs(path); err != nil {
				t.Fatal(err)
			}
			return path
		}
	}
	t.Skip("no bicep on the PATH")
	return ""
}

// compile is what Bicep says, and whether it says yes.
func compile(t *testing.T, args ...string) (said string, ok bool) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), compiler(t), args...).CombinedOutput()
	if _, refused := errors.AsType[*exec.ExitError](err); err != nil && !refused {
		t.Fatal(err)
	}
	return string(out), err == nil
}

// The linter, with infra's configuration, warns of API versions that are about to
// retire. .ci/run lets no warning pass.
func TestInfraRecentVersions(t *testing.T) {
	dir := t.TempDir()
	vault := filepath.Join(dir, "vault.bicep")
	old := strings.ReplaceAll(read(t, "infra/vault.bicep"), "Microsoft.KeyVault/vaults@2026-02-01", "Microsoft.KeyVault/vaults@2023-07-01")
	for file, text := range map[string]string{vault: old, filepath.Join(dir, "bicepconfig.json"): read(t, "infra/bicepconfig.json")} {
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if said, _ := compile(t, "lint", vault); !strings.Contains(said, "Warning use-recent-api-versions: Use more recent API version for 'Microsoft.KeyVault/vaults'") {
		t.Errorf("an old version passes: %q", said)
	}
}
