//! A wallet over several shards, each a database of its own: the coordinator's protocols carried out for real.
//!
//! [`Shard`] is what a database must be able to do. Everything that it answers is durable there. [`Config`] says which shards there are,
//! and what brings them to one outcome.

mod cell;
mod choreography;
mod clock;
mod config;
pub(crate) mod content;
mod driver;
mod failure;
mod link;
mod metrics;
mod open;
pub mod partition_map;
mod records;
pub mod redis;
mod rows;
mod shard;
mod spans;
pub mod sql;
pub mod trace;
pub mod wallet;

pub use choreography::BrokerError;
pub use config::{Architecture, Config, ConfigError, Scheme, redacted, scheme};
pub use coordinator::port::{Claim, Entry, EntryKind, Reference, ReferenceKind};
pub use driver::{Coordination, Driver};
pub use metrics::{Ending, Metrics, ShardMetrics, StepOutcome};
pub use open::OpenError;
pub use shard::{AccountRow, HistoryRange, Orphan, Shard, ShardTotals, TransactionRow};
