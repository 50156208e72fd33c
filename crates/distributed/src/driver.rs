//! Carries transactions out: plans a command, claims its ids, and drives the coordinator's machine over the shards to its end.
//!
//! ```text
//! command -> plan -> claim (home shard of the id) -> machine: steps to shards, answers back -> outcome (owner's shard)
//! ```
//!
//! An instance keeps nothing that matters: everything is recorded in the shards, and any other instance finishes what this one leaves.
//! Each transaction is driven by a task of its own, which outlives the request: a client that goes away leaves nothing half done.

mod choreographed;
mod drive;
mod permit;
mod recovery;
mod uncoordinated;
mod wallet;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use coordinator::machine::{Machine, Travelling};
use coordinator::plan::{Placement, Planned, plan};
use coordinator::port::{
    Answer, Claim, Lease, NoAnswer, Outcome, PhaseStatus, Plan, Protocol, ShardNumber, Step,
};
use ledger::{AccountId, Command, Refusal, RefusalCode, Timestamp, TransactionId};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tracing::{Instrument, Span};

use super::choreography::Choreography;
use super::link::{Link, pause};
use super::metrics::add_one;
use super::spans::{self, Way};
use super::{Config, Metrics, Shard, TransactionRow};
use crate::wallet::NotAnswered;
use permit::Permit;

/// How often a command about an earlier transaction that is under way looks again, before it says that it cannot be told.
const WAITS_MAX: u32 = 64;
/// The longest pause between two of these looks.
const WAIT_MAX: Duration = Duration::from_millis(250);

/// What whoever waits for a transaction is told at its end.
type Ended = Option<Result<Finished, NotAnswered>>;

/// A transaction at its end.
#[derive(Debug, Clone)]
pub(super) struct Finished {
    pub(super) plan: Arc<Plan>,
    pub(super) outcome: Outcome,
    /// True when it had been begun before this command came.
    pub(super) replayed: bool,
}

/// What keeps money whole that is on several shards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coordination {
    /// A protocol.
    By(Protocol),
    /// Nothing: one update after the other, as in the chapter's first design.
    None,
}

/// What became of an operator's wish to undo a transaction.
pub(super) enum Cancelled {
    Begun,
    TooLate,
}

/// What became of a command.
pub(super) enum Executed {
    /// Its record tells for ever.
    Recorded(Finished),
    /// Nothing is remembered.
    Rejected(Refusal),
    /// An account was opened, or was there just so.
    Opened { account_id: AccountId, existed: bool },
}

/// A wallet over shards.
#[derive(Clone)]
pub struct Driver {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) links: Vec<Link>,
    coordination: Coordination,
    /// For Sagas that no instance drives.
    choreography: Option<Arc<Choreography>>,
    instance: u64,
    lease: Duration,
    driven: Mutex<HashMap<TransactionId, Driven>>,
    under_way: Arc<Semaphore>,
    transactions_max: usize,
    stopping: AtomicBool,
    pub(super) metrics: Arc<Metrics>,
}

/// A transaction that this instance drives.
#[derive(Clone)]
struct Driven {
    ended: watch::Receiver<Ended>,
    /// An operator's wishes.
    wishes: mpsc::UnboundedSender<drive::Wish>,
}

impl Driver {
    /// A wallet over these shards, which are numbered as they come. Must be called within a runtime.
    pub fn start(shards: Vec<Arc<dyn Shard>>, coordination: Coordination, config: &Config) -> Driver {
        Driver::start_with(shards, coordination, None, config)
    }

    pub(super) fn start_with(
        shards: Vec<Arc<dyn Shard>>,
        coordination: Coordination,
        choreography: Option<Arc<Choreography>>,
        config: &Config,
    ) -> Driver {
        assert!(!shards.is_empty(), "money needs somewhere to be");
        let metrics = match &choreography {
            Some(choreography) => choreography.metrics(),
            None => Arc::new(Metrics::new(shards.len())),
        };
        let numbered = (0..).map(ShardNumber).zip(shards);
        let inner = Arc::new(Inner {
            links: numbered.map(|(number, shard)| Link::new(number, shard, Arc::clone(&metrics))).collect(),
            coordination,
            choreography,
            instance: config.instance,
            lease: config.lease,
            driven: Mutex::default(),
            under_way: Arc::new(Semaphore::new(config.transactions_max)),
            transactions_max: config.transactions_max,
            stopping: AtomicBool::new(false),
            metrics,
        });
        if inner.coordination != Coordination::None {
            recovery::start(&inner);
        }
        Driver { inner }
    }

