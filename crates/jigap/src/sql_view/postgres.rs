//! The tables in PostgreSQL, in a schema of their own.

mod copy;
mod tls;

use std::error::Error as _;
use std::fmt;
use std::io::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use postgres::config::Host;
use postgres::error::SqlState;
use postgres::{Client, Config, Error, Transaction};

use super::database::{
    Database, DatabaseError, PARTITION, Position, VERSION, check_version, currencies, rows_missing,
};
use super::rows::{AccountRow, BalanceRow, ClosingRow, Fate, Id, Metadata, PostingRow, Rows, TransactionRow};
use copy::CopyBuffer;
use tls::{Tls, TlsError};

const TABLES: &str = include_str!("postgres.sql");
/// Views first: they stand on the tables. Without CASCADE, so that nobody else's view goes with them.
const DROP: &str = "
    DROP VIEW IF EXISTS jigap.balances_decimal, jigap.transactions_decimal, jigap.postings_decimal;
    DROP TABLE IF EXISTS jigap.position, jigap.currencies, jigap.accounts, jigap.balances, jigap.transactions, jigap.postings;";
/// Whoever makes the tables holds this lock, so that two that start at once do not both make them: "jigap" in ASCII.
const MAKING_LOCK: i64 = 0x6a_6967_6170;

/// Asks the catalogue itself: `to_regclass` answers from a cache, which is stale when another process made the tables a moment ago.
const TABLES_EXIST: &str =
    "SELECT EXISTS (SELECT FROM pg_tables WHERE schemaname = 'jigap' AND tablename = 'position')";
const SCHEMA_EXISTS: &str = "SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = 'jigap')";

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection that is silent for so long while it is asked something is lost.
const SILENCE_MAX: Duration = Duration::from_secs(60);

const COPY_ACCOUNTS: &str = "COPY jigap.accounts (account_id, handle, opened_sequence, opened_at, closed_sequence, closed_at, metadata, \
     metadata_exact) FROM STDIN (FORMAT binary)";
const COPY_TRANSACTIONS: &str = "COPY jigap.transactions (transaction_id, type, status, code, leg, leg_code, from_account, to_account, account_id, \
     amount_minor, currency, released_minor, expires_at, referenced_transaction_id, group_id, settled_sequence, settled_at, sequence, \
     timestamp, metadata, metadata_exact) FROM STDIN (FORMAT binary)";
const COPY_POSTINGS: &str = "COPY jigap.postings (account_id, sequence, timestamp, transaction_id, type, counterparty, currency, amount_minor, \
     balance_after_minor, held_after_minor) FROM STDIN (FORMAT binary)";
const MOVE_POSITION: &str = "UPDATE jigap.position SET ledger = $1, sequence = $2, last_event = $3, as_of = $4 \
     WHERE sequence = $5 AND last_event = $6";
const SET_BALANCES: &str = "INSERT INTO jigap.balances (account_id, currency, available_minor, held_minor, sequence) \
     SELECT new.account_id, new.currency, new.available, coalesce(new.held, old.held_minor, 0), new.sequence \
     FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[]) AS new (account_id, currency, available, held, sequence) \
     LEFT JOIN jigap.balances old USING (account_id, currency) \
     ON CONFLICT (account_id, currency) DO UPDATE SET available_minor = excluded.available_minor, held_minor = excluded.held_minor, \
     sequence = excluded.sequence";
const SET_FATES: &str = "UPDATE jigap.transactions t SET status = new.status, settled_sequence = new.sequence, settled_at = new.at \
     FROM unnest($1::text[], $2::text[], $3::bigint[], $4::timestamptz[]) AS new (id, status, sequence, at) \
     WHERE t.transaction_id = new.id::uuid";
const SET_GROUP: &str =
    "UPDATE jigap.transactions SET group_id = $1::text::uuid WHERE sequence BETWEEN $2 AND $3";
const CLOSE_ACCOUNTS: &str = "UPDATE jigap.accounts a SET closed_sequence = new.sequence, closed_at = new.at \
     FROM unnest($1::text[], $2::bigint[], $3::timestamptz[]) AS new (account_id, sequence, at) WHERE a.account_id = new.account_id";

/// How to reach a database.
#[derive(Debug, Clone)]
pub(crate) struct PostgresTarget {
    config: Config,
    tls: Tls,
}

