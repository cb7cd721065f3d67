package api

import (
	"crypto/sha256"
	"crypto/subtle"
	"net/http"
	"strings"
)

// Keys are the keys that callers may use. No keys let everybody in.
type Keys [][sha256.Size]byte

// NewKeys keeps the hashes of keys, which all have the same length.
func NewKeys(keys []string) Keys {
	var k Keys
	for _, key := range keys {
		k = append(k, sha256.Sum256([]byte(key)))
	}
	return k
}

// admit tells whether r carries one of the keys. It takes the same time
// whichever key fits, and if none does.
func (k Keys) admit(r *http.Request) bool {
	_, ok := k.given(r)
	return ok || len(k) == 0
}

// given returns the key that r carries, in the time that admit takes.
func (k Keys) given(r *http.Request) (key string, ok bool) {
	for _, given := range []string{bearer(r), r.Header.Get("x-functions-key"), r.URL.Query().Get("code")} {
		hash, found := sha256.Sum256([]byte(given)), 0
		for i := range k {
			found |= subtle.ConstantTimeCompare(hash[:], k[i][:])
		}
		if found == 1 {
			key, ok = given, true
		}
	}
	return key, ok
}

// refusal is why the key of r allows no answer, or nil. It takes the same time for every
// key, of either kind.
func (c *Config) refusal(r *http.Request) error {
	all, read := c.Keys.admit(r), len(c.ReadKeys) > 0 && c.ReadKeys.admit(r)
	switch {
	case all, read && (r.Method == http.MethodGet || r.Method == http.MethodHead):
		return nil
	case read:
		return errReadOnly
	}
	return errUnauthorized
}

func bearer(r *http.Request) string {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return ""
	}
	return strings.TrimSpace(token)
}
