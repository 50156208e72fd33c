//! Makes the accounts that take part, and gives each enough money never to run out: one deposit into the first, which passes half of it
//! on, as does whoever has received. So nobody pays twice at a time, which architectures that lock accounts are slow at.

use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use api::client::{Client, Options};
use api::proto;
use serde_json::Value;

use super::Target;
use super::arguments::Transport;
use super::engine::{Engine, Exchange, Turn};
use super::http::{UNANSWERED_IN_BATCH, account_name, authority, describe, head};
use super::load::Plan;
use super::random::Random;
use crate::exit::{Exit, Failure, OrExit};
use crate::progress::Progress;

/// Connections that open accounts and read them back.
pub(super) const CONNECTIONS: u32 = 64;
/// Accounts opened by a gRPC call: as many as the wallet takes.
const ACCOUNTS_PER_CALL: u32 = 8190;
/// Payments in a request: below the wallet's limit of 1 MiB a request.
const PAYMENTS_PER_REQUEST: u32 = 1000;
const PAYMENT_CONNECTIONS: u32 = 4;
/// What each account is given: no run moves as much from one account.
const GIFT_MAJOR_UNITS: u64 = 10_000_000;
/// A request that the wallet has no room for is repeated so often.
const ATTEMPTS_MAX: u32 = 50;
/// How long all of it may take.
const PATIENCE: Duration = Duration::from_secs(600);
/// The stream of random numbers that gifts take their ids from.
const GIFT_STREAM: u64 = u64::MAX - 1;

/// The accounts of a run.
pub(super) struct Accounts {
    /// The number of each within its partition, by index; 0 where the wallet's architecture has none.
    pub(super) handles: Vec<u32>,
}

impl Accounts {
    /// Whether transfers may name them by their handles.
    pub(super) fn have_handles(&self) -> bool {
        !self.handles.contains(&0)
    }

    /// Opens those that do not exist, and pays into all.
    pub(super) fn prepare(target: &Target, plan: &Plan) -> Result<Accounts, Failure> {
        let grpc = plan.transport == Transport::GrpcStream
            || TcpStream::connect_timeout(&target.grpc, target.timeout).is_ok();
        let handles = if grpc { open_over_grpc(target, plan)? } else { open_over_http(target, plan)? };
        let mut deposit = FirstDeposit { authority: authority(target), plan, queue: Queue::new(1) };
        work(target, 1, &mut deposit)?;
        deposit.queue.outcome()?;
        spread(target, plan)?;
        Ok(Accounts { handles })
    }
}

/// Many accounts a call: faster by far, and so used for other transports as well where the wallet can be reached this way.
fn open_over_grpc(target: &Target, plan: &Plan) -> Result<Vec<u32>, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the asynchronous runtime")?;
    let mut progress = Progress::counting("opening accounts", "accounts");
    let mut handles = Vec::with_capacity(plan.accounts as usize);
    let open_all = async {
        let options = Options {
            connect_timeout: target.timeout,
            call_timeout: target.timeout,
            patience: target.timeout,
            ..Options::default()
        };
        let client = Client::new(&format!("http://{}", target.grpc), options)?;
        while handles.len() < plan.accounts as usize {
            let first = u32::try_from(handles.len()).expect("there are at most as many as planned");
            let last = first.saturating_add(ACCOUNTS_PER_CALL).min(plan.accounts);
            let accounts = (first..last).map(|index| proto::OpenAccountRequest {
                account_id: account_name(index),
                ..proto::OpenAccountRequest::default()
            });
            let request = proto::OpenAccountsRequest { accounts: accounts.collect() };
            for result in client.open_accounts(request).await?.results {
                let why = || anyhow!("cannot open an account: {}: {}", result.code, result.detail);
                handles.push(result.account.as_ref().ok_or_else(why)?.handle);
            }
            progress.report(handles.len() as u64, plan.accounts.into());
        }
        Ok::<(), anyhow::Error>(())
    };
    runtime.block_on(open_all).or_exit(Exit::Unavailable)?;
    progress.finish();
    Ok(handles)
}

fn open_over_http(target: &Target, plan: &Plan) -> Result<Vec<u32>, Failure> {
    let mut opening = Opening {
        authority: authority(target),
        handles: vec![0; plan.accounts as usize],
        queue: Queue::new(plan.accounts),
        progress: Progress::counting("opening accounts", "accounts"),
    };
    work(target, CONNECTIONS.min(plan.accounts), &mut opening)?;
    opening.progress.finish();
    opening.queue.outcome()?;
    Ok(opening.handles)
}

fn work<Work: Exchange>(target: &Target, connections: u32, exchange: &mut Work) -> Result<(), Failure> {
    let mut engine = Engine::connect(target.http, connections, target.timeout).or_exit(Exit::Unavailable)?;
    engine.run(exchange, Instant::now() + PATIENCE).or_exit(Exit::Unavailable)
}

/// Numbered pieces of work, those that the wallet had no room for coming back.
pub(super) struct Queue {
    next: u32,
    count: u32,
    done: u32,
    again: Vec<Piece>,
    failure: Option<anyhow::Error>,
}

