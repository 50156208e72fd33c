//! `jigap reconcile`: a bank statement against the ledger's deposits and withdrawals.
//!
//! [`mod@file`] reads a statement, [`ledger_side`] asks the wallet, [`matcher`] compares, [`report`] prints.

mod arguments;
mod camt053;
mod csv_file;
#[cfg(test)]
pub(crate) mod damage;
mod file;
mod ledger_side;
mod matcher;
#[cfg(test)]
mod matcher_tests;
mod money;
mod mt940;
mod report;
mod statement;
mod xml;

use anyhow::{Context, anyhow};
use chrono::{Days, NaiveDate, NaiveTime};
use ledger::Timestamp;

pub(crate) use arguments::{HELP, ReconcileArguments};

use crate::client::Client;
use crate::exit::{Exit, Failure, OrExit};
use crate::settings::Settings;
use ledger_side::Wanted;
use matcher::{Keys, LedgerEntry, Rules};
use report::Report;
use statement::StatementFile;

/// The metadata key that holds the bank's reference unless another is named.
const REFERENCE_KEY: &str = "reference";
/// In place of a metadata key: the transaction_id alone.
const ID_KEY: &str = "transaction_id";

/// Reads, asks, compares and prints.
pub(crate) fn run(arguments: &ReconcileArguments) -> Result<(), Failure> {
    let settings = Settings::load(&arguments.settings.0)?;
    let csv = arguments.csv_options();
    let (format, mut file) =
        file::read(&arguments.statement, arguments.format(), arguments.encoding.as_deref(), &csv)?;
    let mut statement: Vec<_> =
        file.statements.iter().flat_map(|statement| statement.entries.iter().cloned()).collect();
    let told = statement.len();
    statement.retain(|entry| entry.money.minor_units != 0);
    if statement.len() < told {
        // Banks book the end of a quarter so. The ledger has no such entries.
        let zeros = told - statement.len();
        file.warnings.push(format!("{zeros} entries of the statement move no money and are left out"));
    }
    let range = Range::of(&file, arguments)?;
    let wanted = Wanted {
        accounts: &arguments.accounts,
        since: range.look_since,
        until: range.look_until,
        reference_key: arguments.reference_key.as_deref().unwrap_or(REFERENCE_KEY),
    };
    let ledger = ledger_side::read(&Client::new(&settings), &wanted)?;
    let keys = match arguments.reference_key.as_deref() {
        None => Keys::All,
        Some(ID_KEY) => Keys::TransactionId,
        Some(_) => Keys::Reference,
    };
    let rules = Rules { date_window: arguments.date_window, keys };
    let mut outcome = matcher::reconcile(&statement, &ledger, rules);
    // What lies outside of the period and matches nothing belongs to another statement.
    let found = outcome.missing_in_statement.len();
    outcome.missing_in_statement.retain(|index| range.counts(&ledger[*index]));
    let beside = found - outcome.missing_in_statement.len();
    if beside > 0 {
        let warning =
            format!("{beside} ledger entries around the statement's days match nothing and are not counted");
        file.warnings.push(warning);
    }
    let report = Report {
        format,
        file: &file,
        statement: &statement,
        ledger: &ledger,
        outcome: &outcome,
        range: &range,
    };
    report.print(arguments.output(), arguments.differences_only)?;
    match report.differences() {
        0 => Ok(()),
        count => {
            let why = anyhow!("{count} differences between {} and the ledger", arguments.statement.display());
            Err(Failure::new(Exit::Different, why))
        }
    }
}

/// Which of the ledger's entries are looked at, and which must be in the statement.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Range {
    pub(crate) since: Timestamp,
    pub(crate) until: Timestamp,
    look_since: Timestamp,
    look_until: Timestamp,
}

impl Range {
    fn of(file: &StatementFile, arguments: &ReconcileArguments) -> Result<Range, Failure> {
        let days = file.days();
        let told = || {
            days.ok_or_else(|| {
                Failure::usage("the statement is empty and names no days; say --since and --until")
            })
        };
        let window = Days::new(arguments.date_window.into());
        let (since, look_since) = match arguments.since {
            Some(since) => (since, since),
            None => {
                let (first, _) = told()?;
                (start_of(Some(first))?, start_of(first.checked_sub_days(window))?)
            }
        };
        let (until, look_until) = match arguments.until {
            Some(until) => (until, until),
            None => {
                let (_, last) = told()?;
                let end = last.checked_add_days(Days::new(1));
                (start_of(end)?, start_of(end.and_then(|end| end.checked_add_days(window)))?)
            }
        };
        if since >= until {
            let (since, until) = (api::format_timestamp(since), api::format_timestamp(until));
            return Err(Failure::usage(format!("--until {until} is not after --since {since}")));
        }
        Ok(Range { since, until, look_since, look_until })
    }

    fn counts(&self, entry: &LedgerEntry) -> bool {
        api::parse_timestamp(&entry.timestamp).is_none_or(|time| self.since <= time && time < self.until)
    }
}

fn start_of(day: Option<NaiveDate>) -> Result<Timestamp, Failure> {
    let day = day.context("the statement's days are at the end of the calendar").or_exit(Exit::Usage)?;
    Ok(Timestamp::from_micros(day.and_time(NaiveTime::MIN).and_utc().timestamp_micros()))
}
