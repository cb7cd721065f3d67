package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	azfake "github.com/Azure/azure-sdk-for-go/sdk/azcore/fake"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/containerregistry/armcontainerregistry"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/containerregistry/armcontainerregistry/fake"

	"allregions/app/replication"
)

const testKey = "s3cr3t-key"

var errAway = errors.New("away")

func target() Target {
	return Target{URL: &url.URL{Scheme: "https", Host: "allregions.example.com", Path: "/acr/"}, Key: testKey, Actions: []string{"push", "delete"}, Owner: "prod"}
}

func TestPlan(t *testing.T) {
	good := webhook{Owner: "prod", Region: "eastus", State: armcontainerregistry.ProvisioningStateSucceeded, Enabled: true,
		Actions: []string{"delete", "push"}, URI: "https://allregions.example.com/acr/webhooks/acr?region=eastus", Authorization: "Bearer " + testKey}
	for _, tt := range []struct {
		name   string
		change func(*webhook)
		want   string
	}{
		{"as it must be", func(*webhook) {}, "keep"},
		{"actions twice", func(w *webhook) { w.Actions = []string{"push", "delete", "push"} }, "keep"},
		{"somebody else's", func(w *webhook) { w.Owner = "test" }, "refuse: another one has its name"},
		{"nobody's", func(w *webhook) { w.Owner = "" }, "refuse: another one has its name"},
		{"elsewhere", func(w *webhook) { w.Region = "westus" }, "refuse: it is in another region"},
		{"being changed", func(w *webhook) { w.State, w.Enabled = armcontainerregistry.ProvisioningStateUpdating, false }, "await: updating"},
		{"being deleted", func(w *webhook) { w.State = armcontainerregistry.ProvisioningStateDeleting }, "await: deleting"},
		{"failed", func(w *webhook) { w.State = armcontainerregistry.ProvisioningStateFailed }, "update: provisioning failed"},
		{"disabled", func(w *webhook) { w.Enabled = false }, "update: disabled"},
		{"scoped", func(w *webhook) { w.Scope = "shop/cart:*" }, "update: scope"},
		{"an action less", func(w *webhook) { w.Actions = []string{"push"} }, "update: actions"},
		{"an action more", func(w *webhook) { w.Actions = []string{"push", "delete", "quarantine"} }, "update: actions"},
		{"another address", func(w *webhook) { w.URI = "https://old.example.com/webhooks/acr?region=eastus" }, "update: uri"},
		{"an old key", func(w *webhook) { w.Authorization = "Bearer old" }, "update: key"},
		{"all of it", func(w *webhook) { *w = webhook{Owner: "prod", Region: "eastus"} }, "update: actions, disabled, key, uri"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := good
			tt.change(&w)
			if got := target().plan("eastus", &w).String(); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
	if got := target().plan("eastus", nil).String(); got != "create" {
		t.Errorf("none: %s", got)
	}
}

func TestWebhookNames(t *testing.T) {
	one, two := target(), target()
	two.Owner = "test"
	names := map[string]bool{}
	for _, region := range []replication.Region{"eastus", "eastus2", "usgovvirginia", "australiasoutheast", "southafricanorth"} {
		for _, owner := range []Target{one, two} {
			name := owner.name(region)
			if names[name] || len(name) < 5 || len(name) > 50 || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789") != "" {
				t.Errorf("%q", name)
			}
			names[name] = true
		}
	}
}

// registryWebhooks is what ACR keeps of the webhooks of a registry.
type registryWebhooks struct {
	mu       sync.Mutex // of calls, fail and lists, where a test goes on beside them
	webhooks map[string]*armcontainerregistry.Webhook
	configs  map[string]armcontainerregistry.CallbackConfig
	calls    []string                // of writes, and of reads of secrets
	fail     func(call string) error // asked before each of them
	lists    int
	log      map[string][]*armcontainerregistry.Event // by webhook, newest first
	answer   string                                   // of the service to a ping; "" for none
}

// notLogged is the answer to a ping that ACR's log does not have.
const notLogged = "not logged"

func newRegistryWebhooks() *registryWebhooks {
	return &registryWebhooks{webhooks: map[string]*armcontainerregistry.Webhook{}, configs: map[string]armcontainerregistry.CallbackConfig{},
		fail: func(string) error { return nil }, log: map[string][]*armcontainerregistry.Event{}, answer: "204"}
}

// put is what somebody else does.
func (f *registryWebhooks) put(name, location, owner string, config armcontainerregistry.CallbackConfig) {
	f.webhooks[name] = &armcontainerregistry.Webhook{Name: to.Ptr(name), Location: to.Ptr(location), Tags: map[string]*string{"team": to.Ptr("shop")},
		Properties: &armcontainerregistry.WebhookProperties{Actions: []*armcontainerregistry.WebhookAction{to.Ptr(armcontainerregistry.WebhookActionPush)},
			Status: to.Ptr(armcontainerregistry.WebhookStatusEnabled), ProvisioningState: to.Ptr(armcontainerregistry.ProvisioningStateSucceeded)}}
	if owner != "" {
		f.webhooks[name].Tags[ownerTag] = to.Ptr(owner)
	}
	f.configs[name] = config
}

// did is the calls since the last time.
func (f *registryWebhooks) did() []string {
	calls := f.calls
	f.calls = nil
	slices.Sort(calls)
	return calls
}

func (f *registryWebhooks) call(call string, errResp *azfake.ErrorResponder) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, call)
	if err := f.fail(call); err != nil {
		errResp.SetError(err)
		return false
	}
	return true
}

