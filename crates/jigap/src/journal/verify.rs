//! `jigap verify`: proves a data directory, a server on it or not, or names the first difference.

use std::time::{Duration, Instant};

use anyhow::anyhow;
use api::format_timestamp;
use ledger::{Totals, format_minor_units};
use serde_json::{Value, json};
use shards::partition::{self, Difference, VerifyError, VerifyReport};
use storage::objects::Purpose;

use super::PARTITION;
use super::source::verify_exit;
use super::upgrade::first_difference;
use crate::archive;
use crate::cli::{DirectorySettings, Output, OutputArguments};
use crate::data_directory::DataDirectory;
use crate::exit::Failure;
use crate::output::{print_json, print_table, table};
use crate::progress::Progress;
use crate::settings::Settings;

/// Verifies and reports.
pub(crate) fn verify(arguments: &DirectorySettings, output: OutputArguments) -> Result<(), Failure> {
    let settings = Settings::load(&arguments.0)?;
    let directory = DataDirectory::look_at(&settings.path("data-dir"))?;
    let mut options = partition::Options::new(directory.partition(PARTITION));
    options.partition = PARTITION;
    options.store_engine = settings.store_engine();
    options.store_cache_size_bytes = settings.number("store-cache-size");
    options.archive =
        archive::open(&settings, directory.path(), Purpose::Read)?.map(partition::ArchiveOptions::new);

    let started = Instant::now();
    let mut progress = Progress::new("verifying");
    let verified = partition::verify(&options, &mut |done, last| progress.report(done.0, last.0));
    progress.finish();
    let output = output.choose();
    match verified {
        Ok(report) => Ok(print_report(&report, started.elapsed(), output)?),
        Err(error) => {
            if output == Output::Programs {
                print_json(&failure_document(&error))?;
            }
            Err(failure(error))
        }
    }
}

fn failure(error: VerifyError) -> Failure {
    Failure::new(verify_exit(&error), anyhow!("not verified: {error}"))
}

fn failure_document(error: &VerifyError) -> Value {
    let mut document = json!({ "verified": false, "error": error.to_string() });
    if let VerifyError::Difference(difference) = error {
        let Difference { partition, sequence, what, expected, found, redecision } = difference.as_ref();
        document["first_difference"] = json!({
            "partition": partition,
            "sequence": sequence.0,
            "what": what,
            "expected": expected,
            "found": found,
            "redecision": redecision.as_ref().map(|told| first_difference(difference, told)),
        });
    }
    document
}

fn print_report(report: &VerifyReport, elapsed: Duration, output: Output) -> std::io::Result<()> {
    let seconds = elapsed.as_secs_f64();
    let per_second = report.events as f64 / seconds.max(1e-9);
    if output == Output::Programs {
        return print_json(&document(report, seconds, per_second));
    }
    let mut rows = table(&["what was verified", ""]);
    let checkpoint = match report.checkpoint {
        Some(sequence) => format!("compared at sequence {}", sequence.0),
        None => "the store is empty".to_owned(),
    };
    let sums: Vec<String> = report.totals.iter().map(sum).collect();
    rows.add_row(["frames, each with its checksum and its place in the chain", &report.frames.to_string()]);
    rows.add_row(["events applied", &report.events.to_string()]);
    rows.add_row(["commands decided again, with the same events", &report.commands.to_string()]);
    rows.add_row(["state store", &checkpoint]);
    rows.add_row(["sums of all accounts", &sums.join(", ")]);
    rows.add_row(["last sequence", &report.sequence.0.to_string()]);
    rows.add_row(["its time", &format_timestamp(report.timestamp)]);
    rows.add_row(["digest of the state", &report.digest.to_string()]);
    rows.add_row(["unfinished bytes at the end, never acknowledged", &report.torn_bytes.to_string()]);
    rows.add_row(["time", &format!("{seconds:.2} s, {per_second:.0} events/s")]);
    print_table(&rows)
}

/// With the currency, for people.
pub(super) fn sum(totals: &Totals) -> String {
    format!("{} {}", format_minor_units(totals.sum, totals.currency), totals.currency.code())
}

/// For programs.
pub(super) fn totals(totals: &[Totals]) -> Value {
    let total = |total: &Totals| json!({ "currency": total.currency.code(), "sum": format_minor_units(total.sum, total.currency) });
    totals.iter().map(total).collect()
}

fn document(report: &VerifyReport, seconds: f64, per_second: f64) -> Value {
    json!({
        "verified": true,
        "partition": PARTITION,
        "frames": report.frames,
        "commands": report.commands,
        "events": report.events,
        "sequence": report.sequence.0,
        "timestamp": format_timestamp(report.timestamp),
        "totals": totals(&report.totals),
        "digest": report.digest.to_string(),
        "checkpoint": report.checkpoint.map(|sequence| sequence.0),
        "torn_bytes": report.torn_bytes,
        "seconds": seconds,
        "events_per_second": per_second,
    })
}
