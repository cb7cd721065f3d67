package registry

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/arm"
	"github.com/Azure/azure-sdk-for-go/sdk/resourcemanager/containerregistry/armcontainerregistry"

	"allregions/app/replication"
)

// ARM reaches a registry through Azure Resource Manager. To read the replicas it needs the
// rights Microsoft.ContainerRegistry/registries/read and
// .../registries/replications/read.
type ARM struct {
	registries   *armcontainerregistry.RegistriesClient
	replications *armcontainerregistry.ReplicationsClient
	webhooks     *armcontainerregistry.WebhooksClient
	group, name  string
}

// ParseResourceIDs checks the resource ids of container registries. The error names each
// that is wrong by its place.
func ParseResourceIDs(list []string) (ids []*arm.ResourceID, err error) {
	for i, s := range list {
		id, wrong := parseResourceID(strings.TrimSpace(s))
		if wrong == nil && slices.ContainsFunc(ids, func(other *arm.ResourceID) bool { return strings.EqualFold(other.Name, id.Name) }) {
			wrong = fmt.Errorf("there is another one with the name %s", id.Name)
		}
		if wrong == nil {
			ids = append(ids, id)
		} else if len(list) > 1 {
			wrong = fmt.Errorf("registry %d of %d: %w", i+1, len(list), wrong)
		}
		err = errors.Join(err, wrong)
	}
	return ids, err
}

func parseResourceID(s string) (*arm.ResourceID, error) {
	id, err := arm.ParseResourceID(s)
	if err != nil || !strings.EqualFold(id.ResourceType.String(), "Microsoft.ContainerRegistry/registries") ||
		id.SubscriptionID == "" || id.ResourceGroupName == "" || id.Name == "" {
		return nil, fmt.Errorf("%q is not the resource id of a container registry: /subscriptions/.../resourceGroups/.../providers/Microsoft.ContainerRegistry/registries/NAME", s)
	}
	return id, nil
}

// longestRetry is for how long a call waits by itself before it is tried again. If ARM
// wants to be left alone for longer, the call fails: see retryAfter.
const longestRetry = 5 * time.Second

// NewARM returns the registry with that id. It does not call Azure.
func NewARM(id *arm.ResourceID, credential azcore.TokenCredential, options arm.ClientOptions) (*ARM, error) {
	options.Retry.MaxRetryDelay = cmp.Or(options.Retry.MaxRetryDelay, longestRetry)
	factory, err := armcontainerregistry.NewClientFactory(id.SubscriptionID, credential, &options)
	if err != nil {
		return nil, fmt.Errorf("registry %s: %w", id.Name, err)
	}
	return &ARM{registries: factory.NewRegistriesClient(), replications: factory.NewReplicationsClient(), webhooks: factory.NewWebhooksClient(),
		group: id.ResourceGroupName, name: id.Name}, nil
}

// observe reads which replicas the registry has, and asks each for itself: those that are
// listed and those that are known, for the list and the replica's own word can disagree
// (Azure/ARO-HCP#2585). What is returned with an error has not heard from all of them.
func (a *ARM) observe(ctx context.Context, known []replica) (*observed, error) {
	properties, err := a.registries.Get(ctx, a.group, a.name, nil)
	if err != nil {
		return nil, fmt.Errorf("read registry %s: %w", a.name, err)
	}
	o := &observed{LoginServer: strings.ToLower(value(value(properties.Properties).LoginServer)), Home: replication.ParseRegion(value(properties.Location))}
	if o.Home == "" {
		return nil, fmt.Errorf("read registry %s: it has no location", a.name)
	}
	listed, err := a.listReplicas(ctx)
	if err != nil {
		return nil, err
	}
	for _, r := range known {
		listed = append(listed, word{Name: r.Name, Region: r.Region})
	}
	listed = append(listed, word{Region: o.Home, State: string(armcontainerregistry.ProvisioningStateSucceeded)}) // the one of a registry without replicas
	for _, w := range listed {
		if w.Region != "" && !slices.ContainsFunc(o.Replicas, func(have word) bool { return have.Region == w.Region }) {
			o.Replicas = append(o.Replicas, w)
		}
	}
	errs := make([]error, len(o.Replicas))
	var asking sync.WaitGroup
	for i := range o.Replicas {
		asking.Go(func() { errs[i] = a.ask(ctx, &o.Replicas[i]) })
	}
	asking.Wait()
	return o, errors.Join(errs...)
}

// listReplicas returns the names and regions of the replicas on ARM's list.
func (a *ARM) listReplicas(ctx context.Context) (listed []word, err error) {
	for pager := a.replications.NewListPager(a.group, a.name, nil); pager.More(); {
		page, err := pager.NextPage(ctx)
		if err != nil {
			return nil, fmt.Errorf("list the replicas of %s: %w", a.name, err)
		}
		for _, r := range page.Value {
			if r != nil && value(r.Name) != "" {
				listed = append(listed, word{Name: *r.Name, Region: replication.ParseRegion(value(r.Location))})
			}
		}
	}
	return listed, nil
}

// ask asks a replica for its state.
func (a *ARM) ask(ctx context.Context, w *word) error {
	if w.Name == "" {
		return nil
	}
	r, err := a.replications.Get(ctx, a.group, a.name, w.Name, nil)
	if e, ok := errors.AsType[*azcore.ResponseError](err); ok && e.StatusCode == 404 {
		w.State = notFound
		return nil
	}
	if err != nil {
		err = fmt.Errorf("read the replica in %s: %w", w.Region, err)
		w.Error = brief(err)
		return err
	}
	w.State = string(value(value(r.Properties).ProvisioningState))
	return nil
}

// brief is an error in one line. ARM's quote the request and the whole answer.
func brief(err error) string {
	text := err.Error()
	if e, ok := errors.AsType[*azcore.ResponseError](err); ok {
		before, _, _ := strings.Cut(text, e.Error())
		text = strings.TrimSpace(fmt.Sprintf("%s%d %s", before, e.StatusCode, e.ErrorCode))
	}
	text, _, _ = strings.Cut(text, "\n")
	return text[:min(len(text), maxError)]
}

// retryAfter is how long ARM wants to be left alone, if that is why err came; else 0.
func retryAfter(err error) time.Duration {
	e, ok := errors.AsType[*azcore.ResponseError](err)
	if !ok || e.RawResponse == nil {
		return 0
	}
	header := e.RawResponse.Header.Get("Retry-After")
	if seconds, err := strconv.Atoi(header); err == nil {
		return time.Duration(seconds) * time.Second
	}
	if at, err := time.Parse(time.RFC1123, header); err == nil {
		return max(0, time.Until(at))
	}
	return 0
}

// value is what p points to; of nil it is the zero value.
func value[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}
