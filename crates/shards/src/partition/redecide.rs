//! Deciding recorded commands again, and comparing what comes out with what was recorded.

use ledger::codec::{Body, CodecError, Entry, PlainTransfer, Step};
use ledger::{AccountRef, Command, Decision, Events, Sequence, State, Timestamp, Transaction, TransactionId};
use storage::journal::{Frame, ReadError};
use storage::memory::prefetch;
use storage::store::StoreError;

use super::past::PastError;
use super::source::SourceError;

/// Commands whose cache misses are made to overlap.
const CHUNK: usize = 32;

/// The first thing that is not as it must be.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// There is no history to read.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// A frame is damaged, or the chain is broken.
    #[error(transparent)]
    Journal(#[from] ReadError),
    /// The store cannot be read.
    #[error("{0}; the state directory can be moved away: it is built again from the journal")]
    Store(#[from] StoreError),
    /// What an id refers to cannot be read back.
    #[error(transparent)]
    Past(#[from] PastError),
    /// A frame is whole, yet its body is not ours.
    #[error("the frame with event {sequence}: {error}")]
    Body {
        /// The first sequence of the frame.
        sequence: u64,
        /// What is wrong with its body.
        error: CodecError,
    },
    /// Something differs.
    #[error("{0}")]
    Difference(Box<Difference>),
    /// Whoever wanted to know has gone.
    #[error("stopped before the end")]
    Stopped,
}

/// Where and how recorded history and this program disagree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The partition.
    pub partition: u32,
    /// The sequence at which they first disagree.
    pub sequence: Sequence,
    /// What is compared.
    pub what: String,
    /// What this program expects.
    pub expected: String,
    /// What is recorded.
    pub found: String,
    /// The command that is decided otherwise, where it is about one.
    pub redecision: Option<Redecision>,
}

/// A command that this program decides otherwise than it was decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redecision {
    /// The command.
    pub command: Command,
    /// The sequence of its first recorded event.
    pub first_sequence: Sequence,
    /// When it was decided.
    pub timestamp: Timestamp,
    /// What was recorded.
    pub recorded: Events,
    /// What this program decides.
    pub decided: Decision,
}

impl std::fmt::Display for Difference {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            formatter,
            "partition {} sequence {}: {}: expected {}, found {}",
            self.partition, self.sequence.0, self.what, self.expected, self.found
        )
    }
}

/// Goes along while commands are decided again, and knows what came before.
pub(super) trait Companion {
    /// What the events before this sequence say of a transaction.
    fn transaction(
        &mut self,
        id: TransactionId,
        before: Sequence,
    ) -> Result<Option<Transaction>, VerifyError>;

    /// The id will be needed soon.
    fn prefetch(&self, _id: TransactionId) {}

    /// The transfer was decided again, with the same event, and applied.
    fn transfer(&mut self, transfer: &PlainTransfer, timestamp: Timestamp) -> Result<(), VerifyError>;

    /// As [`Companion::transfer`], for any command.
    fn entry(&mut self, entry: &Entry, timestamp: Timestamp) -> Result<(), VerifyError>;
}

/// The state that recorded events give, with every command decided again on the way.
pub(super) struct Redecider {
    partition: u32,
    pub(super) state: State,
    pub(super) commands: u64,
    pub(super) frames: u64,
    /// Decoded, their cache lines asked for, and not yet decided.
    chunk: Vec<Step>,
    next_chunk: Vec<Step>,
}

impl Redecider {
    pub(super) fn new(partition: u32, state: State) -> Redecider {
        Redecider {
            partition,
            state,
            commands: 0,
            frames: 0,
            chunk: Vec::with_capacity(CHUNK),
            next_chunk: Vec::with_capacity(CHUNK),
        }
    }

