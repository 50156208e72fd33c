//! Files written past the page cache, each write durable when it returns.

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{FallocateFlags, OFlags};

use super::{Access, Disk, DiskFile, FileEntry};
use crate::journal::buffer::{BLOCK_SIZE_BYTES, BufferPool};

/// How much one write of zeros covers: large enough for the disk's full rate, small enough not to hold up the journal's own
/// writes for long.
const ZEROS_SIZE_BYTES: usize = 1 << 20;

/// `O_DIRECT | O_DSYNC`. Where a file system refuses direct I/O, it warns and writes through the page cache with `fdatasync`.
pub struct DirectDisk {
    direct_io: AtomicBool,
}

impl DirectDisk {
    /// Direct I/O, where the file system allows it.
    pub fn new() -> DirectDisk {
        DirectDisk { direct_io: AtomicBool::new(true) }
    }

    /// Through the page cache with `fdatasync`, as on a file system that refuses direct I/O.
    pub fn buffered() -> DirectDisk {
        DirectDisk { direct_io: AtomicBool::new(false) }
    }

    /// Opens a second handle for writing: `None` where direct I/O is refused.
    fn open_direct(&self, path: &Path, flags: OFlags) -> io::Result<Option<File>> {
        if !self.direct_io.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let file = open_direct(OpenOptions::new().write(true), path, flags)?;
        if file.is_none() && self.direct_io.swap(false, Ordering::Relaxed) {
            tracing::warn!(path = %path.display(), "no direct I/O on this file system: using fdatasync, which is slower");
        }
        Ok(file)
    }

    fn for_writing(&self, path: &Path, file: File, size_bytes: u64) -> io::Result<Box<dyn DiskFile>> {
        let durable = self.open_direct(path, OFlags::DSYNC)?;
        let zeroing = self.open_direct(path, OFlags::empty())?;
        Ok(Box::new(DirectFile {
            file,
            durable,
            zeroing,
            path: path.to_owned(),
            once: OnceLock::new(),
            size_bytes,
        }))
    }
}

impl Default for DirectDisk {
    fn default() -> DirectDisk {
        DirectDisk::new()
    }
}

impl Disk for DirectDisk {
    fn list(&self, directory: &Path) -> io::Result<Vec<FileEntry>> {
        list(directory)
    }

    fn create(&self, path: &Path, size_bytes: u64) -> io::Result<Box<dyn DiskFile>> {
        let file = create(path, size_bytes)?;
        self.for_writing(path, file, size_bytes)
    }

