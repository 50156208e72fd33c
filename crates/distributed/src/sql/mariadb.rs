//! Sessions with MariaDB.
//!
//! Statements over many rows have as many parameters as rows; the count is rounded up to a power of two by repeating the last row, which
//! changes nothing, so that a few prepared statements serve all sizes.

use std::time::Duration;

use coordinator::port::SecondPhase;
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Opts, OptsBuilder, Params, Value};

use super::cell::{Cell, Row};
use super::connection::{Begun, BranchName, Connection, Database, Dialect, Ended, Load, Lock, Store, verb};
use super::failure::{Failure, of_mariadb};
use super::timeouts::Timeouts;

/// XAER_NOTA: no prepared transaction has this name, or a connection still has it.
const UNKNOWN_BRANCH: &str = "1397";
/// XAER_DUPID: a transaction of this name is prepared, or under way on another connection.
const BRANCH_EXISTS: &str = "1440";
/// XA_RBROLLBACK, XA_RBTIMEOUT, XA_RBDEADLOCK: this connection's branch lost a race, and waits to be rolled back.
const ROLLED_BACK: [&str; 3] = ["1402", "1613", "1614"];
/// How many rows one statement carries: the protocol allows 65,535 parameters, and no table of ours has more than 16 columns.
const ROWS_PER_STATEMENT_MAX: usize = 2_048;
/// Statements that a connection keeps prepared: two for each table and power of two.
const STATEMENTS_MAX: usize = 400;

/// Where sessions come from.
pub(super) struct MariaDb {
    options: Opts,
    place: String,
    qualifier: String,
    timeouts: Timeouts,
}

impl MariaDb {
    /// Takes `mysql://user:password@host:port/database`, or the same with `mariadb://`.
    pub(super) fn new(url: &str, timeouts: Timeouts) -> Result<MariaDb, Failure> {
        let url = url.replacen("mariadb://", "mysql://", 1);
        let options =
            Opts::from_url(&url).map_err(|error| Failure::refused(format!("no MariaDB URL: {error}")))?;
        let place = format!(
            "mysql://{}:{}/{}",
            options.ip_or_hostname(),
            options.tcp_port(),
            options.db_name().unwrap_or_default()
        );
        // What an idle or silent session may hold, the server itself ends: another instance must not wait for one that hangs. Backslashes
        // in a literal would mean something else than in PostgreSQL.
        let setup = vec![
            "SET NAMES utf8mb4 COLLATE utf8mb4_bin".to_owned(),
            "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED".to_owned(),
            format!(
                "SET SESSION sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION,NO_BACKSLASH_ESCAPES', \
                 innodb_lock_wait_timeout = {}, lock_wait_timeout = {}, max_statement_time = {}, \
                 idle_transaction_timeout = {}",
                timeouts.lock.as_secs().max(1),
                timeouts.lock.as_secs().max(1),
                timeouts.statement.as_secs().max(1),
                timeouts.idle_in_transaction.as_secs().max(1),
            ),
        ];
        let options: Opts = OptsBuilder::from_opts(options)
            .prefer_socket(false)
            .tcp_nodelay(true)
            .stmt_cache_size(STATEMENTS_MAX)
            .setup(setup)
            .into();
        let qualifier = options.db_name().unwrap_or_default().to_owned();
        Ok(MariaDb { options, place, qualifier, timeouts })
    }
}

#[async_trait::async_trait]
impl Database for MariaDb {
    async fn connect(&self) -> Result<Box<dyn Connection>, Failure> {
        let connection = tokio::time::timeout(self.timeouts.connect, Conn::new(self.options.clone()))
            .await
            .map_err(|_| Failure::lost(format!("no connection to {} in time", self.place)))?
            .map_err(|error| {
                let failure = failure(&error);
                Failure {
                    message: format!("cannot connect to {}: {}", self.place, failure.message),
                    ..failure
                }
            })?;
        let patience = self.timeouts.statement + self.timeouts.connect;
        Ok(Box::new(Session { connection, qualifier: self.qualifier.clone(), patience }))
    }

    fn dialect(&self) -> Dialect {
        Dialect::MariaDb
    }

    fn place(&self) -> &str {
        &self.place
    }
}

