package registry

import (
	"context"
	"errors"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/arm"
	azfake "github.com/Azure/azure-sdk-for-go/sdk/azcore/fake"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/containerregistry/armcontainerregistry"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/containerregistry/armcontainerregistry/fake"

	"allregions/app/replication"
)

const resourceID = "/subscriptions/00000000-0000-0000-0000-000000000001/resourceGroups/images/providers/Microsoft.ContainerRegistry/registries/contoso"

func TestParseResourceID(t *testing.T) {
	id, err := parseResourceID(resourceID)
	if err != nil || id.Name != "contoso" || id.ResourceGroupName != "images" || id.SubscriptionID != "00000000-0000-0000-0000-000000000001" {
		t.Errorf("%+v, %v", id, err)
	}
	for _, s := range []string{"", "contoso", "contoso.azurecr.io", "/subscriptions/x", strings.Replace(resourceID, "ContainerRegistry", "Storage", 1),
		resourceID + "/webhooks/w", "/subscriptions/1/providers/Microsoft.ContainerRegistry/registries/contoso"} {
		if id, err := parseResourceID(s); err == nil {
			t.Errorf("%q: %+v", s, id)
		}
	}
}

// inList is a replica as ARM lists it; its own word may be another one.
func inList(location string) *armcontainerregistry.Replication {
	return &armcontainerregistry.Replication{Name: to.Ptr(string(replication.ParseRegion(location))), Location: to.Ptr(location),
		Properties: &armcontainerregistry.ReplicationProperties{ProvisioningState: to.Ptr(armcontainerregistry.ProvisioningStateSucceeded)}}
}

// azure is a subscription with one registry whose home is West Europe. Own is what its
// replicas say when they are asked: a state, or the number of an HTTP status.
func azure(own map[string]any, pages ...[]*armcontainerregistry.Replication) *fake.ServerFactory {
	return &fake.ServerFactory{
		RegistriesServer: fake.RegistriesServer{
			Get: func(_ context.Context, group, name string, _ *armcontainerregistry.RegistriesClientGetOptions) (resp azfake.Responder[armcontainerregistry.RegistriesClientGetResponse], errResp azfake.ErrorResponder) {
				if group != "images" || name != "contoso" {
					errResp.SetResponseError(http.StatusNotFound, "ResourceNotFound")
					return
				}
				resp.SetResponse(http.StatusOK, armcontainerregistry.RegistriesClientGetResponse{Registry: armcontainerregistry.Registry{Location: to.Ptr("West Europe"),
					Properties: &armcontainerregistry.RegistryProperties{LoginServer: to.Ptr("Contoso.azurecr.io")}}}, nil)
				return
			},
		},
		ReplicationsServer: fake.ReplicationsServer{
			NewListPager: func(string, string, *armcontainerregistry.ReplicationsClientListOptions) (resp azfake.PagerResponder[armcontainerregistry.ReplicationsClientListResponse]) {
				for _, page := range pages {
					resp.AddPage(http.StatusOK, armcontainerregistry.ReplicationsClientListResponse{ReplicationListResult: armcontainerregistry.ReplicationListResult{Value: page}}, nil)
				}
				return
			},
			Get: func(_ context.Context, _, _, name string, _ *armcontainerregistry.ReplicationsClientGetOptions) (resp azfake.Responder[armcontainerregistry.ReplicationsClientGetResponse], errResp azfake.ErrorResponder) {
				switch say := own[name].(type) {
				case int:
					errResp.SetResponseError(say, "Because")
				case string:
					r := *inList(name)
					r.Properties.ProvisioningState = to.Ptr(armcontainerregistry.ProvisioningState(say))
					resp.SetResponse(http.StatusOK, armcontainerregistry.ReplicationsClientGetResponse{Replication: r}, nil)
				default:
					errResp.SetResponseError(http.StatusNotFound, "ResourceNotFound")
				}
				return
			},
		},
	}
}

