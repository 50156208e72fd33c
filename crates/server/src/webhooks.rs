//! Webhooks: events sent to receivers that were named at run time, signed, at least once, in order for each receiver.
//!
//! Each webhook has a task of its own, which reads the journal from its own cursor like any other subscriber: a receiver that is slow or dead holds
//! up nobody, and what waits for it waits in the journal. See [`delivery`].

mod delivery;
mod endpoint;
mod reach;
mod routes;
mod signature;
mod store;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use api::webhook::NewWebhook;
use api::{Code, Problem};
use ledger::{AccountNumber, Sequence};
use reqwest::Client;
use reqwest::redirect::Policy;
use serde_json::Value;
use shards::partition::Partition;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::events::Events;
use crate::metrics::Exposition;
use delivery::Worker;
use endpoint::{Endpoint, not_found};
pub use reach::Reach;
use reach::{Resolver, target};
pub(crate) use routes::routes;
use store::{Account, LastError, Status};
pub use store::{WebhookStore, WebhookStoreError};

/// Webhooks that one wallet has.
const WEBHOOKS_MAX: usize = 100;
/// Names the sender to receivers.
const USER_AGENT: &str = concat!("jigap/", env!("CARGO_PKG_VERSION"));

/// How webhooks are sent.
#[derive(Debug, Clone)]
pub struct WebhooksConfig {
    /// Where they are kept.
    pub store: WebhookStore,
    /// Where they may go.
    pub reach: Reach,
    /// A receiver that has not answered in this time has failed.
    pub timeout: Duration,
    /// An event that was not delivered in this time becomes a dead letter.
    pub retry_time: Duration,
    /// The wait after the first failed attempt; it doubles with each further one.
    pub backoff_min: Duration,
    /// The longest wait between two attempts.
    pub backoff_max: Duration,
}

impl WebhooksConfig {
    /// The defaults, over a store.
    pub fn new(store: WebhookStore) -> WebhooksConfig {
        WebhooksConfig {
            store,
            reach: Reach::Private,
            timeout: Duration::from_secs(15),
            retry_time: Duration::from_secs(24 * 3600),
            backoff_min: Duration::from_secs(1),
            backoff_max: Duration::from_secs(300),
        }
    }

    /// How long to wait after so many failed attempts: exponential, and half of it random, so that receivers that failed together
    /// are not asked together.
    fn backoff(&self, attempts: u32) -> Duration {
        let factor = 2u32.saturating_pow(attempts.saturating_sub(1));
        let longest = self.backoff_min.saturating_mul(factor).min(self.backoff_max);
        longest.mul_f64(0.5 + fastrand::f64() / 2.0)
    }
}

/// All webhooks of a wallet. Clones share them.
#[derive(Clone)]
pub(crate) struct Webhooks {
    shared: Arc<Shared>,
}

struct Shared {
    config: WebhooksConfig,
    partition: Partition,
    events: Events,
    client: Client,
    running: Mutex<BTreeMap<String, Running>>,
    stopping: watch::Receiver<bool>,
}

struct Running {
    endpoint: Arc<Endpoint>,
    worker: JoinHandle<()>,
}

