//! The tables, in one place: numbered migrations for each database, and what the program knows of the newest version.
//!
//! A migration that was released never changes; the next one gets the next number. Money is in minor units (`bigint`), times are in
//! microseconds since 1970 (UTC), currencies are ISO 4217 numeric codes, and what is read as a whole is JSON.

use super::cell::Kind;
use super::connection::{Dialect, Table};

/// The version that this program reads and writes.
pub(super) const CURRENT_VERSION: u32 = 1;

/// The same in both databases, and created before anything else.
pub(super) const VERSIONS_TABLE: &str = "CREATE TABLE IF NOT EXISTS schema_versions \
    (version integer NOT NULL PRIMARY KEY, applied_at timestamp NOT NULL DEFAULT CURRENT_TIMESTAMP)";

/// What leads from each version to the next.
pub(super) fn migrations(dialect: Dialect) -> [&'static [&'static str]; CURRENT_VERSION as usize] {
    match dialect {
        Dialect::Postgres => [POSTGRES_1],
        Dialect::MariaDb => [MARIADB_1],
    }
}

const POSTGRES_1: &[&str] = &[
    // Locked by every batch: one batch at a time, whichever instance writes it.
    "CREATE TABLE shard_position (
        one smallint NOT NULL PRIMARY KEY CHECK (one = 1),
        shard integer,
        sequence bigint NOT NULL,
        moment bigint NOT NULL,
        accounts bigint NOT NULL)",
    "INSERT INTO shard_position (one, sequence, moment, accounts) VALUES (1, 0, 0, 0)",
    "CREATE TABLE accounts (
        account_id text COLLATE \"C\" NOT NULL PRIMARY KEY,
        opened_at bigint NOT NULL,
        metadata text NOT NULL,
        closed boolean NOT NULL,
        pins bigint NOT NULL)",
    // The world outside is no account, but its balances are locked like everybody's: by its row here.
    "INSERT INTO accounts (account_id, opened_at, metadata, closed, pins) VALUES ('@external', 0, '[]', false, 0)",
    "CREATE TABLE balances (
        account_id text COLLATE \"C\" NOT NULL,
        currency smallint NOT NULL,
        available bigint NOT NULL,
        held bigint NOT NULL,
        taken bigint NOT NULL,
        incoming bigint NOT NULL,
        unwritten bigint NOT NULL,
        PRIMARY KEY (account_id, currency)) WITH (fillfactor = 80)",
    // The barrier.
    "CREATE TABLE branches (
        transaction_id uuid NOT NULL PRIMARY KEY,
        state smallint NOT NULL,
        owner integer NOT NULL,
        started_at bigint NOT NULL,
        content text,
        sequence bigint NOT NULL,
        moment bigint NOT NULL,
        balances text NOT NULL,
        refusal text)",
    "CREATE INDEX branches_without_second_phase ON branches (started_at) WHERE state = 1",
    // The phase status table.
    "CREATE TABLE transactions (
        transaction_id uuid NOT NULL PRIMARY KEY,
        content text NOT NULL,
        tries text NOT NULL,
        second_phase smallint,
        second_phase_done text NOT NULL,
        out_of_order boolean NOT NULL,
        refusal text,
        outcome text,
        attempts bigint NOT NULL,
        last_error text NOT NULL,
        lease_holder bigint,
        lease_until bigint,
        started_at bigint NOT NULL,
        unfinished_since bigint)",
    "CREATE INDEX transactions_unfinished ON transactions (unfinished_since) WHERE unfinished_since IS NOT NULL",
    // What later transactions do to earlier ones, once each.
    "CREATE TABLE fates (
        transaction_id uuid NOT NULL PRIMARY KEY,
        locked_by uuid,
        kind smallint,
        later_id uuid,
        sequence bigint,
        moment bigint)",
    "CREATE TABLE claims (
        transaction_id uuid NOT NULL PRIMARY KEY,
        fingerprint bytea NOT NULL,
        owner integer NOT NULL,
        recorded_under uuid NOT NULL)",
    "CREATE TABLE holds (
        hold_id uuid NOT NULL PRIMARY KEY,
        content text NOT NULL,
        expires_at bigint,
        pending boolean NOT NULL)",
    // What a choreographed Saga sends to other shards; gone once the broker has it.
    "CREATE TABLE outbox (
        message_id uuid NOT NULL PRIMARY KEY,
        shard integer NOT NULL,
        content text NOT NULL)",
    "CREATE INDEX holds_lapsing ON holds (expires_at) WHERE pending",
    "CREATE TABLE history (
        account_id text COLLATE \"C\" NOT NULL,
        sequence bigint NOT NULL,
        ordinal integer NOT NULL,
        transaction_id uuid,
        kind smallint NOT NULL,
        counterparty text,
        amount bigint NOT NULL,
        currency smallint NOT NULL,
        balance_after bigint NOT NULL,
        moment bigint NOT NULL,
        metadata text NOT NULL,
        PRIMARY KEY (account_id, sequence, ordinal))",
    "CREATE INDEX history_by_time ON history (account_id, moment)",
    // For operators; the program reads none of these.
    "CREATE VIEW transactions_readable AS SELECT transaction_id, to_timestamp(started_at / 1e6) AS started_at,
        CASE second_phase WHEN 1 THEN 'confirm' WHEN 2 THEN 'cancel' ELSE 'undecided' END AS second_phase,
        unfinished_since IS NULL AS finished, attempts, last_error, content FROM transactions",
];

