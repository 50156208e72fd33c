//! How many events a second a running wallet pushes to how many subscribers, and how long each is on its way.
//!
//! ```text
//! jigap serve --data-dir /tmp/fan-out
//! cargo run --release -p server --example event_fan_out -- http://127.0.0.1:8080 10000 1000 100000 10
//! ```
//!
//! The numbers: subscribers (each of one account), accounts, events a second pushed in all, seconds. Every subscriber is checked to get
//! every event of its account, once and in order. Each process opens one file for every subscriber: `ulimit -Hn` must allow it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

/// How often transfers are sent.
const TICK: Duration = Duration::from_millis(10);
/// How long to wait for the last answers and the last events.
const PATIENCE: Duration = Duration::from_secs(30);
/// Transfers in one request at most.
const BATCH_TRANSFERS_MAX: usize = 4_000;
const ID_MARK: &[u8] = b"\"transaction_id\":\"";
const ID_SIZE: usize = ID_MARK.len() + 36;

type Failure = Box<dyn std::error::Error + Send + Sync>;

struct Plan {
    server: String,
    subscribers: usize,
    accounts: usize,
    events_per_second: usize,
    seconds: usize,
}

fn plan() -> Option<Plan> {
    let mut arguments = std::env::args().skip(1);
    let server = arguments.next()?;
    let mut number = || arguments.next()?.parse::<usize>().ok().filter(|number| *number > 0);
    let (subscribers, accounts, events_per_second, seconds) = (number()?, number()?, number()?, number()?);
    let is_sound = subscribers.is_multiple_of(accounts);
    is_sound.then_some(Plan { server, subscribers, accounts, events_per_second, seconds })
}

/// What all subscribers have seen together.
#[derive(Default)]
struct Seen {
    /// Subscribers that were answered.
    answered: AtomicU64,
    events: AtomicU64,
    /// Events that came twice, in another order, or after one that is missing.
    wrong: AtomicU64,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    let Some(plan) = plan() else {
        return Err("arguments: URL SUBSCRIBERS ACCOUNTS EVENTS_PER_SECOND SECONDS, subscribers a multiple of accounts".into());
    };
    storage::open_files::raise_limit();
    rustls::crypto::ring::default_provider().install_default().map_err(|_| "TLS is set up twice")?;
    let client = reqwest::Client::new();
    let run = std::process::id();
    let after = prepare(&client, &plan, run).await?;

    let (latencies, measured) = mpsc::unbounded_channel();
    let seen = Arc::new(Seen::default());
    let started = Instant::now();
    let address = plan.server.strip_prefix("http://").ok_or("the server's address begins with http://")?;
    for index in 0..plan.subscribers {
        let account_index = index % plan.accounts;
        let stream = subscribe(address, &account(run, account_index), after).await?;
        let numbers = (account_index as u64..).step_by(plan.accounts);
        tokio::spawn(listen(stream, numbers, started, Arc::clone(&seen), latencies.clone()));
    }
    wait_for(&seen.answered, plan.subscribers as u64).await;
    println!("{} subscribers after {:.1} s", plan.subscribers, started.elapsed().as_secs_f64());

    let begun = Instant::now();
    let transfers = drive(&client, &plan, run, started).await?;
    let sent_in = begun.elapsed();
    let expected = (transfers * (plan.subscribers / plan.accounts)) as u64;
    wait_for(&seen.events, expected).await;
    let took = begun.elapsed();
    let (got, wrong) = (seen.events.load(Ordering::Relaxed), seen.wrong.load(Ordering::Relaxed));
    println!(
        "{}",
        json!({
            "subscribers": plan.subscribers, "accounts": plan.accounts, "transfers": transfers, "events": got,
            "expected": expected, "wrong": wrong, "seconds": took.as_secs_f64(),
            "sending_seconds": sent_in.as_secs_f64(), "events_per_second": got as f64 / took.as_secs_f64(),
            "latency_ms": percentiles(measured),
        })
    );
    if (got, wrong) == (expected, 0) { Ok(()) } else { Err("events are missing, or came twice".into()) }
}

/// Waits until so many were counted, or it takes too long.
async fn wait_for(count: &AtomicU64, expected: u64) {
    let deadline = Instant::now() + PATIENCE;
    while count.load(Ordering::Relaxed) < expected && Instant::now() < deadline {
        tokio::time::sleep(TICK).await;
    }
}

fn percentiles(mut measured: mpsc::UnboundedReceiver<u32>) -> Value {
    let mut micros: Vec<u32> = std::iter::from_fn(|| measured.try_recv().ok()).collect();
    micros.sort_unstable();
    let last = micros.len().saturating_sub(1) as f64;
    let at = |share: f64| micros.get((last * share) as usize).map(|micros| f64::from(*micros) / 1000.0);
    json!({ "p50": at(0.5), "p99": at(0.99), "max": at(1.0) })
}

fn account(run: u32, index: usize) -> String {
    format!("fan-{run}-{index}")
}

