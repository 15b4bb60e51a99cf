package esh3ar

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

func TestTiers(t *testing.T) {
	for tier := range Tier(Tiers) {
		if got, err := ParseTier(tier.String()); err != nil || got != tier {
			t.Errorf("ParseTier(%q) = %v, %v", tier.String(), got, err)
		}
	}
	for _, name := range []string{"", "Gold", "tier(7)"} {
		if _, err := ParseTier(name); KindOf(err) != KindInvalid {
			t.Errorf("ParseTier(%q): %v", name, err)
		}
	}
	if got := Tier(7).String(); got != "tier(7)" {
		t.Errorf("unknown tier is called %q", got)
	}
}

func TestKeys(t *testing.T) {
	a, b := NewKey(), NewKey()
	if a == b || !strings.HasPrefix(a, KeyPrefix) || len(a) != len(KeyPrefix)+32 {
		t.Errorf("keys %q and %q", a, b)
	}
	hash := HashKey(a)
	if hash == HashKey(b) || hash != HashKey(a) {
		t.Error("hashes do not tell keys apart")
	}
	hint := KeyHint(a)
	if !strings.HasPrefix(a, strings.TrimSuffix(hint, "…")) || len(hint) > len(KeyPrefix)+4+len("…") {
		t.Errorf("hint %q of %q", hint, a)
	}
	if hint := KeyHint("short-secret"); hint != "…" {
		t.Errorf("hint of a short key tells %q", hint)
	}
}

func TestError(t *testing.T) {
	cause := errors.New("disk on fire")
	base := Errorf(KindUnavailable, "busy", "too busy for %d", 7)
	e := base.At("/to").After(time.Second).Because(cause)
	if base.Pointer != "" || base.RetryAfter != 0 || base.Err != nil {
		t.Errorf("the original changed: %+v", base)
	}
	if got, want := e.Error(), "/to: too busy for 7: disk on fire"; got != want {
		t.Errorf("error %q, want %q", got, want)
	}
	wrapped := fmt.Errorf("while sending: %w", e)
	if !errors.Is(wrapped, cause) || KindOf(wrapped) != KindUnavailable || e.RetryAfter != time.Second {
		t.Errorf("wrapped %v", wrapped)
	}
	if KindOf(cause) != KindInternal || KindOf(nil) != KindInternal {
		t.Error("an unclassified error has a kind")
	}
	for k := KindInternal; int(k) < len(kindNames); k++ {
		if k.String() == "" {
			t.Errorf("kind %d has no name", k)
		}
	}
	if KindInsufficientStorage.String() != "insufficient_storage" || Kind(200).String() != "kind(200)" {
		t.Error("kinds and names do not match")
	}
}
