//! The rules of a shard, as a pure function over the rows that a batch of steps needs.
//!
//! Every shard that can load rows, run this and store rows in one local transaction obeys the same rules, because they are these. A shard
//! asks which rows a step needs ([`Book::missing`], again until nothing is missing: one row may lead to another), loads and locks them,
//! executes, and stores what changed ([`Book::take_changes`]).
//!
//! A balance has five parts, because a transaction over several shards is not over at once:
//!
//! ```text
//! first phase    available -= take    taken += take    incoming += what will be more in the end (room that nobody else may use)
//! second phase   taken -= take        available += give        unwritten -= every posting
//! its history    unwritten += every posting, one entry each: balance_after = available + taken + unwritten
//! ```
//!
//! **The first phase checks everything, so that the second can never be refused.** `available + held + taken + incoming` stays within
//! 64 bits, so neither giving nor returning can overflow. Money and history are separate, because what is done within a prepared XA
//! transaction is not true yet; entries add up all the same, since what others have in flight counts as not moved.

mod operate;
mod record;
mod rows;
mod rules;

use std::collections::BTreeSet;

use ledger::{AccountId, Currency, Metadata, Refusal, RefusalCode, Timestamp, TransactionId};

use crate::port::{Answer, Claim, Done, Entry, NoAnswer, PhaseStatus, Step};

use rows::Table;
pub use rows::{AccountState, Balances, BranchRow, Changed, Changes, Counter, Fate, HoldRow};

/// A row that a step needs. In this order they are locked.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// Whom an id belongs to.
    Claim(TransactionId),
    /// A phase status record.
    Record(TransactionId),
    /// A barrier.
    Branch(TransactionId),
    /// A hold that was placed here.
    Hold(TransactionId),
    /// What became of an earlier transaction.
    Fate(TransactionId),
    /// An account; never `@external`.
    Account(AccountId),
    /// A balance.
    Balance(AccountId, Currency),
    /// Every balance of an account.
    AllBalances(AccountId),
    /// The shard's last event.
    Counter,
}

/// Rows of one shard, as loaded and as changed since.
#[derive(Debug, Clone, Default)]
pub struct Book {
    claims: Table<TransactionId, Claim>,
    records: Table<TransactionId, PhaseStatus>,
    branches: Table<TransactionId, BranchRow>,
    holds: Table<TransactionId, HoldRow>,
    fates: Table<TransactionId, Fate>,
    accounts: Table<AccountId, AccountState>,
    balances: Table<(AccountId, Currency), Balances>,
    all_balances: BTreeSet<AccountId>,
    counter: Option<Counter>,
    counter_changed: bool,
    entries: Vec<(AccountId, Entry)>,
}

impl Book {
    /// A book without rows: what it needs must be loaded.
    pub fn new() -> Book {
        Book::default()
    }

    /// Which rows must be loaded before this step can be executed, in the order in which they are to be locked. Empty when none;
    /// otherwise to be asked again once they are loaded.
    pub fn missing(&self, step: &Step) -> BTreeSet<Key> {
        let mut needed = BTreeSet::new();
        match step {
            Step::OpenAccount { account_id, .. } => {
                needed.extend([Key::Account(account_id.clone()), Key::Counter]);
            }
            Step::Claim { transaction_id, .. } => {
                needed.insert(Key::Claim(*transaction_id));
            }
            Step::Branch { transaction_id, record, operation, .. } => {
                self.needed_by_record(*transaction_id, record, operation.as_ref(), &mut needed);
                if let Some(operation) = operation {
                    self.needed_by_operation(*transaction_id, operation, &mut needed);
                }
            }
        }
        needed.retain(|key| !self.knows(key));
        needed
    }

    /// As [`Book::missing`], for [`Book::expire_hold`].
    pub fn missing_to_expire(&self, hold_id: TransactionId) -> BTreeSet<Key> {
        let mut needed = BTreeSet::from([Key::Hold(hold_id), Key::Fate(hold_id), Key::Counter]);
        if let Some(hold) = self.holds.get(&hold_id) {
            needed.insert(Key::Balance(hold.terms.from.clone(), hold.terms.currency));
        }
        needed.retain(|key| !self.knows(key));
        needed
    }

    /// Executes one step, wholly or not at all, at the time of the shard.
    ///
    /// # Panics
    /// When a row is missing, or when money would leave its range although the first phase checked it.
    pub fn execute(&mut self, step: &Step, now: Timestamp) -> Result<Answer, NoAnswer> {
        assert!(self.missing(step).is_empty(), "every row that a step needs is loaded before it is executed");
        match step {
            Step::OpenAccount { account_id, metadata } => Ok(self.open(account_id, metadata, now)),
            Step::Claim { transaction_id, claim } => Ok(self.claim(*transaction_id, claim)),
            Step::Branch { transaction_id, record, operation, owner } => {
                self.execute_branch(*transaction_id, record, operation.as_ref(), *owner, now)
            }
        }
    }

