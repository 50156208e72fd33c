//! A shard made of [`Book`] alone: rows in maps, loaded, executed and stored as a database does it, with prepared transactions that keep
//! their rows locked.

use std::collections::{BTreeMap, BTreeSet};

use ledger::{AccountId, Balance, Currency, Timestamp, TransactionId};

use super::{AccountSeen, World};
use crate::book::{AccountState, Balances, Book, BranchRow, Changed, Changes, Counter, Fate, HoldRow, Key};
use crate::port::{
    Answer, BranchState, Claim, Done, Entry, NoAnswer, Operation, PhaseStatus, RecordChange, ShardNumber,
    Step,
};

/// A bug that is put in on purpose: the suite must find it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutant {
    /// A first phase is done again although it was done.
    FirstPhaseWithoutBarrier,
    /// A cancel before its try leaves no trace.
    CancelForgotten,
    /// What was returned leaves no trace.
    ReturnForgotten,
    /// A refused first phase leaves no trace.
    RefusalForgotten,
    /// The second phase begins without a recorded decision.
    DecisionForgotten,
    /// The first phase takes what is not there.
    TakeWithoutCheck,
    /// The first phase takes nothing.
    TakeNothing,
    /// What is given is not what was taken.
    GiveTwice,
    /// A repeat is answered otherwise than the first time.
    AnswerForgotten,
    /// No room is kept for what a payee will be given.
    RoomForgotten,
    /// What is settled by one transaction is not locked against others.
    LockForgotten,
    /// The record is written apart from the first leg, and lost.
    RecordApart,
    /// An entry is lost.
    EntryForgotten,
    /// Commit of what is prepared says done, and does nothing.
    CommitForgotten,
}

impl Mutant {
    /// Every one.
    pub const ALL: [Mutant; 14] = [
        Mutant::FirstPhaseWithoutBarrier,
        Mutant::CancelForgotten,
        Mutant::ReturnForgotten,
        Mutant::RefusalForgotten,
        Mutant::DecisionForgotten,
        Mutant::TakeWithoutCheck,
        Mutant::TakeNothing,
        Mutant::GiveTwice,
        Mutant::AnswerForgotten,
        Mutant::RoomForgotten,
        Mutant::LockForgotten,
        Mutant::RecordApart,
        Mutant::EntryForgotten,
        Mutant::CommitForgotten,
    ];
}

/// What the first phase believes to be there besides, when it takes without a check.
const CONJURED: i64 = 1 << 40;

/// One shard.
#[derive(Debug, Default)]
struct Shard {
    claims: BTreeMap<TransactionId, Claim>,
    records: BTreeMap<TransactionId, PhaseStatus>,
    branches: BTreeMap<TransactionId, BranchRow>,
    holds: BTreeMap<TransactionId, HoldRow>,
    fates: BTreeMap<TransactionId, Fate>,
    accounts: BTreeMap<AccountId, AccountState>,
    balances: BTreeMap<AccountId, BTreeMap<Currency, Balances>>,
    totals: BTreeMap<Currency, (i128, i128)>,
    counter: Counter,
    entries: BTreeMap<AccountId, Vec<Entry>>,
    /// Branches with a first phase and no second.
    open: BTreeSet<TransactionId>,
    prepared: BTreeMap<TransactionId, (Changes, BTreeSet<Key>)>,
    mutant: Option<Mutant>,
}

/// Shards in memory.
#[derive(Debug)]
pub struct Memory {
    shards: Vec<Shard>,
    now: i64,
}

impl Memory {
    /// Empty shards, all with the same bug, if any.
    pub fn new(count: u32, mutant: Option<Mutant>) -> Memory {
        Memory { shards: (0..count).map(|_| Shard { mutant, ..Shard::default() }).collect(), now: 1_000_000 }
    }

    fn shard(&mut self, shard: ShardNumber) -> &mut Shard {
        &mut self.shards[shard.0 as usize]
    }
}

impl World for Memory {
    fn shard_count(&self) -> u32 {
        self.shards.len() as u32
    }

    fn execute(&mut self, shard: ShardNumber, step: &Step) -> Result<Answer, NoAnswer> {
        self.now += 1;
        let now = Timestamp::from_micros(self.now);
        self.shard(shard).execute(step, now)
    }

    fn record(&mut self, shard: ShardNumber, transaction_id: TransactionId) -> Option<PhaseStatus> {
        self.shard(shard).records.get(&transaction_id).cloned()
    }

    fn account(&mut self, shard: ShardNumber, account: &AccountId) -> Option<AccountSeen> {
        let shard = self.shard(shard);
        let is_external = *account == AccountId::external();
        let closed = shard.accounts.get(account).map(|state| state.closed).or(is_external.then_some(false))?;
        let rows = shard.balances.get(account).into_iter().flatten();
        let balances = rows
            .map(|(currency, row)| (*currency, Balance { available: row.available, held: row.held }))
            .collect();
        Some(AccountSeen { closed, balances })
    }

