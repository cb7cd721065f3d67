package stack

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
)

// Ports that nobody needs to know come from below the range from which the
// system takes the ports of outgoing connections: one of those could otherwise
// sit on a port between its choice and its use.
const firstPort, lastPort = 20000, 32000

var handedOut struct {
	sync.Mutex
	ports map[int]bool
}

// FreePorts fills in ports that are free on 127.0.0.1, and that this process
// has not handed out before.
func FreePorts(ports ...*int) error {
	handedOut.Lock()
	defer handedOut.Unlock()
	if handedOut.ports == nil {
		handedOut.ports = map[int]bool{}
	}
	for _, p := range ports {
		for try := 0; ; try++ {
			if try == 1000 {
				return errors.New("no free ports on 127.0.0.1")
			}
			n := firstPort + rand.IntN(lastPort-firstPort)
			if !handedOut.ports[n] && free("127.0.0.1", n) == nil {
				*p = n
				handedOut.ports[n] = true
				break
			}
		}
	}
	return nil
}

// free returns why a listener on the port would fail.
func free(host string, port int) error {
	l, err := net.Listen("tcp", net.JoinHostPort(host, strconv.Itoa(port)))
	if err != nil {
		return err
	}
	return l.Close()
}

// publicPort checks the port that people chose, or chooses one for 0.
func publicPort(port *int) error {
	if *port == 0 {
		return FreePorts(port)
	}
	if err := free("", *port); err != nil {
		return fmt.Errorf("port %d is taken; choose another one with -port, or -port 0 for any", *port)
	}
	return nil
}
