//! What a transfer costs without all this: written by hand, in one PostgreSQL, driven by pgbench.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::told;

/// More gain nothing here, and PostgreSQL has a process for each.
const CLIENTS: u32 = 32;
const THREADS: u32 = 2;
const WARM_UP_SECONDS: u32 = 2;

const SCHEMA: &str = "
    CREATE TABLE accounts (id bigint PRIMARY KEY, balance bigint NOT NULL CHECK (balance >= 0)) WITH (fillfactor = 80);
    CREATE TABLE transfers (id uuid PRIMARY KEY, payer bigint NOT NULL, payee bigint NOT NULL, amount bigint NOT NULL);
    CREATE TABLE history (
        account bigint NOT NULL, transfer uuid NOT NULL, amount bigint NOT NULL, balance bigint NOT NULL,
        moment timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (account, transfer));";

/// The row that makes it happen once, both balances in the order of their keys, which keeps deadlocks away, and both lines of history.
const TRANSFER: &str = "\\set payer random(1, :accounts)
\\set payee 1 + (:payer + random(0, :accounts - 2)) % :accounts
\\set amount random(1, 999)
\\set first least(:payer, :payee)
\\set second greatest(:payer, :payee)
\\set first_amount case when :first = :payer then -:amount else :amount end
\\set second_amount -:first_amount
BEGIN;
INSERT INTO transfers VALUES (gen_random_uuid(), :payer, :payee, :amount) RETURNING id \\gset
UPDATE accounts SET balance = balance + :first_amount WHERE id = :first RETURNING balance AS first_balance \\gset
UPDATE accounts SET balance = balance + :second_amount WHERE id = :second RETURNING balance AS second_balance \\gset
INSERT INTO history VALUES (:first, :id, :first_amount, :first_balance);
INSERT INTO history VALUES (:second, :id, :second_amount, :second_balance);
COMMIT;
";

/// How long, and over how many accounts.
pub(crate) struct Shape {
    pub(crate) accounts: u32,
    pub(crate) seconds: u32,
}

/// Runs it, and answers its entry of the configuration; empty where pgbench is not installed.
pub(crate) fn run(postgres: &str, shape: &Shape, directory: &Path) -> Result<String> {
    let Some(program) = program() else {
        eprintln!("pgbench is not installed: there is nothing to compare with");
        return Ok(String::new());
    };
    sql(postgres, "CREATE DATABASE by_hand")?;
    let database = crate::in_database(postgres, "by_hand");
    sql(&database, SCHEMA)?;
    let fund = "INSERT INTO accounts SELECT id, 1000000000 FROM generate_series(1,";
    sql(&database, &format!("{fund} {}) AS id", shape.accounts))?;
    let script = directory.join("transfer.sql");
    std::fs::write(&script, TRANSFER)?;
    let run = |seconds: u32, log: Option<&Path>| {
        let mut pgbench = Command::new(&program);
        pgbench.args(["--no-vacuum", "--protocol=prepared"]).arg(format!("--file={}", script.display()));
        pgbench.arg(format!("--client={CLIENTS}")).arg(format!("--jobs={THREADS}"));
        pgbench.arg(format!("--time={seconds}")).arg(format!("--define=accounts={}", shape.accounts));
        if let Some(log) = log {
            pgbench.arg("--log").arg(format!("--log-prefix={}", log.display()));
        }
        told(pgbench.arg(&database))
    };
    run(WARM_UP_SECONDS, None)?;
    let logs = directory.join("pgbench");
    std::fs::create_dir(&logs)?;
    let printed = run(shape.seconds, Some(&logs.join("log")))?;
    let per_second = printed.lines().find_map(|line| line.strip_prefix("tps = ")?.split(' ').next());
    let per_second = per_second.with_context(|| format!("pgbench tells no tps: {printed}"))?;
    let latencies = latencies_us(&logs)?;
    let quantile = |of: f64| latencies[((latencies.len() - 1) as f64 * of) as usize] as f64 / 1000.0;
    let version = told(Command::new(&program).arg("--version"))?;
    let note = format!(
        "a transfer written by hand in one database of the same PostgreSQL, {CLIENTS} clients, prepared statements: its id, two balances, \
         two lines of history in a transaction; by {}",
        version.trim()
    );
    Ok(format!(
        "[[reference]]\nname = \"by hand\"\ntransfers-per-second = {per_second}\np50-ms = {:?}\np99-ms = {:?}\nnote = {note:?}\n",
        quantile(0.5),
        quantile(0.99)
    ))
}

/// Debian keeps it beside the server.
fn program() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?;
    let found = versions.filter_map(|version| Some(version.ok()?.path().join("bin/pgbench")));
    found.filter(|program| program.exists()).max()
}

/// Of every transaction, in order. A line of a log is: client, number, latency, script, seconds, microseconds.
fn latencies_us(logs: &Path) -> Result<Vec<u64>> {
    let mut latencies = Vec::new();
    for log in std::fs::read_dir(logs)? {
        let text = std::fs::read_to_string(log?.path())?;
        latencies.extend(text.lines().filter_map(|line| line.split(' ').nth(2)?.parse::<u64>().ok()));
    }
    latencies.sort_unstable();
    anyhow::ensure!(!latencies.is_empty(), "pgbench logged no transaction");
    Ok(latencies)
}

/// Runs statements in a PostgreSQL, and answers what they give.
pub(crate) fn sql(database: &str, statements: &str) -> Result<String> {
    let mut client = Command::new("psql");
    client.args(["--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--set=ON_ERROR_STOP=1"]);
    told(client.args(["--command", statements]).arg(database))
}
