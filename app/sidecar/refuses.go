package sidecar

import (
	"context"
	"errors"
	"net"
	"syscall"
	"time"

	"google.golang.org/grpc/connectivity"
)

// dialPatience is for a dial on this machine, which is accepted or refused at once.
const dialPatience = 100 * time.Millisecond

// Connected tells whether there is a connection to the sidecar, as far as that is
// known. It asks nobody.
func (c *Client) Connected() bool { return c.conn.GetState() == connectivity.Ready }

// Refuses asks whether the sidecar refuses connections: it has closed its port, as it
// does at once when it is told to stop, or has not opened it yet. Silence is no
// refusal. If it does not refuse, the client connects without its usual pause, in which
// calls fail as if the sidecar were still away.
func (c *Client) Refuses() bool {
	conn, err := net.DialTimeout("tcp", c.conn.Target(), dialPatience)
	if err != nil {
		return errors.Is(err, syscall.ECONNREFUSED)
	}
	conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), dialPatience)
	defer cancel()
	c.conn.Connect() // if it was idle
	c.conn.ResetConnectBackoff()
	for s := c.conn.GetState(); s != connectivity.Ready && c.conn.WaitForStateChange(ctx, s); {
		s = c.conn.GetState()
	}
	return false
}
