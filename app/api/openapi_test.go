package api

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"

	"allregions/app/catalog"
	"allregions/app/notification"
	"allregions/app/replication"
)

// described is openapi.yaml as JSON has it.
func described(t *testing.T) map[string]any {
	t.Helper()
	var doc map[string]any
	if err := yaml.Unmarshal(openAPI, &doc); err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	return parsed.(map[string]any)
}

func at(doc any, path ...string) map[string]any {
	for _, name := range path {
		m, _ := doc.(map[string]any)
		doc = m[name]
	}
	m, _ := doc.(map[string]any)
	return m
}

// Each route is described, and nothing else.
func TestOpenAPIRoutes(t *testing.T) {
	source, err := os.ReadFile("handler.go")
	if err != nil {
		t.Fatal(err)
	}
	var want, got []string
	for _, m := range regexp.MustCompile(`h\.route\("(\w+)", "([^"]+)"`).FindAllStringSubmatch(string(source), -1) {
		want = append(want, m[1]+" "+strings.ReplaceAll(m[2], "...", ""))
	}
	doc := described(t)
	for path, item := range at(doc, "paths") {
		operations := at(item)
		if ref, ok := operations["$ref"].(string); ok {
			operations = at(doc, strings.Split(strings.TrimPrefix(ref, "#/"), "/")...)
		}
		for method, operation := range operations {
			if method == "parameters" {
				continue
			}
			got = append(got, strings.ToUpper(method)+" "+path)
			_, open := at(operation)["security"]
			if _, refuses := at(operation, "responses")["401"]; refuses == open {
				t.Errorf("%s %s: without a key: %t, 401: %t", method, path, open, refuses)
			}
		}
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("described:\n%s\nroutes:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	for _, ref := range regexp.MustCompile(`\$ref: "#/([^"]+)"`).FindAllStringSubmatch(string(openAPI), -1) {
		if at(doc, strings.Split(ref[1], "/")...) == nil {
			t.Errorf("%s is nowhere", ref[1])
		}
	}
}

// checker validates JSON against the schemas of openapi.yaml, of which each is valid.
func checker(t *testing.T) func(t *testing.T, schema string, body []byte) error {
	t.Helper()
	doc := described(t)
	c := jsonschema.NewCompiler()
	c.DefaultDraft(jsonschema.Draft2020)
	c.AssertFormat()
	if err := c.AddResource("https://allregions/openapi", doc); err != nil {
		t.Fatal(err)
	}
	schemas := map[string]*jsonschema.Schema{}
	for name := range at(doc, "components", "schemas") {
		compiled, err := c.Compile("https://allregions/openapi#/components/schemas/" + name)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		schemas[name] = compiled
	}
	return func(t *testing.T, schema string, body []byte) error {
		t.Helper()
		value, err := jsonschema.UnmarshalJSON(bytes.NewReader(body))
		if err != nil || schemas[schema] == nil {
			t.Fatalf("%s: %v: %s", schema, err, body)
		}
		return schemas[schema].Validate(value)
	}
}

// What the service answers, and sends, is what the schemas say.
func TestOpenAPISchemas(t *testing.T) {
	valid := checker(t)
	conforms := func(what, schema string, body []byte) {
		if err := valid(t, schema, body); err != nil {
			t.Errorf("%s: %v\n%s", what, err, body)
		}
	}
	events, err := filepath.Glob("../target/testdata/webhook-*.json")
	if err != nil || len(events) < 4 {
		t.Fatalf("%q, %v", events, err)
	}
	for _, file := range events {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		conforms(file, "OutcomeEvent", data)
	}

	var full notification.Status // with every field
	if err := json.Unmarshal([]byte(`{"id":"a","action":"push","registry":"contoso.azurecr.io","repository":"shop/cart","tag":"v1","digest":"sha256:aa","mediaType":"m","size":5,
		"status":"timedOut","startedAt":"2026-11-22T00:33:54.25Z","deadline":"2026-11-22T00:35:54Z","concludedAt":"2026-11-22T00:36:24Z","durationMs":150000,
		"regions":[{"region":"westeurope","receivedAt":"2026-11-22T00:33:54.25Z","eventTime":"2026-11-22T00:33:50Z","digest":"sha256:bb","tag":"v2","via":"queue"}],
		"missing":["eastus"],"replicas":{"eastus":"Succeeded"},"mismatch":true}`), &full); err != nil {
		t.Fatal(err)
	}
	status := full
	h := newHandler(&backend{
		result: started(),
		status: func(context.Context, string) (notification.Status, error) { return status, nil },
		find:   func(context.Context, catalog.Image) (notification.Status, error) { return status, nil },
	}, io.Discard)
	answers := func(code int, schema, method, target, body string, header ...string) {
		t.Helper()
		w := call(h, method, target, body, header...)
		if w.Code != code {
			t.Errorf("%s %s: %d, want %d: %s", method, target, w.Code, code, w.Body)
		}
		conforms(method+" "+target, schema, w.Body.Bytes())
	}
	answers(200, "Status", "GET", "/notifications/a", "")
	answers(409, "Status", "GET", "/images/shop/cart?tag=v1&require=replicated", "")
	status.Status = replication.Collecting
	answers(503, "Problem", "GET", "/notifications/a?require=replicated", "")
	answers(202, "Status", "POST", "/webhooks/acr?region=eastus", push)
	answers(400, "Problem", "POST", "/webhooks/acr?region=eastus", "{")
	answers(401, "Problem", "GET", "/regions", "", "Authorization", "Bearer wrong")
	answers(404, "Problem", "GET", "/nothing", "")
	answers(405, "Problem", "DELETE", "/targets", "")
	answers(200, "Registries", "GET", "/regions", "")
	answers(200, "Health", "GET", "/healthz", "")

	// The schemas are no mere objects.
	for schema, body := range map[string]string{"Status": `{}`, "Problem": `{"type":"about:blank","title":"x","status":400,"secret":1}`, "OutcomeEvent": `{"id":"a"}`, "Registries": `{}`,
		"Queued": `{"id":"a","queued":false}`, "Delivery": `{}`, "Target": `{}`, "Page": `{"notifications":[{}]}`} {
		if valid(t, schema, []byte(body)) == nil {
			t.Errorf("%s takes %s", schema, body)
		}
	}
	if w := call(h, "GET", "/openapi.yaml", ""); w.Code != http.StatusOK || w.Header().Get("Content-Type") != "application/yaml" || !bytes.Equal(w.Body.Bytes(), openAPI) {
		t.Errorf("GET /openapi.yaml: %d %v", w.Code, w.Header())
	}
}
