package registry

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/arm"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/containerregistry/armcontainerregistry"

	"allregions/app/replication"
)

// ARM reads a registry's regions from Azure Resource Manager. It needs the
// rights Microsoft.ContainerRegistry/registries/read and
// .../registries/replications/read.
type ARM struct {
	registries   *armcontainerregistry.RegistriesClient
	replications *armcontainerregistry.ReplicationsClient
	webhooks     *armcontainerregistry.WebhooksClient
	group, name  string
}

// ParseResourceID checks the resource id of a container registry.
func ParseResourceID(s string) (*arm.ResourceID, error) {
	id, err := arm.ParseResourceID(s)
	if err != nil || !strings.EqualFold(id.ResourceType.String(), "Microsoft.ContainerRegistry/registries") ||
		id.SubscriptionID == "" || id.ResourceGroupName == "" || id.Name == "" {
		return nil, fmt.Errorf("%q is not the resource id of a container registry: /subscriptions/.../resourceGroups/.../providers/Microsoft.ContainerRegistry/registries/NAME", s)
	}
	return id, nil
}

// NewARM returns a reader of the registry with that id. It does not call Azure.
func NewARM(id *arm.ResourceID, credential azcore.TokenCredential, options *arm.ClientOptions) (*ARM, error) {
	factory, err := armcontainerregistry.NewClientFactory(id.SubscriptionID, credential, options)
	if err != nil {
		return nil, fmt.Errorf("registry %s: %w", id.Name, err)
	}
	return &ARM{registries: factory.NewRegistriesClient(), replications: factory.NewReplicationsClient(), webhooks: factory.NewWebhooksClient(),
		group: id.ResourceGroupName, name: id.Name}, nil
}

// Regions returns the regions in which the registry has a working replica: the
// home region first, then the others by name. A replica whose own endpoint is
// off still replicates, and still fires webhooks.
func (a *ARM) Regions(ctx context.Context) ([]replication.Region, error) {
	properties, err := a.registries.Get(ctx, a.group, a.name, nil)
	if err != nil {
		return nil, fmt.Errorf("read registry %s: %w", a.name, err)
	}
	home := replication.ParseRegion(value(properties.Location))
	if home == "" {
		return nil, fmt.Errorf("read registry %s: it has no location", a.name)
	}
	var others []replication.Region
	for pager := a.replications.NewListPager(a.group, a.name, nil); pager.More(); {
		page, err := pager.NextPage(ctx)
		if err != nil { // half a list would make notifications complete too early
			return nil, fmt.Errorf("read replications of %s: %w", a.name, err)
		}
		for _, r := range page.Value {
			// The list has the home region, too.
			if region := replication.ParseRegion(value(value(r).Location)); region != "" && region != home && usable(r.Properties) {
				others = append(others, region)
			}
		}
	}
	slices.Sort(others)
	return append([]replication.Region{home}, slices.Compact(others)...), nil
}

// usable tells whether a replica takes part in replication. One that is being created
// does not yet, and one that failed never will.
func usable(p *armcontainerregistry.ReplicationProperties) bool {
	if p == nil {
		return false
	}
	switch value(p.ProvisioningState) {
	case "", armcontainerregistry.ProvisioningStateSucceeded, armcontainerregistry.ProvisioningStateUpdating:
		return true
	}
	return false
}

// value is what p points to; of nil it is the zero value.
func value[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}
