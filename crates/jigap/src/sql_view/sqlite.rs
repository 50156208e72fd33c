//! The tables in a file of SQLite.

use std::path::{Path, PathBuf};
use std::time::Duration;

use ledger::Timestamp;
use rusqlite::{Connection, ErrorCode, OptionalExtension, Transaction, params};

use super::database::{
    Database, DatabaseError, PARTITION, Position, VERSION, check_version, currencies, rows_missing,
};
use super::rows::{AccountRow, BalanceRow, Fate, Id, PostingRow, Rows, TransactionRow};

const TABLES: &str = include_str!("sqlite.sql");
/// Views first: they stand on the tables.
const DROP: &str = "
    DROP VIEW IF EXISTS jigap_balances_decimal; DROP VIEW IF EXISTS jigap_transactions_decimal; DROP VIEW IF EXISTS jigap_postings_decimal;
    DROP TABLE IF EXISTS jigap_position; DROP TABLE IF EXISTS jigap_currencies; DROP TABLE IF EXISTS jigap_accounts;
    DROP TABLE IF EXISTS jigap_balances; DROP TABLE IF EXISTS jigap_transactions; DROP TABLE IF EXISTS jigap_postings;";
/// Asks the file: `table_exists` answers from what the connection knew before another process made the tables.
const TABLES_EXIST: &str = "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE name = 'jigap_position')";
/// How long to wait for another process that writes.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);
/// Negative, because a positive one would count pages.
const CACHE_SIZE_KIB: i64 = -128 * 1024;
/// Pages of 4 KiB that the log may have before they are copied into the file: each page that changed often is copied once.
const CHECKPOINT_PAGES: i64 = 16 * 1024;
/// Statements that stay prepared.
const STATEMENTS: usize = 16;

pub(super) struct Sqlite {
    connection: Connection,
    path: PathBuf,
}

impl Sqlite {
    pub(super) fn open(path: &Path) -> Result<Sqlite, DatabaseError> {
        let open = || {
            let connection = Connection::open(path)?;
            connection.busy_timeout(BUSY_TIMEOUT)?;
            connection.set_prepared_statement_cache_capacity(STATEMENTS);
            // Readers and the writer do not wait for each other. What a power cut takes of it, rows and position together, is written again.
            connection.pragma_update(None, "journal_mode", "wal")?;
            connection.pragma_update(None, "synchronous", "normal")?;
            // Ids are random: what does not stay in memory is read again and written several times, which costs half of everything.
            connection.pragma_update(None, "cache_size", CACHE_SIZE_KIB)?;
            connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)?;
            Ok(connection)
        };
        let connection = open().map_err(|error| failed(path, &error))?;
        Ok(Sqlite { connection, path: path.to_owned() })
    }

    fn in_transaction<Done>(
        &mut self,
        work: impl FnOnce(&Transaction<'_>) -> Result<Done, Failed>,
    ) -> Result<Done, DatabaseError> {
        let path = &self.path;
        let told = |error: rusqlite::Error| failed(path, &error);
        let transaction = self
            .connection
            .transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)
            .map_err(told)?;
        let done = work(&transaction).map_err(|failure| match failure {
            Failed::Sqlite(error) => failed(path, &error),
            Failed::Database(error) => error,
        })?;
        transaction.commit().map_err(told)?;
        Ok(done)
    }
}

/// Why a transaction is rolled back.
enum Failed {
    Sqlite(rusqlite::Error),
    Database(DatabaseError),
}

impl From<rusqlite::Error> for Failed {
    fn from(error: rusqlite::Error) -> Failed {
        Failed::Sqlite(error)
    }
}

fn failed(path: &Path, error: &rusqlite::Error) -> DatabaseError {
    let text = format!("{}: {error}", path.display());
    match error.sqlite_error_code() {
        Some(
            ErrorCode::DiskFull
            | ErrorCode::DatabaseBusy
            | ErrorCode::DatabaseLocked
            | ErrorCode::SystemIoFailure
            | ErrorCode::FileLockingProtocolFailed
            | ErrorCode::OutOfMemory,
        ) => DatabaseError::Away(text),
        _ => DatabaseError::Unusable(text),
    }
}

