-- +goose Up

-- What is fixed when a deployment is created, in one row.
CREATE TABLE deployment (
    id     INTEGER PRIMARY KEY CHECK (id = 1),
    shards INTEGER NOT NULL
) STRICT;
