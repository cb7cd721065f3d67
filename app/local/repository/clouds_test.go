package repository

import (
	"regexp"
	"slices"
	"strings"
	"testing"
)

// Each of Azure's clouds has other hosts: what is deployed names none of them.
func TestInfraNamesNoCloud(t *testing.T) {
	hosts := regexp.MustCompile(`(?i)[\w.-]*(azurecr\.|documents\.azure|servicebus\.(windows|usgov|china)|core\.windows|vault\.azure|vault\.usgov|login\.|management\.(azure|usgov|china)|monitor\.azure|azurecontainerapps\.)[\w.-]*`)
	files := append(filesIn(t, "infra", ".bicep"), filesIn(t, "components/azure", ".yaml")...)
	files = append(files, filesIn(t, "infra/hooks", ".sh")...)
	for _, name := range append(files, "infra/test/new.snapshot.json", "infra/test/everything.snapshot.json") {
		for _, host := range hosts.FindAllString(read(t, name), -1) {
			t.Errorf("%s names %s", name, host)
		}
	}
}

// Every component knows its cloud, and what is in <> is filled in, from the resources
// themselves; so does the service.
func TestInfraClouds(t *testing.T) {
	bicep := read(t, "infra/dapr.bicep")
	filled := submatches(`(?m)^  '(<[^>]+>)': `, bicep)
	var open []string
	for name, c := range components(t, "azure") {
		if c.value("azureEnvironment") != "<cloud>" {
			t.Errorf("%s: azureEnvironment is %q, want <cloud>", name, c.value("azureEnvironment"))
		}
		for _, m := range c.Spec.Metadata {
			if strings.Contains(m.Value, "<") && !slices.Contains(open, m.Value) {
				open = append(open, m.Value)
			}
		}
	}
	slices.Sort(open)
	slices.Sort(filled)
	if !slices.Equal(open, filled) {
		t.Errorf("dapr.bicep fills in %q, want %q", filled, open)
	}
	snapshot := read(t, "infra/test/new.snapshot.json")
	for part, n := range map[string]int{"').documentEndpoint, ": 2, "').serviceBusEndpoint, ": 1, "replace(environment().name, 'AzureCloud', 'AzurePublicCloud')": 3} {
		if got := strings.Count(snapshot, part); got != n {
			t.Errorf("the components have %q %d times, want %d", part, got, n)
		}
	}
	if !regexp.MustCompile(`"name": "AZURE_CLOUD",\s*"value": "\[environment\(\)\.name\]"`).MatchString(read(t, "infra/test/service.snapshot.json")) {
		t.Error("the service is not told its cloud")
	}
}
