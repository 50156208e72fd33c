//! HTTP and gRPC in front of a partition, or of a wallet over shards: everything async lives here, and nothing about money is decided
//! here.
//!
//! [`Server::bind`] listens at once and answers `/healthz`; [`Ready::ready`] hands it the partition once that has recovered, or
//! [`Ready::ready_distributed`] the wallet once its shards were reached; [`Server::serve`] runs until it is told to stop, then drains.

mod admin;
mod answer;
mod backend;
mod batcher;
mod connections;
mod events;
mod grpc;
mod metrics;
mod position;
mod query;
mod routes;
mod spans;
mod webhooks;

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use distributed::wallet::Wallet;
use shards::partition::Partition;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::{Semaphore, watch};
use views::History;

use backend::Backend;
use batcher::Batcher;
use events::Events;
pub use events::EventsConfig;
use metrics::NetworkMetrics;
use position::{Positions, ReadSide};
use webhooks::Webhooks;
pub use webhooks::{Reach, WebhookStore, WebhookStoreError, WebhooksConfig};

/// Connections that may wait to be accepted. A client that finds no room tries again only after a second.
const CONNECTIONS_WAITING_MAX: u32 = 4096;

/// How the server is set up.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where HTTP listens. Port 0 takes a free one.
    pub listen: SocketAddr,
    /// Where gRPC listens. Port 0 takes a free one.
    pub grpc_listen: SocketAddr,
    /// A request that is not answered in this time is answered `unavailable`.
    pub request_timeout: Duration,
    /// A connection that does not send a whole request head in this time is closed, idle ones too.
    pub header_timeout: Duration,
    /// How long connections may finish what they are doing when the server stops.
    pub drain_timeout: Duration,
    /// Connections beyond this number wait to be accepted.
    pub connections_max: usize,
    /// How events are pushed.
    pub events: EventsConfig,
    /// How webhooks are sent; `None` for not at all.
    pub webhooks: Option<WebhooksConfig>,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            grpc_listen: SocketAddr::from(([127, 0, 0, 1], 8081)),
            request_timeout: Duration::from_secs(10),
            header_timeout: Duration::from_secs(60),
            drain_timeout: Duration::from_secs(10),
            connections_max: 16_384,
            events: EventsConfig::default(),
            webhooks: None,
        }
    }
}

/// What an event-sourced wallet answers with once recovery is over.
#[derive(Clone)]
pub(crate) struct Node {
    pub(crate) partition: Partition,
    pub(crate) read_side: ReadSide,
    pub(crate) positions: Arc<Positions>,
    pub(crate) batcher: Batcher,
    pub(crate) events: Events,
    pub(crate) webhooks: Option<Webhooks>,
    /// Whose turn it is to rebuild a state of the past.
    pub(crate) past_states: Arc<Semaphore>,
}

/// How many states of the past are rebuilt at a time: each keeps one core busy.
const PAST_STATES_MAX: usize = 1;

pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) backend: OnceLock<Backend>,
    pub(crate) metrics: NetworkMetrics,
    /// Turns true when the server is told to stop.
    pub(crate) stopping: watch::Sender<bool>,
}

/// A server that listens.
pub struct Server {
    listener: TcpListener,
    grpc_listener: TcpListener,
    shared: Arc<Shared>,
}

/// Hands what answers to the server that listens already.
#[derive(Clone)]
pub struct Ready {
    shared: Arc<Shared>,
    runtime: tokio::runtime::Handle,
}

impl Ready {
    /// From now on requests are served. Without a history, those that ask for it are answered `not_implemented`.
    pub fn ready(&self, partition: Partition, history: Option<Arc<History>>) {
        let _in_runtime = self.runtime.enter();
        let batcher = Batcher::start(partition.clone());
        let stopping = self.shared.stopping.subscribe();
        let events = Events::start(partition.clone(), self.shared.config.events.clone(), stopping.clone())
            .expect("a process that has just recovered can start one more thread");
        let webhooks = self.shared.config.webhooks.clone();
        let webhooks =
            webhooks.map(|config| Webhooks::start(config, partition.clone(), events.clone(), stopping));
        let read_side = ReadSide { partition: partition.clone(), kept: history };
        let positions = Positions::start(read_side.clone())
            .expect("a process that has just recovered can start one more thread");
        let past_states = Arc::new(Semaphore::new(PAST_STATES_MAX));
        let positions = Arc::new(positions);
        let node = Node { partition, read_side, positions, batcher, events, webhooks, past_states };
        self.set(Backend::EventSourced(node));
    }

    /// From now on requests are served by a wallet over shards.
    pub fn ready_distributed(&self, wallet: Arc<dyn Wallet>) {
        self.set(Backend::Distributed(wallet));
    }

    fn set(&self, backend: Backend) {
        if self.shared.backend.set(backend).is_err() {
            tracing::error!("the server was given a wallet twice; it keeps the first");
        }
    }
}

fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // A restart must not wait for the connections of before to be forgotten.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(CONNECTIONS_WAITING_MAX)
}

impl Server {
    /// Listens. Until [`Ready::ready`] is called, everything but `/healthz` is answered `unavailable`.
    pub async fn bind(config: Config) -> std::io::Result<Server> {
        let listener = listen(config.listen)?;
        let grpc_listener = listen(config.grpc_listen)?;
        let shared = Shared {
            config,
            backend: OnceLock::new(),
            metrics: NetworkMetrics::default(),
            stopping: watch::Sender::new(false),
        };
        Ok(Server { listener, grpc_listener, shared: Arc::new(shared) })
    }

    /// Where gRPC listens.
    pub fn grpc_local_address(&self) -> std::io::Result<SocketAddr> {
        self.grpc_listener.local_addr()
    }

    /// Where HTTP listens.
    pub fn local_address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// A handle for whoever recovers the partition. Must be called within the server's runtime.
    pub fn ready_handle(&self) -> Ready {
        Ready { shared: Arc::clone(&self.shared), runtime: tokio::runtime::Handle::current() }
    }

    /// Serves until `stop` resolves, then takes no more connections and lets those that are busy finish.
    pub async fn serve(self, stop: impl Future<Output = ()>) {
        let (stop_grpc, grpc_stopped) = tokio::sync::oneshot::channel::<()>();
        let drain_timeout = self.shared.config.drain_timeout;
        let grpc = tokio::spawn(grpc::serve(self.grpc_listener, Arc::clone(&self.shared), async {
            // A dropped sender means to stop as well.
            let _ = grpc_stopped.await;
        }));
        let shared = Arc::clone(&self.shared);
        let stop = async move {
            stop.await;
            drop(stop_grpc);
            // Streams of events end at once: they would never become idle.
            shared.stopping.send_replace(true);
        };
        let of_webhooks = Arc::clone(&self.shared);
        let mut stopping = self.shared.stopping.subscribe();
        let webhooks = async {
            // A sender that is gone has stopped as well.
            let _ = stopping.wait_for(|stopping| *stopping).await;
            let node = routes::node(&of_webhooks).ok();
            if let Some(webhooks) = node.and_then(|node| node.webhooks.as_ref()) {
                webhooks.stopped(drain_timeout).await;
            }
        };
        tokio::join!(connections::serve(self.listener, self.shared, stop), webhooks);
        if tokio::time::timeout(drain_timeout, grpc).await.is_err() {
            tracing::warn!("some gRPC streams were still open when the time for draining was over");
        }
    }
}
