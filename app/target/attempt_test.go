package target

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"allregions/app/notification"
)

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// at is a target of type slack at that URL.
func at(t testing.TB, address string) *Target {
	t.Helper()
	return load(t, fmt.Sprintf("[{name: ops, type: slack, url: %q}]", address), nil)[0]
}

func serve(t testing.TB, handler http.HandlerFunc) *httptest.Server {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return server
}

// try makes one attempt.
func try(t testing.TB, transport http.RoundTripper, to *Target, e Event) Result {
	t.Helper()
	return NewSet(nil, transport, time.Now).attempt(t.Context(), to, e)
}

// Every target is told who sends, and of which version; ACR's receivers are told what
// they expect.
func TestUserAgent(t *testing.T) {
	targets := load(t, everyType, everyTypeEnv)
	got := map[string]string{}
	set := NewSet(targets, roundTrip(func(r *http.Request) (*http.Response, error) {
		got[r.URL.Host+r.URL.Path] = r.UserAgent()
		return nil, errors.New("no answer")
	}), time.Now)
	set.UserAgent = "allregions/v1.2.3"
	e := event(t, notification.TypeCompleted, nil)
	e.Original = original(t)
	for _, target := range targets {
		set.attempt(t.Context(), target, e)
		want := map[bool]string{true: "AzureContainerRegistry/1.0", false: "allregions/v1.2.3"}[target.Type == "acr"]
		if u := target.s().url; got[u.Host+u.Path] != want {
			t.Errorf("%s: User-Agent %q, want %q", target, got[u.Host+u.Path], want)
		}
	}
}

func TestVerdicts(t *testing.T) {
	for status, want := range map[int]Verdict{200: Delivered, 201: Delivered, 202: Delivered, 204: Delivered, 299: Delivered,
		300: Never, 301: Never, 302: Never, 304: Never, 307: Never, 308: Never,
		400: Never, 401: Never, 403: Never, 404: Never, 405: Never, 413: Never, 422: Never, 451: Never, 499: Never,
		408: Again, 410: Gone, 425: Again, 429: Again,
		500: Again, 501: Again, 502: Again, 503: Again, 504: Again, 599: Again, 600: Again, 999: Again, 101: Again, 0: Again} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			if got := verdictOf(status, 0); got != want {
				t.Errorf("got %s, want %s", got, want)
			}
		})
	}
	for status, want := range map[int]Verdict{403: Again, 404: Never, 410: Gone, 429: Again} {
		t.Run(fmt.Sprint(status, " with Retry-After"), func(t *testing.T) {
			if got := verdictOf(status, time.Minute); got != want {
				t.Errorf("got %s, want %s", got, want)
			}
		})
	}
	for _, err := range []error{io.ErrUnexpectedEOF, context.DeadlineExceeded, context.Canceled, errors.New("x"), fmt.Errorf("wrapped: %w", io.EOF)} {
		t.Run(err.Error(), func(t *testing.T) {
			fails := roundTrip(func(*http.Request) (*http.Response, error) { return nil, err })
			got := try(t, fails, at(t, "https://example.com/x"), event(t, notification.TypeCompleted, nil))
			if got.Verdict != Again || got.Status != 0 || !strings.HasPrefix(got.Error, "POST example.com: ") {
				t.Errorf("got %+v, want %s", got, Again)
			}
		})
	}
	if got := fmt.Sprint(string(Delivered), " ", Again, " ", Never, " ", Gone); got != "delivered again never gone" {
		t.Errorf("got %q: the metric has other names", got)
	}
}

