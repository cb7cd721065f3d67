package chaos

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"allregions/app/local/dapr"
	"allregions/app/local/process"
	"allregions/app/local/stack"
	"allregions/app/sidecar"
)

// A message that nobody has taken is still on the broker, however often the service
// goes away while the sidecar delivers. Plain subscriptions lose some of these: see
// package sidecar, batch.
func TestAMessageIsDoneOnlyWhenItIsTaken(t *testing.T) {
	if testing.Short() {
		t.Skip("needs Dapr")
	}
	if err := stack.FindRedis(); err != nil {
		t.Skip(err)
	}
	if err := stack.PrepareTest(t.Context(), t.Deadline); err != nil {
		t.Fatal(err)
	}
	root, err := stack.Root(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	programs, err := dapr.Find(t.Context(), root, t.Output())
	if err != nil {
		t.Fatal(err)
	}
	const (
		topics   = 8 // at a time: one batch of each
		messages = 25
		attempts = 10_000
	)
	d := newDelivery(t, programs, topics)
	for n := range topics * messages {
		if err := d.broker.Do(t.Context(), nil, "XADD", topicName(n%topics), "*", "data", `{"id":"1"}`); err != nil {
			t.Fatal(err)
		}
	}
	d.serve(t)
	if err := process.Until(t.Context(), "the sidecar does not subscribe", func() error {
		waiting, _, err := d.deliveries(t.Context(), topics)
		if err == nil && waiting < topics*messages {
			err = fmt.Errorf("%d are delivered", waiting)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}

	for tried := 0; tried < attempts; {
		for range 20 { // calls fail for two reasons: closed connections, and a closed port
			d.server.Close()
			time.Sleep(2 * time.Millisecond)
			d.serve(t)
			time.Sleep(2 * time.Millisecond)
		}
		var waiting int
		if waiting, tried, err = d.deliveries(t.Context(), topics); err != nil {
			t.Fatal(err)
		}
		if waiting != topics*messages {
			t.Fatalf("of %d messages that nobody took %d are on the broker, after %d attempts", topics*messages, waiting, tried)
		}
	}
}

func topicName(n int) string { return "t" + strconv.Itoa(n) }

// delivery is a sidecar that delivers from a broker to a service that takes nothing.
type delivery struct {
	broker stack.Redis
	port   int // the service's
	host   http.Handler
	server *http.Server
}

const deliveryApp = "delivery"

func newDelivery(t *testing.T, programs dapr.Programs, topics int) *delivery {
	dir := t.TempDir()
	d := &delivery{broker: stack.Redis{Dir: dir}}
	s := dapr.Sidecar{AppID: deliveryApp, Components: filepath.Join(dir, "components"), Dir: dir}
	if err := process.FreePorts(&d.broker.Port, &d.port, &s.HTTPPort, &s.GRPCPort, &s.InternalPort, &s.MetricsPort, &s.PlacementPort, &s.SchedulerPort); err != nil {
		t.Fatal(err)
	}
	s.AppPort = d.port
	const configuration = "apiVersion: dapr.io/v1alpha1\nkind: Configuration\nmetadata:\n  name: config\n"
	if err := errors.Join(os.MkdirAll(s.Components, 0o755), d.broker.WriteComponent(s.Components, deliveryApp, 20*time.Millisecond, 20*time.Millisecond),
		os.WriteFile(filepath.Join(s.Components, "config.yaml"), []byte(configuration), 0o644)); err != nil {
		t.Fatal(err)
	}
	var subscriptions []sidecar.Subscription
	for n := range topics {
		subscriptions = append(subscriptions, sidecar.Subscription{PubSub: "pubsub", Topic: topicName(n),
			Take: func(context.Context, []byte) error { return errors.New("not now") }})
	}
	d.host = sidecar.NewHost(slog.New(slog.DiscardHandler), nil, nil, subscriptions, func(context.Context, string) sidecar.Broker {
		return sidecar.Broker{Patient: true}
	})

	group, err := process.NewGroup()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(group.Kill)
	if _, err := group.Start("redis", d.broker.Command()); err != nil {
		t.Fatal(err)
	}
	if err := process.Until(t.Context(), "Redis does not answer", func() error {
		return d.broker.Do(t.Context(), nil, "PING")
	}); err != nil {
		t.Fatal(err)
	}
	cmd := s.Command(programs)
	cmd.Stdout, cmd.Stderr = t.Output(), t.Output()
	if _, err := group.Start("daprd", cmd); err != nil {
		t.Fatal(err)
	}
	return d
}

// serve opens the service's port again.
func (d *delivery) serve(t *testing.T) {
	var l net.Listener
	if err := process.Until(t.Context(), "the port is not free", func() (err error) {
		l, err = net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(d.port))
		return err
	}); err != nil {
		t.Fatal(err)
	}
	d.server = &http.Server{Handler: d.host}
	server := d.server
	go server.Serve(l)
	t.Cleanup(func() { server.Close() })
}

// deliveries tells how many messages are delivered and not acknowledged, and how often
// all of these were delivered.
func (d *delivery) deliveries(ctx context.Context, topics int) (waiting, tries int, err error) {
	for n := range topics {
		var list [][4]any // id, consumer, ms since the last delivery, deliveries
		err := d.broker.Do(ctx, &list, "XPENDING", topicName(n), deliveryApp, "-", "+", "1000")
		if err != nil && strings.Contains(err.Error(), "NOGROUP") {
			continue
		}
		if err != nil {
			return 0, 0, err
		}
		for _, one := range list {
			times, _ := one[3].(float64)
			waiting, tries = waiting+1, tries+int(times)
		}
	}
	return waiting, tries, nil
}
