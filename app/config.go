package main

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/url"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/arm"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/cloud"
	"github.com/kelseyhightower/envconfig"

	"allregions/app/registry"
	"allregions/app/target"
)

// Config is the settings: environment variables, read and checked once, at start.
// README.md says what each means and what follows from it. A wrong one ends the process
// with a line that names it. So does a variable whose name begins with WEBHOOK_ and is
// not listed here: a misspelt setting must not be a silent default. An empty variable is
// one that is not set.
type Config struct {
	Port    Port `envconfig:"PORT" default:"8080"`
	AppPort Port `envconfig:"APP_PORT" default:"3001"`

	Registries ResourceIDs `envconfig:"REGISTRY_RESOURCE_ID"`
	Cloud      Cloud       `envconfig:"AZURE_CLOUD" default:"AzureCloud"`
	Regions    Regions     `envconfig:"WEBHOOK_REGIONS"`
	Optional   Regions     `envconfig:"OPTIONAL_REGIONS"`

	// The webhooks that the service registers.
	PublicURL    PublicURL `envconfig:"PUBLIC_URL"`
	Registration Switch    `envconfig:"WEBHOOK_REGISTRATION" default:"on"`
	Actions      Actions   `envconfig:"WEBHOOK_ACTIONS" default:"push"`
	Owner        Owner     `envconfig:"WEBHOOK_OWNER"`

	CatchUp        CatchUp `envconfig:"CATCH_UP" default:"1h"`
	Timeout        Timeout `envconfig:"WEBHOOK_TIMEOUT" default:"2m"`
	Keys           Keys    `envconfig:"WEBHOOK_KEYS"`
	ReadKeys       Keys    `envconfig:"READ_KEYS"`
	AllowAnonymous bool    `envconfig:"WEBHOOK_ALLOW_ANONYMOUS" default:"false"`

	Page Switch `envconfig:"PAGE" default:"on"`

	ShutdownDelay time.Duration `envconfig:"SHUTDOWN_DELAY" default:"0s"`
	Peer          PeerURL       `envconfig:"PEER_URL"`

	// Components of Dapr, and topics.
	StateStore   Name `envconfig:"STATE_STORE" default:"statestore"`
	ImageStore   Name `envconfig:"IMAGE_STORE" default:"images"`
	PubSub       Name `envconfig:"PUBSUB" default:"pubsub"`
	Topic        Name `envconfig:"TOPIC" default:"acr-notifications"`
	WebhookTopic Name `envconfig:"WEBHOOK_TOPIC" default:"acr-webhooks"`

	Targets      Targets   `envconfig:"NOTIFY_TARGETS"`
	OTLP         Collector `envconfig:"OTEL_EXPORTER_OTLP_ENDPOINT"`
	DaprGRPCPort Port      `envconfig:"DAPR_GRPC_PORT" default:"50001"`
}

const (
	minTimeout = time.Second
	maxTimeout = 30 * 24 * time.Hour
	maxDelay   = 15 * time.Second
)

