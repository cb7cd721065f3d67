package main

import (
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"gopkg.in/yaml.v3"
)

const root = ".."

func read(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(root, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestTopLevel(t *testing.T) {
	allowed := []string{"app", "components", "infra", "Dockerfile", "go.mod", "go.sum", "azure.yaml", "README.md", "dapr.yaml", "LICENSE"}
	out, err := exec.Command("git", "-C", root, "ls-tree", "--name-only", "HEAD").Output()
	if err != nil {
		t.Skip("not a git checkout")
	}
	names := strings.Fields(string(out))
	for _, name := range names {
		if !slices.Contains(allowed, name) && !strings.HasPrefix(name, ".") {
			t.Errorf("%s does not belong at the top", name)
		}
	}
	for _, name := range allowed {
		if _, err := os.Stat(filepath.Join(root, name)); err != nil {
			t.Error(err)
		}
	}
}

// imports says which of our packages a package may import. It has them all, and
// main alone knows everybody.
var imports = map[string][]string{
	"allregions/app/replication":  {},
	"allregions/app/registry":     {"replication"},
	"allregions/app/actor":        {},
	"allregions/app/catalog":      {"actor"},
	"allregions/app/notification": {"actor", "catalog", "replication"},
	"allregions/app/delivery":     {"actor"},
	"allregions/app/webhook":      {"catalog", "delivery", "notification", "replication"},
	"allregions/app/target":       {"notification", "replication"},
	"allregions/app/outbox":       {"delivery", "notification", "replication", "target"},

	"allregions/app/notification/fake":        {"actor", "catalog"},
	"allregions/app/notification/conformance": {"actor", "catalog", "notification", "notification/fake", "replication"},
	"allregions/app/sidecar":                  {"actor"},
	"allregions/app/telemetry":                {"delivery", "notification", "replication"},
	"allregions/app":                          {"catalog", "delivery", "notification", "outbox", "registry", "replication", "sidecar", "target", "telemetry", "webhook"},

	"allregions/app/local/process": {},
	"allregions/app/local/dapr":    {"local/process"},
	"allregions/app/local/acr":     {},
	"allregions/app/local/cosmos":  {"local/process"},
	"allregions/app/local/stack":   {"local/cosmos", "local/dapr", "local/process", "sidecar"},
	"allregions/app/local/chaos":   {"local/acr", "local/cosmos", "local/dapr", "local/process", "local/stack"},
	"allregions/app/local/load":    {"local/acr", "local/process", "local/stack"},
	"allregions/app/local":         {"local/acr", "local/chaos", "local/dapr", "local/load", "local/stack", "registry"},
}

// others says which packages may import what is not ours.
var others = map[string][]string{
	"github.com/prometheus/":             {"allregions/app/telemetry"},
	"github.com/go-logr/":                {"allregions/app/telemetry"},
	"go.opentelemetry.io/otel/sdk":       {"allregions/app/telemetry"},
	"go.opentelemetry.io/otel/exporters": {"allregions/app/telemetry"},
	"github.com/standard-webhooks/":      {"allregions/app/target", "allregions/app/local"},
	"github.com/dapr/":                   {"allregions/app/sidecar", "allregions/app/local/dapr"},
	"google.golang.org/grpc":             {"allregions/app/sidecar", "allregions/app/local/dapr"},
	"github.com/kelseyhightower/":        {"allregions/app"},
	"github.com/Azure/":                  {"allregions/app", "allregions/app/registry"},
	"gopkg.in/yaml.v3":                   {"allregions/app/target", "allregions/app/local/cosmos"},
	"github.com/google/cel-go/":          {"allregions/app/target"},
	"github.com/cloudevents/":            {"allregions/app/notification", "allregions/app/delivery"},
	"go.opentelemetry.io/":               {"allregions/app/telemetry", "allregions/app/notification", "allregions/app/notification/conformance", "allregions/app/sidecar", "allregions/app/webhook"},
	"net/http":                           {"allregions/app", "allregions/app/telemetry", "allregions/app/webhook", "allregions/app/target", "allregions/app/sidecar", "allregions/app/local", "allregions/app/local/acr", "allregions/app/local/chaos", "allregions/app/local/cosmos", "allregions/app/local/load", "allregions/app/local/process", "allregions/app/local/stack"},
	"os":                                 {"allregions/app", "allregions/app/sidecar", "allregions/app/local", "allregions/app/local/chaos", "allregions/app/local/cosmos", "allregions/app/local/dapr", "allregions/app/local/load", "allregions/app/local/process", "allregions/app/local/stack"},
}

func TestImports(t *testing.T) {
	out, err := exec.Command("go", "list", "-f", `{{.ImportPath}} {{join .Imports " "}}`, "./...").Output()
	if err != nil {
		t.Fatal(err)
	}
	listed := map[string]bool{}
	for line := range strings.Lines(string(out)) {
		fields := strings.Fields(line)
		pkg := fields[0]
		listed[pkg] = true
		allowed, ok := imports[pkg]
		if !ok {
			t.Errorf("%s is a new package: say in this test what it may import", pkg)
		}
		for _, path := range fields[1:] {
			if ours, ok := strings.CutPrefix(path, "allregions/app/"); ok && !slices.Contains(allowed, ours) {
				t.Errorf("%s imports %s", pkg, path)
			}
			if pkg == "allregions/app/replication" && strings.Contains(path, ".") {
				t.Errorf("%s imports %s, which is not of the standard library", pkg, path)
			}
			for prefix, users := range others {
				if (path == prefix || strings.HasPrefix(path, strings.TrimSuffix(prefix, "/")+"/")) && !slices.Contains(users, pkg) {
					t.Errorf("%s imports %s", pkg, path)
				}
			}
		}
	}
	for pkg := range imports {
		if !listed[pkg] {
			t.Errorf("%s is gone", pkg)
		}
	}
}

// The domain and the actor are told the time.
func TestNoClock(t *testing.T) {
	for _, dir := range []string{"replication", "actor", "notification"} {
		files, _ := filepath.Glob(filepath.Join(dir, "*.go"))
		for _, file := range files {
			if strings.HasSuffix(file, "_test.go") {
				continue
			}
			if m := regexp.MustCompile(`time\.(Now|Since|Until|Sleep|After|AfterFunc|NewTimer|NewTicker|Tick)\(`).FindString(read(t, filepath.Join("app", file))); m != "" {
				t.Errorf("%s calls %s", file, m)
			}
		}
	}
}

// setting is the tag of a field of Config.
func defaultOf(t *testing.T, name string) string {
	t.Helper()
	for f := range reflect.TypeFor[Config]().Fields() {
		if f.Tag.Get("envconfig") == name {
			return f.Tag.Get("default")
		}
	}
	t.Fatalf("no setting %s", name)
	return ""
}

type component struct {
	Kind     string
	Metadata struct{ Name string }
	Spec     struct {
		Type, Version string
		Metadata      []struct{ Name, Value string }
	}
	Scopes []string
}

func (c component) value(name string) string {
	for _, m := range c.Spec.Metadata {
		if m.Name == name {
			return m.Value
		}
	}
	return ""
}

func components(t *testing.T, dir string) map[string]component {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(root, "components", dir, "*.yaml"))
	if err != nil || len(files) == 0 {
		t.Fatalf("%v, %v", files, err)
	}
	found := map[string]component{}
	for _, file := range files {
		var c component
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if err := yaml.Unmarshal(data, &c); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		if c.Kind == "Component" {
			found[c.Metadata.Name] = c
		}
	}
	return found
}

const appID = "allregions"

// The components have the names that the service has by default, here and on
// Azure, and are for it alone.
func TestComponents(t *testing.T) {
	for dir, types := range map[string]map[string]string{
		"local": {"STATE_STORE": "state.sqlite", "IMAGE_STORE": "state.sqlite", "PUBSUB": "pubsub.in-memory"},
		"azure": {"STATE_STORE": "state.azure.cosmosdb", "IMAGE_STORE": "state.azure.cosmosdb", "PUBSUB": "pubsub.azure.servicebus.topics"},
	} {
		found := components(t, dir)
		if len(found) != len(types) {
			t.Errorf("%s has %d components", dir, len(found))
		}
		for setting, typ := range types {
			c, ok := found[defaultOf(t, setting)]
			if !ok || c.Spec.Type != typ || c.Spec.Version != "v1" || !slices.Equal(c.Scopes, []string{appID}) {
				t.Errorf("%s: %s: %+v", dir, setting, c)
			}
			if (c.value("actorStateStore") == "true") != (setting == "STATE_STORE") {
				t.Errorf("%s: %s: actorStateStore is %q", dir, setting, c.value("actorStateStore"))
			}
			if (c.value("keyPrefix") == "none") != (setting == "IMAGE_STORE") {
				t.Errorf("%s: %s: keyPrefix is %q", dir, setting, c.value("keyPrefix"))
			}
		}
	}
}

// `dapr run -f .` runs what everything else runs.
func TestDaprYAML(t *testing.T) {
	var run struct {
		Version int
		Apps    []struct {
			AppID              string   `yaml:"appID"`
			AppDirPath         string   `yaml:"appDirPath"`
			ResourcesPaths     []string `yaml:"resourcesPaths"`
			ConfigFilePath     string   `yaml:"configFilePath"`
			AppProtocol        string   `yaml:"appProtocol"`
			AppPort            int      `yaml:"appPort"`
			AppChannelAddress  string   `yaml:"appChannelAddress"`
			APIListenAddresses string   `yaml:"apiListenAddresses"`
			Command            []string
			Env                map[string]string
		}
	}
	decoder := yaml.NewDecoder(strings.NewReader(read(t, "dapr.yaml")))
	decoder.KnownFields(true)
	if err := decoder.Decode(&run); err != nil || len(run.Apps) != 1 || run.Version != 1 {
		t.Fatalf("%+v, %v", run, err)
	}
	app := run.Apps[0]
	if app.AppID != appID || app.AppProtocol != "http" || app.AppChannelAddress != "127.0.0.1" || app.APIListenAddresses != "127.0.0.1" ||
		strconv.Itoa(app.AppPort) != defaultOf(t, "APP_PORT") || len(app.Command) != 3 || !strings.Contains(app.Command[2], "go build -o .dapr/bin/ ./app && exec .dapr/bin/app") {
		t.Errorf("%+v", app)
	}
	if !slices.Equal(app.ResourcesPaths, []string{"components/local"}) {
		t.Errorf("resources %v", app.ResourcesPaths)
	}
	for _, path := range append(app.ResourcesPaths, app.ConfigFilePath, app.AppDirPath) {
		if _, err := os.Stat(filepath.Join(root, path)); err != nil {
			t.Error(err)
		}
	}
	for name, value := range app.Env {
		if !slices.Contains(settingNames[Config](), name) {
			t.Errorf("%s is no setting", name)
		}
		if d := defaultOf(t, name); d != "" && d != value && name != "WEBHOOK_TOPIC" {
			t.Errorf("%s is %q, by default %q", name, value, d)
		}
	}
	environment(t, app.Env)
	if _, err := loadConfig(); err != nil {
		t.Errorf("the service would not start: %v", err)
	}
}

func TestDockerfile(t *testing.T) {
	dockerfile := read(t, "Dockerfile")
	for _, want := range []string{
		"EXPOSE " + defaultOf(t, "PORT") + "\n", "USER nonroot:nonroot\n", "CGO_ENABLED=0",
		"COPY go.mod go.sum ./\nRUN go mod download\nCOPY app app\n",
		"go build -trimpath -ldflags \"-s -w\" -o /allregions ./app\n", "FROM gcr.io/distroless/static-",
		"org.opencontainers.image.licenses=\"MIT\"",
	} {
		if !strings.Contains(dockerfile, want) {
			t.Errorf("no %q", want)
		}
	}
	for _, buildKit := range []string{"--mount", "BUILDPLATFORM", "TARGETARCH", "<<"} {
		if strings.Contains(dockerfile, buildKit) {
			t.Errorf("%q works with BuildKit only, which ACR's remote build does not have", buildKit)
		}
	}
	if n := strings.Count(dockerfile, "EXPOSE"); n != 1 {
		t.Errorf("%d EXPOSE lines", n)
	}
	if n := strings.Count(dockerfile, "COPY --from="); n != 1 {
		t.Errorf("%d files in the image, want the service alone", n)
	}
	version := regexp.MustCompile(`(?m)^go (\d+\.\d+)`).FindStringSubmatch(read(t, "go.mod"))[1]
	if !strings.Contains(dockerfile, " golang:"+version+"-") {
		t.Errorf("the image is not built with Go %s", version)
	}
}

// The README's table of settings is Config's.
func TestREADMESettings(t *testing.T) {
	_, section, _ := strings.Cut(read(t, "README.md"), "\n## Settings\n")
	section, _, _ = strings.Cut(section, "\n## ")
	rows := regexp.MustCompile("(?m)^\\| `([A-Z_]+)` \\| ([^|]*) \\|").FindAllStringSubmatch(section, -1)
	var names []string
	for _, row := range rows {
		names = append(names, row[1])
		want := "–"
		if d := defaultOf(t, row[1]); d != "" {
			want = "`" + d + "`"
		}
		if row[2] != want {
			t.Errorf("%s: default %s, want %s", row[1], row[2], want)
		}
	}
	if !slices.Equal(names, settingNames[Config]()) {
		t.Errorf("settings:\n README %q\n Config %q", names, settingNames[Config]())
	}
}

// CI runs what the README tells people to run.
func TestREADMECommands(t *testing.T) {
	readme, ci := read(t, "README.md"), read(t, ".ci/run")
	for _, command := range []string{"go run ./app/local demo", "go test -timeout 20m ./..."} {
		if !strings.Contains(readme, "\n"+command+"\n") || !strings.Contains(ci, "\n"+command+"\n") {
			t.Errorf("%q is not a line of both the README and CI", command)
		}
	}
}

// faults says which tests show a row of the README's "When things fail".
var faults = map[string][]string{
	"a region's webhook does not come":                                                           {"TestFlow", "TestTimeoutThenRecovery", "TestLateBeforeDue"},
	"ACR fires a webhook, and it is lost on its way":                                             {"TestEventLogIsAskedBeforeTheTimeout", "TestWhenTheEventLogIsAsked", "TestEventLog"},
	"a webhook comes twice":                                                                      {"TestFlow", "TestDuplicateWritesNothing", "TestHistories"},
	"a region that nobody expects, a broken body, a wrong key":                                   {"TestRefusalWritesNothing", "TestPayloadIsRefused", "TestEverythingNeedsAKey", "TestGuessingKeys"},
	"the store of the notifications, the scheduler or the actor's host does not answer in 2.8 s": {"TestQueue", "TestQueueAndBack", "TestEveryWriteFailsWithAQueue", "TestEventsThatHadToWait", "TestTheQueueKeepsWhatTheRecordDoesNotShow"},
	"neither they nor the broker answer":                                                         {"TestBothWaysFail", "TestImageStoreAway"},
	"a message on `acr-webhooks` can never be delivered":                                         {"TestQueue", "TestDeadLetters"},
	"the broker, or the store of the index, is down or slow":                                     {"TestBrokerDown", "TestDeafAfterTheSave", "TestOutcomeAdvancesTheReminder", "TestStateStoreAway", "TestIndexIsNotSettled"},
	"anything is killed between two writes":                                                      {"TestFakes", "TestConformance"},
	"a replica, a sidecar, the scheduler, placement or the broker is killed or frozen while the others run; the store throttles, refuses, or loses answers": {"TestChaos", "TestConformance"},
	"Dapr's scheduler freezes, and does a call long after it was given up":                                                                                  {"TestARemovalCannotTakeAnotherTurnsReminder", "TestARemovalCannotTakeAnotherStartsReminder", "TestAReminderWaitsForItsState", "TestFakes"},
	"the service goes away while its sidecar calls it":                                                                                                      {"TestAMessageIsDoneOnlyWhenItIsTaken", "TestTake", "TestACallWithoutAReplyHasFailed"},
	"everything is killed at once":           {"TestSurvivesKill"},
	"the deadline passes while nothing runs": {"TestDeadlinePassesWhileDown", "TestReadsDecideNothing"},
	"clocks jump":                            {"TestJumpingClocks"},
	"Azure Resource Manager is away":         {"TestDiscovery", "TestDiscoveryStartsWithNothing", "TestDiscoveryAwaitsTheSidecar"},
	"a registered webhook is deleted, disabled, scoped or pointed elsewhere": {"TestWebhooksAreMadeAndMended", "TestPlan"},
	"the service may not read or write webhooks":                             {"TestWebhooksFail", "TestWhenWebhooksAreLookedAt"},
	"the sidecar is away":                                                {"TestTheSidecarIsAway", "TestServe", "TestReadyz"},
	"a replica is told to stop (SIGTERM)":                                {"TestDrain", "TestRollingRestart", "TestWaitEndsWithTheReplica"},
	"a target is slow, dead, or refuses":                                 {"TestTargets", "TestVerdicts", "TestEveryWriteOfADeliveryFails"},
	"a target's filter fails on an outcome":                              {"TestAFilterFails", "TestFilterFailsAtRunTime", "TestTargets"},
	"the collector of traces and metrics is away, or slow":               {"TestCollectorAway", "TestComplaints"},
	"callers hold connections, drip bytes, guess keys, smuggle requests": {"TestSlowCallers", "TestTenThousandConnections", "TestGuessingKeys", "TestSmuggling"},
}

func TestREADMEFaults(t *testing.T) {
	_, section, _ := strings.Cut(read(t, "README.md"), "\n## When things fail\n")
	section, _, _ = strings.Cut(section, "\n## ")
	rows := submatches(`(?m)^\| (.*?) \| `, section)[1:] // without the head
	if want := slices.Sorted(maps.Keys(faults)); !slices.Equal(slices.Sorted(slices.Values(rows)), want) {
		t.Errorf("README: %q\nwant %q", rows, want)
	}
	var tests strings.Builder
	err := filepath.WalkDir(".", func(path string, _ fs.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(path, "_test.go") {
			tests.WriteString(read(t, filepath.Join("app", path)))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for row, names := range faults {
		for _, name := range names {
			if !strings.Contains(tests.String(), "\nfunc "+name+"(t *testing.T) {") {
				t.Errorf("%s: there is no %s", row, name)
			}
		}
	}
}
