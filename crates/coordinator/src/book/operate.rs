//! One operation on one branch: what the barrier says, then what is done.

use std::collections::BTreeSet;

use ledger::{AccountId, Refusal, Timestamp, TransactionId};

use super::rules::Objection;
use super::{Book, BranchRow, Key};
use crate::port::{Answer, Branch, BranchState, Done, NoAnswer, Operation, RecordChange, ShardNumber, Task};

/// What an operation will do, judged before anything is changed.
enum Act<'step> {
    /// Nothing: the barrier has the answer.
    Repeat,
    Refuse(Refusal),
    Take(&'step Branch),
    Apply(&'step Branch),
    Prepare(&'step Branch),
    Give,
    Return,
    CancelBeforeTry(BranchState),
    WriteHistory,
}

impl Act<'_> {
    /// The state of the branch afterwards; `None` when it stays.
    fn state_after(&self) -> Option<BranchState> {
        match self {
            Act::Repeat => None,
            Act::Refuse(_) => Some(BranchState::Refused),
            Act::Take(_) => Some(BranchState::Taken),
            Act::Prepare(_) => Some(BranchState::Committed),
            Act::Apply(_) | Act::Give | Act::WriteHistory => Some(BranchState::Given),
            Act::Return => Some(BranchState::Returned),
            Act::CancelBeforeTry(state) => Some(*state),
        }
    }
}

impl Book {
    pub(super) fn needed_by_operation(
        &self,
        transaction_id: TransactionId,
        operation: &Operation,
        needed: &mut BTreeSet<Key>,
    ) {
        needed.insert(Key::Branch(transaction_id));
        let stored = self.branches.get(&transaction_id).and_then(|row| row.branch.as_ref());
        let branch = match operation {
            Operation::Take(branch) | Operation::Apply(branch) | Operation::Prepare(branch) => Some(branch),
            Operation::Give | Operation::Return | Operation::Commit | Operation::Rollback => stored,
        };
        if matches!(operation, Operation::Apply(_) | Operation::Give | Operation::Commit) {
            needed.insert(Key::Counter);
        }
        let Some(branch) = branch else { return };
        let mut account = |account: &AccountId| {
            if *account != AccountId::external() {
                needed.insert(Key::Account(account.clone()));
            }
        };
        branch.changes.iter().for_each(|change| account(&change.account));
        match &branch.task {
            Some(Task::CloseAccount { account_id }) => account(account_id),
            Some(Task::PlaceHold(terms)) => account(&terms.from),
            Some(Task::SettleHold { .. } | Task::MarkReversed { .. }) | None => {}
        }
        for change in &branch.changes {
            needed.insert(Key::Balance(change.account.clone(), change.currency));
        }
        match &branch.task {
            None => {}
            Some(Task::CloseAccount { account_id }) => {
                needed.insert(Key::AllBalances(account_id.clone()));
            }
            Some(Task::PlaceHold(terms)) => {
                needed.extend([Key::Hold(terms.hold_id), Key::Balance(terms.from.clone(), terms.currency)]);
            }
            Some(Task::SettleHold { hold, .. }) => {
                needed.extend([Key::Hold(hold.hold_id), Key::Fate(hold.hold_id)]);
                needed.insert(Key::Balance(hold.from.clone(), hold.currency));
            }
            Some(Task::MarkReversed { original_id }) => {
                needed.insert(Key::Fate(*original_id));
            }
        }
    }

    pub(super) fn execute_branch(
        &mut self,
        transaction_id: TransactionId,
        record: &[RecordChange],
        operation: Option<&Operation>,
        owner: ShardNumber,
        now: Timestamp,
    ) -> Result<Answer, NoAnswer> {
        if record.is_empty() && operation.is_none() {
            let nothing = Answer::Contradiction("the transaction was never begun here");
            return Ok(self.records.get(&transaction_id).map_or(nothing, super::record::known));
        }
        if !record.is_empty()
            && let Err(answer) = self.judge_record(transaction_id, record, now)
        {
            return Ok(answer);
        }
        let act = match operation.map(|operation| self.judge(transaction_id, operation, now)) {
            None => None,
            Some(Ok(act)) => Some(act),
            Some(Err(Stop::Answer(answer))) => return Ok(answer),
            Some(Err(Stop::Busy(why))) => return Err(NoAnswer::Busy(why)),
        };
        let stored = self.branches.get(&transaction_id).map(|row| row.state);
        let state = act.as_ref().and_then(Act::state_after).or(stored);
        if let Err(answer) = self.judge_finish(transaction_id, record, state) {
            return Ok(answer);
        }

        // Everything is judged: from here on nothing stops half-way.
        record.iter().for_each(|change| self.change_record(transaction_id, change));
        if let Some(act) = act {
            self.act(transaction_id, act, owner, now);
            if !record.is_empty() {
                self.note_own_branch(transaction_id, state.expect("an operation leaves a state"));
            }
        }
        for change in record {
            if let RecordChange::Finish { balances, refusal, out_of_order } = change {
                let outcome = self.finish(transaction_id, balances, *refusal, *out_of_order, now);
                return Ok(Answer::Finished(outcome));
            }
        }
        Ok(match operation {
            None => Answer::Done(Done::default()),
            Some(operation) => self.stored_answer(transaction_id, operation),
        })
    }

    /// What the barrier answers: word for word what it answered the first time, but for the state when that has gone on.
    fn stored_answer(&self, transaction_id: TransactionId, operation: &Operation) -> Answer {
        let row = self.branches.get(&transaction_id).expect("every operation leaves a barrier");
        let is_first_phase =
            matches!(operation, Operation::Take(_) | Operation::Apply(_) | Operation::Prepare(_));
        match row.refusal {
            Some(refusal) if is_first_phase => Answer::Refused(refusal),
            _ => Answer::Done(Done {
                state: Some(row.state),
                sequence: row.sequence,
                timestamp: row.timestamp,
                balances: row.balances.clone(),
            }),
        }
    }

    /// The barrier first, then the rules.
    fn judge<'step>(
        &self,
        transaction_id: TransactionId,
        operation: &'step Operation,
        now: Timestamp,
    ) -> Result<Act<'step>, Stop> {
        use BranchState::{CancelledBeforeTry, Committed, Given, Refused, Returned, Taken};
        let state = self.branches.get(&transaction_id).map(|row| row.state);
        let contradiction = |why| Err(Stop::Answer(Answer::Contradiction(why)));
        match operation {
            Operation::Take(branch) => {
                self.judge_first(transaction_id, state, branch, now, Act::Take(branch))
            }
            Operation::Prepare(branch) => {
                self.judge_first(transaction_id, state, branch, now, Act::Prepare(branch))
            }
            Operation::Apply(_) if state == Some(Taken) => Ok(Act::Give),
            Operation::Apply(branch) => {
                self.judge_first(transaction_id, state, branch, now, Act::Apply(branch))
            }
            Operation::Give => match state {
                Some(Taken) => Ok(Act::Give),
                Some(Given) => Ok(Act::Repeat),
                _ => contradiction("there is no first phase to complete"),
            },
            Operation::Return => match state {
                None => Ok(Act::CancelBeforeTry(CancelledBeforeTry)),
                Some(Taken) => Ok(Act::Return),
                Some(Given | Returned | Refused | CancelledBeforeTry) => Ok(Act::Repeat),
                Some(Committed) => contradiction("a committed branch cannot be returned"),
            },
            Operation::Commit => match state {
                Some(Committed) => Ok(Act::WriteHistory),
                Some(Given) => Ok(Act::Repeat),
                _ => contradiction("there is nothing prepared to commit"),
            },
            Operation::Rollback => match state {
                // The barrier that the XA transaction had written went away with it.
                None => Ok(Act::CancelBeforeTry(Returned)),
                Some(Returned | Refused | CancelledBeforeTry) => Ok(Act::Repeat),
                Some(Committed | Given | Taken) => contradiction("a committed branch cannot be rolled back"),
            },
        }
    }

    fn judge_first<'step>(
        &self,
        transaction_id: TransactionId,
        state: Option<BranchState>,
        branch: &Branch,
        now: Timestamp,
        act: Act<'step>,
    ) -> Result<Act<'step>, Stop> {
        match state {
            None => {}
            Some(BranchState::Returned | BranchState::CancelledBeforeTry) => {
                return Err(Stop::Answer(Answer::Late));
            }
            Some(_) => return Ok(Act::Repeat),
        }
        match self.check(transaction_id, branch, now) {
            Ok(()) => Ok(act),
            Err(Objection::Refused(refusal)) => Ok(Act::Refuse(refusal)),
            Err(Objection::Busy(why)) => Err(Stop::Busy(why)),
        }
    }

    fn act(&mut self, transaction_id: TransactionId, act: Act<'_>, owner: ShardNumber, now: Timestamp) {
        let Some(state) = act.state_after() else { return };
        let mut row = self.branches.get(&transaction_id).cloned().unwrap_or_else(|| BranchRow {
            owner,
            state,
            branch: None,
            started_at: now,
            sequence: Default::default(),
            timestamp: Default::default(),
            balances: Vec::new(),
            refusal: None,
        });
        row.state = state;
        let stored = row.branch.take();
        let stored = || stored.expect("a branch that is not over is stored with its content");
        match act {
            Act::Repeat | Act::CancelBeforeTry(_) => {}
            Act::Refuse(refusal) => row.refusal = Some(refusal),
            Act::Take(branch) => {
                self.take(transaction_id, branch);
                row.branch = Some(branch.clone());
            }
            Act::Prepare(branch) => {
                self.take(transaction_id, branch);
                row.balances = self.give(branch, now);
                row.branch = Some(branch.clone());
            }
            Act::Apply(branch) => {
                self.take(transaction_id, branch);
                row.balances = self.give(branch, now);
                (row.sequence, row.timestamp) = self.write_history(transaction_id, branch, now);
            }
            Act::Give => {
                let branch = stored();
                row.balances = self.give(&branch, now);
                (row.sequence, row.timestamp) = self.write_history(transaction_id, &branch, now);
            }
            Act::WriteHistory => {
                (row.sequence, row.timestamp) = self.write_history(transaction_id, &stored(), now);
            }
            Act::Return => self.give_back(&stored()),
        }
        self.branches.put(transaction_id, row);
    }
}

/// Why nothing is done.
enum Stop {
    Answer(Answer),
    Busy(String),
}
