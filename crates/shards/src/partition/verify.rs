//! Proving a journal offline: every checksum and hash, every event applied anew, every command decided anew, and the state
//! store compared with what the events give.

use std::collections::HashMap;
use std::sync::Arc;

use ledger::codec::{Body, CodecError, Entry};
use ledger::{Command, Decision, Digest, Event, Sequence, State, Timestamp, Totals, TransactionId};
use storage::archive::Archiver;
use storage::journal::{Frame, ReadError, Reader};
use storage::memory::prefetch;
use storage::store::{StateStore, StoreError};

use super::id_filter::IdFilter;
use super::id_index::IdSeed;
use super::layout::{self, CheckpointPosition};
use super::past::{self, PastError};
use super::recovery;
use super::replay::for_each_frame;
use super::{OpenError, Options};

/// Entries whose cache misses are made to overlap.
const CHUNK: usize = 32;
/// Events between two reports of progress.
const PROGRESS_EVENTS: u64 = 500_000;

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

/// The first thing that is not as it must be.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The directory cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A frame is damaged, or the chain is broken.
    #[error(transparent)]
    Journal(#[from] ReadError),
    /// The store cannot be read.
    #[error(transparent)]
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

/// Verifies a partition's directory that no server has open. `progress` is called now and then with the last sequence
/// verified, and the last one there is.
pub fn verify(
    options: &Options,
    progress: &mut dyn FnMut(Sequence, Sequence),
) -> Result<VerifyReport, VerifyError> {
    let (reader, recovered) =
        Reader::open_read_only(&recovery::journal_directory(&options.directory)).map_err(OpenError::from)?;
    if let Some(archive) = &options.archive {
        Archiver::attach(&archive.objects, &reader);
    }
    let store = recovery::open_store(options)?;
    let checkpoint = layout::load_position(store.as_ref())?;
    let last = recovery::last_sequence(&reader);
    let mut verifier = Verifier {
        partition: options.partition,
        state: State::new(),
        ids: SeenIds::new(Arc::clone(&store), checkpoint.as_ref(), last),
        reader: reader.clone(),
        commands: 0,
        frames: 0,
    };
    if let Some(checkpoint) = checkpoint.filter(|checkpoint| checkpoint.sequence > last) {
        let (expected, found) = (format!("at most {}", last.0), checkpoint.sequence.0.to_string());
        return Err(verifier.difference(last, "the checkpoint's sequence", expected, found));
    }
    let mut reported = Sequence(0);
    for_each_frame(&reader, reader.first_index(), |frame| {
        verifier.frame(frame)?;
        if checkpoint.is_some_and(|checkpoint| checkpoint.sequence == verifier.state.sequence()) {
            verifier.compare_with_store(store.as_ref(), checkpoint.as_ref())?;
        }
        if verifier.state.sequence().0 - reported.0 >= PROGRESS_EVENTS {
            reported = verifier.state.sequence();
            progress(reported, last);
        }
        Ok::<(), VerifyError>(())
    })?;
    progress(verifier.state.sequence(), last);
    verifier.check_totals()?;
    Ok(VerifyReport {
        frames: verifier.frames,
        commands: verifier.commands,
        events: verifier.state.sequence().0,
        sequence: verifier.state.sequence(),
        timestamp: verifier.state.timestamp(),
        totals: verifier.state.totals(),
        digest: verifier.state.digest(),
        checkpoint: checkpoint.map(|checkpoint| checkpoint.sequence),
        torn_bytes: recovered.torn_tail_bytes,
    })
}

struct Verifier {
    partition: u32,
    state: State,
    ids: SeenIds,
    reader: Reader,
    commands: u64,
    frames: u64,
}

impl Verifier {
    fn frame(&mut self, frame: &Frame) -> Result<(), VerifyError> {
        self.frames += 1;
        if frame.sequence_count() == 0 {
            return Ok(());
        }
        let first = Sequence(frame.first_sequence().0);
        if first != self.state.sequence().next() {
            let expected = self.state.sequence().next().0.to_string();
            return Err(self.difference(
                first,
                "the first sequence of a frame",
                expected,
                first.0.to_string(),
            ));
        }
        let timestamp = Timestamp::from_micros(frame.timestamp_us());
        let in_body = |error| VerifyError::Body { sequence: first.0, error };
        let body = Body::parse(frame.body(), first).map_err(in_body)?;
        let mut entries = body.entries();
        let mut chunk = Vec::with_capacity(CHUNK);
        loop {
            chunk.clear();
            for entry in entries.by_ref().take(CHUNK) {
                chunk.push(entry.map_err(in_body)?);
            }
            if chunk.is_empty() {
                return Ok(());
            }
            self.prefetch(&chunk);
            for entry in &chunk {
                self.entry(entry, timestamp)?;
            }
        }
    }

    /// Asks for the cache lines that the chunk will need: their loads overlap.
    fn prefetch(&self, chunk: &[Entry]) {
        for entry in chunk {
            if let Command::Transfer(transfer) = &entry.command {
                prefetch(self.state.address(&transfer.from));
                prefetch(self.state.address(&transfer.to));
                self.ids.filter.prefetch(self.ids.seed.hash(transfer.transaction_id));
            }
        }
    }

    fn entry(&mut self, entry: &Entry, timestamp: Timestamp) -> Result<(), VerifyError> {
        self.commands += 1;
        self.decide_again(entry, timestamp)?;
        for (sequence, event) in entry.sequenced() {
            if let Err(why) = self.state.try_apply(timestamp, event) {
                let found = format!("{event:?} ({why})");
                return Err(self.difference(
                    sequence,
                    "an event that follows the state",
                    "one that fits".into(),
                    found,
                ));
            }
            self.ids.note(event, sequence);
        }
        Ok(())
    }

    fn decide_again(&self, entry: &Entry, timestamp: Timestamp) -> Result<(), VerifyError> {
        let own = entry.command.transaction_id();
        let legs = match &entry.command {
            Command::Group(group) => group.legs.as_slice(),
            _ => &[],
        };
        for id in own.into_iter().chain(legs.iter().map(|leg| leg.transaction_id)) {
            if let Some(first) = self.ids.find(id, entry.first_sequence)?.first() {
                let found = format!("{id} at sequence {} and again here", first.0);
                let what = "a transaction_id is executed once";
                return Err(self.difference(entry.first_sequence, what, "a new id".into(), found));
            }
        }
        let referenced = match entry.command.referenced_id() {
            Some(id) if self.state.hold(id).is_none() => {
                let sequences = self.ids.find(id, entry.first_sequence)?;
                past::read(&self.reader, id, &sequences)?.map(|past| past.transaction)
            }
            _ => None,
        };
        match self.state.decide(&entry.command, timestamp, referenced.as_ref()) {
            Decision::Accepted(events) if events == entry.events => Ok(()),
            other => {
                let what = format!("the events of {:?}", entry.command);
                let (expected, found) = (format!("{other:?}"), format!("{:?}", entry.events.as_slice()));
                Err(self.difference(entry.first_sequence, &what, expected, found))
            }
        }
    }

    /// The checkpoint must be the state as of its sequence, and the index must name just the ids of the events until there.
    fn compare_with_store(
        &self,
        store: &dyn StateStore,
        checkpoint: Option<&CheckpointPosition>,
    ) -> Result<(), VerifyError> {
        let Some(checkpoint) = checkpoint else { return Ok(()) };
        let (expected, found) = (self.state.digest(), layout::load_state(store, checkpoint)?.digest());
        if expected != found {
            let (expected, found) = (expected.to_string(), found.to_string());
            return Err(self.difference(
                checkpoint.sequence,
                "the digest of the checkpoint",
                expected,
                found,
            ));
        }
        let mut indexed = IdSum::default();
        layout::for_each_id(store, |id, sequence| indexed.add(checkpoint.seed, id, sequence))?;
        if indexed != self.ids.sum {
            let (expected, found) = (format!("{:?}", self.ids.sum), format!("{indexed:?}"));
            return Err(self.difference(
                checkpoint.sequence,
                "the index of transaction_ids",
                expected,
                found,
            ));
        }
        Ok(())
    }

    fn check_totals(&self) -> Result<(), VerifyError> {
        match self.state.totals().into_iter().find(|total| total.sum != 0) {
            None => Ok(()),
            Some(Totals { currency, sum }) => {
                let what = format!("the sum of all accounts in {currency}");
                Err(self.difference(self.state.sequence(), &what, "0".into(), sum.to_string()))
            }
        }
    }

    fn difference(&self, sequence: Sequence, what: &str, expected: String, found: String) -> VerifyError {
        let what = what.to_owned();
        VerifyError::Difference(Box::new(Difference {
            partition: self.partition,
            sequence,
            what,
            expected,
            found,
        }))
    }
}

/// The ids of the events verified so far. Exact answers come from the store up to its checkpoint, and from memory after it.
struct SeenIds {
    seed: IdSeed,
    filter: IdFilter,
    store: Arc<dyn StateStore>,
    checkpoint: Sequence,
    tail: HashMap<TransactionId, Vec<Sequence>>,
    /// Of the events up to the checkpoint.
    sum: IdSum,
}

impl SeenIds {
    fn new(store: Arc<dyn StateStore>, checkpoint: Option<&CheckpointPosition>, last: Sequence) -> SeenIds {
        SeenIds {
            seed: checkpoint.map_or(IdSeed(0), |checkpoint| checkpoint.seed),
            // Hardly any event is about two ids.
            filter: IdFilter::with_room_for(last.0),
            store,
            checkpoint: checkpoint.map_or(Sequence(0), |checkpoint| checkpoint.sequence),
            tail: HashMap::new(),
            sum: IdSum::default(),
        }
    }

    fn note(&mut self, event: &Event, sequence: Sequence) {
        for id in [event.transaction_id(), event.referenced_id()].into_iter().flatten() {
            if self.filter.is_full_with(1) {
                self.filter = self.filter.doubled();
            }
            self.filter.insert(self.seed.hash(id));
            if sequence <= self.checkpoint {
                self.sum.add(self.seed, id, sequence);
            } else {
                self.tail.entry(id).or_default().push(sequence);
            }
        }
    }

    /// The events about the id before this sequence, ascending.
    fn find(&self, id: TransactionId, before: Sequence) -> Result<Vec<Sequence>, StoreError> {
        let hash = self.seed.hash(id);
        if !self.filter.may_contain(hash) {
            return Ok(Vec::new());
        }
        let mut sequences = layout::find_id(self.store.as_ref(), id, hash)?;
        sequences.extend(self.tail.get(&id).into_iter().flatten());
        sequences.retain(|sequence| *sequence < before);
        Ok(sequences)
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
    fn add(&mut self, seed: IdSeed, id: TransactionId, sequence: Sequence) {
        self.count += 1;
        let mixed = seed
            .hash(TransactionId(id.0.wrapping_add(u128::from(sequence.0) << 64 | u128::from(sequence.0))));
        self.sum = self.sum.wrapping_add(u128::from(mixed) << 32 ^ u128::from(seed.hash(id)));
    }
}