    fn history(&mut self, shard: ShardNumber, account: &AccountId) -> Vec<Entry> {
        self.shard(shard).entries.get(account).cloned().unwrap_or_default()
    }

    fn totals(&mut self, shard: ShardNumber) -> Vec<(Currency, i128, i128)> {
        let totals = self.shard(shard).totals.iter();
        totals.map(|(currency, (sum, taken))| (*currency, *sum, *taken)).collect()
    }

    fn open_branches(&mut self, shard: ShardNumber) -> usize {
        let shard = self.shard(shard);
        shard.open.len() + shard.prepared.len()
    }

    fn expire_holds(&mut self, shard: ShardNumber) {
        self.now += 1;
        let now = Timestamp::from_micros(self.now);
        let shard = self.shard(shard);
        let pending = shard
            .holds
            .iter()
            .filter(|(_, hold)| hold.pending && hold.expires_at.is_some_and(|expires_at| expires_at <= now));
        let holds: Vec<TransactionId> = pending.map(|(hold_id, _)| *hold_id).collect();
        for hold_id in holds {
            let mut book = Book::new();
            while let missing = book.missing_to_expire(hold_id)
                && !missing.is_empty()
            {
                missing.iter().for_each(|key| shard.load(&mut book, key));
            }
            book.expire_hold(hold_id, now);
            shard.store(book.take_changes());
        }
    }
}

impl Shard {
    fn execute(&mut self, step: &Step, now: Timestamp) -> Result<Answer, NoAnswer> {
        let mut step = step.clone();
        if let Step::Branch { record, .. } = &mut step {
            self.forget_records(record);
        }
        let Step::Branch { transaction_id, operation, .. } = &step else {
            let (answer, changes, _) = self.run(&step, now)?;
            self.store(changes);
            return Ok(answer);
        };
        match operation {
            Some(Operation::Prepare(_)) => {
                if let Some((changes, _)) = self.prepared.get(transaction_id) {
                    return Ok(prepared_answer(changes));
                }
                let (answer, changes, keys) = self.run(&step, now)?;
                let is_new = matches!(&answer, Answer::Done(_)) && !changes.branches.is_empty();
                if is_new {
                    self.prepared.insert(*transaction_id, (changes, keys));
                } else {
                    self.store(changes);
                }
                return Ok(answer);
            }
            Some(Operation::Commit) => {
                if let Some((mut changes, _)) = self.prepared.remove(transaction_id) {
                    if self.mutant == Some(Mutant::CommitForgotten) {
                        changes.balances.clear();
                    }
                    self.store(changes);
                }
            }
            Some(Operation::Rollback) => {
                self.prepared.remove(transaction_id);
            }
            _ => {}
        }
        let (answer, changes, _) = self.run(&step, now)?;
        self.store(self.with_bug(&step, changes));
        Ok(answer)
    }

    fn run(&self, step: &Step, now: Timestamp) -> Result<(Answer, Changes, BTreeSet<Key>), NoAnswer> {
        let mut book = Book::new();
        let mut keys = BTreeSet::new();
        while let missing = book.missing(step)
            && !missing.is_empty()
        {
            for key in &missing {
                if self.prepared.values().any(|(_, locked)| locked.contains(key)) {
                    return Err(NoAnswer::Busy(format!("{key:?} is locked by a prepared transaction")));
                }
                self.load_for(step, &mut book, key);
            }
            keys.extend(missing);
        }
        let answer = book.execute(step, now)?;
        Ok((answer, book.take_changes(), keys))
    }

    fn load_for(&self, step: &Step, book: &mut Book, key: &Key) {
        let operation = match step {
            Step::Branch { operation, .. } => operation.as_ref(),
            _ => None,
        };
        let is_first =
            matches!(operation, Some(Operation::Take(_) | Operation::Apply(_) | Operation::Prepare(_)));
        match (self.mutant, key) {
            (Some(Mutant::FirstPhaseWithoutBarrier), Key::Branch(id)) if is_first => {
                book.load_branch(*id, None)
            }
            (Some(Mutant::TakeWithoutCheck), Key::Balance(account, currency))
                if matches!(operation, Some(Operation::Take(_))) =>
            {
                let mut row = self.balance(account, *currency).unwrap_or_default();
                row.available += CONJURED;
                book.load_balance(account.clone(), *currency, Some(row));
            }
            _ => self.load(book, key),
        }
    }

    fn load(&self, book: &mut Book, key: &Key) {
        match key {
            Key::Claim(id) => book.load_claim(*id, self.claims.get(id).copied()),
            Key::Record(id) => book.load_record(*id, self.records.get(id).cloned()),
            Key::Branch(id) => book.load_branch(*id, self.branches.get(id).cloned()),
            Key::Hold(id) => book.load_hold(*id, self.holds.get(id).cloned()),
            Key::Fate(id) => book.load_fate(*id, self.fates.get(id).copied()),
            Key::Account(account) => book.load_account(account.clone(), self.accounts.get(account).cloned()),
            Key::Balance(account, currency) => {
                let row = self.balance(account, *currency);
                book.load_balance(account.clone(), *currency, row);
            }
            Key::AllBalances(account) => {
                let rows = self.balances.get(account).into_iter().flatten();
                book.load_all_balances(
                    account.clone(),
                    rows.map(|(currency, row)| (*currency, *row)).collect(),
                );
            }
            Key::Counter => book.load_counter(self.counter),
        }
    }

