// Package devicetoken mints and verifies the tokens by which devices say who they are: JSON Web Tokens
// signed with HS256, whose subject is the recipient.
package devicetoken

import (
	"errors"
	"fmt"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/esh3artech/esh3ar"
)

const (
	// DefaultTTL is the life of a token whose minter did not say how long.
	DefaultTTL = time.Hour
	// MaxTTL is the longest life of a minted token. A token that another issuer signed with the same
	// secret may live longer.
	MaxTTL = 30 * 24 * time.Hour
	// MaxLength is the longest token that is looked at, in bytes.
	MaxLength = 8 << 10
	// GoodSecret is how long a secret should be, in bytes: as long as the hash (RFC 7518, 3.2).
	// Shorter ones work, but are easier to guess.
	GoodSecret = 32
)

// Claims is what a verified token says.
type Claims struct {
	// Subject is the recipient, normalised as that of a message.
	Subject string
	// ExpiresAt is when the token ends. A connection that it opened may outlive it no longer than
	// the hub allows.
	ExpiresAt time.Time
}

// HS256 mints and verifies tokens with one shared secret. It is safe for concurrent use.
//
// Nothing is cached: verifying takes a few microseconds, so that even ten thousand devices that
// connect at once cost tens of milliseconds together.
type HS256 struct {
	secret []byte
	now    func() time.Time
	parser *jwt.Parser
}

// NewHS256 returns a minter and verifier with that secret and clock. The clock is time.Now if it is
// nil. An empty secret is an error.
func NewHS256(secret []byte, now func() time.Time) (*HS256, error) {
	if len(secret) == 0 {
		return nil, errors.New("devicetoken: the secret is empty")
	}
	if now == nil {
		now = time.Now
	}
	return &HS256{
		secret: append([]byte(nil), secret...),
		now:    now,
		parser: jwt.NewParser(
			// Never let a token choose: that would allow none, or a public key as an HMAC secret.
			jwt.WithValidMethods([]string{jwt.SigningMethodHS256.Alg()}),
			jwt.WithExpirationRequired(),
			jwt.WithTimeFunc(now),
			jwt.WithStrictDecoding(),
		),
	}, nil
}

// Mint returns a token for the recipient sub, which is normalised, and when it expires. A ttl of 0
// means DefaultTTL; fractions of a second are dropped. Errors are of KindInvalid.
func (h *HS256) Mint(sub string, ttl time.Duration) (token string, expires time.Time, err error) {
	if sub, err = esh3ar.NormalizeRecipient(sub); err != nil {
		return "", time.Time{}, pointAt(err, "/sub")
	}
	if ttl == 0 {
		ttl = DefaultTTL
	}
	if ttl < time.Second || ttl > MaxTTL {
		return "", time.Time{}, esh3ar.Errorf(esh3ar.KindInvalid, "token_ttl", "a device token lives 1 to %d seconds", MaxTTL/time.Second).At("/ttl")
	}
	issued := h.now().UTC().Truncate(time.Second)
	expires = issued.Add(ttl.Truncate(time.Second))
	token, err = jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.RegisteredClaims{
		Subject:   sub,
		IssuedAt:  jwt.NewNumericDate(issued),
		ExpiresAt: jwt.NewNumericDate(expires),
	}).SignedString(h.secret)
	if err != nil {
		return "", time.Time{}, fmt.Errorf("devicetoken: sign: %w", err)
	}
	return token, expires, nil
}

// Verify returns what the token says if it is signed with the secret and valid now. There is no
// leeway in time. Errors are of KindUnauthorized; their messages are fit to be shown to the device.
func (h *HS256) Verify(token string) (Claims, error) {
	switch {
	case token == "":
		return Claims{}, unauthorized("token_missing", "send the device token in the Authorization header or the access_token parameter", nil)
	case len(token) > MaxLength:
		return Claims{}, unauthorized("token_malformed", "the device token is too long to be one", nil)
	}
	var claims jwt.RegisteredClaims
	parsed, err := h.parser.ParseWithClaims(token, &claims, h.key)
	if err != nil {
		return Claims{}, refusal(parsed, err)
	}
	if claims.Subject == "" {
		return Claims{}, unauthorized("token_without_subject", "the device token names no recipient in sub", nil)
	}
	sub, err := esh3ar.NormalizeRecipient(claims.Subject)
	if err != nil {
		return Claims{}, unauthorized("token_bad_subject", "the device token's sub is not a recipient", err)
	}
	return Claims{Subject: sub, ExpiresAt: claims.ExpiresAt.UTC()}, nil
}

func (h *HS256) key(*jwt.Token) (any, error) { return h.secret, nil }

// refusal says why a token was refused. The claims of a token with a wrong signature are not told.
func refusal(parsed *jwt.Token, err error) error {
	switch {
	case parsed != nil && parsed.Method != nil && parsed.Method.Alg() != jwt.SigningMethodHS256.Alg():
		return unauthorized("token_algorithm", "the device token is not signed with HS256", err)
	case errors.Is(err, jwt.ErrTokenSignatureInvalid):
		return unauthorized("token_signature", "the device token's signature is wrong: it was signed with another secret, or changed", err)
	case errors.Is(err, jwt.ErrTokenExpired):
		return unauthorized("token_expired", "the device token has expired; get a new one", err)
	case errors.Is(err, jwt.ErrTokenNotValidYet):
		return unauthorized("token_not_yet_valid", "the device token is not valid yet", err)
	case errors.Is(err, jwt.ErrTokenRequiredClaimMissing):
		return unauthorized("token_without_expiry", "the device token has no exp", err)
	case errors.Is(err, jwt.ErrTokenInvalidClaims):
		return unauthorized("token_claims", "the device token's claims are not valid", err)
	}
	return unauthorized("token_malformed", "the device token is not a signed JSON Web Token", err)
}

func unauthorized(code, message string, cause error) error {
	return esh3ar.Errorf(esh3ar.KindUnauthorized, code, "%s", message).Because(cause)
}

// pointAt names the field at fault in an error of this module.
func pointAt(err error, pointer string) error {
	var e *esh3ar.Error
	if errors.As(err, &e) {
		return e.At(pointer)
	}
	return err
}
