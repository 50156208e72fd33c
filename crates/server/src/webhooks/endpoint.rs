//! One webhook in memory: what it is, how far it is, and what became of its last attempts.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use api::{Code, Problem, format_timestamp};
use ledger::{AccountNumber, Sequence, Timestamp};
use reqwest::Url;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::signature::{Secret, signatures};
use super::store::{
    Account, DatedSecret, DeadLetter, FORMAT, LastError, Pending, Progress, Settings, Status, Stored,
    WebhookStore,
};

/// Dead letters that a webhook keeps. Once it has so many, the next event is retried until there is room.
pub(super) const DEAD_LETTERS_MAX: usize = 1000;

/// See the module.
pub(super) struct Endpoint {
    pub(super) id: String,
    account: Option<Account>,
    types: Vec<String>,
    url: String,
    created_us: u64,
    store: WebhookStore,
    inner: Mutex<Inner>,
    changed: watch::Sender<()>,
    /// Held while the files are written, so that they are written one after the other.
    saving: tokio::sync::Mutex<()>,
    pub(super) counters: Counters,
}

/// Attempts by what became of them.
#[derive(Default)]
pub(super) struct Counters {
    pub(super) delivered: AtomicU64,
    pub(super) failed: AtomicU64,
    pub(super) buried: AtomicU64,
}

struct Inner {
    status: Status,
    secrets: Vec<DatedSecret>,
    progress: Progress,
    /// When the pending event is tried again.
    next_attempt_us: Option<u64>,
    is_unsaved: bool,
    is_removed: bool,
}

/// What a webhook's worker should do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Duty {
    /// Send what comes after the cursor.
    Follow,
    /// Send this dead letter once more.
    Redeliver(u64),
    /// Nothing, until something changes.
    Rest,
    /// Nothing, ever.
    End,
}

impl Endpoint {
    /// A new webhook, not yet stored.
    pub(super) fn new(
        store: WebhookStore,
        url: &Url,
        types: Vec<String>,
        account: Option<Account>,
        after: Sequence,
    ) -> io::Result<Endpoint> {
        let random = storage::random::random_bytes()?;
        let id: String = random[..8].iter().map(|byte| format!("{byte:02x}")).collect();
        let secret = DatedSecret { secret: Secret::generate()?, created_us: now_us(), expires_us: None };
        let settings = Settings {
            format: FORMAT,
            id: format!("wh_{id}"),
            url: url.to_string(),
            types,
            account,
            status: Status::Active,
            created_us: now_us(),
            secrets: vec![secret],
        };
        let progress = Progress {
            format: FORMAT,
            cursor: after.0,
            delivered_us: None,
            pending: None,
            last_error: None,
            dead_letters: Vec::new(),
        };
        Ok(Endpoint::restored(store, Stored { settings, progress }))
    }