func TestAttempt(t *testing.T) {
	var got *http.Request
	var body []byte
	server := serve(t, func(w http.ResponseWriter, r *http.Request) {
		got = r
		body, _ = io.ReadAll(r.Body)
		io.WriteString(w, "ok\n")
	})
	e := event(t, notification.TypeCompleted, nil)
	result := try(t, nil, at(t, server.URL+"/services/T0?x=y"), e)
	if result != (Result{Verdict: Delivered, Status: 200}) {
		t.Errorf("got %+v, want delivered", result)
	}
	if got == nil || got.Method != http.MethodPost || got.RequestURI != "/services/T0?x=y" || got.ContentLength != int64(len(body)) || !bytes.Contains(body, []byte("shop/cart")) {
		t.Errorf("%+v, %s", got, body)
	}
}

// A set sends by name, and knows how its targets do.
func TestSend(t *testing.T) {
	var bodies []string
	status := 503
	side := roundTrip(func(r *http.Request) (*http.Response, error) {
		body, err := io.ReadAll(r.Body)
		bodies = append(bodies, r.URL.Path+" "+string(body))
		return &http.Response{StatusCode: status, Header: http.Header{"Retry-After": {"60"}}, Body: http.NoBody}, err
	})
	set := NewSet(load(t, `
- {name: cloud, type: webhook, url: "https://example.com/cloud", secret: `+signingOne+`}
- {name: as-acr, type: acr, url: "https://example.com/as-acr"}
`, nil), side, time.Now)
	var attempted []string
	set.Attempted = func(name string, v Verdict) { attempted = append(attempted, name+" "+string(v)) }
	body := event(t, notification.TypeCompleted, nil).Body
	send := func(name string, event []byte, want Result) {
		t.Helper()
		if got := set.Send(t.Context(), name, event, []byte("the original")); got != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
	}
	health := func(i int, want Health) {
		t.Helper()
		got := set.Health()[i]
		if tried := got.Last != nil; tried != (len(attempted) > 0) {
			t.Errorf("last attempt: got %v after %q", got.Last, attempted)
		}
		if got.Last = nil; got != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
	}

	health(0, Health{Name: "cloud", Type: "webhook"})
	const away = "503 Service Unavailable, try again after 1m0s"
	for range 2 {
		send("cloud", body, Result{Verdict: Again, Status: 503, Error: away, RetryAfter: time.Minute})
	}
	health(0, Health{Name: "cloud", Type: "webhook", Failures: 2, Error: away})
	status = 204
	send("cloud", body, Result{Verdict: Delivered, Status: 204})
	health(0, Health{Name: "cloud", Type: "webhook"})

	// After a 410 there is no further attempt.
	status = 410
	const gone = "410 Gone, try again after 1m0s"
	send("as-acr", body, Result{Verdict: Gone, Status: 410, Error: gone, RetryAfter: time.Minute})
	send("as-acr", body, Result{Verdict: Gone, Error: "the target has answered 410, and gets nothing until a restart"})
	health(1, Health{Name: "as-acr", Type: "acr", Disabled: true, Failures: 1, Error: gone})
	health(0, Health{Name: "cloud", Type: "webhook"})

	// What cannot be sent is no attempt.
	send("nobody", body, Result{Verdict: Never, Error: "the target is not in NOTIFY_TARGETS any more"})
	send("cloud", []byte("{"), Result{Verdict: Never, Error: "parse cloud event: unexpected end of JSON input"})
	cloud := "/cloud " + string(body)
	if want := []string{cloud, cloud, cloud, "/as-acr the original"}; !slices.Equal(bodies, want) {
		t.Errorf("got %q, want %q", bodies, want)
	}
	if want := []string{"cloud again", "cloud again", "cloud delivered", "as-acr gone"}; !slices.Equal(attempted, want) {
		t.Errorf("got %q, want %q", attempted, want)
	}
}

