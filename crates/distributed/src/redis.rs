//! Shards in Redis: one partition of the accounts on one node.
//!
//! The rules of money are those of every shard, [`coordinator::book`]; here rows are strings in a node's memory:
//!
//! ```text
//! steps ──> worker   load rows with the partition's version; run the book; a script stores what changed if the version still stands
//! ```
//!
//! The script is one atomic act of the node, barrier and record with the money. Whoever comes second, of several instances, finds another
//! version, loads again and tries again. All keys of partition N begin with `{jigap:N}:`, so that they are in one slot.
//!
//! What is answered is as durable as the node makes it: `appendonly yes` with `appendfsync always`, or a crash of the node loses it.

mod node;
mod store;
mod worker;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use coordinator::port::{Answer, Claim, Entry, NoAnswer, PhaseStatus, ShardNumber, Step};
use ledger::{AccountId, Balance, Currency, Sequence, Timestamp, TransactionId};
use tokio::sync::watch;

use node::Node;
use store::Keys;
use worker::Worker;

use super::{AccountRow, HistoryRange, Orphan, Shard, ShardTotals, TransactionRow, clock, rows};

/// How many unfinished transactions are read at a time in search of those whose lease has run out.
const UNFINISHED_PER_PAGE: usize = 256;
/// How many pages one search reads; the next one goes on from there.
const UNFINISHED_PAGES_MAX: usize = 16;

/// A node that cannot be used, and what to do about it.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct RedisError(String);

/// A partition on a Redis node.
pub struct RedisShard {
    node: Node,
    keys: Keys,
    worker: Worker,
    /// Where the next look for lapsed leases begins: 0, unless the last one ended before it had seen all.
    unfinished_from: AtomicUsize,
}

impl RedisShard {
    /// Opens a partition on the node at `redis://[user:password@]host:port[/database]`. When the address changes, what follows goes to the
    /// new one. One node may hold several partitions: their keys differ.
    pub async fn open(
        address: watch::Receiver<String>,
        number: ShardNumber,
        timeout: Duration,
    ) -> Result<RedisShard, RedisError> {
        let node = Node::new(address, timeout);
        let keys = Keys::of(number);
        node.check_durability().await.map_err(|failure| RedisError(failure.to_string()))?;
        let worker = Worker::start(node.clone(), keys.clone());
        Ok(RedisShard { node, keys, worker, unfinished_from: AtomicUsize::new(0) })
    }

    /// The records of these transactions, in order; those that are gone meanwhile are left out.
    async fn records(&self, ids: Vec<TransactionId>) -> Result<Vec<PhaseStatus>, NoAnswer> {
        let keys = ids.into_iter().map(|id| self.keys.record(id)).collect();
        let found = self.node.rows(keys).await.map_err(|failure| failure.before_commit())?;
        let found = found.into_iter().flatten().map(|row| rows::status(&row));
        found.collect::<Result<_, _>>().map_err(|failure| failure.before_commit())
    }
}

#[async_trait::async_trait]
impl Shard for RedisShard {
    async fn execute(&self, steps: Vec<Step>) -> Vec<Result<Answer, NoAnswer>> {
        self.worker.execute(steps).await
    }

    async fn account(&self, account: &AccountId) -> Result<Option<AccountRow>, NoAnswer> {
        let seen = store::account(&self.node, &self.keys, account).await;
        let Some((state, balances, counter)) = seen.map_err(|failure| failure.before_commit())? else {
            return Ok(None);
        };
        let shown = |(currency, one): &(Currency, coordinator::book::Balances)| {
            (*currency, Balance { available: one.available, held: one.held })
        };
        Ok(Some(AccountRow {
            account_id: account.clone(),
            opened_at: state.opened_at,
            metadata: state.metadata,
            closed: state.closed,
            balances: balances.iter().map(shown).collect(),
            sequence: counter.sequence,
            timestamp: counter.timestamp,
        }))
    }

    async fn history(&self, account: &AccountId, range: &HistoryRange) -> Result<Vec<Entry>, NoAnswer> {
        let found = store::history(&self.node, &self.keys, account, range).await;
        found.map_err(|failure| failure.before_commit())
    }