impl Database for Sqlite {
    fn position(&mut self) -> Result<Position, DatabaseError> {
        // Only looked at, so that a file that is up to date needs no writing.
        let exists =
            |connection: &Connection| connection.query_row(TABLES_EXIST, [], |row| row.get::<_, bool>(0));
        if !exists(&self.connection).map_err(|error| failed(&self.path, &error))? {
            self.in_transaction(|transaction| match exists(transaction)? {
                // Another process was faster.
                true => Ok(()),
                false => make_tables(transaction),
            })?;
        }
        let read = self.connection.query_row(
            "SELECT version, partition, ledger, sequence, last_event, as_of FROM jigap_position",
            [],
            |row| {
                let as_of: Option<String> = row.get(5)?;
                let position = Position {
                    ledger: row.get(2)?,
                    sequence: row.get(3)?,
                    last_event: row.get(4)?,
                    as_of: as_of.and_then(|text| api::parse_timestamp(&text)).map(Timestamp::as_micros),
                };
                Ok((row.get(0)?, row.get(1)?, position))
            },
        );
        let row = read.optional().map_err(|error| failed(&self.path, &error))?;
        let (version, partition, position) = row.ok_or_else(|| rows_missing("positions", 1, 0))?;
        check_version(version, partition)?;
        Ok(position)
    }

    fn apply(&mut self, rows: &Rows<'_>, from: &Position, to: &Position) -> Result<(), DatabaseError> {
        self.in_transaction(|transaction| {
            move_position(transaction, from, to)?;
            for row in &rows.accounts {
                insert_account(transaction, row)?;
            }
            for row in &rows.transactions {
                insert_transaction(transaction, row)?;
            }
            for row in &rows.postings {
                insert_posting(transaction, row)?;
            }
            for row in &rows.balances {
                set_balance(transaction, row)?;
            }
            change_earlier(transaction, rows)
        })
    }

    fn make_anew(&mut self) -> Result<(), DatabaseError> {
        self.in_transaction(|transaction| {
            transaction.execute_batch(DROP)?;
            make_tables(transaction)
        })
    }
}

/// SQLite has no decimal numbers, so this writes out how minor units become text.
fn with_decimals(sql: &str) -> String {
    let mut parts = sql.split("decimal(");
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (minor, rest) = part.split_once(')').unwrap_or((part, ""));
        text.push_str(&format!(
            "(CASE WHEN {minor} < 0 THEN '-' ELSE '' END || (abs({minor}) / scale) || \
             CASE digits WHEN 0 THEN '' ELSE '.' || substr('0000' || (abs({minor}) % scale), -digits) END)"
        ));
        text.push_str(rest);
    }
    text
}

fn make_tables(transaction: &Transaction<'_>) -> Result<(), Failed> {
    let (comment, views) = TABLES.split_once("-- decimal(...)").unwrap_or((TABLES, ""));
    transaction.execute_batch(comment)?;
    let (_, views) = views.split_once('\n').unwrap_or_default();
    transaction.execute_batch(&with_decimals(views))?;
    for (code, digits) in currencies() {
        transaction.prepare_cached("INSERT INTO jigap_currencies VALUES (?, ?, ?)")?.execute(params![
            code,
            digits,
            10_i64.pow(digits.into())
        ])?;
    }
    transaction.execute(
        "INSERT INTO jigap_accounts (account_id, handle) VALUES (?, 0)",
        [ledger::AccountId::EXTERNAL],
    )?;
    transaction.execute("INSERT INTO jigap_position VALUES (?, ?, '', 0, '', NULL)", (VERSION, PARTITION))?;
    Ok(())
}

fn move_position(transaction: &Transaction<'_>, from: &Position, to: &Position) -> Result<(), Failed> {
    let moved = transaction
        .prepare_cached(
            "UPDATE jigap_position SET ledger = ?, sequence = ?, last_event = ?, as_of = ? WHERE sequence = ? AND last_event = ?",
        )?
        .execute(params![
            to.ledger,
            to.sequence,
            to.last_event,
            to.as_of.map(time),
            from.sequence,
            from.last_event
        ])?;
    if moved == 1 { Ok(()) } else { Err(Failed::Database(DatabaseError::Moved { expected: from.sequence })) }
}

