package sidecar

import (
	"context"
	"encoding/json"
	"reflect"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"allregions/app/actor"
)

// Records returns the records in a state store component whose keys begin with
// prefix.
func (c *Client) Records(name, prefix string) *Records {
	s, _ := c.stores.LoadOrStore(name, newStore(c, name))
	return &Records{s.(*store), prefix}
}

// Records are the actor.Records in a state store component.
//
// They are not what Dapr calls actor state, which whoever writes last overwrites: a
// second turn, or a write whose caller has given up. Dapr's other state API compares
// versions.
type Records struct {
	store  *store
	prefix string
}

// The metadata of every write: without it, Cosmos DB gets the value as a string.
var jsonValue = map[string]string{"contentType": "application/json"}

// Load returns what was last saved under key, and its version.
func (r *Records) Load(ctx context.Context, key string) (value []byte, version string, err error) {
	return r.store.get(ctx, r.prefix+key)
}

// Save stores value, which must be JSON, in place of the record of that version.
func (r *Records) Save(ctx context.Context, key string, value []byte, version string) error {
	err := r.store.put(ctx, r.prefix+key, value, version)
	if status.Code(err) != codes.Aborted {
		return err
	}
	// Dapr repeats a write whose answer was lost, and is then told that somebody was
	// faster: itself.
	stored, _, err := r.Load(ctx, key)
	if err != nil {
		return err
	}
	if !sameJSON(stored, value) {
		return actor.ErrConflict
	}
	return nil
}

// sameJSON compares what a store may keep with its keys in another order.
func sameJSON(a, b []byte) bool {
	var x, y any
	return json.Unmarshal(a, &x) == nil && json.Unmarshal(b, &y) == nil && reflect.DeepEqual(x, y)
}
