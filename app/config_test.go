package main

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/cloud"

	"allregions/app/registry"
)

// environment makes exactly these settings set.
func environment(t *testing.T, settings map[string]string) {
	t.Helper()
	for _, name := range settingNames[Config]() {
		t.Setenv(name, "") // restored at the end
		os.Unsetenv(name)
	}
	for name, value := range settings {
		t.Setenv(name, value)
	}
}

var minimum = map[string]string{"WEBHOOK_REGIONS": "West Europe, eastus", "WEBHOOK_KEYS": "k1, k2"}

func with(more ...string) map[string]string {
	settings := map[string]string{}
	for k, v := range minimum {
		settings[k] = v
	}
	for i := 0; i < len(more); i += 2 {
		settings[more[i]] = more[i+1]
	}
	return settings
}

func TestDefaults(t *testing.T) {
	environment(t, minimum)
	c, err := loadConfig()
	if err != nil {
		t.Fatal(err)
	}
	want := Config{Port: 8080, AppPort: 3001, Cloud: Cloud(cloud.AzurePublic), Regions: Regions{"westeurope", "eastus"}, Registration: true, Actions: Actions{"push"},
		CatchUp: CatchUp(time.Hour), Timeout: Timeout(2 * time.Minute),
		Keys: Keys{"k1", "k2"}, Page: true, StateStore: "statestore", ImageStore: "images", PubSub: "pubsub", Topic: "acr-notifications", WebhookTopic: "acr-webhooks", DaprGRPCPort: 50001}
	if got, want := fmt.Sprintf("%#v", c), fmt.Sprintf("%#v", want); got != want {
		t.Errorf("\n got %s\nwant %s", got, want)
	}
}

// Whoever passes settings on has "" for those that he has not.
func TestEmptyIsNotSet(t *testing.T) {
	settings := map[string]string{}
	for _, name := range settingNames[Config]() {
		settings[name] = " "[:len(name)%2]
	}
	maps.Copy(settings, minimum)
	environment(t, settings)
	c, err := loadConfig()
	if err != nil || c.Port != 8080 || !bool(c.Registration) || c.PublicURL.URL != nil || time.Duration(c.Timeout) != 2*time.Minute {
		t.Errorf("%+v, %v", c, err)
	}
}

func TestEverySettingIsRead(t *testing.T) {
	id := azureID("contoso")
	environment(t, map[string]string{"REGISTRY_RESOURCE_ID": id, "PORT": "1", "APP_PORT": "2", "AZURE_CLOUD": "AzureUSGovernment", "WEBHOOK_REGIONS": "eastus", "WEBHOOK_TIMEOUT": "1h",
		"CATCH_UP": "0", "PUBLIC_URL": "https://h/p", "WEBHOOK_REGISTRATION": "off", "WEBHOOK_ACTIONS": "push, delete", "WEBHOOK_OWNER": "prod",
		"WEBHOOK_ALLOW_ANONYMOUS": "true", "WEBHOOK_KEYS": "k", "READ_KEYS": "r1, r2", "STATE_STORE": "s", "IMAGE_STORE": "i", "PUBSUB": "p", "TOPIC": "t", "WEBHOOK_TOPIC": "off", "PAGE": "off", "SHUTDOWN_DELAY": "3s", "PEER_URL": "http://127.0.0.1:9/p", "NOTIFY_TARGETS": `[{"name":"ops","type":"slack","url":"https://example.com/"}]`, "OTEL_EXPORTER_OTLP_ENDPOINT": "https://collector:4317", "DAPR_GRPC_PORT": "3"})
	c, err := loadConfig()
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Registries) != 1 || c.Registries[0].String() != id {
		t.Errorf("registries %v", c.Registries)
	}
	if c.PublicURL.URL == nil || c.PublicURL.URL.String() != "https://h/p" {
		t.Errorf("public URL %v", c.PublicURL.URL)
	}
	if len(c.Targets) != 1 || c.Targets[0].Name != "ops" {
		t.Errorf("targets %v", c.Targets)
	}
	if c.OTLP.URL == nil || c.OTLP.URL.String() != "https://collector:4317" {
		t.Errorf("collector %v", c.OTLP.URL)
	}
	if c.Peer.URL == nil || c.Peer.URL.String() != "http://127.0.0.1:9/p" {
		t.Errorf("peer %v", c.Peer.URL)
	}
	c.Registries, c.PublicURL, c.Targets, c.OTLP, c.Peer = nil, PublicURL{}, nil, Collector{}, PeerURL{}
	want := Config{Port: 1, AppPort: 2, Cloud: Cloud(cloud.AzureGovernment), Regions: Regions(registry.Static{"eastus"}), Actions: Actions{"push", "delete"}, Owner: "prod", Timeout: Timeout(time.Hour), Keys: Keys{"k"}, ReadKeys: Keys{"r1", "r2"}, AllowAnonymous: true,
		ShutdownDelay: 3 * time.Second, StateStore: "s", ImageStore: "i", PubSub: "p", Topic: "t", WebhookTopic: off, DaprGRPCPort: 3}
	if got, want := fmt.Sprintf("%#v", c), fmt.Sprintf("%#v", want); got != want {
		t.Errorf("\n got %s\nwant %s", got, want)
	}
}

