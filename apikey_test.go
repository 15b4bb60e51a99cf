package esh3ar

import (
	"errors"
	"strings"
	"testing"
	"time"
)

func TestNewKey(t *testing.T) {
	seen := make(map[string]bool)
	for range 1000 {
		key := NewKey()
		id := KeyID(key)
		secret, ok := strings.CutPrefix(key, KeyPrefix+id+"_")
		if !ok || len(id) != keyIDLength || len(secret) != 32 || seen[id] || seen[secret] {
			t.Fatalf("key %q with the id %q", key, id)
		}
		seen[id], seen[secret] = true, true
		if got, want := KeyHint(key), KeyPrefix+id+"_…"; got != want {
			t.Fatalf("hint %q, want %q", got, want)
		}
		if HashKey(key) == HashKey(key+"x") {
			t.Fatal("hashes do not tell keys apart")
		}
	}
}

func TestKeysOfOtherForms(t *testing.T) {
	for key, hint := range map[string]string{
		"short-secret": "…",
		"esh_LongSecretOfTheOldFormWithout-An-Id12": "esh_Long…",
		"esh_abcdefghij_":             "…",         // carries an id, but is too short to show anything
		"esh_abcdef0000_secretsecret": "esh_abcd…", // 0 is no letter of an id
	} {
		if id := KeyID(key); len(id) != keyIDLength || strings.Contains(id, "_") {
			t.Errorf("id %q of %q", id, key)
		}
		if got := KeyHint(key); got != hint {
			t.Errorf("hint %q of %q, want %q", got, key, hint)
		}
	}
}

func TestKeyWorks(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for name, test := range map[string]struct {
		key  APIKey
		want bool
	}{
		"new":            {APIKey{}, true},
		"to expire":      {APIKey{ExpiresAt: now.Add(time.Microsecond)}, true},
		"expired":        {APIKey{ExpiresAt: now}, false},
		"revoked":        {APIKey{RevokedAt: now.Add(-time.Hour)}, false},
		"revoked before": {APIKey{RevokedAt: now, ExpiresAt: now.Add(time.Hour)}, false},
	} {
		if got := test.key.Works(now); got != test.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestCheckKey(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	good := APIKey{Name: "Kasse 1 ورد", Scopes: ScopeSend | ScopeRead, ExpiresAt: now.Add(time.Second)}
	if err := good.Check(now); err != nil {
		t.Error(err)
	}
	bad := APIKey{Name: "two\nlines", Scopes: 1 << 20, ExpiresAt: now}
	wantFaults(t, bad.Check(now), "/expires_at already_expired", "/name bad_name", "/scopes unknown_scope")
	bad = APIKey{Name: strings.Repeat("n", MaxKeyName+1), ExpiresAt: time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC)}
	wantFaults(t, bad.Check(now), "/expires_at out_of_range", "/name name_too_long")
}

// wantFaults fails the test unless err is these faults, as "pointer code", in the order of their pointers.
func wantFaults(t *testing.T, err error, want ...string) {
	t.Helper()
	var faults Faults
	if !errors.As(err, &faults) && len(want) > 0 {
		t.Fatalf("%v, want the faults %v", err, want)
	}
	var got []string
	for _, f := range faults {
		if f.Kind != KindInvalid || f.Message == "" {
			t.Errorf("fault %+v", f)
		}
		got = append(got, f.Pointer+" "+f.Code)
	}
	if a, b := strings.Join(sorted(got), "\n"), strings.Join(want, "\n"); a != b {
		t.Errorf("faults:\n%s\nwant:\n%s", a, b)
	}
}
