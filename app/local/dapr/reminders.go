package dapr

import (
	"context"
	"fmt"

	schedulerv1 "github.com/dapr/dapr/pkg/proto/scheduler/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// Reminder is what the scheduler keeps of one.
type Reminder struct {
	ActorID  string
	Due      string // as it was registered: an absolute time, RFC 3339
	Schedule string // of the firings from then on, such as "@every 30s"
}

// Reminders lists the reminders of all actors of a type. The sidecar tells of one
// whose name is known; the scheduler, of all.
func (s Scheduler) Reminders(ctx context.Context, actorType string) ([]Reminder, error) {
	conn, err := grpc.NewClient(hostPort(s.Port), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, fmt.Errorf("dial the scheduler: %w", err)
	}
	defer conn.Close()
	list, err := schedulerv1.NewSchedulerClient(conn).ListJobs(ctx, &schedulerv1.ListJobsRequest{Metadata: &schedulerv1.JobMetadata{
		AppId: "reminders", Namespace: "default", // who asks
		Target: &schedulerv1.JobTargetMetadata{Type: &schedulerv1.JobTargetMetadata_Actor{Actor: &schedulerv1.TargetActorReminder{Type: actorType}}},
	}})
	if err != nil {
		return nil, fmt.Errorf("list reminders: %w", err)
	}
	var reminders []Reminder
	for _, j := range list.GetJobs() {
		if actor := j.GetMetadata().GetTarget().GetActor(); actor.GetType() == actorType { // the scheduler compares the beginning
			reminders = append(reminders, Reminder{actor.GetId(), j.GetJob().GetDueTime(), j.GetJob().GetSchedule()})
		}
	}
	return reminders, nil
}
