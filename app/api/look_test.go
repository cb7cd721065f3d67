package api

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"allregions/app/notification"
)

// However many ask, there is one reading under way and one to come; and each
// answer is younger than its question.
func TestLooksAreShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := looks{next: map[string]*reading{}}
		var begun atomic.Int64
		read := func(context.Context) (notification.Status, error) {
			begun.Add(1)
			st := notification.Status{StartedAt: time.Now()}
			time.Sleep(time.Second)
			return st, nil
		}
		for i := range 100 {
			go func() {
				asked := time.Now()
				st, err := l.look(t.Context(), "n1", read)
				if err != nil || st.StartedAt.Before(asked) {
					t.Errorf("%d: asked at %v, read at %v, %v", i, asked, st.StartedAt, err)
				}
			}()
			time.Sleep(time.Millisecond)
		}
		if _, err := l.look(t.Context(), "other", read); err != nil {
			t.Error(err)
		}
		time.Sleep(10 * time.Second)
		if n := begun.Load(); n != 3 {
			t.Errorf("read %d times", n)
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		if len(l.next) != 0 {
			t.Errorf("remembers %v", l.next)
		}
	})
}

// Who goes away takes nobody along, and who waits for a reading that hangs is
// answered in time.
func TestLooksEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := looks{next: map[string]*reading{}}
		hang := func(ctx context.Context) (notification.Status, error) {
			<-ctx.Done()
			return notification.Status{}, ctx.Err()
		}
		gone, leave := context.WithTimeout(t.Context(), time.Millisecond)
		defer leave()
		if _, err := l.look(gone, "n1", hang); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("gone: %v", err)
		}
		leave()
		nobody := func(context.Context) (notification.Status, error) { panic("nobody asks") }
		if _, err := l.look(gone, "n2", nobody); err == nil {
			t.Error("gone before: no error")
		}
		begin := time.Now()
		_, err := l.look(t.Context(), "n1", func(context.Context) (notification.Status, error) { return notification.Status{}, nil })
		if !errors.Is(err, context.DeadlineExceeded) && err != nil || time.Since(begin) > invokeTimeout {
			t.Errorf("behind it: %v after %v", err, time.Since(begin))
		}
		synctest.Wait()
		if _, err := l.look(t.Context(), "n1", func(context.Context) (notification.Status, error) { return notification.Status{}, nil }); err != nil {
			t.Errorf("afterwards: %v", err)
		}
		synctest.Wait()
	})
}
