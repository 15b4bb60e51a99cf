-- +goose Up

-- Where clients' events are posted to, and how far that is.
CREATE TABLE webhook (
    id              TEXT    PRIMARY KEY,
    client          TEXT    NOT NULL,
    url             TEXT    NOT NULL,
    description     TEXT    NOT NULL,
    statuses        TEXT    NOT NULL, -- names separated by commas; empty for all
    format          TEXT    NOT NULL,
    batch_max       INTEGER NOT NULL,
    secret          BLOB    NOT NULL, -- as it is: signing needs it
    old_secret      BLOB,             -- signs too, until old_until
    old_until       INTEGER,
    created_at      INTEGER NOT NULL,
    updated_at      INTEGER NOT NULL,
    disabled_at     INTEGER,
    disabled_reason TEXT    NOT NULL,
    version         INTEGER NOT NULL, -- raised by every change but the progress below
    epoch           INTEGER NOT NULL, -- raised when somebody else than who posts changes the progress
    cursor          TEXT    NOT NULL,
    failing_since   INTEGER,
    resume_at       INTEGER,
    succeeded_at    INTEGER,
    lost_at         INTEGER,
    holder          TEXT    NOT NULL DEFAULT '', -- the node that posts
    held_until      INTEGER NOT NULL DEFAULT 0
) STRICT;

CREATE INDEX webhook_client ON webhook (client, created_at);
CREATE INDEX webhook_enabled ON webhook (holder) WHERE disabled_at IS NULL;

-- Events before a webhook's cursor that are still to be posted.
CREATE TABLE webhook_parked (
    webhook  TEXT    NOT NULL,
    message  BLOB    NOT NULL,
    seq      INTEGER NOT NULL, -- status_seq
    event    BLOB    NOT NULL, -- esh3ar.journal.v1.EventBlock of one
    attempts INTEGER NOT NULL,
    first_at INTEGER,
    next_at  INTEGER NOT NULL,
    PRIMARY KEY (webhook, message, seq)
) STRICT, WITHOUT ROWID;

-- The last requests of each webhook.
CREATE TABLE webhook_delivery (
    number      INTEGER PRIMARY KEY AUTOINCREMENT,
    webhook     TEXT    NOT NULL,
    at          INTEGER NOT NULL,
    request_id  TEXT    NOT NULL,
    events      BLOB    NOT NULL, -- 16 bytes of the message's id and 4 of the status_seq, of each
    count       INTEGER NOT NULL,
    attempt     INTEGER NOT NULL,
    outcome     TEXT    NOT NULL,
    status_code INTEGER NOT NULL,
    duration    INTEGER NOT NULL, -- microseconds
    error       TEXT    NOT NULL,
    response    TEXT    NOT NULL
) STRICT;

CREATE INDEX webhook_delivery_webhook ON webhook_delivery (webhook, number);
