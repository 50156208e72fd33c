//! Many steps in one local transaction.
//!
//! One worker writes a shard's batches, one after the other: what queues up while one runs is the next one, so that under load many
//! transactions share a round trip and a sync, and a lone one waits for nobody. Across instances the row of the shard's position
//! orders the batches: whoever locks it writes, sequences have no gaps, and two batches never wait for each other's rows.
//!
//! What a prepared two-phase branch has locked is never waited for: the decision that frees it may be in this very queue. Steps that need such a
//! row are answered [`NoAnswer::Busy`], and the others go on.

use std::collections::HashMap;
use std::sync::Arc;

use coordinator::machine::{Onward, Travelling};
use coordinator::port::{Answer, NoAnswer, ShardNumber, Step};
use ledger::TransactionId;
use tokio::sync::{mpsc, oneshot};

use super::clock;
use super::connection::{Connection, Database};
use super::failure::{Conclusion, Failure};
use super::outbox::{Message, Sent};
use super::working_set::{self, WorkingSet};

/// How many steps one batch holds.
const STEPS_PER_BATCH_MAX: usize = 1_024;
/// How many calls may wait for the worker.
const QUEUE_CALLS_MAX: usize = 4_096;

pub(super) type StepAnswer = Result<Answer, NoAnswer>;

/// A step, and the transaction that travels on with its answer.
struct Unit {
    step: Step,
    travelling: Option<Box<Travelling>>,
}

/// What the worker is asked for.
enum Job {
    Units { units: Vec<Unit>, answers: oneshot::Sender<Vec<StepAnswer>> },
    ExpireHolds { limit: usize, answer: oneshot::Sender<Result<usize, NoAnswer>> },
}

/// The way to a shard's worker, which ends when nobody holds one any more.
#[derive(Clone)]
pub(super) struct Queue {
    jobs: mpsc::Sender<Job>,
    sent: Sent,
}

impl Queue {
    /// Starts a worker.
    pub(super) fn start(database: Arc<dyn Database>, shard: ShardNumber) -> Queue {
        let (jobs, receiver) = mpsc::channel(QUEUE_CALLS_MAX);
        let sent = Sent::default();
        let worker = Worker { database, shard, connection: None, sent: sent.clone() };
        tokio::spawn(worker.run(receiver));
        Queue { jobs, sent }
    }

    /// One answer per step, in order.
    pub(super) async fn execute(&self, steps: Vec<Step>) -> Vec<StepAnswer> {
        self.units(steps.into_iter().map(|step| Unit { step, travelling: None }).collect()).await
    }

    /// Executes the next step of a transaction that has arrived, and stores with it what travels on.
    pub(super) async fn travel(&self, travelling: Travelling) -> StepAnswer {
        let (_, step) = travelling.next();
        let unit = Unit { step, travelling: Some(Box::new(travelling)) };
        let answers = self.units(vec![unit]).await;
        answers.into_iter().next().unwrap_or_else(|| Err(NoAnswer::Unknown("no answer".to_owned())))
    }

    /// The broker has this message.
    pub(super) fn sent(&self, message_id: u128) {
        self.sent.note(message_id);
    }

    async fn units(&self, units: Vec<Unit>) -> Vec<StepAnswer> {
        let count = units.len();
        let (answers, receiver) = oneshot::channel();
        if let Err(refused) = self.jobs.try_send(Job::Units { units, answers }) {
            return vec![Err(not_queued(&refused)); count];
        }
        receiver
            .await
            .unwrap_or_else(|_| vec![Err(NoAnswer::Unknown("the shard's worker ended".to_owned())); count])
    }

    /// How many holds were released.
    pub(super) async fn expire_holds(&self, limit: usize) -> Result<usize, NoAnswer> {
        let (answer, receiver) = oneshot::channel();
        if let Err(refused) = self.jobs.try_send(Job::ExpireHolds { limit, answer }) {
            return Err(not_queued(&refused));
        }
        receiver.await.unwrap_or_else(|_| Err(NoAnswer::Unknown("the shard's worker ended".to_owned())))
    }
}

