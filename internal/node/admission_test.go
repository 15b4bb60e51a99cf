package node_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/esh3artech/esh3ar/client"
	"github.com/esh3artech/esh3ar/internal/node"
)

const testAdminKey = "an admin key of a test"

// bootAdmin runs a server whose admin key is known.
func bootAdmin(t *testing.T, dir string) (url string, stop func()) {
	t.Helper()
	cfg := node.DefaultConfig()
	cfg.Listen, cfg.Data, cfg.AdminKey = "127.0.0.1:0", dir, node.Secret(strings.ReplaceAll(testAdminKey, " ", "-"))
	n, err := node.New(t.Context(), cfg, slog.New(slog.NewTextHandler(t.Output(), nil)))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	return "http://" + n.Info().Addr, sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
}

// tenant makes a client with those settings and returns a key of it.
func tenant(t *testing.T, url, id string, s client.TenantSettings) (key string) {
	t.Helper()
	admin, err := client.NewAdmin(url, strings.ReplaceAll(testAdminKey, " ", "-"))
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	if _, err := admin.CreateTenant(t.Context(), id, s); err != nil {
		t.Fatal(err)
	}
	k, err := admin.CreateKey(t.Context(), id, client.KeySettings{})
	if err != nil {
		t.Fatal(err)
	}
	return k.Secret
}

// accepted is a message that got its 202.
type accepted struct{ key, id string }

// A client that sends ten times its rate gets its rate and is told so; another one does not notice; the SDK keeps
// to a rate by itself and loses nothing; and everything that got its 202 is there after a restart.
func TestClientsAndTheirRates(t *testing.T) {
	dir := t.TempDir()
	url, stop := bootAdmin(t, dir)
	defer stop()
	rate := func(n int) client.TenantSettings { return client.TenantSettings{Rate: &n} }
	busy, calm, slow := tenant(t, url, "busy", rate(100)), tenant(t, url, "calm", client.TenantSettings{}), tenant(t, url, "slow", rate(20))

	var mu sync.Mutex
	var all []accepted
	note := func(key, id string) {
		mu.Lock()
		defer mu.Unlock()
		all = append(all, accepted{key, id})
	}
	var senders sync.WaitGroup

	// The busy client: as many connections as it takes for some 1,000 requests a second.
	transport := &http.Transport{MaxIdleConnsPerHost: 20}
	defer transport.CloseIdleConnections()
	var passed, refused int
	begin := time.Now()
	const hammering = 2 * time.Second
	for range 20 {
		senders.Go(func() {
			tick := time.NewTicker(20 * time.Millisecond)
			defer tick.Stop()
			for time.Since(begin) < hammering {
				<-tick.C
				id, status, header := rawSend(t, transport, url, busy)
				switch status {
				case http.StatusAccepted:
					note(busy, id)
				case http.StatusTooManyRequests:
					if header.Get("Retry-After") == "" || header.Get("RateLimit-Policy") != `"rate";q=100;w=1` || header.Get("RateLimit") == "" {
						t.Errorf("refused with %v", header)
					}
				default:
					t.Errorf("status %d", status)
				}
				mu.Lock()
				if status == http.StatusAccepted {
					passed++
				} else {
					refused++
				}
				mu.Unlock()
			}
		})
	}
	var took time.Duration // of the busy client, set by the one that sees the end of all
	var hammered sync.WaitGroup
	hammered.Go(func() { senders.Wait(); took = time.Since(begin) })

	// The calm client is never over any rate.
	var others sync.WaitGroup
	others.Go(func() {
		watch := &rateWatch{t: t, transport: &http.Transport{}}
		c := sdk(t, url, calm, client.WithHTTPClient(&http.Client{Transport: watch}))
		for i := range 100 {
			r, err := c.Send(t.Context(), client.Message{To: fmt.Sprint("calm", i), Content: "x"})
			if err != nil {
				t.Errorf("the calm client: %v", err)
				return
			}
			note(calm, r.ID)
		}
	})

	// The slow client sends five times what it may in a second, all at once.
	c := sdk(t, url, slow)
	var sends sync.WaitGroup
	sent := time.Now()
	for i := range 100 {
		sends.Go(func() {
			r, err := c.Send(t.Context(), client.Message{To: fmt.Sprint("slow", i), Content: "x"})
			if err != nil {
				t.Errorf("the SDK: %v", err)
				return
			}
			note(slow, r.ID)
		})
	}
	sends.Wait()
	if d := time.Since(sent); d < 3500*time.Millisecond || d > 20*time.Second {
		t.Errorf("100 messages at 20/s took %s", d)
	}
	others.Wait()
	hammered.Wait()
	// A burst of one second's worth, the rate, and the few that waited for their turn.
	most := 100 + 100*took.Seconds() + 10
	if least := 80 * took.Seconds(); float64(passed) > most || float64(passed) < least {
		t.Errorf("of %d messages in %s %d were accepted, want %.0f to %.0f", passed+refused, took, passed, least, most)
	}
	if refused == 0 {
		t.Errorf("nobody was refused, of %d in %s", passed, took)
	}
	stop()

	url, stop = bootAdmin(t, dir)
	defer stop()
	clients := make(map[string]*client.Client)
	ids := make(map[string]bool)
	for _, a := range all {
		if ids[a.id] {
			t.Errorf("%s stands for two messages", a.id)
		}
		ids[a.id] = true
		if clients[a.key] == nil {
			clients[a.key] = sdk(t, url, a.key)
		}
		if _, err := clients[a.key].Message(t.Context(), a.id); err != nil {
			t.Errorf("%s: %v", a.id, err)
		}
	}
}

