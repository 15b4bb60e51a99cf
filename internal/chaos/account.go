//go:build unix

package chaos

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/esh3artech/esh3ar/internal/loadgen"
)

// settleDown lets the senders finish and everything arrive, until no message is open any more or the
// time is up. A server that does not come back has broken its promises: what was not received by then is
// lost.
func (l *lab) settleDown(report *Report, sent func()) error {
	began := time.Now()
	l.say("settling")
	l.settling.Store(true)
	l.settle()
	ctx, cancel := context.WithTimeout(l.ctx, l.opts.Settle)
	defer cancel()
	// Until then the senders repeat what they have begun.
	giveUp := context.AfterFunc(ctx, l.endSending)
	sent()
	if !giveUp() && l.ctx.Err() == nil {
		l.book.fault("the senders get no answer within %s; the server's log ends with\n%s", l.opts.Settle, l.tails(1500))
	}
	for l.book.unreceived() > 0 && pause(ctx, 100*time.Millisecond) {
	}
	// Whoever did not get all may still be on the way; the statuses tell. They are asked for at least once.
	for {
		err := l.judge(l.ctx, report)
		if err == nil && len(report.open) == 0 {
			break
		}
		if !pause(ctx, 500*time.Millisecond) {
			if err != nil && l.ctx.Err() == nil {
				l.book.fault("the statuses cannot be asked for: %v; the server's log ends with\n%s", err, l.tails(1500))
			}
			break
		}
	}
	report.Settled = time.Since(began)
	return l.ctx.Err()
}

// judge asks for the status of every message and finds those that are not as they have to be.
func (l *lab) judge(ctx context.Context, report *Report) error {
	all, err := l.api.list(ctx)
	if err != nil {
		return err
	}
	listed := make(map[string]*details, len(all))
	l.compare(report, all, listed)
	// The reason of what was given up stands in its timeline.
	for id := range report.explained {
		if listed[id].Status != "undelivered" {
			continue
		}
		d, err := l.api.message(ctx, id)
		if err != nil {
			return err
		}
		if n := len(d.Timeline); n == 0 || d.Timeline[n-1].Reason != "attempts_exhausted" || d.Attempts < maxAttempts {
			report.open = append(report.open, fmt.Sprintf("%s was given up after %d attempts: %+v", id, d.Attempts, d.Timeline))
		}
	}
	return nil
}

// compare compares all messages, as the server lists them, with the book. It fills in listed by
// identifier.
func (l *lab) compare(report *Report, all []details, listed map[string]*details) {
	l.book.mu.Lock()
	defer l.book.mu.Unlock()
	now := time.Now()
	report.Statuses = make(map[string]int)
	report.open, report.explained, report.Forgotten = nil, make(map[string]bool), 0
	ids := make(map[string]string) // by content
	for i := range all {
		d := &all[i]
		listed[d.ID] = d
		name := d.Metadata[nameMember]
		m := l.book.byName[name]
		switch other, twice := ids[name]; {
		case m == nil:
			report.open = append(report.open, fmt.Sprintf("%s is listed, and nobody sent it", d.ID))
		case twice:
			report.open = append(report.open, fmt.Sprintf("%s is listed as two messages, %s and %s (key %q)", name, other, d.ID, m.key))
		}
		ids[name] = d.ID
	}
	for id, m := range l.book.byID {
		d := listed[id]
		if d == nil {
			report.Forgotten++
			report.open = append(report.open, fmt.Sprintf("%s (%s) was accepted and is not known any more", m.name, id))
			continue
		}
		report.Statuses[d.Status]++
		if fault := l.unexplained(m, d, now); fault != "" {
			report.open = append(report.open, fmt.Sprintf("%s (%s) %s", m.name, id, fault))
		} else if m.devices == 0 {
			report.explained[id] = true
		}
	}
}

// expiryGrace is how late a message may expire: what is in flight is waited for, and nothing expires
// while the clock is in doubt, or its shard waits for an owner.
const expiryGrace = 10 * time.Second

