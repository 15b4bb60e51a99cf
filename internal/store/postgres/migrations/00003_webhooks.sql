-- +goose Up

-- Where clients' events are posted to, and how far that is.
CREATE TABLE webhook (
    id              text    PRIMARY KEY,
    client          text    NOT NULL,
    url             text    NOT NULL,
    description     text    NOT NULL,
    statuses        text    NOT NULL, -- names separated by commas; empty for all
    format          text    NOT NULL,
    batch_max       bigint  NOT NULL,
    secret          bytea   NOT NULL, -- as it is: signing needs it
    old_secret      bytea,            -- signs too, until old_until
    old_until       bigint,
    created_at      bigint  NOT NULL,
    updated_at      bigint  NOT NULL,
    disabled_at     bigint,
    disabled_reason text    NOT NULL,
    version         bigint  NOT NULL, -- raised by every change but the progress below
    epoch           bigint  NOT NULL, -- raised when somebody else than who posts changes the progress
    cursor          text    NOT NULL,
    failing_since   bigint,
    resume_at       bigint,
    succeeded_at    bigint,
    lost_at         bigint,
    holder          text    NOT NULL DEFAULT '', -- the node that posts
    held_until      bigint  NOT NULL DEFAULT 0
);

CREATE INDEX webhook_client ON webhook (client, created_at);
CREATE INDEX webhook_enabled ON webhook (holder) WHERE disabled_at IS NULL;

-- Events before a webhook's cursor that are still to be posted.
CREATE TABLE webhook_parked (
    webhook  text    NOT NULL,
    message  bytea   NOT NULL,
    seq      bigint  NOT NULL, -- status_seq
    event    bytea   NOT NULL, -- esh3ar.journal.v1.EventBlock of one
    attempts bigint  NOT NULL,
    first_at bigint,
    next_at  bigint  NOT NULL,
    PRIMARY KEY (webhook, message, seq)
);

-- The last requests of each webhook.
CREATE TABLE webhook_delivery (
    number      bigint  GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    webhook     text    NOT NULL,
    at          bigint  NOT NULL,
    request_id  text    NOT NULL,
    events      bytea   NOT NULL, -- 16 bytes of the message's id and 4 of the status_seq, of each
    count       bigint  NOT NULL,
    attempt     bigint  NOT NULL,
    outcome     text    NOT NULL,
    status_code bigint  NOT NULL,
    duration    bigint  NOT NULL, -- microseconds
    error       text    NOT NULL,
    response    text    NOT NULL
);

CREATE INDEX webhook_delivery_webhook ON webhook_delivery (webhook, number);
