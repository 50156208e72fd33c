//! One subscriber: reads the journal until it has caught up, then gets what the publisher hands out.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ledger::{AccountNumber, Sequence};
use storage::journal::{self, Frame};
use tokio::sync::mpsc;

use super::block::{Block, Delivery, StreamEvent, last_of};
use super::mailbox::{Mail, Mailbox, Room};
use super::publisher::ReadEventsError;
use super::recent::DecodedFrame;
use super::{Form, Shared};

/// Events that one look into the journal collects at most: what a slow subscriber holds in memory.
const PAST_EVENTS_MAX: usize = 512;
/// The same as text, which takes some 50 KiB: ten thousand may be slow.
const PAST_TEXTS_MAX: usize = 64;
/// Frames that it looks through at most.
const PAST_FRAMES_MAX: usize = 1024;
/// How often one look goes on with what has been published meanwhile, so that the next one can be the publisher's. A turn may be long in coming.
const JOIN_ATTEMPTS_MAX: usize = 16;
/// How often it is looked at most whether a client that reads nothing is to be dropped.
const PATIENCE_MIN: Duration = Duration::from_millis(100);

/// See [`super::Events::subscribe`]. Dropping it ends it.
pub(crate) struct Subscription {
    shared: Arc<Shared>,
    account: Option<AccountNumber>,
    form: Form,
    limits: Limits,
    /// Everything wanted up to here was given out.
    position: Sequence,
    /// `None` while it reads the journal.
    mailbox: Option<Membership>,
}

/// What a subscriber may ask of the server.
#[derive(Clone, Copy)]
pub(super) struct Limits {
    /// Events that may wait for it before it falls back to the journal.
    pub(super) buffer_events: usize,
    /// A client: it is counted, and dropped when it is too slow.
    pub(super) is_guest: bool,
}

/// A mailbox that the publisher knows, until this is dropped.
struct Membership(Arc<Mailbox>);

impl Drop for Membership {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// What comes next.
pub(crate) enum Next {
    /// Events, after all those before.
    Events(Delivery),
    /// Nothing wanted, yet the position has advanced.
    Position,
    /// It read nothing for too long; nothing follows.
    Dropped,
    /// The server stops; nothing follows.
    Stopped,
    /// The journal cannot be read; nothing follows.
    Failed,
}

/// Why nothing more can be sent to a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoRoom {
    /// It has gone.
    Gone,
    /// It has fallen behind and reads nothing: it is to be dropped.
    TooSlow,
}

/// What the journal has.
struct Past {
    events: Vec<StreamEvent>,
    events_max: usize,
    position: Sequence,
    /// Everything durable was seen.
    is_all: bool,
}

impl Subscription {
    pub(super) fn new(
        shared: Arc<Shared>,
        after: Sequence,
        account: Option<AccountNumber>,
        form: Form,
        limits: Limits,
    ) -> Subscription {
        Subscription { shared, account, form, limits, position: after, mailbox: None }
    }

    /// Everything wanted up to here was given out.
    pub(crate) fn position(&self) -> Sequence {
        self.position
    }

    /// True while it reads no journal, because it has seen everything.
    pub(crate) fn is_live(&self) -> bool {
        self.mailbox.is_some()
    }

