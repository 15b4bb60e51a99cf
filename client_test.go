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

func TestCheckClient(t *testing.T) {
	good := Client{
		ID: "a-b_c.9", Name: "متجر Größe", Tier: TierBronze, Rate: MaxRate, Burst: MaxRate, DailyQuota: MaxDailyQuota,
		Recipients: "+962* shop-*", Scopes: AllScopes,
	}
	if err := good.Check(); err != nil {
		t.Error(err)
	}
	wantFaults(t, (&Client{}).Check(), "/id bad_client_id", "/name bad_name")
	bad := Client{
		ID: "Alice", Name: " a", Tier: Tiers, Rate: -1, Burst: MaxRate + 1, DailyQuota: -5, Recipients: "a\x00", Scopes: 1 << 30,
	}
	err := bad.Check()
	wantFaults(t, err, "/burst out_of_range", "/daily_quota out_of_range", "/id bad_client_id", "/name bad_name", "/rate out_of_range",
		"/recipients bad_recipients", "/scopes unknown_scope", "/tier unknown_tier")
	if KindOf(err) != KindInvalid || !strings.Contains(err.Error(), "/rate") || !strings.Contains(err.Error(), "; ") {
		t.Errorf("%v", err)
	}
	bad = good
	bad.Rate = 0
	wantFaults(t, bad.Check(), "/burst burst_without_rate")
	for id, ok := range map[string]bool{
		"a": true, "0": true, strings.Repeat("a", MaxClientID): true,
		"": false, "-a": false, ".": false, "_": false, "a/b": false, "A": false, "ä": false, "a b": false, strings.Repeat("a", MaxClientID+1): false,
	} {
		if IsClientID(id) != ok {
			t.Errorf("%.70q: %v", id, !ok)
		}
	}
}

func TestFaults(t *testing.T) {
	var f Faults
	if f.Err() != nil {
		t.Error("no faults are an error")
	}
	f.Join("/a", nil)
	f.Join("/a", Errorf(KindForbidden, "no", "not that"))
	f.Join("/b", fmt.Errorf("wrapped: %w", Errorf(KindConflict, "there", "already there")))
	f.Join("/c", errors.New("secret"))
	if len(f) != 3 || f[0].Pointer != "/a" || f[1].Code != "there" || f[2].Code != "invalid" || f[2].Message == "secret" {
		t.Errorf("%+v", f)
	}
	if KindOf(fmt.Errorf("wrapped: %w", f.Err())) != KindForbidden {
		t.Error("the kind is not the first fault's")
	}
}
