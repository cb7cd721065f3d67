package sidecar

import (
	"errors"
	"net"
	"syscall"
	"time"

	"google.golang.org/grpc/connectivity"
)

// dialPatience is for a dial of this machine, which is accepted or refused at once.
const dialPatience = 100 * time.Millisecond

// Connected tells whether there is a connection to the sidecar, as far as that is
// known. It asks nobody.
func (c *Client) Connected() bool { return c.conn.GetState() == connectivity.Ready }

// Refuses asks whether the sidecar refuses connections: it has closed its port, as it
// does at once when it is told to stop, or has not opened it yet. Silence is no
// refusal.
func (c *Client) Refuses() bool {
	conn, err := net.DialTimeout("tcp", c.conn.Target(), dialPatience)
	if err == nil {
		conn.Close()
	}
	return errors.Is(err, syscall.ECONNREFUSED)
}
