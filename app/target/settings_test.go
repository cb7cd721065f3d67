package target

import (
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"allregions/app/notification"
	"allregions/app/replication"
)

const (
	signingOne = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="
	signingTwo = "whsec_ZmVkY2JhOTg3NjU0MzIxMGZlZGNiYTk4NzY1NDMyMTA="
)

// everyType has a target of every type, with secrets in every place that can
// have one. HOST is scheme and host.
const everyType = `
- {name: webhook, type: webhook, url: "${HOST}/hooks/${PATH_TOKEN}?sig=${QUERY_TOKEN}", secret: "${SIGNING_ONE} ${SIGNING_TWO}", headers: {Authorization: "Bearer ${HEADER_TOKEN}", X-Key: "${HEADER_KEY}"}}
- {name: acr, type: acr, url: "${HOST}/hook/${PATH_TOKEN}?sig=${QUERY_TOKEN}", headers: {Authorization: "Basic ${HEADER_BASIC}", X-Key: "${HEADER_KEY}"}}
- {name: slack, type: slack, url: "${HOST}/services/T0/B0/${PATH_TOKEN}?sig=${QUERY_TOKEN}", headers: {X-Key: "${HEADER_KEY}"}}
- {name: teams, type: teams, url: "${USER_HOST}/workflows/${PATH_TOKEN}/run?api-version=1&sig=${QUERY_TOKEN}", headers: {X-Key: "${HEADER_KEY}"}}
- {name: github, type: github, url: "${HOST}/repos/contoso/${PATH_TOKEN}/dispatches?sig=${QUERY_TOKEN}", secret: "${GITHUB_TOKEN}", headers: {X-Key: "${HEADER_KEY}"}}
`

var everyTypeEnv = map[string]string{
	"HOST":         "https://hooks.example.com",
	"USER_HOST":    "https://$app:urlPasswordT8wK3@hooks.example.com",
	"PATH_TOKEN":   "pathTokenQ7xJ2mZ9",
	"QUERY_TOKEN":  "queryToken/+<&>=K4vW8",
	"SIGNING_ONE":  signingOne,
	"SIGNING_TWO":  signingTwo,
	"HEADER_TOKEN": "headerTokenB3nT6yR1",
	"HEADER_KEY":   `header"Key\<L5pD0>`,
	"HEADER_BASIC": "ZGVwbG95OmJhc2ljUGFzc3dvcmRINHNDOGY=", // deploy:basicPasswordH4sC8f
	"GITHUB_TOKEN": "ghp_githubTokenE9uG2kA7",
}

var exampleEnv = map[string]string{
	"DEPLOYER_SECRET": signingOne, "DEPLOYER_SECRET_OLD": signingTwo,
	"FLUX_RECEIVER": "5f8e0c",
	"SLACK_URL":     "https://hooks.slack.com/services/T000/B000/XXXX", "TEAMS_URL": "https://contoso.example.com/workflows/1/triggers/manual?sig=x",
	"GITHUB_TOKEN": "ghp_x",
}

// readExample is the example in the documentation.
func readExample(t testing.TB) string {
	t.Helper()
	data, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(data), "\n```yaml\n")
	example, _, found := strings.Cut(after, "\n```\n")
	if !found {
		t.Fatal("README.md has no example")
	}
	return example
}

// The table of the documentation has the keys that an entry may have, and no others.
func TestDocumentedKeys(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(readme), "\n| key | meaning |\n|---|---|\n")
	table, _, _ = strings.Cut(table, "\n\n")
	var got []string
	for row := range strings.SplitSeq(table, "\n") {
		key, _, _ := strings.Cut(strings.TrimPrefix(row, "| `"), "`")
		got = append(got, key)
	}
	if sorted, want := slices.Sorted(slices.Values(got)), slices.Sorted(strings.SplitSeq(keys, ", ")); !slices.Equal(sorted, want) {
		t.Errorf("got %q, want %q", sorted, want)
	}
}

