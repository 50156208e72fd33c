//! `make compare`: starts real servers on loopback and a wallet of each architecture over them, runs `jigap compare`, and stops them.
//!
//! `cargo run --release -p jigap --example compare -- --jigap target/release/jigap --out docs/compare`
//!
//! What runs here ends with this program, however it ends: servers and wallets are killed when the thread that started them is gone.

mod pgbench;
mod supervisor;

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, bail};
use clap::Parser;
use testbed::Server;

use supervisor::{Started, Wallet};

/// Each has two databases of its own, in the same two servers.
const OVER_SQL: [&str; 4] = ["two-phase-commit", "tcc", "saga", CHOREOGRAPHED];
const CHOREOGRAPHED: &str = "saga-choreographed";

/// Compares every architecture of this version on this machine.
#[derive(Parser)]
struct Arguments {
    /// The program to measure
    #[arg(long, value_name = "FILE")]
    jigap: PathBuf,
    /// Where the comparison is written to
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Accounts in each wallet
    #[arg(long, default_value_t = 10_000)]
    accounts: u32,
    /// How long each load is measured
    #[arg(long, default_value_t = 10)]
    seconds: u32,
    /// How often each wallet is killed
    #[arg(long, default_value_t = 2)]
    kills: u32,
    /// Only these architectures; may be given several times
    #[arg(long)]
    only: Vec<String>,
}

impl Arguments {
    fn wanted(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == name)
    }
}

/// The servers, which end when this is dropped.
#[derive(Default)]
struct Servers {
    running: Vec<Server>,
}

impl Servers {
    fn keep(&mut self, started: Result<(Server, String)>) -> Result<String> {
        let (server, url) = started?;
        self.running.push(server);
        Ok(url)
    }
}

/// What `jigap serve` is told, and what is told of it.
struct Architecture {
    name: &'static str,
    flags: Vec<String>,
    note: String,
}

fn main() -> Result<ExitCode> {
    let mut arguments = Arguments::parse();
    let jigap = &arguments.jigap;
    arguments.jigap = jigap.canonicalize().with_context(|| format!("there is no {}", jigap.display()))?;
    let directory = tempfile::Builder::new().prefix("jigap-compare-").tempdir()?;
    let mut servers = Servers::default();
    let mut architectures = over_redis(&arguments, &mut servers)?;
    let mut configuration = format!("made-with = {:?}\n", made_with(&arguments));
    if OVER_SQL.iter().any(|name| arguments.wanted(name)) {
        let postgres = servers.keep(testbed::postgres())?;
        let mariadb = servers.keep(testbed::mariadb())?;
        architectures.extend(over_sql(&arguments, &mut servers, &postgres, &mariadb)?);
        eprintln!("a hand-written transfer in one PostgreSQL, by pgbench");
        let shape = pgbench::Shape { accounts: arguments.accounts, seconds: arguments.seconds };
        configuration += &pgbench::run(&postgres, &shape, directory.path())?;
    }
    architectures.push(Architecture {
        name: "event-sourced",
        flags: Vec::new(),
        note: "one journal on the local disk, synced before every answer".to_owned(),
    });
    architectures.retain(|architecture| arguments.wanted(architecture.name));
    // They end first.
    let mut wallets = Vec::new();
    for architecture in &architectures {
        let home = directory.path().join(architecture.name);
        match Wallet::start(&arguments.jigap, &home, architecture.name, &architecture.flags)? {
            Started::Serves(wallet) => {
                configuration += &wallet.entry(architecture.name, &architecture.note);
                wallets.push(wallet);
            }
            Started::IsNotBuilt => {
                eprintln!("{} is not part of this version, and is left out", architecture.name);
            }
        }
    }
    let exit = compare(&arguments, directory.path(), &configuration)?;
    drop((wallets, servers));
    Ok(exit)
}

fn made_with(arguments: &Arguments) -> String {
    let Arguments { accounts, seconds, kills, .. } = arguments;
    format!("make compare ACCOUNTS={accounts} SECONDS={seconds} KILLS={kills}")
}

fn compare(arguments: &Arguments, directory: &Path, configuration: &str) -> Result<ExitCode> {
    let file = directory.join("wallets.toml");
    std::fs::write(&file, configuration)?;
    let mut command = Command::new(&arguments.jigap);
    command.arg("compare").arg("--config").arg(file).arg("--out").arg(&arguments.out).arg("--table");
    command.arg("--accounts").arg(arguments.accounts.to_string());
    command.arg("--duration").arg(format!("{}s", arguments.seconds));
    command.arg("--kills").arg(arguments.kills.to_string());
    let status = command.stdin(Stdio::null()).status().context("cannot run jigap compare")?;
    Ok(ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX)))
}

