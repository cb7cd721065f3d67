// Package page is what people see in a browser: HTML, CSS and one module of JavaScript,
// as they are in this directory. None of it is data. The module asks the person for a
// key, and the API for everything else.
package page

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"net/http"
	"path"
	"time"
)

//go:embed page.html page.css page.js icon.svg
var files embed.FS

// Assets is where the browser finds the other files.
const Assets = "/page/"

// policy lets the browser run, show and ask nothing but what this service serves, and
// make text of what comes from elsewhere, never HTML.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"form-action 'none'; frame-ancestors 'none'; base-uri 'none'; require-trusted-types-for 'script'; trusted-types 'none'"

// Handler serves the files.
type Handler struct {
	byName map[string]file
}

type file struct {
	data []byte
	tag  string
}

// New returns a handler.
func New() *Handler {
	h := &Handler{byName: map[string]file{}}
	entries, _ := files.ReadDir(".") // it is in the program
	for _, e := range entries {
		data, _ := files.ReadFile(e.Name())
		hash := sha256.Sum256(data)
		h.byName[e.Name()] = file{data, `"` + hex.EncodeToString(hash[:16]) + `"`}
	}
	return h
}

// Frame answers with the page without data, which is the same at every path.
func (h *Handler) Frame(w http.ResponseWriter, r *http.Request) { h.serve(w, r, "page.html") }

// Asset answers with the file that the last part of the path names.
func (h *Handler) Asset(w http.ResponseWriter, r *http.Request) { h.serve(w, r, path.Base(r.URL.Path)) }

func (h *Handler) serve(w http.ResponseWriter, r *http.Request, name string) {
	f, ok := h.byName[name]
	if !ok {
		http.NotFound(w, r)
		return
	}
	header := w.Header()
	header.Set("Content-Security-Policy", policy)
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("Referrer-Policy", "no-referrer")
	header.Set("Cross-Origin-Opener-Policy", "same-origin")
	header.Set("Cross-Origin-Resource-Policy", "same-origin")
	header.Set("Cache-Control", "no-cache") // asks whether it has changed
	header.Set("ETag", f.tag)
	http.ServeContent(w, r, name, time.Time{}, bytes.NewReader(f.data))
}
