//! `jigap bench`: load, latency, and proof that nothing was lost.
//!
//! One thread generates everything, so that the wallet on the same machine keeps the rest. What a transfer is follows from
//! the seed and its number alone: nothing need be kept of it to ask for it again in the end.

mod accounts;
mod arguments;
mod engine;
mod grpc;
mod http;
mod load;
mod message;
mod proof;
mod random;
mod report;
mod session;
mod workload;

pub(crate) use arguments::{BenchArguments, Transport};
pub(crate) use session::{Acknowledged, Figures, LoadShape, Session};

use std::net::{SocketAddr, ToSocketAddrs};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;

use crate::exit::{Exit, Failure, OrExit};
use crate::settings::Settings;
use accounts::Accounts;
use arguments::AccountRefs;
use load::{Load, Measured, Plan};
use proof::Proof;
use report::Report;

/// Where the wallet is.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) http: SocketAddr,
    pub(crate) grpc: SocketAddr,
    pub(crate) timeout: Duration,
}

/// Prepares, loads, measures, proves, prints.
pub(crate) fn run(arguments: &BenchArguments) -> Result<(), Failure> {
    let settings = Settings::load(&arguments.settings.0)?;
    let target = Target {
        http: resolve("server", settings.text("server"))?,
        grpc: resolve("grpc-server", settings.text("grpc-server"))?,
        timeout: Duration::from_millis(settings.number("timeout")),
    };
    let mut plan = Plan::new(arguments)?;
    let accounts = Accounts::prepare(&target, &plan)?;
    if !accounts.have_handles() {
        plan.account_refs = AccountRefs::Names;
    }
    let before = proof::take_stock(&target)?;
    let measured = generate(&target, &plan, &accounts)?;
    let proof = Proof::establish(&target, &plan, &before, &measured)?;
    let report = Report { plan: &plan, measured: &measured, proof: &proof };
    report.print(arguments.output.choose())?;
    proof.verdict()
}

/// Runs the load.
fn generate(target: &Target, plan: &Plan, accounts: &Accounts) -> Result<Measured, Failure> {
    let mut load = Load::new(plan);
    match plan.transport {
        Transport::GrpcStream => load = grpc::run(target, plan, accounts, load)?,
        Transport::Http => http::run(target, plan, &mut load, http::Shape::Single)?,
        Transport::HttpBatch => http::run(target, plan, &mut load, http::Shape::Batch)?,
    }
    Ok(load.finish())
}

/// The address that a URL names.
pub(crate) fn resolve(setting: &str, url: &str) -> Result<SocketAddr, Failure> {
    let authority = url.trim_start_matches("http://").trim_end_matches('/');
    let with_port = if authority.contains(':') { authority.to_owned() } else { format!("{authority}:80") };
    let addresses =
        with_port.to_socket_addrs().with_context(|| format!("--{setting} {url}")).or_exit(Exit::Usage)?;
    addresses.into_iter().next().ok_or_else(|| Failure::usage(format!("--{setting} {url}: no address")))
}

/// Milliseconds since 1970, for ids that sort by time.
fn unix_time_ms() -> u64 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(elapsed.as_millis()).expect("the year is far from 584,554,019")
}
