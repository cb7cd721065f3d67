package sidecar

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"testing"

	runtimev1 "github.com/dapr/dapr/pkg/proto/runtime/v1"
	dapr "github.com/dapr/go-sdk/client"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"allregions/app/actor"
)

// keeper is a sidecar with one state store, which compares etags as Dapr's components
// do.
type keeper struct {
	dapr.Client
	kind   string // of the component
	values map[string][]byte
	saves  int // that were done; the etag of the last one

	etags map[string]string

	repeat  bool  // whether the answer to the next write is lost on its way to Dapr, which repeats it
	readErr error // of every read
}

func newKeeper(kind string) (*keeper, *Records) {
	k := &keeper{kind: kind, values: map[string][]byte{}, etags: map[string]string{}}
	return k, (&Client{dapr: k}).Records("store", "Thing-")
}

func (k *keeper) GrpcClient() runtimev1.DaprClient { return metadataOf{kind: k.kind} }

// metadataOf is a sidecar that tells of one component.
type metadataOf struct {
	runtimev1.DaprClient
	kind string
}

func (m metadataOf) GetMetadata(context.Context, *runtimev1.GetMetadataRequest, ...grpc.CallOption) (*runtimev1.GetMetadataResponse, error) {
	return &runtimev1.GetMetadataResponse{RegisteredComponents: []*runtimev1.RegisteredComponents{{Name: "store", Type: m.kind}}}, nil
}

func (k *keeper) GetStateWithConsistency(_ context.Context, store, key string, _ map[string]string, c dapr.StateConsistency) (*dapr.StateItem, error) {
	if store != "store" || c != dapr.StateConsistencyUndefined {
		return nil, fmt.Errorf("read from %s with consistency %v", store, c)
	}
	if k.readErr != nil {
		return nil, k.readErr
	}
	return &dapr.StateItem{Key: key, Value: k.values[key], Etag: k.etags[key]}, nil
}

func (k *keeper) GetBulkState(ctx context.Context, store string, keys []string, _ map[string]string, _ int32) (items []*dapr.BulkStateItem, err error) {
	if slices.Sort(keys); len(slices.Compact(keys)) != len(keys) {
		return nil, errors.New("Dapr forgets the second of two")
	}
	for _, key := range keys {
		item, err := k.GetStateWithConsistency(ctx, store, key, nil, dapr.StateConsistencyUndefined)
		if err != nil {
			return nil, err
		}
		items = append(items, &dapr.BulkStateItem{Key: key, Value: item.Value, Etag: item.Etag})
	}
	return items, nil
}

func (k *keeper) SaveBulkState(_ context.Context, store string, items ...*dapr.SetStateItem) error {
	item := items[0]
	if store != "store" || len(items) != 1 || item.Options.Consistency != dapr.StateConsistencyUndefined || item.Metadata["contentType"] != "application/json" {
		return fmt.Errorf("write to %s: %+v", store, item)
	}
	err := k.save(item)
	if k.repeat && err == nil {
		k.repeat = false
		err = k.save(item)
	}
	return err
}

// save does what Dapr's components do for a first write: without an etag, it wins if
// there is nothing yet.
func (k *keeper) save(item *dapr.SetStateItem) error {
	want := ""
	if item.Etag != nil {
		want = item.Etag.Value
	}
	if item.Options.Concurrency != dapr.StateConcurrencyFirstWrite {
		return fmt.Errorf("write without comparison: %+v", item)
	}
	if want != k.etags[item.Key] {
		return status.Error(codes.Aborted, "possible etag mismatch")
	}
	k.put(item.Key, string(item.Value))
	return nil
}

// put stores a value, whoever it comes from.
func (k *keeper) put(key, value string) {
	k.saves++
	k.values[key], k.etags[key] = []byte(value), "e"+strconv.Itoa(k.saves)
}

// kinds are components whose calls go alone, and together.
var kinds = []string{"state.azure.cosmosdb", "state.sqlite"}

func load(t *testing.T, r *Records, key, want string) (version string) {
	t.Helper()
	got, version, err := r.Load(t.Context(), key)
	if err != nil || string(got) != want || (version == "") != (want == "") {
		t.Errorf("%s: loaded %q of version %q, %v; want %q", key, got, version, err, want)
	}
	return version
}

