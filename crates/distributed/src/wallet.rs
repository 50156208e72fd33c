//! What a server needs of a wallet that stands on shards in other systems, whichever protocol holds them together.
//!
//! The event-sourced [`shards::partition`] is not behind this trait: its way is free of futures and of dynamic calls. What both answer has
//! the same shapes, so that every interface is written once. Records carry account numbers; a wallet over several shards has none that
//! last, so each of its answers brings the [`AccountNames`] of its own.

use coordinator::port::PhaseStatus;
use ledger::{
    AccountId, AccountNumber, AccountRef, Command, Currency, Record, Refusal, Sequence, Transaction,
    TransactionId, Transfer,
};

use crate::{AccountRow, Entry, HistoryRange, Metrics, ShardTotals};
use shards::partition::TransferAnswer;

/// A wallet over shards. Answers are durable on the shards that they tell of, and queries see everything that was answered before.
#[async_trait::async_trait]
pub trait Wallet: Send + Sync + 'static {
    /// How many shards there are, numbered from 0.
    fn shards(&self) -> u32;

    /// Executes transfers, each on its own: one answer each, in order. The answer's partition is the payer's shard, or for a deposit the
    /// payee's.
    async fn transfers(&self, transfers: Vec<Transfer>) -> Vec<TransferResult>;

    /// Executes any command but a plain transfer.
    async fn command(&self, command: Command) -> Result<Located<CommandAnswer>, NotAnswered>;

    /// An account as it stands. `@external` is on every shard: its balances are the sums, its position is that of shard 0.
    async fn account(&self, account: &AccountId) -> Result<Option<Located<AccountRow>>, NotAnswered>;

    /// What happened to an account, newest first; `None` when there is no such account.
    async fn history(
        &self,
        account: &AccountId,
        range: &HistoryRange,
    ) -> Result<Option<Located<HistoryPage>>, NotAnswered>;

    /// What became of a transaction, or how far it is.
    async fn transaction(
        &self,
        transaction_id: TransactionId,
    ) -> Result<Option<Located<TransactionAnswer>>, NotAnswered>;

    /// The sums of every shard, ascending by number. Shards are read one after the other: while money moves, the sums are not of one
    /// moment.
    async fn totals(&self) -> Result<Vec<Located<ShardTotals>>, NotAnswered>;

    /// Transactions that are not finished, oldest first.
    async fn in_flight(&self, limit: usize) -> Result<Vec<Located<PhaseStatus>>, NotAnswered>;

    /// Drives a transaction on at once, without waiting for a lease or a pause to end.
    async fn retry(&self, transaction_id: TransactionId) -> Result<Intervention, NotAnswered>;

    /// Decides that a transaction is undone, where that is not decided yet.
    async fn cancel(&self, transaction_id: TransactionId) -> Result<Intervention, NotAnswered>;

    /// Whether every shard can be reached now; else why not.
    async fn ready(&self) -> Result<(), NotAnswered>;

    /// What this instance has done and is doing.
    fn metrics(&self) -> &Metrics;

    /// Takes no more work, answers what was accepted, and gives its leases back.
    async fn shut_down(&self);
}

/// What becomes of one transfer.
pub type TransferResult = Result<Located<TransferAnswer>, NotAnswered>;

/// Something with the shard or partition that its positions are in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Located<Value> {
    /// The number of the shard.
    pub partition: u32,
    /// What is there.
    pub value: Value,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotAnswered {
    /// Too much is waiting; nothing was executed.
    #[error("too many transactions are under way; repeat with the same id")]
    Overloaded,
    /// It may have been executed, or will be: whoever wants to know repeats with the same id.
    #[error("{0}; repeat with the same id")]
    Unavailable(String),
    /// This architecture cannot do this; nothing was executed, and a repeat is answered the same.
    #[error("{0}")]
    NotSupported(String),
}

/// What became of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CommandAnswer {
    /// These events happened, now or, when `replayed`, the first time. Never empty; a recorded refusal is an event too.
    Executed {
        /// The command's own events, ascending; of a group its legs and then [`ledger::Event::GroupCommitted`].
        records: Vec<Record>,
        /// Whose numbers they use.
        names: AccountNames,
        /// True when the id had been executed before, and this is the first answer again.
        replayed: bool,
    },
    /// An account was opened, or had been, with the same metadata.
    Opened {
        /// The account as it stands.
        account: AccountRow,
        /// True when it was there before.
        existed: bool,
    },
    /// Nothing happened and nothing is remembered.
    Rejected(Refusal),
}

/// What a transaction_id is known for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TransactionAnswer {
    /// Its outcome, and what later ones did to it.
    Finished {
        /// The command with its events.
        transaction: Transaction,
        /// Whose numbers they use.
        names: AccountNames,
    },
    /// It is under way.
    InFlight(Box<PhaseStatus>),
}

