package target

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"allregions/app/replication"
)

// maxValue bounds a URL, a secret and the value of a header, in bytes. Every response
// is searched for them, so they must be short.
const maxValue = 4096

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
	var targets []*Target
	var errs []error
	for i, node := range list {
		e := template
		t := e.target(&node)
		if slices.ContainsFunc(targets, func(o *Target) bool { return t.Name != "" && t.Name == o.Name }) {
			e.wrong("name", "an earlier target has it as well")
		}
		for _, err := range e.errs {
			errs = append(errs, fmt.Errorf("target %d (%s): %w", i+1, cmp.Or(t.Name, "no name"), err))
		}
		targets = append(targets, t)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return targets, nil
}

// parse returns the entries of the list that the setting is, or whose path it is.
func parse(setting string, readFile func(string) ([]byte, error)) ([]yaml.Node, error) {
	text := []byte(setting)
	if isPath(setting) {
		var err error
		// The path is not quoted: it may be a setting that went wrong.
		if text, err = readFile(setting); err != nil {
			return nil, fmt.Errorf("read the file that the setting names: %s", strings.ReplaceAll(err.Error(), setting, "it"))
		}
	}
	var list []yaml.Node
	decoder := yaml.NewDecoder(bytes.NewReader(yamlOf(text)))
	err := decoder.Decode(&list)
	switch _, ok := errors.AsType[*yaml.TypeError](err); {
	case errors.Is(err, io.EOF):
		return nil, errors.New("there is nothing in it; [] stands for no targets")
	case ok, err == nil && list == nil:
		return nil, errors.New("not a list of targets; each begins with a dash")
	case err != nil && strings.Contains(err.Error(), "anchor"): // and quotes it
		return nil, errors.New("neither YAML nor JSON: an anchor that is not defined, or contains itself; quote what begins with *")
	case err != nil:
		return nil, fmt.Errorf("neither YAML nor JSON: %s", strings.TrimPrefix(err.Error(), "yaml: "))
	}
	if !errors.Is(decoder.Decode(&yaml.Node{}), io.EOF) {
		return nil, errors.New("there is more behind the list, such as another YAML document")
	}
	return list, nil
}

// isPath tells a path from a list, also from one that went wrong.
func isPath(setting string) bool {
	return !strings.ContainsAny(setting[:1], "[{-#'\"&!") && !strings.Contains(setting, "\n") && !strings.Contains(setting, ": ")
}

var jsonString = regexp.MustCompile(`"(?:[^"\\]|\\.)*"`)

// yamlOf makes YAML of JSON, which it is but for some escapes: our reader of YAML knows
// neither that of the slash nor surrogate pairs.
func yamlOf(text []byte) []byte {
	if !json.Valid(text) {
		return text
	}
	return jsonString.ReplaceAllFunc(text, func(quoted []byte) []byte {
		var s string
		json.Unmarshal(quoted, &s) // valid, as the whole is
		quoted, _ = json.Marshal(s)
		return quoted
	})
}

// entry reads one entry, and collects everything that is wrong with it. No error of
// package yaml is among that: they quote the value that does not fit its field.
type entry struct {
	env   func(string) (string, bool)
	later []string        // variables whose values are not known yet
	has   map[string]bool // the keys that are there
	errs  []error

	name, typ, url, secret, filter, timeout string
	headers                                 map[string]string
	outcomes                                []any

	secrets []string // the values of environment variables, and of the secret
}

const keys = "name, type, url, secret, headers, filter, outcomes, timeout"

// target makes a target of an entry. It is complete if there are no errors; with them,
// it may have a name.
func (e *entry) target(n *yaml.Node) *Target {
	e.decode(n)
	k, known := kinds[e.typ]
	if !known && e.typ != "" {
		e.wrong("type", "must be one of %s", strings.Join(slices.Sorted(maps.Keys(kinds)), ", "))
	}
	s := &settings{kind: k, header: http.Header{}}
	t := &Target{Type: e.typ, s: func() *settings { return s }}
	if validName.MatchString(e.name) {
		t.Name = e.name
	} else if e.name != "" {
		e.wrong("name", `must be 1 to 40 of a-z, 0-9 and "-", and not begin with "-"`)
	}
	s.url = e.readURL(k)
	s.moveUser()
	if known {
		e.readSecret(t.Type, s)
	}
	e.readHeaders(s)
	var err error
	if s.filter, err = compileFilter(cmp.Or(e.filter, k.filter, "true")); err != nil {
		e.wrong("filter", "%w", err)
	}
	e.readOutcomes(s)
	e.readTimeout(s)
	if len(e.errs) == 0 && e.later == nil {
		s.hidden = hide(s.url, e.secrets, s.header)
	}
	return t
}

