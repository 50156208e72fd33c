//! Opening a wallet over the shards of a configuration.

use std::sync::Arc;

use coordinator::port::{Protocol, ShardNumber};
use futures_util::future::try_join_all;

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
    /// This version of the program does not have it.
    #[error("architecture {0} is not part of this version")]
    NotBuilt(Architecture),
}

impl Driver {
    /// Opens every shard of a configuration, and starts a wallet over them. Must be called within a runtime.
    pub async fn open(config: &Config) -> Result<Driver, OpenError> {
        config.check()?;
        let protocol = match config.architecture {
            Architecture::TwoPhaseCommit => Protocol::TwoPhaseCommit,
            Architecture::Tcc => Protocol::Tcc,
            Architecture::Saga => Protocol::Saga,
            other => return Err(OpenError::NotBuilt(other)),
        };
        let options = SqlOptions {
            connections: config.connections_max as usize,
            timeouts: Timeouts { statement: config.step_timeout, ..Timeouts::default() },
        };
        let opened = (0u32..).zip(&config.shards).map(async |(number, url)| {
            let shard = SqlShard::open(url, ShardNumber(number), options).await;
            shard.map_err(|source| OpenError::Sql { number, source })
        });
        let shards = try_join_all(opened).await?;
        let shards = shards.into_iter().map(|shard| Arc::new(shard) as Arc<dyn Shard>).collect();
        Ok(Driver::start(shards, protocol, config))
    }
}
