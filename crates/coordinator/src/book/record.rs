//! The phase status record: begun once, decided once, finished once.

use std::collections::BTreeSet;

use ledger::{Refusal, Timestamp, TransactionId};

use super::{Book, BranchRow, Key};
use crate::port::{
    Answer, BalanceAfter, BranchState, Operation, Outcome, PhaseStatus, RecordChange, SecondPhase, TryState,
};

impl Book {
    pub(super) fn needed_by_record(
        &self,
        transaction_id: TransactionId,
        record: &[RecordChange],
        operation: Option<&Operation>,
        needed: &mut BTreeSet<Key>,
    ) {
        if !record.is_empty() || operation.is_none() {
            needed.insert(Key::Record(transaction_id));
        }
        if record.iter().any(|change| matches!(change, RecordChange::Finish { .. })) {
            needed.extend([Key::Branch(transaction_id), Key::Counter]);
        }
    }

    /// Why nothing can be done, when the record stands otherwise than the step expects.
    pub(super) fn judge_record(
        &self,
        transaction_id: TransactionId,
        record: &[RecordChange],
        now: Timestamp,
    ) -> Result<(), Answer> {
        let stored = self.records.get(&transaction_id);
        if let [RecordChange::Begin(_), ..] = record {
            return stored.map_or(Ok(()), |status| Err(known(status)));
        }
        let Some(status) = stored else {
            return Err(Answer::Contradiction("the transaction was never begun here"));
        };
        for change in record {
            match change {
                RecordChange::Begin(_) => return Err(known(status)),
                RecordChange::Decide { second_phase, .. } => {
                    let otherwise = status.second_phase.is_some_and(|decided| decided != *second_phase);
                    if otherwise || status.outcome.is_some() {
                        return Err(known(status));
                    }
                }
                RecordChange::Note { lease, .. } => {
                    let others = status
                        .lease
                        .as_ref()
                        .is_some_and(|old| old.holder != lease.holder && old.until > now);
                    if others || status.outcome.is_some() {
                        return Err(known(status));
                    }
                }
                RecordChange::Finish { .. } => {
                    if let Some(outcome) = &status.outcome {
                        return Err(Answer::Finished(outcome.clone()));
                    }
                }
            }
        }
        Ok(())
    }

    /// Why a transaction cannot be finished so: its owner's branch says otherwise.
    pub(super) fn judge_finish(
        &self,
        transaction_id: TransactionId,
        record: &[RecordChange],
        state: Option<BranchState>,
    ) -> Result<(), Answer> {
        let Some(given_refusal) = record.iter().find_map(|change| match change {
            RecordChange::Finish { refusal, .. } => Some(*refusal),
            _ => None,
        }) else {
            return Ok(());
        };
        let is_refused = given_refusal.or(self.recorded_refusal(transaction_id, record)).is_some();
        match state {
            Some(BranchState::Given) if is_refused => {
                Err(Answer::Contradiction("a transaction that was refused has moved money"))
            }
            Some(BranchState::Taken | BranchState::Committed) => {
                Err(Answer::Contradiction("a transaction cannot be over before its branches are"))
            }
            Some(BranchState::Returned | BranchState::CancelledBeforeTry) | None if !is_refused => {
                Err(Answer::Contradiction("a transaction that moved no money cannot have succeeded"))
            }
            _ => Ok(()),
        }
    }

    fn recorded_refusal(&self, transaction_id: TransactionId, record: &[RecordChange]) -> Option<Refusal> {
        let stored = self.records.get(&transaction_id).and_then(|status| status.refusal);
        stored.or(record.iter().find_map(|change| match change {
            RecordChange::Begin(status) => status.refusal,
            RecordChange::Decide { refusal, .. } => *refusal,
            _ => None,
        }))
    }

    /// Everything but the end, before the operation of the step.
    pub(super) fn change_record(&mut self, transaction_id: TransactionId, change: &RecordChange) {
        match change {
            RecordChange::Begin(status) => self.records.put(transaction_id, (**status).clone()),
            RecordChange::Decide { second_phase, refusal, tries } => {
                self.records.change(&transaction_id, |status| {
                    if status.second_phase.is_none() {
                        status.second_phase = Some(*second_phase);
                        status.refusal = *refusal;
                        status.tries.clone_from(tries);
                    }
                });
            }
            RecordChange::Note { lease, error } => self.records.change(&transaction_id, |status| {
                status.lease = Some(lease.clone());
                if let Some(error) = error {
                    status.attempts = status.attempts.saturating_add(1);
                    status.last_error.clone_from(error);
                }
            }),
            RecordChange::Finish { .. } => {}
        }
    }

    /// Notes in a record that changes in this step how far the owner's own branch is.
    pub(super) fn note_own_branch(&mut self, transaction_id: TransactionId, state: BranchState) {
        self.records.change(&transaction_id, |status| {
            if let Some(own) = status.tries.first_mut() {
                *own = match state {
                    BranchState::Taken | BranchState::Given | BranchState::Committed => TryState::Accepted,
                    BranchState::Refused => TryState::Refused,
                    BranchState::Returned | BranchState::CancelledBeforeTry => *own,
                };
            }
            if let Some(own) = status.second_phase_done.first_mut() {
                *own = !matches!(state, BranchState::Taken | BranchState::Committed);
            }
        });
    }

    /// The end: the outcome gets its position, and stands for ever.
    pub(super) fn finish(
        &mut self,
        transaction_id: TransactionId,
        others: &[BalanceAfter],
        refusal: Option<Refusal>,
        out_of_order: bool,
        now: Timestamp,
    ) -> Outcome {
        let own = self.branches.get(&transaction_id).cloned();
        let own_refusal = own.as_ref().and_then(|row| row.refusal);
        let recorded = self.records.get(&transaction_id).expect("judged: the record is there");
        let refusal = recorded.refusal.or(refusal).or(own_refusal);
        let result = match refusal {
            Some(refusal) => Err(refusal),
            None => {
                let mut balances = own.as_ref().map_or_else(Vec::new, |row| row.balances.clone());
                balances.extend_from_slice(others);
                recorded.plan.sort(&mut balances);
                Ok(balances)
            }
        };
        let event = match own.filter(|row| result.is_ok() && row.sequence.0 > 0) {
            Some(BranchRow { sequence, timestamp, .. }) => super::Counter { sequence, timestamp },
            None => self.next_event(now),
        };
        let outcome = Outcome { sequence: event.sequence, timestamp: event.timestamp, result };
        self.records.change(&transaction_id, |status| {
            status.second_phase.get_or_insert(match refusal {
                None => SecondPhase::Confirm,
                Some(_) => SecondPhase::Cancel,
            });
            status.refusal = refusal;
            status.out_of_order |= out_of_order;
            status.second_phase_done.iter_mut().for_each(|done| *done = true);
            status.outcome = Some(outcome.clone());
            status.lease = None;
        });
        outcome
    }
}

pub(super) fn known(status: &PhaseStatus) -> Answer {
    Answer::Known(Box::new(status.clone()))
}
