package target

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

const (
	timeout       = 10 * time.Second // of an attempt, answer included
	maxRetryAfter = 24 * time.Hour
	maxAnswer     = 1024     // bytes
	maxHeader     = 64 << 10 // bytes, of an answer
)

// Verdict is what follows from a Result.
type Verdict string

// The verdicts.
const (
	Delivered Verdict = "delivered"
	Again     Verdict = "again" // it may work later
	Never     Verdict = "never" // the same attempt will fail again
	Gone      Verdict = "gone"  // the target says that it wants nothing any more
)

func (v Verdict) String() string { return string(v) }

// Result is how one attempt went.
type Result struct {
	Status     int           // of HTTP; 0 if there was no answer
	Err        error         // why there was none
	RetryAfter time.Duration // what the target asked for; at most 24 h
	Answer     string        // the beginning of the answer's body, at most 1 KiB, printable, in one line
}

// permanent is an attempt that was not made, because it cannot succeed.
type permanent struct{ error }

// failure is an attempt without an answer. It keeps nothing of the error that
// it was made of but its cleaned text and, for errors.Is, whether the time was
// up or the caller had enough: who unwraps it finds no URL.
type failure struct {
	text  string
	cause error // context.DeadlineExceeded, context.Canceled or nil
}

func (f failure) Error() string { return f.text }
func (f failure) Unwrap() error { return f.cause }

// Verdict says what to do next. A status that HTTP does not know is worth
// another attempt.
func (r Result) Verdict() Verdict {
	if _, ok := errors.AsType[permanent](r.Err); ok {
		return Never
	}
	switch {
	case r.Err != nil:
		return Again
	case r.Status >= 200 && r.Status <= 299:
		return Delivered
	case r.Status == http.StatusGone:
		return Gone
	case r.Status == http.StatusRequestTimeout, r.Status == http.StatusTooEarly, r.Status == http.StatusTooManyRequests:
		return Again
	case r.Status == http.StatusForbidden && r.RetryAfter > 0:
		return Again // so GitHub says that it was too much at once
	case r.Status >= 400 && r.Status <= 499:
		return Never
	}
	return Again
}

// String is one line for logs and statuses. It has no secret, and of the URL
// the host at most.
func (r Result) String() string {
	if r.Err != nil {
		return r.Err.Error()
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%d", r.Status)
	if text := http.StatusText(r.Status); text != "" {
		b.WriteString(" " + text)
	}
	if r.RetryAfter > 0 {
		fmt.Fprintf(&b, ", try again after %s", r.RetryAfter)
	}
	if r.Answer != "" {
		b.WriteString(": " + r.Answer)
	}
	return b.String()
}

// Client makes attempts. It may be used from several goroutines.
type Client struct {
	transport http.RoundTripper
	now       func() time.Time
}

// NewClient makes a client. Without a transport it has one of its own, which
// verifies certificates and heeds HTTPS_PROXY. The clock dates signatures and
// tells how far away the date in a Retry-After is.
func NewClient(transport http.RoundTripper, now func() time.Time) *Client {
	if transport == nil {
		own := http.DefaultTransport.(*http.Transport).Clone()
		own.MaxResponseHeaderBytes = maxHeader
		transport = own
	}
	return &Client{transport, now}
}

// Send makes one attempt to tell t of e, of at most 10 s. It asks the transport
// and not an http.Client: that would follow redirects, and with them send the
// event, and keys in headers, to where nobody has configured it.
func (c *Client) Send(ctx context.Context, t *Target, e Event) Result {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	request, err := t.request(ctx, e, c.now())
	if err != nil {
		return Result{Err: permanent{err}}
	}
	hidden := t.s().hidden
	response, err := c.transport.RoundTrip(request)
	if err != nil {
		return Result{Err: t.failed(err)}
	}
	defer response.Body.Close()
	// The answer counts, not whether all of its body comes. What is hidden and
	// begins before the cut has to be read to its end.
	body, _ := io.ReadAll(io.LimitReader(response.Body, int64(maxAnswer+hidden.longest())))
	result := Result{Status: response.StatusCode, Answer: hidden.clean(string(body), maxAnswer)}
	if result.Verdict() != Delivered {
		result.RetryAfter = retryAfter(response.Header.Get("Retry-After"), c.now())
	}
	return result
}

// failed is err without what it must not say.
func (t *Target) failed(err error) error {
	f := failure{text: err.Error()}
	for _, cause := range []error{context.DeadlineExceeded, context.Canceled} {
		if errors.Is(err, cause) {
			f.cause = cause
		}
	}
	if errors.Is(err, context.DeadlineExceeded) {
		f.text = "no answer in time"
	}
	f.text = "POST " + t.s().url.Host + ": " + t.s().hidden.clean(f.text, maxAnswer)
	return f
}

// retryAfter reads seconds or a date. What is neither, or is over, is nothing.
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
