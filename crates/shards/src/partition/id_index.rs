//! Every transaction_id ever used, and the events about it: exactly once rests on this.
//!
//! Look-ups go from cheap to dear: filters say "never used" for nearly every id; then the windows not yet in the store; then the
//! store's permanent index. Each window has a filter of its own, small enough for the processor's cache. When the checkpoint's
//! builder has the window in the store, it has its ids in the permanent filter as well: the state thread inserts nothing there.

use std::sync::{Arc, OnceLock};

use crossbeam_channel::Receiver;
use ledger::{Sequence, TransactionId};
use storage::store::{StateStore, StoreError};

use super::id_filter::IdFilter;
use super::layout;
use super::window::Window;

/// A full window on its way into the store.
#[derive(Debug)]
pub(super) struct SealedWindow {
    pub(super) window: Window,
    /// The permanent filter, set once it and the store hold the window's ids: from then on they answer for it.
    pub(super) ingested: OnceLock<Arc<IdFilter>>,
}

pub(super) struct IdIndex {
    seed: IdSeed,
    /// Of every id in the store.
    filter: Arc<IdFilter>,
    pub(super) current: Window,
    sealed: Vec<Arc<SealedWindow>>,
    /// Empty windows, as the checkpoint's builder has them ready.
    spare: Receiver<Window>,
    store: Arc<dyn StateStore>,
}

/// Drawn at random for each data directory, so that nobody can choose ids that collide.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct IdSeed(pub(super) u64);

impl IdSeed {
    /// As many bits as the index keeps; the lowest are zero.
    pub(super) fn hash(self, id: TransactionId) -> u64 {
        let fold = |one: u64, two: u64| {
            let product = u128::from(one) * u128::from(two);
            product as u64 ^ (product >> 64) as u64
        };
        let upper = (id.0 >> 64) as u64;
        let lower = id.0 as u64;
        let mixed = fold(upper ^ self.0, 0xa076_1d64_78bd_642f) ^ lower;
        fold(mixed ^ self.0.rotate_left(32), 0xe703_7ed1_a0b4_28db) & !0 << (u64::BITS - layout::HASH_BITS)
    }
}

impl IdIndex {
    pub(super) fn new(
        seed: IdSeed,
        filter: Arc<IdFilter>,
        current: Window,
        spare: Receiver<Window>,
        store: Arc<dyn StateStore>,
    ) -> IdIndex {
        IdIndex { seed, filter, current, sealed: Vec::new(), spare, store }
    }

    pub(super) fn hash(&self, id: TransactionId) -> u64 {
        self.seed.hash(id)
    }

    /// Asks for the cache lines that looking up and inserting an id with this hash will need.
    pub(super) fn prefetch(&self, hash: u64) {
        self.filter.prefetch(hash);
        self.current.filter.prefetch(hash);
        self.sealed.iter().for_each(|sealed| sealed.window.filter.prefetch(hash));
    }

    /// False: the id was never used.
    pub(super) fn may_contain(&self, hash: u64) -> bool {
        self.current.filter.may_contain(hash)
            || self.filter.may_contain(hash)
            || self.sealed.iter().any(|sealed| sealed.window.filter.may_contain(hash))
    }

    /// The sequences of every event about the id, ascending. Among them may be events about another id with the same hash, however
    /// unlikely that is: [`super::past::read`] leaves them out.
    pub(super) fn find(&self, id: TransactionId) -> Result<Vec<Sequence>, StoreError> {
        let hash = self.hash(id);
        if !self.may_contain(hash) {
            return Ok(Vec::new());
        }
        // An id that was used lately is in a window alone, which is far quicker to look into.
        let mut sequences = match self.filter.may_contain(hash) {
            true => layout::find_hash(self.store.as_ref(), hash)?,
            false => Vec::new(),
        };
        for sealed in &self.sealed {
            sealed.window.find(id, hash, &mut sequences);
        }
        self.current.find(id, hash, &mut sequences);
        // A window that has just been ingested is seen twice.
        sequences.sort_unstable();
        sequences.dedup();
        Ok(sequences)
    }

    /// Notes that the event at `sequence` is about the id.
    pub(super) fn insert(&mut self, id: TransactionId, hash: u64, sequence: Sequence) {
        self.current.insert(id, hash, sequence);
    }

    /// Starts a new window and returns the full one, which stays searchable until it is ingested.
    pub(super) fn cut(&mut self, events_max: usize) -> Arc<SealedWindow> {
        let next = self.spare.try_recv().unwrap_or_else(|_| Window::new(events_max));
        let next = next.after(self.current.last_sequence, self.current.timestamp);
        let window = std::mem::replace(&mut self.current, next);
        let sealed = Arc::new(SealedWindow { window, ingested: OnceLock::new() });
        self.sealed.push(Arc::clone(&sealed));
        sealed
    }

    /// Leaves windows that the store and the permanent filter answer for to them.
    pub(super) fn settle(&mut self) {
        let settled = |sealed: &mut Arc<SealedWindow>| sealed.ingested.get().is_some();
        for sealed in self.sealed.extract_if(.., settled) {
            self.filter = Arc::clone(sealed.ingested.get().expect("only settled windows were taken"));
        }
    }

    pub(super) fn filter_size_bytes(&self) -> usize {
        let windows = self.sealed.iter().map(|sealed| &sealed.window).chain([&self.current]);
        self.filter.size_bytes() + windows.map(|window| window.filter.size_bytes()).sum::<usize>()
    }
}
