package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"time"

	"allregions/app/sidecar"
	"allregions/app/telemetry"
)

// drainTimeout is how long requests that are under way may take to end after
// SIGTERM. Container Apps kills the container 30 s after it.
const drainTimeout = 10 * time.Second

// serve runs both listeners until ctx ends or one of them fails.
func serve(ctx context.Context, config Config, log *slog.Logger) error {
	tel, err := telemetry.Start(ctx, telemetry.Options{Export: config.OTLP.URL != nil, Instance: instance(config.Port), Version: version(), Log: log})
	if err != nil {
		return err
	}
	defer tel.Shutdown()
	dapr, err := sidecar.Dial(int(config.DaprGRPCPort), tel.Propagator)
	if err != nil {
		return err
	}
	defer dapr.Close()
	s, err := wiring{config: config, dapr: dapr, telemetry: tel, log: log}.service(ctx)
	if err != nil {
		return err
	}
	publicListener, err := net.Listen("tcp", config.Port.on(""))
	if err != nil {
		return fmt.Errorf("PORT: %w", err)
	}
	privateListener, err := net.Listen("tcp", config.AppPort.on("127.0.0.1"))
	if err != nil {
		publicListener.Close()
		return fmt.Errorf("APP_PORT: %w", err)
	}
	public, private := newPublicServer(s.public, log), newPrivateServer(s.host, tel.Handler)
	failed := make(chan error, 2)
	go func() { failed <- public.Serve(publicListener) }()
	go func() { failed <- private.Serve(privateListener) }()
	log.Info("listening", "version", version(), "port", config.Port, "appPort", config.AppPort,
		"timeout", time.Duration(config.Timeout).String(), "keys", len(config.Keys), "readKeys", len(config.ReadKeys))
	if len(config.Keys) == 0 {
		log.Warn("everybody may post events and read statuses: WEBHOOK_ALLOW_ANONYMOUS is set")
	}
	select {
	case err := <-failed:
		return errors.Join(err, public.Close(), private.Close())
	case <-ctx.Done():
	}

	// Not ready, but still listening: load balancers must notice first.
	log.Info("stopping", "delay", config.ShutdownDelay.String())
	s.public.Stop()
	select {
	case err := <-failed:
		return errors.Join(err, public.Close(), private.Close())
	case <-time.After(config.ShutdownDelay):
	}
	return drain(s, public, private, log)
}

// drain ends what is under way: the public requests first, because they need the
// actors.
func drain(s *service, public, private *http.Server, log *slog.Logger) error {
	ctx, cancel := context.WithTimeout(context.Background(), drainTimeout)
	defer cancel()
	err := errors.Join(public.Shutdown(ctx), private.Shutdown(ctx))
	if errors.Is(err, context.DeadlineExceeded) {
		log.Warn("some requests did not end in time", "drain", drainTimeout.String())
		return errors.Join(public.Close(), private.Close())
	}
	s.host.Wait()
	err = errors.Join(err, s.catalog.Flush(ctx)) // then nothing is left to wait for, and reminders go
	s.host.Settled(ctx)
	return err
}

// instance tells this process from its like: on Container Apps each replica has a
// name of its own, on one machine a port.
func instance(p Port) string {
	host, _ := os.Hostname() // without it there is the port
	return p.on(host)
}

// newPublicServer bounds what a malicious caller can hold: a connection without a
// whole request for 5 s, one with a slow body for 10 s, an idle one for a minute; and
// 16 KiB of headers.
func newPublicServer(h http.Handler, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			// If it had a Content-Length, too, another server may have seen another
			// end. RFC 9112, 6.1, closes the connection then; Go goes on and does
			// not tell.
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

// newPrivateServer is for 127.0.0.1 alone: it asks for no key. No message that is held
// holds up its end.
func newPrivateServer(dapr *sidecar.Host, metrics http.Handler) *http.Server {
	mux := http.NewServeMux()
	mux.Handle("/", dapr)
	mux.Handle("GET /metrics", metrics)
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	server.RegisterOnShutdown(dapr.Release)
	return server
}
