package sidecar

import (
	"context"
	"errors"
	"strings"
	"time"

	dapr "github.com/dapr/go-sdk/client"
)

// Actors returns the API for actors of one type.
func (c *Client) Actors(actorType string) *Actors { return &Actors{c.dapr, actorType} }

// Actors are the actor.Invoker and the actor.Reminders of actors of one type.
type Actors struct {
	dapr      dapr.Client
	actorType string
}

// errNoReply is what a call that failed comes to when Dapr loses its error: see batch.
var errNoReply = errors.New("the sidecar has no reply, and no error either")

// Invoke calls a method of the actor, on whichever host it lives. The method may run
// twice, one after the other. It must have a reply: without one a call that succeeded
// cannot be told from one that never came through.
func (a *Actors) Invoke(ctx context.Context, id, method string, body []byte) ([]byte, error) {
	for try := 1; ; try++ {
		out, err := a.dapr.InvokeActor(ctx, &dapr.InvokeActorRequest{ActorType: a.actorType, ActorID: id, Method: method, Data: body})
		if err == nil && len(out.Data) == 0 {
			return nil, errNoReply
		}
		if err == nil {
			return out.Data, nil
		}
		if try == invokeTries || !leaving(err) {
			return nil, err
		}
		select {
		case <-time.After(invokePause):
		case <-ctx.Done():
			return nil, err
		}
	}
}

const (
	invokeTries = 3
	invokePause = 20 * time.Millisecond
)

// leaving tells whether a call failed because Dapr was putting the actor away, which
// was idle for idleTimeout at that moment, or goes to another replica. Dapr does
// not try again, and has no code for it.
func leaving(err error) bool {
	text := err.Error()
	return strings.Contains(text, "actor lock is closed") || strings.Contains(text, "remote actor moved")
}

// Register sets a reminder of id.
func (a *Actors) Register(ctx context.Context, id, name string, due time.Time, period time.Duration) error {
	return a.dapr.RegisterActorReminder(ctx, &dapr.RegisterActorReminderRequest{
		ActorType: a.actorType, ActorID: id, Name: name,
		DueTime: due.UTC().Format(time.RFC3339Nano), // absolute: a call that is delayed must not delay the deadline
		Period:  period.String(),
	})
}

// Unregister removes a reminder of id.
func (a *Actors) Unregister(ctx context.Context, id, name string) error {
	return a.dapr.UnregisterActorReminder(ctx, &dapr.UnregisterActorReminderRequest{ActorType: a.actorType, ActorID: id, Name: name})
}
