-- The tables of `jigap views sql` in PostgreSQL, version 1. Amounts are minor units: 1250 is 12.50 USD. The views have decimals.

CREATE TABLE jigap.position (
    version       bigint NOT NULL,
    partition     bigint NOT NULL PRIMARY KEY,
    ledger        text NOT NULL,
    sequence      bigint NOT NULL,
    last_event    text NOT NULL,
    as_of         timestamptz
);
COMMENT ON TABLE jigap.position IS 'How far the ledger is followed, written in the same transaction as the rows: the tables show it as it stood after event "sequence"';

CREATE TABLE jigap.currencies (
    currency      text PRIMARY KEY,
    digits        smallint NOT NULL,
    unit          numeric NOT NULL
);
COMMENT ON TABLE jigap.currencies IS 'ISO 4217: how many digits stand after the point, and one minor unit in major units';

CREATE TABLE jigap.accounts (
    account_id      text PRIMARY KEY,
    handle          bigint NOT NULL,
    opened_sequence bigint,
    opened_at       timestamptz,
    closed_sequence bigint,
    closed_at       timestamptz,
    metadata        jsonb NOT NULL DEFAULT '{}',
    metadata_exact  text
);
COMMENT ON COLUMN jigap.accounts.metadata_exact IS 'Only where the notes hold the character NUL, which jsonb cannot store and metadata shows as U+2400: the notes as JSON text';

CREATE TABLE jigap.balances (
    account_id      text NOT NULL,
    currency        text NOT NULL,
    available_minor bigint NOT NULL,
    held_minor      bigint NOT NULL,
    sequence        bigint NOT NULL,
    PRIMARY KEY (account_id, currency)
);

CREATE TABLE jigap.transactions (
    transaction_id            uuid PRIMARY KEY,
    type                      text NOT NULL,
    status                    text NOT NULL,
    code                      text,
    leg                       bigint,
    leg_code                  text,
    from_account              text,
    to_account                text,
    account_id                text,
    amount_minor              bigint,
    currency                  text,
    released_minor            bigint,
    expires_at                timestamptz,
    referenced_transaction_id uuid,
    group_id                  uuid,
    settled_sequence          bigint,
    settled_at                timestamptz,
    sequence                  bigint NOT NULL,
    timestamp                 timestamptz NOT NULL,
    metadata                  jsonb NOT NULL DEFAULT '{}',
    metadata_exact            text
);
COMMENT ON COLUMN jigap.transactions.metadata_exact IS 'Only where the notes hold the character NUL, which jsonb cannot store and metadata shows as U+2400: the notes as JSON text';
COMMENT ON COLUMN jigap.transactions.settled_at IS 'When a hold was confirmed, cancelled or expired, or a transfer reversed';
-- Rows come in the order of sequence and timestamp, so an index of a few kilobytes does for ranges.
CREATE INDEX transactions_sequence ON jigap.transactions USING brin (sequence, timestamp);
CREATE INDEX transactions_referenced ON jigap.transactions (referenced_transaction_id) WHERE referenced_transaction_id IS NOT NULL;
CREATE INDEX transactions_group ON jigap.transactions (group_id) WHERE group_id IS NOT NULL;

CREATE TABLE jigap.postings (
    account_id          text NOT NULL,
    sequence            bigint NOT NULL,
    timestamp           timestamptz NOT NULL,
    transaction_id      uuid NOT NULL,
    type                text NOT NULL,
    counterparty        text,
    currency            text NOT NULL,
    amount_minor        bigint NOT NULL,
    balance_after_minor bigint NOT NULL,
    held_after_minor    bigint,
    PRIMARY KEY (account_id, sequence)
);
COMMENT ON COLUMN jigap.postings.amount_minor IS 'What was added to the available balance (negative: taken)';
COMMENT ON COLUMN jigap.postings.transaction_id IS 'Of a hold that expired, the hold';
CREATE INDEX postings_sequence ON jigap.postings USING brin (sequence, timestamp);

CREATE VIEW jigap.balances_decimal AS
    SELECT account_id, currency, available_minor * unit AS available, held_minor * unit AS held,
           (available_minor::numeric + held_minor) * unit AS total, sequence
    FROM jigap.balances JOIN jigap.currencies USING (currency);

CREATE VIEW jigap.transactions_decimal AS
    SELECT transaction_id, type, status, code, leg, leg_code, from_account, to_account, account_id,
           amount_minor * unit AS amount, currency, released_minor * unit AS released, expires_at,
           referenced_transaction_id, group_id, settled_sequence, settled_at, sequence, timestamp, metadata
    FROM jigap.transactions LEFT JOIN jigap.currencies USING (currency);

CREATE VIEW jigap.postings_decimal AS
    SELECT account_id, sequence, timestamp, transaction_id, type, counterparty, currency,
           amount_minor * unit AS amount, balance_after_minor * unit AS balance_after, held_after_minor * unit AS held_after
    FROM jigap.postings JOIN jigap.currencies USING (currency);
