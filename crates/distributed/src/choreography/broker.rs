//! NATS JetStream: what travels to a shard, and who is told that something is over.

use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, PullConsumer, pull};
use async_nats::jetstream::stream::{Config, RetentionPolicy, StorageType, Stream};
use async_nats::jetstream::{self, Context};
use async_nats::{Client, ConnectOptions, HeaderMap};
use coordinator::port::ShardNumber;
use futures_util::StreamExt;
use tokio::sync::mpsc;

use crate::redacted;
use crate::trace::TRACEPARENT;

/// How long a shard's service may work on a message before it is delivered again.
const ACK_WAIT: Duration = Duration::from_secs(15);
/// How many messages a shard's services may work on at a time.
const ACK_PENDING_MAX: i64 = 8_192;
/// How long the broker may take to say that it has a message.
const PUBLISH_PATIENCE: Duration = Duration::from_secs(5);
/// How long the broker may take in the beginning.
const CONNECT_PATIENCE: Duration = Duration::from_secs(10);
/// How many messages are asked for at a time, and for how long.
const ARRIVALS_PER_BATCH_MAX: usize = 1_024;
const BATCH_PATIENCE: Duration = Duration::from_secs(10);
/// A broker that is silent for twice as long has lost what it knew of us.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// What the wallet's subjects begin with, where the address names no other.
const NAME: &str = "jigap";

/// Why the broker cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("broker {address}: {why}")]
pub struct BrokerError {
    address: String,
    why: String,
}

/// A message that has arrived. It arrives again unless it is acknowledged.
pub(super) type Delivery = jetstream::Message;

/// Which trace a message belongs to.
pub(super) fn traceparent(delivery: &Delivery) -> Option<&str> {
    Some(delivery.headers.as_ref()?.get(TRACEPARENT)?.as_str())
}

/// The way to the broker.
pub(super) struct Broker {
    address: String,
    name: String,
    client: Client,
    jetstream: Context,
}

impl Broker {
    /// Takes `nats://HOST:PORT[,HOST:PORT…][/NAME]`; wallets of different names have nothing to do with each other.
    pub(super) async fn connect(url: &str) -> Result<Broker, BrokerError> {
        let (servers, name) = match url.strip_prefix("nats://").and_then(|rest| rest.split_once('/')) {
            Some((servers, name)) if !name.is_empty() => (format!("nats://{servers}"), name),
            _ => (url.trim_end_matches('/').to_owned(), NAME),
        };
        let address = redacted(&servers);
        let failed = |why: String| BrokerError { address: address.clone(), why };
        if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_') {
            return Err(failed(format!("{name:?} is no name: letters, digits, - and _")));
        }
        let servers: Vec<String> = servers.split(',').map(str::to_owned).collect();
        let options = ConnectOptions::new().name("jigap").connection_timeout(CONNECT_PATIENCE);
        let client = options.connect(servers).await.map_err(|error| failed(error.to_string()))?;
        let mut jetstream = jetstream::new(client.clone());
        jetstream.set_timeout(PUBLISH_PATIENCE);
        let broker = Broker { address, name: name.to_owned(), client, jetstream };
        broker.stream().await?;
        Ok(broker)
    }

    /// Made anew where the broker has lost it.
    async fn stream(&self) -> Result<Stream, BrokerError> {
        let config = Config {
            name: self.name.clone(),
            subjects: vec![format!("{}.shard.*", self.name)],
            // What was acknowledged is gone.
            retention: RetentionPolicy::WorkQueue,
            storage: StorageType::File,
            ..Config::default()
        };
        self.jetstream.get_or_create_stream(config).await.map_err(|error| self.failed(&error))
    }

    /// Sends a message to a shard; it is on the broker's disk afterwards. Its header tells which trace it belongs to.
    pub(super) async fn send(
        &self,
        to: ShardNumber,
        content: String,
        traceparent: Option<String>,
    ) -> Result<(), BrokerError> {
        let subject = format!("{}.shard.{}", self.name, to.0);
        let sent = match traceparent {
            None => self.jetstream.publish(subject, content.into()).await,
            Some(traceparent) => {
                let mut headers = HeaderMap::new();
                headers.insert(TRACEPARENT, traceparent);
                self.jetstream.publish_with_headers(subject, headers, content.into()).await
            }
        };
        let stored = sent.map_err(|error| self.failed(&error))?.await;
        stored.map(drop).map_err(|error| self.failed(&error))
    }

    /// What travels to a shard. All instances share it: each message goes to one of them.
    pub(super) async fn arrivals(
        &self,
        shard: ShardNumber,
    ) -> Result<impl futures_util::Stream<Item = Result<Delivery, BrokerError>> + use<>, BrokerError> {
        let name = format!("shard-{}", shard.0);
        let config = pull::Config {
            durable_name: Some(name.clone()),
            filter_subject: format!("{}.shard.{}", self.name, shard.0),
            ack_policy: AckPolicy::Explicit,
            ack_wait: ACK_WAIT,
            max_ack_pending: ACK_PENDING_MAX,
            ..pull::Config::default()
        };
        let consumer: PullConsumer = self
            .stream()
            .await?
            .get_or_create_consumer(&name, config)
            .await
            .map_err(|error| self.failed(&error))?;
        let stream = consumer.stream().max_messages_per_batch(ARRIVALS_PER_BATCH_MAX);
        let stream = stream.expires(BATCH_PATIENCE).heartbeat(HEARTBEAT);
        let messages = stream.messages().await.map_err(|error| self.failed(&error))?;
        let address = self.address.clone();
        Ok(messages.map(move |message| {
            message.map_err(|error| BrokerError { address: address.clone(), why: error.to_string() })
        }))
    }

    /// Tells every instance that something is over. Nobody relies on it.
    pub(super) async fn announce(&self, what: String) {
        if let Err(error) = self.client.publish(format!("{}.over", self.name), what.into()).await {
            tracing::debug!(%error, "the end of a transaction cannot be announced");
        }
    }

    /// What instances announce.
    pub(super) async fn announcements(&self) -> Result<mpsc::Receiver<Vec<u8>>, BrokerError> {
        let subscribed = self.client.subscribe(format!("{}.over", self.name)).await;
        let mut subscriber = subscribed.map_err(|error| self.failed(&error))?;
        let (sender, receiver) = mpsc::channel(1_024);
        tokio::spawn(async move {
            while let Some(message) = subscriber.next().await {
                if sender.send(message.payload.to_vec()).await.is_err() {
                    return;
                }
            }
        });
        Ok(receiver)
    }

    fn failed(&self, error: &dyn std::fmt::Display) -> BrokerError {
        BrokerError { address: self.address.clone(), why: error.to_string() }
    }
}
