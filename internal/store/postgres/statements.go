package postgres

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// statement is one that commits use: prepared by name on every connection. The part of the name up to
// the first underscore is the store.Step that it belongs to.
type statement struct {
	name, query string
}

// The statements of a commit. Those that change many rows take arrays, one for each column, and then
// single values.
var (
	stmtOwner = statement{"owner", `SELECT event, event_at, commits FROM shard
		WHERE shard = $1 AND epoch = $2 AND token = $3 FOR NO KEY UPDATE`}

	// Whose the shard is instead, for the error.
	stmtClaim = statement{"owner_claim", `SELECT epoch, token FROM shard WHERE shard = $1`}

	// Ids, those of them that may be final, and the earliest time at which one of these was accepted.
	stmtFind = statement{"owner_rows", `
		SELECT id, status_seq, 0::bigint FROM queue WHERE id = ANY ($1::uuid[])
		UNION ALL
		SELECT id, status_seq, final_at FROM message WHERE id = ANY ($2::uuid[]) AND final_at >= $3`}

	stmtInsertFinal = statement{"messages_insert_final", `
		INSERT INTO message (id, client, recipient, client_key, recipient_key, shard, ord, status, status_seq,
			accepted_at, final_at, payload, state)
		SELECT id, client, recipient, client_key, recipient_key, $13, ord, status, status_seq,
			accepted_at, final_at, payload, state
		FROM unnest($1::uuid[], $2::bytea[], $3::bytea[], $4::bigint[], $5::bigint[], $6::bigint[], $7::smallint[],
			$8::integer[], $9::bigint[], $10::bigint[], $11::bytea[], $12::bytea[])
			AS c (id, client, recipient, client_key, recipient_key, ord, status, status_seq,
			accepted_at, final_at, payload, state)`}

	stmtInsertQueue = statement{"messages_insert_queue", `
		INSERT INTO queue (id, client, recipient, client_key, recipient_key, shard, ord, status, status_seq,
			accepted_at, not_before, expires_at, payload, state)
		SELECT id, client, recipient, client_key, recipient_key, $14, ord, status, status_seq,
			accepted_at, not_before, expires_at, payload, state
		FROM unnest($1::uuid[], $2::bytea[], $3::bytea[], $4::bigint[], $5::bigint[], $6::bigint[], $7::smallint[],
			$8::integer[], $9::bigint[], $10::bigint[], $11::bigint[], $12::bytea[], $13::bytea[])
			AS c (id, client, recipient, client_key, recipient_key, ord, status, status_seq,
			accepted_at, not_before, expires_at, payload, state)`}

	stmtUpdateQueue = statement{"messages_update_queue", `
		UPDATE queue q SET ord = c.ord, status = c.status, status_seq = c.status_seq,
			not_before = c.not_before, state = c.state
		FROM unnest($1::uuid[], $2::bigint[], $3::smallint[], $4::integer[], $5::bigint[], $6::bytea[])
			AS c (id, ord, status, status_seq, not_before, state)
		WHERE q.id = c.id`}

	// The row moves within the server: its payload does not come from here again.
	stmtFinish = statement{"messages_finish", `
		WITH gone AS (
			DELETE FROM queue q
			USING unnest($1::uuid[], $2::bigint[], $3::smallint[], $4::integer[], $5::bigint[], $6::bytea[])
				AS c (id, ord, status, status_seq, final_at, state)
			WHERE q.id = c.id
			RETURNING q.id, q.client, q.recipient, q.client_key, q.recipient_key, q.shard, c.ord, c.status,
				c.status_seq, q.accepted_at, c.final_at, q.payload, c.state)
		INSERT INTO message (id, client, recipient, client_key, recipient_key, shard, ord, status, status_seq,
			accepted_at, final_at, payload, state)
		SELECT * FROM gone`}

	// final_at stays: it names the partition, and retention counts from the first time.
	stmtUpdateFinal = statement{"messages_update_final", `
		UPDATE message m SET ord = c.ord, status = c.status, status_seq = c.status_seq, state = c.state
		FROM unnest($1::uuid[], $2::bigint[], $3::bigint[], $4::smallint[], $5::integer[], $6::bytea[])
			AS c (id, final_at, ord, status, status_seq, state)
		WHERE m.id = c.id AND m.final_at = c.final_at`}

	stmtDeleteFinal = statement{"messages_delete_final", `
		DELETE FROM message m USING unnest($1::uuid[], $2::bigint[]) AS c (id, final_at)
		WHERE m.id = c.id AND m.final_at = c.final_at`}

	stmtKeys = statement{"keys", `
		INSERT INTO idempotency (key, id, digest, recipient, accepted_at, number)
		SELECT *, (SELECT nextval('idempotency_number')) -- once for all
		FROM unnest($1::uuid[], $2::uuid[], $3::bytea[], $4::bytea[], $5::bigint[])`}

	stmtEvents = statement{"events", `
		INSERT INTO event (shard, number, at, block)
		SELECT $3, number, $4, block FROM unnest($1::bigint[], $2::bytea[]) AS c (number, block)`}

	stmtRejects = statement{"rejects", `
		INSERT INTO reject (shard, tier, ord, at, reason, detail, record_key, record)
		SELECT $7, c.tier, c.ord, $8, c.reason, c.detail, c.record_key, c.record
		FROM unnest($1::integer[], $2::bigint[], $3::bytea[], $4::bytea[], $5::bigint[], $6::bytea[])
			WITH ORDINALITY AS c (tier, ord, reason, detail, record_key, record, position)
		WHERE NOT EXISTS (SELECT 1 FROM reject r
			WHERE r.record_key = c.record_key AND r.shard = $7 AND r.record = c.record)
		ORDER BY c.position`}

	stmtPositions = statement{"positions", `
		UPDATE shard SET
			position_gold = greatest(position_gold, $3),
			position_silver = greatest(position_silver, $4),
			position_bronze = greatest(position_bronze, $5),
			event = $6,
			event_at = $7,
			commits = greatest(commits, $8)
		WHERE shard = $1 AND epoch = $2 AND token = $9`}

	stmtBegin    = statement{"begin", `BEGIN`}
	stmtCommit   = statement{"commit", `COMMIT`}
	stmtRollback = statement{"rollback", `ROLLBACK`}
)

// prepare prepares the statements of commits on a fresh connection, in one round trip.
func prepare(ctx context.Context, conn *pgx.Conn) error {
	p := conn.PgConn().StartPipeline(ctx)
	all := []statement{
		stmtBegin, stmtOwner, stmtClaim, stmtFind, stmtInsertFinal, stmtInsertQueue, stmtUpdateQueue, stmtFinish,
		stmtUpdateFinal, stmtDeleteFinal, stmtKeys, stmtEvents, stmtRejects, stmtPositions, stmtCommit, stmtRollback,
	}
	for _, s := range all {
		p.SendPrepare(s.name, s.query, nil)
	}
	if err := p.Sync(); err != nil {
		return fmt.Errorf("store: prepare: %w", err)
	}
	for _, s := range all {
		if _, err := p.GetResults(); err != nil {
			_ = p.Close() // the first error says it
			return fmt.Errorf("store: prepare %s: %w", s.name, err)
		}
	}
	return p.Close()
}
