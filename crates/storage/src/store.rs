//! The file-based state store: sorted runs ingested together with the journal position that they reach.
//!
//! The journal is the store's write-ahead log, so the store has none of its own: what a crash loses here is built again
//! from the journal. Nothing is ever written key by key; a background thread builds sorted [`Run`]s and ingests each one
//! atomically with its position.

mod lsm_tree;

pub use lsm_tree::LsmTreeStore;

use std::path::PathBuf;

/// The sequence of the last event that a run takes in. Stored inside the run, so that data and position are atomic.
pub type RunPosition = u64;

/// One change of one key in a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The key has this value from now on.
    Put(Vec<u8>),
    /// The key is gone.
    Delete,
}

/// Sorted changes that become visible and durable all together, or not at all.
#[derive(Debug, Default)]
pub struct Run {
    /// The position that the store has reached once this run is in.
    pub position: RunPosition,
    /// Strictly ascending by key. No key may be empty or begin with byte 0x00, which is the store's own.
    pub changes: Vec<(Vec<u8>, Change)>,
}

/// How an engine is set up.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// Memory for blocks that were read.
    pub cache_size_bytes: u64,
}

impl Default for StoreOptions {
    fn default() -> StoreOptions {
        StoreOptions { cache_size_bytes: 64 << 20 }
    }
}

/// Why the store failed. Every variant but [`StoreError::OutOfOrder`] is fatal for a writer.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The directory cannot be used.
    #[error("state store {path}: {source}")]
    Io {
        /// The directory or file concerned.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The engine reported an error, damage included.
    #[error("state store engine: {0}")]
    Engine(String),
    /// A run was not strictly ascending, or did not advance the position.
    #[error("run out of order: {0}")]
    OutOfOrder(String),
}

/// A key and its value.
pub type Entry = (Vec<u8>, Vec<u8>);

/// The port that every engine implements. One writer, any number of readers; all methods are safe to call from any thread.
pub trait StateStore: Send + Sync {
    /// The position of the last run ingested; `None` for an empty store.
    fn position(&self) -> Result<Option<RunPosition>, StoreError>;

    /// Makes a run visible and durable atomically with its position. Returns once it is on disk.
    fn ingest(&self, run: Run) -> Result<(), StoreError>;

    /// The value of one key.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;

    /// The values of many keys, given in ascending order, answered in that order.
    fn get_many(&self, sorted_keys: &[Vec<u8>]) -> Result<Vec<Option<Vec<u8>>>, StoreError>;

    /// Entries with `start <= key < end`, ascending. An iterator sees the store as it was when it was made.
    fn scan(&self, start: &[u8], end: &[u8]) -> Box<dyn Iterator<Item = Result<Entry, StoreError>> + '_>;

    /// The same, descending.
    fn scan_reverse(
        &self,
        start: &[u8],
        end: &[u8],
    ) -> Box<dyn Iterator<Item = Result<Entry, StoreError>> + '_>;

    /// Does outstanding background work (compaction) that is due now, at most one step; true when it did something.
    fn maintain(&self) -> Result<bool, StoreError>;

    /// Bytes on disk.
    fn size_bytes(&self) -> Result<u64, StoreError>;
}
