package notify

import (
	"context"
	"errors"
	"time"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/internal/store"
)

// Place returns the cursor of a start. Its errors are those of Follow.
func (s *Service) Place(ctx context.Context, start Start) (string, error) {
	c, err := s.resolve(ctx, start)
	if err != nil {
		return "", err
	}
	return c.String(), nil
}

// Since returns the cursor before every event that was stored at that time or later. Kept is the time
// since when no event is forgotten: an earlier one is refused like an expired cursor.
func (s *Service) Since(ctx context.Context, at, kept time.Time) (string, error) {
	ranges, err := s.ranges(ctx)
	if err != nil {
		return "", unavailable(err)
	}
	c := startOf(ranges, len(s.tails))
	if at.Before(kept) {
		return "", &goneError{oldest: c, err: esh3ar.Errorf(esh3ar.KindGone, "cursor_expired",
			"events of that time are not kept any more; the oldest are of %s", kept.UTC().Format(time.RFC3339))}
	}
	for i := range c {
		if c[i].Number, err = s.lastBefore(ctx, uint16(i), ranges[uint16(i)], at); err != nil {
			return "", unavailable(err)
		}
	}
	return c.String(), nil
}

// lastBefore returns the number of the last write of a shard's events that was stored before that time, or
// of the last one that is forgotten. It asks for some thirty times.
func (s *Service) lastBefore(ctx context.Context, shard uint16, kept store.EventRange, at time.Time) (int64, error) {
	before, from := kept.Forgotten, kept.Last+1 // the answer lies in [before, from)
	for from-before > 1 {
		middle := before + (from-before)/2
		stored, err := s.timeOf(ctx, shard, middle)
		switch {
		case errors.Is(err, store.ErrForgotten): // meanwhile, and so it is older
			before = middle
		case err != nil:
			return 0, err
		case stored.Before(at):
			before = middle
		default:
			from = middle
		}
	}
	return before, nil
}

// timeOf returns when a write was stored.
func (s *Service) timeOf(ctx context.Context, shard uint16, number int64) (time.Time, error) {
	if err := s.readers.Acquire(ctx, 1); err != nil {
		return time.Time{}, err
	}
	defer s.readers.Release(1)
	return s.opts.Store.EventTime(ctx, shard, number)
}

// Oldest returns the cursor to go on from when an error says that what follows another one is gone, ""
// for any other error.
func Oldest(err error) string {
	if gone, ok := errors.AsType[*goneError](err); ok {
		return gone.oldest.String()
	}
	return ""
}
