package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"

	"allregions/app/api"
	"allregions/app/catalog"
	"allregions/app/delivery"
	"allregions/app/intake"
	"allregions/app/notification"
	"allregions/app/registry"
	"allregions/app/sidecar"
	"allregions/app/target"
	"allregions/app/telemetry"
)

// deadLetters is the suffix of the topic that has the dead letters of another.
const deadLetters = "-dead"

// wiring is what the service is made from.
type wiring struct {
	config    Config
	dapr      *sidecar.Client
	telemetry *telemetry.Telemetry
	log       *slog.Logger
}

// service is what serve runs.
type service struct {
	public *api.Handler  // for the public listener
	host   *sidecar.Host // for the sidecar's
	index  *catalog.Index
}

// now is wall time, without the monotonic clock: other processes compare it.
func now() time.Time { return time.Now().Round(0) }

func (w wiring) service(ctx context.Context) (*service, error) {
	states := w.dapr.Records(string(w.config.StateStore), "")
	regions, eventLog, err := w.connect(ctx, states)
	if err != nil {
		return nil, err
	}
	index := catalog.NewIndex(states, w.log)
	client := &notification.Client{
		Actors:  w.dapr.Actors(notification.ActorType),
		Records: w.dapr.Records(string(w.config.ImageStore), ""),
		Index:   index,
	}
	in := w.intake(client)
	out, deliveries := w.deliveries(client)
	public := api.New(api.Config{
		Intake:     in,
		Statuses:   client,
		Deliveries: out,
		Regions:    regions,
		Keys:       api.NewKeys(w.config.Keys),
		ReadKeys:   api.NewKeys(w.config.ReadKeys),
		Ready: func(ctx context.Context) error {
			_, err := regions.Expected(ctx)
			return errors.Join(w.dapr.Ready(ctx), err)
		},
		Received:   w.telemetry.Received,
		Tracer:     w.telemetry.Tracer,
		Propagator: w.telemetry.Propagator,
		Log:        w.log,
	})
	actors := []sidecar.Actor{w.notifications(index, eventLog, public.Concluded), deliveries}
	host := sidecar.NewHost(w.log, w.telemetry.Propagator, actors, w.subscriptions(in, out), w.dapr.Broker)
	return &service{public: public, host: host, index: index}, nil
}

// connect takes the regions from the fixed list, or, with a registry, from Azure,
// and then keeps the registry's webhooks as they must be, until ctx ends. The event
// log is nil without a registry.
func (w wiring) connect(ctx context.Context, saved *sidecar.Records) (api.Regions, notification.EventLog, error) {
	fixed := registry.Static(w.config.Regions)
	if w.config.Registry.ID == nil {
		w.log.Info("the registry's regions", "regions", w.config.Regions, "from", "WEBHOOK_REGIONS")
		return fixed, nil, nil
	}
	arm, err := azureRegistry(w.config.Registry)
	if err != nil {
		return nil, nil, err
	}
	discovery := registry.NewDiscovery(arm, saved, fixed, time.Now, w.log)
	go discovery.Run(ctx)

	webhooks, why, ok := w.config.webhooks()
	if !ok {
		w.log.Info("the registry's webhooks are left alone", "why", why)
	} else {
		registration, err := registry.NewRegistration(arm, webhooks, w.log)
		if err != nil {
			return nil, nil, err
		}
		go registration.Run(ctx, discovery.Expected, time.Now)
	}
	return discovery, registry.NewEventLog(arm, webhooks.Owner, time.Now, w.log), nil
}

func azureRegistry(id ResourceID) (*registry.ARM, error) {
	credential, err := azidentity.NewDefaultAzureCredential(nil)
	if err != nil {
		return nil, fmt.Errorf("identity: %w", err)
	}
	return registry.NewARM(id.ID, credential, nil)
}

func (w wiring) topic(name Name) *sidecar.Topic {
	return w.dapr.Topic(string(w.config.PubSub), string(name))
}

func (w wiring) intake(client *notification.Client) *intake.Intake {
	in := &intake.Intake{Client: client, Delivered: w.telemetry.Delivered, Now: now, Log: w.log}
	if w.config.WebhookTopic != off {
		in.Queue, in.Dead = w.topic(w.config.WebhookTopic), w.topic(w.config.WebhookTopic+deadLetters)
	}
	return in
}

func (w wiring) notifications(index *catalog.Index, eventLog notification.EventLog, concluded func(id string)) sidecar.Actor {
	actors := w.dapr.Actors(notification.ActorType)
	a := &notification.Actor{
		Records:   w.dapr.Records(string(w.config.ImageStore), ""),
		Reminders: actors,
		Topic:     w.topic(w.config.Topic),
		Index:     index,
		EventLog:  eventLog,
		Timeout:   time.Duration(w.config.Timeout),
		Concluded: concluded,
		Observer:  w.telemetry,
		Tracer:    w.telemetry.Tracer,
		Now:       now,
		Log:       w.log,
	}
	return sidecar.Actor{Type: notification.ActorType, Methods: a.Methods(), Remind: a.Remind}
}

// deliveries is what brings outcomes to the targets, and its actor.
func (w wiring) deliveries(client *notification.Client) (*delivery.Dispatcher, sidecar.Actor) {
	if len(w.config.Targets) > 0 {
		w.log.Info("outcomes are sent to", "targets", w.config.Targets)
	}
	actors := w.dapr.Actors(delivery.ActorType)
	records := w.dapr.Records(string(w.config.StateStore), delivery.ActorType+"-")
	targets := target.NewSet(w.config.Targets, nil, now)
	targets.Attempted = w.telemetry.Attempted
	out := &delivery.Dispatcher{
		Targets:       targets,
		Actors:        actors,
		Records:       records,
		Notifications: client,
		Log:           w.log,
	}
	a := &delivery.Actor{
		Records:   records,
		Reminders: actors,
		Topic:     w.topic(w.config.Topic),
		Sender:    targets,
		Now:       now,
		Random:    rand.Float64,
		Log:       w.log,
	}
	return out, sidecar.Actor{
		Type:        delivery.ActorType,
		Methods:     a.Methods(),
		Remind:      a.Remind,
		TurnTimeout: targets.Longest() + 10*time.Second, // the attempt is a part of the turn
	}
}

func (w wiring) subscriptions(in *intake.Intake, out *delivery.Dispatcher) []sidecar.Subscription {
	outcomes := sidecar.Subscription{PubSub: string(w.config.PubSub), Topic: string(w.config.Topic), Take: out.Dispatch,
		// Without targets, too: what waits in the subscription would reach targets that
		// are switched on later, and some of them deploy old images then. Only a broker
		// that keeps nothing has nothing to drain.
		Needed: func(broker sidecar.Broker) bool { return len(w.config.Targets) > 0 || !broker.Forgets }}
	if w.config.WebhookTopic == off {
		return []sidecar.Subscription{outcomes}
	}
	webhooks := sidecar.Subscription{PubSub: string(w.config.PubSub), Topic: string(w.config.WebhookTopic), Take: in.Deliver}
	return []sidecar.Subscription{webhooks, outcomes}
}
