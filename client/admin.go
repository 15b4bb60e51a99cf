package client

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// Admin manages the business clients of a deployment and their API keys, and reads its audit log. It holds
// the deployment's admin key, which is no API key: a program that sends messages has no use for it.
type Admin struct{ c *Client }

// NewAdmin returns an Admin for the server at baseURL and its admin key. It makes no connection.
func NewAdmin(baseURL, adminKey string, opts ...Option) (*Admin, error) {
	c, err := New(baseURL, adminKey, opts...)
	if err != nil {
		return nil, err
	}
	return &Admin{c}, nil
}

// Close closes the connections that the Admin keeps for later requests.
func (a *Admin) Close() { a.c.Close() }

// Tenant is a business client of the deployment, as its operator sees it.
type Tenant struct {
	// ID names the client for good. Name is what devices see as the sender.
	ID   string `json:"id"`
	Name string `json:"name"`
	// Tier is the service level: gold, silver or bronze.
	Tier string `json:"tier"`
	// Rate is messages a second, Burst how many at once, DailyQuota messages a day (UTC); 0 is no limit.
	Rate       int   `json:"rate"`
	Burst      int   `json:"burst"`
	DailyQuota int64 `json:"daily_quota"`
	// Recipients is the pattern that recipients must match, "" for any.
	Recipients string `json:"recipients"`
	// Scopes are what the client's keys may be used for.
	Scopes []string `json:"scopes"`
	// Suspended says that none of the client's keys work for now.
	Suspended bool      `json:"suspended"`
	CreatedAt time.Time `json:"created_at"`
	// ETag names this revision of the client; see TenantSettings.IfMatch.
	ETag string `json:"-"`
}

func (t *Tenant) readHeader(h http.Header) { t.ETag = h.Get("ETag") }

// The scopes of a client and of an API key.
const (
	ScopeSend        = "send"         // send and cancel messages
	ScopeRead        = "read"         // read messages and their events
	ScopeDeadLetters = "dead-letters" // list, replay and discard dead letters
	ScopeWebhooks    = "webhooks"     // manage webhook endpoints
	ScopeTokens      = "tokens"       // mint device tokens
)

// TenantSettings are what can be chosen of a business client. A nil field leaves it as it is, or for a new
// client takes what stands with it.
type TenantSettings struct {
	Name       *string  `json:"name,omitempty"`        // the id
	Tier       *string  `json:"tier,omitempty"`        // silver
	Rate       *int     `json:"rate,omitempty"`        // 0: no limit
	Burst      *int     `json:"burst,omitempty"`       // 0: one second's worth
	DailyQuota *int64   `json:"daily_quota,omitempty"` // 0: no limit
	Recipients *string  `json:"recipients,omitempty"`  // "": any
	Scopes     []string `json:"scopes,omitzero"`       // all but tokens
	Suspended  *bool    `json:"suspended,omitempty"`   // false
	// IfMatch, if it is a Tenant's ETag, makes a change fail with CodeClientChanged when the client was
	// changed since. Without it the last change of a field wins.
	IfMatch string `json:"-"`
}

// The codes of a *Problem about clients and their keys.
const (
	CodeClientExists  = "client_exists"   // CreateTenant: the id is taken, or was
	CodeClientChanged = "client_changed"  // UpdateTenant: with IfMatch
	CodeClientHasKeys = "client_has_keys" // DeleteTenant: a key of it works
	CodeTooManyKeys   = "too_many_keys"   // CreateKey, RotateKey
	CodeKeyEnded      = "key_ended"       // RotateKey: the key does not work any more
)

func tenantPath(id string, more ...string) string {
	p := "/v1/admin/clients"
	for _, part := range append([]string{id}, more...) {
		p += "/" + url.PathEscape(part)
	}
	return p
}

// CreateTenant makes a business client. It is safe to repeat: the client that an earlier request made, whose
// answer was lost, is returned if the settings are the same.
func (a *Admin) CreateTenant(ctx context.Context, id string, s TenantSettings) (Tenant, error) {
	body, err := json.Marshal(struct {
		ID string `json:"id"`
		TenantSettings
	}{id, s})
	if err != nil {
		return Tenant{}, fmt.Errorf("client: creating client %s: %w", id, err)
	}
	return a.tenant(ctx, "creating", id, request{method: http.MethodPost, path: "/v1/admin/clients", body: body})
}