impl PostgresTarget {
    /// Reads a URL as libpq does, its `sslmode` and `sslrootcert` too; `password` where the URL has none.
    pub(super) fn parse(url: &str, password: Option<String>) -> Result<PostgresTarget, String> {
        let (url, tls) = Tls::of_url(url)?;
        let mut config: Config = url.parse().map_err(|error| told(&error))?;
        config.ssl_mode(tls.mode());
        if let (None, Some(password)) = (config.get_password(), password) {
            config.password(password);
        }
        if config.get_application_name().is_none() {
            config.application_name("jigap views sql");
        }
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(CONNECT_TIMEOUT);
        }
        if config.get_tcp_user_timeout().is_none() {
            config.tcp_user_timeout(SILENCE_MAX).keepalives_idle(SILENCE_MAX);
        }
        Ok(PostgresTarget { config, tls })
    }
}

impl fmt::Display for PostgresTarget {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = match self.config.get_hosts().first() {
            Some(Host::Tcp(name)) => name.clone(),
            Some(Host::Unix(path)) => path.display().to_string(),
            None => "?".to_owned(),
        };
        let port = self.config.get_ports().first().copied().unwrap_or(5432);
        let name = self.config.get_dbname().or(self.config.get_user()).unwrap_or_default();
        write!(formatter, "{name} on {host}:{port}")
    }
}

pub(super) struct Postgres {
    client: Client,
    /// Used again: a batch of rows is some megabytes.
    buffer: CopyBuffer,
}

impl Postgres {
    pub(super) fn open(target: &PostgresTarget) -> Result<Postgres, DatabaseError> {
        let connector = target.tls.connector().map_err(|TlsError(why)| DatabaseError::Unusable(why))?;
        let client = target.config.connect(connector).map_err(failed)?;
        Ok(Postgres { client, buffer: CopyBuffer::default() })
    }
}

/// The error with all its causes, as the server told it.
fn told(error: &Error) -> String {
    if let Some(error) = error.as_db_error() {
        let detail = error.detail().map(|detail| format!("; {detail}")).unwrap_or_default();
        let hint = error.hint().map(|hint| format!("; {hint}")).unwrap_or_default();
        return format!("{} (SQLSTATE {}){detail}{hint}", error.message(), error.code().code());
    }
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}

fn failed(error: Error) -> DatabaseError {
    let text = told(&error);
    match is_away(&error) {
        true => DatabaseError::Away(text),
        false => DatabaseError::Unusable(text),
    }
}

/// True when the same may succeed later without anybody changing a name, a password or a right.
fn is_away(error: &Error) -> bool {
    if let Some(state) = error.code() {
        // Connections, rollbacks asked for, resources (a full disk), locks, shutting down, the operating system.
        let classes = ["08", "40", "53", "55", "57", "58"];
        return *state != SqlState::DATABASE_DROPPED
            && classes.iter().any(|class| state.code().starts_with(class));
    }
    let mut cause = error.source();
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<std::io::Error>() {
            return !tls::is_wrong(error);
        }
        cause = error.source();
    }
    error.is_closed()
}

fn from_database(error: std::io::Error) -> DatabaseError {
    // The driver hides its own errors within those of writing.
    match error.downcast::<Error>() {
        Ok(error) => failed(error),
        Err(error) => DatabaseError::Away(error.to_string()),
    }
}

fn time(micros: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_micros(u64::try_from(micros).unwrap_or(0))
}