    /// Executes a command, or repeats what became of it the first time.
    pub(super) async fn execute(&self, command: Command) -> Result<Executed, NotAnswered> {
        let executed = self.execute_once(command).await;
        if let Ok(Executed::Rejected(refusal)) = &executed {
            self.inner.metrics.refused(refusal);
        }
        executed
    }

    async fn execute_once(&self, command: Command) -> Result<Executed, NotAnswered> {
        let inner = &self.inner;
        if inner.stopping.load(Ordering::Acquire) {
            return Err(stopping());
        }
        let permit = inner.admit()?;
        let Coordination::By(protocol) = inner.coordination else {
            return self.uncoordinated(command, permit).await;
        };
        for attempt in 1..=WAITS_MAX {
            let referenced = match command.referenced_id() {
                Some(earlier) => self.transaction(earlier).await?.map(|(_, row)| row.status),
                None => None,
            };
            match plan(&command, protocol, inner.as_ref(), referenced.as_ref()) {
                Planned::Run(plan) => return self.run(plan, None, permit).await,
                Planned::Refused(plan, refusal) => return self.run(plan, Some(refusal), permit).await,
                Planned::Rejected(refusal) => return Ok(Executed::Rejected(refusal)),
                Planned::Open(shard, step) => return self.open_account(shard, step).await,
                Planned::Wait(_) => tokio::time::sleep(pause(attempt, WAIT_MAX)).await,
            }
        }
        Err(NotAnswered::Unavailable("the earlier transaction is still under way".to_owned()))
    }

    async fn open_account(&self, shard: ShardNumber, step: Step) -> Result<Executed, NotAnswered> {
        let Step::OpenAccount { account_id, .. } = &step else {
            unreachable!("a plan to open an account is a step that opens one")
        };
        let account_id = account_id.clone();
        match self.inner.link(shard).insist(step, |_, _| {}).await {
            Answer::Done(_) => Ok(Executed::Opened { account_id, existed: false }),
            Answer::Unchanged => Ok(Executed::Opened { account_id, existed: true }),
            Answer::Refused(refusal) => Ok(Executed::Rejected(refusal)),
            other => Err(impossible(&other)),
        }
    }

    /// Claims every id of the plan, then drives the transaction to its end, or waits for whoever does.
    async fn run(
        &self,
        plan: Plan,
        refusal: Option<Refusal>,
        permit: Permit,
    ) -> Result<Executed, NotAnswered> {
        let span = self.inner.span_of(&plan);
        self.run_within(plan, refusal, permit).instrument(span).await
    }

    /// [`Driver::run`] within the current span, which is the transaction's.
    async fn run_within(
        &self,
        plan: Plan,
        refusal: Option<Refusal>,
        permit: Permit,
    ) -> Result<Executed, NotAnswered> {
        let Some(claim) = self.claim_all(&plan).instrument(spans::phase("claim")).await? else {
            return Ok(Executed::Rejected(Refusal::new(RefusalCode::TransactionIdReused)));
        };
        let (mut driven, joined) = self.inner.begin_or_join(plan.owned_by(claim.owner), refusal, permit);
        let ended = driven.ended.wait_for(Option::is_some).await.map_err(|_| stopping())?;
        let finished = ended.clone().expect("it was waited for")?;
        let replayed = joined || finished.replayed;
        if replayed {
            add_one(&self.inner.metrics.replayed);
        }
        Ok(Executed::Recorded(Finished { replayed, ..finished }))
    }

    /// Claims every id of a plan; `None` when one belongs to other content.
    async fn claim_all(&self, plan: &Plan) -> Result<Option<Claim>, NotAnswered> {
        let started = Instant::now();
        let mut granted = None;
        for (home, step) in plan.claims(self.inner.as_ref()) {
            match self.inner.link(home).insist(step, |_, _| {}).await {
                Answer::Claimed(claim) => granted = Some(claim),
                Answer::ClaimedOtherwise => return Ok(None),
                other => return Err(impossible(&other)),
            }
        }
        self.inner.metrics.claimed(started.elapsed());
        Ok(Some(granted.expect("a plan claims its own id at least")))
    }

