package catalog

import (
	"context"
	"errors"
)

// Catalog is all in which notifications are found.
type Catalog struct {
	Index *Index
	List  *List
}

// Send sends to both. The nil error of settled means what it means for each of them.
func (c Catalog) Send(index []Entry, listed Listed) (settled func(context.Context) error) {
	indexed, saved := c.Index.Send(index), c.List.Send(listed)
	return func(ctx context.Context) error {
		if err := indexed(ctx); err != nil {
			return err
		}
		return saved(ctx)
	}
}

// Flush writes what waits. Nothing may be sent any more.
func (c Catalog) Flush(ctx context.Context) error {
	return errors.Join(c.List.Flush(ctx), c.Index.Flush(ctx))
}