fn micros(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

fn uuid(id: &Id) -> String {
    ledger::TransactionId::from_bytes(*id).to_string()
}

fn signed(sequence: u64) -> i64 {
    i64::try_from(sequence).expect("a ledger has fewer than 2^63 events")
}

impl Database for Postgres {
    fn position(&mut self) -> Result<Position, DatabaseError> {
        // Only looked at, so that tables that are there need no right to make any.
        let exists = self.client.query_one(TABLES_EXIST, &[]).map_err(failed)?;
        if !exists.get::<_, bool>(0) {
            let mut transaction = self.client.transaction().map_err(failed)?;
            if lock_and_look(&mut transaction).map_err(failed)? == Tables::Missing {
                make_tables(&mut transaction).map_err(failed)?;
            }
            transaction.commit().map_err(failed)?;
        }
        let columns = "version, partition, ledger, sequence, last_event, as_of";
        let row =
            self.client.query_opt(&format!("SELECT {columns} FROM jigap.position"), &[]).map_err(failed)?;
        let row = row.ok_or_else(|| rows_missing("positions", 1, 0))?;
        check_version(row.get(0), row.get(1))?;
        Ok(Position {
            ledger: row.get(2),
            sequence: u64::try_from(row.get::<_, i64>(3)).unwrap_or(0),
            last_event: row.get(4),
            as_of: row.get::<_, Option<SystemTime>>(5).map(micros),
        })
    }

    fn apply(&mut self, rows: &Rows<'_>, from: &Position, to: &Position) -> Result<(), DatabaseError> {
        let mut transaction = self.client.transaction().map_err(failed)?;
        // First, because it makes another process that follows into the same tables wait, and then find itself too late.
        let moved = transaction.execute(
            MOVE_POSITION,
            &[
                &to.ledger,
                &signed(to.sequence),
                &to.last_event,
                &to.as_of.map(time),
                &signed(from.sequence),
                &from.last_event,
            ],
        );
        if moved.map_err(failed)? != 1 {
            return Err(DatabaseError::Moved { expected: from.sequence });
        }
        let buffer = &mut self.buffer;
        copy_rows(&mut transaction, COPY_ACCOUNTS, &rows.accounts, buffer, put_account)?;
        copy_rows(&mut transaction, COPY_TRANSACTIONS, &rows.transactions, buffer, put_transaction)?;
        copy_rows(&mut transaction, COPY_POSTINGS, &rows.postings, buffer, put_posting)?;
        set_balances(&mut transaction, &rows.balances).map_err(failed)?;
        set_fates(&mut transaction, &rows.fates)?;
        for (id, first, last) in &rows.groups {
            transaction.execute(SET_GROUP, &[&uuid(id), first, last]).map_err(failed)?;
        }
        close_accounts(&mut transaction, &rows.closings)?;
        transaction.commit().map_err(failed)
    }

    fn make_anew(&mut self) -> Result<(), DatabaseError> {
        let mut transaction = self.client.transaction().map_err(failed)?;
        if lock_and_look(&mut transaction).map_err(failed)? == Tables::Present {
            transaction.batch_execute(DROP).map_err(failed)?;
        }
        make_tables(&mut transaction).map_err(failed)?;
        transaction.commit().map_err(failed)
    }
}

#[derive(PartialEq, Eq)]
enum Tables {
    Present,
    Missing,
}

fn lock_and_look(transaction: &mut Transaction<'_>) -> Result<Tables, Error> {
    transaction.execute("SELECT pg_advisory_xact_lock($1)", &[&MAKING_LOCK])?;
    let row = transaction.query_one(TABLES_EXIST, &[])?;
    Ok(if row.get(0) { Tables::Present } else { Tables::Missing })
}

fn make_tables(transaction: &mut Transaction<'_>) -> Result<(), Error> {
    // `IF NOT EXISTS` would need the right to make schemas even where the schema is.
    let row = transaction.query_one(SCHEMA_EXISTS, &[])?;
    if !row.get::<_, bool>(0) {
        transaction.batch_execute("CREATE SCHEMA jigap")?;
    }
    transaction.batch_execute(TABLES)?;
    let (codes, digits): (Vec<&str>, Vec<i16>) =
        currencies().map(|(code, digits)| (code, i16::from(digits))).unzip();
    let insert = "INSERT INTO jigap.currencies SELECT code, digits, \
         CASE digits WHEN 0 THEN 1 ELSE ('0.' || repeat('0', digits - 1) || '1')::numeric END \
         FROM unnest($1::text[], $2::smallint[]) AS new (code, digits)";
    transaction.execute(insert, &[&codes, &digits])?;
    let external = "INSERT INTO jigap.accounts (account_id, handle) VALUES ($1, 0)";
    transaction.execute(external, &[&ledger::AccountId::EXTERNAL])?;
    let position = "INSERT INTO jigap.position VALUES ($1, $2, '', 0, '', NULL)";
    transaction.execute(position, &[&VERSION, &i64::from(PARTITION)])?;
    Ok(())
}

/// Sends rows in PostgreSQL's binary form, which is the cheapest for both sides.
fn copy_rows<Row>(
    transaction: &mut Transaction<'_>,
    command: &str,
    rows: &[Row],
    buffer: &mut CopyBuffer,
    put: impl Fn(&Row, &mut CopyBuffer),
) -> Result<(), DatabaseError> {
    if rows.is_empty() {
        return Ok(());
    }
    buffer.begin();
    for row in rows {
        put(row, buffer);
    }
    let mut writer = transaction.copy_in(command).map_err(failed)?;
    writer.write_all(buffer.finish()).map_err(from_database)?;
    writer.finish().map_err(failed)?;
    Ok(())
}

fn put_metadata(metadata: &Metadata, buffer: &mut CopyBuffer) {
    match &metadata.without_nul {
        None => {
            buffer.jsonb(&metadata.exact);
            buffer.text(None);
        }
        Some(without_nul) => {
            buffer.jsonb(without_nul);
            buffer.text(Some(&metadata.exact));
        }
    }
}

fn put_account(row: &AccountRow<'_>, buffer: &mut CopyBuffer) {
    buffer.row(8);
    buffer.text(Some(row.account_id));
    buffer.bigint(Some(row.handle));
    buffer.bigint(Some(row.opened_sequence));
    buffer.timestamp(Some(row.opened_at));
    buffer.bigint(row.closed.map(|(sequence, _)| sequence));
    buffer.timestamp(row.closed.map(|(_, at)| at));
    put_metadata(&row.metadata, buffer);
}

fn put_transaction(row: &TransactionRow<'_>, buffer: &mut CopyBuffer) {
    buffer.row(21);
    buffer.uuid(Some(row.transaction_id));
    buffer.text(Some(row.kind));
    buffer.text(Some(row.fate.status));
    buffer.text(row.code);
    buffer.bigint(row.leg);
    buffer.text(row.leg_code);
    buffer.text(row.from_account);
    buffer.text(row.to_account);
    buffer.text(row.account_id);
    buffer.bigint(row.amount);
    buffer.text(row.currency);
    buffer.bigint(row.released);
    buffer.timestamp(row.expires_at);
    buffer.uuid(row.referenced_transaction_id);
    buffer.uuid(row.group_id);
    buffer.bigint(row.fate.settled_sequence);
    buffer.timestamp(row.fate.settled_at);
    buffer.bigint(Some(row.sequence));
    buffer.timestamp(Some(row.timestamp));
    put_metadata(&row.metadata, buffer);
}

fn put_posting(row: &PostingRow<'_>, buffer: &mut CopyBuffer) {
    buffer.row(10);
    buffer.text(Some(row.account_id));
    buffer.bigint(Some(row.sequence));
    buffer.timestamp(Some(row.timestamp));
    buffer.uuid(Some(row.transaction_id));
    buffer.text(Some(row.kind));
    buffer.text(row.counterparty);
    buffer.text(Some(row.currency));
    buffer.bigint(Some(row.amount));
    buffer.bigint(Some(row.balance_after));
    buffer.bigint(row.held_after);
}

fn set_balances(transaction: &mut Transaction<'_>, rows: &[BalanceRow<'_>]) -> Result<(), Error> {
    if rows.is_empty() {
        return Ok(());
    }
    let accounts: Vec<&str> = rows.iter().map(|row| row.account_id).collect();
    let currencies: Vec<&str> = rows.iter().map(|row| row.currency).collect();
    let available: Vec<i64> = rows.iter().map(|row| row.available).collect();
    let held: Vec<Option<i64>> = rows.iter().map(|row| row.held).collect();
    let sequences: Vec<i64> = rows.iter().map(|row| row.sequence).collect();
    transaction.execute(SET_BALANCES, &[&accounts, &currencies, &available, &held, &sequences])?;
    Ok(())
}