    /// Decides and applies all that is in the next frame.
    pub(super) fn frame(&mut self, frame: &Frame, companion: &mut impl Companion) -> Result<(), VerifyError> {
        self.frames += 1;
        if frame.sequence_count() == 0 {
            return Ok(());
        }
        let first = Sequence(frame.first_sequence().0);
        if first != self.state.sequence().next() {
            let expected = self.state.sequence().next().0.to_string();
            let what = "the first sequence of a frame";
            return Err(self.difference(first, what, expected, first.0.to_string()));
        }
        let timestamp = Timestamp::from_micros(frame.timestamp_us());
        let in_body = |error| VerifyError::Body { sequence: first.0, error };
        let mut steps = Body::parse(frame.body(), first).map_err(in_body)?.steps();
        // One chunk's cache lines are on their way while the one before is decided.
        loop {
            let mut next = std::mem::take(&mut self.next_chunk);
            for step in steps.by_ref().take(CHUNK) {
                let step = step.map_err(in_body)?;
                if let Step::Plain(transfer) = &step {
                    prefetch(self.state.address(&AccountRef::Number(transfer.movement.from)));
                    prefetch(self.state.address(&AccountRef::Number(transfer.movement.to)));
                    companion.prefetch(transfer.transaction_id);
                }
                next.push(step);
            }
            let mut chunk = std::mem::replace(&mut self.chunk, next);
            for step in chunk.drain(..) {
                self.step(step, timestamp, companion)?;
            }
            self.next_chunk = chunk;
            if self.chunk.is_empty() {
                return Ok(());
            }
        }
    }

    fn step(
        &mut self,
        step: Step,
        timestamp: Timestamp,
        companion: &mut impl Companion,
    ) -> Result<(), VerifyError> {
        match step {
            Step::Plain(transfer) => {
                if self.state.decide_transfer(&transfer.command()) != Ok(transfer.movement) {
                    return self.entry(&transfer.into_entry(), timestamp, companion);
                }
                self.commands += 1;
                if let Err(why) = self.state.try_apply_movement(timestamp, &transfer.movement) {
                    return Err(self.does_not_follow(transfer.sequence, &transfer.movement, why));
                }
                companion.transfer(&transfer, timestamp)
            }
            Step::Entry(entry) => self.entry(&entry, timestamp, companion),
        }
    }

    fn entry(
        &mut self,
        entry: &Entry,
        timestamp: Timestamp,
        companion: &mut impl Companion,
    ) -> Result<(), VerifyError> {
        self.commands += 1;
        let referenced = match entry.command.referenced_id() {
            Some(id) if self.state.hold(id).is_none() => companion.transaction(id, entry.first_sequence)?,
            _ => None,
        };
        match self.state.decide(&entry.command, timestamp, referenced.as_ref()) {
            Decision::Accepted(events) if events == entry.events => {}
            decided => return Err(self.decided_otherwise(entry, timestamp, decided)),
        }
        for (sequence, event) in entry.sequenced() {
            if let Err(why) = self.state.try_apply(timestamp, event) {
                return Err(self.does_not_follow(sequence, event, why));
            }
        }
        companion.entry(entry, timestamp)
    }

    fn decided_otherwise(&self, entry: &Entry, timestamp: Timestamp, decided: Decision) -> VerifyError {
        let same = match &decided {
            Decision::Accepted(events) => {
                events.iter().zip(entry.events.iter()).take_while(|(one, other)| one == other).count()
            }
            _ => 0,
        };
        VerifyError::Difference(Box::new(Difference {
            partition: self.partition,
            sequence: Sequence(entry.first_sequence.0 + same.min(entry.events.len() - 1) as u64),
            what: format!("the events of {:?}", entry.command),
            expected: format!("{decided:?}"),
            found: format!("{:?}", entry.events.as_slice()),
            redecision: Some(Redecision {
                command: entry.command.clone(),
                first_sequence: entry.first_sequence,
                timestamp,
                recorded: entry.events.clone(),
                decided,
            }),
        }))
    }

    fn does_not_follow(&self, sequence: Sequence, event: &impl std::fmt::Debug, why: &str) -> VerifyError {
        let (expected, found) = ("one that fits".into(), format!("{event:?} ({why})"));
        self.difference(sequence, "an event that follows the state", expected, found)
    }

    pub(super) fn difference(
        &self,
        sequence: Sequence,
        what: &str,
        expected: String,
        found: String,
    ) -> VerifyError {
        VerifyError::Difference(Box::new(Difference {
            partition: self.partition,
            sequence,
            what: what.to_owned(),
            expected,
            found,
            redecision: None,
        }))
    }
}
