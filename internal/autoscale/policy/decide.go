package policy

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"
)

// Decide says what to do. The state is as if the decision were carried out; if it is not, see Rules.Failed.
func (r Rules) Decide(s State, o Observation, now time.Time) (Decision, State) {
	s = s.asOf(now, r)
	if !o.Known {
		s.LowSince = time.Time{}
		return Decision{Kind: Hold, Reason: "the state of the deployment is not known"}, s
	}
	j := judgement{Rules: r, o: o, now: now}
	j.view, j.s = r.look(s, o, now)
	return j.decide()
}

// judgement is a decision in the making.
type judgement struct {
	Rules
	view
	o   Observation
	s   State
	now time.Time

	d        Decision
	measures map[Signal]measure
	last     Signal    // what was loaded most at the last reading, not smoothed
	current  float64   // and how much
	low      time.Time // since when the load was low, as of the last decision
}

// view is the nodes of an observation, sorted.
type view struct {
	serving []Node // ready, with figures that count
	leaving []Node // draining, with such figures
	missing []Node // the others
	live    int    // serving and missing
	elastic int    // of the live ones
	coming  int    // missing ones that have not served yet and still may, and those that are awaited
}

// look sorts the nodes, and takes note of who came and went.
func (r Rules) look(s State, o Observation, now time.Time) (view, State) {
	var v view
	seen := make(map[string]Sighting, len(o.Nodes))
	awaited := slices.Clone(s.Awaited)
	for _, n := range o.Nodes {
		sighting, known := s.Seen[n.Name]
		if !known {
			sighting.Since = now
			if len(awaited) > 0 && !n.Core {
				awaited = awaited[1:] // it is one of those that were asked for
			}
		}
		fresh := !n.Reported.IsZero() && now.Sub(n.Reported) <= r.StaleAfter
		switch {
		case n.Draining && fresh:
			v.leaving = append(v.leaving, n)
		case n.Draining:
		case fresh && n.Ready:
			v.serving = append(v.serving, n)
			sighting.Served = true
		default:
			v.missing = append(v.missing, n)
			if !sighting.Served && now.Sub(sighting.Since) <= r.StartWithin {
				v.coming++
			}
		}
		if !n.Draining {
			v.live++
			if !n.Core {
				v.elastic++
			}
		}
		seen[n.Name] = sighting
	}
	awaited = slices.DeleteFunc(awaited, func(since time.Time) bool { return now.Sub(since) > r.StartWithin })
	v.coming += len(awaited)
	s.Awaited, s.Seen = awaited, seen
	if d := s.Drain; d != nil {
		_, there := seen[d.Node]
		if d.Node == "" {
			there = v.live >= d.Live
		}
		if !there || now.Sub(d.Since) > r.DrainWithin {
			s.Drain = nil
		}
	}
	return v, s
}

func (j *judgement) decide() (Decision, State) {
	j.low, j.s.LowSince = j.s.LowSince, time.Time{} // unless it is found to go on
	total := j.elastic + len(j.s.Awaited)           // elastic nodes that are there or to come
	j.d = Decision{Live: j.live, Elastic: j.elastic, Starting: j.coming, Wanted: total}
	j.measures = j.Capacity.measures(j.serving, j.leaving)
	if len(j.serving) > 0 {
		j.measure()
	}
	switch {
	case j.now.Before(j.s.RetryAt):
		return j.hold("decisions could not be carried out, %d in a row; the next attempt is in %s", j.s.Failures, seconds(j.s.RetryAt.Sub(j.now)))
	case total < j.Min:
		return j.add(j.Min-total, "%d elastic nodes are there or to come, fewer than the least, %d", total, j.Min)
	case len(j.serving) == 0:
		return j.hold("no node tells how loaded it is")
	case j.now.Sub(j.s.Began) < j.Smooth:
		return j.hold("%s; that is known for too short a time", j.load())
	case j.d.Utilisation >= j.High:
		return j.up(total)
	}
	return j.down()
}

