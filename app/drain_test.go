package main

import (
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"allregions/app/sidecar"
)

// inAnHour is an error after which a message is to come again in an hour.
type inAnHour struct{}

func (inAnHour) Error() string             { return "not now" }
func (inAnHour) RetryAfter() time.Duration { return time.Hour }

// A message that is held does not hold up the end of the process: it is answered at
// once, and comes again.
func TestHeldMessagesEndWithTheServer(t *testing.T) {
	held := make(chan struct{})
	host := sidecar.NewHost(slog.New(slog.DiscardHandler), nil, nil, []sidecar.Subscription{{Topic: "t", Take: func(context.Context, []byte) error {
		close(held)
		return inAnHour{}
	}}}, func(context.Context, string) sidecar.Broker { return sidecar.Broker{Holds: true} })
	server := newPrivateServer(host, http.NotFoundHandler())
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go server.Serve(listener)
	answer := make(chan string, 1)
	go func() {
		body := fmt.Sprintf(`{"entries":[{"entryId":"1","event":%q}]}`, base64.StdEncoding.EncodeToString([]byte("{}")))
		resp, err := http.Post("http://"+listener.Addr().String()+"/topics/t", "application/json", strings.NewReader(body))
		if err != nil {
			answer <- err.Error()
			return
		}
		defer resp.Body.Close()
		data, _ := io.ReadAll(resp.Body)
		answer <- string(data)
	}()
	<-held
	ctx, cancel := context.WithTimeout(t.Context(), drainTimeout)
	defer cancel()
	if err := server.Shutdown(ctx); err != nil {
		t.Error(err)
	}
	if got := <-answer; !strings.Contains(got, `"RETRY"`) {
		t.Errorf("the message was answered %s", got)
	}
}
