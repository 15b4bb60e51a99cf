package notify

import (
	"context"
	"errors"

	"github.com/esh3artech/esh3ar/internal/store"
)

// scanReads bounds how many readings of the store one page takes in each shard. A page may be short, or
// empty, and have more behind it all the same.
const scanReads = 8

// Page is one page of a client's events.
type Page struct {
	Events []Event
	// Next is the cursor of the following page. It is never "": events go on.
	Next string
	// More says that the following page is worth asking for at once.
	More bool
}

// paging is a page's state in one shard.
type paging struct {
	pending []item
	upTo    Place // what is reached when pending is empty
	end     bool
	reads   int
}

// Page returns at most limit events of the client from there on: in order within each shard, which is
// the order of each message, and among shards by their time. Its errors are those of Follow.
func (s *Service) Page(ctx context.Context, client string, start Start, filter Filter, limit int) (Page, error) {
	cursor, err := s.resolve(ctx, start)
	if err != nil {
		return Page{}, err
	}
	shards := make([]paging, len(cursor))
	for i := range shards {
		shards[i].upTo = cursor[i]
	}
	var p Page
	for len(p.Events) < limit {
		oldest := -1
		for i := range shards {
			g := &shards[i]
			for len(g.pending) == 0 && !g.end && g.reads < scanReads {
				g.reads++
				if g.pending, g.upTo, g.end, err = s.scan(ctx, i, client, g.upTo); err != nil {
					return Page{}, s.pageError(ctx, cursor, err)
				}
				if len(g.pending) == 0 {
					cursor[i] = g.upTo
				}
			}
			if len(g.pending) > 0 && (oldest < 0 || g.pending[0].event.At.Before(shards[oldest].pending[0].event.At)) {
				oldest = i
			}
		}
		if oldest < 0 {
			break
		}
		g := &shards[oldest]
		it := g.pending[0]
		g.pending = g.pending[1:]
		cursor[oldest] = it.behind
		if len(g.pending) == 0 {
			cursor[oldest] = g.upTo
		}
		if filter.selects(it.event.Status) {
			p.Events = append(p.Events, Event{Event: *it.event, Cursor: cursor.String()})
		}
	}
	p.Next = cursor.String()
	for i := range shards {
		p.More = p.More || len(shards[i].pending) > 0 || !shards[i].end
	}
	return p, nil
}

// pageError is how a failed reading is told.
func (s *Service) pageError(ctx context.Context, cursor Cursor, err error) error {
	if errors.Is(err, store.ErrForgotten) {
		ranges, rerr := s.ranges(ctx)
		if rerr != nil {
			return unavailable(rerr)
		}
		if gone := cursor.check(ranges); gone != nil {
			return gone
		}
	}
	return unavailable(err)
}
