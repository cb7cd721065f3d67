package sidecar

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"
)

// later is an error that asks for a pause.
type later time.Duration

func (l later) Error() string             { return "not now" }
func (l later) RetryAfter() time.Duration { return time.Duration(l) }

func TestRedelivery(t *testing.T) {
	for name, tt := range map[string]struct {
		broker Broker
		err    error
		took   time.Duration
		want   time.Duration
	}{
		"it asks for nothing":           {brokers["pubsub.azure.servicebus.topics"], errors.New("no"), 0, redeliveryPause},
		"it asks":                       {brokers["pubsub.azure.servicebus.topics"], later(40 * time.Second), 2 * time.Second, 40 * time.Second},
		"it asks inside":                {brokers["pubsub.azure.servicebus.topics"], fmt.Errorf("take: %w", later(time.Second)), 0, time.Second},
		"as long as Dapr waits":         {brokers["pubsub.azure.servicebus.topics"], later(50 * time.Second), 20 * time.Second, 35 * time.Second},
		"Dapr waits no longer":          {brokers["pubsub.azure.servicebus.topics"], later(50 * time.Second), time.Minute, 0},
		"others are behind it":          {brokers["pubsub.in-memory"], later(40 * time.Second), 0, redeliveryPause},
		"others are in the batch":       {Broker{}, later(40 * time.Second), 0, redeliveryPause},
		"the broker waits":              {brokers["pubsub.redis"], later(40 * time.Second), 0, 0},
		"the broker waits, and nothing": {brokers["pubsub.redis"], errors.New("no"), 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			if got := redelivery(tt.broker, tt.err, tt.took); got != tt.want {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}

// A message that is held ends with its pause, with its caller, or with Release.
func TestHold(t *testing.T) {
	for name, tt := range map[string]struct {
		takes  time.Duration // Take itself
		caller time.Duration // gives up
		stop   time.Duration // Release
		want   time.Duration
	}{
		"to the end":        {2 * time.Second, time.Hour, time.Hour, 42 * time.Second},
		"the caller goes":   {0, 3 * time.Second, time.Hour, 3 * time.Second},
		"the process stops": {0, time.Hour, 7 * time.Second, 7 * time.Second},
		"it has stopped":    {2 * time.Second, time.Hour, 0, 2 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := NewHost(slog.New(slog.DiscardHandler), nil, nil, []Subscription{{Topic: "t", Take: func(context.Context, []byte) error {
					time.Sleep(tt.takes)
					return later(40 * time.Second)
				}}}, func(context.Context, string) Broker { return Broker{Holds: true} })
				ctx, cancel := context.WithTimeout(t.Context(), tt.caller)
				defer cancel()
				defer time.AfterFunc(tt.stop, h.Release).Stop()
				begin := time.Now()
				if w := serve(ctx, h, "POST", "/topics/t", batchOf("m")); w.Code != 200 || time.Since(begin) != tt.want {
					t.Errorf("%d %s after %v, want %v", w.Code, w.Body, time.Since(begin), tt.want)
				}
			})
		})
	}
}