    /// The record of a transaction, found by its id or by the id of a leg, and where it is.
    pub(super) async fn transaction(
        &self,
        transaction_id: TransactionId,
    ) -> Result<Option<(ShardNumber, TransactionRow)>, NotAnswered> {
        let Some(claim) = self.claim(transaction_id).await? else { return Ok(None) };
        let owner = self.inner.link(claim.owner).shard();
        let row = owner.transaction(claim.recorded_under, transaction_id).await.map_err(unanswered)?;
        Ok(row.map(|row| (claim.owner, row)))
    }

    async fn claim(&self, transaction_id: TransactionId) -> Result<Option<Claim>, NotAnswered> {
        let home = self.inner.link(self.inner.home_of(transaction_id));
        home.shard().claim(transaction_id).await.map_err(unanswered)
    }

    /// Drives an unfinished transaction on at once, unless this instance does.
    pub(super) fn take_over(&self, status: PhaseStatus) -> Result<(), NotAnswered> {
        self.inner.resume_or_join(status, self.inner.admit()?);
        Ok(())
    }

    /// Undoes an unfinished transaction, where that is still possible.
    pub(super) async fn cancel_driven(&self, status: PhaseStatus) -> Result<Cancelled, NotAnswered> {
        let (driven, _) = self.inner.resume_or_join(status, self.inner.admit()?);
        let (sender, possible) = oneshot::channel();
        // Where nobody hears the wish any more, the transaction has just ended.
        let heard = driven.wishes.send(drive::Wish::Cancel(sender)).is_ok();
        match heard && possible.await.unwrap_or(false) {
            true => Ok(Cancelled::Begun),
            false => Ok(Cancelled::TooLate),
        }
    }

    /// The shards with their numbers.
    pub(super) fn numbered(&self) -> impl Iterator<Item = (ShardNumber, &Link)> {
        (0..).map(ShardNumber).zip(&self.inner.links)
    }

    /// Takes no more work, and waits until what was accepted is over: whoever waits for it is told.
    pub(super) async fn stop(&self) {
        self.inner.stopping.store(true, Ordering::Release);
        let all = u32::try_from(self.inner.transactions_max).unwrap_or(u32::MAX);
        // Nobody closes the semaphore.
        drop(self.inner.under_way.acquire_many(all).await);
    }
}

impl Inner {
    pub(super) fn coordination(&self) -> Coordination {
        self.coordination
    }

    pub(super) fn link(&self, shard: ShardNumber) -> &Link {
        &self.links[shard.0 as usize]
    }

    /// Begins a transaction whose ids are claimed, unless this instance is at it already: then true.
    fn begin_or_join(
        self: &Arc<Self>,
        plan: Plan,
        refusal: Option<Refusal>,
        permit: Permit,
    ) -> (Driven, bool) {
        let (lease, now) = (self.lease_from_now(), now());
        if refusal.is_none() && self.travels(&plan) {
            return self.accompany_or_join(Travelling::begin(plan, lease, now), true, permit);
        }
        self.drive_or_join(plan.transaction_id, permit, || {
            let (machine, effects) = match refusal {
                Some(refusal) => Machine::begin_refused(plan, refusal, lease, now),
                None => Machine::begin(plan, lease, now),
            };
            drive::Start { machine, effects, begun_at: Some(now) }
        })
    }

    /// Takes a transaction over that nobody seems to drive, unless this instance is at it.
    fn resume_or_join(self: &Arc<Self>, status: PhaseStatus, permit: Permit) -> (Driven, bool) {
        let _within = self.span_of(&status.plan).entered();
        let (driven, joined) = if self.travels(&status.plan) {
            self.accompany_or_join(Travelling::again(status), false, permit)
        } else {
            self.drive_or_join(status.plan.transaction_id, permit, || {
                let (machine, effects) = Machine::resume(status, self.lease_from_now());
                drive::Start { machine, effects, begun_at: None }
            })
        };
        if !joined {
            add_one(&self.metrics.taken_over);
        }
        (driven, joined)
    }

    fn span_of(&self, plan: &Plan) -> Span {
        let way = if self.travels(plan) { Way::Choreographed } else { Way::Driven(self.coordination) };
        spans::transaction(plan, way)
    }

