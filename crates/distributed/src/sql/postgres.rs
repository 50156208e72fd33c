//! Sessions with PostgreSQL.
//!
//! Statements that do not depend on each other's results are sent without waiting for the answers before (pipelining), so that all the
//! reads of a batch are one round trip, and all its writes another.

use std::collections::HashMap;
use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use coordinator::port::SecondPhase;
use futures_util::future::try_join_all;
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type};
use tokio_postgres::{Client, Config, NoTls, Statement};

use ledger::TransactionId;

use super::cell::{Cell, Kind, Row};
use super::connection::{Begun, BranchName, Connection, Database, Dialect, Ended, Load, Lock, Store, verb};
use super::failure::{Failure, of_sqlstate};
use super::timeouts::Timeouts;

/// An undefined object: no prepared transaction has this name.
const UNDEFINED_OBJECT: &str = "42704";
/// A prepared transaction of this name is being ended by somebody else at this moment.
const NAME_IN_USE: &str = "55000";

/// Where sessions come from.
pub(super) struct Postgres {
    config: Config,
    place: String,
    timeouts: Timeouts,
}

impl Postgres {
    /// Takes `postgres://user:password@host:port/database`.
    pub(super) fn new(url: &str, timeouts: Timeouts) -> Result<Postgres, Failure> {
        let mut config: Config =
            url.parse().map_err(|error| Failure::refused(format!("no PostgreSQL URL: {error}")))?;
        if config.get_ssl_mode() == tokio_postgres::config::SslMode::Require {
            return Err(Failure::refused(
                "sslmode=require is not supported: connect over a private network or a local TLS proxy",
            ));
        }
        let hosts: Vec<String> = config
            .get_hosts()
            .iter()
            .map(|host| match host {
                tokio_postgres::config::Host::Tcp(name) => name.clone(),
                tokio_postgres::config::Host::Unix(path) => path.display().to_string(),
            })
            .collect();
        let ports: Vec<String> = config.get_ports().iter().map(u16::to_string).collect();
        let place = format!(
            "postgres://{}:{}/{}",
            hosts.join(","),
            ports.join(","),
            config.get_dbname().or(config.get_user()).unwrap_or_default()
        );
        // What an idle or silent session may hold, the server itself ends: another instance must not wait for one that hangs.
        config
            .application_name("jigap")
            .connect_timeout(timeouts.connect)
            .tcp_user_timeout(timeouts.statement * 2)
            .options(format!(
                "-c lock_timeout={} -c statement_timeout={} -c idle_in_transaction_session_timeout={} \
                 -c synchronous_commit=on -c default_transaction_isolation=read\\ committed -c client_min_messages=warning",
                timeouts.lock.as_millis(),
                timeouts.statement.as_millis(),
                timeouts.idle_in_transaction.as_millis(),
            ));
        Ok(Postgres { config, place, timeouts })
    }
}

#[async_trait::async_trait]
impl Database for Postgres {
    async fn connect(&self) -> Result<Box<dyn Connection>, Failure> {
        let connecting = self.config.connect(NoTls);
        let (client, connection) = tokio::time::timeout(self.timeouts.connect, connecting)
            .await
            .map_err(|_| Failure::lost(format!("no connection to {} in time", self.place)))?
            .map_err(|error| {
                let failure = failure(&error);
                Failure {
                    message: format!("cannot connect to {}: {}", self.place, failure.message),
                    ..failure
                }
            })?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a PostgreSQL connection ended");
            }
        });
        let patience = self.timeouts.statement + self.timeouts.connect;
        Ok(Box::new(Session { client: Arc::new(client), statements: HashMap::new(), patience }))
    }

    fn dialect(&self) -> Dialect {
        Dialect::Postgres
    }

    fn place(&self) -> &str {
        &self.place
    }
}

struct Session {
    client: Arc<Client>,
    /// By text. There are only as many as there are statements in this module's callers.
    statements: HashMap<String, Statement>,
    /// How long an answer may take. The server gives up earlier; this is for a server that says nothing.
    patience: Duration,
}

impl Session {
    async fn statement(&mut self, text: &str) -> Result<Statement, Failure> {
        if let Some(statement) = self.statements.get(text) {
            return Ok(statement.clone());
        }
        let statement = within(self.patience, self.client.prepare(text)).await?;
        self.statements.insert(text.to_owned(), statement.clone());
        Ok(statement)
    }
}

#[async_trait::async_trait]
impl Connection for Session {
    async fn run(&mut self, statements: &str) -> Result<(), Failure> {
        within(self.patience, self.client.batch_execute(statements)).await
    }

    async fn rows(&mut self, statement: &str, parameters: &[Cell]) -> Result<Vec<Row>, Failure> {
        let statement = self.statement(statement).await?;
        let parameters: Vec<&(dyn ToSql + Sync)> =
            parameters.iter().map(|cell| cell as &(dyn ToSql + Sync)).collect();
        let rows = within(self.patience, self.client.query(&statement, &parameters)).await?;
        rows.iter().map(row).collect()
    }

