package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// spreadInterval is how often the leaders are looked at. After a server came
// back it leads nothing, and is in no hurry to.
const spreadInterval = 10 * time.Second

// keepLeadersSpread spreads the leaders of the members' own streams and of those
// of the options until ctx ends. All nodes run it, and the first of the live ones
// acts.
func (m *Members) keepLeadersSpread(ctx context.Context, nc *nats.Conn) {
	for ctx.Err() == nil {
		pause(ctx, spreadInterval)
		live := m.Live()
		if !m.Fresh() || len(live) == 0 || live[0].Name != m.opts.Name {
			continue
		}
		// A server that is about to stop has given away what it led, and would look like the one to take more.
		if m.draining() || slices.ContainsFunc(live, func(n Member) bool { return n.Draining }) {
			continue
		}
		for _, group := range [][]string{m.Streams(), m.opts.Streams} {
			moved, err := SpreadLeaders(ctx, nc, group)
			if err != nil && ctx.Err() == nil {
				m.opts.Logger.Debug("leaders of streams are not spread", "error", err)
			}
			if moved > 0 {
				m.opts.Logger.Info("streams have other leaders", "streams", moved)
			}
		}
	}
}

// SpreadLeaders moves leaders of the given streams from servers that lead more
// of them to servers that lead fewer, until the numbers differ by at most one,
// and returns how many it moved. Only servers that have all of a stream take it.
//
// A move costs: an append under way may be left without an answer.
func SpreadLeaders(ctx context.Context, nc *nats.Conn, streams []string) (moved int, err error) {
	js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(requestTimeout))
	if err != nil {
		return 0, fmt.Errorf("cluster: %w", err)
	}
	infos := make([]*jetstream.ClusterInfo, len(streams))
	leads := make(map[string]int) // by server
	for i, name := range streams {
		s, err := streamWithin(ctx, js, name)
		if err != nil {
			return 0, fmt.Errorf("cluster: leader of stream %s: %w", name, err)
		}
		// A server alone is no cluster, and between two leaders there is none.
		if c := s.CachedInfo().Cluster; c != nil && c.Leader != "" {
			infos[i] = c
			leads[c.Leader]++
		}
	}
	for i, info := range infos {
		if info == nil {
			continue
		}
		to := ""
		for _, r := range info.Replicas {
			if r.Current && !r.Offline && leads[r.Name]+1 < leads[info.Leader] && (to == "" || leads[r.Name] < leads[to]) {
				to = r.Name
			}
		}
		if to == "" {
			continue
		}
		if err := stepDown(ctx, nc, streams[i], to); err != nil {
			return moved, fmt.Errorf("cluster: move the leader of stream %s to %s: %w", streams[i], to, err)
		}
		leads[info.Leader]--
		leads[to]++
		moved++
	}
	return moved, nil
}

// streamWithin is bounded whatever ctx is: a stream without a leader does not
// answer.
func streamWithin(ctx context.Context, js jetstream.JetStream, name string) (jetstream.Stream, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	return js.Stream(ctx, name)
}

// stepDown has a stream's leader give way to another of its servers.
func stepDown(ctx context.Context, nc *nats.Conn, stream, to string) error {
	var request struct {
		Placement struct {
			Preferred string `json:"preferred"`
		} `json:"placement"`
	}
	request.Placement.Preferred = to
	data, err := json.Marshal(request)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	msg, err := nc.RequestWithContext(ctx, "$JS.API.STREAM.LEADER.STEPDOWN."+stream, data)
	if err != nil {
		return err
	}
	var answer struct {
		Error *jetstream.APIError `json:"error"`
	}
	if err := json.Unmarshal(msg.Data, &answer); err != nil {
		return err
	}
	if answer.Error != nil {
		return answer.Error
	}
	return nil
}
