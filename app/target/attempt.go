package target

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	defaultTimeout = 10 * time.Second // of an attempt
	maxTimeout     = 100 * time.Second
	maxRetryAfter  = 24 * time.Hour
	maxAnswer      = 1024     // bytes that are shown of a response's body, or of an error
	maxHeader      = 64 << 10 // bytes of a response
)

// Verdict is what follows from an attempt. Its values are those of the metric.
type Verdict string

// The verdicts.
const (
	Delivered Verdict = "delivered"
	Again     Verdict = "again" // a later attempt may succeed
	Never     Verdict = "never" // the same attempt will fail again
	Gone      Verdict = "gone"  // the target says that it wants nothing any more
)

// Result is how one attempt went.
type Result struct {
	Verdict    Verdict
	Status     int           // HTTP; 0 without a response
	Error      string        // one line without secrets, and of the URL the host at most; "" if delivered
	RetryAfter time.Duration // what the target asked for; at most 24 h
}

// Health is how a target does, as far as this replica has tried it. It has no secret,
// and no address: the path of one may be a secret.
type Health struct {
	Name     string     `json:"name"`
	Type     string     `json:"type"`
	Disabled bool       `json:"disabled"` // it answered 410; until a restart
	Failures int        `json:"failuresInARow"`
	Last     *time.Time `json:"lastAttempt,omitempty"`
	Error    string     `json:"lastError,omitempty"` // "" after a success
}

// Set is the targets that there are, and their health. It may be used from several
// goroutines.
type Set struct {
	All []*Target // not to be changed

	// Link, if set, is the URL at which people see a notification.
	Link func(id string) string

	// UserAgent is the header of that name, with the service's version. Not to be changed
	// after the first Send.
	UserAgent string

	// Attempted, if set, is called after each attempt. It must not block.
	Attempted func(target string, v Verdict)

	transport http.RoundTripper
	now       func() time.Time
	mu        sync.Mutex
	health    []Health // of the target with the same index
}

// NewSet makes a set. Without a transport it has one of its own, which verifies
// certificates and uses HTTPS_PROXY. The clock dates attempts and their signatures,
// and gives a date in Retry-After its meaning.
func NewSet(targets []*Target, transport http.RoundTripper, now func() time.Time) *Set {
	if transport == nil {
		own := http.DefaultTransport.(*http.Transport).Clone()
		own.MaxResponseHeaderBytes = maxHeader
		transport = own
	}
	s := &Set{All: targets, transport: transport, now: now, UserAgent: "allregions", health: make([]Health, len(targets))}
	for i, t := range targets {
		s.health[i] = Health{Name: t.Name, Type: t.Type}
	}
	return s
}

// Health returns the health of all targets, in the order of the settings.
func (s *Set) Health() []Health {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.health)
}

// Longest is how long an attempt may take, whatever its target.
func (s *Set) Longest() time.Duration {
	longest := defaultTimeout
	for _, t := range s.All {
		longest = max(longest, t.s().timeout)
	}
	return longest
}

// Send makes one attempt, of at most [Set.Longest], to deliver an event to a target.
// Original is the webhook that ACR sent, where the target wants it.
func (s *Set) Send(ctx context.Context, name string, event, original []byte) Result {
	i := slices.IndexFunc(s.All, func(t *Target) bool { return t.Name == name })
	if i < 0 {
		return Result{Verdict: Never, Error: "the target is not in NOTIFY_TARGETS any more"}
	}
	if s.Health()[i].Disabled {
		return Result{Verdict: Gone, Error: "the target has answered 410, and gets nothing until a restart"}
	}
	e, err := ParseEvent(event)
	if err != nil {
		return Result{Verdict: Never, Error: err.Error()}
	}
	e.Original = original
	if s.Link != nil {
		e.Link = s.Link(e.Status.ID)
	}
	result := s.attempt(ctx, s.All[i], e)
	now := s.now().UTC()
	s.mu.Lock()
	h := &s.health[i]
	h.Last, h.Error = &now, result.Error
	h.Failures++
	if result.Verdict == Delivered {
		h.Failures = 0
	}
	h.Disabled = h.Disabled || result.Verdict == Gone
	s.mu.Unlock()
	if s.Attempted != nil {
		s.Attempted(name, result.Verdict)
	}
	return result
}

