package main

import (
	"io"
	"os"
	"strings"
	"testing"
)

// What a user gave azd, and what would end the service at start for it. Nothing that
// may be a secret is quoted.
func TestCheck(t *testing.T) {
	const targets = `[{name: ops, type: slack, url: "${SLACK_URL}"}]`
	for _, tt := range []struct {
		name     string
		settings map[string]string
		want     []string // lines begin with these
	}{
		{"nothing", nil, nil},
		{"good", map[string]string{
			"WEBHOOK_TIMEOUT": "90s", "WEBHOOK_ACTIONS": "push, delete", "WEBHOOK_REGISTRATION": "off", "CUSTOM_URL": "https://h", "OTLP_ENDPOINT": "http://c:4317", "AZURE_CLOUD": "AzureChinaCloud",
			"NOTIFY_TARGETS": targets, "TARGET_SECRETS": "OTHER=x, SLACK_URL = slack-url,,", "WEBHOOK_OWNER": "prod-x", "REGISTRY_RESOURCE_ID": "no concern of it",
		}, nil},
		{"timeout", map[string]string{"WEBHOOK_TIMEOUT": "soon"}, []string{`WEBHOOK_TIMEOUT: "soon" is neither`}},
		{"actions", map[string]string{"WEBHOOK_ACTIONS": "pull"}, []string{`WEBHOOK_ACTIONS: "pull" is none of`}},
		{"registration", map[string]string{"WEBHOOK_REGISTRATION": "no"}, []string{`WEBHOOK_REGISTRATION: "no" is neither`}},
		{"URL", map[string]string{"CUSTOM_URL": "http://h"}, []string{"CUSTOM_URL: not a URL such as https://"}},
		{"collector", map[string]string{"OTLP_ENDPOINT": "c:4317"}, []string{"OTLP_ENDPOINT: not a URL such as http://"}},
		{"cloud", map[string]string{"AZURE_CLOUD": "Azure"}, []string{`AZURE_CLOUD: "Azure" is none of`}},
		{"a name that there is not", map[string]string{"WEBHOOK_TIMOUT": "2m"}, []string{"WEBHOOK_TIMOUT: there is no such setting"}},
		{"several", map[string]string{"WEBHOOK_TIMEOUT": "soon", "NOTIFY_TARGETS": targets, "WEBHOOK_X": "1", "TARGET_SECRETS": "SLACK=slack-url"}, []string{
			"WEBHOOK_X: there is no such setting", "WEBHOOK_TIMEOUT: ", "NOTIFY_TARGETS: target 1 (ops): url: the environment variable SLACK_URL is not set",
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			environment(t, nil)
			for _, name := range settingNames[deployment]() {
				t.Setenv(name, "")
			}
			for name, value := range tt.settings {
				t.Setenv(name, value)
			}
			// It may be there already, with another meaning.
			t.Setenv("SLACK_URL", "")
			os.Unsetenv("SLACK_URL")
			var stderr strings.Builder
			code := run([]string{"check"}, io.Discard, &stderr)
			lines := strings.Split(strings.TrimSpace(stderr.String()), "\n")
			if len(tt.want) == 0 {
				if code != 0 || stderr.Len() > 0 {
					t.Errorf("%d\n%s", code, stderr.String())
				}
				return
			}
			if code != 1 || len(lines) != len(tt.want)+1 {
				t.Fatalf("%d\n%s", code, stderr.String())
			}
			for i, want := range tt.want {
				if !strings.HasPrefix(lines[i+1], want) {
					t.Errorf("%q, want %q", lines[i+1], want)
				}
			}
		})
	}
}
