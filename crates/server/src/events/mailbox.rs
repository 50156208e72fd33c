//! What waits for one live subscriber: bounded, and emptied when it overflows, for the journal has everything.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::Notify;

use super::block::Delivery;

/// How much may wait.
#[derive(Clone, Copy)]
pub(super) struct Room {
    /// Events of one subscriber.
    pub(super) buffer_events: usize,
    /// All mailboxes together: a delivery keeps its whole block in memory, even for one event of it, and all share the same blocks.
    pub(super) retained_size_bytes: u64,
}

pub(super) struct Mailbox {
    room: Room,
    inner: Mutex<Inner>,
    filled: Notify,
}

#[derive(Default)]
struct Inner {
    waiting: VecDeque<Delivery>,
    events: usize,
    overflowed: Option<Instant>,
    closed: bool,
}

impl Inner {
    /// Whether so much was handed out since the oldest delivery that this mailbox alone may keep it in memory.
    fn is_old(&self, published_bytes: u64, room: Room) -> bool {
        let oldest = self.waiting.front().map(|delivery| delivery.block.offset_bytes);
        oldest.is_some_and(|oldest| published_bytes.saturating_sub(oldest) > room.retained_size_bytes)
    }

    fn overflow(&mut self) {
        self.waiting = VecDeque::new();
        self.overflowed = Some(Instant::now());
    }
}

/// What is in the mailbox.
pub(super) enum Mail {
    Delivery(Delivery),
    /// It overflowed then, and gets nothing more.
    Overflowed(Instant),
}

/// Whether a mailbox takes more.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Posted {
    Taken,
    Overflowed,
    Closed,
}

impl Mailbox {
    pub(super) fn new(room: Room) -> Mailbox {
        Mailbox { room, inner: Mutex::default(), filled: Notify::new() }
    }

    /// One delivery always fits into an empty mailbox.
    pub(super) fn post(&self, delivery: Delivery) -> Posted {
        let mut inner = self.lock();
        if inner.closed {
            return Posted::Closed;
        }
        inner.events += delivery.count();
        let is_old = inner.is_old(delivery.block.offset_bytes, self.room);
        let posted = if is_old || (inner.events > self.room.buffer_events && !inner.waiting.is_empty()) {
            inner.overflow();
            Posted::Overflowed
        } else {
            inner.waiting.push_back(delivery);
            Posted::Taken
        };
        drop(inner);
        self.filled.notify_one();
        posted
    }

    /// Whether it would take more. Gives up what is too old, for a mailbox that gets nothing new is not emptied otherwise.
    pub(super) fn check(&self, published_bytes: u64) -> Posted {
        let mut inner = self.lock();
        if inner.closed {
            return Posted::Closed;
        }
        if !inner.is_old(published_bytes, self.room) {
            return Posted::Taken;
        }
        inner.overflow();
        drop(inner);
        self.filled.notify_one();
        Posted::Overflowed
    }

    /// The next in order. Dropping the future loses nothing.
    pub(super) async fn take(&self) -> Mail {
        loop {
            let filled = self.filled.notified();
            if let Some(delivery) = self.take_waiting() {
                return Mail::Delivery(delivery);
            }
            if let Some(overflowed) = self.overflowed() {
                return Mail::Overflowed(overflowed);
            }
            filled.await;
        }
    }

    /// The next in order, if there is one.
    pub(super) fn take_waiting(&self) -> Option<Delivery> {
        let mut inner = self.lock();
        let delivery = inner.waiting.pop_front()?;
        inner.events -= delivery.count();
        Some(delivery)
    }

    /// Its subscriber is gone.
    pub(super) fn close(&self) {
        let mut inner = self.lock();
        inner.closed = true;
        inner.waiting = VecDeque::new();
    }

    /// It gets what comes, and all that came was taken.
    pub(super) fn is_drained(&self) -> bool {
        let inner = self.lock();
        inner.waiting.is_empty() && inner.overflowed.is_none() && !inner.closed
    }

    pub(super) fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// Since when it gets nothing more.
    pub(super) fn overflowed(&self) -> Option<Instant> {
        self.lock().overflowed
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::block::Block;
    use super::*;

    #[tokio::test]
    async fn one_that_gets_nothing_new_gives_up_what_it_alone_keeps() {
        let mailbox = Mailbox::new(Room { buffer_events: 10, retained_size_bytes: 1_000 });
        let posted = |offset_bytes| {
            mailbox.post(Delivery { block: Arc::new(Block::new(0, Vec::new(), offset_bytes)), places: None })
        };
        assert_eq!((posted(0), posted(900)), (Posted::Taken, Posted::Taken));
        assert_eq!((mailbox.check(1_000), mailbox.overflowed()), (Posted::Taken, None));
        // Once the first was taken, the second is the oldest.
        assert!(matches!(mailbox.take().await, Mail::Delivery(_)));
        assert_eq!(mailbox.check(1_001), Posted::Taken);
        assert_eq!(mailbox.check(1_901), Posted::Overflowed);
        assert!(matches!(mailbox.take().await, Mail::Overflowed(_)));
        mailbox.close();
        assert_eq!(mailbox.check(1_901), Posted::Closed);
    }
}
