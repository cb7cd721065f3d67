package repository

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/jmespath/go-jmespath"
)

// The hooks of azd, infra/hooks, run here under the shells that there are, with
// stand-ins for everything that they call. PowerShell's are not run: they are held to
// what the others are.

// inPowerShell is each line of a hook that has a translation of its own.
var inPowerShell = map[string]string{
	`#!/bin/sh`: `#!/usr/bin/env pwsh`,
	`else`:      `} else {`,
	`fi`:        `}`,
	`done`:      `}`,
	`elif [ "${answer#*NotFound}" != "$answer" ]; then`: `} elseif ("$answer" -like "*NotFound*") {`,

	`./.azure/allregions.exe check`: `& ./.azure/allregions.exe check`,

	// Parts of what is separated by a comma or a slash.
	`key=${key%%,*}`:                           `$key = "$key".Split(',')[0]`,
	`registry=${id##*/}`:                       `$registry = "$id".Split('/')[-1]`,
	`subscription=$(echo "$id" | cut -d/ -f3)`: `$subscription = "$id".Split('/')[2]`,
	`group=${id%/providers/*}`:                 `$group = "$id" -replace '/providers/.*$', ''`,

	// A list that is separated by commas, and one in JSON.
	`ids=$(echo "$EXISTING_REGISTRY_ID" | tr ',' ' ')`:                               `$ids = "$env:EXISTING_REGISTRY_ID" -replace ',', ' '`,
	`ids=$(echo "$REGISTRY_RESOURCE_ID" | tr ',' ' ')`:                               `$ids = "$env:REGISTRY_RESOURCE_ID" -replace ',', ' '`,
	`roles=$(echo "$REGISTRY_ROLE_IDS" | tr -d '[]"' | tr ',' ' ')`:                  `$roles = "$env:REGISTRY_ROLE_IDS" -replace '[\[\]"]', '' -replace ',', ' '`,
	`assignments=$(echo "$REGISTRY_ROLE_ASSIGNMENT_IDS" | tr -d '[]"' | tr ',' ' ')`: `$assignments = "$env:REGISTRY_ROLE_ASSIGNMENT_IDS" -replace '[\[\]"]', '' -replace ',', ' '`,

	// Azure's wildcards as regular expressions, without regard to case.
	grantedInSh: grantedInPowerShell,
}

const (
	grantedInSh         = `granted=$(echo "$roles" | tr A-Z a-z | sed 's/[.]/[.]/g; s/[*]/.*/g' | awk -F '\t' -v action="$action" '{ action = tolower(action) } action ~ "^(" $1 ")$" && !($2 != "" && action ~ "^(" $2 ")$")')`
	grantedInPowerShell = `$granted = $roles | Where-Object { $allows, $except = ($_ -replace '[.]', '[.]' -replace '[*]', '.*').Split("` + "`t" + `"); $action -match "^($allows)$" -and -not ($except -and $action -match "^($except)$") }`
)

const now = `[DateTimeOffset]::Now.ToUnixTimeSeconds()`