// On Container Apps the app reaches itself by a name that follows from two variables.
// A setting wins, and one variable alone is no name.
func TestPeerURL(t *testing.T) {
	for _, tt := range []struct{ app, suffix, setting, want string }{
		{"", "", "", "<nil>"},
		{"allregions", "", "", "<nil>"},
		{"", "blue-1.westeurope.azurecontainerapps.io", "", "<nil>"},
		{"allregions", "blue-1.westeurope.azurecontainerapps.io", " ", "https://allregions.blue-1.westeurope.azurecontainerapps.io"},
		{"allregions", "blue-1.westeurope.azurecontainerapps.io", "http://localhost:1", "http://localhost:1"},
	} {
		t.Run(tt.want, func(t *testing.T) {
			environment(t, with("PEER_URL", tt.setting))
			t.Setenv("CONTAINER_APP_NAME", tt.app)
			t.Setenv("CONTAINER_APP_ENV_DNS_SUFFIX", tt.suffix)
			c, err := loadConfig()
			if got := fmt.Sprint(c.Peer.URL); err != nil || got != tt.want {
				t.Errorf("got %s, %v, want %s", got, err, tt.want)
			}
		})
	}
}

// As people and tools write them.
func TestCloudNames(t *testing.T) {
	for in, want := range map[string]cloud.Configuration{
		"AzureCloud": cloud.AzurePublic, "azurecloud": cloud.AzurePublic, " AzureUSGovernment ": cloud.AzureGovernment, "AZURECHINACLOUD": cloud.AzureChina,
	} {
		t.Run(in, func(t *testing.T) {
			var got Cloud
			if err := got.Decode(in); err != nil || got.ActiveDirectoryAuthorityHost != want.ActiveDirectoryAuthorityHost {
				t.Errorf("got %s, %v, want %s", got.ActiveDirectoryAuthorityHost, err, want.ActiveDirectoryAuthorityHost)
			}
		})
	}
}

func TestTimeoutNotations(t *testing.T) {
	for in, want := range map[string]time.Duration{
		"2m": 2 * time.Minute, "90s": 90 * time.Second, "1s": time.Second, "720h": 30 * 24 * time.Hour,
		"0:02:00": 2 * time.Minute, "00:00:30": 30 * time.Second, "1:2:3": time.Hour + 2*time.Minute + 3*time.Second,
	} {
		t.Run(in, func(t *testing.T) {
			var got Timeout
			if err := got.Decode(in); err != nil || time.Duration(got) != want {
				t.Errorf("%q: %v, %v", in, time.Duration(got), err)
			}
		})
	}
}

