package main

import (
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// These are the tests of the repository's files that need the type of the
// settings. The others are in app/local/repository.

const root = ".."

func read(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(root, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

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

// The table of settings in README.md is Config's.
func TestREADMESettings(t *testing.T) {
	_, section, _ := strings.Cut(read(t, "app/README.md"), "\n## Settings\n")
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
			t.Errorf("%s: got the default %s, want %s", row[1], row[2], want)
		}
	}
	if !slices.Equal(names, settingNames[Config]()) {
		t.Errorf("got %q, want %q", names, settingNames[Config]())
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
	if app.AppID != "allregions" || app.AppProtocol != "http" || app.AppChannelAddress != "127.0.0.1" || app.APIListenAddresses != "127.0.0.1" ||
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