// The example of the documentation works, from a file as well.
func TestExample(t *testing.T) {
	example := readExample(t)
	readFile := func(path string) ([]byte, error) {
		if path != "targets.yaml" {
			return nil, fs.ErrNotExist
		}
		return []byte(example), nil
	}
	want := []string{"deployer (webhook)", "flux (acr)", "ops-slack (slack)", "ops-teams (teams)", "release (github)"}
	for name, setting := range map[string]string{"text": example, "a path": " targets.yaml\n"} {
		t.Run(name, func(t *testing.T) {
			targets, err := Load(setting, lookup(exampleEnv), readFile)
			var got, types []string
			var wants []bool
			for _, target := range targets {
				got, types = append(got, target.String()), append(types, target.Type)
				ok, err := target.Wants(event(t, notification.TypeTimedOut, nil))
				if err != nil {
					t.Error(err)
				}
				wants = append(wants, ok)
			}
			if err != nil || !slices.Equal(got, want) {
				t.Fatalf("got %q, %v, want %q", got, err, want)
			}
			if slices.Sort(types); !slices.Equal(types, slices.Sorted(maps.Keys(kinds))) {
				t.Errorf("examples of %q", types)
			}
			if want := []bool{true, false, true, true, false}; !slices.Equal(wants, want) {
				t.Errorf("who wants a timeout: got %v, want %v", wants, want)
			}
			if n := len(targets[0].s().signers); n != 2 {
				t.Errorf("got %d signers, want 2", n)
			}
		})
	}
}

func TestLoadNothing(t *testing.T) {
	for _, setting := range []string{"", " \n", "[]", "# none\n[]"} {
		if targets, err := Load(setting, lookup(nil), noFile); len(targets) != 0 || err != nil {
			t.Errorf("%q: %v, %v", setting, targets, err)
		}
	}
}

func TestLoadNotations(t *testing.T) {
	for _, c := range []struct{ name, setting, url string }{
		{"JSON", "[\n\t{\"name\": \"a\", \"type\": \"slack\", \"url\": \"https:\\/\\/example.com\\/x\"}]", "https://example.com/x"},
		{"JSON's own escapes", `[{"name":"a","type":"slack","url":"https:\/\/example.com\/\ud83d\ude00\u0041?\\/"}]`, "https://example.com/%F0%9F%98%80A?\\/"},
		{"JSON in a line", `[{"name":"a","type":"slack","url":"https://example.com/x"}]`, "https://example.com/x"},
		{"YAML", "- name: a\n  type: slack\n  url: https://example.com/x\n", "https://example.com/x"},
		{"YAML after a comment", "# targets\n- name: a\n  type: slack\n  url: https://example.com/x\n", "https://example.com/x"},
		{"YAML after a document's start", "---\n- name: a\n  type: slack\n  url: https://example.com/x\n", "https://example.com/x"},
		{"an alias", "- name: a\n  type: slack\n  url: &u https://example.com/x\n- {name: b, type: slack, url: *u}\n", "https://example.com/x"},
		{"http to this machine", "[{name: a, type: slack, url: 'http://localhost:8080/x'}]", "http://localhost:8080/x"},
		{"http to 127.0.0.0/8", "[{name: a, type: slack, url: 'http://127.8.9.1/x'}]", "http://127.8.9.1/x"},
		{"http to ::1", "[{name: a, type: slack, url: 'http://[::1]:80/x'}]", "http://[::1]:80/x"},
		{"a variable", "[{name: a, type: slack, url: '${URL}'}]", "https://example.com/env"},
		{"a variable within", "[{name: a, type: slack, url: 'https://example.com/${ID}/y'}]", "https://example.com/42/y"},
		{"an escaped variable", "[{name: a, type: slack, url: 'https://example.com/?x=$${ID}$y'}]", "https://example.com/?x=${ID}$y"},
	} {
		t.Run(c.name, func(t *testing.T) {
			targets, err := Load(c.setting, lookup(map[string]string{"URL": " https://example.com/env\n", "ID": "42"}), noFile)
			if err != nil {
				t.Fatal(err)
			}
			if got := targets[len(targets)-1].s().url.String(); got != c.url {
				t.Errorf("got %s, want %s", got, c.url)
			}
		})
	}
}

