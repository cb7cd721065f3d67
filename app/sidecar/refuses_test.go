package sidecar

import (
	"net"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
)

// A sidecar refuses connections when its port is closed, not when it is silent.
func TestRefuses(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	c, err := Dial(listener.Addr().(*net.TCPAddr).Port, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.conn.Connect()
	if c.Refuses() || c.Connected() {
		t.Errorf("it listens, and is silent: refuses %v, connected %v", c.Refuses(), c.Connected())
	}
	server := grpc.NewServer()
	go server.Serve(listener)
	until(t, "it is connected", c.Connected)
	if c.Refuses() {
		t.Error("it refuses while it serves")
	}
	for _, state := range []string{"idle", "in a pause"} {
		server.Stop()
		until(t, "it is not connected", func() bool { return !c.Connected() })
		if !c.Refuses() {
			t.Errorf("%s: it has stopped, and does not refuse", state)
		}
		if state == "in a pause" {
			c.conn.Connect()
			until(t, "the client pauses", func() bool { return c.conn.GetState() == connectivity.TransientFailure })
			begin := time.Now()
			until(t, "the pauses have grown to half a second", func() bool { return time.Since(begin) > time.Second })
		}
		if listener, err = net.Listen("tcp", listener.Addr().String()); err != nil {
			t.Fatal(err)
		}
		server = grpc.NewServer()
		go server.Serve(listener)
		if c.Refuses() || !c.Connected() {
			t.Errorf("%s: it is back; refuses %v, connected %v", state, c.Refuses(), c.Connected())
		}
	}
	server.Stop()
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 10 s: %s", what)
		}
	}
}
