package loadgen

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/esh3artech/esh3ar"
)

// Verdict is what the ledgers of a run prove.
type Verdict struct {
	// Accepted counts messages with a 202, Refused those surely not accepted, Unknown those of which
	// the sender learned nothing.
	Accepted int `json:"accepted"`
	Refused  int `json:"refused"`
	Unknown  int `json:"unknown"`
	// Received counts accepted messages that a device got at least once; Repeated the receipts
	// beyond a device's first of a message, which the promise allows.
	Received int `json:"received"`
	Repeated int `json:"repeated"`
	// Landed counts messages of Unknown that a device got.
	Landed int `json:"landed"`
	// Lost counts accepted messages that no device got, but for Ended ones.
	Lost int `json:"lost"`
	// Ended counts accepted messages that no device got and that, by their status, none has to:
	// expired, canceled or undelivered. Waiting are those of Lost that by their status still wait.
	// Both stay 0 until Resolve has asked.
	Ended   int `json:"ended"`
	Waiting int `json:"waiting"`
	// Disordered counts messages that a device got for the first time after one that was sent only
	// when this one had been accepted, unless another device had it already.
	Disordered int `json:"out_of_order"`
	// Contradictions counts what must never be: a message received though refused, or never sent, or
	// under another id than the 202 gave, or two ids for one message.
	Contradictions int `json:"contradictions"`

	// Missing are the messages behind Lost.
	Missing []Record `json:"-"`
	// Notes describes the first few faults in words.
	Notes []string `json:"notes,omitempty"`
}

// maxNotes bounds Verdict.Notes.
const maxNotes = 20

// OK reports whether every promise was kept.
func (v *Verdict) OK() bool { return v.Lost == 0 && v.Disordered == 0 && v.Contradictions == 0 }

func (v *Verdict) note(format string, args ...any) {
	if len(v.Notes) < maxNotes {
		v.Notes = append(v.Notes, fmt.Sprintf(format, args...))
	}
}

// Account compares what was accepted with what was received. A device's receipts have distinct times,
// by which they are ordered. It sorts the slice.
func Account(records []Record) Verdict {
	var v Verdict
	slices.SortFunc(records, func(a, b Record) int {
		return cmp.Or(
			cmp.Compare(a.Recipient, b.Recipient), cmp.Compare(a.Client, b.Client),
			cmp.Compare(a.Seq, b.Seq), cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.At, b.At),
		)
	})
	for flow := range chunks(records, func(a, b *Record) bool { return a.Recipient == b.Recipient && a.Client == b.Client }) {
		var firsts []receipt
		for msg := range chunks(flow, func(a, b *Record) bool { return a.Seq == b.Seq }) {
			firsts = v.message(msg, firsts)
		}
		v.order(firsts)
	}
	return v
}

// chunks splits s into its longest runs of equals.
func chunks(s []Record, same func(a, b *Record) bool) func(func([]Record) bool) {
	return func(yield func([]Record) bool) {
		for start := 0; start < len(s); {
			end := start + 1
			for end < len(s) && same(&s[start], &s[end]) {
				end++
			}
			if !yield(s[start:end]) {
				return
			}
			start = end
		}
	}
}

// receipt is a device's first receipt of an accepted message.
type receipt struct {
	device   uint32
	at       int64 // when it was received
	sent     int64 // when its sending began
	accepted int64 // when its 202 was read
	seq      uint32
	again    bool // another device had received it before
	of       *Record
}

// message accounts for the records of one message, which are sorted by kind and time, and appends the
// first receipts of an accepted one.
func (v *Verdict) message(msg []Record, firsts []receipt) []receipt {
	var answer *Record // the one that says most, Accepted before all
	for i := range msg {
		r := &msg[i]
		switch {
		case r.Kind == Received:
		case answer == nil:
			answer = r
		case r.Kind == Accepted && r.ID != answer.ID:
			v.Contradictions++
			v.note("%s was accepted twice, as %s and as %s", r.name(), answer.ID, r.ID)
		}
	}
	receipts := msg[len(msg):]
	if i := slices.IndexFunc(msg, func(r Record) bool { return r.Kind == Received }); i >= 0 {
		receipts = msg[i:]
	}
	start := len(firsts)
	for i := range receipts {
		r := &receipts[i]
		if slices.ContainsFunc(firsts[start:], func(f receipt) bool { return f.device == r.Device }) {
			v.Repeated++
			continue
		}
		firsts = append(firsts, receipt{device: r.Device, at: r.At, seq: r.Seq, again: len(firsts) > start, of: r})
	}
	switch {
	case answer == nil:
		v.Contradictions++
		v.note("%s was received but never sent", receipts[0].name())
	case answer.Kind == Accepted:
		v.Accepted++
		if len(receipts) == 0 {
			v.Lost++
			v.Missing = append(v.Missing, *answer)
			break
		}
		v.Received++
		for i := range receipts {
			if receipts[i].ID != answer.ID {
				v.Contradictions++
				v.note("%s was accepted as %s and received as %s", answer.name(), answer.ID, receipts[i].ID)
				break
			}
		}
		for i := range firsts[start:] {
			f := &firsts[start+i]
			f.sent, f.accepted = answer.Sent, answer.At
		}
		return firsts
	case answer.Kind == Refused:
		v.Refused++
		if len(receipts) > 0 {
			v.Contradictions++
			v.note("%s was refused with %d and received all the same", answer.name(), answer.Status)
		}
	case answer.Kind == Unknown:
		v.Unknown++
		if len(receipts) > 0 {
			v.Landed++
		}
	}
	// Only accepted messages have a place in the order.
	return firsts[:start]
}