    /// A webhook as it was stored.
    pub(super) fn restored(store: WebhookStore, Stored { settings, progress }: Stored) -> Endpoint {
        Endpoint {
            id: settings.id,
            account: settings.account,
            types: settings.types,
            url: settings.url,
            created_us: settings.created_us,
            store,
            inner: Mutex::new(Inner {
                status: settings.status,
                secrets: settings.secrets,
                progress,
                next_attempt_us: None,
                is_unsaved: false,
                is_removed: false,
            }),
            changed: watch::Sender::new(()),
            saving: tokio::sync::Mutex::default(),
            counters: Counters::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // For the worker.

    pub(super) fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    pub(super) fn duty(&self) -> Duty {
        let inner = self.lock();
        if inner.is_removed {
            return Duty::End;
        }
        if inner.status != Status::Active {
            return Duty::Rest;
        }
        let queued = inner.progress.dead_letters.iter().find(|letter| letter.queued);
        queued.map_or(Duty::Follow, |letter| Duty::Redeliver(letter.sequence))
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// The account that events must be about.
    pub(super) fn account_number(&self) -> Option<AccountNumber> {
        self.account.as_ref().map(|account| AccountNumber(account.number))
    }

    pub(super) fn wants(&self, kind: &str) -> bool {
        self.types.is_empty() || self.types.iter().any(|wanted| wanted == kind)
    }

    /// The id of an event's message: the same however often it is sent.
    pub(super) fn message_id(&self, partition: u32, sequence: u64) -> String {
        format!("{}_{partition}_{sequence}", self.id)
    }

    /// The header of signatures, by every secret that is valid now.
    pub(super) fn sign(&self, message_id: &str, timestamp_seconds: u64, body: &[u8]) -> String {
        let inner = self.lock();
        let valid = inner.secrets.iter().filter(|dated| dated.expires_us.is_none_or(|end| end > now_us()));
        signatures(valid.map(|dated| &dated.secret), message_id, timestamp_seconds, body)
    }

    pub(super) fn cursor(&self) -> Sequence {
        Sequence(self.lock().progress.cursor)
    }

    /// Everything up to here is done with.
    pub(super) fn advance(&self, position: Sequence) {
        let mut inner = self.lock();
        if position.0 > inner.progress.cursor {
            inner.progress.cursor = position.0;
            inner.is_unsaved = true;
        }
    }

    pub(super) fn delivered(&self, sequence: u64) {
        self.counters.delivered.fetch_add(1, Ordering::Relaxed);
        let mut inner = self.lock();
        inner.progress.cursor = inner.progress.cursor.max(sequence);
        inner.progress.delivered_us = Some(now_us());
        inner.progress.pending = None;
        inner.next_attempt_us = None;
        inner.is_unsaved = true;
    }

    /// Notes a failed attempt; the event with all its attempts so far.
    pub(super) fn failed(&self, error: LastError) -> Pending {
        self.counters.failed.fetch_add(1, Ordering::Relaxed);
        let mut inner = self.lock();
        let Inner { progress, is_unsaved, .. } = &mut *inner;
        let first = Pending { sequence: error.sequence, attempts: 0, first_us: error.at_us };
        let pending = progress.pending.get_or_insert(first);
        if pending.sequence != error.sequence {
            *pending = Pending { sequence: error.sequence, attempts: 0, first_us: error.at_us };
        }
        pending.attempts = pending.attempts.saturating_add(1);
        let pending = pending.clone();
        progress.last_error = Some(error);
        *is_unsaved = true;
        pending
    }

    pub(super) fn set_next_attempt(&self, wait: Duration) {
        self.lock().next_attempt_us = Some(now_us().saturating_add(wait.as_micros() as u64));
    }

    /// Tells what is wrong where no event is to blame.
    pub(super) fn note(&self, error: LastError) {
        let mut inner = self.lock();
        inner.progress.last_error = Some(error);
        inner.is_unsaved = true;
    }

    /// Gives up on the pending event. False when there are too many dead letters already.
    pub(super) fn bury(&self, kind: &str) -> bool {
        let mut inner = self.lock();
        let progress = &mut inner.progress;
        if progress.dead_letters.len() >= DEAD_LETTERS_MAX {
            return false;
        }
        let (Some(pending), Some(error)) = (progress.pending.take(), progress.last_error.clone()) else {
            return false;
        };
        self.counters.buried.fetch_add(1, Ordering::Relaxed);
        progress.cursor = progress.cursor.max(pending.sequence);
        progress.dead_letters.push(DeadLetter {
            sequence: pending.sequence,
            r#type: kind.to_owned(),
            attempts: pending.attempts,
            first_us: pending.first_us,
            error,
            queued: false,
        });
        inner.next_attempt_us = None;
        inner.is_unsaved = true;
        true
    }

    /// What became of a dead letter that was sent again.
    pub(super) fn redelivered(&self, sequence: u64, outcome: Result<(), LastError>) {
        let counter = if outcome.is_ok() { &self.counters.delivered } else { &self.counters.failed };
        counter.fetch_add(1, Ordering::Relaxed);
        let mut inner = self.lock();
        let letters = &mut inner.progress.dead_letters;
        match outcome {
            Ok(()) => {
                letters.retain(|letter| letter.sequence != sequence);
                inner.progress.delivered_us = Some(now_us());
            }
            Err(error) => {
                for letter in letters.iter_mut().filter(|letter| letter.sequence == sequence) {
                    letter.queued = false;
                    letter.attempts = letter.attempts.saturating_add(1);
                    letter.error = error.clone();
                }
            }
        }
        inner.is_unsaved = true;
    }

    pub(super) fn is_unsaved(&self) -> bool {
        self.lock().is_unsaved
    }

    /// Writes the progress. A disk that refuses delays it: after a crash some events would be sent again.
    pub(super) async fn save_progress(self: &Arc<Endpoint>) {
        let _saving = self.saving.lock().await;
        let progress = {
            let mut inner = self.lock();
            if inner.is_removed || !inner.is_unsaved {
                return;
            }
            inner.is_unsaved = false;
            inner.progress.clone()
        };
        let endpoint = Arc::clone(self);
        let saved =
            tokio::task::spawn_blocking(move || endpoint.store.save_progress(&endpoint.id, &progress));
        if let Err(error) = saved.await.map_err(io::Error::other).flatten() {
            tracing::warn!(webhook = self.id, %error, "the progress of a webhook cannot be written; it is tried again");
            self.lock().is_unsaved = true;
        }
    }

    // For operators.

    /// Writes a webhook for the first time.
    pub(super) async fn save_new(self: &Arc<Endpoint>) -> Result<(), Problem> {
        let _saving = self.saving.lock().await;
        let (settings, progress) = (self.settings(), self.lock().progress.clone());
        let endpoint = Arc::clone(self);
        let save = move || {
            endpoint.store.save_progress(&endpoint.id, &progress)?;
            endpoint.store.save_settings(&settings)
        };
        tokio::task::spawn_blocking(save).await.map_err(io::Error::other).flatten().map_err(not_written)
    }

    fn settings(&self) -> Settings {
        let inner = self.lock();
        Settings {
            format: FORMAT,
            id: self.id.clone(),
            url: self.url.clone(),
            types: self.types.clone(),
            account: self.account.clone(),
            status: inner.status,
            created_us: self.created_us,
            secrets: inner.secrets.clone(),
        }
    }

    /// Changes what a webhook is: in memory once it is on the disk.
    async fn change(self: &Arc<Endpoint>, change: impl FnOnce(&mut Settings)) -> Result<(), Problem> {
        let _saving = self.saving.lock().await;
        if self.lock().is_removed {
            return Err(not_found(&self.id));
        }
        let mut settings = self.settings();
        change(&mut settings);
        let endpoint = Arc::clone(self);
        let written = settings.clone();
        let save = move || endpoint.store.save_settings(&written);
        tokio::task::spawn_blocking(save).await.map_err(io::Error::other).flatten().map_err(not_written)?;
        let mut inner = self.lock();
        if settings.status != inner.status {
            // Whoever resumes gives the event its whole time again.
            inner.progress.pending = None;
            inner.next_attempt_us = None;
            inner.is_unsaved = true;
        }
        (inner.status, inner.secrets) = (settings.status, settings.secrets);
        drop(inner);
        self.changed.send_replace(());
        Ok(())
    }

    pub(super) async fn set_status(self: &Arc<Endpoint>, status: Status) -> Result<(), Problem> {
        self.change(|settings| settings.status = status).await
    }

    /// Puts a new secret before the others, of which the last signs on for so long. Returns the new one as text.
    pub(super) async fn rotate(self: &Arc<Endpoint>, previous_valid: Duration) -> Result<String, Problem> {
        let secret = Secret::generate().map_err(not_written)?;
        let text = String::from(secret.clone());
        let now = now_us();
        self.change(|settings| {
            settings.secrets.truncate(1);
            for previous in &mut settings.secrets {
                previous.expires_us = Some(now.saturating_add(previous_valid.as_micros() as u64));
            }
            settings.secrets.insert(0, DatedSecret { secret, created_us: now, expires_us: None });
        })
        .await?;
        Ok(text)
    }

    /// The newest secret as text. Only whoever made it is told.
    pub(super) fn secret(&self) -> Option<String> {
        self.lock().secrets.first().map(|dated| dated.secret.clone().into())
    }

    /// Queues dead letters, all of them or these; how many.
    pub(super) fn redeliver(&self, sequences: Option<&[u64]>) -> Result<usize, Problem> {
        let mut inner = self.lock();
        let letters = &mut inner.progress.dead_letters;
        for sequence in sequences.unwrap_or_default() {
            if !letters.iter().any(|letter| letter.sequence == *sequence) {
                let detail = format!("sequence {sequence} is no dead letter of webhook {:?}", self.id);
                return Err(Problem::new(Code::InvalidRequest, detail));
            }
        }
        let mut count = 0;
        for letter in letters.iter_mut() {
            if sequences.is_none_or(|sequences| sequences.contains(&letter.sequence)) {
                letter.queued = true;
                count += 1;
            }
        }
        inner.is_unsaved |= count > 0;
        drop(inner);
        self.changed.send_replace(());
        Ok(count)
    }

    /// Removes it from the disk. Its worker ends.
    pub(super) async fn remove(self: &Arc<Endpoint>) -> Result<(), Problem> {
        let _saving = self.saving.lock().await;
        let endpoint = Arc::clone(self);
        let removed = tokio::task::spawn_blocking(move || endpoint.store.remove(&endpoint.id)).await;
        removed.map_err(io::Error::other).flatten().map_err(not_written)?;
        self.lock().is_removed = true;
        self.changed.send_replace(());
        Ok(())
    }

    /// True when it sends just this.
    pub(super) fn is_about(&self, url: &Url, types: &[String], account: Option<AccountNumber>) -> bool {
        self.url == url.as_str() && self.types == types && self.account_number() == account
    }

    pub(super) fn created_us(&self) -> u64 {
        self.created_us
    }

    pub(super) fn dead_letter_count(&self) -> usize {
        self.lock().progress.dead_letters.len()
    }

    /// As the contract shows it.
    pub(super) fn view(&self, partition: u32, committed: Sequence) -> Value {
        let inner = self.lock();
        let progress = &inner.progress;
        let pending = progress.pending.as_ref().map(|pending| {
            json!({
                "sequence": pending.sequence,
                "webhook_id": self.message_id(partition, pending.sequence),
                "attempts": pending.attempts,
                "first_attempt_at": time(pending.first_us),
                "next_attempt_at": inner.next_attempt_us.map(time),
            })
        });
        let secrets = inner.secrets.iter().map(
            |dated| json!({ "created_at": time(dated.created_us), "expires_at": dated.expires_us.map(time) }),
        );
        json!({
            "id": self.id,
            "url": self.url,
            "types": self.types,
            "account": self.account.as_ref().map(|account| &account.account_id),
            "status": match inner.status {
                Status::Active => "active",
                Status::Paused => "paused",
                Status::Gone => "gone",
            },
            "created_at": time(self.created_us),
            "partition": partition,
            "cursor": progress.cursor,
            "lag_events": committed.0.saturating_sub(progress.cursor),
            "last_delivery_at": progress.delivered_us.map(time),
            "last_error": progress.last_error.as_ref().map(error_value),
            "pending": pending,
            "dead_letters": progress.dead_letters.len(),
            "secrets": secrets.collect::<Vec<_>>(),
        })
    }

    /// The dead letters as the contract shows them.
    pub(super) fn dead_letters(&self, partition: u32) -> Value {
        let inner = self.lock();
        let letters = inner.progress.dead_letters.iter().map(|letter| {
            json!({
                "sequence": letter.sequence,
                "type": letter.r#type,
                "webhook_id": self.message_id(partition, letter.sequence),
                "attempts": letter.attempts,
                "first_attempt_at": time(letter.first_us),
                "last_error": error_value(&letter.error),
                "queued": letter.queued,
            })
        });
        json!({ "dead_letters": letters.collect::<Vec<_>>() })
    }
}

fn error_value(error: &LastError) -> Value {
    json!({ "sequence": error.sequence, "at": time(error.at_us), "status": error.status, "detail": error.detail })
}

fn time(us: u64) -> String {
    format_timestamp(Timestamp::from_micros(i64::try_from(us).unwrap_or(i64::MAX)))
}

/// The clock, in microseconds since 1970.
pub(super) fn now_us() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64)
}

fn not_written(error: io::Error) -> Problem {
    tracing::error!(%error, "a change of a webhook cannot be written");
    Problem::new(Code::Unavailable, format!("the change cannot be written to the data directory: {error}"))
}

pub(super) fn not_found(id: &str) -> Problem {
    Problem::new(Code::WebhookNotFound, format!("webhook {id:?} does not exist"))
}
