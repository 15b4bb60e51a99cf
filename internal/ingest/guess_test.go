package ingest

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/esh3artech/esh3ar"
)

// numbered returns the hash of some key that is like no other.
func numbered(n uint64) (hash [32]byte) {
	binary.BigEndian.PutUint64(hash[:], n)
	return hash
}

func TestGuessingIsSlowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table, good, fresh := newKeyTable(), esh3ar.HashKey("good"), esh3ar.HashKey("fresh")
		table.clients[good], table.clients[fresh] = esh3ar.Client{ID: "alice"}, esh3ar.Client{ID: "bob"}
		k := newKeyring(table, time.Second, time.Now)
		const guesser, neighbour = "192.0.2.7:4711", "192.0.2.8:4711"
		if _, err := k.grant(t.Context(), good, guesser, 0); err != nil {
			t.Fatal(err)
		}
		began, n := time.Now(), uint64(0)
		codes := make(map[string]int)
		for time.Since(began) < time.Minute {
			n++
			_, err := k.grant(t.Context(), numbered(n), fmt.Sprintf("192.0.2.7:%d", 1024+n%1000), 0)
			codes[code(err)]++
			if e := asError(err); e.Code == "too_many_unknown_keys" && (e.RetryAfter <= 0 || e.Kind != esh3ar.KindRateLimited) {
				t.Fatalf("%+v", e)
			}
			time.Sleep(100 * time.Millisecond)
		}
		if got, most := codes["api_key_unknown"], guessBurst+int(time.Minute/guessEvery)+2; got < guessBurst || got > most {
			t.Errorf("%d guesses of a minute were looked at, want %d at most: %v", got, most, codes)
		}
		if codes["too_many_unknown_keys"] == 0 || k.guesses.delayed.Load() == 0 || k.guesses.refused.Load() == 0 || k.guesses.missed.Load() == 0 {
			t.Errorf("%v; delayed %d, refused %d, missed %d", codes, k.guesses.delayed.Load(), k.guesses.refused.Load(), k.guesses.missed.Load())
		}
		// A key that is known is never slowed, and neither is anybody else.
		began = time.Now()
		if _, err := k.grant(t.Context(), good, guesser, 0); err != nil || time.Since(began) > 0 {
			t.Errorf("a known key of the address: %v after %s", err, time.Since(began))
		}
		if _, err := k.grant(t.Context(), fresh, neighbour, 0); err != nil || time.Since(began) > 0 {
			t.Errorf("a key of another address: %v after %s", err, time.Since(began))
		}
		// In time all is forgiven.
		time.Sleep((guessDebt + guessBurst) * guessEvery)
		began = time.Now()
		for range guessBurst {
			n++
			if _, err := k.grant(t.Context(), numbered(n), guesser, 0); code(err) != "api_key_unknown" || time.Since(began) > 0 {
				t.Fatalf("%v after %s", err, time.Since(began))
			}
		}
	})
}

// TestGuessingAtOnce: many guesses at one time get no further than one after the other.
func TestGuessingAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKeyring(newKeyTable(), time.Second, time.Now)
		var looked, refused atomic.Int64
		var all sync.WaitGroup
		for n := range uint64(2000) {
			all.Go(func() {
				_, err := k.grant(t.Context(), numbered(n), "[2001:db8::1]:443", 0)
				switch code(err) {
				case "api_key_unknown":
					looked.Add(1)
				case "too_many_unknown_keys":
					refused.Add(1)
				default:
					t.Error(err)
				}
			})
		}
		all.Wait()
		if most := int64(guessBurst + keyLookups + guessWaiters); looked.Load() > most || looked.Load()+refused.Load() != 2000 {
			t.Errorf("looked up %d, refused %d", looked.Load(), refused.Load())
		}
		if len(k.guesses.waiting) != 0 {
			t.Errorf("%d are still held back", len(k.guesses.waiting))
		}
	})
}

// TestOneWrongKeyIsNoGuessing: a program with a mistyped key is told so, again and again.
func TestOneWrongKeyIsNoGuessing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKeyring(newKeyTable(), time.Second, time.Now)
		wrong := esh3ar.HashKey("mistyped")
		for range 1000 {
			if _, err := k.grant(t.Context(), wrong, "192.0.2.7:1", 0); code(err) != "api_key_unknown" {
				t.Fatal(err)
			}
			time.Sleep(100 * time.Millisecond)
		}
	})
}

func TestAddressOf(t *testing.T) {
	for remote, want := range map[string]string{
		"192.0.2.7:80":                   "192.0.2.7/32",
		"[::ffff:192.0.2.7]:80":          "192.0.2.7/32",
		"[2001:db8:1:2:3:4:5:6]:80":      "2001:db8:1:2::/64",
		"[fe80::1%eth0]:80":              "fe80::/64",
		"":                               "invalid Prefix",
		"localhost:80":                   "invalid Prefix",
		"@":                              "invalid Prefix",
		"[2001:db8:1:2:ffff:4:5:6]:9999": "2001:db8:1:2::/64",
	} {
		if got := addressOf(remote).String(); got != want {
			t.Errorf("%q: %s, want %s", remote, got, want)
		}
	}
}

func TestGuessersAreBounded(t *testing.T) {
	g := newGuesses()
	for n := range uint32(maxGuessers + 100) {
		var a [4]byte
		binary.BigEndian.PutUint32(a[:], n)
		g.miss(netip.PrefixFrom(netip.AddrFrom4(a), 32))
	}
	if len(g.from) != maxGuessers {
		t.Errorf("%d addresses are remembered", len(g.from))
	}
}
