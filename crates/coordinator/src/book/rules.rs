//! The rules of money on one shard.

use ledger::{AccountId, Party, Refusal, RefusalCode, Sequence, Timestamp, TransactionId};

use super::{Balances, Book, Counter, Fate, HoldRow};
use crate::plan::first_of;
use crate::port::{
    BalanceAfter, Branch, Change, Entry, EntryKind, HoldTerms, Posting, Reference, ReferenceKind, Task,
};

/// Why a first phase is not done.
pub(super) enum Objection {
    /// By the rules; remembered.
    Refused(Refusal),
    /// It rests on what another transaction has not settled yet: asked again soon, when it is.
    Busy(String),
}

impl From<Refusal> for Objection {
    fn from(refusal: Refusal) -> Objection {
        Objection::Refused(refusal)
    }
}

/// The first phase.
impl Book {
    /// Everything that could stand against the branch, in the second phase too. Of several refusals the first in the ledger's order.
    pub(super) fn check(
        &self,
        transaction_id: TransactionId,
        branch: &Branch,
        now: Timestamp,
    ) -> Result<(), Objection> {
        let mut found: Option<Refusal> = None;
        let mut note = |refusal: Refusal| {
            found = Some(found.map_or(refusal, |earlier| first_of(earlier, refusal)));
        };
        if let Some(task) = &branch.task {
            match self.check_task(task, now) {
                Ok(()) => {}
                Err(Objection::Refused(refusal)) => note(refusal),
                Err(busy) => return Err(busy),
            }
        }
        for change in &branch.changes {
            if let Err(refusal) = self.check_change(transaction_id, change) {
                note(refusal);
            }
        }
        found.map_or(Ok(()), |refusal| Err(refusal.into()))
    }

    fn check_change(&self, transaction_id: TransactionId, change: &Change) -> Result<(), Refusal> {
        let Some(first) = change.postings.first() else {
            return self.check_open(&change.account, Party::To);
        };
        let of_leg = |posting: &Posting, refusal| Refusal {
            leg: (posting.transaction_id != transaction_id).then_some(posting.leg),
            ..refusal
        };
        self.check_open(&change.account, party(first)).map_err(|refusal| of_leg(first, refusal))?;
        let row = self.row(&change.account, change.currency);
        let is_external = change.account == AccountId::external();
        let others = i128::from(row.held) + i128::from(row.taken) + i128::from(row.incoming);
        let mut running = i128::from(row.available);
        for posting in &change.postings {
            let after = running + i128::from(posting.amount);
            if posting.amount < 0 && after < 0 && !is_external {
                let available =
                    i64::try_from(running).expect("it began with a stored balance and stayed in range");
                let refusal = Refusal::of(RefusalCode::InsufficientFunds, Party::From);
                return Err(of_leg(posting, Refusal { available, ..refusal }));
            }
            let too_large = posting.amount > 0 && (!fits(after) || !fits(after + others));
            if too_large || !fits(after) {
                return Err(of_leg(posting, Refusal::of(RefusalCode::BalanceOverflow, party(posting))));
            }
            running = after;
        }
        let last = change.postings.last().unwrap_or(first);
        if !Self::parts_fit(&row, change) {
            return Err(of_leg(last, Refusal::of(RefusalCode::BalanceOverflow, party(last))));
        }
        Ok(())
    }

    /// `@external` may go below zero, so that its parts alone could leave the range while their sum does not.
    fn parts_fit(row: &Balances, change: &Change) -> bool {
        let moved: i128 = change.postings.iter().map(|posting| i128::from(posting.amount).abs()).sum();
        fits(i128::from(row.taken) + i128::from(change.take()))
            && fits(i128::from(row.incoming) + i128::from(room(change)))
            && fits(i128::from(row.unwritten).abs() + moved)
            && fits(moved)
    }

    fn check_open(&self, account: &AccountId, party: Party) -> Result<(), Refusal> {
        if *account == AccountId::external() {
            return Ok(());
        }
        match self.accounts.get(account) {
            None => Err(Refusal::of(RefusalCode::AccountNotFound, party)),
            Some(state) if state.closed => Err(Refusal::of(RefusalCode::AccountClosed, party)),
            Some(_) => Ok(()),
        }
    }

