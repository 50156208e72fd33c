//! Push: every event to whoever subscribed, past ones first, then live ones as they become durable.
//!
//! ```text
//! journal ──frames──> publisher's thread ── one block an event batch, encoded once ──> mailboxes of live subscribers
//!    └──────────────> whoever is behind: a new subscriber, or one whose mailbox overflowed, at its own pace
//! ```
//!
//! The publisher reads the journal like any other reader, and is woken by the same signal as whoever waits for a commit: the write
//! side knows nothing of subscribers. Without any, the publisher sleeps.

mod block;
mod mailbox;
mod names;
mod publisher;
mod recent;
mod sse;
mod subscription;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ledger::{AccountNumber, Sequence};
use shards::partition::Partition;
use tokio::sync::{Semaphore, watch};

pub(crate) use block::{Delivery, StreamEvent};
use names::NameCache;
use publisher::Registry;
use recent::RecentFrames;
pub(crate) use sse::{check_partition, check_position, serve, too_many};
use subscription::Limits;
pub(crate) use subscription::{Next, NoRoom, Subscription};

/// Subscribers that may read the journal at the same time.
const READERS_MAX: usize = 4;

/// How events are pushed.
#[derive(Debug, Clone)]
pub struct EventsConfig {
    /// Subscribers beyond this number are refused as `overloaded`.
    pub subscribers_max: usize,
    /// Events that may wait for one subscriber before it falls back to the journal.
    pub buffer_events: usize,
    /// What may stay in memory for all live subscribers together: whoever is further behind falls back to the journal, even if few
    /// events wait for it.
    pub retained_size_bytes: u64,
    /// A subscriber that has fallen behind and reads nothing for so long is dropped.
    pub patience: Duration,
    /// A stream that is silent for so long says that it lives.
    pub heartbeat: Duration,
}

impl Default for EventsConfig {
    fn default() -> EventsConfig {
        EventsConfig {
            subscribers_max: 12_000,
            buffer_events: 10_000,
            retained_size_bytes: 256 << 20,
            patience: Duration::from_secs(30),
            heartbeat: Duration::from_secs(15),
        }
    }
}

/// In which form a subscriber sends events on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// As server-sent events.
    Text,
    /// As messages that it makes of them itself.
    Messages,
}

/// What is counted.
#[derive(Default)]
pub(crate) struct EventsMetrics {
    pub(crate) subscribers: AtomicU64,
    pub(crate) sent: AtomicU64,
    pub(crate) fallen_behind: AtomicU64,
    pub(crate) dropped: AtomicU64,
}

/// The event streams of a partition. Clones share everything.
#[derive(Clone)]
pub(crate) struct Events {
    shared: Arc<Shared>,
}

struct Shared {
    config: EventsConfig,
    partition: Partition,
    names: NameCache,
    registry: Registry,
    recent: RecentFrames,
    readers: Semaphore,
    metrics: EventsMetrics,
    /// Turns true when the server is told to stop.
    stopping: watch::Receiver<bool>,
}

impl Events {
    /// Starts the publisher.
    pub(crate) fn start(
        partition: Partition,
        config: EventsConfig,
        stopping: watch::Receiver<bool>,
    ) -> std::io::Result<Events> {
        let shared = Arc::new(Shared {
            names: NameCache::new(partition.clone()),
            registry: Registry::default(),
            recent: RecentFrames::default(),
            readers: Semaphore::new(READERS_MAX),
            metrics: EventsMetrics::default(),
            config,
            partition,
            stopping,
        });
        let of_publisher = Arc::clone(&shared);
        std::thread::Builder::new().name("jigap-events".into()).spawn(move || of_publisher.publish())?;
        Ok(Events { shared })
    }

    pub(crate) fn config(&self) -> &EventsConfig {
        &self.shared.config
    }

    pub(crate) fn names(&self) -> &NameCache {
        &self.shared.names
    }

    pub(crate) fn metrics(&self) -> &EventsMetrics {
        &self.shared.metrics
    }

    /// Durable events that were not yet handed to live subscribers; 0 without any.
    pub(crate) fn lag(&self) -> u64 {
        self.shared.registry.lag(self.shared.partition.committed())
    }

    /// Events after this sequence, of this account or of all; `None` when there are too many subscribers.
    pub(crate) fn subscribe(
        &self,
        after: Sequence,
        account: Option<AccountNumber>,
        form: Form,
    ) -> Option<Subscription> {
        let max = self.shared.config.subscribers_max as u64;
        let subscribers = &self.shared.metrics.subscribers;
        let more = |count| if count < max { Some(count + 1) } else { None };
        subscribers.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        let limits = Limits { buffer_events: self.shared.config.buffer_events, is_guest: true };
        Some(Subscription::new(Arc::clone(&self.shared), after, account, form, limits))
    }

    /// As [`Events::subscribe`], for a part of the wallet itself: it is never refused, nor dropped for being slow.
    pub(crate) fn follow(
        &self,
        after: Sequence,
        account: Option<AccountNumber>,
        buffer_events: usize,
    ) -> Subscription {
        let limits = Limits { buffer_events, is_guest: false };
        Subscription::new(Arc::clone(&self.shared), after, account, Form::Messages, limits)
    }
}
