//! Proving a partition's directory, a server on it or not: every checksum and hash, every event applied anew, every command decided
//! anew, every transaction_id used once, and the state store compared with what the events give.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use ledger::codec::{Entry, PlainTransfer};
use ledger::{Digest, Sequence, State, Timestamp, Totals, Transaction, TransactionId};
use storage::journal::{FrameIndex, Reader};
use storage::store::{self, StateStore, StoreError};

use super::id_filter::IdFilter;
use super::id_index::IdSeed;
use super::layout::{self, CheckpointPosition};
use super::past::{self, Past, PastError};
use super::recovery::{state_directory, store_options};
use super::redecide::{Companion, Redecider, VerifyError};
use super::replay::for_each_frame;
use super::source::{Recorded, Source};
use super::window::IdEntry;
use super::{ArchiveOptions, Options};

/// Events between two reports of progress.
const PROGRESS_EVENTS: u64 = 500_000;
/// Ids that the filter knows, perhaps by a false alarm, are looked up so many at a time.
const SUSPECTS_MAX: usize = 1 << 16;

/// What a journal holds, all of it proven.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifyReport {
    /// Frames read, each with its checksum and its place in the hash chain.
    pub frames: u64,
    /// Commands decided again, with the same events.
    pub commands: u64,
    /// Events applied.
    pub events: u64,
    /// The last sequence.
    pub sequence: Sequence,
    /// Its time.
    pub timestamp: Timestamp,
    /// Every currency's sum, all zero.
    pub totals: Vec<Totals>,
    /// The hash of the state after the last event.
    pub digest: Digest,
    /// The sequence of the checkpoint that was compared; `None` when the store is empty.
    pub checkpoint: Option<Sequence>,
    /// Bytes of an unfinished frame at the end, which was never acknowledged.
    pub torn_bytes: u64,
}

/// Verifies what a partition's directory held when this began. A server may be working in it meanwhile: nothing is locked, and nothing
/// written there. `progress` is called now and then with the last sequence verified, and the last one there is.
pub fn verify(
    options: &Options,
    progress: &mut dyn FnMut(Sequence, Sequence),
) -> Result<VerifyReport, VerifyError> {
    // The store first: it is never ahead of what is durable in the journal.
    let store = store::open_read_only(&state_directory(&options.directory), &store_options(options))?;
    let checkpoint = match &store {
        Some(store) => layout::load_position(store.as_ref())?,
        None => None,
    };
    let archive = options.archive.as_ref().map(|ArchiveOptions { objects, .. }| objects.clone());
    let source = Source::Directory { directory: options.directory.clone(), archive };
    let recorded = Recorded::open_whole(&source)?;
    let mut redecider = Redecider::new(options.partition, State::new());
    if let Some(checkpoint) = checkpoint.filter(|checkpoint| checkpoint.sequence > recorded.last) {
        let last = recorded.last;
        let (expected, found) = (format!("at most {}", last.0), checkpoint.sequence.0.to_string());
        return Err(redecider.difference(last, "the checkpoint's sequence", expected, found));
    }
    let enough = AtomicBool::new(false);
    thread::scope(|scope| {
        let summary = match (&store, &checkpoint) {
            (Some(store), Some(checkpoint)) => {
                let enough = &enough;
                Some(scope.spawn(move || Summary::of_store(store.as_ref(), checkpoint, enough)))
            }
            _ => None,
        };
        let mut ids = SeenIds::new(&recorded, store.clone(), checkpoint.as_ref());
        let walked = walk(&recorded, &mut redecider, &mut ids, progress);
        // Of two differences the first in the history counts: a suspect comes before whatever ended the walk.
        let proven = ids.resolve(&redecider).and(walked);
        enough.store(proven.is_err(), Ordering::Relaxed);
        proven?;
        if let (Some(summary), Some(checkpoint)) = (summary, &checkpoint) {
            let found = summary.join().expect("reading the store does not panic")?;
            compare(&redecider, checkpoint, ids.at_checkpoint, &found)?;
        }
        check_totals(&redecider)
    })?;
    Ok(VerifyReport {
        frames: redecider.frames,
        commands: redecider.commands,
        events: redecider.state.sequence().0,
        sequence: redecider.state.sequence(),
        timestamp: redecider.state.timestamp(),
        totals: redecider.state.totals(),
        digest: redecider.state.digest(),
        checkpoint: checkpoint.map(|checkpoint| checkpoint.sequence),
        torn_bytes: recorded.torn_bytes,
    })
}

fn walk(
    recorded: &Recorded,
    redecider: &mut Redecider,
    ids: &mut SeenIds<'_>,
    progress: &mut dyn FnMut(Sequence, Sequence),
) -> Result<(), VerifyError> {
    let mut reported = Sequence(0);
    for_each_frame(recorded.frames(FrameIndex::FIRST), |frame| {
        redecider.frame(frame, ids)?;
        ids.frame_ended(redecider)?;
        if redecider.state.sequence().0 - reported.0 >= PROGRESS_EVENTS {
            reported = redecider.state.sequence();
            progress(reported, recorded.last);
        }
        Ok::<(), VerifyError>(())
    })?;
    progress(redecider.state.sequence(), recorded.last);
    Ok(())
}

