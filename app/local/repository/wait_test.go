package repository

import (
	"maps"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

const waitDirectory = ".github/actions/wait/"

// The script for pipelines is of every sh.
func TestShellcheck(t *testing.T) {
	if _, err := exec.LookPath("shellcheck"); err != nil {
		t.Skip("needs shellcheck, Debian's package of that name")
	}
	for _, shell := range []string{"sh", "dash", "bash"} {
		cmd := exec.CommandContext(t.Context(), "shellcheck", "--norc", "--shell="+shell, "wait-for-image.sh")
		cmd.Dir = root + "/" + waitDirectory
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", shell, err, out)
		}
	}
}

// GitHub, Azure Pipelines and GitLab run the same script, and give it all of its settings.
func TestWaitTemplates(t *testing.T) {
	var action struct {
		Inputs, Outputs map[string]any
		Runs            struct {
			Using string
			Steps []struct {
				ID, Run string
				Env     map[string]string
			}
		}
	}
	var pipelines struct {
		Parameters []struct{ Name string }
		Steps      []struct {
			Bash, Name string
			Env        map[string]string
		}
	}
	var gitlab map[string]struct {
		Image       string
		Variables   map[string]string
		Script      []string
		AfterScript []string `yaml:"after_script"`
		Artifacts   struct{ Reports struct{ Dotenv string } }
	}
	for name, into := range map[string]any{"action.yml": &action, "azure-pipelines.yml": &pipelines, "gitlab.yml": &gitlab} {
		if err := yaml.Unmarshal([]byte(read(t, waitDirectory+name)), into); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	script := read(t, waitDirectory+"wait-for-image.sh")
	settings, outputs := []string{}, submatches(`(?m)^\toutput (\w+) `, script)
	for _, row := range rowsOf(t, waitDirectory+"README.md", "## Settings") {
		settings = append(settings, strings.Trim(row[0], "`"))
	}
	if got := submatches(`\b([A-Z]+)=\$\{[A-Z]+:-[^$}]*\}`, script); !slices.Equal(got, settings) || len(outputs) != 3 {
		t.Errorf("the script has the settings %q, its README %q; outputs %q", got, settings, outputs)
	}

	step, azure, job := action.Runs.Steps[0], pipelines.Steps[0], gitlab[".wait-for-image"]
	var parameters []string
	for _, p := range pipelines.Parameters {
		parameters = append(parameters, p.Name)
	}
	for _, name := range settings {
		lower := strings.ToLower(name)
		if _, ok := action.Inputs[lower]; !ok || step.Env[name] != "${{ inputs."+lower+" }}" {
			t.Errorf("action.yml: %s is %q", name, step.Env[name])
		}
		if !slices.Contains(parameters, lower) || azure.Env[name] != "${{ parameters."+lower+" }}" {
			t.Errorf("azure-pipelines.yml: %s is %q", name, azure.Env[name])
		}
		if _, ok := job.Variables[name]; !ok && name != "KEY" {
			t.Errorf("gitlab.yml: no %s", name)
		}
	}
	for _, name := range outputs {
		if o, _ := action.Outputs[name].(map[string]any); o["value"] != "${{ steps."+step.ID+".outputs."+name+" }}" {
			t.Errorf("action.yml: the output %s is %v", name, o)
		}
		if want := "s/^" + name + "=/WAIT_" + strings.ToUpper(name) + "=/"; !strings.Contains(strings.Join(job.AfterScript, "\n"), want) {
			t.Errorf("gitlab.yml does not export %s", name)
		}
	}
	if len(action.Outputs) != len(outputs) || len(action.Inputs) != len(settings) || len(step.Env) != len(settings) {
		t.Errorf("action.yml has the inputs %q and outputs %q", slices.Sorted(maps.Keys(action.Inputs)), slices.Sorted(maps.Keys(action.Outputs)))
	}
	if step.Run != `sh "$GITHUB_ACTION_PATH/wait-for-image.sh"` || action.Runs.Using != "composite" || azure.Bash != `sh "$SCRIPT"` ||
		!slices.Equal(job.Script, []string{`sh "$SCRIPT"`}) || job.Variables["OUTPUT"] != job.Artifacts.Reports.Dotenv {
		t.Errorf("they run %q, %q, %q", step.Run, azure.Bash, job.Script)
	}
	if !strings.HasSuffix(job.Variables["SCRIPT"], waitDirectory+"wait-for-image.sh") || !strings.Contains(read(t, waitDirectory+"azure-pipelines.yml"), "/"+waitDirectory+"wait-for-image.sh") {
		t.Error("they run a script of another path")
	}
}
