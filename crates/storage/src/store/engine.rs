//! Which engine keeps a store's files, and how its directory says so.
//!
//! ```text
//! DIR/ENGINE.new   the store is being made: nothing was ingested yet, and all else in DIR is the remains of an earlier attempt
//! DIR/ENGINE       the store is made: "jigap state store\nengine NAME\n"; the engine's own files must be there
//! ```
//!
//! An engine given a directory without its files makes an empty store without a word. With this file that cannot happen: a
//! store that was made once is opened or refused.

use std::fmt;
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use super::StoreError;

const HEADING: &str = "jigap state store\nengine ";
const FILE: &str = "ENGINE";
const DRAFT: &str = "ENGINE.new";

/// What keeps the files of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    /// The pure-Rust LSM tree: always built in.
    LsmTree,
    /// RocksDB, over the system's library: built in with the cargo feature `rocksdb`.
    RocksDb,
}

impl Engine {
    /// All there are.
    pub const ALL: [Engine; 2] = [Engine::LsmTree, Engine::RocksDb];

    /// What a new directory gets unless somebody chooses.
    pub const PREFERRED: Engine =
        if Engine::RocksDb.is_built_in() { Engine::RocksDb } else { Engine::LsmTree };

    /// The name in settings and on disk.
    pub const fn name(self) -> &'static str {
        match self {
            Engine::LsmTree => "lsm-tree",
            Engine::RocksDb => "rocksdb",
        }
    }

    /// The engine of this name.
    pub fn parse(name: &str) -> Option<Engine> {
        Engine::ALL.into_iter().find(|engine| engine.name() == name)
    }

    /// Whether this program can open its stores.
    pub const fn is_built_in(self) -> bool {
        match self {
            Engine::LsmTree => true,
            Engine::RocksDb => cfg!(feature = "rocksdb"),
        }
    }
}

impl fmt::Display for Engine {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// What a directory says about the store in it.
pub(super) struct Marker {
    directory: PathBuf,
    /// The engine's files must be there already.
    pub(super) is_made: bool,
}

impl Marker {
    /// The marker of a directory that holds a made store.
    pub(super) fn made_in(directory: &Path) -> Marker {
        Marker { directory: directory.to_owned(), is_made: true }
    }

    /// Whether there is a store that was made, by the wanted engine. Changes nothing.
    pub(super) fn is_there(directory: &Path, wanted: Engine) -> Result<bool, StoreError> {
        let path = directory.join(FILE);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
            Err(source) => return Err(StoreError::Io { path, source }),
        };
        let name = text.strip_prefix(HEADING).and_then(|rest| rest.strip_suffix('\n'));
        let found = name.and_then(Engine::parse).ok_or_else(|| StoreError::Marker {
            path: directory.to_owned(),
            why: format!("its file {FILE} is damaged, it says {text:?}"),
        })?;
        if found != wanted {
            return Err(StoreError::OtherEngine { path: directory.to_owned(), found, wanted });
        }
        Ok(true)
    }

    /// Finds out whether the store is to be made or opened, and refuses the store of another engine. A directory without a store
    /// is emptied of what an interrupted start left.
    pub(super) fn read(directory: &Path, wanted: Engine) -> Result<Marker, StoreError> {
        let marker = Marker::made_in(directory);
        if Marker::is_there(directory, wanted)? {
            return Ok(marker);
        }
        marker.begin(wanted)?;
        Ok(Marker { is_made: false, ..marker })
    }

    fn begin(&self, engine: Engine) -> Result<(), StoreError> {
        let directory = &self.directory;
        let io = |path: &Path| {
            let path = path.to_owned();
            move |source| StoreError::Io { path, source }
        };
        fs::create_dir_all(directory).map_err(io(directory))?;
        let draft = directory.join(DRAFT);
        let interrupted = draft.try_exists().map_err(io(&draft))?;
        for entry in fs::read_dir(directory).map_err(io(directory))? {
            let entry = entry.map_err(io(directory))?;
            if !interrupted {
                return Err(StoreError::Marker {
                    path: directory.clone(),
                    why: format!(
                        "it holds {:?}, and no file {FILE} that names its engine",
                        entry.file_name()
                    ),
                });
            }
            let path = entry.path();
            // The draft goes last of all, by being written over.
            if path.is_dir() {
                fs::remove_dir_all(&path).map_err(io(&path))?;
            } else if path != draft {
                fs::remove_file(&path).map_err(io(&path))?;
            }
        }
        let write = || -> std::io::Result<()> {
            let mut file = File::create(&draft)?;
            writeln!(file, "{HEADING}{engine}")?;
            file.sync_all()?;
            File::open(directory)?.sync_all()
        };
        write().map_err(io(&draft))
    }

    /// The engine has its files: from now on they must be there.
    pub(super) fn made(&self) -> Result<(), StoreError> {
        if self.is_made {
            return Ok(());
        }
        let finish = || -> std::io::Result<()> {
            fs::rename(self.directory.join(DRAFT), self.directory.join(FILE))?;
            File::open(&self.directory)?.sync_all()
        };
        finish().map_err(|source| StoreError::Io { path: self.directory.join(FILE), source })
    }
}