// translations are those of the other lines, in this order. Not alike, in spite of their
// looks, are variables that a colon or a question mark follows, which PowerShell takes
// for a part of the name: in sh, too, these have braces.
var translations = []struct {
	sh         *regexp.Regexp
	powerShell string
}{
	{regexp.MustCompile(`^(# \w+)\.ps1 is this file in PowerShell, `), `$1.sh is this file in sh, `},
	{regexp.MustCompile(`^if \[ -n ("[^"]+") \]; then$`), `if ($1) {`},
	{regexp.MustCompile(`^if \[ -z ("[^"]+") \]; then$`), `if (-not $1) {`},
	{regexp.MustCompile(`^if \[ \$\? (-eq|-ne) 0 \]; then$`), `if ($$LASTEXITCODE $1 0) {`},
	{regexp.MustCompile(`^if \[ ("[^"]+") = ("[^"]+") \]; then$`), `if ($1 -eq $2) {`},
	{regexp.MustCompile(`^if \[ ("[^"]+") != ("[^"]+") \]; then$`), `if ($1 -ne $2) {`},
	{regexp.MustCompile(`^if command -v (\w+) >/dev/null; then$`), `if (Get-Command $1 -ErrorAction SilentlyContinue) {`},
	{regexp.MustCompile(`^while \[ -n ("[^"]+") \] && \[ "\$\(date \+%s\)" -lt "(\$end)" \]; do$`), `while ($1 -and ` + now + ` -lt $2) {`},
	{regexp.MustCompile(`^while \[ -z ("[^"]+") \] && \[ "\$\(date \+%s\)" -lt "(\$end)" \]; do$`), `while (-not $1 -and ` + now + ` -lt $2) {`},
	{regexp.MustCompile(`^for (\w+) in (.*); do$`), `foreach ($$$1 in "$2".Split(' ', [StringSplitOptions]::RemoveEmptyEntries)) {`},
	{regexp.MustCompile(`^end=\$\(\(\$\(date \+%s\) \+ (\d+)\)\)$`), `$$end = ` + now + ` + $1`},
	{regexp.MustCompile(`^(\w+)=\$\((.*)\)$`), `$$$1 = $2`},
	{regexp.MustCompile(`^(\w+)=(".*")$`), `$$$1 = $2`},
	{regexp.MustCompile(`^echo `), `Write-Output `},
	{regexp.MustCompile(`^sleep `), `Start-Sleep `},
	{regexp.MustCompile(`2>/dev/null`), `2>$$null`},
	{regexp.MustCompile(`\$\{([A-Z_]{2,})\}`), `$${env:$1}`},
	{regexp.MustCompile(`\$([A-Z_]{2,})\b`), `$$env:$1`},
	{regexp.MustCompile(`\$env:LASTEXITCODE`), `$$LASTEXITCODE`},
	{regexp.MustCompile(`\\"`), "`\""},
}

func translated(line string) string {
	code := strings.TrimLeft(line, " ")
	indent := line[:len(line)-len(code)]
	if exact, ok := inPowerShell[code]; ok {
		return indent + exact
	}
	for _, t := range translations {
		code = t.sh.ReplaceAllString(code, t.powerShell)
	}
	return indent + code
}

// hooks are the names of the files, without their ends.
func hooks(t *testing.T) (names []string) {
	t.Helper()
	for _, file := range filesIn(t, "infra/hooks", ".sh") {
		names = append(names, strings.TrimSuffix(file, ".sh"))
	}
	return names
}

var (
	withoutQuery  = regexp.MustCompile(`--query ".*"`)
	notPowerShell = regexp.MustCompile(`\[ -|\$\(|\bthen$|\bdo$|/dev/null|%%|##|\|\| |\$\w+[?:]|\$\{\w+[#%]`)
)

// Both shells do the same, line by line.
func TestHooksAreAlike(t *testing.T) {
	for _, name := range hooks(t) {
		sh, got := strings.Split(read(t, name+".sh"), "\n"), strings.Split(read(t, name+".ps1"), "\n")
		if len(got) != len(sh) {
			t.Errorf("%s: %d lines of PowerShell, %d of sh", name, len(got), len(sh))
		}
		for i := range min(len(got), len(sh)) {
			if want := translated(sh[i]); got[i] != want {
				t.Errorf("%s.ps1:%d:\ngot  %s\nwant %s", name, i+1, got[i], want)
			}
			// What sh has and PowerShell has not would be an error there.
			if left := notPowerShell.FindString(strings.ReplaceAll(withoutQuery.ReplaceAllString(got[i], ""), "$env:", "$")); left != "" && !strings.HasPrefix(got[i], "#") {
				t.Errorf("%s.ps1:%d: %q is not what it is in sh: %s", name, i+1, left, got[i])
			}
		}
	}
}

// TestMain is the stand-in for a program, if this binary is called as one.
func TestMain(m *testing.M) {
	if name := os.Getenv("STAND_IN_FOR"); name != "" {
		os.Exit(standIn(name, os.Args[1:]))
	}
	os.Exit(m.Run())
}

// answer is what a program answers to a call: what it would print without --query, as
// JSON, or a failure.
type answer struct {
	JSON any
	Fail string
}

// scene is the answers to the calls of a hook, one after the other; the last one stays.
type scene map[string][]answer

