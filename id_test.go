package esh3ar

import (
	"crypto/sha256"
	"encoding/json"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"pgregory.net/rapid"
)

func shards() *rapid.Generator[uint16] { return rapid.Uint16() }

// instants draws times that a version 7 identifier can lead with.
func instants() *rapid.Generator[time.Time] {
	return rapid.Map(rapid.Int64Range(0, 1<<48-1), func(ms int64) time.Time { return time.UnixMilli(ms).UTC() })
}

func TestNewID(t *testing.T) {
	var g IDs
	rapid.Check(t, func(t *rapid.T) {
		at, shard := instants().Draw(t, "at"), shards().Draw(t, "shard")
		id := g.New(at, shard)
		if id.Version() != 7 || !id.Time().Equal(at) || id.Shard() != shard {
			t.Fatalf("%s: version %d, time %s, shard %d", id, id.Version(), id.Time(), id.Shard())
		}
		// An independent implementation agrees that it is a UUID, and on its text.
		u := uuid.UUID(id)
		if u.Variant() != uuid.RFC4122 || u.Version() != 7 || u.String() != id.String() {
			t.Fatalf("%s is %s, variant %s, version %s", id, u, u.Variant(), u.Version())
		}
	})
}

func TestNewIDsDiffer(t *testing.T) {
	var (
		g    IDs
		mu   sync.Mutex
		seen = make(map[ID]bool)
		wg   sync.WaitGroup
	)
	now := time.Now()
	for range 4 {
		wg.Go(func() {
			for range 5000 {
				id := g.New(now, 1)
				mu.Lock()
				if seen[id] {
					t.Errorf("%s came twice", id)
				}
				seen[id] = true
				mu.Unlock()
			}
		})
	}
	wg.Wait()
}

func TestIDText(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		id := ID(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "id"))
		s := id.String()
		for _, form := range []string{s, strings.ToUpper(s)} {
			if got, err := ParseID(form); err != nil || got != id {
				t.Fatalf("ParseID(%q) = %s, %v", form, got, err)
			}
		}
		text, err := json.Marshal(id)
		if err != nil || string(text) != `"`+s+`"` {
			t.Fatalf("JSON %s, %v", text, err)
		}
		var got ID
		if err := json.Unmarshal(text, &got); err != nil || got != id {
			t.Fatalf("from JSON: %s, %v", got, err)
		}
	})
}

func TestParseIDRefuses(t *testing.T) {
	for _, s := range []string{
		"", "0198c0de", "0198c0de7a1b7c3d8e4f0123456789ab", "{0198c0de-7a1b-7c3d-8e4f-0123456789ab}",
		"0198c0de-7a1b-7c3d-8e4f-0123456789a", "0198c0de-7a1b-7c3d-8e4f-0123456789abc",
		"0198c0de-7a1b-7c3d-8e4f-0123456789ag", "0198c0de_7a1b-7c3d-8e4f-0123456789ab",
		"0198c0de-7a1b-7c3d-8e4f+0123456789ab", "0198c0-de7a1b-7c3d-8e4f-0123456789ab",
	} {
		if id, err := ParseID(s); KindOf(err) != KindInvalid || id != (ID{}) {
			t.Errorf("ParseID(%q) = %s, %v", s, id, err)
		}
	}
	var id ID
	if err := id.UnmarshalText([]byte("no")); KindOf(err) != KindInvalid {
		t.Errorf("UnmarshalText: %v", err)
	}
}

func FuzzParseID(f *testing.F) {
	f.Add("0198c0de-7a1b-7c3d-8e4f-0123456789ab")
	f.Fuzz(func(t *testing.T, s string) {
		id, err := ParseID(s)
		if err == nil && id.String() != strings.ToLower(s) {
			t.Fatalf("ParseID(%q) = %s", s, id)
		}
	})
}