func TestLoadErrors(t *testing.T) {
	const good = `name: ops, type: slack, url: "https://example.com/x"`
	const acr = `name: ops, type: acr, url: "https://example.com/x"`
	const webhook = `name: ops, type: webhook, url: "https://example.com/x"`
	const secret = "hunter2-Hunter2-hunter2-Hunter2" // in every place where it must not be repeated
	entry := func(fields string) string { return "[{" + fields + "}]" }
	for _, c := range []struct {
		name, setting string
		want          []string // one line of the error each
	}{
		{"a file that is not there", "/etc/" + secret, []string{"read the file that the setting names: open it: file does not exist"}},
		{"an empty file", "empty", []string{"there is nothing in it; [] stands for no targets"}},
		{"broken YAML", "- name: a\n  url: [" + secret + "\n", []string{"neither YAML nor JSON: line 1: did not find expected ',' or ']'"}},
		{"an alias by accident", "- name: a\n  secret: *" + secret + "\n", []string{"neither YAML nor JSON: an anchor that is not defined, or contains itself; quote what begins with *"}},
		{"two documents", "[]\n---\n[]\n", []string{"there is more behind the list, such as another YAML document"}},
		{"a broken second document", "[]\n---\n[", []string{"there is more behind the list, such as another YAML document"}},
		{"nothing but a document's start", "---\n~\n", []string{"not a list of targets; each begins with a dash"}},
		{"a mapping", "{" + good + "}", []string{"not a list of targets; each begins with a dash"}},
		{"a mapping in a line", "name: " + secret, []string{"not a list of targets; each begins with a dash"}},
		{"an entry that is text", `["` + secret + `"]`, []string{"target 1 (no name): in line 1: not a mapping with the keys name, type, url, secret, headers, filter, outcomes, timeout"}},
		{"an unknown key", entry(good + ", color: " + secret), []string{`target 1 (ops): in line 1: there is no such key; there are name, type, url, secret, headers, filter, outcomes, timeout`}},
		{"no space before the value", entry(good + ", secret:" + secret), []string{"target 1 (ops): in line 1: there is no such key; there are name, type, url, secret, headers, filter, outcomes, timeout"}},
		{"a value alone", entry(good + ", hunterhunter"), []string{"target 1 (ops): in line 1: there is no such key; there are name, type, url, secret, headers, filter, outcomes, timeout"}},
		{"a key that is no text", entry(good + `, [color]: ` + secret), []string{"target 1 (ops): in line 1: there is no such key; there are name, type, url, secret, headers, filter, outcomes, timeout"}},
		{"a key that may be a secret", entry(good + `, ` + secret + `: x`), []string{"target 1 (ops): in line 1: there is no such key; there are name, type, url, secret, headers, filter, outcomes, timeout"}},
		{"a key twice", entry(good + ", type: acr"), []string{"target 1 (ops): type: is there twice"}},
		{"everything missing", "[{}]", []string{"target 1 (no name): name: is missing", "target 1 (no name): type: is missing", "target 1 (no name): url: is missing"}},
		{"everything empty", "[{name: , type: '', url: ~, filter: ' ', headers: , outcomes: }]", []string{"target 1 (no name): name: is empty", "target 1 (no name): type: is empty", "target 1 (no name): url: is empty",
			"target 1 (no name): filter: is empty", "target 1 (no name): headers: is empty", "target 1 (no name): outcomes: is empty"}},
		{"not text", "[{name: [a], type: {}, url: [a]}]", []string{"target 1 (no name): name: must be text", "target 1 (no name): type: must be text", "target 1 (no name): url: must be text"}},
		{"a wrong name", entry(`name: Ops, type: slack, url: "https://example.com/x"`), []string{`target 1 (no name): name: must be 1 to 40 of a-z, 0-9 and "-", and not begin with "-"`}},
		{"a name too long", entry(`name: ` + strings.Repeat("a", 41) + `, type: slack, url: "https://example.com/x"`), []string{`target 1 (no name): name: must be 1 to 40 of a-z, 0-9 and "-", and not begin with "-"`}},
		{"a name twice", "[{" + good + "}, {" + good + "}]", []string{"target 2 (ops): name: an earlier target has it as well"}},
		{"an entry twice, by an alias", "- &a {" + good + "}\n- *a\n", []string{"target 2 (ops): name: an earlier target has it as well"}},
		{"no name, twice", `[{type: slack, url: "https://example.com/x"}, {type: slack, url: "https://example.com/x"}]`, []string{"target 1 (no name): name: is missing", "target 2 (no name): name: is missing"}},
		{"a wrong type", entry(`name: ops, type: Slack, url: "https://example.com/x"`), []string{`target 1 (ops): type: must be one of acr, github, slack, teams, webhook`}},
		{"a secret as type", entry(`name: ops, type: ` + secret + `, url: "https://example.com/x"`), []string{`target 1 (ops): type: must be one of acr, github, slack, teams, webhook`}},

		{"http", entry(`name: ops, type: slack, url: "http://example.com/` + secret + `"`), []string{"target 1 (ops): url: must begin with https://; http:// is for localhost, 127.0.0.0/8 and ::1 only"}},
		{"http to what looks local", entry(`name: ops, type: slack, url: "http://localhost.example.com/"`), []string{"target 1 (ops): url: must begin with https://; http:// is for localhost, 127.0.0.0/8 and ::1 only"}},
		{"http to another machine nearby", entry(`name: ops, type: slack, url: "http://10.0.0.1/"`), []string{"target 1 (ops): url: must begin with https://; http:// is for localhost, 127.0.0.0/8 and ::1 only"}},
		{"another scheme", entry(`name: ops, type: slack, url: "ftp://example.com/` + secret + `"`), []string{"target 1 (ops): url: must begin with https://"}},
		{"no scheme", entry(`name: ops, type: slack, url: "example.com/` + secret + `"`), []string{"target 1 (ops): url: is not a URL such as https://example.com/path"}},
		{"no host", entry(`name: ops, type: slack, url: "https:///` + secret + `"`), []string{"target 1 (ops): url: is not a URL such as https://example.com/path"}},
		{"no slashes", entry(`name: ops, type: slack, url: "https:` + secret + `"`), []string{"target 1 (ops): url: is not a URL such as https://example.com/path"}},
		{"a URL that is none", entry(`name: ops, type: slack, url: "https://example.com/%zz` + secret + `"`), []string{"target 1 (ops): url: is not a URL such as https://example.com/path"}},
		{"port 0", entry(`name: ops, type: slack, url: "https://example.com:0/"`), []string{"target 1 (ops): url: is not a URL such as https://example.com/path"}},
		{"a port too high", entry(`name: ops, type: slack, url: "https://example.com:65536/"`), []string{"target 1 (ops): url: is not a URL such as https://example.com/path"}},
		{"a password without a user", entry(`name: ops, type: slack, url: "https://:` + secret + `@example.com/"`), []string{"target 1 (ops): url: must have a user and a password before the @, or neither"}},
		{"a user without a password", entry(`name: ops, type: slack, url: "https://` + secret + `@example.com/"`), []string{"target 1 (ops): url: must have a user and a password before the @, or neither"}},
		{"a user with an empty password", entry(`name: ops, type: slack, url: "https://` + secret + `:@example.com/"`), []string{"target 1 (ops): url: must have a user and a password before the @, or neither"}},
		{"a slash in a password", entry(`name: ops, type: slack, url: "https://me:a/` + secret + `@example.com/"`), []string{"target 1 (ops): url: is not a URL such as https://example.com/path"}},
		{"a password beside a header", entry(`name: ops, type: slack, url: "https://me:` + secret + `@example.com/", headers: {Authorization: ` + secret + `}`), []string{"target 1 (ops): headers: Authorization: is there twice, or stands for the user and password of the URL, too"}},
		{"a password beside a token", entry(`name: ops, type: github, secret: x, url: "https://me:` + secret + `@api.github.com/repos/a/b/dispatches"`), []string{"target 1 (ops): url: must have no user and password in it; the secret is sent instead"}},
		{"a fragment", entry(`name: ops, type: slack, url: "https://example.com/#` + secret + `"`), []string{"target 1 (ops): url: must have no fragment (#) in it; in a password, # is %23"}},

		{"a timeout too long", entry(good + `, timeout: 101s`), []string{"target 1 (ops): timeout: must be a duration from 1s to 100s, such as 60s"}},
		{"a timeout too short", entry(good + `, timeout: 999ms`), []string{"target 1 (ops): timeout: must be a duration from 1s to 100s, such as 60s"}},
		{"a timeout without a unit", entry(good + `, timeout: 60`), []string{"target 1 (ops): timeout: must be a duration from 1s to 100s, such as 60s"}},
		{"a timeout that is empty", entry(good + `, timeout: ""`), []string{"target 1 (ops): timeout: is empty"}},
		{"a timeout that is a list", entry(good + `, timeout: [1s]`), []string{"target 1 (ops): timeout: must be text"}},
		{"a URL too long", entry(`name: ops, type: slack, url: "https://example.com/` + strings.Repeat("x", maxValue) + `"`), []string{"target 1 (ops): url: is longer than 4096 bytes"}},
		{"not a dispatch", entry(`name: ops, type: github, secret: x, url: "https://github.com/contoso/` + secret + `"`), []string{"target 1 (ops): url: must be as https://api.github.com/repos/OWNER/REPO/dispatches"}},

		{"no such variable", entry(`name: ops, type: slack, url: "${NO_URL}"`), []string{"target 1 (ops): url: the environment variable NO_URL is not set"}},
		{"an empty variable", entry(`name: ops, type: slack, url: "https://example.com/${EMPTY}"`), []string{"target 1 (ops): url: the environment variable EMPTY is not set"}},
		{"two missing variables", entry(webhook + `, secret: "${NO_ONE} ${NO_TWO}"`), []string{"target 1 (ops): secret: the environment variable NO_ONE is not set", "target 1 (ops): secret: the environment variable NO_TWO is not set"}},
		{"a missing variable in a header", entry(good + `, headers: {x-key: "${NO_KEY}"}`), []string{"target 1 (ops): headers: X-Key: the environment variable NO_KEY is not set"}},
		{"a variable that does not end", entry(`name: ops, type: slack, url: "${` + secret + `"`), []string{"target 1 (ops): url: ${ without the name of a variable and }; write $${ for ${ itself"}},
		{"a variable that does not end, behind one that is not set", entry(`name: ops, type: slack, url: "${NO_URL}${` + secret + `"`), []string{"target 1 (ops): url: the environment variable NO_URL is not set", "target 1 (ops): url: ${ without the name of a variable and }; write $${ for ${ itself"}},
		{"a variable without a name", entry(`name: ops, type: slack, url: "${` + secret + `}"`), []string{"target 1 (ops): url: ${ without the name of a variable and }; write $${ for ${ itself"}},

		{"no secret", entry(webhook), []string{"target 1 (ops): secret: is missing; type webhook needs one"}},
		{"no token", entry(`name: ops, type: github, url: "https://api.github.com/repos/a/b/dispatches"`), []string{"target 1 (ops): secret: is missing; type github needs one"}},
		{"an empty secret", entry(webhook + `, secret: ""`), []string{"target 1 (ops): secret: is empty"}},
		{"a secret without a use", entry(good + `, secret: ` + secret), []string{"target 1 (ops): secret: there is none for type slack"}},
		{"no whsec_", entry(webhook + `, secret: "` + strings.TrimPrefix(signingOne, "whsec_") + `"`), []string{"target 1 (ops): secret: number 1 is not whsec_ and the base64 of 24 to 64 bytes; echo whsec_$(openssl rand -base64 32) makes one"}},
		{"not base64", entry(webhook + `, secret: "` + signingOne + ` whsec_` + secret + `"`), []string{"target 1 (ops): secret: number 2 is not whsec_ and the base64 of 24 to 64 bytes; echo whsec_$(openssl rand -base64 32) makes one"}},
		{"not base64 to its end", entry(webhook + `, secret: "` + signingOne + `!"`), []string{"target 1 (ops): secret: number 1 is not whsec_ and the base64 of 24 to 64 bytes; echo whsec_$(openssl rand -base64 32) makes one"}},
		{"too short to sign", entry(webhook + `, secret: whsec_aHVudGVyMg==`), []string{"target 1 (ops): secret: number 1 is not whsec_ and the base64 of 24 to 64 bytes; echo whsec_$(openssl rand -base64 32) makes one"}},
		{"three secrets", entry(webhook + `, secret: "` + signingOne + " " + signingTwo + " " + signingOne + `"`), []string{"target 1 (ops): secret: there are 3; there can be two, during a rotation"}},
		{"two tokens", entry(`name: ops, type: github, url: "https://api.github.com/repos/a/b/dispatches", secret: "` + secret + ` ` + secret + `"`), []string{"target 1 (ops): secret: is not a token: printable characters without spaces"}},

		{"headers in a list", entry(good + `, headers: [` + secret + `]`), []string{"target 1 (ops): headers: must be a mapping of names to text, no name twice"}},
		{"a header without a value", entry(good + `, headers: {` + secret + `}`), []string{"target 1 (ops): headers: a name without a value"}},
		{"a header without a space", entry(good + `, headers: {"X-Key:` + secret + `": x}`), []string{"target 1 (ops): headers: there is one that is not the name of a header"}},
		{"a header of ours", entry(good + `, headers: {content-type: text/plain, user-agent: x, Host: x}`), []string{"target 1 (ops): headers: Host: is set by the service", "target 1 (ops): headers: Content-Type: is set by the service", "target 1 (ops): headers: User-Agent: is set by the service"}},
		{"a header of signatures", entry(webhook + `, secret: ` + signingOne + `, headers: {webhook-id: x}`), []string{"target 1 (ops): headers: Webhook-Id: is set by the service"}},
		{"a header of GitHub", entry(`name: ops, type: github, secret: x, url: "https://api.github.com/repos/a/b/dispatches", headers: {authorization: ` + secret + `}`), []string{"target 1 (ops): headers: Authorization: is set by the service"}},
		{"a header twice", entry(good + `, headers: {X-Key: ` + secret + `, x-key: ` + secret + `}`), []string{"target 1 (ops): headers: X-Key: is there twice"}},
		{"a header in two lines", entry(good + `, headers: {X-Key: "` + secret + `\n` + secret + `"}`), []string{"target 1 (ops): headers: X-Key: has a line break or another control character in it"}},
		{"a header too long", entry(good + `, headers: {X-Key: ` + strings.Repeat(secret, 200) + `}`), []string{"target 1 (ops): headers: X-Key: is longer than 4096 bytes"}},
		{"a header twice, to the letter", entry(good + `, headers: {X-Key: ` + secret + `, X-Key: ` + secret + `}`), []string{"target 1 (ops): headers: must be a mapping of names to text, no name twice"}},
		{"a header that is empty", entry(good + `, headers: {X-Key: " "}`), []string{"target 1 (ops): headers: a name without a value"}},
		{"a header that is a list", entry(good + `, headers: {X-Key: [` + secret + `]}`), []string{"target 1 (ops): headers: must be a mapping of names to text, no name twice"}},

		{"an unknown field", entry(good + `, filter: "repo == 'x'"`), []string{"target 1 (ops): filter: at 1:1: undeclared reference to 'repo' (in container '')"}},
		{"two wrong types", entry(good + `, filter: "size == 'x' && tag == 1"`), []string{"target 1 (ops): filter: at 1:6: found no matching overload for '_==_' applied to '(int, string)'; at 1:20: found no matching overload for '_==_' applied to '(string, int)'"}},
		{"not an expression", entry(good + `, filter: "tag =="`), []string{"target 1 (ops): filter: at 1:7: Syntax error: mismatched input '<EOF>' expecting {'[', '{', '(', '.', '-', '!', 'true', 'false', 'null', NUM_FLOAT, NUM_INT, NUM_UINT, STRING, BYTES, IDENTIFIER}"}},
		{"not true or false", entry(good + `, filter: "tag"`), []string{"target 1 (ops): filter: is of type string; it must be true or false"}},
		{"perhaps true or false", entry(good + `, filter: "dyn(mismatch)"`), []string{"target 1 (ops): filter: is of type dyn; it must be true or false"}},
		{"a wrong pattern", entry(good + `, filter: "tag.matches('[')"`), []string{"target 1 (ops): filter: at 1:13: invalid matches argument"}},
		{"a filter too long", entry(good + `, filter: "` + strings.Repeat("mismatch || ", 400) + `true"`), []string{"target 1 (ops): filter: at -1:0: expression code point size exceeds limit: size: 4804, limit 4096"}},

		{"an unknown outcome", entry(good + `, outcomes: [timedout]`), []string{`target 1 (ops): outcomes: must be some of replicated, timedOut, recovered`}},
		{"no outcome", entry(acr + `, outcomes: [collecting, ~, []]`), []string{`target 1 (ops): outcomes: must be some of replicated, timedOut, recovered`, "target 1 (ops): outcomes: must be some of replicated, timedOut, recovered", "target 1 (ops): outcomes: must be some of replicated, timedOut, recovered"}},
		{"an outcome twice", entry(good + `, outcomes: [timedOut, timedOut]`), []string{"target 1 (ops): outcomes: must be some of"}},
		{"no outcomes", entry(good + `, outcomes: []`), []string{"target 1 (ops): outcomes: is empty"}},
		{"outcomes that are text", entry(good + `, outcomes: timedOut`), []string{"target 1 (ops): outcomes: must be a list, such as [replicated, recovered]"}},

		{"errors in several entries", "[{" + good + ", outcomes: []}, {" + strings.Replace(good, "ops", "dev", 1) + "}, {name: last, type: teams}]",
			[]string{"target 1 (ops): outcomes: is empty", "target 3 (last): url: is missing"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			readFile := func(path string) ([]byte, error) {
				if path == "empty" {
					return nil, nil
				}
				return nil, &fs.PathError{Op: "open", Path: path, Err: fs.ErrNotExist}
			}
			targets, err := Load(c.setting, lookup(map[string]string{"EMPTY": " \n"}), readFile)
			if err == nil || targets != nil {
				t.Fatalf("no error: %v", targets)
			}
			got := strings.Split(err.Error(), "\n")
			if !slices.EqualFunc(got, c.want, strings.HasPrefix) {
				t.Errorf("\n got %q\nwant %q", got, c.want)
			}
			if strings.Contains(strings.ToLower(err.Error()), "hunter") {
				t.Errorf("quotes a secret: %v", err)
			}
		})
	}
}

