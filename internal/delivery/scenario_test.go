package delivery

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/esh3artech/esh3ar"
)

var update = flag.Bool("update", false, "rewrite the expected effects in testdata/*.txt")

// The scenarios in testdata tell the life of one recipient line by line: an offset from the start and an
// event, below it, marked by "->", the effects that come of it, in order.
//
//	params window=3 hold=2        rules that differ from those of newScenario
//	0s  stored m1 a sent ord=1 attempts=1    a row that an earlier owner left (no event)
//	0s  arrive m2 a [size=] [ttl=] [delay=]  a message of client a from the journal
//	0s  attach 1, detach 1 [free], tick, flush, parked 2, read-failed 1
//	0s  page 1 m1 m2              rows as they were last handed out, or stored
//	0s  ack m1 m2, read m1        from the device
//	0s  settle m1 [read], due m1  a row as it was last handed out, or stored
//	0s  cancel m1, replay m1, discard m1     from people, likewise
//	0s  tight, relaxed            memory
//	0s  look                      not an event: tells what is in memory and when it wakes
//
// Effects show the transitions that no earlier effect has shown, with their reasons.
func TestScenarios(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scenarios: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := play(t, string(want))
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			w, g := strings.Split(string(want), "\n"), strings.Split(got, "\n")
			for i := range max(len(w), len(g)) {
				var a, b string
				if i < len(w) {
					a = w[i]
				}
				if i < len(g) {
					b = g[i]
				}
				if a != b {
					t.Fatalf("%s:%d\nwant %s\ngot  %s", file, i+1, a, b)
				}
			}
		})
	}
}

// scenario plays one file.
type scenario struct {
	params Params
	core   *Recipient
	start  time.Time
	now    time.Time
	ord    uint64
	rows   map[string]*Item // as last handed out
	names  map[esh3ar.ID]string
}

func newScenario() *scenario {
	s := &scenario{
		params: Params{
			Window: 3, WindowBytes: 1 << 20, Hold: 3, Settle: 250 * time.Millisecond,
			AckTimeout: 10 * time.Second, MaxAttempts: 3,
			Backoff: Backoff{Base: time.Second, Cap: 8 * time.Second},
		},
		start: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC),
		rows:  make(map[string]*Item),
		names: make(map[esh3ar.ID]string),
	}
	s.core = NewRecipient(&s.params)
	return s
}

// play returns the scenario with the effects that really come.
func play(t *testing.T, text string) string {
	s := newScenario()
	var out strings.Builder
	for i, line := range strings.Split(strings.TrimSuffix(text, "\n"), "\n") {
		words := strings.Fields(line)
		switch {
		case len(words) == 0 || words[0] == "#":
			out.WriteString(line + "\n")
			continue
		case words[0] == "->":
			continue
		}
		out.WriteString(line + "\n")
		effects, err := s.step(words)
		if err != nil {
			t.Fatalf("line %d: %s: %v", i+1, line, err)
		}
		for _, e := range effects {
			out.WriteString("      -> " + e + "\n")
		}
	}
	return out.String()
}