// server answers as ACR does, an operation that takes a moment included.
func (f *registryWebhooks) server() *fake.ServerFactory {
	s := azure(nil)
	s.WebhooksServer = fake.WebhooksServer{
		NewListPager: func(string, string, *armcontainerregistry.WebhooksClientListOptions) (resp azfake.PagerResponder[armcontainerregistry.WebhooksClientListResponse]) {
			f.mu.Lock()
			f.lists++
			f.mu.Unlock()
			resp.AddPage(http.StatusOK, armcontainerregistry.WebhooksClientListResponse{}, nil) // ARM may send empty pages
			for _, name := range slices.Sorted(maps.Keys(f.webhooks)) {
				resp.AddPage(http.StatusOK, armcontainerregistry.WebhooksClientListResponse{WebhookListResult: armcontainerregistry.WebhookListResult{Value: []*armcontainerregistry.Webhook{f.webhooks[name]}}}, nil)
			}
			return
		},
		GetCallbackConfig: func(_ context.Context, _, _, name string, _ *armcontainerregistry.WebhooksClientGetCallbackConfigOptions) (resp azfake.Responder[armcontainerregistry.WebhooksClientGetCallbackConfigResponse], errResp azfake.ErrorResponder) {
			if f.call("config "+name, &errResp) {
				resp.SetResponse(http.StatusOK, armcontainerregistry.WebhooksClientGetCallbackConfigResponse{CallbackConfig: f.configs[name]}, nil)
			}
			return
		},
		BeginCreate: func(_ context.Context, _, _, name string, p armcontainerregistry.WebhookCreateParameters, _ *armcontainerregistry.WebhooksClientBeginCreateOptions) (resp azfake.PollerResponder[armcontainerregistry.WebhooksClientCreateResponse], errResp azfake.ErrorResponder) {
			if f.call("create "+name, &errResp) {
				f.webhooks[name] = &armcontainerregistry.Webhook{Name: to.Ptr(name), Location: p.Location, Tags: p.Tags, Properties: &armcontainerregistry.WebhookProperties{
					Actions: p.Properties.Actions, Scope: p.Properties.Scope, Status: p.Properties.Status, ProvisioningState: to.Ptr(armcontainerregistry.ProvisioningStateSucceeded)}}
				f.configs[name] = armcontainerregistry.CallbackConfig{ServiceURI: p.Properties.ServiceURI, CustomHeaders: p.Properties.CustomHeaders}
				resp.AddNonTerminalResponse(http.StatusCreated, nil)
				resp.SetTerminalResponse(http.StatusOK, armcontainerregistry.WebhooksClientCreateResponse{Webhook: *f.webhooks[name]}, nil)
			}
			return
		},
		BeginUpdate: func(_ context.Context, _, _, name string, p armcontainerregistry.WebhookUpdateParameters, _ *armcontainerregistry.WebhooksClientBeginUpdateOptions) (resp azfake.PollerResponder[armcontainerregistry.WebhooksClientUpdateResponse], errResp azfake.ErrorResponder) {
			if f.call("update "+name, &errResp) {
				have := f.webhooks[name]
				if p.Tags != nil {
					have.Tags = p.Tags
				}
				have.Properties.Actions, have.Properties.Scope, have.Properties.Status = p.Properties.Actions, p.Properties.Scope, p.Properties.Status
				f.configs[name] = armcontainerregistry.CallbackConfig{ServiceURI: p.Properties.ServiceURI, CustomHeaders: p.Properties.CustomHeaders}
				resp.SetTerminalResponse(http.StatusOK, armcontainerregistry.WebhooksClientUpdateResponse{Webhook: *have}, nil)
			}
			return
		},
		BeginDelete: func(_ context.Context, _, _, name string, _ *armcontainerregistry.WebhooksClientBeginDeleteOptions) (resp azfake.PollerResponder[armcontainerregistry.WebhooksClientDeleteResponse], errResp azfake.ErrorResponder) {
			if f.call("delete "+name, &errResp) {
				delete(f.webhooks, name)
				resp.AddNonTerminalResponse(http.StatusAccepted, nil)
				resp.SetTerminalResponse(http.StatusNoContent, armcontainerregistry.WebhooksClientDeleteResponse{}, nil)
			}
			return
		},
		Ping: func(_ context.Context, _, _, name string, _ *armcontainerregistry.WebhooksClientPingOptions) (resp azfake.Responder[armcontainerregistry.WebhooksClientPingResponse], errResp azfake.ErrorResponder) {
			if f.call("ping "+name, &errResp) {
				if f.answer != notLogged {
					f.fire(name, "ping", f.answer)
				}
				resp.SetResponse(http.StatusOK, armcontainerregistry.WebhooksClientPingResponse{}, nil)
			}
			return
		},
		NewListEventsPager: func(_, _, name string, _ *armcontainerregistry.WebhooksClientListEventsOptions) (resp azfake.PagerResponder[armcontainerregistry.WebhooksClientListEventsResponse]) {
			f.mu.Lock()
			defer f.mu.Unlock()
			resp.AddPage(http.StatusOK, armcontainerregistry.WebhooksClientListEventsResponse{}, nil) // ARM may send empty pages
			resp.AddPage(http.StatusOK, armcontainerregistry.WebhooksClientListEventsResponse{EventListResult: armcontainerregistry.EventListResult{Value: f.log[name]}}, nil)
			return
		},
	}
	return s
}

