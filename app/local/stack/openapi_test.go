package stack

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"
)

// described compiles the schemas of app/api/openapi.yaml once.
var described = sync.OnceValues(func() (*jsonschema.Compiler, error) {
	data, err := os.ReadFile(filepath.Join("..", "..", "api", "openapi.yaml"))
	if err != nil {
		return nil, err
	}
	var doc any
	if err := yaml.Unmarshal(data, &doc); err != nil {
		return nil, err
	}
	if data, err = json.Marshal(doc); err != nil {
		return nil, err
	}
	parsed, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	return c, c.AddResource("https://allregions/openapi", parsed)
})

var compiling sync.Mutex

// conforms checks what the service answered or published against its description.
func conforms(t *testing.T, schema string, body []byte) {
	t.Helper()
	compiler, err := described()
	if err != nil {
		t.Fatal(err)
	}
	compiling.Lock()
	compiled, err := compiler.Compile("https://allregions/openapi#/components/schemas/" + schema)
	compiling.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(body))
	if err == nil {
		err = compiled.Validate(value)
	}
	if err != nil {
		t.Errorf("not as openapi.yaml says: %v\n%s", err, body)
	}
}

func TestConforms(t *testing.T) {
	conforms(t, "Queued", []byte(`{"id":"a","queued":true}`))
}
