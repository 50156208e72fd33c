//! The default engine: the pure-Rust LSM tree of crate `lsm-tree`, fed only through its sorted bulk ingestion, and compacted by a thread
//! of its own, so that no run waits for a merge.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use lsm_tree::compaction::filter::Context;
use lsm_tree::compaction::{CompactionFilter, Factory, ItemAccessor, Leveled, Verdict};
use lsm_tree::config::{BlockSizePolicy, CompressionPolicy, PinningPolicy};
use lsm_tree::{AbstractTree, AnyTree, Cache, Config, Guard, IterGuardImpl, SeqNo, SequenceNumberCounter};

use super::engine::Marker;
use super::{
    Change, Changes, Entry, KeyOrder, POSITION_KEY, RunPosition, StateStore, StoreError, StoreOptions,
    check_position, decode_position,
};

/// Values are packed blocks of about 1 to 64 KiB already: larger blocks of the engine would only be read in vain.
const BLOCK_SIZE_BYTES: u32 = 16 << 10;
/// While runs keep coming, so many are merged at a time. Keys of a run lie all over the tree, so that every merge rewrites most of what
/// it merges into: the more runs at a time, the less often. A scan looks into each of them meanwhile.
const RUNS_PER_MERGE_BUSY: u8 = 32;
/// When no run has come for a while.
const RUNS_PER_MERGE_QUIET: u8 = 8;
const QUIET_AFTER: Duration = Duration::from_secs(5);
/// The size of the first level that runs are merged into; each level below has ten times as much.
const LEVEL_SIZE_BYTES: u64 = 1 << 30;
/// With more unmerged runs than this, merging is behind.
const UNMERGED_RUNS_MAX: usize = 2 * RUNS_PER_MERGE_BUSY as usize;

/// A state store over one LSM tree.
pub(super) struct LsmTreeStore {
    tree: AnyTree,
    /// One ingestion at a time.
    writer: Mutex<()>,
    compactor: Compactor,
    directory: PathBuf,
}

/// The thread that merges. It ends when this is dropped, and leaves the merge that it is at.
struct Compactor {
    /// Told of new runs; `None` at the end.
    runs: Option<Sender<()>>,
    stop: Arc<AtomicBool>,
    failure: Arc<OnceLock<String>>,
    thread: Option<JoinHandle<()>>,
}

impl Compactor {
    /// `stop` is that of the tree's [`StoppableCompaction`].
    fn start(tree: AnyTree, stop: Arc<AtomicBool>) -> std::io::Result<Compactor> {
        // One word is enough however many runs there are.
        let (runs, told) = bounded(1);
        let failure = Arc::new(OnceLock::new());
        let (stopped, failed) = (Arc::clone(&stop), Arc::clone(&failure));
        let thread = thread::Builder::new().name("jigap-compactor".to_owned()).spawn(move || {
            if let Err(error) = merge_runs(&tree, &told)
                && !stopped.load(Ordering::Relaxed)
            {
                failed.set(error.to_string()).expect("the thread fails once");
            }
        })?;
        Ok(Compactor { runs: Some(runs), stop, failure, thread: Some(thread) })
    }

    fn new_run(&self) {
        // Either it was told of an earlier run and has not looked yet, or it has failed, and `failure` says why.
        let _ = self.runs.as_ref().expect("it is told until it is dropped").try_send(());
    }
}

impl Drop for Compactor {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.runs = None;
        if let Some(Err(panic)) = self.thread.take().map(JoinHandle::join) {
            tracing::error!(?panic, "compaction panicked");
        }
    }
}

/// Merges what there is to merge whenever it is told of a run, and once more when none came for a while.
fn merge_runs(tree: &AnyTree, told: &Receiver<()>) -> lsm_tree::Result<()> {
    let mut is_quiet = true;
    loop {
        let next = if is_quiet {
            told.recv().map_err(RecvTimeoutError::from)
        } else {
            told.recv_timeout(QUIET_AFTER)
        };
        is_quiet = match next {
            Ok(()) => false,
            Err(RecvTimeoutError::Timeout) => true,
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
        };
        merge_all(tree, if is_quiet { RUNS_PER_MERGE_QUIET } else { RUNS_PER_MERGE_BUSY })?;
    }
}

fn merge_all(tree: &AnyTree, runs_per_merge: u8) -> lsm_tree::Result<()> {
    let table_size_bytes = LEVEL_SIZE_BYTES / u64::from(runs_per_merge);
    let strategy =
        Leveled::default().with_l0_threshold(runs_per_merge).with_table_target_size(table_size_bytes);
    let strategy = Arc::new(strategy);
    loop {
        let before = tree.current_version().id();
        // Readers take the newest version: nothing older than the last run is ever asked for.
        tree.compact(Arc::clone(&strategy) as _, SeqNo::MAX)?;
        if tree.current_version().id() == before {
            return Ok(());
        }
    }
}

/// Keeps every entry; but a merge that is to stop fails, which leaves the tree as it was.
#[derive(Clone)]
struct StoppableCompaction(Arc<AtomicBool>);

impl Factory for StoppableCompaction {
    fn name(&self) -> &str {
        "stoppable"
    }

    fn make_filter(&self, _: &Context) -> Box<dyn CompactionFilter> {
        Box::new(self.clone())
    }
}

impl CompactionFilter for StoppableCompaction {
    fn filter_item(&mut self, _: ItemAccessor<'_>, _: &Context) -> lsm_tree::Result<Verdict> {
        match self.0.load(Ordering::Relaxed) {
            true => Err(std::io::Error::from(std::io::ErrorKind::Interrupted).into()),
            false => Ok(Verdict::Keep),
        }
    }
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
        let stop = Arc::new(AtomicBool::new(false));
        let sequence_numbers = SequenceNumberCounter::default();
        let visible = SequenceNumberCounter::default();
        let tree = Config::new(directory, sequence_numbers.clone(), visible.clone())
            .use_cache(Arc::new(Cache::with_capacity_bytes(options.cache_size_bytes)))
            .data_block_size_policy(BlockSizePolicy::all(BLOCK_SIZE_BYTES))
            .data_block_compression_policy(CompressionPolicy::disabled())
            .filter_block_pinning_policy(PinningPolicy::disabled())
            .with_compaction_filter_factory(Some(Arc::new(StoppableCompaction(Arc::clone(&stop)))))
            .open()
            .map_err(|error| engine(directory, error))?;
        // The counters live in memory: they go on after what is on disk.
        if let Some(highest) = tree.get_highest_seqno() {
            sequence_numbers.fetch_max(highest + 1);
            visible.fetch_max(highest + 1);
        }
        let compactor = Compactor::start(tree.clone(), stop)
            .map_err(|source| StoreError::Io { path: directory.to_owned(), source })?;
        Ok(LsmTreeStore { tree, writer: Mutex::new(()), compactor, directory: directory.to_owned() })
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
        ingestion.finish().map_err(|error| self.engine(error))?;
        self.compactor.new_run();
        Ok(())
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

    fn is_compaction_behind(&self) -> Result<bool, StoreError> {
        match self.compactor.failure.get() {
            Some(why) => {
                let place = self.directory.display();
                Err(StoreError::Engine(format!("{place}: a compaction failed: {why}")))
            }
            None => Ok(self.tree.l0_run_count() > UNMERGED_RUNS_MAX),
        }
    }

    fn size_bytes(&self) -> Result<u64, StoreError> {
        Ok(self.tree.disk_space())
    }
}
