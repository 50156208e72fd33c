//! Files written through a memory mapping.
//!
//! An error of the disk while a page is brought in arrives as SIGBUS, which ends the process: the same outcome as any other
//! fatal error, without the message. Segments are filled with zeros before use, so a full disk cannot cause it.

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::ptr::NonNull;

use rustix::mm::{MapFlags, MsyncFlags, ProtFlags};

use super::{Access, Disk, DiskFile, FileEntry, direct};

/// Copies into a mapping of the file and calls `msync`. Reads do not map: memory that the page cache could give back any time
/// would count as the process's own.
#[derive(Default)]
pub struct MmapDisk {}

impl MmapDisk {
    /// A disk of this kind.
    pub fn new() -> MmapDisk {
        MmapDisk {}
    }
}

impl Disk for MmapDisk {
    fn list(&self, directory: &Path) -> io::Result<Vec<FileEntry>> {
        direct::list(directory)
    }

    fn create(&self, path: &Path, size_bytes: u64) -> io::Result<Box<dyn DiskFile>> {
        let file = direct::create(path, size_bytes)?;
        let mapping = Some(Mapping::new(&file, size_bytes)?);
        Ok(Box::new(MappedFile { file, mapping, size_bytes }))
    }

    fn open(&self, path: &Path, access: Access) -> io::Result<Box<dyn DiskFile>> {
        let file = OpenOptions::new().read(true).write(access == Access::Write).open(path)?;
        let size_bytes = file.metadata()?.len();
        let mapping = match access {
            Access::Read => None,
            Access::Write => Some(Mapping::new(&file, size_bytes)?),
        };
        Ok(Box::new(MappedFile { file, mapping, size_bytes }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn is_shared(&self, path: &Path) -> io::Result<bool> {
        direct::is_shared(path)
    }

    fn sync_directory(&self, directory: &Path) -> io::Result<()> {
        File::open(directory)?.sync_all()
    }
}

struct MappedFile {
    file: File,
    mapping: Option<Mapping>,
    size_bytes: u64,
}

impl DiskFile for MappedFile {
    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn write_durable(&self, offset: u64, blocks: &[IoSlice<'_>]) -> io::Result<()> {
        let mapping = self.mapping.as_ref().ok_or(io::ErrorKind::PermissionDenied)?;
        let mut position = usize::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
        let start = position;
        for block in blocks {
            mapping.copy_in(position, block)?;
            position += block.len();
        }
        mapping.sync(start, position - start)
    }

    fn zero_durable(&self, offset: u64, size_bytes: u64) -> io::Result<()> {
        direct::zero_durable(&self.file, offset, size_bytes, &mut || {})
    }

    fn read_exact(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }
}

/// A shared, writable mapping of a whole file. No Rust reference to its memory is ever made, since other handles of the file
/// may change it.
struct Mapping {
    start: NonNull<u8>,
    size_bytes: usize,
}

// SAFETY: the mapping belongs to the process, not to a thread, and is unmapped once, by its only owner.
unsafe impl Send for Mapping {}
// SAFETY: `copy_in` is called by the one writer of a file (the contract of `DiskFile`); `sync` may run anywhere.
unsafe impl Sync for Mapping {}

impl Mapping {
    fn new(file: &File, size_bytes: u64) -> io::Result<Mapping> {
        let size_bytes = usize::try_from(size_bytes).map_err(|_| io::ErrorKind::InvalidInput)?;
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: the kernel picks a fresh address range, so no memory in use is touched. The file is not shortened while
        // it is mapped: segments keep their size for life.
        let start = unsafe {
            rustix::mm::mmap(std::ptr::null_mut(), size_bytes, protection, MapFlags::SHARED, file, 0)
        }?;
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Mapping { start, size_bytes })
    }

    fn copy_in(&self, offset: usize, bytes: &[u8]) -> io::Result<()> {
        if offset.checked_add(bytes.len()).is_none_or(|end| end > self.size_bytes) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        // SAFETY: the range was just checked to lie inside the mapping; `bytes` is ordinary memory and cannot overlap it,
        // since no reference into the mapping exists.
        unsafe { self.start.add(offset).copy_from_nonoverlapping(NonNull::from(bytes).cast(), bytes.len()) };
        Ok(())
    }

    fn sync(&self, offset: usize, size_bytes: usize) -> io::Result<()> {
        assert!(offset + size_bytes <= self.size_bytes, "copy_in checked the same range");
        // SAFETY: the range lies inside the mapping; msync changes no memory.
        unsafe {
            rustix::mm::msync(self.start.add(offset).as_ptr().cast(), size_bytes, MsyncFlags::SYNC)?;
        }
        Ok(())
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: this range was mapped by `new`, is unmapped only here, and nothing refers into it.
        let unmapped = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.size_bytes) };
        debug_assert!(unmapped.is_ok(), "a mapping of our own can be unmapped");
    }
}
