package postgres_test

import (
	"context"
	"slices"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/esh3artech/esh3ar/internal/record"
	"github.com/esh3artech/esh3ar/internal/store"
	"github.com/esh3artech/esh3ar/internal/store/postgres"
	"github.com/esh3artech/esh3ar/internal/store/storetest"
)

// BenchmarkStore stores messages in durable commits of 500.
func BenchmarkStore(b *testing.B) {
	storetest.Bench(b, func(b *testing.B) store.Store { return open(b, postgres.Options{}) })
}

// BenchmarkPlainInsert is what the server does with the same payloads when nothing but a primary key
// is asked for: batches of 500 by unnest into one table, a transaction each.
func BenchmarkPlainInsert(b *testing.B) {
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, server.Database(b))
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close(ctx)
	if _, err := conn.Exec(ctx, `CREATE TABLE plain (id uuid PRIMARY KEY, client bytea NOT NULL, recipient bytea NOT NULL,
		status smallint NOT NULL, accepted_at bigint NOT NULL, payload bytea NOT NULL)`); err != nil {
		b.Fatal(err)
	}
	changes := storetest.Deliverable(0, b.N, false)
	b.ReportAllocs()
	b.ResetTimer()
	for part := range slices.Chunk(changes, 500) {
		var ids [][16]byte
		var clients, recipients, payloads [][]byte
		var statuses []int16
		var times []int64
		for _, c := range part {
			ids = append(ids, c.Message.ID)
			clients = append(clients, []byte(c.Message.Client))
			recipients = append(recipients, []byte(c.Message.To))
			statuses = append(statuses, int16(c.State.Status))
			times = append(times, c.Message.AcceptedAt.UnixMicro())
			payloads = append(payloads, record.AppendMessage(nil, c.Message))
		}
		if _, err := conn.Exec(ctx, `INSERT INTO plain SELECT * FROM unnest($1::uuid[], $2::bytea[], $3::bytea[],
			$4::smallint[], $5::bigint[], $6::bytea[])`, ids, clients, recipients, statuses, times, payloads); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "messages/s")
}