fn time(micros: i64) -> String {
    api::format_timestamp(Timestamp::from_micros(micros))
}

fn uuid(id: Id) -> String {
    ledger::TransactionId::from_bytes(id).to_string()
}

fn insert_account(transaction: &Transaction<'_>, row: &AccountRow<'_>) -> rusqlite::Result<()> {
    let mut statement =
        transaction.prepare_cached("INSERT INTO jigap_accounts VALUES (?, ?, ?, ?, ?, ?, ?)")?;
    statement.execute(params![
        row.account_id,
        row.handle,
        row.opened_sequence,
        time(row.opened_at),
        row.closed.map(|(sequence, _)| sequence),
        row.closed.map(|(_, at)| time(at)),
        row.metadata.exact,
    ])?;
    Ok(())
}

fn insert_transaction(transaction: &Transaction<'_>, row: &TransactionRow<'_>) -> rusqlite::Result<()> {
    let mut statement = transaction.prepare_cached(
        "INSERT INTO jigap_transactions VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )?;
    statement.execute(params![
        row.sequence,
        uuid(row.transaction_id),
        row.kind,
        row.fate.status,
        row.code,
        row.leg,
        row.leg_code,
        row.from_account,
        row.to_account,
        row.account_id,
        row.amount,
        row.currency,
        row.released,
        row.expires_at.map(time),
        row.referenced_transaction_id.map(uuid),
        row.group_id.map(uuid),
        row.fate.settled_sequence,
        row.fate.settled_at.map(time),
        time(row.timestamp),
        row.metadata.exact,
    ])?;
    Ok(())
}

fn insert_posting(transaction: &Transaction<'_>, row: &PostingRow<'_>) -> rusqlite::Result<()> {
    let mut statement =
        transaction.prepare_cached("INSERT INTO jigap_postings VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)")?;
    statement.execute(params![
        row.sequence,
        row.account_id,
        time(row.timestamp),
        uuid(row.transaction_id),
        row.kind,
        row.counterparty,
        row.currency,
        row.amount,
        row.balance_after,
        row.held_after,
    ])?;
    Ok(())
}

fn set_balance(transaction: &Transaction<'_>, row: &BalanceRow<'_>) -> rusqlite::Result<()> {
    let mut statement = transaction.prepare_cached(
        "INSERT INTO jigap_balances VALUES (?1, ?2, ?3, coalesce(?4, 0), ?5)
         ON CONFLICT DO UPDATE SET available_minor = ?3, held_minor = coalesce(?4, held_minor), sequence = ?5",
    )?;
    statement.execute(params![row.account_id, row.currency, row.available, row.held, row.sequence])?;
    Ok(())
}

/// What the events change in rows of earlier ones.
fn change_earlier(transaction: &Transaction<'_>, rows: &Rows<'_>) -> Result<(), Failed> {
    let missing = |what| Failed::Database(rows_missing(what, 1, 0));
    for (id, Fate { status, settled_sequence, settled_at }) in &rows.fates {
        let changed = transaction
            .prepare_cached(
                "UPDATE jigap_transactions SET status = ?, settled_sequence = ?, settled_at = ? WHERE transaction_id = ?",
            )?
            .execute(params![status, settled_sequence, settled_at.map(time), uuid(*id)])?;
        if changed != 1 {
            return Err(missing("transactions"));
        }
    }
    for (id, first, last) in &rows.groups {
        transaction
            .prepare_cached("UPDATE jigap_transactions SET group_id = ? WHERE sequence BETWEEN ? AND ?")?
            .execute(params![uuid(*id), first, last])?;
    }
    for row in &rows.closings {
        let changed = transaction
            .prepare_cached(
                "UPDATE jigap_accounts SET closed_sequence = ?, closed_at = ? WHERE account_id = ?",
            )?
            .execute(params![row.sequence, time(row.timestamp), row.account_id])?;
        if changed != 1 {
            return Err(missing("accounts"));
        }
    }
    Ok(())
}
