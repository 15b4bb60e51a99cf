package ingest

import (
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/internal/admission"
)

// accounts keep what the clients that have limits used of them on this node. Each has a lock of its own;
// clients without limits have no account.
type accounts struct {
	wait     time.Duration // how long a call may wait for its client's rate
	nodes    func() int    // how many nodes share the clients' calls, this one among them; nil for one
	start    time.Time     // the buckets' times are since this
	byClient sync.Map      // id → *account
	fresh    chan struct{} // cap 1: there is an account whose usage the store was not asked for
}

// account is what one client used.
type account struct {
	mu     sync.Mutex
	bucket admission.Bucket
	quota  admission.Quota
	used   time.Duration // the last time, since the start
	closed bool          // not in accounts any more
}

// charge is what a call took of its client's limits. The zero charge is that of a client without limits.
type charge struct {
	account  *account
	messages int
	day      int64
	wait     time.Duration // until the call may go on
	standing standing
}

// standing is how a client stands with its limits, as the RateLimit fields tell it.
type standing struct {
	rate  int           // messages a second, 0 for as many as it likes
	left  int           // may be sent at once
	next  time.Duration // until there is one if none is left
	quota int64         // of the day, 0 for as many as it likes
	rest  int64         // left of it
	day   time.Duration // until the next one
}

// limited reports whether the client has limits at all.
func (s *standing) limited() bool { return s.rate > 0 || s.quota > 0 }

// charge takes n messages out of the client's rate and its quota of the day, all or none. Its error is an
// *overLimit.
func (a *accounts) charge(client *esh3ar.Client, n int, now time.Time) (charge, error) {
	if client.Rate == 0 && client.DailyQuota == 0 {
		return charge{}, nil
	}
	since := time.Since(a.start)
	c := a.lock(client.ID)
	defer c.mu.Unlock()
	c.used = since
	day, left := admission.Day(now)
	nodes := 1
	s := standing{rate: client.Rate, quota: client.DailyQuota, day: left}
	if s.rate > 0 {
		nodes = a.sharers()
		c.bucket.SetRate(share(client.Rate, nodes), share(client.Burst, nodes), since)
	}
	// The quota is looked at first: it is no use to wait for what will be refused.
	if s.quota > 0 {
		if s.rest = c.quota.Left(s.quota, day); int64(n) > s.rest {
			if s.rate > 0 {
				s.left, s.next = c.left(nodes, since)
			}
			return charge{}, quotaExhausted(n, s)
		}
	}
	var wait time.Duration
	if s.rate > 0 {
		var ok bool
		wait, ok = c.bucket.Take(n, since, a.wait)
		s.left, s.next = c.left(nodes, since)
		if !ok {
			return charge{}, rateLimited(n, wait, s)
		}
	}
	if s.quota > 0 {
		c.quota.Take(n, s.quota, day)
		s.rest -= int64(n)
	}
	return charge{account: c, messages: n, day: day, wait: wait, standing: s}, nil
}

// sharers returns how many nodes share the clients' calls.
func (a *accounts) sharers() int {
	if a.nodes == nil {
		return 1
	}
	return max(1, a.nodes())
}

// share is this node's part of a limit, of which calls that are spread evenly over the nodes take no more.
func share(limit, nodes int) int { return (limit + nodes - 1) / nodes }

// left returns what is left of the client's rate over all nodes, as if they stood all alike, and when there is
// some if nothing is.
func (c *account) left(nodes int, since time.Duration) (int, time.Duration) {
	n, next := c.bucket.Left(since)
	return n * nodes, next
}

// refund gives back n of the messages that were charged: they were surely not accepted.
func (c *charge) refund(n int) {
	if c.account == nil || n == 0 {
		return
	}
	c.account.mu.Lock()
	defer c.account.mu.Unlock()
	if c.standing.rate > 0 {
		c.account.bucket.Return(n)
	}
	if c.standing.quota > 0 {
		c.account.quota.Return(n, c.day)
	}
}

