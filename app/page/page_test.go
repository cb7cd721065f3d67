package page

import (
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
)

func get(t *testing.T, path string, header ...string) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequest(http.MethodGet, path, nil)
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	if h := New(); path == "/" {
		h.Frame(w, r)
	} else {
		h.Asset(w, r)
	}
	return w
}

// Whatever is served is under a policy that allows nothing inline and nobody else.
func TestPolicy(t *testing.T) {
	for _, path := range []string{"/", "/page/page.js", "/page/page.css", "/page/icon.svg"} {
		w := get(t, path)
		got := w.Header()
		policy := got.Get("Content-Security-Policy")
		for _, want := range []string{"default-src 'none'", "script-src 'self'", "style-src 'self'", "connect-src 'self'", "img-src 'self'",
			"form-action 'none'", "frame-ancestors 'none'", "base-uri 'none'", "require-trusted-types-for 'script'"} {
			if !strings.Contains(policy+";", want+";") {
				t.Errorf("%s: no %s in %q", path, want, policy)
			}
		}
		if w.Code != http.StatusOK || strings.Contains(policy, "unsafe") || got.Get("X-Content-Type-Options") != "nosniff" || got.Get("Referrer-Policy") != "no-referrer" || got.Get("Set-Cookie") != "" {
			t.Errorf("%s: %d %v", path, w.Code, got)
		}
		if again := get(t, path, "If-None-Match", got.Get("ETag")); again.Code != http.StatusNotModified {
			t.Errorf("%s again: %d", path, again.Code)
		}
	}
	if w := get(t, "/page/../page.go"); w.Code != http.StatusNotFound {
		t.Errorf("another file: %d", w.Code)
	}
}

// The sources have no way to make HTML of text, to send elsewhere, or to keep a key.
func TestSources(t *testing.T) {
	never := regexp.MustCompile(`innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|createContextualFragment|srcdoc|\beval\b|new Function|https?://|document\.cookie|localStorage\.setItem\('key|[?&]code=`)
	for name, f := range New().byName {
		text := strings.ReplaceAll(string(f.data), "http://www.w3.org/2000/svg", "")
		if found := never.FindAllString(text, -1); len(found) > 0 {
			t.Errorf("%s has %q", name, found)
		}
		if inline := regexp.MustCompile(`<script>|<style|\sstyle=|\son[a-z]+="`).FindAllString(text, -1); strings.HasSuffix(name, ".html") && len(inline) > 0 {
			t.Errorf("%s has %q", name, inline)
		}
	}
}