struct Session {
    connection: Conn,
    /// Tells our branches from those of other databases on the same server, which sees all of them.
    qualifier: String,
    /// How long an answer may take. The server gives up earlier; this is for a server that says nothing.
    patience: Duration,
}

impl Session {
    async fn execute(&mut self, statement: String, parameters: Vec<Value>) -> Result<Vec<Row>, Failure> {
        let query = self.connection.exec(statement, Params::Positional(parameters));
        let rows: Vec<mysql_async::Row> = within(self.patience, query).await?;
        Ok(rows.into_iter().map(row).collect())
    }

    /// The two parts of an XA name: the branch, and the database in hexadecimal, for it may hold any character.
    fn name(&self, branch: &BranchName) -> String {
        format!("'{}',X'{}'", branch.as_str(), hex::encode(&self.qualifier))
    }

    async fn load_one(&mut self, load: &Load) -> Result<Vec<Row>, Failure> {
        let (table, (column, _)) = (load.table, load.table.columns[load.by]);
        let lock = match load.lock {
            Lock::None => String::new(),
            // Ascending, so that two transactions that want the same rows never hold one each.
            Lock::Wait => format!(" ORDER BY {column} FOR UPDATE"),
            Lock::Skip => format!(" ORDER BY {column} FOR UPDATE SKIP LOCKED"),
        };
        let mut found = Vec::new();
        for values in load.values.chunks(ROWS_PER_STATEMENT_MAX) {
            let count = values.len().next_power_of_two();
            let marks = vec!["?"; count].join(", ");
            let statement = format!(
                "SELECT {} FROM {} WHERE {column} IN ({marks}){lock}",
                table.column_list(),
                table.name
            );
            let parameters = repeat_last(values, count).map(value).collect();
            found.append(&mut self.execute(statement, parameters).await?);
        }
        Ok(found)
    }

    async fn store_one(&mut self, store: &Store) -> Result<(), Failure> {
        let table = store.table;
        let names: Vec<&str> = table.columns.iter().map(|(name, _)| *name).collect();
        let updates: Vec<String> =
            names[table.key_columns..].iter().map(|name| format!("{name} = VALUES({name})")).collect();
        let one = format!("({})", vec!["?"; names.len()].join(", "));
        for rows in store.rows.chunks(ROWS_PER_STATEMENT_MAX) {
            let count = rows.len().next_power_of_two();
            let statement = format!(
                "INSERT INTO {} ({}) VALUES {} ON DUPLICATE KEY UPDATE {}",
                table.name,
                table.column_list(),
                vec![one.as_str(); count].join(", "),
                updates.join(", ")
            );
            let parameters = repeat_last(rows, count).flatten().map(value).collect();
            self.execute(statement, parameters).await?;
        }
        Ok(())
    }
}

#[async_trait::async_trait]
impl Connection for Session {
    async fn run(&mut self, statements: &str) -> Result<(), Failure> {
        within(self.patience, self.connection.query_drop(statements)).await
    }

    async fn rows(&mut self, statement: &str, parameters: &[Cell]) -> Result<Vec<Row>, Failure> {
        let parameters = parameters.iter().map(value).collect();
        self.execute(statement.to_owned(), parameters).await
    }

    async fn load(&mut self, loads: &[Load]) -> Result<Vec<Vec<Row>>, Failure> {
        let mut tables = Vec::with_capacity(loads.len());
        for load in loads {
            tables.push(if load.values.is_empty() { Vec::new() } else { self.load_one(load).await? });
        }
        Ok(tables)
    }

    async fn store(&mut self, stores: &[Store]) -> Result<(), Failure> {
        for store in stores {
            self.store_one(store).await?;
        }
        Ok(())
    }

    async fn begin_branch(&mut self, branch: &BranchName) -> Result<Begun, Failure> {
        match self.run(&format!("XA START {}", self.name(branch))).await {
            Ok(()) => Ok(Begun::Fresh),
            Err(failure) if failure.code == BRANCH_EXISTS => {
                if self.prepared().await?.iter().any(|name| name == branch.as_str()) {
                    Ok(Begun::PreparedBefore)
                } else {
                    Err(Failure::busy("the branch is being prepared by another connection"))
                }
            }
            Err(failure) => Err(failure),
        }
    }

