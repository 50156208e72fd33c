//! One transaction's coordinator: answers go in, steps come out.
//!
//! ```text
//! TC/C              Begin+Take(owner)   Take(others, in parallel)   Decide+Give(owner)   Give(others)      Finish
//! Saga              Begin+Take(owner)   Take(one after another)     Apply(the last)      Give(between)     Finish+Give(owner)
//! two-phase commit  Begin               Prepare(one after another)  Decide               Commit(all)       Finish
//! one branch        Begin+Apply+Finish
//! ```
//!
//! Cancelled: Return (or Rollback) in place of Give (or Commit), in reverse and after a Decide in Saga. `ARCHITECTURE.md` says why each
//! order is safe. Any instance may [`Machine::resume`] from the record at any time, beside others too: every step is answered by a
//! barrier or by the record, so that two instances do the same or one learns what the other did.

mod order;
mod travelling;

use std::collections::BTreeMap;

use ledger::{Refusal, RefusalCode, Timestamp};

pub use travelling::{Onward, Travelling};

use crate::plan::first_of;
use crate::port::{
    Answer, BalanceAfter, BranchState, Done, Lease, Operation, Outcome, PhaseStatus, Plan, Protocol,
    RecordChange, SecondPhase, ShardNumber, Step, TryState,
};

/// Names a step that was sent, so that its answer is told from the answer of a step that it replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(u64);

/// What the driver must do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Send this step to this shard and repeat it until there is an answer; hand that to [`Machine::answered`].
    Send {
        /// Goes with the answer.
        ticket: Ticket,
        /// Where to.
        shard: ShardNumber,
        /// What.
        step: Step,
    },
    /// The client may be told: nothing can change this any more. Steps may follow that only tidy up; they must be carried out too.
    Finished(Outcome),
    /// Another instance drives the transaction, and this one does nothing; try again when its lease has run out.
    Elsewhere(Lease),
    /// What a shard answered cannot be. Nobody is told anything, and a human must look.
    Broken(String),
    /// Nothing more is to be done.
    Over,
}

/// What a transaction is about, for whoever measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    /// It is taken over from an instance that is gone.
    TakeOver,
    /// Its record is made; in TC/C and Saga the owner's first phase is in the same step.
    Begin,
    /// The first phase of the other branches.
    First,
    /// An operator's cancel asks the shard that would decide.
    Cancel,
    /// The decision is recorded.
    Decide,
    /// The second phase of the other branches.
    Second,
    /// The record is closed. What one shard can do alone is nothing but this.
    Finish,
}

impl Phase {
    /// All, in the order in which they can follow each other.
    pub const ALL: [Phase; 7] = [
        Phase::TakeOver,
        Phase::Begin,
        Phase::First,
        Phase::Cancel,
        Phase::Decide,
        Phase::Second,
        Phase::Finish,
    ];

    /// A word for it.
    pub const fn name(self) -> &'static str {
        match self {
            Phase::TakeOver => "take_over",
            Phase::Begin => "begin",
            Phase::First => "first_phase",
            Phase::Cancel => "cancel",
            Phase::Decide => "decide",
            Phase::Second => "second_phase",
            Phase::Finish => "finish",
        }
    }
}

/// An operator's cancel comes too late: the transaction is decided, or is a single step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotCancellable;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    TakeOver,
    Begin,
    /// In which round of [`order::first_phase`].
    First(usize),
    /// The operator's cancel of a Saga asks the last shard first: its barrier is the decision.
    AskLast,
    Decide,
    /// In which round of [`order::second_phase`].
    Second(usize),
    Finish,
    Over,
}

/// One transaction's coordinator.
#[derive(Debug, Clone)]
pub struct Machine {
    plan: Plan,
    lease: Lease,
    stage: Stage,
    tries: Vec<TryState>,
    /// Of several, the first in the ledger's order.
    refusal: Option<Refusal>,
    /// Somebody cancels: a first phase came too late, or an operator wants it.
    is_cancelled: bool,
    cancel_requested: bool,
    second_phase: Option<SecondPhase>,
    second_phase_done: Vec<bool>,
    own: Option<Done>,
    others: Vec<BalanceAfter>,
    out_of_order: bool,
    told: Option<Outcome>,
    /// Unanswered steps, by the index of their branch.
    sent: BTreeMap<Ticket, usize>,
    next_ticket: u64,
}

