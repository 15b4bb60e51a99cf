-- +goose Up

-- The claim's own, at random: a database that was set back past a claim gives its epoch to the next owner again.
ALTER TABLE shard ADD COLUMN token BLOB NOT NULL DEFAULT x'00000000000000000000000000000000';
