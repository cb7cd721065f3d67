package cosmos

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"sync"
)

// Proxy is a reverse proxy that gives an emulator what Azure has and the emulator
// lacks: it compares etags, and nobody sees a write half done.
type Proxy struct {
	emulator  string // its address, host:port
	transport http.RoundTripper

	// The emulator replaces a document in two steps: it deletes the old one, then
	// it creates the new one. A write holds the lock from the comparison of its
	// etag until the emulator has answered, whether or not its caller still waits.
	steps sync.RWMutex
}

// NewProxy returns the proxy in front of emulator.
func NewProxy(emulator Emulator) *Proxy {
	return &Proxy{emulator: emulator.address(), transport: &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 64}}
}

// Answer is an answer of Cosmos DB.
type Answer struct {
	Status int
	Header http.Header
	Body   []byte
}

// Refusal is an answer that says no.
func Refusal(status int, message string) Answer {
	return Answer{status, http.Header{"Content-Type": {"application/json"}}, fmt.Appendf(nil, `{"code":"%d","message":%q}`, status, message)}
}

// Write answers with a.
func (a Answer) Write(w http.ResponseWriter) {
	for name, values := range a.Header {
		w.Header()[name] = values
	}
	w.WriteHeader(a.Status)
	w.Write(a.Body)
}

func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) { p.Answer(r).Write(w) }

// Answer returns the answer to the request. A write whose body has arrived is
// done to its end, even if its caller gives up.
func (p *Proxy) Answer(r *http.Request) Answer {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return Refusal(http.StatusBadRequest, "The body did not arrive.")
	}
	answer, err := p.do(r, body)
	if err != nil {
		return Refusal(http.StatusBadGateway, err.Error())
	}
	return answer
}

func (p *Proxy) do(r *http.Request, body []byte) (Answer, error) {
	if !IsWrite(r) {
		p.steps.RLock()
		defer p.steps.RUnlock()
		return p.forward(r.Context(), r, body)
	}
	ctx := context.WithoutCancel(r.Context())
	p.steps.Lock()
	defer p.steps.Unlock()
	if isConditionalBatch(r, body) {
		return Refusal(http.StatusNotImplemented, "The etags of a transaction are not compared here."), nil
	}
	if match := r.Header.Get("If-Match"); match != "" {
		switch etag, err := p.etag(ctx, r, body); {
		case err != nil:
			return Answer{}, err
		case etag != "" && etag != match:
			return Refusal(http.StatusPreconditionFailed, "One of the specified pre-conditions is not met."), nil
		}
	}
	return p.forward(ctx, r, body)
}

// forward does the request at the emulator.
func (p *Proxy) forward(ctx context.Context, r *http.Request, body []byte) (Answer, error) {
	out := r.Clone(ctx)
	out.URL.Scheme, out.URL.Host, out.Host, out.RequestURI = "http", p.emulator, "", ""
	out.Body, out.ContentLength, out.TransferEncoding = io.NopCloser(bytes.NewReader(body)), int64(len(body)), nil
	out.Header.Del("Accept-Encoding") // the account has to be read
	answer, err := p.send(out)
	if err == nil && r.URL.Path == "/" {
		// The account names the endpoint that its clients turn to from then on.
		answer.Body = bytes.ReplaceAll(answer.Body, []byte(p.emulator), []byte(r.Host))
	}
	return answer, err
}

func (p *Proxy) send(r *http.Request) (Answer, error) {
	resp, err := p.transport.RoundTrip(r)
	if err != nil {
		return Answer{}, fmt.Errorf("ask the emulator: %w", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return Answer{}, fmt.Errorf("read the emulator's answer: %w", err)
	}
	for _, name := range []string{"Connection", "Content-Length", "Transfer-Encoding"} {
		resp.Header.Del(name)
	}
	return Answer{resp.StatusCode, resp.Header, body}, nil
}

// etag is that of what is stored where r is about to write; "" if nothing is: an
// upsert then creates, whatever its If-Match, and anything else finds nothing.
func (p *Proxy) etag(ctx context.Context, r *http.Request, body []byte) (string, error) {
	address := r.URL
	if r.Method == http.MethodPost { // to the container: the body names the document
		var doc struct{ ID string }
		if err := json.Unmarshal(body, &doc); err != nil {
			return "", fmt.Errorf("decode the document: %w", err)
		}
		address = address.JoinPath(url.PathEscape(doc.ID))
	}
	read := (&http.Request{Method: http.MethodGet, URL: &url.URL{Scheme: "http", Host: p.emulator, Path: address.Path, RawPath: address.RawPath}, Header: http.Header{}}).WithContext(ctx)
	read.Header.Set("x-ms-documentdb-partitionkey", r.Header.Get("x-ms-documentdb-partitionkey"))
	answer, err := p.send(read)
	if err != nil || answer.Status == http.StatusNotFound {
		return "", err
	}
	if answer.Status != http.StatusOK {
		return "", fmt.Errorf("read what is stored: %d", answer.Status)
	}
	var stored struct {
		ETag string `json:"_etag"`
	}
	if err := json.Unmarshal(answer.Body, &stored); err != nil {
		return "", fmt.Errorf("decode what is stored: %w", err)
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
