package delivery

import (
	"fmt"
	"slices"
	"time"

	"github.com/esh3artech/esh3ar"
)

// world simulates everything around one recipient: the journal, the store with its asynchronous commits
// and reads, the devices with their connections, and a driver that keeps to the contract of Effect. It
// checks what must hold whenever an effect comes out.
type world struct {
	fail   func(format string, args ...any)
	params Params
	tight  int  // memory is
	merge  bool // the committer joins changes of one message that are not committed yet

	now   time.Time
	epoch uint64
	ord   uint64
	core  *Recipient // nil when forgotten

	journal []*letter // all that was ever accepted, in order
	read    int       // how much of it the driver has read since the last start
	byID    map[esh3ar.ID]*letter

	store   map[esh3ar.ID]*stored
	commits []change // handed out and not committed, in order
	handed  int      // changes ever handed out since the last start; commits ends with that one
	reports []int    // owed: the change up to which all must be committed first

	reads []*storeRead
	lates []*lateAck
	scan  *dueScan

	conns   []*conn // attached in the core's view
	devices [2]device
	next    Conn
	acks    []ack // said by devices, not yet heard

	sentAt, openedAt time.Time // of the last Send to all, and of the last Open
}

// letter is one message and what the world knows of it.
type letter struct {
	n   int // place in the journal
	msg *esh3ar.Message
	// free says that it is outside the promise of order: scheduled, or replayed.
	free bool
	// handed is the timeline that the effects so far have told, committed or not; nil without any.
	handed  []esh3ar.Transition
	settled bool // told final; it must not be sent again
	// forgotten says that a crash lost its final state: it may come again, and late.
	forgotten bool
	loose     bool // a stale row was settled: what is told of it need not fit together
	writes    int
}

type stored struct {
	letter *letter
	state  esh3ar.State
	ord    uint64
}

type change struct {
	letter *letter
	state  esh3ar.State
	ord    uint64
}

type storeRead struct {
	effect Effect
	rows   []*Item
	taken  bool
}

type lateAck struct {
	id    esh3ar.ID
	read  bool
	after int   // the change that must be committed before the look-up
	row   *Item // once looked up
	taken bool
	seq   uint32
}

type dueScan struct {
	rows []*Item
	seqs []uint32
}

type conn struct {
	id     Conn
	device *device
	pipe   []*letter // sent, not yet received
	broken bool      // nothing comes through any more; the core will be told
	// sent holds the status_seq of the sent transition under which each message was last given.
	sent map[esh3ar.ID]uint32
}

type device struct {
	name string
	conn *conn
	got  map[int]bool // journal places received at least once
	held []esh3ar.ID  // received and not acknowledged
}

type ack struct {
	ids  []esh3ar.ID
	read bool
}

func newWorld(fail func(string, ...any)) *world {
	w := &world{
		fail: fail,
		params: Params{
			Window: 3, WindowBytes: 2000, Hold: 3, Settle: 250 * time.Millisecond,
			AckTimeout: 10 * time.Second, MaxAttempts: 3,
			Backoff: Backoff{Base: time.Second, Cap: 8 * time.Second},
		},
		now:   time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC),
		byID:  make(map[esh3ar.ID]*letter),
		store: make(map[esh3ar.ID]*stored),
	}
	w.devices = [2]device{{name: "phone", got: map[int]bool{}}, {name: "tablet", got: map[int]bool{}}}
	w.start()
	return w
}

func (w *world) start() {
	w.epoch++
	w.ord = w.epoch << 40
	w.read = 0
}

// accept writes a message to the journal.
func (w *world) accept(client string, size int, ttl, delay time.Duration) {
	l := &letter{n: len(w.journal)}
	m := &esh3ar.Message{Client: client, From: client, To: "r", Content: string(make([]byte, size)), AcceptedAt: w.now}
	m.ID[6], m.ID[8], m.ID[15] = 0x70, byte(l.n>>8), byte(l.n)
	if delay > 0 {
		m.SendAt = w.now.Add(delay)
		l.free = true
	}
	if ttl > 0 {
		m.ExpiresAt = w.now.Add(ttl)
	}
	l.msg = m
	w.journal = append(w.journal, l)
	w.byID[m.ID] = l
}

