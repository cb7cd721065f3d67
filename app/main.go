package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"

	"allregions/app/catalog"
	"allregions/app/delivery"
	"allregions/app/notification"
	"allregions/app/registry"
	"allregions/app/sidecar"
	"allregions/app/target"
	"allregions/app/telemetry"
	"allregions/app/webhook"
)

// deadLetters is behind the name of the topic whose dead letters a topic has.
const deadLetters = "-dead"

// drainTimeout is how long requests that are under way may take to end after
// SIGTERM. Container Apps kills the container 30 s after it.
const drainTimeout = 10 * time.Second

func main() { os.Exit(run(os.Args[1:], os.Stderr)) }

const usage = `usage: allregions             runs the service, set up by its environment
       allregions deregister  deletes what the service has at the registry: webhooks, and its role
`

func run(args []string, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	switch {
	case len(args) == 1 && args[0] == "deregister":
		if err := deregister(ctx, stderr); err != nil {
			fmt.Fprintf(stderr, "allregions: not all is deleted at the registry:\n%v\n", err)
			return 1
		}
		return 0
	case len(args) > 0:
		fmt.Fprint(stderr, usage)
		return 2
	}
	log := slog.New(slog.NewJSONHandler(stderr, nil))
	config, err := loadConfig()
	if err != nil {
		fmt.Fprintf(stderr, "allregions: cannot start:\n%v\n", err)
		return 1
	}
	if err := serve(ctx, config, log); err != nil {
		log.Error("stopped", "err", err)
		return 1
	}
	return 0
}

// azure is what is known through Azure, and done there.
type azure struct {
	regions  webhook.Regions
	eventLog notification.EventLog // nil without a registry
}

// connect takes the regions from the fixed list, or, with a registry, from Azure,
// and then keeps the registry's webhooks as they must be, until ctx ends.
func connect(ctx context.Context, config Config, saved registry.Saved, log *slog.Logger) (azure, error) {
	if config.Registry.ID == nil {
		log.Info("the registry's regions", "regions", config.Regions, "from", "WEBHOOK_REGIONS")
		return azure{regions: registry.Static(config.Regions)}, nil
	}
	arm, err := azureRegistry(config.Registry)
	if err != nil {
		return azure{}, err
	}
	discovery := registry.NewDiscovery(arm, saved, registry.Static(config.Regions), time.Now, log)
	go discovery.Run(ctx)

	target, why, ok := config.target()
	if !ok {
		log.Info("the registry's webhooks are left alone", "why", why)
	} else {
		registration, err := registry.NewRegistration(arm, target, log)
		if err != nil {
			return azure{}, err
		}
		go registration.Run(ctx, discovery.Expected, time.Now)
	}
	return azure{regions: discovery, eventLog: registry.NewEventLog(arm, target.Owner, time.Now, log)}, nil
}

func azureRegistry(id ResourceID) (*registry.ARM, error) {
	credential, err := azidentity.NewDefaultAzureCredential(nil)
	if err != nil {
		return nil, fmt.Errorf("identity: %w", err)
	}
	return registry.NewARM(id.ID, credential, nil)
}

