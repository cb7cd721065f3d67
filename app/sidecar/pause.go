package sidecar

import (
	"context"
	"errors"
	"time"
)

const (
	// redeliveryPause is between a failed Take and the broker's next try, where neither
	// the broker makes one nor Take asks for one. Service Bus counts the tries.
	redeliveryPause = 5 * time.Second

	// deliveryLimit is the longest that a message is held, Take included. After 60 s the
	// component of Service Bus (handlerTimeoutInSec) takes the delivery for failed.
	deliveryLimit = 55 * time.Second
)

// redelivery is how long a message is held that Take has refused after some time.
//
// Service Bus brings up to 1,000 others meanwhile (maxActiveMessages), and the sidecar
// renews the locks of all. Elsewhere others may wait for the answer, in the same batch or
// behind it, and the pause is always the short one.
func redelivery(broker Broker, err error, took time.Duration) time.Duration {
	later, ok := errors.AsType[interface {
		error
		RetryAfter() time.Duration
	}](err)
	switch {
	case broker.Patient:
		return 0
	case ok && broker.Holds:
		return max(0, min(later.RetryAfter(), deliveryLimit-took))
	}
	return redeliveryPause
}

// pause returns after d, or when the sidecar has given up, or when Release is called.
func (h *Host) pause(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	case <-h.released.Done():
	}
}

// Release ends every pause, now and from now on: they must not hold up the end of the
// process. The messages come again, here or elsewhere.
func (h *Host) Release() { h.release() }