// loadConfig reads and checks the environment. The error names every variable
// that is wrong, and quotes none that may hold a secret.
func loadConfig() (Config, error) {
	var c Config
	errs := unknownSettings(os.Environ(), settingNames[Config]())
	if err := process(&c); err != nil {
		return c, errors.Join(append(errs, err)...)
	}
	if c.Peer.URL == nil {
		c.Peer = containerAppURL(os.Getenv("CONTAINER_APP_NAME"), os.Getenv("CONTAINER_APP_ENV_DNS_SUFFIX"))
	}
	if c.Port == c.AppPort {
		errs = append(errs, fmt.Errorf("APP_PORT: %d is PORT as well; the sidecar's listener must be another one", c.AppPort))
	}
	if len(c.Regions) == 0 && len(c.Registries) == 0 {
		errs = append(errs, errors.New("WEBHOOK_REGIONS: not set; list the regions of the registry, such as westeurope,eastus, or set REGISTRY_RESOURCE_ID"))
	}
	if err := c.checkOptional(); err != nil {
		errs = append(errs, err)
	}
	if len(c.Keys) == 0 && !c.AllowAnonymous {
		errs = append(errs, errors.New("WEBHOOK_KEYS: not set; set a key (openssl rand -hex 24 makes one), or WEBHOOK_ALLOW_ANONYMOUS=true to let everybody in"))
	}
	if len(c.Keys) == 0 && len(c.ReadKeys) > 0 {
		errs = append(errs, errors.New("READ_KEYS: without WEBHOOK_KEYS everybody may read"))
	}
	for i, key := range c.ReadKeys {
		if slices.Contains(c.Keys, key) {
			errs = append(errs, fmt.Errorf("READ_KEYS: key %d is one of WEBHOOK_KEYS, too, and can do more than read", i+1))
		}
	}
	if d := c.ShutdownDelay; d < 0 || d > maxDelay {
		errs = append(errs, fmt.Errorf("SHUTDOWN_DELAY: \"%s\" is not a duration from 0s to %s", d, maxDelay))
	}
	if p := os.Getenv(otlpProtocol); c.OTLP.URL != nil && p != "" && p != "grpc" {
		errs = append(errs, fmt.Errorf("%s: %q cannot be spoken; grpc can", otlpProtocol, p))
	}
	return c, errors.Join(errs...)
}

// checkOptional compares the optional regions with the fixed list, if that counts.
func (c Config) checkOptional() error {
	if len(c.Registries) > 0 || len(c.Regions) == 0 {
		return nil
	}
	for _, region := range c.Optional {
		if !slices.Contains(c.Regions, region) {
			return fmt.Errorf("OPTIONAL_REGIONS: %s is not in WEBHOOK_REGIONS, which lists all regions of the registry", region)
		}
	}
	if len(c.Optional) == len(c.Regions) {
		return errors.New("OPTIONAL_REGIONS: has all of WEBHOOK_REGIONS; leave one to wait for")
	}
	return nil
}

// otlpProtocol is OpenTelemetry's standard variable.
const otlpProtocol = "OTEL_EXPORTER_OTLP_PROTOCOL"

// webhooks is what the webhooks of the registry with that name must be. It is false, with
// the reason, if the service is to leave them alone.
func (c Config) webhooks(name string) (t registry.Target, why string, ok bool) {
	switch {
	case !bool(c.Registration):
		return t, "WEBHOOK_REGISTRATION is off", false
	case c.PublicURL.URL == nil:
		return t, "PUBLIC_URL is not set", false
	}
	t = registry.Target{URL: c.PublicURL.URL, Actions: c.Actions, Owner: c.Owner.or(c.PublicURL)}
	if len(c.Keys) > 0 {
		t.Key = c.Keys[0]
	}
	if len(c.Registries) > 1 {
		t.Registry = name
	}
	return t, "", true
}

// process reads the variables of a struct for envconfig. Its error names the one that
// cannot be read. An empty variable becomes one that is not set: pipelines and Bicep
// pass on what they have, and what they have not as "".
func process[T any](settings *T) error {
	for _, name := range settingNames[T]() {
		if strings.TrimSpace(os.Getenv(name)) == "" {
			os.Unsetenv(name)
		}
	}
	err := envconfig.Process("", settings)
	parse, ok := errors.AsType[*envconfig.ParseError](err)
	switch {
	case !ok:
		return err
	case parse.TypeName == "bool":
		return fmt.Errorf("%s: %q is neither true nor false", parse.KeyName, parse.Value)
	}
	return fmt.Errorf("%s: %w", parse.KeyName, parse.Err) // most are of a Decode below
}

