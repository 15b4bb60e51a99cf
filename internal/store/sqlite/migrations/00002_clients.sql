-- +goose Up

ALTER TABLE client ADD COLUMN rate        INTEGER NOT NULL DEFAULT 0; -- messages a second; 0 is no limit
ALTER TABLE client ADD COLUMN burst       INTEGER NOT NULL DEFAULT 0;
ALTER TABLE client ADD COLUMN daily_quota INTEGER NOT NULL DEFAULT 0;
ALTER TABLE client ADD COLUMN recipients  TEXT    NOT NULL DEFAULT ''; -- a pattern; empty is any
ALTER TABLE client ADD COLUMN scopes      INTEGER NOT NULL DEFAULT 15; -- bits of esh3ar.Scopes; all but tokens (16)
ALTER TABLE client ADD COLUMN suspended   INTEGER NOT NULL DEFAULT 0;
ALTER TABLE client ADD COLUMN revision    INTEGER NOT NULL DEFAULT 1;
-- A deleted client's row stays, so that nobody else gets its id.
ALTER TABLE client ADD COLUMN deleted_at  INTEGER;

UPDATE client SET scopes = scopes | 16 WHERE mint_tokens;
ALTER TABLE client DROP COLUMN mint_tokens;

ALTER TABLE api_key ADD COLUMN id           TEXT    NOT NULL DEFAULT '';
ALTER TABLE api_key ADD COLUMN name         TEXT    NOT NULL DEFAULT '';
ALTER TABLE api_key ADD COLUMN scopes       INTEGER NOT NULL DEFAULT 0; -- 0 is all of the client's
ALTER TABLE api_key ADD COLUMN expires_at   INTEGER;
ALTER TABLE api_key ADD COLUMN last_used_at INTEGER;

-- The id of a key that does not carry one.
UPDATE api_key SET id = lower(hex(substr(hash, 1, 5)));
CREATE UNIQUE INDEX api_key_id ON api_key (id);
CREATE INDEX api_key_client ON api_key (client, created_at);

-- Who did what. Numbers are not used again, so that a cursor never skips or repeats.
CREATE TABLE audit (
    number  INTEGER PRIMARY KEY AUTOINCREMENT,
    at      INTEGER NOT NULL,
    actor   TEXT    NOT NULL,
    address TEXT    NOT NULL,
    action  TEXT    NOT NULL,
    client  TEXT    NOT NULL,
    object  TEXT    NOT NULL,
    detail  BLOB -- JSON
) STRICT;

CREATE INDEX audit_client ON audit (client, number);

-- How many messages a client sent on a day, which is counted from 1970-01-01 UTC.
CREATE TABLE usage (
    day    INTEGER NOT NULL,
    client TEXT    NOT NULL,
    count  INTEGER NOT NULL,
    PRIMARY KEY (day, client)
) STRICT, WITHOUT ROWID;