// lock returns the client's account, locked.
func (a *accounts) lock(client string) *account {
	for {
		v, ok := a.byClient.Load(client)
		if !ok {
			// Locked before anybody sees it: who is told that it is there waits for what it is made for.
			c := new(account)
			c.mu.Lock()
			if v, ok = a.byClient.LoadOrStore(client, c); !ok {
				select {
				case a.fresh <- struct{}{}:
				default:
				}
				return c
			}
		}
		c := v.(*account)
		c.mu.Lock()
		if !c.closed {
			return c
		}
		c.mu.Unlock()
	}
}

// overLimit is a call that a limit of its client refuses.
type overLimit struct {
	err      *esh3ar.Error
	standing standing
}

func (o *overLimit) Error() string { return o.err.Error() }
func (o *overLimit) Unwrap() error { return o.err }

func rateLimited(n int, wait time.Duration, s standing) error {
	e := esh3ar.Errorf(esh3ar.KindRateLimited, "rate_limited", "you may send %d messages a second; nothing of this request was accepted, send it again later", s.rate)
	if n > 1 {
		e = esh3ar.Errorf(esh3ar.KindRateLimited, "rate_limited",
			"the batch has %d new messages and you may send %d a second; nothing of it was accepted, send it again later", n, s.rate)
	}
	return &overLimit{e.After(wait), s}
}

func quotaExhausted(n int, s standing) error {
	return &overLimit{esh3ar.Errorf(esh3ar.KindRateLimited, "quota_exhausted",
		"you may send %d messages a day, and of today's %d are left for %d; nothing of this request was accepted, the next day begins at midnight UTC",
		s.quota, s.rest, n).After(s.day), s}
}

// The names of the fields as draft-ietf-httpapi-ratelimit-headers-11 spells them.
const (
	policyField    = "RateLimit-Policy"
	rateLimitField = "RateLimit"
)

// tell sets the header's fields, for a client that has limits.
func (s *standing) tell(h http.Header) {
	if s.limited() {
		h[policyField] = []string{string(s.appendPolicy(nil))}
		h[rateLimitField] = []string{string(s.appendLimit(nil))}
	}
}

// appendFields appends what tell sets as lines of a header.
func (s *standing) appendFields(dst []byte) []byte {
	if !s.limited() {
		return dst
	}
	dst = s.appendPolicy(append(dst, policyField+": "...))
	dst = s.appendLimit(append(dst, "\r\n"+rateLimitField+": "...))
	return append(dst, "\r\n"...)
}

// appendPolicy appends the value of RateLimit-Policy: what may be sent in which time.
func (s *standing) appendPolicy(dst []byte) []byte {
	if s.rate > 0 {
		dst = strconv.AppendInt(append(dst, `"rate";q=`...), int64(s.rate), 10)
		dst = append(dst, ";w=1"...)
		if s.quota > 0 {
			dst = append(dst, ", "...)
		}
	}
	if s.quota > 0 {
		dst = strconv.AppendInt(append(dst, `"day";q=`...), s.quota, 10)
		dst = append(dst, ";w=86400"...)
	}
	return dst
}

// appendLimit appends the value of RateLimit: what is left, and for how long no more than that.
func (s *standing) appendLimit(dst []byte) []byte {
	if s.rate > 0 {
		dst = strconv.AppendInt(append(dst, `"rate";r=`...), int64(s.left), 10)
		dst = append(append(dst, ";t="...), retrySeconds(max(s.next, 1))...)
		if s.quota > 0 {
			dst = append(dst, ", "...)
		}
	}
	if s.quota > 0 {
		dst = strconv.AppendInt(append(dst, `"day";r=`...), s.rest, 10)
		dst = append(append(dst, ";t="...), retrySeconds(s.day)...)
	}
	return dst
}
