package node

import (
	"crypto/rand"
	"fmt"
	"net"
	"net/http"
	"net/netip"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/internal/ingest"
	"github.com/esh3artech/esh3ar/internal/notify/webhook"
)

// nodeIDFile holds the name by which this node is known among those that share the store.
const nodeIDFile = "node-id"

// newWebhooks makes the part that posts events to clients' endpoints.
func (n *Node) newWebhooks(registry prometheus.Registerer) (err error) {
	var allow []netip.Prefix
	for _, s := range n.cfg.WebhookAllow {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return fmt.Errorf("webhook-allow: %w", err)
		}
		allow = append(allow, p.Masked())
	}
	id, _, err := secretFile(n.cfg.Data, nodeIDFile, rand.Text)
	if err != nil {
		return err
	}
	n.webhooks, err = webhook.New(webhook.Options{
		Store: n.store, Events: n.notify, Retention: n.cfg.Retention,
		Addresses: webhook.Addresses{Allow: allow}, Requests: n.cfg.WebhookRequests, Timeout: n.cfg.WebhookTimeout,
		Backoff: webhook.Backoff{Span: n.cfg.WebhookRetryFor}, DisableAfter: n.cfg.WebhookDisableAfter,
		Holder: id, Grace: n.cfg.stopLimits().posts, Now: n.clock.Now, Logger: n.log, Metrics: registry,
	})
	return err
}

// webhookRoutes returns the management of webhooks, for business clients.
func (n *Node) webhookRoutes() []ingest.Route {
	var routes []ingest.Route
	for _, r := range n.webhooks.Routes() {
		routes = append(routes, ingest.Route{
			Pattern: r.Pattern, Scope: esh3ar.ScopeWebhooks, Methods: r.Methods,
			Serve: func(w http.ResponseWriter, req *http.Request, who ingest.Caller) error {
				host, _, err := net.SplitHostPort(req.RemoteAddr)
				if err != nil {
					host = ""
				}
				return r.Serve(w, req, webhook.Caller{Client: who.Client.ID, Actor: who.Actor(), Address: host})
			},
		})
	}
	return routes
}
