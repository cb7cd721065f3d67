package acr

import (
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"maps"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	arm "github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/containerregistry/armcontainerregistry"

	"allregions/app/local/process"
)

const (
	registryURL = "/subscriptions/00000000-0000-0000-0000-000000000001/resourceGroups/images/providers/Microsoft.ContainerRegistry/registries/"
	token       = "simulated"
	logPage     = 100 // events
)

// Cloud is one of Azure's clouds.
type Cloud struct {
	arm, login string // hosts
	audience   string // of ARM's tokens
	registries string // suffix of login servers
}

// Azure's clouds.
var (
	Public     = Cloud{"management.azure.com", "login.microsoftonline.com", "https://management.core.windows.net/", ".azurecr.io"}
	Government = Cloud{"management.usgovcloudapi.net", "login.microsoftonline.us", "https://management.core.usgovcloudapi.net/", ".azurecr.us"}
	China      = Cloud{"management.chinacloudapi.cn", "login.chinacloudapi.cn", "https://management.core.chinacloudapi.cn/", ".azurecr.cn"}
)

// Azure plays Azure Resource Manager for one registry, with ACR's log of its webhooks,
// and those who give out tokens for it: the endpoint of managed identities, and the
// directory for a tenant's applications. A real process with its Settings takes it for
// Azure.
type Azure struct {
	// ServiceURL is where every ping goes, with the path of the webhook that is pinged.
	ServiceURL string

	CA []byte // PEM: who trusts it trusts this Azure

	cloud         Cloud
	name, home    string
	others        []*Azure // further registries, which have no server of their own
	tunnel, proxy *http.Server

	mu       sync.Mutex
	replicas map[string]replica
	hooks    map[string]*hook
	calls    []string
	answer   func(call string) (status int, retryAfter time.Duration)
}

type replica struct {
	state  string
	listed bool
}

// hook is one webhook, with its log.
type hook struct {
	arm.Webhook
	config arm.CallbackConfig
	log    []*arm.Event // newest first
}

// NewAzure starts a public Azure with one registry.
func NewAzure(name, home string, others ...string) (*Azure, error) {
	return NewAzureIn(Public, name, home, others...)
}

// NewAzureIn starts an Azure that is the given cloud.
func NewAzureIn(cloud Cloud, name, home string, others ...string) (*Azure, error) {
	a := newRegistry(cloud, name, home, others)
	certificate, err := a.newCertificate()
	if err != nil {
		return nil, fmt.Errorf("simulated Azure: %w", err)
	}
	listener := connections{make(chan net.Conn), make(chan struct{})}
	a.tunnel = &http.Server{Handler: a.handler(), TLSConfig: &tls.Config{Certificates: []tls.Certificate{certificate}}, ReadHeaderTimeout: 10 * time.Second}
	if a.proxy, err = process.Serve(a.front(listener)); err != nil {
		return nil, err
	}
	go a.tunnel.ServeTLS(listener, "", "")
	return a, nil
}

// newRegistry is a registry that no server answers for yet.
func newRegistry(cloud Cloud, name, home string, others []string) *Azure {
	a := &Azure{cloud: cloud, name: name, home: home, replicas: map[string]replica{}, hooks: map[string]*hook{}}
	for _, region := range append(others, home) {
		a.replicas[region] = replica{"Succeeded", true}
	}
	return a
}

// AddRegistry adds a registry, which has its own replicas, webhooks, and calls. No process
// may know of this Azure yet.
func (a *Azure) AddRegistry(name, home string, others ...string) *Azure {
	b := newRegistry(a.cloud, name, home, others)
	a.others = append(a.others, b)
	mux := http.NewServeMux()
	mux.Handle("/", a.tunnel.Handler)
	mux.Handle(registryURL+name, b.resources())
	mux.Handle(registryURL+name+"/", b.resources())
	a.tunnel.Handler = mux
	return b
}

// Close stops it.
func (a *Azure) Close() {
	a.proxy.Close()
	a.tunnel.Close()
}

// front leads connections to hosts of the cloud to the listener, and gives out tokens of
// managed identities.
func (a *Azure) front(listener connections) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Method != http.MethodConnect:
			a.giveToken(w, r.URL.Query().Get("resource"))
			return
		case r.Host != a.cloud.arm+":443" && r.Host != a.cloud.login+":443":
			a.call("CONNECT " + r.Host)
			http.Error(w, "nothing is there", http.StatusBadGateway)
			return
		}
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		fmt.Fprint(conn, "HTTP/1.1 200 OK\r\n\r\n")
		select {
		case listener.conns <- conn:
		case <-listener.ended:
			conn.Close()
		}
	})
}

