package repository

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"allregions/app/local/cosmos"
)

// These tests hold infra/, which has names of its own, to what the service and
// components/ have. Whether it is Bicep at all is for the compiler, in
// .ci/run.

// bicep is each file of infra/ by its name.
func bicep(t *testing.T) map[string]string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(root, "infra", "*.bicep"))
	if err != nil || len(files) == 0 {
		t.Fatalf("%v, %v", files, err)
	}
	texts := map[string]string{}
	for _, file := range files {
		texts[filepath.Base(file)] = read(t, filepath.Join("infra", filepath.Base(file)))
	}
	return texts
}

// mainPackage is the source of package main.
func mainPackage(t *testing.T) string {
	t.Helper()
	var source strings.Builder
	files, err := filepath.Glob(filepath.Join(root, "app", "*.go"))
	if err != nil || len(files) == 0 {
		t.Fatalf("%q, %v", files, err)
	}
	for _, file := range files {
		if !strings.HasSuffix(file, "_test.go") {
			source.WriteString(read(t, filepath.Join("app", filepath.Base(file))))
		}
	}
	return source.String()
}

func TestInfraNames(t *testing.T) {
	files := bicep(t)
	app := files["allregions.bicep"]
	for what, pair := range map[string][2]string{
		"topic":           {oneOf(t, `var topic = '(.*)'`, files["main.bicep"]), defaultOf(t, "TOPIC")},
		"webhook topic":   {oneOf(t, `var webhookTopic = '(.*)'`, files["main.bicep"]), defaultOf(t, "WEBHOOK_TOPIC")},
		"dead letters":    {oneOf(t, `name: '\$\{webhookTopic\}(.*)'`, files["servicebus.bicep"]), oneOf(t, `const deadLetters = "(.*)"`, mainPackage(t))},
		"public port":     {oneOf(t, `var publicPort = (.*)`, app), defaultOf(t, "PORT")},
		"app port":        {oneOf(t, `var appPort = (.*)`, app), defaultOf(t, "APP_PORT")},
		"ingress":         {oneOf(t, `targetPort: (\w+)`, app), "publicPort"},
		"probes":          {oneOf(t, `\bport: (\w+)`, app), "publicPort"},
		"sidecar":         {oneOf(t, `appPort: (\w+)`, app), "appPort"},
		"protocol":        {oneOf(t, `appProtocol: (\S+)`, app), "'http'"},
		"app id":          {oneOf(t, `appId: (\w+)`, app), "appId"},
		"revisions":       {oneOf(t, `activeRevisionsMode: (\S+)`, app), "'Single'"},
		"partition key":   {oneOf(t, `paths: \['(/.*?)'\]`, files["cosmos.bicep"]), cosmos.PartitionKey},
		"fewest replicas": {oneOf(t, `@minValue\((\d+)\)\nparam minReplicas`, app), "1"},
	} {
		if pair[0] != pair[1] {
			t.Errorf("%s: %s, want %s", what, pair[0], pair[1])
		}
	}
	for _, path := range []string{"/healthz", "/readyz"} {
		if !strings.Contains(app, "path: '"+path+"'") {
			t.Errorf("no probe of %s", path)
		}
	}
	// The identity with which the service calls Azure is that of the components.
	for _, want := range []string{"name: 'AZURE_CLIENT_ID', value: identity.properties.clientId", "name: 'WEBHOOK_KEYS', secretRef: 'webhook-keys'", "name: 'READ_KEYS', secretRef: 'read-keys'"} {
		if !strings.Contains(app, want) {
			t.Errorf("no %q", want)
		}
	}
	// Go's soft limit leaves the container a tenth for what is not the heap.
	if gib, mib := oneOf(t, `memory: '(\d+)Gi'`, app), oneOf(t, `'GOMEMLIMIT', value: '(\d+)MiB'`, app); gib != "1" || mib != "900" {
		t.Errorf("GOMEMLIMIT %s MiB of %s GiB", mib, gib)
	}
	names, _ := settings(t)
	set := submatches(`\{ name: '([A-Z_]+)'`, app)
	for _, name := range set {
		if !slices.Contains(names, name) && name != "AZURE_CLIENT_ID" && name != "GOMEMLIMIT" {
			t.Errorf("%s is no setting", name)
		}
	}
	for _, name := range []string{"PUBLIC_URL", "REGISTRY_RESOURCE_ID", "WEBHOOK_REGIONS", "WEBHOOK_OWNER"} {
		if !slices.Contains(set, name) {
			t.Errorf("%s is not set", name)
		}
	}
}

// The components on Azure are components/azure, and have names from nowhere else.
func TestInfraComponents(t *testing.T) {
	files := bicep(t)
	var want []string
	entries, err := os.ReadDir(filepath.Join(root, "components", "azure"))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		want = append(want, "../components/azure/"+e.Name())
	}
	got := submatches(`loadYamlContent\('(.*?)'\)`, files["dapr.bicep"])
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("deployed: %q, want %q", got, want)
	}
	// Each placeholder is replaced, and each replaced one is there.
	var placeholders []string
	for _, c := range components(t, "azure") {
		for _, m := range c.Spec.Metadata {
			placeholders = append(placeholders, submatches(`(<.*?>)`, m.Value)...)
		}
	}
	slices.Sort(placeholders)
	replaced := submatches(`'(<.*?>)'`, files["dapr.bicep"])
	slices.Sort(replaced)
	if placeholders = slices.Compact(placeholders); !slices.Equal(replaced, placeholders) {
		t.Errorf("replaced: %q, want %q", replaced, placeholders)
	}
	// An environment may refuse two changes at once.
	if !strings.Contains(files["dapr.bicep"], "\n@batchSize(1)\nresource deployed 'Microsoft.App/managedEnvironments/daprComponents@") {
		t.Error("the components are deployed all at once")
	}
	// The service takes from the subscription that there is.
	found := components(t, "azure")
	if broker := found[defaultOf(t, "PUBSUB")]; !slices.Equal(broker.Scopes, []string{broker.value("consumerID")}) ||
		oneOf(t, `var appId = (.*)`, files["servicebus.bicep"]) != "loadYamlContent('../components/azure/pubsub.yaml').scopes[0]" {
		t.Errorf("Dapr's consumer is %q, with a subscription for each of %q", broker.value("consumerID"), broker.Scopes)
	}
	for name, text := range files {
		for component, c := range found {
			for _, literal := range []string{component, c.value("database"), c.value("collection")} {
				// "images" is a module and a variable, too: in quotes, after name: or id:.
				if literal != "" && regexp.MustCompile(`(name|id): '`+literal+`'`).MatchString(text) && name != "main.bicep" {
					t.Errorf("%s has %q, which components/azure has", name, literal)
				}
			}
		}
	}
}