// fire logs what ACR fires now.
func (f *registryWebhooks) fire(name, action, status string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	e := &armcontainerregistry.Event{EventRequestMessage: &armcontainerregistry.EventRequestMessage{Content: &armcontainerregistry.EventContent{Action: &action, Timestamp: to.Ptr(time.Now())}}}
	if status != "" {
		e.EventResponseMessage = &armcontainerregistry.EventResponseMessage{StatusCode: &status, Headers: map[string]*string{"Date": to.Ptr(time.Now().UTC().Format(http.TimeFormat))}}
	}
	f.log[name] = append([]*armcontainerregistry.Event{e}, f.log[name]...)
}

// check is a check by a process that remembers nothing.
func check(t *testing.T, r *Registration, regions ...replication.Region) error {
	t.Helper()
	time.Sleep(time.Minute) // ACR's log has whole seconds
	_, err := r.Check(t.Context(), regions, nil, time.Now)
	return err
}

// registration works on f; everything that it logs goes to the buffer.
func registration(t *testing.T, f *registryWebhooks, target Target) (*Registration, *bytes.Buffer) {
	t.Helper()
	var log bytes.Buffer
	r, err := NewRegistration(reader(t, fake.NewServerFactoryTransport(f.server()), nil), target,
		slog.New(slog.NewJSONHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})))
	if err != nil {
		t.Fatal(err)
	}
	return r, &log
}