// A save replaces the version that it names, whatever was loaded since.
func TestASaveReplacesItsVersion(t *testing.T) {
	for _, kind := range kinds {
		t.Run(kind, func(t *testing.T) {
			k, r := newKeeper(kind)
			save := func(value, version string, want error) {
				t.Helper()
				saved := k.saves
				if err := r.Save(t.Context(), "a", []byte(value), version); !errors.Is(err, want) || (k.saves > saved) != (want == nil) {
					t.Errorf("save %s over version %q: %v, want %v; %d saves", value, version, err, want, k.saves-saved)
				}
			}
			none := load(t, r, "a", "")
			save(`{"n":1}`, none, nil)
			save(`{"n":2}`, none, actor.ErrConflict)
			one := load(t, r, "a", `{"n":1}`)
			save(`{"n":3}`, "another", actor.ErrConflict)
			save(`{"n":3}`, one, nil)
			three := load(t, r, "a", `{"n":3}`)
			save(`{"n":4}`, one, actor.ErrConflict)
			save(`{"n":4}`, none, actor.ErrConflict)
			load(t, r, "a", `{"n":3}`)
			save(`{"n":4}`, three, nil)
			load(t, r, "a", `{"n":4}`)

			// Somebody else's key is another record.
			other := (&Client{dapr: k}).Records("store", "Other-")
			load(t, other, "a", "")
			if err := other.Save(t.Context(), "a", []byte(`{}`), ""); err != nil {
				t.Error(err)
			}
			load(t, r, "a", `{"n":4}`)
			if len(k.values) != 2 || k.values["Thing-a"] == nil || k.values["Other-a"] == nil {
				t.Errorf("stored %q", k.values)
			}
		})
	}
}

// Dapr repeats a write whose answer was lost, and is then told that it was too late.
// The store may by then have the value with its keys in another order.
func TestARepeatedWriteIsNoConflict(t *testing.T) {
	const mine, reordered = `{"id":"n1","regions":[{"region":"a","via":"queue"},{"region":"b"}],"size":9007199254740993}`, `{"size":9007199254740992,"regions":[{"via":"queue","region":"a"},{"region":"b"}],"id":"n1"}`
	for _, kind := range kinds {
		for _, old := range []string{"", `{"id":"n0"}`} {
			k, r := newKeeper(kind)
			if old != "" {
				k.put("Thing-a", old)
			}
			before := load(t, r, "a", old)
			k.repeat = true
			if err := r.Save(t.Context(), "a", []byte(mine), before); err != nil || k.repeat {
				t.Errorf("%s, over %q: %v", kind, old, err)
			}
			load(t, r, "a", mine)

			// The next one builds on it.
			k.put("Thing-a", reordered)
			if err := r.Save(t.Context(), "a", []byte(mine), before); err != nil {
				t.Errorf("%s, over %q, in another order: %v", kind, old, err)
			}
			version := load(t, r, "a", reordered)
			if err := r.Save(t.Context(), "a", []byte(`{"id":"n2"}`), version); err != nil {
				t.Errorf("%s: %v", kind, err)
			}

			// What differs in anything at all is somebody else's.
			for _, others := range []string{`{"id":"n1","regions":[{"region":"b"},{"region":"a","via":"queue"}],"size":9007199254740993}`, `{"id":"n1"}`, `null`, `not JSON`} {
				k.put("Thing-a", others)
				if err := r.Save(t.Context(), "a", []byte(mine), before); !errors.Is(err, actor.ErrConflict) {
					t.Errorf("%s, over %s: %v", kind, others, err)
				}
				if string(k.values["Thing-a"]) != others {
					t.Errorf("%s: %s became %s", kind, others, k.values["Thing-a"])
				}
			}
		}
	}
}

// Only a comparison that was made is a conflict: after any other error nobody knows.
func TestErrorsThatAreNoConflict(t *testing.T) {
	away := status.Error(codes.Unavailable, "away")
	for _, kind := range kinds {
		k, r := newKeeper(kind)
		k.put("Thing-a", `{"n":1}`)
		k.readErr = away
		// It is refused, and what is there cannot be read.
		if err := r.Save(t.Context(), "a", []byte(`{"n":2}`), ""); !errors.Is(err, away) || errors.Is(err, actor.ErrConflict) {
			t.Errorf("%s: %v", kind, err)
		}
		if value, version, err := r.Load(t.Context(), "a"); !errors.Is(err, away) || value != nil || version != "" {
			t.Errorf("%s: loaded %q, %q, %v", kind, value, version, err)
		}
		broken := (&Client{dapr: failing{k, away}}).Records("store", "Thing-")
		if err := broken.Save(t.Context(), "a", []byte(`{"n":2}`), "e1"); !errors.Is(err, away) || errors.Is(err, actor.ErrConflict) {
			t.Errorf("%s: %v", kind, err)
		}
	}
}

// failing is a sidecar that writes nothing.
type failing struct {
	*keeper
	err error
}

func (f failing) SaveBulkState(context.Context, string, ...*dapr.SetStateItem) error { return f.err }

// JSON whose keys are in another order is the same.
func TestSameJSON(t *testing.T) {
	for _, tt := range []struct {
		a, b string
		want bool
	}{
		{`{"a":1,"b":[1,2]}`, ` {"b": [1, 2], "a": 1}`, true},
		{`{"a":1}`, `{"a":1,"b":null}`, false},
		{`{"a":[1,2]}`, `{"a":[2,1]}`, false},
		{`{"a":"1"}`, `{"a":1}`, false},
		{``, ``, false},
		{`{`, `{`, false},
	} {
		if got := sameJSON([]byte(tt.a), json.RawMessage(tt.b)); got != tt.want {
			t.Errorf("%s and %s: %v", tt.a, tt.b, got)
		}
	}
}