// decode takes the values of the keys. What is missing or wrong stays empty.
func (e *entry) decode(n *yaml.Node) {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if n.Kind != yaml.MappingNode {
		e.wrong(fmt.Sprint("in line ", n.Line), "not a mapping with the keys %s", keys)
		return
	}
	e.has = map[string]bool{}
	values := map[string]any{"name": &e.name, "type": &e.typ, "url": &e.url, "secret": &e.secret,
		"headers": &e.headers, "filter": &e.filter, "outcomes": &e.outcomes, "timeout": &e.timeout}
	shapes := map[string]string{"headers": "a mapping of names to text, no name twice", "outcomes": "a list, such as [replicated, recovered]"}
	for pair := range slices.Chunk(n.Content, 2) {
		key, value := pair[0].Value, pair[1]
		empty := value.ShortTag() == "!!null" || value.Kind != yaml.MappingNode && len(value.Content) == 0 && strings.TrimSpace(value.Value) == ""
		switch {
		case values[key] == nil: // perhaps a secret whose key, or the space behind it, was forgotten
			e.wrong(fmt.Sprint("in line ", pair[0].Line), "there is no such key; there are %s", keys)
		case e.has[key]:
			e.wrong(key, "is there twice")
		case empty:
			e.wrong(key, "is empty")
		case value.Decode(values[key]) != nil:
			e.wrong(key, "must be %s", cmp.Or(shapes[key], "text"))
		}
		e.has[key] = true
	}
	for _, key := range []string{"name", "type", "url"} {
		if !e.has[key] {
			e.wrong(key, "is missing")
		}
	}
}

func (e *entry) wrong(at, format string, args ...any) {
	e.errs = append(e.errs, fmt.Errorf("%s: %w", at, fmt.Errorf(format, args...)))
}

// reference matches ${NAME}, ${ that begins none, and the escape $${.
var reference = regexp.MustCompile(`\$\$\{|\$\{(?:[A-Za-z_][A-Za-z0-9_]*\})?`)