    async fn load(&mut self, loads: &[Load]) -> Result<Vec<Vec<Row>>, Failure> {
        let mut prepared = Vec::with_capacity(loads.len());
        for load in loads {
            prepared.push(match load.values.is_empty() {
                true => None,
                false => Some(self.statement(&load_statement(load)).await?),
            });
        }
        let keys: Vec<Array> = loads
            .iter()
            .map(|load| Array { cells: load.values.iter().collect(), kind: load.table.columns[load.by].1 })
            .collect();
        let client = &self.client;
        // Sent in this order, whatever the order of the answers.
        let queries = prepared.iter().zip(&keys).map(|(statement, keys)| async move {
            let Some(statement) = statement else { return Ok(Vec::new()) };
            let parameters: [&(dyn ToSql + Sync); 1] = [keys];
            client.query(statement, &parameters).await
        });
        let tables = within(self.patience, try_join_all(queries)).await?;
        tables.iter().map(|rows| rows.iter().map(row).collect()).collect()
    }

    async fn store(&mut self, stores: &[Store]) -> Result<(), Failure> {
        let stores: Vec<&Store> = stores.iter().filter(|store| !store.rows.is_empty()).collect();
        let mut prepared = Vec::with_capacity(stores.len());
        for store in &stores {
            prepared.push(self.statement(&store_statement(store)).await?);
        }
        let columns: Vec<Vec<Array>> = stores.iter().map(|store| columns(store)).collect();
        let client = &self.client;
        let writes = prepared.iter().zip(&columns).map(|(statement, columns)| async move {
            let parameters: Vec<&(dyn ToSql + Sync)> =
                columns.iter().map(|column| column as &(dyn ToSql + Sync)).collect();
            client.execute(statement, &parameters).await
        });
        within(self.patience, try_join_all(writes)).await.map(|_| ())
    }

    async fn begin_branch(&mut self, branch: &BranchName) -> Result<Begun, Failure> {
        let name = Cell::Text(branch.as_str().to_owned());
        if !self.rows("SELECT 1 FROM pg_prepared_xacts WHERE gid = $1", &[name]).await?.is_empty() {
            return Ok(Begun::PreparedBefore);
        }
        self.run("BEGIN").await?;
        Ok(Begun::Fresh)
    }

    async fn abandon_branch(&mut self, _branch: &BranchName) -> Result<(), Failure> {
        self.run("ROLLBACK").await
    }

    async fn commit_unprepared(&mut self, _branch: &BranchName) -> Result<(), Failure> {
        self.run("COMMIT").await
    }

    async fn prepare(&mut self, branch: &BranchName) -> Result<(), Failure> {
        self.run(&format!("PREPARE TRANSACTION '{}'", branch.as_str())).await
    }

    async fn end_prepared(
        &mut self,
        branch: &BranchName,
        second_phase: SecondPhase,
    ) -> Result<Ended, Failure> {
        let verb = verb(second_phase);
        match self.run(&format!("{verb} PREPARED '{}'", branch.as_str())).await {
            Ok(()) => Ok(Ended::Now),
            Err(failure) if failure.code == UNDEFINED_OBJECT => Ok(Ended::NotPrepared),
            Err(failure) if failure.code == NAME_IN_USE => Err(Failure::busy(failure.to_string())),
            Err(failure) => Err(failure),
        }
    }

    async fn prepared(&mut self) -> Result<Vec<String>, Failure> {
        let found =
            self.rows("SELECT gid FROM pg_prepared_xacts WHERE database = current_database()", &[]).await?;
        found.iter().map(|row| row.text(0).map(str::to_owned)).collect()
    }

    async fn close(self: Box<Self>) {}
}

/// Waits for a server, but not for ever.
async fn within<Answer>(
    patience: Duration,
    answer: impl Future<Output = Result<Answer, tokio_postgres::Error>>,
) -> Result<Answer, Failure> {
    match tokio::time::timeout(patience, answer).await {
        Ok(answer) => answer.map_err(|error| failure(&error)),
        Err(_) => Err(Failure::lost("the database does not answer")),
    }
}

fn failure(error: &tokio_postgres::Error) -> Failure {
    if let Some(said) = error.as_db_error() {
        let mut message = said.message().to_owned();
        for more in [said.detail(), said.hint()].into_iter().flatten() {
            message.push_str("; ");
            message.push_str(more);
        }
        return of_sqlstate(said.code().code(), message);
    }
    let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
    Failure::lost(format!("{error}{cause}"))
}

fn load_statement(load: &Load) -> String {
    let (table, (column, _)) = (load.table, load.table.columns[load.by]);
    let lock = match load.lock {
        Lock::None => String::new(),
        // Ascending, so that two transactions that want the same rows never hold one each.
        Lock::Wait => format!(" ORDER BY {column} FOR UPDATE"),
        Lock::Skip => format!(" ORDER BY {column} FOR UPDATE SKIP LOCKED"),
    };
    format!("SELECT {} FROM {} WHERE {column} = ANY($1){lock}", table.column_list(), table.name)
}

