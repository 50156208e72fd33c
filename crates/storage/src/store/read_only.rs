//! A store as it stands, read beside the process that writes it.
//!
//! The LSM tree has no way to be opened for reading alone: opening removes files that its list of tables does not name, and a
//! table that is being written is not named yet. So it is opened through a directory of our own: the list is copied, and every table
//! is a link to a file that we hold open. Tables never change, and stay readable here though the writer removes them.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::fd::AsRawFd;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tempfile::TempDir;

use super::engine::Marker;
use super::{Changes, Engine, Entry, RunPosition, StateStore, StoreError, StoreOptions, lsm_tree};
use crate::open_files;

/// How often the list of tables may be replaced while it and its tables are being taken.
const ATTEMPTS_MAX: usize = 100;
const CURRENT: &str = "current";
const TABLES: &str = "tables";

/// Opens the store in this directory for reading, as it stands now; `None` when there is none. Changes nothing there and takes no
/// lock: another process may be writing to it, and what it writes from now on is not seen.
pub fn open_read_only(
    directory: &Path,
    options: &StoreOptions,
) -> Result<Option<Arc<dyn StateStore>>, StoreError> {
    if !options.engine.is_built_in() {
        return Err(StoreError::NotBuiltIn(options.engine));
    }
    if !Marker::is_there(directory, options.engine)? {
        return Ok(None);
    }
    let store: Arc<dyn StateStore> = match options.engine {
        Engine::LsmTree => Arc::new(View::of_lsm_tree(directory, options)?),
        #[cfg(feature = "rocksdb")]
        Engine::RocksDb => Arc::new(View::of_rocksdb(directory, options)?),
        #[cfg(not(feature = "rocksdb"))]
        Engine::RocksDb => return Err(StoreError::NotBuiltIn(Engine::RocksDb)),
    };
    Ok(Some(store))
}

/// A store that is only read, and what it needs for that.
struct View<Store> {
    store: Store,
    /// Goes after the store that is in it.
    _held: Vec<File>,
    _directory: TempDir,
}

fn io(path: &Path) -> impl FnOnce(std::io::Error) -> StoreError {
    let path = path.to_owned();
    move |source| StoreError::Io { path, source }
}

fn own_directory() -> Result<TempDir, StoreError> {
    let made = tempfile::Builder::new().prefix("jigap-store-").tempdir();
    made.map_err(io(&std::env::temp_dir()))
}

impl View<lsm_tree::LsmTreeStore> {
    fn of_lsm_tree(directory: &Path, options: &StoreOptions) -> Result<Self, StoreError> {
        // Every table is held open.
        open_files::raise_limit();
        let mut failed = None;
        for _ in 0..ATTEMPTS_MAX {
            let own = own_directory()?;
            match links_to_tables(directory, own.path()) {
                Ok(Some(held)) => {
                    let marker = Marker::made_in(own.path());
                    let store = lsm_tree::LsmTreeStore::open(own.path(), options, &marker)?;
                    return Ok(View { store, _held: held, _directory: own });
                }
                Ok(None) => {}
                Err(error) => failed = Some(error),
            }
        }
        let why = || StoreError::Engine("checkpoints come too fast to be read".into());
        Err(failed.unwrap_or_else(why))
    }
}

/// Makes the directory another way into the store; `None` when its list of tables was replaced meanwhile.
fn links_to_tables(store: &Path, own: &Path) -> Result<Option<Vec<File>>, StoreError> {
    let current = store.join(CURRENT);
    let listed = fs::read(&current).map_err(io(&current))?;
    let damaged = || StoreError::Engine(format!("{}: the file `current` is damaged", store.display()));
    let number = listed.first_chunk().map(|number| u64::from_le_bytes(*number)).ok_or_else(damaged)?;
    let list = format!("v{number}");
    match fs::copy(store.join(&list), own.join(&list)) {
        // Replaced and removed, unless it is missing for good: then the next attempts find the same.
        Err(source) => return Err(StoreError::Io { path: store.join(&list), source }),
        Ok(_) => fs::write(own.join(CURRENT), &listed).map_err(io(own))?,
    }
    let (tables, own_tables) = (store.join(TABLES), own.join(TABLES));
    fs::create_dir(&own_tables).map_err(io(&own_tables))?;
    let mut held = Vec::new();
    for entry in fs::read_dir(&tables).map_err(io(&tables))? {
        let entry = entry.map_err(io(&tables))?;
        let file = match File::open(entry.path()) {
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            opened => opened.map_err(io(&entry.path()))?,
        };
        // Such a link leads to the file that is open, whatever becomes of its name.
        let target = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
        symlink(target, own_tables.join(entry.file_name())).map_err(io(&own_tables))?;
        held.push(file);
    }
    // As long as a list is the current one, every table that it names is there.
    let now = fs::read(&current).map_err(io(&current))?;
    Ok((now == listed).then_some(held))
}

#[cfg(feature = "rocksdb")]
impl View<super::rocksdb::RocksDbStore> {
    /// RocksDB opens every file at once here: one that is removed before it is opened makes another attempt.
    fn of_rocksdb(directory: &Path, options: &StoreOptions) -> Result<Self, StoreError> {
        // Every table is held open.
        open_files::raise_limit();
        let own = own_directory()?;
        let mut opened = super::rocksdb::RocksDbStore::open_read_only(directory, options, own.path());
        for _ in 1..ATTEMPTS_MAX {
            if opened.is_ok() {
                break;
            }
            opened = super::rocksdb::RocksDbStore::open_read_only(directory, options, own.path());
        }
        Ok(View { store: opened?, _held: Vec::new(), _directory: own })
    }
}

impl<Store: StateStore> StateStore for View<Store> {
    fn position(&self) -> Result<Option<RunPosition>, StoreError> {
        self.store.position()
    }

    fn ingest_from(&self, _: RunPosition, _: &mut Changes<'_>) -> Result<(), StoreError> {
        Err(StoreError::InvalidRun("the store is open for reading only".into()))
    }

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.store.get(key)
    }

    fn get_many(&self, sorted_keys: &[Vec<u8>]) -> Result<Vec<Option<Vec<u8>>>, StoreError> {
        self.store.get_many(sorted_keys)
    }

    fn scan(&self, start: &[u8], end: &[u8]) -> Box<dyn Iterator<Item = Result<Entry, StoreError>> + '_> {
        self.store.scan(start, end)
    }

    fn scan_reverse(
        &self,
        start: &[u8],
        end: &[u8],
    ) -> Box<dyn Iterator<Item = Result<Entry, StoreError>> + '_> {
        self.store.scan_reverse(start, end)
    }

    fn is_compaction_behind(&self) -> Result<bool, StoreError> {
        Ok(false)
    }

    fn size_bytes(&self) -> Result<u64, StoreError> {
        self.store.size_bytes()
    }
}
