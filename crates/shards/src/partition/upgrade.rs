//! Whether this program decides recorded history as it was decided: what to ask before new code takes over old data.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Place;

use ledger::codec::{Body, Entry, PlainTransfer, Step};
use ledger::{
    Command, Digest, Event, Record, Sequence, State, Timestamp, Totals, Transaction, TransactionId,
};
use storage::journal::{Frame, FrameIndex};

use super::redecide::{Companion, Redecider, VerifyError};
use super::replay::for_each_frame;
use super::source::{Recorded, Source};

/// Events between two reports of progress.
const PROGRESS_EVENTS: u64 = 500_000;

/// History that this program decides in the same way, all of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpgradeReport {
    /// Frames read, each with its checksum and its place in the hash chain.
    pub frames: u64,
    /// Commands decided again, with the same events.
    pub commands: u64,
    /// The last event.
    pub sequence: Sequence,
    /// Its time.
    pub timestamp: Timestamp,
    /// Every currency's sum over all accounts.
    pub totals: Vec<Totals>,
    /// The hash of the state after the last event.
    pub digest: Digest,
}

/// Decides every command of a history again with the rules of this program, and compares event by event. A
/// [`VerifyError::Difference`] names the first one that differs.
///
/// The history is read twice: first for what later commands refer to, so that neither an index of ids nor all of them are needed.
pub fn check_upgrade(
    source: &Source,
    partition: u32,
    progress: &mut dyn FnMut(Sequence, Sequence),
) -> Result<UpgradeReport, VerifyError> {
    let recorded = Recorded::open_whole(source)?;
    let mut wanted = Wanted::default();
    for_each_frame(recorded.frames(FrameIndex::FIRST), |frame| wanted.look_for(frame))?;
    let mut redecider = Redecider::new(partition, State::new());
    let mut reported = Sequence(0);
    for_each_frame(recorded.frames(FrameIndex::FIRST), |frame| {
        redecider.frame(frame, &mut wanted)?;
        if redecider.state.sequence().0 - reported.0 >= PROGRESS_EVENTS {
            reported = redecider.state.sequence();
            progress(reported, recorded.last);
        }
        Ok::<(), VerifyError>(())
    })?;
    let state = &redecider.state;
    progress(state.sequence(), recorded.last);
    Ok(UpgradeReport {
        frames: redecider.frames,
        commands: redecider.commands,
        sequence: state.sequence(),
        timestamp: state.timestamp(),
        totals: state.totals(),
        digest: state.digest(),
    })
}

/// The earlier transactions that commands refer to and the state does not hold, with what is recorded of them so far.
#[derive(Default)]
struct Wanted(HashMap<TransactionId, Option<Transaction>>);

impl Wanted {
    fn look_for(&mut self, frame: &Frame) -> Result<(), VerifyError> {
        if frame.sequence_count() == 0 {
            return Ok(());
        }
        let first = Sequence(frame.first_sequence().0);
        let in_body = |error| VerifyError::Body { sequence: first.0, error };
        for step in Body::parse(frame.body(), first).map_err(in_body)?.steps() {
            let Step::Entry(entry) = step.map_err(in_body)? else { continue };
            let refused = matches!(entry.events.first(), Some(Event::Refused { .. }));
            // A hold that was settled was pending, and so in the state.
            let id = match &entry.command {
                Command::Reverse { original_id, .. } => Some(*original_id),
                command if refused => command.referenced_id(),
                _ => None,
            };
            self.0.extend(id.map(|id| (id, None)));
        }
        Ok(())
    }

    fn note(
        &mut self,
        id: TransactionId,
        command: impl FnOnce() -> Command,
        record: impl FnOnce() -> Record,
    ) {
        let Place::Occupied(mut place) = self.0.entry(id) else { return };
        let new = || Transaction { transaction_id: id, command: command(), records: Vec::new() };
        place.get_mut().get_or_insert_with(new).records.push(record());
    }
}

impl Companion for Wanted {
    fn transaction(&mut self, id: TransactionId, _: Sequence) -> Result<Option<Transaction>, VerifyError> {
        Ok(self.0.get(&id).cloned().flatten())
    }

    fn transfer(&mut self, transfer: &PlainTransfer, timestamp: Timestamp) -> Result<(), VerifyError> {
        if !self.0.is_empty() && self.0.contains_key(&transfer.transaction_id) {
            self.entry(&transfer.into_entry(), timestamp)?;
        }
        Ok(())
    }

    fn entry(&mut self, entry: &Entry, timestamp: Timestamp) -> Result<(), VerifyError> {
        for (sequence, event) in entry.sequenced() {
            for id in [event.transaction_id(), event.referenced_id()].into_iter().flatten() {
                let record = || Record { sequence, timestamp, event: event.clone() };
                self.note(id, || entry.command.clone(), record);
            }
        }
        Ok(())
    }
}
