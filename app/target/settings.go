package target

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
	"go.yaml.in/yaml/v3"

	"allregions/app/replication"
)

// The keys of an entry.
var keys = []string{"name", "type", "url", "secret", "headers", "filter", "outcomes"}

// Limits of the settings. What is redacted is searched for in every answer, so
// it must not be endless.
const (
	maxSettings = 1 << 20 // bytes
	maxURL      = 2048
	maxSecret   = 1024
	maxValue    = 4096 // of a header
)

var (
	validName = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,39}$`)
	envName   = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
	fieldName = regexp.MustCompile("^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}$") // of a header, RFC 9110
	word      = regexp.MustCompile(`^[A-Za-z_]{1,20}$`)
)

// Load reads the setting: the targets themselves, or the path of a file that has
// them. The empty setting is no targets. The error has a line for everything
// that is wrong, with the entry and the key, and quotes no secret, no value of a
// header and nothing of a URL; if there is one, there are no targets.
func Load(setting string, env func(string) (string, bool), readFile func(string) ([]byte, error)) ([]*Target, error) {
	setting = strings.TrimSpace(setting)
	if setting == "" {
		return nil, nil
	}
	text := []byte(setting)
	if isPath(setting) {
		var err error
		// The path is not quoted: it may be a setting that went wrong.
		if text, err = readFile(setting); err != nil {
			if pathError, ok := errors.AsType[*fs.PathError](err); ok {
				err = pathError.Err
			}
			return nil, fmt.Errorf("read the file that the setting names: %s", strings.ReplaceAll(err.Error(), setting, "it"))
		}
	}
	if len(text) > maxSettings {
		return nil, fmt.Errorf("larger than %d bytes", maxSettings)
	}
	list, err := parse(text)
	if err != nil {
		return nil, err
	}
	var (
		targets []*Target
		errs    []error
		names   = map[string]bool{}
	)
	for i, node := range list {
		r := reader{label: "target " + strconv.Itoa(i+1), env: env}
		t := r.target(node)
		if names[t.Name] {
			r.wrong("name", "an earlier target has it as well")
		}
		if t.Name != "" {
			names[t.Name] = true
		}
		targets, errs = append(targets, t), append(errs, r.errs...)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return targets, nil
}

// isPath tells a path from a list, also from one that went wrong.
func isPath(setting string) bool {
	return !strings.ContainsAny(setting[:1], "[{-#'\"&!") && !strings.Contains(setting, "\n") && !strings.Contains(setting, ": ")
}

// notYAML are the escapes of JSON that YAML, or our reader of it, lacks.
var notYAML = regexp.MustCompile(`\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|\\.`)

// parse reads the list of entries. JSON is YAML, but for its escapes.
func parse(text []byte) ([]*yaml.Node, error) {
	if json.Valid(text) {
		text = notYAML.ReplaceAllFunc(text, func(escape []byte) []byte {
			var s string
			if len(escape) == 2 && escape[1] != '/' || json.Unmarshal([]byte(`"`+string(escape)+`"`), &s) != nil {
				return escape
			}
			return []byte(s)
		})
	}
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	var document yaml.Node
	if err := decoder.Decode(&document); errors.Is(err, io.EOF) {
		return nil, errors.New("there is nothing in it; [] stands for no targets")
	} else if err != nil {
		return nil, wrongYAML(err)
	}
	if err := decoder.Decode(&yaml.Node{}); err == nil {
		return nil, errors.New("there is more than one YAML document in it")
	} else if !errors.Is(err, io.EOF) {
		return nil, wrongYAML(err)
	}
	list := resolve(document.Content[0])
	if list.Kind != yaml.SequenceNode {
		return nil, errors.New("not a list of targets; each begins with a dash")
	}
	return list.Content, nil
}

// wrongYAML repeats what YAML says, unless that may quote the text.
func wrongYAML(err error) error {
	problem := strings.TrimPrefix(err.Error(), "yaml: ")
	if strings.Contains(problem, "anchor") {
		problem = "an anchor that is not defined, or contains itself; quote what begins with *"
	}
	return fmt.Errorf("neither YAML nor JSON: %s", problem)
}

// resolve follows an alias, once: what an alias stands for is none itself.
func resolve(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.AliasNode {
		return n.Alias
	}
	return n
}

// reader reads one entry, and collects what is wrong with it. Values come from
// YAML's nodes and not by way of a struct, because yaml quotes what does not
// fit one.
type reader struct {
	label string // the entry, as errors call it
	env   func(string) (string, bool)
	errs  []error

	secrets []string // what came from the environment, and from secret
}

func (r *reader) wrong(key, format string, args ...any) {
	at := r.label
	if key != "" {
		at += ": " + key
	}
	r.errs = append(r.errs, fmt.Errorf("%s: %w", at, fmt.Errorf(format, args...)))
}

// target reads an entry. Without errors, the result is complete; with them, it
// may have a name.
func (r *reader) target(n *yaml.Node) *Target {
	s := &settings{header: http.Header{}}
	t := &Target{s: func() *settings { return s }}
	n = resolve(n)
	if n.Kind != yaml.MappingNode {
		r.wrong("", "in line %d: not a mapping with the keys %s", n.Line, strings.Join(keys, ", "))
		return t
	}
	fields := map[string]*yaml.Node{}
	for key, value := range pairs(n) {
		switch {
		case !slices.Contains(keys, key.Value):
			r.wrong("", "%s in line %d: there is no such key; there are %s", shown(key, value), key.Line, strings.Join(keys, ", "))
		case fields[key.Value] != nil:
			r.wrong(key.Value, "is there twice")
		default:
			fields[key.Value] = value
		}
	}
	if n, ok := fields["name"]; !ok {
		r.wrong("name", "is missing")
	} else if name, ok := r.text("name", n); ok {
		if validName.MatchString(name) {
			t.Name = name
			r.label += " (" + name + ")"
		} else {
			r.wrong("name", "must be 1 to 40 of a-z, 0-9 and \"-\", and not begin with \"-\"")
		}
	}
	if n, ok := fields["type"]; !ok {
		r.wrong("type", "is missing; it is one of %s", strings.Join(kindNames(), ", "))
	} else if name, ok := r.text("type", n); ok {
		if k, ok := kinds[name]; ok {
			t.Type, s.kind = name, k
		} else {
			r.wrong("type", "%s is none of %s", shown(n, n), strings.Join(kindNames(), ", "))
		}
	}
	if n, ok := fields["url"]; !ok {
		r.wrong("url", "is missing")
	} else if text, ok := r.expanded("url", n); ok {
		s.url = r.url(text, s.kind)
	}
	if n, ok := fields["secret"]; ok {
		if t.Type != "" && s.kind.secret == nil {
			r.wrong("secret", "there is none for type %s", t.Type)
		} else if text, ok := r.expanded("secret", n); ok {
			r.secrets = append(r.secrets, strings.Fields(text)...)
			if t.Type != "" {
				if err := s.kind.secret(s, text); err != nil {
					r.wrong("secret", "%w", err)
				}
			}
		}
	} else if s.kind.secret != nil {
		r.wrong("secret", "is missing; type %s needs one", t.Type)
	}
	if n, ok := fields["headers"]; ok {
		r.headers(s, n)
	}
	s.filter = r.filter(fields["filter"], s.kind)
	s.outcomes = s.kind.outcomes
	if n, ok := fields["outcomes"]; ok {
		s.outcomes = r.outcomes(n)
	}
	if len(r.errs) == 0 {
		s.hidden = hide(s.url, r.secrets, s.header)
	}
	return t
}

// pairs are the keys and values of a mapping, aliases resolved.
func pairs(n *yaml.Node) func(yield func(key, value *yaml.Node) bool) {
	return func(yield func(key, value *yaml.Node) bool) {
		for i := 0; i+1 < len(n.Content); i += 2 {
			if !yield(resolve(n.Content[i]), resolve(n.Content[i+1])) {
				return
			}
		}
	}
}

// shown quotes what can only be a misspelt word. A key without a value may be
// a secret whose key, or the space behind it, was forgotten.
func shown(n, value *yaml.Node) string {
	if n.Kind == yaml.ScalarNode && word.MatchString(n.Value) && value.ShortTag() != "!!null" {
		return strconv.Quote(n.Value)
	}
	return "what is there"
}

// text is the value of a key, without space around it. If it is not ok, that
// was reported.
func (r *reader) text(key string, n *yaml.Node) (s string, ok bool) {
	if n.Kind != yaml.ScalarNode {
		r.wrong(key, "must be text")
		return "", false
	}
	if s = strings.TrimSpace(n.Value); s == "" || n.ShortTag() == "!!null" {
		r.wrong(key, "is empty")
		return "", false
	}
	return s, true
}

// expanded is text with ${NAME} replaced. A variable that is empty is one that
// is not set, as in all settings.
func (r *reader) expanded(key string, n *yaml.Node) (string, bool) {
	s, ok := r.text(key, n)
	if !ok {
		return "", false
	}
	var b strings.Builder
	for {
		before, rest, found := strings.Cut(s, "${")
		b.WriteString(before)
		if !found {
			break
		}
		if strings.HasSuffix(before, "$") {
			b.WriteByte('{') // behind the $ that is there already
			s = rest
			continue
		}
		name, after, closed := strings.Cut(rest, "}")
		if !closed || !envName.MatchString(name) {
			r.wrong(key, "${ without the name of a variable and }; write $${ for ${ itself")
			return "", false
		}
		value, set := r.env(name)
		if value = strings.TrimSpace(value); !set || value == "" {
			r.wrong(key, "the environment variable %s is not set", name)
			ok = false
		}
		r.secrets = append(r.secrets, value)
		b.WriteString(value)
		s = after
	}
	return strings.TrimSpace(b.String()), ok
}

// url checks a URL. Not even an error of net/url is repeated: it quotes.
func (r *reader) url(s string, k kind) *url.URL {
	u, err := url.Parse(s)
	switch {
	case len(s) > maxURL:
		r.wrong("url", "is longer than %d bytes", maxURL)
	case err != nil || u.Opaque != "" || u.Hostname() == "" || !validPort(u):
		r.wrong("url", "is not a URL such as https://example.com/path")
	case u.User != nil:
		r.wrong("url", "must not have a user or password in it; use headers")
	case u.Fragment != "":
		r.wrong("url", "must not have a fragment (#)")
	case u.Scheme != "https" && u.Scheme != "http":
		r.wrong("url", "must begin with https://")
	case u.Scheme == "http" && !isLoopback(u.Hostname()):
		r.wrong("url", "must begin with https://; http:// is for localhost, 127.0.0.0/8 and ::1 only")
	case k.path != nil && !k.path.MatchString(u.Path):
		r.wrong("url", "must be as %s", k.example)
	}
	return u
}

func validPort(u *url.URL) bool {
	if u.Port() == "" {
		return !strings.HasSuffix(u.Host, ":")
	}
	n, err := strconv.ParseUint(u.Port(), 10, 16)
	return err == nil && n > 0
}

func isLoopback(host string) bool {
	addr, err := netip.ParseAddr(host)
	return strings.EqualFold(host, "localhost") || err == nil && addr.Unmap().IsLoopback()
}

// filter compiles the expression in n, or without n the one of the kind.
func (r *reader) filter(n *yaml.Node, k kind) *filter {
	text := k.filter
	if n != nil {
		var ok bool
		if text, ok = r.text("filter", n); !ok {
			return nil
		}
	}
	if text == "" {
		return nil
	}
	if len(text) > maxFilter {
		r.wrong("filter", "is longer than %d bytes", maxFilter)
		return nil
	}
	f, err := compileFilter(text)
	if err != nil {
		r.wrong("filter", "%w", err)
	}
	return f
}

// reserved are headers that are the service's own, or the connection's.
var reserved = []string{"Accept-Encoding", "Connection", "Content-Encoding", "Content-Length", "Content-Type", "Expect", "Host",
	"Keep-Alive", "Proxy-Connection", "Te", "Trailer", "Transfer-Encoding", "Upgrade", "User-Agent"}

func (r *reader) headers(s *settings, n *yaml.Node) {
	if n.Kind != yaml.MappingNode {
		r.wrong("headers", "must be a mapping of names to values")
		return
	}
	for key, value := range pairs(n) {
		if key.Kind != yaml.ScalarNode || value.ShortTag() == "!!null" {
			r.wrong("headers", "in line %d: a name without a value", key.Line)
			continue
		}
		if !fieldName.MatchString(key.Value) {
			r.wrong("headers", "in line %d: not the name of a header", key.Line)
			continue
		}
		name := http.CanonicalHeaderKey(key.Value)
		at := "headers: " + name
		if slices.Contains(reserved, name) || slices.Contains(s.kind.reserved, name) {
			r.wrong(at, "is set by the service")
			continue
		}
		if _, twice := s.header[name]; twice {
			r.wrong(at, "is there twice")
			continue
		}
		v, ok := r.expanded(at, value)
		if !ok {
			continue
		}
		if len(v) > maxValue {
			r.wrong(at, "is longer than %d bytes", maxValue)
		}
		if strings.ContainsFunc(v, func(c rune) bool { return c < ' ' && c != '\t' || c == 0x7f }) {
			r.wrong(at, "has a line break or another control character in it")
		}
		s.header.Set(name, v)
	}
}

// choices are the outcomes there are.
var choices = []replication.Status{replication.Replicated, replication.TimedOut, replication.Recovered}

func (r *reader) outcomes(n *yaml.Node) []replication.Status {
	if n.Kind != yaml.SequenceNode {
		r.wrong("outcomes", "must be a list, such as [replicated, recovered]")
		return nil
	}
	if len(n.Content) == 0 {
		r.wrong("outcomes", "is empty; without the key, there are all that make sense")
	}
	var outcomes []replication.Status
	for _, item := range n.Content {
		item = resolve(item)
		switch outcome := replication.Status(item.Value); {
		case !slices.Contains(choices, outcome):
			r.wrong("outcomes", "%s is none of replicated, timedOut, recovered", shown(item, item))
		case slices.Contains(outcomes, outcome):
			r.wrong("outcomes", "%s is there twice", outcome)
		default:
			outcomes = append(outcomes, outcome)
		}
	}
	return outcomes
}

func kindNames() []string { return slices.Sorted(maps.Keys(kinds)) }

// signingSecrets takes one secret of Standard Webhooks, or two during a
// rotation.
func signingSecrets(s *settings, secret string) error {
	secrets := strings.Fields(secret)
	if len(secrets) > 2 {
		return fmt.Errorf("there are %d; there can be two, during a rotation", len(secrets))
	}
	for i, secret := range secrets {
		key, ok := strings.CutPrefix(secret, "whsec_")
		raw, err := base64.StdEncoding.DecodeString(key)
		if !ok || err != nil || len(raw) < 24 || len(raw) > 64 {
			return fmt.Errorf("number %d is not whsec_ and the base64 of 24 to 64 bytes; echo whsec_$(openssl rand -base64 32) makes one", i+1)
		}
		signer, err := standardwebhooks.NewWebhookRaw(raw)
		if err != nil {
			return errors.New("cannot be used to sign") // the error may quote it
		}
		s.signers = append(s.signers, signer)
	}
	return nil
}

// bearerToken takes a token that goes into a header.
func bearerToken(s *settings, secret string) error {
	if len(secret) > maxSecret || strings.ContainsFunc(secret, func(c rune) bool { return c <= ' ' || c > '~' }) {
		return fmt.Errorf("is not a token: printable characters without spaces, at most %d", maxSecret)
	}
	s.token = secret
	return nil
}