    fn check_task(&self, task: &Task, now: Timestamp) -> Result<(), Objection> {
        match task {
            Task::CloseAccount { account_id } => self.check_close(account_id),
            Task::PlaceHold(terms) => {
                self.check_open(&terms.from, Party::From)?;
                let row = self.row(&terms.from, terms.currency);
                if row.available < terms.amount.signed() {
                    let refusal = Refusal::of(RefusalCode::InsufficientFunds, Party::From);
                    return Err(Refusal { available: row.available, ..refusal }.into());
                }
                Ok(())
            }
            Task::SettleHold { hold, confirm } => {
                self.check_unlocked(hold.hold_id)?;
                let Some(row) = self.holds.get(&hold.hold_id) else {
                    return Err(Refusal::new(RefusalCode::TransactionNotFound).into());
                };
                if !row.pending {
                    let reference = self.fates.get(&hold.hold_id).and_then(|fate| fate.reference);
                    let lapsed = reference.is_some_and(|reference| reference.transaction_id.is_none());
                    let code = if lapsed { RefusalCode::HoldExpired } else { RefusalCode::HoldNotPending };
                    return Err(Refusal::new(code).into());
                }
                if row.expires_at.is_some_and(|expires_at| expires_at <= now) {
                    return Err(Refusal::new(RefusalCode::HoldExpired).into());
                }
                if confirm.is_some_and(|amount| amount > row.terms.amount) {
                    let available = row.terms.amount.signed();
                    return Err(Refusal { available, ..Refusal::new(RefusalCode::AmountExceedsHold) }.into());
                }
                Ok(())
            }
            Task::MarkReversed { original_id } => {
                self.check_unlocked(*original_id)?;
                match self.fates.get(original_id).and_then(|fate| fate.reference) {
                    Some(_) => Err(Refusal::new(RefusalCode::AlreadyReversed).into()),
                    None => Ok(()),
                }
            }
        }
    }

    fn check_unlocked(&self, transaction_id: TransactionId) -> Result<(), Objection> {
        match self.fates.get(&transaction_id).and_then(|fate| fate.locked_by) {
            Some(other) => Err(Objection::Busy(format!("{transaction_id} is being settled by {other}"))),
            None => Ok(()),
        }
    }

    /// Money that is there is a refusal. Money that may come, or come back, is not an answer yet: a refusal is remembered for ever, and
    /// would rest on what another transaction may undo.
    fn check_close(&self, account_id: &AccountId) -> Result<(), Objection> {
        self.check_open(account_id, Party::From)?;
        let rows =
            || self.balances.iter().filter(|((account, _), _)| account == account_id).map(|(_, row)| row);
        if rows().any(|row| row.available != 0 || row.held != 0) {
            return Err(Refusal::of(RefusalCode::AccountNotEmpty, Party::From).into());
        }
        let pins = self.accounts.get(account_id).map_or(0, |account| account.pins);
        if pins > 0 || rows().any(|row| *row != Balances::default()) {
            return Err(Objection::Busy(format!("account {account_id} is part of a transaction in flight")));
        }
        Ok(())
    }

    /// Takes what the branch needs, and locks what it relies on.
    pub(super) fn take(&mut self, transaction_id: TransactionId, branch: &Branch) {
        for change in &branch.changes {
            if change.postings.is_empty() {
                self.pin(&change.account, 1);
                continue;
            }
            let take = taken(change);
            self.change_row(&change.account, change.currency, |row| {
                row.available = add(row.available, -take);
                row.taken = add(row.taken, take);
                row.incoming = add(row.incoming, room(change));
            });
        }
        match &branch.task {
            None => {}
            Some(Task::CloseAccount { account_id }) => {
                self.accounts.change(account_id, |account| account.closed = true);
            }
            Some(Task::PlaceHold(terms)) => {
                self.change_row(&terms.from, terms.currency, |row| {
                    row.available = add(row.available, -terms.amount.signed());
                    row.taken = add(row.taken, terms.amount.signed());
                });
            }
            Some(Task::SettleHold { hold, .. }) => self.lock(hold.hold_id, Some(transaction_id)),
            Some(Task::MarkReversed { original_id }) => self.lock(*original_id, Some(transaction_id)),
        }
    }

    /// Undoes [`Book::take`].
    pub(super) fn give_back(&mut self, branch: &Branch) {
        for change in &branch.changes {
            if change.postings.is_empty() {
                self.pin(&change.account, -1);
                continue;
            }
            let take = taken(change);
            self.change_row(&change.account, change.currency, |row| {
                row.available = add(row.available, take);
                row.taken = add(row.taken, -take);
                row.incoming = add(row.incoming, -room(change));
            });
        }
        match &branch.task {
            None => {}
            Some(Task::CloseAccount { account_id }) => {
                self.accounts.change(account_id, |account| account.closed = false);
            }
            Some(Task::PlaceHold(terms)) => {
                self.change_row(&terms.from, terms.currency, |row| {
                    row.available = add(row.available, terms.amount.signed());
                    row.taken = add(row.taken, -terms.amount.signed());
                });
            }
            Some(Task::SettleHold { hold, .. }) => self.lock(hold.hold_id, None),
            Some(Task::MarkReversed { original_id }) => self.lock(*original_id, None),
        }
    }

