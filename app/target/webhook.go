package target

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
)

// webhookKind gets the CloudEvent, signed after Standard Webhooks.
var webhookKind = kind{
	outcomes: choices,
	secret:   signingSecrets,
	header:   map[string]string{"Content-Type": "application/cloudevents+json"},
	reserved: []string{"Webhook-Id", "Webhook-Timestamp", "Webhook-Signature"},
	body:     func(e Event) ([]byte, error) { return e.Body, nil },
}

// sign sets the headers that authenticate one request.
func (s *settings) sign(header http.Header, e Event, now time.Time) error {
	var signatures []string
	for _, signer := range s.signers {
		signature, err := signer.Sign(e.ID, now, e.Body)
		if err != nil {
			return errors.New("the event cannot be signed")
		}
		signatures = append(signatures, signature)
	}
	header.Set(standardwebhooks.HeaderWebhookID, e.ID)
	header.Set(standardwebhooks.HeaderWebhookTimestamp, strconv.FormatInt(now.Unix(), 10))
	header.Set(standardwebhooks.HeaderWebhookSignature, strings.Join(signatures, " "))
	return nil
}

// signingSecrets takes one secret of Standard Webhooks, or two during a
// rotation.
func signingSecrets(s *settings, secret string) error {
	secrets := strings.Fields(secret)
	if len(secrets) > 2 {
		return fmt.Errorf("there are %d; there can be two, during a rotation", len(secrets))
	}
	for i, secret := range secrets {
		key, ok := strings.CutPrefix(secret, "whsec_")
		raw, _ := base64.StdEncoding.DecodeString(key)
		signer, err := standardwebhooks.NewWebhook(secret) // has an error if that has one
		if !ok || err != nil || len(raw) < 24 || len(raw) > 64 {
			return fmt.Errorf("number %d is not whsec_ and the base64 of 24 to 64 bytes; echo whsec_$(openssl rand -base64 32) makes one", i+1)
		}
		s.signers = append(s.signers, signer)
	}
	return nil
}