/// The checkpoint must be the state as of its sequence, and the index must name just the ids of the events until there.
fn compare(
    redecider: &Redecider,
    checkpoint: &CheckpointPosition,
    expected: Option<Summary>,
    found: &Summary,
) -> Result<(), VerifyError> {
    let difference = |what: &str, expected: String, found: String| {
        Err(redecider.difference(checkpoint.sequence, what, expected, found))
    };
    let Some(expected) = expected else {
        return difference("the checkpoint", "at the end of a frame".into(), "inside one".into());
    };
    if expected.digest != found.digest {
        let (expected, found) = (expected.digest.to_string(), found.digest.to_string());
        return difference("the digest of the checkpoint", expected, found);
    }
    if expected.ids != found.ids {
        let (expected, found) = (format!("{:?}", expected.ids), format!("{:?}", found.ids));
        return difference("the index of transaction_ids", expected, found);
    }
    Ok(())
}

fn check_totals(redecider: &Redecider) -> Result<(), VerifyError> {
    match redecider.state.totals().into_iter().find(|total| total.sum != 0) {
        None => Ok(()),
        Some(Totals { currency, sum }) => {
            let what = format!("the sum of all accounts in {currency}");
            Err(redecider.difference(redecider.state.sequence(), &what, "0".into(), sum.to_string()))
        }
    }
}

/// A checkpoint in short.
#[derive(Debug, Clone, Copy)]
struct Summary {
    digest: Digest,
    ids: IdSum,
}

impl Summary {
    fn of_store(
        store: &dyn StateStore,
        checkpoint: &CheckpointPosition,
        enough: &AtomicBool,
    ) -> Result<Summary, VerifyError> {
        let digest = layout::digest_of_store(store, checkpoint)?;
        let mut ids = IdSum::default();
        layout::for_each_id(store, |hash, sequence| {
            ids.add(hash, sequence);
            if enough.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        Ok(Summary { digest, ids })
    }
}

/// The ids of the events verified so far. A filter says "never used" of nearly every new one; the others are looked up later, many
/// together: up to the checkpoint in the store, and after it in memory.
struct SeenIds<'recorded> {
    recorded: &'recorded Recorded,
    seed: IdSeed,
    filter: IdFilter,
    store: Option<Arc<dyn StateStore>>,
    checkpoint: Sequence,
    /// Every use after the checkpoint.
    tail: Vec<IdEntry>,
    /// The same by id, up to this one, for those who cannot wait.
    indexed: HashMap<TransactionId, Vec<Sequence>>,
    indexed_count: usize,
    /// Commands whose id may have been used before.
    suspects: Vec<IdEntry>,
    /// Of the events up to the checkpoint.
    sum: IdSum,
    at_checkpoint: Option<Summary>,
}

impl<'recorded> SeenIds<'recorded> {
    fn new(
        recorded: &'recorded Recorded,
        store: Option<Arc<dyn StateStore>>,
        checkpoint: Option<&CheckpointPosition>,
    ) -> SeenIds<'recorded> {
        SeenIds {
            recorded,
            seed: checkpoint.map_or(IdSeed(0), |checkpoint| checkpoint.seed),
            // Hardly any event is about two ids.
            filter: IdFilter::with_room_for(recorded.last.0),
            store: store.filter(|_| checkpoint.is_some()),
            checkpoint: checkpoint.map_or(Sequence(0), |checkpoint| checkpoint.sequence),
            tail: Vec::new(),
            indexed: HashMap::new(),
            indexed_count: 0,
            suspects: Vec::new(),
            sum: IdSum::default(),
            at_checkpoint: None,
        }
    }

    /// The command has this id, and must be the first that has it.
    fn claim(&mut self, hash: u64, id: TransactionId, sequence: Sequence) {
        if self.filter.may_contain(hash) {
            self.suspects.push(IdEntry::new(id, sequence));
        }
    }

    /// The event is about this id.
    fn note(&mut self, hash: u64, id: TransactionId, sequence: Sequence) {
        if self.filter.is_full_with(1) {
            self.filter = self.filter.doubled();
        }
        self.filter.insert(hash);
        if sequence <= self.checkpoint {
            self.sum.add(hash, sequence);
        } else {
            self.tail.push(IdEntry::new(id, sequence));
        }
    }

    fn frame_ended(&mut self, redecider: &Redecider) -> Result<(), VerifyError> {
        if redecider.state.sequence() == self.checkpoint && self.at_checkpoint.is_none() {
            self.at_checkpoint = Some(Summary { digest: redecider.state.digest(), ids: self.sum });
        }
        if self.suspects.len() >= SUSPECTS_MAX { self.resolve(redecider) } else { Ok(()) }
    }

