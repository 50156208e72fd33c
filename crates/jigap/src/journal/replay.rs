//! `jigap replay`: every event of a history applied, from the first one on.

use std::time::{Duration, Instant};

use anyhow::anyhow;
use api::format_timestamp;
use serde_json::{Value, json};
use shards::partition::{self, DigestAt, Moment, ReplayOptions, ReplayReport};

use super::PARTITION;
use super::source::{moment, replay_exit, source};
use super::verify::{sum, totals};
use crate::cli::{Output, ReplayArguments};
use crate::exit::{Exit, Failure};
use crate::output::{print_json, print_line, print_table, table};
use crate::progress::Progress;
use crate::settings::Settings;

/// Replays and reports.
pub(crate) fn replay(arguments: &ReplayArguments) -> Result<(), Failure> {
    let settings = Settings::load(&arguments.directory.0)?;
    let until = arguments.until.as_deref().map_or(Ok(Moment::Latest), |text| moment("until", text))?;
    let options = ReplayOptions {
        source: source(&settings, arguments.from.as_deref())?,
        until,
        digest_every: arguments.digest_every,
    };
    let output = arguments.output.choose();
    let started = Instant::now();
    let progress = std::cell::RefCell::new(Progress::new("replaying"));
    let mut printed = Ok(());
    let replayed = partition::replay(
        &options,
        &mut |done, last| progress.borrow_mut().report(done.0, last.0),
        &mut |at| {
            if printed.is_ok() {
                printed = progress.borrow().beside(|| print_digest(&at, output));
            }
        },
    );
    progress.into_inner().finish();
    printed?;
    match replayed {
        Ok(report) => Ok(print_report(&report, started.elapsed(), output)?),
        Err(error) => {
            if output == Output::Programs {
                print_json(&json!({ "replayed": false, "error": error.to_string() }))?;
            }
            let exit = replay_exit(&error);
            let what = if exit == Exit::Damaged { "not replayed: " } else { "" };
            Err(Failure::new(exit, anyhow!("{what}{error}")))
        }
    }
}

fn position(at: &DigestAt) -> Value {
    json!({
        "sequence": at.sequence.0,
        "timestamp": format_timestamp(at.timestamp),
        "digest": at.digest.to_string(),
    })
}

fn print_digest(at: &DigestAt, output: Output) -> std::io::Result<()> {
    match output {
        Output::Programs => print_json(&position(at)),
        Output::People => {
            let time = format_timestamp(at.timestamp);
            print_line(&format!("event {:>12}  {time}  {}", at.sequence.0, at.digest))
        }
    }
}

fn print_report(report: &ReplayReport, elapsed: Duration, output: Output) -> std::io::Result<()> {
    let seconds = elapsed.as_secs_f64();
    let per_second = report.end.sequence.0 as f64 / seconds.max(1e-9);
    if output == Output::Programs {
        let mut document = position(&report.end);
        document["replayed"] = json!(true);
        document["partition"] = json!(PARTITION);
        document["frames"] = json!(report.frames);
        document["accounts"] = json!(report.accounts);
        document["totals"] = totals(&report.totals);
        document["recorded_sequence"] = json!(report.recorded.0);
        document["seconds"] = json!(seconds);
        document["events_per_second"] = json!(per_second);
        return print_json(&document);
    }
    let mut rows = table(&["what was replayed", ""]);
    let sums: Vec<String> = report.totals.iter().map(sum).collect();
    let left_out = report.recorded.0 - report.end.sequence.0;
    rows.add_row(["frames, each with its checksum and its place in the chain", &report.frames.to_string()]);
    rows.add_row(["events applied", &report.end.sequence.0.to_string()]);
    rows.add_row(["later events, left out", &left_out.to_string()]);
    rows.add_row(["time of the last one", &format_timestamp(report.end.timestamp)]);
    rows.add_row(["accounts", &report.accounts.to_string()]);
    rows.add_row(["sums of all accounts", &sums.join(", ")]);
    rows.add_row(["digest of the state", &report.end.digest.to_string()]);
    rows.add_row(["time", &format!("{seconds:.2} s, {per_second:.0} events/s")]);
    print_table(&rows)
}
