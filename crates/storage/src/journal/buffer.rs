//! Pooled memory that a disk can read and write directly: aligned to 4 KiB, grown seldom, handed back when the last user
//! is done.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::{Arc, Mutex};

use super::frame::HEADER_SIZE_BYTES;

/// The unit of direct I/O: every frame begins at and fills a multiple of it.
pub const BLOCK_SIZE_BYTES: usize = 4096;

/// How much memory a pool keeps for later; what comes back beyond is freed.
const POOL_KEPT_BYTES_MAX: usize = 64 << 20;
const POOL_KEPT_BUFFERS_MAX: usize = 64;
const BODY_CAPACITY_AT_FIRST_BYTES: usize = 64 << 10;

/// `size_bytes` rounded up to whole blocks.
pub(crate) const fn whole_blocks(size_bytes: usize) -> usize {
    size_bytes.next_multiple_of(BLOCK_SIZE_BYTES)
}

/// Memory aligned to a block. Every byte is initialised, from the allocation on.
struct AlignedBytes {
    pointer: NonNull<u8>,
    size_bytes: usize,
}

// SAFETY: `AlignedBytes` owns its allocation alone, as a `Box<[u8]>` does, and has no thread-bound state.
unsafe impl Send for AlignedBytes {}
// SAFETY: shared access only reads plain bytes.
unsafe impl Sync for AlignedBytes {}

impl AlignedBytes {
    const EMPTY: AlignedBytes = AlignedBytes { pointer: NonNull::dangling(), size_bytes: 0 };

    fn zeroed(size_bytes: usize) -> AlignedBytes {
        let size_bytes = whole_blocks(size_bytes.max(1));
        let layout = Self::layout(size_bytes);
        // SAFETY: the layout's size is not zero.
        let pointer = unsafe { alloc_zeroed(layout) };
        let pointer = NonNull::new(pointer).unwrap_or_else(|| handle_alloc_error(layout));
        AlignedBytes { pointer, size_bytes }
    }

    fn layout(size_bytes: usize) -> Layout {
        Layout::from_size_align(size_bytes, BLOCK_SIZE_BYTES).expect("sizes stay far below the address space")
    }
}

impl Drop for AlignedBytes {
    fn drop(&mut self) {
        if self.size_bytes > 0 {
            // SAFETY: a size above zero means that `zeroed` allocated exactly this layout, and nobody freed it.
            unsafe { dealloc(self.pointer.as_ptr(), Self::layout(self.size_bytes)) }
        }
    }
}

impl Deref for AlignedBytes {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: the allocation has `size_bytes` initialised bytes (or none, when dangling) and lives as long as `self`.
        unsafe { std::slice::from_raw_parts(self.pointer.as_ptr(), self.size_bytes) }
    }
}

impl DerefMut for AlignedBytes {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`; `&mut self` makes the access the only one.
        unsafe { std::slice::from_raw_parts_mut(self.pointer.as_ptr(), self.size_bytes) }
    }
}

/// Where buffers come from and go back to. Clones share it.
#[derive(Clone, Default)]
pub struct BufferPool {
    kept: Arc<Mutex<Vec<AlignedBytes>>>,
}

impl BufferPool {
    /// A pool with nothing in it yet.
    pub fn new() -> BufferPool {
        BufferPool::default()
    }

    /// An empty body to write into.
    pub fn buffer(&self) -> FrameBuffer {
        FrameBuffer {
            bytes: self.take(HEADER_SIZE_BYTES + BODY_CAPACITY_AT_FIRST_BYTES),
            end: HEADER_SIZE_BYTES,
        }
    }

    /// At least this many bytes, in whole blocks, with any content.
    pub(crate) fn take(&self, size_bytes: usize) -> PooledBytes {
        let mut kept = self.kept.lock().expect("no code panics while it holds the pool");
        let found = kept.iter().rposition(|bytes| bytes.len() >= size_bytes);
        let bytes = found.map(|position| kept.swap_remove(position));
        drop(kept);
        PooledBytes { bytes: bytes.unwrap_or_else(|| AlignedBytes::zeroed(size_bytes)), pool: self.clone() }
    }

    fn put(&self, bytes: AlignedBytes) {
        let mut kept = self.kept.lock().expect("no code panics while it holds the pool");
        let kept_bytes: usize = kept.iter().map(|bytes| bytes.len()).sum();
        if kept.len() < POOL_KEPT_BUFFERS_MAX && kept_bytes + bytes.len() <= POOL_KEPT_BYTES_MAX {
            kept.push(bytes);
        }
    }
}

/// Aligned bytes that go back to their pool when dropped.
pub(crate) struct PooledBytes {
    bytes: AlignedBytes,
    pool: BufferPool,
}

impl Drop for PooledBytes {
    fn drop(&mut self) {
        self.pool.put(std::mem::replace(&mut self.bytes, AlignedBytes::EMPTY));
    }
}

impl Deref for PooledBytes {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl DerefMut for PooledBytes {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

/// The body of a frame while it is being built. The room for the header is reserved in front of it, so that the frame goes
/// to the disk from this very memory.
pub struct FrameBuffer {
    bytes: PooledBytes,
    end: usize,
}

impl FrameBuffer {
    /// The size of the body in bytes.
    pub fn len(&self) -> usize {
        self.end - HEADER_SIZE_BYTES
    }

    /// Whether nothing was written yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The body so far.
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[HEADER_SIZE_BYTES..self.end]
    }

    /// The body so far, to fill in what was not known when it was written.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut self.bytes[HEADER_SIZE_BYTES..self.end]
    }

    /// Makes room for so many more bytes.
    pub fn reserve(&mut self, additional_bytes: usize) {
        let needed = self.end + additional_bytes;
        if needed > self.bytes.len() {
            let mut larger = self.bytes.pool.take(needed.max(2 * self.bytes.len()));
            larger[..self.end].copy_from_slice(&self.bytes[..self.end]);
            self.bytes = larger;
        }
    }

    /// Adds bytes at the end.
    pub fn extend_from_slice(&mut self, more: &[u8]) {
        self.reserve(more.len());
        self.bytes[self.end..self.end + more.len()].copy_from_slice(more);
        self.end += more.len();
    }

    /// Adds one byte at the end.
    pub fn push(&mut self, byte: u8) {
        self.extend_from_slice(&[byte]);
    }

    /// Adds `size_bytes` zeros at the end and lends them, for an encoder that writes in place.
    pub fn extend_zeroed(&mut self, size_bytes: usize) -> &mut [u8] {
        self.reserve(size_bytes);
        let start = self.end;
        self.end += size_bytes;
        let added = &mut self.bytes[start..self.end];
        added.fill(0);
        added
    }

    /// Cuts the body to `size_bytes`; does nothing when it is no longer than that.
    pub fn truncate(&mut self, size_bytes: usize) {
        self.end = self.end.min(HEADER_SIZE_BYTES + size_bytes);
    }

    /// Empties the body.
    pub fn clear(&mut self) {
        self.end = HEADER_SIZE_BYTES;
    }

    /// Header room and body, followed by zeros to the end of the last block.
    pub(crate) fn into_blocks(mut self) -> PooledBytes {
        let size_bytes = whole_blocks(self.end);
        assert!(size_bytes <= self.bytes.len(), "buffers are whole blocks");
        self.bytes[self.end..size_bytes].fill(0);
        self.bytes
    }
}

impl std::io::Write for FrameBuffer {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl std::fmt::Debug for FrameBuffer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "FrameBuffer({} bytes)", self.len())
    }
}
