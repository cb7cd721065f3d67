package stack

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"

	"allregions/app/local/acr"
)

var screenshots = flag.Bool("screenshots", false, "TestPage writes the screenshots of the README")

const pageDir = "../../page"

// browser is a tab of Chromium.
type browser struct {
	t   *testing.T
	ctx context.Context
	url string

	mu       sync.Mutex
	troubles []string // what the console says
	asked    []string // URLs
}

// open opens a tab of a browser with a profile of its own. It skips the test where there
// is no Chromium.
func open(t *testing.T, url string) *browser {
	t.Helper()
	program := ""
	for _, name := range []string{"google-chrome", "chromium"} {
		if found, err := exec.LookPath(name); err == nil {
			program = found
		}
	}
	if program == "" {
		t.Skip("needs Chromium (apt-get install chromium)")
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(program), chromedp.NoSandbox, chromedp.DisableGPU,
		chromedp.UserDataDir(t.TempDir()), chromedp.Flag("disable-quic", true), chromedp.Flag("disable-component-update", true), chromedp.WindowSize(1280, 900))
	ctx, cancel := chromedp.NewExecAllocator(t.Context(), options...)
	t.Cleanup(cancel)
	b := &browser{t: t, url: url}
	b.ctx, cancel = chromedp.NewContext(ctx, chromedp.WithListener(b.heard))
	t.Cleanup(cancel)
	if err := chromedp.Do(b.ctx); err != nil { // the first one must not have a time limit
		t.Fatal(err)
	}
	b.size(1280, 900)
	b.visit("/")
	return b
}

// heard takes in what the browser tells by itself.
func (b *browser) heard(event any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch e := event.(type) {
	case *runtime.EventExceptionThrown:
		b.troubles = append(b.troubles, fmt.Sprint(e.ExceptionDetails.Text, e.ExceptionDetails.Exception))
	case *log.EventEntryAdded:
		if e.Entry.Source != log.EntrySourceNetwork { // answers that are no 200: the page shows them
			b.troubles = append(b.troubles, e.Entry.Text)
		}
	case *page.EventJavascriptDialogOpening:
		b.troubles = append(b.troubles, "a dialog: "+e.Message)
	case *network.EventRequestWillBeSent:
		b.asked = append(b.asked, e.Request.URL)
	}
}

func (b *browser) run(steps ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, soon)
	defer cancel()
	if err := chromedp.Do(ctx, steps...); err != nil {
		b.t.Fatal(err)
	}
}

// eval returns what an expression comes to.
func eval[T any](b *browser, expression string) T {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, soon)
	defer cancel()
	v, err := chromedp.Run(ctx, chromedp.Evaluate[T](expression, chromedp.EvalAwaitPromise))
	if err != nil {
		b.t.Fatalf("%.300s: %v", expression, err)
	}
	return v
}

func (b *browser) visit(path string) {
	b.t.Helper()
	b.run(chromedp.Navigate(b.url + path))
}

// enter types words into an input, in place of what it has, and Enter.
func (b *browser) enter(selector, words string) {
	b.t.Helper()
	b.run(chromedp.Clear(chromedp.CSS(selector)), chromedp.SendKeys(chromedp.CSS(selector), words+"\r"))
}

// until waits until an expression is true.
func (b *browser) until(within time.Duration, expression string) {
	b.t.Helper()
	for deadline := time.Now().Add(within); !eval[bool](b, "!!("+expression+")"); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			b.t.Fatalf("not within %v: %s\nthe page:\n%s", within, expression, eval[string](b, "document.body.innerText"))
		}
	}
}

// shows waits until a node's text has all of the words.
func (b *browser) shows(within time.Duration, selector string, words ...string) {
	b.t.Helper()
	for _, w := range words {
		b.until(within, fmt.Sprintf("[...document.querySelectorAll(%q)].some(n => n.innerText.includes(%q))", selector, w))
	}
}

func (b *browser) size(width, height int64) {
	b.t.Helper()
	b.run(chromedp.EmulateViewport(width, height))
}

func (b *browser) theme(name string) {
	b.t.Helper()
	eval[chromedp.Void](b, fmt.Sprintf("{const s = document.getElementById('theme'); s.value = %q; s.dispatchEvent(new Event('change')); 0}", name))
}

// fits fails if a page of that width is wider than it.
func (b *browser) fits(width, height int64, name string) {
	b.t.Helper()
	b.size(width, height)
	if got := eval[int64](b, "document.documentElement.scrollWidth"); got > width {
		b.t.Errorf("%s is %d pixels wide in a window of %d", name, got, width)
	}
}