// deregister deletes what there is of the service at the registry: the webhooks
// that it has registered, then its role there. It does so with the rights of
// whoever runs it, on the day when the service goes.
func deregister(ctx context.Context, out io.Writer) error {
	settings, err := loadRemoval()
	if err != nil {
		return err
	}
	if settings.Registry.ID == nil {
		fmt.Fprintln(out, "REGISTRY_RESOURCE_ID is not set: there is no registry with anything of ours")
		return nil
	}
	arm, err := azureRegistry(settings.Registry)
	if err != nil {
		return err
	}
	registration, err := registry.NewRegistration(arm, registry.Target{Owner: settings.Owner.or(settings.PublicURL)}, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	removed, err := registration.Remove(ctx)
	for _, name := range removed {
		fmt.Fprintln(out, "deleted webhook", name)
	}
	errs := []error{err}
	// In this order: a role that is assigned cannot be deleted.
	for _, id := range []string{settings.RoleAssignment, settings.Role} {
		if id == "" {
			continue
		}
		if err := arm.RemoveRole(ctx, id); err != nil {
			errs = append(errs, err)
			continue
		}
		fmt.Fprintln(out, "deleted", id)
	}
	return errors.Join(errs...)
}

// newPublicServer bounds what a caller who means no good can hold: a connection
// without a whole request for 5 s, one with a slow body for 10 s, one that is idle
// for a minute; and 16 KiB of headers.
func newPublicServer(h http.Handler, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			// If it had a Content-Length, too, another server may have seen
			// another end. RFC 9112, 6.1, closes the connection then; Go goes on
			// and does not tell.
			if len(r.TransferEncoding) > 0 {
				w.Header().Set("Connection", "close")
			}
			h.ServeHTTP(w, r)
		}),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      30 * time.Second, // longer where a caller waits for an outcome
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
}

// instance tells this process from its like: on Container Apps each replica has a
// name of its own, on one machine a port.
func instance(p Port) string {
	host, _ := os.Hostname() // without it there is the port
	return p.on(host)
}

// newPrivateHandler is what 127.0.0.1 sees, and nobody else: neither asks for a key.
func newPrivateHandler(dapr, metrics http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/", dapr)
	mux.Handle("GET /metrics", metrics)
	return mux
}

