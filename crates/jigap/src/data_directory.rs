//! The data directory: one process at a time, and only of a format version that this program knows.
//!
//! ```text
//! DIR/LOCK          locked while a process uses the directory; holds its process id
//! DIR/jigap.meta    "jigap data directory\nformat 1\n"
//! DIR/partition-0/  journal/ and state/
//! DIR/views/        what is built from the journal
//! DIR/archive/      snapshots and the journal's whole life, unless `archive-url` names another place
//! ```

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};

use crate::exit::{Exit, Failure, OrExit};

/// The version of the directory's layout.
const FORMAT_VERSION: u32 = 1;
const META_HEADING: &str = "jigap data directory";
/// Stands in a directory that is being filled from elsewhere.
const INCOMPLETE: &str = "restore.incomplete";

/// A data directory, locked unless it is only looked at. The lock ends with the process, however it ends.
#[derive(Debug)]
pub(crate) struct DataDirectory {
    path: PathBuf,
    _lock: Option<File>,
}

/// Whether others may read meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lock {
    Exclusive,
    Shared,
}

impl DataDirectory {
    /// Opens or makes the directory for a server.
    pub(crate) fn open_for_serving(path: &Path) -> Result<DataDirectory, Failure> {
        fs::create_dir_all(path)
            .with_context(|| format!("cannot make the data directory {}", path.display()))
            .or_exit(Exit::Directory)?;
        let mut lock = lock(path, Lock::Exclusive)?;
        write_process_id(&mut lock)
            .with_context(|| format!("cannot write {}", lock_path(path).display()))
            .or_exit(Exit::Directory)?;
        check_or_write_meta(path).or_exit(Exit::Directory)?;
        Ok(DataDirectory { path: path.to_owned(), _lock: Some(lock) })
    }

    /// Begins a directory that is filled from elsewhere. Until [`DataDirectory::complete`] nobody serves from it, and another
    /// attempt takes its place.
    pub(crate) fn begin(path: &Path) -> Result<DataDirectory, Failure> {
        let unusable = || format!("cannot use the directory {}", path.display());
        fs::create_dir_all(path).with_context(unusable).or_exit(Exit::Directory)?;
        let marker = path.join(INCOMPLETE);
        let is_empty = fs::read_dir(path).with_context(unusable).or_exit(Exit::Directory)?.next().is_none();
        if !is_empty && !marker.exists() {
            let why = anyhow!("{} is not empty; name a directory that is empty or missing", path.display());
            return Err(Failure::new(Exit::Directory, why));
        }
        let write = || -> std::io::Result<()> {
            File::create(&marker)?.sync_all()?;
            for entry in fs::read_dir(path)? {
                let entry = entry?;
                if entry.file_type()?.is_dir() {
                    fs::remove_dir_all(entry.path())?;
                } else if entry.file_name() != INCOMPLETE {
                    fs::remove_file(entry.path())?;
                }
            }
            File::open(path)?.sync_all()
        };
        write().with_context(unusable).or_exit(Exit::Directory)?;
        let lock = lock(path, Lock::Exclusive)?;
        Ok(DataDirectory { path: path.to_owned(), _lock: Some(lock) })
    }

    /// The directory that was begun is whole and durable: from now on it can be served.
    pub(crate) fn complete(&self) -> Result<(), Failure> {
        write_version(&self.path).or_exit(Exit::Directory)?;
        let marker = self.path.join(INCOMPLETE);
        let removed = fs::remove_file(&marker).and_then(|()| File::open(&self.path)?.sync_all());
        removed.with_context(|| format!("cannot remove {}", marker.display())).or_exit(Exit::Directory)
    }

    /// Opens an existing directory to change it while no server works on it.
    pub(crate) fn open_for_changing(path: &Path) -> Result<DataDirectory, Failure> {
        Self::open_existing(path, Lock::Exclusive)
    }

    /// Opens an existing directory to read it; others may read it too.
    pub(crate) fn open_for_reading(path: &Path) -> Result<DataDirectory, Failure> {
        Self::open_existing(path, Lock::Shared)
    }

    /// Looks at an existing directory beside whoever works on it: takes no lock, and writes nothing.
    pub(crate) fn look_at(path: &Path) -> Result<DataDirectory, Failure> {
        check_is_one(path)?;
        check_or_write_meta(path).or_exit(Exit::Directory)?;
        Ok(DataDirectory { path: path.to_owned(), _lock: None })
    }

    fn open_existing(path: &Path, kind: Lock) -> Result<DataDirectory, Failure> {
        check_is_one(path)?;
        let lock = lock(path, kind)?;
        check_or_write_meta(path).or_exit(Exit::Directory)?;
        Ok(DataDirectory { path: path.to_owned(), _lock: Some(lock) })
    }

    /// The directory itself.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The directory of a partition.
    pub(crate) fn partition(&self, number: u32) -> PathBuf {
        self.path.join(format!("partition-{number}"))
    }
}

fn check_is_one(path: &Path) -> Result<(), Failure> {
    if meta_path(path).exists() {
        return Ok(());
    }
    let why = anyhow!("{} is no data directory of jigap; name one with --data-dir", path.display());
    Err(Failure::new(Exit::Directory, why))
}

fn lock_path(directory: &Path) -> PathBuf {
    directory.join("LOCK")
}

fn meta_path(directory: &Path) -> PathBuf {
    directory.join("jigap.meta")
}