    /// Looks the suspects up: most are false alarms.
    fn resolve(&mut self, redecider: &Redecider) -> Result<(), VerifyError> {
        let mut suspects = std::mem::take(&mut self.suspects);
        suspects.sort_unstable_by_key(|suspect| (suspect.id(), suspect.sequence));
        // The second use that comes first in the history.
        let mut repeated: Option<(Sequence, TransactionId, Sequence)> = None;
        let mut note = |id: TransactionId, first: Sequence, again: u64| {
            let sooner = repeated.is_none_or(|(sequence, ..)| again < sequence.0);
            if first.0 < again && sooner {
                repeated = Some((Sequence(again), id, first));
            }
        };
        if let Some(store) = &self.store {
            for suspect in &suspects {
                let hash = self.seed.hash(suspect.id());
                let mut before = layout::find_hash(store.as_ref(), hash)?;
                before.retain(|sequence| sequence.0 < suspect.sequence);
                if let Some(past) = self.past(suspect.id(), &before)? {
                    note(suspect.id(), past.transaction.records[0].sequence, suspect.sequence);
                }
            }
        }
        for used in if suspects.is_empty() { &[] } else { self.tail.as_slice() } {
            let from = suspects.partition_point(|suspect| suspect.id() < used.id());
            for suspect in suspects[from..].iter().take_while(|suspect| suspect.id() == used.id()) {
                note(suspect.id(), Sequence(used.sequence), suspect.sequence);
            }
        }
        match repeated {
            None => Ok(()),
            Some((again, id, first)) => {
                let found = format!("{id} at sequence {} and again here", first.0);
                let what = "a transaction_id is executed once";
                Err(redecider.difference(again, what, "a new id".into(), found))
            }
        }
    }

    /// What those of these events tell that are about the id.
    fn past(&self, id: TransactionId, sequences: &[Sequence]) -> Result<Option<Past>, VerifyError> {
        let read = |reader: &Reader| match past::read(reader, id, sequences) {
            Err(PastError::Journal(error)) => Err(error),
            other => Ok(other),
        };
        Ok(self.recorded.with_reader(read).transpose()?.transpose()?.flatten())
    }

    /// The events about the id, or another one with its hash, before this sequence, ascending.
    fn find(&mut self, id: TransactionId, before: Sequence) -> Result<Vec<Sequence>, StoreError> {
        let hash = self.seed.hash(id);
        if !self.filter.may_contain(hash) {
            return Ok(Vec::new());
        }
        for used in &self.tail[self.indexed_count..] {
            self.indexed.entry(used.id()).or_default().push(Sequence(used.sequence));
        }
        self.indexed_count = self.tail.len();
        let mut sequences = match &self.store {
            Some(store) => layout::find_hash(store.as_ref(), hash)?,
            None => Vec::new(),
        };
        sequences.extend(self.indexed.get(&id).into_iter().flatten());
        sequences.retain(|sequence| *sequence < before);
        Ok(sequences)
    }
}

impl Companion for SeenIds<'_> {
    fn transaction(
        &mut self,
        id: TransactionId,
        before: Sequence,
    ) -> Result<Option<Transaction>, VerifyError> {
        let sequences = self.find(id, before)?;
        Ok(self.past(id, &sequences)?.map(|past| past.transaction))
    }

    fn prefetch(&self, id: TransactionId) {
        self.filter.prefetch(self.seed.hash(id));
    }

    fn transfer(&mut self, transfer: &PlainTransfer, _: Timestamp) -> Result<(), VerifyError> {
        let (id, hash) = (transfer.transaction_id, self.seed.hash(transfer.transaction_id));
        self.claim(hash, id, transfer.sequence);
        self.note(hash, id, transfer.sequence);
        Ok(())
    }

    fn entry(&mut self, entry: &Entry, _: Timestamp) -> Result<(), VerifyError> {
        for id in entry.command.transaction_ids() {
            self.claim(self.seed.hash(id), id, entry.first_sequence);
        }
        for (sequence, event) in entry.sequenced() {
            for id in [event.transaction_id(), event.referenced_id()].into_iter().flatten() {
                self.note(self.seed.hash(id), id, sequence);
            }
        }
        Ok(())
    }
}

/// A sum over a set of (id, sequence) that does not depend on their order: equal sets have equal sums, and unequal ones
/// practically never do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct IdSum {
    count: u64,
    sum: u128,
}

impl IdSum {
    /// `hash` is the id's, drawn at random for the directory: so the sequence need only be mixed with it.
    fn add(&mut self, hash: u64, sequence: Sequence) {
        self.count += 1;
        let mixed = u128::from(hash) * u128::from(sequence.0 << 1 | 1);
        self.sum = self.sum.wrapping_add(mixed).wrapping_add(u128::from(hash) << 64);
    }
}
