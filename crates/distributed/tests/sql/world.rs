//! Real shards as the coordinator's suite sees them.

use std::sync::Arc;
use std::time::Duration;

use coordinator::conformance::{AccountSeen, World};
use coordinator::port::{Answer, Entry, NoAnswer, PhaseStatus, ShardNumber, Step};
use distributed::{HistoryRange, Shard};
use ledger::{AccountId, Currency, Timestamp, TransactionId};
use tokio::runtime::Handle;

const RETRIES_MAX: usize = 500;
const RETRY_AFTER: Duration = Duration::from_millis(10);

/// Shards under test.
pub(crate) struct Sharded {
    pub(crate) shards: Vec<Arc<dyn Shard>>,
    pub(crate) runtime: Handle,
}

impl Sharded {
    /// Asks until there is an answer.
    fn ask<Value>(
        &self,
        question: impl AsyncFn(&dyn Shard) -> Result<Value, NoAnswer>,
        shard: ShardNumber,
    ) -> Value {
        self.runtime.block_on(async {
            for _ in 0..RETRIES_MAX {
                match question(&*self.shards[shard.0 as usize]).await {
                    Ok(value) => return value,
                    Err(_) => tokio::time::sleep(RETRY_AFTER).await,
                }
            }
            panic!("shard {} does not answer", shard.0);
        })
    }
}

impl World for Sharded {
    fn shard_count(&self) -> u32 {
        self.shards.len() as u32
    }

    fn execute(&mut self, shard: ShardNumber, step: &Step) -> Result<Answer, NoAnswer> {
        self.runtime.block_on(self.shards[shard.0 as usize].execute(vec![step.clone()])).remove(0)
    }

    fn record(&mut self, shard: ShardNumber, transaction_id: TransactionId) -> Option<PhaseStatus> {
        self.ask(async |shard| shard.transaction(transaction_id, transaction_id).await, shard)
            .map(|row| row.status)
    }

    fn account(&mut self, shard: ShardNumber, account: &AccountId) -> Option<AccountSeen> {
        let row = self.ask(async |shard| shard.account(account).await, shard)?;
        Some(AccountSeen { closed: row.closed, balances: row.balances })
    }

    fn history(&mut self, shard: ShardNumber, account: &AccountId) -> Vec<Entry> {
        let range = HistoryRange { limit: 1_000_000, ..HistoryRange::default() };
        let mut entries = self.ask(async |shard| shard.history(account, &range).await, shard);
        entries.reverse();
        entries
    }

    fn totals(&mut self, shard: ShardNumber) -> Vec<(Currency, i128, i128)> {
        self.ask(async |shard| shard.totals().await, shard).currencies
    }

    fn open_branches(&mut self, shard: ShardNumber) -> usize {
        let ever = Timestamp::from_micros(i64::MAX);
        let of_others = self.ask(async |shard| shard.orphans(ever, 1_000).await, shard).len();
        of_others + self.ask(async |shard| shard.in_doubt().await, shard).len()
    }

    fn expire_holds(&mut self, shard: ShardNumber) {
        while self.ask(async |shard| shard.expire_holds(100).await, shard) > 0 {}
    }
}
