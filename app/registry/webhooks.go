package registry

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/containerregistry/armcontainerregistry"

	"allregions/app/replication"
)

const (
	registerTimeout = 5 * time.Minute // for the webhooks of all regions
	pingTimeout     = time.Minute     // until ACR's log has the answer to a ping
	pollInterval    = 2 * time.Second // of an operation that Azure has begun
)

// ownerTag is the tag with the owner of a webhook. A webhook that does not have it, or
// has another value in it, is never changed and never deleted: whoever removes the tag
// takes the webhook out of this service's hands.
const ownerTag = "allregions"

// Actions are those that ACR's webhooks can report.
func Actions() []string {
	var actions []string
	for _, a := range armcontainerregistry.PossibleWebhookActionValues() {
		actions = append(actions, string(a))
	}
	return actions
}

// Target is what the webhooks of a registry are to call.
type Target struct {
	// URL is the public listener as the registry reaches it; the path of the
	// handler is added to its path.
	URL *url.URL

	// Key is a secret: it is sent as "Authorization: Bearer", and never logged.
	// Empty sends none.
	Key string

	// Registry is in the URL of the webhooks, where the service has several.
	Registry string

	// Actions are reported, of those that [Actions] lists.
	Actions []string

	// Owner tells this service's webhooks from those of another service at the
	// same registry; it goes into their tag, and as a hash into their names. A
	// URL may change, an owner should not: the webhooks of the old one stay.
	Owner string
}

// name is the webhook's in a region: letters and digits only, at most 50, and
// unique in the registry, also among several owners.
func (t Target) name(region replication.Region) string {
	sum := sha256.Sum256([]byte(t.Owner))
	return "allregions" + hex.EncodeToString(sum[:3]) + string(region)
}

func (t Target) uri(region replication.Region) string {
	u := t.URL.JoinPath("webhooks/acr")
	query := url.Values{"region": {string(region)}}
	if t.Registry != "" {
		query.Set("registry", t.Registry)
	}
	u.RawQuery = query.Encode()
	return u.String()
}

func (t Target) authorization() string {
	if t.Key == "" {
		return ""
	}
	return "Bearer " + t.Key
}

// webhook is what ACR has of a region's webhook, as far as it matters here.
type webhook struct {
	Name          string
	Owner         string
	Region        replication.Region
	State         armcontainerregistry.ProvisioningState
	Enabled       bool
	Scope         string // "" is the whole registry
	Actions       []string
	URI           string
	Authorization string // a secret
}

// step is what has to be done about one region's webhook, and why.
type step struct {
	do  string
	why string // "" for create and keep; names what differs, never a value
}

const (
	keep   = "keep"   // it is as it must be
	create = "create" // there is none
	update = "update" // it is ours, and not as it must be
	await  = "await"  // it is being changed
	refuse = "refuse" // its name is taken by one that is not ours
)

// String is "update: disabled", for logs.
func (s step) String() string {
	if s.why == "" {
		return s.do
	}
	return s.do + ": " + s.why
}

// plan decides about the webhook of a region; have is nil if there is none.
func (t Target) plan(region replication.Region, have *webhook) step {
	switch {
	case have == nil:
		return step{create, ""}
	case have.Owner != t.Owner:
		return step{refuse, "another one has its name"}
	case have.Region != region:
		return step{refuse, "it is in another region"}
	}
	switch have.State {
	case armcontainerregistry.ProvisioningStateCreating, armcontainerregistry.ProvisioningStateUpdating, armcontainerregistry.ProvisioningStateDeleting:
		return step{await, strings.ToLower(string(have.State))}
	}
	sorted := func(s []string) []string { return slices.Compact(slices.Sorted(slices.Values(s))) }
	var why []string
	differs := func(reason string, yes bool) {
		if yes {
			why = append(why, reason)
		}
	}
	differs("actions", !slices.Equal(sorted(have.Actions), sorted(t.Actions)))
	differs("disabled", !have.Enabled)
	differs("key", have.Authorization != t.authorization())
	differs("provisioning failed", have.State == armcontainerregistry.ProvisioningStateFailed || have.State == armcontainerregistry.ProvisioningStateCanceled)
	differs("scope", have.Scope != "")
	differs("uri", have.URI != t.uri(region))
	if len(why) == 0 {
		return step{keep, ""}
	}
	return step{update, strings.Join(why, ", ")}
}

// Registration creates and corrects the webhooks that call the target, one in each
// expected region. It needs the rights Microsoft.ContainerRegistry/registries/webhooks/
// read, write, getCallbackConfig/action, ping/action and listEvents/action.
type Registration struct {
	arm    *ARM
	target Target
	log    *slog.Logger
}

