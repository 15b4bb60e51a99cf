package ingest

import (
	"context"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/esh3artech/esh3ar"
)

// What an address may do that sends API keys which are not there.
const (
	guessBurst    = 10              // wrong keys that cost nothing
	guessEvery    = 4 * time.Second // in which one of them is forgiven
	guessDebt     = 15              // wrong keys that are counted above the burst
	guessPatience = 2 * time.Second // the longest that a request is held back; beyond, 429
	guessWaiters  = 64              // requests held back at one time, of all addresses; beyond, 429
	maxGuessers   = 1 << 13         // addresses that are remembered; beyond, some other one is forgotten
)

// guesses counts the API keys that an address tried and that are not there, and slows it down: each one
// above a handful makes the next unknown key from there wait longer, and at last be refused without being
// looked at. It slows only who sends keys that are not known here.
//
// An address is one of IPv4, or a network of 64 bits of IPv6, which is what one subscriber has.
type guesses struct {
	mu   sync.Mutex
	from map[netip.Prefix]*rate.Limiter // only addresses that missed

	waiting chan struct{} // a slot for each request that is held back

	missed, delayed, refused atomic.Int64
}

func newGuesses() *guesses {
	return &guesses{from: make(map[netip.Prefix]*rate.Limiter), waiting: make(chan struct{}, guessWaiters)}
}

// addressOf returns the address that guesses from that network address are counted by, the zero one if
// there is none.
func addressOf(remote string) netip.Prefix {
	ap, err := netip.ParseAddrPort(remote)
	if err != nil {
		return netip.Prefix{}
	}
	addr := ap.Addr().Unmap().WithZone("")
	bits := 32
	if addr.Is6() {
		bits = 64
	}
	p, err := addr.Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return p
}

// admit lets an unknown key from that address be looked up, at once or after a while. Its error is of
// KindRateLimited, or ctx's.
func (g *guesses) admit(ctx context.Context, from netip.Prefix) error {
	wait := g.wait(from)
	if wait <= 0 {
		return nil
	}
	if wait > guessPatience {
		return g.refuse(wait)
	}
	select {
	case g.waiting <- struct{}{}:
		defer func() { <-g.waiting }()
	default:
		return g.refuse(wait)
	}
	g.delayed.Add(1)
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// stillAdmitted is admit for who cannot wait: others of its address may have missed since it was admitted.
func (g *guesses) stillAdmitted(from netip.Prefix) error {
	if wait := g.wait(from); wait > 0 {
		return g.refuse(wait)
	}
	return nil
}

// wait returns how long the address has to wait until it may try another key.
func (g *guesses) wait(from netip.Prefix) time.Duration {
	g.mu.Lock()
	l := g.from[from]
	g.mu.Unlock()
	if l == nil {
		return 0
	}
	return time.Duration(-l.Tokens() * float64(guessEvery))
}

func (g *guesses) refuse(wait time.Duration) error {
	g.refused.Add(1)
	return esh3ar.Errorf(esh3ar.KindRateLimited, "too_many_unknown_keys",
		"too many unknown API keys came from your address; check the key and try again later").After(wait)
}

// miss counts a key that is not there.
func (g *guesses) miss(from netip.Prefix) {
	g.missed.Add(1)
	if !from.IsValid() {
		return
	}
	g.mu.Lock()
	l := g.from[from]
	if l == nil {
		l = rate.NewLimiter(rate.Every(guessEvery), guessBurst)
		putBounded(g.from, from, l, maxGuessers)
	}
	g.mu.Unlock()
	// A reservation may make a debt, which admit waits for. It is bounded, so that a long attack does not
	// lock out for days who has the address next.
	if l.Tokens() > -guessDebt {
		l.Reserve()
	}
}