    /// As [`Subscription::position`], and beyond what is not wanted after it.
    pub(crate) fn reached(&self) -> Sequence {
        let published = self.mailbox.as_ref().and_then(|mailbox| self.shared.registry.reached(&mailbox.0));
        self.position.max(published.unwrap_or_default())
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Waits for what comes next. Dropping the future loses nothing.
    pub(crate) async fn next(&mut self) -> Next {
        let mut stopping = self.shared.stopping.clone();
        tokio::select! {
            next = self.advance() => next,
            // A server that is gone has stopped as well.
            _ = stopping.wait_for(|stopping| *stopping) => Next::Stopped,
        }
    }

    /// What comes next, if it waits already. It may be what [`Subscription::next`] would have waited for.
    pub(crate) fn waiting(&mut self) -> Option<Delivery> {
        let delivery = self.mailbox.as_ref()?.0.take_waiting()?;
        Some(self.given_out(delivery))
    }

    fn given_out(&mut self, delivery: Delivery) -> Delivery {
        self.position = delivery.last().map_or(self.position, |last| last.max(self.position));
        if self.limits.is_guest {
            self.shared.metrics.sent.fetch_add(delivery.count() as u64, Ordering::Relaxed);
        }
        delivery
    }

    /// Waits until the client has read enough of what was sent before.
    pub(crate) async fn room<'sender, Part>(
        &self,
        to: &'sender mpsc::Sender<Part>,
    ) -> Result<mpsc::Permit<'sender, Part>, NoRoom> {
        let patience = self.shared.config.patience;
        loop {
            match tokio::time::timeout(patience.max(PATIENCE_MIN), to.reserve()).await {
                Ok(room) => return room.map_err(|_| NoRoom::Gone),
                Err(_) if self.is_behind_for(patience) => {
                    self.shared.metrics.dropped.fetch_add(1, Ordering::Relaxed);
                    return Err(NoRoom::TooSlow);
                }
                // It has read nothing for long, and little enough waits for it.
                Err(_) => {}
            }
        }
    }

    /// Whoever reads the journal is behind all that time.
    fn is_behind_for(&self, time: Duration) -> bool {
        let Some(Membership(mailbox)) = &self.mailbox else { return true };
        mailbox.overflowed().is_some_and(|since| since.elapsed() > time)
    }

    async fn advance(&mut self) -> Next {
        if let Some(Membership(mailbox)) = &self.mailbox {
            match mailbox.take().await {
                Mail::Delivery(delivery) => return Next::Events(self.given_out(delivery)),
                Mail::Overflowed(since) => {
                    self.mailbox = None;
                    if self.limits.is_guest && since.elapsed() > self.shared.config.patience {
                        self.shared.metrics.dropped.fetch_add(1, Ordering::Relaxed);
                        return Next::Dropped;
                    }
                }
            }
        }
        self.catch_up().await
    }

    async fn catch_up(&mut self) -> Next {
        let room = Room {
            buffer_events: self.limits.buffer_events,
            retained_size_bytes: self.shared.config.retained_size_bytes,
        };
        // Most who subscribe have seen everything: they need not wait for a turn to read nothing.
        if self.position >= self.shared.partition.committed() {
            self.mailbox = self.shared.join(room, self.position, self.account);
            if self.mailbox.is_some() {
                return Next::Position;
            }
        }
        let Ok(reading) = self.shared.readers.acquire().await else { return Next::Stopped };
        let (shared, account, after) = (Arc::clone(&self.shared), self.account, self.position);
        let form = self.form;
        let read = tokio::task::spawn_blocking(move || {
            let events_max = if form == Form::Text { PAST_TEXTS_MAX } else { PAST_EVENTS_MAX };
            let mut past = Past { events: Vec::new(), events_max, position: after, is_all: false };
            let mut joined = None;
            for _ in 0..JOIN_ATTEMPTS_MAX {
                shared.read_past(&mut past, account)?;
                if !past.is_all {
                    break;
                }
                joined = shared.join(room, past.position, account);
                if joined.is_some() {
                    break;
                }
            }
            if !past.events.is_empty() && !shared.names.learn(&past.events) {
                return Err(ReadEventsError::Stopping);
            }
            let block = Block::new(shared.partition.number(), past.events, 0);
            if form == Form::Text {
                block.encode(&shared.names);
            }
            Ok((block, past.position, joined))
        });
        let read = read.await;
        drop(reading);
        match read {
            Ok(Ok((block, position, joined))) => {
                (self.position, self.mailbox) = (position, joined);
                if block.events.is_empty() {
                    return Next::Position;
                }
                Next::Events(self.given_out(Delivery { block: Arc::new(block), places: None }))
            }
            Ok(Err(ReadEventsError::Stopping)) | Err(_) => Next::Stopped,
            Ok(Err(error)) => {
                tracing::error!(%error, "a subscriber cannot be given past events");
                Next::Failed
            }
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        if self.limits.is_guest {
            self.shared.metrics.subscribers.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Shared {
    /// Makes it live, unless the publisher is further already.
    fn join(&self, room: Room, after: Sequence, account: Option<AccountNumber>) -> Option<Membership> {
        let membership = Membership(Arc::new(Mailbox::new(room)));
        self.registry.join(&membership.0, after, account).then_some(membership)
    }

    /// Adds the next events of the journal that are wanted. Blocks on the disk.
    fn read_past(&self, past: &mut Past, account: Option<AccountNumber>) -> Result<(), ReadEventsError> {
        let reader = self.partition.reader();
        let committed = self.partition.committed();
        past.is_all = false;
        // The frames from here on, while they are read from the journal.
        let mut frames = None;
        for _ in 0..PAST_FRAMES_MAX {
            let next = past.position.next();
            if let Some(frame) = self.recent.containing(next) {
                frames = None;
                if !past.take(&frame, account) {
                    return Ok(());
                }
                continue;
            }
            if frames.is_none() {
                let Some(first) = reader.frame_containing(journal::Sequence(next.0))? else {
                    past.is_all = true;
                    return Ok(());
                };
                frames = Some(reader.frames_from(first.index()));
            }
            let read = frames.as_mut().and_then(Iterator::next).transpose()?;
            // The journal shows a frame a moment before it is told to be committed.
            let is_committed =
                |frame: &Arc<Frame>| frame.sequence_count() == 0 || last_of(frame) <= committed;
            let Some(frame) = read.filter(is_committed) else {
                past.is_all = true;
                return Ok(());
            };
            if frame.sequence_count() > 0 && last_of(&frame) >= next {
                let damaged = |error| ReadEventsError::Body { after: past.position.0, error };
                let frame = Arc::new(DecodedFrame::decode(&frame).map_err(damaged)?);
                self.recent.keep(&frame);
                if !past.take(&frame, account) {
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

impl Past {
    /// Takes what is wanted of a frame; false when that was enough.
    fn take(&mut self, frame: &DecodedFrame, account: Option<AccountNumber>) -> bool {
        for event in frame.wanted(self.position, account) {
            self.position = event.record.sequence;
            self.events.push(event.clone());
            if self.events.len() == self.events_max {
                return false;
            }
        }
        self.position = frame.last;
        true
    }
}
