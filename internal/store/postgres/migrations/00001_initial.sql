-- Times are microseconds since 1970-01-01 UTC. What comes from messages is bytea, because text refuses
-- NUL and what is not UTF-8; convert_from(recipient, 'UTF8') shows it.

-- +goose Up

-- What is not final: unpartitioned, never dropped, small in the long run and updated often.
CREATE TABLE queue (
    id            uuid     PRIMARY KEY,
    client        bytea    NOT NULL,
    recipient     bytea    NOT NULL,
    client_key    bigint   NOT NULL, -- 64-bit hash of client
    recipient_key bigint   NOT NULL, -- 64-bit hash of client and recipient
    shard         integer  NOT NULL,
    ord           bigint   NOT NULL,
    status        smallint NOT NULL,
    status_seq    integer  NOT NULL,
    accepted_at   bigint   NOT NULL,
    not_before    bigint,
    expires_at    bigint,
    payload       bytea    NOT NULL, -- esh3ar.journal.v1.Message
    state         bytea    NOT NULL  -- esh3ar.journal.v1.State
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.05);

-- What waits for its recipient, in order; scheduled (2) is not in the order yet.
CREATE INDEX queue_waiting ON queue (shard, recipient, ord) WHERE status <> 2;
-- What time has something to do with.
CREATE INDEX queue_scheduled ON queue (shard, not_before) WHERE status = 2;
CREATE INDEX queue_expiring ON queue (shard, expires_at) WHERE expires_at IS NOT NULL;
-- Listings, newest first. They are keyed by hashes, which are short and cheap to compare; queries
-- check the names too.
CREATE INDEX queue_client ON queue (client_key, accepted_at);
CREATE INDEX queue_recipient ON queue (recipient_key, accepted_at);
-- Most that waits is queued (3) and needs no place here.
CREATE INDEX queue_status ON queue (client_key, status, accepted_at) WHERE status <> 3;

-- What is final, by the day on which it became so (UTC). Retention drops whole days. The backend makes
-- the partitions as the days come.
--
-- final_at is never before accepted_at: that is what lets a look-up by id leave out the days before.
CREATE TABLE message (
    id            uuid     NOT NULL,
    client        bytea    NOT NULL,
    recipient     bytea    NOT NULL,
    client_key    bigint   NOT NULL,
    recipient_key bigint   NOT NULL,
    shard         integer  NOT NULL,
    ord           bigint   NOT NULL,
    status        smallint NOT NULL,
    status_seq    integer  NOT NULL,
    accepted_at   bigint   NOT NULL,
    final_at      bigint   NOT NULL CHECK (final_at >= accepted_at),
    payload       bytea    NOT NULL,
    state         bytea    NOT NULL
) PARTITION BY RANGE (final_at);

CREATE INDEX message_id ON message (id);
CREATE INDEX message_client ON message (client_key, accepted_at);
CREATE INDEX message_recipient ON message (recipient_key, accepted_at);
-- Most rows end as delivered (5) and need no place here.
CREATE INDEX message_status ON message (client_key, status, accepted_at) WHERE status <> 5;

-- One row for each shard: who owns it, the journal positions up to which all is stored, and where its
-- event sequence ends.
CREATE TABLE shard (
    shard           integer PRIMARY KEY,
    epoch           bigint  NOT NULL,
    position_gold   bigint  NOT NULL DEFAULT 0,
    position_silver bigint  NOT NULL DEFAULT 0,
    position_bronze bigint  NOT NULL DEFAULT 0,
    event           bigint  NOT NULL DEFAULT 0,
    event_at        bigint  NOT NULL DEFAULT 0 -- of that last event; never goes back
) WITH (fillfactor = 50); -- updated by every commit

-- Status events: one row for a run of them that one transaction wrote.
CREATE TABLE event (
    shard  integer NOT NULL,
    number bigint  NOT NULL,
    at     bigint  NOT NULL, -- grows with number, so that what is forgotten is always the beginning
    block  bytea   NOT NULL, -- esh3ar.journal.v1.EventBlock
    PRIMARY KEY (shard, number)
);

CREATE INDEX event_at ON event (at);

CREATE TABLE idempotency (
    client      bytea  NOT NULL,
    key         bytea  NOT NULL,
    id          uuid   NOT NULL,
    digest      bytea  NOT NULL,
    recipient   bytea  NOT NULL,
    accepted_at bigint NOT NULL,
    PRIMARY KEY (client, key)
);

CREATE INDEX idempotency_accepted_at ON idempotency (accepted_at);

-- Journal records that cannot become messages, raw.
CREATE TABLE reject (
    seq        bigint  GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    shard      integer NOT NULL,
    tier       integer NOT NULL,
    ord        bigint  NOT NULL,
    at         bigint  NOT NULL,
    reason     bytea   NOT NULL,
    detail     bytea   NOT NULL,
    record_key bigint  NOT NULL, -- 64-bit hash of record, by which a repeated one is found
    record     bytea   NOT NULL
);

CREATE INDEX reject_record ON reject (record_key);
CREATE INDEX reject_at ON reject (at);

CREATE TABLE client (
    id          text     PRIMARY KEY,
    name        text     NOT NULL,
    tier        smallint NOT NULL,
    mint_tokens boolean  NOT NULL,
    created_at  bigint   NOT NULL
);

CREATE TABLE api_key (
    hash       bytea  PRIMARY KEY, -- SHA-256 of the key
    client     text   NOT NULL,
    hint       text   NOT NULL,
    created_at bigint NOT NULL,
    revoked_at bigint
);
