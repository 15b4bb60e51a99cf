-- +goose Up

-- What is fixed when a deployment is created, in one row.
CREATE TABLE deployment (
    id     smallint PRIMARY KEY CHECK (id = 1),
    shards integer  NOT NULL
);
