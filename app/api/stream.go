package api

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"

	"allregions/app/actor"
	"allregions/app/catalog"
)

const (
	followInterval = time.Second // between two readings of the list for all streams
	sharePage      = time.Second // for how long streams with one query share its page
	heartbeat      = 15 * time.Second

	// A stream ends by itself, before Azure's ingress ends it at 240 s. Those that began
	// together do not end together.
	streamLife   = 200 * time.Second
	streamSpread = 25 * time.Second

	maxStreams  = 1000             // of a replica
	maxBacklog  = 32               // lines that a slow reader may be behind
	streamWrite = 10 * time.Second // for a line
)

var (
	errNoStreams = errors.New("too many streams on this replica; ask again")
	lineAlive    = []byte("{}\n")
	lineTrouble  = []byte(`{"error":"the list cannot be read now"}` + "\n")
)

// feed tells every stream of this replica what changes in the list. However many there
// are, it reads the list once a second, and not at all without any.
type feed struct {
	list     List
	log      *slog.Logger
	failures actor.Throttle

	mu        sync.Mutex
	following bool
	streams   map[chan []byte]struct{}
	open      []byte                // the line with all that is collecting; nil before it is known
	pages     map[string]sharedPage // by query
}

// sharedPage is one reading of a page.
type sharedPage struct {
	at   time.Time
	read func() (listPage, error)
}

func newFeed(list List, log *slog.Logger) *feed {
	return &feed{list: list, log: log, failures: actor.Throttle{Every: time.Minute},
		streams: map[chan []byte]struct{}{}, pages: map[string]sharedPage{}}
}

// line is one line of a stream.
func line(name string, value any) []byte {
	data, err := json.Marshal(map[string]any{name: value})
	if err != nil {
		panic(err) // JSON that was read, and strings
	}
	return append(data, '\n')
}

// subscribe returns the lines of a new stream; they are closed if the reader is too slow.
func (f *feed) subscribe() (chan []byte, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.streams) >= maxStreams {
		return nil, errNoStreams
	}
	lines := make(chan []byte, maxBacklog)
	f.streams[lines] = struct{}{}
	if f.open != nil {
		lines <- f.open
	}
	if !f.following {
		f.following = true
		go f.follow(f.list.Follow())
	}
	return lines, nil
}

func (f *feed) unsubscribe(lines chan []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.streams, lines)
}

// follow reads the list until there is no stream.
func (f *feed) follow(follower *catalog.Follower) {
	for failed := false; ; time.Sleep(followInterval) {
		ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
		changed, err := follower.Poll(ctx, time.Now())
		cancel()
		var news []byte
		switch {
		case err != nil:
			news = lineTrouble
			if _, ok := f.failures.Allow(time.Now()); ok {
				f.log.LogAttrs(ctx, slog.LevelWarn, "the streams cannot read the list", slog.Any("err", err))
			}
		case len(changed) > 0:
			news = line("changed", changed)
		case failed:
			news = lineAlive
		}
		failed = err != nil
		if !f.send(news, follower, failed) {
			return
		}
	}
}

// send sends news, if there is any, and what is open to those that have not had it. It
// is false if there is no stream: then nothing is known any more.
func (f *feed) send(news []byte, follower *catalog.Follower, failed bool) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.streams) == 0 {
		f.following, f.open = false, nil
		clear(f.pages)
		return false
	}
	if !failed && (f.open == nil || news != nil) {
		first := f.open == nil
		if f.open = line("open", follower.Open()); first {
			news = f.open
		}
	}
	for stream := range f.streams {
		if news == nil {
			break
		}
		select {
		case stream <- news:
		default: // it comes again, and misses nothing
			delete(f.streams, stream)
			close(stream)
		}
	}
	return true
}

// page returns the page of a query, which streams that ask for it within a second share.
func (f *feed) page(query string, q catalog.Query, now time.Time) (listPage, error) {
	f.mu.Lock()
	maps.DeleteFunc(f.pages, func(_ string, p sharedPage) bool { return now.Sub(p.at) >= sharePage })
	shared, ok := f.pages[query]
	if !ok {
		shared = sharedPage{now, sync.OnceValues(func() (listPage, error) {
			ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
			defer cancel()
			return pageOf(ctx, f.list, q, now)
		})}
		f.pages[query] = shared
	}
	f.mu.Unlock()
	return shared.read()
}

// stream answers the page of a query, and then what changes in the list, line by line.
func (h *Handler) stream(w http.ResponseWriter, r *http.Request) {
	if err := h.config.refusal(r); err != nil {
		h.fail(w, r, err)
		return
	}
	now := time.Now()
	values := r.URL.Query()
	values.Del("code")
	q, err := parseListQuery(values, now)
	if err != nil {
		h.fail(w, r, badRequest{err})
		return
	}
	lines, err := h.feed.subscribe() // before the page is read: it misses nothing
	if err != nil {
		h.fail(w, r, err)
		return
	}
	defer h.feed.unsubscribe(lines)
	first, err := h.feed.page(values.Encode(), q, now)
	if err != nil {
		h.fail(w, r, err)
		return
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	w.Header().Set("Cache-Control", "no-store")
	out := streamWriter{w, http.NewResponseController(w)}
	if !out.write(line("page", map[string]any{"now": time.Now().UTC(), "notifications": first.Notifications, "cursor": first.Cursor})) || r.Method == http.MethodHead {
		return
	}
	out.copy(r.Context(), h.polls.stopping, lines)
}

// streamWriter writes lines, each in a time of its own.
type streamWriter struct {
	w       http.ResponseWriter
	control *http.ResponseController
}

func (s streamWriter) write(line []byte) bool {
	s.control.SetWriteDeadline(time.Now().Add(streamWrite))
	_, err := s.w.Write(line)
	return err == nil && s.control.Flush() == nil
}

// copy writes lines until the stream's life is over, or one of the contexts.
func (s streamWriter) copy(ctx, stopping context.Context, lines <-chan []byte) {
	end := time.After(streamLife + rand.N(streamSpread))
	beat := time.NewTicker(heartbeat)
	defer beat.Stop()
	for {
		next := lineAlive
		select {
		case line, ok := <-lines:
			if !ok {
				return
			}
			next = line
		case <-beat.C:
		case <-end:
			return
		case <-ctx.Done():
			return
		case <-stopping.Done():
			return
		}
		if !s.write(next) {
			return
		}
	}
}
