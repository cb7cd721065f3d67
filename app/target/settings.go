package target

import (
	"bytes"
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

	"go.yaml.in/yaml/v3"

	"allregions/app/replication"
)

// Limits of the settings. Every response is searched for the secrets in them, so
// they must be short.
const (
	maxSettings = 1 << 20 // bytes
	maxURL      = 2048
	maxSecret   = 1024
	maxValue    = 4096 // of a header
)

// Load reads the setting: the targets themselves, or the path of a file that has
// them. The empty setting is no targets. The error has a line for everything
// that is wrong, with the entry and the key, and quotes no secret, no value of a
// header and nothing of a URL; if there is one, there are no targets.
func Load(setting string, env func(string) (string, bool), readFile func(string) ([]byte, error)) ([]*Target, error) {
	return readList(setting, entry{env: env}, readFile)
}

// Check returns the error of [Load] as far as it can be known where the variables have
// no values yet: there will be those with these names, and no file.
func Check(setting string, variables []string) error {
	_, err := readList(setting, entry{env: func(string) (string, bool) { return "", false }, later: variables}, func(string) ([]byte, error) {
		return nil, errors.New(`there will be no file; give the list itself: azd env set "NOTIFY_TARGETS=$(cat FILE)"`)
	})
	return err
}

// readList reads each entry as template does.
func readList(setting string, template entry, readFile func(string) ([]byte, error)) ([]*Target, error) {
	setting = strings.TrimSpace(setting)
	if setting == "" {
		return nil, nil
	}
	list, err := parse(setting, readFile)
	if err != nil {
		return nil, err
	}
	var (
		targets []*Target
		errs    []error
		names   = map[string]bool{}
	)
	for i, node := range list {
		s := &settings{header: http.Header{}}
		e := template
		e.label, e.target, e.settings = "target "+strconv.Itoa(i+1), &Target{s: func() *settings { return s }}, s
		e.read(resolve(node))
		name := e.target.Name
		if names[name] {
			e.wrong("name", "an earlier target has it as well")
		}
		names[name] = name != ""
		targets, errs = append(targets, e.target), append(errs, e.errs...)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return targets, nil
}

// parse returns the entries of the list that the setting is, or whose path it is.
func parse(setting string, readFile func(string) ([]byte, error)) ([]*yaml.Node, error) {
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
	var document yaml.Node
	decoder := yaml.NewDecoder(bytes.NewReader(yamlOf(text)))
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

// isPath tells a path from a list, also from one that went wrong.
func isPath(setting string) bool {
	return !strings.ContainsAny(setting[:1], "[{-#'\"&!") && !strings.Contains(setting, "\n") && !strings.Contains(setting, ": ")
}

// notYAML matches the escapes of JSON that our reader of YAML does not know: the
// slash and surrogate pairs. The other escapes match so that they are skipped.
var notYAML = regexp.MustCompile(`\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|\\.`)

// yamlOf makes YAML of JSON, which it is but for some escapes.
func yamlOf(text []byte) []byte {
	if !json.Valid(text) {
		return text
	}
	return notYAML.ReplaceAllFunc(text, func(escape []byte) []byte {
		var s string
		if len(escape) == 2 && escape[1] != '/' || json.Unmarshal([]byte(`"`+string(escape)+`"`), &s) != nil {
			return escape
		}
		return []byte(s)
	})
}

// wrongYAML repeats what YAML says, unless that may quote the text.
func wrongYAML(err error) error {
	problem := strings.TrimPrefix(err.Error(), "yaml: ")
	if strings.Contains(problem, "anchor") {
		problem = "an anchor that is not defined, or contains itself; quote what begins with *"
	}
	return fmt.Errorf("neither YAML nor JSON: %s", problem)
}

// resolve follows an alias, once: an alias never stands for another one.
func resolve(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.AliasNode {
		return n.Alias
	}
	return n
}

// entry reads one entry, and collects everything that is wrong with it. It takes
// values from YAML's nodes and not by way of a struct: the errors of yaml quote a
// value that does not fit its field.
type entry struct {
	label    string // what errors call the entry
	env      func(string) (string, bool)
	later    []string // variables whose values are not known yet
	target   *Target
	settings *settings
	secrets  []string // the values of environment variables, and of the secret
	errs     []error
}

// keys are the keys of an entry.
var keys = []string{"name", "type", "url", "secret", "headers", "filter", "outcomes"}

// read reads an entry. Without errors, the target is complete; with them, it may
// have a name. Without its key, a value has no node.
func (e *entry) read(n *yaml.Node) {
	if n.Kind != yaml.MappingNode {
		e.wrong("", "in line %d: not a mapping with the keys %s", n.Line, strings.Join(keys, ", "))
		return
	}
	fields := map[string]*yaml.Node{}
	for pair := range slices.Chunk(n.Content, 2) {
		key, value := resolve(pair[0]), resolve(pair[1])
		switch {
		case !slices.Contains(keys, key.Value):
			e.wrong("", "%s in line %d: there is no such key; there are %s", shown(key, value), key.Line, strings.Join(keys, ", "))
		case fields[key.Value] != nil:
			e.wrong(key.Value, "is there twice")
		default:
			fields[key.Value] = value
		}
	}
	e.readName(fields["name"])
	e.readType(fields["type"])
	e.readURL(fields["url"])
	e.readSecret(fields["secret"])
	e.readHeaders(fields["headers"])
	e.readFilter(fields["filter"])
	e.readOutcomes(fields["outcomes"])
	if len(e.errs) == 0 && e.later == nil {
		e.settings.hidden = hide(e.settings.url, e.secrets, e.settings.header)
	}
}

func (e *entry) wrong(key, format string, args ...any) {
	at := e.label
	if key != "" {
		at += ": " + key
	}
	e.errs = append(e.errs, fmt.Errorf("%s: %w", at, fmt.Errorf(format, args...)))
}

var word = regexp.MustCompile(`^[A-Za-z_]{1,20}$`)

// shown quotes what can only be a misspelt word. A key without a value may be
// a secret whose key, or the space behind it, was forgotten.
func shown(n, value *yaml.Node) string {
	if n.Kind == yaml.ScalarNode && word.MatchString(n.Value) && value.ShortTag() != "!!null" {
		return strconv.Quote(n.Value)
	}
	return "what is there"
}

// text is the value of a key, without space around it. It is "" only after an error,
// which text has collected.
func (e *entry) text(key string, n *yaml.Node) string {
	switch {
	case n == nil:
		e.wrong(key, "is missing")
	case n.Kind != yaml.ScalarNode:
		e.wrong(key, "must be text")
	case strings.TrimSpace(n.Value) == "" || n.ShortTag() == "!!null":
		e.wrong(key, "is empty")
	default:
		return strings.TrimSpace(n.Value)
	}
	return ""
}

// reference matches ${NAME}, ${ that begins none, and the escape $${.
var reference = regexp.MustCompile(`\$\$\{|\$\{(?:[A-Za-z_][A-Za-z0-9_]*\})?`)

// expanded is text with ${NAME} replaced. A variable that is empty counts as not
// set, as in all settings. It is "" also if a value is not known yet.
func (e *entry) expanded(key string, n *yaml.Node) string {
	before, malformed, unknown := len(e.errs), false, false
	s := reference.ReplaceAllStringFunc(e.text(key, n), func(found string) string {
		switch found {
		case "$${":
			return "${"
		case "${":
			malformed = true
			return ""
		}
		name := found[2 : len(found)-1]
		if slices.Contains(e.later, name) {
			unknown = true
			return ""
		}
		value, _ := e.env(name)
		if value = strings.TrimSpace(value); value == "" {
			e.wrong(key, "the environment variable %s is not set", name)
		}
		e.secrets = append(e.secrets, value)
		return value
	})
	if malformed {
		e.wrong(key, "${ without the name of a variable and }; write $${ for ${ itself")
	}
	if len(e.errs) > before || unknown {
		return ""
	}
	return strings.TrimSpace(s)
}

var validName = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,39}$`)

func (e *entry) readName(n *yaml.Node) {
	name := e.text("name", n)
	if validName.MatchString(name) {
		e.target.Name = name
		e.label += " (" + name + ")"
	} else if name != "" {
		e.wrong("name", `must be 1 to 40 of a-z, 0-9 and "-", and not begin with "-"`)
	}
}

func (e *entry) readType(n *yaml.Node) {
	names := strings.Join(slices.Sorted(maps.Keys(kinds)), ", ")
	if n == nil {
		e.wrong("type", "is missing; it is one of %s", names)
		return
	}
	name := e.text("type", n)
	if k, ok := kinds[name]; ok {
		e.target.Type, e.settings.kind = name, k
	} else if name != "" {
		e.wrong("type", "%s is none of %s", shown(n, n), names)
	}
}

// readURL repeats nothing of the URL, not even an error of net/url: it quotes.
func (e *entry) readURL(n *yaml.Node) {
	text := e.expanded("url", n)
	if text == "" {
		return
	}
	u, err := url.Parse(text)
	k := e.settings.kind
	switch {
	case len(text) > maxURL:
		e.wrong("url", "is longer than %d bytes", maxURL)
	case err != nil || u.Opaque != "" || u.Hostname() == "" || !validPort(u):
		e.wrong("url", "is not a URL such as https://example.com/path")
	case u.User != nil:
		e.wrong("url", "must not have a user or password in it; use headers")
	case u.Fragment != "":
		e.wrong("url", "must not have a fragment (#)")
	case u.Scheme != "https" && u.Scheme != "http":
		e.wrong("url", "must begin with https://")
	case u.Scheme == "http" && !isLoopback(u.Hostname()):
		e.wrong("url", "must begin with https://; http:// is for localhost, 127.0.0.0/8 and ::1 only")
	case k.path != nil && !k.path.MatchString(u.Path):
		e.wrong("url", "must be as %s", k.example)
	}
	e.settings.url = u
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

func (e *entry) readSecret(n *yaml.Node) {
	typ, store := e.target.Type, e.settings.kind.secret
	switch {
	case n == nil && store == nil:
		return
	case n == nil:
		e.wrong("secret", "is missing; type %s needs one", typ)
		return
	case typ != "" && store == nil:
		e.wrong("secret", "there is none for type %s", typ)
		return
	}
	text := e.expanded("secret", n)
	e.secrets = append(e.secrets, strings.Fields(text)...)
	if text == "" || store == nil { // without store, the type is wrong
		return
	}
	if err := store(e.settings, text); err != nil {
		e.wrong("secret", "%w", err)
	}
}

// reserved are the headers that nobody can configure: they are the service's own, or
// the connection's.
var reserved = []string{"Accept-Encoding", "Connection", "Content-Encoding", "Content-Length", "Content-Type", "Expect", "Host",
	"Keep-Alive", "Proxy-Connection", "Te", "Trailer", "Transfer-Encoding", "Upgrade", "User-Agent"}

var fieldName = regexp.MustCompile("^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}$") // of a header, RFC 9110

func (e *entry) readHeaders(n *yaml.Node) {
	if n == nil {
		return
	}
	if n.Kind != yaml.MappingNode {
		e.wrong("headers", "must be a mapping of names to values")
		return
	}
	for pair := range slices.Chunk(n.Content, 2) {
		key, value := resolve(pair[0]), resolve(pair[1])
		switch {
		case key.Kind != yaml.ScalarNode || value.ShortTag() == "!!null":
			e.wrong("headers", "in line %d: a name without a value", key.Line)
		case !fieldName.MatchString(key.Value):
			e.wrong("headers", "in line %d: not the name of a header", key.Line)
		default:
			e.readHeader(http.CanonicalHeaderKey(key.Value), value)
		}
	}
}

func (e *entry) readHeader(name string, n *yaml.Node) {
	s, at := e.settings, "headers: "+name
	switch {
	case slices.Contains(reserved, name), slices.Contains(s.kind.reserved, name):
		e.wrong(at, "is set by the service")
		return
	case s.header[name] != nil:
		e.wrong(at, "is there twice")
		return
	}
	value := e.expanded(at, n)
	if len(value) > maxValue {
		e.wrong(at, "is longer than %d bytes", maxValue)
	}
	if strings.ContainsFunc(value, func(c rune) bool { return c < ' ' && c != '\t' || c == 0x7f }) {
		e.wrong(at, "has a line break or another control character in it")
	}
	s.header.Set(name, value)
}

// readFilter compiles the expression, or without one that of the kind.
func (e *entry) readFilter(n *yaml.Node) {
	text := e.settings.kind.filter
	if n != nil {
		text = e.text("filter", n)
	}
	if text == "" {
		return
	}
	if len(text) > maxFilter {
		e.wrong("filter", "is longer than %d bytes", maxFilter)
		return
	}
	var err error
	if e.settings.filter, err = compileFilter(text); err != nil {
		e.wrong("filter", "%w", err)
	}
}

// choices are the outcomes that there are.
var choices = []replication.Status{replication.Replicated, replication.TimedOut, replication.Recovered}

func (e *entry) readOutcomes(n *yaml.Node) {
	s := e.settings
	if n == nil {
		s.outcomes = choices
		if s.kind.outcomes != nil {
			s.outcomes = s.kind.outcomes
		}
		return
	}
	if n.Kind != yaml.SequenceNode {
		e.wrong("outcomes", "must be a list, such as [replicated, recovered]")
		return
	}
	if len(n.Content) == 0 {
		e.wrong("outcomes", "is empty; without the key, there are all that make sense")
	}
	for _, item := range n.Content {
		item = resolve(item)
		switch outcome := replication.Status(item.Value); {
		case !slices.Contains(choices, outcome):
			e.wrong("outcomes", "%s is none of replicated, timedOut, recovered", shown(item, item))
		case slices.Contains(s.outcomes, outcome):
			e.wrong("outcomes", "%s is there twice", outcome)
		default:
			s.outcomes = append(s.outcomes, outcome)
		}
	}
}
