//! `jigap compare`: the same workload and the same fault on wallets of several architectures, and what each is made for, in one table.
//!
//! It starts nothing: wallets run already, and whoever starts them says in the configuration how each is killed.

mod arguments;
mod chapter;
mod config;
mod fault;
mod plot;
mod report;
mod wallet;

pub(crate) use arguments::CompareArguments;

use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};

use crate::bench::{Figures, LoadShape, Session, Transport};
use crate::cli::Output;
use crate::exit::{Exit, Failure, OrExit};
use crate::output::{print_json, print_line, print_table};
use config::{Config, Entry};
use fault::{Fault, Kill};
use report::Report;
use wallet::Wallet;

/// What was measured of one architecture.
struct Row {
    entry: Entry,
    loads: Vec<Figures>,
    kills: Vec<Kill>,
    /// Whether it answers what an account had in the past.
    answers_the_past: bool,
    /// Accounts with another balance than the transfers make it; `None` when that cannot be told.
    wrong_balances: Option<u64>,
}

/// Measures every architecture, and writes the comparison.
pub(crate) fn run(arguments: &CompareArguments) -> Result<(), Failure> {
    let config = Config::read(&arguments.config)?;
    if arguments.transports().contains(&Transport::GrpcStream)
        && let Some(entry) = config.entries.iter().find(|entry| !entry.has_grpc)
    {
        let label = &entry.label;
        return Err(Failure::usage(format!("--transport grpc-stream needs `grpc-server` of {label}")));
    }
    let wallets: Vec<Wallet> = config.entries.iter().map(Wallet::reach).collect::<Result<_, Failure>>()?;
    let out = &arguments.out;
    std::fs::create_dir_all(out)
        .with_context(|| format!("cannot make {}", out.display()))
        .or_exit(Exit::Failed)?;
    let seed = arguments.seed.unwrap_or_else(|| uuid::Uuid::new_v4().as_u64_pair().0);
    let mut rows = Vec::new();
    let mut failure = None;
    let began = Instant::now();
    for (number, (entry, wallet)) in config.entries.iter().zip(&wallets).enumerate() {
        let tell = |what: &str| {
            let (number, all, seconds) = (number + 1, wallets.len(), began.elapsed().as_secs());
            eprintln!("{seconds:>4} s [{number}/{all}] {}: {what}", entry.label);
        };
        match measure(arguments, entry, wallet, seed, tell) {
            Ok(row) => rows.push(row),
            // What was measured so far is worth keeping.
            Err(error) => {
                let error = Failure { error: error.error.context(entry.label.clone()), ..error };
                failure = Some(error);
                break;
            }
        }
    }
    let report = Report { arguments, config: &config, rows: &rows, seed };
    report.write(out)?;
    match arguments.output.choose() {
        Output::Programs => print_json(&report.document())?,
        Output::People => {
            print_table(&report.table())?;
            print_line(&format!("written to {}", out.display()))?;
        }
    }
    match failure {
        Some(failure) => Err(failure),
        None => verdict(&rows),
    }
}

fn measure(
    arguments: &CompareArguments,
    entry: &Entry,
    wallet: &Wallet,
    seed: u64,
    tell: impl Fn(&str),
) -> Result<Row, Failure> {
    tell(&format!("opening and funding {} accounts", arguments.accounts));
    let mut session = Session::open(wallet.target().clone(), arguments.accounts, seed)?;
    let answers_the_past = wallet.answers_the_past()?;
    let mut loads = Vec::new();
    for transport in arguments.transports() {
        let shape = arguments.load(transport);
        tell(&format!(
            "load over {}, {:.1} s",
            transport.name(),
            (shape.warm_up + shape.duration).as_secs_f64()
        ));
        loads.push(session.measure(&shape)?);
    }
    let mut kills = Vec::new();
    if let Some(kill) = &entry.kill {
        let fault = Fault {
            wallet,
            kill,
            start: entry.start.as_deref(),
            load: LoadShape { warm_up: Duration::ZERO, ..arguments.load(Transport::Http) },
            kill_after: arguments.kill_after(),
            settle_patience: arguments.settle_patience(),
        };
        let mut difference = wallet.check()?.difference;
        for number in 1..=arguments.kills {
            tell(&format!("kill {number} of {} under load", arguments.kills));
            let killed = fault.inflict(&mut session, difference)?;
            difference = killed.difference_after_repeats;
            kills.push(killed);
        }
    }
    tell("comparing every balance");
    let wrong_balances = session.wrong_balances()?;
    Ok(Row { entry: entry.clone(), loads, kills, answers_the_past, wrong_balances })
}

/// Money may be missing where the architecture says so, and nowhere else.
fn verdict(rows: &[Row]) -> Result<(), Failure> {
    let damage: Vec<String> = rows.iter().flat_map(Row::damage).collect();
    if damage.is_empty() {
        return Ok(());
    }
    Err(Failure::new(Exit::Damaged, anyhow!("{}", damage.join("\n  "))))
}

impl Row {
    fn load(&self, transport: Transport) -> Option<&Figures> {
        self.loads.iter().find(|load| load.shape.transport == transport)
    }

    /// What must not be, whatever the load and the fault.
    fn damage(&self) -> Vec<String> {
        let mut damage = Vec::new();
        let acknowledged = self.loads.iter().map(|load| &load.acknowledged);
        for found in acknowledged.chain(self.kills.iter().map(|kill| &kill.acknowledged)) {
            if found.found < found.checked {
                let missing = found.checked - found.found;
                let example = found.first_mistake.as_deref().unwrap_or_default();
                damage.push(format!("{missing} acknowledged transfers are missing or different: {example}"));
            }
        }
        if !self.entry.chapter.loses_money {
            if self.kills.iter().any(|kill| kill.lost() > 0 || kill.doubled() > 0) {
                damage.push("money was lost or doubled when it was killed".to_owned());
            }
            if let Some(wrong @ 1..) = self.wrong_balances {
                damage.push(format!("{wrong} accounts have another balance than their transfers make it"));
            }
        }
        damage.into_iter().map(|what| format!("{}: {what}", self.entry.label)).collect()
    }
}
