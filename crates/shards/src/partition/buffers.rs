//! Large vectors that are used again and again.

use std::sync::{Mutex, PoisonError};

/// Vectors kept for later; further ones are dropped.
const KEPT_MAX: usize = 64;
/// What is smaller is cheap to make.
const CAPACITY_MIN: usize = 512;

/// Emptied vectors that one thread filled and another read. Fresh ones of a hundred pages would have to be faulted in each time.
#[derive(Debug)]
pub(super) struct Buffers<Item> {
    free: Mutex<Vec<Vec<Item>>>,
}

impl<Item> Default for Buffers<Item> {
    fn default() -> Buffers<Item> {
        Buffers { free: Mutex::default() }
    }
}

impl<Item> Buffers<Item> {
    /// An empty vector, with memory when one was given back.
    pub(super) fn take(&self) -> Vec<Item> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default()
    }

    /// Takes a vector that is not needed any more.
    pub(super) fn give_back(&self, mut used: Vec<Item>) {
        used.clear();
        if used.capacity() < CAPACITY_MIN {
            return;
        }
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        if free.len() < KEPT_MAX {
            free.push(used);
        }
    }
}
