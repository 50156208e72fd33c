//! Room for one more transaction.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::OwnedSemaphorePermit;

use super::{Inner, Metrics, add_one};
use crate::wallet::NotAnswered;

/// A transaction is under way as long as this lives.
pub(super) struct Permit {
    _room: OwnedSemaphorePermit,
    metrics: Arc<Metrics>,
}

impl Inner {
    /// Lets a transaction in, where there is room.
    pub(super) fn room(&self) -> Option<Permit> {
        let room = Arc::clone(&self.under_way).try_acquire_owned().ok()?;
        add_one(&self.metrics.in_flight);
        Some(Permit { _room: room, metrics: Arc::clone(&self.metrics) })
    }

    /// Lets a transaction in, or tells whoever wants it that there is no room.
    pub(super) fn admit(&self) -> Result<Permit, NotAnswered> {
        self.room().ok_or_else(|| {
            add_one(&self.metrics.overloaded);
            NotAnswered::Overloaded
        })
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.metrics.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}
