// Package acr plays a geo-replicated Azure Container Registry: it fires the
// webhooks of its regions at a service, as ACR does: once each, for 5 seconds,
// and without a second try. It also plays the Azure around it.
package acr

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"time"
)

// timeout is how long ACR waits for a webhook's answer.
const timeout = 5 * time.Second

// Registry is a registry whose webhooks point at one service.
type Registry struct {
	LoginServer string // such as contoso.azurecr.io
	ServiceURL  string // of the webhook service, without a path
	Key         string // sent in a custom header, as a webhook's configuration allows
	Azure       *Azure // logs what is fired; nil for no log
}

// Push is one push of an image. Every region's webhook carries the same ID.
type Push struct {
	ID         string
	Repository string
	Tag        string
	Digest     string
	Size       int64
	At         time.Time
}

// NewPush makes up a push that happens now.
func NewPush(repository, tag string) Push {
	var b [48]byte
	rand.Read(b[:])
	return PushOf(b, repository, tag)
}

// PushOf makes up a push that happens now. Its id and digest follow from random.
func PushOf(random [48]byte, repository, tag string) Push {
	h := hex.EncodeToString(random[:])
	return Push{
		ID:         h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:32],
		Repository: repository, Tag: tag, Digest: "sha256:" + h[32:],
		Size: 524, At: time.Now(),
	}
}

// Payload is the body of a webhook for p.
func (r *Registry) Payload(p Push) []byte {
	body, err := json.Marshal(map[string]any{
		"id":        p.ID,
		"timestamp": p.At.UTC().Format("2006-01-02T15:04:05.000000000Z07:00"),
		"action":    "push",
		"target": map[string]any{
			"mediaType":  "application/vnd.oci.image.manifest.v1+json",
			"size":       p.Size,
			"digest":     p.Digest,
			"length":     p.Size,
			"repository": p.Repository,
			"tag":        p.Tag,
		},
		"request": map[string]any{
			"id": p.ID, "host": r.LoginServer, "method": "PUT", "useragent": "acr-simulator",
		},
	})
	if err != nil {
		panic(err) // strings and numbers
	}
	return body
}

// Fire is region's webhook for p, which an Azure logs. The error is that of the one try;
// any answer of the service is none.
func (r *Registry) Fire(ctx context.Context, p Push, region string) (status int, body []byte, err error) {
	uri, payload := r.ServiceURL+"/webhooks/acr?region="+url.QueryEscape(region), r.Payload(p)
	got, err := post(ctx, uri, r.header(), payload)
	if r.Azure != nil {
		r.Azure.fired(region, uri, payload, got, err)
	}
	return got.status, got.body, err
}

// Post sends any body to any path of the service, with the key.
func (r *Registry) Post(ctx context.Context, path string, body []byte) (status int, answer []byte, err error) {
	got, err := post(ctx, r.ServiceURL+path, r.header(), body)
	return got.status, got.body, err
}

func (r *Registry) header() http.Header { return http.Header{"Authorization": {"Bearer " + r.Key}} }

// answer is what a webhook was answered.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// post posts a webhook as ACR does, once.
func post(ctx context.Context, uri string, header http.Header, body []byte) (answer, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, uri, bytes.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	maps.Copy(req.Header, header)
	req.Header.Set("Content-Type", "application/json; charset=utf-8")
	req.Header.Set("User-Agent", "AzureContainerRegistry/1.0")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return answer{}, fmt.Errorf("webhook: %w", err)
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, resp.Header, got}, err
}