    /// What one shard does in one local transaction has nowhere to travel.
    fn travels(&self, plan: &Plan) -> bool {
        self.choreography.is_some() && plan.branches.len() > 1
    }

    fn drive_or_join(
        self: &Arc<Self>,
        transaction_id: TransactionId,
        permit: Permit,
        start: impl FnOnce() -> drive::Start,
    ) -> (Driven, bool) {
        self.task_or_join(transaction_id, permit, |inner, tell, wished| {
            let start = start();
            async move { drive::drive(&inner, start, &tell, wished).await }
        })
    }

    fn accompany_or_join(
        self: &Arc<Self>,
        travelling: Travelling,
        is_new: bool,
        permit: Permit,
    ) -> (Driven, bool) {
        let choreography = self.choreography.clone().expect("what travels has a choreography");
        let transaction_id = travelling.status.plan.transaction_id;
        // Nobody hears an operator's wishes: what travels cannot be called back.
        self.task_or_join(transaction_id, permit, |inner, tell, _| async move {
            choreographed::accompany(&inner, &choreography, travelling, is_new, &tell).await;
        })
    }

    /// The task belongs to the current span, which is the transaction's.
    fn task_or_join<Task: Future<Output = ()> + Send + 'static>(
        self: &Arc<Self>,
        transaction_id: TransactionId,
        permit: Permit,
        task: impl FnOnce(Arc<Self>, watch::Sender<Ended>, mpsc::UnboundedReceiver<drive::Wish>) -> Task,
    ) -> (Driven, bool) {
        let mut all = self.driven.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(driven) = all.get(&transaction_id) {
            return (driven.clone(), true);
        }
        let (tell, ended) = watch::channel(None);
        let (wishes, wished) = mpsc::unbounded_channel();
        let driven = Driven { ended, wishes };
        all.insert(transaction_id, driven.clone());
        drop(all);
        let task = task(Arc::clone(self), tell, wished).in_current_span();
        let inner = Arc::clone(self);
        tokio::spawn(async move {
            task.await;
            inner.driven.lock().unwrap_or_else(PoisonError::into_inner).remove(&transaction_id);
            drop(permit);
        });
        (driven, false)
    }

    /// True when a record is of this instance's own beginning at this time: that its answer was lost makes it no repetition.
    fn began(&self, status: &PhaseStatus, begun_at: Timestamp) -> bool {
        status.started_at == begun_at
            && status.lease.as_ref().is_some_and(|lease| lease.holder == self.instance)
    }

    fn lease_from_now(&self) -> Lease {
        let micros = i64::try_from(self.lease.as_micros()).expect("a lease of less than 292,000 years");
        Lease { holder: self.instance, until: Timestamp::from_micros(now().as_micros() + micros) }
    }
}

impl Placement for Inner {
    fn shard_of(&self, account: &AccountId) -> ShardNumber {
        self.by_hash(account.as_str().as_bytes())
    }

    fn home_of(&self, transaction_id: TransactionId) -> ShardNumber {
        self.by_hash(&transaction_id.to_bytes())
    }
}

impl Inner {
    /// `hash mod shards`, as in the chapter. The hash is the same for ever: money and claims are found by it.
    fn by_hash(&self, bytes: &[u8]) -> ShardNumber {
        let hash = blake3::hash(bytes);
        let first = hash.as_bytes().first_chunk().expect("a hash has 32 bytes");
        let shard = u64::from_le_bytes(*first) % self.links.len() as u64;
        ShardNumber(u32::try_from(shard).expect("there are fewer shards than 2^32"))
    }
}

/// The clock of this instance: for leases, which are hints. Shards stamp what they record themselves.
fn now() -> Timestamp {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_micros(i64::try_from(since_1970.as_micros()).unwrap_or(i64::MAX))
}

pub(super) fn unanswered(no_answer: NoAnswer) -> NotAnswered {
    let (NoAnswer::Busy(why) | NoAnswer::Unknown(why)) = no_answer;
    NotAnswered::Unavailable(why)
}

fn stopping() -> NotAnswered {
    NotAnswered::Unavailable("the wallet is stopping".to_owned())
}

fn impossible(answer: &Answer) -> NotAnswered {
    tracing::error!(
        ?answer,
        "a shard gave an answer that cannot be; look whether its data were changed by hand"
    );
    NotAnswered::Unavailable("a shard gave an answer that cannot be".to_owned())
}