// The clock is synctest's: Azure's operations are polled every 2 s.
func TestWebhooksAreMadeAndMended(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newRegistryWebhooks()
		foreign := armcontainerregistry.CallbackConfig{ServiceURI: to.Ptr("https://ci.example.com"), CustomHeaders: map[string]*string{"Authorization": to.Ptr("theirs")}}
		f.put("ci", "eastus", "", foreign)
		other := target()
		other.Owner = "test"
		f.put(other.name("eastus"), "eastus", "test", foreign)
		before := maps.Clone(f.configs)

		r, log := registration(t, f, target())
		regions := []replication.Region{"westeurope", "eastus"}
		if err := check(t, r, regions...); err != nil {
			t.Fatal(err)
		}
		west, east := r.target.name("westeurope"), r.target.name("eastus")
		if got, want := f.did(), []string{"create " + east, "create " + west, "ping " + east, "ping " + west}; !slices.Equal(got, want) {
			t.Fatalf("%q, want %q", got, want)
		}
		w, config := f.webhooks[west], f.configs[west]
		if *w.Location != "westeurope" || *w.Tags[ownerTag] != "prod" || *w.Properties.Status != "enabled" || value(w.Properties.Scope) != "" || len(w.Properties.Actions) != 2 {
			t.Errorf("%+v", w)
		}
		if *config.ServiceURI != "https://allregions.example.com/acr/webhooks/acr?region=westeurope" || len(config.CustomHeaders) != 1 || *config.CustomHeaders["Authorization"] != "Bearer "+testKey {
			t.Errorf("%s %v", *config.ServiceURI, config.CustomHeaders)
		}

		// As it is, so it stays: nothing is written.
		if err := check(t, r, regions...); err != nil {
			t.Fatal(err)
		}
		if got, want := f.did(), []string{"config " + east, "config " + west}; !slices.Equal(got, want) {
			t.Errorf("the second time: %q, want %q", got, want)
		}

		// Drift is mended; a header and tags that somebody added stay.
		f.webhooks[west].Properties.Status = to.Ptr(armcontainerregistry.WebhookStatusDisabled)
		f.webhooks[west].Properties.Scope = to.Ptr("shop/cart:*")
		f.webhooks[west].Tags["team"] = to.Ptr("shop")
		f.configs[west] = armcontainerregistry.CallbackConfig{ServiceURI: config.ServiceURI,
			CustomHeaders: map[string]*string{"authorization": to.Ptr("Bearer old"), "X-Gateway": to.Ptr("g")}}
		if err := check(t, r, regions...); err != nil {
			t.Fatal(err)
		}
		if got, want := f.did(), []string{"config " + east, "config " + west, "ping " + west, "update " + west}; !slices.Equal(got, want) {
			t.Errorf("after drift: %q, want %q", got, want)
		}
		w, config = f.webhooks[west], f.configs[west]
		if *w.Properties.Status != "enabled" || *w.Properties.Scope != "" || *w.Tags["team"] != "shop" || *w.Tags[ownerTag] != "prod" ||
			len(config.CustomHeaders) != 2 || *config.CustomHeaders["Authorization"] != "Bearer "+testKey || *config.CustomHeaders["X-Gateway"] != "g" {
			t.Errorf("%+v, %v", w, config.CustomHeaders)
		}
		if !strings.Contains(log.String(), `"decision":"update: disabled, key, scope"`) {
			t.Errorf("the log does not say why:\n%s", log)
		}

		// What is gone is made again.
		delete(f.webhooks, east)
		if err := check(t, r, regions...); err != nil || f.webhooks[east] == nil {
			t.Errorf("%v, %v", err, f.webhooks[east])
		}
		f.did()

		// Those of others are as they were.
		if len(f.webhooks) != 4 || !maps.EqualFunc(before, map[string]armcontainerregistry.CallbackConfig{"ci": f.configs["ci"], other.name("eastus"): f.configs[other.name("eastus")]},
			func(a, b armcontainerregistry.CallbackConfig) bool { return a.ServiceURI == b.ServiceURI }) {
			t.Errorf("left: %v", f.webhooks)
		}
		if strings.Contains(log.String(), testKey) {
			t.Errorf("the key is in the log:\n%s", log)
		}
	})
}

// One that only looks like ours is not even read.
func TestWebhookOfAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newRegistryWebhooks()
		r, _ := registration(t, f, target())
		name := r.target.name("eastus")
		f.put(name, "eastus", "", armcontainerregistry.CallbackConfig{ServiceURI: to.Ptr("https://ci.example.com")})
		err := check(t, r, "eastus", "westeurope")
		if err == nil || !strings.Contains(err.Error(), "webhook of eastus: refuse: another one has its name") || strings.Contains(err.Error(), "westeurope") {
			t.Errorf("%v", err)
		}
		if got, want := f.did(), []string{"create " + r.target.name("westeurope"), "ping " + r.target.name("westeurope")}; !slices.Equal(got, want) {
			t.Errorf("%q, want %q", got, want)
		}
	})
	if _, err := NewRegistration(&ARM{}, Target{}, nil); err == nil {
		t.Error("without an owner everything without a tag would be ours")
	}
}