impl Machine {
    /// Begins a transaction whose ids are claimed.
    pub fn begin(plan: Plan, lease: Lease, now: Timestamp) -> (Machine, Vec<Effect>) {
        let mut machine = Machine::new(plan, lease);
        machine.stage = Stage::Begin;
        let begin = RecordChange::Begin(Box::new(machine.first_status(now)));
        let branch = machine.plan.branches[0].clone();
        let effect = match machine.plan.protocol {
            _ if machine.is_single() => {
                machine.stage = Stage::Finish;
                let finish = machine.finish_change();
                machine.send(0, vec![begin, finish], Some(Operation::Apply(branch)))
            }
            Protocol::TwoPhaseCommit => machine.send(0, vec![begin], None),
            Protocol::Tcc | Protocol::Saga => machine.send(0, vec![begin], Some(Operation::Take(branch))),
        };
        (machine, vec![effect])
    }

    /// Records a refusal that needs no shard's word.
    pub fn begin_refused(
        plan: Plan,
        refusal: Refusal,
        lease: Lease,
        now: Timestamp,
    ) -> (Machine, Vec<Effect>) {
        let mut machine = Machine::new(plan, lease);
        machine.stage = Stage::Finish;
        machine.refusal = Some(refusal);
        let second_phase = Some(SecondPhase::Cancel);
        let status = PhaseStatus { second_phase, refusal: Some(refusal), ..machine.first_status(now) };
        let record = vec![RecordChange::Begin(Box::new(status)), machine.finish_change()];
        let effect = machine.send(0, record, None);
        (machine, vec![effect])
    }

    /// Goes on where another instance left off, or this one before it crashed. Takes the lease over first.
    pub fn resume(status: PhaseStatus, lease: Lease) -> (Machine, Vec<Effect>) {
        let mut machine = Machine::new(status.plan.clone(), lease);
        let effects = machine.adopt(status, Stage::Begin);
        (machine, effects)
    }

    /// What a shard answered to a step. Answers to steps that were replaced are ignored.
    pub fn answered(&mut self, ticket: Ticket, answer: Answer) -> Vec<Effect> {
        let Some(branch) = self.sent.remove(&ticket) else { return Vec::new() };
        let stage = self.stage;
        match (stage, answer) {
            (_, Answer::Finished(outcome)) => self.over(outcome),
            (_, Answer::Known(status)) => self.adopt(*status, stage),
            (Stage::TakeOver, Answer::Done(_)) => self.carry_on(),
            (Stage::Begin, answer) if self.plan.protocol == Protocol::TwoPhaseCommit => match answer {
                Answer::Done(_) => self.carry_on(),
                answer => self.broken(&answer),
            },
            (Stage::Begin | Stage::First(_), answer) => self.tried(branch, answer),
            (Stage::AskLast, Answer::Done(done)) => self.asked_last(&done),
            (Stage::Decide, Answer::Done(done)) if done.state.is_none() => self.second(0),
            (Stage::Decide | Stage::Second(_), Answer::Done(done)) => {
                self.second_phase_answered(branch, done)
            }
            (_, answer) => self.broken(&answer),
        }
    }

    /// An operator gives the transaction up, while nothing is decided. Steps on their way are replaced.
    pub fn cancel(&mut self) -> Result<Vec<Effect>, NotCancellable> {
        if self.is_single() || self.second_phase.is_some() {
            return Err(NotCancellable);
        }
        match self.stage {
            Stage::TakeOver | Stage::Begin => {
                self.cancel_requested = true;
                Ok(Vec::new())
            }
            Stage::First(_) => {
                self.sent.clear();
                Ok(self.give_up())
            }
            Stage::AskLast | Stage::Decide | Stage::Second(_) | Stage::Finish | Stage::Over => {
                Err(NotCancellable)
            }
        }
    }

    /// The step by which the driver keeps its lease and tells what hinders it; its answer is no business of the machine, but
    /// [`Answer::Known`] with another's lease means that another instance has taken over.
    pub fn note(&mut self, lease: Lease, error: Option<String>) -> (ShardNumber, Step) {
        self.lease = lease.clone();
        let record = vec![RecordChange::Note { lease, error }];
        (self.plan.owner(), self.step(0, record, None))
    }

