package store

import (
	"fmt"
	"time"

	"github.com/esh3artech/esh3ar"
)

// Instant scans a time that is stored in microseconds since 1970-01-01 UTC, NULL for the zero time.
type Instant time.Time

// Scan implements sql.Scanner.
func (t *Instant) Scan(v any) error {
	switch v := v.(type) {
	case nil:
		*t = Instant{}
	case int64:
		*t = Instant(time.UnixMicro(v).UTC())
	default:
		return fmt.Errorf("a time is stored as %T", v)
	}
	return nil
}

// Digest scans a hash of 32 bytes.
type Digest [32]byte

// Scan implements sql.Scanner.
func (d *Digest) Scan(v any) error {
	b, ok := v.([]byte)
	if !ok || len(b) != len(d) {
		return fmt.Errorf("a hash is stored as %T of %d bytes", v, len(b))
	}
	copy(d[:], b)
	return nil
}

// The columns of a client, in a query that names the table c, and those of an API key, in one that names it k.
const (
	ClientColumns = `c.id, c.name, c.tier, c.rate, c.burst, c.daily_quota, c.recipients, c.scopes, c.suspended, c.created_at, c.revision`
	KeyColumns    = `k.id, k.hash, k.client, k.name, k.hint, k.scopes, k.created_at, k.expires_at, k.last_used_at, k.revoked_at`
)

// ClientFields are what the ClientColumns are scanned into.
func ClientFields(c *esh3ar.Client) []any {
	return []any{
		&c.ID, &c.Name, &c.Tier, &c.Rate, &c.Burst, &c.DailyQuota, &c.Recipients, &c.Scopes, &c.Suspended,
		(*Instant)(&c.CreatedAt), &c.Revision,
	}
}

// KeyFields are what the KeyColumns are scanned into.
func KeyFields(k *esh3ar.APIKey) []any {
	return []any{
		&k.ID, (*Digest)(&k.Hash), &k.Client, &k.Name, &k.Hint, &k.Scopes,
		(*Instant)(&k.CreatedAt), (*Instant)(&k.ExpiresAt), (*Instant)(&k.LastUsedAt), (*Instant)(&k.RevokedAt),
	}
}

// AuditFields are what the columns of the audit log are scanned into: number, at, actor, address, action,
// client, object, detail.
func AuditFields(e *AuditEntry) []any {
	return []any{&e.Number, (*Instant)(&e.At), &e.Actor, &e.Address, &e.Action, &e.Client, &e.Object, &e.Detail}
}
