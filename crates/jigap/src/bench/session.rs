//! Several loads one after the other on the same accounts, with every balance known: what `jigap compare` measures with.

use std::time::{Duration, Instant};

use anyhow::anyhow;
use serde_json::Value;

use super::Target;
use super::accounts::{Accounts, CONNECTIONS, Piece, Queue};
use super::arguments::{AccountRefs, Distribution, IdVersion, Transport};
use super::engine::{Engine, Exchange, Turn};
use super::http::{self, Shape, TransferRequest, account_name, authority, describe};
use super::load::{Load, Measured, Plan};
use super::proof::Proof;
use super::workload::Transfer;
use crate::exit::{Exit, Failure, OrExit};
use crate::progress::Progress;

/// How long balances may be read, and unanswered transfers be repeated.
const PATIENCE: Duration = Duration::from_secs(300);
/// Batches under way on a gRPC stream.
const IN_FLIGHT: u32 = 8;

/// What a load is like.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LoadShape {
    pub(crate) transport: Transport,
    pub(crate) batch: u32,
    pub(crate) connections: u32,
    pub(crate) warm_up: Duration,
    pub(crate) duration: Duration,
}

/// What a load measured.
#[derive(Debug, Clone)]
pub(crate) struct Figures {
    pub(crate) shape: LoadShape,
    pub(crate) transfers: u64,
    pub(crate) transfers_per_second: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) refused: u64,
    pub(crate) errors: u64,
    pub(crate) first_error: Option<String>,
    pub(crate) acknowledged: Acknowledged,
}

/// Transfers that were answered, and whether the wallet still tells of them as they were sent.
#[derive(Debug, Clone, Default)]
pub(crate) struct Acknowledged {
    pub(crate) count: u64,
    /// All of a small load, a sample of a large one.
    pub(crate) checked: u64,
    pub(crate) found: u64,
    pub(crate) first_mistake: Option<String>,
}

/// A load that was cut off by the loss of the wallet.
pub(crate) struct Interrupted {
    plan: Plan,
    measured: Measured,
    unanswered: Vec<Transfer>,
}

/// Accounts of a wallet, and what each must hold.
pub(crate) struct Session {
    target: Target,
    accounts: Accounts,
    count: u32,
    seed: u64,
    /// In minor units.
    expected: Vec<i64>,
    /// Transfers that were refused: which ones is not known, so that balances cannot be told any more.
    refused: u64,
}

impl Session {
    /// Opens and funds accounts, and reads what each has.
    pub(crate) fn open(target: Target, count: u32, seed: u64) -> Result<Session, Failure> {
        let shape = LoadShape {
            transport: Transport::Http,
            batch: 1,
            connections: CONNECTIONS,
            warm_up: Duration::ZERO,
            duration: Duration::ZERO,
        };
        let accounts = Accounts::prepare(&target, &plan(&shape, count, seed))?;
        let expected = read_balances(&target, count)?;
        Ok(Session { target, accounts, count, seed, expected, refused: 0 })
    }

    /// Runs a load, and looks whether what was acknowledged is there.
    pub(crate) fn measure(&mut self, shape: &LoadShape) -> Result<Figures, Failure> {
        let mut plan = self.next_plan(shape);
        if !self.accounts.have_handles() {
            plan.account_refs = AccountRefs::Names;
        }
        let measured = super::generate(&self.target, &plan, &self.accounts)?;
        let unanswered = self.account_for(&measured);
        self.repeat(unanswered)?;
        Ok(Figures {
            shape: *shape,
            transfers: measured.transfers,
            transfers_per_second: measured.per_second(),
            p50_ms: measured.latency_ms(0.5),
            p99_ms: measured.latency_ms(0.99),
            refused: measured.refused,
            errors: measured.errors,
            first_error: measured.first_error.clone(),
            acknowledged: self.find(&plan, &measured)?,
        })
    }

