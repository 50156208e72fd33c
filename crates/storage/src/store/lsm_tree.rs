//! The default engine: the pure-Rust LSM tree of crate `lsm-tree`, fed only through its sorted bulk ingestion.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;

use lsm_tree::compaction::Leveled;
use lsm_tree::config::{BlockSizePolicy, CompressionPolicy, PinningPolicy};
use lsm_tree::{AbstractTree, AnyTree, Cache, Config, Guard, IterGuardImpl, SeqNo, SequenceNumberCounter};

use super::{Change, Entry, Run, RunPosition, StateStore, StoreError, StoreOptions};

/// The store's own key: the position of the last run, inside the run itself.
const POSITION_KEY: &[u8] = &[0];
/// Values are packed blocks of about 1 to 64 KiB already: larger blocks of the engine would only be read in vain.
const BLOCK_SIZE_BYTES: u32 = 16 << 10;

/// A state store over one LSM tree.
pub struct LsmTreeStore {
    tree: AnyTree,
    /// One writer at a time: ingestion and compaction do not interleave.
    writer: Mutex<()>,
    directory: PathBuf,
}

impl LsmTreeStore {
    /// Opens the store in this directory, which is made when missing.
    pub fn open(directory: &Path, options: StoreOptions) -> Result<LsmTreeStore, StoreError> {
        let io = |source| StoreError::Io { path: directory.to_owned(), source };
        std::fs::create_dir_all(directory).map_err(io)?;
        let sequence_numbers = SequenceNumberCounter::default();
        let visible = SequenceNumberCounter::default();
        let tree = Config::new(directory, sequence_numbers.clone(), visible.clone())
            .use_cache(Arc::new(Cache::with_capacity_bytes(options.cache_size_bytes)))
            .data_block_size_policy(BlockSizePolicy::all(BLOCK_SIZE_BYTES))
            .data_block_compression_policy(CompressionPolicy::disabled())
            .filter_block_pinning_policy(PinningPolicy::disabled())
            .open()
            .map_err(|error| engine(directory, &error))?;
        // The counters live in memory: they go on after what is on disk.
        if let Some(highest) = tree.get_highest_seqno() {
            sequence_numbers.fetch_max(highest + 1);
            visible.fetch_max(highest + 1);
        }
        Ok(LsmTreeStore { tree, writer: Mutex::new(()), directory: directory.to_owned() })
    }

    fn engine(&self, error: &lsm_tree::Error) -> StoreError {
        engine(&self.directory, error)
    }

    fn entry(&self, guard: IterGuardImpl) -> Result<Entry, StoreError> {
        let (key, value) = guard.into_inner().map_err(|error| self.engine(&error))?;
        Ok((key.to_vec(), value.to_vec()))
    }

    fn check_order(&self, run: &Run) -> Result<(), StoreError> {
        let reserved =
            run.changes.first().is_some_and(|(key, _)| key.is_empty() || key[0] == POSITION_KEY[0]);
        if reserved {
            return Err(StoreError::OutOfOrder("a key is empty or begins with byte 0x00".into()));
        }
        if let Some(pair) = run.changes.windows(2).find(|pair| pair[0].0 >= pair[1].0) {
            return Err(StoreError::OutOfOrder(format!(
                "key {:02x?} does not come before {:02x?}",
                pair[0].0, pair[1].0
            )));
        }
        match self.position()? {
            Some(reached) if reached >= run.position => {
                Err(StoreError::OutOfOrder(format!("position {} after {reached}", run.position)))
            }
            _ => Ok(()),
        }
    }

    fn write(&self, run: Run) -> Result<(), lsm_tree::Error> {
        let mut ingestion = self.tree.ingestion()?;
        ingestion.write(POSITION_KEY, run.position.to_le_bytes().as_slice())?;
        for (key, change) in run.changes {
            match change {
                Change::Put(value) => ingestion.write(key, value)?,
                Change::Delete => ingestion.write_tombstone(key)?,
            }
        }
        ingestion.finish()
    }
}

fn engine(directory: &Path, error: &lsm_tree::Error) -> StoreError {
    StoreError::Engine(format!("{}: {error}", directory.display()))
}

impl StateStore for LsmTreeStore {
    fn position(&self) -> Result<Option<RunPosition>, StoreError> {
        let Some(bytes) = self.get(POSITION_KEY)? else { return Ok(None) };
        let bytes = bytes.try_into().map_err(|_| StoreError::Engine("the position is damaged".into()))?;
        Ok(Some(RunPosition::from_le_bytes(bytes)))
    }

    fn ingest(&self, run: Run) -> Result<(), StoreError> {
        let _writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        self.check_order(&run)?;
        self.write(run).map_err(|error| self.engine(&error))
    }

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let value = self.tree.get(key, SeqNo::MAX).map_err(|error| self.engine(&error))?;
        Ok(value.map(|value| value.to_vec()))
    }

    fn get_many(&self, sorted_keys: &[Vec<u8>]) -> Result<Vec<Option<Vec<u8>>>, StoreError> {
        sorted_keys.iter().map(|key| self.get(key)).collect()
    }

    fn scan(&self, start: &[u8], end: &[u8]) -> Box<dyn Iterator<Item = Result<Entry, StoreError>> + '_> {
        let range = self.tree.range(start.to_vec()..end.to_vec(), SeqNo::MAX, None);
        Box::new(range.map(|guard| self.entry(guard)))
    }

    fn scan_reverse(
        &self,
        start: &[u8],
        end: &[u8],
    ) -> Box<dyn Iterator<Item = Result<Entry, StoreError>> + '_> {
        let range = self.tree.range(start.to_vec()..end.to_vec(), SeqNo::MAX, None);
        Box::new(range.rev().map(|guard| self.entry(guard)))
    }

    fn maintain(&self) -> Result<bool, StoreError> {
        let _writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.tree.current_version().id();
        // Readers take the newest version: nothing older than the last run is ever asked for.
        self.tree.compact(Arc::new(Leveled::default()), SeqNo::MAX).map_err(|error| self.engine(&error))?;
        Ok(self.tree.current_version().id() != before)
    }

    fn size_bytes(&self) -> Result<u64, StoreError> {
        Ok(self.tree.disk_space())
    }
}
