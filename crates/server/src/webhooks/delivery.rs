//! The worker of one webhook: takes events after the cursor from the journal, and sends them one after the other until each is
//! delivered or has become a dead letter.
//!
//! ```text
//! subscription ──events──> wanted? ──> attempt ──2xx──> cursor
//!      ^                                 |  ^
//!      └── read again after the event    |  └── back-off, with only this event in memory
//!          that was retried              └─────> dead letter, once its time is over
//! ```

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::http::{HeaderMap, header};
use ledger::Sequence;
use reqwest::{Client, StatusCode};
use tokio::sync::watch;
use tokio::time::Instant;

use super::WebhooksConfig;
use super::endpoint::{DEAD_LETTERS_MAX, Duty, Endpoint, now_us};
use super::reach::target;
use super::store::{LastError, Status};
use crate::events::{Delivery, Events, Next, StreamEvent, Subscription};

/// Progress is written at most so often: what a crash makes a receiver see again.
const SAVE_INTERVAL: Duration = Duration::from_secs(1);
/// How long to wait when the journal cannot be read.
const JOURNAL_PAUSE: Duration = Duration::from_secs(5);
/// Events that may wait in memory for one webhook: the journal has them all.
const BUFFER_EVENTS: usize = 512;
/// The answer's body is read up to this size and for so long, so that the connection can be used again.
const ANSWER_SIZE_BYTES_MAX: usize = 16 << 10;
const ANSWER_PATIENCE: Duration = Duration::from_millis(500);

pub(super) struct Worker {
    endpoint: Arc<Endpoint>,
    events: Events,
    client: Client,
    config: WebhooksConfig,
    partition: u32,
    changes: watch::Receiver<()>,
    stopping: watch::Receiver<bool>,
    subscription: Option<Subscription>,
    /// What came last, and how much of it was looked at.
    received: Option<(Delivery, usize)>,
    /// What is being sent.
    current: Option<Message>,
    saved: Instant,
}

/// One event on its way.
struct Message {
    sequence: u64,
    kind: &'static str,
    body: Bytes,
    /// Not before then.
    due: Option<Instant>,
}

/// Why an attempt failed.
struct Failure {
    status: Option<StatusCode>,
    detail: String,
    /// What the receiver asks for.
    retry_after: Option<Duration>,
}

impl Failure {
    fn without_answer(detail: String) -> Failure {
        Failure { status: None, detail, retry_after: None }
    }

    fn into_error(self, sequence: u64) -> LastError {
        let status = self.status.map(|status| status.as_u16());
        LastError { sequence, at_us: now_us(), status, detail: self.detail }
    }
}

impl Worker {
    pub(super) fn new(
        endpoint: Arc<Endpoint>,
        events: Events,
        client: Client,
        config: WebhooksConfig,
        partition: u32,
        stopping: watch::Receiver<bool>,
    ) -> Worker {
        Worker {
            changes: endpoint.changes(),
            endpoint,
            events,
            client,
            config,
            partition,
            stopping,
            subscription: None,
            received: None,
            current: None,
            saved: Instant::now(),
        }
    }

    /// Works until the webhook is removed or the server stops. What it does next is decided anew after every step.
    pub(super) async fn run(mut self) {
        while !self.is_stopping() {
            if self.saved.elapsed() >= SAVE_INTERVAL {
                self.save().await;
            }
            match self.endpoint.duty() {
                Duty::Follow => self.follow().await,
                Duty::Redeliver(sequence) => self.redeliver(sequence).await,
                Duty::Rest => {
                    self.forget();
                    self.save().await;
                    self.pause(None).await;
                }
                Duty::End => break,
            }
        }
        self.save().await;
    }

    /// A server that is gone has stopped as well.
    fn is_stopping(&self) -> bool {
        *self.stopping.borrow() || self.stopping.has_changed().is_err()
    }

    async fn save(&mut self) {
        if self.endpoint.is_unsaved() {
            self.endpoint.save_progress().await;
        }
        self.saved = Instant::now();
    }

    /// The journal has it all: nothing is kept while nothing is sent.
    fn forget(&mut self) {
        (self.subscription, self.received, self.current) = (None, None, None);
    }