// measure takes the load into the average.
func (j *judgement) measure() {
	reading := make(map[Signal]float64, len(j.measures))
	for signal, m := range j.measures {
		reading[signal] = m.utilisation()
	}
	began := j.s.Began
	j.s = j.smooth(j.s, reading, j.now)
	if !j.s.Began.Equal(began) {
		j.low = time.Time{} // there was a gap
	}
	away := j.storeAway()
	except := func(s Signal) bool { return away && s.ofStore() }
	j.d.Signal, j.d.Utilisation = most(j.s.Load, except)
	j.last, j.current = most(reading, except)
}

// storeAway says whether some node does not reach the store. More nodes would not bring it back.
func (j *judgement) storeAway() bool {
	return slices.ContainsFunc(j.serving, func(n Node) bool { return n.Figures.StoreAway })
}

// load says what is loaded most on average, which is what decisions go by.
func (j *judgement) load() string {
	return j.d.Signal.describe(j.d.Utilisation, j.measures[j.d.Signal].capacity, "on average")
}

// peak says, after load, what the last reading of a signal was, if it is higher than the average and so decides, too.
func (j *judgement) peak(s Signal, utilisation float64) string {
	if utilisation <= j.d.Utilisation || percent(utilisation) == percent(j.d.Utilisation) {
		return ""
	}
	return ", and " + s.describe(utilisation, j.measures[s].capacity, "now")
}

// up decides at a high load. Total is the elastic nodes that are there or to come.
func (j *judgement) up(total int) (Decision, State) {
	serving := float64(len(j.serving))
	have := len(j.serving) + j.coming
	// Whether it is time is the average's to say. How much is needed the last reading says sooner, if it is higher.
	current := j.measures[j.d.Signal].utilisation()
	load := max(j.d.Utilisation, current)
	peak := j.peak(j.d.Signal, current)
	expected := load * serving / float64(have)
	switch {
	case expected < j.High:
		return j.hold("%s%s; %s to come and will bring it to %s", j.load(), peak, nodesAre(j.coming), percent(expected))
	case total >= j.Max:
		return j.hold("%s, but there are %d elastic nodes, and no more than %d may be", j.load(), total, j.Max)
	case j.now.Sub(j.s.Added) < j.UpCooldown:
		return j.hold("%s; nodes were added %s ago, and %s must pass", j.load(), seconds(j.now.Sub(j.s.Added)), j.UpCooldown)
	}
	const rounding = 1e-9
	need := int(math.Ceil(serving*load/j.Target-rounding)) - have
	// At most the number that there is, because figures beyond the capacity say little about how far beyond.
	n := max(min(need, have, j.Max-total), 1)
	after := load * serving / float64(have+n)
	return j.add(n, "%s, which is %s or more%s: %s it to %s", j.load(), percent(j.High), peak, nodesBring(n), percent(after))
}

// down decides at a load that is not high.
func (j *judgement) down() (Decision, State) {
	tooMany := j.elastic > j.Max
	rest := len(j.serving) - 1
	after := math.Inf(1)
	if rest > 0 {
		after = max(j.d.Utilisation, j.current) * float64(rest+1) / float64(rest)
	}
	peak := j.peak(j.last, j.current)
	switch {
	case j.elastic <= j.Min && j.coming == 0:
		return j.hold("%s", j.load())
	case len(j.missing) > 0 && j.coming == 0:
		return j.hold("%s; nothing is removed while figures of %s are missing or too old", j.load(), j.missing[0].Name)
	case j.coming > 0:
		return j.hold("%s; %s to come", j.load(), nodesAre(j.coming))
	case j.storeAway():
		return j.hold("%s; nothing is removed while the message store is away", j.load())
	case rest == 0:
		return j.hold("%s; the last node is not removed", j.load())
	case !tooMany && after > j.Low:
		return j.hold("%s%s; one node less would bring it to %s", j.load(), peak, percent(after))
	}
	j.s.LowSince = j.low
	if j.low.IsZero() {
		j.s.LowSince = j.now
	}
	low := j.now.Sub(j.s.LowSince)
	changed := j.s.Added
	if j.s.Removed.After(changed) {
		changed = j.s.Removed
	}
	candidates := j.candidates()
	switch {
	case j.s.Drain != nil || slices.ContainsFunc(j.o.Nodes, func(n Node) bool { return n.Draining }):
		return j.hold("%s; a node is going already", j.load())
	case !tooMany && low < j.LowFor:
		return j.hold("%s, low for %s; a node is removed when it is so for %s", j.load(), seconds(low), j.LowFor)
	case j.now.Sub(changed) < j.DownCooldown:
		return j.hold("%s; the last change was %s ago, and %s must pass until a node is removed", j.load(), seconds(j.now.Sub(changed)), j.DownCooldown)
	case len(candidates) == 0:
		return j.hold("%s; no elastic node can be removed from here", j.load())
	}
	node := candidates[0].Name
	if j.o.Chooses {
		node = ""
	}
	if tooMany {
		return j.remove(node, "there are %d elastic nodes, and no more than %d may be", j.elastic, j.Max)
	}
	return j.remove(node, "%s%s, low for %s: one node less brings it to %s", j.load(), peak, seconds(low), percent(after))
}