// accessible fails with what axe has found, in both themes, wide and narrow.
func (b *browser) accessible(name string) {
	b.t.Helper()
	if !eval[bool](b, "'axe' in window") {
		axe, err := os.ReadFile(filepath.Join(pageDir, "testdata", "axe", "axe.min.js"))
		if err != nil {
			b.t.Fatal(err)
		}
		eval[chromedp.Void](b, string(axe))
	}
	for _, theme := range []string{"light", "dark"} {
		b.theme(theme)
		for _, width := range []int64{360, 1280, 3840} {
			b.fits(width, 900, name)
			found := eval[string](b, `axe.run().then(r => r.violations.flatMap(v => v.nodes.map(n => v.id + ': ' + n.html + ' ' + n.failureSummary)).join('\n'))`)
			if found != "" {
				b.t.Errorf("%s, %s, %d pixels wide: %s", name, theme, width, found)
			}
		}
	}
	b.theme("")
	b.size(1280, 900)
}

// shot writes a screenshot of the README.
func (b *browser) shot(name string) {
	b.t.Helper()
	if !*screenshots {
		return
	}
	png, err := chromedp.Run(b.ctx, chromedp.CaptureScreenshot())
	if err != nil {
		b.t.Fatal(err)
	}
	const most = 200 << 10
	if len(png) > most {
		b.t.Errorf("%s has %d bytes, at most %d are allowed", name, len(png), most)
	}
	if err := os.WriteFile(filepath.Join(pageDir, "screenshots", name+".png"), png, 0o644); err != nil {
		b.t.Fatal(err)
	}
}

func (b *browser) follow(selector string) {
	b.t.Helper()
	b.run(chromedp.Click(chromedp.CSS(selector)))
}

// row is the selector of a notification in the list.
func pageRow(p acr.Push) string { return fmt.Sprintf(`[data-key="%s"]`, p.ID) }

// in is that of a region's cell in it.
func in(p acr.Push, region, state string) string {
	return fmt.Sprintf(`%s [data-key=%s][data-state=%s]`, pageRow(p), region, state)
}

