package sqlite

import (
	"errors"
	"strings"
)

// statements are the writer's.
type statements struct {
	owner     *stmt // of a shard: epoch, the end of its events and the count of its commits
	positions *stmt
	claim     *stmt

	upsert *stmt
	update *stmt

	key    *stmt
	event  *stmt
	reject *stmt

	clients  clientStatements
	webhooks webhookStatements
	audit    *stmt
	usage    *stmt
	shards   *stmt // of the deployment

	identify, adopt, disown *stmt // likewise

	lastSeq                      *stmt
	indexOne, indexMany, indexed *stmt

	pruneIndex, pruneMessages, pruneEvents, pruneKeys, pruneRejects, pruneAudit, pruneUsage *stmt

	checkpoint *stmt
}

// prunable finds the oldest final rows.
const prunable = `SELECT seq FROM message INDEXED BY message_final
	WHERE final_at < ? AND seq <= (SELECT seq FROM indexer) ORDER BY final_at, seq LIMIT ?`

// indexEntries adds n rows to the table recipient.
func indexEntries(n int) string {
	return `INSERT INTO recipient (recipient_key, accepted_at, seq) VALUES ` +
		strings.TrimSuffix(strings.Repeat(`(?, ?, ?), `, n), `, `) + ` ON CONFLICT DO NOTHING`
}

func (s *statements) prepare(c *conn) (err error) {
	for _, p := range []struct {
		stmt  **stmt
		query string
	}{
		{&s.owner, `SELECT epoch, token, event, event_at, commits FROM shard WHERE shard = ?`},
		{&s.positions, `UPDATE shard SET
			position_gold = max(position_gold, ?),
			position_silver = max(position_silver, ?),
			position_bronze = max(position_bronze, ?),
			event = ?, event_at = ?, commits = max(commits, ?)
			WHERE shard = ? AND epoch = ? AND token = ?`},
		{&s.claim, `INSERT INTO shard (shard, epoch, token) VALUES (?, 1, ?)
			ON CONFLICT (shard) DO UPDATE SET epoch = epoch + 1, token = excluded.token, commits = 0
			RETURNING epoch, position_gold, position_silver, position_bronze`},

		// Everything that may change in the course of a message's life is overwritten, and only over
		// a lower status_seq.
		{&s.upsert, `INSERT INTO message
			(seq, id, client, recipient, client_key, recipient_key, shard, ord, status, status_seq,
			 accepted_at, not_before, expires_at, final_at, payload, state)
			VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
			ON CONFLICT (id) DO UPDATE SET
			ord = excluded.ord, status = excluded.status, status_seq = excluded.status_seq,
			not_before = excluded.not_before, state = excluded.state,
			final_at = CASE WHEN excluded.final_at IS NULL THEN NULL
			           ELSE coalesce(message.final_at, excluded.final_at) END
			WHERE message.status_seq < excluded.status_seq`},
		{&s.update, `UPDATE message SET
			ord = ?2, status = ?3, status_seq = ?4, not_before = ?5, state = ?6,
			final_at = CASE WHEN ?7 IS NULL THEN NULL ELSE coalesce(final_at, ?7) END
			WHERE id = ?1 AND status_seq < ?4`},

		{&s.key, `INSERT INTO idempotency (client, key, id, digest, recipient, accepted_at)
			VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (client, key) DO NOTHING`},
		{&s.event, `INSERT INTO event (shard, number, at, block) VALUES (?, ?, ?, ?)`},
		{&s.reject, `INSERT INTO reject (shard, tier, ord, at, reason, detail, record_key, record)
			SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8 WHERE NOT EXISTS
			(SELECT 1 FROM reject WHERE record_key = ?7 AND shard = ?1 AND record = ?8)`},

		{&s.lastSeq, `SELECT max((SELECT seq FROM indexer), (SELECT coalesce(max(seq), 0) FROM message))`},
		{&s.indexOne, indexEntries(1)},
		{&s.indexMany, indexEntries(indexTuple)},
		{&s.indexed, `UPDATE indexer SET seq = ?`},

		{&s.audit, `INSERT INTO audit (at, actor, address, action, client, object, detail) VALUES (?, ?, ?, ?, ?, ?, ?)`},
		{&s.shards, `INSERT INTO deployment (id, shards) VALUES (1, ?)
			ON CONFLICT (id) DO UPDATE SET shards = deployment.shards RETURNING shards`},
		{&s.identify, `INSERT INTO identity (one, id) VALUES (1, ?1)
			ON CONFLICT (one) DO UPDATE SET
			id = CASE WHEN ?2 AND NOT EXISTS (SELECT 1 FROM shard) THEN excluded.id ELSE identity.id END RETURNING id`},
		{&s.adopt, `INSERT INTO identity (one, id) VALUES (1, ?) ON CONFLICT (one) DO UPDATE SET id = excluded.id`},
		{&s.disown, `UPDATE shard SET epoch = epoch + 1, commits = 0, position_gold = 0, position_silver = 0, position_bronze = 0`},
		{&s.usage, `INSERT INTO usage (day, client, count) VALUES (?, ?, ?)
			ON CONFLICT (day, client) DO UPDATE SET count = count + excluded.count RETURNING count`},

		// Both in one transaction, and both find the same rows. Those that are not indexed yet stay.
		{&s.pruneIndex, `DELETE FROM recipient WHERE (recipient_key, accepted_at, seq) IN
			(SELECT recipient_key, accepted_at, seq FROM message WHERE seq IN (` + prunable + `))`},
		{&s.pruneMessages, `DELETE FROM message WHERE seq IN (` + prunable + `)`},
		// These tables are in the order of time, near enough: only their oldest rows are looked at.
		{&s.pruneEvents, `DELETE FROM event WHERE seq IN (SELECT seq FROM event ORDER BY seq LIMIT ?2) AND at < ?1`},
		{&s.pruneKeys, `DELETE FROM idempotency WHERE seq IN (SELECT seq FROM idempotency ORDER BY seq LIMIT ?2) AND accepted_at < ?1`},
		{&s.pruneRejects, `DELETE FROM reject WHERE seq IN (SELECT seq FROM reject ORDER BY seq LIMIT ?2) AND at < ?1`},
		{&s.pruneAudit, `DELETE FROM audit WHERE number IN (SELECT number FROM audit ORDER BY number LIMIT ?2) AND at < ?1`},
		{&s.pruneUsage, `DELETE FROM usage WHERE (day, client) IN (SELECT day, client FROM usage WHERE day < ?1 / 86400000000 LIMIT ?2)`},

		{&s.checkpoint, passive},
	} {
		if *p.stmt, err = c.prepare(p.query); err != nil {
			return err
		}
	}
	return errors.Join(s.clients.prepare(c), s.webhooks.prepare(c))
}