fn store_statement(store: &Store) -> String {
    let table = store.table;
    let arrays: Vec<String> = table
        .columns
        .iter()
        .enumerate()
        .map(|(index, (_, kind))| format!("${}::{}[]", index + 1, type_name(*kind)))
        .collect();
    let names: Vec<&str> = table.columns.iter().map(|(name, _)| *name).collect();
    let (key, others) = names.split_at(table.key_columns);
    let updates: Vec<String> = others.iter().map(|name| format!("{name} = excluded.{name}")).collect();
    format!(
        "INSERT INTO {} ({}) SELECT * FROM unnest({}) ON CONFLICT ({}) DO UPDATE SET {}",
        table.name,
        table.column_list(),
        arrays.join(", "),
        key.join(", "),
        updates.join(", ")
    )
}

fn type_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Integer => "bigint",
        Kind::Flag => "boolean",
        Kind::Text => "text",
        Kind::Bytes => "bytea",
        Kind::Id => "uuid",
    }
}

fn columns(store: &Store) -> Vec<Array<'_>> {
    let kinds = store.table.columns.iter().enumerate();
    kinds
        .map(|(index, (_, kind))| Array {
            cells: store.rows.iter().map(|row| &row[index]).collect(),
            kind: *kind,
        })
        .collect()
}

fn row(row: &tokio_postgres::Row) -> Result<Row, Failure> {
    let cells = (0..row.len()).map(|index| {
        row.try_get::<_, Cell>(index).map_err(|error| Failure::refused(format!("a column: {error}")))
    });
    Ok(Row(cells.collect::<Result<_, _>>()?))
}

type Oops = Box<dyn std::error::Error + Sync + Send>;

impl ToSql for Cell {
    fn to_sql(&self, wanted: &Type, out: &mut BytesMut) -> Result<IsNull, Oops> {
        match self {
            Cell::Null => Ok(IsNull::Yes),
            Cell::Integer(value) => match *wanted {
                Type::INT2 => i16::try_from(*value)?.to_sql(wanted, out),
                Type::INT4 => i32::try_from(*value)?.to_sql(wanted, out),
                _ => value.to_sql(&Type::INT8, out),
            },
            Cell::Flag(value) => value.to_sql(&Type::BOOL, out),
            Cell::Text(value) => value.to_sql(&Type::TEXT, out),
            Cell::Bytes(value) => value.to_sql(&Type::BYTEA, out),
            Cell::Id(value) => {
                out.extend_from_slice(&value.to_bytes());
                Ok(IsNull::No)
            }
        }
    }

    fn accepts(wanted: &Type) -> bool {
        matches!(
            *wanted,
            Type::INT2
                | Type::INT4
                | Type::INT8
                | Type::BOOL
                | Type::TEXT
                | Type::VARCHAR
                | Type::BYTEA
                | Type::UUID
        )
    }

    tokio_postgres::types::to_sql_checked!();
}

impl<'row> FromSql<'row> for Cell {
    fn from_sql(found: &Type, raw: &'row [u8]) -> Result<Cell, Oops> {
        Ok(match *found {
            Type::INT2 => Cell::Integer(i64::from(i16::from_sql(found, raw)?)),
            Type::INT4 => Cell::Integer(i64::from(i32::from_sql(found, raw)?)),
            Type::INT8 => Cell::Integer(i64::from_sql(found, raw)?),
            Type::BOOL => Cell::Flag(bool::from_sql(found, raw)?),
            Type::BYTEA => Cell::Bytes(raw.to_vec()),
            Type::UUID => Cell::Id(TransactionId::from_bytes(raw.try_into()?)),
            _ => Cell::Text(String::from_sql(&Type::TEXT, raw)?),
        })
    }

    fn from_sql_null(_found: &Type) -> Result<Cell, Oops> {
        Ok(Cell::Null)
    }

    fn accepts(found: &Type) -> bool {
        <Cell as ToSql>::accepts(found) || matches!(*found, Type::NAME)
    }
}

/// One column of many rows, as an array parameter.
#[derive(Debug)]
struct Array<'row> {
    cells: Vec<&'row Cell>,
    kind: Kind,
}

impl ToSql for Array<'_> {
    fn to_sql(&self, wanted: &Type, out: &mut BytesMut) -> Result<IsNull, Oops> {
        debug_assert!(self.cells.iter().all(|cell| suits(cell, self.kind)), "{self:?}");
        self.cells.as_slice().to_sql(wanted, out)
    }

    fn accepts(wanted: &Type) -> bool {
        <&[Cell] as ToSql>::accepts(wanted)
    }

    tokio_postgres::types::to_sql_checked!();
}

fn suits(cell: &Cell, kind: Kind) -> bool {
    match cell {
        Cell::Null => true,
        Cell::Integer(_) => kind == Kind::Integer,
        Cell::Flag(_) => kind == Kind::Flag,
        Cell::Text(_) => kind == Kind::Text,
        Cell::Bytes(_) => kind == Kind::Bytes,
        Cell::Id(_) => kind == Kind::Id,
    }
}
