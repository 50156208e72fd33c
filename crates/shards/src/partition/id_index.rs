//! Every transaction_id ever used, and the events about it: exactly once rests on this.
//!
//! Look-ups go from cheap to dear: a filter over all ids says "never used" for nearly every one; for the others it names the *runs* that
//! may have them: windows that are not in the store yet, or runs of the store's permanent index. Only those are looked into, so that
//! neither a false alarm nor a repeat becomes dearer as the ledger grows.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_channel::Receiver;
use ledger::{Sequence, TransactionId};
use storage::store::{StateStore, StoreError};

use super::id_filter::IdFilter;
use super::layout;
use super::window::Window;

/// A run's number, as far as the filter notes it.
pub(super) type RunTag = u8;

/// A full window on its way into the store.
#[derive(Debug)]
pub(super) struct SealedWindow {
    pub(super) window: Window,
    /// True once the store holds the window's ids: from then on it answers for them.
    pub(super) ingested: AtomicBool,
}

pub(super) struct IdIndex {
    seed: IdSeed,
    stored: StoredIds,
    pub(super) current: Window,
    sealed: Vec<Arc<SealedWindow>>,
    /// Empty windows, as the checkpoint's builder has them ready.
    spare: Receiver<Window>,
    store: Arc<dyn StateStore>,
}

/// What is in memory of ids in the store, and of those on their way to it.
#[derive(Debug)]
pub(super) struct StoredIds {
    filter: IdFilter,
    /// The last sequence of every run, by number. A run is what became of a window, and the current window is the next one.
    run_ends: Vec<Sequence>,
}

impl StoredIds {
    /// For a ledger that has so many ids, to be inserted now, and more to come.
    pub(super) fn of_ledger(ids: u64) -> StoredIds {
        StoredIds { filter: IdFilter::of_ledger(ids), run_ends: Vec::new() }
    }

    /// Adds a run that ends with this sequence; its number.
    pub(super) fn add_run(&mut self, end: Sequence) -> usize {
        self.run_ends.push(end);
        self.run_ends.len() - 1
    }

    pub(super) fn insert(&mut self, hash: u64, run: usize) {
        self.filter.insert(hash, run as RunTag);
    }

    /// The numbers of runs that may have the id, the next one included.
    fn runs_of(&self, hash: u64) -> impl Iterator<Item = usize> {
        let tags = self.filter.tags(hash).into_iter().map(usize::from);
        tags.flat_map(|tag| (tag..=self.run_ends.len()).step_by(1 + usize::from(RunTag::MAX)))
    }
}

/// Drawn at random for each data directory, so that nobody can choose ids that collide.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct IdSeed(pub(super) u64);

impl IdSeed {
    pub(super) fn hash(self, id: TransactionId) -> u64 {
        let fold = |one: u64, two: u64| {
            let product = u128::from(one) * u128::from(two);
            product as u64 ^ (product >> 64) as u64
        };
        let upper = (id.0 >> 64) as u64;
        let lower = id.0 as u64;
        let mixed = fold(upper ^ self.0, 0xa076_1d64_78bd_642f) ^ lower;
        fold(mixed ^ self.0.rotate_left(32), 0xe703_7ed1_a0b4_28db)
    }
}

impl IdIndex {
    pub(super) fn new(
        seed: IdSeed,
        stored: StoredIds,
        current: Window,
        spare: Receiver<Window>,
        store: Arc<dyn StateStore>,
    ) -> IdIndex {
        IdIndex { seed, stored, current, sealed: Vec::new(), spare, store }
    }

    pub(super) fn hash(&self, id: TransactionId) -> u64 {
        self.seed.hash(id)
    }

    /// Asks for the cache line that looking up and inserting an id with this hash will need.
    pub(super) fn prefetch(&self, hash: u64) {
        self.stored.filter.prefetch(hash);
    }

    /// False: the id was never used.
    pub(super) fn may_contain(&self, hash: u64) -> bool {
        self.stored.filter.may_contain(hash)
    }

    /// The sequences of every event about the id, ascending.
    pub(super) fn find(&self, id: TransactionId) -> Result<Vec<Sequence>, StoreError> {
        let hash = self.hash(id);
        let mut sequences = Vec::new();
        for run in self.stored.runs_of(hash) {
            let Some(end) = self.stored.run_ends.get(run) else {
                self.current.find(id, hash, &mut sequences);
                continue;
            };
            match self.sealed.iter().find(|sealed| sealed.window.last_sequence == *end) {
                Some(sealed) => sealed.window.find(id, hash, &mut sequences),
                None => layout::find_id_in(self.store.as_ref(), id, hash, *end, &mut sequences)?,
            }
        }
        sequences.sort_unstable();
        Ok(sequences)
    }

    /// Notes that the event at `sequence` is about the id.
    pub(super) fn insert(&mut self, id: TransactionId, hash: u64, sequence: Sequence) {
        self.stored.insert(hash, self.stored.run_ends.len());
        self.current.insert(id, hash, sequence);
    }

    /// Starts a new window and returns the full one, which stays searchable until it is ingested.
    pub(super) fn cut(&mut self, events_max: usize) -> Arc<SealedWindow> {
        let next = self.spare.try_recv().unwrap_or_else(|_| Window::new(events_max));
        let next = next.after(self.current.last_sequence, self.current.timestamp);
        let window = std::mem::replace(&mut self.current, next);
        self.stored.add_run(window.last_sequence);
        let sealed = Arc::new(SealedWindow { window, ingested: AtomicBool::new(false) });
        self.sealed.push(Arc::clone(&sealed));
        sealed
    }

    /// Leaves windows that the store answers for to it.
    pub(super) fn settle(&mut self) {
        self.sealed.retain(|sealed| !sealed.ingested.load(Ordering::Acquire));
    }

    pub(super) fn filter_size_bytes(&self) -> usize {
        self.stored.filter.size_bytes()
    }
}
