// Package growth is a model of how the processor time of servers and database grows with load, nodes and shards:
// counts of what happens in a second, and costs for each of these that are fitted to measurements. docs/benchmarks.md
// states it, scripts/growth measures.
package growth

import "math"

// Work is the load on all nodes together.
type Work struct {
	Messages float64 // a second
	Batch    float64 // messages in a request
	Devices  float64 // connected
}

// Counts are what happens in a second, over all nodes.
type Counts struct {
	Requests float64
	Messages float64
	Entries  float64 // of the journal
	Commits  float64 // transactions that store what became of messages
	Devices  float64 // connected
}

// commitEvery is how often a shard's changes are stored while there are any, in seconds.
const commitEvery = 0.02

// Wait is how long, in seconds, an entry of the journal keeps the next one of the same node and shard, which fills
// meanwhile.
type Wait struct {
	Alone  float64 // after an entry of one message
	Joined float64 // how much longer after one of many, because the next one then lingers for more
}

// piece is how many messages of a request go to the journal together.
const piece = 128

// Count says what work makes nodes of that shape do.
func Count(s Shape, w Work, wait Wait) Counts {
	shards := float64(s.Shards)
	c := Counts{Messages: w.Messages, Requests: w.Messages / w.Batch, Devices: w.Devices}
	// The messages of a piece are spread over shards by chance, and what goes to one shard is in one entry.
	together := min(w.Batch, piece)
	parts := w.Messages / together * shards * (1 - math.Pow(1-1/shards, together))
	// How many share an entry decides how long the next one waits, and so how many share that.
	c.Entries = parts
	for range settle {
		next := joined(parts, s.nodes()*shards, wait.Alone+wait.Joined*(1-c.Entries/c.Messages))
		c.Entries = (c.Entries + next) / 2
	}
	c.Commits = shards / commitEvery * (1 - math.Exp(-w.Messages/shards*commitEvery))
	return c
}

// settle is how many steps it takes at most until the number of entries moves no more.
const settle = 12

// joined is how many groups a second become of arrivals at so many queues, if each group keeps the next one waiting so
// long, in seconds.
func joined(arrivals, queues, wait float64) float64 {
	return arrivals / (1 + arrivals/queues*wait)
}

// Hops is how often an entry and what follows from it has a node do something, on the average: the node that accepts it, the
// two others that keep copies; and if there are several nodes, the one that leads the stream, the one that owns the shard and the one
// with the device, as far as they are others.
func Hops(s Shape) float64 {
	h := 1 + 3*(1-1/s.nodes())
	if s.replicated() {
		h += 2
	}
	return h
}

// Server is what the nodes' processor time is made of, in seconds.
type Server struct {
	Node   float64 // a second, of each node without load
	Shard  float64 // a second, of each shard of a cluster without load
	Device float64 // a second, of each connected device without messages: its pings

	Request float64
	Message float64
	Commit  float64
	Wake    float64 // of each time that a node has something to do again
	// Awake is how long a node that has something to do takes up what comes without being woken again.
	Awake float64
}

// CPU is the processor time that all nodes take in a second.
func (s Server) CPU(shape Shape, c Counts) float64 {
	return s.idle(shape, c.Devices) + s.Request*c.Requests + s.Message*c.Messages + s.Commit*c.Commits + s.Wake*s.wakes(shape, c)
}

func (s Server) idle(shape Shape, devices float64) float64 {
	return s.Node*shape.nodes() + s.Shard*shape.clustered() + s.Device*devices
}

// wakes is how often a second nodes are woken.
func (s Server) wakes(shape Shape, c Counts) float64 {
	return joined(c.Entries*Hops(shape), shape.nodes(), s.Awake)
}

// Database is what a PostgreSQL takes for a message and for a commit.
type Database struct {
	MessageCPU, CommitCPU float64 // processor time, in seconds
	MessageWAL, CommitWAL float64 // bytes
}

// CPU is the database's processor time in a second.
func (d Database) CPU(c Counts) float64 { return d.MessageCPU*c.Messages + d.CommitCPU*c.Commits }

// WAL is how many bytes the database writes ahead in a second.
func (d Database) WAL(c Counts) float64 { return d.MessageWAL*c.Messages + d.CommitWAL*c.Commits }

// Memory is what the nodes have resident without load, in bytes.
type Memory struct {
	Node   float64
	Copy   float64 // of a shard's journal, on each node that keeps one
	Device float64 // connected
}

// Of is the memory of all nodes.
func (m Memory) Of(shape Shape, devices float64) float64 {
	return m.Node*shape.nodes() + m.Copy*shape.copies() + m.Device*devices
}