// intake brings the next message that has no row from the journal to the recipient.
func (w *world) intake(aside bool) bool {
	for w.read < len(w.journal) {
		l := w.journal[w.read]
		w.read++
		if w.store[l.msg.ID] != nil {
			continue
		}
		w.ord++
		it := &Item{Message: l.msg, State: esh3ar.NewState(l.msg.AcceptedAt), Ord: w.ord, Aside: aside}
		w.do(func(r *Recipient, out []Effect) []Effect { return r.Arrive(it, w.now, out) })
		return true
	}
	return false
}

// do runs one event through the core and carries out what comes of it.
func (w *world) do(event func(*Recipient, []Effect) []Effect) {
	if w.core == nil {
		w.core = NewRecipient(&w.params)
	}
	for _, e := range event(w.core, w.core.SetTight(w.tight, w.now, nil)) {
		w.perform(e)
	}
	w.check()
	if w.core.Idle() {
		w.core = nil
	}
}

func (w *world) perform(e Effect) {
	switch e.Action {
	case Send:
		w.send(e)
	case Save, Park, Done:
		w.hand(e)
	case Read:
		if len(w.reads) > 0 {
			w.fail("a second read while one is out")
		}
		if e.Limit <= 0 {
			w.fail("read with limit %d", e.Limit)
		}
		w.reads = append(w.reads, &storeRead{effect: e})
	case Late:
		w.lates = append(w.lates, &lateAck{id: e.ID, read: e.Read, after: w.handed})
	case Open:
		w.openedAt = w.now
		if !e.Until.After(w.now) {
			w.fail("the breaker opens until the past")
		}
	case Close:
	default:
		w.fail("effect of unknown action %d", e.Action)
	}
}

func (w *world) send(e Effect) {
	if e.Conn == 0 {
		w.sentAt = w.now
	}
	l := w.byID[e.Item.Message.ID]
	if l.settled && !l.loose {
		w.fail("message %d is sent though its final state was handed out", l.n)
	}
	if e.State.Status != esh3ar.StatusSent {
		w.fail("message %d is sent in status %s", l.n, e.State.Status)
	}
	if l.msg.Expired(w.now) && e.State.Last().At.Equal(w.now) && e.Conn == 0 {
		w.fail("message %d is sent after it expired", l.n)
	}
	if l.msg.SendAt.After(w.now) {
		w.fail("message %d is sent before its time", l.n)
	}
	w.legal(l, &e.State)
	given := 0
	for _, c := range w.conns {
		if e.Conn != 0 && e.Conn != c.id {
			continue
		}
		given++
		if seq := e.State.Seq(); c.sent[l.msg.ID] >= seq {
			w.fail("message %d is given twice to connection %d in one attempt", l.n, c.id)
		} else {
			c.sent[l.msg.ID] = seq
		}
		if !c.broken {
			c.pipe = append(c.pipe, l)
		}
	}
	if given == 0 {
		w.fail("message %d is sent to nobody", l.n)
	}
}

// legal checks a whole timeline.
func (w *world) legal(l *letter, s *esh3ar.State) {
	for i, t := range s.Timeline {
		if t.Seq != uint32(i+1) {
			w.fail("message %d: transition %d has seq %d", l.n, i, t.Seq)
		}
		if i > 0 && !s.Timeline[i-1].Status.CanBecome(t.Status) {
			w.fail("message %d: %s became %s", l.n, s.Timeline[i-1].Status, t.Status)
		}
		if i > 0 && t.At.Before(s.Timeline[i-1].At) {
			w.fail("message %d: transition %d goes back in time", l.n, i)
		}
	}
	if s.Last().Status != s.Status {
		w.fail("message %d: status %s, but the timeline ends in %s", l.n, s.Status, s.Last().Status)
	}
	if int(s.Attempts) > w.params.MaxAttempts {
		w.fail("message %d: %d attempts of %d", l.n, int32(s.Attempts), w.params.MaxAttempts)
	}
}

