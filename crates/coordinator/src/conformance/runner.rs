//! Carries commands out as a driver does, with something going wrong at one step.

use std::collections::BTreeMap;

use fastrand::Rng;
use ledger::{Command, RefusalCode, Timestamp, TransactionId};

use super::World;
use super::oracle::{Expected, Oracle};
use super::scenarios::{ByName, Case, scenario, usd};
use crate::machine::{Effect, Machine, Onward, Ticket, Travelling};
use crate::plan::{Planned, plan};
use crate::port::{Answer, Lease, NoAnswer, Outcome, PhaseStatus, Plan, Protocol, ShardNumber, Step};
use ledger::{AccountId, Refusal};

/// What goes wrong with one step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It is executed twice, and must be answered twice the same.
    Repeated,
    /// It is executed, and nobody hears of it.
    AnswerLost,
    /// It is not executed.
    RequestLost,
    /// The coordinator is gone before it; another takes over.
    CrashBefore,
    /// The coordinator is gone after it, without having heard; another takes over.
    CrashAfter,
    /// The same, and two take over at once.
    CrashAfterTwice,
    /// It arrives long after all is over, twice; another took over.
    Late,
    /// An operator cancels just after it, beside the coordinator.
    Cancelled,
    /// The coordinator is gone, an operator cancels, and the step arrives after all is over.
    CancelledAndLate,
    /// The shard is killed just after it, and nobody hears of it.
    Restarted,
}

/// Every one.
pub const FAULTS: [Fault; 10] = [
    Fault::Repeated,
    Fault::AnswerLost,
    Fault::RequestLost,
    Fault::CrashBefore,
    Fault::CrashAfter,
    Fault::CrashAfterTwice,
    Fault::Late,
    Fault::Cancelled,
    Fault::CancelledAndLate,
    Fault::Restarted,
];

impl Fault {
    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            Fault::Repeated => "step repeated",
            Fault::AnswerLost => "answer lost",
            Fault::RequestLost => "request lost",
            Fault::CrashBefore => "coordinator gone before the step",
            Fault::CrashAfter => "coordinator gone after the step",
            Fault::CrashAfterTwice => "coordinator gone, two take over at once",
            Fault::Late => "step late",
            Fault::Cancelled => "cancelled by an operator",
            Fault::CancelledAndLate => "cancelled before the step arrives",
            Fault::Restarted => "shard restarted",
        }
    }
}

/// No case takes more: whoever needs more hangs.
const STEPS_MAX: usize = 2000;

/// A coordinator's instance at work on one command.
enum Instance {
    Claiming {
        claims: Vec<(ShardNumber, Step)>,
        plan: Plan,
        refusal: Option<Refusal>,
        owner: ShardNumber,
    },
    Driving {
        machine: Box<Machine>,
        waiting: Vec<(Ticket, ShardNumber, Step)>,
    },
    /// Nobody drives it.
    Travelling(Box<Travelling>),
}

/// One command on its way.
pub(super) struct Job {
    pub(super) command: Command,
    pub(super) told: Option<Outcome>,
    pub(super) was_cancelled: bool,
    instances: Vec<Instance>,
}

impl Job {
    pub(super) fn new(command: Command) -> Job {
        Job { command, told: None, was_cancelled: false, instances: Vec::new() }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.instances.is_empty()
    }
}

/// Carries out commands.
pub(super) struct Runner<'world> {
    pub(super) world: &'world mut dyn World,
    pub(super) random: Rng,
    pub(super) protocol: Protocol,
    is_choreographed: bool,
    pub(super) executed: usize,
    pub(super) late: Vec<(ShardNumber, Step)>,
    placement: ByName,
    /// Where records are: what a driver reads from the claims.
    owners: BTreeMap<TransactionId, (ShardNumber, TransactionId)>,
    holder: u64,
}

/// How many steps were executed.
pub(super) struct Steps {
    /// In all.
    pub(super) executed: usize,
    /// By the command under test, had nothing gone wrong.
    pub(super) of_command: usize,
}

