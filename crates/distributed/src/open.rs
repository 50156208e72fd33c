//! Opening a wallet over the shards of a configuration.

use std::sync::Arc;

use coordinator::port::{Protocol, ShardNumber};
use futures_util::future::try_join_all;
use tokio::sync::watch;

use super::choreography::{BrokerError, Choreography};
use super::driver::Coordination;
use super::partition_map::{PartitionMap, PartitionMapError, WatchedMap, ZooKeeper};
use super::redis::{RedisError, RedisShard};
use super::sql::{SqlError, SqlOptions, SqlShard, Timeouts};
use super::{Architecture, Config, ConfigError, Driver, Shard};

/// Why a wallet over shards cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The parts of the configuration do not go together.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A database cannot be used.
    #[error("shard {number}: {source}")]
    Sql {
        /// Which shard.
        number: u32,
        /// Why.
        source: SqlError,
    },
    /// A Redis node cannot be used.
    #[error("shard {number}: {source}")]
    Redis {
        /// Which shard.
        number: u32,
        /// Why.
        source: RedisError,
    },
    /// The map of partitions cannot be had.
    #[error(transparent)]
    PartitionMap(#[from] PartitionMapError),
    /// The broker cannot be used.
    #[error(transparent)]
    Broker(#[from] BrokerError),
}

impl Driver {
    /// Opens every shard of a configuration, and starts a wallet over them. Must be called within a runtime.
    pub async fn open(config: &Config) -> Result<Driver, OpenError> {
        config.check()?;
        let (coordination, shards) = match config.architecture {
            Architecture::TwoPhaseCommit => {
                (Coordination::By(Protocol::TwoPhaseCommit), sql_shards(config).await?)
            }
            Architecture::Tcc => (Coordination::By(Protocol::Tcc), sql_shards(config).await?),
            Architecture::Saga => (Coordination::By(Protocol::Saga), sql_shards(config).await?),
            Architecture::RedisTcc => (Coordination::By(Protocol::Tcc), redis_shards(config).await?),
            Architecture::Redis => (Coordination::None, redis_shards(config).await?),
            Architecture::SagaChoreographed => return choreographed(config).await,
        };
        Ok(Driver::start(shards, coordination, config))
    }
}

async fn choreographed(config: &Config) -> Result<Driver, OpenError> {
    let shards = open_sql(config).await?;
    let choreography = Choreography::start(config, shards.clone()).await?;
    let shards = shards.into_iter().map(|shard| shard as Arc<dyn Shard>).collect();
    Ok(Driver::start_with(shards, Coordination::By(Protocol::Saga), Some(choreography), config))
}

async fn sql_shards(config: &Config) -> Result<Vec<Arc<dyn Shard>>, OpenError> {
    let shards = open_sql(config).await?;
    Ok(shards.into_iter().map(|shard| shard as Arc<dyn Shard>).collect())
}

async fn open_sql(config: &Config) -> Result<Vec<Arc<SqlShard>>, OpenError> {
    let options = SqlOptions {
        connections: config.connections_max as usize,
        timeouts: Timeouts { statement: config.step_timeout, ..Timeouts::default() },
    };
    let opened = (0u32..).zip(&config.shards).map(async |(number, url)| {
        let shard = SqlShard::open(url, ShardNumber(number), options).await;
        shard.map(Arc::new).map_err(|source| OpenError::Sql { number, source })
    });
    try_join_all(opened).await
}

async fn redis_shards(config: &Config) -> Result<Vec<Arc<dyn Shard>>, OpenError> {
    let addresses = match &config.zookeeper {
        None => config.shards.iter().map(|url| watch::channel(url.clone()).1).collect(),
        Some(zookeeper) => {
            let wallet = format!("{:016x}", config.instance);
            follow(ZooKeeper::parse(zookeeper)?.watch(wallet).await?)
        }
    };
    let opened = (0u32..).zip(addresses).map(async |(number, address)| {
        let shard = RedisShard::open(address, ShardNumber(number), config.step_timeout).await;
        shard
            .map(|shard| Arc::new(shard) as Arc<dyn Shard>)
            .map_err(|source| OpenError::Redis { number, source })
    });
    try_join_all(opened).await
}

/// The address of each partition, as the map says at any time.
fn follow(watched: WatchedMap) -> Vec<watch::Receiver<String>> {
    let mut map = watched.subscribe();
    let first = map.borrow_and_update().clone();
    let (senders, addresses): (Vec<_>, Vec<_>) = first.partitions.into_iter().map(watch::channel).unzip();
    tokio::spawn(async move {
        // Watching ends with the wallet.
        let _watched = watched;
        while senders.iter().any(|sender| !sender.is_closed()) && map.changed().await.is_ok() {
            let PartitionMap { partitions } = map.borrow_and_update().clone();
            if partitions.len() != senders.len() {
                tracing::error!(
                    now = senders.len(),
                    in_the_map = partitions.len(),
                    "the number of partitions cannot change while accounts are in them; the last map stays in force"
                );
                continue;
            }
            for (sender, address) in senders.iter().zip(partitions) {
                sender.send_if_modified(|current| std::mem::replace(current, address.clone()) != address);
            }
        }
    });
    addresses
}