func TestFailure(t *testing.T) {
	for _, tt := range []struct {
		status int
		wait   time.Duration
		answer string
		want   string
	}{
		{304, 0, "", "304 Not Modified"},
		{599, 0, "", "599"},
		{599, 0, "away", "599: away"},
		{503, time.Second, "", "503 Service Unavailable, try again after 1s"},
		{429, 2 * time.Minute, "slower", "429 Too Many Requests, try again after 2m0s: slower"},
	} {
		t.Run(tt.want, func(t *testing.T) {
			if got := failure(tt.status, tt.wait, tt.answer); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestWithoutAnOriginal(t *testing.T) {
	target := load(t, "[{name: flux, type: acr, url: 'https://example.com/x'}]", nil)[0]
	unused := roundTrip(func(*http.Request) (*http.Response, error) { panic("sent") })
	want := Result{Verdict: Never, Error: "the webhook that ACR sent is not there to be sent on"}
	if got := try(t, unused, target, event(t, notification.TypeCompleted, nil)); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC)
	for value, want := range map[string]time.Duration{
		"": 0, "0": 0, "120": 2 * time.Minute, " 7 ": 7 * time.Second, "-1": 0, "1.5": 0, "soon": 0,
		"86401": 24 * time.Hour, "99999999999999999999999999": 24 * time.Hour, "9223372036854775807": 24 * time.Hour,
		"Sun, 22 Nov 2026 00:01:30 GMT":  90 * time.Second,
		"Sat, 21 Nov 2026 23:59:00 GMT":  0,
		"Tue, 24 Nov 2026 00:00:00 GMT":  24 * time.Hour,
		"Sunday, 22-Nov-26 00:00:05 GMT": 5 * time.Second,
	} {
		for _, status := range []int{429, 503, 404, 200} {
			t.Run(fmt.Sprintf("%d with %q", status, value), func(t *testing.T) {
				server := roundTrip(func(r *http.Request) (*http.Response, error) {
					return &http.Response{StatusCode: status, Header: http.Header{"Retry-After": {value}}, Body: http.NoBody}, nil
				})
				set := NewSet(nil, server, func() time.Time { return now })
				result := set.attempt(t.Context(), at(t, "https://example.com/x"), event(t, notification.TypeCompleted, nil))
				if status == 200 && result.RetryAfter != 0 || status != 200 && result.RetryAfter != want {
					t.Errorf("got %s, want %s", result.RetryAfter, want)
				}
			})
		}
	}
}

// A redirect is final, and says where the target is now, without what may be a secret.
func TestRedirectIsNotFollowed(t *testing.T) {
	var followed atomic.Int32
	elsewhere := serve(t, func(http.ResponseWriter, *http.Request) { followed.Add(1) })
	for _, status := range []int{301, 302, 303, 307, 308} {
		for location, want := range map[string]string{
			elsewhere.URL + "/new/":             "the new address is " + elsewhere.URL + "/new/",
			"/webhook/":                         "the new address is HERE/webhook/",
			"/hook/5f8e0cSecret/":               "the new address is HERE[hidden]/",
			"https://u:p@a.example/login?key=s": "the new address is https://a.example/login",
			"https://[broken":                   "the answer",
			"":                                  "the answer",
		} {
			server := serve(t, func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Location", location)
				w.WriteHeader(status)
				io.WriteString(w, "the answer")
			})
			result := try(t, nil, at(t, server.URL+"/hook/5f8e0cSecret"), event(t, notification.TypeCompleted, nil))
			if result.Status != status || result.Verdict != Never || !strings.HasSuffix(result.Error, strings.Replace(want, "HERE", server.URL, 1)) {
				t.Errorf("%d to %s: got %+v, want %s and …%s", status, location, result, Never, want)
			}
		}
	}
	if n := followed.Load(); n != 0 {
		t.Errorf("followed %d times", n)
	}
}

// What GitHub answers when a limit of requests is reached: the wait ends with the limit.
func TestRateLimit(t *testing.T) {
	now := time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC)
	reset := func(d time.Duration) string { return fmt.Sprint(now.Add(d).Unix()) }
	for _, tt := range []struct {
		name      string
		status    int
		remaining string
		reset     string
		after     string // Retry-After
		verdict   Verdict
		wait      time.Duration
	}{
		{"until the reset", 403, "0", reset(17 * time.Minute), "", Again, 17 * time.Minute},
		{"429, too", 429, "0", reset(17 * time.Minute), "", Again, 17 * time.Minute},
		{"Retry-After counts", 403, "0", reset(17 * time.Minute), "60", Again, time.Minute},
		{"the reset has just been", 403, "0", reset(-time.Second), "", Again, time.Second},
		{"no reset", 403, "0", "", "", Again, time.Second},
		{"a reset that is none", 403, "0", "soon", "", Again, time.Second},
		{"a reset far away", 403, "0", reset(48 * time.Hour), "", Again, 24 * time.Hour},
		{"a reset too far for a number", 403, "0", "99999999999999999999", "", Again, 24 * time.Hour},
		{"requests remain", 403, "12", reset(17 * time.Minute), "", Never, 0},
		{"no limit", 403, "", "", "", Never, 0},
		{"a server that fails meanwhile", 503, "0", reset(17 * time.Minute), "", Again, 0},
		{"another refusal", 404, "0", reset(17 * time.Minute), "", Never, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			side := roundTrip(func(*http.Request) (*http.Response, error) {
				header := http.Header{}
				for name, value := range map[string]string{"X-RateLimit-Remaining": tt.remaining, "X-RateLimit-Reset": tt.reset, "Retry-After": tt.after} {
					header.Set(name, value)
				}
				return &http.Response{StatusCode: tt.status, Header: header, Body: http.NoBody}, nil
			})
			target := load(t, "[{name: a, type: github, secret: x, url: 'https://api.github.com/repos/a/b/dispatches'}]", nil)[0]
			got := NewSet(nil, side, func() time.Time { return now }).attempt(t.Context(), target, event(t, notification.TypeCompleted, nil))
			if got.Verdict != tt.verdict || got.RetryAfter != tt.wait {
				t.Errorf("got %s after %s, want %s after %s", got.Verdict, got.RetryAfter, tt.verdict, tt.wait)
			}
		})
	}
}