// Cosmos DB indexes what people query, and nothing else: each path more makes every
// webhook cost more. Dapr puts a record under "value".
func TestInfraIndexes(t *testing.T) {
	type index struct{ included, excluded string }
	policies := regexp.MustCompile(`(?s)id: (\w+)\.collection.*?indexingMode: '(\w+)'.*?includedPaths: (\[.*?\])[,\n].*?excludedPaths: (\[.*?\])[ \n]`)
	cosmosDB := read(t, "infra/cosmos.bicep")
	got := map[string]index{}
	for _, m := range policies.FindAllStringSubmatch(cosmosDB, -1) {
		if m[2] != "consistent" {
			t.Errorf("%s is indexed %s, with which nothing expires", m[1], m[2])
		}
		got[m[1]] = index{m[3], m[4]}
	}
	want := map[string]index{
		"stateNames": {"[]", "[{ path: '/*' }]"},
		"imageNames": {"[for field in queried: { path: '/value/${field}/?' }]", "[{ path: '/*' }]"},
	}
	if !maps.Equal(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}

	// A field that the record does not have is not indexed, and nobody says so.
	var record map[string]any
	if err := json.Unmarshal([]byte(read(t, "app/notification/testdata/record-1.json")), &record); err != nil {
		t.Fatal(err)
	}
	fields := slices.Collect(maps.Keys(record))
	queried := submatches(`'(.*?)'`, oneOf(t, `(?m)^var queried = \[(.*)\]$`, cosmosDB))
	for _, path := range queried {
		field := strings.TrimSuffix(path, "/[]")
		if !slices.Contains(fields, field) || field == "actor" {
			t.Errorf("%s is indexed, of %q", path, fields)
		}
	}
	if want := []string{"timestamp", "action", "loginServer", "image", "tag", "digest", "status", "missing/[]", "startedAt"}; !slices.Equal(queried, want) {
		t.Errorf("indexed: %q, want %q", queried, want)
	}
}

