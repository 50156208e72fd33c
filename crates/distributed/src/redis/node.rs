//! The way to a Redis node.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use ledger::TransactionId;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, FromRedisValue, Pipeline, RedisError as ClientError};
use tokio::sync::{Mutex, watch};

use super::store::from_text;
use crate::cell::Row;
use crate::failure::Failure;
use crate::redacted;

/// A node. Clones share one connection, on which many requests are under way at a time.
#[derive(Clone)]
pub(super) struct Node(Arc<Inner>);

struct Inner {
    address: watch::Receiver<String>,
    timeout: Duration,
    /// With the address that it was made to.
    connection: Mutex<Option<(String, MultiplexedConnection)>>,
}

impl Node {
    pub(super) fn new(address: watch::Receiver<String>, timeout: Duration) -> Node {
        Node(Arc::new(Inner { address, timeout, connection: Mutex::default() }))
    }

    /// Warns when the node would forget what it has answered.
    pub(super) async fn check_durability(&self) -> Result<(), Failure> {
        let mut pipeline = redis::pipe();
        pipeline.cmd("CONFIG").arg("GET").arg("appendonly").cmd("CONFIG").arg("GET").arg("appendfsync");
        let asked: Result<Vec<Vec<String>>, Failure> = self.query(&pipeline).await;
        let settings = match asked {
            Ok(settings) => settings,
            // A provider may keep its settings to itself; a node that is not there is a failure all the same.
            Err(failure) if failure.code.is_empty() => return Err(failure),
            Err(_) => return Ok(()),
        };
        let says =
            |setting: usize, wanted: &str| settings[setting].get(1).is_some_and(|value| value == wanted);
        if !says(0, "yes") || !says(1, "always") {
            let place = redacted(&self.0.address.borrow());
            tracing::warn!(
                place,
                "this Redis forgets what it answered when it crashes: set `appendonly yes` and `appendfsync always`"
            );
        }
        Ok(())
    }

    /// Runs commands that belong together. A failure without a code says nothing about whether they were executed.
    pub(super) async fn query<Answer: FromRedisValue>(&self, pipeline: &Pipeline) -> Result<Answer, Failure> {
        let mut connection = self.connection().await?;
        match pipeline.query_async(&mut connection).await {
            Ok(answer) => Ok(answer),
            Err(error) => Err(self.failed(error).await),
        }
    }

    /// The rows at these keys, in order.
    pub(super) async fn rows(&self, keys: Vec<String>) -> Result<Vec<Option<Row>>, Failure> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let mut pipeline = redis::pipe();
        pipeline.cmd("MGET").arg(keys);
        let (found,): (Vec<Option<String>>,) = self.query(&pipeline).await?;
        found.into_iter().map(|text| text.as_deref().map(from_text).transpose()).collect()
    }

    /// The ids of a sorted set whose score is at most this, lowest first: those at these places.
    pub(super) async fn oldest(
        &self,
        key: String,
        at_most: i64,
        places: Range<usize>,
    ) -> Result<Vec<TransactionId>, Failure> {
        let mut pipeline = redis::pipe();
        pipeline
            .cmd("ZRANGE")
            .arg(key)
            .arg("-inf")
            .arg(at_most)
            .arg("BYSCORE")
            .arg("LIMIT")
            .arg(places.start)
            .arg(places.len());
        let (found,): (Vec<String>,) = self.query(&pipeline).await?;
        let parsed = found.iter().map(|id| TransactionId::parse(id));
        parsed
            .collect::<Result<_, _>>()
            .map_err(|_| Failure::refused("an index holds what is no transaction_id"))
    }

    async fn connection(&self) -> Result<MultiplexedConnection, Failure> {
        let address = self.0.address.borrow().clone();
        let mut kept = self.0.connection.lock().await;
        if let Some((of_address, connection)) = &*kept
            && *of_address == address
        {
            return Ok(connection.clone());
        }
        let refused = |error: ClientError| Failure::busy(format!("{}: {error}", redacted(&address)));
        let client = Client::open(address.as_str()).map_err(refused)?;
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.0.timeout))
            .set_response_timeout(Some(self.0.timeout));
        let connection =
            client.get_multiplexed_async_connection_with_config(&config).await.map_err(refused)?;
        *kept = Some((address, connection.clone()));
        Ok(connection)
    }

    async fn failed(&self, error: ClientError) -> Failure {
        let place = redacted(&self.0.address.borrow());
        let message = format!("{place}: {error}");
        match error.code() {
            // The node has spoken.
            Some(code) => Failure { code: code.to_owned(), ..Failure::refused(message) },
            None => {
                *self.0.connection.lock().await = None;
                Failure::lost(message)
            }
        }
    }
}
