package node_test

import (
	"encoding/json"
	"io"
	"net/http"
	"testing"

	"github.com/esh3artech/esh3ar/internal/health"
	"github.com/esh3artech/esh3ar/internal/node"
)

// A node lists the nodes to balancers that it trusts and to nobody else: not to those whose requests a balancer passes on.
func TestListing(t *testing.T) {
	for _, c := range []struct {
		name, trusted string
		fields        []string
		lists         bool
	}{
		{"a trusted balancer", "127.0.0.1", nil, true},
		{"a stranger", "10.0.0.0/8", nil, false},
		{"through a balancer", "127.0.0.1", []string{"X-Forwarded-For", "Forwarded", "Via"}, false},
		{"a client that says to be the balancer, through one", "127.0.0.1", []string{"X-Forwarded-For"}, false},
		{"through a proxy that only says that it is one", "127.0.0.1", []string{"Via"}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			info := bootWith(t, func(o *node.Config) { o.TrustedProxies = []string{c.trusted} })
			t.Cleanup(http.DefaultClient.CloseIdleConnections)
			get := func(path string) (int, string) {
				r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+info.Addr+path, nil)
				if err != nil {
					t.Fatal(err)
				}
				for _, name := range c.fields {
					r.Header.Set(name, "127.0.0.1")
				}
				resp, err := http.DefaultClient.Do(r)
				if err != nil {
					t.Fatal(err)
				}
				defer resp.Body.Close()
				body, err := io.ReadAll(resp.Body)
				if err != nil {
					t.Fatal(err)
				}
				return resp.StatusCode, string(body)
			}
			status, body := get(health.ListingPath)
			if !c.lists {
				if unknown, said := get("/internal/unknown"); status != unknown || body != said || status != http.StatusNotFound {
					t.Errorf("answered %d %q, and for what is not there %d %q", status, body, unknown, said)
				}
				return
			}
			var l health.Listing
			if err := json.Unmarshal([]byte(body), &l); err != nil || status != http.StatusOK {
				t.Fatalf("answered %d %q, %v", status, body, err)
			}
			if !l.Fresh || len(l.Nodes) != 1 || l.Nodes[0].URL != "" || l.Nodes[0].Load.Free <= 0 || l.Cluster != "" {
				t.Errorf("listed %+v", l)
			}
		})
	}
}