// callOf names a call: of az's arguments, what is not an option, and the URL or the
// name that it is about.
func callOf(name string, args []string) string {
	call := []string{name}
	for i, arg := range args {
		switch {
		case i > 0 && slices.Contains([]string{"--method", "--url", "-n"}, args[i-1]):
			call = append(call, arg)
		case !strings.HasPrefix(arg, "-") && (i == 0 || !strings.HasPrefix(args[i-1], "-")):
			call = append(call, arg)
		}
	}
	return strings.Join(call, " ")
}

// standIn plays a program in the directory STAND_IN_DIR, which has the scene, and notes
// its arguments there.
func standIn(name string, args []string) int {
	dir, call := os.Getenv("STAND_IN_DIR"), callOf(name, args)
	log, err := os.OpenFile(filepath.Join(dir, "calls"), os.O_CREATE|os.O_APPEND|os.O_RDWR, 0o644)
	if err != nil {
		panic(err)
	}
	defer log.Close()
	before, err := os.ReadFile(log.Name())
	if err != nil {
		panic(err)
	}
	fmt.Fprintf(log, "%s\t%s\n", call, strings.Join(args, " "))
	var s scene
	if data, err := os.ReadFile(filepath.Join(dir, "scene")); err != nil || json.Unmarshal(data, &s) != nil {
		panic(err)
	}
	answers := s[call]
	if len(answers) == 0 {
		fmt.Fprintf(os.Stderr, "the scene has no %q\n", call)
		return 97
	}
	a := answers[min(strings.Count("\n"+string(before), "\n"+call+"\t"), len(answers)-1)]
	if a.Fail != "" {
		fmt.Fprintln(os.Stderr, a.Fail)
		return 1
	}
	option := func(names ...string) string {
		if i := slices.IndexFunc(args, func(arg string) bool { return slices.Contains(names, arg) }); i >= 0 {
			return args[i+1]
		}
		return ""
	}
	found := a.JSON
	if query := option("--query"); query != "" {
		if found, err = jmespath.Search(query, found); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	if option("-o", "--output") != "none" {
		fmt.Print(tsv(found))
	}
	return 0
}

// tsv is how az prints a value with -o tsv; it does for -o table, too.
func tsv(v any) string {
	cell := func(v any) string {
		switch v := v.(type) {
		case nil:
			return ""
		case map[string]any:
			return fmt.Sprint(v)
		}
		return fmt.Sprint(v)
	}
	list, ok := v.([]any)
	if !ok {
		return cell(v) + "\n"
	}
	var out strings.Builder
	for _, row := range list {
		cells, ok := row.([]any)
		if !ok {
			cells = []any{row}
		}
		for i, c := range cells {
			if i > 0 {
				out.WriteByte('\t')
			}
			out.WriteString(cell(c))
		}
		out.WriteByte('\n')
	}
	return out.String()
}

// played is what became of a hook.
type played struct {
	output string
	code   int
	calls  []string // with all arguments
	took   int      // seconds on its clock
}

// play runs a hook under a shell, where there are these programs only. Only sleep moves
// its clock, ten times as far as it is told to: a wait of minutes is a few rounds.
func play(t *testing.T, shell, hook string, programs []string, s scene, env map[string]string) played {
	t.Helper()
	path, err := exec.LookPath(shell)
	if err != nil {
		t.Skipf("no %s here", shell)
	}
	dir, self := t.TempDir(), must(os.Executable())
	bin := filepath.Join(dir, "bin")
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.Mkdir(bin, 0o755), os.Mkdir(filepath.Join(dir, ".azure"), 0o755)); err != nil {
		t.Fatal(err)
	}
	for _, tool := range []string{"awk", "cat", "cut", "sed", "tr"} {
		if err := os.Symlink(must(exec.LookPath(tool)), filepath.Join(bin, tool)); err != nil {
			t.Fatal(err)
		}
	}
	write("clock", "1000")
	write("bin/date", "#!/bin/sh\ncat "+dir+"/clock\n")
	write("bin/sleep", "#!/bin/sh\necho $(($(cat "+dir+"/clock) + 10 * $1)) >"+dir+"/clock.new\n/bin/mv "+dir+"/clock.new "+dir+"/clock\n")
	standIn := func(file, name string) {
		// With the race detector, each process would sleep for a second at its end.
		write(file, "#!/bin/sh\nGORACE=atexit_sleep_ms=0 STAND_IN_FOR="+name+" STAND_IN_DIR="+dir+" exec "+self+" \"$@\"\n")
	}
	for _, name := range programs {
		standIn("bin/"+name, name)
	}
	standIn(".azure/allregions.exe", "allregions") // what go builds
	write("scene", string(must(json.Marshal(s))))
	cmd := exec.CommandContext(t.Context(), path, must(filepath.Abs(filepath.Join(root, "infra", "hooks", hook+".sh"))))
	cmd.Dir, cmd.Env = dir, []string{"PATH=" + bin}
	for name, value := range env {
		cmd.Env = append(cmd.Env, name+"="+value)
	}
	out, err := cmd.CombinedOutput()
	if _, ended := errors.AsType[*exec.ExitError](err); err != nil && !ended {
		t.Fatal(err)
	}
	calls, _ := os.ReadFile(filepath.Join(dir, "calls")) // none without calls
	p := played{output: string(out), code: cmd.ProcessState.ExitCode()}
	for line := range strings.Lines(string(calls)) {
		name, args, _ := strings.Cut(strings.TrimSpace(line), "\t")
		program, _, _ := strings.Cut(name, " ")
		p.calls = append(p.calls, program+" "+args)
	}
	p.took = must(strconv.Atoi(strings.TrimSpace(string(must(os.ReadFile(filepath.Join(dir, "clock"))))))) - 1000
	if strings.Contains(p.output, "the scene has no ") || strings.Contains(p.output, "not found") {
		t.Errorf("a call that the test does not know:\n%s", p.output)
	}
	return p
}

