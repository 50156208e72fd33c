//! Many transactions on few accounts at once, and faults at any moment.

use std::collections::BTreeMap;

use ledger::{AccountId, Command, Group, Metadata, TransactionId, Transfer};

use super::runner::{FAULTS, Job, Runner};
use super::scenarios::{movement, open, usd};
use super::{Fault, World};
use crate::port::{Protocol, ShardNumber};

/// What is let loose.
#[derive(Debug, Clone)]
pub struct Chaos {
    /// With which protocol.
    pub protocol: Protocol,
    /// True when a Saga travels from shard to shard, and no coordinator drives it.
    pub choreographed: bool,
    /// What random choices begin with.
    pub seed: u64,
    /// How many transactions.
    pub transactions: usize,
    /// What each of six accounts has in the beginning, and the most that is moved at once. Little leads to many refusals for want of
    /// money; a third of 2^63 to some for want of room.
    pub funds: u64,
    /// How many of them run side by side.
    pub in_flight: usize,
    /// Makes ids and names of this run differ from those of others on the same shards.
    pub run: u64,
}

/// How many steps a run takes at most for each transaction; whoever needs more hangs.
const STEPS_PER_TRANSACTION_MAX: usize = 500;
const NAMES: [&str; 6] = ["0.a", "0.b", "1.c", "1.d", "2.e", "2.f"];

/// Runs it, and checks that what moved is what succeeded; answers how many succeeded and how many were refused.
pub fn chaos(world: &mut dyn World, chaos: &Chaos) -> Result<(usize, usize), String> {
    let mut field = Field {
        runner: Runner::new(world, chaos.seed, chaos.protocol, chaos.choreographed),
        accounts: NAMES
            .iter()
            .map(|name| AccountId::parse(&format!("{name}.{}", chaos.run)).expect("the name is short"))
            .collect(),
        run: chaos.run,
        funds: chaos.funds,
        next_id: 0,
        finished: Vec::new(),
        faults: 0,
    };
    field.run(chaos).map_err(|why| format!("{chaos:?}: {why}"))
}

struct Field<'world> {
    runner: Runner<'world>,
    accounts: Vec<AccountId>,
    run: u64,
    funds: u64,
    next_id: u128,
    finished: Vec<Job>,
    faults: usize,
}