    async fn abandon_branch(&mut self, branch: &BranchName) -> Result<(), Failure> {
        // `XA ROLLBACK` also ends what other connections prepared. Only what `XA END` finds open is certainly this connection's own.
        match self.run(&format!("XA END {}", self.name(branch))).await {
            Err(failure) if !ROLLED_BACK.contains(&failure.code.as_str()) => return Err(failure),
            _ => {}
        }
        self.run(&format!("XA ROLLBACK {}", self.name(branch))).await
    }

    async fn commit_unprepared(&mut self, branch: &BranchName) -> Result<(), Failure> {
        self.run(&format!("XA END {}", self.name(branch))).await?;
        self.run(&format!("XA COMMIT {} ONE PHASE", self.name(branch))).await
    }

    async fn prepare(&mut self, branch: &BranchName) -> Result<(), Failure> {
        self.run(&format!("XA END {}", self.name(branch))).await?;
        self.run(&format!("XA PREPARE {}", self.name(branch))).await
    }

    async fn end_prepared(
        &mut self,
        branch: &BranchName,
        second_phase: SecondPhase,
    ) -> Result<Ended, Failure> {
        let verb = verb(second_phase);
        match self.run(&format!("XA {verb} {}", self.name(branch))).await {
            Ok(()) => Ok(Ended::Now),
            Err(failure) if failure.code == UNKNOWN_BRANCH => Ok(Ended::NotPrepared),
            Err(failure) => Err(failure),
        }
    }

    async fn prepared(&mut self) -> Result<Vec<String>, Failure> {
        let query = self.connection.query("XA RECOVER");
        let found: Vec<mysql_async::Row> = within(self.patience, query).await?;
        let mut names = Vec::new();
        for found in found.into_iter().map(row) {
            // Without a prepared statement, numbers come as text.
            let split = found.text(1)?.parse().unwrap_or(usize::MAX);
            // Names of other programs may be no text at all.
            let Some((name, qualifier)) = found.bytes(3)?.split_at_checked(split) else { continue };
            if qualifier == self.qualifier.as_bytes()
                && let Ok(name) = std::str::from_utf8(name)
            {
                names.push(name.to_owned());
            }
        }
        Ok(names)
    }

    async fn close(self: Box<Self>) {
        let _ = tokio::time::timeout(self.patience, self.connection.disconnect()).await;
    }
}

/// The items, and the last of them again until there are `count`.
fn repeat_last<Item>(items: &[Item], count: usize) -> impl Iterator<Item = &Item> {
    let last = items.last().into_iter().cycle();
    items.iter().chain(last).take(count)
}

/// Waits for a server, but not for ever.
async fn within<Answer>(
    patience: Duration,
    answer: impl Future<Output = Result<Answer, mysql_async::Error>>,
) -> Result<Answer, Failure> {
    match tokio::time::timeout(patience, answer).await {
        Ok(answer) => answer.map_err(|error| failure(&error)),
        Err(_) => Err(Failure::lost("the database does not answer")),
    }
}

fn failure(error: &mysql_async::Error) -> Failure {
    match error {
        mysql_async::Error::Server(said) => of_mariadb(said.code, said.message.clone()),
        other => Failure::lost(other.to_string()),
    }
}

fn value(cell: &Cell) -> Value {
    match cell {
        Cell::Null => Value::NULL,
        Cell::Integer(value) => Value::Int(*value),
        Cell::Flag(value) => Value::Int(i64::from(*value)),
        Cell::Text(value) => Value::Bytes(value.as_bytes().to_vec()),
        Cell::Bytes(value) => Value::Bytes(value.clone()),
        Cell::Id(value) => Value::Bytes(value.to_bytes().to_vec()),
    }
}

fn row(row: mysql_async::Row) -> Row {
    let cells = row.unwrap().into_iter().map(|value| match value {
        Value::NULL => Cell::Null,
        Value::Int(value) => Cell::Integer(value),
        // No column of ours is unsigned; a count that MariaDB computes may be.
        Value::UInt(value) => i64::try_from(value).map_or(Cell::Null, Cell::Integer),
        Value::Bytes(value) => Cell::Bytes(value),
        Value::Float(_) | Value::Double(_) | Value::Date(..) | Value::Time(..) => Cell::Null,
    });
    Row(cells.collect())
}
