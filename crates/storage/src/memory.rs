//! How tables that are read at random lie in memory, and come from it.
//!
//! They miss the address translation cache on nearly every access; with pages of 2 MiB instead of 4 KiB they
//! practically never do, and faulting fresh memory in is cheaper, too.

use std::alloc::{GlobalAlloc, Layout};

/// Allocations from this size on are placed on huge pages.
const LARGE_SIZE_BYTES: usize = 4 << 20;
const HUGE_PAGE_SIZE_BYTES: usize = 2 << 20;

/// An allocator that asks the kernel for huge pages behind large allocations of another one.
///
/// ```
/// use std::alloc::System;
/// use storage::memory::HugePages;
///
/// #[global_allocator]
/// static ALLOCATOR: HugePages<System> = HugePages(System);
///
/// assert_eq!(vec![1u8; 16 << 20].iter().map(|byte| u64::from(*byte)).sum::<u64>(), 16 << 20);
/// ```
#[derive(Debug, Clone, Copy, Default)]
pub struct HugePages<Inner>(pub Inner);

/// Asks the processor to load the cache line at this address, and does not wait for it. A hint: any address is allowed, and where there
/// is no such instruction, nothing happens.
#[inline(always)]
pub fn prefetch<Value>(address: *const Value) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: the instruction belongs to SSE, which every x86-64 processor has. It never faults and changes nothing that a
        // program can see.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

/// Advice only: where the kernel has no huge pages to give, or none at all, nothing changes.
fn advise(start: *mut u8, size: usize) {
    let first = (start as usize).next_multiple_of(HUGE_PAGE_SIZE_BYTES);
    let end = (start as usize + size) / HUGE_PAGE_SIZE_BYTES * HUGE_PAGE_SIZE_BYTES;
    if start.is_null() || end <= first {
        return;
    }
    let from = start.wrapping_add(first - start as usize);
    // SAFETY: the range lies within the allocation that was just made and belongs to nobody else yet; the advice changes how its
    // pages are mapped, never what they hold.
    let _ = unsafe { rustix::mm::madvise(from.cast(), end - first, rustix::mm::Advice::LinuxHugepage) };
}

// SAFETY: every call goes to the inner allocator with the same arguments, and its answer is returned unchanged.
unsafe impl<Inner: GlobalAlloc> GlobalAlloc for HugePages<Inner> {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps the contract of `alloc`, which is the inner one's.
        let start = unsafe { self.0.alloc(layout) };
        if layout.size() >= LARGE_SIZE_BYTES {
            advise(start, layout.size());
        }
        start
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        let start = unsafe { self.0.alloc_zeroed(layout) };
        if layout.size() >= LARGE_SIZE_BYTES {
            advise(start, layout.size());
        }
        start
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { self.0.dealloc(start, layout) }
    }

    unsafe fn realloc(&self, start: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as above.
        let moved = unsafe { self.0.realloc(start, layout, size) };
        if size >= LARGE_SIZE_BYTES {
            advise(moved, size);
        }
        moved
    }
}
