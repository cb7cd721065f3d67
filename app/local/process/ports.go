package process

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"
)

// Ports that nobody needs to know come from below the range from which the
// system takes the ports of outgoing connections: one of those could otherwise
// take a port between its choice and its use.
const firstPort, lastPort = 20000, 32000

var (
	portsMu sync.Mutex
	given   = map[int]bool{} // ports that FreePorts has returned
)

// FreePorts fills in ports that are free on 127.0.0.1, and that this process
// has not handed out before.
func FreePorts(ports ...*int) error {
	portsMu.Lock()
	defer portsMu.Unlock()
	for _, p := range ports {
		for try := 0; try == 0 || given[*p] || CheckPort("127.0.0.1", *p) != nil; try++ {
			if try == 1000 {
				return errors.New("no free ports on 127.0.0.1")
			}
			*p = firstPort + rand.IntN(lastPort-firstPort)
		}
		given[*p] = true
	}
	return nil
}

// CheckPort returns why a listener on the port would fail.
func CheckPort(host string, port int) error {
	l, err := net.Listen("tcp", net.JoinHostPort(host, strconv.Itoa(port)))
	if err != nil {
		return err
	}
	return l.Close()
}

// Serve serves h on a free port of 127.0.0.1, which the server's Addr says.
func Serve(h http.Handler) (*http.Server, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("serve: %w", err)
	}
	server := &http.Server{Handler: h, Addr: l.Addr().String(), ReadHeaderTimeout: 10 * time.Second}
	go server.Serve(l)
	return server, nil
}