// unknownSettings reports variables that look like settings and are none.
func unknownSettings(environ, known []string) (errs []error) {
	for _, kv := range slices.Sorted(slices.Values(environ)) {
		name, _, _ := strings.Cut(kv, "=")
		if strings.HasPrefix(name, "WEBHOOK_") && !slices.Contains(known, name) {
			errs = append(errs, fmt.Errorf("%s: there is no such setting", name))
		}
	}
	return errs
}

// settingNames are the variables that a struct for envconfig is read from.
func settingNames[T any]() []string {
	var names []string
	for f := range reflect.TypeFor[T]().Fields() {
		names = append(names, f.Tag.Get("envconfig"))
	}
	return names
}

// Port is a TCP port.
type Port int

// Decode is called by envconfig, like its namesakes below.
func (p *Port) Decode(s string) error {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n == 0 {
		return fmt.Errorf("%q is not a TCP port from 1 to 65535", s)
	}
	*p = Port(n)
	return nil
}

// on is the listener's address on host.
func (p Port) on(host string) string { return net.JoinHostPort(host, strconv.Itoa(int(p))) }

// ResourceIDs are the resource ids of container registries; no two have one name, which is
// that of an actor.
type ResourceIDs []*arm.ResourceID

func (r *ResourceIDs) Decode(s string) (err error) {
	*r, err = registry.ParseResourceIDs(strings.Split(s, ","))
	return err
}

// Cloud is one of Azure's clouds, each of which has its own directory and its own ARM.
type Cloud cloud.Configuration

// clouds are by the names that `az cloud list` and Bicep's environment() have.
var clouds = map[string]cloud.Configuration{
	"AzureCloud":        cloud.AzurePublic,
	"AzureChinaCloud":   cloud.AzureChina,
	"AzureUSGovernment": cloud.AzureGovernment,
}

func (c *Cloud) Decode(s string) error {
	for name, configuration := range clouds {
		if strings.EqualFold(name, strings.TrimSpace(s)) {
			*c = Cloud(configuration)
			return nil
		}
	}
	return fmt.Errorf("%q is none of %s", s, strings.Join(slices.Sorted(maps.Keys(clouds)), ", "))
}

// Regions is a list of regions.
type Regions registry.Static

func (r *Regions) Decode(s string) error {
	regions, err := registry.ParseStatic(strings.Split(s, ","))
	*r = Regions(regions)
	return err
}

// PublicURL is the address of the public listener, and Collector that of whoever collects
// telemetry; without a URL, there is none.
type (
	PublicURL struct{ URL *url.URL }
	Collector struct{ URL *url.URL }
)

// maxTag is how long the value of a tag on Azure may be: it has the owner.
const maxTag = 256

func (p *PublicURL) Decode(s string) (err error) {
	if p.URL, err = parseURL(s, "https"); err != nil || len(p.URL.String()) > maxTag {
		return errors.New("not a URL such as https://allregions.example.com: https, a host, perhaps a path, and nothing else")
	}
	return nil
}

// PeerURL is the address of all replicas together; without a URL, unknown.
type PeerURL struct{ URL *url.URL }

func (p *PeerURL) Decode(s string) (err error) {
	if p.URL, err = parseURL(s, "http", "https"); err != nil {
		return errors.New("not a URL such as https://allregions.example.com: https or http, a host, perhaps a path, and nothing else")
	}
	return nil
}

// containerAppURL is where an app's own requests to itself go: Container Apps sets these
// variables.
func containerAppURL(app, suffix string) PeerURL {
	if app == "" || suffix == "" {
		return PeerURL{}
	}
	return PeerURL{&url.URL{Scheme: "https", Host: app + "." + suffix}}
}

// parseURL parses an address of a server. Its error does not quote s, which is a secret
// if somebody has put a password into it.
func parseURL(s string, schemes ...string) (*url.URL, error) {
	u, err := url.Parse(strings.TrimSpace(s))
	if err != nil || !slices.Contains(schemes, u.Scheme) || u.Hostname() == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return nil, errors.New("not an address of a server")
	}
	return u, nil
}

