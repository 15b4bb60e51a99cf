package health

import "time"

// What a node's dispatch may have to do before it counts as behind by all that it may be. The autoscaler takes the same for
// its load unless it is told otherwise.
const (
	// LagCapacity is how long ago what is being read of the journal may have been accepted.
	LagCapacity = 10 * time.Second
	// QueueCapacity is how many recipients may wait for a turn.
	QueueCapacity = 20_000
	// mostBehind is how much of a node's free capacity being behind takes at most: what accepting costs beside is small.
	mostBehind = 0.5
)

// Load is how much the process has to do, for whoever spreads requests over several.
type Load struct {
	// Free is the share of its capacity that is free, from 0 to 1: of accepting, as whoever tells the load says, and at most
	// as much as dispatch leaves. Lag and queue are those of the Figures.
	Free float64 `json:"free"`
	// InFlight is how many requests are being worked on, Limit how many may be before more are refused.
	InFlight int64 `json:"in_flight"`
	Limit    int64 `json:"limit"`
}

// behind bounds what is free by what dispatch has to do: its lag and its queue as shares of what they may be, whichever is more. As
// for the autoscaler neither says anything of a node while the store is away, which is behind all nodes.
func (l Load) behind(f Figures) Load {
	if f.StoreBreaker == "closed" {
		used := max(f.Lag/LagCapacity.Seconds(), float64(f.DispatchQueue)/QueueCapacity)
		l.Free = min(l.Free, 1-mostBehind*min(used, 1))
	}
	return l
}
