package esh3ar

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"time"
)

// Tier is the service level that a client has bought. A higher tier never waits behind a lower
// one's backlog. Lower numbers are served first.
type Tier uint8

// The tiers.
const (
	TierGold Tier = iota
	TierSilver
	TierBronze

	// Tiers is their number.
	Tiers = 3
)

var tierNames = [Tiers]string{"gold", "silver", "bronze"}

// ParseTier returns the tier of that name. Its error is of KindInvalid.
func ParseTier(name string) (Tier, error) {
	for t, n := range tierNames {
		if n == name {
			return Tier(t), nil
		}
	}
	return 0, Errorf(KindInvalid, "unknown_tier", "%q is not a tier; use gold, silver or bronze", name)
}

// String returns the tier's name.
func (t Tier) String() string {
	if t < Tiers {
		return tierNames[t]
	}
	return fmt.Sprintf("tier(%d)", uint8(t))
}

// Client is a business client (tenant): who sends messages.
type Client struct {
	// ID names the client in messages, events and logs. It never changes.
	ID string
	// Name is what devices see as the sender ("from").
	Name string
	Tier Tier
	// Rate is how many messages a second the client may send in the long run, 0 for as many as it likes.
	// Burst is how many it may send at once when it was quiet; 0 with a Rate means one second's worth.
	Rate, Burst int
	// DailyQuota is how many messages the client may send in a day (UTC), 0 for as many as it likes.
	DailyQuota int64
	// Recipients is a pattern that the client's recipients must match, "" for any: a list of
	// alternatives, separated by spaces, in which * stands for any characters, as in "+962* shop-*".
	Recipients string
	// Scopes are what the client's keys may be used for.
	Scopes Scopes
	// MintTokens allows the client to mint device tokens for its recipients.
	MintTokens bool
	// Suspended says that none of the client's keys work for now. What it sent goes on.
	Suspended bool
	CreatedAt time.Time
}

// Scopes is a set of things that an API key may be used for.
type Scopes uint32

// The scopes.
const (
	ScopeSend        Scopes = 1 << iota // send and cancel messages
	ScopeRead                           // read messages and their events, on every way
	ScopeDeadLetters                    // list, replay and discard dead letters
	ScopeWebhooks                       // manage webhook endpoints
	ScopeTokens                         // mint device tokens

	// AllScopes is every scope.
	AllScopes = ScopeSend | ScopeRead | ScopeDeadLetters | ScopeWebhooks | ScopeTokens
)

// Has reports whether every scope of want is in s.
func (s Scopes) Has(want Scopes) bool { return s&want == want }

// APIKey is one key of a client, without the secret itself.
type APIKey struct {
	// Hash is SHA-256 of the whole key. Keys carry 192 random bits, so a plain hash is enough.
	Hash   [sha256.Size]byte
	Client string
	// Hint is the recognisable beginning of the key, safe to show.
	Hint      string
	CreatedAt time.Time
	// RevokedAt is when the key stopped to work, zero while it does.
	RevokedAt time.Time
}

// KeyPrefix begins every generated API key, so that scanners and people recognise one.
const KeyPrefix = "esh_"

// NewKey returns a fresh API key. The secret is shown once and never stored.
func NewKey() (secret string) {
	var b [24]byte
	rand.Read(b[:]) // never fails since Go 1.24
	return KeyPrefix + base64.RawURLEncoding.EncodeToString(b[:])
}

// HashKey returns what is stored of an API key.
func HashKey(secret string) [sha256.Size]byte { return sha256.Sum256([]byte(secret)) }

// KeyHint returns the part of an API key that is safe to show.
func KeyHint(secret string) string {
	const n = len(KeyPrefix) + 4
	if len(secret) <= 2*n {
		return "…"
	}
	return secret[:n] + "…"
}