// TestPage uses the page as a person does.
//
// It has no t.Parallel: beside seven other stacks an outcome may take longer to be on
// the page than it should.
func TestPage(t *testing.T) {
	var works atomic.Bool // the target
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if !works.Load() {
			w.WriteHeader(http.StatusNotFound)
		}
	}))
	t.Cleanup(server.Close)
	targets, err := json.Marshal([]map[string]any{{"name": "ops", "type": "webhook", "url": server.URL, "secret": secret}})
	if err != nil {
		t.Fatal(err)
	}
	const key, postKey = "read-key-3f9a", "post-key-77c1"
	s, registry := start(t, Options{Key: postKey, ReadKey: key, Timeout: 8 * time.Second, Settings: map[string]string{"NOTIFY_TARGETS": string(targets)},
		Replicas: 2, Ended: func(string, string) {}})
	registry.ServiceURL = s.Replicas[1].URL // the page is that of the first
	b := open(t, s.URL)
	const fast = 3 * time.Second

	// Without a key there is a form, and nothing else.
	b.shows(soon, "main", "Which key?")
	b.accessible("the form")
	b.enter("#key", "wrong")
	b.shows(soon, "[role=alert]", "This key is not accepted.")
	b.enter("#key", key)
	b.shows(soon, "main", "No notification yet")
	b.shows(soon, "#connection", "Live")
	b.accessible("the empty list")

	// Regions fill up, in place.
	cart := acr.NewPush("shop/cart", "v1.4.2")
	fire(t, registry, cart, "westeurope", http.StatusAccepted)
	b.until(fast, fmt.Sprintf("document.querySelector('.card%s')?.innerText.includes('shop/cart:v1.4.2')", pageRow(cart)))
	for region, state := range map[string]string{"westeurope": "in", "eastus": "waiting", "japaneast": "waiting"} {
		b.until(0, fmt.Sprintf("!!document.querySelector('%s')", in(cart, region, state)))
	}
	eval[chromedp.Void](b, fmt.Sprintf("window.kept = document.querySelector('%s'); null", in(cart, "eastus", "waiting")))
	fire(t, registry, cart, "eastus", http.StatusAccepted)
	b.until(fast, fmt.Sprintf("document.querySelector('%s') === window.kept", in(cart, "eastus", "in")))
	fire(t, registry, cart, "japaneast", http.StatusAccepted)
	fired := time.Now()
	b.shows(fast, ".row"+pageRow(cart), "Replicated")
	t.Logf("an outcome was on the page after %v", time.Since(fired))
	b.shows(fast, "#announce", "shop/cart:v1.4.2 is in all regions")

	// One of each other kind.
	pay, api := acr.NewPush("shop/pay", "v2.0"), acr.NewPush("shop/api", "v7")
	fire(t, registry, pay, "westeurope", http.StatusAccepted)
	fire(t, registry, pay, "eastus", http.StatusAccepted)
	fire(t, registry, api, "westeurope", http.StatusAccepted)
	other := api
	other.Digest = acr.NewPush("", "").Digest
	fire(t, registry, other, "eastus", http.StatusAccepted)
	fire(t, registry, api, "japaneast", http.StatusAccepted)
	b.shows(fast, ".row"+pageRow(api), "Regions disagree")
	b.shows(soon, ".row"+pageRow(pay), "Timed out", "missing")
	fire(t, registry, pay, "japaneast", http.StatusAccepted)
	b.shows(fast, ".row"+pageRow(pay), "Recovered", "late, +")

	search, web := acr.NewPush("shop/search", "2026.11.3"), acr.NewPush("shop/web", "v12")
	fire(t, registry, search, "westeurope", http.StatusAccepted)
	fire(t, registry, search, "japaneast", http.StatusAccepted)
	fire(t, registry, web, "eastus", http.StatusAccepted)
	b.until(fast, fmt.Sprintf("document.querySelector('%s') && document.querySelector('%s')", in(search, "japaneast", "in"), in(web, "eastus", "in")))
	b.size(1280, 720)
	b.theme("light")
	b.shot("light")
	b.theme("dark")
	b.shot("dark")
	b.shows(soon, ".row"+pageRow(web), "Timed out")

	hostile := acr.NewPush(`x/<img src=x onerror=alert(1)>`, "\"><script>alert(2)</script>\u202e")
	fire(t, registry, hostile, "westeurope", http.StatusAccepted)
	b.shows(fast, pageRow(hostile), `x/<img src=x onerror=alert(1)>:"><script>alert(2)</script>`+"\ufffd")
	if n := eval[int](b, "document.querySelectorAll('main img, main script').length"); n != 0 {
		t.Errorf("%d nodes of a hostile name", n)
	}
	b.accessible("the list")

	// Filters are in the URL.
	b.enter("[name=search]", "CART:v1")
	b.until(fast, "location.search === '?search=CART%3Av1' && document.querySelectorAll('.row').length === 1")
	b.run(chromedp.Reload())
	b.until(fast, fmt.Sprintf("document.querySelectorAll('.row').length === 1 && !!document.querySelector('%s')", pageRow(cart)))
	b.visit("/?status=recovered&region=eastus")
	b.shows(fast, "main", "Nothing here fits the filters")
	b.visit("/?search=" + api.Digest[7:30])
	b.until(fast, fmt.Sprintf("document.querySelectorAll('.row').length === 1 && !!document.querySelector('%s')", pageRow(api)))

	// One notification.
	b.follow(pageRow(api) + " a")
	b.shows(fast, ".alert", "The regions disagree", api.Digest, "eastus reported "+other.Digest)
	b.accessible("a notification with a mismatch")
	b.visit("/notifications/" + pay.ID)
	b.shows(fast, ".timeline", "In, by its webhook", "Late, by its webhook", "Not in by", "is in all regions after all")
	b.visit("/notifications/" + cart.ID)
	b.shows(soon, "[data-key=deliveries]", "ops", "Failed", "404 Not Found")
	b.accessible("a notification")
	works.Store(true)
	b.shows(fast, "[data-key=deliveries]", "Send again")
	b.follow("[data-key=deliveries] button")
	b.shows(fast, "dialog", "needs a webhook key")
	b.enter("#post", postKey)
	b.shows(soon, "[data-key=deliveries]", "Delivered")
	b.visit("/notifications/none")
	b.shows(fast, "main", "There is no such notification")
	b.visit("/regions")
	b.shows(fast, "[data-key=japaneast]", "median", "95 % within", "Missed in the last day")
	b.accessible("the regions")

	// The service goes away and comes back.
	b.visit("/")
	b.shows(fast, "#connection", "Live")
	if err := s.Hold(Numbered(ServiceProcess, 0), syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	b.shows(soon, "#connection", "Connection lost", "trying again")
	if err := s.Release(Numbered(ServiceProcess, 0)); err != nil {
		t.Fatal(err)
	}
	b.shows(soon, "#connection", "Live")
	after := acr.NewPush("shop/after", "v1")
	eventually(t, soon, "a webhook is taken", func() bool {
		code, _, err := registry.Fire(t.Context(), after, "eastus")
		return err == nil && code == http.StatusAccepted
	})
	b.shows(soon, pageRow(after), "shop/after:v1")

	b.safe(key, postKey)
	b.follow("#forget")
	b.shows(fast, "main", "Which key?")
	if got := eval[string](b, "sessionStorage.getItem('key') + document.body.innerText"); strings.Contains(got, key) || strings.Contains(got, "shop/") {
		t.Errorf("after the key is forgotten: %s", got)
	}
}

// safe checks where the key went, and what the browser complained about.
func (b *browser) safe(key, postKey string) {
	b.t.Helper()
	if got := eval[string](b, "document.cookie + JSON.stringify(localStorage)"); strings.Contains(got, key) || strings.Contains(got, postKey) || !strings.HasPrefix(got, "{") {
		b.t.Errorf("the browser keeps %s", got)
	}
	if got := eval[string](b, "sessionStorage.getItem('key')"); got != key {
		b.t.Errorf("the tab has the key %q", got)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, url := range b.asked {
		if strings.Contains(url, key) || strings.Contains(url, postKey) || !strings.HasPrefix(url, b.url+"/") {
			b.t.Errorf("the page asked for %s", url)
		}
	}
	for _, trouble := range b.troubles {
		b.t.Errorf("the console says %s", trouble)
	}
}
