-- +goose Up

ALTER TABLE client
    ADD COLUMN rate        integer NOT NULL DEFAULT 0, -- messages a second; 0 is no limit
    ADD COLUMN burst       integer NOT NULL DEFAULT 0,
    ADD COLUMN daily_quota bigint  NOT NULL DEFAULT 0,
    ADD COLUMN recipients  text    NOT NULL DEFAULT '', -- a pattern; empty is any
    ADD COLUMN scopes      bigint  NOT NULL DEFAULT 15, -- bits of esh3ar.Scopes; all but tokens (16)
    ADD COLUMN suspended   boolean NOT NULL DEFAULT false,
    ADD COLUMN revision    bigint  NOT NULL DEFAULT 1,
    -- A deleted client's row stays, so that nobody else gets its id.
    ADD COLUMN deleted_at  bigint;

UPDATE client SET scopes = scopes | 16 WHERE mint_tokens;
ALTER TABLE client DROP COLUMN mint_tokens;

ALTER TABLE api_key
    ADD COLUMN id           text,
    ADD COLUMN name         text   NOT NULL DEFAULT '',
    ADD COLUMN scopes       bigint NOT NULL DEFAULT 0, -- 0 is all of the client's
    ADD COLUMN expires_at   bigint,
    ADD COLUMN last_used_at bigint;

-- The id of a key that does not carry one.
UPDATE api_key SET id = encode(substr(hash, 1, 5), 'hex');
ALTER TABLE api_key ALTER COLUMN id SET NOT NULL;
CREATE UNIQUE INDEX api_key_id ON api_key (id);
CREATE INDEX api_key_client ON api_key (client, created_at);

-- Who did what.
CREATE TABLE audit (
    number  bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at      bigint NOT NULL,
    actor   text   NOT NULL,
    address text   NOT NULL,
    action  text   NOT NULL,
    client  text   NOT NULL,
    object  text   NOT NULL,
    detail  bytea -- JSON
);

CREATE INDEX audit_client ON audit (client, number);

-- How many messages a client sent on a day, which is counted from 1970-01-01 UTC.
CREATE TABLE usage (
    day    bigint NOT NULL,
    client text   NOT NULL,
    count  bigint NOT NULL,
    PRIMARY KEY (day, client)
) WITH (fillfactor = 50);
