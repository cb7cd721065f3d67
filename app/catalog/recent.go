package catalog

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"time"

	"allregions/app/actor"
)

// RecentType is the Dapr actor type. The actor's id is when its ten minutes begin.
const RecentType = "Recent"

const methodAdd = "Add"

// Notifications are the records of those that are listed.
type Notifications interface {
	// Look returns what a record says now; the zero Listed if it is gone. If the
	// notification's reminder still has something to do, which left tells, Look registers
	// it again, due now.
	Look(ctx context.Context, id string) (now Listed, left bool, err error)
}

// Dropped are entries for which a window had no room.
type Dropped struct{ Concluded, Open int }

// Observer counts, in the process in which it happens. It must not block.
type Observer interface {
	// Dropped is called with what was left out of the list.
	Dropped(Dropped)

	// Rescued is called when the reminder of a notification was registered again.
	Rescued()
}

// Recent is the actor that lists the notifications of ten minutes. It is also the second
// net below them: a reminder that the scheduler has lost is registered again. A record
// is read, and Look called, only for what should have been decided long ago.
type Recent struct {
	Records       actor.Records
	Reminders     actor.Reminders
	Notifications Notifications
	Observer      Observer
	Now           func() time.Time // wall time
	Log           *slog.Logger
}

// addMessage is the request of methodAdd.
type addMessage struct {
	Entries []entry `json:"entries"`
}

// Methods are the turns that List asks for, by name.
func (a *Recent) Methods() map[string]actor.Method { return map[string]actor.Method{methodAdd: a.add} }

// add saves entries. Its reply means that each, or a newer one, is saved or left out for
// good.
func (a *Recent) add(ctx context.Context, id string, body []byte) (actor.Turn, error) {
	var m addMessage
	if err := json.Unmarshal(body, &m); err != nil {
		return actor.Turn{}, fmt.Errorf("list %s: decode entries: %w", id, err)
	}
	if err := a.addEntries(ctx, id, m.Entries); err != nil {
		return actor.Turn{}, fmt.Errorf("list %s: %w", id, err)
	}
	return actor.Turn{Reply: []byte("{}")}, nil
}

func (a *Recent) addEntries(ctx context.Context, id string, entries []entry) error {
	w, version, err := a.load(ctx, id)
	if err != nil {
		return err
	}
	changed, leftOut := w.add(entries...)
	if !changed {
		return nil
	}
	now := a.Now()
	if first := w.overdue(); !first.IsZero() && (w.Fires.IsZero() || first.Before(w.Fires)) {
		w.Reminder, w.Fires = actor.ReminderName(now, w.Reminder), first
		if err := a.Reminders.Register(ctx, id, w.Reminder, first, Period); err != nil {
			return fmt.Errorf("register reminder: %w", err)
		}
	}
	if err := a.save(ctx, id, w, version); err != nil {
		return err
	}
	a.Observer.Dropped(leftOut)
	return nil
}

// Remind is the turn of the reminder with that name: it looks at what is overdue. When
// nothing can become overdue any more, it saves that there is no reminder, and removes
// it. One that the record does not name removes itself when it is orphaned.
func (a *Recent) Remind(ctx context.Context, id, name string) error {
	w, version, err := a.load(ctx, id)
	done := false
	switch {
	case err != nil:
	case name != w.Reminder:
		done = actor.Orphaned(name, a.Now())
	default:
		looked := a.look(ctx, &w)
		if done = len(w.Watched) == 0 && w.overdue().IsZero(); done {
			w.Fires = time.Time{}
		}
		if looked || done {
			err = a.save(ctx, id, w, version)
		}
	}
	if err == nil && done {
		err = a.Reminders.Unregister(ctx, id, name)
	}
	if err != nil {
		return fmt.Errorf("reminder of list %s: %w", id, err)
	}
	return nil
}

// lookTimeout leaves a turn the time to save what was seen.
const lookTimeout = 10 * time.Second

// look looks at the records of what is overdue, and tells whether there was any.
func (a *Recent) look(ctx context.Context, w *window) bool {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	ids := w.toLook(a.Now())
	for _, id := range ids {
		found, left, err := a.Notifications.Look(ctx, id)
		if ctx.Err() != nil {
			break
		}
		w.seen(id, found, left || err != nil)
		if err != nil {
			a.Log.LogAttrs(ctx, slog.LevelWarn, "overdue, and its record was not read", slog.String("notification", id), slog.Any("err", err))
		} else if left {
			a.Log.LogAttrs(ctx, slog.LevelWarn, "overdue, its reminder is set again", slog.String("notification", id))
			a.Observer.Rescued()
		}
	}
	return len(ids) > 0
}

func (a *Recent) load(ctx context.Context, id string) (w window, version string, err error) {
	data, version, err := a.Records.Load(ctx, id)
	if err != nil {
		return window{}, "", fmt.Errorf("load: %w", err)
	}
	w, err = decodeWindow(data)
	return w, version, err
}

func (a *Recent) save(ctx context.Context, id string, w window, version string) error {
	data, err := w.encode()
	if err == nil {
		err = a.Records.Save(ctx, id, data, version)
	}
	if err != nil {
		return fmt.Errorf("save: %w", err)
	}
	return nil
}
