package delivery

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"allregions/app/actor"
)

// ErrNone means that there is no such delivery: no such target, or none that
// wanted the event.
var ErrNone = errors.New("no such delivery")

// Client asks actors, and reads their records.
type Client struct {
	Actors  actor.Invoker
	Records actor.Reader
}

// Start begins the delivery of m to a target, unless it has begun. A nil error
// means that it goes on until it has succeeded or is given up.
func (c *Client) Start(ctx context.Context, target string, m Message) error {
	return c.start(ctx, startMessage{Target: target, Message: message(m)})
}

// Fail says that m cannot be delivered to a target, unless its delivery has begun. A
// nil error means that the topic will have it. Restart delivers m all the same.
func (c *Client) Fail(ctx context.Context, target string, m Message, cause error) error {
	return c.start(ctx, startMessage{target, message(m), cause.Error()})
}

func (c *Client) start(ctx context.Context, m startMessage) error {
	body, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("encode message: %w", err)
	}
	_, err = c.invoke(ctx, m.Message.EventID, m.Target, methodStart, body)
	return err
}

// Status is where a delivery stands, as it was last saved; it does not exist if it
// was never begun.
func (c *Client) Status(ctx context.Context, eventID, target string) (Status, error) {
	id := ID(eventID, target)
	data, _, err := c.Records.Load(ctx, id)
	if err != nil {
		return Status{}, fmt.Errorf("read delivery %s: %w", id, err)
	}
	s, _, err := decodeState(data)
	if err != nil {
		return Status{}, fmt.Errorf("delivery %s: %w", id, err)
	}
	return statusOf(s), nil
}

// Restart makes the next attempt now, whatever became of the last one. The Status
// does not exist if the delivery was never begun.
func (c *Client) Restart(ctx context.Context, eventID, target string) (Status, error) {
	return c.invoke(ctx, eventID, target, methodRestart, nil)
}

func (c *Client) invoke(ctx context.Context, eventID, target, method string, body []byte) (Status, error) {
	id := ID(eventID, target)
	data, err := c.Actors.Invoke(ctx, id, method, body)
	if err != nil {
		return Status{}, fmt.Errorf("delivery %s: %w", id, err)
	}
	var st Status
	if err := json.Unmarshal(data, &st); err != nil {
		return Status{}, fmt.Errorf("delivery %s: decode reply: %w", id, err)
	}
	return st, nil
}