func (w *world) hand(e Effect) {
	l := w.byID[e.Item.Message.ID]
	w.legal(l, &e.State)
	if e.Fresh != (l.handed == nil) {
		w.fail("message %d: fresh is %v, but %d transitions were handed out", l.n, e.Fresh, len(l.handed))
	}
	if !l.loose {
		if e.NewFrom != len(l.handed) {
			w.fail("message %d: new from %d, but %d transitions were handed out", l.n, e.NewFrom, len(l.handed))
		}
		if !slices.Equal(l.handed, e.State.Timeline[:min(len(l.handed), len(e.State.Timeline))]) {
			w.fail("message %d: two stories:\n%v\n%v", l.n, l.handed, e.State.Timeline)
		}
		if l.settled && e.State.Status != esh3ar.StatusRead && !l.handed[len(l.handed)-1].Status.CanBecome(e.State.Status) {
			w.fail("message %d: %s after it was final", l.n, e.State.Status)
		}
	}
	if final := e.Action == Done; final != e.State.Status.Final() {
		w.fail("message %d: action %d with status %s", l.n, e.Action, e.State.Status)
	}
	switch {
	case e.State.Status == esh3ar.StatusUndelivered && int(e.State.Attempts) != w.params.MaxAttempts:
		w.fail("message %d: undelivered after %d attempts", l.n, e.State.Attempts)
	case e.State.Status == esh3ar.StatusExpired && !l.msg.Expired(w.now):
		w.fail("message %d: expired before its time", l.n)
	}
	if len(e.State.Timeline) > len(l.handed) {
		l.handed = slices.Clone(e.State.Timeline)
	}
	l.settled = e.Action == Done && !l.loose || l.settled && e.State.Status.Final()
	l.writes++
	defer func() {
		if e.Report {
			w.reports = append(w.reports, w.handed)
		}
	}()
	c := change{letter: l, state: e.State, ord: e.Item.Ord}
	if w.merge {
		for i := range w.commits {
			if w.commits[i].letter == l {
				if w.commits[i].state.Seq() < c.state.Seq() {
					w.commits[i].state = c.state
				}
				return
			}
		}
	}
	w.handed++
	w.commits = append(w.commits, c)
}

// owed returns how many reports can be made.
func (w *world) owed() int {
	n := 0
	for n < len(w.reports) && w.reports[n] <= w.committed() {
		n++
	}
	return n
}

// committed is the number of the last committed change.
func (w *world) committed() int { return w.handed - len(w.commits) }

// commit makes the next n changes durable.
func (w *world) commit(n int) {
	n = min(n, len(w.commits))
	for _, c := range w.commits[:n] {
		row := w.store[c.letter.msg.ID]
		if row == nil || row.state.Seq() < c.state.Seq() {
			w.store[c.letter.msg.ID] = &stored{c.letter, c.state, c.ord}
		}
	}
	w.commits = w.commits[n:]
}

// report tells the core of the commits that it wants to know of.
func (w *world) report() bool {
	n := w.owed()
	if n == 0 {
		return false
	}
	w.reports = w.reports[n:]
	w.do(func(r *Recipient, out []Effect) []Effect { return r.Parked(n, w.now, out) })
	return true
}

func (w *world) item(s *stored) *Item {
	st := s.state
	st.Timeline = slices.Clone(st.Timeline)
	return &Item{Message: s.letter.msg, State: st, Ord: s.ord, Saved: true, Unsaved: len(st.Timeline)}
}

// look lets the outstanding read see the store as it is now.
func (w *world) look() {
	if len(w.reads) == 0 || w.reads[0].taken {
		return
	}
	q := w.reads[0]
	q.taken = true
	var rows []*stored
	for _, s := range w.store {
		if s.ord > q.effect.After && (q.effect.Before == 0 || s.ord < q.effect.Before) &&
			!s.state.Status.Final() && s.state.Status != esh3ar.StatusScheduled {
			rows = append(rows, s)
		}
	}
	slices.SortFunc(rows, func(a, b *stored) int { return int(a.ord) - int(b.ord) })
	for _, s := range rows[:min(len(rows), q.effect.Limit)] {
		q.rows = append(q.rows, w.item(s))
	}
}