// An error of a file system that is not a PathError does not repeat the path either.
func TestLoadDoesNotQuoteThePath(t *testing.T) {
	const setting = "hunter2"
	_, err := Load(setting, lookup(nil), func(path string) ([]byte, error) {
		return nil, &os.LinkError{Op: "open", Old: path, New: path, Err: os.ErrInvalid}
	})
	if err == nil || strings.Contains(err.Error(), setting) {
		t.Error(err)
	}
}

func FuzzLoad(f *testing.F) {
	f.Add(readExample(f))
	f.Add(everyType)
	f.Add(`[{"name":"a","type":"slack","url":"http://127.0.0.1/${X}","filter":"size > 1 || regions.exists(r, r == 'x')"}]`)
	f.Add("- &a {name: a}\n- *a\n- <<: *a\n")
	f.Add("- name: a\n  secret: *${X}\n  ${X}: b\n  headers: {${X}: ${X}}\n")
	f.Add("&a [*a]")
	f.Add("/etc/targets.yaml")
	f.Add("[{\"a\":[[[[{}]]]]}]")
	e := event(f, notification.TypeTimedOut, nil)
	const secret = "Zq8-env-Secret-Xv3"
	f.Fuzz(func(t *testing.T, setting string) {
		env := func(string) (string, bool) { return secret, true }
		targets, err := Load(setting, env, noFile)
		if err != nil {
			if strings.Contains(err.Error(), secret) || targets != nil {
				t.Errorf("%v: %v", targets, err)
			}
			return
		}
		names := map[string]bool{}
		for _, target := range targets {
			s := target.s()
			if names[target.Name] || !validName.MatchString(target.Name) {
				t.Errorf("name %q", target.Name)
			}
			names[target.Name] = true
			if s.url.Scheme != "https" && !isLoopback(s.url.Hostname()) || s.url.User != nil {
				t.Errorf("url %s", s.url)
			}
			if len(s.outcomes) == 0 || slices.Contains(s.outcomes, replication.Collecting) {
				t.Errorf("outcomes %q", s.outcomes)
			}
			e := e
			e.Original = []byte("{}")
			if _, err := target.request(t.Context(), e, e.Status.StartedAt); err != nil {
				t.Errorf("%s: %v", target, err)
			}
			target.Wants(e) // ends
		}
	})
}

