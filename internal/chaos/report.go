//go:build unix

package chaos

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// Report is what came of a run. Durations are in nanoseconds in JSON.
type Report struct {
	Seed     uint64        `json:"seed"`
	Nodes    int           `json:"nodes"`
	Balancer bool          `json:"balancer,omitempty"`
	Store    string        `json:"store"`
	Duration time.Duration `json:"duration"`
	Settled  time.Duration `json:"settled"`
	Schedule []Step        `json:"schedule"`
	// Faults counts what was injected, Unavailable says why the others could not be.
	Faults      map[string]int    `json:"faults"`
	Unavailable map[string]string `json:"unavailable,omitempty"`

	// Accepted counts messages with a 202, Refused those surely not accepted, Unknown those without an
	// answer or a key to ask again with, Landed those of them that arrived all the same.
	Accepted int `json:"accepted"`
	Refused  int `json:"refused"`
	Unknown  int `json:"unknown"`
	Landed   int `json:"landed"`
	// Received counts accepted messages that a device received, Repeats the receipts of a device beyond
	// its first of a message, which are allowed.
	Received int `json:"received"`
	Repeats  int `json:"repeats"`
	// Statuses counts the accepted messages by their last status.
	Statuses map[string]int `json:"statuses"`

	// These have to be 0. Disordered: messages that arrived after one that comes behind them. Lost:
	// messages that neither arrived nor have a reason not to. Forgotten: messages that the server does
	// not know any more, whether they arrived or not. Unexplained: messages whose status is not what it
	// has to be. Contradictions: everything else that must never be, such as two identifiers for one
	// message, or a server that ends by itself.
	Disordered     int `json:"order_violations"`
	Lost           int `json:"lost"`
	Forgotten      int `json:"forgotten"`
	Unexplained    int `json:"unexplained"`
	Contradictions int `json:"contradictions"`
	// Felt is how each fault was felt, in the order of the schedule.
	Felt []Felt `json:"felt"`
	// Notes describes what is wrong, up to a limit of each kind.
	Notes []string `json:"notes,omitempty"`

	// AcceptStall and DeliveryStall are the longest times without a 202 and without a receipt while
	// there was load.
	AcceptStall   stall `json:"longest_accept_stall"`
	DeliveryStall stall `json:"longest_delivery_stall"`

	// Starts counts the server's starts, Exits its ends for want of a store or a disk.
	Starts int `json:"starts"`
	Exits  int `json:"exits"`
	// StartsBy counts the starts of each node of a cluster.
	StartsBy map[string]int `json:"starts_by,omitempty"`
	// PagesLost counts pages that power cuts took, Cuts device connections cut in the middle.
	PagesLost int   `json:"pages_lost"`
	Cuts      int64 `json:"connections_cut"`
	// Dir has the ledger and the server's log, if they were kept.
	Dir string `json:"dir,omitempty"`

	open      []string        // statuses that are not as they have to be
	explained map[string]bool // accepted messages without a receipt that have a reason
}

// OK reports whether every promise was kept.
func (r *Report) OK() bool {
	return r.Lost == 0 && r.Forgotten == 0 && r.Disordered == 0 && r.Unexplained == 0 && r.Contradictions == 0
}

// maxNotes bounds how many of one kind of fault Report.Notes has.
const maxNotes = 15

func (r *Report) note(what []string) {
	r.Notes = append(r.Notes, what[:min(len(what), maxNotes)]...)
	if more := len(what) - maxNotes; more > 0 {
		r.Notes = append(r.Notes, fmt.Sprintf("… and %d more like this", more))
	}
}

// String is the report as people read it.
func (r *Report) String() string {
	var b strings.Builder
	row := func(name, format string, args ...any) {
		fmt.Fprintf(&b, "%-18s"+format+"\n", append([]any{name}, args...)...)
	}
	nodes := ""
	if r.Nodes > 1 { // elastic ones included
		nodes = fmt.Sprintf("%d nodes, ", r.Nodes)
	}
	if r.Balancer {
		nodes += "behind a balancer, "
	}
	row("seed", "%d, %s%s, %s and %.1f s to settle", r.Seed, nodes, r.Store, r.Duration, r.Settled.Seconds())
	row("faults", "%s", counts(r.Faults))
	for _, name := range slices.Sorted(maps.Keys(r.Unavailable)) {
		row("not available", "%s: %s", name, r.Unavailable[name])
	}
	row("accepted", "%d (refused %d, unknown %d, of which %d arrived)", r.Accepted, r.Refused, r.Unknown, r.Landed)
	row("received", "%d, and %d repeats", r.Received, r.Repeats)
	row("statuses", "%s", counts(r.Statuses))
	row("order violations", "%d", r.Disordered)
	row("lost", "%d", r.Lost)
	row("forgotten", "%d", r.Forgotten)
	row("unexplained", "%d", r.Unexplained)
	row("contradictions", "%d", r.Contradictions)
	row("longest stalls", "%.2f s without a 202 (until %.1f s), %.2f s without a receipt (until %.1f s)",
		r.AcceptStall.Longest.Seconds(), r.AcceptStall.Before.Seconds(), r.DeliveryStall.Longest.Seconds(), r.DeliveryStall.Before.Seconds())
	row("server", "%d starts, %d of them for want of a store or a disk; %d pages lost, %d connections cut", r.Starts, r.Exits, r.PagesLost, r.Cuts)
	if len(r.StartsBy) > 0 {
		row("starts of nodes", "%s", counts(r.StartsBy))
	}
	b.WriteString(FeltTable(r.Felt))
	verdict := "kept every promise"
	if !r.OK() {
		verdict = "BROKE A PROMISE; ledger and log are in " + cmp.Or(r.Dir, "no directory")
	}
	row("verdict", "%s", verdict)
	for _, n := range r.Notes {
		b.WriteString("  " + n + "\n")
	}
	return b.String()
}

// counts lists numbers by name.
func counts(n map[string]int) string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(n)) {
		parts = append(parts, fmt.Sprintf("%s %d", name, n[name]))
	}
	return cmp.Or(strings.Join(parts, ", "), "none")
}
