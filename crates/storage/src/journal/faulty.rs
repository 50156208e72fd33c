//! A disk in memory that tears, lies and breaks on demand, the same way for the same seed. For tests and simulation.
//!
//! What a program sees of a file (the page cache) and what would survive a power failure are kept apart. A completed
//! [`DiskFile::write_durable`] is in both. A write that fails, or during which the power fails, is durable in some of its
//! sectors only. Changes of names survive up to some point between the last [`Disk::sync_directory`] and the crash, in their
//! order, as on a file system with a journal.

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use fastrand::Rng;

use super::disk::{Access, Disk, DiskFile, FileEntry};
use super::frame::SECTOR_SIZE_BYTES;

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The power fails. A write under way is durable in some sectors, and everything fails until [`FaultyDisk::restart`].
    Crash(Tear),
    /// The operation fails for want of space, before it does anything.
    NoSpace,
    /// The operation fails with an I/O error; a write is done in some sectors.
    InputOutput(Tear),
    /// A write is done for all that the program can see, and its sync fails: some sectors only are durable.
    Sync(Tear),
    /// A write stops after some bytes, and the rest fails.
    ShortWrite,
    /// The file system has become read-only.
    ReadOnly,
}

/// Which sectors of a torn write are on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tear {
    /// None.
    All,
    /// Some from the start on.
    Suffix,
    /// Any.
    Random,
    /// All but one.
    One,
}

/// A plan: the operation with this number, counted from 0 over everything that changes the disk, goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Planned {
    /// The number of the operation.
    pub operation: u64,
    /// What happens to it.
    pub fault: Fault,
}

/// The disk. Clones share it.
#[derive(Clone)]
pub struct FaultyDisk {
    state: Arc<Mutex<State>>,
}

type Names = BTreeMap<PathBuf, usize>;

struct State {
    files: Vec<Content>,
    names: Names,
    /// The names that a crash leaves, and what was done to them since, in order.
    durable_names: Names,
    unsynced: Vec<NameChange>,
    operations: u64,
    plan: Vec<Planned>,
    powered: bool,
    random: Rng,
}

#[derive(Default)]
struct Content {
    seen: Vec<u8>,
    durable: Vec<u8>,
    /// A write has failed since the last crash, so that the two may differ.
    differs: bool,
}

#[derive(Clone)]
enum NameChange {
    Create(PathBuf, usize),
    Rename(PathBuf, PathBuf),
    Remove(PathBuf),
}

impl NameChange {
    fn apply(&self, names: &mut Names) {
        match self {
            NameChange::Create(path, file) => {
                names.insert(path.clone(), *file);
            }
            NameChange::Rename(from, to) => {
                if let Some(file) = names.remove(from) {
                    names.insert(to.clone(), file);
                }
            }
            NameChange::Remove(path) => {
                names.remove(path);
            }
        }
    }
}

