//! The thread that reads committed frames and hands them to live subscribers.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ledger::codec::CodecError;
use ledger::{AccountNumber, Sequence};
use storage::journal::{self, Frame, ReadError};

use super::Shared;
use super::block::{Block, Delivery, StreamEvent, events_after, last_of};
use super::mailbox::{Mailbox, Posted};

/// How long the publisher waits for a commit before it looks whether it should stop, or whether subscribers have gone.
const IDLE: Duration = Duration::from_millis(250);
/// How often subscribers that have gone are forgotten.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// Why events cannot be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadEventsError {
    #[error(transparent)]
    Journal(#[from] ReadError),
    #[error("a frame after event {after}: {error}")]
    Body { after: u64, error: CodecError },
    #[error("the server is stopping")]
    Stopping,
}

/// Live subscribers, and how far the publisher has come.
#[derive(Default)]
pub(super) struct Registry {
    inner: Mutex<Inner>,
    joined: Condvar,
}

#[derive(Default)]
struct Inner {
    /// Everything up to here was handed out.
    position: Sequence,
    /// The publisher goes on from this position, even while nobody listens: it only looks now and then whether that is so.
    is_publishing: bool,
    /// The size of all that was handed out so far.
    published_bytes: u64,
    everything: Vec<Live>,
    by_account: HashMap<AccountNumber, Vec<Live>>,
}

#[derive(Clone)]
struct Live {
    mailbox: Arc<Mailbox>,
    /// It has seen everything up to here when it joined.
    after: Sequence,
}

impl Inner {
    fn is_empty(&self) -> bool {
        self.everything.is_empty() && self.by_account.is_empty()
    }

    /// Forgets those who have gone, and those who have fallen behind: how many these are.
    fn sweep(&mut self) -> u64 {
        let (published_bytes, mut behind) = (self.published_bytes, 0);
        let mut is_live = |live: &Live| {
            let posted = live.mailbox.check(published_bytes);
            behind += u64::from(posted == Posted::Overflowed);
            posted == Posted::Taken
        };
        self.everything.retain(&mut is_live);
        self.by_account.retain(|_, lives| {
            lives.retain(&mut is_live);
            !lives.is_empty()
        });
        behind
    }
}

impl Registry {
    /// From now on the mailbox gets what follows `after`; false when the publisher is further already, so that the journal must be
    /// read on.
    pub(super) fn join(
        &self,
        mailbox: &Arc<Mailbox>,
        after: Sequence,
        account: Option<AccountNumber>,
    ) -> bool {
        let mut inner = self.lock();
        if inner.is_empty() && !inner.is_publishing {
            inner.position = after;
        } else if inner.position > after {
            return false;
        }
        let live = Live { mailbox: Arc::clone(mailbox), after };
        match account {
            None => inner.everything.push(live),
            Some(account) => inner.by_account.entry(account).or_default().push(live),
        }
        drop(inner);
        self.joined.notify_one();
        true
    }

    /// How far the publisher has come, if whoever has this mailbox has taken all that it was given.
    pub(super) fn reached(&self, mailbox: &Mailbox) -> Option<Sequence> {
        // Events are handed out under the same lock.
        let inner = self.lock();
        mailbox.is_drained().then_some(inner.position)
    }

