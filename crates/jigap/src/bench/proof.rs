//! In the end: is the money still there, and every transfer that was acknowledged?

use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use serde_json::{Value, json};
use ureq::Agent;

use super::Target;
use super::accounts::{CONNECTIONS, Piece, Queue};
use super::engine::{Engine, Exchange, Turn};
use super::http::{account_name, authority, describe};
use super::load::{Measured, Plan};
use super::random::Random;
use super::workload::Transfer;
use crate::exit::{Exit, Failure, OrExit};
use crate::progress::Progress;

/// A run with at most so many acknowledged transfers has each one checked.
const CHECK_ALL_MAX: u64 = 20_000;
/// Of larger runs, so many are drawn at random.
const SAMPLE: u64 = 10_000;
/// The stream of random numbers that the sample is drawn from.
const SAMPLE_STREAM: u64 = u64::MAX - 2;
/// How long the checks may take.
const PATIENCE: Duration = Duration::from_secs(300);
/// How often the wallet is asked again whether nothing is under way.
const STOCK_PAUSE: Duration = Duration::from_millis(100);
/// Mistakes that are told in words.
const TOLD_MAX: usize = 5;

/// The money in the wallet.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Stock {
    /// For every currency, the sum over all accounts and what is in flight.
    totals: Vec<(String, String, String)>,
    /// What the world outside has in US dollars: the negative of all that users have.
    outside: String,
    /// Nothing was under way, and nothing changed while it was read.
    settled: bool,
}

/// What was proven.
pub(super) struct Proof {
    /// Every currency sums to zero, and users have as much as before.
    pub(super) sum_unchanged: bool,
    pub(super) acknowledged: u64,
    pub(super) checked: u64,
    pub(super) found: u64,
    pub(super) mistakes: Vec<String>,
}

/// Asks the wallet for its sums, again while something is under way: money in flight over several shards is on neither side.
pub(super) fn take_stock(target: &Target) -> Result<Stock, Failure> {
    let agent: Agent = Agent::config_builder().timeout_global(Some(target.timeout)).build().new_agent();
    let get = |path: &str| -> anyhow::Result<Value> {
        let url = format!("http://{}{path}", target.http);
        Ok(agent.get(&url).call().with_context(|| url.clone())?.body_mut().read_json()?)
    };
    let read = || -> anyhow::Result<Stock> {
        let check = get("/v1/admin/check")?;
        let outside = get("/v1/wallet/accounts/@external")?;
        stock(&check, &outside)
            .ok_or_else(|| anyhow!("the wallet's sums are not as expected: {check} {outside}"))
    };
    let deadline = Instant::now() + PATIENCE;
    loop {
        let stock = read().or_exit(Exit::Unavailable)?;
        if stock.settled || Instant::now() >= deadline {
            return Ok(stock);
        }
        std::thread::sleep(STOCK_PAUSE);
    }
}

fn is_zero(amount: &str) -> bool {
    amount.bytes().all(|byte| matches!(byte, b'0' | b'.'))
}

fn stock(check: &Value, outside: &Value) -> Option<Stock> {
    let text = |value: &Value, key: &str| Some(value.get(key)?.as_str()?.to_owned());
    let total =
        |total: &Value| Some((text(total, "currency")?, text(total, "sum")?, text(total, "in_flight")?));
    let balances = outside.get("balances")?.as_array()?;
    let dollars =
        balances.iter().find(|balance| balance.get("currency").is_some_and(|code| code == "USD"))?;
    let totals: Vec<_> = check.get("currencies")?.as_array()?.iter().map(total).collect::<Option<_>>()?;
    let nothing_under_way = totals.iter().all(|(_, _, in_flight)| is_zero(in_flight));
    Some(Stock {
        totals,
        outside: text(dollars, "total")?,
        settled: check.get("settled")?.as_bool()? && nothing_under_way,
    })
}

