//! A Saga without a coordinator: what a coordinator would know travels from shard to shard.
//!
//! Each shard executes the step that has arrived, and its own answer decides which step comes next, on which shard. A shard that stores
//! what it did and what it sends on in one local transaction is never silent about what it did. What arrives twice does no harm: the
//! barriers answer as before, and so the same travels on.

use super::{Answer, BalanceAfter, Effect, Lease, Machine, Outcome, Phase, PhaseStatus, Plan, Stage, Step};
use super::{ShardNumber, Ticket, Timestamp, TryState};

/// A transaction on its way to its next shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Travelling {
    /// What its record would say if it knew of every shard it has been to.
    pub status: PhaseStatus,
    /// What the branches left behind that are done, but for the owner's.
    pub balances: Vec<BalanceAfter>,
    /// It is to be undone, and the record does not say so yet.
    pub is_to_be_cancelled: bool,
}

/// What the answer of a step leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Onward {
    /// It travels on.
    To(Box<Travelling>),
    /// It began earlier, and travels since then.
    Begun(Box<PhaseStatus>),
    /// It is over, and its record says so.
    Over(Outcome),
    /// What the shard answered cannot be. It goes nowhere, and a human must look.
    Broken(String),
}

impl Travelling {
    /// A transaction whose ids are claimed, on its way to its owner. Its plan has several branches and the protocol Saga.
    pub fn begin(plan: Plan, lease: Lease, now: Timestamp) -> Travelling {
        let machine = Machine::new(plan, lease);
        let status = PhaseStatus { tries: machine.tries.clone(), ..machine.first_status(now) };
        Travelling { status, balances: Vec::new(), is_to_be_cancelled: false }
    }

    /// From its record: goes all the way again, and every shard answers again.
    pub fn again(record: PhaseStatus) -> Travelling {
        let count = record.plan.branches.len();
        let (tries, second_phase_done) = (vec![TryState::Sent; count], vec![false; count]);
        let status = PhaseStatus { tries, second_phase_done, ..record };
        Travelling { status, balances: Vec::new(), is_to_be_cancelled: false }
    }

    /// Where it is going, and what is to be done there.
    pub fn next(&self) -> (ShardNumber, Step) {
        let (_, _, shard, step) = self.machine();
        (shard, step)
    }

    /// What [`Travelling::next`] is about.
    pub fn phase(&self) -> Phase {
        self.machine().0.phase().expect("what travels is not over")
    }

    /// What the answer to [`Travelling::next`] leads to.
    pub fn answered(&self, answer: Answer) -> Onward {
        let (mut machine, ticket, ..) = self.machine();
        // One after the other, also where a coordinator would send several at once.
        machine.sent.retain(|sent, _| *sent == ticket);
        let effects = match answer {
            Answer::Known(status) if machine.stage == Stage::Begin && status.outcome.is_none() => {
                return Onward::Begun(status);
            }
            answer => machine.answered(ticket, answer),
        };
        match effects.into_iter().next() {
            Some(Effect::Send { .. }) => Onward::To(Box::new(self.moved_on(machine))),
            Some(Effect::Finished(outcome)) => Onward::Over(outcome),
            Some(Effect::Broken(why)) => Onward::Broken(why),
            other => {
                unreachable!("nobody takes over what travels, and nothing ends without an outcome: {other:?}")
            }
        }
    }

    fn moved_on(&self, machine: Machine) -> Travelling {
        let is_to_be_cancelled = machine.stage == Stage::Decide;
        let status = PhaseStatus {
            plan: machine.plan,
            tries: machine.tries,
            second_phase: machine.second_phase.filter(|_| !is_to_be_cancelled),
            second_phase_done: machine.second_phase_done,
            out_of_order: machine.out_of_order,
            refusal: machine.refusal,
            ..self.status.clone()
        };
        Travelling { status, balances: machine.others, is_to_be_cancelled }
    }

    /// A coordinator that knows as much, and the first step that it sends.
    fn machine(&self) -> (Machine, Ticket, ShardNumber, Step) {
        let status = &self.status;
        let lease = status.lease.clone().unwrap_or(Lease { holder: 0, until: status.started_at });
        let is_at_the_beginning = status.tries[0] == TryState::NotSent && status.second_phase.is_none();
        let (machine, effects) = if is_at_the_beginning {
            Machine::begin(status.plan.clone(), lease, status.started_at)
        } else {
            let mut machine = Machine {
                tries: status.tries.clone(),
                second_phase: status.second_phase,
                second_phase_done: status.second_phase_done.clone(),
                out_of_order: status.out_of_order,
                refusal: status.refusal,
                others: self.balances.clone(),
                ..Machine::new(status.plan.clone(), lease)
            };
            let effects = if self.is_to_be_cancelled { machine.decide() } else { machine.carry_on() };
            (machine, effects)
        };
        match effects.into_iter().next() {
            Some(Effect::Send { ticket, shard, step }) => (machine, ticket, shard, step),
            other => unreachable!("what travels has somewhere to go: {other:?}"),
        }
    }
}