    pub(super) fn lag(&self, committed: Sequence) -> u64 {
        let inner = self.lock();
        if inner.is_empty() { 0 } else { committed.0.saturating_sub(inner.position.0) }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    /// What the publisher's thread does until the server stops.
    pub(super) fn publish(&self) {
        while let Some(position) = self.wait_for_subscribers() {
            match self.publish_from(position) {
                Ok(()) | Err(ReadEventsError::Stopping) => {}
                Err(error) => {
                    // Whoever subscribed falls back to the journal, and is told the same if it fails there as well.
                    tracing::error!(%error, "the event stream cannot read the journal");
                    std::thread::sleep(IDLE);
                }
            }
        }
    }

    fn is_stopping(&self) -> bool {
        *self.stopping.borrow()
    }

    /// Where to begin, once there is somebody; `None` when the server stops.
    fn wait_for_subscribers(&self) -> Option<Sequence> {
        let mut inner = self.registry.lock();
        inner.is_publishing = false;
        while !self.is_stopping() {
            if !inner.is_empty() {
                inner.is_publishing = true;
                return Some(inner.position);
            }
            let waited = self.registry.joined.wait_timeout(inner, IDLE);
            inner = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        None
    }

    /// Publishes until nobody listens.
    fn publish_from(&self, position: Sequence) -> Result<(), ReadEventsError> {
        let reader = self.partition.reader();
        let mut frames = None;
        let mut position = position;
        let mut swept = Instant::now();
        while !self.is_stopping() {
            if swept.elapsed() >= SWEEP_INTERVAL {
                swept = Instant::now();
                let mut inner = self.registry.lock();
                let behind = inner.sweep();
                self.metrics.fallen_behind.fetch_add(behind, Ordering::Relaxed);
                // The next to join may begin elsewhere.
                if inner.is_empty() {
                    return Ok(());
                }
            }
            if frames.is_none()
                && let Some(first) = reader.frame_containing(journal::Sequence(position.0 + 1))?
            {
                frames = Some(reader.frames_from(first.index()));
            }
            match frames.as_mut().and_then(Iterator::next).transpose()? {
                Some(frame) if frame.sequence_count() > 0 && last_of(&frame) > position => {
                    // The journal shows a frame a moment before it is told to be committed. Whoever got its events and subscribed
                    // again at once would be told that they are in the future.
                    while !self.partition.wait_for_committed(last_of(&frame), IDLE) {
                        if self.is_stopping() {
                            return Ok(());
                        }
                    }
                    self.publish_frame(&frame, position)?;
                    position = last_of(&frame);
                }
                Some(_) => {}
                None => {
                    self.partition.wait_for_committed(position.next(), IDLE);
                }
            }
        }
        Ok(())
    }

    fn publish_frame(&self, frame: &Frame, after: Sequence) -> Result<(), ReadEventsError> {
        let damaged = |error| ReadEventsError::Body { after: after.0, error };
        let events: Result<Vec<StreamEvent>, CodecError> =
            events_after(frame, after).map_err(damaged)?.collect();
        let mut events = events.map_err(damaged)?;
        // Whoever joins waits until this frame is handed out: it must not miss what was left out for want of interest.
        let mut inner = self.registry.lock();
        if inner.everything.is_empty() {
            let wanted =
                |event: &StreamEvent| event.accounts().any(|account| inner.by_account.contains_key(&account));
            events.retain(wanted);
        }
        if !events.is_empty() {
            if !self.names.learn(&events) {
                return Err(ReadEventsError::Stopping);
            }
            let block = Arc::new(Block::new(self.partition.number(), events, inner.published_bytes));
            block.encode(&self.names);
            inner.published_bytes += block.size_bytes();
            self.hand_out(&mut inner, &block);
        }
        inner.position = last_of(frame);
        Ok(())
    }

    fn hand_out(&self, inner: &mut Inner, block: &Arc<Block>) {
        inner.everything.retain(|live| self.post(live, block, None));
        if inner.by_account.is_empty() {
            return;
        }
        let mut places: HashMap<AccountNumber, Vec<u32>> = HashMap::new();
        for (place, event) in block.events.iter().enumerate() {
            for account in event.accounts().filter(|account| inner.by_account.contains_key(account)) {
                let of_account = places.entry(account).or_default();
                let place = u32::try_from(place).expect("a frame has fewer than 2^32 events");
                if of_account.last() != Some(&place) {
                    of_account.push(place);
                }
            }
        }
        for (account, places) in places {
            let Some(lives) = inner.by_account.get_mut(&account) else { continue };
            lives.retain(|live| self.post(live, block, Some(&places)));
            if lives.is_empty() {
                inner.by_account.remove(&account);
            }
        }
    }

    /// False when the subscriber gets nothing more.
    fn post(&self, live: &Live, block: &Arc<Block>, places: Option<&[u32]>) -> bool {
        let sequence = |place: u32| block.events[place as usize].record.sequence;
        let count = block.events.len() as u32;
        let is_new = block.events.first().is_some_and(|event| event.record.sequence > live.after);
        let places = match places {
            None if is_new => None,
            None => Some((0..count).filter(|place| sequence(*place) > live.after).collect::<Vec<u32>>()),
            Some(places) => {
                Some(places.iter().copied().filter(|place| sequence(*place) > live.after).collect())
            }
        };
        if places.as_ref().is_some_and(Vec::is_empty) {
            return !live.mailbox.is_closed();
        }
        match live.mailbox.post(Delivery { block: Arc::clone(block), places }) {
            Posted::Taken => true,
            Posted::Overflowed => {
                self.metrics.fallen_behind.fetch_add(1, Ordering::Relaxed);
                false
            }
            Posted::Closed => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::mailbox::Room;
    use super::*;

    /// A subscriber left while the publisher was at work; the next one had read the journal up to 58 when 59 was handed out to nobody.
    /// It used to be taken in, and got 60 next.
    #[test]
    fn whoever_joins_a_publisher_that_is_further_reads_the_journal_on() {
        let registry = Registry::default();
        let room = Room { buffer_events: 10, retained_size_bytes: 1 << 20 };
        let joins = |after| registry.join(&Arc::new(Mailbox::new(room)), Sequence(after), None);
        assert!(joins(58));
        *registry.lock() = Inner { position: Sequence(59), is_publishing: true, ..Inner::default() };
        assert!(!joins(58));
        assert!(joins(59));
        // Once the publisher sleeps, it begins wherever the first one to join is.
        *registry.lock() = Inner { position: Sequence(59), ..Inner::default() };
        assert!(joins(7));
        assert_eq!(registry.lock().position, Sequence(7));
    }
}