// candidates returns the nodes that may be told to go, those first that have the least to move to others.
func (j *judgement) candidates() []Node {
	var all []Node
	for _, n := range j.serving {
		if !n.Core && (j.o.Removable == nil || slices.Contains(j.o.Removable, n.Name)) {
			all = append(all, n)
		}
	}
	slices.SortFunc(all, func(a, b Node) int {
		return cmp.Or(cmp.Compare(a.Figures.Connections, b.Figures.Connections), cmp.Compare(b.Name, a.Name))
	})
	return all
}

func (j *judgement) hold(reason string, args ...any) (Decision, State) {
	j.d.Kind, j.d.Reason = Hold, fmt.Sprintf(reason, args...)
	return j.d, j.s
}

func (j *judgement) add(n int, reason string, args ...any) (Decision, State) {
	j.d.Kind, j.d.Count, j.d.Reason = Add, n, fmt.Sprintf(reason, args...)
	j.d.Wanted += n
	j.s.Added = j.now
	j.s.Awaited = append(slices.Clone(j.s.Awaited), slices.Repeat([]time.Time{j.now}, n)...)
	return j.d, j.s
}

func (j *judgement) remove(node, reason string, args ...any) (Decision, State) {
	j.d.Kind, j.d.Count, j.d.Node, j.d.Reason = Remove, 1, node, fmt.Sprintf(reason, args...)
	j.d.Wanted--
	j.s.Removed, j.s.LowSince = j.now, time.Time{}
	j.s.Drain = &Drain{Node: node, Since: j.now, Live: j.live}
	return j.d, j.s
}

// asOf has no time lie ahead: the state may come from a machine whose clock does.
func (s State) asOf(now time.Time, r Rules) State {
	past := func(t time.Time) time.Time {
		if t.After(now) {
			return now
		}
		return t
	}
	for _, t := range []*time.Time{&s.Began, &s.At, &s.LowSince, &s.Added, &s.Removed} {
		*t = past(*t)
	}
	s.Awaited = slices.Clone(s.Awaited)
	for i := range s.Awaited {
		s.Awaited[i] = past(s.Awaited[i])
	}
	s.Seen = maps.Clone(s.Seen)
	for name, sighting := range s.Seen {
		sighting.Since = past(sighting.Since)
		s.Seen[name] = sighting
	}
	if s.Drain != nil {
		d := *s.Drain
		d.Since = past(d.Since)
		s.Drain = &d
	}
	if last := now.Add(r.RetryCap); s.RetryAt.After(last) {
		s.RetryAt = last
	}
	return s
}

func seconds(d time.Duration) time.Duration { return d.Round(time.Second) }

func nodesBring(n int) string {
	if n == 1 {
		return "1 node more brings"
	}
	return fmt.Sprint(n, " nodes more bring")
}

func nodesAre(n int) string {
	if n == 1 {
		return "1 node is"
	}
	return fmt.Sprint(n, " nodes are")
}