// Tenant returns a business client.
func (a *Admin) Tenant(ctx context.Context, id string) (Tenant, error) {
	return a.tenant(ctx, "reading", id, request{method: http.MethodGet, path: tenantPath(id)})
}

// UpdateTenant changes what the settings name, and returns the client as it is then. It works on every node
// within a second.
func (a *Admin) UpdateTenant(ctx context.Context, id string, s TenantSettings) (Tenant, error) {
	body, err := json.Marshal(s)
	if err != nil {
		return Tenant{}, fmt.Errorf("client: changing client %s: %w", id, err)
	}
	return a.tenant(ctx, "changing", id, request{method: http.MethodPatch, path: tenantPath(id), body: body, match: s.IfMatch})
}

func (a *Admin) tenant(ctx context.Context, doing, id string, r request) (Tenant, error) {
	r.limit = maxReceipt
	var t Tenant
	if _, _, err := a.c.call(ctx, r, &t); err != nil {
		return Tenant{}, fmt.Errorf("client: %s client %s: %w", doing, id, err)
	}
	return t, nil
}

// DeleteTenant forgets a business client whose keys have all ended, but for its id, which nobody gets again.
func (a *Admin) DeleteTenant(ctx context.Context, id string) error {
	_, unknown, err := a.c.call(ctx, request{method: http.MethodDelete, path: tenantPath(id)}, nil)
	if p := asProblem(err); p != nil && unknown && p.Status == http.StatusNotFound {
		return nil // by an attempt whose answer was lost
	}
	if err != nil {
		return fmt.Errorf("client: deleting client %s: %w", id, err)
	}
	return nil
}

// Tenants iterates over the business clients, by their ids. An error ends the iteration: it comes last, with
// a zero Tenant.
func (a *Admin) Tenants(ctx context.Context) iter.Seq2[Tenant, error] {
	type page struct {
		Clients []Tenant `json:"clients"`
		next
	}
	return pages(ctx, a.c, "clients", "/v1/admin/clients", url.Values{}, func(p *page) ([]Tenant, string) { return p.Clients, p.Next })
}

// APIKey is an API key of a business client.
type APIKey struct {
	// ID names the key. It is no secret, and part of it.
	ID     string `json:"id"`
	Client string `json:"client"`
	Name   string `json:"name"`
	// Hint is the recognisable beginning of the key.
	Hint string `json:"hint"`
	// Status is active, expired or revoked.
	Status string `json:"status"`
	// Scopes narrow those of the client; none is all of them.
	Scopes    []string  `json:"scopes,omitempty"`
	CreatedAt time.Time `json:"created_at"`
	// ExpiresAt is zero for never; LastUsedAt, to within some minutes, and RevokedAt likewise.
	ExpiresAt  time.Time `json:"expires_at,omitzero"`
	LastUsedAt time.Time `json:"last_used_at,omitzero"`
	RevokedAt  time.Time `json:"revoked_at,omitzero"`
	// Secret is the key itself, from CreateKey and RotateKey alone: nobody can show it again.
	Secret string `json:"secret,omitempty"`
	// Replaces is the key that RotateKey has replaced, with its end.
	Replaces *APIKey `json:"replaces,omitempty"`
}

// KeySettings are what can be chosen of a new API key.
type KeySettings struct {
	Name   string   `json:"name,omitempty"`
	Scopes []string `json:"scopes,omitempty"` // none: all of the client's
	// ExpiresAt is when the key stops to work, zero for never.
	ExpiresAt time.Time `json:"expires_at,omitzero"`
}

// CreateKey makes an API key for a business client. It is not repeated: when its answer is lost there may be
// a key that nobody knows, which Keys shows and RevokeKey ends.
func (a *Admin) CreateKey(ctx context.Context, clientID string, s KeySettings) (APIKey, error) {
	return a.newKey(ctx, "creating an API key of", clientID, tenantPath(clientID, "keys"), s)
}

