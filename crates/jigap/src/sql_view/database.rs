//! The port to a user's database. What its implementations promise is one suite, `tests/sql_view`, that runs with both.

use std::path::PathBuf;

use ledger::Currency;

use super::postgres::{Postgres, PostgresTarget};
use super::rows::{Rows, RowsError};
use super::sqlite::Sqlite;

/// The version of the tables. One that reads the same rows differently is another.
pub(super) const VERSION: i64 = 1;
/// The partition that is followed.
pub(super) const PARTITION: u32 = 0;

/// A database that holds the tables.
pub(crate) trait Database {
    /// How far the tables are. Makes them where there are none.
    fn position(&mut self) -> Result<Position, DatabaseError>;

    /// Writes the rows and moves the position, all or nothing. Fails when the tables are not where `from` says: then nothing was
    /// written either.
    fn apply(&mut self, rows: &Rows<'_>, from: &Position, to: &Position) -> Result<(), DatabaseError>;

    /// Removes the tables, where there are any, and makes empty ones. Whatever else is in the database stays.
    fn make_anew(&mut self) -> Result<(), DatabaseError>;
}

/// How far the tables are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Position {
    /// The signature of the ledger's first event; empty before it.
    pub(crate) ledger: String,
    /// The last event in the tables.
    pub(crate) sequence: u64,
    /// Its signature; empty before the first.
    pub(crate) last_event: String,
    /// Its time.
    pub(crate) as_of: Option<i64>,
}

/// Why a database did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DatabaseError {
    /// It may do it later: it is away, full or busy. Whether the last transaction happened is not known.
    #[error("{0}")]
    Away(String),
    /// It will not do it before somebody changes something.
    #[error("{0}")]
    Unusable(String),
    /// Someone else writes into the same tables.
    #[error("the tables are no longer at event {expected}: does another process follow into them?")]
    Moved {
        /// Where they were.
        expected: u64,
    },
}

impl From<RowsError> for DatabaseError {
    fn from(error: RowsError) -> DatabaseError {
        DatabaseError::Unusable(error.to_string())
    }
}

/// Where the tables are to be.
#[derive(Debug, Clone)]
pub(crate) enum Target {
    Postgres(Box<PostgresTarget>),
    Sqlite(PathBuf),
}

impl Target {
    /// Reads `postgres://…` or `sqlite://FILE`.
    pub(crate) fn parse(url: &str) -> Result<Target, String> {
        if let Some(file) = url.strip_prefix("sqlite://") {
            if file.is_empty() {
                return Err(
                    "sqlite:// needs a file: sqlite://wallet.sqlite or sqlite:///var/lib/wallet.sqlite"
                        .into(),
                );
            }
            return Ok(Target::Sqlite(file.into()));
        }
        if url.starts_with("postgres://") || url.starts_with("postgresql://") {
            let password = std::env::var("PGPASSWORD").ok();
            return PostgresTarget::parse(url, password).map(|target| Target::Postgres(Box::new(target)));
        }
        Err("must be postgres://USER@HOST/DATABASE or sqlite://FILE".into())
    }

    /// Opens the database.
    pub(crate) fn open(&self) -> Result<Box<dyn Database>, DatabaseError> {
        match self {
            Target::Postgres(target) => Ok(Box::new(Postgres::open(target)?)),
            Target::Sqlite(path) => Ok(Box::new(Sqlite::open(path)?)),
        }
    }
}

/// Where, for people; without a password.
impl std::fmt::Display for Target {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Target::Postgres(target) => write!(formatter, "PostgreSQL {target}"),
            Target::Sqlite(path) => write!(formatter, "SQLite {}", path.display()),
        }
    }
}

/// What a row of the table of positions says, checked.
pub(super) fn check_version(version: i64, partition: i64) -> Result<(), DatabaseError> {
    if version > VERSION {
        return Err(DatabaseError::Unusable(format!(
            "the tables have version {version}, which a newer jigap made; this one writes version {VERSION}"
        )));
    }
    if version < VERSION {
        return Err(DatabaseError::Unusable(format!(
            "the tables have the older version {version}: build them again with --drop"
        )));
    }
    if partition != i64::from(PARTITION) {
        return Err(DatabaseError::Unusable(format!(
            "the tables follow partition {partition}, not partition {PARTITION}: use another database"
        )));
    }
    Ok(())
}

/// Rows that must be there are not: somebody else changed the tables.
pub(super) fn rows_missing(what: &str, expected: usize, found: usize) -> DatabaseError {
    DatabaseError::Unusable(format!(
        "{found} of {expected} earlier {what} are in the tables: somebody else changed them; build them again with --drop"
    ))
}

/// Every currency: its code, and how many digits it has after the point.
pub(super) fn currencies() -> impl Iterator<Item = (&'static str, u8)> {
    (0..1000).filter_map(Currency::from_numeric).map(|currency| (currency.code(), currency.exponent()))
}
