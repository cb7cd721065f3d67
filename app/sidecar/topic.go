package sidecar

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"

	dapr "github.com/dapr/go-sdk/client"
)

// Topic returns the topic with that name on a pub/sub component.
func (c *Client) Topic(pubsub, topic string) *Topic { return &Topic{c.dapr, pubsub, topic} }

// Topic is the actor.Topic on a pub/sub component.
type Topic struct {
	dapr          dapr.Client
	pubsub, topic string
}

// Publish puts a complete CloudEvent on the topic.
func (t *Topic) Publish(ctx context.Context, eventID string, event []byte) error {
	return t.dapr.PublishEvent(ctx, t.pubsub, t.topic, event,
		// Anything but this type and Dapr wraps the event in one of its own,
		// with a new id at every try.
		dapr.PublishEventWithContentType("application/cloudevents+json"),
		// Service Bus drops a second message with the same id.
		dapr.PublishEventWithMetadata(map[string]string{"MessageId": messageID(eventID)}))
}

// messageID is what Service Bus tells messages apart by: at most 128 characters. A
// longer id, such as that of a failed delivery, becomes its hash.
func messageID(eventID string) string {
	if len(eventID) <= 128 {
		return eventID
	}
	hash := sha256.Sum256([]byte(eventID))
	return hex.EncodeToString(hash[:])
}

// Subscribe calls handle with every CloudEvent that comes out of the topic, with
// all its attributes, until ctx ends (nil) or the sidecar goes away. It uses
// Dapr's streaming subscription, which is an alpha API: good for a tool on a
// laptop, absent on Azure Container Apps. Subscribed, if not nil, is called once
// the sidecar has accepted the subscription.
func (t *Topic) Subscribe(ctx context.Context, subscribed func(), handle func(event []byte)) error {
	sub, err := t.dapr.Subscribe(ctx, dapr.SubscriptionOptions{PubsubName: t.pubsub, Topic: t.topic,
		// Otherwise the SDK takes the event apart and drops what it has no field for.
		Metadata: map[string]string{"rawPayload": "true"}})
	if err != nil {
		return fmt.Errorf("subscribe to %s: %w", t.topic, err)
	}
	defer sub.Close()
	if subscribed != nil {
		subscribed()
	}
	for {
		msg, err := sub.Receive()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("receive from %s: %w", t.topic, err)
		}
		handle(msg.RawData)
		if err := msg.Success(); err != nil && ctx.Err() == nil {
			return fmt.Errorf("acknowledge to %s: %w", t.topic, err)
		}
	}
}
