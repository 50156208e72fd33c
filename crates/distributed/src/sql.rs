//! Shards in PostgreSQL and in MariaDB.
//!
//! The rules of money are not written in SQL: [`coordinator::book`] is the same for both, and for every other shard. What is here loads
//! the rows that some steps need, runs the book, and writes back what changed:
//!
//! ```text
//! steps ──> queue ──> worker   BEGIN; lock the shard's position; load; run the book; store; COMMIT      one batch at a time
//!            two-phase steps ──> pool   an XA branch each: PREPARE, COMMIT PREPARED, ROLLBACK PREPARED  many at a time
//!            queries ──────────> pool   one statement each
//! ```
//!
//! Everything that is answered is durable: a database that may forget what it committed is refused when it is opened.

mod batch;
mod connection;
mod held;
mod mariadb;
mod migrate;
mod outbox;
mod pool;
mod postgres;
mod query;
mod schema;
mod timeouts;
mod two_phase;
mod working_set;

use std::collections::HashMap;
use std::sync::Arc;

use coordinator::machine::Travelling;
use coordinator::port::{Answer, Claim, Entry, NoAnswer, PhaseStatus, ShardNumber, Step};
use ledger::{AccountId, Timestamp, TransactionId};

use batch::{Queue, StepAnswer};
use cell::Cell;
use connection::{Connection, Database, Dialect};
use failure::Failure;
use held::Held;
pub use migrate::Migrated;
pub(super) use outbox::Message;
use pool::Pool;
use query::Query;
pub use timeouts::Timeouts;
use two_phase::TwoPhase;

use super::{AccountRow, HistoryRange, Orphan, Shard, ShardTotals, TransactionRow};
use super::{cell, clock, content, failure, rows};

/// How a shard uses its database.
#[derive(Debug, Clone, Copy)]
pub struct SqlOptions {
    /// How many connections there are for two-phase branches and for queries, besides the one for batches.
    pub connections: usize,
    /// How long what may take.
    pub timeouts: Timeouts,
}

impl Default for SqlOptions {
    fn default() -> SqlOptions {
        SqlOptions { connections: 16, timeouts: Timeouts::default() }
    }
}

/// A database that cannot be used, and what to do about it.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct SqlError(String);

impl From<Failure> for SqlError {
    fn from(failure: Failure) -> SqlError {
        SqlError(failure.to_string())
    }
}

/// Creates the tables in the database at this URL, or brings them to the current version. Safe to repeat.
pub async fn migrate(url: &str, timeouts: Timeouts) -> Result<Migrated, SqlError> {
    let database = database(url, timeouts)?;
    Ok(migrate::migrate(&*database).await?)
}

fn database(url: &str, timeouts: Timeouts) -> Result<Arc<dyn Database>, Failure> {
    match url.split_once("://").map(|(scheme, _)| scheme) {
        Some("postgres" | "postgresql") => Ok(Arc::new(postgres::Postgres::new(url, timeouts)?)),
        Some("mysql" | "mariadb") => Ok(Arc::new(mariadb::MariaDb::new(url, timeouts)?)),
        _ => Err(Failure::refused(
            "the URL of a database begins with postgres:// or mysql://, as in postgres://user@host:5432/wallet",
        )),
    }
}

/// A shard in one database.
pub struct SqlShard {
    number: ShardNumber,
    pool: Arc<Pool>,
    queue: Queue,
    two_phase: TwoPhase,
}

impl SqlShard {
    /// Opens the database at `postgres://user:password@host:port/database` or `mysql://user:password@host:port/database`, whose tables
    /// [`migrate()`] has made.
    ///
    /// A database belongs to the shard that opened it first. It is refused as another one, with tables of another version, and when
    /// it would not keep what it has committed.
    pub async fn open(url: &str, number: ShardNumber, options: SqlOptions) -> Result<SqlShard, SqlError> {
        let database = database(url, options.timeouts)?;
        let mut connection = database.connect().await?;
        migrate::check_version(&mut *connection, database.place()).await?;
        check_durability(&mut *connection, &*database).await?;
        claim_database(&mut *connection, &*database, number).await?;
        connection.close().await;
        let pool = Arc::new(Pool::new(database.clone(), options.connections, options.timeouts.statement));
        let queue = Queue::start(database, number);
        let held = Held::new(options.connections);
        let two_phase = TwoPhase { shard: number, pool: pool.clone(), held, queue: queue.clone() };
        Ok(SqlShard { number, pool, queue, two_phase })
    }