    fn open(&self, path: &Path, access: Access) -> io::Result<Box<dyn DiskFile>> {
        let file = OpenOptions::new().read(true).write(access == Access::Write).open(path)?;
        let size_bytes = file.metadata()?.len();
        match access {
            Access::Read => {
                let (path, once) = (path.to_owned(), OnceLock::new());
                Ok(Box::new(DirectFile { file, durable: None, zeroing: None, path, once, size_bytes }))
            }
            Access::Write => self.for_writing(path, file, size_bytes),
        }
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn is_shared(&self, path: &Path) -> io::Result<bool> {
        is_shared(path)
    }

    fn sync_directory(&self, directory: &Path) -> io::Result<()> {
        File::open(directory)?.sync_all()
    }
}

/// Reads go through the page cache, so that history that is read twice is read from memory.
struct DirectFile {
    file: File,
    /// `O_DIRECT | O_DSYNC`.
    durable: Option<File>,
    /// `O_DIRECT` only: many writes of zeros share one sync.
    zeroing: Option<File>,
    path: PathBuf,
    /// `O_DIRECT`, for reading: opened when it is needed. `None` where that is refused, or the file has lost its name.
    once: OnceLock<Option<File>>,
    size_bytes: u64,
}

impl DiskFile for DirectFile {
    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn write_durable(&self, offset: u64, blocks: &[IoSlice<'_>]) -> io::Result<()> {
        match &self.durable {
            Some(durable) => write_all(durable, offset, blocks),
            None => {
                write_all(&self.file, offset, blocks)?;
                self.file.sync_data()
            }
        }
    }

    fn zero_durable(&self, offset: u64, size_bytes: u64) -> io::Result<()> {
        self.zero_aside(offset, size_bytes, &mut || {})
    }

    fn zero_aside(&self, offset: u64, size_bytes: u64, between: &mut dyn FnMut()) -> io::Result<()> {
        zero_durable(self.zeroing.as_ref().unwrap_or(&self.file), offset, size_bytes, between)
    }

    fn read_exact(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }

    fn read_once(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let is_aligned = [offset, buffer.len() as u64, buffer.as_ptr().addr() as u64]
            .into_iter()
            .all(|place| place.is_multiple_of(BLOCK_SIZE_BYTES as u64));
        let open = || open_direct(OpenOptions::new().read(true), &self.path, OFlags::empty()).ok().flatten();
        let once = if is_aligned { self.once.get_or_init(open).as_ref() } else { None };
        once.unwrap_or(&self.file).read_exact_at(buffer, offset)
    }
}

/// Opens a file that is read and written past the page cache: `None` where the file system refuses that.
pub(crate) fn open_direct(options: &OpenOptions, path: &Path, flags: OFlags) -> io::Result<Option<File>> {
    let flags = (OFlags::DIRECT | flags).bits().cast_signed();
    match options.clone().custom_flags(flags).open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::INVAL.raw_os_error()) => Ok(None),
        Err(error) => Err(error),
    }
}

pub(super) fn list(directory: &Path) -> io::Result<Vec<FileEntry>> {
    let mut entries = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        // A file that is renamed while the directory is read is no error: it is seen under its other name, or not at all.
        let Ok(metadata) = entry.metadata() else { continue };
        if let (true, Ok(name)) = (metadata.is_file(), entry.file_name().into_string()) {
            entries.push(FileEntry { name, size_bytes: metadata.len() });
        }
    }
    Ok(entries)
}

pub(super) fn is_shared(path: &Path) -> io::Result<bool> {
    Ok(std::fs::metadata(path)?.nlink() > 1)
}

/// Space is reserved at once, so that a full disk shows here and the file's blocks lie together.
pub(crate) fn create(path: &Path, size_bytes: u64) -> io::Result<File> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)?;
    match rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, size_bytes) {
        Ok(()) => {}
        Err(rustix::io::Errno::OPNOTSUPP) => file.set_len(size_bytes)?,
        Err(error) => return Err(error.into()),
    }
    Ok(file)
}

pub(super) fn zero_durable(
    file: &File,
    offset: u64,
    size_bytes: u64,
    between: &mut dyn FnMut(),
) -> io::Result<()> {
    let chunk_size_bytes = usize::try_from(size_bytes).unwrap_or(usize::MAX).min(ZEROS_SIZE_BYTES);
    let zeros = BufferPool::new().take(chunk_size_bytes);
    let end = offset + size_bytes;
    let mut position = offset;
    while position < end {
        let size_bytes = usize::try_from(end - position).unwrap_or(usize::MAX).min(chunk_size_bytes);
        write_all(file, position, &[IoSlice::new(&zeros[..size_bytes])])?;
        position += size_bytes as u64;
        if position < end {
            between();
        }
    }
    // Not only the data: a file that was only reserved has its extents marked as written now.
    file.sync_all()
}

/// One call to the operating system unless it writes less than it was given.
pub(crate) fn write_all(file: &File, mut offset: u64, blocks: &[IoSlice<'_>]) -> io::Result<()> {
    let mut blocks = blocks.to_vec();
    let mut rest = &mut blocks[..];
    while !rest.is_empty() {
        match rustix::io::pwritev(file, rest, offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                offset += written as u64;
                IoSlice::advance_slices(&mut rest, written);
            }
            // Nothing was written when a signal came first.
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
