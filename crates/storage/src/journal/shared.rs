//! What the writer, the readers and the workshop of one journal share.

use std::io::IoSlice;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use super::buffer::BufferPool;
use super::catalogue::Catalogue;
use super::disk::{Access, Disk, DiskFile};
use super::error::JournalError;
use super::frame::Frame;
use super::layout::{segment_path, side_car_path, spare_path};
use super::reader::ReleasedFrames;
use super::{FrameIndex, sidecar};

/// Files that readers keep open, and frames that they keep in memory.
const OPEN_SEGMENTS_MAX: usize = 32;
const CACHED_FRAMES_MAX: usize = 32;
/// One frame may be as large as 16 MiB.
const CACHED_FRAMES_SIZE_BYTES_MAX: usize = 32 << 20;
const COPIED_AT_ONCE_SIZE_BYTES: usize = 1 << 20;

pub(crate) struct Shared {
    pub(crate) directory: PathBuf,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) pool: BufferPool,
    pub(crate) catalogue: Catalogue,
    pub(crate) files: Mutex<RecentlyUsed<Arc<dyn DiskFile>>>,
    pub(crate) frames: Mutex<RecentlyUsed<Arc<Frame>>>,
    /// Gives every spare segment a name of its own.
    pub(crate) next_spare: AtomicU64,
    pub(crate) genesis: [u8; 32],
    /// Where frames are that were released, once somebody has said so.
    pub(crate) released: OnceLock<Arc<dyn ReleasedFrames>>,
}

impl Shared {
    pub(crate) fn new(
        directory: &Path,
        disk: Arc<dyn Disk>,
        catalogue: Catalogue,
        next_spare: u64,
        genesis: [u8; 32],
    ) -> Shared {
        Shared {
            directory: directory.to_owned(),
            disk,
            pool: BufferPool::new(),
            catalogue,
            files: Mutex::new(RecentlyUsed::new(OPEN_SEGMENTS_MAX, usize::MAX)),
            frames: Mutex::new(RecentlyUsed::new(CACHED_FRAMES_MAX, CACHED_FRAMES_SIZE_BYTES_MAX)),
            next_spare: AtomicU64::new(next_spare),
            genesis,
            released: OnceLock::new(),
        }
    }

    /// To be called after the catalogue has lost frames: nothing stale may be served, and nobody who looked before may put
    /// anything stale back.
    pub(crate) fn forget_cached(&self) {
        self.files.lock().expect("no code panics while it holds a cache").clear();
        self.frames.lock().expect("no code panics while it holds a cache").clear();
    }

    /// A segment for reading, and the generation of the files in which it was opened.
    pub(crate) fn segment(
        &self,
        first_index: FrameIndex,
        generation: u64,
    ) -> Result<Arc<dyn DiskFile>, JournalError> {
        let cached = self.files.lock().expect("no code panics while it holds a cache").get(first_index.0);
        if let Some(file) = cached {
            return Ok(file);
        }
        let path = segment_path(&self.directory, first_index);
        let file =
            self.disk.open(&path, Access::Read).map_err(|source| JournalError::io("open", &path, source))?;
        let file: Arc<dyn DiskFile> = Arc::from(file);
        let mut files = self.files.lock().expect("no code panics while it holds a cache");
        files.insert(generation, first_index.0, Arc::clone(&file), 0);
        Ok(file)
    }

    /// Takes a segment out of use under a new name, whose number is answered; `None` when somebody else has the file too: then it only
    /// loses its name here. Durable only after the directory was synced.
    pub(crate) fn retire_segment(&self, first_index: FrameIndex) -> Result<Option<u64>, JournalError> {
        self.remove_side_car(first_index)?;
        let path = segment_path(&self.directory, first_index);
        if self.is_shared(&path)? {
            self.disk.remove(&path).map_err(|source| JournalError::io("remove", &path, source))?;
            return Ok(None);
        }
        let number = self.next_spare.fetch_add(1, Ordering::Relaxed);
        self.disk
            .rename(&path, &spare_path(&self.directory, number))
            .map_err(|source| JournalError::io("rename", &path, source))?;
        Ok(Some(number))
    }

    fn is_shared(&self, path: &Path) -> Result<bool, JournalError> {
        self.disk.is_shared(path).map_err(|source| JournalError::io("look at", path, source))
    }