// order counts the violations among the first receipts of one client's messages to one recipient. The
// promise: when a message's 202 was there before the other's sending began, it arrives first. It ends when a
// device has acknowledged the message: if the server dies before that is stored, the message is sent again, also
// to a device that is ahead.
func (v *Verdict) order(firsts []receipt) {
	slices.SortFunc(firsts, func(a, b receipt) int {
		return cmp.Or(cmp.Compare(a.device, b.device), cmp.Compare(a.at, b.at))
	})
	var latest receipt // of those received so far by this device, the one whose sending began last
	for i, r := range firsts {
		switch {
		case i == 0 || r.device != firsts[i-1].device:
			latest = r
		case latest.sent > r.accepted && !r.again:
			v.Disordered++
			v.note("%s arrived after number %d, which was sent when this one had been accepted", r.of.name(), latest.seq)
		case r.sent > latest.sent:
			latest = r
		}
	}
}

// name says which message a record is about.
func (r *Record) name() string {
	return fmt.Sprintf("message %d of client %d to recipient %d", r.Seq, r.Client, r.Recipient)
}

// resolvers is how many statuses Resolve asks for at a time.
const resolvers = 16

// Resolve asks for the status of the missing messages, at most limit of them, and so tells what became
// of them: a message that expired, was canceled or is undelivered is not lost. Status returns an error
// of esh3ar.KindNotFound for a message that the server does not know. Other errors end it.
func (v *Verdict) Resolve(ctx context.Context, limit int, status func(context.Context, esh3ar.ID) (esh3ar.Status, error)) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	asked := v.Missing[:min(limit, len(v.Missing))]
	kept := make([]bool, len(v.Missing))
	for i := range kept {
		kept[i] = true
	}
	var mu sync.Mutex // guards v and next
	next := 0
	var wg sync.WaitGroup
	for range resolvers {
		wg.Go(func() {
			for ctx.Err() == nil {
				mu.Lock()
				i := next
				next++
				mu.Unlock()
				if i >= len(asked) {
					return
				}
				r := &asked[i]
				s, err := status(ctx, r.ID)
				mu.Lock()
				switch {
				case err != nil && esh3ar.KindOf(err) == esh3ar.KindNotFound:
					v.note("%s (%s) was accepted and is unknown now", r.name(), r.ID)
				case err != nil:
					cancel(fmt.Errorf("asking for the status of %s: %w", r.ID, err))
				case s.Shown():
					v.note("%s (%s) is said to be %s, but no device received it", r.name(), r.ID, s)
				case s.Final():
					v.Lost--
					v.Ended++
					kept[i] = false
				default:
					v.Waiting++
					v.note("%s (%s) is still %s", r.name(), r.ID, s)
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	i := -1
	v.Missing = slices.DeleteFunc(v.Missing, func(Record) bool { i++; return !kept[i] })
	return context.Cause(ctx)
}

// String says the verdict in one line.
func (v *Verdict) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "accepted %d, received %d, repeated %d, out of order %d, lost %d",
		v.Accepted, v.Received, v.Repeated, v.Disordered, v.Lost)
	for _, n := range []struct {
		count int
		what  string
	}{
		{v.Waiting, "of these still waiting"}, {v.Ended, "ended undelivered"}, {v.Refused, "refused"},
		{v.Unknown, "of unknown outcome"}, {v.Landed, "of these received"}, {v.Contradictions, "contradictions"},
	} {
		if n.count > 0 {
			fmt.Fprintf(&b, ", %s %d", n.what, n.count)
		}
	}
	return b.String()
}
