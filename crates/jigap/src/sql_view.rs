//! `jigap views sql`: the ledger in the tables of a user's database, for anyone's questions in SQL.
//!
//! ```text
//! wallet ──Subscribe──> events ──cut at a frame──> rows (pure) ──one transaction with the position──> PostgreSQL or SQLite
//! ```
//!
//! It is a client like any other: it reads the public stream of events, needs no file of the wallet, and is nothing that the wallet waits for.

mod database;
mod follow;
mod postgres;
mod rows;
mod sqlite;

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use anyhow::Context;
use api::client::{Client, Options};
use clap::Args;
use ledger::Timestamp;
use serde_json::json;
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::cli::{ClientArguments, Output};
use crate::exit::{Exit, Failure, OrExit};
use crate::logging;
use crate::output::print_json;
use crate::progress::Progress as Bar;
use crate::settings::Settings;
use database::Target;
use follow::{FollowError, Follower, Progress};

pub(crate) const HELP: &str = "\
The tables are in the schema `jigap` (PostgreSQL), or have names that begin with `jigap_` (SQLite):
  accounts       every account: handle, when it was opened and closed, metadata
  balances       available and held, of every account and currency
  transactions   what became of every transaction_id: type, status, both accounts, amount, code of a refusal, group, metadata
  postings       every change of a balance, with the balance that it left behind
  currencies     how many digits stand after the point
  position       how far the ledger is followed
Columns that end in _minor are whole minor units (1250 is 12.50 USD); the views balances_decimal, transactions_decimal and
postings_decimal show decimals. Add indices and views of your own as you like. Grant SELECT to whoever asks questions.

Rows and position are written in one transaction, so that every event is there exactly once, whatever is killed, and never half a
group. It may be stopped at any time and goes on where it was. When the wallet or the database is away, it waits, for ever unless
--patience says otherwise. Several may run at once: one writes, the others step in when it ends.

In a URL of PostgreSQL, sslmode is disable, prefer (the default: encrypted if the server can), require (encrypted, whoever the server
is) or verify-full (the server must prove its name, to the authorities in sslrootcert=FILE or to those of this machine). The
password comes from the URL or from PGPASSWORD.

Examples:
  jigap views sql --to sqlite://wallet.sqlite --once                  everything up to now, then exit
  jigap views sql --to postgres://bi@db.example/warehouse             follow for ever
  jigap views sql --to postgres://bi@db.example/warehouse --drop      throw the tables away and build them again
  psql -c \"SELECT currency, sum(available) FROM jigap.balances_decimal WHERE account_id <> '@external' GROUP BY 1\"";

/// `views sql`.
#[derive(Debug, Args)]
pub(crate) struct SqlArguments {
    /// The database: postgres://USER@HOST/DATABASE or sqlite://FILE
    #[arg(long, value_name = "URL")]
    to: String,
    /// Exit when everything that was committed at the start is in the tables
    #[arg(long)]
    once: bool,
    /// Throw the tables away first, and build them again from the first event
    #[arg(long)]
    drop: bool,
    /// Give up when the wallet or the database is away for so long; without it, never
    #[arg(long, value_name = "SECONDS")]
    patience: Option<u64>,
    #[command(flatten)]
    client: ClientArguments,
}

/// How often a line tells how far it is, while something happens.
const LOG_INTERVAL: Duration = Duration::from_secs(10);
const LINE_INTERVAL: Duration = Duration::from_secs(1);

/// Follows until it is done, or a signal says to stop.
pub(crate) fn run(arguments: &SqlArguments) -> Result<(), Failure> {
    let settings = Settings::load(&arguments.client.settings.0)?;
    logging::start(&settings, None);
    let target = Target::parse(&arguments.to).map_err(|why| Failure::usage(format!("--to: {why}")))?;
    let runtime =
        Builder::new_multi_thread().worker_threads(1).thread_name("jigap-network").enable_all().build();
    let runtime = runtime.context("cannot start the asynchronous runtime")?;
    let options =
        Options { patience: Duration::from_millis(settings.number("timeout")), ..Options::default() };
    let client = {
        let _runtime = runtime.enter();
        Client::new(settings.text("grpc-server"), options).or_exit(Exit::Usage)?
    };
    let follower = Follower {
        stopping: stop_on_signals(&runtime)?,
        runtime: &runtime,
        client,
        target,
        once: arguments.once,
        patience: arguments.patience.map(Duration::from_secs),
    };
    if arguments.drop {
        follower.make_anew().map_err(failure)?;
        tracing::info!(database = %follower.target, "the tables are empty");
    }
    tracing::info!(wallet = settings.text("grpc-server"), database = %follower.target, "following");
    let mut reporter = Reporter::new(arguments.client.output.choose());
    let ended = follower.run(&mut |progress| reporter.report(progress));
    reporter.finish()?;
    // The reading task may be in the middle of a call.
    runtime.shutdown_background();
    ended.map_err(failure)
}

