// Package cosmos puts an emulator of Azure Cosmos DB in the place of Azure's: it
// builds and starts Cosmium, creates the containers that infra creates on Azure,
// and derives from components/azure the Dapr components that use it. Cosmium
// ignores etags: what a test says about versions holds only behind a Proxy.
package cosmos

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"

	"go.yaml.in/yaml/v3"
)

// PartitionKey is the only partition key path with which Dapr works.
const PartitionKey = "/partitionKey"

// Key is a key that the emulator, which checks none, takes for one.
var Key = base64.StdEncoding.EncodeToString([]byte("the emulator checks no key"))

// Emulator is a Cosmium on 127.0.0.1.
type Emulator struct {
	Port int
}

// URL is the emulator's endpoint.
func (e Emulator) URL() string { return "http://127.0.0.1:" + strconv.Itoa(e.Port) }

// Build builds the emulator as program. Root is the root of this repository.
func Build(ctx context.Context, root, program string) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-o", program, "github.com/pikami/cosmium/cmd/server")
	cmd.Dir = filepath.Join(root, "app", "local", "cosmos", "emulator")
	cmd.Env = append(os.Environ(), "GOWORK=off", "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build the Cosmos DB emulator: %w: %s", err, bytes.TrimSpace(out))
	}
	return nil
}

// Command is the emulator's command line.
func (e Emulator) Command(program string) *exec.Cmd {
	return exec.Command(program, "-Host", "127.0.0.1", "-Port", strconv.Itoa(e.Port), "-DisableTls", "-DisableAuth", "-LogLevel", "error")
}

// Create creates a database with containers. What is there already stays.
func (e Emulator) Create(ctx context.Context, database string, containers ...string) error {
	if err := e.post(ctx, "/dbs", fmt.Sprintf(`{"id":%q}`, database)); err != nil {
		return fmt.Errorf("create database %s: %w", database, err)
	}
	for _, c := range containers {
		if err := e.post(ctx, "/dbs/"+database+"/colls", fmt.Sprintf(`{"id":%q,"partitionKey":{"paths":[%q],"kind":"Hash"}}`, c, PartitionKey)); err != nil {
			return fmt.Errorf("create container %s: %w", c, err)
		}
	}
	return nil
}

func (e Emulator) post(ctx context.Context, path, body string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, e.URL()+path, bytes.NewBufferString(body))
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusCreated && resp.StatusCode != http.StatusConflict {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 500))
		return fmt.Errorf("%s: %s", resp.Status, text)
	}
	return nil
}

// Container is a container that a component uses.
type Container struct{ Database, Name string }

// Components writes to dir the components of components/azure that use Cosmos
// DB, changed to use e, and everything of components/local that has another
// name. It returns the containers that they need.
func (e Emulator) Components(root, dir string) ([]Container, error) {
	azure, err := filepath.Glob(filepath.Join(root, "components", "azure", "*.yaml"))
	if err != nil {
		return nil, err
	}
	local, err := filepath.Glob(filepath.Join(root, "components", "local", "*.yaml"))
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	for _, path := range local {
		data, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		if err := os.WriteFile(filepath.Join(dir, filepath.Base(path)), data, 0o644); err != nil {
			return nil, err
		}
	}
	var containers []Container
	for _, path := range azure {
		data, container, err := e.component(path)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		if container.Name == "" {
			continue
		}
		containers = append(containers, container)
		if err := os.WriteFile(filepath.Join(dir, filepath.Base(path)), data, 0o644); err != nil {
			return nil, err
		}
	}
	return containers, nil
}

// component is the component in the file, changed to use e. The container has
// no name if the component does not use Cosmos DB.
func (e Emulator) component(path string) ([]byte, Container, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, Container{}, err
	}
	type item struct {
		Name  string `yaml:"name"`
		Value string `yaml:"value"`
	}
	var c struct {
		APIVersion string            `yaml:"apiVersion"`
		Kind       string            `yaml:"kind"`
		Metadata   map[string]string `yaml:"metadata"`
		Spec       struct {
			Type     string `yaml:"type"`
			Version  string `yaml:"version"`
			Metadata []item `yaml:"metadata"`
		} `yaml:"spec"`
		Scopes []string `yaml:"scopes"`
	}
	if err := yaml.Unmarshal(data, &c); err != nil {
		return nil, Container{}, err
	}
	if c.Spec.Type != "state.azure.cosmosdb" {
		return nil, Container{}, nil
	}
	var container Container
	for i, m := range c.Spec.Metadata {
		switch m.Name {
		case "url":
			c.Spec.Metadata[i].Value = e.URL()
		case "azureClientId":
			c.Spec.Metadata[i] = item{"masterKey", Key}
		case "database":
			container.Database = m.Value
		case "collection":
			container.Name = m.Value
		}
	}
	data, err = yaml.Marshal(c)
	return data, container, err
}