// Before a deployment the variables have names only. What does not depend on their
// values is checked as ever.
func TestCheckBeforeTheSecretsAreThere(t *testing.T) {
	var names []string
	for name := range everyTypeEnv {
		names = append(names, name)
	}
	if err := Check(everyType, names); err != nil {
		t.Errorf("%v", err)
	}
	if err := Check("", nil); err != nil {
		t.Errorf("no targets: %v", err)
	}
	const secretURL = `[{name: ops, type: slack, url: "${SLACK_URL}"}]`
	for _, tt := range []struct{ name, setting, want string }{
		{"a variable that nobody sets", secretURL, "target 1 (ops): url: the environment variable SLACK_URL is not set"},
		{"a wrong URL", `[{name: ops, type: slack, url: "http://example.com"}]`, "url: must begin with https://"},
		{"a wrong key beside a secret", `[{name: ops, type: slack, url: "${HOST}", filters: x}]`, `target 1 (ops): in line 1: there is no such key`},
		{"a wrong filter beside a secret", `[{name: ops, type: slack, url: "${HOST}", filter: "acton == 1"}]`, "filter: "},
		{"a missing secret", `[{name: gh, type: github, url: "${HOST}"}]`, "secret: is missing"},
		{"a broken reference beside a secret", `[{name: ops, type: slack, url: "${HOST}/${"}]`, "url: ${ without the name"},
		{"a path", "targets.yaml", `read the file that the setting names: there will be no file; give the list itself: azd env set "NOTIFY_TARGETS=$(cat FILE)"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if err := Check(tt.setting, []string{"HOST"}); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}