    /// Single transfers over HTTP, for at most the duration of the shape, until the wallet is lost; `None` when it was not.
    pub(crate) fn load_until_lost(&mut self, shape: &LoadShape) -> Result<Option<Interrupted>, Failure> {
        let plan = self.next_plan(shape);
        let mut load = Load::new(&plan);
        let is_lost = http::run_until_lost(&self.target, &plan, &mut load)?;
        let measured = load.finish();
        let unanswered = self.account_for(&measured);
        Ok(is_lost.then_some(Interrupted { plan, measured, unanswered }))
    }

    /// Looks whether what was acknowledged before the loss is there.
    pub(crate) fn find_acknowledged(&self, interrupted: &Interrupted) -> Result<Acknowledged, Failure> {
        self.find(&interrupted.plan, &interrupted.measured)
    }

    /// Does what a client must do: sends what had no answer again, with the same ids, until it has one. Answers how many.
    pub(crate) fn repeat_unanswered(&mut self, interrupted: Interrupted) -> Result<u64, Failure> {
        self.repeat(interrupted.unanswered)
    }

    /// Accounts whose balance is not what the transfers of all loads make it; `None` when transfers were refused.
    pub(crate) fn wrong_balances(&self) -> Result<Option<u64>, Failure> {
        if self.refused > 0 {
            return Ok(None);
        }
        let found = read_balances(&self.target, self.count)?;
        let wrong = found.iter().zip(&self.expected).filter(|(found, expected)| found != expected);
        Ok(Some(wrong.count() as u64))
    }

    /// Every load has transfers of its own.
    fn next_plan(&mut self, shape: &LoadShape) -> Plan {
        self.seed = self.seed.wrapping_add(1);
        plan(shape, self.count, self.seed)
    }

    /// Expects what was acknowledged, and answers the rest.
    fn account_for(&mut self, measured: &Measured) -> Vec<Transfer> {
        self.refused += measured.refused;
        for batch in measured.acknowledged() {
            measured.generate(batch, |transfer| expect(&mut self.expected, &transfer));
        }
        let mut unanswered = Vec::new();
        for batch in measured.unanswered() {
            measured.generate(batch, |transfer| unanswered.push(transfer));
        }
        unanswered
    }

    fn repeat(&mut self, unanswered: Vec<Transfer>) -> Result<u64, Failure> {
        if unanswered.is_empty() {
            return Ok(0);
        }
        let mut repeats = Repeats {
            request: TransferRequest::new(&authority(&self.target), Shape::Single),
            queue: Queue::new(u32::try_from(unanswered.len()).expect("a load sends less than 2^32")),
            transfers: unanswered,
            expected: &mut self.expected,
            refused: 0,
        };
        work(&self.target, &mut repeats)?;
        repeats.queue.outcome()?;
        let count = repeats.transfers.len() as u64;
        self.refused += repeats.refused;
        Ok(count)
    }

    fn find(&self, plan: &Plan, measured: &Measured) -> Result<Acknowledged, Failure> {
        let proof = Proof::of_acknowledged(&self.target, plan, measured)?;
        Ok(Acknowledged {
            count: proof.acknowledged,
            checked: proof.checked,
            found: proof.found,
            first_mistake: proof.mistakes.into_iter().next(),
        })
    }
}

impl Interrupted {
    /// How many transfers have no answer.
    pub(crate) fn unanswered(&self) -> u64 {
        self.unanswered.len() as u64
    }
}

fn plan(shape: &LoadShape, accounts: u32, seed: u64) -> Plan {
    Plan {
        transport: shape.transport,
        batch: shape.batch,
        connections: shape.connections,
        in_flight: IN_FLIGHT,
        accounts,
        distribution: Distribution::Uniform,
        ids: IdVersion::V4,
        account_refs: AccountRefs::Handles,
        rate: None,
        warm_up: shape.warm_up,
        duration: shape.duration,
        seed,
    }
}

fn expect(expected: &mut [i64], transfer: &Transfer) {
    expected[transfer.from as usize] -= i64::from(transfer.minor_units);
    expected[transfer.to as usize] += i64::from(transfer.minor_units);
}