// The user and password of a URL are sent as Basic, and the URL without them.
func TestUserInTheURL(t *testing.T) {
	for url, want := range map[string][2]string{
		"https://$app:pw@host.example/docker/hook?x=y": {"$app", "pw"},
		"https://me:p%2Fw%23%3A@host.example":          {"me", "p/w#:"},
		"https://${USER}:${PASSWORD}@host.example/x":   {"$slot__staging", "a%41"},
		"${URL}": {"$app", "whole"},
	} {
		t.Run(url, func(t *testing.T) {
			env := map[string]string{"USER": "$slot__staging", "PASSWORD": "a%2541", "URL": "https://$app:whole@host.example/api/registry/webhook"}
			target := load(t, fmt.Sprintf("[{name: a, type: acr, url: %q}]", url), env)[0]
			e := event(t, notification.TypeCompleted, nil)
			e.Original = original(t)
			r, err := target.request(t.Context(), e, time.Now())
			if err != nil {
				t.Fatal(err)
			}
			user, password, ok := r.BasicAuth()
			if got := [2]string{user, password}; !ok || got != want {
				t.Errorf("got %q, %t, want %q", got, ok, want)
			}
			if r.URL.User != nil || r.URL.Host != "host.example" || strings.Contains(r.URL.String(), "@") {
				t.Errorf("sent to %s", r.URL)
			}
		})
	}
}

func TestCertificateIsVerified(t *testing.T) {
	var asked atomic.Int32
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1) }))
	server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)
	server.StartTLS()
	defer server.Close()
	target, e := at(t, server.URL+"/x"), event(t, notification.TypeCompleted, nil)
	result := try(t, nil, target, e)
	if result.Status != 0 || !strings.Contains(result.Error, "certificate") || result.Verdict != Again || asked.Load() != 0 {
		t.Errorf("got %+v, asked %d times", result, asked.Load())
	}
	if result := try(t, server.Client().Transport, target, e); result.Verdict != Delivered {
		t.Errorf("with the certificate: got %+v, want %s", result, Delivered)
	}
}