// Expired outcomes must not become dead letters: these never expire, and count
// towards the size of a topic that all subscribers share. An expired webhook's
// event must: nothing else would know of it.
func TestInfraExpiry(t *testing.T) {
	type expiry struct{ topic, timeToLive, deadLetter string }
	value := func(name, resource string) string {
		return strings.Join(submatches(`(?m)^ +`+name+`: (.*)$`, resource), " and ")
	}
	got := map[string]expiry{}
	resources := regexp.MustCompile(`(?ms)^resource (\w+) 'Microsoft.ServiceBus/namespaces/topics/subscriptions@.*?^[}\]]$`)
	for _, m := range resources.FindAllStringSubmatch(read(t, "infra/servicebus.bicep"), -1) {
		got[m[1]] = expiry{value("parent", m[0]), value("defaultMessageTimeToLive", m[0]), value("deadLetteringOnMessageExpiration", m[0])}
	}
	want := map[string]expiry{
		"own":       {"outcomes", "'P7D'", "false"},
		"others":    {"outcomes", "'P7D'", "false"},
		"delivered": {"waiting", "", "true"}, // its time to live is the topic's
		"inspected": {"dead", "", ""},        // for a person
	}
	if !maps.Equal(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
}

// The account's consistency is what reads get, as infra/cosmos.bicep says, while no
// request and no component names another.
func TestInfraConsistency(t *testing.T) {
	if level := oneOf(t, `defaultConsistencyLevel: '(\w+)'`, read(t, "infra/cosmos.bicep")); level != "Strong" {
		t.Errorf("the account is %s", level)
	}
	if level := oneOf(t, `const anyConsistency = dapr\.(\w+)`, read(t, "app/sidecar/store.go")); level != "StateConsistencyUndefined" {
		t.Errorf("the service asks for %s", level)
	}
	for _, line := range submatches(`(?m)^(.*(?:StateConsistency\w+|[Cc]onsistency:).*)$`, read(t, "app/sidecar/store.go")) {
		if !strings.Contains(line, "anyConsistency") {
			t.Errorf("%q asks for a level of its own", line)
		}
	}
	for name, c := range components(t, "azure") {
		for _, m := range c.Spec.Metadata {
			if strings.Contains(strings.ToLower(m.Name), "consistency") {
				t.Errorf("%s has %s", name, m.Name)
			}
		}
	}
}

func TestInfraConventions(t *testing.T) {
	ids := regexp.MustCompile(`var (\w+) = '[0-9a-f]{8}-[0-9a-f]{4}-`)
	for name, text := range bicep(t) {
		for _, version := range submatches(`@(\d{4}-\d\d-\d\d[^']*)'`, text) {
			if strings.HasSuffix(version, "-preview") && strings.Count(text, "@"+version) != strings.Count(text, "diagnosticSettings@"+version) {
				t.Errorf("%s uses %s, which is not generally available", name, version)
			}
		}
		// All older ones retire on 2027-02-27.
		for _, version := range submatches(`Microsoft\.KeyVault/[\w/]+@(\d{4}-\d\d-\d\d)`, text) {
			if version < "2026-02-01" {
				t.Errorf("%s uses Key Vault's %s, which retires", name, version)
			}
		}
		if strings.Contains(text, "listKeys") || strings.Contains(strings.ToLower(text), "connectionstrings(") {
			t.Errorf("%s asks for keys", name)
		}
		lines := strings.Split(text, "\n")
		for i, line := range lines {
			if ids.MatchString(line) && (i < 2 || !strings.HasPrefix(lines[i-1], "// https://learn.microsoft.com/") || !strings.HasPrefix(lines[i-2], "// ")) {
				t.Errorf("%s: %s: no name or no link above", name, line)
			}
		}
	}
	// What main.bicep deploys into a resource group, some azd delete the group of.
	for name, text := range bicep(t) {
		if name != "allregions.bicep" && regexp.MustCompile(`scope: (resourceGroup|subscription)\(`).MatchString(text) {
			t.Errorf("%s reaches into a resource group that may not be ours", name)
		}
	}
	for _, scope := range submatches(`(?s)module \w+ '.*?scope: (\w+)`, read(t, "infra/main.bicep")) {
		if scope != "group" {
			t.Errorf("a module in %s", scope)
		}
	}
	// The service's roles are said once each, in English, in infra/README.md.
	for _, action := range submatches(`'(Microsoft\.ContainerRegistry/registries/[\w/]+)'`, read(t, "infra/rights.bicep")) {
		if strings.HasSuffix(action, "/delete") || strings.Contains(action, "*") || strings.Contains(action, "pull") {
			t.Errorf("the service may %s", action)
		}
	}
}

// userSettings are what a user may `azd env set`, and what azd or a deployment
// sets: with them, the parameters of infra are complete.
func userSettings(t *testing.T) (user []string) {
	t.Helper()
	fromAZD := []string{"AZURE_ENV_NAME", "AZURE_LOCATION", "AZURE_PRINCIPAL_ID", "AZURE_PRINCIPAL_TYPE", "SERVICE_ALLREGIONS_IMAGE_NAME"}
	outputs := submatches(`(?m)^output (\w+)`, read(t, "infra/main.bicep"))
	var parameters struct {
		Parameters map[string]struct{ Value string }
	}
	if err := json.Unmarshal([]byte(read(t, "infra/main.parameters.json")), &parameters); err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, p := range parameters.Parameters {
		names = append(names, submatches(`^\$\{(\w+)(?:=\w+)?\}$`, p.Value)...)
	}
	if len(names) != len(parameters.Parameters) {
		t.Errorf("%d variables for %d parameters", len(names), len(parameters.Parameters))
	}
	for _, name := range names {
		if slices.Contains(outputs, name) {
			t.Errorf("%s is a parameter and an output: the second deployment gets what the first one put out", name)
		}
	}
	names = append(names, submatches(`readEnvironmentVariable\('(\w+)'`, read(t, "infra/allregions.bicepparam"))...)
	for _, name := range names {
		if !slices.Contains(fromAZD, name) && !slices.Contains(outputs, name) && !slices.Contains(user, name) {
			user = append(user, name)
		}
	}
	slices.Sort(user)
	return user
}

type azureYAML struct {
	Name             string
	Metadata         struct{ Template string }
	RequiredVersions struct{ AZD string } `yaml:"requiredVersions"`
	Infra            struct{ Provider, Path string }
	Services         map[string]struct {
		Project, Host, Language string
		Docker                  struct {
			Path, Context string
			RemoteBuild   bool     `yaml:"remoteBuild"`
			BuildArgs     []string `yaml:"buildArgs"`
		}
	}
	Pipeline struct{ Variables []string }
	Hooks    map[string]struct {
		Posix, Windows hookYAML
	}
}

type hookYAML struct {
	Shell, Run      string
	Interactive     bool
	ContinueOnError bool `yaml:"continueOnError"`
}

func loadAzureYAML(t *testing.T) (a azureYAML) {
	t.Helper()
	decoder := yaml.NewDecoder(strings.NewReader(read(t, "azure.yaml")))
	decoder.KnownFields(true)
	if err := decoder.Decode(&a); err != nil {
		t.Fatal(err)
	}
	return a
}

func TestAzureYAML(t *testing.T) {
	a := loadAzureYAML(t)
	service, ok := a.Services[appID]
	if len(a.Services) != 1 || !ok || service.Host != "containerapp" || service.Language != "docker" || !service.Docker.RemoteBuild {
		t.Errorf("%+v", a.Services)
	}
	if !slices.Equal(service.Docker.BuildArgs, []string{"VERSION=${VERSION}"}) || !strings.Contains(read(t, "infra/hooks/predeploy.sh"), `azd env set VERSION "$version"`) {
		t.Errorf("the image is built with %q", service.Docker.BuildArgs)
	}
	for _, file := range []string{service.Docker.Path, a.Infra.Path + "/main.bicep", a.Infra.Path + "/" + appID + ".bicep", a.Infra.Path + "/" + appID + ".bicepparam"} {
		if _, err := os.Stat(filepath.Join(root, file)); err != nil {
			t.Error(err)
		}
	}
	if !strings.Contains(read(t, "infra/allregions.bicep"), "'azd-service-name': '"+appID+"'") {
		t.Error("azd will not find the service")
	}
	if a.RequiredVersions.AZD != ">= 1.24.1" {
		t.Errorf("azd %s", a.RequiredVersions.AZD)
	}

	// A pipeline knows all that a laptop knows.
	var workflow struct {
		Jobs map[string]struct {
			Permissions map[string]string
			Env         map[string]string
			Needs       string
			Steps       []struct{ Uses, Run string }
		}
	}
	if err := yaml.Unmarshal([]byte(read(t, ".github/workflows/azure-dev.yml")), &workflow); err != nil {
		t.Fatal(err)
	}
	deploy, check := workflow.Jobs["deploy"], workflow.Jobs["check"]
	if deploy.Permissions["id-token"] != "write" || deploy.Needs != "check" {
		t.Errorf("%+v", deploy)
	}
	parameters := read(t, "infra/main.parameters.json")
	for _, name := range userSettings(t) {
		if !strings.Contains(parameters, "${"+name) && !slices.Contains(a.Pipeline.Variables, name) {
			t.Errorf("azd pipeline config does not take %s along", name)
		}
		if deploy.Env[name] != "${{ vars."+name+" }}" {
			t.Errorf("the workflow has %s as %q", name, deploy.Env[name])
		}
	}
	for _, name := range a.Pipeline.Variables {
		if !slices.Contains(userSettings(t), name) {
			t.Errorf("nothing reads %s", name)
		}
	}
	var runs []string
	for _, s := range check.Steps {
		runs = append(runs, s.Run)
	}
	// Without the compiler, .ci/run does not check infra.
	if all := strings.Join(runs, "\n"); !regexp.MustCompile(`(?s)az bicep install --version .*>> "\$GITHUB_PATH"\n.*\.ci/run`).MatchString(all) {
		t.Errorf("the workflow runs\n%s", all)
	}
}

// snapshots are the parameters of infra/test, and the file of infra that each is for.
func snapshots(t *testing.T) map[string]string {
	t.Helper()
	using := map[string]string{}
	for _, name := range filesIn(t, "infra/test", ".bicepparam") {
		using[name] = oneOf(t, `(?m)^using '\.\./(.*)'$`, read(t, name))
	}
	return using
}

// A deployment, in each of the ways to name a registry and with everything set, makes
// what infra/test has. The compiler compares that with infra, in .ci/run.
func TestInfraSnapshots(t *testing.T) {
	type resource struct {
		Type, Name, Location string
		Properties           struct {
			Configuration struct{ Secrets []struct{ Name string } }
			Template      struct {
				Containers []struct {
					Env []struct{ Name, Value, SecretRef string }
				}
			}
		}
	}
	type snapshot struct {
		PredictedResources []resource
		Outputs            map[string]any
	}
	load := func(name string) (s snapshot) {
		if err := json.Unmarshal([]byte(read(t, "infra/test/"+name+".snapshot.json")), &s); err != nil {
			t.Fatal(err)
		}
		return s
	}
	// names are the last parts of the names of a type's resources below a parent's.
	names := func(s snapshot, kind, parent string) (found []string) {
		for _, r := range s.PredictedResources {
			if last := r.Name[strings.LastIndex(r.Name, "/")+1:]; r.Type == kind && strings.HasSuffix(strings.TrimSuffix(r.Name, last), parent) {
				found = append(found, last)
			}
		}
		slices.Sort(found)
		return found
	}
	for name := range snapshots(t) {
		load(strings.TrimSuffix(filepath.Base(name), ".bicepparam"))
	}
	const subscriptions, replicas = "Microsoft.ServiceBus/namespaces/topics/subscriptions", "Microsoft.ContainerRegistry/registries/replications"
	for _, c := range []struct {
		name                    string
		subscriptions, replicas []string
		watched                 bool
	}{
		{"existing", []string{appID}, nil, true},
		{"new", []string{appID}, []string{"eastus", "japaneast"}, true},
		{"hand", []string{appID}, nil, false},
		{"everything", []string{appID, "deploy", "scan"}, nil, true},
	} {
		s := load(c.name)
		if got := names(s, subscriptions, "/acr-notifications/"); !slices.Equal(got, c.subscriptions) {
			t.Errorf("%s: subscriptions %q, want %q", c.name, got, c.subscriptions)
		}
		if got := names(s, replicas, "/"); !slices.Equal(got, c.replicas) {
			t.Errorf("%s: replicas %q, want %q", c.name, got, c.replicas)
		}
		if got := s.Outputs["REGISTRY_RESOURCE_ID"] != ""; got != c.watched {
			t.Errorf("%s: registry %q", c.name, s.Outputs["REGISTRY_RESOURCE_ID"])
		}
		for _, r := range s.PredictedResources {
			if r.Location != "" && r.Location != "westeurope" && r.Type != replicas && r.Type != "Microsoft.Insights/actionGroups" {
				t.Errorf("%s: %s is in %q", c.name, r.Name, r.Location)
			}
		}
	}

	for _, c := range []struct {
		name, regions string
		secrets       []string
		variables     map[string]string // that have a secret
		rights        bool
	}{
		{"service", "", []string{"webhook-keys", "read-keys"}, map[string]string{"WEBHOOK_KEYS": "webhook-keys", "READ_KEYS": "read-keys"}, true},
		{"service-hand", "westeurope,eastus", []string{"webhook-keys", "read-keys"}, map[string]string{"WEBHOOK_KEYS": "webhook-keys", "READ_KEYS": "read-keys"}, false},
		{"service-everything", "westeurope,eastus", []string{"webhook-keys", "read-keys", "slack-url", "otlp-headers"}, map[string]string{
			"WEBHOOK_KEYS": "webhook-keys", "READ_KEYS": "read-keys", "SLACK_URL": "slack-url", "BACKUP_URL": "slack-url", "OTEL_EXPORTER_OTLP_HEADERS": "otlp-headers",
		}, true},
	} {
		s := load(c.name)
		i := slices.IndexFunc(s.PredictedResources, func(r resource) bool { return r.Type == "Microsoft.App/containerApps" })
		if i < 0 || len(s.PredictedResources[i].Properties.Template.Containers) != 1 {
			t.Fatalf("%s: no app with one container", c.name)
		}
		app := s.PredictedResources[i].Properties
		var secrets []string
		for _, secret := range app.Configuration.Secrets {
			secrets = append(secrets, secret.Name)
		}
		if !slices.Equal(secrets, c.secrets) {
			t.Errorf("%s: secrets %q, want %q", c.name, secrets, c.secrets)
		}
		variables, regions := map[string]string{}, ""
		for _, v := range app.Template.Containers[0].Env {
			if v.SecretRef != "" {
				variables[v.Name] = v.SecretRef
			}
			if v.Name == "WEBHOOK_REGIONS" {
				regions = v.Value
			}
		}
		if !maps.Equal(variables, c.variables) || regions != c.regions {
			t.Errorf("%s: %q with the regions %q, want %q with %q", c.name, variables, regions, c.variables, c.regions)
		}
		if got := len(names(s, "Microsoft.Authorization/roleDefinitions", "")) == 1; got != c.rights {
			t.Errorf("%s: rights at the registry: %t", c.name, got)
		}
	}
}

// What a platform team may ask for is off until somebody asks. What anybody would ask
// for is on: who did what at the vault, the database, the broker and the registries is
// in the workspace.
func TestInfraForAPlatformTeam(t *testing.T) {
	type choices struct {
		ZoneRedundant bool
		SubnetID      string
		SoftDelete    bool
		Purge         bool
		Backup        string
		Quota         int
		Tags          string
		Audited       string
	}
	load := func(name string) (c choices) {
		var s struct {
			PredictedResources []struct {
				ID, Type   string
				Tags       map[string]string
				Properties struct {
					ZoneRedundant         bool
					VnetConfiguration     struct{ InfrastructureSubnetID string }
					EnableSoftDelete      bool
					EnablePurgeProtection bool
					BackupPolicy          struct{ Type string }
					Locations             []struct{ IsZoneRedundant bool }
					WorkspaceCapping      struct{ DailyQuotaGb int }
					WorkspaceID           string
					Logs                  []struct{ CategoryGroup, Category string }
				}
			}
		}
		if err := json.Unmarshal([]byte(read(t, "infra/test/"+name+".snapshot.json")), &s); err != nil {
			t.Fatal(err)
		}
		tags, audited := map[string]int{}, []string{}
		for _, r := range s.PredictedResources {
			p := r.Properties
			switch r.Type {
			case "Microsoft.App/managedEnvironments":
				c.ZoneRedundant, c.SubnetID = p.ZoneRedundant, p.VnetConfiguration.InfrastructureSubnetID
			case "Microsoft.DocumentDB/databaseAccounts":
				c.Backup = p.BackupPolicy.Type
				if p.Locations[0].IsZoneRedundant {
					c.Backup += " in zones"
				}
			case "Microsoft.KeyVault/vaults":
				c.SoftDelete, c.Purge = p.EnableSoftDelete, p.EnablePurgeProtection
			case "Microsoft.OperationalInsights/workspaces":
				c.Quota = p.WorkspaceCapping.DailyQuotaGb
			case "Microsoft.Insights/diagnosticSettings":
				if !strings.Contains(p.WorkspaceID, "/workspaces/log-") {
					t.Errorf("%s: %s goes to %q", name, r.ID, p.WorkspaceID)
				}
				of := strings.Split(r.ID, "/")
				audited = append(audited, of[7]+" "+p.Logs[0].CategoryGroup+p.Logs[0].Category)
			}
			if r.Tags != nil {
				tags[fmt.Sprint(r.Tags)]++
			}
		}
		if len(tags) != 1 {
			t.Errorf("%s: resources have different tags: %v", name, tags)
		}
		slices.Sort(audited)
		c.Tags, c.Audited = strings.Join(slices.Collect(maps.Keys(tags)), ""), strings.Join(audited, ", ")
		return c
	}
	const audited = "databaseAccounts ControlPlaneRequests, managedEnvironments allLogs, namespaces audit, registries audit, vaults audit"
	for name, want := range map[string]choices{
		"existing": {SoftDelete: true, Backup: "Periodic", Quota: -1, Tags: "map[azd-env-name:prod]", Audited: audited},
		"new":      {SoftDelete: true, Backup: "Periodic", Quota: -1, Tags: "map[azd-env-name:try]", Audited: strings.Replace(audited, "registries audit", "registries audit, registries audit", 1)},
		"everything": {
			ZoneRedundant: true,
			SubnetID:      "/subscriptions/11111111-1111-1111-1111-111111111111/resourceGroups/network/providers/Microsoft.Network/virtualNetworks/hub/subnets/apps",
			SoftDelete:    true,
			Purge:         true,
			Backup:        "Continuous in zones",
			Quota:         2,
			Tags:          "map[azd-env-name:all costCenter:42 team:shop]",
			Audited:       audited,
		},
	} {
		if got := load(name); got != want {
			t.Errorf("%s:\ngot  %+v\nwant %+v", name, got, want)
		}
	}
}

// The costs are the counted calls, times Microsoft's figures, times the prices.
func TestREADMECosts(t *testing.T) {
	const heading, regions = "## What a million pushes cost", 3
	calls := map[string]int{} // for three regions in time, as a test of app/local/stack counts them
	for _, row := range rowsOf(t, "app/local/README.md", "## load") {
		if len(row) == 4 {
			n, err := strconv.Atoi(strings.ReplaceAll(row[2], "R", strconv.Itoa(regions)))
			if err == nil {
				calls[strings.Trim(row[1], "`")] = n
			}
		}
	}
	number := regexp.MustCompile(`^\**(\d+(?:\.\d+)?)`)
	per := map[string]float64{"RU": 1e6, "operations": 1e6, "requests": 1e6, "vCPU-seconds": 1, "KB": 1e6, "KB-months": 1e6}
	sum := 0.0
	for _, row := range rowsOf(t, "infra/README.md", heading) {
		value := func(column int) float64 {
			found := number.FindStringSubmatch(row[column])
			if found == nil {
				t.Fatalf("%q: no number in %q", row[0], row[column])
			}
			return must(strconv.ParseFloat(found[1], 64))
		}
		if row[0] == "" {
			if math.Abs(value(3)-sum) > 0.005 {
				t.Errorf("the sum is %v, want %.2f", value(3), sum)
			}
			continue
		}
		if each := regexp.MustCompile(`(\d+) (read|write)s of ([\d.]+)(, twice)?`).FindStringSubmatch(row[1]); each != nil {
			want := must(strconv.ParseFloat(each[1], 64)) * must(strconv.ParseFloat(each[3], 64))
			if each[4] != "" {
				want *= 2
			}
			if math.Abs(value(1)-want) > 0.005 {
				t.Errorf("%s: %v RU, want %.2f", row[0], value(1), want)
			}
		}
		unit := strings.TrimSuffix(strings.Fields(row[1])[1], ":")
		cost := value(1) * 1e6 * value(2) / per[unit]
		if math.Abs(value(3)-cost) > 0.006 {
			t.Errorf("%s: %v, want %.2f", row[0], value(3), cost)
		}
		sum += value(3)
	}
	text := section(t, "infra/README.md", heading)
	for _, want := range []string{
		fmt.Sprintf("RU: %d reads of 1.14, twice", calls["images get"]),
		fmt.Sprintf("RU: %d writes of 6.67", calls["images set"]),
		fmt.Sprintf("| %d operations: the outcome", 3*calls["pubsub egress"]),
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q; the calls are %v", want, calls)
		}
	}
	// A record is of the size that the figures are for.
	if size := len(read(t, "app/notification/testdata/record-1.json")) + len(read(t, "app/api/testdata/payloads/push.json")); size > 4000 || size < 2000 {
		t.Errorf("a record has about %d bytes", size)
	}
}

