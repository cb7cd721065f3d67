package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	azurearm "github.com/Azure/azure-sdk-for-go/sdk/azcore/arm"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/cloud"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"

	"allregions/app/actor"
	"allregions/app/api"
	"allregions/app/catalog"
	"allregions/app/delivery"
	"allregions/app/intake"
	"allregions/app/notification"
	"allregions/app/page"
	"allregions/app/registry"
	"allregions/app/replication"
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
	public  *api.Handler  // for the public listener
	host    *sidecar.Host // for the sidecar's
	catalog catalog.Catalog
}

// now is wall time, without the monotonic clock: other processes compare it.
func now() time.Time { return time.Now().Round(0) }

func (w wiring) service(ctx context.Context) (*service, error) {
	states := w.dapr.Records(string(w.config.StateStore), "")
	listed := w.catalog(states)
	client := &notification.Client{
		Actors:  w.dapr.Actors(notification.ActorType),
		Records: w.dapr.Records(string(w.config.ImageStore), ""),
		Index:   listed.Index,
	}
	in := w.intake(client, states)
	acr, err := w.connect(found{in})
	if err != nil {
		return nil, err
	}
	in.Regions = acr.regions
	go acr.run(ctx)
	out, deliveries := w.deliveries(client)
	public := api.New(api.Config{
		Peer:       w.peer(),
		Intake:     in,
		Statuses:   client,
		List:       listed.List,
		Deliveries: out,
		Regions:    acr.regions,
		Activity: func(ctx context.Context) (map[catalog.Place]catalog.Activity, error) {
			return listed.List.Activity(ctx, now())
		},
		DeadLetters: in.DeadLetters.Summary,
		Keys:        api.NewKeys(w.config.Keys),
		Page:        w.page(),
		ReadKeys:    api.NewKeys(w.config.ReadKeys),
		Ready: func(ctx context.Context) error {
			return errors.Join(w.dapr.Ready(ctx), acr.known(ctx))
		},
		Received:   w.telemetry.Received,
		Tracer:     w.telemetry.Tracer,
		Propagator: w.telemetry.Propagator,
		Version:    version(),
		Log:        w.log,
	})
	notifications := w.notifications(listed, acr, public.Concluded)
	actors := append(acr.actor, w.recent(notifications), deliveries,
		sidecar.Actor{Type: notification.ActorType, Methods: notifications.Methods(), Remind: notifications.Remind})
	host := sidecar.NewHost(w.log, w.telemetry.Propagator, actors, w.subscriptions(in, out), w.dapr.Broker)
	return &service{public: public, host: host, catalog: listed}, nil
}

// page is what browsers see; nil if it is off.
func (w wiring) page() *page.Handler {
	if !w.config.Page {
		return nil
	}
	return page.New()
}

// connected is what the service has of its registries. Without any, the regions are a fixed
// list, and the event log, the replicas and the actor are nil.
type connected struct {
	regions  api.Regions
	known    func(context.Context) error // its nil error means that some regions are known
	eventLog notification.EventLog
	replicas func(registry string, regions []replication.Region) map[replication.Region]string
	actor    []sidecar.Actor
	run      func(context.Context) // goes on until its context ends
}

// connect takes the regions from the fixed list, or, with registries, takes part in the work
// on them.
func (w wiring) connect(in registry.Intake) (connected, error) {
	if len(w.config.Registries) == 0 {
		w.log.Info("the registry's regions", "regions", w.config.Regions, "optional", w.config.Optional, "from", "WEBHOOK_REGIONS")
		return connected{regions: registry.Fixed{Awaited: replication.Await(w.config.Regions, w.config.Optional)}, known: func(context.Context) error { return nil }, run: func(context.Context) {}}, nil
	}
	arms, err := azureRegistries(w.config.Registries, w.config.azure())
	if err != nil {
		return connected{}, err
	}
	if _, why, ok := w.config.webhooks(""); !ok {
		w.log.Info("the registry's webhooks are left alone", "why", why)
	}
	actors := w.dapr.Actors(registry.ActorType)
	records := w.dapr.Records(string(w.config.StateStore), registry.ActorType+"-")
	var set registry.Set
	for i, arm := range arms {
		member, err := w.member(w.config.Registries[i].Name, arm, actors, records, in)
		if err != nil {
			return connected{}, err
		}
		set = append(set, member)
	}
	a := &registry.Actor{Records: records, Reminders: actors, Wake: set.Wake, Now: now, Log: w.log}
	return connected{
		regions:  set,
		known:    set.Known,
		replicas: set.Replicas,
		eventLog: set,
		run:      set.Run,
		actor:    []sidecar.Actor{{Type: registry.ActorType, Methods: a.Methods(), Remind: actor.Whole(a.Remind)}},
	}, nil
}

// member is the registry with that name, which arm reaches.
func (w wiring) member(name string, arm *registry.ARM, actors *sidecar.Actors, records *sidecar.Records, in registry.Intake) (m registry.Member, err error) {
	log := w.log.With("registry", strings.ToLower(name))
	view := &registry.View{Name: name, Records: records, Fallback: registry.Static(w.config.Regions), Optional: registry.Static(w.config.Optional), Observer: w.telemetry, Now: now, Log: log}
	m.Worker = registry.NewWorker(view, instance(w.config.Port), actors, arm)
	webhooks, _, ok := w.config.webhooks(name)
	if ok {
		if m.Webhooks, err = registry.NewRegistration(arm, webhooks, log); err != nil {
			return m, err
		}
	}
	m.EventLog = registry.NewEventLog(arm, webhooks.Owner, time.Now, log)
	if w.config.CatchUp > 0 {
		sweeper := &registry.Sweeper{Log: m.EventLog, Intake: in, CatchUp: time.Duration(w.config.CatchUp), Timeout: time.Duration(w.config.Timeout), Optional: view.Optional, Disagreed: w.telemetry.Disagreed}
		m.Sweep = sweeper.Sweep
	}
	return m, nil
}