fn over_redis(arguments: &Arguments, servers: &mut Servers) -> Result<Vec<Architecture>> {
    let mut architectures = Vec::new();
    if !arguments.wanted("redis") && !arguments.wanted("redis-tcc") {
        return Ok(architectures);
    }
    let version = told(Command::new("redis-server").arg("--version"))?;
    let version =
        version.split_whitespace().find_map(|word| word.strip_prefix("v=")).unwrap_or("").to_owned();
    let nodes = format!("2 nodes of Redis {version}, appendfsync always");
    if arguments.wanted("redis") {
        let shards = [servers.keep(testbed::redis())?, servers.keep(testbed::redis())?].join(",");
        architectures.push(Architecture {
            name: "redis",
            flags: vec!["--shards".to_owned(), shards],
            note: nodes.clone(),
        });
    }
    if arguments.wanted("redis-tcc") {
        let partitions = [servers.keep(testbed::redis())?, servers.keep(testbed::redis())?];
        let (ensemble, zookeeper) = testbed::zookeeper(1)?;
        servers.running.extend(ensemble);
        let set = ["partition-map", "set", "--zookeeper", &zookeeper];
        told(Command::new(&arguments.jigap).args(set).args(&partitions))?;
        architectures.push(Architecture {
            name: "redis-tcc",
            flags: vec!["--zookeeper".to_owned(), zookeeper],
            note: format!("{nodes}; their map in ZooKeeper"),
        });
    }
    Ok(architectures)
}

fn over_sql(
    arguments: &Arguments,
    servers: &mut Servers,
    postgres: &str,
    mariadb: &str,
) -> Result<Vec<Architecture>> {
    let versions = format!(
        "2 shards: PostgreSQL {} and MariaDB {}",
        pgbench::sql(postgres, "SHOW server_version")?.trim(),
        mariadb_sql(mariadb, "SELECT version()")?.trim()
    );
    let mut architectures = Vec::new();
    for name in OVER_SQL.into_iter().filter(|name| arguments.wanted(name)) {
        let database = name.replace('-', "_");
        pgbench::sql(postgres, &format!("CREATE DATABASE {database}"))?;
        mariadb_sql(mariadb, &format!("CREATE DATABASE {database} CHARACTER SET utf8mb4"))?;
        let shards = [postgres, mariadb].map(|server| in_database(server, &database));
        told(Command::new(&arguments.jigap).args(["sql", "migrate"]).args(&shards))?;
        let mut flags = vec!["--shards".to_owned(), shards.join(",")];
        let mut note = versions.clone();
        if name == CHOREOGRAPHED {
            flags.extend(["--broker".to_owned(), servers.keep(testbed::nats())?]);
            note += "; NATS JetStream between them";
        }
        architectures.push(Architecture { name, flags, note });
    }
    Ok(architectures)
}

/// The URL of another database of the same server.
fn in_database(server: &str, database: &str) -> String {
    let (server, _) = server.rsplit_once('/').expect("the URL of a database ends with its name");
    format!("{server}/{database}")
}

fn mariadb_sql(server: &str, statement: &str) -> Result<String> {
    let address = server.strip_prefix("mysql://").and_then(|rest| rest.split_once('@'));
    let (user, rest) = address.context("the URL of MariaDB names a user")?;
    let host = rest.split('/').next().unwrap_or_default();
    let (host, port) = host.split_once(':').context("the URL of MariaDB names a port")?;
    let mut client = Command::new("mariadb");
    client.args(["--no-defaults", "--batch", "--skip-column-names", "--protocol=tcp"]);
    told(client.args(["--host", host, "--port", port, "--user", user, "--execute", statement]))
}

/// Runs a program to its end, and answers what it printed.
fn told(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output();
    let output =
        output.with_context(|| format!("cannot run {:?}: is it installed?", command.get_program()))?;
    let mut printed = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        write!(printed, "{}", String::from_utf8_lossy(&output.stderr))?;
        bail!("{:?} failed with {}: {printed}", command.get_program(), output.status);
    }
    Ok(printed)
}