// NewRegistration returns one for the registry that a reads. The target's owner
// must not be empty: then every webhook without a tag would be ours.
func NewRegistration(a *ARM, target Target, log *slog.Logger) (*Registration, error) {
	if target.Owner == "" {
		return nil, errors.New("webhooks without an owner")
	}
	return &Registration{a, target, log}, nil
}

// Check makes the webhooks of these regions what they must be, and pings each that was
// changed, or has not answered the last ping. It returns what is then known of each.
// After a nil error all are as they must be, and have answered. One that fails does not
// stop the others.
func (r *Registration) Check(ctx context.Context, regions []replication.Region, before map[replication.Region]hook, now func() time.Time) (map[replication.Region]hook, error) {
	ctx, cancel := context.WithTimeout(ctx, registerTimeout)
	defer cancel()
	listed, listErr := r.arm.listWebhooks(ctx)
	hooks, errs := make([]hook, len(regions)), make([]error, len(regions))
	var pings sync.WaitGroup
	for i, region := range regions {
		h, name := &hooks[i], r.target.name(region)
		*h = before[region]
		h.Name = name
		if errs[i] = listErr; listErr != nil {
			continue
		}
		var have *webhook
		if i := slices.IndexFunc(listed, func(w webhook) bool { return w.Name == name }); i >= 0 {
			have = &listed[i]
		}
		changed, err := r.ensure(ctx, region, have)
		if h.Registered, h.CheckedAt, errs[i] = err == nil, now().UTC(), err; err == nil {
			pings.Go(func() { errs[i] = r.ping(ctx, h, changed, now) })
		}
	}
	pings.Wait()
	known := map[replication.Region]hook{}
	for i, region := range regions {
		hooks[i].Problem = ""
		if err := errs[i]; err != nil {
			err = r.redact(err)
			hooks[i].Problem, errs[i] = brief(err), fmt.Errorf("webhook of %s: %w", region, err)
		}
		known[region] = hooks[i]
	}
	return known, errors.Join(errs...)
}

// ping has ACR fire a webhook, unless that was done and answered since the webhook was
// changed, and waits until ACR's log has the answer.
func (r *Registration) ping(ctx context.Context, h *hook, changed bool, now func() time.Time) error {
	if err := r.arm.readAnswers(ctx, h); err != nil {
		return err
	}
	before := h.LastPing
	if !changed && before.answered() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	if _, err := r.arm.webhooks.Ping(ctx, r.arm.group, r.arm.name, h.Name, nil); err != nil {
		return fmt.Errorf("ping: %w", err)
	}
	for pinged := now().UTC(); ; {
		if err := r.arm.readAnswers(ctx, h); err != nil && ctx.Err() == nil {
			return err
		}
		if p := h.LastPing; p != before && p.answered() {
			return nil
		} else if p != before && p.Status != "" {
			return fmt.Errorf("ping: the answer was %s", p.Status)
		}
		select {
		case <-time.After(pollInterval):
		case <-ctx.Done():
			h.LastPing = &answer{At: pinged}
			return fmt.Errorf("ping: no answer within %s", pingTimeout)
		}
	}
}

// ensure does what plan says. The other headers of the webhook stay.
func (r *Registration) ensure(ctx context.Context, region replication.Region, have *webhook) (changed bool, err error) {
	name := r.target.name(region)
	headers := map[string]*string{}
	// Where a webhook points, and its headers, may be secrets: only ours is read.
	if have != nil && have.Owner == r.target.Owner {
		config, err := r.arm.webhooks.GetCallbackConfig(ctx, r.arm.group, r.arm.name, name, nil)
		if err != nil {
			return false, fmt.Errorf("read %s: %w", name, err)
		}
		have.URI = value(config.ServiceURI)
		for header, content := range config.CustomHeaders {
			if strings.EqualFold(header, "Authorization") {
				have.Authorization = value(content)
			} else {
				headers[header] = content
			}
		}
	}
	if authorization := r.target.authorization(); authorization != "" {
		headers["Authorization"] = &authorization
	}

	todo := r.target.plan(region, have)
	level := slog.LevelInfo
	if todo.do == keep {
		level = slog.LevelDebug
	}
	r.log.LogAttrs(ctx, level, "webhook", slog.String("region", string(region)), slog.String("name", name), slog.String("decision", todo.String()))
	switch todo.do {
	case create:
		return true, r.create(ctx, region, headers)
	case update:
		return true, r.update(ctx, region, headers)
	case await, refuse:
		return false, errors.New(todo.String())
	}
	return false, nil
}