/// A piece of work, and how often it was tried.
#[derive(Debug, Clone, Copy)]
pub(super) struct Piece {
    pub(super) number: u32,
    attempts: u32,
}

impl Queue {
    pub(super) fn new(count: u32) -> Queue {
        Queue { next: 0, count, done: 0, again: Vec::new(), failure: None }
    }

    pub(super) fn next(&mut self) -> Turn<Piece> {
        if self.failure.is_some() {
            return Turn::Over;
        }
        if let Some(piece) = self.again.pop() {
            return Turn::Send(piece);
        }
        if self.next < self.count {
            self.next += 1;
            return Turn::Send(Piece { number: self.next - 1, attempts: 0 });
        }
        if self.done < self.count {
            Turn::Wait(Instant::now() + Duration::from_millis(1))
        } else {
            Turn::Over
        }
    }

    pub(super) fn done(&mut self) -> u32 {
        self.done += 1;
        self.done
    }

    pub(super) fn repeat(&mut self, piece: Piece, why: impl FnOnce() -> String) {
        if piece.attempts == ATTEMPTS_MAX {
            self.fail(anyhow!("tried {ATTEMPTS_MAX} times: {}", why()));
        } else {
            self.again.push(Piece { attempts: piece.attempts + 1, ..piece });
        }
    }

    pub(super) fn fail(&mut self, why: anyhow::Error) {
        self.failure.get_or_insert(why);
    }

    /// Whether all of it was done.
    pub(super) fn outcome(&mut self) -> Result<(), Failure> {
        match self.failure.take() {
            Some(why) => Err(Failure::new(Exit::Unavailable, why)),
            None if self.done < self.count => {
                let left = self.count - self.done;
                Err(Failure::new(Exit::Unavailable, anyhow!("{left} requests were not answered in time")))
            }
            None => Ok(()),
        }
    }
}

struct Opening {
    authority: String,
    handles: Vec<u32>,
    queue: Queue,
    progress: Progress,
}

impl Exchange for Opening {
    type Token = Piece;

    fn request(&mut self, _now: Instant, buffer: &mut Vec<u8>) -> Turn<Piece> {
        let turn = self.queue.next();
        if let Turn::Send(piece) = &turn {
            let body = format!("{{\"account_id\":\"{}\"}}", account_name(piece.number));
            buffer.extend_from_slice(head(&self.authority, "/v1/wallet/accounts", body.len()).as_bytes());
            buffer.extend_from_slice(body.as_bytes());
        }
        turn
    }

    fn answered(&mut self, piece: Piece, _now: Instant, status: u16, body: &[u8]) {
        match status {
            200 | 201 => match handle(body) {
                Ok(handle) => {
                    self.handles[piece.number as usize] = handle;
                    let done = self.queue.done();
                    if done.is_multiple_of(1024) {
                        self.progress.report(done.into(), self.handles.len() as u64);
                    }
                }
                Err(error) => self.queue.fail(error),
            },
            429 | 503 => self.queue.repeat(piece, || describe(status, body)),
            _ => self.queue.fail(anyhow!("cannot open an account: {}", describe(status, body))),
        }
    }

    fn failed(&mut self, piece: Piece, why: &anyhow::Error) {
        self.queue.repeat(piece, || format!("{why:#}"));
    }
}

fn handle(body: &[u8]) -> anyhow::Result<u32> {
    let account: Value = serde_json::from_slice(body).context("the account is no JSON")?;
    let Some(handle) = account.get("handle") else { return Ok(0) };
    let number = handle.as_u64().and_then(|handle| u32::try_from(handle).ok());
    number.ok_or_else(|| anyhow!("the handle of an account is no number: {account}"))
}

/// Pays in what all accounts are to have.
struct FirstDeposit<'plan> {
    authority: String,
    plan: &'plan Plan,
    queue: Queue,
}

impl Exchange for FirstDeposit<'_> {
    type Token = Piece;

    fn request(&mut self, _now: Instant, buffer: &mut Vec<u8>) -> Turn<Piece> {
        let turn = self.queue.next();
        if let Turn::Send(_) = &turn {
            let amount = u64::from(self.plan.accounts) * GIFT_MAJOR_UNITS;
            let (first, id) = (account_name(0), gift_id(self.plan.seed, u64::MAX));
            let body = format!(
                "{{\"account\":\"{first}\",\"amount\":\"{amount}\",\"currency\":\"USD\",\"transaction_id\":\"{id}\"}}"
            );
            buffer.extend_from_slice(head(&self.authority, "/v1/wallet/deposit", body.len()).as_bytes());
            buffer.extend_from_slice(body.as_bytes());
        }
        turn
    }

    fn answered(&mut self, piece: Piece, _now: Instant, status: u16, body: &[u8]) {
        match status {
            200 => drop(self.queue.done()),
            429 | 503 => self.queue.repeat(piece, || describe(status, body)),
            _ => self.queue.fail(anyhow!("cannot pay into an account: {}", describe(status, body))),
        }
    }

    fn failed(&mut self, piece: Piece, why: &anyhow::Error) {
        self.queue.repeat(piece, || format!("{why:#}"));
    }
}