struct Worker {
    database: Arc<dyn Database>,
    shard: ShardNumber,
    /// `None` before the first batch, and after a connection was lost.
    connection: Option<Box<dyn Connection>>,
    sent: Sent,
}

/// A call's steps, and where its answers go.
struct Call {
    units: Vec<Unit>,
    answers: oneshot::Sender<Vec<StepAnswer>>,
}

impl Worker {
    async fn run(mut self, mut jobs: mpsc::Receiver<Job>) {
        let mut waiting = None;
        loop {
            let job = match waiting.take() {
                Some(job) => job,
                None => match jobs.recv().await {
                    Some(job) => job,
                    None => break,
                },
            };
            match job {
                Job::ExpireHolds { limit, answer } => {
                    let released = self.expire_holds(limit).await;
                    // Whoever asked may have gone.
                    let _ = answer.send(released);
                }
                Job::Units { units, answers } => {
                    let mut calls = vec![Call { units, answers }];
                    let mut count = calls[0].units.len();
                    while count < STEPS_PER_BATCH_MAX {
                        match jobs.try_recv() {
                            Ok(Job::Units { units, answers }) => {
                                count += units.len();
                                calls.push(Call { units, answers });
                            }
                            Ok(other) => {
                                waiting = Some(other);
                                break;
                            }
                            Err(_) => break,
                        }
                    }
                    self.answer(calls).await;
                }
            }
        }
        if let Some(connection) = self.connection.take() {
            connection.close().await;
        }
    }

    async fn answer(&mut self, calls: Vec<Call>) {
        let mut units = Vec::new();
        let mut waiting = Vec::with_capacity(calls.len());
        for call in calls {
            waiting.push((call.units.len(), call.answers));
            units.extend(call.units);
        }
        let mut all = self.execute(&units).await.into_iter();
        for (count, answers) in waiting {
            // Whoever asked may have gone.
            let _ = answers.send(all.by_ref().take(count).collect());
        }
    }

    /// Executes steps in one transaction. When the database refuses them together for a reason that stays, each is tried alone: one
    /// that cannot be stored must not hold up the others.
    async fn execute(&mut self, units: &[Unit]) -> Vec<StepAnswer> {
        let mut all = Vec::with_capacity(units.len());
        for part in units.chunks(STEPS_PER_BATCH_MAX) {
            match self.transaction(part).await {
                Err((failure, _)) if failure.conclusion == Conclusion::Refused && part.len() > 1 => {
                    for unit in part {
                        let one = std::slice::from_ref(unit);
                        match self.transaction(one).await {
                            Ok(answers) => all.extend(answers),
                            Err((failure, no_answer)) => all.push(Err(self.told(&failure, no_answer))),
                        }
                    }
                }
                Ok(answers) => all.extend(answers),
                Err((failure, no_answer)) => {
                    let no_answer = self.told(&failure, no_answer);
                    all.extend(part.iter().map(|_| Err(no_answer.clone())));
                }
            }
        }
        all
    }

    fn told(&self, failure: &Failure, no_answer: NoAnswer) -> NoAnswer {
        match failure.conclusion {
            Conclusion::Busy => tracing::debug!(shard = self.shard.0, %failure, "a batch is repeated"),
            Conclusion::Lost | Conclusion::Refused => {
                tracing::warn!(shard = self.shard.0, place = self.database.place(), %failure, "a batch failed");
            }
        }
        no_answer
    }

