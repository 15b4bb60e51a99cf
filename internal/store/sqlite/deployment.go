package sqlite

import "context"

// FixShards implements store.Deployment.
func (s *Store) FixShards(ctx context.Context, shards int) (fixed int, err error) {
	err = s.writer.do(ctx, 1, func(w *writer) error {
		row, err := w.stmts.shards.row(int64(shards))
		if err != nil {
			return classify(err)
		}
		w.c.writes++
		fixed = int(row[0].(int64))
		return nil
	})
	return fixed, err
}
