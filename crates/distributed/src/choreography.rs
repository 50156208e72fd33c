//! A Saga without a coordinator: each shard's service executes what arrives, and sends on what follows from it.
//!
//! ```text
//! arrival -> step on the shard, with what follows in its outbox (one local transaction) -> broker -> next shard's service -> ...
//! ```
//!
//! Every instance runs a service for each shard, and they share the work. The broker delivers at least once, and what was not sent yet is
//! found in the outbox; the barriers make repeats harmless. Should the broker lose everything, the owner's record lets the transaction
//! travel once more.

mod broker;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use async_nats::jetstream::AckKind;
use coordinator::machine::{Onward, Travelling};
use coordinator::port::{NoAnswer, Outcome, ShardNumber};
use futures_util::StreamExt;
use ledger::TransactionId;
use tokio::sync::{Semaphore, oneshot};
use tracing::Instrument;

pub use broker::BrokerError;
use broker::{Broker, Delivery};

use super::content::Stored;
use super::link::until_answered;
use super::metrics::add_one;
use super::spans::{self, Way};
use super::sql::{Message, SqlShard};
use super::{Config, Metrics, Shard};
use crate::trace;

/// How many arrivals a service works on at a time.
const ARRIVALS_MAX: usize = 1_024;
/// How often the outbox is looked through for what was left. What is there twice was left.
const OUTBOX_INTERVAL: Duration = Duration::from_secs(1);
/// How much of it is sent at a time.
const OUTBOX_MESSAGES_MAX: usize = 1_024;
/// How long to wait before the broker is asked again.
const BROKER_PAUSE: Duration = Duration::from_millis(500);

/// The services of all shards.
pub(super) struct Choreography {
    shards: Vec<Arc<SqlShard>>,
    broker: Broker,
    waiting: Mutex<HashMap<TransactionId, oneshot::Sender<Outcome>>>,
    metrics: Arc<Metrics>,
}

impl Choreography {
    /// Starts the services, which end with the value.
    pub(super) async fn start(
        config: &Config,
        shards: Vec<Arc<SqlShard>>,
    ) -> Result<Arc<Choreography>, BrokerError> {
        let url = config.broker.as_deref().unwrap_or_default();
        let broker = Broker::connect(url).await?;
        let announcements = broker.announcements().await?;
        let metrics = Arc::new(Metrics::new(shards.len()));
        let choreography = Arc::new(Choreography { shards, broker, waiting: Mutex::default(), metrics });
        for number in 0..choreography.shards.len() {
            tokio::spawn(serve(Arc::downgrade(&choreography), number));
            tokio::spawn(send_what_was_left(Arc::downgrade(&choreography), number));
        }
        tokio::spawn(hear(Arc::downgrade(&choreography), announcements));
        Ok(choreography)
    }

    /// What its services count.
    pub(super) fn metrics(&self) -> Arc<Metrics> {
        Arc::clone(&self.metrics)
    }