// must is a value that there is, or a broken test.
func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// underEachShell runs a test of a hook under each shell that may be the sh of a system.
func underEachShell(t *testing.T, name string, test func(t *testing.T, shell string)) {
	for _, shell := range []string{"sh", "dash", "bash"} {
		t.Run(name+", "+shell, func(t *testing.T) {
			t.Parallel()
			test(t, shell)
		})
	}
}

func ok(v any) []answer             { return []answer{{JSON: v}} }
func fails(message string) []answer { return []answer{{Fail: message}} }

// with is a scene with more in it.
func (s scene) with(more scene) scene {
	all := maps.Clone(s)
	maps.Copy(all, more)
	return all
}

// says checks how a hook ended, and the lines that it must have printed, in this order.
func (p played) says(t *testing.T, code int, lines ...string) {
	t.Helper()
	if p.code != code {
		t.Errorf("it ends with %d, want %d:\n%s", p.code, code, p.output)
	}
	rest := p.output
	for _, line := range lines {
		_, after, found := strings.Cut(rest, line)
		if !found {
			t.Fatalf("no %q, or not there, in\n%s", line, p.output)
		}
		rest = after
	}
}

var loggedIn = scene{"az account show": ok(map[string]any{"user": map[string]any{"name": "me@contoso.com"}})}

// role is what Azure says that somebody may do because of one role.
func role(actions, notActions string) any {
	list := func(s string) (all []any) {
		all = []any{}
		for _, action := range strings.Fields(s) {
			all = append(all, action)
		}
		return all
	}
	return map[string]any{"actions": list(actions), "notActions": list(notActions)}
}

// Azure's own roles, as their definitions are.
var (
	owner         = role("*", "")
	contributor   = role("*", "Microsoft.Authorization/*/Delete Microsoft.Authorization/*/Write Microsoft.Authorization/elevateAccess/Action Microsoft.Blueprint/blueprintAssignments/write")
	administrator = role("*/read Microsoft.Authorization/* Microsoft.Support/*", "") // User Access Administrator
	rbac          = role("Microsoft.Authorization/roleAssignments/write Microsoft.Authorization/roleAssignments/delete */read Microsoft.Support/*", "")
)