// RotateKey makes an API key like another one, which goes on to work for the overlap, of at most 90 days. A
// key that was made to expire gets one that lives as long. Like CreateKey it is not repeated.
func (a *Admin) RotateKey(ctx context.Context, clientID, keyID string, overlap time.Duration) (APIKey, error) {
	return a.newKey(ctx, "rotating an API key of", clientID, tenantPath(clientID, "keys", keyID, "rotate"), struct {
		Overlap int64 `json:"overlap"`
	}{int64((overlap + time.Second - 1) / time.Second)})
}

func (a *Admin) newKey(ctx context.Context, doing, clientID, path string, settings any) (APIKey, error) {
	body, err := json.Marshal(settings)
	var k APIKey
	if err == nil {
		err = a.c.retry.once(ctx, func(ctx context.Context) error {
			_, err := a.c.once(ctx, request{method: http.MethodPost, path: path, body: body, limit: maxReceipt}, &k)
			return err
		})
	}
	if err != nil {
		return APIKey{}, fmt.Errorf("client: %s client %s: %w", doing, clientID, err)
	}
	return k, nil
}

// Keys returns the API keys of a business client, newest first, ended ones among them; at most 1,000.
func (a *Admin) Keys(ctx context.Context, clientID string) ([]APIKey, error) {
	var page struct {
		Keys []APIKey `json:"keys"`
	}
	_, _, err := a.c.call(ctx, request{method: http.MethodGet, path: tenantPath(clientID, "keys"), limit: maxPage}, &page)
	if err != nil {
		return nil, fmt.Errorf("client: listing the API keys of client %s: %w", clientID, err)
	}
	return page.Keys, nil
}

// RevokeKey ends an API key, on every node within a second. Revoking a revoked key is no error.
func (a *Admin) RevokeKey(ctx context.Context, clientID, keyID string) (APIKey, error) {
	var k APIKey
	_, _, err := a.c.call(ctx, request{method: http.MethodDelete, path: tenantPath(clientID, "keys", keyID), limit: maxReceipt}, &k)
	if err != nil {
		return APIKey{}, fmt.Errorf("client: revoking API key %s of client %s: %w", keyID, clientID, err)
	}
	return k, nil
}

// AuditEntry says who did what to clients, keys, dead letters or webhooks.
type AuditEntry struct {
	// Number grows with every entry.
	Number int64     `json:"number"`
	At     time.Time `json:"at"`
	// Actor is "admin", or a client's id and its key's, as in "shop/a1b2c3d4e5".
	Actor string `json:"actor"`
	// Address is where the request came from.
	Address string `json:"address,omitempty"`
	// Action is the kind of thing and a verb, as in "key.revoke".
	Action string `json:"action"`
	Client string `json:"client,omitempty"`
	Object string `json:"object,omitempty"`
	// Detail is a JSON object that says more, nil for nothing.
	Detail json.RawMessage `json:"detail,omitempty"`
}

// AuditQuery selects entries of the audit log. Zero fields do not filter.
type AuditQuery struct {
	Client, Actor, Action string
	// From is inclusive, Until exclusive.
	From, Until time.Time
	// PageSize is how many entries one request fetches, at most 200; 0 leaves it to the server.
	PageSize int
}

// Audit iterates over the entries of the audit log that the query selects, newest first. An error ends the
// iteration: it comes last, with a zero AuditEntry.
func (a *Admin) Audit(ctx context.Context, q AuditQuery) iter.Seq2[AuditEntry, error] {
	type page struct {
		Entries []AuditEntry `json:"entries"`
		next
	}
	v := url.Values{}
	for name, value := range map[string]string{"client": q.Client, "actor": q.Actor, "action": q.Action} {
		if value != "" {
			v.Set(name, value)
		}
	}
	for name, at := range map[string]time.Time{"from": q.From, "until": q.Until} {
		if !at.IsZero() {
			v.Set(name, at.UTC().Format(time.RFC3339Nano))
		}
	}
	if q.PageSize != 0 {
		v.Set("limit", strconv.Itoa(q.PageSize))
	}
	return pages(ctx, a.c, "the audit log", "/v1/admin/audit", v, func(p *page) ([]AuditEntry, string) { return p.Entries, p.Next })
}
