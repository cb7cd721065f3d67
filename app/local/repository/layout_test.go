package repository

import (
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

func TestTopLevel(t *testing.T) {
	allowed := []string{"app", "components", "infra", "Dockerfile", "go.mod", "go.sum", "azure.yaml", "README.md", "dapr.yaml", "LICENSE"}
	out, err := exec.Command("git", "-C", root, "ls-tree", "--name-only", "HEAD").Output()
	if err != nil {
		t.Skip("not a git checkout")
	}
	for _, name := range strings.Fields(string(out)) {
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

// rooms are the service's packages below app/. Each may import those after it, and
// no others. A package below a room, such as notification/fake, counts as the room.
var rooms = []string{
	"api", "page", "intake", "notification", "catalog", "registry", "delivery", "target", "actor", "sidecar", "replication",
}

// localRooms are those of app/local, in the same way. They may import any room.
var localRooms = []string{
	"repository", "chaos", "load", "stack", "acr", "cosmos", "dapr", "process",
}

// upward are the imports that run up the list.
var upward = map[string][]string{
	"sidecar": {"actor"}, // it implements the ports

	// The event that goes to targets, and the status in it, are notification's.
	"delivery": {"notification"},
	"target":   {"notification"},
}

// only says of a room what it may import, where that is less than what is below it.
var only = map[string][]string{
	"sidecar":     {"actor"},
	"actor":       {},
	"replication": {},
}

// reserved says of a room who may import it, beside main and app/local.
var reserved = map[string][]string{
	"sidecar":                  {},
	"telemetry":                {"api"},
	"notification/fake":        {"notification/conformance"},
	"notification/conformance": {},
}

// planned are rooms that the list has and the tree does not have yet.
var planned = []string{}

// others says which packages may import what is not ours.
var others = map[string][]string{
	"github.com/prometheus/":             {"telemetry", "local/process"},
	"github.com/go-logr/":                {"telemetry"},
	"go.opentelemetry.io/otel/sdk":       {"telemetry"},
	"go.opentelemetry.io/otel/exporters": {"telemetry"},
	"github.com/standard-webhooks/":      {"target", "local"},
	"github.com/dapr/":                   {"sidecar", "local/dapr"},
	"google.golang.org/grpc":             {"sidecar", "local/dapr"},
	"github.com/kelseyhightower/":        {""},
	"github.com/Azure/":                  {"", "registry", "local/acr"},
	"go.yaml.in/yaml/v3":                 {"target", "local/cosmos"},
	"github.com/google/cel-go/":          {"target"},
	"github.com/cloudevents/":            {"intake", "notification", "delivery", "target"},
	"go.opentelemetry.io/":               {"telemetry", "notification", "notification/conformance", "sidecar", "api"},
	"net/http":                           {"", "telemetry", "api", "page", "intake", "target", "sidecar", "local", "local/acr", "local/chaos", "local/cosmos", "local/load", "local/process", "local/stack"},
	"os":                                 {"", "sidecar", "local", "local/chaos", "local/cosmos", "local/dapr", "local/load", "local/process", "local/stack"},
}

// roomOf is the room that a package belongs to, such as notification for
// notification/fake and local/chaos for itself.
func roomOf(name string) string {
	top, below, _ := strings.Cut(name, "/")
	if top == "local" && below != "" {
		below, _, _ = strings.Cut(below, "/")
		return "local/" + below
	}
	return top
}

// mayImport says whether a package may import another one, both by their names
// below app/, "" for main.
func mayImport(importer, imported string) bool {
	from, to := roomOf(importer), roomOf(imported)
	if importer == "" || importer == "local" { // they wire all the others
		return importer == "local" || !strings.HasPrefix(to, "local")
	}
	if room, ok := strings.CutPrefix(from, "local/"); ok {
		below, ok := strings.CutPrefix(to, "local/")
		return !ok || slices.Index(localRooms, below) > slices.Index(localRooms, room)
	}
	if strings.HasPrefix(to, "local") {
		return false
	}
	for _, name := range []string{imported, to} {
		if users, ok := reserved[name]; ok && importer != name && !slices.Contains(users, importer) {
			return false
		}
	}
	if allowed, ok := only[from]; ok {
		return slices.Contains(allowed, to)
	}
	if from == to || from == "telemetry" || slices.Contains(upward[from], to) {
		return true
	}
	return to == "telemetry" || slices.Index(rooms, to) > slices.Index(rooms, from)
}

func TestImports(t *testing.T) {
	cmd := exec.Command("go", "list", "-f", `{{.ImportPath}} {{join .Imports " "}}`, "./app/...")
	cmd.Dir = root
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	known := slices.Concat(rooms, []string{"", "telemetry", "local"})
	for _, room := range localRooms {
		known = append(known, "local/"+room)
	}
	var listed []string
	for line := range strings.Lines(string(out)) {
		fields := strings.Fields(line)
		name := strings.TrimPrefix(strings.TrimPrefix(fields[0], "allregions/app"), "/")
		listed = append(listed, roomOf(name))
		if !slices.Contains(known, roomOf(name)) {
			t.Errorf("%s is a new package: give it a place in this test's list of rooms", fields[0])
			continue
		}
		for _, path := range fields[1:] {
			if ours, ok := strings.CutPrefix(path, "allregions/app/"); ok && !mayImport(name, ours) {
				t.Errorf("%s imports %s", name, ours)
			}
			if name == "replication" && strings.Contains(path, ".") {
				t.Errorf("%s imports %s, which is not of the standard library", name, path)
			}
			for prefix, users := range others {
				if (path == prefix || strings.HasPrefix(path, strings.TrimSuffix(prefix, "/")+"/")) && !slices.Contains(users, name) {
					t.Errorf("%s imports %s", name, path)
				}
			}
		}
	}
	for _, room := range known {
		if !slices.Contains(listed, room) && !slices.Contains(planned, room) {
			t.Errorf("%s is gone", room)
		}
	}
}

// The rules of imports are themselves held to some cases.
func TestMayImport(t *testing.T) {
	for _, tt := range []struct {
		importer, imported string
		want               bool
	}{
		{"api", "notification", true},
		{"notification", "api", false},
		{"intake", "notification", true},
		{"notification", "intake", false},
		{"registry", "replication", true},
		{"replication", "actor", false},
		{"actor", "replication", false},
		{"sidecar", "actor", true},
		{"sidecar", "replication", false},
		{"notification", "sidecar", false},
		{"catalog", "telemetry", false},
		{"telemetry", "delivery", true},
		{"target", "notification", true},
		{"target", "delivery", false},
		{"notification", "notification/fake", false},
		{"notification/conformance", "notification/fake", true},
		{"notification/conformance", "api", false},
		{"notification", "local/acr", false},
		{"telemetry", "local/acr", false},
		{"", "sidecar", true},
		{"", "local/acr", false},
		{"local", "local/chaos", true},
		{"local/chaos", "local/stack", true},
		{"local/stack", "local/chaos", false},
		{"local/stack", "sidecar", true},
	} {
		t.Run(tt.importer+" imports "+tt.imported, func(t *testing.T) {
			if got := mayImport(tt.importer, tt.imported); got != tt.want {
				t.Errorf("got %t, want %t", got, tt.want)
			}
		})
	}
}

// app/README.md lists the rooms in the order of the test above.
func TestREADMEPackages(t *testing.T) {
	var documented []string
	for _, row := range rowsOf(t, "app/README.md", "## Packages") {
		documented = append(documented, strings.Trim(row[0], "`"))
	}
	var want []string
	for _, room := range slices.Concat(rooms, []string{"telemetry", "local"}) {
		_, err := os.Stat(filepath.Join(root, "app", room))
		// A page may be ahead of the rooms that are being moved.
		if err == nil || slices.Contains(planned, room) && slices.Contains(documented, room) {
			want = append(want, room)
		}
	}
	if !slices.Equal(documented, want) {
		t.Errorf("got %q, want %q", documented, want)
	}
	for _, name := range slices.Sorted(maps.Keys(upward)) {
		for _, imported := range upward[name] {
			if want := "`" + name + "` imports `" + imported + "`"; !strings.Contains(section(t, "app/README.md", "## Packages"), want) {
				t.Errorf("app/README.md does not say %q", want)
			}
		}
	}
}

// The rules and the actors are given the time.
func TestNoClock(t *testing.T) {
	clock := regexp.MustCompile(`time\.(Now|Since|Until|Sleep|After|AfterFunc|NewTimer|NewTicker|Tick)\(`)
	for _, room := range []string{"replication", "actor", "notification", "delivery"} {
		files, err := filepath.Glob(filepath.Join(root, "app", room, "*.go"))
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: %q, %v", room, files, err)
		}
		for _, file := range files {
			if strings.HasSuffix(file, "_test.go") {
				continue
			}
			if call := clock.FindString(read(t, filepath.Join("app", room, filepath.Base(file)))); call != "" {
				t.Errorf("%s/%s calls %s", room, filepath.Base(file), call)
			}
		}
	}
}

func TestDockerfile(t *testing.T) {
	dockerfile := read(t, "Dockerfile")
	for _, want := range []string{
		"EXPOSE " + defaultOf(t, "PORT") + "\n", "USER nonroot:nonroot\n", "CGO_ENABLED=0",
		"COPY go.mod go.sum ./\nRUN go mod download\nCOPY app app\n",
		"\nARG VERSION\nRUN CGO_ENABLED=0 go build -trimpath -ldflags \"-s -w -X main.linked=$VERSION\" -o /allregions ./app\n", "FROM gcr.io/distroless/static-",
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
		t.Errorf("%d EXPOSE lines, want 1", n)
	}
	if n := strings.Count(dockerfile, "COPY --from="); n != 1 {
		t.Errorf("%d files in the image, want 1, the service", n)
	}
	version := regexp.MustCompile(`(?m)^go (\d+\.\d+)`).FindStringSubmatch(read(t, "go.mod"))[1]
	if !strings.Contains(dockerfile, "/golang:"+version+"-") {
		t.Errorf("the image is not built with Go %s", version)
	}
	// An image without a host is from Docker Hub, which answers a build in Azure with 429.
	for _, image := range submatches(`(?m)^FROM (\S+)`, dockerfile) {
		if host, _, _ := strings.Cut(image, "/"); !strings.Contains(host, ".") || host == "docker.io" {
			t.Errorf("%s is from Docker Hub", image)
		}
	}
	if strings.Contains(dockerfile, "FROM mcr.microsoft.com/oss/go/") && !strings.Contains(dockerfile, "MS_GO_NOSYSTEMCRYPTO=1") {
		t.Error("Microsoft's build of Go asks for cgo")
	}
}

// A release's image is built for both kinds of machines, and is told its version.
func TestRelease(t *testing.T) {
	workflow := read(t, ".github/workflows/release.yml")
	for _, want := range []string{"arch: amd64", "arch: arm64", `--build-arg "VERSION=$VERSION"`, "gh release create", "-le 25000000"} {
		if !strings.Contains(workflow, want) {
			t.Errorf("no %q", want)
		}
	}
	var parsed, notes map[string]any
	for name, into := range map[string]*map[string]any{"workflows/release.yml": &parsed, "release.yml": &notes} {
		if err := yaml.Unmarshal([]byte(read(t, ".github/"+name)), into); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if parsed["jobs"] == nil || notes["changelog"] == nil {
		t.Errorf("%v, %v", parsed, notes)
	}
}
