package chaos

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	load "allregions/app/target"
)

func TestTarget(t *testing.T) {
	target, err := newTarget()
	if err != nil {
		t.Fatal(err)
	}
	defer target.server.Close()
	if list, err := load.Load(target.settings(), nil, nil); err != nil || len(list) != 1 {
		t.Errorf("the service reads %v, %v", list, err)
	}
	send := func(id, body string, within time.Duration) (int, error) {
		ctx, cancel := context.WithTimeout(t.Context(), within)
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+target.server.Addr+"/", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("webhook-id", id)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return 0, err
		}
		resp.Body.Close()
		return resp.StatusCode, nil
	}
	const short, long = 100 * time.Millisecond, 10 * time.Second
	if status, err := send("a", "1", long); status != http.StatusOK {
		t.Errorf("no trouble: %d, %v", status, err)
	}
	target.set(targetDead)
	if status, err := send("b", "1", long); err == nil {
		t.Errorf("dead: answers %d", status)
	}
	target.set(targetSlow)
	if status, err := send("c", "1", short); err == nil {
		t.Errorf("slow: answers %d at once", status)
	}
	target.set("")
	if status, err := send("a", "2", long); status != http.StatusOK {
		t.Errorf("back: %d, %v", status, err)
	}
	got := target.received()
	if len(got) != 1 || !slices.Equal(got["a"], []string{"1", "2"}) {
		t.Errorf("received %v", got)
	}
	if hits := target.counts(); hits[string(targetDead)] != 1 || hits[string(targetSlow)] != 1 {
		t.Errorf("hits %v", hits)
	}
}