fn failure(error: FollowError) -> Failure {
    let exit = match error {
        FollowError::Unusable(_) => Exit::Directory,
        FollowError::Refused(_) => Exit::Refused,
        FollowError::Unavailable(_) => Exit::Unavailable,
    };
    Failure::new(exit, error)
}

/// The first signal asks to stop between two transactions; the second does not wait.
fn stop_on_signals(runtime: &Runtime) -> Result<watch::Receiver<bool>, Failure> {
    let _runtime = runtime.enter();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let (stop, stopping) = watch::channel(false);
    runtime.spawn(async move {
        loop {
            let name = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            };
            if stop.send_replace(true) {
                tracing::warn!(
                    signal = name,
                    "ending at once; the last transaction is in the database wholly or not at all"
                );
                std::process::exit(i32::from(Exit::Unavailable as u8));
            }
            tracing::info!(signal = name, "stopping after this transaction");
        }
    });
    Ok(stopping)
}

/// Tells how far it is: a bar on a terminal until it has caught up, log lines, and lines of JSON for programs.
struct Reporter {
    output: Output,
    bar: Option<Bar>,
    last: Option<Progress>,
    has_caught_up: bool,
    logged: Instant,
    printed: Option<(Instant, u64)>,
    started: Instant,
}

impl Reporter {
    fn new(output: Output) -> Reporter {
        let now = Instant::now();
        let bar = std::io::stderr().is_terminal().then(|| Bar::new("catching up"));
        Reporter { output, bar, last: None, has_caught_up: false, logged: now, printed: None, started: now }
    }

    fn report(&mut self, progress: Progress) {
        let lag = progress.committed - progress.sequence;
        let has_moved = self.last.replace(progress).is_none_or(|last| last.sequence < progress.sequence);
        if lag == 0 {
            if let Some(bar) = self.bar.take() {
                bar.finish();
            }
        } else if let Some(bar) = &mut self.bar {
            bar.report(progress.sequence, progress.committed);
        }
        let catches_up = lag == 0 && !self.has_caught_up;
        self.has_caught_up |= catches_up;
        if catches_up || ((has_moved || lag > 0) && self.logged.elapsed() >= LOG_INTERVAL) {
            self.log(progress, lag);
        }
        let due = self
            .printed
            .is_none_or(|(when, sequence)| sequence != progress.sequence && when.elapsed() >= LINE_INTERVAL);
        if due {
            // Whoever reads the lines may be gone; the tables are what matters.
            let _ = self.print(progress);
        }
    }

    fn log(&mut self, progress: Progress, lag: u64) {
        self.logged = Instant::now();
        let seconds = self.started.elapsed().as_secs_f64();
        let per_second = (progress.written as f64 / seconds) as u64;
        let said = if lag == 0 { "caught up" } else { "behind" };
        tracing::info!(sequence = progress.sequence, lag, written = progress.written, per_second, "{said}");
    }

    fn print(&mut self, progress: Progress) -> std::io::Result<()> {
        self.printed = Some((Instant::now(), progress.sequence));
        if self.output == Output::People {
            return Ok(());
        }
        let as_of = progress.as_of.map(|micros| api::format_timestamp(Timestamp::from_micros(micros)));
        print_json(&json!({
            "partition": database::PARTITION,
            "sequence": progress.sequence,
            "as_of": as_of,
            "committed": progress.committed,
            "lag": progress.committed - progress.sequence,
            "written": progress.written,
            "elapsed_seconds": self.started.elapsed().as_secs_f64(),
        }))
    }

    /// The last line says where it ended.
    fn finish(mut self) -> std::io::Result<()> {
        if let Some(bar) = self.bar.take() {
            bar.finish();
        }
        let Some(progress) = self.last else { return Ok(()) };
        tracing::info!(sequence = progress.sequence, written = progress.written, "stopped following");
        if self.printed.is_some_and(|(_, sequence)| sequence == progress.sequence) {
            return Ok(());
        }
        self.print(progress)
    }
}
