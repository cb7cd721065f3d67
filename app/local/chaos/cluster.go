package chaos

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net/http"
	"syscall"
	"time"

	"allregions/app/local/acr"
	"allregions/app/local/cosmos"
	"allregions/app/local/process"
	"allregions/app/local/stack"
)

// replicas is how many there are of the service and its sidecar, unless it is a soak.
const replicas = 3

// readyTimeout is how long everything may take to be ready after the faults.
const readyTimeout = 2 * time.Minute

// cluster is a stack of several replicas, a store that makes trouble, and a target.
type cluster struct {
	*stack.Stack
	store  *store
	target *target
	azure  *acr.Azure
	// balancer is where replicas hand webhooks over.
	balancer *balancer
	logger   *log.Logger
	ended    counter // processes that ended by themselves, by name
}

// startCluster starts everything. It returns when webhooks can be posted, or
// with an error and nothing left running.
func startCluster(ctx context.Context, dir string, o Options, logger *log.Logger) (_ *cluster, err error) {
	c := &cluster{logger: logger, store: &store{}}
	if c.target, err = newTarget(); err != nil {
		return nil, err
	}
	if c.azure, err = acr.NewAzure("contoso", o.Regions[0], o.Regions[1:]...); err != nil {
		return nil, err
	}
	for _, region := range o.Regions {
		c.azure.AddWebhook(region)
	}
	if c.balancer, err = newBalancer(); err != nil {
		return nil, err
	}
	options := stack.Options{
		Azure: c.azure,
		Dir:   dir, Replicas: replicas, Regions: o.Regions, Timeout: o.Timeout, Key: "chaos", Redis: true, Cosmos: true,
		Settings: map[string]string{"WEBHOOK_TOPIC": "acr-webhooks", "SHUTDOWN_DELAY": shutdownDelay.String(),
			"NOTIFY_TARGETS": c.target.settings(), "PEER_URL": c.balancer.url()},
		Front: func(proxy *cosmos.Proxy) http.Handler {
			c.store = newStore(proxy, source(o.Seed, storeStream))
			return c.store
		},
		Ended: c.note,
	}
	if o.Soak > 0 {
		options.Replicas, options.Cosmos, options.Settings["CATCH_UP"] = 1, false, soakCatchUp.String()
		delete(options.Settings, "NOTIFY_TARGETS")
	}
	c.Stack, err = stack.Start(ctx, options)
	if err == nil {
		if err = c.swept(ctx); err != nil {
			c.Kill()
		}
	}
	if err != nil {
		c.target.server.Close()
		c.azure.Close()
		c.balancer.close()
		return nil, err
	}
	return c, c.balancer.watch(c.Replicas)
}

// swept waits for the first sweep of ACR's log: what was fired before it stays unseen.
func (c *cluster) swept(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	return process.Until(ctx, "ACR's log is not read", func() error {
		var answer struct {
			Registries []struct{ Sweep struct{ At time.Time } }
		}
		err := stack.Get(ctx, c.URL+"/regions", c.Key, &answer)
		if err == nil && (len(answer.Registries) == 0 || answer.Registries[0].Sweep.At.IsZero()) {
			err = fmt.Errorf("%+v", answer)
		}
		return err
	})
}

// note is called when a process has ended by itself.
func (c *cluster) note(name, state string) {
	c.logger.Printf("%s ended by itself (%s)", name, state)
	c.ended.count(name)
}

// kill ends everything at once. What is in the directory stays.
func (c *cluster) kill() {
	c.balancer.close()
	c.Kill()
	c.target.server.Close()
	c.azure.Close()
}

// begin makes f happen, end ends it.
func (c *cluster) begin(f fault) (err error) {
	for _, name := range f.targets {
		switch f.verb {
		case kill:
			err = errors.Join(err, c.Hold(name, syscall.SIGKILL))
		case pause:
			err = errors.Join(err, c.Process(name).Signal(syscall.SIGSTOP))
		case terminate:
			err = errors.Join(err, c.Hold(name, syscall.SIGTERM))
		case hinder:
			c.store.set(trouble(name))
		case disturb:
			c.target.set(trouble(name))
		}
	}
	return err
}

func (c *cluster) end(f fault) (err error) {
	for _, name := range f.targets {
		switch f.verb {
		case kill, terminate:
			err = errors.Join(err, c.Release(name))
		case pause:
			err = errors.Join(err, c.Process(name).Signal(syscall.SIGCONT))
		case hinder:
			c.store.set("")
		case disturb:
			c.target.set("")
		}
	}
	return err
}

// registry fires its webhooks at one replica.
func (c *cluster) registry(replica int) *acr.Registry {
	return &acr.Registry{LoginServer: "contoso.azurecr.io", ServiceURL: c.Replicas[replica].URL, Key: c.Key, Azure: c.azure}
}

// status asks a replica for a notification. Without one, ok is false.
func (c *cluster) status(ctx context.Context, replica int, id string) (st Status, ok bool, err error) {
	err = stack.Get(ctx, c.Replicas[replica].URL+"/notifications/"+id, c.Key, &st)
	if answer, is := errors.AsType[*stack.AnswerError](err); is && answer.Status == http.StatusNotFound {
		return Status{}, false, nil
	}
	return st, err == nil, err
}

// deliveries says what the service knows of the deliveries of a notification's
// outcomes: the state of each, by the event's id.
func (c *cluster) deliveries(ctx context.Context, replica int, id string) (map[string]string, error) {
	var answer struct {
		Deliveries []struct{ Event, Status string }
	}
	err := stack.Get(ctx, c.Replicas[replica].URL+"/notifications/"+id+"/deliveries", c.Key, &answer)
	states := map[string]string{}
	for _, d := range answer.Deliveries {
		states[d.Event] = d.Status
	}
	return states, err
}
