//! What the load is to be like.

use std::str::FromStr;

use clap::{Args, ValueEnum};

use crate::cli::{ClientSettings, OutputArguments};

/// How transfers travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Transport {
    /// gRPC, batches on a bidirectional stream
    GrpcStream,
    /// HTTP, one transfer a request
    Http,
    /// HTTP, a batch a request
    HttpBatch,
}

impl Transport {
    /// As on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Transport::GrpcStream => "grpc-stream",
            Transport::Http => "http",
            Transport::HttpBatch => "http-batch",
        }
    }
}

/// Which UUIDs are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum IdVersion {
    /// Random
    V4,
    /// Ordered by time
    V7,
}

impl IdVersion {
    pub(super) fn name(self) -> &'static str {
        match self {
            IdVersion::V4 => "v4",
            IdVersion::V7 => "v7",
        }
    }
}

/// How gRPC names accounts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum AccountRefs {
    /// By number
    Handles,
    /// By name
    Names,
}

impl AccountRefs {
    pub(super) fn name(self) -> &'static str {
        match self {
            AccountRefs::Handles => "handles",
            AccountRefs::Names => "names",
        }
    }
}

/// Which accounts take part how often.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Distribution {
    /// All alike.
    Uniform,
    /// The account of rank r with a weight of 1 / r^exponent.
    Zipf {
        /// The exponent, 1 unless given.
        exponent: f64,
    },
    /// One account is in every transfer, paying and being paid in turn.
    Hot,
}

impl FromStr for Distribution {
    type Err = String;

    fn from_str(text: &str) -> Result<Distribution, String> {
        match text.split_once(':') {
            None if text == "uniform" => Ok(Distribution::Uniform),
            None if text == "zipf" => Ok(Distribution::Zipf { exponent: 1.0 }),
            None if text == "hot" => Ok(Distribution::Hot),
            Some(("zipf", exponent)) => match exponent.parse::<f64>() {
                Ok(exponent) if (0.0..=5.0).contains(&exponent) => Ok(Distribution::Zipf { exponent }),
                _ => Err("the exponent of zipf must be a number from 0 to 5".to_owned()),
            },
            _ => Err("must be uniform, zipf, zipf:EXPONENT or hot".to_owned()),
        }
    }
}

impl std::fmt::Display for Distribution {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Distribution::Uniform => formatter.write_str("uniform"),
            Distribution::Zipf { exponent } => write!(formatter, "zipf:{exponent}"),
            Distribution::Hot => formatter.write_str("hot"),
        }
    }
}

const EXAMPLES: &str = "\
Closed loop (without --rate): every connection keeps --in-flight requests under way, and latency is from sending to answer.
Open loop (--rate): requests are due at fixed times whether or not earlier ones were answered, and latency is from the time
that a request was due, so that a stall counts for everyone who would have waited in it (no coordinated omission).

In the end the sum of all accounts must be unchanged, and every acknowledged transfer must be there as it was sent: each one of
a small run, 10,000 drawn at random of a large one. The exit code is 4 if not.

Examples:
  jigap bench                                             batches over a gRPC stream
  jigap bench --transport http --connections 256          single transfers over HTTP
  jigap bench --transport http --rate 20000               open loop
  jigap bench --distribution zipf:1.2 --ids v7 --json";

/// `jigap bench`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct BenchArguments {
    /// How transfers travel
    #[arg(long, value_enum, default_value = "grpc-stream")]
    pub(crate) transport: Transport,
    /// Transfers in a batch [default: 8190 for grpc-stream, 1000 for http-batch]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=8190))]
    pub(crate) batch: Option<u32>,
    /// Connections [default: 1 for grpc-stream, 256 for http, 4 for http-batch]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=20_000))]
    pub(crate) connections: Option<u32>,
    /// Batches under way on each gRPC stream; HTTP connections have one
    #[arg(long, value_name = "COUNT", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub(crate) in_flight: u32,
    /// Accounts, made and funded when missing
    #[arg(long, value_name = "COUNT", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(2..=100_000_000))]
    pub(crate) accounts: u32,
    /// Which accounts take part: uniform, zipf, zipf:EXPONENT, hot
    #[arg(long, value_name = "NAME", default_value = "uniform")]
    pub(crate) distribution: Distribution,
    /// Which transaction ids are made
    #[arg(long, value_enum, default_value = "v4")]
    pub(crate) ids: IdVersion,
    /// How gRPC names accounts; HTTP always by name
    #[arg(long, value_enum, default_value = "handles")]
    pub(crate) account_refs: AccountRefs,
    /// Transfers a second that are due (open loop) [default: as many as are answered (closed loop)]
    #[arg(long, value_name = "PER_SECOND", value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    pub(crate) rate: Option<u64>,
    /// How long load runs before it is measured, such as 2s
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = milliseconds)]
    pub(crate) warm_up: u64,
    /// How long it is measured, such as 10s
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = milliseconds)]
    pub(crate) duration: u64,
    /// What everything random follows from [default: random]
    #[arg(long, value_name = "NUMBER")]
    pub(crate) seed: Option<u64>,
    #[command(flatten)]
    pub(crate) settings: ClientSettings,
    #[command(flatten)]
    pub(crate) output: OutputArguments,
}

fn milliseconds(text: &str) -> Result<u64, String> {
    crate::settings::parse_milliseconds(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distributions_are_read_as_they_are_written() {
        for text in ["uniform", "hot", "zipf:1.2"] {
            assert_eq!(text.parse::<Distribution>().expect("it is right").to_string(), text);
        }
        assert_eq!("zipf".parse(), Ok(Distribution::Zipf { exponent: 1.0 }));
        for wrong in ["", "zipf:", "zipf:x", "zipf:-1", "normal", "hot:1"] {
            assert!(wrong.parse::<Distribution>().is_err(), "{wrong}");
        }
    }
}
