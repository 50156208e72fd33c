//! Many steps in one act of the node: what queues up while one batch runs makes the next.

use std::collections::HashMap;
use std::time::Duration;

use coordinator::port::{Answer, NoAnswer, Step};
use ledger::{Timestamp, TransactionId};
use tokio::sync::{mpsc, oneshot};

use super::node::Node;
use super::store::{Keys, Loaded};
use crate::clock;
use crate::failure::Failure;

/// How many steps one batch holds.
const STEPS_PER_BATCH_MAX: usize = 512;
/// How many calls may wait for the worker.
const QUEUE_CALLS_MAX: usize = 4_096;
/// How often a batch is tried again because another instance was faster.
const ROUNDS_MAX: usize = 32;
/// The longest pause before that.
const PAUSE_MAX: Duration = Duration::from_millis(4);

type StepAnswer = Result<Answer, NoAnswer>;

enum Job {
    Steps { steps: Vec<Step>, answers: oneshot::Sender<Vec<StepAnswer>> },
    ExpireHolds { hold_ids: Vec<TransactionId>, answer: oneshot::Sender<Result<usize, NoAnswer>> },
}

/// The way to a partition's worker, which ends when nobody holds one any more.
#[derive(Clone)]
pub(super) struct Worker(mpsc::Sender<Job>);

impl Worker {
    pub(super) fn start(node: Node, keys: Keys) -> Worker {
        let (sender, jobs) = mpsc::channel(QUEUE_CALLS_MAX);
        tokio::spawn(run(node, keys, jobs));
        Worker(sender)
    }

    /// One answer per step, in order.
    pub(super) async fn execute(&self, steps: Vec<Step>) -> Vec<StepAnswer> {
        let count = steps.len();
        let (answers, receiver) = oneshot::channel();
        if self.0.try_send(Job::Steps { steps, answers }).is_err() {
            return vec![Err(NoAnswer::Busy("the partition's queue is full".to_owned())); count];
        }
        receiver.await.unwrap_or_else(|_| vec![Err(ended()); count])
    }

    /// How many of these holds were released.
    pub(super) async fn expire_holds(&self, hold_ids: Vec<TransactionId>) -> Result<usize, NoAnswer> {
        let (answer, receiver) = oneshot::channel();
        if self.0.try_send(Job::ExpireHolds { hold_ids, answer }).is_err() {
            return Err(NoAnswer::Busy("the partition's queue is full".to_owned()));
        }
        receiver.await.unwrap_or_else(|_| Err(ended()))
    }
}

fn ended() -> NoAnswer {
    NoAnswer::Unknown("the partition's worker ended".to_owned())
}

async fn run(node: Node, keys: Keys, mut jobs: mpsc::Receiver<Job>) {
    let mut waiting = Vec::new();
    while jobs.recv_many(&mut waiting, STEPS_PER_BATCH_MAX).await > 0 {
        let (mut steps, mut calls) = (Vec::new(), Vec::new());
        for job in waiting.drain(..) {
            match job {
                Job::Steps { steps: more, answers } => {
                    calls.push((more.len(), answers));
                    steps.extend(more);
                }
                Job::ExpireHolds { hold_ids, answer } => {
                    // Whoever asked may have gone.
                    let _ = answer.send(expire(&node, &keys, &hold_ids).await);
                }
            }
        }
        let mut all = Vec::with_capacity(steps.len());
        for part in steps.chunks(STEPS_PER_BATCH_MAX) {
            all.extend(batch(&node, &keys, part).await);
        }
        let mut all = all.into_iter();
        for (count, answers) in calls {
            // Whoever asked may have gone.
            let _ = answers.send(all.by_ref().take(count).collect());
        }
    }
}

async fn batch(node: &Node, keys: &Keys, steps: &[Step]) -> Vec<StepAnswer> {
    for _ in 0..ROUNDS_MAX {
        match attempt(node, keys, steps).await {
            Ok(Some(answers)) => return answers,
            Ok(None) => pause().await,
            Err(no_answer) => return vec![Err(no_answer); steps.len()],
        }
    }
    vec![Err(NoAnswer::Busy("other instances were faster each time".to_owned())); steps.len()]
}

async fn pause() {
    tokio::time::sleep(PAUSE_MAX.mul_f64(fastrand::f64())).await;
}

/// Executes steps once; `None` when another instance stored something meanwhile.
async fn attempt(node: &Node, keys: &Keys, steps: &[Step]) -> Result<Option<Vec<StepAnswer>>, NoAnswer> {
    let before = |failure: Failure| failure.before_commit();
    let mut loaded = Loaded::begin(node, keys).await.map_err(before)?;
    let all_missing =
        |book: &coordinator::book::Book| steps.iter().flat_map(|step| book.missing(step)).collect();
    loaded.load(node, keys, all_missing).await.map_err(before)?;
    let now = clock::now();
    let mut blocked: HashMap<TransactionId, NoAnswer> = HashMap::new();
    let mut answers = Vec::with_capacity(steps.len());
    for step in steps {
        let transaction_id = step.transaction_id();
        // Later steps of the same transaction keep their order: they wait as well.
        let answer = match transaction_id.and_then(|id| blocked.get(&id)) {
            Some(no_answer) => Err(no_answer.clone()),
            None => execute(node, keys, &mut loaded, step, now).await.map_err(before)?,
        };
        if let (Some(id), Err(no_answer)) = (transaction_id, &answer) {
            blocked.insert(id, no_answer.clone());
        }
        answers.push(answer);
    }
    let stored = loaded.store(node, keys).await.map_err(|failure| failure.at_commit())?;
    Ok(stored.then_some(answers))
}

async fn execute(
    node: &Node,
    keys: &Keys,
    loaded: &mut Loaded,
    step: &Step,
    now: Timestamp,
) -> Result<StepAnswer, Failure> {
    if step.is_two_phase() {
        return Err(Failure::refused("Redis cannot prepare a transaction: choose redis-tcc"));
    }
    if !loaded.book.missing(step).is_empty() {
        loaded.load(node, keys, |book| book.missing(step)).await?;
    }
    Ok(loaded.book.execute(step, now))
}

async fn expire(node: &Node, keys: &Keys, hold_ids: &[TransactionId]) -> Result<usize, NoAnswer> {
    for _ in 0..ROUNDS_MAX {
        let before = |failure: Failure| failure.before_commit();
        let mut loaded = Loaded::begin(node, keys).await.map_err(before)?;
        let missing = |book: &coordinator::book::Book| {
            hold_ids.iter().flat_map(|hold_id| book.missing_to_expire(*hold_id)).collect()
        };
        loaded.load(node, keys, missing).await.map_err(before)?;
        let now = clock::now();
        let released = hold_ids.iter().filter(|hold_id| loaded.book.expire_hold(**hold_id, now)).count();
        if loaded.store(node, keys).await.map_err(|failure| failure.at_commit())? {
            return Ok(released);
        }
        pause().await;
    }
    Err(NoAnswer::Busy("other instances were faster each time".to_owned()))
}
