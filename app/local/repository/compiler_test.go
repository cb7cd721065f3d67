package repository

import (
	"encoding/json"
	"errors"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
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

// template is what Bicep makes of a file: resources by their names in it.
func template(t *testing.T, file string) map[string]struct {
	Options   map[string]any `json:"@options"`
	DependsOn []string       `json:"dependsOn"`
} {
	t.Helper()
	out, ok := compile(t, "build", "--stdout", filepath.Join(root, "infra", file))
	var compiled struct {
		Resources map[string]struct {
			Options   map[string]any `json:"@options"`
			DependsOn []string       `json:"dependsOn"`
		}
	}
	if err := json.Unmarshal([]byte(out), &compiled); !ok || err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return compiled.Resources
}

// A deployment writes the two keys only where Azure knows that there is none: azd
// takes a look-up that failed for a service that is not there, and a new key would
// lock out every webhook.
func TestInfraKeyIsWrittenOnce(t *testing.T) {
	for name, resource := range template(t, "vault.bicep") {
		if _, once := resource.Options["onlyIfNotExists"]; once != (name == "keys" || name == "readKeys") {
			t.Errorf("%s: only if there is none: %t", name, once)
		}
	}
}

// The service finds its rights when it starts.
func TestInfraRightsBeforeTheService(t *testing.T) {
	if after := template(t, "allregions.bicep")["app"].DependsOn; !slices.Contains(after, "rights") {
		t.Errorf("the app comes after %q", after)
	}
}

const (
	subscriptionID = "00000000-0000-0000-0000-000000000000"
	contoso        = "/subscriptions/11111111-1111-1111-1111-111111111111/resourceGroups/shared/providers/Microsoft.ContainerRegistry/registries/contoso"
)

// refusal is what a deployment of one of infra's files says to these parameters,
// each as Bicep writes it, before it creates anything. It is "" if it does create.
func refusal(t *testing.T, file string, parameters map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	infra, err := filepath.Abs(filepath.Join(root, "infra", file))
	if err != nil {
		t.Fatal(err)
	}
	using, err := filepath.Rel(dir, infra)
	if err != nil {
		t.Fatal(err)
	}
	text := "using '" + using + "'\n"
	for name, value := range parameters {
		text += "param " + name + " = " + value + "\n"
	}
	path := filepath.Join(dir, "x.bicepparam")
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	args := []string{"snapshot", path, "--mode", "overwrite", "--subscription-id", subscriptionID, "--location", "westeurope"}
	if file != "main.bicep" {
		args = append(args, "--resource-group", "rg-prod")
	}
	if said, ok := compile(t, args...); !ok {
		return said
	}
	return ""
}

// Settings that are wrong are named, with the variable and the value, all at once
// and before anything is created.
func TestInfraRefusesSettings(t *testing.T) {
	const noRegion = `: "%" is not the name of a region, such as westeurope.`
	regions := func(variable, value string) string { return variable + strings.ReplaceAll(noRegion, "%", value) }
	pairs := []string{
		`TARGET_SECRETS: "PLAIN=" is not a pair NAME=secret of a variable and the name of a secret in the vault.`,
		`TARGET_SECRETS: "A=b=c" is not a pair `,
		`TARGET_SECRETS: "=nameless" is not a pair `,
		`TARGET_SECRETS: "MY-NAME=s" is not a pair `,
		`TARGET_SECRETS: "UNDER=my_secret" is not a pair `,
		`TARGET_SECRETS: "WEBHOOK_KEYS" is a variable that the deployment sets itself.`,
		`TARGET_SECRETS: "TWICE" has more than one secret.`,
	}
	const badPairs = `'PLAIN,A=b=c,=nameless,MY-NAME=s,UNDER=my_secret,WEBHOOK_KEYS=mine,TWICE=one,TWICE=two,GOOD=good,GOOD=Good'`
	registry := func(id string) string {
		return `EXISTING_REGISTRY_ID: "` + id + `" is not the resource id of a registry, which is /subscriptions/ID/resourceGroups/GROUP/providers/Microsoft.ContainerRegistry/registries/NAME.`
	}
	base := map[string]string{"environmentName": "'prod'", "location": "'westeurope'", "registryResourceId": "'" + contoso + "'"}
	app := map[string]string{
		"environmentName": "'prod'", "location": "'westeurope'", "containerEnvironmentName": "'cae'", "identityName": "'id'", "imagesEndpoint": "'cr.azurecr.io'",
		"vaultName": "'kv'", "image": "'cr.azurecr.io/allregions:1'", "registryResourceId": "''", "webhookOwner": "'prod-x'",
	}
	for _, c := range []struct {
		name, file string
		set        map[string]string
		want       []string
	}{
		{"good", "main.bicep", nil, nil},
		{"good app", "allregions.bicep", nil, nil},
		{"everything", "main.bicep", map[string]string{
			"location":           "'West_Europe'",
			"registryResourceId": "'contoso'",
			"newRegistryRegions": "'eastus,east/us'",
			"webhookRegions":     "', ,'",
			"subscriptions":      "'deploy,my app'",
			"vaultVariables":     badPairs,
			"cosmosThroughput":   "1500",
			"zoneRedundant":      "true",
			"extraTags":          "'PLAIN,=nameless,azd-env-name=mine,team=a,Team=b,fine=x=y'",
		}, append([]string{
			regions("AZURE_LOCATION", "West_Europe"), registry("contoso"), regions("NEW_REGISTRY_REGIONS", "east/us"), `WEBHOOK_REGIONS: ", ," names no region.`,
			`SUBSCRIPTIONS: "my app" is not the name of a subscription`, "cosmosThroughput: 1500 is neither 0 nor a multiple of 1000.",
			"ZONE_REDUNDANT: true needs SUBNET_ID, a subnet for the environment.",
			`EXTRA_TAGS: "PLAIN=" is not a pair NAME=value of a tag.`, `EXTRA_TAGS: "=nameless" is not a pair `,
			`EXTRA_TAGS: "azd-env-name" is a tag that azd finds its resources by.`, `EXTRA_TAGS: "team" has more than one value.`,
		}, pairs...)},
		{"the service's", "allregions.bicep", map[string]string{"webhookRegions": "'east_us'", "vaultVariables": badPairs}, append([]string{regions("WEBHOOK_REGIONS", "east_us")}, pairs...)},
		{"two locations", "main.bicep", map[string]string{"location": "'eastus,westus'"}, []string{regions("AZURE_LOCATION", "eastus,westus")}},
		{"a slash behind", "main.bicep", map[string]string{"registryResourceId": "'" + contoso + "/'"}, []string{registry(contoso + "/")}},
		{"no name", "main.bicep", map[string]string{"registryResourceId": "'" + strings.TrimSuffix(contoso, "contoso") + "'"}, []string{registry(strings.TrimSuffix(contoso, "contoso"))}},
		{"another resource", "main.bicep", map[string]string{"registryResourceId": "'" + strings.ReplaceAll(contoso, "registries", "agents") + "'"}, []string{registry(strings.ReplaceAll(contoso, "registries", "agents"))}},
		{"two registries", "main.bicep", map[string]string{"registryResourceId": "' " + contoso + " , " + contoso + "2'"}, nil},
		{"the second one", "main.bicep", map[string]string{"registryResourceId": "'" + contoso + ",fabrikam'"}, []string{registry("fabrikam")}},
		{"one name twice", "main.bicep", map[string]string{"registryResourceId": "'" + contoso + "," + strings.ReplaceAll(contoso, "shared", "other") + "'"}, []string{"EXISTING_REGISTRY_ID: two registries are called contoso."}},
		{"no subnet", "main.bicep", map[string]string{"subnetId": "'" + contoso + "'"}, []string{`SUBNET_ID: "` + contoso + `" is not the resource id of a subnet`}},
		{"the service's tags", "allregions.bicep", map[string]string{"extraTags": "'AZD-service-name=mine'"}, []string{`EXTRA_TAGS: "AZD-service-name" is a tag that azd finds its resources by.`}},
		{"no registry", "main.bicep", map[string]string{"registryResourceId": "''", "webhookRegions": "' '"}, []string{"Which registry? azd env set EXISTING_REGISTRY_ID "}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			parameters := maps.Clone(base)
			if c.file != "main.bicep" {
				parameters = maps.Clone(app)
			}
			maps.Copy(parameters, c.set)
			got := refusal(t, c.file, parameters)
			if len(c.want) == 0 && got != "" {
				t.Error(got)
			}
			for _, want := range c.want {
				if !strings.Contains(got, want) {
					t.Errorf("no %q in\n%s", want, got)
				}
			}
			if lines := strings.Count(got, "\n"); len(c.want) > 0 && lines != len(c.want) {
				t.Errorf("%d problems of %d:\n%s", lines, len(c.want), got)
			}
		})
	}
}

// A secret for a variable that the deployment sets itself would be there twice:
// the names are those of allregions.bicep.
func TestInfraOwnVariables(t *testing.T) {
	_, list, _ := strings.Cut(read(t, "infra/settings.bicep"), "func ownVariables() array => [")
	list, _, _ = strings.Cut(list, "]")
	got, want := submatches(`'(\w+)'`, list), submatches(`\{ name: '([A-Z_]+)'`, read(t, "infra/allregions.bicep"))
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
