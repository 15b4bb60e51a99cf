-- Idempotency keys by the day on which their messages were accepted, found by a hash: the table is written
-- once for every message, and retention drops whole days.

-- +goose Up

ALTER TABLE idempotency RENAME TO idempotency_before;

-- Of two rows of one key that with the lower number, which was stored first, counts. No constraint keeps a
-- key from having two: that happens only when two messages race for it, and checking costs as much as writing.
CREATE TABLE idempotency (
    key         uuid   NOT NULL, -- store.KeyHash of client and key
    id          uuid   NOT NULL,
    digest      bytea  NOT NULL,
    recipient   bytea  NOT NULL,
    accepted_at bigint NOT NULL,
    number      bigint NOT NULL  -- grows from commit to commit
) PARTITION BY RANGE (accepted_at);

CREATE INDEX idempotency_key ON idempotency (key);

CREATE SEQUENCE idempotency_number;

-- +goose StatementBegin
DO $$
DECLARE
    day bigint;
BEGIN
    FOR day IN SELECT DISTINCT accepted_at / 86400000000 FROM idempotency_before LOOP
        EXECUTE format('CREATE TABLE %I PARTITION OF idempotency FOR VALUES FROM (%s) TO (%s)',
            'idempotency_' || to_char(to_timestamp(day * 86400) AT TIME ZONE 'UTC', 'YYYYMMDD'),
            day * 86400000000, (day + 1) * 86400000000);
    END LOOP;
END
$$;
-- +goose StatementEnd

INSERT INTO idempotency (key, id, digest, recipient, accepted_at, number)
SELECT encode(CASE
        WHEN encode(key, 'escape') ~ '^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$'
        THEN substring(decode(replace(encode(key, 'escape'), '-', ''), 'hex') FROM 1 FOR 6) || substring(hash FROM 7 FOR 10)
        ELSE substring(hash FROM 1 FOR 16) END, 'hex')::uuid,
    id, digest, recipient, accepted_at, 0
FROM (SELECT *, sha256(client || '\x00'::bytea || key) AS hash FROM idempotency_before) AS before
ORDER BY accepted_at;

DROP TABLE idempotency_before;