func (s *scenario) step(words []string) ([]string, error) {
	if words[0] == "params" {
		return nil, s.set(words[1:])
	}
	at, err := time.ParseDuration(words[0])
	if err != nil || len(words) < 2 {
		return nil, fmt.Errorf("want an offset and an event")
	}
	if s.now = s.start.Add(at); words[1] == "look" {
		return s.look(), nil
	}
	names, options := split(words[2:])
	var effects []Effect
	number := func() uint64 {
		if len(names) == 0 {
			return 0
		}
		n, perr := strconv.ParseUint(names[0], 10, 64)
		if perr != nil {
			err = perr
		}
		return n
	}
	r := s.core
	switch words[1] {
	case "stored":
		return nil, s.store(names, options)
	case "arrive":
		it, aerr := s.message(names, options)
		if aerr != nil {
			return nil, aerr
		}
		it.Aside = slices.Contains(names, "aside")
		effects = r.Arrive(it, s.now, nil)
	case "attach":
		effects = r.Attach(Conn(number()), s.now, nil)
	case "detach":
		effects = r.Detach(Conn(number()), slices.Contains(names, "free"), s.now, nil)
	case "tick":
		effects = r.Tick(s.now, nil)
	case "flush":
		effects = r.Flush(nil)
	case "parked":
		effects = r.Parked(int(number()), s.now, nil)
	case "read-failed":
		effects = r.ReadFailed(number(), s.now, nil)
	case "page":
		ticket := number()
		var items []*Item
		for _, name := range names[1:] {
			items = append(items, s.row(name))
		}
		effects = r.Page(ticket, items, s.now, nil)
	case "ack", "read":
		var ids []esh3ar.ID
		for _, name := range names {
			ids = append(ids, s.id(name))
		}
		effects = r.Acknowledge(ids, words[1] == "read", s.now, nil)
	case "settle":
		effects = r.Settle(s.row(names[0]), slices.Contains(names, "read"), s.now, nil)
	case "due":
		effects = r.Due(s.row(names[0]), s.now, nil)
	case "tight", "relaxed":
		effects = r.SetTight(map[string]int{"tight": Tight}[words[1]], s.now, nil)
	case "cancel":
		effects = r.Cancel(s.row(names[0]), s.now, nil)
	case "replay":
		effects = r.Replay(s.row(names[0]), s.now, nil)
	case "discard":
		effects = r.Discard(s.row(names[0]), esh3ar.ReasonDiscarded, s.now, nil)
	default:
		return nil, fmt.Errorf("unknown event")
	}
	if err != nil {
		return nil, err
	}
	var told []string
	for _, e := range effects {
		told = append(told, s.tell(e))
	}
	return told, nil
}

func (s *scenario) set(words []string) error {
	_, options := split(words)
	for k, v := range options {
		d, derr := time.ParseDuration(v)
		n, nerr := strconv.Atoi(v)
		switch {
		case k == "window" && nerr == nil:
			s.params.Window = n
		case k == "bytes" && nerr == nil:
			s.params.WindowBytes = n
		case k == "hold" && nerr == nil:
			s.params.Hold = n
		case k == "attempts" && nerr == nil:
			s.params.MaxAttempts = n
		case k == "strikes" && nerr == nil:
			s.params.Strikes = n
		case k == "pause" && derr == nil:
			s.params.Pause = d
		case k == "ack" && derr == nil:
			s.params.AckTimeout = d
		default:
			return fmt.Errorf("bad parameter %s=%s", k, v)
		}
	}
	return nil
}

// split parts plain words from name=value pairs.
func split(words []string) (plain []string, options map[string]string) {
	options = make(map[string]string)
	for _, w := range words {
		if k, v, ok := strings.Cut(w, "="); ok {
			options[k] = v
		} else {
			plain = append(plain, w)
		}
	}
	return plain, options
}

// id is a message's identifier: its name's number.
func (s *scenario) id(name string) esh3ar.ID {
	n, _ := strconv.Atoi(strings.TrimPrefix(name, "m"))
	id := esh3ar.ID{6: 0x70, 8: 0x80, 15: byte(n)}
	s.names[id] = name
	return id
}

func (s *scenario) message(names []string, options map[string]string) (*Item, error) {
	if len(names) < 2 {
		return nil, fmt.Errorf("want a message and a client")
	}
	m := &esh3ar.Message{ID: s.id(names[0]), Client: names[1], To: "r", AcceptedAt: s.now}
	s.ord++
	it := &Item{Message: m, State: esh3ar.NewState(s.now), Ord: s.ord}
	for k, v := range options {
		n, nerr := strconv.Atoi(v)
		d, derr := time.ParseDuration(v)
		switch {
		case k == "size" && nerr == nil:
			m.Content = strings.Repeat("x", n)
		case k == "ttl" && derr == nil:
			m.ExpiresAt = s.now.Add(d)
		case k == "delay" && derr == nil:
			m.SendAt = s.now.Add(d)
		case k == "ord" && nerr == nil:
			it.Ord = uint64(n)
			s.ord = max(s.ord-1, it.Ord)
		case k == "attempts" && nerr == nil:
			it.State.Attempts = uint32(n)
		default:
			return nil, fmt.Errorf("bad option %s=%s", k, v)
		}
	}
	return it, nil
}