impl Webhooks {
    /// Goes on where the store says. Must be called within the server's runtime.
    pub(crate) fn start(
        config: WebhooksConfig,
        partition: Partition,
        events: Events,
        stopping: watch::Receiver<bool>,
    ) -> Webhooks {
        let client = client(&config);
        let running = Mutex::default();
        let shared = Shared { config, partition, events, client, running, stopping };
        let webhooks = Webhooks { shared: Arc::new(shared) };
        let committed = webhooks.shared.partition.committed();
        for stored in webhooks.shared.config.store.loaded() {
            let mut stored = stored.clone();
            if stored.progress.cursor > committed.0 {
                // The journal is another one, or an earlier one: which events the receiver has seen, only an operator can tell.
                stored.settings.status = Status::Paused;
                let detail =
                    format!("the cursor is beyond the last event, {}: add the webhook anew", committed.0);
                let (sequence, at_us) = (stored.progress.cursor, endpoint::now_us());
                stored.progress.last_error = Some(LastError { sequence, at_us, status: None, detail });
            }
            let store = webhooks.shared.config.store.clone();
            webhooks.run(Arc::new(Endpoint::restored(store, stored)));
        }
        webhooks
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Running>> {
        self.shared.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, endpoint: Arc<Endpoint>) {
        let Shared { config, partition, events, client, stopping, .. } = &*self.shared;
        let worker = Worker::new(
            Arc::clone(&endpoint),
            events.clone(),
            client.clone(),
            config.clone(),
            partition.number(),
            stopping.clone(),
        );
        let worker = Handle::current().spawn(worker.run());
        self.lock().insert(endpoint.id.clone(), Running { endpoint, worker });
    }

    /// Waits until every worker has noted how far it is; those that a receiver holds up are not waited for longer than this.
    pub(crate) async fn stopped(&self, patience: Duration) {
        let deadline = tokio::time::Instant::now() + patience;
        let running = std::mem::take(&mut *self.lock());
        for Running { endpoint, worker } in running.into_values() {
            let end = worker.abort_handle();
            if tokio::time::timeout_at(deadline, worker).await.is_err() {
                end.abort();
                endpoint.save_progress().await;
            }
        }
    }

    // What operators ask for.

    async fn create(&self, new: NewWebhook, account: Option<Account>) -> Result<Arc<Endpoint>, Problem> {
        let invalid = |detail| Problem::new(Code::InvalidRequest, detail);
        let url = target(&new.url, self.shared.config.reach).map_err(invalid)?;
        let committed = self.shared.partition.committed();
        let after = new.after.map_or(committed, Sequence);
        if after > committed {
            let detail = format!("after is {}, the last event is {}", after.0, committed.0);
            return Err(invalid(detail));
        }
        let number = account.as_ref().map(|account| AccountNumber(account.number));
        if let Some(twin) = self.all().iter().find(|other| other.is_about(&url, &new.types, number)) {
            // Whoever got no answer asks again: that must not make a second one.
            let detail = format!("webhook {:?} has the same url, types and account", twin.id);
            return Err(Problem::new(Code::WebhookExists, detail));
        }
        if self.lock().len() >= WEBHOOKS_MAX {
            return Err(invalid(format!("there are {WEBHOOKS_MAX} webhooks already, which is the limit")));
        }
        let store = self.shared.config.store.clone();
        let endpoint = Endpoint::new(store, &url, new.types, account, after).map_err(|error| {
            Problem::new(Code::Unavailable, format!("the operating system gives no randomness: {error}"))
        })?;
        let endpoint = Arc::new(endpoint);
        endpoint.save_new().await?;
        self.run(Arc::clone(&endpoint));
        Ok(endpoint)
    }

    /// In the order in which they were added.
    fn all(&self) -> Vec<Arc<Endpoint>> {
        let mut all: Vec<_> = self.lock().values().map(|running| Arc::clone(&running.endpoint)).collect();
        all.sort_by_key(|endpoint| endpoint.created_us());
        all
    }

    fn find(&self, id: &str) -> Result<Arc<Endpoint>, Problem> {
        let found = self.lock().get(id).map(|running| Arc::clone(&running.endpoint));
        found.ok_or_else(|| not_found(id))
    }

    async fn remove(&self, id: &str) -> Result<Arc<Endpoint>, Problem> {
        let endpoint = self.find(id)?;
        endpoint.remove().await?;
        if let Some(running) = self.lock().remove(id) {
            // A request on its way is broken off.
            running.worker.abort();
        }
        Ok(endpoint)
    }

    fn view(&self, endpoint: &Endpoint) -> Value {
        endpoint.view(self.shared.partition.number(), self.shared.partition.committed())
    }

    /// Adds the metrics of all webhooks.
    pub(crate) fn metrics(&self, out: &mut Exposition) {
        use std::sync::atomic::Ordering::Relaxed;
        let all = self.all();
        let deliveries = "jigap_webhook_attempts_total";
        out.head(deliveries, "counter", "Requests to receivers of webhooks, by webhook and result.");
        for endpoint in &all {
            let counters = &endpoint.counters;
            for (result, count) in [("delivered", &counters.delivered), ("failed", &counters.failed)] {
                let labels = format!("webhook=\"{}\",result=\"{result}\"", endpoint.id);
                out.line(&format!("{deliveries}{{{labels}}}"), count.load(Relaxed));
            }
        }
        let committed = self.shared.partition.committed().0;
        let lag = "jigap_webhook_lag_events";
        out.head(lag, "gauge", "Durable events that a webhook is behind, wanted or not.");
        for endpoint in &all {
            let behind = committed.saturating_sub(endpoint.cursor().0);
            out.line(&format!("{lag}{{webhook=\"{}\"}}", endpoint.id), behind);
        }
        let dead_letters = "jigap_webhook_dead_letters";
        out.head(dead_letters, "gauge", "Events given up and kept.");
        for endpoint in &all {
            let count = endpoint.dead_letter_count() as u64;
            out.line(&format!("{dead_letters}{{webhook=\"{}\"}}", endpoint.id), count);
        }
        let buried = "jigap_webhook_given_up_total";
        out.head(buried, "counter", "Events that became dead letters.");
        for endpoint in &all {
            let labels = format!("{buried}{{webhook=\"{}\"}}", endpoint.id);
            out.line(&labels, endpoint.counters.buried.load(Relaxed));
        }
    }
}

/// What sends requests. No proxy of the environment is asked: where it connects to could not be checked.
fn client(config: &WebhooksConfig) -> Client {
    // More than one part of a program may ask for it: the first wins, and all ask for the same.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let builder = || {
        Client::builder()
            .user_agent(USER_AGENT)
            .redirect(Policy::none())
            .no_proxy()
            .referer(false)
            .timeout(config.timeout)
            .dns_resolver(Arc::new(Resolver(config.reach)))
    };
    builder().build().unwrap_or_else(|error| {
        // A machine without a list of authorities can still be asked for http://.
        tracing::warn!(%error, "no certificate authorities were found: webhooks to https:// will fail");
        let none = builder().tls_certs_only([]).build();
        none.expect("without certificates, nothing of the machine is needed")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest_and_are_never_the_same_for_all() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let store = WebhookStore::open(directory.path()).expect("it opens");
        let config = WebhooksConfig::new(store);
        for (attempts, most_ms) in
            [(1, 1_000), (2, 2_000), (5, 16_000), (9, 256_000), (10, 300_000), (u32::MAX, 300_000)]
        {
            let waits: Vec<u128> = (0..100).map(|_| config.backoff(attempts).as_millis()).collect();
            assert!(waits.iter().all(|wait| (most_ms / 2..=most_ms).contains(wait)), "{attempts}: {waits:?}");
            assert!(waits.iter().any(|wait| *wait != waits[0]));
        }
    }
}
