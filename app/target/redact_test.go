package target

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"allregions/app/notification"
)

func TestClean(t *testing.T) {
	h := hidden{"top secret", "abcdefgh", "efghijkl", "aaaa", "op s"}
	for _, c := range []struct {
		name, text string
		limit      int
		want       string
	}{
		{"nothing to hide", "no such channel", 100, "no such channel"},
		{"one", "key abcdefgh is wrong", 100, "key [hidden] is wrong"},
		{"twice", "abcdefgh abcdefgh", 100, "[hidden] [hidden]"},
		{"overlapping", "<abcdefghijkl>", 100, "<[hidden]>"},
		{"one within another", "<top secret>", 100, "<[hidden]>"},
		{"overlapping itself", "<aaaaaaa>", 100, "<[hidden]>"},
		{"across the cut", "0123456789abcdefgh", 12, "0123456789[h"},
		{"behind the cut", "0123456789abcdefgh", 10, "0123456789"},
		{"white space", "a\r\n\tb", 100, "a b"},
		{"not printable", "a\x00b\x1b[31mc\u202ed", 100, "a b [31mc d"},
		{"not UTF-8", "a\xffb", 100, "a\uFFFDb"},
		{"a rune across the cut", "abcdé", 5, "abcd"},
		{"whole only in one line", "top\nsecret", 100, "[hidden]"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := h.clean(c.text, c.limit)
			if c.name == "a rune across the cut" {
				got = strings.TrimSuffix(got, "\uFFFD")
			}
			if got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
			if len(got) > c.limit {
				t.Errorf("got %d bytes, want at most %d", len(got), c.limit)
			}
		})
	}
}

func TestHide(t *testing.T) {
	u, err := url.Parse("https://hooks.example.com/services/T0/secretToken1%2Fx?api-version=1&sig=a%2Fsecret%2BSig")
	if err != nil {
		t.Fatal(err)
	}
	h := hide(u, []string{signingOne, "hooks.example.com", "abc"}, http.Header{
		"Authorization": {"Basic ZGVwbG95OmJhc2ljUGFzc3dvcmRINHNDOGY="}, "X-Short": {"1"}, "Cookie": {"session=cookieCookie"}})
	for _, text := range []string{
		u.String(), u.RequestURI(), u.Path, u.RawQuery, "secretToken1", "services/T0/secretToken1/x", `\/services\/T0\/secretToken1\/x`,
		"%2Fservices%2FT0%2FsecretToken1%2Fx", "%2fservices%2fT0%2fsecretToken1%2fx",
		"a/secret+Sig", "a%2Fsecret%2BSig", "a%2fsecret%2bSig", "a/secret&#43;Sig", `a\/secret+Sig`, `a/secret\u002BSig`,
		signingOne, strings.TrimPrefix(signingOne, "whsec_"), "deploy:basicPasswordH4sC8f", "basicPasswordH4sC8f", "ZGVwbG95OmJhc2ljUGFzc3dvcmRINHNDOGY=", "cookieCookie",
	} {
		got := h.clean("before "+text+" after", 1000)
		if !strings.HasPrefix(got, "before ") || !strings.HasSuffix(got, " after") || !strings.Contains(got, mark) {
			t.Errorf("%s: %s", text, got)
		}
		for _, secret := range []string{"secretToken1", "secret", "MDEyMzQ1", "basicPassword", "ZGVwbG95", "cookieCookie"} {
			if strings.Contains(got, secret) {
				t.Errorf("%s: %s", text, got)
			}
		}
	}
	for _, value := range []string{"Basic  ZGVwbG95OmJhc2ljUGFzc3dvcmRINHNDOGY=", "basic ZGVwbG95OmJhc2ljUGFzc3dvcmRINHNDOGY="} {
		if got := hide(u, nil, http.Header{"Authorization": {value}}).clean("basicPasswordH4sC8f", 100); got != mark {
			t.Errorf("%s: got %s, want %s", value, got, mark)
		}
	}
	// What is no secret stays readable.
	for _, text := range []string{"POST hooks.example.com: 1 of 2", "abc", "Basic", "api-version"} {
		if got := h.clean(text, 1000); got != text {
			t.Errorf("%s: %s", text, got)
		}
	}
}

