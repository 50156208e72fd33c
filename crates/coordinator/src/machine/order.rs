//! Which branches go when.

use crate::port::{Branch, Operation, Plan, Protocol, SecondPhase, Task};

/// The first phase: rounds of branches, those of one round in parallel.
///
/// TC/C begins with the owner, so that there is a record before any other shard is touched; then all others at once. Saga goes one by
/// one: the owner, other debits, then credits. Two-phase commit prepares one by one in the order of the shards: prepared rows stay
/// locked, and transactions that lock in one order never wait for each other in a circle.
pub(super) fn first_phase(plan: &Plan) -> Vec<Vec<usize>> {
    match plan.protocol {
        Protocol::Tcc => vec![vec![0], (1..plan.branches.len()).collect()],
        Protocol::Saga => saga(plan).into_iter().map(|branch| vec![branch]).collect(),
        Protocol::TwoPhaseCommit => {
            let mut order: Vec<usize> = (0..plan.branches.len()).collect();
            order.sort_by_key(|branch| plan.branches[*branch].shard);
            order.into_iter().map(|branch| vec![branch]).collect()
        }
    }
}

/// The second phase, as rounds. A Saga's owner is left out: its branch is completed, or undone, in the step that finishes the record.
pub(super) fn second_phase(plan: &Plan, second_phase: SecondPhase) -> Vec<Vec<usize>> {
    match (plan.protocol, second_phase) {
        (Protocol::Tcc | Protocol::TwoPhaseCommit, _) => vec![(0..plan.branches.len()).collect()],
        (Protocol::Saga, SecondPhase::Confirm) => vec![(1..plan.branches.len()).collect()],
        (Protocol::Saga, SecondPhase::Cancel) => {
            saga(plan).into_iter().rev().filter(|branch| *branch != 0).map(|branch| vec![branch]).collect()
        }
    }
}

pub(super) fn second_operation(plan: &Plan, branch: usize, second_phase: SecondPhase) -> Operation {
    match (plan.protocol, second_phase) {
        (Protocol::TwoPhaseCommit, SecondPhase::Confirm) => Operation::Commit,
        (Protocol::TwoPhaseCommit, SecondPhase::Cancel) => Operation::Rollback,
        (Protocol::Saga, SecondPhase::Confirm) if branch == last(plan) => {
            Operation::Apply(plan.branches[branch].clone())
        }
        (_, SecondPhase::Confirm) => Operation::Give,
        (_, SecondPhase::Cancel) => Operation::Return,
    }
}

/// The branch that ends a Saga's first phase: once it is done, everything will be.
pub(super) fn last(plan: &Plan) -> usize {
    *saga(plan).last().expect("a plan has an owner")
}

fn saga(plan: &Plan) -> Vec<usize> {
    let mut order: Vec<usize> = (1..plan.branches.len()).collect();
    order.sort_by_key(|branch| !is_debit(&plan.branches[*branch]));
    order.insert(0, 0);
    order
}

fn is_debit(branch: &Branch) -> bool {
    let by_task = matches!(branch.task, Some(Task::PlaceHold(_) | Task::SettleHold { .. }));
    by_task || branch.changes.iter().any(|change| change.take() > 0)
}
