package dapr

import (
	"context"
	"fmt"

	dapr "github.com/dapr/go-sdk/client"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// Subscribe calls handle with every CloudEvent that comes out of the topic, until ctx
// ends (nil) or the sidecar goes away. Subscribed, if not nil, is called once the sidecar
// has accepted the subscription. It is one of Dapr's streaming subscriptions: an alpha
// API, which is good for a tool on a laptop and absent on Azure Container Apps.
func (s Sidecar) Subscribe(ctx context.Context, pubsub, topic string, subscribed func(), handle func(event []byte)) error {
	conn, err := grpc.NewClient(hostPort(s.GRPCPort), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return fmt.Errorf("dial the sidecar: %w", err)
	}
	defer conn.Close()
	sub, err := dapr.NewClientWithConnection(conn).Subscribe(ctx, dapr.SubscriptionOptions{PubsubName: pubsub, Topic: topic,
		// Otherwise the SDK takes the event apart and drops what it has no field for.
		Metadata: map[string]string{"rawPayload": "true"}})
	if err != nil {
		return fmt.Errorf("subscribe to %s: %w", topic, err)
	}
	defer sub.Close()
	if subscribed != nil {
		subscribed()
	}
	for {
		msg, err := sub.Receive()
		if err == nil {
			handle(msg.RawData)
			err = msg.Success()
		}
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("receive from %s: %w", topic, err)
		}
	}
}