impl FaultyDisk {
    /// An empty disk on which every directory exists. The seed decides which sectors a torn write loses.
    pub fn new(seed: u64) -> FaultyDisk {
        let state = State {
            files: Vec::new(),
            names: Names::new(),
            durable_names: Names::new(),
            unsynced: Vec::new(),
            operations: 0,
            plan: Vec::new(),
            powered: true,
            random: Rng::with_seed(seed),
        };
        FaultyDisk { state: Arc::new(Mutex::new(state)) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no code panics while it holds the disk")
    }

    /// How many operations changed, or tried to change, the disk so far.
    pub fn operations(&self) -> u64 {
        self.lock().operations
    }

    /// Makes an operation to come go wrong.
    pub fn plan(&self, planned: Planned) {
        self.lock().plan.push(planned);
    }

    /// Forgets what was planned and did not come to pass.
    pub fn clear_plan(&self) {
        self.lock().plan.clear();
    }

    /// Cuts the power now.
    pub fn crash(&self) {
        self.lock().powered = false;
    }

    /// Whether the power is on.
    pub fn is_powered(&self) -> bool {
        self.lock().powered
    }

    /// The power comes back: what was not synced is gone. Handles from before the crash must not be used again.
    pub fn restart(&self) {
        let mut state = self.lock();
        let state = &mut *state;
        let survived = state.random.usize(..=state.unsynced.len());
        let mut names = std::mem::take(&mut state.durable_names);
        state.unsynced.drain(..).take(survived).for_each(|change| change.apply(&mut names));
        state.names = names.clone();
        state.durable_names = names;
        for content in state.files.iter_mut().filter(|content| content.differs) {
            content.seen.clone_from(&content.durable);
            content.differs = false;
        }
        state.plan.clear();
        state.powered = true;
    }

    /// The content of a file as a program sees it.
    pub fn read_file(&self, path: &Path) -> Option<Vec<u8>> {
        let state = self.lock();
        state.names.get(path).map(|file| state.files[*file].seen.clone())
    }

    /// Puts a file there, or other content into the one that has the name, durably.
    pub fn write_file(&self, path: &Path, bytes: Vec<u8>) {
        let mut state = self.lock();
        let file = state.names.get(path).copied().unwrap_or(state.files.len());
        if file == state.files.len() {
            state.files.push(Content::default());
        }
        state.names.insert(path.to_owned(), file);
        state.durable_names.insert(path.to_owned(), file);
        state.files[file] = Content { seen: bytes.clone(), durable: bytes, differs: false };
    }

    /// Takes a name away, durably.
    pub fn remove_file(&self, path: &Path) {
        let mut state = self.lock();
        state.names.remove(path);
        state.durable_names.remove(path);
    }

    /// Changes one bit of a file, as decay does. `bit` counts from the start of the file.
    pub fn flip_bit(&self, path: &Path, bit: u64) {
        let mut state = self.lock();
        let file = *state.names.get(path).expect("the file to be damaged exists");
        let (byte, mask) = ((bit / 8) as usize, 1 << (bit % 8));
        state.files[file].seen[byte] ^= mask;
        state.files[file].durable[byte] ^= mask;
    }
}

impl State {
    /// Counts an operation and answers the fault that strikes it.
    fn begin(&mut self) -> io::Result<Option<Fault>> {
        if !self.powered {
            return Err(io::Error::other("the power is off"));
        }
        let operation = self.operations;
        self.operations += 1;
        let fault =
            self.plan.iter().find(|planned| planned.operation == operation).map(|planned| planned.fault);
        if let Some(Fault::Crash(_)) = fault {
            self.powered = false;
        }
        Ok(fault)
    }

    /// For operations that happen whole or not at all.
    fn begin_atomic(&mut self) -> io::Result<()> {
        match self.begin()? {
            None => Ok(()),
            Some(fault) => Err(error_of(fault)),
        }
    }

    fn change_names(&mut self, change: NameChange) {
        change.apply(&mut self.names);
        self.unsynced.push(change);
    }

    fn find(&self, path: &Path) -> io::Result<usize> {
        self.names.get(path).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn write(&mut self, file: usize, offset: usize, bytes: &[u8]) -> io::Result<()> {
        if offset + bytes.len() > self.files[file].seen.len() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let fault = self.begin()?;
        let content = &mut self.files[file];
        let (tear, seen) = match fault {
            None => {
                content.seen[offset..offset + bytes.len()].copy_from_slice(bytes);
                content.durable[offset..offset + bytes.len()].copy_from_slice(bytes);
                return Ok(());
            }
            Some(Fault::NoSpace | Fault::ReadOnly) => (Tear::All, false),
            Some(Fault::ShortWrite) => (Tear::Suffix, false),
            Some(Fault::Crash(tear) | Fault::InputOutput(tear)) => (tear, false),
            Some(Fault::Sync(tear)) => (tear, true),
        };
        content.differs = true;
        let sectors = bytes.len().div_ceil(SECTOR_SIZE_BYTES);
        let chosen = self.random.usize(..sectors.max(1));
        for sector in 0..sectors {
            let written = match tear {
                Tear::All => false,
                Tear::Suffix => sector < chosen,
                Tear::Random => self.random.bool(),
                Tear::One => sector != chosen,
            };
            let start = sector * SECTOR_SIZE_BYTES;
            let end = (start + SECTOR_SIZE_BYTES).min(bytes.len());
            if written {
                content.durable[offset + start..offset + end].copy_from_slice(&bytes[start..end]);
            }
            if written || seen {
                content.seen[offset + start..offset + end].copy_from_slice(&bytes[start..end]);
            }
        }
        Err(error_of(fault.expect("a write without a fault has returned")))
    }
}

fn error_of(fault: Fault) -> io::Error {
    match fault {
        Fault::Crash(_) => io::Error::other("the power failed"),
        Fault::NoSpace => io::ErrorKind::StorageFull.into(),
        Fault::InputOutput(_) | Fault::Sync(_) => rustix::io::Errno::IO.into(),
        Fault::ShortWrite => io::ErrorKind::WriteZero.into(),
        Fault::ReadOnly => io::ErrorKind::ReadOnlyFilesystem.into(),
    }
}

impl Disk for FaultyDisk {
    fn list(&self, directory: &Path) -> io::Result<Vec<FileEntry>> {
        let state = self.lock();
        if !state.powered {
            return Err(io::Error::other("the power is off"));
        }
        let inside = state.names.iter().filter(|(path, _)| path.parent() == Some(directory));
        let entry = |(path, file): (&PathBuf, &usize)| {
            let name = path.file_name()?.to_str()?.to_owned();
            Some(FileEntry { name, size_bytes: state.files[*file].seen.len() as u64 })
        };
        Ok(inside.filter_map(entry).collect())
    }

