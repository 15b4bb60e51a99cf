-- +goose Up

-- The change needs the table for itself: while something reads it for long, as a pg_dump does, every commit of the nodes that run
-- would wait behind this. It is tried again instead.
SET LOCAL lock_timeout = '2s';

-- The claim's own, at random: a database that was set back past a claim gives its epoch to the next owner again. A node of a
-- version before this raises the epoch and leaves the token of an earlier one, so that the two count together only.
ALTER TABLE shard ADD COLUMN token uuid NOT NULL DEFAULT '00000000-0000-0000-0000-000000000000';
