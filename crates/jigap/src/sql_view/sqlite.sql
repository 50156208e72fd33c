-- The tables of `jigap views sql` in SQLite, version 1. Amounts are minor units: 1250 is 12.50 USD. The views have decimals, as
-- text, because SQLite's only other numbers are floats. Times are text: 2026-01-02T03:04:05.678901Z.

CREATE TABLE jigap_position (
    version       INTEGER NOT NULL,
    partition     INTEGER NOT NULL PRIMARY KEY,
    ledger        TEXT NOT NULL,
    sequence      INTEGER NOT NULL,
    last_event    TEXT NOT NULL,
    as_of         TEXT
);

CREATE TABLE jigap_currencies (
    currency      TEXT PRIMARY KEY,
    digits        INTEGER NOT NULL,
    scale         INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE jigap_accounts (
    account_id      TEXT PRIMARY KEY,
    handle          INTEGER NOT NULL,
    opened_sequence INTEGER,
    opened_at       TEXT,
    closed_sequence INTEGER,
    closed_at       TEXT,
    metadata        TEXT NOT NULL DEFAULT '{}'
) WITHOUT ROWID;

CREATE TABLE jigap_balances (
    account_id      TEXT NOT NULL,
    currency        TEXT NOT NULL,
    available_minor INTEGER NOT NULL,
    held_minor      INTEGER NOT NULL,
    sequence        INTEGER NOT NULL,
    PRIMARY KEY (account_id, currency)
) WITHOUT ROWID;

-- The sequence is the row's number: rows are appended, and ranges need no further index.
CREATE TABLE jigap_transactions (
    sequence                  INTEGER PRIMARY KEY,
    transaction_id            TEXT NOT NULL UNIQUE,
    type                      TEXT NOT NULL,
    status                    TEXT NOT NULL,
    code                      TEXT,
    leg                       INTEGER,
    leg_code                  TEXT,
    from_account              TEXT,
    to_account                TEXT,
    account_id                TEXT,
    amount_minor              INTEGER,
    currency                  TEXT,
    released_minor            INTEGER,
    expires_at                TEXT,
    referenced_transaction_id TEXT,
    group_id                  TEXT,
    settled_sequence          INTEGER,
    settled_at                TEXT,
    timestamp                 TEXT NOT NULL,
    metadata                  TEXT NOT NULL DEFAULT '{}'
);
CREATE INDEX jigap_transactions_timestamp ON jigap_transactions (timestamp);
CREATE INDEX jigap_transactions_referenced ON jigap_transactions (referenced_transaction_id) WHERE referenced_transaction_id IS NOT NULL;
CREATE INDEX jigap_transactions_group ON jigap_transactions (group_id) WHERE group_id IS NOT NULL;

CREATE TABLE jigap_postings (
    sequence            INTEGER NOT NULL,
    account_id          TEXT NOT NULL,
    timestamp           TEXT NOT NULL,
    transaction_id      TEXT NOT NULL,
    type                TEXT NOT NULL,
    counterparty        TEXT,
    currency            TEXT NOT NULL,
    amount_minor        INTEGER NOT NULL,
    balance_after_minor INTEGER NOT NULL,
    held_after_minor    INTEGER,
    PRIMARY KEY (sequence, account_id)
) WITHOUT ROWID;
CREATE INDEX jigap_postings_account ON jigap_postings (account_id, sequence);

-- decimal(...) is written out by the program.
CREATE VIEW jigap_balances_decimal AS
    SELECT account_id, currency, decimal(available_minor) AS available, decimal(held_minor) AS held,
           decimal(available_minor + held_minor) AS total, sequence
    FROM jigap_balances JOIN jigap_currencies USING (currency);

CREATE VIEW jigap_transactions_decimal AS
    SELECT transaction_id, type, status, code, leg, leg_code, from_account, to_account, account_id,
           decimal(amount_minor) AS amount, currency, decimal(released_minor) AS released, expires_at,
           referenced_transaction_id, group_id, settled_sequence, settled_at, sequence, timestamp, metadata
    FROM jigap_transactions LEFT JOIN jigap_currencies USING (currency);

CREATE VIEW jigap_postings_decimal AS
    SELECT account_id, sequence, timestamp, transaction_id, type, counterparty, currency, decimal(amount_minor) AS amount,
           decimal(balance_after_minor) AS balance_after, decimal(held_after_minor) AS held_after
    FROM jigap_postings JOIN jigap_currencies USING (currency);