func TestPreprovision(t *testing.T) {
	const permissions = "az rest get /subscriptions/11111111-1111-1111-1111-111111111111/resourceGroups/shared/providers/Microsoft.Authorization/permissions?api-version=2022-04-01"
	const registry = "az rest get " + contoso + "?api-version=2025-04-01"
	existing := map[string]string{"EXISTING_REGISTRY_ID": contoso}
	settings := map[string]string{"NOTIFY_TARGETS": "[]"}
	may := func(roles ...any) scene {
		return loggedIn.with(scene{permissions: ok(map[string]any{"value": roles}), registry: ok(map[string]any{"name": "contoso"})})
	}
	const lacks = "EXISTING_REGISTRY_ID: me@contoso.com lacks rights at /subscriptions/11111111-1111-1111-1111-111111111111/resourceGroups/shared: "
	for _, c := range []struct {
		name     string
		programs []string
		scene    scene
		env      map[string]string
		code     int
		says     string // "" is nothing at all
	}{
		{"nothing to check", []string{"az", "go"}, nil, nil, 0, ""},
		{"no Go", nil, nil, settings, 0, "Go is not installed here: NOTIFY_TARGETS and"},
		{"an old Go", []string{"go"}, scene{"go build ./app": fails("go.mod requires go >= 1.26")}, settings, 0, "Go cannot build the service here: NOTIFY_TARGETS and"},
		{"good settings", []string{"go"}, scene{"go build ./app": ok(""), "allregions check": ok("")}, settings, 0, "Building the service"},
		{"bad settings", []string{"go", "az"}, scene{"go build ./app": ok(""), "allregions check": fails("NOTIFY_TARGETS: not a list")}, map[string]string{"WEBHOOK_TIMEOUT": "soon", "EXISTING_REGISTRY_ID": contoso}, 1, "NOTIFY_TARGETS: not a list\n"},
		{"no az", nil, nil, existing, 0, "your rights at the registry are not checked"},
		{"az without a login", []string{"az"}, scene{"az account show": fails("Please run 'az login'")}, existing, 0, "your rights at the registry are not checked"},
		{"an owner", []string{"az"}, may(owner), existing, 0, ""},
		{"two roles", []string{"az"}, may(contributor, administrator), existing, 0, ""},
		{"roles of one's own", []string{"az"}, may(role("microsoft.resources/Deployments/*", ""), role("Microsoft.ContainerRegistry/*/webhooks/*", ""), role("Microsoft.Authorization/role*/*", "")), existing, 0, ""},
		{"a contributor", []string{"az"}, may(contributor), existing, 1, lacks + "Microsoft.Authorization/roleDefinitions/write Microsoft.Authorization/roleDefinitions/delete Microsoft.Authorization/roleAssignments/write Microsoft.Authorization/roleAssignments/delete.\n"},
		{"an administrator", []string{"az"}, may(administrator), existing, 1, lacks + "Microsoft.Resources/deployments/write Microsoft.ContainerRegistry/registries/webhooks/delete.\n"},
		{"no right to roles' definitions", []string{"az"}, may(contributor, rbac), existing, 1, lacks + "Microsoft.Authorization/roleDefinitions/write Microsoft.Authorization/roleDefinitions/delete.\n"},
		{"no role", []string{"az"}, may(), existing, 1, lacks + "Microsoft.Resources/deployments/write "},
		{"no such group", []string{"az"}, loggedIn.with(scene{permissions: fails("Not Found(ResourceGroupNotFound)")}), existing, 1, "Not Found(ResourceGroupNotFound)\n" + lacks + "(az cannot read them)."},
		{"no such registry", []string{"az"}, may(owner).with(scene{registry: fails("Not Found(ResourceNotFound)")}), existing, 1, lacks + "(az cannot read the registry)."},
	} {
		underEachShell(t, c.name, func(t *testing.T, shell string) {
			p := play(t, shell, "preprovision", c.programs, c.scene, c.env)
			p.says(t, c.code, c.says)
			if c.says == "" && p.output != "" {
				t.Errorf("it says\n%s", p.output)
			}
			if c.name == "bad settings" && len(p.calls) != 2 {
				t.Errorf("it goes on: %q", p.calls)
			}
		})
	}
}