// expanded is text with ${NAME} replaced, and "" after an error. A variable that is
// empty counts as not set, as in all settings. It is "" also if a value is not known yet.
func (e *entry) expanded(key, text string) string {
	before, unknown := len(e.errs), false
	text = strings.TrimSpace(reference.ReplaceAllStringFunc(text, func(found string) string {
		switch found {
		case "$${":
			return "${"
		case "${":
			e.wrong(key, "${ without the name of a variable and }; write $${ for ${ itself")
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
	}))
	if len(text) > maxValue {
		e.wrong(key, "is longer than %d bytes", maxValue)
	}
	if len(e.errs) > before || unknown {
		return ""
	}
	return text
}

var validName = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,39}$`)

// readURL repeats nothing of the URL, not even an error of net/url: it quotes.
func (e *entry) readURL(k kind) *url.URL {
	text := e.expanded("url", e.url)
	if text == "" {
		return nil
	}
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Hostname() == "" || !validPort(u.Port()):
		e.wrong("url", "is not a URL such as https://example.com/path")
	case u.Fragment != "":
		e.wrong("url", "must have no fragment (#) in it; in a password, # is %%23")
	case u.User != nil && slices.Contains(k.reserved, "Authorization"):
		e.wrong("url", "must have no user and password in it; the secret is sent instead")
	case u.User != nil && !hasUser(u):
		e.wrong("url", "must have a user and a password before the @, or neither")
	case u.Scheme != "https" && (u.Scheme != "http" || !isLoopback(u.Hostname())):
		e.wrong("url", "must begin with https://; http:// is for localhost, 127.0.0.0/8 and ::1 only")
	case k.path != nil && !k.path.MatchString(u.Path):
		e.wrong("url", "must be as %s", k.example)
	}
	return u
}

func hasUser(u *url.URL) bool {
	password, _ := u.User.Password()
	return u.User.Username() != "" && password != ""
}

// moveUser moves the URL's user and password into the header that they stand for.
func (s *settings) moveUser() {
	if s.url == nil || s.url.User == nil {
		return
	}
	password, _ := s.url.User.Password()
	basic := http.Request{Header: s.header}
	basic.SetBasicAuth(s.url.User.Username(), password)
	s.url.User = nil
}

func validPort(port string) bool {
	n, err := strconv.ParseUint(cmp.Or(port, "443"), 10, 16)
	return err == nil && n > 0
}

func isLoopback(host string) bool {
	addr, err := netip.ParseAddr(host)
	return strings.EqualFold(host, "localhost") || err == nil && addr.Unmap().IsLoopback()
}

func (e *entry) readSecret(typ string, s *settings) {
	store := s.kind.secret
	switch {
	case e.has["secret"] && store == nil:
		e.wrong("secret", "there is none for type %s", typ)
	case !e.has["secret"] && store != nil:
		e.wrong("secret", "is missing; type %s needs one", typ)
	}
	text := e.expanded("secret", e.secret)
	if text == "" || store == nil {
		return
	}
	e.secrets = append(e.secrets, strings.Fields(text)...)
	if err := store(s, text); err != nil {
		e.wrong("secret", "%w", err)
	}
}

// reserved are the headers that nobody can configure: they are the service's own, or
// the connection's.
var reserved = []string{"Accept-Encoding", "Connection", "Content-Encoding", "Content-Length", "Content-Type", "Expect", "Host",
	"Keep-Alive", "Proxy-Connection", "Te", "Trailer", "Transfer-Encoding", "Upgrade", "User-Agent"}

var fieldName = regexp.MustCompile("^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}$") // of a header, RFC 9110

func (e *entry) readHeaders(s *settings) {
	for _, key := range slices.Sorted(maps.Keys(e.headers)) {
		name := http.CanonicalHeaderKey(key)
		at := "headers: " + name
		switch {
		case strings.TrimSpace(e.headers[key]) == "": // perhaps a value whose name was forgotten
			e.wrong("headers", "a name without a value")
		case !fieldName.MatchString(key):
			e.wrong("headers", "there is one that is not the name of a header")
		case slices.Contains(reserved, name), slices.Contains(s.kind.reserved, name):
			e.wrong(at, "is set by the service")
		case s.header[name] != nil:
			e.wrong(at, "is there twice, or stands for the user and password of the URL, too")
		default:
			value := e.expanded(at, e.headers[key])
			if strings.ContainsFunc(value, func(c rune) bool { return c < ' ' && c != '\t' || c == 0x7f }) {
				e.wrong(at, "has a line break or another control character in it")
			}
			s.header.Set(name, value)
		}
	}
}

// choices are the outcomes that there are.
var choices = []replication.Status{replication.Replicated, replication.TimedOut, replication.Recovered}

func (e *entry) readOutcomes(s *settings) {
	if !e.has["outcomes"] {
		s.outcomes = s.kind.outcomes
	}
	for _, item := range e.outcomes {
		text, _ := item.(string)
		outcome := replication.Status(text)
		if !slices.Contains(choices, outcome) || slices.Contains(s.outcomes, outcome) {
			e.wrong("outcomes", "must be some of replicated, timedOut, recovered, none of them twice")
		}
		s.outcomes = append(s.outcomes, outcome)
	}
}

func (e *entry) readTimeout(s *settings) {
	s.timeout = defaultTimeout
	if e.timeout == "" { // it is not there, or is wrong already
		return
	}
	var err error
	if s.timeout, err = time.ParseDuration(strings.TrimSpace(e.timeout)); err != nil || s.timeout < time.Second || s.timeout > maxTimeout {
		e.wrong("timeout", "must be a duration from 1s to %.0fs, such as 60s", maxTimeout.Seconds())
	}
}
