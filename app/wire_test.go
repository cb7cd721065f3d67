package main

import (
	"log/slog"
	"testing"
	"time"

	"allregions/app/local/acr"
	"allregions/app/registry"
)

// In each of Azure's clouds, that cloud's directory gives a token for that cloud's ARM,
// which is asked then, and no host of another cloud.
func TestAzureCloud(t *testing.T) {
	clouds := map[string]struct {
		setting, audience string
		cloud             acr.Cloud
	}{
		"default":    {"", "https://management.core.windows.net/", acr.Public},
		"public":     {"AzureCloud", "https://management.core.windows.net/", acr.Public},
		"government": {"AzureUSGovernment", "https://management.core.usgovcloudapi.net/", acr.Government},
		"china":      {"AzureChinaCloud", "https://management.core.chinacloudapi.cn/", acr.China},
	}
	identities := map[string]map[string]string{
		"managed identity": {"AZURE_TENANT_ID": "", "AZURE_CLIENT_SECRET": ""},
		"application":      {"AZURE_TENANT_ID": "tenant", "AZURE_CLIENT_SECRET": "s", "IDENTITY_ENDPOINT": ""},
	}
	for name, tt := range clouds {
		for kind, identity := range identities {
			t.Run(name+"/"+kind, func(t *testing.T) {
				azure, err := acr.NewAzureIn(tt.cloud, "contoso", "westeurope")
				if err != nil {
					t.Fatal(err)
				}
				defer azure.Close()
				environment(t, with("AZURE_CLOUD", tt.setting))
				for _, settings := range []map[string]string{azure.Settings(""), identity} {
					for name, value := range settings {
						t.Setenv(name, value)
					}
				}
				t.Setenv("AZURE_CLIENT_ID", t.Name()) // the SDK keeps the tokens of each for the whole process
				c, err := loadConfig()
				if err != nil {
					t.Fatal(err)
				}
				options := c.azure()
				client := azure.Client() // Go reads HTTPS_PROXY once for all tests
				defer client.CloseIdleConnections()
				options.Transport, options.Retry.MaxRetries = client, -1
				arms, err := azureRegistries(c.Registries, options)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := registry.NewEventLog(arms[0], "", time.Now, slog.New(slog.DiscardHandler)).Fired(t.Context(), "n1", time.Now(), nil); err != nil {
					t.Error(err)
				}
				if asked, tokens, others := azure.Count("webhooks"), azure.Count("token "+tt.audience), azure.Count("CONNECT"); asked != 1 || tokens != 1 || others != 0 {
					t.Errorf("ARM got %d calls, want 1; %d tokens for %s, want 1; %d calls to other hosts, want none", asked, tokens, tt.audience, others)
				}
			})
		}
	}
}