func TestDeriveID(t *testing.T) {
	var g IDs
	const window = 24 * time.Hour
	rapid.Check(t, func(t *rapid.T) {
		client, key := rapid.String().Draw(t, "client"), rapid.String().Draw(t, "key")
		digest := sha256.Sum256(rapid.SliceOf(rapid.Byte()).Draw(t, "body"))
		shard := shards().Draw(t, "shard")
		now := time.UnixMilli(rapid.Int64Range(1<<40, 1<<41).Draw(t, "now")).UTC()

		id := DeriveID(client, key, digest, now, window, shard)
		if id.Version() != 8 || id.Shard() != shard || uuid.UUID(id).Variant() != uuid.RFC4122 || !id.Time().IsZero() {
			t.Fatalf("%s: version %d, shard %d, time %s", id, id.Version(), id.Shard(), id.Time())
		}
		if again := DeriveID(client, key, digest, now.Add(time.Hour), window, shard); again != id {
			t.Fatalf("the same request gives %s and %s", id, again)
		}
		other := digest
		other[0] ^= 1
		for what, o := range map[string]ID{
			"client": DeriveID(client+"x", key, digest, now, window, shard),
			"key":    DeriveID(client, key+"x", digest, now, window, shard),
			"split":  DeriveID(client+"x"+key, "", digest, now, window, shard),
			"body":   DeriveID(client, key, other, now, window, shard),
		} {
			if o == id {
				t.Fatalf("another %s gives the same identifier", what)
			}
		}

		// A key that is a UUIDv7 of about now leads the identifier, whenever the copies come.
		age := time.Duration(rapid.Int64Range(int64(-5*time.Minute), int64(window)).Draw(t, "age")).Truncate(time.Millisecond)
		lead := now.Add(-age)
		key = g.New(lead, 0).String()
		if rapid.Bool().Draw(t, "upper case") {
			key = strings.ToUpper(key)
		}
		id = DeriveID(client, key, digest, now, window, shard)
		if id.Version() != 7 || !id.Time().Equal(lead) || id.Shard() != shard {
			t.Fatalf("%s: version %d, time %s of %s, shard %d", id, id.Version(), id.Time(), lead, id.Shard())
		}
		if again := DeriveID(client, key, digest, lead.Add(window), window, shard); again != id {
			t.Fatalf("the same request gives %s and %s", id, again)
		}
		for _, off := range []time.Duration{window + time.Millisecond, -5*time.Minute - time.Millisecond} {
			if id := DeriveID(client, key, digest, lead.Add(off), window, shard); id.Version() != 8 {
				t.Fatalf("a key of %s ago leads the identifier %s", off, id)
			}
		}
	})
}

func TestShardOf(t *testing.T) {
	// Stored messages depend on these: they must never change.
	for recipient, want := range map[string]uint16{"": 1, "a": 0, "+962791234567": 9, "user-17": 12} {
		if got := ShardOf(recipient, 16); got != want {
			t.Errorf("ShardOf(%q, 16) = %d, want %d", recipient, got, want)
		}
	}
	const shards, each = 16, 1000
	var count [shards]int
	for i := range shards * each {
		count[ShardOf("+96279"+string(rune('0'+i%10))+time.Duration(i).String(), shards)]++
	}
	for s, n := range count {
		if n < each*8/10 || n > each*12/10 {
			t.Errorf("shard %d has %d recipients of %d", s, n, each)
		}
	}
}

func BenchmarkIDs(b *testing.B) {
	var g IDs
	now := time.Now()
	b.Run("new", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			g.New(now, 1)
		}
	})
	key, digest := g.New(now, 0).String(), sha256.Sum256([]byte("body"))
	b.Run("derive", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			DeriveID("acme", key, digest, now, time.Hour, 1)
		}
	})
	b.Run("parse", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := ParseID(key); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("shard", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			ShardOf("+962791234567", 16)
		}
	})
}

func BenchmarkShardOf(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		ShardOf("+962791234567", 16)
	}
}
