//! The file-based state store: sorted runs ingested together with the journal position that they reach.
//!
//! The journal is the store's write-ahead log, so the store has none of its own: what a crash loses here is built again
//! from the journal. Nothing is ever written key by key; a background thread builds sorted [`Run`]s and ingests each one
//! atomically with its position.
//!
//! Two engines keep the files: `lsm-tree` always, RocksDB with the cargo feature `rocksdb`. A store remembers which one made it.

mod engine;
mod groups;
mod lsm_tree;
mod read_only;
#[cfg(feature = "rocksdb")]
mod rocksdb;
mod value;

pub use engine::Engine;
pub use groups::Groups;
pub use read_only::open_read_only;
pub use value::{Cursor, put_number, put_signed};

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use engine::Marker;

/// The sequence of the last event that a run takes in. Stored inside the run, so that data and position are atomic.
pub type RunPosition = u64;

/// The longest key, in bytes.
pub const KEY_SIZE_BYTES_MAX: usize = 65_535;

/// How often compaction that is behind is looked at: engines tell nobody when it has caught up.
const COMPACTION_POLL: Duration = Duration::from_millis(10);

/// The store's own key: the position of the last run, inside the run itself.
const POSITION_KEY: &[u8] = &[0];

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
    /// Strictly ascending by key. A key has 1 to [`KEY_SIZE_BYTES_MAX`] bytes and does not begin with byte 0x00, which is the
    /// store's own.
    pub changes: Vec<(Vec<u8>, Change)>,
}

/// Changes of a run that are made while they are written, sorted as those of a [`Run`]. The first error ends the run, of which nothing
/// becomes visible.
pub type Changes<'run> = dyn Iterator<Item = Result<(Vec<u8>, Change), StoreError>> + 'run;

/// Checks keys as they come.
#[derive(Default)]
struct KeyOrder {
    last: Vec<u8>,
}

impl KeyOrder {
    fn check(&mut self, key: &[u8]) -> Result<(), StoreError> {
        if key.is_empty() || key.len() > KEY_SIZE_BYTES_MAX || key[0] == POSITION_KEY[0] {
            let start = &key[..key.len().min(16)];
            return Err(StoreError::InvalidRun(format!(
                "a key has 1 to {KEY_SIZE_BYTES_MAX} bytes and does not begin with 0x00; this one has {} and begins {start:02x?}",
                key.len()
            )));
        }
        if key <= self.last.as_slice() {
            let why = format!("key {:02x?} does not come before {key:02x?}", self.last);
            return Err(StoreError::InvalidRun(why));
        }
        self.last.clear();
        self.last.extend_from_slice(key);
        Ok(())
    }
}

fn check_position(reached: Option<RunPosition>, position: RunPosition) -> Result<(), StoreError> {
    match reached {
        Some(reached) if reached >= position => {
            Err(StoreError::InvalidRun(format!("position {position} after {reached}")))
        }
        _ => Ok(()),
    }
}

fn decode_position(bytes: &[u8]) -> Result<RunPosition, StoreError> {
    let bytes = bytes.try_into().map_err(|_| StoreError::Engine("the position is damaged".into()))?;
    Ok(RunPosition::from_le_bytes(bytes))
}

/// How a store is set up.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// Which engine keeps the files.
    pub engine: Engine,
    /// Memory for blocks that were read.
    pub cache_size_bytes: u64,
}

impl Default for StoreOptions {
    fn default() -> StoreOptions {
        StoreOptions { engine: Engine::LsmTree, cache_size_bytes: 64 << 20 }
    }
}

/// Why the store failed. Every variant but [`StoreError::InvalidRun`] is fatal for a writer.
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
    /// The directory does not say which engine made it, though it holds files.
    #[error("state store {path}: {why}")]
    Marker {
        /// The directory.
        path: PathBuf,
        /// What is wrong with its file `ENGINE`.
        why: String,
    },
    /// The store was made by another engine.
    #[error(
        "state store {path} was made by the engine {found}, and is to be opened by {wanted}: choose {found} again"
    )]
    OtherEngine {
        /// The directory.
        path: PathBuf,
        /// Who made it.
        found: Engine,
        /// Who was to open it.
        wanted: Engine,
    },
    /// This program was built without the engine.
    #[error("this program was built without the engine {0}; build it with the cargo feature `{0}`")]
    NotBuiltIn(Engine),
    /// A run that cannot follow: keys out of order, or a position that does not advance. Nothing was changed.
    #[error("run refused: {0}")]
    InvalidRun(String),
}

/// A key and its value.
pub type Entry = (Vec<u8>, Vec<u8>);

/// The port that every engine implements. One writer, any number of readers; all methods are safe to call from any thread.
pub trait StateStore: Send + Sync {
    /// The position of the last run ingested; `None` for an empty store.
    fn position(&self) -> Result<Option<RunPosition>, StoreError>;

    /// Makes a run visible and durable atomically with its position. Returns once it is on disk.
    fn ingest(&self, run: Run) -> Result<(), StoreError> {
        self.ingest_from(run.position, &mut run.changes.into_iter().map(Ok))
    }

    /// As [`StateStore::ingest`], with changes that are made one after the other: a large run never lies in memory as a whole.
    fn ingest_from(&self, position: RunPosition, changes: &mut Changes<'_>) -> Result<(), StoreError>;

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

    /// Whether compaction, which an engine does on threads of its own, is too far behind the runs ingested. An error when it has failed.
    fn is_compaction_behind(&self) -> Result<bool, StoreError>;

    /// Waits while it is.
    fn wait_for_compaction(&self) -> Result<(), StoreError> {
        while self.is_compaction_behind()? {
            thread::sleep(COMPACTION_POLL);
        }
        Ok(())
    }

    /// Bytes on disk.
    fn size_bytes(&self) -> Result<u64, StoreError>;
}

/// Opens the store in this directory, or makes it when the directory is missing or empty.
///
/// ```
/// use storage::store::{self, Change, Run, StoreOptions};
///
/// let directory = tempfile::tempdir()?;
/// let store = store::open(directory.path(), &StoreOptions::default())?;
/// store.ingest(Run { position: 7, changes: vec![(b"key".to_vec(), Change::Put(b"value".to_vec()))] })?;
/// assert_eq!(store.position()?, Some(7));
/// assert_eq!(store.get(b"key")?.as_deref(), Some(b"value".as_slice()));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn open(directory: &Path, options: &StoreOptions) -> Result<Arc<dyn StateStore>, StoreError> {
    if !options.engine.is_built_in() {
        return Err(StoreError::NotBuiltIn(options.engine));
    }
    let marker = Marker::read(directory, options.engine)?;
    let store: Arc<dyn StateStore> = match options.engine {
        Engine::LsmTree => Arc::new(lsm_tree::LsmTreeStore::open(directory, options, &marker)?),
        #[cfg(feature = "rocksdb")]
        Engine::RocksDb => Arc::new(rocksdb::RocksDbStore::open(directory, options, &marker)?),
        #[cfg(not(feature = "rocksdb"))]
        Engine::RocksDb => return Err(StoreError::NotBuiltIn(Engine::RocksDb)),
    };
    marker.made()?;
    Ok(store)
}
