package main

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
)

func TestReceiver(t *testing.T) {
	const secret, body = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", `{"id":"n1/replicated"}`
	wh, err := standardwebhooks.NewWebhook(secret)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	good, err := wh.Sign("n1/replicated", now, []byte(body))
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		signature string
		status    int
		want      string
	}{
		{good, 503, "POST /, signature verified, answered 503\n  webhook-id: n1/replicated\n"},
		{"v1,AAAA " + good, 503, "signature verified"}, // one of two, during a rotation
		{"v1,AAAA", 401, "SIGNATURE WRONG"},
		{"", 503, "not signed"},
	} {
		var out bytes.Buffer
		h := &receiver{verifier: wh, status: 503, out: &out}
		r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(body))
		r.Header.Set("webhook-id", "n1/replicated")
		r.Header.Set("webhook-timestamp", strconv.FormatInt(now.Unix(), 10))
		if tt.signature != "" {
			r.Header.Set("webhook-signature", tt.signature)
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != tt.status || !strings.Contains(out.String(), tt.want) || !strings.Contains(out.String(), `"id": "n1/replicated"`) {
			t.Errorf("%q: %d\n%s", tt.signature, w.Code, &out)
		}
	}
}
