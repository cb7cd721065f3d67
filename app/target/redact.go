package target

import (
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
// other side may send them back.
type hidden []string

const (
	minHidden = 4 // bytes; a shorter string protects nothing
	minPiece  = 8 // bytes, for a part of a path, a query or a header's value
	mark      = "[hidden]"

	// maxHidden bounds a hidden string, in bytes: no spelling has more for one byte.
	maxHidden = 6 * maxValue
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
	for name := range header {
		v := header.Get(name)
		_, credentials, _ := strings.Cut(v, " ")
		credentials = strings.TrimSpace(credentials)
		add(minHidden, v, credentials)
		basic := http.Request{Header: http.Header{"Authorization": {"Basic " + credentials}}}
		if user, password, ok := basic.BasicAuth(); ok {
			add(minHidden, user+":"+password, password)
		}
		add(minPiece, strings.FieldsFunc(v, func(c rune) bool { return strings.ContainsRune(" \t,;=", c) })...)
	}
	for _, path := range []string{u.Path, u.EscapedPath(), u.RequestURI()} {
		if path != "/" {
			add(2, path)
			add(minHidden, withoutWords(strings.Trim(path, "/"))...)
		}
		add(minPiece, withoutWords(strings.Split(path, "/")...)...)
	}
	add(2, u.RawQuery)
	add(minPiece, strings.Split(u.RawQuery, "/")...)
	for pair := range strings.SplitSeq(u.RawQuery, "&") {
		_, v, _ := strings.Cut(pair, "=")
		add(minPiece, v)
	}
	for _, values := range u.Query() {
		add(minPiece, values...)
	}
	return slices.Collect(maps.Keys(all))
}

// word matches a part of a path that says what is there, such as "webhook" or
// "generic-webhook-trigger". Answers use such words; a key has digits or capitals, or is
// longer.
var word = regexp.MustCompile(`^[a-z]{1,14}([-_.][a-z]{1,14}){0,2}$`)

func withoutWords(parts ...string) []string { return slices.DeleteFunc(parts, word.MatchString) }

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

// clean is the beginning of text: at most limit bytes, printable, in one line, and
// without the hidden strings. Those may overlap, and may extend beyond the limit.
func (h hidden) clean(text string, limit int) string {
	text = oneLine(strings.Map(func(c rune) rune {
		if unicode.IsPrint(c) {
			return c
		}
		return ' '
	}, h.mask(text, limit)))
	text = h.mask(text, limit) // a line break within a hidden string is a space now
	return strings.ToValidUTF8(text[:min(limit, len(text))], "")
}

// mask replaces hidden strings in the first limit bytes of text, and drops all that
// follows.
func (h hidden) mask(text string, limit int) string {
	present := slices.DeleteFunc(slices.Clone(h), func(w string) bool { return !strings.Contains(text, w) })
	var b strings.Builder
	end := 0 // of the hidden strings so far
	for i := range min(len(text), limit) {
		before := end
		for _, w := range present {
			if strings.HasPrefix(text[i:], w) {
				end = max(end, i+len(w))
			}
		}
		switch {
		case i >= end:
			b.WriteByte(text[i])
		case i >= before:
			b.WriteString(mark)
		}
	}
	return b.String()
}