func (r *Registration) create(ctx context.Context, region replication.Region, headers map[string]*string) error {
	poller, err := r.arm.webhooks.BeginCreate(ctx, r.arm.group, r.arm.name, r.target.name(region), armcontainerregistry.WebhookCreateParameters{
		Location: to.Ptr(string(region)),
		Tags:     map[string]*string{ownerTag: &r.target.Owner},
		Properties: &armcontainerregistry.WebhookPropertiesCreateParameters{
			ServiceURI:    to.Ptr(r.target.uri(region)),
			Actions:       r.target.actions(),
			CustomHeaders: headers,
			Status:        to.Ptr(armcontainerregistry.WebhookStatusEnabled),
		},
	}, nil)
	return completed(ctx, "create", poller, err)
}

func (r *Registration) update(ctx context.Context, region replication.Region, headers map[string]*string) error {
	poller, err := r.arm.webhooks.BeginUpdate(ctx, r.arm.group, r.arm.name, r.target.name(region), armcontainerregistry.WebhookUpdateParameters{
		Properties: &armcontainerregistry.WebhookPropertiesUpdateParameters{
			ServiceURI:    to.Ptr(r.target.uri(region)),
			Actions:       r.target.actions(),
			CustomHeaders: headers,
			Scope:         to.Ptr(""),
			Status:        to.Ptr(armcontainerregistry.WebhookStatusEnabled),
		},
	}, nil)
	return completed(ctx, "update", poller, err)
}

// completed waits for an operation that was begun, unless it could not be.
func completed[T any](ctx context.Context, operation string, poller *runtime.Poller[T], err error) error {
	if err == nil {
		_, err = poller.PollUntilDone(ctx, &runtime.PollUntilDoneOptions{Frequency: pollInterval})
	}
	if err != nil {
		return fmt.Errorf("%s: %w", operation, err)
	}
	return nil
}

// redact takes the key out of an error, in case that Azure quotes the request.
func (r *Registration) redact(err error) error {
	if r.target.Key == "" || !strings.Contains(err.Error(), r.target.Key) {
		return err
	}
	return errors.New(strings.ReplaceAll(err.Error(), r.target.Key, "[key]"))
}

func (t Target) actions() (actions []*armcontainerregistry.WebhookAction) {
	for _, a := range t.Actions {
		actions = append(actions, to.Ptr(armcontainerregistry.WebhookAction(a)))
	}
	return actions
}

// listWebhooks returns all webhooks of the registry, whoever owns them, without URI and
// Authorization, which are read apart. Half a list is an error: what is not on it would
// be created.
func (a *ARM) listWebhooks(ctx context.Context) ([]webhook, error) {
	var found []webhook
	for pager := a.webhooks.NewListPager(a.group, a.name, nil); pager.More(); {
		page, err := pager.NextPage(ctx)
		if err != nil {
			return nil, fmt.Errorf("list the webhooks of %s: %w", a.name, err)
		}
		for _, w := range page.Value {
			if w != nil {
				found = append(found, webhookOf(*w))
			}
		}
	}
	return found, nil
}

func webhookOf(w armcontainerregistry.Webhook) webhook {
	p := value(w.Properties)
	have := webhook{
		Name:    value(w.Name),
		Owner:   value(w.Tags[ownerTag]),
		Region:  replication.ParseRegion(value(w.Location)),
		State:   value(p.ProvisioningState),
		Enabled: value(p.Status) == armcontainerregistry.WebhookStatusEnabled,
		Scope:   value(p.Scope),
	}
	for _, action := range p.Actions {
		have.Actions = append(have.Actions, string(value(action)))
	}
	return have
}

// readAnswers reads the newest firings of a webhook from ACR's log. What h has of newer
// ones stays.
func (a *ARM) readAnswers(ctx context.Context, h *hook) error {
	pager := a.webhooks.NewListEventsPager(a.group, a.name, h.Name, nil)
	for pages, events := 0, 0; pager.More() && events == 0 && pages < maxLogPages; pages++ { // ARM may send empty pages
		page, err := pager.NextPage(ctx)
		if err != nil {
			return fmt.Errorf("read the events of %s: %w", h.Name, err)
		}
		events += len(page.Value)
		for _, e := range page.Value {
			h.fired(firingOf(value(e)))
		}
	}
	return nil
}

// fired takes note of a firing in ACR's log.
func (h *hook) fired(f firing) {
	if f.event.Action == "ping" {
		h.LastPing = h.LastPing.or(f)
	} else {
		h.LastAnswer = h.LastAnswer.or(f)
	}
}

// or is the answer to a firing, if that is newer than a, or has one where a has none yet.
func (a *answer) or(f firing) *answer {
	if at := f.event.ReceivedAt; a == nil || at.After(a.At) || at.Equal(a.At) && a.Status == "" {
		return &answer{At: at, Status: f.status}
	}
	return a
}
