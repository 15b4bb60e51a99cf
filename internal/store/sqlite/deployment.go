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

// Identify implements store.Deployment.
func (s *Store) Identify(ctx context.Context, id string, known bool) (fixed string, err error) {
	err = s.writer.do(ctx, 1, func(w *writer) error {
		row, err := w.stmts.identify.row(id, known)
		if err != nil {
			return classify(err)
		}
		w.c.writes++
		fixed = row[0].(string)
		return nil
	})
	return fixed, err
}

// Adopt implements store.Deployment.
func (s *Store) Adopt(ctx context.Context, id string) error {
	return s.writer.do(ctx, 1, func(w *writer) error {
		for _, set := range []func() (int64, error){
			func() (int64, error) { return w.stmts.adopt.exec(id) },
			func() (int64, error) { return w.stmts.disown.exec() },
		} {
			if _, err := set(); err != nil {
				return classify(err)
			}
		}
		return nil
	})
}