    /// Executes the next step of a transaction that has arrived, and stores with it what travels on.
    pub(super) async fn travel(&self, travelling: Travelling) -> Result<Answer, NoAnswer> {
        self.queue.travel(travelling).await
    }

    /// Messages that the broker may not have yet.
    pub(super) async fn outbox(&self, limit: usize) -> Result<Vec<Message>, NoAnswer> {
        let dialect = self.pool.database().dialect();
        let read = self.pool.read(|connection| Box::pin(outbox::read(connection, dialect, limit)));
        read.await.map_err(|failure| NoAnswer::Busy(failure.to_string()))
    }

    /// The broker has this message: it is forgotten with the next batch.
    pub(super) fn sent(&self, message_id: u128) {
        self.queue.sent(message_id);
    }

    /// Asks on a connection of the pool.
    async fn ask<Value: Send>(
        &self,
        question: impl for<'loan> Fn(Query<'loan>) -> pool::Reading<'loan, Value> + Send + Sync,
    ) -> Result<Value, NoAnswer> {
        let dialect = self.pool.database().dialect();
        self.pool
            .read(|connection| question(Query { connection, dialect }))
            .await
            // A question may be repeated, whatever became of it.
            .map_err(|failure| NoAnswer::Busy(failure.to_string()))
    }

    /// Executes steps of one transaction in order, where one of them is of a two-phase commit.
    async fn one_by_one(
        two_phase: TwoPhase,
        transaction_id: TransactionId,
        steps: Vec<(usize, Step)>,
    ) -> Vec<(usize, StepAnswer)> {
        let mut answers: Vec<(usize, StepAnswer)> = Vec::with_capacity(steps.len());
        for (index, step) in steps {
            let answer = match answers.last() {
                // Without an answer to one, the next would come out of order.
                Some((_, Err(no_answer))) => Err(no_answer.clone()),
                _ => two_phase.execute(transaction_id, step).await,
            };
            answers.push((index, answer));
        }
        answers
    }
}

/// Refuses a server that answers before its disk has what it committed.
async fn check_durability(connection: &mut dyn Connection, database: &dyn Database) -> Result<(), Failure> {
    let (statement, wanted, name) = match database.dialect() {
        Dialect::Postgres => ("SELECT current_setting('fsync')", "on", "fsync"),
        Dialect::MariaDb => (
            "SELECT CAST(@@global.innodb_flush_log_at_trx_commit AS CHAR)",
            "1",
            "innodb_flush_log_at_trx_commit",
        ),
    };
    let found = connection.rows(statement, &[]).await?;
    match found.first().map(|row| row.text(0)).transpose()? {
        Some(value) if value == wanted => Ok(()),
        value => Err(Failure::refused(format!(
            "{} has {name} = {}: it may forget what it committed, and must have {name} = {wanted}",
            database.place(),
            value.unwrap_or("nothing")
        ))),
    }
}

/// Binds a database to the first shard that opens it, so that exchanged URLs are noticed before they do harm.
async fn claim_database(
    connection: &mut dyn Connection,
    database: &dyn Database,
    number: ShardNumber,
) -> Result<(), Failure> {
    let claim = database.dialect().statement("UPDATE shard_position SET shard = ? WHERE shard IS NULL");
    connection.rows(&claim, &[Cell::Integer(number.0.into())]).await?;
    let found = connection.rows("SELECT shard FROM shard_position", &[]).await?;
    match found.first().map(|row| row.number::<u32>(0)).transpose()? {
        Some(shard) if shard == number.0 => Ok(()),
        Some(shard) => Err(Failure::refused(format!(
            "{} holds shard {shard}, and was opened as shard {}: the order of the URLs must not change",
            database.place(),
            number.0
        ))),
        None => Err(Failure::refused(format!("{} lacks the row of its position", database.place()))),
    }
}

