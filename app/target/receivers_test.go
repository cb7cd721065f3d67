package target

import (
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"allregions/app/notification"
)

// receivers plays the programs of README.md, written from their behaviour, each in the
// version that is named. A receiver counts what it does of its own, such as a rollout:
// that is what a push with tag stable of contoso.azurecr.io/shop/cart must make it do.
var receivers = map[string]func(acts func()) http.HandlerFunc{
	// notification-controller 1.9.3: the whole request URI is the index of Receivers.
	"flux": func(acts func()) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if r.RequestURI != "/hook/bed6d00b5555b1603e1f59b94d7fdbca58089cb5663633fb83f2815dc626d92b" {
				w.WriteHeader(http.StatusNotFound)
				return
			}
			if _, ok := acrPush(w, r); ok {
				acts() // whatever the action is
			}
		}
	},
	// Kargo 1.11.2: known by its path, tells ACR from Azure DevOps by the user agent, and
	// refreshes the warehouses that subscribe to host and repository.
	"kargo": func(acts func()) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/webhooks/azure/4f2c" {
				w.WriteHeader(http.StatusNotFound)
				return
			}
			p, ok := acrPush(w, r)
			switch {
			case !ok:
			case !strings.HasPrefix(r.UserAgent(), "AzureContainerRegistry"), p.Action != "push":
				w.WriteHeader(http.StatusBadRequest)
			case p.Request.Host+"/"+p.Target.Repository == "contoso.azurecr.io/shop/cart" && p.Target.Tag == "stable":
				acts()
			}
		}
	},
	// Keel 0.22.1 with authenticated webhooks.
	"keel": func(acts func()) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			user, password, _ := r.BasicAuth()
			switch {
			case r.URL.Path != "/v1/webhooks/azure":
				w.WriteHeader(http.StatusNotFound)
				return
			case r.Method != http.MethodPost:
				w.WriteHeader(http.StatusMethodNotAllowed)
				return
			case user != "keel" || password != "p4ss/word":
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			p, ok := acrPush(w, r)
			switch {
			case !ok:
			case p.Target.Tag == "":
				w.WriteHeader(http.StatusBadRequest)
			case p.Request.Host+"/"+p.Target.Repository == "contoso.azurecr.io/shop/cart" && p.Target.Digest != "":
				acts()
			}
		}
	},
	// Argo CD Image Updater 1.3.0: everything that is wrong is 400.
	"image-updater": func(acts func()) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/webhook" {
				w.WriteHeader(http.StatusNotFound)
				return
			}
			p, ok := acrPush(w, r)
			switch {
			case !ok:
			case r.Method != http.MethodPost, r.URL.Query().Get("type") != "acr",
				!strings.Contains(r.Header.Get("Content-Type"), "application/json"),
				r.Header.Get("Authorization") != "upd4ter-secret",
				p.Action != "push", p.Target.Repository == "":
				w.WriteHeader(http.StatusBadRequest)
			case p.Request.Host == "contoso.azurecr.io" && p.Target.Repository == "shop/cart" && p.Target.Tag == "stable":
				acts()
			}
		}
	},
	// App Service, seen in 2026: 202, and 401 while SCM basic auth is off.
	"app-service": func(acts func()) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			user, password, _ := r.BasicAuth()
			switch {
			case user != "$cart" || password != "publishS3cret":
				w.WriteHeader(http.StatusUnauthorized)
			case r.URL.Path != "/api/registry/webhook" && r.URL.Path != "/docker/hook":
				w.WriteHeader(http.StatusBadRequest)
			default:
				acts()
				w.WriteHeader(http.StatusAccepted)
			}
		}
	},
	// Azure Functions 4: 204 is the default of an HTTP trigger.
	"function": func(acts func()) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Query().Get("code") != "k3y+/==" && r.Header.Get("x-functions-key") != "k3y+/==" {
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			acts()
			w.WriteHeader(http.StatusNoContent)
		}
	},
	// Logic Apps, Request trigger: the query is what was signed, to the letter.
	"logic-app": func(acts func()) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if r.RequestURI != logicAppURI {
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			acts()
			w.WriteHeader(http.StatusAccepted)
		}
	},
	// Watchtower 1.7.1: answers when it has pulled, and updates only the images that the
	// query names.
	"watchtower": func(acts func()) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Authorization") != "Bearer w4tch" {
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			if r.URL.Path != "/v1/update" {
				w.WriteHeader(http.StatusNotFound)
				return
			}
			time.Sleep(90 * time.Second)
			if r.URL.Query().Get("image") == "contoso.azurecr.io/shop/cart" {
				acts()
			}
		}
	},
	// Generic Webhook Trigger 2.4.1: 404 if no job has the token.
	"jenkins": func(acts func()) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/generic-webhook-trigger/invoke" || r.Header.Get("token") != "j0b" {
				w.WriteHeader(http.StatusNotFound)
				return
			}
			if p, ok := acrPush(w, r); ok && p.Target.Tag == "stable" {
				acts()
			}
		}
	},
}

