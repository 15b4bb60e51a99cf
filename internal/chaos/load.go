//go:build unix

package chaos

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"time"

	"github.com/google/uuid"
)

const (
	// longTTL is far longer than a run: a message with it never expires, whatever the clock shows.
	longTTL = time.Hour
	// shortTTL may well run out.
	shortTTL = 3 * time.Second
)

func recipientName(n uint32) string { return fmt.Sprintf("r%d", n) }

// sender is a business client: it sends one request after the other until ctx ends, and then finishes
// the one at hand, so that every message with a key gets its 202 in the end.
func (l *lab) sender(ctx context.Context, dice *rand.Rand) {
	pace := time.NewTicker(time.Duration(float64(time.Second) * float64(l.opts.Clients) / l.opts.Rate))
	defer pace.Stop()
	for {
		select {
		case <-pace.C:
		case <-ctx.Done():
			return
		}
		if dice.IntN(10) > 0 {
			m := l.draw(dice)
			l.book.begin(m)
			if l.send(m, dice); m.id != "" && dice.IntN(20) == 0 {
				l.cancel(m)
			}
			continue
		}
		batch := make([]*message, 2+dice.IntN(9))
		for i := range batch {
			batch[i] = l.draw(dice)
			batch[i].key = uuid.Must(uuid.NewV7()).String()
			l.book.begin(batch[i])
		}
		l.sendBatch(batch, dice)
	}
}

// draw makes up a message.
func (l *lab) draw(dice *rand.Rand) *message {
	m := &message{recipient: dice.Uint32N(uint32(l.opts.Recipients))}
	m.present = !l.away(m.recipient)
	switch dice.IntN(4) {
	case 0:
	case 1:
		m.key = fmt.Sprintf("key-%016x", dice.Uint64())
	default:
		m.key = uuid.Must(uuid.NewV7()).String()
	}
	switch dice.IntN(12) {
	case 0:
		m.ttl = shortTTL
	case 1, 2:
		m.ttl = longTTL
	}
	return m
}

// send sends one message: without a key once, with one until it is accepted.
func (l *lab) send(m *message, dice *rand.Rand) {
	sure := true
	for {
		id, err := l.api.send(l.sending, m)
		if err == nil {
			l.book.accepted(m, id)
			return
		}
		known, again := l.weigh(m, err)
		sure = sure && known
		// A message without a key must not be sent again once it may have been accepted.
		if !again || m.key == "" && !sure || !l.breathe(dice) {
			l.book.failed(m, sure)
			return
		}
		if m.key == "" && l.settling.Load() {
			l.book.failed(m, sure)
			return
		}
	}
}

// sendBatch sends messages with keys in one request, until all are accepted.
func (l *lab) sendBatch(open []*message, dice *rand.Rand) {
	sure := make(map[*message]bool, len(open))
	for _, m := range open {
		sure[m] = true
	}
	for len(open) > 0 {
		results, err := l.api.sendBatch(l.sending, open)
		var left []*message
		for i, m := range open {
			var known, again bool
			switch {
			case err != nil:
				known, again = l.weigh(m, err)
			case results[i].Problem != nil:
				known, again = l.weigh(m, results[i].Problem)
			default:
				l.book.accepted(m, results[i].ID)
				continue
			}
			sure[m] = sure[m] && known
			if again {
				left = append(left, m)
			} else {
				l.book.failed(m, sure[m])
			}
		}
		if open = left; len(open) > 0 && !l.breathe(dice) {
			for _, m := range open {
				l.book.failed(m, sure[m])
			}
			return
		}
	}
}

// weigh says whether the error of a sending surely means that the message was not accepted, and whether
// to try again. An answer that no fault explains is noted.
func (l *lab) weigh(m *message, err error) (sure, again bool) {
	var r *refusal
	var lost *url.Error
	switch {
	case errors.As(err, &r):
		m.status = r.Status
		if !r.passing() {
			l.book.fault("%s was answered with %v", m.name, r)
		}
		return r.sure(), r.passing()
	case errors.As(err, &lost):
		return false, l.sending.Err() == nil
	}
	// An answer that broke off.
	return false, l.sending.Err() == nil
}

// breathe waits a moment before the next try. It reports false when the run is over.
func (l *lab) breathe(dice *rand.Rand) bool {
	return pause(l.sending, 20*time.Millisecond+rand64(dice, 100*time.Millisecond))
}

// cancel tries to withdraw a message that was just accepted.
func (l *lab) cancel(m *message) {
	if l.noCancel.Load() {
		return
	}
	l.book.canceling(m)
	var r *refusal
	if err := l.api.cancel(l.sending, m.id); errors.As(err, &r) && r.Status == http.StatusMethodNotAllowed {
		l.noCancel.Store(true)
	}
}

// asker asks for accepted messages while faults go on: the server may say that it cannot tell now, but
// never that there is no such message.
func (l *lab) asker(ctx context.Context, dice *rand.Rand) {
	for pause(ctx, 50*time.Millisecond) {
		id := l.book.pick(dice.IntN(1 << 30))
		if dice.IntN(2) == 0 {
			id = l.book.pick(-1) // the newest
		}
		if id == "" {
			continue
		}
		_, err := l.api.message(ctx, id)
		var r *refusal
		if errors.As(err, &r) && !r.passing() {
			l.book.fault("asking for %s, which was accepted, was answered with %v", id, r)
		}
	}
}
