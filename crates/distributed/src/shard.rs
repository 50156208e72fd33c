//! What a database must be able to do to hold a part of the money.

use coordinator::port::{Answer, Claim, Entry, NoAnswer, PhaseStatus, Reference, ShardNumber, Step};
use ledger::{AccountId, Balance, Currency, Metadata, Sequence, Timestamp, TransactionId};

/// A part of the money, in a database of its own.
#[async_trait::async_trait]
pub trait Shard: Send + Sync + 'static {
    /// Executes steps, each as if alone, in as few local transactions as it likes; one answer per step, in order. Steps of one
    /// transaction keep their order.
    async fn execute(&self, steps: Vec<Step>) -> Vec<Result<Answer, NoAnswer>>;

    /// An account as it stands.
    async fn account(&self, account: &AccountId) -> Result<Option<AccountRow>, NoAnswer>;

    /// What happened to an account, newest first.
    async fn history(&self, account: &AccountId, range: &HistoryRange) -> Result<Vec<Entry>, NoAnswer>;

    /// Who owns a transaction_id; asked of its home shard.
    async fn claim(&self, transaction_id: TransactionId) -> Result<Option<Claim>, NoAnswer>;

    /// The record of a transaction, and what later ones did to one of its ids: its own, or that of a leg. Asked of its owner's shard.
    async fn transaction(
        &self,
        recorded_under: TransactionId,
        transaction_id: TransactionId,
    ) -> Result<Option<TransactionRow>, NoAnswer>;

    /// Transactions whose record is here, that are not finished and whose lease has run out, oldest first.
    async fn unfinished(&self, limit: usize) -> Result<Vec<PhaseStatus>, NoAnswer>;

    /// Every unfinished transaction, oldest first, for an operator to see.
    async fn in_flight(&self, limit: usize) -> Result<Vec<PhaseStatus>, NoAnswer>;

    /// Branches here that had their first phase before this time and no second one, and whose record is on another shard. Most of them
    /// are just under way; one that has no record there is an orphan.
    async fn orphans(&self, before: Timestamp, limit: usize) -> Result<Vec<Orphan>, NoAnswer>;

    /// Transactions that are prepared here for two-phase commit and have neither been committed nor rolled back, whoever prepared them.
    /// The record of each decides; without a decision it is rolled back. Empty where nothing is ever prepared.
    async fn in_doubt(&self) -> Result<Vec<TransactionId>, NoAnswer> {
        Ok(Vec::new())
    }

    /// Releases holds that have lapsed; how many.
    async fn expire_holds(&self, limit: usize) -> Result<usize, NoAnswer>;

    /// Every currency's sum on this shard.
    async fn totals(&self) -> Result<ShardTotals, NoAnswer>;
}

/// An account as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountRow {
    /// Its name.
    pub account_id: AccountId,
    /// When it was opened.
    pub opened_at: Timestamp,
    /// Its owner's notes.
    pub metadata: Metadata,
    /// True once it was closed.
    pub closed: bool,
    /// Every currency that it ever had money in, ascending by numeric code.
    pub balances: Vec<(Currency, Balance)>,
    /// The shard's last event.
    pub sequence: Sequence,
    /// The time of it.
    pub timestamp: Timestamp,
}

/// Which part of a history.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HistoryRange {
    /// Only entries before this position (a cursor).
    pub before: Option<Sequence>,
    /// Only entries of this currency.
    pub currency: Option<Currency>,
    /// Only entries at or after this time.
    pub since: Option<Timestamp>,
    /// Only entries before this time.
    pub until: Option<Timestamp>,
    /// At most so many.
    pub limit: usize,
}

/// The record of a transaction, and what later ones did to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransactionRow {
    /// The record.
    pub status: PhaseStatus,
    /// Ascending by sequence.
    pub references: Vec<Reference>,
}

/// A branch without a second phase, whose record is elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Orphan {
    /// The transaction.
    pub transaction_id: TransactionId,
    /// Where its record should be.
    pub owner: ShardNumber,
}

/// The sums of one shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardTotals {
    /// The shard's last event.
    pub sequence: Sequence,
    /// Accounts ever opened.
    pub accounts: u64,
    /// By currency, ascending by numeric code: the sum of all balances (available and held, `@external`'s too), and what was taken and is
    /// not given or returned yet. Over all shards, both together are zero once in-flight payees are given theirs.
    pub currencies: Vec<(Currency, i128, i128)>,
}