// A hidden string that begins before the cut is read to its end, however it is spelt.
func TestHiddenStringsAreBounded(t *testing.T) {
	for c := range rune(0x3000) {
		value := strings.Repeat(string(c), maxValue/len(string(c)))
		for _, s := range spellings(value[:len(value)/64]) {
			if len(s)*64 > maxHidden {
				t.Fatalf("%q: %d bytes become %d", c, len(value)/64, len(s))
			}
		}
	}
	u, err := url.Parse("https://example.com/" + strings.Repeat("é", 1000) + "?x=" + strings.Repeat(`"`, 1000))
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range hide(u, []string{strings.Repeat("+", maxValue)}, http.Header{"X-Key": {strings.Repeat(`"`, maxValue)}}) {
		if len(s) > maxHidden {
			t.Errorf("%.40q… has %d bytes, want at most %d", s, len(s), maxHidden)
		}
	}
}

// The cut of an answer never shows the beginning of a hidden string, even of the
// longest: in HTML, its quotes are six bytes each.
func TestTheLongestSecretIsReadWhole(t *testing.T) {
	key := strings.Repeat(`"`, maxValue)
	target := load(t, `[{name: a, type: slack, url: "https://example.com/x", headers: {X-Key: "${KEY}"}}]`, map[string]string{"KEY": key})[0]
	side := roundTrip(func(*http.Request) (*http.Response, error) {
		answer := strings.Repeat("x", maxAnswer-10) + strings.Repeat("&quot;", maxValue) + "behind"
		return &http.Response{StatusCode: 500, Body: io.NopCloser(strings.NewReader(answer))}, nil
	})
	if got := try(t, side, target, event(t, notification.TypeCompleted, nil)).Error; !strings.HasSuffix(got, "x"+mark) {
		t.Errorf("got …%q, want %s at the end", got[len(got)-20:], mark)
	}
}

// A variable is hidden even where it is too short to be hidden as a part of the URL.
func TestVariablesAreHidden(t *testing.T) {
	target := load(t, `[{name: a, type: slack, url: "https://example.com/path/${PIN}?key=${KEY}"}]`, map[string]string{"PIN": "x7Q9", "KEY": "Zk4!~"})[0]
	if got, want := target.s().hidden.clean("no x7Q9 and no Zk4!~", 100), "no [hidden] and no [hidden]"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// What says in the URL's path what is there is no secret, and answers use such words. A
// key in a path, and a word that a variable holds, are hidden.
func TestWordsOfThePathAreShown(t *testing.T) {
	env := map[string]string{"PIN": "swordfish"}
	for url, shown := range map[string]map[string]string{
		"https://example.com/webhook?type=acr":                       {"Failed to process webhook: missing type": "Failed to process webhook: missing type"},
		"https://example.com/generic-webhook-trigger/invoke?token=x": {"invoke the generic-webhook-trigger": "invoke the generic-webhook-trigger"},
		"https://api.github.com/repos/contoso/deployments/dispatches": {
			"dispatches of deployments": "dispatches of deployments", "see /repos/contoso/deployments/dispatches": "see [hidden]"},
		"https://example.com/hooks/5f8e0c11":                     {"5f8e0c11 of hooks": "[hidden] of hooks"},
		"https://example.com/hooks/Xqgzwrtk":                     {"Xqgzwrtk": "[hidden]"},
		"https://example.com/hooks/qgzwrtkpqgzwrtkp":             {"qgzwrtkpqgzwrtkp": "[hidden]"},
		"https://example.com/hooks/correct-horse-battery-staple": {"correct-horse-battery-staple": "[hidden]"},
		"https://example.com/hooks/${PIN}":                       {"swordfish of hooks": "[hidden] of hooks"},
		"https://example.com/webhook?abcdefghi":                  {"abcdefghi": "[hidden]"},
		"https://example.com/webhook?k=1x2":                      {"k=1x2": "[hidden]"},
		"https://example.com/webhook?key=abcdefghi":              {"abcdefghi": "[hidden]"},
		"https://example.com/docker/hook":                        {"POST /docker/hook": "POST [hidden]", "docker": "docker"},
	} {
		target := load(t, fmt.Sprintf("[{name: a, type: acr, url: %q}]", url), env)[0]
		for text, want := range shown {
			if got := target.s().hidden.clean(text, 1000); got != want {
				t.Errorf("%s: got %q, want %q", url, got, want)
			}
		}
	}
}