/// Passes the money on: in each round every second account that is a multiple of the step receives from the one before it what all up to
/// the next are to have.
fn spread(target: &Target, plan: &Plan) -> Result<(), Failure> {
    let mut progress = Progress::counting("funding accounts", "accounts");
    let mut funded = 1;
    let mut step = plan.accounts.next_power_of_two() / 2;
    while step > 0 {
        let payments = (plan.accounts - step).div_ceil(2 * step);
        let requests = payments.div_ceil(PAYMENTS_PER_REQUEST);
        let mut round = Round {
            authority: authority(target),
            accounts: plan.accounts,
            seed: plan.seed,
            step,
            payments,
            queue: Queue::new(requests),
        };
        work(target, PAYMENT_CONNECTIONS.min(requests), &mut round)?;
        round.queue.outcome()?;
        funded += payments;
        progress.report(funded.into(), plan.accounts.into());
        step /= 2;
    }
    assert_eq!(funded, plan.accounts, "every account receives once");
    progress.finish();
    Ok(())
}

/// Payments that have no account in common.
struct Round {
    authority: String,
    accounts: u32,
    seed: u64,
    step: u32,
    payments: u32,
    queue: Queue,
}

impl Exchange for Round {
    type Token = Piece;

    fn request(&mut self, _now: Instant, buffer: &mut Vec<u8>) -> Turn<Piece> {
        let turn = self.queue.next();
        if let Turn::Send(piece) = &turn {
            let first = piece.number * PAYMENTS_PER_REQUEST;
            let last = (first + PAYMENTS_PER_REQUEST).min(self.payments);
            let gifts: Vec<String> = (first..last).map(|number| self.gift(number)).collect();
            let body = format!("{{\"transfers\":[{}]}}", gifts.join(","));
            let head = head(&self.authority, "/v1/wallet/balance_transfers", body.len());
            buffer.extend_from_slice(head.as_bytes());
            buffer.extend_from_slice(body.as_bytes());
        }
        turn
    }

    fn answered(&mut self, piece: Piece, _now: Instant, status: u16, body: &[u8]) {
        match status {
            200 if memchr::memmem::find(body, b"\"status\":\"refused\"").is_some() => {
                self.queue.fail(anyhow!("cannot pay into an account: {}", describe(status, body)));
            }
            200 if memchr::memmem::find(body, UNANSWERED_IN_BATCH).is_some() => {
                self.queue.repeat(piece, || describe(status, body));
            }
            200 => drop(self.queue.done()),
            429 | 503 => self.queue.repeat(piece, || describe(status, body)),
            _ => self.queue.fail(anyhow!("cannot pay into accounts: {}", describe(status, body))),
        }
    }

    fn failed(&mut self, piece: Piece, why: &anyhow::Error) {
        self.queue.repeat(piece, || format!("{why:#}"));
    }
}

impl Round {
    fn gift(&self, number: u32) -> String {
        let (from, to, accounts) = self.payment(number);
        let (amount, id) = (u64::from(accounts) * GIFT_MAJOR_UNITS, gift_id(self.seed, to.into()));
        format!(
            "{{\"from_account\":\"{}\",\"to_account\":\"{}\",\"amount\":\"{amount}\",\"currency\":\"USD\",\"transaction_id\":\"{id}\"}}",
            account_name(from),
            account_name(to)
        )
    }

    /// Who pays whom, and for how many accounts.
    fn payment(&self, number: u32) -> (u32, u32, u32) {
        let from = number * 2 * self.step;
        let to = from + self.step;
        (from, to, self.step.min(self.accounts - to))
    }
}

/// Follows from the seed and the account, so that a repeat of a request pays once.
fn gift_id(seed: u64, account: u64) -> uuid::Uuid {
    let mut random = Random::new(seed ^ account, GIFT_STREAM);
    let bits = u128::from(random.next()) << 64 | u128::from(random.next());
    uuid::Builder::from_random_bytes(bits.to_be_bytes()).into_uuid()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_account_ends_with_its_share() {
        for accounts in [2u32, 3, 4, 5, 100, 1023, 1024, 1025] {
            let mut shares = vec![0; accounts as usize];
            shares[0] = accounts;
            let mut step = accounts.next_power_of_two() / 2;
            while step > 0 {
                let payments = (accounts - step).div_ceil(2 * step);
                let round = Round {
                    authority: String::new(),
                    accounts,
                    seed: 0,
                    step,
                    payments,
                    queue: Queue::new(0),
                };
                for (from, to, share) in (0..payments).map(|number| round.payment(number)) {
                    assert!(
                        shares[from as usize] > share && shares[to as usize] == 0,
                        "{accounts} {from} {to}"
                    );
                    shares[from as usize] -= share;
                    shares[to as usize] += share;
                }
                step /= 2;
            }
            assert!(shares.iter().all(|share| *share == 1), "{accounts}: {shares:?}");
        }
    }
}