// attempt asks the transport and not an http.Client. A client would follow redirects,
// and so send the event, and keys in headers, to a place that nobody has configured.
func (s *Set) attempt(ctx context.Context, t *Target, e Event) Result {
	ctx, cancel := context.WithTimeout(ctx, t.s().timeout)
	defer cancel()
	request, err := t.request(ctx, e, s.now())
	if err != nil {
		return Result{Verdict: Never, Error: err.Error()}
	}
	if request.Header.Get("User-Agent") == "" { // a kind may have its own
		request.Header.Set("User-Agent", s.UserAgent)
	}
	hidden := t.s().hidden
	response, err := s.transport.RoundTrip(request)
	if err != nil {
		text := err.Error()
		if errors.Is(err, context.DeadlineExceeded) {
			text = "no answer in time"
		}
		return Result{Verdict: Again, Error: "POST " + request.URL.Host + ": " + hidden.clean(text, maxAnswer)}
	}
	defer response.Body.Close()
	// The status decides, even if the body does not come whole. A hidden string that
	// begins before the cut must be read to its end.
	body, _ := io.ReadAll(io.LimitReader(response.Body, maxAnswer+maxHidden))
	answer := hidden.clean(string(body), maxAnswer)
	if to := redirect(request.URL, response); to != "" {
		answer = "no redirect is followed; the new address is " + hidden.clean(to, maxAnswer)
	}
	wait := waitOf(response, s.now())
	result := Result{Verdict: verdictOf(response.StatusCode, wait), Status: response.StatusCode}
	if result.Verdict != Delivered {
		result.RetryAfter, result.Error = wait, failure(response.StatusCode, wait, answer)
	}
	return result
}

// verdictOf is Again for a status that HTTP does not know.
func verdictOf(status int, wait time.Duration) Verdict {
	switch {
	case status/100 == 2:
		return Delivered
	case status == http.StatusGone:
		return Gone
	case status == http.StatusRequestTimeout, status == http.StatusTooEarly, status == http.StatusTooManyRequests,
		status == http.StatusForbidden && wait > 0, // GitHub's answer to too many requests
		status/100 != 4 && status/100 != 3:
		return Again
	}
	return Never
}

// redirect is the address to which a target redirects, without what may be a secret in
// it, or "".
func redirect(from *url.URL, response *http.Response) string {
	to, err := from.Parse(response.Header.Get("Location"))
	if err != nil || response.StatusCode/100 != 3 || response.Header.Get("Location") == "" {
		return ""
	}
	return to.Scheme + "://" + to.Host + to.EscapedPath()
}

// waitOf is how long the target asks for a pause. GitHub names the end of a limit by its
// own clock, and not always in Retry-After.
func waitOf(response *http.Response, now time.Time) time.Duration {
	wait := retryAfter(response.Header.Get("Retry-After"), now)
	limited := response.StatusCode == http.StatusForbidden || response.StatusCode == http.StatusTooManyRequests
	if wait > 0 || !limited || response.Header.Get("X-RateLimit-Remaining") != "0" {
		return wait
	}
	reset, _ := strconv.ParseInt(response.Header.Get("X-RateLimit-Reset"), 10, 64) // without it, 0 has passed
	seconds := max(reset, 0) - now.Unix()
	return time.Duration(min(max(seconds, 1), int64(maxRetryAfter/time.Second))) * time.Second
}

// failure says in one line what the target answered.
func failure(status int, wait time.Duration, answer string) string {
	text := strings.TrimSpace(strconv.Itoa(status) + " " + http.StatusText(status))
	if wait > 0 {
		text += fmt.Sprintf(", try again after %s", wait)
	}
	if answer != "" {
		text += ": " + answer
	}
	return text
}

// retryAfter reads seconds or a date. Anything else, and a date in the past, is 0.
func retryAfter(value string, now time.Time) time.Duration {
	value = strings.TrimSpace(value)
	var wait time.Duration
	if seconds, err := strconv.ParseUint(value, 10, 64); err == nil || errors.Is(err, strconv.ErrRange) {
		wait = time.Duration(min(seconds, uint64(maxRetryAfter/time.Second))) * time.Second
	} else if date, err := http.ParseTime(value); err == nil {
		wait = date.Sub(now)
	}
	return min(max(wait, 0), maxRetryAfter)
}