#[async_trait::async_trait]
impl Shard for SqlShard {
    async fn execute(&self, steps: Vec<Step>) -> Vec<StepAnswer> {
        if !steps.iter().any(Step::is_two_phase) {
            return self.queue.execute(steps).await;
        }
        let two_phased: std::collections::HashSet<TransactionId> =
            steps.iter().filter(|step| step.is_two_phase()).filter_map(Step::transaction_id).collect();
        let mut answers: Vec<Option<StepAnswer>> = steps.iter().map(|_| None).collect();
        let mut plain = Vec::new();
        let mut alone: HashMap<TransactionId, Vec<(usize, Step)>> = HashMap::new();
        for (index, step) in steps.into_iter().enumerate() {
            match step.transaction_id().filter(|id| two_phased.contains(id)) {
                Some(transaction_id) => alone.entry(transaction_id).or_default().push((index, step)),
                None => plain.push((index, step)),
            }
        }
        // Tasks of their own: a branch that has begun is brought to an end even when whoever asked has gone.
        let alone: Vec<_> = alone
            .into_iter()
            .map(|(id, steps)| tokio::spawn(Self::one_by_one(self.two_phase.clone(), id, steps)))
            .collect();
        let (places, plain): (Vec<usize>, Vec<Step>) = plain.into_iter().unzip();
        if !plain.is_empty() {
            for (index, answer) in places.into_iter().zip(self.queue.execute(plain).await) {
                answers[index] = Some(answer);
            }
        }
        for task in alone {
            for (index, answer) in task.await.unwrap_or_default() {
                answers[index] = Some(answer);
            }
        }
        let missing = || Err(NoAnswer::Unknown("the task of the step ended".to_owned()));
        answers.into_iter().map(|answer| answer.unwrap_or_else(missing)).collect()
    }

    async fn account(&self, account: &AccountId) -> Result<Option<AccountRow>, NoAnswer> {
        self.ask(|mut query| {
            let account = account.clone();
            Box::pin(async move { query.account(&account).await })
        })
        .await
    }

    async fn history(&self, account: &AccountId, range: &HistoryRange) -> Result<Vec<Entry>, NoAnswer> {
        self.ask(|mut query| {
            let (account, range) = (account.clone(), range.clone());
            Box::pin(async move { query.history(&account, &range).await })
        })
        .await
    }

    async fn claim(&self, transaction_id: TransactionId) -> Result<Option<Claim>, NoAnswer> {
        self.ask(|mut query| Box::pin(async move { query.claim(transaction_id).await })).await
    }

    async fn transaction(
        &self,
        recorded_under: TransactionId,
        transaction_id: TransactionId,
    ) -> Result<Option<TransactionRow>, NoAnswer> {
        self.ask(|mut query| Box::pin(async move { query.transaction(recorded_under, transaction_id).await }))
            .await
    }

    async fn unfinished(&self, limit: usize) -> Result<Vec<PhaseStatus>, NoAnswer> {
        let now = clock::now();
        self.ask(|mut query| Box::pin(async move { query.unfinished(now, limit).await })).await
    }

    async fn in_flight(&self, limit: usize) -> Result<Vec<PhaseStatus>, NoAnswer> {
        self.ask(|mut query| Box::pin(async move { query.in_flight(limit).await })).await
    }

    async fn orphans(&self, before: Timestamp, limit: usize) -> Result<Vec<Orphan>, NoAnswer> {
        let here = self.number;
        self.ask(|mut query| Box::pin(async move { query.orphans(here, before, limit).await })).await
    }

    async fn in_doubt(&self) -> Result<Vec<TransactionId>, NoAnswer> {
        self.two_phase.in_doubt().await.map_err(|failure| NoAnswer::Busy(failure.to_string()))
    }

    async fn expire_holds(&self, limit: usize) -> Result<usize, NoAnswer> {
        self.queue.expire_holds(limit).await
    }

    async fn totals(&self) -> Result<ShardTotals, NoAnswer> {
        self.ask(|mut query| Box::pin(async move { query.totals().await })).await
    }
}
