package postgres

import (
	"context"
	"maps"
	"slices"
)

// AddUsage implements store.Usage.
func (s *Store) AddUsage(ctx context.Context, day int64, add map[string]int64) (map[string]int64, error) {
	// Always in one order, so that nodes that count the same clients do not wait for each other in a circle.
	clients := slices.Sorted(maps.Keys(add))
	counts := make([]int64, len(clients))
	for i, client := range clients {
		counts[i] = add[client]
	}
	rows, err := s.pool.Query(ctx, `INSERT INTO usage (day, client, count)
		SELECT $1, u.client, u.count FROM unnest($2::text[], $3::bigint[]) WITH ORDINALITY AS u (client, count, place) ORDER BY u.place
		ON CONFLICT (day, client) DO UPDATE SET count = usage.count + excluded.count
		RETURNING client, count`, day, clients, counts)
	if err != nil {
		return nil, s.classify(err)
	}
	defer rows.Close()
	totals := make(map[string]int64, len(add))
	for rows.Next() {
		var client string
		var count int64
		if err := rows.Scan(&client, &count); err != nil {
			return nil, s.classify(err)
		}
		totals[client] = count
	}
	return totals, s.classify(rows.Err())
}
