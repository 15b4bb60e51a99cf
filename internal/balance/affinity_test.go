package balance

import (
	"encoding/base64"
	"net/http/httptest"
	"strings"
	"testing"
)

// What one device asks a hub meets at one node, also with a new token for each request.
func TestAffinity(t *testing.T) {
	jwt := func(claims, signature string) string {
		return "e30." + base64.RawURLEncoding.EncodeToString([]byte(claims)) + "." + signature
	}
	of := func(path, token string) uint64 {
		r := httptest.NewRequest("POST", path, nil)
		if token != "" {
			r.Header.Set("Authorization", "Bearer "+token)
		}
		return affinityOf(r)
	}
	const hub = "/hubs/mobile/negotiate"
	alice := of(hub, jwt(`{"sub":"alice","exp":1}`, "one"))
	if alice == 0 || of(hub, jwt(`{"sub":"alice","exp":2}`, "two")) != alice {
		t.Error("two tokens of one device lead to two nodes")
	}
	if of("/hubs/mobile?id=7&access_token="+jwt(`{"sub":"alice"}`, "three"), "") != alice {
		t.Error("a token in the query leads elsewhere")
	}
	if of(hub, jwt(`{"sub":"bob"}`, "one")) == alice {
		t.Error("bob is alice")
	}
	seen := make(map[uint64]string)
	for _, token := range []string{
		"no-jwt", "other", "e30..x", "e30.!.x", jwt(`{"sub":7}`, "x"), jwt(`{}`, "x"), jwt(`[`, "x"), jwt(`{"sub":""}`, "y"),
		"e30." + strings.Repeat("A", maxClaims+1) + ".x",
	} {
		n := of(hub, token)
		if n == 0 || n == alice || seen[n] != "" {
			t.Errorf("%.40s: %d, as %.40s", token, n, seen[n])
		}
		seen[n] = token
	}
	if of(hub, "") != 0 || of("/v1/messages", jwt(`{"sub":"alice"}`, "one")) != 0 {
		t.Error("what need not meet is tied to a node")
	}
}
