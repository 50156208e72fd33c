//! A wallet over several shards, each a database of its own: the coordinator's protocols carried out for real.
//!
//! [`Shard`] is what a database must be able to do. Everything that it answers is durable there.

mod shard;

pub use shard::{
    AccountRow, Claim, Entry, EntryKind, HistoryRange, Orphan, Reference, ReferenceKind, Shard, ShardTotals,
    TransactionRow,
};
