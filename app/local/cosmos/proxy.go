package cosmos

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httputil"
	"net/url"
	"slices"
	"sync"
)

// Proxy is a reverse proxy that gives an emulator what Azure has and the emulator
// lacks: it compares etags, and nobody sees a write half done.
type Proxy struct {
	emulator *url.URL
	forward  *httputil.ReverseProxy

	// The emulator replaces a document in two steps: it deletes the old one, then
	// it creates the new one. A write holds the lock from the comparison of its
	// etag until the emulator has answered, whether or not its caller still waits.
	steps sync.RWMutex
}

// NewProxy returns the proxy in front of emulator.
func NewProxy(emulator Emulator) *Proxy {
	p := &Proxy{emulator: &url.URL{Scheme: "http", Host: emulator.address()}}
	p.forward = httputil.NewSingleHostReverseProxy(p.emulator)
	p.forward.Transport = &http.Transport{MaxIdleConnsPerHost: 64}
	p.forward.ErrorHandler = func(w http.ResponseWriter, _ *http.Request, err error) { Refuse(w, http.StatusBadGateway, err.Error()) }
	return p
}

// Refuse answers as Cosmos DB does when it says no.
func Refuse(w http.ResponseWriter, status int, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	fmt.Fprintf(w, `{"code":"%d","message":%q}`, status, message)
}

// ServeHTTP answers the request. A write whose body has arrived is done to its end,
// even if its caller gives up.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/" { // the account: one that names no endpoint keeps its clients here
		fmt.Fprint(w, `{"id":"emulator"}`)
		return
	}
	if !IsWrite(r) {
		p.steps.RLock()
		defer p.steps.RUnlock()
		p.forward.ServeHTTP(w, r)
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		Refuse(w, http.StatusBadRequest, "The body did not arrive.")
		return
	}
	// With a context that has no end, the reverse proxy asks the connection for it.
	ctx, cancel := context.WithCancel(context.WithoutCancel(r.Context()))
	defer cancel()
	r = r.WithContext(ctx)
	r.Body = io.NopCloser(bytes.NewReader(body))
	p.steps.Lock()
	defer p.steps.Unlock()
	if isConditionalBatch(r, body) {
		Refuse(w, http.StatusNotImplemented, "The etags of a transaction are not compared here.")
		return
	}
	if match := r.Header.Get("If-Match"); match != "" {
		switch etag, err := p.etag(r, body); {
		case err != nil:
			Refuse(w, http.StatusBadGateway, err.Error())
			return
		case etag != "" && etag != match:
			Refuse(w, http.StatusPreconditionFailed, "One of the specified pre-conditions is not met.")
			return
		}
	}
	p.forward.ServeHTTP(w, r)
}

// etag is that of what is stored where r is about to write; "" if nothing is: an
// upsert then creates, whatever its If-Match, and anything else finds nothing.
func (p *Proxy) etag(r *http.Request, body []byte) (string, error) {
	address := r.URL
	if r.Method == http.MethodPost { // to the container: the body names the document
		var doc struct{ ID string }
		if err := json.Unmarshal(body, &doc); err != nil {
			return "", fmt.Errorf("decode the document: %w", err)
		}
		address = address.JoinPath(url.PathEscape(doc.ID))
	}
	read, err := http.NewRequestWithContext(r.Context(), http.MethodGet, p.emulator.String()+address.EscapedPath(), nil)
	if err != nil {
		return "", err
	}
	read.Header.Set("x-ms-documentdb-partitionkey", r.Header.Get("x-ms-documentdb-partitionkey"))
	resp, err := p.forward.Transport.RoundTrip(read)
	if err != nil {
		return "", fmt.Errorf("ask the emulator: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusNotFound {
		return "", nil
	}
	var stored struct {
		ETag string `json:"_etag"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&stored); err != nil || resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("read what is stored: %s, %w", resp.Status, err)
	}
	return stored.ETag, nil
}

// isConditionalBatch tells whether the request is a transaction with etags.
func isConditionalBatch(r *http.Request, body []byte) bool {
	type operation struct{ IfMatch string }
	var operations []operation
	return r.Header.Get("x-ms-cosmos-is-batch-request") != "" && json.Unmarshal(body, &operations) == nil &&
		slices.ContainsFunc(operations, func(o operation) bool { return o.IfMatch != "" })
}

// IsWrite tells whether the request changes something: a query is a POST, too.
func IsWrite(r *http.Request) bool {
	return r.Method != http.MethodGet && r.Method != http.MethodHead && r.Header.Get("x-ms-documentdb-isquery") == "" && r.Header.Get("x-ms-documentdb-query") == ""
}