    fn pin(&mut self, account: &AccountId, change: i32) {
        self.accounts.change(account, |state| {
            state.pins = state.pins.checked_add_signed(change).expect("every pin is taken out once");
        });
    }

    fn lock(&mut self, transaction_id: TransactionId, locked_by: Option<TransactionId>) {
        let fate = self.fates.get(&transaction_id).copied().unwrap_or_default();
        self.fates.put(transaction_id, Fate { locked_by, ..fate });
    }
}

/// The second phase.
impl Book {
    /// Moves the money for good. No entry tells of it before [`Book::write_history`].
    pub(super) fn give(&mut self, branch: &Branch, now: Timestamp) -> Vec<BalanceAfter> {
        let mut after = Vec::new();
        if let Some(task) = &branch.task {
            after.extend(self.give_task(task, now));
        }
        for change in &branch.changes {
            if change.postings.is_empty() {
                self.pin(&change.account, -1);
                continue;
            }
            let take = taken(change);
            let sum: i64 = change.postings.iter().fold(0, |sum, posting| add(sum, posting.amount));
            let row = self.change_row(&change.account, change.currency, |row| {
                row.taken = add(row.taken, -take);
                row.available = add(add(row.available, take), sum);
                row.incoming = add(row.incoming, -room(change));
                row.unwritten = add(row.unwritten, -sum);
            });
            // Backwards from the end: what each posting left behind.
            let mut available = row.available;
            let mut of_change = Vec::with_capacity(change.postings.len());
            for posting in change.postings.iter().rev() {
                let (account, currency) = (change.account.clone(), change.currency);
                of_change.push(BalanceAfter {
                    leg: posting.leg,
                    account,
                    currency,
                    available,
                    held: row.held,
                });
                available = available.wrapping_sub(posting.amount);
            }
            after.extend(of_change.into_iter().rev());
        }
        branch.sort(&mut after);
        after
    }

    fn give_task(&mut self, task: &Task, now: Timestamp) -> Option<BalanceAfter> {
        match task {
            // The account was closed, and the earlier transaction locked, in the first phase.
            Task::CloseAccount { .. } | Task::MarkReversed { .. } => None,
            Task::PlaceHold(terms) => {
                let amount = terms.amount.signed();
                let expires_at = terms.expires_in_seconds.map(|seconds| now.plus_seconds(seconds));
                self.holds.put(terms.hold_id, HoldRow { terms: terms.clone(), expires_at, pending: true });
                let row = self.change_row(&terms.from, terms.currency, |row| {
                    row.taken = add(row.taken, -amount);
                    row.held = add(row.held, amount);
                    row.unwritten = add(row.unwritten, amount);
                });
                Some(payer_after(terms, row))
            }
            Task::SettleHold { hold, confirm } => {
                let released = hold.amount.signed() - confirm.map_or(0, |amount| amount.signed());
                self.holds.change(&hold.hold_id, |row| row.pending = false);
                let row = self.change_row(&hold.from, hold.currency, |row| {
                    row.held = add(row.held, -hold.amount.signed());
                    row.available = add(row.available, released);
                    row.unwritten = add(row.unwritten, -released);
                });
                Some(payer_after(hold, row))
            }
        }
    }

    /// Writes what [`Book::give`] did: one event for each leg, an entry for each posting. Answers the last event's position.
    pub(super) fn write_history(
        &mut self,
        transaction_id: TransactionId,
        branch: &Branch,
        now: Timestamp,
    ) -> (Sequence, Timestamp) {
        let mut postings: Vec<(&Change, &Posting)> = branch
            .changes
            .iter()
            .flat_map(|change| change.postings.iter().map(move |posting| (change, posting)))
            .collect();
        postings.sort_by_key(|(_, posting)| (posting.leg, posting.amount > 0));
        let mut event = Counter::default();
        if let Some(task) = &branch.task {
            event = self.next_event(now);
            self.write_task(transaction_id, task, event);
        }
        let mut leg = branch.task.as_ref().map(|_| 0);
        for (change, posting) in postings {
            if leg != Some(posting.leg) {
                event = self.next_event(now);
                leg = Some(posting.leg);
            }
            let entry = Entry {
                transaction_id: Some(posting.transaction_id),
                kind: posting.kind,
                counterparty: Some(posting.counterparty.clone()),
                amount: posting.amount,
                currency: change.currency,
                balance_after: 0,
                sequence: event.sequence,
                timestamp: event.timestamp,
                metadata: posting.metadata.clone(),
            };
            self.write_entry(&change.account, entry);
        }
        (event.sequence, event.timestamp)
    }