func TestAnswerIsCut(t *testing.T) {
	server := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(500)
		for range 1000 {
			if _, err := io.WriteString(w, strings.Repeat("é", 1<<10)); err != nil {
				return
			}
		}
	})
	result := try(t, nil, at(t, server.URL+"/x"), event(t, notification.TypeCompleted, nil))
	if want := "500 Internal Server Error: " + strings.Repeat("é", 512); result.Error != want {
		t.Errorf("got %d bytes, want %d: %q", len(result.Error), len(want), result.Error)
	}
}

// An attempt ends after 10 s, or after the target's own timeout, whether the other side
// never answers or never ends its answer, and when the caller has enough.
func TestTimeLimit(t *testing.T) {
	silent := roundTrip(func(r *http.Request) (*http.Response, error) {
		<-r.Context().Done()
		return nil, &url.Error{Op: "Post", URL: r.URL.String(), Err: r.Context().Err()}
	})
	endless := roundTrip(func(r *http.Request) (*http.Response, error) {
		body := readFunc(func([]byte) (int, error) { <-r.Context().Done(); return 0, r.Context().Err() })
		return &http.Response{StatusCode: 200, Body: io.NopCloser(io.MultiReader(strings.NewReader("o"), body))}, nil
	})
	e := event(t, notification.TypeCompleted, nil)
	target := at(t, "https://example.com/secretPath")
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		late := Result{Verdict: Again, Error: "POST example.com: no answer in time"}
		if got := try(t, silent, target, e); got != late {
			t.Errorf("got %+v, want %+v", got, late)
		}
		if d := time.Since(start); d != 10*time.Second {
			t.Errorf("gave up after %s", d)
		}

		patient := load(t, "[{name: a, type: slack, url: 'https://example.com/x', timeout: 1m40s}]", nil)[0]
		start = time.Now()
		if got := try(t, silent, patient, e); got != late || time.Since(start) != 100*time.Second {
			t.Errorf("got %+v after %s, want %+v after 100 s", got, time.Since(start), late)
		}
		if got := NewSet([]*Target{target, patient}, silent, time.Now).Longest(); got != 100*time.Second {
			t.Errorf("the longest attempt: got %s, want 100 s", got)
		}

		start = time.Now()
		if got, want := try(t, endless, target, e), (Result{Verdict: Delivered, Status: 200}); got != want {
			t.Errorf("an answer without end: got %+v, want %+v", got, want)
		}
		if d := time.Since(start); d != 10*time.Second {
			t.Errorf("gave up after %s", d)
		}

		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		start = time.Now()
		result := NewSet(nil, silent, time.Now).attempt(ctx, target, e)
		if !strings.Contains(result.Error, "context canceled") || result.Verdict != Again || time.Since(start) != time.Second {
			t.Errorf("got %+v after %s", result, time.Since(start))
		}
	})
}

type readFunc func([]byte) (int, error)

func (f readFunc) Read(p []byte) (int, error) { return f(p) }

// printed is a target in every way in which somebody may print it.
func printed(target *Target) string {
	var b bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%d", "%x", "%T"} {
		fmt.Fprintf(&b, verb+"\n", target)
		fmt.Fprintf(&b, verb+"\n", *target)
		fmt.Fprintf(&b, verb+"\n", []*Target{target})
		fmt.Fprintf(&b, verb+"\n", struct{ t Target }{*target})
		fmt.Fprintf(&b, verb+"\n", struct{ t *Target }{target})
	}
	inJSON, err := json.Marshal([]any{target, *target})
	fmt.Fprintf(&b, "%s %v\n", inJSON, err)
	for _, handler := range []slog.Handler{slog.NewTextHandler(&b, nil), slog.NewJSONHandler(&b, nil)} {
		slog.New(handler).Info("x", "pointer", target, "value", *target, "list", []*Target{target})
	}
	return b.String()
}

