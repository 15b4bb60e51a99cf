package sqlite

import (
	"context"

	"github.com/esh3artech/esh3ar/internal/store"
)

// AddUsage implements store.Usage.
func (s *Store) AddUsage(ctx context.Context, day int64, add map[string]int64) (map[string]int64, error) {
	totals := make(map[string]int64, len(add))
	err := s.writer.do(ctx, len(add), func(w *writer) error {
		for client, n := range add {
			row, err := w.stmts.usage.row(day, client, n)
			if err != nil {
				return classify(err)
			}
			w.c.writes++
			totals[client] = row[0].(int64)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return totals, nil
}

var _ store.Usage = (*Store)(nil)
