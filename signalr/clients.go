package signalr

import (
	"context"
	"hash/maphash"
	"maps"
	"slices"
	"sync"
)

// registry finds the open connections of a hub by id, user and group. It is
// split so that ten thousand connections that come at once do not queue for
// one lock. A connection lies in the parts that its id, its user id and the
// names of its groups hash to.
type registry struct {
	seed  maphash.Seed
	parts [registryParts]registryPart
}

const registryParts = 32

type registryPart struct {
	mu     sync.RWMutex
	conns  map[string]*Conn
	users  map[string][]*Conn
	groups map[string]map[*Conn]struct{}
}

func newRegistry() *registry {
	r := &registry{seed: maphash.MakeSeed()}
	for i := range r.parts {
		r.parts[i].conns = make(map[string]*Conn)
		r.parts[i].users = make(map[string][]*Conn)
		r.parts[i].groups = make(map[string]map[*Conn]struct{})
	}
	return r
}

func (r *registry) part(key string) *registryPart {
	return &r.parts[maphash.String(r.seed, key)%registryParts]
}

func (r *registry) add(c *Conn) {
	p := r.part(c.id)
	p.mu.Lock()
	p.conns[c.id] = c
	p.mu.Unlock()
	if user := c.userID; user != "" {
		p := r.part(user)
		p.mu.Lock()
		p.users[user] = append(p.users[user], c)
		p.mu.Unlock()
	}
}

// remove takes the connection out of everything. It is called when the
// connection is not open any more, so that no group is joined later.
func (r *registry) remove(c *Conn) {
	p := r.part(c.id)
	p.mu.Lock()
	delete(p.conns, c.id)
	p.mu.Unlock()
	if user := c.userID; user != "" {
		p := r.part(user)
		p.mu.Lock()
		left := slices.DeleteFunc(p.users[user], func(o *Conn) bool { return o == c })
		if len(left) == 0 {
			delete(p.users, user)
		} else {
			p.users[user] = left
		}
		p.mu.Unlock()
	}
	c.mu.Lock()
	groups := c.groups
	c.groups = nil
	c.mu.Unlock()
	for name := range groups {
		r.leave(c, name)
	}
}

func (r *registry) join(c *Conn, name string) {
	p := r.part(name)
	p.mu.Lock()
	defer p.mu.Unlock()
	members := p.groups[name]
	if members == nil {
		members = make(map[*Conn]struct{})
		p.groups[name] = members
	}
	members[c] = struct{}{}
}

func (r *registry) leave(c *Conn, name string) {
	p := r.part(name)
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.groups[name], c)
	if len(p.groups[name]) == 0 {
		delete(p.groups, name)
	}
}

func (r *registry) get(id string) (*Conn, bool) {
	p := r.part(id)
	p.mu.RLock()
	defer p.mu.RUnlock()
	c, ok := p.conns[id]
	return c, ok
}

// snapshot returns the connections of one part.
func (r *registry) snapshot(part int) []*Conn {
	p := &r.parts[part]
	p.mu.RLock()
	defer p.mu.RUnlock()
	return slices.Collect(maps.Values(p.conns))
}

func (r *registry) len() int {
	n := 0
	for i := range r.parts {
		p := &r.parts[i]
		p.mu.RLock()
		n += len(p.conns)
		p.mu.RUnlock()
	}
	return n
}

// JoinGroup adds the connection to a group. It fails with [ErrClosed].
func (c *Conn) JoinGroup(name string) error {
	// Held over both books, so that they agree whoever joins and leaves at
	// the same time. Registry parts are never locked the other way round.
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state != stateOpen {
		return ErrClosed
	}
	if c.groups == nil {
		c.groups = make(map[string]struct{})
	}
	c.groups[name] = struct{}{}
	c.hub.clients.join(c, name)
	return nil
}

// LeaveGroup takes the connection out of a group.
func (c *Conn) LeaveGroup(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.groups[name]; ok {
		delete(c.groups, name)
		c.hub.clients.leave(c, name)
	}
}

// Clients addresses a set of connections: whoever belongs to it at the moment
// of a send.
type Clients struct {
	hub    *Hub
	set    clientSet
	name   string
	except []string
}

type clientSet uint8

const (
	allClients clientSet = iota
	userClients
	groupClients
)

// All addresses all connections.
func (h *Hub) All() Clients { return Clients{hub: h, set: allClients} }

// User addresses all connections of a user.
func (h *Hub) User(id string) Clients { return Clients{hub: h, set: userClients, name: id} }

// Group addresses the connections that joined a group.
func (h *Hub) Group(name string) Clients { return Clients{hub: h, set: groupClients, name: name} }

// Except leaves out the connections with these ids.
func (t Clients) Except(ids ...string) Clients {
	t.except = append(slices.Clip(t.except), ids...)
	return t
}

// Send queues m, encoded once for each protocol, to every connection of the
// set and returns how many took it. It never blocks on a connection.
func (t Clients) Send(m *Message) int {
	sent := 0
	t.each(func(c *Conn) {
		if c.Send(m) == nil {
			sent++
		}
	})
	return sent
}

// Close closes the connections of the set as [Conn.Close] does, no more than
// perSecond in a second, so that those who come back at once do not come all
// together; 0 means as fast as possible. It returns when it has closed the
// last, or when ctx is done.
func (t Clients) Close(ctx context.Context, message string, allowReconnect bool, perSecond int) error {
	pace := newPacer(max(perSecond, 0))
	defer pace.stop()
	for _, c := range t.Conns() {
		c.Close(message, allowReconnect)
		if err := pace.wait(ctx); err != nil {
			return err
		}
	}
	return nil
}

// Conns returns the connections of the set.
func (t Clients) Conns() []*Conn {
	var conns []*Conn
	t.each(func(c *Conn) { conns = append(conns, c) })
	return conns
}

// each calls f for a snapshot of the set, without a lock held.
func (t Clients) each(f func(*Conn)) {
	r := t.hub.clients
	var few [8]*Conn
	conns := few[:0]
	switch t.set {
	case userClients:
		p := r.part(t.name)
		p.mu.RLock()
		conns = append(conns, p.users[t.name]...)
		p.mu.RUnlock()
	case groupClients:
		p := r.part(t.name)
		p.mu.RLock()
		for c := range p.groups[t.name] {
			conns = append(conns, c)
		}
		p.mu.RUnlock()
	case allClients:
		for i := range r.parts {
			p := &r.parts[i]
			p.mu.RLock()
			for _, c := range p.conns {
				conns = append(conns, c)
			}
			p.mu.RUnlock()
		}
	}
	for _, c := range conns {
		if !slices.Contains(t.except, c.id) {
			f(c)
		}
	}
}