// Whatever a deployment makes that has an address on the internet has a row, which says
// who gets in.
func TestREADMEPublic(t *testing.T) {
	rows := map[string]string{
		"Microsoft.App/containerApps":                      "the service's URL",
		"Microsoft.DocumentDB/databaseAccounts":            "Cosmos DB",
		"Microsoft.ServiceBus/namespaces":                  "Service Bus",
		"Microsoft.KeyVault/vaults":                        "Key Vault",
		"Microsoft.ContainerRegistry/registries":           "Container Registry, for the service's image, and the one of `NEW_REGISTRY_REGIONS`",
		"Microsoft.OperationalInsights/workspaces":         "Log Analytics and Application Insights",
		"Microsoft.Insights/components":                    "Log Analytics and Application Insights",
		"Microsoft.App/managedEnvironments":                "", // the app has its address
		"Microsoft.Insights/actionGroups":                  "",
		"Microsoft.Insights/scheduledQueryRules":           "",
		"Microsoft.Resources/resourceGroups":               "",
		"Microsoft.ManagedIdentity/userAssignedIdentities": "",
	}
	var got, want []string
	for _, row := range rowsOf(t, "infra/README.md", "## What is public") {
		got = append(got, row[0])
	}
	for _, file := range bicep(t) {
		for _, kind := range submatches(`(?m)^resource \w+ '([\w.]+/\w+)@`, file) { // without children
			row, known := rows[kind]
			if !known && !strings.HasPrefix(kind, "Microsoft.Authorization/") && kind != "Microsoft.Insights/diagnosticSettings" {
				t.Errorf("is %s public?", kind)
			}
			if row != "" && !slices.Contains(want, row) {
				want = append(want, row)
			}
		}
	}
	for _, row := range want {
		if !slices.Contains(got, row) {
			t.Errorf("no row %q in %q", row, got)
		}
	}
	// What the rows say of keys.
	for file, off := range map[string]string{"cosmos.bicep": "disableLocalAuth: true", "servicebus.bicep": "disableLocalAuth: true", "vault.bicep": "enableRbacAuthorization: true", "images.bicep": "adminUserEnabled: false", "registry.bicep": "adminUserEnabled: false"} {
		if !strings.Contains(read(t, "infra/"+file), off) {
			t.Errorf("%s accepts keys", file)
		}
	}
}

