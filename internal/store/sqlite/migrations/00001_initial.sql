-- Times are microseconds since 1970-01-01 UTC. TEXT columns hold the bytes as they came, valid UTF-8 or
-- not; nothing here computes with them.

-- +goose Up

-- Every message, waiting or final: final_at is NULL while it waits. One table serves both places,
-- because here finalising is then an update in place, and the partial indexes below keep apart what
-- waits.
CREATE TABLE message (
    seq           INTEGER PRIMARY KEY,
    id            BLOB    NOT NULL,
    client        TEXT    NOT NULL,
    recipient     TEXT    NOT NULL,
    client_key    INTEGER NOT NULL, -- 64-bit hash of client
    recipient_key INTEGER NOT NULL, -- 64-bit hash of client and recipient
    shard         INTEGER NOT NULL,
    ord           INTEGER NOT NULL,
    status        INTEGER NOT NULL,
    status_seq    INTEGER NOT NULL,
    accepted_at   INTEGER NOT NULL,
    not_before    INTEGER,
    expires_at    INTEGER,
    final_at      INTEGER,          -- when it became final; retention counts from here
    payload       BLOB    NOT NULL, -- esh3ar.journal.v1.Message
    state         BLOB    NOT NULL  -- esh3ar.journal.v1.State
) STRICT;

CREATE UNIQUE INDEX message_id ON message (id);

-- Listings, newest first. They are keyed by hashes, which are short and cheap to compare; queries
-- check the names too. Rows of equal time are sorted by id on the way.
CREATE INDEX message_client ON message (client_key, accepted_at);
-- Most rows end as delivered (5) and need no place here.
CREATE INDEX message_status ON message (client_key, status, accepted_at) WHERE status <> 5;

-- The index for listings by recipient, filled behind the commits: it has every message up to
-- indexer.seq, and perhaps some above.
CREATE TABLE recipient (
    recipient_key INTEGER NOT NULL,
    accepted_at   INTEGER NOT NULL,
    seq           INTEGER NOT NULL,
    PRIMARY KEY (recipient_key, accepted_at, seq)
) STRICT, WITHOUT ROWID;

CREATE TABLE indexer (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    seq INTEGER NOT NULL
) STRICT;

INSERT INTO indexer (one, seq) VALUES (1, 0);

-- What waits for its recipient, in order; scheduled (2) is not in the order yet.
CREATE INDEX message_waiting ON message (shard, recipient, ord) WHERE final_at IS NULL AND status <> 2;
-- What time has something to do with.
CREATE INDEX message_scheduled ON message (shard, not_before) WHERE status = 2;
CREATE INDEX message_expiring ON message (shard, expires_at) WHERE final_at IS NULL AND expires_at IS NOT NULL;
-- Retention.
CREATE INDEX message_final ON message (final_at) WHERE final_at IS NOT NULL;

-- One row for each shard: who owns it, the journal positions up to which all is stored, and where its
-- event sequence ends.
CREATE TABLE shard (
    shard           INTEGER PRIMARY KEY,
    epoch           INTEGER NOT NULL,
    position_gold   INTEGER NOT NULL DEFAULT 0,
    position_silver INTEGER NOT NULL DEFAULT 0,
    position_bronze INTEGER NOT NULL DEFAULT 0,
    event           INTEGER NOT NULL DEFAULT 0,
    event_at        INTEGER NOT NULL DEFAULT 0 -- of that last event; never goes back
) STRICT;

-- Status events: one row for a run of them that one transaction wrote.
CREATE TABLE event (
    seq    INTEGER PRIMARY KEY,
    shard  INTEGER NOT NULL,
    number INTEGER NOT NULL,
    at     INTEGER NOT NULL, -- grows with number, so that what is forgotten is always the beginning
    block  BLOB    NOT NULL, -- esh3ar.journal.v1.EventBlock
    UNIQUE (shard, number)
) STRICT;

CREATE TABLE idempotency (
    seq         INTEGER PRIMARY KEY,
    client      TEXT    NOT NULL,
    key         TEXT    NOT NULL,
    id          BLOB    NOT NULL,
    digest      BLOB    NOT NULL,
    recipient   TEXT    NOT NULL,
    accepted_at INTEGER NOT NULL,
    UNIQUE (client, key)
) STRICT;

-- Journal records that cannot become messages, raw.
CREATE TABLE reject (
    seq        INTEGER PRIMARY KEY,
    shard      INTEGER NOT NULL,
    tier       INTEGER NOT NULL,
    ord        INTEGER NOT NULL,
    at         INTEGER NOT NULL,
    reason     TEXT    NOT NULL,
    detail     TEXT    NOT NULL,
    record_key INTEGER NOT NULL, -- 64-bit hash of record, by which a repeated one is found
    record     BLOB    NOT NULL
) STRICT;

CREATE INDEX reject_record ON reject (record_key);

CREATE TABLE client (
    id          TEXT    PRIMARY KEY,
    name        TEXT    NOT NULL,
    tier        INTEGER NOT NULL,
    mint_tokens INTEGER NOT NULL,
    created_at  INTEGER NOT NULL
) STRICT;

CREATE TABLE api_key (
    hash       BLOB    PRIMARY KEY, -- SHA-256 of the key
    client     TEXT    NOT NULL,
    hint       TEXT    NOT NULL,
    created_at INTEGER NOT NULL,
    revoked_at INTEGER
) STRICT;
