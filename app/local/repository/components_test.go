package repository

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"go.yaml.in/yaml/v3"
)

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