/// Opens the accounts; the position from which to subscribe.
async fn prepare(client: &reqwest::Client, plan: &Plan, run: u32) -> Result<u64, Failure> {
    for index in 0..plan.accounts {
        post(client, plan, "accounts", &json!({ "account_id": account(run, index) })).await?;
    }
    let payer = format!("fan-{run}");
    post(client, plan, "accounts", &json!({ "account_id": payer })).await?;
    let id = format!("{run:08x}-0000-4000-9000-000000000000");
    let money = json!({ "account": payer, "amount": "1000000000", "currency": "USD", "transaction_id": id });
    Ok(post(client, plan, "deposit", &money).await?["sequence"].as_u64().ok_or("a deposit has a sequence")?)
}

async fn post(client: &reqwest::Client, plan: &Plan, route: &str, body: &Value) -> Result<Value, Failure> {
    let request = client.post(format!("{}/v1/wallet/{route}", plan.server)).body(body.to_string());
    let answer = request.header("content-type", "application/json").send().await?.error_for_status()?;
    Ok(serde_json::from_slice(&answer.bytes().await?)?)
}

async fn subscribe(address: &str, account: &str, after: u64) -> Result<TcpStream, Failure> {
    let mut stream = TcpStream::connect(address).await?;
    let request =
        format!("GET /v1/wallet/events?account={account}&after={after} HTTP/1.1\r\nhost: {address}\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    Ok(stream)
}

/// The id of a transfer tells its number, and when it was sent.
fn id(run: u32, number: u64, sent_us: u64) -> String {
    let (high, middle, low) = (number >> 24 & 0xffff, number >> 12 & 0xfff, number & 0xfff);
    format!("{run:08x}-{high:04x}-4{middle:03x}-8{low:03x}-{sent_us:012x}")
}

/// The number and the time of an id.
fn parse_id(id: &[u8]) -> Option<(u64, u64)> {
    let id = std::str::from_utf8(id).ok()?;
    let hexadecimal = |range: std::ops::Range<usize>| u64::from_str_radix(id.get(range)?, 16).ok();
    let number = hexadecimal(9..13)? << 24 | hexadecimal(15..18)? << 12 | hexadecimal(20..23)?;
    Some((number, hexadecimal(24..36)?))
}

/// Counts the events of a stream, which must have these numbers, and how long each took.
async fn listen(
    mut stream: TcpStream,
    mut numbers: impl Iterator<Item = u64>,
    started: Instant,
    seen: Arc<Seen>,
    latencies: mpsc::UnboundedSender<u32>,
) {
    let mut buffer = Vec::with_capacity(4096);
    // Nothing but the head of the answer comes before the first transfer.
    if stream.read_buf(&mut buffer).await.is_ok_and(|size| size > 0) {
        seen.answered.fetch_add(1, Ordering::Relaxed);
    }
    while stream.read_buf(&mut buffer).await.is_ok_and(|size| size > 0) {
        let now = started.elapsed().as_micros() as u64;
        let (mut from, mut is_cut) = (0, false);
        while let Some(found) = buffer[from..].windows(ID_MARK.len()).position(|window| window == ID_MARK) {
            from += found;
            is_cut = buffer.len() < from + ID_SIZE;
            if is_cut {
                break;
            }
            let (number, sent_us) =
                parse_id(&buffer[from + ID_MARK.len()..from + ID_SIZE]).unwrap_or((u64::MAX, now));
            seen.events.fetch_add(1, Ordering::Relaxed);
            seen.wrong.fetch_add(u64::from(numbers.next() != Some(number)), Ordering::Relaxed);
            // Whoever measures may have ended.
            let _ = latencies.send(now.saturating_sub(sent_us) as u32);
            from += ID_SIZE;
        }
        // What may be the beginning of an id is kept.
        let kept = if is_cut { from } else { from.max(buffer.len().saturating_sub(ID_MARK.len() - 1)) };
        buffer.drain(..kept);
    }
}

/// Sends transfers at the rate that makes so many events, round the accounts; how many.
async fn drive(client: &reqwest::Client, plan: &Plan, run: u32, started: Instant) -> Result<usize, Failure> {
    let each = plan.subscribers / plan.accounts;
    let total = plan.events_per_second * plan.seconds / each;
    let begun = Instant::now();
    let mut sent = 0;
    while sent < total {
        let due = plan.events_per_second as f64 * begun.elapsed().as_secs_f64() / each as f64;
        let count = (due as usize).saturating_sub(sent).min(total - sent).min(BATCH_TRANSFERS_MAX);
        if count > 0 {
            let sent_us = started.elapsed().as_micros() as u64;
            let transfer = |number: usize| {
                json!({
                    "from_account": format!("fan-{run}"), "to_account": account(run, number % plan.accounts),
                    "amount": "0.01", "currency": "USD", "transaction_id": id(run, number as u64, sent_us),
                })
            };
            let transfers: Vec<Value> = (sent..sent + count).map(transfer).collect();
            post(client, plan, "balance_transfers", &json!({ "transfers": transfers })).await?;
            sent += count;
        }
        tokio::time::sleep(TICK).await;
    }
    Ok(sent)
}
