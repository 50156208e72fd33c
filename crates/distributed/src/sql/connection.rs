//! What both databases are asked for, in one vocabulary.

use coordinator::port::SecondPhase;
use ledger::TransactionId;

use super::cell::{Cell, Kind, Row};
use super::failure::Failure;

/// A table of the schema, as the statements that touch many rows at once need it.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) name: &'static str,
    pub(super) columns: &'static [(&'static str, Kind)],
    /// How many of the first columns are the primary key.
    pub(super) key_columns: usize,
}

impl Table {
    /// The names of all columns, for a statement.
    pub(super) fn column_list(&self) -> String {
        self.columns.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
    }
}

/// How rows are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lock {
    /// As they were last committed, without waiting.
    None,
    /// Locked, in ascending order of the key, waiting for whoever has them.
    Wait,
    /// Locked; rows that somebody else has are left out.
    Skip,
}

/// Rows wanted from one table, by values of one column.
#[derive(Debug)]
pub(super) struct Load {
    pub(super) table: &'static Table,
    /// The index of the column that is compared; it has an index in the schema.
    pub(super) by: usize,
    /// Distinct values.
    pub(super) values: Vec<Cell>,
    pub(super) lock: Lock,
}

/// Rows to be written into one table: new ones, and new values of those that are there.
#[derive(Debug)]
pub(super) struct Store {
    pub(super) table: &'static Table,
    pub(super) rows: Vec<Vec<Cell>>,
}

/// How a two-phase branch began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Begun {
    /// It is open.
    Fresh,
    /// It was prepared before; nothing is open.
    PreparedBefore,
}

/// What a database knows of a two-phase branch after it was told to end it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// It was prepared here, and has now ended.
    Now,
    /// Nothing of this name is prepared: it ended before, or never came so far, or a connection still has it.
    NotPrepared,
}

/// The verb of both databases' statements that end a prepared branch.
pub(super) fn verb(second_phase: SecondPhase) -> &'static str {
    match second_phase {
        SecondPhase::Confirm => "COMMIT",
        SecondPhase::Cancel => "ROLLBACK",
    }
}

/// A session with a database. One that failed as [`Lost`](super::failure::Conclusion::Lost) is given up.
#[async_trait::async_trait]
pub(super) trait Connection: Send + Sync {
    /// Executes statements without parameters or results.
    async fn run(&mut self, statements: &str) -> Result<(), Failure>;

    /// Executes one statement; parameters are `$1`, `$2`, … in PostgreSQL and `?` in MariaDB.
    async fn rows(&mut self, statement: &str, parameters: &[Cell]) -> Result<Vec<Row>, Failure>;

    /// Reads from several tables, in this order, in as few round trips as the protocol allows.
    async fn load(&mut self, loads: &[Load]) -> Result<Vec<Vec<Row>>, Failure>;

    /// Writes into several tables, in this order, in as few round trips as the protocol allows.
    async fn store(&mut self, stores: &[Store]) -> Result<(), Failure>;

    /// Begins the transaction that [`prepare`](Connection::prepare) ends.
    async fn begin_branch(&mut self, branch: &BranchName) -> Result<Begun, Failure>;

    /// Undoes a branch that is not prepared.
    async fn abandon_branch(&mut self, branch: &BranchName) -> Result<(), Failure>;

    /// Commits a branch that is not prepared, as one phase.
    async fn commit_unprepared(&mut self, branch: &BranchName) -> Result<(), Failure>;

    /// Leaves the branch prepared: it survives the connection and the server.
    async fn prepare(&mut self, branch: &BranchName) -> Result<(), Failure>;

    /// Commits a prepared branch, or rolls it back.
    async fn end_prepared(
        &mut self,
        branch: &BranchName,
        second_phase: SecondPhase,
    ) -> Result<Ended, Failure>;

    /// The names of everything that is prepared in this database.
    async fn prepared(&mut self) -> Result<Vec<String>, Failure>;

    /// Says goodbye, so that the server lets go of what the connection held.
    async fn close(self: Box<Self>);
}

/// Where connections come from.
#[async_trait::async_trait]
pub(super) trait Database: Send + Sync {
    async fn connect(&self) -> Result<Box<dyn Connection>, Failure>;

    fn dialect(&self) -> Dialect;

    /// Host, port and database, without a password, for messages.
    fn place(&self) -> &str;
}

/// Which database speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    Postgres,
    MariaDb,
}

impl Dialect {
    /// True when what a connection prepared is its own until it is closed.
    pub(super) fn keeps_what_it_prepared(self) -> bool {
        self == Dialect::MariaDb
    }

    /// A statement written with `?`, as this database wants it. Statements of ours hold no other question mark.
    pub(super) fn statement(self, text: &str) -> String {
        match self {
            Dialect::MariaDb => text.to_owned(),
            Dialect::Postgres => {
                let mut numbered = String::with_capacity(text.len() + 16);
                let mut number = 0;
                for piece in text.split_inclusive('?') {
                    match piece.strip_suffix('?') {
                        None => numbered.push_str(piece),
                        Some(before) => {
                            number += 1;
                            numbered.push_str(before);
                            numbered.push_str(&format!("${number}"));
                        }
                    }
                }
                numbered
            }
        }
    }
}

/// The name of a two-phase branch: `jigap:<transaction_id>:<shard>`. Letters, digits, hyphens and colons only, so that it may stand in a
/// statement: neither database takes it as a parameter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BranchName(String);

impl BranchName {
    pub(super) fn new(transaction_id: TransactionId, shard: u32) -> BranchName {
        BranchName(format!("jigap:{transaction_id}:{shard}"))
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    /// The transaction of a name that was made for this shard.
    pub(super) fn parse(name: &str, shard: u32) -> Option<TransactionId> {
        let (transaction_id, of_shard) = name.strip_prefix("jigap:")?.split_once(':')?;
        if of_shard.parse() != Ok(shard) {
            return None;
        }
        TransactionId::parse(transaction_id).ok()
    }
}
