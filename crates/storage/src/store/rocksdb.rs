//! RocksDB as an engine, fed only through its ingestion of sorted files.

use std::ffi::CStr;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rocksdb::{
    BlockBasedOptions, Cache, DB, DBCompressionType, Error, IngestExternalFileOptions, IteratorMode,
    LogLevel, Options, ReadOptions, SstFileWriter, properties,
};

use super::engine::Marker;
use super::{
    Change, Changes, Entry, KeyOrder, POSITION_KEY, RunPosition, StateStore, StoreError, StoreOptions,
    check_position, decode_position,
};

/// A run on its way in. RocksDB leaves files that it does not know alone, so a crash may leave one.
const RUN_FILE: &str = "run.building";
/// Values are packed blocks of about 1 to 64 KiB already: larger blocks of the engine would only be read in vain.
const BLOCK_SIZE_BYTES: usize = 16 << 10;
const FILTER_BITS_PER_KEY: f64 = 10.0;
const OPEN_FILES_MAX: i32 = 512;
/// One flushes, which there is nothing of; one compacts.
const BACKGROUND_JOBS: i32 = 2;
/// RocksDB's own log, `LOG`, says little and must not grow for ever.
const LOG_SIZE_BYTES_MAX: usize = 1 << 20;
const LOGS_KEPT: usize = 2;
/// Runs that RocksDB has not merged yet; past it the writer waits for its compaction.
const UNMERGED_RUNS_MAX: u64 = 16;

/// A state store over one RocksDB database.
pub(super) struct RocksDbStore {
    database: DB,
    options: Options,
    /// One writer at a time.
    writer: Mutex<()>,
    directory: PathBuf,
}

impl RocksDbStore {
    /// Opens the store in this directory, or makes it there when the marker says that there is none yet.
    pub(super) fn open(
        directory: &Path,
        options: &StoreOptions,
        marker: &Marker,
    ) -> Result<RocksDbStore, StoreError> {
        let options = database_options(options, marker);
        let database = DB::open(&options, directory).map_err(|error| engine(directory, &error))?;
        Ok(RocksDbStore { database, options, writer: Mutex::new(()), directory: directory.to_owned() })
    }

    /// Opens the store as it stands, beside whoever writes to it. RocksDB's own log goes elsewhere.
    pub(super) fn open_read_only(
        directory: &Path,
        options: &StoreOptions,
        log_directory: &Path,
    ) -> Result<RocksDbStore, StoreError> {
        let mut options = database_options(options, &Marker::made_in(directory));
        options.set_db_log_dir(log_directory);
        // All at once: what the writer removes afterwards stays readable.
        options.set_max_open_files(-1);
        let database = DB::open_for_read_only(&options, directory, false);
        let database = database.map_err(|error| engine(directory, &error))?;
        Ok(RocksDbStore { database, options, writer: Mutex::new(()), directory: directory.to_owned() })
    }

    fn engine(&self, error: &Error) -> StoreError {
        engine(&self.directory, error)
    }

    fn number(&self, property: &CStr) -> Result<u64, StoreError> {
        let value = self.database.property_int_value(property).map_err(|error| self.engine(&error))?;
        value.ok_or_else(|| StoreError::Engine(format!("RocksDB does not know {property:?}")))
    }

    fn write(&self, path: &Path, position: RunPosition, changes: &mut Changes<'_>) -> Result<(), StoreError> {
        // What a crash left may be a second name of a file that is in the store by now: writing over it would destroy that one.
        match std::fs::remove_file(path) {
            Err(source) if source.kind() != ErrorKind::NotFound => {
                return Err(StoreError::Io { path: path.to_owned(), source });
            }
            _ => {}
        }
        let failed = |error| self.engine(&error);
        let mut order = KeyOrder::default();
        let mut file = SstFileWriter::create(&self.options);
        file.open(path).map_err(failed)?;
        file.put(POSITION_KEY, position.to_le_bytes()).map_err(failed)?;
        for change in changes {
            let (key, change) = change?;
            order.check(&key)?;
            let written = match change {
                Change::Put(value) => file.put(key, value),
                Change::Delete => file.delete(key),
            };
            written.map_err(failed)?;
        }
        // Syncs the file; taking it in syncs the directory and the manifest.
        file.finish().map_err(failed)?;
        let mut ingestion = IngestExternalFileOptions::default();
        ingestion.set_move_files(true);
        self.database.ingest_external_file_opts(&ingestion, vec![path]).map_err(failed)
    }