/// Runs one case and checks everything afterwards.
pub(super) fn run_case(world: &mut dyn World, case: &Case<'_>) -> Result<Steps, String> {
    let scenario = scenario(case);
    let seed = case.options.seed ^ case.number;
    let mut runner = Runner::new(world, seed, case.protocol, case.options.choreographed);
    let of_command = runner.run_scenario(case, &scenario).map_err(|why| {
        let fault = case
            .fault
            .map_or("nothing goes wrong".to_owned(), |(at, fault)| format!("{} (step {at})", fault.name()));
        format!("{}, {:?}, {fault}, seed {seed}: {why}", scenario.name, case.protocol)
    })?;
    Ok(Steps { executed: runner.executed, of_command })
}

impl<'world> Runner<'world> {
    pub(super) fn new(
        world: &'world mut dyn World,
        seed: u64,
        protocol: Protocol,
        is_choreographed: bool,
    ) -> Runner<'world> {
        let placement = ByName { shard_count: world.shard_count() };
        assert!(placement.shard_count >= 3, "the scenarios need three shards");
        Runner {
            world,
            random: Rng::with_seed(seed),
            protocol,
            is_choreographed,
            executed: 0,
            late: Vec::new(),
            placement,
            owners: BTreeMap::new(),
            holder: 0,
        }
    }

    fn run_scenario(
        &mut self,
        case: &Case<'_>,
        scenario: &super::scenarios::Scenario,
    ) -> Result<usize, String> {
        let mut oracle = Oracle::new();
        for command in &scenario.before {
            self.plainly(command, &mut oracle)?;
        }
        let mut job = Job::new(scenario.command.clone());
        let before = self.executed;
        self.attempt(&mut job)?;
        while !job.is_idle() {
            let at = self.executed - before;
            if at > STEPS_MAX {
                return Err("it does not come to an end".into());
            }
            let fault = case.fault.filter(|(step, _)| *step == at).map(|(_, fault)| fault);
            self.advance(&mut job, fault)?;
            self.check_sums(&job)?;
        }
        let of_command = self.executed - before;
        let Some(told) = job.told.clone() else { return Err("nobody was told anything".into()) };
        self.compare(&job, &told, &mut oracle)?;
        self.check(&oracle)?;

        // What is late changes nothing any more, and a client that asks again is told the same.
        for (shard, step) in std::mem::take(&mut self.late) {
            for _ in 0..2 {
                let _ = self.execute(shard, &step);
            }
        }
        self.attempt(&mut job)?;
        while !job.is_idle() {
            self.advance(&mut job, None)?;
        }
        self.check(&oracle)?;
        (0..self.placement.shard_count).for_each(|shard| self.world.expire_holds(ShardNumber(shard)));
        oracle.execute(&Command::ExpireHolds);
        self.check(&oracle)?;
        for command in &scenario.after {
            self.plainly(command, &mut oracle)?;
        }
        Ok(of_command)
    }

    /// Carries out a command with which nothing goes wrong.
    fn plainly(&mut self, command: &Command, oracle: &mut Oracle) -> Result<(), String> {
        let mut job = Job::new(command.clone());
        self.attempt(&mut job)?;
        while !job.is_idle() {
            self.advance(&mut job, None)?;
        }
        match job.told.clone() {
            Some(told) => self.compare(&job, &told, oracle),
            None => match oracle.execute(command) {
                Expected::Success(_) if matches!(command, Command::OpenAccount { .. }) => Ok(()),
                expected => Err(format!("{command:?} was not told, but {expected:?} was expected")),
            },
        }
    }

    fn compare(&mut self, job: &Job, told: &Outcome, oracle: &mut Oracle) -> Result<(), String> {
        if job.was_cancelled && told.result.is_err() {
            return Ok(());
        }
        if matches!(told.result, Err(Refusal { code: RefusalCode::TransactionCancelled, .. })) {
            return Err("cancelled, though nobody cancelled it".into());
        }
        let external = AccountId::external();
        let told = match &told.result {
            Ok(balances) => Expected::Success(
                balances
                    .iter()
                    .filter(|after| after.account != external)
                    .map(|after| (after.account.clone(), after.currency, after.available))
                    .collect(),
            ),
            Err(refusal) => Expected::Refused(*refusal),
        };
        let expected = oracle.execute(&job.command);
        if told == expected { Ok(()) } else { Err(format!("told {told:?}, expected {expected:?}")) }
    }

    /// A client asks, or asks again; or another instance finds the transaction. Goes on from the record, where there is one.
    pub(super) fn attempt(&mut self, job: &mut Job) -> Result<(), String> {
        let referenced = job.command.referenced_id().and_then(|id| self.find_record(id));
        let (plan, refusal) = match plan(&job.command, self.protocol, &self.placement, referenced.as_ref()) {
            Planned::Run(plan) => (plan, None),
            Planned::Refused(plan, refusal) => (plan, Some(refusal)),
            Planned::Open(shard, step) => {
                let answer = self.execute(shard, &step);
                return match answer {
                    Ok(Answer::Done(_) | Answer::Unchanged) => Ok(()),
                    answer => Err(format!("opening was answered {answer:?}")),
                };
            }
            Planned::Rejected(refusal) => return Err(format!("rejected: {refusal:?}")),
            Planned::Wait(_) => return Ok(()),
        };
        let mut claims = plan.claims(&self.placement);
        claims.reverse();
        let owner = plan.owner();
        job.instances.push(Instance::Claiming { claims, plan, refusal, owner });
        Ok(())
    }

    fn find_record(&mut self, transaction_id: TransactionId) -> Option<PhaseStatus> {
        let (owner, recorded_under) = *self.owners.get(&transaction_id)?;
        self.world.record(owner, recorded_under)
    }

    /// One step of one of the job's instances, all chosen at random.
    pub(super) fn advance(&mut self, job: &mut Job, fault: Option<Fault>) -> Result<(), String> {
        let index = self.random.usize(..job.instances.len());
        let (choice, shard, step) = match &job.instances[index] {
            Instance::Claiming { claims, .. } => {
                let (shard, step) = claims.last().ok_or("claims are done, and nothing follows")?;
                (0, *shard, step.clone())
            }
            Instance::Driving { waiting, .. } => {
                let choice = self.random.usize(..waiting.len());
                let (_, shard, step) = &waiting[choice];
                (choice, *shard, step.clone())
            }
            Instance::Travelling(travelling) => {
                let (shard, step) = travelling.next();
                (0, shard, step)
            }
        };
        let is_executed = !matches!(
            fault,
            Some(Fault::RequestLost | Fault::CrashBefore | Fault::Late | Fault::CancelledAndLate)
        );
        let answer = if is_executed { Some(self.execute(shard, &step)) } else { None };
        match fault {
            None => {
                if let Some(Ok(answer)) = answer {
                    self.answered(job, index, choice, answer)?;
                }
                return Ok(());
            }
            Some(Fault::Repeated) => {
                let again = self.execute(shard, &step);
                if let (Some(Ok(answer)), again) = (answer, again) {
                    is_same_answer(&step, &answer, &again)?;
                    self.answered(job, index, choice, answer)?;
                }
            }
            Some(Fault::AnswerLost) => {}
            Some(Fault::Restarted) => self.world.restart(shard),
            Some(Fault::RequestLost) => self.executed += 1,
            Some(Fault::CrashBefore | Fault::CrashAfter) => {
                self.executed += usize::from(!is_executed);
                job.instances.remove(index);
                self.attempt(job)?;
            }
            Some(Fault::CrashAfterTwice) => {
                job.instances.remove(index);
                self.attempt(job)?;
                self.attempt(job)?;
            }
            Some(Fault::Late) => {
                self.executed += 1;
                self.late.push((shard, step));
                job.instances.remove(index);
                self.attempt(job)?;
            }
            Some(Fault::Cancelled) => self.operator_cancels(job)?,
            Some(Fault::CancelledAndLate) => {
                self.executed += 1;
                self.late.push((shard, step));
                job.instances.remove(index);
                self.operator_cancels(job)?;
            }
        }
        if job.is_idle() && job.told.is_none() {
            self.attempt(job)?;
        }
        Ok(())
    }

    /// An operator's instance takes the transaction over and cancels it, if it has begun.
    fn operator_cancels(&mut self, job: &mut Job) -> Result<(), String> {
        if self.is_choreographed {
            // What travels cannot be called back.
            return Ok(());
        }
        let transaction_id = job.command.transaction_id().ok_or("only transactions are cancelled")?;
        let Some(status) = self.find_record(transaction_id) else { return Ok(()) };
        let lease = self.lease();
        let (mut machine, effects) = Machine::resume(status, lease);
        job.was_cancelled |= machine.cancel().is_ok();
        self.push_driving(job, machine, effects)
    }

    fn lease(&mut self) -> Lease {
        self.holder += 1;
        // Leases that have always run out: whatever goes wrong when two drive one transaction must be harmless.
        Lease { holder: self.holder, until: Timestamp::from_micros(0) }
    }

    fn push_driving(&mut self, job: &mut Job, machine: Machine, effects: Vec<Effect>) -> Result<(), String> {
        job.instances.push(Instance::Driving { machine: Box::new(machine), waiting: Vec::new() });
        let index = job.instances.len() - 1;
        perform(job, index, effects)
    }

    fn answered(&mut self, job: &mut Job, index: usize, choice: usize, answer: Answer) -> Result<(), String> {
        match &mut job.instances[index] {
            Instance::Driving { machine, waiting } => {
                let (ticket, _, _) = waiting.remove(choice);
                let effects = machine.answered(ticket, answer);
                perform(job, index, effects)
            }
            Instance::Travelling(travelling) => {
                match travelling.answered(answer) {
                    Onward::To(onward) => **travelling = *onward,
                    Onward::Begun(record) => **travelling = Travelling::again(*record),
                    Onward::Over(outcome) => {
                        return perform(job, index, vec![Effect::Finished(outcome), Effect::Over]);
                    }
                    Onward::Broken(why) => return Err(why),
                }
                Ok(())
            }
            Instance::Claiming { claims, owner, plan, refusal } => {
                let claimed = claims.pop();
                let Answer::Claimed(claim) = answer else {
                    return Err(format!("a claim was answered {answer:?}"));
                };
                if let Some((_, Step::Claim { transaction_id, .. })) = claimed {
                    self.owners.insert(transaction_id, (claim.owner, claim.recorded_under));
                }
                *owner = claim.owner;
                if !claims.is_empty() {
                    return Ok(());
                }
                let (plan, refusal) = (plan.clone().owned_by(claim.owner), *refusal);
                job.instances.remove(index);
                let lease = self.lease();
                let record = self.world.record(plan.owner(), plan.transaction_id);
                let is_travelling = self.is_choreographed && plan.branches.len() > 1 && refusal.is_none();
                if is_travelling && record.as_ref().is_none_or(|record| record.outcome.is_none()) {
                    let travelling = match record {
                        Some(record) => Travelling::again(record),
                        None => Travelling::begin(plan, lease, Timestamp::from_micros(1)),
                    };
                    job.instances.push(Instance::Travelling(Box::new(travelling)));
                    return Ok(());
                }
                let (machine, effects) = match record {
                    Some(status) => Machine::resume(status, lease),
                    None => match refusal {
                        None => Machine::begin(plan, lease, Timestamp::from_micros(1)),
                        Some(refusal) => {
                            Machine::begin_refused(plan, refusal, lease, Timestamp::from_micros(1))
                        }
                    },
                };
                self.push_driving(job, machine, effects)
            }
        }
    }

    pub(super) fn execute(&mut self, shard: ShardNumber, step: &Step) -> Result<Answer, NoAnswer> {
        self.executed += 1;
        self.world.execute(shard, step)
    }

    /// At every moment: what is missing from the sum over all shards is what branches still have to give.
    fn check_sums(&mut self, job: &Job) -> Result<(), String> {
        let imbalance: i128 = self.sums().map(|(sum, taken)| sum + taken).iter().sum();
        if imbalance == 0 {
            return Ok(());
        }
        let transaction_id = job.command.transaction_id().ok_or("opening an account moved money")?;
        let Some(status) = self.find_record(transaction_id) else {
            return Err(format!("{imbalance} are missing, and there is no record"));
        };
        let is_decided = status.second_phase.is_some() || self.protocol == Protocol::Saga;
        let nets: Vec<i128> = status.plan.branches.iter().map(net).collect();
        let explained = (0u32..1 << nets.len()).any(|given| {
            (0..nets.len()).filter(|branch| given >> branch & 1 == 1).map(|branch| nets[branch]).sum::<i128>()
                == imbalance
        });
        if is_decided && explained {
            Ok(())
        } else {
            Err(format!("{imbalance} are missing or too much: {status:?}"))
        }
    }

    /// The sum of all that shards have, and of all that is taken.
    pub(super) fn sums(&mut self) -> [(i128, i128); 1] {
        let mut all = (0, 0);
        for shard in 0..self.placement.shard_count {
            for (currency, sum, taken) in self.world.totals(ShardNumber(shard)) {
                if currency == usd() {
                    all = (all.0 + sum, all.1 + taken);
                }
            }
        }
        [all]
    }

    pub(super) fn check_nothing_open(&mut self) -> Result<(), String> {
        for shard in (0..self.placement.shard_count).map(ShardNumber) {
            let open = self.world.open_branches(shard);
            if open > 0 {
                return Err(format!("{open} branches on shard {} have no second phase", shard.0));
            }
        }
        Ok(())
    }

    /// Every account as the oracle has it, every history as it tells, nothing in flight, and a sum of zero.
    fn check(&mut self, oracle: &Oracle) -> Result<(), String> {
        if self.sums() != [(0, 0)] {
            return Err(format!("the sum of all money, and what is in flight: {:?}", self.sums()));
        }
        self.check_nothing_open()?;
        for number in 1..oracle.state.account_numbers() {
            let number = ledger::AccountNumber(number);
            let account = oracle.state.account_id(number).expect("numbers are dense").clone();
            let shard = crate::plan::Placement::shard_of(&self.placement, &account);
            let seen = self.world.account(shard, &account).ok_or(format!("{account} is not there"))?;
            let balance = seen.balances.iter().find(|(currency, _)| *currency == usd());
            let balance = balance.map(|(_, balance)| *balance).unwrap_or_default();
            let expected = (oracle.state.is_closed(number), oracle.state.balance(number, usd()));
            if (seen.closed, balance) != expected {
                return Err(format!("{account} is {:?}, expected {expected:?}", (seen.closed, balance)));
            }
            let entries = self.world.history(shard, &account);
            if !entries.is_sorted_by_key(|entry| (entry.sequence, entry.timestamp)) {
                return Err(format!("the history of {account} is out of order: {entries:?}"));
            }
            let told: Vec<_> = entries
                .iter()
                .map(|entry| (entry.transaction_id, entry.amount, entry.balance_after))
                .collect();
            let expected = oracle.entries.get(&account).map_or(&[][..], Vec::as_slice);
            if told != expected {
                return Err(format!("the history of {account} is {told:?}, expected {expected:?}"));
            }
        }
        Ok(())
    }
}

