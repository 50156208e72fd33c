//! Two-phase commit: one XA branch for each transaction, outside of the batches.
//!
//! ```text
//! prepare   BEGIN; insert the branch's row; lock accounts, ascending; check and move the money; PREPARE
//! commit    COMMIT PREPARED; then, in a batch: history and sequence
//! rollback  ROLLBACK PREPARED; a tombstone in the branch's row, so that a late prepare is refused; then the record, in a batch
//! ```
//!
//! The branch's row is inserted first and never overwritten here: of a prepare and a rollback that meet, one waits for the other.
//! The shard's position is not touched: a prepared branch must never hold up the batches.

use std::sync::Arc;
use std::time::Duration;

use coordinator::port::{Answer, BranchState, Done, NoAnswer, Operation, SecondPhase, ShardNumber, Step};
use ledger::{Timestamp, TransactionId};
use tokio::sync::SemaphorePermit;

use super::batch::{Queue, StepAnswer};
use super::cell::Cell;
use super::clock;
use super::connection::{Begun, BranchName, Connection, Dialect, Ended};
use super::failure::{Conclusion, Failure};
use super::held::Held;
use super::pool::{Loan, Pool};
use super::working_set::{self, WorkingSet};

/// How long a server that is letting go of a branch is left alone: see [`held`](super::held).
const DETACH_GRACE: Duration = Duration::from_millis(250);
/// How long a branch may take until its connection has let go of it.
const DETACH_PATIENCE: Duration = Duration::from_secs(2);
/// How often that is looked at.
const DETACH_POLL: Duration = Duration::from_millis(20);

/// What a shard's two-phase branches need.
#[derive(Clone)]
pub(super) struct TwoPhase {
    pub(super) shard: ShardNumber,
    pub(super) pool: Arc<Pool>,
    pub(super) held: Arc<Held>,
    pub(super) queue: Queue,
}

impl TwoPhase {
    pub(super) async fn execute(&self, transaction_id: TransactionId, step: Step) -> StepAnswer {
        let Step::Branch { operation: Some(operation), .. } = &step else {
            return self.in_batch(step).await;
        };
        match operation {
            Operation::Prepare(_) => self.prepare(transaction_id, &step).await,
            Operation::Commit => {
                self.commit(transaction_id).await.map_err(|failure| told(&failure))?;
                self.in_batch(step).await
            }
            Operation::Rollback => {
                self.roll_back(transaction_id).await.map_err(|failure| told(&failure))?;
                self.in_batch(step).await
            }
            _ => self.in_batch(step).await,
        }
    }

    async fn in_batch(&self, step: Step) -> StepAnswer {
        let answers = self.queue.execute(vec![step]).await;
        answers.into_iter().next().unwrap_or_else(|| Err(NoAnswer::Unknown("no answer".to_owned())))
    }

    /// The transactions that are prepared here.
    pub(super) async fn in_doubt(&self) -> Result<Vec<TransactionId>, Failure> {
        let mut loan = self.pool.take().await?;
        let names = self.used(loan.connection.prepared().await)?;
        self.pool.give_back(loan);
        Ok(names.iter().filter_map(|name| BranchName::parse(name, self.shard.0)).collect())
    }

    async fn prepare(&self, transaction_id: TransactionId, step: &Step) -> StepAnswer {
        let branch = BranchName::new(transaction_id, self.shard.0);
        let Some(_turn) = self.turn(&branch).await.map_err(|failure| told(&failure))? else {
            return Ok(Answer::Done(prepared()));
        };
        let mut loan = self.pool.take().await.map_err(|failure| told(&failure))?;
        if let Err(failure) = self.make_fates(&mut *loan.connection, step).await {
            return Err(told(&failure));
        }
        match self.used(loan.connection.begin_branch(&branch).await) {
            Ok(Begun::Fresh) => {}
            Ok(Begun::PreparedBefore) => {
                self.pool.give_back(loan);
                return Ok(Answer::Done(prepared()));
            }
            // Nothing is open: what has this name may be another connection's.
            Err(failure) => return Err(told(&failure)),
        }
        let answer = match self.fill(&mut *loan.connection, transaction_id, step).await {
            Ok(answer) => answer,
            Err(failure) if failure.is_duplicate() => {
                self.abandon(loan, &branch, &failure).await;
                return self.known(transaction_id, step).await;
            }
            Err(failure) => {
                self.abandon(loan, &branch, &failure).await;
                return Err(told(&failure));
            }
        };
        let is_done = matches!(answer, Ok(Answer::Done(_)));
        let ended = match &answer {
            Ok(Answer::Done(_)) => loan.connection.prepare(&branch).await,
            // Nothing moved; the reason is kept.
            Ok(Answer::Refused(_)) => loan.connection.commit_unprepared(&branch).await,
            _ => loan.connection.abandon_branch(&branch).await,
        };
        // Word for word what a repeat is answered, which cannot see into what is prepared.
        let answer = if is_done { Ok(Answer::Done(prepared())) } else { answer };
        match ended {
            Ok(()) if is_done && self.dialect().keeps_what_it_prepared() => {
                if let Err(connection) = self.held.keep(transaction_id, loan.connection) {
                    connection.close().await;
                }
                answer
            }
            Ok(()) => {
                self.pool.give_back(loan);
                answer
            }
            Err(failure) => {
                self.abandon(loan, &branch, &failure).await;
                let _ = told(&failure);
                Err(failure.at_commit())
            }
        }
    }

