-- +goose Up

-- Which deployment this is, in one row, once a node has used the store with a journal, which has it too.
CREATE TABLE identity (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    id  TEXT    NOT NULL
) STRICT;
INSERT INTO identity (one, id) SELECT 1, lower(hex(randomblob(16))) WHERE EXISTS (SELECT 1 FROM shard);
