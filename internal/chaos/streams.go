//go:build unix

package chaos

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/esh3artech/esh3ar/internal/cluster"
)

// streams looks at the journal of a cluster from outside, as a client of each node that keeps it.
type streams struct {
	conns  []*nats.Conn
	closed sync.WaitGroup // connections that are not closed yet

	mu   sync.Mutex
	seen map[string]bool // elections by their identifiers
	most int             // streams that there have been
}

// electedSubject is where JetStream says that a stream has got a leader. Every node hears of every stream.
const electedSubject = "$JS.EVENT.ADVISORY.STREAM.LEADER_ELECTED.>"

// openStreams returns a view of the journal that is kept by the servers at these addresses, which need not be there yet. It
// calls elected for each election of a stream's leader, until it is closed.
func openStreams(urls []string, elected func()) (*streams, error) {
	s := &streams{seen: make(map[string]bool)}
	for _, url := range urls {
		s.closed.Add(1)
		nc, err := cluster.External{URLs: []string{url}, Token: clusterSecret}.Connect(
			nats.RetryOnFailedConnect(true), nats.ClosedHandler(func(*nats.Conn) { s.closed.Done() }))
		if err != nil {
			s.closed.Done()
			s.close()
			return nil, err
		}
		s.conns = append(s.conns, nc)
		if _, err := nc.Subscribe(electedSubject, func(m *nats.Msg) {
			var advisory struct{ ID string }
			if json.Unmarshal(m.Data, &advisory) == nil && s.first(advisory.ID) {
				elected()
			}
		}); err != nil {
			s.close()
			return nil, err
		}
	}
	return s, nil
}

// first reports whether this election is heard of for the first time.
func (s *streams) first(id string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	known := s.seen[id]
	s.seen[id] = true
	return !known
}

func (s *streams) close() {
	for _, nc := range s.conns {
		nc.Close()
	}
	s.closed.Wait()
}

// askStreams is how long one node may take to say how the streams are.
const askStreams = 3 * time.Second

// clusters returns what the first node that answers says of all streams, by their names.
func (s *streams) clusters(ctx context.Context) (map[string]*jetstream.ClusterInfo, error) {
	err := errors.New("no node answers")
	for _, i := range rand.Perm(len(s.conns)) {
		if !s.conns[i].IsConnected() {
			continue
		}
		var all map[string]*jetstream.ClusterInfo
		if all, err = ask(ctx, s.conns[i]); err == nil {
			return all, nil
		}
	}
	return nil, err
}

func ask(ctx context.Context, nc *nats.Conn) (map[string]*jetstream.ClusterInfo, error) {
	ctx, cancel := context.WithTimeout(ctx, askStreams)
	defer cancel()
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, err
	}
	all := make(map[string]*jetstream.ClusterInfo)
	list := js.ListStreams(ctx)
	for info := range list.Info() {
		all[info.Config.Name] = info.Cluster
	}
	return all, list.Err()
}

// leaders returns how many streams each node leads.
func (s *streams) leaders(ctx context.Context) (map[string]int, error) {
	all, err := s.clusters(ctx)
	leads := make(map[string]int)
	for _, c := range all {
		if c != nil && c.Leader != "" {
			leads[c.Leader]++
		}
	}
	return leads, err
}

// whole waits until all copies of all streams are complete. It returns what is missing when ctx ends before.
func (s *streams) whole(ctx context.Context) error {
	for {
		missing := s.missing(ctx)
		if len(missing) == 0 {
			return nil
		}
		if !pause(ctx, 200*time.Millisecond) {
			return errors.New(strings.Join(missing, ", "))
		}
	}
}

func (s *streams) missing(ctx context.Context) []string {
	all, err := s.clusters(ctx)
	if err != nil {
		return []string{err.Error()}
	}
	var missing []string
	s.mu.Lock()
	s.most = max(s.most, len(all))
	if len(all) < s.most {
		missing = append(missing, fmt.Sprintf("%d streams of %d", len(all), s.most))
	}
	s.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(all)) {
		switch c := all[name]; {
		case c == nil:
		case c.Leader == "":
			missing = append(missing, name+" has no leader")
		default:
			for _, r := range c.Replicas {
				if r.Offline || !r.Current || r.Lag > 0 {
					missing = append(missing, fmt.Sprintf("%s on %s (%d behind)", name, r.Name, r.Lag))
				}
			}
		}
	}
	return missing
}