// answer brings the outstanding read's page, or its failure.
func (w *world) answer(failed bool) bool {
	if len(w.reads) == 0 {
		return false
	}
	w.look()
	q := w.reads[0]
	w.reads = w.reads[1:]
	w.do(func(r *Recipient, out []Effect) []Effect {
		if failed {
			return r.ReadFailed(q.effect.Ticket, w.now, out)
		}
		return r.Page(q.effect.Ticket, q.rows, w.now, out)
	})
	return true
}

// lookUp finds the rows of late acknowledgements.
func (w *world) lookUp() {
	for _, l := range w.lates {
		if l.taken || l.after > w.committed() {
			continue
		}
		l.taken = true
		if s := w.store[l.id]; s != nil {
			l.row, l.seq = w.item(s), s.state.Seq()
		}
	}
}

// settle brings one looked-up row of a late acknowledgement.
func (w *world) settle() bool {
	w.lookUp()
	for i, l := range w.lates {
		if !l.taken {
			continue
		}
		w.lates = slices.Delete(w.lates, i, i+1)
		if l.row != nil {
			w.stale(l.row, l.seq)
			w.do(func(r *Recipient, out []Effect) []Effect { return r.Settle(l.row, l.read, w.now, out) })
		}
		return true
	}
	return false
}

// stale notes that a row is about to be settled from an old look at it. That is the store's to sort out:
// the higher status_seq wins.
func (w *world) stale(it *Item, seq uint32) {
	l := w.byID[it.Message.ID]
	if int(seq) != len(l.handed) && (w.core == nil || w.core.find(l.msg.ID) == nil) {
		l.loose = true
	}
}

// due looks for due rows, or brings one of those found.
func (w *world) due() bool {
	if w.scan == nil {
		if len(w.commits) > 0 {
			return false // a scan begins when everything so far is committed
		}
		s := new(dueScan)
		for _, l := range w.journal {
			row := w.store[l.msg.ID]
			if row == nil || row.state.Status.Final() {
				continue
			}
			if row.state.Status == esh3ar.StatusScheduled && !w.now.Before(row.state.NotBefore) || l.msg.Expired(w.now) {
				s.rows = append(s.rows, w.item(row))
				s.seqs = append(s.seqs, row.state.Seq())
			}
		}
		if len(s.rows) == 0 {
			return false
		}
		w.scan = s
		return true
	}
	it, seq := w.scan.rows[0], w.scan.seqs[0]
	w.scan.rows, w.scan.seqs = w.scan.rows[1:], w.scan.seqs[1:]
	if it.State.Status == esh3ar.StatusScheduled && int(seq) != len(w.byID[it.Message.ID].handed) {
		w.fail("message %d: a scheduled row came twice", w.byID[it.Message.ID].n)
	}
	w.stale(it, seq)
	w.do(func(r *Recipient, out []Effect) []Effect { return r.Due(it, w.now, out) })
	if len(w.scan.rows) == 0 {
		w.scan = nil
	}
	return true
}

// ask lets a person cancel, replay or discard a message by its row as it is stored now. A row that is
// not the message's newest, and not held in memory, is for the driver to look up again.
func (w *world) ask(n int, event func(*Recipient, *Item, time.Time, []Effect) []Effect) {
	if len(w.journal) == 0 {
		return
	}
	l := w.journal[n%len(w.journal)]
	row := w.store[l.msg.ID]
	held := w.core != nil && w.core.find(l.msg.ID) != nil
	if row == nil || !held && len(row.state.Timeline) != len(l.handed) || w.scan != nil {
		return
	}
	l.free = l.free || row.state.Status == esh3ar.StatusUndelivered
	w.do(func(r *Recipient, out []Effect) []Effect { return event(r, w.item(row), w.now, out) })
}

// squeeze makes memory so tight.
func (w *world) squeeze(tight int) {
	w.tight = tight
	if w.core != nil {
		w.tick()
	}
}

// advance moves the clock, ticking where the core asked for it.
func (w *world) advance(d time.Duration) {
	end := w.now.Add(d)
	for w.core != nil {
		at := w.core.Wake()
		if at.IsZero() || at.After(end) {
			break
		}
		if at.After(w.now) {
			w.now = at
		}
		w.tick()
	}
	w.now = end
}