    /// Waits until then, or until something changes.
    async fn pause(&mut self, until: Option<Instant>) {
        let time = async {
            match until {
                Some(until) => tokio::time::sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = time => {}
            _ = self.changes.changed() => {}
            _ = self.stopping.changed() => {}
        }
    }

    /// One step on the way of events: receive some, or send one.
    async fn follow(&mut self) {
        if self.current.is_none() && !self.take_next() {
            return self.receive().await;
        }
        let Some(message) = &self.current else { return };
        match message.due {
            Some(due) if due > Instant::now() => {
                self.save().await;
                self.pause(Some(due)).await;
            }
            _ => self.attempt().await,
        }
    }

    /// Makes the next event that is wanted the current one.
    fn take_next(&mut self) -> bool {
        let Some((delivery, seen)) = &mut self.received else { return false };
        let mut position = None;
        for event in delivery.events().skip(*seen) {
            *seen += 1;
            let kind = api::event::type_of(&event.record.event);
            let sequence = event.record.sequence;
            if self.endpoint.wants(kind) {
                self.current = Some(message(&self.events, self.partition, event));
                break;
            }
            position = Some(sequence);
        }
        if let Some(position) = position {
            self.endpoint.advance(position);
        }
        if self.current.is_some() {
            return true;
        }
        self.received = None;
        if let Some(subscription) = &self.subscription {
            self.endpoint.advance(subscription.position());
        }
        false
    }

    async fn receive(&mut self) {
        let (endpoint, events) = (&self.endpoint, &self.events);
        let subscription = self.subscription.get_or_insert_with(|| {
            events.follow(endpoint.cursor(), endpoint.account_number(), BUFFER_EVENTS)
        });
        // A tick must not break off what reads the journal.
        let tick = if subscription.is_live() { SAVE_INTERVAL } else { Duration::MAX };
        let next = tokio::select! {
            next = subscription.next() => next,
            _ = self.changes.changed() => return,
            _ = self.stopping.changed() => return,
            () = tokio::time::sleep(tick) => {
                endpoint.advance(subscription.reached());
                return;
            }
        };
        match next {
            Next::Events(delivery) => self.received = Some((delivery, 0)),
            Next::Position => endpoint.advance(subscription.position()),
            Next::Dropped => self.subscription = None,
            Next::Stopped | Next::Failed => {
                if matches!(next, Next::Failed) {
                    let failure =
                        Failure::without_answer("the journal cannot be read: see the log".to_owned());
                    endpoint.note(failure.into_error(subscription.position().0 + 1));
                }
                self.subscription = None;
                self.pause(Some(Instant::now() + JOURNAL_PAUSE)).await;
            }
        }
    }

    /// Sends the current event once.
    async fn attempt(&mut self) {
        let Some(message) = self.current.take() else { return };
        let failure = match self.send(&message).await {
            Ok(()) => return self.endpoint.delivered(message.sequence),
            Err(failure) => failure,
        };
        let (status, retry_after) = (failure.status, failure.retry_after);
        let pending = self.endpoint.failed(failure.into_error(message.sequence));
        if status == Some(StatusCode::GONE) {
            tracing::warn!(
                webhook = self.endpoint.id,
                "the receiver is gone (410); resume the webhook when it is back"
            );
            if self.endpoint.set_status(Status::Gone).await.is_ok() {
                return self.forget();
            }
        }
        let age = Duration::from_micros(now_us().saturating_sub(pending.first_us));
        if age >= self.config.retry_time {
            if self.endpoint.bury(message.kind) {
                let (webhook, sequence, attempts) = (&self.endpoint.id, message.sequence, pending.attempts);
                tracing::warn!(webhook, sequence, attempts, "an event was given up and is a dead letter");
                return;
            }
            tracing::warn!(
                webhook = self.endpoint.id,
                "there are {DEAD_LETTERS_MAX} dead letters, no more are kept; the event is retried"
            );
        }
        let wait = self.config.backoff(pending.attempts).max(retry_after.unwrap_or_default());
        self.endpoint.set_next_attempt(wait);
        self.forget();
        self.current = Some(Message { due: Some(Instant::now() + wait), ..message });
    }

    /// Sends a dead letter once.
    async fn redeliver(&mut self, sequence: u64) {
        let mut from_there = self.events.follow(Sequence(sequence.saturating_sub(1)), None, BUFFER_EVENTS);
        let delivery = loop {
            match from_there.next().await {
                Next::Events(delivery) => break Some(delivery),
                Next::Position => {}
                Next::Stopped | Next::Dropped | Next::Failed => break None,
            }
        };
        if self.is_stopping() {
            return;
        }
        let event = delivery.as_ref().and_then(|delivery| delivery.events().next());
        let message = event
            .filter(|event| event.record.sequence.0 == sequence)
            .map(|event| message(&self.events, self.partition, event));
        drop((from_there, delivery));
        let outcome = match message {
            Some(message) => self.send(&message).await,
            None => Err(Failure::without_answer("the journal cannot be read: see the log".to_owned())),
        };
        self.endpoint.redelivered(sequence, outcome.map_err(|failure| failure.into_error(sequence)));
        self.save().await;
    }

    /// One request.
    async fn send(&self, message: &Message) -> Result<(), Failure> {
        // The setting may have become stricter since the webhook was added.
        let url = target(self.endpoint.url(), self.config.reach).map_err(Failure::without_answer)?;
        let message_id = self.endpoint.message_id(self.partition, message.sequence);
        let timestamp = now_us() / 1_000_000;
        let signature = self.endpoint.sign(&message_id, timestamp, &message.body);
        let request = self
            .client
            .post(url)
            .timeout(self.config.timeout)
            .header(header::CONTENT_TYPE, "application/json")
            .header("webhook-id", message_id)
            .header("webhook-timestamp", timestamp)
            .header("webhook-signature", signature)
            .body(message.body.clone());
        let answer = request.send().await.map_err(|error| self.unanswered(&error))?;
        let status = answer.status();
        if status.is_success() {
            drain(answer).await;
            return Ok(());
        }
        let detail = match status.is_redirection() {
            true => {
                format!("the receiver redirects ({status}), which is not followed; name the final address")
            }
            false => format!("the receiver answered {status}"),
        };
        Err(Failure { status: Some(status), detail, retry_after: self.retry_after(answer.headers()) })
    }

    fn unanswered(&self, error: &reqwest::Error) -> Failure {
        if error.is_timeout() {
            return Failure::without_answer(format!("no answer within {:?}", self.config.timeout));
        }
        let mut cause: &dyn std::error::Error = error;
        while let Some(source) = cause.source() {
            cause = source;
        }
        let what = if error.is_connect() { "no connection" } else { "no answer" };
        Failure::without_answer(format!("{what}: {cause}"))
    }

    /// What the receiver asks for, in seconds, within what is usual here.
    fn retry_after(&self, headers: &HeaderMap) -> Option<Duration> {
        let seconds = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
        Some(Duration::from_secs(seconds).min(self.config.backoff_max))
    }
}

/// Reads what is left of an answer, if that is little.
async fn drain(mut answer: reqwest::Response) {
    let reading = async {
        let mut left = ANSWER_SIZE_BYTES_MAX;
        while let Ok(Some(piece)) = answer.chunk().await {
            let Some(less) = left.checked_sub(piece.len()) else { return };
            left = less;
        }
    };
    // What is not read costs a new connection, nothing else.
    let _ = tokio::time::timeout(ANSWER_PATIENCE, reading).await;
}

/// The event as it is sent: `{"type", "timestamp", "data"}`, the data being what the stream of events has.
fn message(events: &Events, partition: u32, event: &StreamEvent) -> Message {
    let kind = api::event::type_of(&event.record.event);
    let time = api::format_timestamp(event.record.timestamp);
    let mut body = format!("{{\"type\":\"{kind}\",\"timestamp\":\"{time}\",\"data\":").into_bytes();
    api::event::write(&mut body, partition, &event.record, event.command.as_ref(), events.names());
    body.push(b'}');
    Message { sequence: event.record.sequence.0, kind, body: body.into(), due: None }
}