impl Stock {
    fn sums_to_zero(&self) -> bool {
        self.totals.iter().all(|(_, sum, in_flight)| is_zero(sum) && is_zero(in_flight))
    }
}

impl Proof {
    /// Compares sums, and asks for transactions.
    pub(super) fn establish(
        target: &Target,
        plan: &Plan,
        before: &Stock,
        measured: &Measured,
    ) -> Result<Proof, Failure> {
        let after = take_stock(target)?;
        let mut mistakes = Vec::new();
        let sum_unchanged = after.sums_to_zero() && before.outside == after.outside;
        if !sum_unchanged {
            mistakes.push(format!("the sums changed: {before:?} became {after:?}"));
        }
        let proof = Proof::of_acknowledged(target, plan, measured)?;
        mistakes.extend(proof.mistakes);
        Ok(Proof { sum_unchanged, mistakes, ..proof })
    }

    /// Asks for transactions alone.
    pub(super) fn of_acknowledged(
        target: &Target,
        plan: &Plan,
        measured: &Measured,
    ) -> Result<Proof, Failure> {
        let (acknowledged, sample) = choose(plan, measured);
        let mut check = Check {
            authority: authority(target),
            queue: Queue::new(u32::try_from(sample.len()).expect("the sample is small")),
            sample,
            found: 0,
            mistakes: Vec::new(),
            progress: Progress::counting("checking transfers", "transfers"),
        };
        let mut engine =
            Engine::connect(target.http, CONNECTIONS, target.timeout).or_exit(Exit::Unavailable)?;
        engine.run(&mut check, Instant::now() + PATIENCE).or_exit(Exit::Unavailable)?;
        check.progress.finish();
        check.queue.outcome()?;
        Ok(Proof {
            sum_unchanged: true,
            acknowledged,
            checked: check.sample.len() as u64,
            found: check.found,
            mistakes: check.mistakes,
        })
    }

    /// How the run ends.
    pub(super) fn verdict(&self) -> Result<(), Failure> {
        if self.sum_unchanged && self.found == self.checked {
            return Ok(());
        }
        let lost = self.checked - self.found;
        let told = self.mistakes.join("\n  ");
        Err(Failure::new(
            Exit::Damaged,
            anyhow!("the proof failed: {lost} acknowledged transfers are missing or different\n  {told}"),
        ))
    }

    pub(super) fn document(&self) -> Value {
        json!({
            "sum_unchanged": self.sum_unchanged,
            "acknowledged": self.acknowledged,
            "checked": self.checked,
            "found": self.found,
            "every_one_checked": self.checked == self.acknowledged,
        })
    }
}

/// How many transfers were acknowledged, and those to ask for.
fn choose(plan: &Plan, measured: &Measured) -> (u64, Vec<Transfer>) {
    let per_batch = u64::from(measured.workload.batch());
    let batches: Vec<u64> = measured.acknowledged().collect();
    let acknowledged = batches.len() as u64 * per_batch;
    let mut chosen: Vec<u64> = if acknowledged <= CHECK_ALL_MAX {
        (0..acknowledged).collect()
    } else {
        let mut random = Random::new(plan.seed, SAMPLE_STREAM);
        // A few are drawn twice.
        (0..SAMPLE + SAMPLE / 8).map(|_| random.below(acknowledged)).collect()
    };
    chosen.sort_unstable();
    chosen.dedup();
    let sample = chosen.chunk_by(|one, two| one / per_batch == two / per_batch).flat_map(|in_batch| {
        let batch = batches[(in_batch[0] / per_batch) as usize];
        let mut transfers = Vec::with_capacity(per_batch as usize);
        measured.generate(batch, |transfer| transfers.push(transfer));
        in_batch.iter().map(move |number| transfers[(number % per_batch) as usize]).collect::<Vec<_>>()
    });
    (acknowledged, sample.collect())
}