const logicAppURI = "/workflows/c4ed/triggers/manual/paths/invoke?api-version=2016-10-01&sp=%2Ftriggers%2Fmanual%2Frun&sv=1.0&sig=A-b_c%2Fd"

var receiversEnv = map[string]string{
	"FLUX_RECEIVER":        "bed6d00b5555b1603e1f59b94d7fdbca58089cb5663633fb83f2815dc626d92b",
	"KARGO_RECEIVER":       "4f2c",
	"KEEL_PASSWORD":        "p4ss%2Fword",
	"IMAGE_UPDATER_SECRET": "upd4ter-secret",
	"APP_SERVICE_URL":      "https://$cart:publishS3cret@cart.scm.azurewebsites.net/api/registry/webhook",
	"FUNCTION_KEY":         "k3y%2B%2F%3D%3D",
	"LOGIC_APP_URL":        "https://prod-03.westus.logic.azure.com:443" + logicAppURI,
	"WATCHTOWER_TOKEN":     "w4tch",
	"JENKINS_TOKEN":        "j0b",
}

type acrPayload struct {
	Action string
	Target struct{ Repository, Tag, Digest string }
	// The host is compared with the registry of the images that a receiver knows.
	Request struct{ Host string }
}

// acrPush reads a webhook, or answers 400.
func acrPush(w http.ResponseWriter, r *http.Request) (p acrPayload, ok bool) {
	body, err := io.ReadAll(r.Body)
	if err == nil {
		err = json.Unmarshal(body, &p)
	}
	if err != nil {
		w.WriteHeader(http.StatusBadRequest)
	}
	return p, err == nil
}

// documentedReceivers are the rows of the table in README.md, and the entries below it.
func documentedReceivers(t *testing.T) (rows []string, entries string) {
	t.Helper()
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(readme), "\n## Receivers\n")
	section, _, _ = strings.Cut(section, "\n## ")
	for _, row := range regexp.MustCompile("(?m)^\\| `([a-z-]+)` \\|").FindAllStringSubmatch(section, -1) {
		rows = append(rows, row[1])
	}
	_, entries, _ = strings.Cut(section, "\n```yaml\n")
	entries, _, _ = strings.Cut(entries, "\n```\n")
	return rows, entries
}

// inProcess sends requests to a handler, which ends when its caller has enough.
func inProcess(h http.Handler) http.RoundTripper {
	return roundTrip(func(r *http.Request) (*http.Response, error) {
		in := httptest.NewRequestWithContext(r.Context(), r.Method, r.URL.RequestURI(), r.Body)
		in.Header, in.Host = r.Header, r.URL.Host
		answer := make(chan *http.Response, 1)
		go func() {
			w := httptest.NewRecorder()
			h.ServeHTTP(w, in)
			answer <- w.Result()
		}()
		select {
		case response := <-answer:
			return response, nil
		case <-r.Context().Done():
			return nil, r.Context().Err()
		}
	})
}

// Every receiver of the documentation acts once on a push that its entry takes, in one
// attempt: also on one that ACR sends with a region's host and a byte order mark. Its
// entry takes no push without a tag, and no timeout.
func TestReceivers(t *testing.T) {
	rows, entries := documentedReceivers(t)
	targets := load(t, entries, receiversEnv)
	var names []string
	for _, target := range targets {
		names = append(names, target.Name)
	}
	if !slices.Equal(names, rows) || len(rows) != len(receivers) {
		t.Errorf("entries %q, rows %q, %d receivers: want the same", names, rows, len(receivers))
	}
	if err := Check(entries, slices.Collect(maps.Keys(receiversEnv))); err != nil { // as before a deployment
		t.Error(err)
	}
	push := func(typ, tag string) Event {
		e := event(t, typ, func(s *notification.Status) { s.Tag = tag })
		body := strings.NewReplacer("contoso.azurecr.io", "contoso.westeurope.geo.azurecr.io", "v1.4.2", tag).Replace(string(original(t)))
		e.Original = []byte("\xef\xbb\xbf" + body)
		return e
	}
	for _, target := range targets {
		t.Run(target.Name, func(t *testing.T) {
			stable := push(notification.TypeCompleted, "stable")
			for name, tt := range map[string]struct {
				e    Event
				want bool
			}{
				"replicated": {stable, true}, "recovered": {push(notification.TypeRecovered, "stable"), true},
				"timed out": {push(notification.TypeTimedOut, "stable"), false}, "untagged": {push(notification.TypeCompleted, ""), false},
			} {
				if got, err := target.Wants(tt.e); got != tt.want || err != nil {
					t.Errorf("%s: got %t, %v, want %t", name, got, err, tt.want)
				}
			}
			synctest.Test(t, func(t *testing.T) {
				acted := 0
				receiver := receivers[target.Name](func() { acted++ })
				result := try(t, inProcess(receiver), target, stable)
				if result.Verdict != Delivered || acted != 1 {
					t.Errorf("got %+v, and it acted %d times, want %s and once", result, acted, Delivered)
				}
			})
		})
	}
}