    /// The transaction, as it is carried out.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// What is being done, for metrics and traces; `None` when it is over.
    pub fn phase(&self) -> Option<Phase> {
        match self.stage {
            Stage::TakeOver => Some(Phase::TakeOver),
            Stage::Begin => Some(Phase::Begin),
            Stage::First(_) => Some(Phase::First),
            Stage::AskLast => Some(Phase::Cancel),
            Stage::Decide => Some(Phase::Decide),
            Stage::Second(_) => Some(Phase::Second),
            Stage::Finish => Some(Phase::Finish),
            Stage::Over => None,
        }
    }

    fn new(plan: Plan, lease: Lease) -> Machine {
        let count = plan.branches.len();
        Machine {
            plan,
            lease,
            stage: Stage::Over,
            tries: vec![TryState::NotSent; count],
            refusal: None,
            is_cancelled: false,
            cancel_requested: false,
            second_phase: None,
            second_phase_done: vec![false; count],
            own: None,
            others: Vec::new(),
            out_of_order: false,
            told: None,
            sent: BTreeMap::new(),
            next_ticket: 0,
        }
    }

    fn is_single(&self) -> bool {
        self.plan.branches.len() == 1
    }

    /// The record before anything is answered. From its being there on, every try may have been sent.
    fn first_status(&self, now: Timestamp) -> PhaseStatus {
        let count = self.plan.branches.len();
        PhaseStatus {
            plan: self.plan.clone(),
            tries: vec![TryState::Sent; count],
            second_phase: None,
            second_phase_done: vec![false; count],
            out_of_order: false,
            refusal: None,
            outcome: None,
            attempts: 0,
            last_error: String::new(),
            lease: Some(self.lease.clone()),
            started_at: now,
        }
    }

    /// The record tells what is known; what was believed before does not count.
    fn adopt(&mut self, status: PhaseStatus, stage: Stage) -> Vec<Effect> {
        if let Some(outcome) = status.outcome {
            return self.over(outcome);
        }
        let contradicts = self.second_phase == Some(SecondPhase::Confirm)
            && status.second_phase == Some(SecondPhase::Cancel)
            && stage != Stage::Decide;
        if contradicts {
            return self.broken(&"the record says cancelled after the last step of a Saga");
        }
        let holder = status.lease.clone();
        let (lease, next_ticket, cancel_requested) =
            (self.lease.clone(), self.next_ticket, self.cancel_requested);
        *self = Machine {
            second_phase: status.second_phase,
            refusal: status.refusal,
            next_ticket,
            cancel_requested,
            ..Machine::new(status.plan, lease)
        };
        match stage {
            Stage::TakeOver => {
                self.stage = Stage::Over;
                vec![Effect::Elsewhere(holder.unwrap_or_else(|| self.lease.clone()))]
            }
            Stage::Begin => {
                self.stage = Stage::TakeOver;
                let note = RecordChange::Note { lease: self.lease.clone(), error: None };
                vec![self.send(0, vec![note], None)]
            }
            _ => self.carry_on(),
        }
    }

    /// Goes on from what the record says: the first phase again, or the second.
    fn carry_on(&mut self) -> Vec<Effect> {
        match self.second_phase {
            _ if self.is_single() => self.finish(),
            Some(_) => self.second(0),
            None if self.cancel_requested => self.give_up(),
            None => self.first(0),
        }
    }

    fn give_up(&mut self) -> Vec<Effect> {
        self.cancel_requested = false;
        if self.plan.protocol == Protocol::Saga {
            self.stage = Stage::AskLast;
            let last = order::last(&self.plan);
            return vec![self.send(last, Vec::new(), Some(Operation::Return))];
        }
        self.is_cancelled = true;
        self.decide()
    }

    fn asked_last(&mut self, done: &Done) -> Vec<Effect> {
        if done.state == Some(BranchState::Given) {
            // It is done, and cannot be cancelled any more: forward.
            return self.first(0);
        }
        self.out_of_order |= done.state == Some(BranchState::CancelledBeforeTry);
        self.is_cancelled = true;
        self.decide()
    }
}

