//! What waits for one live subscriber: bounded, and emptied when it overflows, for the journal has everything.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::Notify;

use super::block::Delivery;

pub(super) struct Mailbox {
    events_max: usize,
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
    pub(super) fn new(events_max: usize) -> Mailbox {
        Mailbox { events_max, inner: Mutex::default(), filled: Notify::new() }
    }

    /// One delivery always fits into an empty mailbox.
    pub(super) fn post(&self, delivery: Delivery) -> Posted {
        let mut inner = self.lock();
        if inner.closed {
            return Posted::Closed;
        }
        inner.events += delivery.count();
        let posted = if inner.events > self.events_max && !inner.waiting.is_empty() {
            inner.waiting = VecDeque::new();
            inner.overflowed = Some(Instant::now());
            Posted::Overflowed
        } else {
            inner.waiting.push_back(delivery);
            Posted::Taken
        };
        drop(inner);
        self.filled.notify_one();
        posted
    }

    /// The next in order. Dropping the future loses nothing.
    pub(super) async fn take(&self) -> Mail {
        loop {
            let filled = self.filled.notified();
            {
                let mut inner = self.lock();
                if let Some(delivery) = inner.waiting.pop_front() {
                    inner.events -= delivery.count();
                    return Mail::Delivery(delivery);
                }
                if let Some(overflowed) = inner.overflowed {
                    return Mail::Overflowed(overflowed);
                }
            }
            filled.await;
        }
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

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
