package devicetoken_test

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/internal/devicetoken"
)

const secret = "a secret of thirty-two bytes or so"

var start = time.Date(2026, 11, 25, 8, 30, 0, 123456789, time.UTC)

// clock stands still until it is moved.
type clock struct{ time.Time }

func (c *clock) now() time.Time { return c.Time }

func newHS256(t testing.TB) (*devicetoken.HS256, *clock) {
	t.Helper()
	c := &clock{start}
	h, err := devicetoken.NewHS256([]byte(secret), c.now)
	if err != nil {
		t.Fatal(err)
	}
	return h, c
}

// wantCode fails the test unless err is an *esh3ar.Error of that kind and code.
func wantCode(t *testing.T, err error, kind esh3ar.Kind, code string) {
	t.Helper()
	var e *esh3ar.Error
	if !errors.As(err, &e) || e.Kind != kind || e.Code != code {
		t.Fatalf("error %v (%T), want %s %s", err, err, kind, code)
	}
}

func TestMintedTokenVerifies(t *testing.T) {
	h, _ := newHS256(t)
	for _, c := range []struct{ sub, want string }{
		{"alice", "alice"},
		{" alice ", "alice"},
		{"00962 79 123-4567", "+962791234567"},
		{"+962791234567", "+962791234567"},
		{"ليلى", "ليلى"},
	} {
		token, expires, err := h.Mint(c.sub, time.Minute)
		if err != nil {
			t.Fatalf("mint %q: %v", c.sub, err)
		}
		if want := start.Truncate(time.Second).Add(time.Minute); !expires.Equal(want) {
			t.Errorf("expires %s, want %s", expires, want)
		}
		claims, err := h.Verify(token)
		if err != nil {
			t.Fatalf("verify the token of %q: %v", c.sub, err)
		}
		if claims.Subject != c.want || !claims.ExpiresAt.Equal(expires) {
			t.Errorf("claims %+v, want subject %q until %s", claims, c.want, expires)
		}
	}
}

func TestMintRefuses(t *testing.T) {
	h, _ := newHS256(t)
	for _, c := range []struct {
		sub     string
		ttl     time.Duration
		code    string
		pointer string
	}{
		{"", time.Minute, "recipient_empty", "/sub"},
		{"a\x00b", time.Minute, "recipient_control_character", "/sub"},
		{strings.Repeat("x", 129), time.Minute, "recipient_too_long", "/sub"},
		{"alice", -time.Second, "token_ttl", "/ttl"},
		{"alice", time.Millisecond, "token_ttl", "/ttl"},
		{"alice", devicetoken.MaxTTL + time.Second, "token_ttl", "/ttl"},
	} {
		_, _, err := h.Mint(c.sub, c.ttl)
		wantCode(t, err, esh3ar.KindInvalid, c.code)
		var e *esh3ar.Error
		if errors.As(err, &e); e.Pointer != c.pointer {
			t.Errorf("pointer %q, want %q", e.Pointer, c.pointer)
		}
	}
	if _, expires, err := h.Mint("alice", 0); err != nil || !expires.Equal(start.Truncate(time.Second).Add(devicetoken.DefaultTTL)) {
		t.Errorf("default life: until %s, %v", expires, err)
	}
}