// rateWatch sees to it that no answer is a 429.
type rateWatch struct {
	t         *testing.T
	transport *http.Transport
}

func (w *rateWatch) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := w.transport.RoundTrip(r)
	if err == nil && (resp.StatusCode == http.StatusTooManyRequests || resp.Header.Get("RateLimit") != "") {
		w.t.Errorf("the calm client is told of a limit: %s, %v", resp.Status, resp.Header)
	}
	return resp, err
}

func (w *rateWatch) CloseIdleConnections() { w.transport.CloseIdleConnections() }

// sdk returns a client of the SDK that is closed with the test.
func sdk(t *testing.T, url, key string, options ...client.Option) *client.Client {
	c, err := client.New(url, key, options...)
	if err != nil {
		t.Error(err)
		return nil
	}
	t.Cleanup(c.Close)
	return c
}

// rawSend sends a message without the manners of the SDK.
func rawSend(t *testing.T, transport *http.Transport, url, key string) (id string, status int, header http.Header) {
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url+"/v1/messages", strings.NewReader(`{"to":"a","content":"b"}`))
	if err != nil {
		t.Error(err)
		return "", 0, nil
	}
	r.Header.Set("Authorization", "Bearer "+key)
	resp, err := transport.RoundTrip(r)
	if err != nil {
		t.Error(err)
		return "", 0, nil
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Error(err)
		return "", 0, nil
	}
	var m struct{ ID string }
	if err := json.Unmarshal(body, &m); err != nil {
		t.Errorf("%s: %v", body, err)
	}
	return m.ID, resp.StatusCode, resp.Header
}

// The daily quota holds over a restart, and is the client's alone.
func TestDailyQuotaOverARestart(t *testing.T) {
	dir := t.TempDir()
	url, stop := bootAdmin(t, dir)
	quota := int64(5)
	key := tenant(t, url, "small", client.TenantSettings{DailyQuota: &quota})
	transport := &http.Transport{DisableKeepAlives: true}
	day := time.Now().UTC().Day()
	for range 4 {
		if _, status, header := rawSend(t, transport, url, key); status != http.StatusAccepted || header.Get("RateLimit-Policy") != `"day";q=5;w=86400` {
			t.Fatalf("status %d, %v", status, header)
		}
	}
	stop()
	url, stop = bootAdmin(t, dir)
	defer stop()
	if _, status, header := rawSend(t, transport, url, key); status != http.StatusAccepted {
		t.Fatalf("status %d, %v", status, header)
	}
	// The new process learns at once what was used before; until it has, its own count stands.
	deadline, tick := time.After(10*time.Second), time.NewTicker(50*time.Millisecond)
	defer tick.Stop()
	for {
		_, status, header := rawSend(t, transport, url, key)
		if status == http.StatusTooManyRequests {
			if header.Get("Retry-After") == "" || !strings.HasPrefix(header.Get("RateLimit"), `"day";r=0;t=`) {
				t.Errorf("refused with %v", header)
			}
			return
		}
		if time.Now().UTC().Day() != day {
			return // midnight
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatal("the quota of the day is forgotten")
		}
	}
}
