package cluster

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"regexp"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
)

// Defaults of MembersOptions.
const (
	DefaultHeartbeat = time.Second
	DefaultFreshFor  = 4 * time.Second
	DefaultDeadAfter = 5 * time.Second
)

// ErrSuperseded is why Members.Run ends when another process reports under this
// node's name and began later.
var ErrSuperseded = errors.New("another process has this node's name")

// Connector is NATS: a Server or External.
type Connector interface {
	Connect(options ...nats.Option) (*nats.Conn, error)
}

// Member is what a node tells the others of itself.
type Member struct {
	// Name is unique among the nodes, and the same after a restart.
	Name string `json:"name"`

	// Incarnation is of one start of the node. A later one is higher.
	Incarnation uint64 `json:"incarnation,string"`

	Address string   `json:"address"` // base URL of its HTTP server
	Roles   []string `json:"roles,omitempty"`

	// Owner: the node takes shards. Draining: it is about to stop, and keeps
	// none.
	Owner    bool `json:"owner,omitempty"`
	Draining bool `json:"draining,omitempty"`

	// Away: the node does not reach the message store, which others reach. It
	// keeps no shards as long as there is somebody to take them who is not.
	Away bool `json:"away,omitempty"`

	// Store is how the node's message store answers, nil if it never has or is
	// not asked.
	Store *StoreContact `json:"store,omitempty"`

	// Load is what the node last said of its load, JSON.
	Load json.RawMessage `json:"load,omitempty"`
}

// memberRecord is what is stored.
type memberRecord struct {
	Member
	Beat uint64 `json:"beat,string"`    // grows with every record of an incarnation
	Gone bool   `json:"gone,omitempty"` // goodbye
}

// MembersOptions configures Members. The zero value of an optional field means
// its default.
type MembersOptions struct {
	NATS   Connector    // required
	Logger *slog.Logger // required

	// Name, Address and Roles are this node's, see Member. Names consist of
	// letters, digits, "-" and "_", with dots between. Required: Name.
	Name    string
	Address string
	Roles   []string

	// Replicas is how many servers keep the records. Default 1.
	Replicas int

	// Streams are streams of others, such as the journal's, whose leaders are
	// kept on different servers, as evenly as they go. The members' own are
	// anyway.
	Streams []string

	// Store, if set, asks whether this node's message store answers: nil if it
	// does. It is called at every heartbeat, with two seconds to answer, and one
	// call at a time.
	Store func(context.Context) error

	// Commits, if set, says how the store takes this node's commits: when that
	// was asked for which it took last, zero if it took none; and since when it
	// has taken none of those that are asked for, zero if it does or there are
	// none. It is called after Store, and must not block.
	Commits func() (taken, vain time.Time)

	// Load, if set, is asked before each heartbeat for the node's load, as
	// JSON. It must not block.
	Load func() json.RawMessage

	// Heartbeat is how often the node reports. Default 1 s.
	Heartbeat time.Duration

	// FreshFor is how long the node may count on others knowing it to be alive
	// after it began to store a report. Default 4 s.
	FreshFor time.Duration

	// DeadAfter is how long after its last report a node counts as dead. It
	// must be more than FreshFor: a node is to know first. Default 5 s.
	DeadAfter time.Duration
}

// Members knows which nodes are there and tells them of this one.
//
// A node is dead when it has not reported for DeadAfter, by this machine's
// monotonic clock, or has said goodbye. Silence counts only while reports can be
// stored and read: while NATS elects a leader, or after this process was
// stopped, nobody dies of it.
type Members struct {
	opts MembersOptions

	mu           sync.Mutex
	self         Member
	beat         uint64
	contact      contact // of this node, like reachability
	reachability reachability
	views        [boards]boardView
	nodes        map[string]*node
	holders      map[uint16]holder
	last         time.Time             // when the newest report that was stored began to be
	joined       chan struct{}         // closed when the first report is stored
	storeKnown   chan struct{}         // closed when it is known whether this node's store is away
	report       [boards]chan struct{} // cap 1: there is something to report before it is time
	membership   broadcast
	holdersNews  broadcast

	leaseBoard *board // set with joined

	lost context.Context // ends when this node stops and most of the servers have gone
	lose context.CancelCauseFunc
}

