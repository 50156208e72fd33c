//! The wallet over shards, from its configuration.

use std::sync::Arc;

use anyhow::anyhow;
use shards::distributed::Config;
use shards::wallet::Wallet;

use crate::exit::{Exit, Failure};

/// Reaches every shard. None of their protocols is driven by this version yet.
pub(super) async fn open(config: Config) -> Result<Arc<dyn Wallet>, Failure> {
    let why = anyhow!(
        "architecture {} is not built into this version yet: it serves event-sourced",
        config.architecture
    );
    Err(Failure::new(Exit::Usage, why))
}
