package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"

	"allregions/app/notification"
	"allregions/app/registry"
	"allregions/app/sidecar"
	"allregions/app/webhook"
)

// drainTimeout is how long requests that are under way may take to end after
// SIGTERM. Container Apps kills the container 30 s after it.
const drainTimeout = 10 * time.Second

func main() { os.Exit(run()) }

func run() int {
	log := slog.New(slog.NewJSONHandler(os.Stderr, nil))
	config, err := loadConfig()
	if err != nil {
		fmt.Fprintf(os.Stderr, "allregions: cannot start:\n%v\n", err)
		return 1
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := serve(ctx, config, log); err != nil {
		log.Error("stopped", "err", err)
		return 1
	}
	return 0
}

// expectedRegions is the fixed list, or, with a registry, what Azure says.
func expectedRegions(ctx context.Context, config Config, saved registry.Saved, log *slog.Logger) (webhook.Regions, error) {
	if config.Registry.ID == nil {
		log.Info("the registry's regions", "regions", config.Regions, "from", "WEBHOOK_REGIONS")
		return registry.Static(config.Regions), nil
	}
	credential, err := azidentity.NewDefaultAzureCredential(nil)
	if err != nil {
		return nil, fmt.Errorf("identity: %w", err)
	}
	arm, err := registry.NewARM(config.Registry.ID, credential, nil)
	if err != nil {
		return nil, err
	}
	discovery := registry.NewDiscovery(arm, saved, registry.Static(config.Regions), time.Now, log)
	go discovery.Run(ctx)
	return discovery, nil
}

// serve runs both listeners until ctx ends or one of them fails.
func serve(ctx context.Context, config Config, log *slog.Logger) error {
	dapr, err := sidecar.Dial(int(config.DaprGRPCPort))
	if err != nil {
		return err
	}
	defer dapr.Close()

	regions, err := expectedRegions(ctx, config, dapr.Documents(string(config.StateStore)), log)
	if err != nil {
		return err
	}
	actors := dapr.Actors(notification.ActorType)
	documents := dapr.Documents(string(config.ImageStore))
	client := &notification.Client{Actors: actors, Documents: documents}
	waiters := webhook.NewWaiters()
	actor := &notification.Actor{
		Store:     actors,
		Reminders: actors,
		Topic:     dapr.Topic(string(config.PubSub), string(config.Topic)),
		Documents: documents,
		Timeout:   time.Duration(config.Timeout),
		Concluded: waiters.Wake,
		Now:       func() time.Time { return time.Now().Round(0) }, // without the monotonic clock
		Log:       log,
	}
	var draining atomic.Bool
	public := webhook.New(webhook.Config{
		Notifications: client,
		Statuses:      client,
		Waiters:       waiters,
		Regions:       regions,
		Keys:          webhook.NewKeys(config.Keys),
		Ready: func(ctx context.Context) error {
			if draining.Load() {
				return errors.New("stopping")
			}
			_, err := regions.Expected(ctx)
			return errors.Join(dapr.Ready(ctx), err)
		},
		Log: log,
	})
	private := sidecar.NewHost(sidecar.Actor{Type: notification.ActorType, Methods: actor.Methods(), Remind: actor.Remind}, log)

	publicListener, err := net.Listen("tcp", config.Port.on(""))
	if err != nil {
		return fmt.Errorf("PORT: %w", err)
	}
	privateListener, err := net.Listen("tcp", config.AppPort.on("127.0.0.1"))
	if err != nil {
		publicListener.Close()
		return fmt.Errorf("APP_PORT: %w", err)
	}
	publicServer := &http.Server{
		Handler:           public,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      30 * time.Second, // longer where a caller waits for an outcome
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	privateServer := &http.Server{Handler: private, ReadHeaderTimeout: 5 * time.Second}

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

	// The public side first: what it has under way needs the actors.
	log.Info("stopping")
	draining.Store(true)
	waiters.Close()
	drain, cancel := context.WithTimeout(context.Background(), drainTimeout)
	defer cancel()
	err = errors.Join(publicServer.Shutdown(drain), privateServer.Shutdown(drain))
	if errors.Is(err, context.DeadlineExceeded) {
		log.Warn("some requests did not end in time", "drain", drainTimeout.String())
		return errors.Join(publicServer.Close(), privateServer.Close())
	}
	return err
}
