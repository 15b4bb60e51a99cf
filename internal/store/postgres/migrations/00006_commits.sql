-- +goose Up

-- How many transactions the shard's owner has counted since it claimed the shard, so that one that follows on lost ones is found out.
ALTER TABLE shard ADD COLUMN commits bigint NOT NULL DEFAULT 0;
