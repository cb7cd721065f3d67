package sidecar

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func unknownBroker(context.Context, string) Broker { return Broker{} }

// batchOf is the body in which the sidecar brings these messages. Their ids are 0, 1, ...
func batchOf(events ...string) string {
	entries := []map[string]any{}
	for i, e := range events {
		entries = append(entries, map[string]any{"entryId": fmt.Sprint(i), "event": []byte(e)})
	}
	body, err := json.Marshal(map[string]any{"entries": entries})
	if err != nil {
		panic(err)
	}
	return string(body)
}

func TestHostSubscribes(t *testing.T) {
	broker := func(_ context.Context, name string) Broker { return brokers["pubsub."+name] }
	h := NewHost(slog.New(slog.DiscardHandler), nil, nil, []Subscription{
		{PubSub: "azure.servicebus.topics", Topic: "a"},
		{PubSub: "redis", Topic: "b"},
		{PubSub: "in-memory", Topic: "unneeded", Needed: func(b Broker) bool { return !b.Forgets }},
		{PubSub: "other", Topic: "c", Needed: func(b Broker) bool { return !b.Forgets }},
	}, broker)
	const want = `[` +
		`{"pubsubname":"azure.servicebus.topics","topic":"a","route":"/topics/a","metadata":{"rawPayload":"true"},"bulkSubscribe":{"enabled":true,"maxMessagesCount":1,"maxAwaitDurationMs":10}},` +
		`{"pubsubname":"redis","topic":"b","route":"/topics/b","metadata":{"rawPayload":"true"},"bulkSubscribe":{"enabled":true,"maxMessagesCount":10,"maxAwaitDurationMs":10}},` +
		`{"pubsubname":"other","topic":"c","route":"/topics/c","metadata":{"rawPayload":"true"},"bulkSubscribe":{"enabled":true,"maxMessagesCount":10,"maxAwaitDurationMs":10}}]`
	if w := serve(t.Context(), h, "GET", "/dapr/subscribe", ""); !sameJSON(w.Body.Bytes(), []byte(want)) {
		t.Errorf("%s", w.Body)
	}
	if w := serve(t.Context(), newTestHost(Actor{}), "GET", "/dapr/subscribe", ""); strings.TrimSpace(w.Body.String()) != `[]` {
		t.Errorf("no topics: %s", w.Body)
	}
}

// Whatever is wrong with one message is said of that one, and only what Take took is
// done with.
func TestTake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		patient := false
		h := NewHost(slog.New(slog.DiscardHandler), nil, nil, []Subscription{{PubSub: "pubsub", Topic: "t",
			Take: func(_ context.Context, event []byte) error {
				switch {
				case bytes.HasPrefix(event, []byte("now")):
					return nil
				case bytes.HasPrefix(event, []byte("panic")):
					panic("at once")
				}
				return errors.New("not now")
			}}}, func(context.Context, string) Broker { return Broker{Patient: patient} })
		for _, tt := range []struct {
			body    string
			patient bool
			code    int
			answer  string
			pause   time.Duration
		}{
			{batchOf("now"), false, 200, `{"statuses":[{"entryId":"0","status":"SUCCESS"}]}`, 0},
			{batchOf("later"), false, 200, `{"statuses":[{"entryId":"0","status":"RETRY"}]}`, redeliveryPause},
			{batchOf("later"), true, 200, `{"statuses":[{"entryId":"0","status":"RETRY"}]}`, 0},
			{batchOf("now", "panic", "later", "now"), false, 200, `{"statuses":[{"entryId":"0","status":"SUCCESS"},{"entryId":"1","status":"RETRY"},{"entryId":"2","status":"RETRY"},{"entryId":"3","status":"SUCCESS"}]}`, redeliveryPause},
			// 404 and other 2xx are the end of all of them: Dapr does not bring them again.
			{"", false, 500, "", redeliveryPause},
			{`{"specversion":"1.0"`, false, 500, "", redeliveryPause},
			{`{"entries":[{"entryId":"0","event":{}}]}`, false, 500, "", redeliveryPause}, // not the bytes that were asked for
			{batchOf("now" + strings.Repeat("x", maxBody)), false, 500, "", redeliveryPause},
		} {
			begin := time.Now()
			patient = tt.patient
			w := serve(t.Context(), h, "POST", "/topics/t", tt.body)
			if w.Code != tt.code || tt.answer != "" && strings.TrimSpace(w.Body.String()) != tt.answer || time.Since(begin) != tt.pause {
				t.Errorf("%.60s: %d %s after %v", tt.body, w.Code, w.Body, time.Since(begin))
			}
		}
	})
}

// A single CloudEvent is no batch: were it taken for an empty one, and answered 200,
// it would be lost.
func TestASingleMessageIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := NewHost(slog.New(slog.DiscardHandler), nil, nil, []Subscription{{Topic: "t"}}, unknownBroker)
		if w := serve(t.Context(), h, "POST", "/topics/t", `{"specversion":"1.0","id":"1","data":{}}`); w.Code != 500 {
			t.Errorf("%d %s", w.Code, w.Body)
		}
	})
}