fn net(branch: &crate::port::Branch) -> i128 {
    let postings = branch.changes.iter().flat_map(|change| &change.postings);
    let by_task = match &branch.task {
        Some(crate::port::Task::SettleHold { confirm: Some(amount), .. }) => -i128::from(amount.signed()),
        _ => 0,
    };
    postings.map(|posting| i128::from(posting.amount)).sum::<i128>() + by_task
}

fn perform(job: &mut Job, index: usize, effects: Vec<Effect>) -> Result<(), String> {
    let mut is_over = false;
    for effect in effects {
        match effect {
            Effect::Send { ticket, shard, step } => match &mut job.instances[index] {
                Instance::Driving { waiting, .. } => waiting.push((ticket, shard, step)),
                Instance::Claiming { .. } | Instance::Travelling(_) => unreachable!("neither has a machine"),
            },
            Effect::Finished(outcome) => match &job.told {
                Some(told) if *told != outcome => {
                    return Err(format!("told {told:?} first, then {outcome:?}"));
                }
                _ => job.told = Some(outcome),
            },
            Effect::Elsewhere(lease) => return Err(format!("a lease that has run out holds: {lease:?}")),
            Effect::Broken(why) => return Err(why),
            Effect::Over => is_over = true,
        }
    }
    if is_over {
        job.instances.remove(index);
    }
    Ok(())
}

/// A repeat is answered word for word, or by the record that the first made.
fn is_same_answer(step: &Step, first: &Answer, again: &Result<Answer, NoAnswer>) -> Result<(), String> {
    let has_record = matches!(step, Step::Branch { record, .. } if !record.is_empty());
    match again {
        Ok(again) if again == first => Ok(()),
        Ok(Answer::Known(_)) if has_record => Ok(()),
        again => Err(format!("{step:?} was answered {first:?}, then {again:?}")),
    }
}