    fn entries(
        &self,
        start: &[u8],
        end: &[u8],
        mode: IteratorMode<'_>,
    ) -> Box<dyn Iterator<Item = Result<Entry, StoreError>> + '_> {
        if start >= end {
            return Box::new(std::iter::empty());
        }
        let mut options = ReadOptions::default();
        options.set_iterate_lower_bound(start);
        options.set_iterate_upper_bound(end);
        let entries = self.database.iterator_opt(mode, options);
        Box::new(entries.map(|entry| match entry {
            Ok((key, value)) => Ok((key.into_vec(), value.into_vec())),
            Err(error) => Err(self.engine(&error)),
        }))
    }
}

fn engine(directory: &Path, error: &Error) -> StoreError {
    StoreError::Engine(format!("{}: {error}", directory.display()))
}

fn database_options(store: &StoreOptions, marker: &Marker) -> Options {
    let mut table = BlockBasedOptions::default();
    let cache_size_bytes = usize::try_from(store.cache_size_bytes).unwrap_or(usize::MAX);
    table.set_block_cache(&Cache::new_lru_cache(cache_size_bytes));
    table.set_block_size(BLOCK_SIZE_BYTES);
    table.set_bloom_filter(FILTER_BITS_PER_KEY, false);
    let mut options = Options::default();
    options.create_if_missing(!marker.is_made);
    options.set_block_based_table_factory(&table);
    options.set_compression_type(DBCompressionType::None);
    options.set_level_compaction_dynamic_level_bytes(true);
    options.set_max_background_jobs(BACKGROUND_JOBS);
    options.set_max_open_files(OPEN_FILES_MAX);
    options.set_log_level(LogLevel::Warn);
    options.set_max_log_file_size(LOG_SIZE_BYTES_MAX);
    options.set_keep_log_file_num(LOGS_KEPT);
    options.set_stats_dump_period_sec(0);
    options
}

impl StateStore for RocksDbStore {
    fn position(&self) -> Result<Option<RunPosition>, StoreError> {
        self.get(POSITION_KEY)?.as_deref().map(decode_position).transpose()
    }

    fn ingest_from(&self, position: RunPosition, changes: &mut Changes<'_>) -> Result<(), StoreError> {
        let _writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        check_position(self.position()?, position)?;
        self.write(&self.directory.join(RUN_FILE), position, changes)
    }

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.database.get(key).map_err(|error| self.engine(&error))
    }

    fn get_many(&self, sorted_keys: &[Vec<u8>]) -> Result<Vec<Option<Vec<u8>>>, StoreError> {
        let values = self.database.multi_get(sorted_keys);
        values.into_iter().map(|value| value.map_err(|error| self.engine(&error))).collect()
    }

    fn scan(&self, start: &[u8], end: &[u8]) -> Box<dyn Iterator<Item = Result<Entry, StoreError>> + '_> {
        self.entries(start, end, IteratorMode::Start)
    }

    fn scan_reverse(
        &self,
        start: &[u8],
        end: &[u8],
    ) -> Box<dyn Iterator<Item = Result<Entry, StoreError>> + '_> {
        self.entries(start, end, IteratorMode::End)
    }

    fn is_compaction_behind(&self) -> Result<bool, StoreError> {
        if self.number(properties::BACKGROUND_ERRORS)? > 0 {
            let why = "a compaction failed; the file LOG there says why";
            return Err(StoreError::Engine(format!("{}: {why}", self.directory.display())));
        }
        Ok(self.number(&properties::num_files_at_level(0))? > UNMERGED_RUNS_MAX)
    }

    fn size_bytes(&self) -> Result<u64, StoreError> {
        self.number(properties::TOTAL_SST_FILES_SIZE)
    }
}