// giveToken gives out a token for ARM, and none for another audience.
func (a *Azure) giveToken(w http.ResponseWriter, audience string) {
	a.call("token " + audience)
	if audience != a.cloud.audience {
		writeJSON(w, http.StatusBadRequest, map[string]string{"error": "invalid_resource"})
		return
	}
	day := 24 * time.Hour
	writeJSON(w, http.StatusOK, map[string]any{"access_token": token, "token_type": "Bearer",
		"expires_in": int(day.Seconds()), "expires_on": strconv.FormatInt(time.Now().Add(day).Unix(), 10)})
}

// directory gives tokens to a tenant's applications.
func (a *Azure) directory() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{tenant}/v2.0/.well-known/openid-configuration", func(w http.ResponseWriter, r *http.Request) {
		tenant := "https://" + a.cloud.login + "/" + r.PathValue("tenant")
		writeJSON(w, http.StatusOK, map[string]string{"issuer": tenant + "/v2.0", "authorization_endpoint": tenant + "/oauth2/v2.0/authorize",
			"token_endpoint": tenant + "/oauth2/v2.0/token"})
	})
	mux.HandleFunc("POST /{tenant}/oauth2/v2.0/token", func(w http.ResponseWriter, r *http.Request) {
		scope, _, _ := strings.Cut(r.FormValue("scope"), " ")
		a.giveToken(w, strings.TrimSuffix(scope, "/.default"))
	})
	return mux
}

// connections is a listener for connections that somebody else has accepted.
type connections struct {
	conns chan net.Conn
	ended chan struct{}
}

func (c connections) Accept() (net.Conn, error) {
	select {
	case conn := <-c.conns:
		return conn, nil
	case <-c.ended:
		return nil, net.ErrClosed
	}
}

func (c connections) Close() error { close(c.ended); return nil }

func (c connections) Addr() net.Addr { return &net.TCPAddr{} }

// newCertificate makes a certificate for the cloud's hosts that is its own CA.
func (a *Azure) newCertificate() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{a.cloud.arm, a.cloud.login}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(30 * 24 * time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	a.CA = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}

// Settings are the environment of a service at its registries; caFile has CA. Beside
// REGISTRY_RESOURCE_ID they are variables that Go and Azure's SDK read: Go reads
// SSL_CERT_FILE on Linux, and not on macOS.
func (a *Azure) Settings(caFile string) map[string]string {
	ids := registryURL + a.name
	for _, other := range a.others {
		ids += ", " + registryURL + other.name
	}
	return map[string]string{
		"REGISTRY_RESOURCE_ID": ids,
		"HTTPS_PROXY":          "http://" + a.proxy.Addr,
		"NO_PROXY":             "127.0.0.1,localhost",
		"SSL_CERT_FILE":        caFile,
		"IDENTITY_ENDPOINT":    "http://" + a.proxy.Addr + "/msi/token",
		"IDENTITY_HEADER":      "x",
	}
}

// Client is a client whose calls to this Azure come here.
func (a *Azure) Client() *http.Client {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(a.CA)
	return &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots},
		Proxy: http.ProxyURL(&url.URL{Scheme: "http", Host: a.proxy.Addr})}}
}

// SetReplica changes a region's replica: its provisioning state, "" for none, and whether
// the list of replicas shows it.
func (a *Azure) SetReplica(region, state string, listed bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.replicas[region] = replica{state, listed}
}

// AddWebhook creates a region's webhook as a person would do it, without an owner.
func (a *Azure) AddWebhook(region string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	name := "manual" + region
	a.hooks[name] = &hook{Webhook: arm.Webhook{Name: &name, Location: &region, Properties: &arm.WebhookProperties{
		Status: to.Ptr(arm.WebhookStatusEnabled), ProvisioningState: to.Ptr(arm.ProvisioningStateSucceeded),
		Actions: []*arm.WebhookAction{to.Ptr(arm.WebhookActionPush)}}}}
}

// Answer has f asked before each call: a status that is not 0 is the answer. Nil ends it.
func (a *Azure) Answer(f func(call string) (status int, retryAfter time.Duration)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.answer = f
}

// Count is the number of calls so far that begin with prefix: "listEvents NAME", say, once
// for each page, "replica REGION", "replicas", "create NAME", "token AUDIENCE", or
// "CONNECT HOST:PORT" for a host that is none of this cloud's.
func (a *Azure) Count(prefix string) (n int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, call := range a.calls {
		if strings.HasPrefix(call, prefix) {
			n++
		}
	}
	return n
}

