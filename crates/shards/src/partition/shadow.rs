//! The shadow verifier: re-derives the state from the journal beside the running partition, decides every command again, and raises an
//! alarm when anything differs from what was recorded or from a checkpoint.
//!
//! It begins with the first event that can be read and then follows, in rounds: each goes up to what was durable when it began. It has
//! a state of its own, takes no more than its share of events a second, and gives way to everybody.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};
use ledger::codec::{Entry, PlainTransfer};
use ledger::{Digest, Sequence, State, Timestamp, Transaction, TransactionId};
use storage::journal::{self, FrameIndex, ReadError, Reader};
use storage::store::StateStore;

use super::commit::Committed;
use super::engine::Work;
use super::layout::{self, CheckpointPosition};
use super::metrics::Metrics;
use super::past;
use super::redecide::{Companion, Redecider, VerifyError};

/// How often a verifier that has caught up looks for new events.
const IDLE: Duration = Duration::from_millis(200);
/// How long it waits for an archive that does not answer.
const BACK_OFF: Duration = Duration::from_secs(10);
/// How often it looks whether it is to stop while it waits for the state thread.
const ANSWER_POLL: Duration = Duration::from_millis(100);
/// How often a checkpoint is read anew when another came meanwhile.
const ATTEMPTS_MAX: usize = 10;

/// Tells the thread to stop, and wakes it for that.
#[derive(Default)]
pub(super) struct Stop {
    stopped: Mutex<bool>,
    changed: Condvar,
}

impl Stop {
    pub(super) fn stop(&self) {
        *self.stopped.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_all();
    }

    /// Waits so long, or until told to stop.
    fn pause(&self, time: Duration) -> Result<(), VerifyError> {
        let stopped = self.stopped.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.changed.wait_timeout_while(stopped, time, |stopped| !*stopped);
        match *waited.unwrap_or_else(PoisonError::into_inner).0 {
            true => Err(VerifyError::Stopped),
            false => Ok(()),
        }
    }
}

pub(super) struct Shadow {
    pub(super) partition: u32,
    pub(super) reader: Reader,
    pub(super) store: Arc<dyn StateStore>,
    pub(super) committed: Arc<Committed>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) work: Sender<Work>,
    pub(super) stop: Arc<Stop>,
    pub(super) events_per_second: u64,
}

impl Shadow {
    pub(super) fn run(self) {
        storage::background::give_way();
        loop {
            match self.verify() {
                Ok(()) | Err(VerifyError::Stopped) => return,
                Err(error) if is_passing(&error) => {
                    tracing::warn!(%error, "the shadow verifier cannot read on; it begins anew in a while");
                    if self.stop.pause(BACK_OFF).is_err() {
                        return;
                    }
                }
                Err(error) => {
                    self.metrics.verifier_differences.fetch_add(1, Ordering::Relaxed);
                    tracing::error!(
                        %error,
                        partition = self.partition,
                        next = "stop writing to this wallet, keep a copy of its data directory, and run `jigap verify` on it",
                        "the shadow verifier found that recorded history is not what the rules give"
                    );
                    return;
                }
            }
        }
    }