func TestWebhooksFail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, tt := range []struct{ call, want string }{
			{"create", "webhook of eastus: create: "},
			{"config", "webhook of westeurope: read "},
			{"update", "webhook of westeurope: update: "},
		} {
			f := newRegistryWebhooks()
			r, log := registration(t, f, target())
			f.put(r.target.name("westeurope"), "westeurope", "prod", armcontainerregistry.CallbackConfig{})
			f.fail = func(call string) error {
				if strings.HasPrefix(call, tt.call) {
					return fmt.Errorf("broken, and your request was Bearer %s", testKey)
				}
				return nil
			}
			err := check(t, r, "eastus", "westeurope")
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%s: %v", tt.call, err)
				continue
			}
			if strings.Contains(err.Error(), testKey) || strings.Contains(log.String(), testKey) {
				t.Errorf("%s: the key is out: %v", tt.call, err)
			}
			// The other region's webhook does not suffer from it.
			if tt.call == "create" != (f.configs[r.target.name("westeurope")].ServiceURI != nil) {
				t.Errorf("%s: %v", tt.call, f.configs)
			}
			f.fail = func(string) error { return nil }
			if err := check(t, r, "eastus", "westeurope"); err != nil {
				t.Errorf("%s: afterwards: %v", tt.call, err)
			}
		}

		r, _ := registration(t, newRegistryWebhooks(), target())
		// Who may not list them changes none.
		r.arm = reader(t, &transport{answers: []int{403}}, nil)
		if err := check(t, r, "eastus"); err == nil || !strings.Contains(err.Error(), "list the webhooks of contoso: ") {
			t.Errorf("%v", err)
		}
	})
}

// A webhook that was created or changed is pinged, and again at each check until the service
// has answered.
func TestPings(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newRegistryWebhooks()
		r, _ := registration(t, f, target())
		name := r.target.name("eastus")
		var hooks map[replication.Region]hook
		step := func(answer, calls, problem string) hook {
			t.Helper()
			time.Sleep(time.Minute)
			f.answer = answer
			var err error
			hooks, err = r.Check(t.Context(), []replication.Region{"eastus"}, hooks, time.Now)
			h := hooks["eastus"]
			if got := strings.ReplaceAll(strings.Join(f.did(), ", "), " "+name, ""); got != calls || h.Problem != problem || (err == nil) != (problem == "") || h.LastPing.answered() != (problem == "") {
				t.Errorf("got %s, %+v, %v, want %s, %q", got, h, err, calls, problem)
			}
			return h
		}
		begin := time.Now()
		h := step("", "create, ping", "ping: no answer within 1m0s")
		if !h.Registered || h.LastAnswer != nil || h.LastPing.At.Before(begin) || h.LastPing.Status != "" {
			t.Errorf("%+v", h)
		}
		step("401", "config, ping", "ping: the answer was 401")
		step("204", "config, ping", "")
		f.fire(name, "push", "202")
		if h = step("500", "config", ""); h.LastAnswer == nil || h.LastAnswer.Status != "202" {
			t.Errorf("%+v", h)
		}
		f.webhooks[name].Properties.Scope = to.Ptr("shop/*")
		step(notLogged, "config, ping, update", "ping: no answer within 1m0s") // the answer to the ping before does not count
		step("503", "config, ping", "ping: the answer was 503")
		step("204", "config, ping", "")

		// The log forgets; what was read counts.
		f.log[name] = nil
		if again := step("500", "config", ""); again.LastAnswer == nil || !again.LastPing.answered() {
			t.Errorf("%+v", again)
		}
		f.fail = func(call string) error {
			if strings.HasPrefix(call, "ping") {
				return &azcore.ResponseError{StatusCode: 403, ErrorCode: "AuthorizationFailed"}
			}
			return nil
		}
		hooks = nil
		time.Sleep(time.Minute)
		if hooks, err := r.Check(t.Context(), []replication.Region{"eastus"}, nil, time.Now); err == nil || hooks["eastus"].Problem != "ping: 403 AuthorizationFailed" || !hooks["eastus"].Registered {
			t.Errorf("%+v, %v", hooks, err)
		}
	})
}
