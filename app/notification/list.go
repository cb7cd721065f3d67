package notification

import (
	"context"
	"encoding/json"
	"fmt"

	"allregions/app/actor"
	"allregions/app/catalog"
	"allregions/app/replication"
)

// listed is what the list has of a record: the JSON status without the size.
func listed(r record) catalog.Listed {
	status, err := json.Marshal(struct {
		Status
		Size any `json:"size,omitempty"`
	}{Status: statusOf(r.State)})
	if err != nil {
		panic(fmt.Sprintf("a record that was stored: %v", err))
	}
	l := catalog.Listed{ID: r.First.ID, Saves: r.Saves, StartedAt: r.StartedAt, Status: status}
	if r.Status() == replication.Collecting {
		l.Due = r.Due
	}
	return l
}

// unfinished tells whether something is left for the reminder, as far as the record
// shows.
func (r record) unfinished() bool {
	return r.Exists() && (r.Status() == replication.Collecting || len(r.Unpublished()) > 0)
}

// Look is for catalog.Recent, which asks when the reminder should long have done its
// work: if something is left for it, it is registered again, due now. It may be firing
// at this moment, and then Dapr may lose what is registered; so whoever asks asks again
// while something is left. The zero Listed is that of no record.
func (a *Actor) Look(ctx context.Context, id string) (l catalog.Listed, left bool, err error) {
	r, err := a.load(ctx, id)
	if err != nil || !r.Exists() {
		return l, false, err
	}
	if r.unfinished() {
		now := a.Now()
		if r.Reminder == "" {
			r.Reminder = actor.ReminderName(now, "") // the record adopts it
		}
		if err := a.Reminders.Register(ctx, id, r.Reminder, now, Period); err != nil {
			return l, true, fmt.Errorf("register reminder: %w", err)
		}
	}
	return listed(r.record), r.unfinished(), nil
}
