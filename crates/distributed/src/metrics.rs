//! What a wallet over shards has done and is doing.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use coordinator::machine::Phase;
use coordinator::port::{Answer, NoAnswer, Outcome, ShardNumber};
use ledger::{Refusal, RefusalCode};
use tracing::{Instrument, Span};

use shards::partition::Histogram;

/// How a transaction ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Ending {
    /// Its money moved.
    Success,
    /// Nothing moved: the rules of money forbade it.
    Refused,
    /// It was undone: an operator cancelled it, or a shard took part no more.
    Cancelled,
    /// It cannot go on, and a human must look.
    Broken,
}

impl Ending {
    /// All, in the order of [`Metrics::endings`].
    pub const ALL: [Ending; 4] = [Ending::Success, Ending::Refused, Ending::Cancelled, Ending::Broken];

    /// A word for it.
    pub const fn name(self) -> &'static str {
        match self {
            Ending::Success => "success",
            Ending::Refused => "refused",
            Ending::Cancelled => "cancelled",
            Ending::Broken => "broken",
        }
    }
}

/// What came of asking a shard once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum StepOutcome {
    /// It did the step, or told how the record stands.
    Done,
    /// It refused: the rules of money, a cancel that came before, an id that belongs to something else.
    Refused,
    /// It certainly did nothing, and is asked again.
    Busy,
    /// It may have done it, and is asked again.
    Unknown,
    /// The step contradicts what the shard knows: an alarm.
    Contradiction,
}

impl StepOutcome {
    /// All, in the order of [`ShardMetrics::steps`].
    pub const ALL: [StepOutcome; 5] = [
        StepOutcome::Done,
        StepOutcome::Refused,
        StepOutcome::Busy,
        StepOutcome::Unknown,
        StepOutcome::Contradiction,
    ];

    /// A word for it.
    pub const fn name(self) -> &'static str {
        match self {
            StepOutcome::Done => "done",
            StepOutcome::Refused => "refused",
            StepOutcome::Busy => "busy",
            StepOutcome::Unknown => "unknown",
            StepOutcome::Contradiction => "contradiction",
        }
    }

    fn of(answer: &Result<Answer, NoAnswer>) -> StepOutcome {
        match answer {
            Ok(Answer::Refused(_) | Answer::Late | Answer::ClaimedOtherwise) => StepOutcome::Refused,
            Ok(Answer::Finished(Outcome { result: Err(_), .. })) => StepOutcome::Refused,
            Ok(Answer::Contradiction(_)) => StepOutcome::Contradiction,
            Ok(_) => StepOutcome::Done,
            Err(NoAnswer::Busy(_)) => StepOutcome::Busy,
            Err(NoAnswer::Unknown(_)) => StepOutcome::Unknown,
        }
    }
}

/// What one instance counts. Every instance counts what it did itself.
#[derive(Debug)]
pub struct Metrics {
    /// Transactions that this instance brought to an end, by [`Ending`]; repeats not.
    pub endings: [AtomicU64; Ending::ALL.len()],
    /// Commands answered from what became of them the first time.
    pub replayed: AtomicU64,
    /// Recorded and unrecorded refusals, by [`RefusalCode::number`] less one.
    pub refusals: [AtomicU64; RefusalCode::ALL.len()],
    /// Commands turned away because too many were under way.
    pub overloaded: AtomicU64,
    /// Transactions that this instance is at.
    pub in_flight: AtomicU64,
    /// Unfinished transactions taken over, of other instances or at an operator's wish.
    pub taken_over: AtomicU64,
    /// How long it took to claim the ids of a transaction, in microseconds.
    pub claim_us: Histogram,
    /// How long each phase took, by [`Phase`], in microseconds.
    pub phase_us: [Histogram; Phase::ALL.len()],
    /// Messages of choreographed Sagas that the broker took.
    pub outbox_sent: AtomicU64,
    /// By the number of the shard.
    pub shards: Vec<ShardMetrics>,
}

/// What one instance asked of one shard.
#[derive(Debug, Default)]
pub struct ShardMetrics {
    /// Attempts of steps, by [`StepOutcome`].
    pub steps: [AtomicU64; StepOutcome::ALL.len()],
    /// How long an attempt took, in microseconds.
    pub step_us: Histogram,
    /// Attempts after the first.
    pub repeats: AtomicU64,
}

impl Metrics {
    pub(super) fn new(shards: usize) -> Metrics {
        Metrics {
            endings: Default::default(),
            replayed: AtomicU64::new(0),
            refusals: [const { AtomicU64::new(0) }; RefusalCode::ALL.len()],
            overloaded: AtomicU64::new(0),
            in_flight: AtomicU64::new(0),
            taken_over: AtomicU64::new(0),
            claim_us: Histogram::default(),
            phase_us: Default::default(),
            outbox_sent: AtomicU64::new(0),
            shards: (0..shards).map(|_| ShardMetrics::default()).collect(),
        }
    }

    /// Waits for one attempt of a step, within its span.
    pub(super) async fn step(
        &self,
        shard: ShardNumber,
        span: Span,
        attempt: impl Future<Output = Result<Answer, NoAnswer>>,
    ) -> Result<Answer, NoAnswer> {
        let started = Instant::now();
        let answer = attempt.instrument(span.clone()).await;
        let of_shard = self.shard(shard);
        of_shard.step_us.record(micros(started.elapsed()));
        let outcome = StepOutcome::of(&answer);
        add_one(&of_shard.steps[outcome as usize]);
        span.record("outcome", outcome.name());
        answer
    }

    /// A step is tried again.
    pub(super) fn repeated(&self, shard: ShardNumber) {
        add_one(&self.shard(shard).repeats);
    }

    fn shard(&self, shard: ShardNumber) -> &ShardMetrics {
        &self.shards[shard.0 as usize]
    }

    pub(super) fn phase(&self, phase: Phase, took: Duration) {
        self.phase_us[phase as usize].record(micros(took));
    }

    pub(super) fn claimed(&self, took: Duration) {
        self.claim_us.record(micros(took));
    }

    /// A transaction is over that this instance brought to its end.
    pub(super) fn ended(&self, outcome: &Outcome) {
        let ending = match &outcome.result {
            Ok(_) => Ending::Success,
            Err(refusal) if refusal.code == RefusalCode::TransactionCancelled => Ending::Cancelled,
            Err(_) => Ending::Refused,
        };
        add_one(&self.endings[ending as usize]);
        if let Err(refusal) = &outcome.result {
            self.refused(refusal);
        }
    }

    pub(super) fn broken(&self) {
        add_one(&self.endings[Ending::Broken as usize]);
    }

    pub(super) fn refused(&self, refusal: &Refusal) {
        add_one(&self.refusals[usize::from(refusal.code.number()) - 1]);
    }
}

pub(super) fn add_one(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
