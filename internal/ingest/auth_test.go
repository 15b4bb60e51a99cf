package ingest

import (
	"context"
	"encoding/binary"
	"errors"
	"maps"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/internal/store"
)

// keyTable is Keys whose answers a test sets.
type keyTable struct {
	mu      sync.Mutex
	clients map[[32]byte]esh3ar.Client
	revoked map[[32]byte]bool
	expires map[[32]byte]time.Time
	fault   error
	asked   int
	touched []map[[32]byte]time.Time
	hang    bool // until ctx ends
}

func (k *keyTable) ClientByKey(ctx context.Context, hash [32]byte) (esh3ar.APIKey, esh3ar.Client, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.asked++
	if k.hang {
		<-ctx.Done()
		return esh3ar.APIKey{}, esh3ar.Client{}, ctx.Err()
	}
	c, ok := k.clients[hash]
	switch {
	case k.fault != nil:
		return esh3ar.APIKey{}, esh3ar.Client{}, k.fault
	case !ok:
		return esh3ar.APIKey{}, esh3ar.Client{}, store.ErrNotFound
	}
	key := esh3ar.APIKey{Hash: hash, Client: c.ID, ExpiresAt: k.expires[hash]}
	if k.revoked[hash] {
		key.RevokedAt = testNow
	}
	return key, c, nil
}

func (k *keyTable) TouchKeys(_ context.Context, used map[[32]byte]time.Time) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.fault != nil {
		return k.fault
	}
	k.touched = append(k.touched, maps.Clone(used))
	return nil
}

// change makes a change of the table.
func (k *keyTable) change(do func()) {
	k.mu.Lock()
	defer k.mu.Unlock()
	do()
}

func newKeyTable() *keyTable {
	return &keyTable{clients: make(map[[32]byte]esh3ar.Client), revoked: make(map[[32]byte]bool)}
}

func code(err error) string {
	if err == nil {
		return ""
	}
	return asError(err).Code
}

func TestRevocationWorksWithinASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table, hash := newKeyTable(), esh3ar.HashKey("k")
		table.clients[hash] = esh3ar.Client{ID: "alice"}
		k := newKeyring(table, time.Second, time.Now)
		for range 1000 {
			if c, err := k.grant(t.Context(), hash, "", 0); err != nil || c.ID != "alice" {
				t.Fatalf("%v, %v", c, err)
			}
		}
		if table.asked != 1 {
			t.Fatalf("asked %d times", table.asked)
		}
		// A key in use is looked up twice a second.
		for range 100 {
			time.Sleep(100 * time.Millisecond)
			if _, err := k.grant(t.Context(), hash, "", 0); err != nil {
				t.Fatal(err)
			}
		}
		if table.asked > 22 {
			t.Errorf("asked %d times in 10 s", table.asked)
		}
		table.revoked[hash] = true
		time.Sleep(time.Second)
		if _, err := k.grant(t.Context(), hash, "", 0); code(err) != "api_key_revoked" {
			t.Errorf("a second after the revocation: %v", err)
		}
		table.revoked[hash] = false
		time.Sleep(time.Second)
		if _, err := k.grant(t.Context(), hash, "", 0); err != nil {
			t.Errorf("back again: %v", err)
		}
		table.clients[hash] = esh3ar.Client{ID: "alice", Tier: esh3ar.TierBronze}
		time.Sleep(time.Second)
		if c, err := k.grant(t.Context(), hash, "", 0); err != nil || c.Tier != esh3ar.TierBronze {
			t.Errorf("after a change of the client: %+v, %v", c, err)
		}
		delete(table.clients, hash)
		time.Sleep(time.Hour)
		if _, err := k.grant(t.Context(), hash, "", 0); code(err) != "api_key_revoked" {
			t.Errorf("removed while idle: %v", err)
		}
	})
}

func TestForgottenKeyIsLookedUpAtOnce(t *testing.T) {
	table, hash := newKeyTable(), esh3ar.HashKey("k")
	table.clients[hash] = esh3ar.Client{ID: "alice"}
	k := newKeyring(table, time.Hour, time.Now)
	if _, err := k.grant(t.Context(), hash, "", 0); err != nil {
		t.Fatal(err)
	}
	table.revoked[hash] = true
	k.forget(hash)
	if _, err := k.grant(t.Context(), hash, "", 0); code(err) != "api_key_revoked" {
		t.Errorf("%v", err)
	}
}

func TestKnownKeysOutliveTheStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table, hash := newKeyTable(), esh3ar.HashKey("k")
		table.clients[hash] = esh3ar.Client{ID: "alice"}
		k := newKeyring(table, time.Second, time.Now)
		if _, err := k.grant(t.Context(), hash, "", 0); err != nil {
			t.Fatal(err)
		}
		for _, outage := range []func(){
			func() { table.fault = errors.New("down") },
			func() { table.hang = true },
		} {
			outage()
			table.asked = 0
			began := time.Now()
			for range 100 {
				time.Sleep(100 * time.Millisecond)
				if _, err := k.grant(t.Context(), hash, "", 0); err != nil {
					t.Fatalf("a known key: %v", err)
				}
			}
			if table.asked > 40 {
				t.Errorf("asked %d times within %s", table.asked, time.Since(began))
			}
			began = time.Now()
			if _, err := k.grant(t.Context(), esh3ar.HashKey("new"), "", 0); code(err) != "api_key_not_checked" || esh3ar.KindOf(err) != esh3ar.KindUnavailable {
				t.Errorf("a new key: %v", err)
			}
			if took := time.Since(began); took > newKeyTime {
				t.Errorf("a new key took %s", took)
			}
		}
		table.fault, table.hang = nil, false
		if _, err := k.grant(t.Context(), esh3ar.HashKey("new"), "", 0); code(err) != "api_key_unknown" {
			t.Errorf("when the store is back: %v", err)
		}
	})
}

func TestUnknownKeysAskSeldom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table := newKeyTable()
		k := newKeyring(table, time.Second, time.Now)
		one := esh3ar.HashKey("wrong")
		for range 1000 {
			if _, err := k.grant(t.Context(), one, "", 0); code(err) != "api_key_unknown" {
				t.Fatal(err)
			}
		}
		if table.asked != 1 {
			t.Errorf("one wrong key was looked up %d times", table.asked)
		}
		// A key that is made valid works soon.
		table.clients[one] = esh3ar.Client{ID: "alice"}
		time.Sleep(time.Second)
		if _, err := k.grant(t.Context(), one, "", 0); err != nil {
			t.Errorf("a new key: %v", err)
		}
		// Many different wrong keys: the budget, then no look-ups.
		table.asked = 0
		codes := make(map[string]int)
		for i := range uint64(100_000) {
			var hash [32]byte
			binary.BigEndian.PutUint64(hash[:], i)
			_, err := k.grant(t.Context(), hash, "", 0)
			codes[code(err)]++
		}
		if table.asked > unknownBurst || codes["api_key_not_checked"] < 90_000 || codes[""] != 0 {
			t.Errorf("asked %d times: %v", table.asked, codes)
		}
		if len(k.unknown) > maxUnknownKeys {
			t.Errorf("%d unknown keys are remembered", len(k.unknown))
		}
		if _, err := k.grant(t.Context(), one, "", 0); err != nil {
			t.Errorf("a known key during the attack: %v", err)
		}
		time.Sleep(time.Second)
		other := esh3ar.HashKey("other")
		table.clients[other] = esh3ar.Client{ID: "bob"}
		if _, err := k.grant(t.Context(), other, "", 0); err != nil {
			t.Errorf("a new key after the attack: %v", err)
		}
	})
}

func TestManyKeysAtOnce(t *testing.T) {
	table := newKeyTable()
	const n = 2000
	for i := range uint64(n) {
		var hash [32]byte
		binary.BigEndian.PutUint64(hash[:], i)
		table.clients[hash] = esh3ar.Client{ID: "alice"}
	}
	k := newKeyring(table, time.Minute, time.Now)
	var all sync.WaitGroup
	for i := range uint64(4 * n) {
		all.Go(func() {
			var hash [32]byte
			binary.BigEndian.PutUint64(hash[:], i%n)
			if _, err := k.grant(t.Context(), hash, "", 0); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
}

func TestMapsAreBounded(t *testing.T) {
	m := make(map[[32]byte]int)
	for i := range 100 {
		putBounded(m, [32]byte{byte(i)}, i, 10)
	}
	if len(m) != 10 || m[[32]byte{99}] != 99 {
		t.Errorf("%v", m)
	}
}

func TestRecentKeysForgetTheOldest(t *testing.T) {
	r := newRecentKeys(16 * 4)
	var hashes []keyHash
	for i := range 1000 {
		h := hashKey("alice", string(rune('a'+i)))
		hashes = append(hashes, h)
		r.put(h, store.Remembered{To: "x", Digest: [32]byte{byte(i)}})
		if u, ok := r.get(h); !ok || u.Digest[0] != byte(i) {
			t.Fatalf("key %d is lost at once", i)
		}
	}
	kept := 0
	for i, h := range hashes {
		if _, ok := r.get(h); ok {
			kept++
			if i < 500 {
				t.Errorf("key %d of 1000 is still there", i)
			}
		}
	}
	if kept != 64 {
		t.Errorf("%d keys are kept", kept)
	}
	// The first use stays.
	last := hashes[len(hashes)-1]
	before, _ := r.get(last)
	r.put(last, store.Remembered{To: "y"})
	if u, _ := r.get(last); u != before {
		t.Errorf("%+v replaced %+v", u, before)
	}
}

func TestKeysOfClientsDiffer(t *testing.T) {
	if hashKey("ab", "c") == hashKey("a", "bc") {
		t.Error("client and key run together")
	}
}