// `IF NOT EXISTS` and `IGNORE`: MariaDB commits every definition by itself, and an interrupted migration begins again. `unfinished_since`
// and `expires_at` are empty where nothing is to be done, so that their indexes lead to the rows that matter.
const MARIADB_1: &[&str] = &[
    "CREATE TABLE IF NOT EXISTS shard_position (
        one smallint NOT NULL PRIMARY KEY CHECK (one = 1),
        shard integer,
        sequence bigint NOT NULL,
        moment bigint NOT NULL,
        accounts bigint NOT NULL) ENGINE=InnoDB",
    "INSERT IGNORE INTO shard_position (one, sequence, moment, accounts) VALUES (1, 0, 0, 0)",
    "CREATE TABLE IF NOT EXISTS accounts (
        account_id varchar(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL PRIMARY KEY,
        opened_at bigint NOT NULL,
        metadata text CHARACTER SET utf8mb4 NOT NULL,
        closed boolean NOT NULL,
        pins bigint NOT NULL) ENGINE=InnoDB",
    "INSERT IGNORE INTO accounts (account_id, opened_at, metadata, closed, pins) VALUES ('@external', 0, '[]', false, 0)",
    "CREATE TABLE IF NOT EXISTS balances (
        account_id varchar(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
        currency smallint NOT NULL,
        available bigint NOT NULL,
        held bigint NOT NULL,
        taken bigint NOT NULL,
        incoming bigint NOT NULL,
        unwritten bigint NOT NULL,
        PRIMARY KEY (account_id, currency)) ENGINE=InnoDB",
    "CREATE TABLE IF NOT EXISTS branches (
        transaction_id binary(16) NOT NULL PRIMARY KEY,
        state smallint NOT NULL,
        owner integer NOT NULL,
        started_at bigint NOT NULL,
        content mediumtext CHARACTER SET utf8mb4,
        sequence bigint NOT NULL,
        moment bigint NOT NULL,
        balances mediumtext CHARACTER SET utf8mb4 NOT NULL,
        refusal text CHARACTER SET utf8mb4,
        INDEX branches_by_state (state, started_at)) ENGINE=InnoDB",
    "CREATE TABLE IF NOT EXISTS transactions (
        transaction_id binary(16) NOT NULL PRIMARY KEY,
        content mediumtext CHARACTER SET utf8mb4 NOT NULL,
        tries text CHARACTER SET utf8mb4 NOT NULL,
        second_phase smallint,
        second_phase_done text CHARACTER SET utf8mb4 NOT NULL,
        out_of_order boolean NOT NULL,
        refusal text CHARACTER SET utf8mb4,
        outcome mediumtext CHARACTER SET utf8mb4,
        attempts bigint NOT NULL,
        last_error text CHARACTER SET utf8mb4 NOT NULL,
        lease_holder bigint,
        lease_until bigint,
        started_at bigint NOT NULL,
        unfinished_since bigint,
        INDEX transactions_unfinished (unfinished_since)) ENGINE=InnoDB",
    "CREATE TABLE IF NOT EXISTS fates (
        transaction_id binary(16) NOT NULL PRIMARY KEY,
        locked_by binary(16),
        kind smallint,
        later_id binary(16),
        sequence bigint,
        moment bigint) ENGINE=InnoDB",
    "CREATE TABLE IF NOT EXISTS claims (
        transaction_id binary(16) NOT NULL PRIMARY KEY,
        fingerprint binary(32) NOT NULL,
        owner integer NOT NULL,
        recorded_under binary(16) NOT NULL) ENGINE=InnoDB",
    "CREATE TABLE IF NOT EXISTS outbox (
        message_id binary(16) NOT NULL PRIMARY KEY,
        shard integer NOT NULL,
        content mediumtext CHARACTER SET utf8mb4 NOT NULL) ENGINE=InnoDB",
    "CREATE TABLE IF NOT EXISTS holds (
        hold_id binary(16) NOT NULL PRIMARY KEY,
        content text CHARACTER SET utf8mb4 NOT NULL,
        expires_at bigint,
        pending boolean NOT NULL,
        INDEX holds_lapsing (pending, expires_at)) ENGINE=InnoDB",
    "CREATE TABLE IF NOT EXISTS history (
        account_id varchar(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
        sequence bigint NOT NULL,
        ordinal integer NOT NULL,
        transaction_id binary(16),
        kind smallint NOT NULL,
        counterparty varchar(64) CHARACTER SET ascii COLLATE ascii_bin,
        amount bigint NOT NULL,
        currency smallint NOT NULL,
        balance_after bigint NOT NULL,
        moment bigint NOT NULL,
        metadata text CHARACTER SET utf8mb4 NOT NULL,
        PRIMARY KEY (account_id, sequence, ordinal),
        INDEX history_by_time (account_id, moment)) ENGINE=InnoDB",
    // For operators; the program reads none of these.
    "CREATE OR REPLACE VIEW transactions_readable AS SELECT
        LOWER(INSERT(INSERT(INSERT(INSERT(HEX(transaction_id), 9, 0, '-'), 14, 0, '-'), 19, 0, '-'), 24, 0, '-')) AS transaction_id,
        FROM_UNIXTIME(started_at / 1000000) AS started_at,
        CASE second_phase WHEN 1 THEN 'confirm' WHEN 2 THEN 'cancel' ELSE 'undecided' END AS second_phase,
        unfinished_since IS NULL AS finished, attempts, last_error, content FROM transactions",
];

