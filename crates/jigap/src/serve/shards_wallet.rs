//! The wallet over shards, from its configuration.

use std::sync::Arc;

use distributed::wallet::Wallet;
use distributed::{Config, Driver, OpenError};

use crate::exit::{Exit, Failure};

/// Reaches every shard, and begins to finish what other instances left.
pub(super) async fn open(config: Config) -> Result<Arc<dyn Wallet>, Failure> {
    let driver = Driver::open(&config).await.map_err(|error| Failure::new(open_exit(&error), error))?;
    Ok(Arc::new(driver))
}

fn open_exit(error: &OpenError) -> Exit {
    match error {
        OpenError::Config(_) => Exit::Usage,
        OpenError::Sql { .. }
        | OpenError::Redis { .. }
        | OpenError::PartitionMap(_)
        | OpenError::Broker(_) => Exit::Unavailable,
    }
}