fn work<Work: Exchange>(target: &Target, exchange: &mut Work) -> Result<(), Failure> {
    let mut engine = Engine::connect(target.http, CONNECTIONS, target.timeout).or_exit(Exit::Unavailable)?;
    engine.run(exchange, Instant::now() + PATIENCE).or_exit(Exit::Unavailable)
}

/// Sends transfers again until each has an answer.
struct Repeats<'session> {
    request: TransferRequest,
    transfers: Vec<Transfer>,
    queue: Queue,
    expected: &'session mut [i64],
    refused: u64,
}

impl Exchange for Repeats<'_> {
    type Token = Piece;

    fn request(&mut self, _now: Instant, buffer: &mut Vec<u8>) -> Turn<Piece> {
        let turn = self.queue.next();
        if let Turn::Send(piece) = &turn {
            self.request.begin(1, buffer);
            self.request.put(&self.transfers[piece.number as usize], buffer);
            self.request.end(buffer);
        }
        turn
    }

    fn answered(&mut self, piece: Piece, _now: Instant, status: u16, body: &[u8]) {
        match status {
            200 => {
                expect(self.expected, &self.transfers[piece.number as usize]);
                self.queue.done();
            }
            404 | 409 | 422 => {
                self.refused += 1;
                self.queue.done();
            }
            _ => self.queue.repeat(piece, || describe(status, body)),
        }
    }

    fn failed(&mut self, piece: Piece, why: &anyhow::Error) {
        self.queue.repeat(piece, || format!("{why:#}"));
    }
}

/// What every account has, in minor units of the US dollar.
fn read_balances(target: &Target, count: u32) -> Result<Vec<i64>, Failure> {
    let mut reading = Balances {
        authority: authority(target),
        found: vec![0; count as usize],
        queue: Queue::new(count),
        progress: Progress::counting("reading balances", "accounts"),
    };
    work(target, &mut reading)?;
    reading.progress.finish();
    reading.queue.outcome()?;
    Ok(reading.found)
}

struct Balances {
    authority: String,
    found: Vec<i64>,
    queue: Queue,
    progress: Progress,
}

impl Exchange for Balances {
    type Token = Piece;

    fn request(&mut self, _now: Instant, buffer: &mut Vec<u8>) -> Turn<Piece> {
        let turn = self.queue.next();
        if let Turn::Send(piece) = &turn {
            let name = account_name(piece.number);
            let request =
                format!("GET /v1/wallet/accounts/{name} HTTP/1.1\r\nhost: {}\r\n\r\n", self.authority);
            buffer.extend_from_slice(request.as_bytes());
        }
        turn
    }

    fn answered(&mut self, piece: Piece, _now: Instant, status: u16, body: &[u8]) {
        let balance = match status {
            200 => dollars(body),
            429 | 503 => return self.queue.repeat(piece, || describe(status, body)),
            _ => None,
        };
        match balance {
            Some(balance) => {
                self.found[piece.number as usize] = balance;
                let done = self.queue.done();
                self.progress.report(done.into(), self.found.len() as u64);
            }
            None => self.queue.fail(anyhow!("cannot read an account: {}", describe(status, body))),
        }
    }

    fn failed(&mut self, piece: Piece, why: &anyhow::Error) {
        self.queue.repeat(piece, || format!("{why:#}"));
    }
}

/// The total of the account in US dollars, in minor units.
fn dollars(body: &[u8]) -> Option<i64> {
    let account: Value = serde_json::from_slice(body).ok()?;
    let balances = account.get("balances")?.as_array()?;
    let dollars = balances.iter().find(|balance| balance["currency"] == "USD")?;
    dollars["total"].as_str()?.replace('.', "").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dollars_are_read_in_minor_units() {
        let account = |total: &str| {
            serde_json::json!({ "balances": [{ "currency": "EUR", "total": "1.00" }, { "currency": "USD", "total": total }] })
                .to_string()
        };
        assert_eq!(dollars(account("10000000.05").as_bytes()), Some(1_000_000_005));
        assert_eq!(dollars(account("-0.05").as_bytes()), Some(-5));
        assert_eq!(dollars(b"{\"balances\":[]}"), None);
        assert_eq!(dollars(b"no JSON"), None);
    }
}
