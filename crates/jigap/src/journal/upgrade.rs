//! `jigap upgrade-check`: whether this program decides recorded history as it was decided.

use std::time::{Duration, Instant};

use anyhow::anyhow;
use api::format_timestamp;
use ledger::{Decision, Event, Record, Refusal, Sequence};
use serde_json::{Value, json};
use shards::partition::{self, Difference, Redecision, UpgradeReport, VerifyError};

use super::PARTITION;
use super::dump::{command, event, flat};
use super::source::{source, verify_exit};
use super::verify::{sum, totals};
use crate::cli::{Output, UpgradeCheckArguments};
use crate::exit::{Exit, Failure};
use crate::output::{print_json, print_table, table};
use crate::progress::Progress;
use crate::settings::Settings;

/// Checks and reports.
pub(crate) fn check_upgrade(arguments: &UpgradeCheckArguments) -> Result<(), Failure> {
    let settings = Settings::load(&arguments.directory.0)?;
    let source = source(&settings, arguments.against.as_deref())?;
    let output = arguments.output.choose();
    let started = Instant::now();
    let mut progress = Progress::new("deciding again");
    let mut report_progress = |done: Sequence, last: Sequence| progress.report(done.0, last.0);
    let checked = partition::check_upgrade(&source, PARTITION, &mut report_progress);
    progress.finish();
    match checked {
        Ok(report) => Ok(print_report(&report, started.elapsed(), output)?),
        Err(error) => Err(report_failure(error, output)?),
    }
}

fn report_failure(error: VerifyError, output: Output) -> std::io::Result<Failure> {
    let redecision = match &error {
        VerifyError::Difference(difference) => difference.redecision.as_ref().map(|told| (difference, told)),
        _ => None,
    };
    let Some((difference, redecision)) = redecision else {
        if output == Output::Programs {
            print_json(&json!({ "same": false, "error": error.to_string() }))?;
        }
        return Ok(Failure::new(verify_exit(&error), anyhow!("not checked: {error}")));
    };
    if output == Output::Programs {
        print_json(&json!({ "same": false, "first_difference": first_difference(difference, redecision) }))?;
    }
    Ok(Failure::new(Exit::Refused, anyhow!("{}", explain(difference, redecision))))
}

/// What both sides say of the event that differs first, and of the whole command.
pub(super) fn first_difference(difference: &Difference, redecision: &Redecision) -> Value {
    let place = difference.sequence.0 - redecision.first_sequence.0;
    let (expected, actual) = (recorded(redecision), decided(redecision));
    json!({
        "partition": difference.partition,
        "sequence": difference.sequence.0,
        "timestamp": format_timestamp(redecision.timestamp),
        "command": command(&redecision.command),
        "expected": expected.get(place as usize),
        "actual": actual.get(place as usize),
        "expected_events": expected,
        "actual_events": actual,
    })
}

fn explain(difference: &Difference, redecision: &Redecision) -> String {
    let told = first_difference(difference, redecision);
    let side = |name: &str| match &told[name] {
        Value::Null => "no event".to_owned(),
        event => flat(event),
    };
    format!(
        "this program decides otherwise than it was decided, first at partition {} sequence {}:\n  command   {}\n  expected  {}\n  \
         actual    {}\nDo not upgrade: balances would depend on which program was running",
        difference.partition,
        difference.sequence.0,
        flat(&told["command"]),
        side("expected"),
        side("actual"),
    )
}

fn recorded(redecision: &Redecision) -> Vec<Value> {
    events(redecision, redecision.recorded.as_slice())
}

fn decided(redecision: &Redecision) -> Vec<Value> {
    match &redecision.decided {
        Decision::Accepted(decided) => events(redecision, decided),
        Decision::Unchanged => Vec::new(),
        // Not even an event: nothing would be recorded.
        Decision::Rejected(Refusal { code, .. }) => {
            vec![json!({ "type": "rejected", "code": code.name() })]
        }
    }
}

fn events(redecision: &Redecision, events: &[Event]) -> Vec<Value> {
    let record = |(place, event): (usize, &Event)| Record {
        sequence: Sequence(redecision.first_sequence.0 + place as u64),
        timestamp: redecision.timestamp,
        event: event.clone(),
    };
    events.iter().enumerate().map(record).map(|record| event(&record)).collect()
}

fn print_report(report: &UpgradeReport, elapsed: Duration, output: Output) -> std::io::Result<()> {
    let seconds = elapsed.as_secs_f64();
    let per_second = report.sequence.0 as f64 / seconds.max(1e-9);
    if output == Output::Programs {
        return print_json(&json!({
            "same": true,
            "partition": PARTITION,
            "frames": report.frames,
            "commands": report.commands,
            "sequence": report.sequence.0,
            "timestamp": format_timestamp(report.timestamp),
            "totals": totals(&report.totals),
            "digest": report.digest.to_string(),
            "seconds": seconds,
            "events_per_second": per_second,
        }));
    }
    let mut rows = table(&["what this program decides as it was decided", ""]);
    let sums: Vec<String> = report.totals.iter().map(sum).collect();
    rows.add_row(["commands, with the same events", &report.commands.to_string()]);
    rows.add_row(["events", &report.sequence.0.to_string()]);
    rows.add_row(["time of the last one", &format_timestamp(report.timestamp)]);
    rows.add_row(["sums of all accounts", &sums.join(", ")]);
    rows.add_row(["digest of the state", &report.digest.to_string()]);
    rows.add_row(["time", &format!("{seconds:.2} s, {per_second:.0} events/s")]);
    print_table(&rows)
}
