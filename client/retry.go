package client

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"math/rand/v2"
	"time"
)

// RetryPolicy says how patiently requests are repeated. Only what may succeed later is repeated:
// answers that are temporary (429, 503, 507 and their like) and connections that fail.
//
// Messages keep to the rate that the server tells for the client: what is over it waits for its turn before
// it is sent. Between two attempts the client waits for a random time of up to Base, twice that before the next,
// and so on up to Max; a longer Retry-After of the server is honoured. It gives up as soon as the next
// wait, for whatever reason, would end after the context's deadline, or after Elapsed.
type RetryPolicy struct {
	// Attempts bounds the number of requests made for one call; 1 turns repeating off. 0 means no
	// bound but the time.
	Attempts int
	// Elapsed bounds the time from the call to the start of its last attempt. 0 means no bound but
	// the context's.
	Elapsed time.Duration
	// Base and Max are the first and the greatest of the times that the waits are drawn from.
	Base, Max time.Duration
	// Attempt bounds one attempt; one that takes longer counts as a failed connection.
	Attempt time.Duration
}

// DefaultRetry is the policy of a Client that was not given another. It rides out a restart of the
// server or a short overload.
func DefaultRetry() RetryPolicy {
	return RetryPolicy{
		Elapsed: time.Minute,
		Base:    100 * time.Millisecond,
		Max:     5 * time.Second,
		Attempt: 20 * time.Second,
	}
}

// run calls attempt until it succeeds, until its error is one that repeating does not mend, or until
// the policy or ctx ends it. It returns the number of attempts made and the last error. Before each attempt
// it waits for its turn, unless turn is nil.
func (r RetryPolicy) run(ctx context.Context, turn, attempt func(context.Context) error) (int, error) {
	start := time.Now()
	var err error
	for n := 1; ; n++ {
		if turn != nil {
			if late := r.await(ctx, start, turn); late != nil {
				if err == nil {
					err = late
				}
				return n - 1, err
			}
		}
		err = r.once(ctx, attempt)
		if err == nil || ctx.Err() != nil || !temporary(err) || r.Attempts > 0 && n >= r.Attempts {
			return n, err
		}
		wait := r.backoff(n)
		if p := asProblem(err); p != nil && p.RetryAfter > 0 {
			// The jitter is kept on top of what the server asks for, so that the clients which
			// it turned away together do not come back together.
			wait += p.RetryAfter
		}
		if r.Elapsed > 0 && time.Since(start)+wait > r.Elapsed {
			return n, err
		}
		if !sleep(ctx, wait) {
			return n, err
		}
	}
}

// await waits for a turn, as long as the policy allows.
func (r RetryPolicy) await(ctx context.Context, start time.Time, turn func(context.Context) error) error {
	if r.Elapsed > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, start.Add(r.Elapsed))
		defer cancel()
	}
	return turn(ctx)
}

func (r RetryPolicy) once(ctx context.Context, attempt func(context.Context) error) error {
	if r.Attempt > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, r.Attempt)
		defer cancel()
	}
	return attempt(ctx)
}

// backoff draws the wait after the n-th failed attempt, n ≥ 1: exponential with full jitter.
func (r RetryPolicy) backoff(n int) time.Duration {
	limit := r.Max
	if n <= 30 && r.Base<<(n-1) < limit {
		limit = r.Base << (n - 1)
	}
	if limit <= 0 {
		return 0
	}
	return rand.N(limit) + 1
}

// sleep waits for d. It reports false when ctx ends first, and at once when it is bound to.
func sleep(ctx context.Context, d time.Duration) bool {
	if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) <= d {
		return false
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// temporary reports whether a failed attempt may succeed when it is repeated.
func temporary(err error) bool {
	if p := asProblem(err); p != nil {
		return p.Temporary()
	}
	var conn *connError
	if !errors.As(err, &conn) {
		return false
	}
	// A server that cannot prove who it is will not be able to in a second.
	var authority x509.UnknownAuthorityError
	var host x509.HostnameError
	var cert x509.CertificateInvalidError
	var verify *tls.CertificateVerificationError
	return !errors.As(err, &authority) && !errors.As(err, &host) && !errors.As(err, &cert) && !errors.As(err, &verify)
}

// connError is a request that got no complete answer.
type connError struct{ err error }

func (e *connError) Error() string { return e.err.Error() }
func (e *connError) Unwrap() error { return e.err }