func TestTokenExpires(t *testing.T) {
	h, c := newHS256(t)
	token, expires, err := h.Mint("alice", time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	c.Time = expires.Add(-time.Nanosecond)
	if _, err := h.Verify(token); err != nil {
		t.Fatalf("just before its end: %v", err)
	}
	c.Time = expires
	_, err = h.Verify(token)
	wantCode(t, err, esh3ar.KindUnauthorized, "token_expired")
}

func TestVerifyRefuses(t *testing.T) {
	h, _ := newHS256(t)
	sign := func(method jwt.SigningMethod, key any, claims jwt.Claims) string {
		t.Helper()
		s, err := jwt.NewWithClaims(method, claims).SignedString(key)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	later := start.Add(time.Hour).Unix()
	good := sign(jwt.SigningMethodHS256, []byte(secret), jwt.MapClaims{"sub": "alice", "exp": later})
	parts := strings.Split(good, ".")
	forged := base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, `{"sub":"bob","exp":%d}`, later))

	for _, c := range []struct{ name, token, code string }{
		{"none", "", "token_missing"},
		{"not a token", "hello", "token_malformed"},
		{"two parts", parts[0] + "." + parts[1], "token_malformed"},
		{"four parts", good + ".x", "token_malformed"},
		{"bad base64", parts[0] + ".***." + parts[2], "token_malformed"},
		{"claims that are no JSON", parts[0] + "." + base64.RawURLEncoding.EncodeToString([]byte("no")) + "." + parts[2], "token_malformed"},
		{"too long", strings.Repeat("x", devicetoken.MaxLength+1), "token_malformed"},
		{"changed claims", parts[0] + "." + forged + "." + parts[2], "token_signature"},
		{"changed signature", good[:len(good)-3] + "AAA", "token_signature"},
		{"other secret", sign(jwt.SigningMethodHS256, []byte("other"), jwt.MapClaims{"sub": "alice", "exp": later}), "token_signature"},
		{"other secret and expired", sign(jwt.SigningMethodHS256, []byte("other"), jwt.MapClaims{"sub": "alice", "exp": 1}), "token_signature"},
		{"HS512", sign(jwt.SigningMethodHS512, []byte(secret), jwt.MapClaims{"sub": "alice", "exp": later}), "token_algorithm"},
		{"alg none", sign(jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, jwt.MapClaims{"sub": "alice", "exp": later}), "token_algorithm"},
		{"no exp", sign(jwt.SigningMethodHS256, []byte(secret), jwt.MapClaims{"sub": "alice"}), "token_without_expiry"},
		{"expired", sign(jwt.SigningMethodHS256, []byte(secret), jwt.MapClaims{"sub": "alice", "exp": start.Add(-time.Hour).Unix()}), "token_expired"},
		{"not yet", sign(jwt.SigningMethodHS256, []byte(secret), jwt.MapClaims{"sub": "alice", "exp": later, "nbf": later - 60}), "token_not_yet_valid"},
		{"no sub", sign(jwt.SigningMethodHS256, []byte(secret), jwt.MapClaims{"exp": later}), "token_without_subject"},
		{"sub with NUL", sign(jwt.SigningMethodHS256, []byte(secret), jwt.MapClaims{"sub": "a\x00", "exp": later}), "token_bad_subject"},
		{"sub too long", sign(jwt.SigningMethodHS256, []byte(secret), jwt.MapClaims{"sub": strings.Repeat("x", 129), "exp": later}), "token_bad_subject"},
		{"sub is a number", sign(jwt.SigningMethodHS256, []byte(secret), jwt.MapClaims{"sub": 7, "exp": later}), "token_malformed"},
		{"absurd exp", sign(jwt.SigningMethodHS256, []byte(secret), jwt.MapClaims{"sub": "alice", "exp": -1e300}), "token_expired"},
	} {
		t.Run(c.name, func(t *testing.T) {
			claims, err := h.Verify(c.token)
			wantCode(t, err, esh3ar.KindUnauthorized, c.code)
			if claims != (devicetoken.Claims{}) {
				t.Errorf("claims %+v of a refused token", claims)
			}
			var e *esh3ar.Error
			errors.As(err, &e)
			if strings.Contains(e.Message, "alice") || strings.Contains(e.Message, "bob") || strings.Contains(err.Error(), secret) {
				t.Errorf("the message tells too much: %s", err)
			}
		})
	}
}

func TestEmptySecretIsRefused(t *testing.T) {
	if _, err := devicetoken.NewHS256(nil, nil); err == nil {
		t.Fatal("no error")
	}
}

func FuzzVerify(f *testing.F) {
	h, _ := newHS256(f)
	token, _, err := h.Mint("alice", time.Minute)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(token)
	f.Add("a.b.c")
	f.Add("..")
	f.Fuzz(func(t *testing.T, s string) {
		claims, err := h.Verify(s)
		if err == nil && claims.Subject != "alice" {
			t.Fatalf("%q verifies as %+v", s, claims)
		}
		if err != nil && esh3ar.KindOf(err) != esh3ar.KindUnauthorized {
			t.Fatalf("%q: %v", s, err)
		}
	})
}

func BenchmarkVerify(b *testing.B) {
	h, _ := newHS256(b)
	token, _, err := h.Mint("+962791234567", time.Minute)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := h.Verify(token); err != nil {
			b.Fatal(err)
		}
	}
}
