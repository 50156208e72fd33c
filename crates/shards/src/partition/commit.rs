//! What is durable, and who waits for it.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ledger::Sequence;

/// An answer that may be given once the events that it rests on are durable.
pub(super) type Reply = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Inner {
    sequence: Sequence,
    /// Frames handed to the journal and not yet durable.
    frames_in_flight: usize,
    /// Ascending by sequence.
    waiting: VecDeque<(Sequence, Vec<Reply>)>,
    stopped: bool,
}

/// The last durable event, shared between the state thread, the journal's thread and the checkpoint's builder.
#[derive(Default)]
pub(super) struct Committed {
    inner: Mutex<Inner>,
    advanced: Condvar,
}

impl Committed {
    /// Where the journal ends as it was found.
    pub(super) fn restore(&self, sequence: Sequence) {
        self.lock().sequence = sequence;
    }

    pub(super) fn sequence(&self) -> Sequence {
        self.lock().sequence
    }

    /// A frame was handed to the journal; its replies, and those that rest on it, follow through [`Committed::reply_after`].
    pub(super) fn frame_started(&self) {
        self.lock().frames_in_flight += 1;
    }

    pub(super) fn frames_in_flight(&self) -> usize {
        self.lock().frames_in_flight
    }

    /// Gives the answers once everything up to `sequence` is durable: at once when it is.
    pub(super) fn reply_after(&self, sequence: Sequence, replies: Vec<Reply>) {
        if replies.is_empty() {
            return;
        }
        let mut inner = self.lock();
        if sequence <= inner.sequence {
            drop(inner);
            replies.into_iter().for_each(|reply| reply());
        } else {
            inner.waiting.push_back((sequence, replies));
        }
    }

    /// Everything up to `sequence` is durable.
    pub(super) fn advance(&self, sequence: Sequence) {
        let mut due = Vec::new();
        let mut inner = self.lock();
        assert!(sequence >= inner.sequence, "frames become durable in order");
        inner.sequence = sequence;
        inner.frames_in_flight -= 1;
        while inner.waiting.front().is_some_and(|(after, _)| *after <= sequence) {
            due.extend(inner.waiting.pop_front().map(|(_, replies)| replies));
        }
        drop(inner);
        self.advanced.notify_all();
        due.into_iter().flatten().for_each(|reply| reply());
    }

    /// The journal is lost: nothing more becomes durable, and nobody is answered.
    pub(super) fn stop(&self) {
        self.lock().stopped = true;
        self.advanced.notify_all();
    }

    /// Blocks until everything up to `sequence` is durable; false when that will never be.
    pub(super) fn wait_for(&self, sequence: Sequence) -> bool {
        let mut inner = self.lock();
        while inner.sequence < sequence && !inner.stopped {
            inner = self.advanced.wait(inner).unwrap_or_else(PoisonError::into_inner);
        }
        inner.sequence >= sequence
    }

    /// As [`Committed::wait_for`], but not longer than this.
    pub(super) fn wait_for_at_most(&self, sequence: Sequence, patience: Duration) -> bool {
        let waiting = |inner: &mut Inner| inner.sequence < sequence && !inner.stopped;
        let waited = self.advanced.wait_timeout_while(self.lock(), patience, waiting);
        waited.unwrap_or_else(PoisonError::into_inner).0.sequence >= sequence
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