    /// Goes along until it is told to stop, or something differs.
    fn verify(&self) -> Result<(), VerifyError> {
        let (state, mut next) = self.beginning()?;
        let mut redecider = Redecider::new(self.partition, state);
        let mut compared = redecider.state.sequence();
        loop {
            let end = self.committed.sequence();
            if redecider.state.sequence() >= end {
                self.stop.pause(IDLE)?;
                continue;
            }
            let checkpoint = match self.metrics.checkpoint_sequence.load(Ordering::Relaxed) > compared.0 {
                true => self.checkpoint(redecider.state.sequence())?,
                false => None,
            };
            next = self.round(&mut redecider, next, end, checkpoint)?;
            compared = checkpoint.map_or(compared, |(position, _)| position.sequence);
            self.metrics.verifier_rounds.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The first event, or a checkpoint where that was released for good.
    fn beginning(&self) -> Result<(State, FrameIndex), VerifyError> {
        match self.reader.frame_at(FrameIndex::FIRST) {
            Err(ReadError::Released { .. }) => {}
            frame => return frame.map(|_| (State::new(), FrameIndex::FIRST)).map_err(VerifyError::Journal),
        }
        for _ in 0..ATTEMPTS_MAX {
            let Some(position) = layout::load_position(self.store.as_ref())? else { break };
            let state = layout::load_state(self.store.as_ref(), &position)?;
            if layout::load_position(self.store.as_ref())? != Some(position) {
                continue;
            }
            let frame = self.reader.frame_containing(journal::Sequence(position.sequence.0))?;
            let Some(frame) = frame else { break };
            tracing::info!(
                from = position.sequence.0,
                "the shadow verifier begins with a checkpoint: earlier events are not here"
            );
            return Ok((state, FrameIndex(frame.index().0 + 1)));
        }
        Err(ReadError::Archive { why: "there is no checkpoint to begin with yet".into() }.into())
    }

    /// The newest checkpoint after this event, with its digest.
    fn checkpoint(&self, after: Sequence) -> Result<Option<(CheckpointPosition, Digest)>, VerifyError> {
        for _ in 0..ATTEMPTS_MAX {
            let Some(found) = layout::digest_of_latest(self.store.as_ref())? else { continue };
            return Ok(Some(found).filter(|(position, _)| position.sequence > after));
        }
        Ok(None)
    }

    /// Verifies up to this event, and answers the frame after it.
    fn round(
        &self,
        redecider: &mut Redecider,
        from: FrameIndex,
        end: Sequence,
        checkpoint: Option<(CheckpointPosition, Digest)>,
    ) -> Result<FrameIndex, VerifyError> {
        let mut next = from;
        let mut companion = Asking { shadow: self };
        let (started, first) = (Instant::now(), redecider.state.sequence());
        let end = end.max(checkpoint.map_or(end, |(position, _)| position.sequence));
        for frame in self.reader.frames_from(from) {
            let frame = frame?;
            redecider.frame(&frame, &mut companion)?;
            next = FrameIndex(frame.index().0 + 1);
            let sequence = redecider.state.sequence();
            self.metrics.verifier_sequence.store(sequence.0, Ordering::Relaxed);
            if let Some((position, found)) = checkpoint.filter(|(position, _)| position.sequence == sequence)
            {
                let expected = redecider.state.digest();
                if expected != found {
                    let what = "the digest of the checkpoint";
                    let (expected, found) = (expected.to_string(), found.to_string());
                    return Err(redecider.difference(position.sequence, what, expected, found));
                }
            }
            let share = (sequence.0 - first.0) as f64 / self.events_per_second as f64;
            let ahead = Duration::try_from_secs_f64(share).unwrap_or(Duration::MAX);
            self.stop.pause(ahead.saturating_sub(started.elapsed()))?;
            if sequence >= end {
                break;
            }
        }
        Ok(next)
    }
}

/// Whether it says nothing about the history.
fn is_passing(error: &VerifyError) -> bool {
    use past::PastError;
    let passing = |error: &ReadError| matches!(error, ReadError::Archive { .. } | ReadError::Released { .. });
    match error {
        VerifyError::Journal(error) | VerifyError::Past(PastError::Journal(error)) => passing(error),
        _ => false,
    }
}

/// Asks the running partition where the events about an id are.
struct Asking<'shadow> {
    shadow: &'shadow Shadow,
}

impl Companion for Asking<'_> {
    fn transaction(
        &mut self,
        id: TransactionId,
        before: Sequence,
    ) -> Result<Option<Transaction>, VerifyError> {
        let Shadow { work, stop, metrics, reader, .. } = self.shadow;
        let (sender, answer) = bounded(1);
        let question = Work::Transaction(id, Box::new(move |sequences| drop(sender.send(sequences))));
        metrics.queue_depth.fetch_add(question.weight(), Ordering::Relaxed);
        work.send(question).map_err(|_| VerifyError::Stopped)?;
        let mut sequences = loop {
            match answer.recv_timeout(ANSWER_POLL) {
                Ok(sequences) => break sequences,
                Err(RecvTimeoutError::Timeout) => stop.pause(Duration::ZERO)?,
                Err(RecvTimeoutError::Disconnected) => return Err(VerifyError::Stopped),
            }
        };
        sequences.retain(|sequence| *sequence < before);
        Ok(past::read(reader, id, &sequences)?.map(|past| past.transaction))
    }

    fn transfer(&mut self, _: &PlainTransfer, _: Timestamp) -> Result<(), VerifyError> {
        Ok(())
    }

    fn entry(&mut self, _: &Entry, _: Timestamp) -> Result<(), VerifyError> {
        Ok(())
    }
}
