//! Ten thousand subscribers of one node.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command as Process, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::events::{Event, Stream};
use crate::harness::Wallet;
use crate::hostile::{raise_open_files_limit, resident_size_bytes};

const SUBSCRIBERS: usize = 10_000;
/// One in so many wants every event, the others those of one account.
const OF_EVERYTHING: usize = 1_000;
const ACCOUNTS: usize = 500;
/// Payments to every account in each of the two rounds.
const PAYMENTS: usize = 3;
const CHILD_ADDRESS: &str = "JIGAP_FAN_OUT_CHILD_ADDRESS";
const CHILD_AFTER: &str = "JIGAP_FAN_OUT_AFTER";
/// A subscriber that waits so long for an event has lost it.
const PATIENCE: Duration = Duration::from_secs(100);

fn account(index: usize) -> String {
    format!("account-{}", index % ACCOUNTS)
}

fn wants_everything(index: usize) -> bool {
    index.is_multiple_of(OF_EVERYTHING)
}

/// The next event. Who is silent for long shows that it lives.
fn next(stream: &mut Stream) -> Event {
    loop {
        let event = stream.next().expect("an event");
        if event.kind != "comment" {
            return event;
        }
    }
}

/// The subscribers, in a process of their own, because a process has only so many files. They read one after the other, so most of
/// what they are sent waits in sockets.
fn subscribe(address: &str) {
    raise_open_files_limit(SUBSCRIBERS as u64 + 100);
    let after = std::env::var(CHILD_AFTER).expect("the position to begin with");
    let connections = (0..SUBSCRIBERS).map(|index| {
        let mut connection = TcpStream::connect(address).expect("it accepts");
        connection.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let wanted =
            if wants_everything(index) { String::new() } else { format!("account={}", account(index)) };
        Stream::ask(&mut connection, &format!("?after={after}&{wanted}"), None);
        connection
    });
    let connections: Vec<TcpStream> = connections.collect();
    let mut streams: Vec<Stream> = connections.into_iter().map(Stream::answered).collect();
    println!("subscribed");
    let mut sequence: u64 = after.parse().expect("a sequence");
    for round in ["first", "second"] {
        for (index, stream) in streams.iter_mut().enumerate() {
            if wants_everything(index) {
                for expected in 1..=(PAYMENTS * ACCOUNTS) as u64 {
                    assert_eq!(next(stream).sequence(), sequence + expected);
                }
                continue;
            }
            for payment in 1..=PAYMENTS {
                let event = next(stream);
                assert_eq!(event.data["to_account"], account(index), "{event:?}");
                let note = json!({ "payment": format!("{round} {payment}") });
                assert_eq!(event.data["metadata"], note, "{event:?}");
            }
        }
        sequence += (PAYMENTS * ACCOUNTS) as u64;
        println!("{round} round seen");
        let _ = std::io::stdin().read(&mut [0]);
    }
}

fn pay(wallet: &Wallet, round: &str) {
    for payment in 1..=PAYMENTS {
        let transfers = (0..ACCOUNTS).map(|index| {
            let mut transfer = wallet.transfer_body("payer", &account(index), "0.01", "USD");
            transfer["metadata"] = json!({ "payment": format!("{round} {payment}") });
            transfer
        });
        let transfers: Vec<Value> = transfers.collect();
        wallet.post("/v1/wallet/balance_transfers", &json!({ "transfers": transfers })).ok();
    }
}

fn start_subscribers(wallet: &Wallet, after: u64) -> Child {
    let test = "fan_out::ten_thousand_subscribers_get_every_event_that_they_want_once";
    Process::new(std::env::current_exe().expect("this test"))
        .args(["--exact", test, "--nocapture"])
        .env(CHILD_ADDRESS, wallet.address.to_string())
        .env(CHILD_AFTER, after.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the subscribers start")
}

#[test]
fn ten_thousand_subscribers_get_every_event_that_they_want_once() {
    const SIZE_BYTES_MAX_EACH: u64 = 40 << 10;
    if let Ok(address) = std::env::var(CHILD_ADDRESS) {
        return subscribe(&address);
    }
    raise_open_files_limit(SUBSCRIBERS as u64 + 200);
    let wallet = Wallet::start();
    wallet.open(&["payer"]);
    for index in 0..ACCOUNTS {
        wallet.open(&[&account(index)]);
    }
    let paid = wallet.deposit("payer", "1000.00", "USD");
    // The first round is past when they come, all at the same moment; the second is live.
    pay(&wallet, "first");
    let before = resident_size_bytes();
    let mut subscribers = start_subscribers(&wallet, paid["sequence"].as_u64().expect("a sequence"));
    let mut lines = BufReader::new(subscribers.stdout.take().expect("a pipe")).lines().map_while(Result::ok);
    let mut told = |what: &str| assert!(lines.any(|line| line.ends_with(what)), "not {what}");
    told("subscribed");
    let metrics = wallet.get("/metrics").text;
    assert!(metrics.contains(&format!("jigap_events_subscribers {SUBSCRIBERS}\n")), "{metrics}");
    told("first round seen");
    let grown = resident_size_bytes().saturating_sub(before);
    println!("{SUBSCRIBERS} subscribers cost {} bytes each", grown / SUBSCRIBERS as u64);
    assert!(grown < SIZE_BYTES_MAX_EACH * SUBSCRIBERS as u64, "{grown} bytes");
    let mut input = subscribers.stdin.take().expect("a pipe");
    input.write_all(b"\n").expect("it reads");
    pay(&wallet, "second");
    told("second round seen");
    let metrics = wallet.get("/metrics").text;
    let of_everything = SUBSCRIBERS / OF_EVERYTHING;
    let sent = 2 * PAYMENTS * (SUBSCRIBERS - of_everything + of_everything * ACCOUNTS);
    assert!(metrics.contains(&format!("jigap_events_sent_total {sent}\n")), "{metrics}");
    assert!(metrics.contains("jigap_events_dropped_total 0\n"), "{metrics}");
    drop(input);
    assert!(subscribers.wait().expect("they end").success());
}
