package acr

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	azarm "github.com/Azure/azure-sdk-for-go/sdk/azcore/arm"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	arm "github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/containerregistry/armcontainerregistry"
)

// start starts an Azure and Azure's SDK for it.
func start(t *testing.T, home string, others ...string) (*Azure, *arm.ClientFactory) {
	t.Helper()
	a, err := NewAzure("contoso", home, others...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.Close)
	client := a.Client()
	t.Cleanup(client.CloseIdleConnections)
	factory, err := arm.NewClientFactory("00000000-0000-0000-0000-000000000001", identity{}, &azarm.ClientOptions{ClientOptions: policy.ClientOptions{
		Transport: client, Retry: policy.RetryOptions{MaxRetries: -1}}})
	if err != nil {
		t.Fatal(err)
	}
	return a, factory
}

type identity struct{}

func (identity) GetToken(context.Context, policy.TokenRequestOptions) (azcore.AccessToken, error) {
	return azcore.AccessToken{Token: token, ExpiresOn: time.Now().Add(time.Hour)}, nil
}

func status(err error) int {
	if e, ok := errors.AsType[*azcore.ResponseError](err); ok {
		return e.StatusCode
	}
	return 0
}

func TestReplicas(t *testing.T) {
	a, factory := start(t, "westeurope", "eastus", "japaneast")
	a.SetReplica("eastus", "Creating", false)
	a.SetReplica("japaneast", "", true)
	r, err := factory.NewRegistriesClient().Get(t.Context(), "images", "contoso", nil)
	if err != nil || *r.Location != "westeurope" || *r.Properties.LoginServer != "contoso.azurecr.io" {
		t.Fatalf("%+v, %v", r, err)
	}
	client := factory.NewReplicationsClient()
	list, err := client.NewListPager("images", "contoso", nil).NextPage(t.Context())
	if err != nil || len(list.Value) != 1 || *list.Value[0].Location != "westeurope" {
		t.Errorf("got %+v, %v, want westeurope", list.Value, err)
	}
	if got, err := client.Get(t.Context(), "images", "contoso", "eastus", nil); err != nil || *got.Properties.ProvisioningState != "Creating" {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := client.Get(t.Context(), "images", "contoso", "japaneast", nil); status(err) != http.StatusNotFound {
		t.Error(err)
	}
	a.Answer(func(call string) (int, time.Duration) { return http.StatusTooManyRequests, 7 * time.Second })
	_, err = client.Get(t.Context(), "images", "contoso", "eastus", nil)
	if e, ok := errors.AsType[*azcore.ResponseError](err); !ok || e.StatusCode != 429 || e.RawResponse.Header.Get("Retry-After") != "7" {
		t.Error(err)
	}
	if n := a.Count("replica eastus"); n != 2 {
		t.Errorf("%d calls, want 2", n)
	}
}

// The life of a webhook, with pings and pushes in its log.
func TestWebhooks(t *testing.T) {
	a, factory := start(t, "westeurope", "eastus")
	code := http.StatusAccepted
	var got []string
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got = append(got, r.URL.RequestURI()+" "+r.Header.Get("Authorization"))
		w.WriteHeader(code)
	}))
	defer service.Close()
	a.ServiceURL = service.URL
	client := factory.NewWebhooksClient()
	poller, err := client.BeginCreate(t.Context(), "images", "contoso", "w", arm.WebhookCreateParameters{Location: to.Ptr("eastus"), Tags: map[string]*string{"allregions": to.Ptr("prod")},
		Properties: &arm.WebhookPropertiesCreateParameters{ServiceURI: to.Ptr("https://example.com/webhooks/acr?region=eastus"),
			CustomHeaders: map[string]*string{"Authorization": to.Ptr("Bearer k")}, Status: to.Ptr(arm.WebhookStatusEnabled)}}, nil)
	if err == nil {
		_, err = poller.PollUntilDone(t.Context(), nil)
	}
	if err != nil {
		t.Fatal(err)
	}
	ping, err := client.Ping(t.Context(), "images", "contoso", "w", nil)
	if err != nil || len(got) != 1 || got[0] != "/webhooks/acr?region=eastus Bearer k" {
		t.Fatalf("%q, %v", got, err)
	}

	r := Registry{LoginServer: "contoso.azurecr.io", ServiceURL: service.URL, Key: "k", Azure: a}
	code = http.StatusServiceUnavailable
	pushes := make([]Push, logPage)
	for i := range pushes {
		pushes[i] = NewPush("shop/cart", "v1")
		if status, _, err := r.Fire(t.Context(), pushes[i], "eastus"); status != code || err != nil {
			t.Fatal(status, err)
		}
	}
	service.Close()
	lost := NewPush("shop/cart", "v2")
	if _, _, err := r.Fire(t.Context(), lost, "eastus"); err == nil {
		t.Error("nobody is there, and there is no error")
	}

	var events []*arm.Event
	pages := 0
	for pager := client.NewListEventsPager("images", "contoso", "w", nil); pager.More(); pages++ {
		page, err := pager.NextPage(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		events = append(events, page.Value...)
	}
	if pages != 2 || len(events) != logPage+2 || a.Count("listEvents w") != 2 {
		t.Fatalf("%d events on %d pages", len(events), pages)
	}
	content := func(e *arm.Event) *arm.EventContent { return e.EventRequestMessage.Content }
	if e := events[0]; *content(e).ID != lost.ID || e.EventResponseMessage != nil {
		t.Errorf("the newest: %+v", e)
	}
	if e := events[1]; *content(e).ID != pushes[logPage-1].ID || *content(e).Target.Digest != pushes[logPage-1].Digest || *content(e).Request.Host != r.LoginServer ||
		!content(e).Timestamp.Equal(pushes[logPage-1].At) || *e.EventResponseMessage.StatusCode != "503" || *e.EventResponseMessage.Headers["Date"] == "" {
		t.Errorf("one that was refused: %+v %+v", content(e), e.EventResponseMessage)
	}
	if e := events[logPage+1]; *content(e).ID != *ping.ID || *content(e).Action != "ping" || *e.EventResponseMessage.StatusCode != "202" {
		t.Errorf("the oldest: %+v", content(e))
	}

	update, err := client.BeginUpdate(t.Context(), "images", "contoso", "w", arm.WebhookUpdateParameters{Properties: &arm.WebhookPropertiesUpdateParameters{ServiceURI: to.Ptr("https://other.example.com")}}, nil)
	if err == nil {
		_, err = update.PollUntilDone(t.Context(), nil)
	}
	config, configErr := client.GetCallbackConfig(t.Context(), "images", "contoso", "w", nil)
	if errors.Join(err, configErr) != nil || *config.ServiceURI != "https://other.example.com" {
		t.Errorf("%+v, %v, %v", config, err, configErr)
	}
	a.AddWebhook("westeurope")
	list, err := client.NewListPager("images", "contoso", nil).NextPage(t.Context())
	if err != nil || len(list.Value) != 2 || *list.Value[1].Tags["allregions"] != "prod" || *list.Value[1].Location != "eastus" {
		t.Errorf("%+v, %v", list.Value, err)
	}
	remove, err := client.BeginDelete(t.Context(), "images", "contoso", "w", nil)
	if err == nil {
		_, err = remove.PollUntilDone(t.Context(), nil)
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.GetCallbackConfig(t.Context(), "images", "contoso", "w", nil); status(err) != http.StatusNotFound {
		t.Error(err)
	}
}
