// Package cosmos puts an emulator of Azure Cosmos DB in the place of Azure's: it
// builds and starts Cosmium, creates the containers that infra creates on Azure,
// and derives from components/azure the Dapr components that use it. Cosmium
// ignores etags: what a test says about versions holds only behind a Proxy.
package cosmos

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"allregions/app/local/process"
)

// PartitionKey is the only partition key path with which Dapr works.
const PartitionKey = "/partitionKey"

// Key is a key that the emulator, which checks none, takes for one.
var Key = base64.StdEncoding.EncodeToString([]byte("the emulator checks no key"))

// Emulator is a Cosmium on 127.0.0.1.
type Emulator struct {
	Port int
}

func (e Emulator) address() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(e.Port)) }

// Build builds the emulator as program. Root is the root of this repository.
func Build(ctx context.Context, root, program string) error {
	return process.GoBuild(ctx, filepath.Join(root, "app", "local", "cosmos", "emulator"), program, "github.com/pikami/cosmium/cmd/server")
}

// Command is the emulator's command line.
func (e Emulator) Command(program string) *exec.Cmd {
	return exec.Command(program, "-Host", "127.0.0.1", "-Port", strconv.Itoa(e.Port), "-DisableTls", "-DisableAuth", "-LogLevel", "error")
}

// Create creates the containers, and their databases. What is there already stays.
func (e Emulator) Create(containers ...Container) error {
	for _, c := range containers {
		err := errors.Join(
			e.post("/dbs", fmt.Sprintf(`{"id":%q}`, c.Database)),
			e.post("/dbs/"+c.Database+"/colls", fmt.Sprintf(`{"id":%q,"partitionKey":{"paths":[%q],"kind":"Hash"}}`, c.Name, PartitionKey)))
		if err != nil {
			return fmt.Errorf("create %+v: %w", c, err)
		}
	}
	return nil
}

func (e Emulator) post(path, body string) error {
	client := http.Client{Timeout: 5 * time.Second}
	resp, err := client.Post("http://"+e.address()+path, "application/json", strings.NewReader(body))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusCreated && resp.StatusCode != http.StatusConflict {
		return fmt.Errorf("POST %s: %s", path, resp.Status)
	}
	return nil
}

// Container is a container that a component uses.
type Container struct{ Database, Name string }

// entry is a setting of a component, as components/azure writes them.
var entry = regexp.MustCompile(`- name: (\w+)\n( +)value: (.+)`)

// WriteComponents writes to dir the components of components/azure that use Cosmos
// DB, changed to use the one at url. It returns the containers that they need. Root is
// the root of this repository.
func WriteComponents(root, dir, url string) (containers []Container, err error) {
	files, err := filepath.Glob(filepath.Join(root, "components", "azure", "*.yaml"))
	if err != nil {
		return nil, err
	}
	for _, path := range files {
		data, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		if !bytes.Contains(data, []byte("type: state.azure.cosmosdb\n")) {
			continue
		}
		var container Container
		text := entry.ReplaceAllStringFunc(string(data), func(one string) string {
			part := entry.FindStringSubmatch(one)
			name, value := part[1], part[3]
			switch name {
			case "url":
				value = url
			case "azureClientId":
				name, value = "masterKey", Key
			case "database":
				container.Database = value
			case "collection":
				container.Name = value
			}
			return fmt.Sprintf("- name: %s\n%svalue: %s", name, part[2], value)
		})
		containers = append(containers, container)
		if err := os.WriteFile(filepath.Join(dir, filepath.Base(path)), []byte(text), 0o644); err != nil {
			return nil, err
		}
	}
	return containers, nil
}