func TestWrongSettingsAreNamed(t *testing.T) {
	for _, tt := range []struct {
		settings map[string]string
		want     []string // parts of the error
	}{
		{map[string]string{}, []string{"WEBHOOK_REGIONS: not set", "WEBHOOK_KEYS: not set", "WEBHOOK_ALLOW_ANONYMOUS=true"}},
		{with("WEBHOOK_KEYS", ""), []string{"WEBHOOK_KEYS: not set"}},
		{with("WEBHOOK_REGIONS", " "), []string{"WEBHOOK_REGIONS: not set"}},
		{with("PORT", "http"), []string{`PORT: "http" is not a TCP port`}},
		{with("PORT", "0"), []string{"PORT: "}},
		{with("PORT", "70000"), []string{"PORT: "}},
		{with("APP_PORT", "-1"), []string{"APP_PORT: "}},
		{with("PORT", "3001"), []string{"APP_PORT: 3001 is PORT as well"}},
		{with("DAPR_GRPC_PORT", "x"), []string{"DAPR_GRPC_PORT: "}},
		{with("AZURE_CLOUD", "AzureGermanCloud"), []string{`AZURE_CLOUD: "AzureGermanCloud" is none of AzureChinaCloud, AzureCloud, AzureUSGovernment`}},
		{with("CATCH_UP", "long"), []string{`CATCH_UP: "long" is neither 0 nor a duration from 1m0s to 24 hours`}},
		{with("CATCH_UP", "59s"), []string{"CATCH_UP: "}},
		{with("CATCH_UP", "25h"), []string{"CATCH_UP: "}},
		{with("CATCH_UP", "-1h"), []string{"CATCH_UP: "}},
		{with("WEBHOOK_TIMEOUT", "soon"), []string{`WEBHOOK_TIMEOUT: "soon"`, "0:02:00"}},
		{with("WEBHOOK_TIMEOUT", "500ms"), []string{"WEBHOOK_TIMEOUT: 500ms is not between 1s"}},
		{with("WEBHOOK_TIMEOUT", "721h"), []string{"WEBHOOK_TIMEOUT: ", "30 days"}},
		{with("WEBHOOK_TIMEOUT", "-2m"), []string{"WEBHOOK_TIMEOUT: "}},
		{with("SHUTDOWN_DELAY", "16s"), []string{`SHUTDOWN_DELAY: "16s" is not a duration from 0s to 15s`}},
		{with("SHUTDOWN_DELAY", "-1s"), []string{"SHUTDOWN_DELAY: "}},
		{with("SHUTDOWN_DELAY", "soon"), []string{"SHUTDOWN_DELAY: "}},
		{with("NOTIFY_TARGETS", "[{name: ops, type: fax, url: 'https://example.com/s3cr3t'}]"), []string{"NOTIFY_TARGETS: ", "ops", "type"}},
		{with("NOTIFY_TARGETS", "/nowhere/targets.yaml"), []string{"NOTIFY_TARGETS: "}},
		{with("OPTIONAL_REGIONS", "mars"), []string{"OPTIONAL_REGIONS: mars is not in WEBHOOK_REGIONS"}},
		{with("OPTIONAL_REGIONS", "eastus, West Europe"), []string{"OPTIONAL_REGIONS: has all of WEBHOOK_REGIONS"}},
		{with("OPTIONAL_REGIONS", "eastus,,mars"), []string{"OPTIONAL_REGIONS: region 2 of 3 is empty"}},
		{with("WEBHOOK_REGIONS", "eastus,,westus"), []string{"WEBHOOK_REGIONS: region 2 of 3 is empty"}},
		{with("WEBHOOK_REGIONS", "eastus,East US"), []string{"WEBHOOK_REGIONS: region eastus is there twice"}},
		{with("WEBHOOK_KEYS", "s3cr3t,"), []string{"WEBHOOK_KEYS: key 2 of 2 is empty"}},
		{with("READ_KEYS", "r1,,s3cr3t"), []string{"READ_KEYS: key 2 of 3 is empty"}},
		{with("WEBHOOK_KEYS", "k1,s3cr3t", "READ_KEYS", "r1, s3cr3t"), []string{"READ_KEYS: key 2 is one of WEBHOOK_KEYS, too"}},
		{with("WEBHOOK_KEYS", "", "WEBHOOK_ALLOW_ANONYMOUS", "true", "READ_KEYS", "s3cr3t"), []string{"READ_KEYS: without WEBHOOK_KEYS everybody may read"}},
		{with("WEBHOOK_ALLOW_ANONYMOUS", "perhaps"), []string{`WEBHOOK_ALLOW_ANONYMOUS: "perhaps" is neither true nor false`}},
		{with("REGISTRY_RESOURCE_ID", "contoso"), []string{`REGISTRY_RESOURCE_ID: "contoso" is not the resource id of a container registry`}},
		{with("REGISTRY_RESOURCE_ID", azureID("contoso")+","), []string{`REGISTRY_RESOURCE_ID: registry 2 of 2: "" is not the resource id`}},
		{with("REGISTRY_RESOURCE_ID", "contoso, "+azureID("contoso")+",fabrikam"), []string{`REGISTRY_RESOURCE_ID: registry 1 of 3: "contoso" is not`, `registry 3 of 3: "fabrikam" is not`}},
		{with("REGISTRY_RESOURCE_ID", azureID("contoso")+","+strings.Replace(azureID("Contoso"), "/g/", "/h/", 1)), []string{`REGISTRY_RESOURCE_ID: registry 2 of 2: there is another one with the name Contoso`}},
		{with("PUBLIC_URL", "http://allregions.example.com"), []string{"PUBLIC_URL: not a URL such as https://allregions.example.com"}},
		{with("PUBLIC_URL", "allregions.example.com"), []string{"PUBLIC_URL: not a URL"}},
		{with("PUBLIC_URL", "https://"), []string{"PUBLIC_URL: not a URL"}},
		{with("PUBLIC_URL", "https://user:s3cr3t@allregions.example.com"), []string{"PUBLIC_URL: not a URL"}},
		{with("PUBLIC_URL", "https://allregions.example.com?code=s3cr3t"), []string{"PUBLIC_URL: not a URL"}},
		{with("PUBLIC_URL", "https://s3cr3t\x7f"), []string{"PUBLIC_URL: not a URL"}},
		{with("PUBLIC_URL", "https://h/"+strings.Repeat("x", 250)), []string{"PUBLIC_URL: not a URL"}},
		{with("PEER_URL", "allregions.internal"), []string{"PEER_URL: not a URL such as https://allregions.example.com"}},
		{with("PEER_URL", "ftp://allregions.internal"), []string{"PEER_URL: not a URL"}},
		{with("PEER_URL", "https://user:s3cr3t@allregions.internal"), []string{"PEER_URL: not a URL"}},
		{with("PEER_URL", "https://allregions.internal?code=s3cr3t"), []string{"PEER_URL: not a URL"}},
		{with("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4317"), []string{"OTEL_EXPORTER_OTLP_ENDPOINT: not a URL such as http://localhost:4317"}},
		{with("OTEL_EXPORTER_OTLP_ENDPOINT", "grpc://collector:4317"), []string{"OTEL_EXPORTER_OTLP_ENDPOINT: not a URL"}},
		{with("OTEL_EXPORTER_OTLP_ENDPOINT", "http://"), []string{"OTEL_EXPORTER_OTLP_ENDPOINT: not a URL"}},
		{with("OTEL_EXPORTER_OTLP_ENDPOINT", "https://user:s3cr3t@collector"), []string{"OTEL_EXPORTER_OTLP_ENDPOINT: not a URL"}},
		{with("OTEL_EXPORTER_OTLP_ENDPOINT", "https://collector?key=s3cr3t"), []string{"OTEL_EXPORTER_OTLP_ENDPOINT: not a URL"}},
		{with("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector", otlpProtocol, "http/protobuf"), []string{`OTEL_EXPORTER_OTLP_PROTOCOL: "http/protobuf" cannot be spoken`}},
		{with("WEBHOOK_REGISTRATION", "maybe"), []string{`WEBHOOK_REGISTRATION: "maybe" is neither on nor off`}},
		{with("WEBHOOK_ACTIONS", "push,pull"), []string{`WEBHOOK_ACTIONS: "pull" is none of chart_delete, chart_push, delete, push, quarantine`}},
		{with("WEBHOOK_ACTIONS", "push,"), []string{`WEBHOOK_ACTIONS: "" is none of`}},
		{with("WEBHOOK_OWNER", strings.Repeat("x", 257)), []string{"WEBHOOK_OWNER: longer than the 256"}},
		{with("STATE_STORE", "a b"), []string{`STATE_STORE: "a b"`}},
		{with("TOPIC", "a/b"), []string{`TOPIC: "a/b"`}},
		{with("WEBHOOK_TIMEUOT", "2m", "WEBHOOK_KEY", "s3cr3t"), []string{"WEBHOOK_TIMEUOT: there is no such setting", "WEBHOOK_KEY: there is no such setting"}},
	} {
		t.Run(tt.want[0], func(t *testing.T) {
			environment(t, tt.settings)
			_, err := loadConfig()
			for _, want := range tt.want {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("%v: %v, want something with %q", tt.settings, err, want)
				}
			}
			if err != nil && strings.Contains(err.Error(), "s3cr3t") {
				t.Errorf("%v: the error shows a key: %v", tt.settings, err)
			}
		})
	}
}