/// The first phase.
impl Machine {
    fn first(&mut self, from_round: usize) -> Vec<Effect> {
        let rounds = order::first_phase(&self.plan);
        for (round, branches) in rounds.into_iter().enumerate().skip(from_round) {
            self.stage = Stage::First(round);
            let open: Vec<usize> = branches
                .into_iter()
                .filter(|branch| !matches!(self.tries[*branch], TryState::Accepted | TryState::Refused))
                .collect();
            if !open.is_empty() {
                return open.into_iter().map(|branch| self.send_try(branch)).collect();
            }
        }
        self.decide()
    }

    fn send_try(&mut self, index: usize) -> Effect {
        let branch = self.plan.branches[index].clone();
        let is_last_of_saga = self.plan.protocol == Protocol::Saga
            && index == order::last(&self.plan)
            && self.refusal.is_none();
        let operation = match self.plan.protocol {
            Protocol::TwoPhaseCommit => Operation::Prepare(branch),
            // After a refusal the rest are only asked, so that every protocol tells the same of several refusals.
            Protocol::Saga if is_last_of_saga => Operation::Apply(branch),
            Protocol::Saga | Protocol::Tcc => Operation::Take(branch),
        };
        self.tries[index] = TryState::Sent;
        self.send(index, Vec::new(), Some(operation))
    }

    fn tried(&mut self, branch: usize, answer: Answer) -> Vec<Effect> {
        match answer {
            Answer::Done(done) => {
                self.tries[branch] = TryState::Accepted;
                if done.state == Some(BranchState::Given) {
                    self.note_given(branch, done);
                }
            }
            Answer::Refused(refusal) => {
                self.tries[branch] = TryState::Refused;
                self.refusal = Some(self.refusal.map_or(refusal, |earlier| first_of(earlier, refusal)));
            }
            Answer::Late if self.stage != Stage::Begin => self.is_cancelled = true,
            answer => return self.broken(&answer),
        }
        match self.stage {
            _ if !self.sent.is_empty() => Vec::new(),
            _ if self.is_cancelled => self.decide(),
            Stage::First(round) => self.first(round + 1),
            _ if self.cancel_requested => self.give_up(),
            _ => self.first(0),
        }
    }

    fn decide(&mut self) -> Vec<Effect> {
        let is_confirmed = self.refusal.is_none() && !self.is_cancelled;
        if !is_confirmed {
            self.refusal.get_or_insert(Refusal::new(RefusalCode::TransactionCancelled));
        }
        let second_phase = if is_confirmed { SecondPhase::Confirm } else { SecondPhase::Cancel };
        self.second_phase = Some(second_phase);
        self.stage = Stage::Decide;
        let decide = RecordChange::Decide { second_phase, refusal: self.refusal, tries: self.tries.clone() };
        match (self.plan.protocol, second_phase) {
            (Protocol::Tcc, _) => {
                let operation = order::second_operation(&self.plan, 0, second_phase);
                vec![self.send(0, vec![decide], Some(operation))]
            }
            // What the last shard did is the decision.
            (Protocol::Saga, SecondPhase::Confirm) => self.second(0),
            (Protocol::Saga, SecondPhase::Cancel) | (Protocol::TwoPhaseCommit, _) => {
                vec![self.send(0, vec![decide], None)]
            }
        }
    }
}

/// The second phase, which nobody can refuse.
impl Machine {
    fn second(&mut self, from_round: usize) -> Vec<Effect> {
        let second_phase = self.second_phase.expect("the second phase begins once it is decided");
        let rounds = order::second_phase(&self.plan, second_phase);
        for (round, branches) in rounds.into_iter().enumerate().skip(from_round) {
            self.stage = Stage::Second(round);
            let open: Vec<usize> = branches
                .into_iter()
                .filter(|branch| !self.second_phase_done[*branch])
                // The barrier of what was refused stands against whatever comes late.
                .filter(|branch| {
                    second_phase == SecondPhase::Confirm || self.tries[*branch] != TryState::Refused
                })
                .collect();
            if !open.is_empty() {
                return open
                    .into_iter()
                    .map(|branch| {
                        let operation = order::second_operation(&self.plan, branch, second_phase);
                        self.send(branch, Vec::new(), Some(operation))
                    })
                    .collect();
            }
        }
        self.finish()
    }