fn set_fates(transaction: &mut Transaction<'_>, fates: &[(Id, Fate)]) -> Result<(), DatabaseError> {
    if fates.is_empty() {
        return Ok(());
    }
    let ids: Vec<String> = fates.iter().map(|(id, _)| uuid(id)).collect();
    let statuses: Vec<&str> = fates.iter().map(|(_, fate)| fate.status).collect();
    let sequences: Vec<Option<i64>> = fates.iter().map(|(_, fate)| fate.settled_sequence).collect();
    let times: Vec<Option<SystemTime>> = fates.iter().map(|(_, fate)| fate.settled_at.map(time)).collect();
    let changed = transaction.execute(SET_FATES, &[&ids, &statuses, &sequences, &times]).map_err(failed)?;
    match changed as usize == fates.len() {
        true => Ok(()),
        false => Err(rows_missing("transactions", fates.len(), changed as usize)),
    }
}

fn close_accounts(transaction: &mut Transaction<'_>, rows: &[ClosingRow<'_>]) -> Result<(), DatabaseError> {
    if rows.is_empty() {
        return Ok(());
    }
    let accounts: Vec<&str> = rows.iter().map(|row| row.account_id).collect();
    let sequences: Vec<i64> = rows.iter().map(|row| row.sequence).collect();
    let times: Vec<SystemTime> = rows.iter().map(|row| time(row.timestamp)).collect();
    let changed = transaction.execute(CLOSE_ACCOUNTS, &[&accounts, &sequences, &times]).map_err(failed)?;
    match changed as usize == rows.len() {
        true => Ok(()),
        false => Err(rows_missing("accounts", rows.len(), changed as usize)),
    }
}