func TestPostdeploy(t *testing.T) {
	const regions, ready, show, logs = "az rest get https://app/regions", "curl https://app/readyz", "az keyvault secret show read-keys", "az containerapp logs show allregions"
	env := map[string]string{
		"APP_URL": "https://app", "PUBLIC_URL": "https://gateway", "AZURE_KEY_VAULT_NAME": "kv", "AZURE_RESOURCE_GROUP": "rg-prod",
		"REGISTRY_RESOURCE_ID": contoso, "REGISTERS_WEBHOOKS": "true", "REPORTED_ACTIONS": "push delete",
	}
	other := func(more map[string]string) map[string]string {
		all := maps.Clone(env)
		maps.Copy(all, more)
		return all
	}
	region := func(name string, registered, answered bool) any {
		webhook := map[string]any{"name": "allregions1a2b3c" + name, "registered": registered, "problem": ""}
		if registered {
			webhook["lastPing"] = map[string]any{"at": "2026-11-27T02:00:00Z", "status": "204", "answered": answered}
		}
		return map[string]any{"region": name, "expected": true, "webhook": webhook}
	}
	state := func(regions ...any) any {
		return map[string]any{"registries": []any{map[string]any{"name": "contoso", "read": map[string]any{"error": "403 at the registry"}, "regions": append(regions, map[string]any{"region": "uksouth", "expected": false})}}}
	}
	none := map[string]any{"registries": []any{map[string]any{"name": "contoso", "regions": []any{}}}}
	good := loggedIn.with(scene{
		ready:   ok(""),
		show:    ok(map[string]any{"value": "NEW,OLD"}),
		logs:    ok(`{"msg":"the last line"}`),
		regions: ok(state(region("westeurope", true, true), region("eastus", true, true))),
	})
	all := []string{"az", "curl"}
	for _, c := range []struct {
		name     string
		programs []string
		scene    scene
		env      map[string]string
		code     int
		atMost   int // seconds
		says     []string
	}{
		{"all is well", all, good, env, 0, 50, []string{"The service is ready", "Waiting, at most 10 minutes", "Region:westeurope", "Every region's webhook answers."}},
		{"one after the other", all, good.with(scene{
			ready:   {{Fail: "503"}, {Fail: "503"}, {JSON: ""}},
			show:    {{Fail: "(Forbidden)"}, {JSON: map[string]any{"value": "NEW"}}},
			regions: {{Fail: "503"}, {JSON: none}, {JSON: state(region("westeurope", true, false), region("eastus", false, false))}, {JSON: state(region("westeurope", true, true), region("eastus", true, false))}, {JSON: state(region("westeurope", true, true), region("eastus", true, true))}},
		}), env, 0, 500, []string{"  not yet\n", "  not yet\nThe service is ready", "Waiting for your right", "for:\n  the first answer\n  the regions\n  westeurope eastus\n  eastus\n", "Every region's webhook answers."}},
		{"never ready", all, good.with(scene{ready: fails("503")}), env, 1, 300, []string{"The service is not ready: https://app/readyz. The last line of its log:\n" + `{"msg":"the last line"}`}},
		{"one region does not answer", all, good.with(scene{regions: ok(state(region("westeurope", true, true), region("eastus", true, false)))}), env, 1, 600, []string{
			"Region:eastus", "Still waiting for: eastus.", "403 at the registry", `{"msg":"the last line"}`, "azd hooks run postdeploy",
		}},
		{"no regions", all, good.with(scene{regions: ok(none)}), env, 1, 600, []string{"Still waiting for: the regions."}},
		{"the key is refused", all, good.with(scene{regions: fails("401 Unauthorized")}), env, 1, 600, []string{"401 Unauthorized", "Still waiting for: the first answer."}},
		{"no key", all, good.with(scene{show: fails("(Forbidden)")}), env, 1, 300, []string{"az, logged in as me@contoso.com, cannot read the key"}},
		{"no az", []string{"curl"}, scene{ready: ok("")}, env, 0, 0, []string{"The service is ready", "whether the webhooks answer is not checked. See https://app/regions."}},
		{"by hand", all, good.with(scene{regions: ok(map[string]any{"registries": []any{map[string]any{"name": "", "regions": []any{
			map[string]any{"region": "westeurope", "expected": true}, map[string]any{"region": "eastus", "expected": true}}}}})}), other(map[string]string{"REGISTERS_WEBHOOKS": "false", "REGISTRY_RESOURCE_ID": ""}), 0, 0, []string{
			"The service makes no webhooks.",
			"  az acr webhook create -r REGISTRY -n allregionswesteurope -l westeurope --actions push delete --uri 'https://gateway/webhooks/acr?region=westeurope' --headers 'Authorization=Bearer KEY'\n  az acr webhook ping -r REGISTRY -n allregionswesteurope\n",
			"-n allregionseastus ",
		}},
		{"by hand at two registries", all, good.with(scene{regions: ok(map[string]any{"registries": []any{
			map[string]any{"name": "contoso", "regions": []any{map[string]any{"region": "westeurope", "expected": true}}},
			map[string]any{"name": "fabrikam", "regions": []any{map[string]any{"region": "uksouth", "expected": true}}}}})}),
			other(map[string]string{"REGISTERS_WEBHOOKS": "false"}), 0, 0, []string{
				"-r contoso -n allregionswesteurope -l westeurope ", "  az acr webhook ping -r contoso -n allregionswesteurope\n  az acr webhook create -r fabrikam -n allregionsuksouth -l uksouth "}},
		{"registration is off", all, good.with(scene{regions: ok(none)}), other(map[string]string{"REGISTERS_WEBHOOKS": "false"}), 0, 0, []string{"az acr webhook create -r contoso -n allregionsREGION "}},
	} {
		underEachShell(t, c.name, func(t *testing.T, shell string) {
			p := play(t, shell, "postdeploy", c.programs, c.scene, c.env)
			p.says(t, c.code, c.says...)
			if p.took > c.atMost {
				t.Errorf("it takes %d s, want at most %d", p.took, c.atMost)
			}
			if strings.Contains(p.output, "NEW") || strings.Contains(p.output, "OLD") {
				t.Errorf("it shows the key:\n%s", p.output)
			}
			for _, call := range p.calls {
				if strings.Contains(call, "/regions ") && !strings.Contains(call, "--headers x-functions-key=NEW --query") {
					t.Errorf("not with the first key: %s", call)
				}
			}
		})
	}
}