    /// The content is not zero, so that nobody comes to rely on that.
    fn create(&self, path: &Path, size_bytes: u64) -> io::Result<Box<dyn DiskFile>> {
        let mut state = self.lock();
        state.begin_atomic()?;
        let size_bytes = usize::try_from(size_bytes).map_err(|_| io::ErrorKind::InvalidInput)?;
        let file = state.files.len();
        let content = vec![0xa5; size_bytes];
        state.files.push(Content { seen: content.clone(), durable: content, differs: false });
        state.change_names(NameChange::Create(path.to_owned(), file));
        Ok(Box::new(FaultyFile {
            disk: self.clone(),
            file,
            size_bytes: size_bytes as u64,
            access: Access::Write,
        }))
    }

    fn open(&self, path: &Path, access: Access) -> io::Result<Box<dyn DiskFile>> {
        let state = self.lock();
        if !state.powered {
            return Err(io::Error::other("the power is off"));
        }
        let file = state.find(path)?;
        let size_bytes = state.files[file].seen.len() as u64;
        Ok(Box::new(FaultyFile { disk: self.clone(), file, size_bytes, access }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.lock();
        state.begin_atomic()?;
        state.find(from)?;
        state.change_names(NameChange::Rename(from.to_owned(), to.to_owned()));
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.lock();
        state.begin_atomic()?;
        state.find(path)?;
        state.change_names(NameChange::Remove(path.to_owned()));
        Ok(())
    }

    fn is_shared(&self, path: &Path) -> io::Result<bool> {
        let state = self.lock();
        let file = state.find(path)?;
        Ok(state.names.values().filter(|other| **other == file).count() > 1)
    }

    fn sync_directory(&self, _directory: &Path) -> io::Result<()> {
        let mut state = self.lock();
        state.begin_atomic()?;
        state.unsynced.clear();
        state.durable_names = state.names.clone();
        Ok(())
    }
}

struct FaultyFile {
    disk: FaultyDisk,
    file: usize,
    size_bytes: u64,
    access: Access,
}

impl FaultyFile {
    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        // The same demands as direct I/O has, so that no test passes here that would fail there.
        let block_size_bytes = super::BLOCK_SIZE_BYTES;
        assert!(
            offset.is_multiple_of(block_size_bytes as u64) && bytes.len().is_multiple_of(block_size_bytes)
        );
        assert_eq!(self.access, Access::Write);
        let offset = usize::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
        self.disk.lock().write(self.file, offset, bytes)
    }
}

impl DiskFile for FaultyFile {
    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn write_durable(&self, offset: u64, blocks: &[IoSlice<'_>]) -> io::Result<()> {
        for block in blocks {
            assert!(
                block.as_ptr().addr().is_multiple_of(super::BLOCK_SIZE_BYTES),
                "direct I/O needs aligned memory"
            );
        }
        self.write(offset, &blocks.iter().map(|block| &**block).collect::<Vec<_>>().concat())
    }

    fn zero_durable(&self, offset: u64, size_bytes: u64) -> io::Result<()> {
        let size_bytes = usize::try_from(size_bytes).map_err(|_| io::ErrorKind::InvalidInput)?;
        self.write(offset, &vec![0; size_bytes])
    }

    fn read_exact(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let state = self.disk.lock();
        if !state.powered {
            return Err(io::Error::other("the power is off"));
        }
        let offset = usize::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
        let bytes = state.files[self.file].seen.get(offset..offset + buffer.len());
        buffer.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}