macro_rules! table {
    ($constant:ident = $name:literal, key $key:literal: $($column:ident $kind:ident),+ $(,)?) => {
        pub(super) static $constant: Table = Table {
            name: $name,
            columns: &[$((stringify!($column), Kind::$kind)),+],
            key_columns: $key,
        };
    };
}

table!(POSITION = "shard_position", key 1: one Integer, sequence Integer, moment Integer, accounts Integer);
table!(ACCOUNTS = "accounts", key 1: account_id Text, opened_at Integer, metadata Text, closed Flag, pins Integer);
table!(BALANCES = "balances", key 2:
    account_id Text, currency Integer, available Integer, held Integer, taken Integer, incoming Integer, unwritten Integer);
table!(BRANCHES = "branches", key 1:
    transaction_id Id, state Integer, owner Integer, started_at Integer, content Text, sequence Integer, moment Integer,
    balances Text, refusal Text);
table!(TRANSACTIONS = "transactions", key 1:
    transaction_id Id, content Text, tries Text, second_phase Integer, second_phase_done Text, out_of_order Flag, refusal Text,
    outcome Text, attempts Integer, last_error Text, lease_holder Integer, lease_until Integer, started_at Integer,
    unfinished_since Integer);
table!(FATES = "fates", key 1:
    transaction_id Id, locked_by Id, kind Integer, later_id Id, sequence Integer, moment Integer);
table!(CLAIMS = "claims", key 1: transaction_id Id, fingerprint Bytes, owner Integer, recorded_under Id);
table!(HOLDS = "holds", key 1: hold_id Id, content Text, expires_at Integer, pending Flag);
table!(HISTORY = "history", key 3:
    account_id Text, sequence Integer, ordinal Integer, transaction_id Id, kind Integer, counterparty Text, amount Integer,
    currency Integer, balance_after Integer, moment Integer, metadata Text);
table!(OUTBOX = "outbox", key 1: message_id Id, shard Integer, content Text);