func (w *world) tick() {
	w.do(func(r *Recipient, out []Effect) []Effect { return r.Tick(w.now, out) })
	if w.core == nil {
		return
	}
	if at := w.core.Wake(); !at.IsZero() && !at.After(w.now) {
		w.fail("wakes at once after a tick: it would spin")
	}
}

func (w *world) attach(d *device) {
	if d.conn != nil {
		return
	}
	w.next++
	c := &conn{id: w.next, device: d, sent: map[esh3ar.ID]uint32{}}
	d.conn = c
	w.conns = append(w.conns, c)
	w.do(func(r *Recipient, out []Effect) []Effect { return r.Attach(c.id, w.now, out) })
}

// cut breaks a device's connection; detach tells the core.
func (w *world) cut(d *device) {
	if d.conn != nil {
		d.conn.broken, d.conn.pipe = true, nil
		d.conn = nil
	}
}

func (w *world) detach(free bool) bool {
	for i, c := range w.conns {
		if !c.broken {
			continue
		}
		w.conns = slices.Delete(w.conns, i, i+1)
		w.do(func(r *Recipient, out []Effect) []Effect { return r.Detach(c.id, free, w.now, out) })
		return true
	}
	return false
}

// receive lets a device take the next message from its connection.
func (w *world) receive(d *device) bool {
	if d.conn == nil || len(d.conn.pipe) == 0 {
		return false
	}
	l := d.conn.pipe[0]
	d.conn.pipe = d.conn.pipe[1:]
	if !d.got[l.n] && !l.free && !l.forgotten {
		for _, later := range w.journal[l.n+1:] {
			if d.got[later.n] && later.msg.Client == l.msg.Client && !later.free {
				w.fail("the %s got message %d before message %d", d.name, later.n, l.n)
			}
		}
	}
	d.got[l.n] = true
	if !slices.Contains(d.held, l.msg.ID) {
		d.held = append(d.held, l.msg.ID)
	}
	return true
}

// say makes a device acknowledge what it holds; keep makes it do so again later.
func (w *world) say(d *device, n int, read, keep bool) {
	n = min(n, len(d.held))
	if n == 0 {
		return
	}
	w.acks = append(w.acks, ack{slices.Clone(d.held[:n]), read})
	if !keep {
		d.held = slices.Delete(d.held, 0, n)
	}
}

func (w *world) hear(i int) bool {
	if len(w.acks) == 0 {
		return false
	}
	i %= len(w.acks)
	a := w.acks[i]
	w.acks = slices.Delete(w.acks, i, i+1)
	w.do(func(r *Recipient, out []Effect) []Effect { return r.Acknowledge(a.ids, a.read, w.now, out) })
	return true
}

// crash loses everything but the journal, the store and the devices' memory.
func (w *world) crash() {
	for _, c := range w.commits {
		if c.letter.settled {
			c.letter.forgotten = true
		}
	}
	w.core, w.commits, w.reads, w.lates, w.scan = nil, nil, nil, nil, nil
	w.handed, w.reports = 0, nil
	w.conns, w.acks = nil, nil
	for i := range w.devices {
		w.devices[i].conn = nil
	}
	for _, l := range w.journal {
		l.handed, l.settled, l.loose = nil, false, false
		if row := w.store[l.msg.ID]; row != nil {
			l.handed = slices.Clone(row.state.Timeline)
			l.settled = row.state.Status.Final()
		}
	}
	w.start()
}