    fn second_phase_answered(&mut self, branch: usize, done: Done) -> Vec<Effect> {
        match (self.second_phase, done.state) {
            (Some(SecondPhase::Confirm), Some(BranchState::Given)) => self.note_given(branch, done),
            (Some(SecondPhase::Cancel), Some(BranchState::Returned | BranchState::Refused)) => {}
            (Some(SecondPhase::Cancel), Some(BranchState::CancelledBeforeTry)) => self.out_of_order = true,
            _ => return self.broken(&done),
        }
        self.second_phase_done[branch] = true;
        match self.stage {
            _ if !self.sent.is_empty() => Vec::new(),
            Stage::Second(round) => self.second(round + 1),
            _ => self.second(0),
        }
    }

    fn note_given(&mut self, branch: usize, done: Done) {
        if self.second_phase_done[branch] {
            return;
        }
        self.second_phase_done[branch] = true;
        if branch == 0 {
            self.own = Some(done);
        } else {
            self.others.extend(done.balances);
        }
    }

    /// The record's last change. The client need not wait for it where everything that it will say is known and stands.
    fn finish(&mut self) -> Vec<Effect> {
        self.stage = Stage::Finish;
        let mut effects = Vec::new();
        let (mut record, operation) = match (self.plan.protocol, self.second_phase) {
            _ if self.is_single() => {
                let branch = self.plan.branches[0].clone();
                let is_empty = self.second_phase == Some(SecondPhase::Cancel);
                (Vec::new(), (!is_empty).then_some(Operation::Apply(branch)))
            }
            (Protocol::Saga, Some(SecondPhase::Confirm)) => {
                let second_phase = SecondPhase::Confirm;
                let tries = self.tries.clone();
                let decide = RecordChange::Decide { second_phase, refusal: None, tries };
                (vec![decide], Some(Operation::Give))
            }
            (Protocol::Saga, _) => (Vec::new(), Some(Operation::Return)),
            (Protocol::Tcc | Protocol::TwoPhaseCommit, _) => {
                self.told = self.known_outcome();
                effects.extend(self.told.clone().map(Effect::Finished));
                (Vec::new(), None)
            }
        };
        record.push(self.finish_change());
        effects.push(self.send(0, record, operation));
        effects
    }

    fn finish_change(&self) -> RecordChange {
        RecordChange::Finish {
            balances: self.others.clone(),
            refusal: self.refusal,
            out_of_order: self.out_of_order,
        }
    }

    /// What the record will say, made from what barriers have stored, so that any instance would come to the same.
    fn known_outcome(&self) -> Option<Outcome> {
        let own = self.own.as_ref().filter(|own| self.refusal.is_none() && own.sequence.0 > 0)?;
        let mut balances = own.balances.clone();
        balances.extend_from_slice(&self.others);
        self.plan.sort(&mut balances);
        Some(Outcome { sequence: own.sequence, timestamp: own.timestamp, result: Ok(balances) })
    }

    fn over(&mut self, outcome: Outcome) -> Vec<Effect> {
        self.sent.clear();
        match self.told.take() {
            Some(told) if told != outcome => self.broken(&(told, outcome)),
            Some(_) => {
                self.stage = Stage::Over;
                vec![Effect::Over]
            }
            None => {
                self.stage = Stage::Over;
                vec![Effect::Finished(outcome), Effect::Over]
            }
        }
    }

    fn broken(&mut self, answer: &dyn std::fmt::Debug) -> Vec<Effect> {
        let stage = self.phase().map_or("over", Phase::name);
        self.stage = Stage::Over;
        self.sent.clear();
        vec![Effect::Broken(format!(
            "transaction {}: impossible in stage {stage}: {answer:?}",
            self.plan.transaction_id
        ))]
    }

    fn send(&mut self, branch: usize, record: Vec<RecordChange>, operation: Option<Operation>) -> Effect {
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        self.sent.insert(ticket, branch);
        let shard = self.plan.branches[branch].shard;
        Effect::Send { ticket, shard, step: self.step(branch, record, operation) }
    }

    fn step(&self, branch: usize, record: Vec<RecordChange>, operation: Option<Operation>) -> Step {
        assert!(record.is_empty() || branch == 0, "the record is on the owner's shard");
        let transaction_id = self.plan.transaction_id;
        Step::Branch { transaction_id, record, operation, owner: self.plan.owner() }
    }
}