    async fn claim(&self, transaction_id: TransactionId) -> Result<Option<Claim>, NoAnswer> {
        let found = async {
            let found = self.node.rows(vec![self.keys.claim(transaction_id)]).await?;
            found.into_iter().flatten().next().map(|row| rows::claim(&row)).transpose()
        };
        Ok(found.await.map_err(|failure| failure.before_commit())?.map(|(_, claim)| claim))
    }

    async fn transaction(
        &self,
        recorded_under: TransactionId,
        transaction_id: TransactionId,
    ) -> Result<Option<TransactionRow>, NoAnswer> {
        let Some(status) = self.records(vec![recorded_under]).await?.pop() else { return Ok(None) };
        let fate = async {
            let found = self.node.rows(vec![self.keys.fate(transaction_id)]).await?;
            found.into_iter().flatten().next().map(|row| rows::fate(&row)).transpose()
        };
        let fate = fate.await.map_err(|failure| failure.before_commit())?;
        let references = fate.and_then(|(_, fate)| fate.reference).into_iter().collect();
        Ok(Some(TransactionRow { status, references }))
    }

    async fn unfinished(&self, limit: usize) -> Result<Vec<PhaseStatus>, NoAnswer> {
        let now = clock::now();
        let mut lapsed = Vec::new();
        let mut from = self.unfinished_from.load(Ordering::Relaxed);
        for _ in 0..UNFINISHED_PAGES_MAX {
            let places = from..from + UNFINISHED_PER_PAGE;
            let ids = self.node.oldest(self.keys.unfinished(), i64::MAX, places.clone()).await;
            let ids = ids.map_err(|failure| failure.before_commit())?;
            let is_last_page = ids.len() < places.len();
            let has_lapsed =
                |status: &PhaseStatus| status.lease.as_ref().is_none_or(|lease| lease.until <= now);
            lapsed.extend(self.records(ids).await?.into_iter().filter(has_lapsed));
            from = if is_last_page || lapsed.len() >= limit { 0 } else { places.end };
            if from == 0 {
                break;
            }
        }
        self.unfinished_from.store(from, Ordering::Relaxed);
        lapsed.truncate(limit);
        Ok(lapsed)
    }

    async fn in_flight(&self, limit: usize) -> Result<Vec<PhaseStatus>, NoAnswer> {
        let ids = self.node.oldest(self.keys.unfinished(), i64::MAX, 0..limit).await;
        self.records(ids.map_err(|failure| failure.before_commit())?).await
    }

    async fn orphans(&self, before: Timestamp, limit: usize) -> Result<Vec<Orphan>, NoAnswer> {
        let found = async {
            let ids = self.node.oldest(self.keys.taken(), before.as_micros() - 1, 0..limit).await?;
            let keys = ids.into_iter().map(|id| self.keys.branch(id)).collect();
            let found = self.node.rows(keys).await?;
            found.into_iter().flatten().map(|row| rows::branch(&row)).collect::<Result<Vec<_>, _>>()
        };
        let found = found.await.map_err(|failure| failure.before_commit())?;
        let elsewhere = found.into_iter().filter(|(_, branch)| branch.owner != self.keys.number());
        Ok(elsewhere.map(|(transaction_id, branch)| Orphan { transaction_id, owner: branch.owner }).collect())
    }

    async fn expire_holds(&self, limit: usize) -> Result<usize, NoAnswer> {
        let lapsed = self.node.oldest(self.keys.expiring(), clock::now().as_micros(), 0..limit).await;
        let lapsed = lapsed.map_err(|failure| failure.before_commit())?;
        if lapsed.is_empty() {
            return Ok(0);
        }
        self.worker.expire_holds(lapsed).await
    }

    async fn totals(&self) -> Result<ShardTotals, NoAnswer> {
        store::totals(&self.node, &self.keys).await.map_err(|failure| failure.before_commit())
    }
}

/// Where a partition's version is, besides its last event and how many accounts it has.
struct Position {
    version: i64,
    sequence: Sequence,
    timestamp: Timestamp,
    accounts: i64,
}