// .ci/run has the compiler look at each file, and lets no warning pass, although
// the compiler's exit code does.
func TestBicepInCI(t *testing.T) {
	_, script, _ := strings.Cut(read(t, ".ci/run"), "\nstep bicep\n")
	script, _, found := strings.Cut(script, "\nstep ")
	if !found {
		t.Fatal("no step")
	}
	dir := t.TempDir()
	run := func(compiler string) (out string, calls []string, err error) {
		log := filepath.Join(dir, "calls")
		os.Remove(log)
		if err := os.WriteFile(filepath.Join(dir, "bicep"), []byte("#!/bin/sh\necho \"$@\" >>"+log+"\n[ \"$1\" = format ] && cat \"$3\" || echo '{}'\n"+compiler+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("bash", "-euo", "pipefail", "-c", script)
		cmd.Dir, cmd.Env = root, []string{"PATH=" + dir + ":" + os.Getenv("PATH")}
		said, err := cmd.CombinedOutput()
		data, _ := os.ReadFile(log)
		return string(said), strings.Split(strings.TrimSpace(string(data)), "\n"), err
	}

	var want []string
	for name := range bicep(t) {
		want = append(want, "build --stdout infra/"+name, "lint infra/"+name, "format --stdout infra/"+name)
	}
	want = append(want, "build-params --stdout infra/allregions.bicepparam", "format --stdout infra/allregions.bicepparam")
	for name, using := range snapshots(t) {
		group := ""
		if using != "main.bicep" {
			group = " --resource-group rg-prod"
		}
		want = append(want, "format --stdout "+name, "snapshot "+name+" --mode validate --subscription-id "+subscriptionID+" --location westeurope"+group)
	}
	slices.Sort(want)
	out, calls, err := run("exit 0")
	if slices.Sort(calls); err != nil || !slices.Equal(calls, want) {
		t.Errorf("%v\n%s\nran  %q\nwant %q", err, out, calls, want)
	}
	for _, compiler := range []string{"echo Warning >&2", "exit 1"} {
		for _, command := range []string{"build", "lint", "build-params"} {
			if out, _, err := run(`[ "$1" != ` + command + " ] || " + compiler); err == nil || !strings.Contains(out, "bicep "+command+" ") {
				t.Errorf("%s: %q passes: %s", command, compiler, out)
			}
		}
	}
	for command, refused := range map[string]string{"format": "echo", "snapshot": "exit 1"} {
		if out, _, err := run(`[ "$1" != ` + command + " ] || " + refused); err == nil || !strings.Contains(out, "bicep "+command+" infra/") {
			t.Errorf("%s: %q passes: %s", command, refused, out)
		}
	}
	// What azd always sets is set there, too: the compiler wants a value.
	const needs = `[ "$1" != build-params ] || env | grep -q '^AZURE_KEY_VAULT_NAME=.'`
	if out, _, err := run(needs); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// The parameters that azd fills in are those of main.bicep, and all that it needs.
func TestInfraParameters(t *testing.T) {
	var file struct{ Parameters map[string]any }
	if err := json.Unmarshal([]byte(read(t, "infra/main.parameters.json")), &file); err != nil {
		t.Fatal(err)
	}
	for _, p := range regexp.MustCompile(`(?m)^param (\w+) \w+( =)?`).FindAllStringSubmatch(read(t, "infra/main.bicep"), -1) {
		if _, ok := file.Parameters[p[1]]; !ok && p[2] == "" {
			t.Errorf("%s has no value", p[1])
		}
		delete(file.Parameters, p[1])
	}
	if len(file.Parameters) > 0 {
		t.Errorf("main.bicep has no parameters %q", slices.Sorted(maps.Keys(file.Parameters)))
	}
}

// azd runs each hook where it shows, and goes on only if it succeeds.
func TestHooks(t *testing.T) {
	a := loadAzureYAML(t)
	var names []string
	known := append(append(submatches(`(?m)^output (\w+)`, read(t, "infra/main.bicep")), submatches(`(?m)^output (\w+)`, read(t, "infra/allregions.bicep"))...), userSettings(t)...)
	var text strings.Builder
	for name, hook := range a.Hooks {
		file := "infra/hooks/" + name
		names = append(names, file)
		if hook.Posix != (hookYAML{Shell: "sh", Run: file + ".sh", Interactive: true}) || hook.Windows != (hookYAML{Shell: "pwsh", Run: file + ".ps1", Interactive: true}) {
			t.Errorf("%s: %+v", name, hook)
		}
		// azd runs the file itself.
		if info, err := os.Stat(filepath.Join(root, file+".sh")); err != nil || info.Mode().Perm()&0o111 != 0o111 {
			t.Errorf("%s: %v, %v", file, info.Mode(), err)
		}
		text.WriteString(read(t, file+".sh"))
	}
	slices.Sort(names)
	if want := hooks(t); !slices.Equal(names, want) {
		t.Errorf("azd runs %q of %q", names, want)
	}
	for _, v := range submatches(`\$\{?([A-Z_]{3,})`, text.String()) {
		if !slices.Contains(known, v) {
			t.Errorf("nothing sets %s", v)
		}
	}

	// Names that others have, too.
	infra := strings.Join(slices.Collect(maps.Values(bicep(t))), "\n")
	for _, version := range submatches(`api-version=([\d-]+)`, text.String()) {
		if !strings.Contains(infra, "@"+version) {
			t.Errorf("infra has no %s", version)
		}
	}
	for what, pair := range map[string][2]string{
		"the app":           {oneOf(t, `az containerapp logs show -n (\w+)`, text.String()), appID},
		"the key's secret":  {oneOf(t, `=.*az keyvault secret show [^\n]*-n ([\w-]+) `, text.String()), oneOf(t, `name: '(read-keys)'`, read(t, "infra/vault.bicep"))},
		"the webhooks' tag": {oneOf(t, `\?tags\.(\w+)==`, text.String()), oneOf(t, `const ownerTag = "(\w+)"`, read(t, "app/registry/webhooks.go"))},
		"the actions":       {oneOf(t, `output REPORTED_ACTIONS string = empty\(webhookActions\) \? '(\w+)'`, infra), defaultOf(t, "WEBHOOK_ACTIONS")},
	} {
		if pair[0] != pair[1] {
			t.Errorf("%s: %s, want %s", what, pair[0], pair[1])
		}
	}
	// Whatever the service checks, a user who has it is checked.
	checked := submatches(`envconfig:"(\w+)"`, read(t, "app/check.go"))
	asked := submatches(`\$(\w+)`, oneOf(t, `(?m)^if \[ -n "((?:\$\w+){2,})" \]; then$`, read(t, "infra/hooks/preprovision.sh")))
	checked = slices.DeleteFunc(checked, func(name string) bool { return name == "TARGET_SECRETS" || name == "AZURE_CLOUD" }) // say nothing alone; the Bicep knows its cloud
	slices.Sort(checked)
	slices.Sort(asked)
	if !slices.Equal(asked, checked) {
		t.Errorf("checked with %q, want %q", asked, checked)
	}
}

// The table of parameters has everything that a user can set with `azd env set`.
func TestREADMEAzure(t *testing.T) {
	var rows []string
	for _, row := range rowsOf(t, "infra/README.md", "## Parameters") {
		rows = append(rows, strings.Trim(row[0], "`"))
	}
	slices.Sort(rows)
	if want := userSettings(t); !slices.Equal(rows, want) {
		t.Errorf("got %q, want %q", rows, want)
	}
	rights := section(t, "infra/README.md", "## Rights")
	for _, action := range strings.Fields(oneOf(t, `(?m)^ +for action in (.*); do$`, read(t, "infra/hooks/preprovision.sh"))) {
		if !strings.Contains(rights, "`"+strings.TrimPrefix(action, "Microsoft.")+"`") {
			t.Errorf("infra/README.md does not say that who deploys needs %s", action)
		}
	}
	for _, action := range submatches(`'(Microsoft\.ContainerRegistry/registries/[\w/]+)'`, read(t, "infra/rights.bicep")) {
		short := strings.TrimPrefix(action, "Microsoft.ContainerRegistry/registries/")
		if !strings.Contains(rights, "`"+short+"`") && !strings.Contains(rights, "`registries/"+short+"`") {
			t.Errorf("infra/README.md does not say that the service may %s", action)
		}
	}
}

// Each key of a component is one that Dapr's component reads, and the ones that
// it requires are there. Dapr ignores a misspelt key.
func TestComponentMetadata(t *testing.T) {
	if testing.Short() {
		t.Skip("downloads a module of Dapr")
	}
	cmd := exec.Command("go", "mod", "download", "-json", "github.com/dapr/components-contrib")
	cmd.Dir = filepath.Join(root, "app", "local", "runtime")
	cmd.Env = append(os.Environ(), "GOWORK=off")
	out, err := cmd.Output()
	var module struct{ Dir string }
	if err := json.Unmarshal(out, &module); err != nil || module.Dir == "" {
		t.Fatalf("components-contrib: %v, %s", err, out)
	}
	if err != nil {
		t.Fatal(err)
	}
	type key struct {
		Name     string
		Required bool
	}
	type profile struct {
		Name     string
		Metadata []key
	}
	// Dapr reads these itself, whatever the component.
	everyState := []string{"actorStateStore", "keyPrefix"}
	azureAD := []string{"azureClientId", "azureTenantId", "azureClientSecret", "azureEnvironment"} // of components-contrib's builtin profiles
	for _, dir := range []string{"local", "azure"} {
		for name, c := range components(t, dir) {
			kind, path, _ := strings.Cut(c.Spec.Type, ".")
			data, err := os.ReadFile(filepath.Join(module.Dir, kind, strings.ReplaceAll(path, ".", "/"), "metadata.yaml"))
			if os.IsNotExist(err) { // azure.cosmosdb is in azure/cosmosdb, sqlite in sqlite
				data, err = os.ReadFile(filepath.Join(module.Dir, kind, path, "metadata.yaml"))
			}
			if err != nil {
				t.Error(err)
				continue
			}
			var doc struct {
				Type, Name, Version    string
				Metadata               []key
				AuthenticationProfiles []profile `yaml:"authenticationProfiles"`
				Builtin                []profile `yaml:"builtinAuthenticationProfiles"`
			}
			if err := yaml.Unmarshal(data, &doc); err != nil {
				t.Errorf("%s: %v", c.Spec.Type, err)
				continue
			}
			if doc.Type+"."+doc.Name != c.Spec.Type || doc.Version != c.Spec.Version {
				t.Errorf("%s/%s is %s/%s, Dapr has %s.%s/%s", dir, name, c.Spec.Type, c.Spec.Version, doc.Type, doc.Name, doc.Version)
			}
			allowed := map[string]bool{}
			take := func(keys []key) {
				for _, k := range keys {
					allowed[k.Name] = allowed[k.Name] || k.Required
				}
			}
			take(doc.Metadata)
			for _, p := range doc.Builtin {
				take(p.Metadata) // required with this profile, which all of ours on Azure have
				if p.Name == "azuread" {
					for _, k := range azureAD {
						allowed[k] = false
					}
					allowed["azureClientId"] = true // of a user-assigned identity, that is
				}
			}
			for _, p := range doc.AuthenticationProfiles {
				if dir == "local" {
					take(p.Metadata)
				}
			}
			if kind == "state" {
				for _, k := range everyState {
					allowed[k] = false
				}
			}
			for _, m := range c.Spec.Metadata {
				if _, ok := allowed[m.Name]; !ok {
					t.Errorf("%s/%s: %s does not know %q; it knows %q", dir, name, c.Spec.Type, m.Name, slices.Sorted(maps.Keys(allowed)))
				}
			}
			for k, required := range allowed {
				if required && c.value(k) == "" {
					t.Errorf("%s/%s: %s requires %q", dir, name, c.Spec.Type, k)
				}
			}
		}
	}
}
