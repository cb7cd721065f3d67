package sidecar

import (
	"context"
	"crypto/sha256"
	"encoding/hex"

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
