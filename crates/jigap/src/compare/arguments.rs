//! How the comparison is made.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use crate::bench::{LoadShape, Transport};
use crate::cli::OutputArguments;

/// Connections of a load in batches.
const BATCH_CONNECTIONS: u32 = 16;
/// Batches of a gRPC stream, as in `jigap bench`.
const STREAM_BATCH: u32 = 8190;

pub(crate) const HELP: &str = "\
Nothing is started: the file lists wallets that run, and how each is killed and started again, as shell commands of yours.

  [[architecture]]
  name = \"tcc\"                              # as in `jigap serve --architecture`
  server = \"http://127.0.0.1:9080\"
  grpc-server = \"http://127.0.0.1:9081\"     # optional; opens accounts faster
  label = \"tcc, 2 shards\"                   # optional: what the row is called
  note = \"PostgreSQL 15 and MariaDB 10.11\"  # optional: printed below the table
  kill = \"kill -9 $(cat tcc.pid)\"           # optional: without it there is no fault run
  start = \"./start-tcc.sh\"                  # optional: must return; leave it out where a supervisor starts it again.
                                            # What was killed may hold its lock a little longer: kill waits, or start tries again

  [[reference]]                             # optional: something else that was measured, printed beside
  name = \"pgbench\"
  transfers-per-second = 5600.0
  p50-ms = 1.3
  p99-ms = 4.2

Each wallet gets the same: accounts, closed loops over each --transport, and --kills times the fault: single transfers over HTTP, the kill in
the middle of them, the start. Then it is measured how long it takes to serve again and until nothing is in flight, what the check of all
money says before and after clients repeated what had no answer, whether every acknowledged transfer is there (10,000 of a large load are
drawn), and in the end whether every account has to the cent what its transfers make it.

DIR gets README.md (the table), comparison.json and comparison.svg. Run it alone on the machine: loads take turns, but everything measured
includes whatever else runs. The exit code is 4 when money was lost or doubled anywhere but in `redis`, or an acknowledged transfer.

`make compare` starts real servers on loopback, runs this on every architecture, and stops them.

Examples:
  jigap compare --config wallets.toml --out comparison
  jigap compare --config wallets.toml --duration 30s --kills 10 --transport http --json";

/// `jigap compare`.
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(crate) struct CompareArguments {
    /// The wallets to compare
    #[arg(long, value_name = "FILE")]
    pub(crate) config: PathBuf,
    /// Where the comparison is written to; made when missing
    #[arg(long, value_name = "DIR", default_value = "comparison")]
    pub(crate) out: PathBuf,
    /// Accounts in each wallet, made and funded when missing
    #[arg(long, value_name = "COUNT", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(2..=10_000_000))]
    pub(crate) accounts: u32,
    /// How transfers travel; may be given several times [default: http and http-batch]
    #[arg(long, value_enum)]
    transport: Vec<Transport>,
    /// Connections of single transfers over HTTP; batches have 16, a stream 1
    #[arg(long, value_name = "COUNT", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    pub(crate) connections: u32,
    /// Transfers in a batch over HTTP
    #[arg(long, value_name = "COUNT", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=8190))]
    pub(crate) batch: u32,
    /// How long load runs before it is measured
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = milliseconds)]
    pub(crate) warm_up: u64,
    /// How long it is measured
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = milliseconds)]
    pub(crate) duration: u64,
    /// How often each wallet is killed
    #[arg(long, value_name = "COUNT", default_value_t = 3)]
    pub(crate) kills: u32,
    /// How long load runs before the kill
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = milliseconds)]
    kill_after: u64,
    /// How long a wallet may take after a kill until it serves and nothing is in flight
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = milliseconds)]
    settle_patience: u64,
    /// What everything random follows from [default: random]
    #[arg(long, value_name = "NUMBER")]
    pub(crate) seed: Option<u64>,
    #[command(flatten)]
    pub(crate) output: OutputArguments,
}

fn milliseconds(text: &str) -> Result<u64, String> {
    let milliseconds = crate::settings::parse_milliseconds(text)?;
    if milliseconds == 0 { Err("must be above 0".to_owned()) } else { Ok(milliseconds) }
}

impl CompareArguments {
    pub(crate) fn transports(&self) -> Vec<Transport> {
        match self.transport.is_empty() {
            true => vec![Transport::Http, Transport::HttpBatch],
            false => {
                let given = |known: &Transport| self.transport.contains(known);
                Transport::value_variants().iter().copied().filter(given).collect()
            }
        }
    }

    /// The load over a transport.
    pub(crate) fn load(&self, transport: Transport) -> LoadShape {
        let (batch, connections) = match transport {
            Transport::Http => (1, self.connections),
            Transport::HttpBatch => (self.batch, BATCH_CONNECTIONS),
            Transport::GrpcStream => (STREAM_BATCH, 1),
        };
        let (warm_up, duration) = (Duration::from_millis(self.warm_up), Duration::from_millis(self.duration));
        LoadShape { transport, batch, connections, warm_up, duration }
    }

    pub(crate) fn kill_after(&self) -> Duration {
        Duration::from_millis(self.kill_after)
    }

    pub(crate) fn settle_patience(&self) -> Duration {
        Duration::from_millis(self.settle_patience)
    }

    /// The workload as it is asked for.
    pub(crate) fn as_flags(&self) -> String {
        let transports: Vec<String> =
            self.transports().iter().map(|transport| format!(" --transport {}", transport.name())).collect();
        format!(
            "--accounts {} --connections {} --batch {} --warm-up {}ms --duration {}ms --kills {} --kill-after {}ms{}",
            self.accounts,
            self.connections,
            self.batch,
            self.warm_up,
            self.duration,
            self.kills,
            self.kill_after,
            transports.concat()
        )
    }
}