// call notes a call, and returns the answer that Answer has for it.
func (a *Azure) call(call string) (status int, retryAfter time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.calls = append(a.calls, call)
	if a.answer == nil {
		return 0, 0
	}
	return a.answer(call)
}

// handler serves the cloud's hosts.
func (a *Azure) handler() http.Handler {
	resources, directory := a.resources(), a.directory()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Host == a.cloud.login {
			directory.ServeHTTP(w, r)
			return
		}
		resources.ServeHTTP(w, r)
	})
}

// resources serves ARM's calls. Those about something that is not there get 404.
func (a *Azure) resources() http.Handler {
	mux := http.NewServeMux()
	base := registryURL + a.name
	on := func(pattern, call string, serve func(r *http.Request, name string) (int, any)) {
		method, path, _ := strings.Cut(pattern, " ")
		mux.HandleFunc(method+" "+base+path, func(w http.ResponseWriter, r *http.Request) {
			name := r.PathValue("name")
			switch status, retryAfter := a.call(strings.TrimSpace(call + " " + name)); {
			case r.Header.Get("Authorization") != "Bearer "+token:
				writeJSON(w, http.StatusUnauthorized, nil)
			case status != 0:
				if retryAfter > 0 {
					w.Header().Set("Retry-After", strconv.Itoa(int(retryAfter.Seconds())))
				}
				writeJSON(w, status, armError(http.StatusText(status)))
			default:
				status, body := serve(r, name)
				writeJSON(w, status, body)
			}
		})
	}
	on("GET ", "registry", func(*http.Request, string) (int, any) {
		return http.StatusOK, arm.Registry{Name: &a.name, Location: &a.home, Properties: &arm.RegistryProperties{LoginServer: to.Ptr(a.name + a.cloud.registries)}}
	})
	on("GET /replications", "replicas", a.listReplicas)
	on("GET /replications/{name}", "replica", a.getReplica)
	on("GET /webhooks", "webhooks", a.listWebhooks)
	on("PUT /webhooks/{name}", "create", a.putWebhook)
	on("PATCH /webhooks/{name}", "update", a.patchWebhook)
	on("DELETE /webhooks/{name}", "delete", func(_ *http.Request, name string) (int, any) {
		a.mu.Lock()
		defer a.mu.Unlock()
		delete(a.hooks, name)
		return http.StatusNoContent, nil
	})
	on("POST /webhooks/{name}/getCallbackConfig", "config", func(_ *http.Request, name string) (int, any) {
		return a.ofHook(name, func(h *hook) any { return h.config })
	})
	on("POST /webhooks/{name}/ping", "ping", a.ping)
	on("POST /webhooks/{name}/listEvents", "listEvents", a.listEvents)
	on("GET /webhooks/{name}/listEvents", "listEvents", a.listEvents) // a further page
	return mux
}

func (a *Azure) listReplicas(*http.Request, string) (int, any) {
	a.mu.Lock()
	defer a.mu.Unlock()
	var list arm.ReplicationListResult
	for _, region := range slices.Sorted(maps.Keys(a.replicas)) {
		if r := a.replicas[region]; r.listed && r.state != "" {
			list.Value = append(list.Value, r.arm(region))
		}
	}
	return http.StatusOK, list
}

func (a *Azure) getReplica(_ *http.Request, region string) (int, any) {
	a.mu.Lock()
	defer a.mu.Unlock()
	r := a.replicas[region]
	if r.state == "" {
		return http.StatusNotFound, armError("ResourceNotFound")
	}
	return http.StatusOK, r.arm(region)
}

func (r replica) arm(region string) *arm.Replication {
	return &arm.Replication{Name: &region, Location: &region, Properties: &arm.ReplicationProperties{ProvisioningState: to.Ptr(arm.ProvisioningState(r.state))}}
}

func (a *Azure) listWebhooks(*http.Request, string) (int, any) {
	a.mu.Lock()
	defer a.mu.Unlock()
	var list arm.WebhookListResult
	for _, name := range slices.Sorted(maps.Keys(a.hooks)) {
		list.Value = append(list.Value, &a.hooks[name].Webhook)
	}
	return http.StatusOK, list
}

// ofHook answers with what of returns about a webhook.
func (a *Azure) ofHook(name string, of func(*hook) any) (int, any) {
	a.mu.Lock()
	defer a.mu.Unlock()
	h := a.hooks[name]
	if h == nil {
		return http.StatusNotFound, armError("ResourceNotFound")
	}
	return http.StatusOK, of(h)
}