// store lets an earlier owner have left a row.
func (s *scenario) store(names []string, options map[string]string) error {
	it, err := s.message(names, options)
	if err != nil || len(names) < 3 {
		return fmt.Errorf("want a message, a client and a status: %v", err)
	}
	status, err := esh3ar.ParseStatus(names[2])
	if err != nil {
		return err
	}
	for _, step := range []esh3ar.Status{esh3ar.StatusQueued, esh3ar.StatusSent, status} {
		if it.State.Status != status {
			it.State.Move(step, s.now, esh3ar.ReasonNone)
		}
	}
	it.Saved, it.Unsaved = true, len(it.State.Timeline)
	s.rows[names[0]] = it
	return nil
}

// row returns the row as it was last handed out.
func (s *scenario) row(name string) *Item {
	it := *s.rows[name]
	it.State.Timeline = slices.Clone(it.State.Timeline)
	return &it
}

func (s *scenario) tell(e Effect) string {
	switch e.Action {
	case Send:
		to := ""
		if e.Conn != 0 {
			to = fmt.Sprintf(" to %d", e.Conn)
		}
		return fmt.Sprintf("send %s%s, attempt %d", s.names[e.Item.Message.ID], to, e.State.Attempts)
	case Read:
		bounds := fmt.Sprintf("after %d", e.After)
		if e.Before != 0 {
			bounds += fmt.Sprintf(" before %d", e.Before)
		}
		return fmt.Sprintf("read #%d %s, at most %d", e.Ticket, bounds, e.Limit)
	case Late:
		if e.Read {
			return "late read " + s.names[e.ID]
		}
		return "late " + s.names[e.ID]
	case Open:
		return fmt.Sprintf("breaker open until %s", e.Until.Sub(s.start))
	case Close:
		return "breaker closed"
	}
	name := s.names[e.Item.Message.ID]
	s.rows[name] = &Item{
		Message: e.Item.Message, State: e.State, Ord: e.Item.Ord,
		Saved: true, Unsaved: len(e.State.Timeline),
	}
	verb := map[Action]string{Save: "save", Park: "park", Done: "done"}[e.Action]
	var moves []string
	for _, m := range e.State.Timeline[e.NewFrom:] {
		moves = append(moves, move(m))
	}
	line := fmt.Sprintf("%s %s: %s", verb, name, strings.Join(moves, ", "))
	if e.NewFrom == len(e.State.Timeline) {
		line = fmt.Sprintf("%s %s as it was", verb, name)
	}
	if e.State.Attempts > 0 {
		line += fmt.Sprintf("; attempts %d", e.State.Attempts)
	}
	if !e.State.NotBefore.IsZero() {
		line += fmt.Sprintf("; not before %s", e.State.NotBefore.Sub(s.start))
	}
	if e.Fresh {
		line += "; first row"
	}
	if e.Report {
		line += "; report"
	}
	return line
}

func move(m esh3ar.Transition) string {
	if m.Reason != esh3ar.ReasonNone {
		return fmt.Sprintf("%s (%s)", m.Status, m.Reason)
	}
	return m.Status.String()
}

func (s *scenario) look() []string {
	list := func(items []*Item) string {
		var names []string
		for _, it := range items {
			names = append(names, s.names[it.Message.ID])
		}
		return strings.Join(names, " ")
	}
	var out []string
	for _, l := range s.core.lanes {
		out = append(out, fmt.Sprintf("lane %s: in flight [%s], waiting [%s]", l.client, list(l.flight.items()), list(l.queue.items())))
	}
	if len(s.core.tail) > 0 {
		out = append(out, fmt.Sprintf("held back: [%s]", list(s.core.tail)))
	}
	wake := "nothing to wake for"
	if at := s.core.Wake(); !at.IsZero() {
		wake = fmt.Sprintf("wakes at %s", at.Sub(s.start))
	}
	if s.core.Idle() {
		wake += ", idle"
	}
	return append(out, wake)
}