// unexplained says what is wrong with a message's status, "" if nothing is.
func (l *lab) unexplained(m *message, d *details, now time.Time) string {
	waited := now.Sub(d.AcceptedAt)
	switch d.Status {
	case "delivered", "read":
		if m.devices == 0 {
			return "is said to be " + d.Status + ", and no device received it"
		}
	case "expired":
		if m.ttl == 0 || waited < m.ttl {
			return fmt.Sprintf("expired %s after it was accepted, with a ttl of %s", waited.Round(time.Second), m.ttl)
		}
	case "canceled":
		if !m.cancel {
			return "was canceled by nobody"
		}
	case "undelivered":
	default:
		switch {
		case m.present:
			return fmt.Sprintf("is still %s after %d attempts (received: %v)", d.Status, d.Attempts, m.devices != 0)
		case m.ttl == shortTTL && waited > shortTTL+expiryGrace:
			return fmt.Sprintf("is still %s %s after it was accepted, with a ttl of %s", d.Status, waited.Round(time.Second), m.ttl)
		case m.ttl == shortTTL:
			return "has yet to expire"
		}
	}
	return ""
}

// begins notes that the load begins now.
func (b *book) begins() {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.now()
	b.began, b.accept.last, b.receive.last = now, now, now
	for i := range b.shards {
		b.shards[i].last = now
	}
}

// ends takes the stalls of the load, up to now.
func (b *book) ends(report *Report) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.now()
	accept, receive := b.accept, b.receive
	accept.happened(b, now)
	receive.happened(b, now)
	for _, s := range b.shards {
		b.felt.stalled(s.last, now)
	}
	report.AcceptStall, report.DeliveryStall = accept, receive
}

// close closes the ledger, once.
func (b *book) close() error {
	if b.ledger == nil {
		return nil
	}
	err := b.ledger.Close()
	b.ledger = nil
	return err
}

// account closes the ledger and draws the conclusion from it and the statuses.
func (l *lab) account(report *Report) error {
	if err := l.book.close(); err != nil {
		return err
	}
	records, err := loadgen.ReadLedgers(filepath.Join(l.dir, "ledger"))
	if err != nil {
		return err
	}
	if report.Faults["store-set-back"] > 0 {
		// A store that was set back has forgotten what was canceled meanwhile, and delivers it after all,
		// after messages that did not have to wait for it. Such a message is in an order with none.
		for i := range records {
			r := &records[i]
			if m := l.book.byName[messageName(r.Recipient, r.Seq)]; m != nil && m.cancel {
				r.Client = 1 + r.Seq
			}
		}
	}
	v := loadgen.Account(records)
	report.Accepted, report.Refused, report.Unknown, report.Landed = v.Accepted, v.Refused, v.Unknown, v.Landed
	report.Felt = l.book.felt.all
	report.Received, report.Disordered, report.Repeats = v.Received, v.Disordered, l.book.repeats
	report.Cuts, report.Exits = l.proxy.cuts.Load(), l.exits
	report.StartsBy = make(map[string]int)
	for _, m := range l.machines {
		report.PagesLost += m.pages
		report.Starts += m.server.starts
		if len(l.machines) > 1 {
			report.StartsBy[m.name] = m.server.starts
		}
	}
	report.Unexplained = len(report.open) - report.Forgotten
	report.Contradictions = len(l.book.faults) + v.Contradictions
	slices.Sort(report.open)
	report.note(l.book.faults)
	report.note(v.Notes)
	report.note(report.open)
	var lost []string
	for _, r := range v.Missing {
		if !report.explained[r.ID.String()] {
			lost = append(lost, fmt.Sprintf("LOST: message %d to recipient %d, accepted as %s %.2f s after the start", r.Seq, r.Recipient, r.ID,
				time.Duration(r.At-l.book.began).Seconds()))
		}
	}
	report.Lost = len(lost)
	report.note(lost)
	logs := make(map[string]string)
	for _, m := range l.machines {
		logs[m.name] = m.server.logFile()
	}
	if l.balancer != nil {
		logs["the balancer"] = l.balancer.logFile()
	}
	for _, name := range slices.Sorted(maps.Keys(logs)) {
		log, err := os.ReadFile(logs[name])
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		for _, word := range []string{"panic:", "fatal error:", "WARNING: DATA RACE"} {
			if i := strings.Index(string(log), word); i >= 0 {
				report.Contradictions++
				report.note([]string{fmt.Sprintf("the log of %s: %s", name, log[i:min(i+1500, len(log))])})
			}
		}
	}
	return nil
}
