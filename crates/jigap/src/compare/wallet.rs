//! What is asked of a wallet beside the load.

use std::time::Duration;

use anyhow::{Context, anyhow};
use chrono::{DateTime, Utc};
use serde_json::Value;
use ureq::Agent;

use super::config::Entry;
use crate::bench::Target;
use crate::exit::{Exit, Failure, OrExit};

/// How long an answer may take.
const TIMEOUT: Duration = Duration::from_secs(30);
/// More than can be under way.
const LISTED_MAX: u32 = 10_000;
/// An account that every load makes.
const ACCOUNT: &str = "bench-000000000";
const NOT_IMPLEMENTED: u16 = 501;

/// A wallet that runs.
pub(super) struct Wallet {
    target: Target,
    agent: Agent,
}

/// All money, in minor units of the US dollar.
pub(super) struct Check {
    /// What all accounts and all that is in flight sum to: zero, unless money was lost (below) or doubled (above).
    pub(super) difference: i64,
    pub(super) nothing_in_flight: bool,
}

/// A transaction under way.
pub(super) struct UnderWay {
    pub(super) transaction_id: String,
    pub(super) started_at: DateTime<Utc>,
}

impl Wallet {
    /// Makes sure that it serves, before anything is measured anywhere.
    pub(super) fn reach(entry: &Entry) -> Result<Wallet, Failure> {
        let agent = Agent::config_builder().timeout_global(Some(TIMEOUT)).http_status_as_error(false).build();
        let target = Target { http: entry.http, grpc: entry.grpc, timeout: TIMEOUT };
        let wallet = Wallet { target, agent: agent.new_agent() };
        let label = || format!("{} does not serve", entry.label);
        wallet.ready().with_context(label).or_exit(Exit::Unavailable)?;
        Ok(wallet)
    }

    pub(super) fn target(&self) -> &Target {
        &self.target
    }

    fn get(&self, path: &str) -> anyhow::Result<(u16, Value)> {
        let url = format!("http://{}{path}", self.target.http);
        let mut answer = self.agent.get(&url).call().with_context(|| url.clone())?;
        let status = answer.status().as_u16();
        let body = answer.body_mut().read_to_string().with_context(|| url.clone())?;
        Ok((status, serde_json::from_str(&body).unwrap_or(Value::String(body))))
    }

    fn get_ok(&self, path: &str) -> anyhow::Result<Value> {
        match self.get(path)? {
            (200, body) => Ok(body),
            (status, body) => Err(anyhow!("{path} was answered with status {status}: {body}")),
        }
    }

    /// Whether it can serve.
    pub(super) fn ready(&self) -> anyhow::Result<()> {
        self.get_ok("/readyz").map(drop)
    }

    /// Sums everything up.
    pub(super) fn check(&self) -> Result<Check, Failure> {
        self.try_check().or_exit(Exit::Unavailable)
    }

    pub(super) fn try_check(&self) -> anyhow::Result<Check> {
        let check = self.get_ok("/v1/admin/check")?;
        let understood = || -> Option<Check> {
            let currencies = check["currencies"].as_array()?;
            let dollars = currencies.iter().find(|total| total["currency"] == "USD")?;
            let minor = |key: &str| dollars[key].as_str()?.replace('.', "").parse::<i64>().ok();
            let nothing_in_flight = minor("in_flight")? == 0 && check["settled"].as_bool()?;
            Some(Check { difference: minor("difference")?, nothing_in_flight })
        };
        understood().ok_or_else(|| anyhow!("the check of all money is not as expected: {check}"))
    }

    /// What is under way.
    pub(super) fn in_flight(&self) -> anyhow::Result<Vec<UnderWay>> {
        let listed = self.get_ok(&format!("/v1/admin/transactions?state=in_flight&limit={LISTED_MAX}"))?;
        let under_way = |listed: &Value| -> Option<UnderWay> {
            let started_at = DateTime::parse_from_rfc3339(listed["started_at"].as_str()?).ok()?;
            let transaction_id = listed["transaction_id"].as_str()?.to_owned();
            Some(UnderWay { transaction_id, started_at: started_at.to_utc() })
        };
        let transactions = listed["transactions"].as_array().map(|all| all.iter().map(under_way).collect());
        transactions
            .flatten()
            .ok_or_else(|| anyhow!("the transactions in flight are not as expected: {listed}"))
    }

    /// Asks for a balance of the past.
    pub(super) fn answers_the_past(&self) -> Result<bool, Failure> {
        let account = self.get_ok(&format!("/v1/wallet/accounts/{ACCOUNT}")).or_exit(Exit::Unavailable)?;
        let sequence = account["sequence"].as_u64().unwrap_or(1);
        let path = format!("/v1/wallet/accounts/{ACCOUNT}?at_sequence={sequence}");
        match self.get(&path).or_exit(Exit::Unavailable)? {
            (200, _) => Ok(true),
            (NOT_IMPLEMENTED, _) => Ok(false),
            (status, body) => Err(Failure::new(
                Exit::Unavailable,
                anyhow!("{path} was answered with status {status}: {body}"),
            )),
        }
    }
}