func reader(t *testing.T, transport policy.Transporter, credential azcore.TokenCredential) *ARM {
	t.Helper()
	id, err := parseResourceID(resourceID)
	if err != nil {
		t.Fatal(err)
	}
	if credential == nil {
		credential = &azfake.TokenCredential{}
	}
	a, err := NewARM(id, credential, arm.ClientOptions{ClientOptions: policy.ClientOptions{Transport: transport,
		Retry: policy.RetryOptions{RetryDelay: time.Millisecond, MaxRetryDelay: 10 * time.Millisecond}}})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// Each replica is asked for itself: those on the list, those that are known, and no one
// twice. What does not answer is an error, and does not keep the others from being heard.
func TestObserve(t *testing.T) {
	server := azure(map[string]any{"westeurope": "Succeeded", "eastus": "Updating", "japaneast": "Creating", "uksouth": http.StatusForbidden, "known": "Succeeded"},
		[]*armcontainerregistry.Replication{inList("westeurope"), inList("East US"), nil, {Location: to.Ptr("nowhere")}},
		[]*armcontainerregistry.Replication{inList("japaneast"), inList("eastus"), inList("uksouth"), inList("ukwest")})
	got, err := reader(t, fake.NewServerFactoryTransport(server), nil).observe(t.Context(), []replica{{Region: "eastus", Name: "other"}, {Region: "brazilsouth", Name: "known"}})
	if err == nil || brief(err) != "read the replica in uksouth: 403 Because" {
		t.Errorf("%v", err)
	}
	want := observed{LoginServer: "contoso.azurecr.io", Home: "westeurope", Replicas: []word{
		{Name: "westeurope", Region: "westeurope", State: "Succeeded"}, {Name: "eastus", Region: "eastus", State: "Updating"},
		{Name: "japaneast", Region: "japaneast", State: "Creating"}, {Name: "uksouth", Region: "uksouth", Error: "read the replica in uksouth: 403 Because"},
		{Name: "ukwest", Region: "ukwest", State: "NotFound"}, {Name: "known", Region: "brazilsouth", State: "Succeeded"}}}
	if got == nil || !reflect.DeepEqual(*got, want) {
		t.Errorf("\n got %+v\nwant %+v", got, want)
	}

	got, err = reader(t, fake.NewServerFactoryTransport(azure(nil, nil)), nil).observe(t.Context(), nil)
	if want := (observed{LoginServer: "contoso.azurecr.io", Home: "westeurope", Replicas: []word{{Region: "westeurope", State: "Succeeded"}}}); err != nil || !reflect.DeepEqual(*got, want) {
		t.Errorf("not replicated: %+v, %v, want %+v", got, err, want)
	}
}

// transport answers the first requests itself.
type transport struct {
	answers    []int  // status codes
	retryAfter string // with each; "" for at once
	next       policy.Transporter
	asked      int
	requests   []string
}

func (tr *transport) Do(r *http.Request) (*http.Response, error) {
	tr.asked++
	tr.requests = append(tr.requests, r.Method+" "+r.URL.String())
	if len(tr.answers) == 0 {
		return tr.next.Do(r)
	}
	status := tr.answers[0]
	tr.answers = tr.answers[1:]
	header := http.Header{"Retry-After-Ms": {"1"}}
	if tr.retryAfter != "" {
		header = http.Header{"Retry-After": {tr.retryAfter}}
	}
	return &http.Response{StatusCode: status, Status: http.StatusText(status), Header: header, Body: http.NoBody, Request: r}, nil
}

// ARM is asked again after a while, but not while it wants to be left alone for long.
func TestARMThrottles(t *testing.T) {
	next := fake.NewServerFactoryTransport(azure(map[string]any{"eastus": "Succeeded"}, []*armcontainerregistry.Replication{inList("eastus")}))
	tr := &transport{answers: []int{429, 429, 503}, next: next}
	if got, err := reader(t, tr, nil).observe(t.Context(), nil); err != nil || len(got.Replicas) != 2 || tr.asked != 6 {
		t.Errorf("%v, %v after %d requests", got, err, tr.asked)
	}
	for header, want := range map[string]time.Duration{"600": 10 * time.Minute, "soon": 0, "": 0} {
		tr = &transport{answers: []int{429, 429, 429, 429}, retryAfter: header, next: next}
		if _, err := reader(t, tr, nil).observe(t.Context(), nil); err == nil || retryAfter(err) != want || want > 0 && tr.asked != 1 {
			t.Errorf("Retry-After %q: %v, %d requests, %v", header, retryAfter(err), tr.asked, err)
		}
	}
	if got := retryAfter(&azcore.ResponseError{RawResponse: &http.Response{Header: http.Header{"Retry-After": {time.Now().Add(time.Hour).UTC().Format(http.TimeFormat)}}}}); got < 59*time.Minute || got > time.Hour {
		t.Errorf("a date: %v", got)
	}
}

// brokenCredential is an identity that gets no token.
type brokenCredential struct{}

func (brokenCredential) GetToken(context.Context, policy.TokenRequestOptions) (azcore.AccessToken, error) {
	return azcore.AccessToken{}, errors.New("no identity on this machine")
}

func TestARMRefuses(t *testing.T) {
	half := azure(map[string]any{"eastus": "Succeeded"})
	half.ReplicationsServer.NewListPager = func(string, string, *armcontainerregistry.ReplicationsClientListOptions) (resp azfake.PagerResponder[armcontainerregistry.ReplicationsClientListResponse]) {
		resp.AddPage(http.StatusOK, armcontainerregistry.ReplicationsClientListResponse{ReplicationListResult: armcontainerregistry.ReplicationListResult{Value: []*armcontainerregistry.Replication{inList("eastus")}}}, nil)
		resp.AddResponseError(http.StatusForbidden, "AuthorizationFailed")
		return
	}
	good := fake.NewServerFactoryTransport(azure(nil, nil))
	for _, tt := range []struct {
		name, want string
		transport  policy.Transporter
		credential azcore.TokenCredential
	}{
		{"no token", "read registry contoso: no identity on this machine", good, brokenCredential{}},
		{"may not read the registry", "read registry contoso: 403", &transport{answers: []int{403}, next: good}, nil},
		{"half a list", "list the replicas of contoso: 403 AuthorizationFailed", fake.NewServerFactoryTransport(half), nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got, err := reader(t, tt.transport, tt.credential).observe(t.Context(), nil); err == nil || got != nil || brief(err) != tt.want {
				t.Errorf("%v, %v, want %s", got, err, tt.want)
			}
		})
	}
}
