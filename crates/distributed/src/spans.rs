//! The spans of a transaction: the transaction itself, in it its phases, in these the steps asked of shards.

use coordinator::port::{Operation, Plan, Protocol, RecordChange, ShardNumber, Step};
use tracing::field::Empty;
use tracing::{Level, Span};

use super::driver::Coordination;
use crate::trace::TARGET;

/// What brings the shards of a transaction to one outcome.
#[derive(Debug, Clone, Copy)]
pub(super) enum Way {
    Driven(Coordination),
    Choreographed,
}

impl Way {
    fn name(self) -> &'static str {
        match self {
            Way::Driven(Coordination::None) => "none",
            Way::Driven(Coordination::By(Protocol::Tcc)) => "tcc",
            Way::Driven(Coordination::By(Protocol::Saga)) => "saga",
            Way::Driven(Coordination::By(Protocol::TwoPhaseCommit)) => "two-phase-commit",
            Way::Choreographed => "saga-choreographed",
        }
    }
}

/// A child of the current span.
pub(super) fn transaction(plan: &Plan, way: Way) -> Span {
    tracing::span!(
        target: TARGET,
        Level::INFO,
        "transaction",
        transaction_id = %plan.transaction_id,
        protocol = way.name(),
        shards = plan.branches.len(),
    )
}

/// A child of the current span.
pub(super) fn phase(name: &'static str) -> Span {
    tracing::span!(target: TARGET, Level::INFO, "phase", otel.name = name, phase = name)
}

/// A child of the current span: one attempt.
pub(super) fn step(shard: ShardNumber, step: &Step) -> Span {
    tracing::span!(
        target: TARGET,
        Level::INFO,
        "step",
        otel.kind = "client",
        shard = shard.0,
        operation = operation(step),
        outcome = Empty,
    )
}

/// What a step does, in words: what is recorded, then what is done.
fn operation(step: &Step) -> String {
    let (record, operation) = match step {
        Step::OpenAccount { .. } => return "open_account".to_owned(),
        Step::Claim { .. } => return "claim".to_owned(),
        Step::Branch { record, operation, .. } => (record, operation),
    };
    let recorded = record.iter().map(|change| match change {
        RecordChange::Begin(_) => "begin",
        RecordChange::Decide { .. } => "decide",
        RecordChange::Finish { .. } => "finish",
        RecordChange::Note { .. } => "note",
    });
    let done = operation.as_ref().map(|operation| match operation {
        Operation::Take(_) => "take",
        Operation::Give => "give",
        Operation::Return => "return",
        Operation::Apply(_) => "apply",
        Operation::Prepare(_) => "prepare",
        Operation::Commit => "commit",
        Operation::Rollback => "rollback",
    });
    let words: Vec<&str> = recorded.chain(done).collect();
    if words.is_empty() { "read".to_owned() } else { words.join("+") }
}