    fn write_task(&mut self, transaction_id: TransactionId, task: &Task, event: Counter) {
        let settled = |kind| Reference {
            transaction_id: Some(transaction_id),
            kind,
            sequence: event.sequence,
            timestamp: event.timestamp,
        };
        match task {
            Task::CloseAccount { .. } => {}
            Task::PlaceHold(terms) => {
                let entry = Entry {
                    counterparty: Some(terms.to.clone()),
                    metadata: terms.metadata.clone(),
                    ..hold_entry(terms, Some(transaction_id), EntryKind::Held, -terms.amount.signed(), event)
                };
                self.write_entry(&terms.from, entry);
            }
            Task::SettleHold { hold, confirm: Some(amount) } => {
                let released = hold.amount.signed() - amount.signed();
                let entry = Entry {
                    counterparty: Some(hold.to.clone()),
                    ..hold_entry(hold, Some(transaction_id), EntryKind::HoldConfirmed, released, event)
                };
                self.write_entry(&hold.from, entry);
                self.settle(hold.hold_id, settled(ReferenceKind::HoldConfirmed));
            }
            Task::SettleHold { hold, confirm: None } => {
                let amount = hold.amount.signed();
                let entry = hold_entry(hold, Some(transaction_id), EntryKind::HoldReleased, amount, event);
                self.write_entry(&hold.from, entry);
                self.settle(hold.hold_id, settled(ReferenceKind::HoldReleased));
            }
            Task::MarkReversed { original_id } => self.settle(*original_id, settled(ReferenceKind::Reversed)),
        }
    }

    fn settle(&mut self, transaction_id: TransactionId, reference: Reference) {
        self.fates.put(transaction_id, Fate { locked_by: None, reference: Some(reference) });
    }

    /// Fills in the balance as the history adds up.
    fn write_entry(&mut self, account: &AccountId, mut entry: Entry) {
        let row = self.change_row(account, entry.currency, |row| {
            row.unwritten = add(row.unwritten, entry.amount);
        });
        let adds_up = i128::from(row.available) + i128::from(row.taken) + i128::from(row.unwritten);
        entry.balance_after =
            i64::try_from(adds_up).expect("what is available, taken and unwritten was checked together");
        self.entries.push((account.clone(), entry));
    }

    /// Releases a hold that has lapsed; false when it has not, is settled, or is being settled.
    ///
    /// # Panics
    /// When a row of [`Book::missing_to_expire`] is missing.
    pub fn expire_hold(&mut self, hold_id: TransactionId, now: Timestamp) -> bool {
        assert!(
            self.missing_to_expire(hold_id).is_empty(),
            "every row that an expiry needs is loaded before"
        );
        let Some(hold) = self.holds.get(&hold_id) else { return false };
        let has_lapsed = hold.pending && hold.expires_at.is_some_and(|expires_at| expires_at <= now);
        if !has_lapsed || self.fates.get(&hold_id).is_some_and(|fate| fate.locked_by.is_some()) {
            return false;
        }
        let terms = hold.terms.clone();
        self.give_task(&Task::SettleHold { hold: terms.clone(), confirm: None }, now);
        let event = self.next_event(now);
        let entry = hold_entry(&terms, None, EntryKind::HoldReleased, terms.amount.signed(), event);
        self.write_entry(&terms.from, entry);
        let kind = ReferenceKind::HoldReleased;
        let (sequence, timestamp) = (event.sequence, event.timestamp);
        self.settle(hold_id, Reference { transaction_id: None, kind, sequence, timestamp });
        true
    }
}

fn party(posting: &Posting) -> Party {
    if posting.amount < 0 { Party::From } else { Party::To }
}

fn fits(amount: i128) -> bool {
    i64::try_from(amount).is_ok()
}

/// The first phase has checked that it fits; a balance that leaves its range all the same must never be stored.
fn add(balance: i64, amount: i64) -> i64 {
    balance.checked_add(amount).expect("the first phase keeps room for everything that may follow")
}

fn taken(change: &Change) -> i64 {
    i64::try_from(change.take()).expect("checked: what is taken fits")
}

/// How much more the account has in the end than before; 0 for a payer.
fn room(change: &Change) -> i64 {
    let sum: i128 = change.postings.iter().map(|posting| i128::from(posting.amount)).sum();
    i64::try_from(sum.max(0)).unwrap_or(i64::MAX)
}

fn payer_after(terms: &HoldTerms, row: Balances) -> BalanceAfter {
    BalanceAfter {
        leg: 0,
        account: terms.from.clone(),
        currency: terms.currency,
        available: row.available,
        held: row.held,
    }
}

fn hold_entry(
    terms: &HoldTerms,
    transaction_id: Option<TransactionId>,
    kind: EntryKind,
    amount: i64,
    event: Counter,
) -> Entry {
    Entry {
        transaction_id,
        kind,
        counterparty: None,
        amount,
        currency: terms.currency,
        balance_after: 0,
        sequence: event.sequence,
        timestamp: event.timestamp,
        metadata: Default::default(),
    }
}