fn lock(directory: &Path, kind: Lock) -> Result<File, Failure> {
    let path = lock_path(directory);
    let opened = match kind {
        Lock::Exclusive => OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path),
        Lock::Shared => File::open(&path),
    };
    let mut file =
        opened.with_context(|| format!("cannot open {}", path.display())).or_exit(Exit::Directory)?;
    let locked = match kind {
        Lock::Exclusive => file.try_lock(),
        Lock::Shared => file.try_lock_shared(),
    };
    match locked {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            let mut owner = String::new();
            // Only for the message: without a process id it is still true.
            let _ = file.read_to_string(&mut owner);
            let owner = owner.trim();
            let process = if owner.is_empty() { String::new() } else { format!(" (process {owner})") };
            let why = anyhow!(
                "another process{process} has the data directory {}; stop it, or choose another with --data-dir",
                directory.display()
            );
            Err(Failure::new(Exit::Locked, why))
        }
        Err(TryLockError::Error(error)) => Err(Failure::new(
            Exit::Directory,
            anyhow::Error::new(error).context(format!("cannot lock {}", path.display())),
        )),
    }
}

fn write_process_id(lock: &mut File) -> std::io::Result<()> {
    lock.set_len(0)?;
    writeln!(lock, "{}", std::process::id())
}

fn check_or_write_meta(directory: &Path) -> anyhow::Result<()> {
    let path = meta_path(directory);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return write_meta(directory),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    let version = text
        .strip_prefix(META_HEADING)
        .and_then(|rest| rest.trim().strip_prefix("format "))
        .and_then(|version| version.parse::<u32>().ok())
        .ok_or_else(|| anyhow!("{} is damaged: it must say `{META_HEADING}` and a format", path.display()))?;
    if version > FORMAT_VERSION {
        return Err(anyhow!(
            "{} has format {version}, this jigap knows formats up to {FORMAT_VERSION}: use the newer jigap that wrote it",
            directory.display()
        ));
    }
    if version < FORMAT_VERSION {
        return Err(anyhow!(
            "{} has format {version}, this jigap needs format {FORMAT_VERSION}: use the older jigap that wrote it",
            directory.display()
        ));
    }
    Ok(())
}

/// Writes the version beside its final name first, so that a crash leaves either nothing or all of it.
fn write_meta(directory: &Path) -> anyhow::Result<()> {
    if directory.join(INCOMPLETE).exists() {
        return Err(anyhow!(
            "{} is a restore that was not finished; run `jigap restore` again with the same --to",
            directory.display()
        ));
    }
    // Data without a version was not made by us, or lost its version: guessing could destroy it.
    if directory.join("partition-0").exists() {
        return Err(anyhow!(
            "{} holds data but no jigap.meta: restore that file (`{META_HEADING}`, `format N`), or choose another directory",
            directory.display()
        ));
    }
    write_version(directory)
}

fn write_version(directory: &Path) -> anyhow::Result<()> {
    let path = meta_path(directory);
    let draft = directory.join("jigap.meta.new");
    let write = || -> std::io::Result<()> {
        let mut file = File::create(&draft)?;
        write!(file, "{META_HEADING}\nformat {FORMAT_VERSION}\n")?;
        file.sync_all()?;
        fs::rename(&draft, &path)?;
        File::open(directory)?.sync_all()
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory() -> tempfile::TempDir {
        tempfile::tempdir().expect("a temporary directory")
    }

    #[test]
    fn a_second_owner_is_refused_and_told_who_the_first_is() {
        let directory = directory();
        let first = DataDirectory::open_for_serving(directory.path()).expect("it is new");
        for second in [
            DataDirectory::open_for_serving(directory.path()),
            DataDirectory::open_for_changing(directory.path()),
            DataDirectory::open_for_reading(directory.path()),
        ] {
            let failure = second.expect_err("it is locked");
            assert_eq!(failure.exit, Exit::Locked);
            let process = format!("process {}", std::process::id());
            assert!(failure.error.to_string().contains(&process), "{}", failure.error);
        }
        drop(first);
        let reader = DataDirectory::open_for_reading(directory.path()).expect("nobody has it");
        let other = DataDirectory::open_for_reading(directory.path()).expect("readers share it");
        assert_eq!(reader.path(), other.path());
    }

    #[test]
    fn other_format_versions_are_refused_by_name() {
        let rows = [
            ("jigap data directory\nformat 2\n", "newer jigap"),
            ("jigap data directory\nformat 0\n", "older jigap"),
            ("jigap data directory\nformat x\n", "damaged"),
            ("", "damaged"),
        ];
        for (meta, expected) in rows {
            let directory = directory();
            fs::write(meta_path(directory.path()), meta).expect("it is written");
            let failure = DataDirectory::open_for_serving(directory.path()).expect_err("another version");
            assert_eq!(failure.exit, Exit::Directory);
            assert!(failure.error.to_string().contains(expected), "{}", failure.error);
        }
    }

    #[test]
    fn data_without_a_version_is_left_alone() {
        let directory = directory();
        fs::create_dir(directory.path().join("partition-0")).expect("it is made");
        let failure = DataDirectory::open_for_serving(directory.path()).expect_err("no version");
        assert!(failure.error.to_string().contains("no jigap.meta"), "{}", failure.error);
    }

    #[test]
    fn reading_never_makes_a_directory() {
        let directory = directory();
        let missing = directory.path().join("missing");
        let failure = DataDirectory::open_for_reading(&missing).expect_err("there is none");
        assert_eq!(failure.exit, Exit::Directory);
        assert!(!missing.exists());
    }
}