func azureID(name string) string {
	return "/subscriptions/s/resourceGroups/g/providers/Microsoft.ContainerRegistry/registries/" + name
}

func TestRegistryStandsForRegions(t *testing.T) {
	environment(t, map[string]string{"WEBHOOK_KEYS": "k",
		"REGISTRY_RESOURCE_ID": azureID("contoso")})
	if c, err := loadConfig(); err != nil || len(c.Regions) != 0 {
		t.Errorf("%v, %v", c, err)
	}
}

func TestTarget(t *testing.T) {
	azure := []string{"REGISTRY_RESOURCE_ID", azureID("contoso")}
	for _, tt := range []struct {
		settings []string
		want     string
	}{
		{nil, "left alone: PUBLIC_URL is not set"},
		{[]string{"PUBLIC_URL", "https://h/p", "WEBHOOK_REGISTRATION", "OFF"}, "left alone: WEBHOOK_REGISTRATION is off"},
		{[]string{"PUBLIC_URL", "https://h/p"}, "https://h/p k1 [push] https://h/p"},
		{[]string{"PUBLIC_URL", " https://h/p ", "WEBHOOK_OWNER", "prod", "WEBHOOK_ACTIONS", "delete,push", "WEBHOOK_KEYS", "new,old"}, "https://h/p new [delete push] prod"},
		{[]string{"PUBLIC_URL", "https://h", "WEBHOOK_KEYS", "", "WEBHOOK_ALLOW_ANONYMOUS", "true"}, "https://h  [push] https://h"},
		{[]string{"PUBLIC_URL", "https://h", "REGISTRY_RESOURCE_ID", azureID("contoso") + " , " + azureID("fabrikam")}, "https://h k1 [push] https://h fabrikam"},
	} {
		t.Run(tt.want, func(t *testing.T) {
			environment(t, with(append(azure, tt.settings...)...))
			c, err := loadConfig()
			if err != nil {
				t.Errorf("%q: %v", tt.settings, err)
				return
			}
			webhooks, why, ok := c.webhooks("fabrikam")
			got := "left alone: " + why
			if ok {
				got = strings.TrimSpace(fmt.Sprintf("%s %s %s %s %s", webhooks.URL, webhooks.Key, webhooks.Actions, webhooks.Owner, webhooks.Registry))
			}
			if got != tt.want {
				t.Errorf("%q: %s, want %s", tt.settings, got, tt.want)
			}
		})
	}
}

func TestKeysAreNotPrinted(t *testing.T) {
	c := Config{Keys: Keys{"s3cr3t"}, ReadKeys: Keys{"s3cr3t"}}
	for _, s := range []string{fmt.Sprint(c), fmt.Sprintf("%v %+v %s", c.Keys, c, c.Keys)} {
		if strings.Contains(s, "s3cr3t") {
			t.Errorf("%s", s)
		}
	}
}

func TestSettingNames(t *testing.T) {
	names := settingNames[Config]()
	if slices.Contains(names, "") {
		t.Errorf("a setting without a name: %q", names)
	}
}