    /// Tells once when the transaction is over, wherever it ends. May be silent; the record is what counts.
    pub(super) fn wait_for(&self, transaction_id: TransactionId) -> oneshot::Receiver<Outcome> {
        let (sender, receiver) = oneshot::channel();
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).insert(transaction_id, sender);
        receiver
    }

    /// Nobody waits any more.
    pub(super) fn forget(&self, transaction_id: TransactionId) {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&transaction_id);
    }

    /// Executes a transaction's next step until that has an answer, and sends on what follows.
    pub(super) async fn step(&self, travelling: &Travelling) -> Onward {
        let (shard, step) = travelling.next();
        let started = Instant::now();
        let phase = spans::phase(travelling.phase().name());
        let attempt = || {
            let span = spans::step(shard, &step);
            self.metrics.step(shard, span, self.shards[shard.0 as usize].travel(travelling.clone()))
        };
        let failed = |attempts: u32, no_answer: &NoAnswer| {
            let (NoAnswer::Busy(why) | NoAnswer::Unknown(why)) = no_answer;
            tracing::debug!(shard = shard.0, attempts, why, "a step is repeated");
        };
        let answer = until_answered(&self.metrics, shard, attempt, failed).instrument(phase).await;
        self.metrics.phase(travelling.phase(), started.elapsed());
        let onward = travelling.answered(answer);
        match &onward {
            Onward::To(onward) => self.send(shard, &Message::of(onward)).await,
            Onward::Begun(_) | Onward::Over(_) => {}
            Onward::Broken(why) => {
                tracing::error!(
                    why,
                    "a transaction cannot go on; look whether a shard's data were changed by hand"
                );
                self.metrics.broken();
            }
        }
        onward
    }

    /// What the broker does not take now stays in the outbox.
    async fn send(&self, from: ShardNumber, message: &Message) {
        match self.broker.send(message.to, message.content.clone(), trace::traceparent()).await {
            Ok(()) => {
                add_one(&self.metrics.outbox_sent);
                self.shards[from.0 as usize].sent(message.id);
            }
            Err(error) => tracing::debug!(%error, "a message stays in the outbox for now"),
        }
    }

    async fn arrived(&self, delivery: Delivery) {
        let text = String::from_utf8_lossy(&delivery.payload);
        let travelling = match Travelling::from_text(&text) {
            Ok(travelling) => travelling,
            Err(error) => {
                tracing::error!(%error, "the broker delivered what is no message of this wallet; it is put aside");
                let _ = delivery.ack_with(AckKind::Term).await;
                return;
            }
        };
        let transaction_id = travelling.status.plan.transaction_id;
        let (shard, _) = travelling.next();
        if shard.0 as usize >= self.shards.len() {
            tracing::error!(%transaction_id, shard = shard.0, "a message is for a shard that is not configured");
            return;
        }
        let span = spans::transaction(&travelling.status.plan, Way::Choreographed);
        trace::continue_from(&span, broker::traceparent(&delivery));
        match self.step(&travelling).instrument(span).await {
            Onward::To(_) | Onward::Begun(_) | Onward::Broken(_) => {}
            Onward::Over(outcome) => {
                let announced = format!("{transaction_id} {}", outcome.to_text());
                self.tell(transaction_id, outcome);
                self.broker.announce(announced).await;
            }
        }
        // Whoever fails here gets it again.
        if let Err(error) = delivery.ack().await {
            tracing::debug!(%error, "an arrival is not acknowledged");
        }
    }

    fn tell(&self, transaction_id: TransactionId, outcome: Outcome) {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&transaction_id);
        if let Some(waiting) = waiting {
            // Whoever waited may have gone.
            let _ = waiting.send(outcome);
        }
    }
}

/// The service of a shard.
async fn serve(choreography: Weak<Choreography>, number: usize) {
    let shard = ShardNumber(u32::try_from(number).expect("there are fewer shards than 2^32"));
    let permits = Arc::new(Semaphore::new(ARRIVALS_MAX));
    while let Some(here) = choreography.upgrade() {
        let arrivals = here.broker.arrivals(shard).await;
        drop(here);
        match arrivals {
            Ok(arrivals) => {
                let mut arrivals = std::pin::pin!(arrivals);
                while let Some(Ok(delivery)) = arrivals.next().await {
                    let permit = Arc::clone(&permits).acquire_owned().await;
                    let Some(here) = choreography.upgrade() else { return };
                    tokio::spawn(async move {
                        here.arrived(delivery).await;
                        drop(permit);
                    });
                }
            }
            Err(error) => tracing::warn!(shard = shard.0, %error, "nothing arrives for now"),
        }
        tokio::time::sleep(BROKER_PAUSE).await;
    }
}

/// Sends what an instance stored and did not send: it died, or the broker was away.
async fn send_what_was_left(choreography: Weak<Choreography>, number: usize) {
    let mut seen = HashSet::new();
    while let Some(here) = choreography.upgrade() {
        let shard = &here.shards[number];
        match shard.outbox(OUTBOX_MESSAGES_MAX).await {
            Ok(messages) => {
                let from = ShardNumber(u32::try_from(number).expect("there are fewer shards than 2^32"));
                for message in messages.iter().filter(|message| seen.contains(&message.id)) {
                    here.send(from, message).await;
                }
                seen = messages.iter().map(|message| message.id).collect();
                if !seen.is_empty() {
                    // A batch forgets what was sent, also where no other one comes.
                    shard.execute(Vec::new()).await;
                }
            }
            Err(NoAnswer::Busy(why) | NoAnswer::Unknown(why)) => {
                tracing::debug!(shard = number, why, "the outbox cannot be read for now");
            }
        }
        drop(here);
        tokio::time::sleep(OUTBOX_INTERVAL).await;
    }
}

/// Tells those who wait here what ended elsewhere.
async fn hear(choreography: Weak<Choreography>, mut announcements: tokio::sync::mpsc::Receiver<Vec<u8>>) {
    while let Some(announced) = announcements.recv().await {
        let Some(here) = choreography.upgrade() else { return };
        let text = String::from_utf8_lossy(&announced);
        let Some((id, outcome)) = text.split_once(' ') else { continue };
        if let (Ok(id), Ok(outcome)) = (TransactionId::parse(id), Outcome::from_text(outcome)) {
            here.tell(id, outcome);
        }
    }
}