impl Field<'_> {
    fn run(&mut self, chaos: &Chaos) -> Result<(usize, usize), String> {
        for account in self.accounts.clone() {
            self.alone(open(&account))?;
            let deposit = movement(self.id(), &AccountId::external(), &account, chaos.funds);
            self.alone(Command::Transfer(deposit))?;
        }
        let mut jobs: Vec<Job> = Vec::new();
        let mut begun = 0;
        let mut limit = chaos.transactions * STEPS_PER_TRANSACTION_MAX;
        while begun < chaos.transactions || !jobs.is_empty() {
            limit = limit.checked_sub(1).ok_or("it does not come to an end")?;
            if begun < chaos.transactions && jobs.len() < chaos.in_flight {
                let mut job = Job::new(self.command());
                self.runner.attempt(&mut job)?;
                jobs.push(job);
                begun += 1;
            }
            let index = self.runner.random.usize(..jobs.len());
            self.advance(&mut jobs[index])?;
            if jobs[index].is_idle() {
                let job = jobs.swap_remove(index);
                if job.told.is_none() {
                    return Err(format!("nobody was told of {:?}", job.command));
                }
                self.finished.push(job);
            }
            self.deliver_late(false);
            self.check_never_negative()?;
        }
        self.deliver_late(true);
        let counts = self.check()?;
        self.pay_out()?;
        Ok(counts)
    }

    fn id(&mut self) -> TransactionId {
        self.next_id += 1;
        TransactionId((u128::from(self.run) << 64) | self.next_id)
    }

    fn alone(&mut self, command: Command) -> Result<(), String> {
        let mut job = Job::new(command);
        self.runner.attempt(&mut job)?;
        while !job.is_idle() {
            self.runner.advance(&mut job, None)?;
        }
        self.finished.extend(job.told.is_some().then_some(job));
        Ok(())
    }

    fn transfer(&mut self) -> Transfer {
        let from = self.runner.random.usize(..self.accounts.len());
        let to = (from + 1 + self.runner.random.usize(..self.accounts.len() - 1)) % self.accounts.len();
        let amount = self.runner.random.u64(1..=self.funds);
        let transaction_id = self.id();
        movement(transaction_id, &self.accounts[from], &self.accounts[to], amount)
    }

    fn command(&mut self) -> Command {
        match self.runner.random.u8(..10) {
            0..=1 => {
                let transaction_id = self.id();
                let legs = (0..self.runner.random.usize(2..=4)).map(|_| self.transfer()).collect();
                Command::Group(Box::new(Group { transaction_id, legs }))
            }
            // One of the last few, so that two often reverse the same.
            2..=3 if self.finished.len() > NAMES.len() => {
                let recent = self.finished.len() - 1 - self.runner.random.usize(..3);
                let original_id =
                    self.finished[recent].command.transaction_id().expect("accounts were opened before");
                Command::Reverse { transaction_id: self.id(), original_id, metadata: Metadata::default() }
            }
            _ => Command::Transfer(self.transfer()),
        }
    }

    fn advance(&mut self, job: &mut Job) -> Result<(), String> {
        let fault =
            (self.runner.random.u8(..100) < 12).then(|| FAULTS[self.runner.random.usize(..FAULTS.len())]);
        // Restarts are slow where they are real, and are tried at every step by the other suite.
        let fault = fault.filter(|fault| *fault != Fault::Restarted);
        self.faults += usize::from(fault.is_some());
        self.runner.advance(job, fault)
    }

    fn deliver_late(&mut self, all: bool) {
        while !self.runner.late.is_empty() && (all || self.runner.random.u8(..100) < 5) {
            let index = self.runner.random.usize(..self.runner.late.len());
            let (shard, step) = self.runner.late.swap_remove(index);
            let _ = self.runner.execute(shard, &step);
            if !all {
                break;
            }
        }
    }

    fn available(&mut self, account: &AccountId) -> i64 {
        let shard =
            account.as_str().split('.').next().and_then(|number| number.parse().ok()).map(ShardNumber);
        let seen = self.runner.world.account(shard.expect("names begin with their shard"), account);
        let balances = seen.map_or_else(Vec::new, |seen| seen.balances);
        balances.iter().find(|(currency, _)| *currency == usd()).map_or(0, |(_, balance)| balance.available)
    }

    fn check_never_negative(&mut self) -> Result<(), String> {
        for account in self.accounts.clone() {
            let available = self.available(&account);
            if available < 0 {
                return Err(format!("{account} has {available}"));
            }
        }
        Ok(())
    }

    /// The naive model: whatever succeeded moved its money once, in whichever order.
    fn check(&mut self) -> Result<(usize, usize), String> {
        if self.runner.sums() != [(0, 0)] {
            return Err(format!("the sum of all money, and what is in flight: {:?}", self.runner.sums()));
        }
        self.runner.check_nothing_open()?;
        let mut movements: BTreeMap<TransactionId, (AccountId, AccountId, i128)> = BTreeMap::new();
        let mut reversed = BTreeMap::new();
        let (mut succeeded, mut refused) = (0, 0);
        for job in &self.finished {
            if job.told.as_ref().is_none_or(|told| told.result.is_err()) {
                refused += 1;
                continue;
            }
            succeeded += 1;
            let legs = match &job.command {
                Command::Transfer(transfer) => std::slice::from_ref(transfer),
                Command::Group(group) => &group.legs[..],
                Command::Reverse { transaction_id, original_id, .. } => {
                    let (from, to, amount) =
                        movements.get(original_id).ok_or("a reversal of nothing")?.clone();
                    movements.insert(*transaction_id, (to, from, amount));
                    if let Some(other) = reversed.insert(*original_id, *transaction_id) {
                        return Err(format!("{original_id} was reversed by {other} and by {transaction_id}"));
                    }
                    continue;
                }
                other => return Err(format!("{other:?} is not part of this")),
            };
            for leg in legs {
                let name = |account: &ledger::AccountRef| match account {
                    ledger::AccountRef::Named(name) => name.clone(),
                    ledger::AccountRef::Number(_) => AccountId::external(),
                };
                let movement = (name(&leg.from), name(&leg.to), i128::from(leg.amount.signed()));
                movements.insert(leg.transaction_id, movement);
            }
        }
        let mut expected: BTreeMap<AccountId, i128> = BTreeMap::new();
        for (from, to, amount) in movements.into_values() {
            *expected.entry(from).or_default() -= amount;
            *expected.entry(to).or_default() += amount;
        }
        for account in self.accounts.clone() {
            let (available, expected) =
                (self.available(&account), expected.get(&account).copied().unwrap_or(0));
            if i128::from(available) != expected {
                return Err(format!("{account} has {available}, expected {expected}"));
            }
            self.check_history(&account, available)?;
        }
        Ok((succeeded, refused))
    }

    /// So that the shards can be used again: `@external` has a part on each, which must not leave its range.
    fn pay_out(&mut self) -> Result<(), String> {
        for account in self.accounts.clone() {
            let available = self.available(&account);
            if available > 0 {
                let withdrawal =
                    movement(self.id(), &account, &AccountId::external(), available.unsigned_abs());
                self.alone(Command::Transfer(withdrawal))?;
            }
        }
        if self.runner.sums() == [(0, 0)] { Ok(()) } else { Err("the sum of all money is not zero".into()) }
    }

    fn check_history(&mut self, account: &AccountId, available: i64) -> Result<(), String> {
        let shard =
            account.as_str().split('.').next().and_then(|number| number.parse().ok()).map(ShardNumber);
        let mut running = 0;
        for entry in self.runner.world.history(shard.expect("names begin with their shard"), account) {
            running += entry.amount;
            if entry.balance_after != running {
                return Err(format!("the history of {account} does not add up to {running}: {entry:?}"));
            }
        }
        if running == available {
            Ok(())
        } else {
            Err(format!("the history of {account} ends at {running}, not {available}"))
        }
    }
}
