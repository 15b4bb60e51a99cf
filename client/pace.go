package client

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"time"

	"github.com/dunglas/httpsfv"
	"golang.org/x/time/rate"
)

// Bounds of what a pace takes from a server.
const (
	// paceWindow is the longest time window of a policy that requests are spread over: a daily quota is not
	// spread over the day.
	paceWindow = time.Minute
	// paceKept is how long a rate holds when the server does not repeat it: a client's limits may be lifted.
	paceKept = time.Minute
)

// errNoTurn says that a message was not sent, because its turn within the rate comes too late.
var errNoTurn = errors.New("the rate limit leaves no turn in time")

// pace keeps a client within the rate that the server tells in the fields RateLimit-Policy and RateLimit
// (draft-ietf-httpapi-ratelimit-headers-11). What is over the rate waits here for its turn, in the order in which
// it came, rather than being refused there. Until the server tells a rate there is none. It is safe for concurrent use.
type pace struct {
	mu      sync.Mutex
	limiter *rate.Limiter // nil while no rate is known
	heard   time.Time     // when the server last told it
	waiting int           // messages of those who wait
	// head is held by the one who waits for tokens; the others wait for it, in order. So whoever gives up
	// leaves no gap.
	head chan struct{}
}

func newPace() *pace { return &pace{head: make(chan struct{}, 1)} }

// turn waits until n messages may be sent in one request. Its error is errNoTurn, at once, when that is after the
// deadline of ctx, or that of ctx.
func (p *pace) turn(ctx context.Context, n int) error {
	d, queue := p.join(n)
	if !queue {
		return nil
	}
	defer p.leave(n)
	if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) <= d {
		return errNoTurn
	}
	select {
	case p.head <- struct{}{}:
		defer func() { <-p.head }()
	case <-ctx.Done():
		return ctx.Err()
	}
	taken := p.reserve(n)
	if taken == nil || taken.Delay() <= 0 || sleep(ctx, taken.Delay()) {
		p.owe(n)
		return nil
	}
	taken.Cancel()
	if err := ctx.Err(); err != nil {
		return err
	}
	return errNoTurn
}

// join takes n tokens if nobody waits and they are there. Otherwise the caller is one of those who wait, until
// it leaves, for about d.
func (p *pace) join(n int) (d time.Duration, queue bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	if !p.known(now) {
		return 0, false
	}
	first := min(n, p.limiter.Burst())
	if p.waiting == 0 && p.limiter.AllowN(now, first) {
		p.debt(now, n)
		return 0, false
	}
	missing := float64(p.waiting+first) - p.limiter.TokensAt(now)
	p.waiting += n
	return time.Duration(missing / float64(p.limiter.Limit()) * float64(time.Second)), true
}

func (p *pace) leave(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.waiting -= n
}

// reserve takes what n messages have to wait for, nil if the rate is not known any more.
func (p *pace) reserve(n int) *rate.Reservation {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	if !p.known(now) {
		return nil
	}
	return p.limiter.ReserveN(now, min(n, p.limiter.Burst()))
}

// owe takes what n messages do not have to wait for.
func (p *pace) owe(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if now := time.Now(); p.known(now) {
		p.debt(now, n)
	}
}

// debt takes what n messages are more than the bucket holds: as on the server, a batch of any size goes
// through when the bucket is full, and who comes later waits for it.
func (p *pace) debt(now time.Time, n int) {
	burst := p.limiter.Burst()
	for n -= burst; n > 0; n -= burst {
		p.limiter.ReserveN(now, min(n, burst))
	}
}

func (p *pace) known(now time.Time) bool {
	return p.limiter != nil && now.Sub(p.heard) <= paceKept
}

// heed takes in what an answer tells of the rate, if it does.
func (p *pace) heed(h http.Header) {
	name, quota, window := shortestPolicy(h["Ratelimit-Policy"])
	if name == "" {
		return
	}
	left, told := available(h["Ratelimit"], name)
	perSecond := rate.Limit(float64(quota) / window.Seconds())
	burst := int(max(quota, left, 1))
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	if !p.known(now) {
		p.limiter = rate.NewLimiter(perSecond, burst)
	} else if p.limiter.Limit() != perSecond {
		p.limiter.SetLimitAt(now, perSecond)
		p.limiter.SetBurstAt(now, burst)
	} else if burst > p.limiter.Burst() {
		p.limiter.SetBurstAt(now, burst)
	}
	p.heard = now
	if !told {
		return
	}
	// The server knows better what is left, to within the part of a message that it does not tell.
	if over := int(p.limiter.TokensAt(now)) - int(left) - 1; over > 0 {
		p.limiter.AllowN(now, over)
	}
}

// shortestPolicy returns the policy with the shortest time window, "" if there is none that requests can be
// spread over. Malformed fields tell nothing.
func shortestPolicy(field []string) (name string, quota int64, window time.Duration) {
	eachLimit(field, func(n string, params *httpsfv.Params) {
		if unit, ok := params.Get("qu"); ok && unit != "requests" {
			return
		}
		q, ok := natural(params, "q")
		w, timed := natural(params, "w")
		if !ok || !timed || q < 1 || w < 1 || w > int64(paceWindow/time.Second) {
			return
		}
		if d := time.Duration(w) * time.Second; name == "" || d < window {
			name, quota, window = n, q, d
		}
	})
	return name, quota, window
}

// available returns what is left of the policy with that name.
func available(field []string, policy string) (left int64, told bool) {
	eachLimit(field, func(n string, params *httpsfv.Params) {
		if r, ok := natural(params, "r"); ok && n == policy {
			left, told = r, true
		}
	})
	return left, told
}

// eachLimit calls f for the strings of a list.
func eachLimit(field []string, f func(name string, params *httpsfv.Params)) {
	list, err := httpsfv.UnmarshalList(field)
	if err != nil {
		return
	}
	for _, m := range list {
		if item, ok := m.(httpsfv.Item); ok {
			if name, ok := item.Value.(string); ok && name != "" {
				f(name, item.Params)
			}
		}
	}
}

// natural returns a parameter that is a number of at most a billion.
func natural(params *httpsfv.Params, name string) (int64, bool) {
	v, _ := params.Get(name)
	n, ok := v.(int64)
	return min(n, 1_000_000_000), ok && n >= 0
}