func (a *Azure) putWebhook(r *http.Request, name string) (int, any) {
	var p arm.WebhookCreateParameters
	if err := json.NewDecoder(r.Body).Decode(&p); err != nil || p.Properties == nil {
		return http.StatusBadRequest, armError("InvalidRequest")
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	h := &hook{Webhook: arm.Webhook{Name: &name, Location: p.Location, Tags: p.Tags, Properties: &arm.WebhookProperties{Actions: p.Properties.Actions,
		Scope: p.Properties.Scope, Status: p.Properties.Status, ProvisioningState: to.Ptr(arm.ProvisioningStateSucceeded)}},
		config: arm.CallbackConfig{ServiceURI: p.Properties.ServiceURI, CustomHeaders: p.Properties.CustomHeaders}}
	a.hooks[name] = h
	return http.StatusCreated, h.Webhook
}

func (a *Azure) patchWebhook(r *http.Request, name string) (int, any) {
	var p arm.WebhookUpdateParameters
	if err := json.NewDecoder(r.Body).Decode(&p); err != nil || p.Properties == nil {
		return http.StatusBadRequest, armError("InvalidRequest")
	}
	return a.ofHook(name, func(h *hook) any {
		h.Properties.Actions, h.Properties.Scope, h.Properties.Status = p.Properties.Actions, p.Properties.Scope, p.Properties.Status
		h.config = arm.CallbackConfig{ServiceURI: p.Properties.ServiceURI, CustomHeaders: p.Properties.CustomHeaders}
		return h.Webhook
	})
}

// ping posts a ping to the webhook's path at the service, and logs it.
func (a *Azure) ping(_ *http.Request, name string) (int, any) {
	var config arm.CallbackConfig
	if status, body := a.ofHook(name, func(h *hook) any { config = h.config; return nil }); status != http.StatusOK {
		return status, body
	}
	header := http.Header{}
	for key, value := range config.CustomHeaders {
		header.Set(key, *value)
	}
	id := rand.Text()
	body, _ := json.Marshal(map[string]any{"id": id, "timestamp": time.Now().UTC(), "action": "ping"})
	uri, err := url.Parse(*cmp.Or(config.ServiceURI, new("")))
	var got answer
	if err == nil {
		got, err = post(context.Background(), a.ServiceURL+uri.RequestURI(), header, body)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if h := a.hooks[name]; h != nil {
		h.fired(id, uri.String(), body, got, err)
	}
	return http.StatusOK, arm.EventInfo{ID: &id}
}

// fired logs what a region's webhooks have posted, and what became of it.
func (a *Azure) fired(region, uri string, body []byte, got answer, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, h := range a.hooks {
		if *h.Location == region {
			h.fired(rand.Text(), uri, body, got, err)
		}
	}
}

func (h *hook) fired(id, uri string, body []byte, got answer, err error) {
	e := &arm.Event{ID: &id, EventRequestMessage: &arm.EventRequestMessage{Content: &arm.EventContent{}, Method: to.Ptr("POST"), RequestURI: &uri, Version: to.Ptr("1.1")}}
	if json.Unmarshal(body, e.EventRequestMessage.Content) != nil {
		return // not an event of a registry's
	}
	if err == nil {
		e.EventResponseMessage = &arm.EventResponseMessage{StatusCode: to.Ptr(strconv.Itoa(got.status)), ReasonPhrase: to.Ptr(http.StatusText(got.status)),
			Content: to.Ptr(string(got.body)), Headers: map[string]*string{"Date": to.Ptr(got.header.Get("Date"))}, Version: to.Ptr("1.1")}
	}
	h.log = slices.Insert(h.log, 0, e)
}

// listEvents answers with a page of a webhook's log, newest first. What is fired between
// two pages shifts the second one.
func (a *Azure) listEvents(r *http.Request, name string) (int, any) {
	from, _ := strconv.Atoi(r.URL.Query().Get("$skipToken"))
	return a.ofHook(name, func(h *hook) any {
		list := arm.EventListResult{Value: h.log[min(from, len(h.log)):min(from+logPage, len(h.log))]}
		if next := from + logPage; next < len(h.log) {
			list.NextLink = new("https://" + a.cloud.arm + r.URL.Path + "?$skipToken=" + strconv.Itoa(next))
		}
		return list
	})
}

func armError(code string) any {
	return map[string]any{"error": map[string]string{"code": code, "message": "simulated"}}
}

func writeJSON(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	if status != http.StatusNoContent {
		json.NewEncoder(w).Encode(body)
	}
}
