-- +goose Up

-- Which deployment this is, in one row, once a node has used the store with a journal, which has it too.
CREATE TABLE identity (
    one smallint PRIMARY KEY CHECK (one = 1),
    id  text     NOT NULL
);
INSERT INTO identity (one, id) SELECT 1, replace(gen_random_uuid()::text, '-', '') WHERE EXISTS (SELECT 1 FROM shard);