// check holds the core against its own invariants.
func (w *world) check() {
	r := w.core
	flying, bytes, waiting := 0, 0, 0
	unsaved := false
	for _, l := range r.lanes {
		if l.empty() {
			w.fail("an empty lane is kept")
		}
		var last time.Time
		for _, it := range l.flight.items() {
			flying++
			bytes += it.size()
			if it.State.Status != esh3ar.StatusSent {
				w.fail("in flight with status %s", it.State.Status)
			}
			if it.deadline.Before(last) {
				w.fail("deadlines of a lane do not grow")
			}
			last = it.deadline
		}
		for _, it := range l.queue.items() {
			waiting++
			if it.State.Status != esh3ar.StatusQueued {
				w.fail("waits with status %s", it.State.Status)
			}
		}
		for _, q := range []*fifo{&l.flight, &l.queue} {
			var prev uint64
			for _, it := range q.items() {
				if w.byID[it.Message.ID].free {
					continue
				}
				if it.Ord <= prev {
					w.fail("a lane is out of order")
				}
				prev = it.Ord
			}
		}
	}
	window, windowBytes := r.window()
	if l := r.next(w.now); l != nil && len(w.conns) > 0 && !r.breaker.open(w.now) {
		next := l.queue.first()
		if r.flying == 0 || !r.breaker.probing() && r.flying < window && r.flyingBytes+next.size() <= windowBytes {
			w.fail("message %d could be sent and is not", w.byID[next.Message.ID].n)
		}
	}
	for it := range r.items() {
		unsaved = unsaved || !it.Saved || it.Unsaved < len(it.State.Timeline)
	}
	if flying != r.flying || bytes != r.flyingBytes || waiting != r.waiting {
		w.fail("counts are wrong: flying %d/%d, bytes %d/%d, waiting %d/%d", r.flying, flying, r.flyingBytes, bytes, r.waiting, waiting)
	}
	if r.breaker.open(w.now) && w.now.Equal(w.sentAt) && w.now.After(w.openedAt) {
		w.fail("something is sent while the breaker is open")
	}
	if flying > w.params.Window || flying > 1 && bytes > w.params.WindowBytes {
		w.fail("%d messages with %d bytes in flight", flying, bytes)
	}
	if len(r.tail) > w.params.Hold {
		w.fail("%d arrivals are held", len(r.tail))
	}
	free := 0
	for it := range r.items() {
		if w.byID[it.Message.ID].free {
			free++
		}
	}
	if bound := 2*w.params.Window + 2*w.params.Hold; r.Held()-free > bound {
		w.fail("%d messages are in memory, more than %d", r.Held()-free, bound)
	}
	wake := r.Wake()
	if unsaved && wake.IsZero() {
		w.fail("a change is never saved")
	}
	if len(w.conns) == 0 {
		if r.Held() > 0 {
			w.fail("offline with %d messages in memory", r.Held())
		}
		return
	}
	if flying > 0 && wake.IsZero() {
		w.fail("an acknowledgement is awaited for ever")
	}
	if waiting > 0 && flying == 0 && wake.IsZero() {
		w.fail("%d messages wait for nothing", waiting)
	}
	// The store may hold more, or the tail waits: somebody must be on the way.
	if !r.clear && flying+waiting < window && len(w.reads) == 0 && len(w.reports) == 0 {
		w.fail("nobody reads the store")
	}
}

// settleDown runs the world with a device that behaves until everything has an end.
func (w *world) settleDown() {
	phone := &w.devices[0]
	for steps := 0; ; steps++ {
		if steps > 5000 {
			w.fail("no end in sight: %s", w.summary())
			return
		}
		w.attach(phone)
		w.commit(len(w.commits))
		busy := w.report()
		busy = w.answer(false) || busy
		busy = w.intake(false) || busy
		busy = w.detach(false) || busy
		for i := range w.devices {
			for w.receive(&w.devices[i]) {
				busy = true
			}
			d := &w.devices[i]
			w.say(d, len(d.held), false, false)
		}
		busy = w.hear(0) || busy
		busy = w.settle() || busy
		if busy {
			continue
		}
		if w.ended() {
			break
		}
		w.advance(time.Second)
		w.due()
	}
	if w.core != nil && w.core.Held() > 0 {
		w.fail("%d messages are still in memory", w.core.Held())
	}
}

func (w *world) ended() bool {
	for _, l := range w.journal {
		if row := w.store[l.msg.ID]; row == nil || !row.state.Status.Final() {
			return false
		}
	}
	return true
}

func (w *world) summary() string {
	s := ""
	for _, l := range w.journal {
		if row := w.store[l.msg.ID]; row == nil {
			s += fmt.Sprintf(" %d:none", l.n)
		} else if !row.state.Status.Final() {
			s += fmt.Sprintf(" %d:%s", l.n, row.state.Status)
		}
	}
	return s
}
