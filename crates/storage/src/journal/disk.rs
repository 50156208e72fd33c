//! The port between the journal and a disk.
//!
//! Everything that the journal does to the outside goes through [`Disk`] and [`DiskFile`], so that a test can put a disk
//! there that tears, lies and breaks ([`super::faulty`]). Offsets and sizes of writes are whole 4 KiB blocks, and so is the
//! alignment of the memory.

mod direct;
mod mapped;

use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::Arc;

pub use direct::DirectDisk;
pub(crate) use direct::{create, open_direct, write_all};
pub use mapped::MmapDisk;

/// The kinds of disk to choose from in a configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DiskKind {
    /// `O_DIRECT | O_DSYNC`: past the page cache, the fastest as measured.
    #[default]
    Direct,
    /// Memory-mapped files and `msync`.
    Mmap,
}

impl DiskKind {
    /// A disk of this kind.
    pub fn disk(self) -> Arc<dyn Disk> {
        match self {
            DiskKind::Direct => Arc::new(DirectDisk::new()),
            DiskKind::Mmap => Arc::new(MmapDisk::new()),
        }
    }
}

/// What a file is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Reads only.
    Read,
    /// Reads and durable writes.
    Write,
}

/// One entry of a directory listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileEntry {
    /// The file's name, without the directory.
    pub name: String,
    /// The file's size.
    pub size_bytes: u64,
}

/// Files by name. Renames and removals are durable only after [`Disk::sync_directory`], in the order in which they were made.
pub trait Disk: Send + Sync {
    /// The regular files of a directory, in any order.
    fn list(&self, directory: &Path) -> io::Result<Vec<FileEntry>>;

    /// Makes a file of this size, or empties the one that has the name. What it reads as before it is written is undefined.
    fn create(&self, path: &Path, size_bytes: u64) -> io::Result<Box<dyn DiskFile>>;

    /// Opens a file.
    fn open(&self, path: &Path, access: Access) -> io::Result<Box<dyn DiskFile>>;

    /// Gives a file another name, replacing what had it. Open handles stay with the file.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a name.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Whether the file has another name as well, under which somebody relies on what it holds.
    fn is_shared(&self, path: &Path) -> io::Result<bool>;

    /// Makes every earlier change of names in the directory durable.
    fn sync_directory(&self, directory: &Path) -> io::Result<()>;
}

/// A file of fixed size. One thread writes; any number read.
pub trait DiskFile: Send + Sync {
    /// The size of the file.
    fn size_bytes(&self) -> u64;

    /// Writes the blocks one after the other from `offset` on, and returns once they are durable. After an error, each
    /// sector has its old or its new content.
    fn write_durable(&self, offset: u64, blocks: &[IoSlice<'_>]) -> io::Result<()>;

    /// As [`DiskFile::write_durable`], with zeros; made for large ranges.
    fn zero_durable(&self, offset: u64, size_bytes: u64) -> io::Result<()>;

    /// As [`DiskFile::zero_durable`], for a file that nobody waits for: a disk that writes in parts calls `between` after each but the
    /// last, to let other writes pass.
    fn zero_aside(&self, offset: u64, size_bytes: u64, between: &mut dyn FnMut()) -> io::Result<()> {
        let _ = between;
        self.zero_durable(offset, size_bytes)
    }

    /// Fills the buffer from `offset` on. Neither need be aligned.
    fn read_exact(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()>;

    /// The same, for what nobody will read again soon: a disk that keeps what is read passes it by where offset and buffer are aligned.
    fn read_once(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.read_exact(offset, buffer)
    }
}
