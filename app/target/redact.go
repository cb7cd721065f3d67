package target

import (
	"encoding/base64"
	"encoding/json"
	"html"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// hidden are the strings that must not be shown, in every spelling in which the
// other side may send them back; the longest comes first.
type hidden []string

const (
	minHidden = 4 // bytes; a shorter string protects nothing
	minPiece  = 8 // bytes, for a part of a path, a query or a header's value
	mark      = "[hidden]"
)

// hide collects what must be hidden of the settings of a target.
func hide(u *url.URL, secrets []string, header http.Header) hidden {
	all := map[string]bool{}
	add := func(atLeast int, words ...string) {
		for _, w := range words {
			if len(w) >= atLeast {
				for _, s := range spellings(w) {
					all[s] = true
				}
			}
		}
	}
	for _, s := range secrets {
		if !strings.Contains(u.Host, s) { // hosts are shown
			add(minHidden, s, strings.TrimPrefix(s, "whsec_"))
		}
	}
	for _, values := range header {
		for _, v := range values {
			scheme, credentials, _ := strings.Cut(v, " ")
			credentials = strings.TrimSpace(credentials)
			add(minHidden, v, credentials)
			if strings.EqualFold(scheme, "Basic") {
				raw, _ := base64.StdEncoding.DecodeString(credentials) // user:password
				_, password, _ := strings.Cut(string(raw), ":")
				add(minHidden, string(raw), password)
			}
			add(minPiece, strings.FieldsFunc(v, func(c rune) bool { return strings.ContainsRune(" \t,;=", c) })...)
		}
	}
	for _, path := range []string{u.Path, u.EscapedPath(), u.RequestURI(), u.RawQuery} {
		if path != "/" {
			add(2, path)
			add(minHidden, strings.Trim(path, "/"))
		}
	}
	add(minPiece, strings.Split(u.Path, "/")...)
	add(minPiece, strings.Split(u.EscapedPath(), "/")...)
	for pair := range strings.SplitSeq(u.RawQuery, "&") {
		_, v, _ := strings.Cut(pair, "=")
		add(minPiece, v)
	}
	for _, values := range u.Query() {
		add(minPiece, values...)
	}
	return slices.SortedFunc(maps.Keys(all), func(a, b string) int { return len(b) - len(a) })
}

var (
	percent = regexp.MustCompile(`%[0-9A-F]{2}`)
	inHTML  = strings.NewReplacer("+", "&#43;", "&#34;", "&quot;", "&#39;", "&#x27;") // beyond package html
	dotNET  = strings.NewReplacer(`\`, `\\`, "+", `\u002B`, "&", `\u0026`, "<", `\u003C`, ">", `\u003E`, `"`, `\u0022`, "'", `\u0027`)
)

// spellings are s as JSON, HTML, a URL and Go may write it.
func spellings(s string) []string {
	quoted := func(q string) string { return q[1 : len(q)-1] }
	inJSON, _ := json.Marshal(s) // a string has no error
	query, path := url.QueryEscape(s), url.PathEscape(s)
	return []string{
		s, quoted(strconv.Quote(s)),
		quoted(string(inJSON)), dotNET.Replace(s), strings.ReplaceAll(s, "/", `\/`),
		html.EscapeString(s), inHTML.Replace(html.EscapeString(s)),
		query, percent.ReplaceAllStringFunc(query, strings.ToLower),
		path, percent.ReplaceAllStringFunc(path, strings.ToLower),
	}
}

// longest is how much must be read beyond a cut, to find a hidden string that the cut
// divides.
func (h hidden) longest() int {
	if len(h) == 0 {
		return 0
	}
	return len(h[0])
}

// clean is the beginning of text: at most limit bytes, printable, in one line, and
// without the hidden strings. Those may overlap, and may extend beyond the limit.
func (h hidden) clean(text string, limit int) string {
	text = h.mask(text, limit)
	text = strings.ToValidUTF8(text, "\uFFFD")
	text = strings.Map(func(c rune) rune {
		if unicode.IsPrint(c) {
			return c
		}
		return ' '
	}, text)
	text = oneLine(text)
	text = h.mask(text, len(text)) // a line break within a hidden string is a space now
	if len(text) > limit {
		text = strings.ToValidUTF8(text[:limit], "")
	}
	return text
}

// mask replaces hidden strings in the first limit bytes of text, and drops all that
// follows.
func (h hidden) mask(text string, limit int) string {
	covered := make([]bool, len(text))
	for _, w := range h {
		for from := 0; ; from++ {
			i := strings.Index(text[from:], w)
			if i < 0 {
				break
			}
			from += i
			for j := range w {
				covered[from+j] = true
			}
		}
	}
	var b strings.Builder
	for i := range min(len(text), limit) {
		switch {
		case !covered[i]:
			b.WriteByte(text[i])
		case i == 0 || !covered[i-1]:
			b.WriteString(mark)
		}
	}
	return b.String()
}