    fn store(&mut self, changes: Changes) {
        store(&mut self.claims, changes.claims);
        store(&mut self.records, changes.records);
        for changed in &changes.branches {
            match changed.row.state {
                BranchState::Taken | BranchState::Committed => self.open.insert(changed.key),
                _ => self.open.remove(&changed.key),
            };
        }
        store(&mut self.branches, changes.branches);
        store(&mut self.holds, changes.holds);
        store(&mut self.fates, changes.fates);
        store(&mut self.accounts, changes.accounts);
        for Changed { key: (account, currency), row, is_new } in changes.balances {
            let before = self.balances.entry(account).or_default().insert(currency, row);
            assert_eq!(before.is_none(), is_new, "a row that is new was not there, and others were");
            let before = before.unwrap_or_default();
            let (sum, taken) = self.totals.entry(currency).or_default();
            *sum += i128::from(row.available) + i128::from(row.held);
            *sum -= i128::from(before.available) + i128::from(before.held);
            *taken += i128::from(row.taken) - i128::from(before.taken);
        }
        self.counter = changes.counter.unwrap_or(self.counter);
        for (account, entry) in changes.entries {
            self.entries.entry(account).or_default().push(entry);
        }
    }

    fn balance(&self, account: &AccountId, currency: Currency) -> Option<Balances> {
        self.balances.get(account)?.get(&currency).copied()
    }

    fn forget_records(&self, record: &mut Vec<RecordChange>) {
        match self.mutant {
            Some(Mutant::DecisionForgotten) => {
                record.retain(|change| !matches!(change, RecordChange::Decide { .. }));
            }
            Some(Mutant::RecordApart) => record.retain(|change| !matches!(change, RecordChange::Begin(_))),
            _ => {}
        }
    }

    fn with_bug(&self, step: &Step, mut changes: Changes) -> Changes {
        let operation = match step {
            Step::Branch { operation, .. } => operation.as_ref(),
            _ => None,
        };
        let states = |changes: &mut Changes, forgotten: BranchState| {
            changes.branches.retain(|changed| changed.row.state != forgotten);
        };
        match (self.mutant, operation) {
            (Some(Mutant::FirstPhaseWithoutBarrier), _) => {
                for changed in &mut changes.branches {
                    changed.is_new = !self.branches.contains_key(&changed.key);
                }
            }
            (Some(Mutant::CancelForgotten), _) => states(&mut changes, BranchState::CancelledBeforeTry),
            (Some(Mutant::RefusalForgotten), _) => states(&mut changes, BranchState::Refused),
            (Some(Mutant::ReturnForgotten), _) => states(&mut changes, BranchState::Returned),
            (Some(Mutant::TakeWithoutCheck), Some(Operation::Take(_))) => {
                changes.balances.iter_mut().for_each(|changed| changed.row.available -= CONJURED);
            }
            (Some(Mutant::TakeNothing), Some(Operation::Take(_))) => {
                for changed in &mut changes.balances {
                    changed.row.available += changed.row.taken;
                }
            }
            (Some(Mutant::GiveTwice), Some(Operation::Give)) => {
                for changed in &mut changes.balances {
                    let before = self.balance(&changed.key.0, changed.key.1).unwrap_or_default();
                    changed.row.available += changed.row.available - before.available;
                }
            }
            (Some(Mutant::AnswerForgotten), _) => {
                changes.branches.iter_mut().for_each(|changed| changed.row.balances.clear());
            }
            (Some(Mutant::RoomForgotten), _) => {
                changes.balances.iter_mut().for_each(|changed| changed.row.incoming = 0);
            }
            (Some(Mutant::LockForgotten), _) => {
                changes.fates.iter_mut().for_each(|changed| changed.row.locked_by = None);
            }
            (Some(Mutant::EntryForgotten), _) => {
                changes.entries.pop();
            }
            _ => {}
        }
        changes
    }
}

fn store<K: Ord, R>(rows: &mut BTreeMap<K, R>, changes: Vec<Changed<K, R>>) {
    for Changed { key, row, is_new } in changes {
        let before = rows.insert(key, row);
        assert_eq!(before.is_none(), is_new, "a row that is new was not there, and others were");
    }
}

fn prepared_answer(changes: &Changes) -> Answer {
    let row = &changes.branches.first().expect("what is prepared has a barrier").row;
    Answer::Done(Done { state: Some(row.state), balances: row.balances.clone(), ..Done::default() })
}
