package registry

import (
	"context"
	"errors"
	"net/http"
	"slices"
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
	id, err := ParseResourceID(resourceID)
	if err != nil || id.Name != "contoso" || id.ResourceGroupName != "images" || id.SubscriptionID != "00000000-0000-0000-0000-000000000001" {
		t.Errorf("%+v, %v", id, err)
	}
	for _, s := range []string{"", "contoso", "contoso.azurecr.io", "/subscriptions/x", strings.Replace(resourceID, "ContainerRegistry", "Storage", 1),
		resourceID + "/webhooks/w", "/subscriptions/1/providers/Microsoft.ContainerRegistry/registries/contoso"} {
		if id, err := ParseResourceID(s); err == nil {
			t.Errorf("%q: %+v", s, id)
		}
	}
}

type state = armcontainerregistry.ProvisioningState

func replica(location string, s state, endpoint bool) *armcontainerregistry.Replication {
	return &armcontainerregistry.Replication{Location: to.Ptr(location),
		Properties: &armcontainerregistry.ReplicationProperties{ProvisioningState: to.Ptr(s), RegionEndpointEnabled: to.Ptr(endpoint)}}
}

// azure is a subscription with one registry whose home is West Europe.
func azure(pages ...[]*armcontainerregistry.Replication) *fake.ServerFactory {
	return &fake.ServerFactory{
		RegistriesServer: fake.RegistriesServer{
			Get: func(_ context.Context, group, name string, _ *armcontainerregistry.RegistriesClientGetOptions) (resp azfake.Responder[armcontainerregistry.RegistriesClientGetResponse], errResp azfake.ErrorResponder) {
				if group != "images" || name != "contoso" {
					errResp.SetResponseError(http.StatusNotFound, "ResourceNotFound")
					return
				}
				resp.SetResponse(http.StatusOK, armcontainerregistry.RegistriesClientGetResponse{Registry: armcontainerregistry.Registry{Location: to.Ptr("West Europe")}}, nil)
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
		},
	}
}

func reader(t *testing.T, transport policy.Transporter, credential azcore.TokenCredential) *ARM {
	t.Helper()
	id, err := ParseResourceID(resourceID)
	if err != nil {
		t.Fatal(err)
	}
	if credential == nil {
		credential = &azfake.TokenCredential{}
	}
	a, err := NewARM(id, credential, &arm.ClientOptions{ClientOptions: policy.ClientOptions{Transport: transport,
		Retry: policy.RetryOptions{RetryDelay: time.Millisecond, MaxRetryDelay: 10 * time.Millisecond}}})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestRegionsFromARM(t *testing.T) {
	transport := fake.NewServerFactoryTransport(azure(
		[]*armcontainerregistry.Replication{
			replica("westeurope", armcontainerregistry.ProvisioningStateSucceeded, true), // home is listed, too
			replica("japaneast", armcontainerregistry.ProvisioningStateSucceeded, false), // its endpoint is off
			nil, {Location: to.Ptr("nowhere")},
		},
		[]*armcontainerregistry.Replication{
			replica("East US", armcontainerregistry.ProvisioningStateUpdating, true),
			replica("eastus", armcontainerregistry.ProvisioningStateSucceeded, true),
			replica("northeurope", armcontainerregistry.ProvisioningStateCreating, true),
			replica("southindia", armcontainerregistry.ProvisioningStateDeleting, true),
			replica("uksouth", armcontainerregistry.ProvisioningStateFailed, true),
			replica("ukwest", armcontainerregistry.ProvisioningStateCanceled, true),
		}))
	got, err := reader(t, transport, nil).Regions(t.Context())
	if want := []replication.Region{"westeurope", "eastus", "japaneast"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("%v, %v, want %v", got, err, want)
	}
	got, err = reader(t, fake.NewServerFactoryTransport(azure(nil)), nil).Regions(t.Context())
	if want := []replication.Region{"westeurope"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("not replicated: %v, %v, want %v", got, err, want)
	}
}

// transport answers the first requests itself.
type transport struct {
	answers  []int // status codes
	next     policy.Transporter
	asked    int
	requests []string
}

func (tr *transport) Do(r *http.Request) (*http.Response, error) {
	tr.asked++
	tr.requests = append(tr.requests, r.Method+" "+r.URL.String())
	if len(tr.answers) == 0 {
		return tr.next.Do(r)
	}
	status := tr.answers[0]
	tr.answers = tr.answers[1:]
	return &http.Response{StatusCode: status, Status: http.StatusText(status), Header: http.Header{"Retry-After-Ms": {"1"}}, Body: http.NoBody, Request: r}, nil
}

func TestARMThrottles(t *testing.T) {
	tr := &transport{answers: []int{429, 429, 503}, next: fake.NewServerFactoryTransport(azure([]*armcontainerregistry.Replication{
		replica("eastus", armcontainerregistry.ProvisioningStateSucceeded, true)}))}
	got, err := reader(t, tr, nil).Regions(t.Context())
	if want := []replication.Region{"westeurope", "eastus"}; err != nil || !slices.Equal(got, want) || tr.asked != 5 {
		t.Errorf("%v, %v after %d requests", got, err, tr.asked)
	}
}

// brokenCredential is an identity that gets no token.
type brokenCredential struct{}

func (brokenCredential) GetToken(context.Context, policy.TokenRequestOptions) (azcore.AccessToken, error) {
	return azcore.AccessToken{}, errors.New("no identity on this machine")
}

func TestARMRefuses(t *testing.T) {
	good := fake.NewServerFactoryTransport(azure(nil))
	if _, err := reader(t, good, brokenCredential{}).Regions(t.Context()); err == nil || !strings.Contains(err.Error(), "no identity on this machine") {
		t.Errorf("no token: %v", err)
	}
	if _, err := reader(t, &transport{answers: []int{403}, next: good}, nil).Regions(t.Context()); err == nil || !strings.Contains(err.Error(), "read registry contoso: ") {
		t.Errorf("may not read the registry: %v", err)
	}
	none := azure()
	none.ReplicationsServer.NewListPager = func(string, string, *armcontainerregistry.ReplicationsClientListOptions) (resp azfake.PagerResponder[armcontainerregistry.ReplicationsClientListResponse]) {
		resp.AddPage(http.StatusOK, armcontainerregistry.ReplicationsClientListResponse{ReplicationListResult: armcontainerregistry.ReplicationListResult{Value: []*armcontainerregistry.Replication{
			replica("eastus", armcontainerregistry.ProvisioningStateSucceeded, true)}}}, nil)
		resp.AddResponseError(http.StatusForbidden, "AuthorizationFailed")
		return
	}
	// Half a list is no list: it would make notifications complete too early.
	if got, err := reader(t, fake.NewServerFactoryTransport(none), nil).Regions(t.Context()); err == nil || got != nil {
		t.Errorf("half a list: %v, %v", got, err)
	}
}