/// Entries of a history, newest first.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HistoryPage {
    /// At most as many as asked for.
    pub entries: Vec<Entry>,
    /// The `before` that asks for the next page; `None` at the end.
    pub next: Option<Sequence>,
    /// The shard's last event when it was read.
    pub position: Sequence,
}

/// What became of an operator's wish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Intervention {
    /// It is being done; the transaction stands like this.
    Begun(Located<Box<PhaseStatus>>),
    /// The transaction is finished: there is nothing to do.
    Finished,
    /// No transaction has this id.
    Unknown,
    /// The protocol does not allow it any more, and why.
    TooLate(String),
}

/// The names that the account numbers of one answer stand for. [`AccountNumber::EXTERNAL`] is always `@external`; the others mean nothing
/// beyond the answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountNames {
    names: Vec<AccountId>,
}

impl Default for AccountNames {
    fn default() -> AccountNames {
        AccountNames { names: vec![AccountId::external()] }
    }
}

impl AccountNames {
    /// The number that stands for an account, the same each time.
    pub fn number(&mut self, account: &AccountId) -> AccountNumber {
        let known = self.names.iter().position(|name| name == account);
        let index = known.unwrap_or_else(|| {
            self.names.push(account.clone());
            self.names.len() - 1
        });
        AccountNumber(u32::try_from(index).expect("an answer names a few hundred accounts at most"))
    }

    /// The account that a number stands for.
    pub fn name(&self, account: AccountNumber) -> Option<&AccountId> {
        self.names.get(account.index())
    }
}

/// The account that a command names. Only `@external` may be named by its number here.
pub fn account_id(account: &AccountRef) -> Result<AccountId, NotAnswered> {
    match account {
        AccountRef::Named(name) => Ok(name.clone()),
        AccountRef::Number(AccountNumber::EXTERNAL) => Ok(AccountId::external()),
        AccountRef::Number(AccountNumber(number)) => {
            let why =
                format!("a wallet over shards knows no handles, the handle is {number}: use the account_id");
            Err(NotAnswered::NotSupported(why))
        }
    }
}

/// The money of one currency over all shards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CurrencyTotal {
    /// The currency.
    pub currency: Currency,
    /// All balances, `@external`'s too.
    pub sum: i128,
    /// What was taken and is neither given nor returned yet.
    pub in_flight: i128,
}

impl CurrencyTotal {
    /// What was lost (negative) or made from nothing: 0 in a wallet where every transaction is wholly done, wholly undone, or in flight.
    pub fn difference(&self) -> i128 {
        self.sum + self.in_flight
    }
}

/// Adds the shards up, ascending by numeric code of the currency.
pub fn currency_totals(shards: &[Located<ShardTotals>]) -> Vec<CurrencyTotal> {
    let mut totals: Vec<CurrencyTotal> = Vec::new();
    for (currency, sum, in_flight) in shards.iter().flat_map(|shard| &shard.value.currencies) {
        match totals.iter_mut().find(|total| total.currency == *currency) {
            Some(total) => {
                total.sum += sum;
                total.in_flight += in_flight;
            }
            None => totals.push(CurrencyTotal { currency: *currency, sum: *sum, in_flight: *in_flight }),
        }
    }
    totals.sort_by_key(|total| total.currency.numeric());
    totals
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_keeps_its_number_within_an_answer() {
        let mut names = AccountNames::default();
        let alice = AccountId::parse("alice").expect("an id");
        assert_eq!(names.number(&AccountId::external()), AccountNumber::EXTERNAL);
        assert_eq!(names.number(&alice), names.number(&alice));
        let number = names.number(&alice);
        assert_eq!(names.name(number), Some(&alice));
        assert_eq!(names.name(AccountNumber(7)), None);
    }

    #[test]
    fn only_the_outside_may_be_named_by_number() {
        assert_eq!(account_id(&AccountNumber::EXTERNAL.into()), Ok(AccountId::external()));
        assert!(matches!(account_id(&AccountNumber(7).into()), Err(NotAnswered::NotSupported(_))));
    }

    #[test]
    fn shards_add_up_to_what_is_missing() {
        let (usd, jpy) = ["USD", "JPY"].map(|code| Currency::parse(code).expect("a currency")).into();
        let shard = |partition, currencies| Located {
            partition,
            value: ShardTotals { sequence: Sequence(1), accounts: 1, currencies },
        };
        let shards = [shard(0, vec![(usd, -700, 200)]), shard(1, vec![(jpy, 0, 0), (usd, 400, 0)])];
        let totals = currency_totals(&shards);
        assert_eq!(totals.iter().map(|total| total.currency).collect::<Vec<_>>(), [jpy, usd]);
        assert_eq!((totals[0].difference(), totals[1].difference()), (0, -100));
    }
}
