//! The suite that every kind of shard passes with every protocol, against the real thing. For tests only (feature `conformance`).
//!
//! [`run`] takes each command that the wallet knows through each protocol, once for each step and each thing that can go wrong with it:
//! the step repeated, its answer or itself lost, the coordinator gone before and after it with one or two others taking over, the shard
//! restarted, the step arriving long after all is over, an operator cancelling. After each: every account and history as `ledger` alone
//! would have made them, one outcome told, sums of zero with nothing in flight, and every repeat answered as before. [`chaos`] lets many
//! transactions and faults loose on few accounts at once.
//!
//! Everything that is random comes from a seed, which every failure names.

mod chaos;
mod memory;
mod oracle;
#[cfg(test)]
mod rules;
mod runner;
mod scenarios;
#[cfg(test)]
mod tests;

use ledger::{AccountId, Balance, Currency, TransactionId};

use crate::port::{Answer, Entry, NoAnswer, PhaseStatus, Protocol, ShardNumber, Step};

pub use chaos::{Chaos, chaos};
pub use memory::{Memory, Mutant};
pub use runner::{FAULTS, Fault};

/// Shards under test. At least three; they may have other accounts, as long as their sums are zero and nothing is in flight.
pub trait World {
    /// How many shards there are.
    fn shard_count(&self) -> u32;

    /// Executes one step.
    fn execute(&mut self, shard: ShardNumber, step: &Step) -> Result<Answer, NoAnswer>;

    /// Kills a shard and starts it again, where that can be done.
    fn restart(&mut self, shard: ShardNumber) {
        let _ = shard;
    }

    /// The record of a transaction.
    fn record(&mut self, shard: ShardNumber, transaction_id: TransactionId) -> Option<PhaseStatus>;

    /// An account, `@external` too.
    fn account(&mut self, shard: ShardNumber, account: &AccountId) -> Option<AccountSeen>;

    /// The whole history of an account, oldest first.
    fn history(&mut self, shard: ShardNumber, account: &AccountId) -> Vec<Entry>;

    /// By currency: the sum of everything available and held, and the sum of what is taken and neither given nor returned.
    fn totals(&mut self, shard: ShardNumber) -> Vec<(Currency, i128, i128)>;

    /// How many branches had their first phase and no second, prepared transactions among them; 0 where that cannot be told.
    fn open_branches(&mut self, shard: ShardNumber) -> usize {
        let _ = shard;
        0
    }

    /// Releases every hold that has lapsed.
    fn expire_holds(&mut self, shard: ShardNumber);
}

/// An account as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountSeen {
    /// True once it was closed.
    pub closed: bool,
    /// By currency; a currency of which there never was money may be missing.
    pub balances: Vec<(Currency, Balance)>,
}

/// How much of the suite is run.
#[derive(Debug, Clone)]
pub struct Options {
    /// With which protocols.
    pub protocols: Vec<Protocol>,
    /// True when a Saga travels from shard to shard, and no coordinator drives it.
    pub choreographed: bool,
    /// Every how many cases one is run: 1 is all of them.
    pub stride: usize,
    /// What random choices begin with.
    pub seed: u64,
    /// Makes ids and names of this run differ from those of others on the same shards.
    pub run: u64,
}

/// What was run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Cases, by what went wrong in them.
    pub cases: Vec<(String, usize)>,
    /// Steps that shards executed.
    pub steps: usize,
}

impl Report {
    /// How many cases in all.
    pub fn count(&self) -> usize {
        self.cases.iter().map(|(_, count)| count).sum()
    }
}

/// Runs the suite; the first failure, with what repeats it.
pub fn run(world: &mut dyn World, options: &Options) -> Result<Report, String> {
    let mut report = Report::default();
    let mut case = 0;
    for protocol in &options.protocols {
        for index in 0..scenarios::COUNT {
            case += 1;
            let number = options.run << 32 | case;
            let plain = scenarios::Case { index, protocol: *protocol, fault: None, options, number };
            let steps = runner::run_case(world, &plain)?;
            report.note("nothing", steps.executed);
            for (at, fault) in (0..steps.of_command).flat_map(|at| FAULTS.map(|fault| (at, fault))) {
                case += 1;
                if !(case as usize).is_multiple_of(options.stride) {
                    continue;
                }
                let number = options.run << 32 | case;
                let case = scenarios::Case { fault: Some((at, fault)), number, ..plain.clone() };
                let steps = runner::run_case(world, &case)?;
                report.note(fault.name(), steps.executed);
            }
        }
    }
    Ok(report)
}

impl Report {
    fn note(&mut self, what: &str, steps: usize) {
        self.steps += steps;
        match self.cases.iter_mut().find(|(name, _)| name == what) {
            Some((_, count)) => *count += 1,
            None => self.cases.push((what.to_owned(), 1)),
        }
    }
}
