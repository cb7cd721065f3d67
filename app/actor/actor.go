// Package actor declares what every actor of this service uses: records with versions,
// reminders, a topic, turns. The contracts of these ports are here, and only here.
//
// An actor is a unit of state with a single writer. All actors follow one pattern: a
// turn loads a record with its version, a pure function decides, the turn saves the
// record against that version, and what follows the save can be repeated. Dapr gives
// an actor one turn at a time, but while actors move from one replica to another two
// turns can overlap. Then the version keeps one from overwriting the other's work.
package actor

import (
	"context"
	"errors"
	"time"
)

// ErrConflict means that another turn has saved the record since it was loaded.
var ErrConflict = errors.New("the record was changed by another turn")

// Reader reads records. It takes no turn.
type Reader interface {
	// Load returns what was last saved, and its version. Without a record it
	// returns no value, no version and no error.
	Load(ctx context.Context, key string) (value []byte, version string, err error)
}

// Records keeps one JSON value for each key.
type Records interface {
	Reader

	// Save replaces the record of that version; without a version there must be none
	// yet. A nil error means that the value survives a kill -9 of every process, and
	// that it replaced what had that version. ErrConflict means that it did not and
	// never will. After any other error the value may be stored, now or later, unless
	// something else is stored first.
	Save(ctx context.Context, key string, value []byte, version string) error
}

// Reminders wakes actors.
type Reminders interface {
	// Register sets a reminder. A nil error means that it survives a kill -9 of every
	// process, and fires at due and every period from then on, late rather than
	// never, until Unregister. Registering a name again replaces its reminder. After
	// an error the reminder may be set all the same, now or much later.
	//
	// Never register a name from inside its own firing. The answer to the firing closes
	// the job that was just scheduled, and Dapr loses the reminder (diagridio/go-etcd-cron
	// 0.9.1, counters.handleExecuteResponse and router.handleCloseJob).
	Register(ctx context.Context, id, name string, due time.Time, period time.Duration) error

	// Unregister removes a reminder, if it exists. After an error it may be removed all
	// the same, now or much later.
	Unregister(ctx context.Context, id, name string) error
}

// Topic takes CloudEvents.
type Topic interface {
	// Publish puts the event on the topic. A nil error means that the broker has it;
	// an error does not mean that it has not.
	Publish(ctx context.Context, eventID string, event []byte) error
}

// Invoker calls a method of the actor with the given id.
type Invoker interface {
	// Invoke returns the method's reply. A nil error means that the turn ended without
	// an error; after an error it may or may not have happened, or happen later.
	Invoke(ctx context.Context, id, method string, body []byte) ([]byte, error)
}

// Turn is the result of a turn without an error.
type Turn struct {
	Reply []byte

	// After, if not nil, runs when the reply is sent, and before the actor's next turn.
	// Its context outlives the caller's. A crash may prevent it: a later turn must be
	// able to repeat what it does.
	After func(context.Context)

	// Settle, if not nil, runs behind After, and the actor's next turn does not wait for
	// it. As of After, nobody may rely on it. Until it has ended, the actor's reminders do
	// nothing in this process: they would repeat what is under way.
	Settle func(context.Context)
}

// Remind is called with an actor's id and the name of the reminder that fires: that is a
// turn, too. Nobody reads its reply.
type Remind func(ctx context.Context, id, name string) (Turn, error)

// Whole is a Remind that leaves nothing to do when it returns.
func Whole(remind func(ctx context.Context, id, name string) error) Remind {
	return func(ctx context.Context, id, name string) (Turn, error) { return Turn{}, remind(ctx, id, name) }
}

// Method is a method of an actor: each call of it is a turn.
type Method func(ctx context.Context, id string, body []byte) (Turn, error)
