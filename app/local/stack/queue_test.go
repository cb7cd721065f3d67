package stack

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"allregions/app/actor"
	"allregions/app/intake"
	"allregions/app/local/acr"
	"allregions/app/local/dapr"
	"allregions/app/local/process"
	"allregions/app/notification"
	"allregions/app/sidecar"
)

// queuedEvent is an event on the queue that was accepted age ago.
func queuedEvent(t *testing.T, p acr.Push, age time.Duration) []byte {
	t.Helper()
	event, err := json.Marshal(map[string]any{"specversion": "1.0", "id": p.ID + "/eastus", "type": intake.TypeReceived, "source": "test",
		"data": map[string]any{"expected": regions, "event": map[string]any{
			"id": p.ID, "action": "push", "repository": p.Repository, "digest": p.Digest, "region": "eastus", "via": "queue",
			"receivedAt": time.Now().Add(-age).UTC()}}})
	if err != nil {
		t.Fatal(err)
	}
	return event
}

// noActors is a sidecar that has no way to the actors.
type noActors struct{ actor.Invoker }

func (noActors) Invoke(context.Context, string, string, []byte) ([]byte, error) {
	return nil, errors.New("no actors")
}

// An event that cannot be delivered comes again: Dapr takes an answer that was held for
// what it says, and the older the event is, the later it comes.
func TestQueueHolds(t *testing.T) {
	t.Parallel()
	prepare(t)
	root, err := Root(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	programs, err := dapr.Find(t.Context(), root, nil)
	if err != nil {
		t.Fatal(err)
	}
	s := dapr.Sidecar{AppID: AppID, Components: filepath.Join(root, "components", "local"), Dir: t.TempDir()}
	if err := process.FreePorts(&s.AppPort, &s.HTTPPort, &s.GRPCPort, &s.InternalPort, &s.MetricsPort, &s.PlacementPort, &s.SchedulerPort); err != nil {
		t.Fatal(err)
	}

	in := &intake.Intake{Client: &notification.Client{Actors: noActors{}}, Now: time.Now, Log: slog.New(slog.DiscardHandler)}
	ages := map[string]time.Duration{"young": 0, "old": 100 * time.Second} // by topic: in memory, one message of a topic waits for another
	var mu sync.Mutex
	tries := map[string][]time.Time{}
	var subscriptions []sidecar.Subscription
	for topic := range ages {
		subscriptions = append(subscriptions, sidecar.Subscription{PubSub: PubSub, Topic: topic, Take: func(ctx context.Context, event []byte) error {
			mu.Lock()
			tries[topic] = append(tries[topic], time.Now())
			mu.Unlock()
			return in.Deliver(ctx, event)
		}})
	}
	host := sidecar.NewHost(slog.New(slog.DiscardHandler), nil, nil, subscriptions,
		func(context.Context, string) sidecar.Broker { return sidecar.Broker{Single: true, Holds: true} }) // as Service Bus is
	server := &http.Server{Addr: fmt.Sprintf("127.0.0.1:%d", s.AppPort), Handler: host}
	go server.ListenAndServe()
	t.Cleanup(func() { server.Close() })
	group, err := process.NewGroup()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(group.Kill)
	cmd := s.Command(programs)
	cmd.Stdout, cmd.Stderr = t.Output(), t.Output()
	if _, err := group.Start("daprd", cmd); err != nil {
		t.Fatal(err)
	}
	client, err := sidecar.Dial(s.GRPCPort, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })

	var began time.Time
	eventually(t, soon, "both topics take events", func() bool { // what nobody has subscribed to yet is gone
		mu.Lock()
		defer mu.Unlock()
		if len(tries["young"]) > 0 && len(tries["old"]) > 0 {
			return true
		}
		for topic, age := range ages {
			if len(tries[topic]) == 0 {
				client.Topic(PubSub, topic).Publish(t.Context(), topic, queuedEvent(t, acr.NewPush("shop/cart", "v1"), age))
			}
		}
		began = time.Now()
		return false
	})
	eventually(t, soon, "both come again", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(tries["young"]) > 1 && len(tries["old"]) > 1
	})
	mu.Lock()
	defer mu.Unlock()
	for topic, age := range ages {
		got, want := tries[topic][1].Sub(tries[topic][0]), max(5*time.Second, age/10)
		if got < want || got > want+3*time.Second {
			t.Errorf("the %s event came again after %v, want %v", topic, got, want)
		}
	}
	t.Logf("%v after %v", tries, time.Since(began))
}