    async fn transaction(&mut self, units: &[Unit]) -> Result<Vec<StepAnswer>, (Failure, NoAnswer)> {
        let mut connection = self.connect().await.map_err(before_commit)?;
        let answers = match self.units(&mut *connection, units).await {
            Ok(answers) => answers,
            Err(failure) => {
                self.undo(connection, &failure).await;
                return Err(before_commit(failure));
            }
        };
        match connection.run("COMMIT").await {
            Ok(()) => {
                self.connection = Some(connection);
                Ok(answers)
            }
            Err(failure) => {
                let no_answer = failure.at_commit();
                self.undo(connection, &failure).await;
                Err((failure, no_answer))
            }
        }
    }

    async fn units(
        &self,
        connection: &mut dyn Connection,
        units: &[Unit],
    ) -> Result<Vec<StepAnswer>, Failure> {
        connection.run("BEGIN").await?;
        let mut set = WorkingSet::of_batch(connection).await?;
        set.prepare(connection, units.iter().map(|unit| &unit.step)).await?;
        let now = clock::now();
        let mut blocked: HashMap<TransactionId, NoAnswer> = HashMap::new();
        let mut answers = Vec::with_capacity(units.len());
        for Unit { step, travelling } in units {
            let transaction_id = step.transaction_id();
            // Later steps of the same transaction keep their order: they wait as well.
            let answer = match transaction_id.and_then(|id| blocked.get(&id)) {
                Some(no_answer) => Err(no_answer.clone()),
                None => set.execute(connection, step, now).await?,
            };
            if let (Some(id), Err(no_answer)) = (transaction_id, &answer) {
                blocked.insert(id, no_answer.clone());
            }
            if let (Some(travelling), Ok(answer)) = (travelling, &answer)
                && let Onward::To(onward) = travelling.answered(answer.clone())
            {
                set.send(Message::of(&onward));
            }
            answers.push(answer);
        }
        set.store(connection).await?;
        self.sent.forget(connection, self.database.dialect()).await?;
        Ok(answers)
    }

    async fn expire_holds(&mut self, limit: usize) -> Result<usize, NoAnswer> {
        let mut connection = self.connect().await.map_err(|failure| failure.before_commit())?;
        let released = match self.expiry(&mut *connection, limit).await {
            Ok(released) => released,
            Err(failure) => {
                self.undo(connection, &failure).await;
                return Err(failure.before_commit());
            }
        };
        match connection.run("COMMIT").await {
            Ok(()) => {
                self.connection = Some(connection);
                Ok(released)
            }
            Err(failure) => {
                self.undo(connection, &failure).await;
                Err(failure.at_commit())
            }
        }
    }

    async fn expiry(&self, connection: &mut dyn Connection, limit: usize) -> Result<usize, Failure> {
        connection.run("BEGIN").await?;
        let mut set = WorkingSet::of_batch(connection).await?;
        let now = clock::now();
        let lapsed = working_set::lapsed_holds(connection, self.database.dialect(), now, limit).await?;
        let released = set.expire(connection, &lapsed, now).await?;
        set.store(connection).await?;
        Ok(released)
    }

    async fn connect(&mut self) -> Result<Box<dyn Connection>, Failure> {
        match self.connection.take() {
            Some(connection) => Ok(connection),
            None => self.database.connect().await,
        }
    }

    /// Undoes a transaction and keeps the connection if it is still good.
    async fn undo(&mut self, mut connection: Box<dyn Connection>, failure: &Failure) {
        if failure.conclusion != Conclusion::Lost && connection.run("ROLLBACK").await.is_ok() {
            self.connection = Some(connection);
        }
    }
}

fn not_queued(refused: &mpsc::error::TrySendError<Job>) -> NoAnswer {
    NoAnswer::Busy(match refused {
        mpsc::error::TrySendError::Full(_) => "the shard's queue is full".to_owned(),
        mpsc::error::TrySendError::Closed(_) => "the shard's worker has ended".to_owned(),
    })
}

fn before_commit(failure: Failure) -> (Failure, NoAnswer) {
    let no_answer = failure.before_commit();
    (failure, no_answer)
}