// serve runs both listeners until ctx ends or one of them fails.
func serve(ctx context.Context, config Config, log *slog.Logger) error {
	telemetry, err := telemetry.Start(ctx, telemetry.Options{Export: config.OTLP.set(), Instance: instance(config.Port), Log: log})
	if err != nil {
		return err
	}
	defer telemetry.Shutdown()
	dapr, err := sidecar.Dial(int(config.DaprGRPCPort), telemetry.Propagator)
	if err != nil {
		return err
	}
	defer dapr.Close()

	states := dapr.Records(string(config.StateStore), "")
	azure, err := connect(ctx, config, states, log)
	if err != nil {
		return err
	}
	actors := dapr.Actors(notification.ActorType)
	records := dapr.Records(string(config.ImageStore), "")
	index := catalog.NewIndex(states, log)
	client := &notification.Client{Actors: actors, Records: records, Index: index}
	waiters := webhook.NewWaiters()
	actor := &notification.Actor{
		Records:   records,
		Reminders: actors,
		Topic:     dapr.Topic(string(config.PubSub), string(config.Topic)),
		Index:     index,
		EventLog:  azure.eventLog,
		Timeout:   time.Duration(config.Timeout),
		Concluded: waiters.Wake,
		Observer:  telemetry,
		Tracer:    telemetry.Tracer,
		Now:       func() time.Time { return time.Now().Round(0) }, // without the monotonic clock
		Log:       log,
	}
	intake := &notification.Intake{Client: client, Delivered: telemetry.Delivered, Now: actor.Now, Log: log}
	var subscriptions []sidecar.Subscription
	if config.WebhookTopic != off {
		intake.Queue = dapr.Topic(string(config.PubSub), string(config.WebhookTopic))
		intake.Dead = dapr.Topic(string(config.PubSub), string(config.WebhookTopic)+deadLetters)
		subscriptions = append(subscriptions, sidecar.Subscription{PubSub: string(config.PubSub), Topic: string(config.WebhookTopic), Take: intake.Deliver})
	}
	deliveries := dapr.Actors(delivery.ActorType)
	deliveryRecords := dapr.Records(string(config.StateStore), delivery.ActorType+"-")
	targets := target.NewSet(config.Targets, nil, actor.Now)
	targets.Attempted = telemetry.Attempted
	dispatcher := &delivery.Dispatcher{Targets: targets, Actors: deliveries, Records: deliveryRecords, Notifications: client, Log: log}
	deliverer := &delivery.Actor{Records: deliveryRecords, Reminders: deliveries, Topic: actor.Topic, Sender: targets,
		Now: actor.Now, Random: rand.Float64, Log: log}
	if len(config.Targets) > 0 {
		log.Info("telling", "targets", config.Targets)
	}
	subscriptions = append(subscriptions, sidecar.Subscription{PubSub: string(config.PubSub), Topic: string(config.Topic), Take: dispatcher.Dispatch,
		// Without targets, too: what waits in the subscription would reach targets that
		// are switched on later, and some of them deploy old images then. Only a broker
		// that keeps nothing has nothing to drain.
		Needed: func(broker sidecar.Broker) bool { return len(config.Targets) > 0 || !broker.Forgets }})
	var draining atomic.Bool
	public := webhook.New(webhook.Config{
		Notifications: intake,
		Statuses:      client,
		Deliveries:    dispatcher,
		Waiters:       waiters,
		Regions:       azure.regions,
		Keys:          webhook.NewKeys(config.Keys),
		Ready: func(ctx context.Context) error {
			if draining.Load() {
				return errors.New("stopping")
			}
			_, err := azure.regions.Expected(ctx)
			return errors.Join(dapr.Ready(ctx), err)
		},
		Received:   telemetry.Received,
		Tracer:     telemetry.Tracer,
		Propagator: telemetry.Propagator,
		Log:        log,
	})
	host := sidecar.NewHost(log, telemetry.Propagator, []sidecar.Actor{
		{Type: notification.ActorType, Methods: actor.Methods(), Remind: actor.Remind},
		{Type: delivery.ActorType, Methods: deliverer.Methods(), Remind: deliverer.Remind},
	}, subscriptions, dapr.Broker)

	publicListener, err := net.Listen("tcp", config.Port.on(""))
	if err != nil {
		return fmt.Errorf("PORT: %w", err)
	}
	privateListener, err := net.Listen("tcp", config.AppPort.on("127.0.0.1"))
	if err != nil {
		publicListener.Close()
		return fmt.Errorf("APP_PORT: %w", err)
	}
	publicServer := newPublicServer(public, log)
	privateServer := &http.Server{Handler: newPrivateHandler(host, telemetry.Handler), ReadHeaderTimeout: 5 * time.Second}

	failed := make(chan error, 2)
	go func() { failed <- publicServer.Serve(publicListener) }()
	go func() { failed <- privateServer.Serve(privateListener) }()
	log.Info("listening", "port", config.Port, "appPort", config.AppPort,
		"timeout", time.Duration(config.Timeout).String(), "keys", len(config.Keys))
	if len(config.Keys) == 0 {
		log.Warn("everybody may post events and read statuses: WEBHOOK_ALLOW_ANONYMOUS is set")
	}

	select {
	case err := <-failed:
		return errors.Join(err, publicServer.Close(), privateServer.Close())
	case <-ctx.Done():
	}

	// Not ready, but still there: whoever sends requests here has to see that
	// first. Then the public side: what it has under way needs the actors.
	log.Info("stopping", "delay", time.Duration(config.ShutdownDelay).String())
	draining.Store(true)
	waiters.Close()
	select {
	case err := <-failed:
		return errors.Join(err, publicServer.Close(), privateServer.Close())
	case <-time.After(time.Duration(config.ShutdownDelay)):
	}
	drain, cancel := context.WithTimeout(context.Background(), drainTimeout)
	defer cancel()
	err = errors.Join(publicServer.Shutdown(drain), privateServer.Shutdown(drain))
	if errors.Is(err, context.DeadlineExceeded) {
		log.Warn("some requests did not end in time", "drain", drainTimeout.String())
		return errors.Join(publicServer.Close(), privateServer.Close())
	}
	host.Wait()
	return errors.Join(err, index.Flush(drain))
}