struct Check {
    authority: String,
    sample: Vec<Transfer>,
    queue: Queue,
    found: u64,
    mistakes: Vec<String>,
    progress: Progress,
}

impl Exchange for Check {
    type Token = Piece;

    fn request(&mut self, _now: Instant, buffer: &mut Vec<u8>) -> Turn<Piece> {
        let turn = self.queue.next();
        if let Turn::Send(piece) = &turn {
            let id = uuid::Uuid::from_u128(self.sample[piece.number as usize].transaction_id);
            let request =
                format!("GET /v1/wallet/transactions/{id} HTTP/1.1\r\nhost: {}\r\n\r\n", self.authority);
            buffer.extend_from_slice(request.as_bytes());
        }
        turn
    }

    fn answered(&mut self, piece: Piece, _now: Instant, status: u16, body: &[u8]) {
        if matches!(status, 429 | 503) {
            return self.queue.repeat(piece, || describe(status, body));
        }
        let done = self.queue.done();
        self.progress.report(done.into(), self.sample.len() as u64);
        let transfer = &self.sample[piece.number as usize];
        if status == 200 && is_recorded(transfer, body) {
            self.found += 1;
        } else if self.mistakes.len() < TOLD_MAX {
            self.mistakes.push(format!("{transfer:?} was answered with {}", describe(status, body)));
        }
    }

    fn failed(&mut self, piece: Piece, why: &anyhow::Error) {
        self.queue.repeat(piece, || format!("{why:#}"));
    }
}

/// Whether the wallet tells of the transfer as it was sent.
fn is_recorded(transfer: &Transfer, body: &[u8]) -> bool {
    let Ok(recorded) = serde_json::from_slice::<Value>(body) else { return false };
    let says = |key: &str, expected: &str| recorded.get(key).is_some_and(|value| value == expected);
    let id = uuid::Uuid::from_u128(transfer.transaction_id).to_string();
    let amount = format!("{}.{:02}", transfer.minor_units / 100, transfer.minor_units % 100);
    (says("status", "success") || says("status", "refused"))
        && says("transaction_id", &id)
        && says("from_account", &account_name(transfer.from))
        && says("to_account", &account_name(transfer.to))
        && says("amount", &amount)
        && says("currency", "USD")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recorded() -> Value {
        json!({
            "transaction_id": "01890d9e-3c1b-7c5f-9d6e-0b6f0f0c9a11", "status": "success", "type": "transfer",
            "from_account": "bench-000000001", "to_account": "bench-000000002", "amount": "9.07", "currency": "USD",
        })
    }

    #[test]
    fn a_transfer_that_is_told_differently_is_not_there() {
        let transfer = Transfer {
            transaction_id: 0x01890d9e_3c1b_7c5f_9d6e_0b6f0f0c9a11,
            from: 1,
            to: 2,
            minor_units: 907,
        };
        assert!(is_recorded(&transfer, recorded().to_string().as_bytes()));
        for key in ["transaction_id", "status", "from_account", "to_account", "amount", "currency"] {
            let mut other = recorded();
            other[key] = json!("other");
            assert!(!is_recorded(&transfer, other.to_string().as_bytes()), "{key}");
        }
        assert!(!is_recorded(&transfer, b"no JSON"));
    }

    #[test]
    fn a_changed_sum_is_seen() {
        let state = |sum: &str, in_flight: &str| json!({ "settled": true, "currencies": [{ "currency": "USD", "sum": sum, "in_flight": in_flight }] });
        let outside = json!({ "balances": [{ "currency": "USD", "total": "-5.00" }] });
        let zero =
            |sum, in_flight| stock(&state(sum, in_flight), &outside).expect("it is right").sums_to_zero();
        assert!(zero("0.00", "0.00"));
        assert!(!zero("0.01", "0.00"));
        assert!(!zero("0.00", "0.01"));
        assert!(stock(&json!({}), &outside).is_none());
    }
}