// Nothing that can be printed has a secret, a header's value or more of a URL
// than its host: not for any type, nor in any way to fail, nor where the other
// side sends back what it got.
func TestNothingLeaks(t *testing.T) {
	secrets := []string{"pathTokenQ7xJ2mZ9", "K4vW8", "queryToken", signingOne, signingTwo,
		strings.TrimPrefix(signingOne, "whsec_"), strings.TrimPrefix(signingTwo, "whsec_"),
		"urlPasswordT8wK3", "JGFwcDp1cmxQYXNzd29yZFQ4d0sz", "headerTokenB3nT6yR1", "header\"Key", "header\\\"Key", "header&#34;Key", "header%22Key", "L5pD0", "ZGVwbG95OmJhc2lj", "basicPasswordH4sC8f", "ghp_githubTokenE9uG2kA7",
		"/hooks/", "/hook/", "/services/", "/workflows/", "/repos/", "%2Fhooks%2F", `\/hooks\/`}

	// echo is what the other side got, in many spellings, the decoded password
	// of Basic among them: more than fits into an answer, so that something is at
	// the cut.
	echo := func(r *http.Request, shift int) string {
		dump, err := httputil.DumpRequest(r, true)
		if err != nil {
			t.Error(err)
		}
		_, known, _ := r.BasicAuth()
		if r.Header.Get("webhook-id") != "" {
			known = signingOne + " " + signingTwo // its receiver has them
		}
		all := r.URL.RequestURI() + "\n" + r.URL.Path + "\n" + r.URL.Query().Get("sig") + "\n" + r.Header.Get("X-Key") + "\n" + known + "\n" + string(dump)
		inJSON, _ := json.Marshal(all)
		spelt := []string{all, string(inJSON), html.EscapeString(all), url.QueryEscape(all), fmt.Sprintf("%q", all), strings.ReplaceAll(all, "/", `\/`), r.URL.String()}
		first := shift % len(spelt)
		return strings.Repeat("x", shift) + strings.Join(append(spelt[first:], spelt[:first]...), "\n")
	}
	var (
		mu   sync.Mutex
		told strings.Builder // what the other side answered, to know that there was something to hide
	)
	answer := func(status int, header http.Header, shift int) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			body := echo(r, shift)
			if shift == 0 {
				mu.Lock()
				told.WriteString(body)
				mu.Unlock()
			}
			for name, values := range header {
				w.Header()[name] = values
			}
			if header.Get("Location") != "" {
				w.Header().Set("Location", header.Get("Location")+r.URL.RequestURI())
			}
			w.WriteHeader(status)
			io.WriteString(w, body)
		}
	}
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	broken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer broken.Close()
	go func() { // answers with the request itself, which is no HTTP
		for {
			c, err := broken.Accept()
			if err != nil {
				return
			}
			request := make([]byte, 4096)
			n, _ := c.Read(request)
			c.Write(request[5:n]) // without POST and the space
			c.Close()
		}
	}()
	quoting := roundTrip(func(r *http.Request) (*http.Response, error) {
		return nil, fmt.Errorf("round trip: %w", &url.Error{Op: "Post", URL: r.URL.String(), Err: errors.New(echo(r, 0))})
	})
	timingOut := roundTrip(func(r *http.Request) (*http.Response, error) {
		return nil, fmt.Errorf("%s: %w", r.URL, context.DeadlineExceeded)
	})
	plain := http.DefaultTransport.(*http.Transport).Clone()
	defer plain.CloseIdleConnections()
	type path struct {
		name      string
		host      string // of the target; "" starts a server with handler
		handler   http.HandlerFunc
		transport http.RoundTripper
		verdict   Verdict
	}
	paths := []path{
		{"dial error", "http://" + closed.Addr().String(), nil, plain, Again},
		{"not HTTP", "http://" + broken.Addr().String(), nil, plain, Again},
		{"an error that quotes", "https://hooks.example.com", nil, quoting, Again},
		{"timeout", "https://hooks.example.com", nil, timingOut, Again},
		{"closed connection", "", func(w http.ResponseWriter, r *http.Request) { panic(http.ErrAbortHandler) }, plain, Again},
		{"redirect", "", answer(302, http.Header{"Location": {"https://elsewhere.example"}}, 0), plain, Never},
		{"redirect to nowhere", "", answer(307, http.Header{"Location": {"https://%zz"}}, 0), plain, Never},
		{"delivered", "", answer(200, nil, 0), plain, Delivered},
	}
	for status, verdict := range map[int]Verdict{400: Never, 401: Never, 404: Never, 408: Again, 410: Gone, 425: Again, 429: Again, 500: Again} {
		paths = append(paths, path{fmt.Sprint(status), "", answer(status, http.Header{"Retry-After": {"60"}}, 0), plain, verdict})
	}
	for shift := 100; shift < 1024; shift += 11 { // whatever is at the cut
		paths = append(paths, path{fmt.Sprint("500, from ", shift), "", answer(500, nil, shift), plain, Again})
	}

	hiding := false
	for _, p := range paths {
		host := p.host
		if host == "" {
			host = serve(t, p.handler).URL
		}
		env := map[string]string{}
		for name, value := range everyTypeEnv {
			env[name] = value
		}
		env["HOST"] = host
		env["USER_HOST"] = strings.Replace(host, "://", "://$app:urlPasswordT8wK3@", 1)
		env["QUERY_TOKEN"] = url.QueryEscape(env["QUERY_TOKEN"])
		targets := load(t, everyType, env)
		if len(targets) != len(kinds) {
			t.Fatalf("%d targets for %d types", len(targets), len(kinds))
		}
		for _, target := range targets {
			e := event(t, notification.TypeTimedOut, nil)
			e.Original = original(t)
			result := try(t, p.transport, target, e)
			if result.Verdict != p.verdict {
				t.Errorf("%s: %s: got %+v, want %s", p.name, target, result, p.verdict)
			}
			if len(result.Error) > maxAnswer+100 {
				t.Errorf("%s: %s: an error of %d bytes", p.name, target, len(result.Error))
			}
			if strings.HasPrefix(p.name, "4") && result.RetryAfter != time.Minute {
				t.Errorf("%s: %s: got %s, want 1m", p.name, target, result.RetryAfter)
			}
			var log bytes.Buffer
			for _, handler := range []slog.Handler{slog.NewTextHandler(&log, nil), slog.NewJSONHandler(&log, nil)} {
				slog.New(handler).Info("told", "target", target, "result", result)
			}
			said := fmt.Sprintf("%v\n%+v\n%#v\n%s\n", result, result, result, result.Error) + log.String() + printed(target)
			hiding = hiding || strings.Contains(result.Error, mark) && result.Status != 0
			for _, secret := range secrets {
				if strings.Contains(said, secret) {
					i := strings.Index(said, secret)
					t.Errorf("%s: %s: %q is in …%q", p.name, target, secret, said[max(0, i-40):i+len(secret)])
				}
			}
			// The test is worth something only if the names are still there.
			if !strings.Contains(said, target.Name) || result.Verdict != Delivered && result.Error == "" {
				t.Errorf("%s: %s: says nothing: %s", p.name, target, said)
			}
		}
		plain.CloseIdleConnections()
	}
	if !hiding {
		t.Error("no answer had anything to hide")
	}
	for _, secret := range secrets {
		if !strings.Contains(told.String(), secret) && secret != "ZGVwbG95OmJhc2lj" {
			t.Errorf("nobody was told %q: the test does not look for it", secret)
		}
	}
}