    fn open(&mut self, account_id: &AccountId, metadata: &Metadata, now: Timestamp) -> Answer {
        if *account_id == AccountId::external() {
            return Answer::Refused(Refusal::new(RefusalCode::InvalidAccountId));
        }
        if let Some(account) = self.accounts.get(account_id) {
            let same = account.metadata == *metadata;
            return if same {
                Answer::Unchanged
            } else {
                Answer::Refused(Refusal::new(RefusalCode::AccountExists))
            };
        }
        let event = self.next_event(now);
        let account =
            AccountState { opened_at: event.timestamp, metadata: metadata.clone(), closed: false, pins: 0 };
        self.accounts.put(account_id.clone(), account);
        Answer::Done(Done { sequence: event.sequence, timestamp: event.timestamp, ..Done::default() })
    }

    fn claim(&mut self, transaction_id: TransactionId, claim: &Claim) -> Answer {
        match self.claims.get(&transaction_id) {
            Some(granted) if granted.fingerprint == claim.fingerprint => Answer::Claimed(*granted),
            Some(_) => Answer::ClaimedOtherwise,
            None => {
                self.claims.put(transaction_id, *claim);
                Answer::Claimed(*claim)
            }
        }
    }

    /// Takes the next position. Time never goes backwards within a shard, whatever its clock does.
    fn next_event(&mut self, now: Timestamp) -> Counter {
        let counter =
            self.counter.as_mut().expect("the counter is loaded for every step that writes an event");
        counter.sequence = counter.sequence.next();
        counter.timestamp = counter.timestamp.max(now);
        self.counter_changed = true;
        *counter
    }

    fn knows(&self, key: &Key) -> bool {
        match key {
            Key::Claim(id) => self.claims.knows(id),
            Key::Record(id) => self.records.knows(id),
            Key::Branch(id) => self.branches.knows(id),
            Key::Hold(id) => self.holds.knows(id),
            Key::Fate(id) => self.fates.knows(id),
            Key::Account(account) => self.accounts.knows(account),
            Key::Balance(account, currency) => {
                self.balances.knows(&(account.clone(), *currency)) || self.all_balances.contains(account)
            }
            Key::AllBalances(account) => self.all_balances.contains(account),
            Key::Counter => self.counter.is_some(),
        }
    }
}

/// Loading: a row as it is stored, or `None` where there is none.
impl Book {
    /// Loads [`Key::Claim`].
    pub fn load_claim(&mut self, transaction_id: TransactionId, claim: Option<Claim>) {
        self.claims.load(transaction_id, claim);
    }

    /// Loads [`Key::Record`].
    pub fn load_record(&mut self, transaction_id: TransactionId, record: Option<PhaseStatus>) {
        self.records.load(transaction_id, record);
    }

    /// Loads [`Key::Branch`].
    pub fn load_branch(&mut self, transaction_id: TransactionId, branch: Option<BranchRow>) {
        self.branches.load(transaction_id, branch);
    }

    /// Loads [`Key::Hold`].
    pub fn load_hold(&mut self, hold_id: TransactionId, hold: Option<HoldRow>) {
        self.holds.load(hold_id, hold);
    }

    /// Loads [`Key::Fate`].
    pub fn load_fate(&mut self, transaction_id: TransactionId, fate: Option<Fate>) {
        self.fates.load(transaction_id, fate);
    }

    /// Loads [`Key::Account`].
    pub fn load_account(&mut self, account: AccountId, state: Option<AccountState>) {
        self.accounts.load(account, state);
    }

    /// Loads [`Key::Balance`].
    pub fn load_balance(&mut self, account: AccountId, currency: Currency, balances: Option<Balances>) {
        self.balances.load((account, currency), balances);
    }

    /// Loads [`Key::AllBalances`]. Those that were loaded or changed before stay as they are.
    pub fn load_all_balances(&mut self, account: AccountId, all: Vec<(Currency, Balances)>) {
        for (currency, balances) in all {
            self.balances.load((account.clone(), currency), Some(balances));
        }
        self.all_balances.insert(account);
    }

    /// Loads [`Key::Counter`]. The default is before the first event.
    pub fn load_counter(&mut self, counter: Counter) {
        self.counter.get_or_insert(counter);
    }

    /// What changed since the rows were loaded, or since the last call: to be stored in the same local transaction.
    pub fn take_changes(&mut self) -> Changes {
        let counter = self.counter.filter(|_| std::mem::take(&mut self.counter_changed));
        Changes {
            claims: self.claims.take_changes(),
            records: self.records.take_changes(),
            branches: self.branches.take_changes(),
            holds: self.holds.take_changes(),
            fates: self.fates.take_changes(),
            accounts: self.accounts.take_changes(),
            balances: self.balances.take_changes(),
            counter,
            entries: std::mem::take(&mut self.entries),
        }
    }
}

impl Book {
    fn row(&self, account: &AccountId, currency: Currency) -> Balances {
        self.balances.get(&(account.clone(), currency)).copied().unwrap_or_default()
    }

    /// Changes one balance; all arithmetic on it is checked.
    fn change_row(
        &mut self,
        account: &AccountId,
        currency: Currency,
        change: impl FnOnce(&mut Balances),
    ) -> Balances {
        let mut row = self.row(account, currency);
        change(&mut row);
        self.balances.put((account.clone(), currency), row);
        row
    }
}
