package notification

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"allregions/app/replication"
)

// Image is what somebody who pushed knows of an image. Digest or Tag may be
// empty, but not both.
type Image struct {
	Repository, Digest, Tag string
}

// indexKey is the key of the index document that a name of an image leads to. It
// is a hash, because a repository has slashes and may be long, and it begins
// with what no notification's id may hold.
func indexKey(repository, name string) string {
	hash := sha256.Sum256([]byte(repository + "\x00" + name))
	return "image." + hex.EncodeToString(hash[:16])
}

// The names under which an image is found in its repository.
func byDigest(digest string) string { return "@" + digest }
func byTag(tag string) string       { return ":" + tag }

// indexDocument leads from an image to the newest notification about it. It
// lies beside the notifications' own documents.
type indexDocument struct {
	Kind         string    `json:"kind"` // "index", which a notification's document does not have
	Repository   string    `json:"repository"`
	Digest       string    `json:"digest,omitempty"` // one of these two
	Tag          string    `json:"tag,omitempty"`
	Notification string    `json:"notification"`
	StartedAt    time.Time `json:"startedAt"`
}

// indexDocuments are those of s, by key.
func indexDocuments(s replication.State) map[string]indexDocument {
	e := s.First
	docs := map[string]indexDocument{}
	if e.Repository == "" {
		return docs
	}
	doc := indexDocument{Kind: "index", Repository: e.Repository, Notification: e.ID, StartedAt: s.StartedAt}
	if e.Digest != "" {
		d := doc
		d.Digest = e.Digest
		docs[indexKey(e.Repository, byDigest(e.Digest))] = d
	}
	if e.Tag != "" {
		d := doc
		d.Tag = e.Tag
		docs[indexKey(e.Repository, byTag(e.Tag))] = d
	}
	return docs
}

// newer is the update of an index document: it replaces all but what belongs to
// a notification that began later.
func (doc indexDocument) newer(old []byte) ([]byte, bool, error) {
	var have indexDocument
	if len(old) > 0 {
		if err := json.Unmarshal(old, &have); err != nil {
			return nil, false, fmt.Errorf("decode index: %w", err)
		}
	}
	if have.StartedAt.After(doc.StartedAt) || have == doc {
		return nil, false, nil
	}
	data, err := json.Marshal(doc)
	return data, true, err
}

// index makes the image lead to s, under each of its names. Both are most often
// new; what has been there is read first, for a tag moves, and an older push must
// not take it back.
func (a *Actor) index(ctx context.Context, s replication.State) error {
	ctx, cancel := context.WithTimeout(ctx, indexTimeout)
	defer cancel()
	docs := indexDocuments(s)
	var do []func() error
	for _, key := range slices.Sorted(maps.Keys(docs)) {
		do = append(do, func() error { return a.indexAs(ctx, key, docs[key]) })
	}
	if err := errors.Join(a.together(do...)...); err != nil {
		return fmt.Errorf("index: %w", err)
	}
	return nil
}

func (a *Actor) indexAs(ctx context.Context, key string, doc indexDocument) error {
	data, err := json.Marshal(doc)
	if err != nil {
		return err
	}
	if created, err := a.Documents.Create(ctx, key, data); created || err != nil {
		return err
	}
	return a.Documents.Update(ctx, key, doc.newer)
}

// Lookup reads documents. A key without one gives no data and no error.
type Lookup interface {
	Get(ctx context.Context, key string) ([]byte, error)
}

// Find returns where the newest notification about the image stands, or
// ErrNotFound. With both a digest and a tag it is the tag's newest, if that is
// of the digest: after a tag was moved, the answer is not about the old image.
func (c *Client) Find(ctx context.Context, image Image) (Status, error) {
	name := byDigest(image.Digest)
	if image.Tag != "" {
		name = byTag(image.Tag)
	}
	data, err := c.Documents.Get(ctx, indexKey(image.Repository, name))
	if err != nil {
		return Status{}, fmt.Errorf("read index: %w", err)
	}
	if len(data) == 0 {
		return Status{}, ErrNotFound
	}
	var doc indexDocument
	if err := json.Unmarshal(data, &doc); err != nil {
		return Status{}, fmt.Errorf("decode index: %w", err)
	}
	st, err := c.Status(ctx, doc.Notification)
	if err != nil {
		return Status{}, err
	}
	if image.Digest != "" && st.Digest != image.Digest {
		return Status{}, ErrNotFound
	}
	return st, nil
}
