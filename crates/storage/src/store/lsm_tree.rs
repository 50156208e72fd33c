//! The default engine: the pure-Rust LSM tree of crate `lsm-tree`, fed only through its sorted bulk ingestion.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;

use lsm_tree::compaction::Leveled;
use lsm_tree::config::{BlockSizePolicy, CompressionPolicy, PinningPolicy};
use lsm_tree::{AbstractTree, AnyTree, Cache, Config, Guard, IterGuardImpl, SeqNo, SequenceNumberCounter};

use super::engine::Marker;
use super::{
    Change, Changes, Entry, KeyOrder, POSITION_KEY, RunPosition, StateStore, StoreError, StoreOptions,
    check_position, decode_position,
};

/// Values are packed blocks of about 1 to 64 KiB already: larger blocks of the engine would only be read in vain.
const BLOCK_SIZE_BYTES: u32 = 16 << 10;

/// A state store over one LSM tree.
pub(super) struct LsmTreeStore {
    tree: AnyTree,
    /// One writer at a time: ingestion and compaction do not interleave.
    writer: Mutex<()>,
    directory: PathBuf,
}

impl LsmTreeStore {
    /// Opens the store in this directory, or makes it there when the marker says that there is none yet.
    pub(super) fn open(
        directory: &Path,
        options: &StoreOptions,
        marker: &Marker,
    ) -> Result<LsmTreeStore, StoreError> {
        if marker.is_made {
            check_version(directory)?;
        }
        let sequence_numbers = SequenceNumberCounter::default();
        let visible = SequenceNumberCounter::default();
        let tree = Config::new(directory, sequence_numbers.clone(), visible.clone())
            .use_cache(Arc::new(Cache::with_capacity_bytes(options.cache_size_bytes)))
            .data_block_size_policy(BlockSizePolicy::all(BLOCK_SIZE_BYTES))
            .data_block_compression_policy(CompressionPolicy::disabled())
            .filter_block_pinning_policy(PinningPolicy::disabled())
            .open()
            .map_err(|error| engine(directory, error))?;
        // The counters live in memory: they go on after what is on disk.
        if let Some(highest) = tree.get_highest_seqno() {
            sequence_numbers.fetch_max(highest + 1);
            visible.fetch_max(highest + 1);
        }
        Ok(LsmTreeStore { tree, writer: Mutex::new(()), directory: directory.to_owned() })
    }

    fn engine(&self, error: lsm_tree::Error) -> StoreError {
        engine(&self.directory, error)
    }

    fn entry(&self, guard: IterGuardImpl) -> Result<Entry, StoreError> {
        let (key, value) = guard.into_inner().map_err(|error| self.engine(error))?;
        Ok((key.to_vec(), value.to_vec()))
    }
}

fn engine(directory: &Path, error: lsm_tree::Error) -> StoreError {
    match error {
        lsm_tree::Error::Io(source) => StoreError::Io { path: directory.to_owned(), source },
        error => StoreError::Engine(format!("{}: {error}", directory.display())),
    }
}

/// The file `current` names the file that lists all tables, with its checksum, which the engine writes and does not read: a
/// damaged list could name other tables than there were.
///
/// ```text
/// 0   8   number n: the list is the file vn
/// 8   16  XXH3 of that file, little-endian as the number
/// 24  1   0
/// ```
fn check_version(directory: &Path) -> Result<(), StoreError> {
    let read = |path: PathBuf| std::fs::read(&path).map_err(|source| StoreError::Io { path, source });
    let damaged = |what: &str| StoreError::Engine(format!("{}: {what} is damaged", directory.display()));
    let current = read(directory.join("current"))?;
    let (number, rest) = current.split_first_chunk().ok_or_else(|| damaged("the file `current`"))?;
    let (checksum, kind) = rest.split_first_chunk().ok_or_else(|| damaged("the file `current`"))?;
    if kind != [0] {
        return Err(damaged("the file `current`"));
    }
    let name = format!("v{}", u64::from_le_bytes(*number));
    let list = read(directory.join(&name))?;
    if xxhash_rust::xxh3::xxh3_128(&list) != u128::from_le_bytes(*checksum) {
        return Err(damaged(&format!("the list of tables `{name}`, or its checksum in `current`,")));
    }
    Ok(())
}

impl StateStore for LsmTreeStore {
    fn position(&self) -> Result<Option<RunPosition>, StoreError> {
        self.get(POSITION_KEY)?.as_deref().map(decode_position).transpose()
    }

    fn ingest_from(&self, position: RunPosition, changes: &mut Changes<'_>) -> Result<(), StoreError> {
        let _writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        check_position(self.position()?, position)?;
        let mut order = KeyOrder::default();
        // Without its end an ingestion leaves files that no list of tables names: the next start removes them.
        let mut ingestion = self.tree.ingestion().map_err(|error| self.engine(error))?;
        let put_position = ingestion.write(POSITION_KEY, position.to_le_bytes().as_slice());
        put_position.map_err(|error| self.engine(error))?;
        for change in changes {
            let (key, change) = change?;
            order.check(&key)?;
            let written = match change {
                Change::Put(value) => ingestion.write(key, value),
                Change::Delete => ingestion.write_tombstone(key),
            };
            written.map_err(|error| self.engine(error))?;
        }
        ingestion.finish().map_err(|error| self.engine(error))
    }

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let value = self.tree.get(key, SeqNo::MAX).map_err(|error| self.engine(error))?;
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
        self.tree.compact(Arc::new(Leveled::default()), SeqNo::MAX).map_err(|error| self.engine(error))?;
        Ok(self.tree.current_version().id() != before)
    }

    fn size_bytes(&self) -> Result<u64, StoreError> {
        Ok(self.tree.disk_space())
    }
}