    /// The turn to lock rows; `None` for a branch that is prepared already: what others wait for must not wait behind them.
    async fn turn(&self, branch: &BranchName) -> Result<Option<SemaphorePermit<'_>>, Failure> {
        if let Some(turn) = self.pool.lockers_turn_now() {
            return Ok(Some(turn));
        }
        let mut loan = self.pool.take().await?;
        let names = self.used(loan.connection.prepared().await)?;
        self.pool.give_back(loan);
        if names.iter().any(|name| name == branch.as_str()) {
            return Ok(None);
        }
        self.pool.lockers_turn().await.map(Some)
    }

    async fn make_fates(&self, connection: &mut dyn Connection, step: &Step) -> Result<(), Failure> {
        let insert = match self.dialect() {
            Dialect::Postgres => "INSERT INTO fates (transaction_id) VALUES ($1) ON CONFLICT DO NOTHING",
            Dialect::MariaDb => "INSERT IGNORE INTO fates (transaction_id) VALUES (?)",
        };
        let select = self.dialect().statement("SELECT 1 FROM fates WHERE transaction_id = ?");
        for transaction_id in working_set::fates_to_make(step) {
            let id = [Cell::Id(transaction_id)];
            // An insert would wait for whoever has locked the row that is there.
            if self.used(connection.rows(&select, &id).await)?.is_empty() {
                self.used(connection.rows(insert, &id).await)?;
            }
        }
        Ok(())
    }

    /// Does the work of a branch, up to the point where it is prepared or committed.
    async fn fill(
        &self,
        connection: &mut dyn Connection,
        transaction_id: TransactionId,
        step: &Step,
    ) -> Result<StepAnswer, Failure> {
        let owner = match step {
            Step::Branch { owner, .. } => *owner,
            _ => self.shard,
        };
        let now = clock::now();
        let row = row(transaction_id, owner, now);
        connection.rows(&self.dialect().statement(INSERT_BRANCH), &row).await?;
        let mut set = WorkingSet::of_new_branch(transaction_id);
        let answer = set.execute(connection, step, now).await?;
        if matches!(answer, Ok(Answer::Done(_) | Answer::Refused(_))) {
            set.store(connection).await?;
        }
        Ok(answer)
    }

    /// What the row of a branch says to a prepare that comes again, or too late.
    async fn known(&self, transaction_id: TransactionId, step: &Step) -> StepAnswer {
        let loaded = async {
            let mut loan = self.pool.take().await?;
            let state = self.used(self.state(&mut *loan.connection, transaction_id).await)?;
            let loaded = WorkingSet::of_known_branch(&mut *loan.connection, transaction_id).await;
            let set = self.used(loaded)?;
            self.pool.give_back(loan);
            match state {
                Some(_) => Ok(set),
                None => Err(Failure::busy("another connection is at work on the branch")),
            }
        };
        let mut set = loaded.await.map_err(|failure: Failure| told(&failure))?;
        set.execute_known(step, clock::now())
    }

    async fn commit(&self, transaction_id: TransactionId) -> Result<(), Failure> {
        let branch = BranchName::new(transaction_id, self.shard.0);
        if self.end_held(transaction_id, &branch, SecondPhase::Confirm).await? {
            return Ok(());
        }
        let mut loan = self.pool.take().await?;
        self.let_settle(&mut *loan.connection, &branch).await?;
        let deadline = tokio::time::Instant::now() + DETACH_PATIENCE;
        loop {
            let ended = self.used(loan.connection.end_prepared(&branch, SecondPhase::Confirm).await)?;
            if ended == Ended::Now && !self.dialect().keeps_what_it_prepared() {
                break;
            }
            // Committed just now, or before, unless its connection still has it.
            if self.used(self.state(&mut *loan.connection, transaction_id).await)?.is_some() {
                break;
            }
            if ended == Ended::Now || tokio::time::Instant::now() >= deadline {
                self.pool.give_back(loan);
                return Err(Failure::busy(format!(
                    "{} is to be committed, and is not prepared here; if this lasts, its database has lost the name of what it prepared, \
                     and finds it when it is started again",
                    branch.as_str()
                )));
            }
            tokio::time::sleep(DETACH_POLL).await;
        }
        self.pool.give_back(loan);
        Ok(())
    }

    async fn roll_back(&self, transaction_id: TransactionId) -> Result<(), Failure> {
        let branch = BranchName::new(transaction_id, self.shard.0);
        let is_rolled_back = self.end_held(transaction_id, &branch, SecondPhase::Cancel).await?;
        let mut loan = self.pool.take().await?;
        if !is_rolled_back {
            self.let_settle(&mut *loan.connection, &branch).await?;
            self.used(loan.connection.end_prepared(&branch, SecondPhase::Cancel).await)?;
        }
        // Waits for a prepare that is under way, which either makes it visible or fails here as busy.
        let row = row(transaction_id, self.shard, clock::now());
        let insert = self.dialect().statement(INSERT_BRANCH);
        match loan.connection.rows(&insert, &row).await {
            Ok(_) => {}
            Err(failure) if failure.is_duplicate() => {}
            Err(failure) => return self.used(Err(failure)),
        }
        self.pool.give_back(loan);
        Ok(())
    }

    /// Ends a branch on the connection that prepared it; false when that connection is not here, or has it no more.
    async fn end_held(
        &self,
        transaction_id: TransactionId,
        branch: &BranchName,
        second_phase: SecondPhase,
    ) -> Result<bool, Failure> {
        let Some(mut connection) = self.held.take(transaction_id) else { return Ok(false) };
        let ended = self.used(connection.end_prepared(branch, second_phase).await)?;
        self.pool.adopt(connection);
        Ok(ended == Ended::Now)
    }

    /// Waits until a server that is letting go of a branch has certainly done so.
    async fn let_settle(&self, connection: &mut dyn Connection, branch: &BranchName) -> Result<(), Failure> {
        if self.dialect().keeps_what_it_prepared()
            && self.used(connection.prepared().await)?.iter().any(|name| name == branch.as_str())
        {
            tokio::time::sleep(DETACH_GRACE).await;
        }
        Ok(())
    }

    async fn state(
        &self,
        connection: &mut dyn Connection,
        transaction_id: TransactionId,
    ) -> Result<Option<i64>, Failure> {
        let statement = self.dialect().statement("SELECT state FROM branches WHERE transaction_id = ?");
        let found = connection.rows(&statement, &[Cell::Id(transaction_id)]).await?;
        found.first().map(|row| row.integer(0)).transpose()
    }

    /// Gives up a branch that is not prepared, and keeps the connection if it is still good.
    async fn abandon(&self, mut loan: Loan, branch: &BranchName, failure: &Failure) {
        if failure.conclusion == Conclusion::Lost {
            self.pool.forget_idle();
        } else if loan.connection.abandon_branch(branch).await.is_ok() {
            self.pool.give_back(loan);
        } else {
            loan.connection.close().await;
        }
    }

    /// After a lost connection, the idle ones are not trusted either.
    fn used<Value>(&self, result: Result<Value, Failure>) -> Result<Value, Failure> {
        if matches!(&result, Err(failure) if failure.conclusion == Conclusion::Lost) {
            self.pool.forget_idle();
        }
        result
    }

    fn dialect(&self) -> Dialect {
        self.pool.database().dialect()
    }
}

/// Never overwrites: whoever comes second learns that the row is there.
const INSERT_BRANCH: &str = "INSERT INTO branches (transaction_id, state, owner, started_at, sequence, moment, balances) \
     VALUES (?, ?, ?, ?, 0, 0, '[]')";

/// The row of a branch that is rolled back. While one is being prepared, it stands for the row that is to come.
fn row(transaction_id: TransactionId, owner: ShardNumber, now: Timestamp) -> [Cell; 4] {
    [
        Cell::Id(transaction_id),
        Cell::Integer(BranchState::Returned as i64),
        Cell::Integer(owner.0.into()),
        Cell::Integer(now.as_micros()),
    ]
}

/// The balances are told by the commit.
fn prepared() -> Done {
    Done { state: Some(BranchState::Committed), ..Done::default() }
}

/// Every step here may be repeated, and is: an answer that is missing is never the end.
fn told(failure: &Failure) -> NoAnswer {
    match failure.conclusion {
        Conclusion::Busy => failure.before_commit(),
        Conclusion::Lost | Conclusion::Refused => {
            tracing::warn!(%failure, "a two-phase branch is repeated");
            NoAnswer::Unknown(failure.to_string())
        }
    }
}