func TestPredown(t *testing.T) {
	const (
		group      = "/subscriptions/11111111-1111-1111-1111-111111111111/resourceGroups/shared"
		assignment = contoso + "/providers/Microsoft.Authorization/roleAssignments/a"
		definition = group + "/providers/Microsoft.Authorization/roleDefinitions/d"
		right      = "az rest delete " + assignment + "?api-version=2022-04-01"
		theRole    = "az rest delete " + definition + "?api-version=2022-04-01"
		registry   = "az rest get " + contoso + "?api-version=2025-04-01"
		list       = "az acr webhook list"

		fabrikam  = "/subscriptions/22222222-2222-2222-2222-222222222222/resourceGroups/other/providers/Microsoft.ContainerRegistry/registries/fabrikam"
		right2    = "az rest delete " + assignment + "2?api-version=2022-04-01"
		role2     = "az rest delete " + definition + "2?api-version=2022-04-01"
		registry2 = "az rest get " + fabrikam + "?api-version=2025-04-01"
	)
	env := map[string]string{"REGISTRY_RESOURCE_ID": contoso, "WEBHOOK_OWNER": "prod-x", "REGISTRY_ROLE_ASSIGNMENT_IDS": `["` + assignment + `"]`, "REGISTRY_ROLE_IDS": `["` + definition + `"]`}
	tagged := func(name, owner string) any {
		return map[string]any{"name": name, "tags": map[string]any{"allregions": owner}}
	}
	good := loggedIn.with(scene{
		right: ok(nil), theRole: ok(nil), registry: ok(map[string]any{"name": "contoso"}),
		list:                          ok([]any{tagged("one", "prod-x"), tagged("theirs", "other"), map[string]any{"name": "plain", "tags": nil}, tagged("two", "prod-x")}),
		"az acr webhook delete one":   ok(nil),
		"az acr webhook delete two":   ok(nil),
		"az acr webhook delete three": ok(nil),
	})
	az := []string{"az"}
	everything := []string{right, registry, list, "az acr webhook delete one", "az acr webhook delete two", theRole}
	without := func(call string) []string {
		return slices.DeleteFunc(slices.Clone(everything), func(c string) bool { return strings.HasPrefix(c, call) })
	}
	for _, c := range []struct {
		name     string
		programs []string
		scene    scene
		env      map[string]string
		code     int
		says     []string
		calls    []string // after the look at the login
	}{
		{"no registry", az, nil, map[string]string{"WEBHOOK_OWNER": "prod-x"}, 0, nil, nil},
		{"all is well", az, good, env, 0, []string{"at contoso, as me@contoso.com\n  deleted the webhook one\n  deleted the webhook two\nNothing of the service is left at its registries\n"}, everything},
		{"two registries", az, good.with(scene{registry2: ok(map[string]any{"name": "fabrikam"}), right2: ok(nil), role2: ok(nil), list: ok([]any{tagged("three", "prod-x")})}),
			map[string]string{"REGISTRY_RESOURCE_ID": contoso + "," + fabrikam, "WEBHOOK_OWNER": "prod-x", "REGISTRY_ROLE_ASSIGNMENT_IDS": `["` + assignment + `","` + assignment + `2"]`, "REGISTRY_ROLE_IDS": `["` + definition + `","` + definition + `2"]`}, 0,
			[]string{"at contoso, as me@contoso.com\n  deleted the webhook three\nDeleting what the service has at fabrikam, as me@contoso.com\n  deleted the webhook three\n"},
			[]string{right, right2, registry, list, "az acr webhook delete three", registry2, list, "az acr webhook delete three", theRole, role2}},
		{"once more", az, good.with(scene{list: ok([]any{})}), env, 0, []string{"Nothing of the service is left"}, without("az acr webhook delete")},
		{"never deployed", az, good.with(scene{list: ok([]any{})}), map[string]string{"REGISTRY_RESOURCE_ID": contoso, "WEBHOOK_OWNER": "prod-x"}, 0, []string{"Nothing of the service is left"}, []string{registry, list}},
		{"the registry is gone", az, good.with(scene{registry: fails(`Not Found({"error":{"code":"ResourceNotFound"}})`)}), env, 0, []string{"contoso is gone", "Nothing of the service is left"}, []string{right, registry, theRole}},
		{"no az", nil, nil, env, 1, []string{"the webhooks with the tag allregions=prod-x at " + contoso, assignment, definition, "azd env set REGISTRY_RESOURCE_ID ''"}, nil},
		{"no login", az, scene{"az account show": fails("Please run 'az login'")}, env, 1, []string{"the webhooks with the tag allregions=prod-x"}, nil},
		{"a webhook stays", az, good.with(scene{"az acr webhook delete one": fails("(AuthorizationFailed)")}), env, 1, []string{
			"(AuthorizationFailed)", "  left: az acr webhook delete -r contoso --subscription 11111111-1111-1111-1111-111111111111 -n one\n", "deleted the webhook two", "Not everything of the service is deleted",
		}, everything},
		{"the right stays", az, good.with(scene{right: fails("Forbidden")}), env, 1, []string{"  left: az rest --method delete --url '" + assignment + "?api-version=2022-04-01'\n", "Not everything"}, everything},
		{"the role stays", az, good.with(scene{theRole: fails("RoleDefinitionHasAssignments")}), env, 1, []string{"  left: az rest --method delete --url '" + definition + "?", "Not everything"}, everything},
		{"no list", az, good.with(scene{list: fails("503")}), env, 1, []string{"503", "  perhaps left: az acr webhook list -r contoso --subscription 11111111-1111-1111-1111-111111111111 --query \"[?tags.allregions=='prod-x'].name\"", "Not everything"}, without("az acr webhook delete")},
		{"no look at the registry", az, good.with(scene{registry: fails("Forbidden")}), env, 1, []string{"perhaps left: webhooks of contoso, which az cannot read: Forbidden", "Not everything"}, []string{right, registry, theRole}},
	} {
		underEachShell(t, c.name, func(t *testing.T, shell string) {
			p := play(t, shell, "predown", c.programs, c.scene, c.env)
			p.says(t, c.code, c.says...)
			var calls []string
			for _, call := range p.calls {
				args := strings.Fields(call)
				if name := callOf(args[0], args[1:]); name != "az account show" {
					calls = append(calls, name)
				}
			}
			for i, call := range calls { // a query has spaces
				if strings.HasPrefix(call, list) {
					calls[i] = list
				}
				for _, get := range []string{registry, registry2} {
					if strings.HasPrefix(call, get) {
						calls[i] = get
					}
				}
			}
			if !slices.Equal(calls, c.calls) {
				t.Errorf("calls\n%q, want\n%q", calls, c.calls)
			}
		})
	}
}
