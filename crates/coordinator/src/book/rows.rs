//! What a shard stores.

use std::collections::BTreeMap;

use ledger::{AccountId, Currency, Metadata, Refusal, Sequence, Timestamp, TransactionId};

use crate::port::{
    BalanceAfter, Branch, BranchState, Claim, Entry, HoldTerms, PhaseStatus, Reference, ShardNumber,
};

/// An account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountState {
    /// When it was opened.
    pub opened_at: Timestamp,
    /// Its owner's notes.
    pub metadata: Metadata,
    /// True once it is closed, or being closed.
    pub closed: bool,
    /// How many branches have checked it without moving money, and rely on its staying open.
    pub pins: u32,
}

/// What an account has in one currency, in minor units. [`super`] tells how the parts move.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Balances {
    /// What can be spent.
    pub available: i64,
    /// What pending holds have set aside.
    pub held: i64,
    /// What transactions in flight have taken: it goes to others, or comes back.
    pub taken: i64,
    /// What transactions in flight will bring at most: room that is kept for it.
    pub incoming: i64,
    /// What committed XA transactions moved and no entry tells yet: what the entries will say, with the sign turned.
    pub unwritten: i64,
}

/// The barrier of a branch, and what answers its repeats.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BranchRow {
    /// The shard of the record.
    pub owner: ShardNumber,
    /// How far it is.
    pub state: BranchState,
    /// What is done; `None` once nothing more will be done.
    pub branch: Option<Branch>,
    /// When the row was made.
    pub started_at: Timestamp,
    /// The position of its last event; 0 without.
    pub sequence: Sequence,
    /// The time of it.
    pub timestamp: Timestamp,
    /// What each posting left behind.
    pub balances: Vec<BalanceAfter>,
    /// Why the first phase was refused.
    pub refusal: Option<Refusal>,
}

/// A hold, where it was placed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HoldRow {
    /// What was agreed.
    pub terms: HoldTerms,
    /// When it lapses; `None` is never.
    pub expires_at: Option<Timestamp>,
    /// False once it is settled, or has lapsed.
    pub pending: bool,
}

/// What later transactions do to an earlier one: to a hold, or to money that moved. Each can happen once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Fate {
    /// The transaction in flight that settles or reverses it.
    pub locked_by: Option<TransactionId>,
    /// What settled or reversed it.
    pub reference: Option<Reference>,
}

/// The position of the shard's last event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counter {
    /// 1, 2, 3, … without gaps; 0 before the first.
    pub sequence: Sequence,
    /// Never earlier than the one before.
    pub timestamp: Timestamp,
}

/// A row to be stored. Rows are never removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changed<K, R> {
    /// Its key.
    pub key: K,
    /// The row as it must be stored.
    pub row: R,
    /// True when there was none: it must be inserted, and a row that another inserted meanwhile means that the batch is executed again.
    pub is_new: bool,
}

/// Everything that a batch changed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[expect(missing_docs, reason = "named as the rows are")]
pub struct Changes {
    pub claims: Vec<Changed<TransactionId, Claim>>,
    pub records: Vec<Changed<TransactionId, PhaseStatus>>,
    pub branches: Vec<Changed<TransactionId, BranchRow>>,
    pub holds: Vec<Changed<TransactionId, HoldRow>>,
    pub fates: Vec<Changed<TransactionId, Fate>>,
    pub accounts: Vec<Changed<AccountId, AccountState>>,
    pub balances: Vec<Changed<(AccountId, Currency), Balances>>,
    pub counter: Option<Counter>,
    /// New entries of histories, ascending by sequence.
    pub entries: Vec<(AccountId, Entry)>,
}

/// A row as it was loaded and is now.
#[derive(Debug, Clone)]
struct Slot<R> {
    row: Option<R>,
    is_stored: bool,
    is_changed: bool,
}

/// Rows by key, in an order that never depends on a hash.
#[derive(Debug, Clone)]
pub(super) struct Table<K, R>(BTreeMap<K, Slot<R>>);

impl<K, R> Default for Table<K, R> {
    fn default() -> Self {
        Table(BTreeMap::new())
    }
}

impl<K: Ord + Clone, R: Clone> Table<K, R> {
    pub(super) fn get(&self, key: &K) -> Option<&R> {
        self.0.get(key)?.row.as_ref()
    }

    pub(super) fn knows(&self, key: &K) -> bool {
        self.0.contains_key(key)
    }

    /// A row that is known already stays: it may have been changed since.
    pub(super) fn load(&mut self, key: K, row: Option<R>) {
        self.0.entry(key).or_insert_with(|| Slot { is_stored: row.is_some(), row, is_changed: false });
    }

    pub(super) fn put(&mut self, key: K, row: R) {
        let slot = self.0.entry(key).or_insert(Slot { row: None, is_stored: false, is_changed: false });
        slot.row = Some(row);
        slot.is_changed = true;
    }

    pub(super) fn change<T>(&mut self, key: &K, change: impl FnOnce(&mut R) -> T) -> T {
        let slot = self.0.get_mut(key).expect("a row that is changed was found before");
        slot.is_changed = true;
        change(slot.row.as_mut().expect("a row that is changed was found before"))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&K, &R)> {
        self.0.iter().filter_map(|(key, slot)| Some((key, slot.row.as_ref()?)))
    }

    pub(super) fn take_changes(&mut self) -> Vec<Changed<K, R>> {
        let mut changed = Vec::new();
        for (key, slot) in self.0.iter_mut().filter(|(_, slot)| slot.is_changed) {
            let row = slot.row.clone().expect("rows are never removed");
            changed.push(Changed { key: key.clone(), row, is_new: !slot.is_stored });
            slot.is_stored = true;
            slot.is_changed = false;
        }
        changed
    }
}