// Switch is on or off.
type Switch bool

func (b *Switch) Decode(s string) error {
	s = strings.ToLower(strings.TrimSpace(s))
	if *b = s == "on" || s == "true"; !*b && s != "off" && s != "false" {
		return fmt.Errorf("%q is neither on nor off", s)
	}
	return nil
}

// Actions are actions of ACR's webhooks.
type Actions []string

func (a *Actions) Decode(s string) error {
	*a = nil
	for name := range strings.SplitSeq(s, ",") {
		name = strings.TrimSpace(name)
		if !slices.Contains(registry.Actions(), name) {
			return fmt.Errorf("%q is none of %s", name, strings.Join(registry.Actions(), ", "))
		}
		*a = append(*a, name)
	}
	return nil
}

// Owner is the owner of webhooks.
type Owner string

func (o *Owner) Decode(s string) error {
	if s = strings.TrimSpace(s); len(s) > maxTag {
		return fmt.Errorf("longer than the %d characters of a tag", maxTag)
	}
	*o = Owner(s)
	return nil
}

// or is the owner that counts.
func (o Owner) or(u PublicURL) string {
	if o == "" && u.URL != nil {
		return u.URL.String()
	}
	return string(o)
}

// Timeout is a duration in one of two notations.
type Timeout time.Duration

var hoursMinutesSeconds = regexp.MustCompile(`^(\d{1,4}):(\d{1,2}):(\d{1,2})$`)

func (t *Timeout) Decode(s string) error {
	s = strings.TrimSpace(s)
	if m := hoursMinutesSeconds.FindStringSubmatch(s); m != nil {
		s = m[1] + "h" + m[2] + "m" + m[3] + "s"
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		return fmt.Errorf("%q is neither a duration such as 2m nor hours:minutes:seconds such as 0:02:00", s)
	}
	if d < minTimeout || d > maxTimeout {
		return fmt.Errorf("%s is not between %s and 30 days", d, minTimeout)
	}
	*t = Timeout(d)
	return nil
}

// CatchUp is how far back ACR's log is read; 0 does not read it.
type CatchUp time.Duration

const minCatchUp, maxCatchUp = time.Minute, 24 * time.Hour

func (c *CatchUp) Decode(s string) error {
	d, err := time.ParseDuration(strings.TrimSpace(s))
	if err != nil || d < 0 || d > maxCatchUp || d > 0 && d < minCatchUp {
		return fmt.Errorf("%q is neither 0 nor a duration from %s to 24 hours, such as 1h", s, minCatchUp)
	}
	*c = CatchUp(d)
	return nil
}

func (c *Collector) Decode(s string) (err error) {
	if c.URL, err = parseURL(s, "http", "https"); err != nil {
		return errors.New("not a URL such as http://localhost:4317: http or https, a host, a port, and nothing else")
	}
	return nil
}

// Targets are who is told of the outcomes. They show no secret, however printed.
type Targets []*target.Target

func (t *Targets) Decode(s string) (err error) {
	*t, err = target.Load(s, os.LookupEnv, os.ReadFile)
	return err
}

// Keys are secrets: neither an error nor a log shows them.
type Keys []string

func (k *Keys) Decode(s string) error {
	parts := strings.Split(s, ",")
	for i, key := range parts {
		key = strings.TrimSpace(key)
		if key == "" {
			return fmt.Errorf("key %d of %d is empty", i+1, len(parts))
		}
		*k = append(*k, key)
	}
	return nil
}

// String keeps keys out of anything that prints a Config.
func (k Keys) String() string { return fmt.Sprintf("%d keys", len(k)) }

// Name is the name of a Dapr component or topic.
type Name string

// off is the name of no topic.
const off Name = "off"

var validName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$`)

func (n *Name) Decode(s string) error {
	if !validName.MatchString(s) {
		return fmt.Errorf("%q is not the name of a component or topic", s)
	}
	*n = Name(s)
	return nil
}
