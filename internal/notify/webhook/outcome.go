package webhook

import (
	"time"
)

// settle does what the answer to a request asks for.
func (w *worker) settle(r result, now time.Time) {
	w.inFlight--
	a := &r.answer
	if a.outcome == outcomeStopped {
		w.lines.back(r.batch)
		return
	}
	w.s.metrics.seconds.Observe(a.took.Seconds())
	for _, it := range r.batch {
		it.attempts++
		if it.firstAt.IsZero() {
			it.firstAt = a.at
		}
	}
	switch a.outcome {
	case outcomeDelivered:
		w.delivered(r.batch, now)
	case outcomeDeferred:
		// The endpoint is there and says what to do.
		w.failing(a.at)
		w.setBreaker(now, true)
		w.progress.ResumeAt = now.Add(a.wait)
		for _, it := range r.batch {
			if it.parked() {
				it.nextAt = w.progress.ResumeAt
				w.parkedOne(it, now)
			}
		}
		w.window = 1
		w.lines.back(r.batch)
	case outcomeGone:
		w.disable = reasonGone
		w.lines.back(r.batch)
	default:
		w.failed(&r, now)
	}
	w.s.metrics.requests.WithLabelValues(a.outcome).Inc()
	w.logRequest(&r)
	w.advance(now)
	w.touch(now)
}

func (w *worker) delivered(batch []*item, now time.Time) {
	w.progress.FailingSince, w.progress.ResumeAt, w.progress.SucceededAt = time.Time{}, time.Time{}, now
	w.window = min(w.window+1, maxWindow)
	if w.setBreaker(now, true) {
		// It is back: what waits for it need not wait longer.
		w.lines.haste(now)
	}
	for _, it := range batch {
		if it.attempts == 1 {
			w.s.metrics.lag.Observe(now.Sub(it.event.At).Seconds())
		}
	}
	w.s.metrics.delivered.Add(float64(len(batch)))
	w.drop(batch, now)
}

// drop is done with events.
func (w *worker) drop(batch []*item, now time.Time) {
	for _, it := range batch {
		if it.parked() {
			w.unparkedOne(it)
		} else {
			it.group.open--
		}
	}
	w.lines.remove(batch, now)
}

// failing notes since when nothing succeeds.
func (w *worker) failing(since time.Time) {
	if w.progress.FailingSince.IsZero() {
		w.progress.FailingSince = since
	}
}

// failed parks events, unless the endpoint as a whole is failing: then they wait as they are, because
// nothing is read meanwhile.
func (w *worker) failed(r *result, now time.Time) {
	w.failing(r.answer.at)
	w.window = 1
	w.setBreaker(now, false)
	if now.Sub(w.progress.FailingSince) >= w.s.opts.DisableAfter {
		w.disable = reasonFailing
	}
	backoff := &w.s.opts.Backoff
	var again, over []*item
	for _, it := range r.batch {
		if !it.parked() {
			if !w.breaker.closed() {
				again = append(again, it)
				continue
			}
			for _, other := range w.lines.park(it.event.Message, now) {
				w.parkedOne(other, now)
			}
		}
		last := it.firstAt.Add(backoff.Span)
		if !now.Before(last) && w.disable == "" {
			over = append(over, it)
			continue
		}
		if it.nextAt = now.Add(backoff.after(it.attempts)); it.nextAt.After(last) && now.Before(last) {
			it.nextAt = last
		}
		w.parkedOne(it, now)
		again = append(again, it)
	}
	if len(over) > 0 {
		r.answer.outcome = outcomeGivenUp
		w.s.metrics.givenUp.Add(float64(len(over)))
		w.log.Warn("webhook: an event is given up; every attempt failed", "event", eventID(keyOf(&over[0].event)),
			"attempts", over[0].attempts, "err", r.answer.err)
		w.drop(over, now)
	}
	w.lines.back(again)
}

// setBreaker counts a success or a failure of the endpoint. It reports whether that closed its breaker.
func (w *worker) setBreaker(now time.Time, success bool) (closed bool) {
	was := w.breaker
	if success {
		w.breaker.reset()
	} else {
		w.breaker.strike(now, w.s.opts.BreakerPause)
	}
	switch {
	case was.closed() == w.breaker.closed():
		if !success && !was.closed() {
			w.s.metrics.transitions.WithLabelValues(breakerOpen).Inc()
		}
		return false
	case success:
		w.s.metrics.open.Dec()
		w.s.metrics.transitions.WithLabelValues(breakerClosed).Inc()
		w.log.Info("webhook: the circuit breaker closed")
		return true
	}
	w.s.metrics.open.Inc()
	w.s.metrics.transitions.WithLabelValues(breakerOpen).Inc()
	w.log.Warn("webhook: the circuit breaker opened", "failures", w.breaker.strikes, "until", w.breaker.until)
	return false
}
