// Package acr plays a geo-replicated Azure Container Registry: it fires the
// webhooks of its regions at a service, as ACR does: once each, for 5 seconds,
// and without a second try.
package acr

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
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

// Fire is region's webhook for p. The error is that of the one try; any answer
// of the service is none.
func (r *Registry) Fire(ctx context.Context, p Push, region string) (status int, body []byte, err error) {
	return r.Post(ctx, "/webhooks/acr?region="+url.QueryEscape(region), r.Payload(p))
}

// Post sends any body to any path of the service, with the key.
func (r *Registry) Post(ctx context.Context, path string, body []byte) (status int, answer []byte, err error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, r.ServiceURL+path, bytes.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	req.Header.Set("Content-Type", "application/json; charset=utf-8")
	req.Header.Set("User-Agent", "AzureContainerRegistry/1.0")
	req.Header.Set("Authorization", "Bearer "+r.Key)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, nil, fmt.Errorf("webhook: %w", err)
	}
	defer resp.Body.Close()
	answer, err = io.ReadAll(resp.Body)
	return resp.StatusCode, answer, err
}