// found brings what ACR's log has to the notifications, as if it were a webhook.
type found struct{ in *intake.Intake }

func (f found) Regions(ctx context.Context, id string) (regions []replication.Region, err error) {
	if !notification.ValidID(id) {
		return nil, nil
	}
	st, err := f.in.Client.Status(ctx, id)
	if errors.Is(err, notification.ErrNotFound) {
		return nil, nil
	}
	for _, r := range st.Reported() {
		regions = append(regions, r.Region)
	}
	return regions, err
}

func (f found) Give(ctx context.Context, e replication.Event, awaited replication.Awaited) (refused, err error) {
	if !notification.ValidID(e.ID) {
		return errors.New("its id can be none of a notification"), nil
	}
	_, err = f.in.Add(ctx, e, awaited)
	if r, ok := errors.AsType[*notification.RefusedError](err); ok {
		return r, nil
	}
	return nil, err
}

// azure is how every client of Azure is made.
func (c Config) azure() azcore.ClientOptions {
	// The SDK puts the id in front of its own name in User-Agent.
	return azcore.ClientOptions{Cloud: cloud.Configuration(c.Cloud), Telemetry: policy.TelemetryOptions{ApplicationID: userAgent()}}
}

func azureRegistries(ids ResourceIDs, options azcore.ClientOptions) (arms []*registry.ARM, err error) {
	credential, err := azidentity.NewDefaultAzureCredential(&azidentity.DefaultAzureCredentialOptions{ClientOptions: options})
	if err != nil {
		return nil, fmt.Errorf("identity: %w", err)
	}
	for _, id := range ids {
		a, err := registry.NewARM(id, credential, azurearm.ClientOptions{ClientOptions: options})
		if err != nil {
			return nil, err
		}
		arms = append(arms, a)
	}
	return arms, nil
}

func (w wiring) topic(name Name) *sidecar.Topic {
	return w.dapr.Topic(string(w.config.PubSub), string(name))
}

func (w wiring) intake(client *notification.Client, states *sidecar.Records) *intake.Intake {
	in := &intake.Intake{Client: client, Sidecar: w.dapr, DeadLetters: &intake.DeadLetters{Records: states},
		Delivered: w.telemetry.Delivered, Now: now, Log: w.log}
	if w.config.WebhookTopic != off {
		in.Queue, in.Dead = w.topic(w.config.WebhookTopic), w.topic(w.config.WebhookTopic+deadLetters)
	}
	return in
}

// recentPrefix is that of the keys of the list's windows.
const recentPrefix = catalog.RecentType + "-"

func (w wiring) catalog(states *sidecar.Records) catalog.Catalog {
	return catalog.Catalog{
		Index: catalog.NewIndex(states, w.log),
		List:  catalog.NewList(w.dapr.Actors(catalog.RecentType), w.dapr.Records(string(w.config.StateStore), recentPrefix), w.log),
	}
}

// recent is the actor of the list's windows.
func (w wiring) recent(notifications catalog.Notifications) sidecar.Actor {
	a := &catalog.Recent{
		Records:       w.dapr.Records(string(w.config.StateStore), recentPrefix),
		Reminders:     w.dapr.Actors(catalog.RecentType),
		Notifications: notifications,
		Observer:      w.telemetry,
		Now:           now,
		Log:           w.log,
	}
	return sidecar.Actor{Type: catalog.RecentType, Methods: a.Methods(), Remind: actor.Whole(a.Remind)}
}

// peer is nil if no address of the other replicas is known.
func (w wiring) peer() api.Peer {
	if w.config.Peer.URL == nil {
		return nil
	}
	w.log.Info("while the sidecar refuses connections webhooks go to another replica", "peer", w.config.Peer.URL.String())
	return &intake.Peer{URL: w.config.Peer.URL, Sidecar: w.dapr, Handed: w.telemetry.Handed, Log: w.log}
}

func (w wiring) notifications(listed catalog.Catalog, acr connected, concluded func(id string)) *notification.Actor {
	actors := w.dapr.Actors(notification.ActorType)
	return &notification.Actor{
		Records:   w.dapr.Records(string(w.config.ImageStore), ""),
		Reminders: actors,
		Topic:     w.topic(w.config.Topic),
		Catalog:   listed,
		EventLog:  acr.eventLog,
		Finder:    listed.Index,
		Replicas:  acr.replicas,
		Timeout:   time.Duration(w.config.Timeout),
		Concluded: concluded,
		Observer:  w.telemetry,
		Tracer:    w.telemetry.Tracer,
		Now:       now,
		Log:       w.log,
	}
}

// deliveries is what brings outcomes to the targets, and its actor.
func (w wiring) deliveries(client *notification.Client) (*delivery.Dispatcher, sidecar.Actor) {
	if len(w.config.Targets) > 0 {
		w.log.Info("outcomes are sent to", "targets", w.config.Targets)
	}
	actors := w.dapr.Actors(delivery.ActorType)
	records := w.dapr.Records(string(w.config.StateStore), delivery.ActorType+"-")
	targets := target.NewSet(w.config.Targets, nil, now)
	targets.UserAgent = userAgent()
	targets.Attempted = w.telemetry.Attempted
	if public := w.config.PublicURL.URL; public != nil && bool(w.config.Page) {
		targets.Link = func(id string) string { return public.JoinPath("notifications", id).String() }
	}
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
		Remind:      actor.Whole(a.Remind),
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
