//! A wallet over several shards, each a database of its own: the coordinator's protocols carried out for real.
//!
//! [`Shard`] is what a database must be able to do. Everything that it answers is durable there.

pub(crate) mod content;
mod shard;
pub mod sql;

pub use coordinator::port::{Claim, Entry, EntryKind, Reference, ReferenceKind};
pub use shard::{AccountRow, HistoryRange, Orphan, Shard, ShardTotals, TransactionRow};