// NewMembers checks the options. Nothing happens before Run.
func NewMembers(o MembersOptions) (*Members, error) {
	if o.NATS == nil || o.Logger == nil {
		return nil, errors.New("cluster: NATS and logger are required")
	}
	if !nodeName.MatchString(o.Name) {
		return nil, fmt.Errorf("cluster: node name %q: want letters, digits, - and _, with dots between", o.Name)
	}
	o.Replicas = cmp.Or(o.Replicas, 1)
	o.Heartbeat = cmp.Or(o.Heartbeat, DefaultHeartbeat)
	o.FreshFor = cmp.Or(o.FreshFor, DefaultFreshFor)
	o.DeadAfter = cmp.Or(o.DeadAfter, DefaultDeadAfter)
	if o.Heartbeat < 0 || o.FreshFor < 2*o.Heartbeat || o.DeadAfter <= o.FreshFor {
		return nil, fmt.Errorf("cluster: heartbeat every %v, fresh for %v, dead after %v: each must be longer than the one before", o.Heartbeat, o.FreshFor, o.DeadAfter)
	}
	m := &Members{
		opts: o,
		// The time makes later starts higher, the rest tells starts apart that a
		// clock does not. join goes above what is there if the clock was set back.
		self: Member{
			Name: o.Name, Address: o.Address, Roles: slices.Clone(o.Roles),
			Incarnation: uint64(time.Now().UnixMilli())<<20 | rand.Uint64N(1<<20),
		},
		nodes:       make(map[string]*node),
		holders:     make(map[uint16]holder),
		joined:      make(chan struct{}),
		storeKnown:  make(chan struct{}),
		membership:  newBroadcast(),
		holdersNews: newBroadcast(),
	}
	m.lost, m.lose = context.WithCancelCause(context.Background())
	for i := range m.report {
		m.report[i] = make(chan struct{}, 1)
	}
	if o.Store == nil {
		close(m.storeKnown)
	}
	return m, nil
}

var nodeName = regexp.MustCompile(`^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$`)

// Joined waits until the others can know of this node and it knows of them. It
// returns ctx's error if ctx ends before.
func (m *Members) Joined(ctx context.Context) error {
	select {
	case <-m.joined:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Self is this node, as it was told last.
func (m *Members) Self() Member {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.self.clone()
}

// Live returns the nodes that are alive, this one among them once its report
// has come back, by name. While NATS cannot be reached (see Fresh) they are
// those of before.
func (m *Members) Live() []Member {
	m.mu.Lock()
	defer m.mu.Unlock()
	var live []Member
	for _, n := range m.nodes {
		if n.alive {
			live = append(live, n.clone())
		}
	}
	slices.SortFunc(live, func(a, b Member) int { return cmp.Compare(a.Name, b.Name) })
	return live
}

// Heard returns when each node that lives last reported, by its name and this machine's clock.
func (m *Members) Heard() map[string]time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	heard := make(map[string]time.Time, len(m.nodes))
	for name, n := range m.nodes {
		if n.alive {
			heard[name] = n.heard()
		}
	}
	return heard
}

// Leaving says whether the node of that name is known to be about to stop, or
// to be gone.
func (m *Members) Leaving(name string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := m.nodes[name]
	return n != nil && (!n.alive || n.Draining)
}

// StoreAway says whether this node does not reach its message store, though
// others do.
func (m *Members) StoreAway() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.self.Away
}

// clone keeps what callers do to their copy away from ours.
func (m Member) clone() Member {
	m.Roles, m.Load = slices.Clone(m.Roles), bytes.Clone(m.Load)
	if m.Store != nil {
		store := *m.Store
		m.Store = &store
	}
	return m
}

// takesShards says whether shards may be assigned to the member, its store aside.
func (m *Member) takesShards() bool { return m.Owner && !m.Draining }

// Changed returns a channel that is closed at the next change of what Live
// returns, loads aside. Take it before looking.
func (m *Members) Changed() <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.membership.next
}

// Fresh says whether the others are sure to take this node for alive: a report
// that was stored began to be so within FreshFor.
func (m *Members) Fresh() bool { return time.Now().Before(m.freshUntil()) }

// freshUntil is when Fresh ends if nothing more is stored.
func (m *Members) freshUntil() time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.last.IsZero() {
		return time.Time{}
	}
	return m.last.Add(m.opts.FreshFor)
}

// SetDraining tells the others at once that this node is about to stop, or is
// not after all.
func (m *Members) SetDraining(draining bool) { m.update(func(s *Member) { s.Draining = draining }) }

// setOwner tells the others at once whether this node takes shards.
func (m *Members) setOwner(owner bool) { m.update(func(s *Member) { s.Owner = owner }) }

func (m *Members) update(change func(*Member)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.change(change)
}

// change is update with the lock held.
func (m *Members) change(change func(*Member)) {
	change(&m.self)
	m.membership.tell()
	m.holdersNews.tell()
	for i := range m.report {
		select {
		case m.report[i] <- struct{}{}:
		default: // a report is due anyway
		}
	}
}

// Streams returns the names of the streams that the members' reports and leases
// are kept in.
func (m *Members) Streams() []string {
	names := make([]string, boards)
	for i := range names {
		names[i] = (&board{name: boardName(i)}).stream()
	}
	return names
}

// broadcast tells any number of waiters that something changed. It is guarded
// by its owner's lock.
type broadcast struct{ next chan struct{} }

func newBroadcast() broadcast { return broadcast{make(chan struct{})} }

func (b *broadcast) tell() {
	close(b.next)
	b.next = make(chan struct{})
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
