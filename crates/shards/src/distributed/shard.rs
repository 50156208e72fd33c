//! What a database must be able to do to hold a part of the money.

use coordinator::port::{Answer, NoAnswer, PhaseStatus, ShardNumber, Step};
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

    /// The record of a transaction; asked of its owner's shard.
    async fn transaction(&self, transaction_id: TransactionId) -> Result<Option<TransactionRow>, NoAnswer>;

    /// Transactions whose record is here, that are not finished and whose lease has run out, oldest first.
    async fn unfinished(&self, limit: usize) -> Result<Vec<PhaseStatus>, NoAnswer>;

    /// Every unfinished transaction, oldest first, for an operator to see.
    async fn in_flight(&self, limit: usize) -> Result<Vec<PhaseStatus>, NoAnswer>;

    /// Branches here that had their first phase before this time and no second one, and whose record is on another shard. Most of them
    /// are just under way; one that has no record there is an orphan.
    async fn orphans(&self, before: Timestamp, limit: usize) -> Result<Vec<Orphan>, NoAnswer>;

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

/// What an entry of a history tells. Numbers are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum EntryKind {
    /// A transfer.
    Transfer = 0,
    /// Money from outside.
    Deposit = 1,
    /// Money to the outside.
    Withdrawal = 2,
    /// Money was set aside.
    Held = 3,
    /// A hold was paid out.
    HoldConfirmed = 4,
    /// A hold was cancelled or lapsed.
    HoldReleased = 5,
    /// An earlier transaction was reversed.
    Reversed = 6,
    /// A Saga's debit was undone.
    Compensated = 7,
}

/// One entry of an account's history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The id of the transaction, or of its leg; `None` when a hold lapsed.
    pub transaction_id: Option<TransactionId>,
    /// What it was.
    pub kind: EntryKind,
    /// The other side, where there is one.
    pub counterparty: Option<AccountId>,
    /// What was added to `available`, in minor units.
    pub amount: i64,
    /// Of what.
    pub currency: Currency,
    /// The available balance as the history adds up: money that other transactions have in flight counts as still there.
    pub balance_after: i64,
    /// Its position on the shard.
    pub sequence: Sequence,
    /// The time of it.
    pub timestamp: Timestamp,
    /// The caller's notes.
    pub metadata: Metadata,
}

/// Whom a transaction_id belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// A hash of the content.
    pub fingerprint: [u8; 32],
    /// Where its record is.
    pub owner: ShardNumber,
    /// The transaction whose record tells of this id.
    pub recorded_under: TransactionId,
}

/// The record of a transaction, and what later ones did to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransactionRow {
    /// The record.
    pub status: PhaseStatus,
    /// Ascending by sequence.
    pub references: Vec<Reference>,
}

/// A later transaction that changed the fate of an earlier one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// The later one; `None` when a hold lapsed by itself.
    pub transaction_id: Option<TransactionId>,
    /// What it did.
    pub kind: ReferenceKind,
    /// Its position on this shard.
    pub sequence: Sequence,
    /// The time of it.
    pub timestamp: Timestamp,
}

/// What a later transaction did to an earlier one. Numbers are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ReferenceKind {
    /// It paid the hold out.
    HoldConfirmed = 1,
    /// It released the hold.
    HoldReleased = 2,
    /// It moved the money back.
    Reversed = 3,
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
