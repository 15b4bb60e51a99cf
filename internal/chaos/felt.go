//go:build unix

package chaos

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"
)

// Felt is how one fault was felt by those who had done nothing wrong.
type Felt struct {
	Fault string        `json:"fault"`
	At    time.Duration `json:"at"` // since the beginning of the load
	// Accept is the longest time in which a shard accepted nothing although somebody tried.
	Accept time.Duration `json:"accept"`
	// Wait is the longest that a message waited, from its 202, for a recipient whose device was connected all the time.
	Wait time.Duration `json:"wait"`
	// Reconnect is the longest that one waited for a recipient whose device had to connect anew in between, which it does by
	// itself at once.
	Reconnect time.Duration `json:"reconnect"`
	// Elections is how many leaders the streams of a cluster got.
	Elections int `json:"elections"`
}

// onset is how long before its fault a stall may seem to begin: it begins with the last that happened, and probes come
// every now and then.
const onset = 3 * probeInterval

// feelings attributes what is felt to faults. A stall, a wait or an election belongs to the fault that was injected last
// before it began, which need not be its cause where faults overlap. What stands between devices and server has no part in
// what is accepted, and no stream elects a leader because of it.
type feelings struct {
	all []Felt
	at  []int64 // when each was injected
}

// injected notes that a fault is injected now, which is that long after the beginning.
func (f *feelings) injected(name string, now int64, since time.Duration) {
	f.all = append(f.all, Felt{Fault: name, At: since})
	f.at = append(f.at, now)
}

// cause returns the fault to which something belongs that began then, nil if there was none yet.
func (f *feelings) cause(began int64, servers bool) *Felt {
	for i := len(f.all) - 1; i >= 0; i-- {
		if f.at[i] <= began+int64(onset) && (!servers || strikesServers(f.all[i].Fault)) {
			return &f.all[i]
		}
	}
	return nil
}

// strikesServers reports whether the fault strikes the servers or what they stand on.
func strikesServers(fault string) bool {
	all := kinds()
	i := slices.IndexFunc(all, func(k kind) bool { return k.name == fault })
	return i >= 0 && all[i].touches&^(network|devices) != 0
}

func (f *feelings) stalled(from, to int64) {
	if c := f.cause(from, true); c != nil {
		c.Accept = max(c.Accept, time.Duration(to-from))
	}
}

// waited notes the time from a 202 to the receipt, and since when the device has been connected.
func (f *feelings) waited(from, to, connected int64) {
	c := f.cause(from, false)
	if c == nil {
		return
	}
	wait := &c.Wait
	if connected > from {
		wait = &c.Reconnect
	}
	*wait = max(*wait, time.Duration(to-from))
}

func (f *feelings) elected(at int64) {
	if c := f.cause(at, true); c != nil {
		c.Elections++
	}
}

// FeltTable tells for each kind of fault how it was felt, over all that were injected: the median and the most.
func FeltTable(all []Felt) string {
	kinds := make(map[string][]Felt)
	for _, f := range all {
		kinds[f.Fault] = append(kinds[f.Fault], f)
	}
	if len(kinds) == 0 {
		return ""
	}
	var b strings.Builder
	row := func(cells ...any) { fmt.Fprintf(&b, "%-24s %5s  %-22s %-22s %-22s %s\n", cells...) }
	row("", "", "a shard accepts", "a recipient waits", "one whose device", "")
	row("fault", "times", "nothing for p50, most", "for p50, most", "reconnects p50, most", "elections p50, most")
	for _, name := range slices.Sorted(maps.Keys(kinds)) {
		of := kinds[name]
		accept := func(f Felt) time.Duration { return f.Accept }
		wait := func(f Felt) time.Duration { return f.Wait }
		reconnect := func(f Felt) time.Duration { return f.Reconnect }
		elections := func(f Felt) int { return f.Elections }
		fmt.Fprintf(&b, "%-24s %5d  %7.2f s, %7.2f s   %7.2f s, %7.2f s   %7.2f s, %7.2f s   %3d, %d\n", name, len(of),
			rank(of, accept, 2).Seconds(), rank(of, accept, 1).Seconds(), rank(of, wait, 2).Seconds(), rank(of, wait, 1).Seconds(),
			rank(of, reconnect, 2).Seconds(), rank(of, reconnect, 1).Seconds(), rank(of, elections, 2), rank(of, elections, 1))
	}
	return b.String()
}

// rank returns the median of a figure (part 2) or its most (part 1): that of which one in part is not below it.
func rank[T cmp.Ordered](of []Felt, figure func(Felt) T, part int) T {
	figures := make([]T, len(of))
	for i, f := range of {
		figures[i] = figure(f)
	}
	slices.Sort(figures)
	return figures[(len(figures)-1)/part]
}

// injected notes that a fault is injected now.
func (b *book) injected(name string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.now()
	b.felt.injected(name, now, time.Duration(now-b.began))
}

// connecting notes that a probe's device connects anew, and connected that it has. What it receives before that has waited for it.
func (b *book) connecting(recipient uint32) { b.note(recipient, math.MaxInt64) }

func (b *book) connected(recipient uint32) { b.note(recipient, b.now()) }

func (b *book) note(recipient uint32, since int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.since[recipient] = since
}

// elected notes that a stream of the journal has got a leader.
func (b *book) elected() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.felt.elected(b.now())
}