    /// Opens the segment that is written from now on. When somebody else has the file too, it is a copy: theirs never changes.
    pub(crate) fn open_active(&self, first_index: FrameIndex) -> Result<Box<dyn DiskFile>, JournalError> {
        let path = segment_path(&self.directory, first_index);
        if self.is_shared(&path)? {
            self.copy(&path)?;
            self.forget_cached();
        }
        self.disk.open(&path, Access::Write).map_err(|source| JournalError::io("open", &path, source))
    }

    /// Puts a copy in the place of a segment.
    fn copy(&self, path: &Path) -> Result<(), JournalError> {
        let failed = |source| JournalError::io("copy", path, source);
        let original = self.disk.open(path, Access::Read).map_err(failed)?;
        let draft = spare_path(&self.directory, self.next_spare.fetch_add(1, Ordering::Relaxed));
        let copy = self.disk.create(&draft, original.size_bytes()).map_err(failed)?;
        let mut piece = self.pool.take(COPIED_AT_ONCE_SIZE_BYTES);
        for offset in (0..original.size_bytes()).step_by(COPIED_AT_ONCE_SIZE_BYTES) {
            let left = usize::try_from(original.size_bytes() - offset).unwrap_or(usize::MAX);
            let piece = &mut piece[..left.min(COPIED_AT_ONCE_SIZE_BYTES)];
            original.read_exact(offset, piece).map_err(failed)?;
            copy.write_durable(offset, &[IoSlice::new(piece)]).map_err(failed)?;
        }
        self.disk.rename(&draft, path).map_err(failed)?;
        self.sync_directory()
    }

    /// Removes the side-car of a segment, if there is one.
    pub(crate) fn remove_side_car(&self, first_index: FrameIndex) -> Result<(), JournalError> {
        let path = side_car_path(&self.directory, first_index);
        match self.disk.remove(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(JournalError::io("remove", &path, error))
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn sync_directory(&self) -> Result<(), JournalError> {
        self.disk
            .sync_directory(&self.directory)
            .map_err(|source| JournalError::io("sync", &self.directory, source))
    }

    /// Writes the side-car of a sealed segment. Its absence costs time at the next start and nothing else, so a failure is
    /// only logged.
    pub(crate) fn store_side_car(&self, first_index: FrameIndex, partition: u32) {
        let frames = self.catalogue.read();
        let frames = frames.segments.iter().find(|segment| segment.first_index == first_index).cloned();
        // A segment that was released in the meantime needs none.
        let Some((frames, last)) = frames.and_then(|frames| frames.last.map(|last| (frames, last))) else {
            return;
        };
        if let Err(error) = sidecar::store(&*self.disk, &self.directory, partition, &frames, &last.encode()) {
            tracing::warn!(%error, "the index of a sealed segment was not written; the next start takes longer");
        }
    }
}

/// A small cache that forgets what was not used for longest.
pub(crate) struct RecentlyUsed<Value> {
    /// Most recently used last.
    entries: Vec<(u64, Value, usize)>,
    count_max: usize,
    size_bytes_max: usize,
    generation: u64,
}

impl<Value: Clone> RecentlyUsed<Value> {
    pub(crate) fn new(count_max: usize, size_bytes_max: usize) -> RecentlyUsed<Value> {
        RecentlyUsed { entries: Vec::with_capacity(count_max), count_max, size_bytes_max, generation: 0 }
    }

    /// To be asked for before looking up what to insert.
    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    pub(crate) fn get(&mut self, key: u64) -> Option<Value> {
        let position = self.entries.iter().rposition(|(other, ..)| *other == key)?;
        let entry = self.entries.remove(position);
        let value = entry.1.clone();
        self.entries.push(entry);
        Some(value)
    }

    /// The first value that fits, which counts as used.
    pub(crate) fn find(&mut self, fits: impl Fn(&Value) -> bool) -> Option<Value> {
        let key = self.entries.iter().rev().find(|(_, value, _)| fits(value))?.0;
        self.get(key)
    }

    /// Does nothing if the cache was cleared since the generation was asked for.
    pub(crate) fn insert(&mut self, generation: u64, key: u64, value: Value, size_bytes: usize) {
        if generation != self.generation || size_bytes > self.size_bytes_max {
            return;
        }
        self.entries.retain(|(other, ..)| *other != key);
        self.entries.push((key, value, size_bytes));
        let mut total: usize = self.entries.iter().map(|(.., size_bytes)| size_bytes).sum();
        while self.entries.len() > self.count_max || total > self.size_bytes_max {
            total -= self.entries.remove(0).2;
        }
    }

    fn clear(&mut self) {
        self.entries.clear();
        self.generation += 1;
    }
}
