//! `jigap webhook`, and what of webhooks survives the death of the process.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver as Channel, channel};
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Home, Wallet};

/// How long a test waits for a message that must come.
const PATIENCE: Duration = Duration::from_secs(60);

/// Takes every message and answers 200; gives out each message's id and body.
fn receiver() -> (SocketAddr, Channel<(String, Value)>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (seen, messages) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut reader, seen) = (BufReader::new(stream.unwrap()), seen.clone());
            std::thread::spawn(move || {
                while let Some(message) = read(&mut reader) {
                    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
                    // The test may have ended, or the wallet been killed.
                    if seen.send(message).is_err() || reader.get_mut().write_all(answer).is_err() {
                        return;
                    }
                }
            });
        }
    });
    (address, messages)
}

/// `None` at the end of a connection, wherever that is.
fn read(reader: &mut BufReader<TcpStream>) -> Option<(String, Value)> {
    let (mut id, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        match line.trim_end().split_once(": ") {
            Some(("webhook-id", value)) => id = value.to_owned(),
            Some(("content-length", value)) => length = value.parse().unwrap(),
            Some(_) => {}
            None if line.trim_end().is_empty() => break,
            None => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some((id, serde_json::from_slice(&body).unwrap()))
}

/// Pays many times in one request; the last event's sequence.
fn pay(wallet: &Wallet<'_>, round: usize) -> u64 {
    let transfers: Vec<Value> = (0..100)
        .map(|index| {
            json!({ "from_account": "alice", "to_account": "bob", "amount": "0.01", "currency": "USD",
                "transaction_id": format!("01890d9e-3c1b-7c5f-9d6e-{:012x}", round * 100 + index) })
        })
        .collect();
    let body = json!({ "transfers": transfers }).to_string();
    let mut connection = TcpStream::connect(wallet.http).unwrap();
    let head = format!(
        "POST /v1/wallet/balance_transfers HTTP/1.1\r\nhost: w\r\nconnection: close\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n",
        body.len()
    );
    connection.write_all(head.as_bytes()).unwrap();
    connection.write_all(body.as_bytes()).unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).unwrap();
    let results: Value = serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap();
    results["results"][99]["sequence"].as_u64().unwrap()
}

#[test]
fn no_event_is_lost_however_often_the_wallet_is_killed() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let home = Home::new();
    let (address, messages) = receiver();
    let mut seen: BTreeMap<u64, (String, Value)> = BTreeMap::new();
    let mut repeats = 0;
    let mut take = |most: u64| {
        let (id, body) = messages.recv_timeout(PATIENCE).expect("a message comes");
        let sequence = body["data"]["sequence"].as_u64().unwrap();
        let next = seen.last_key_value().map_or(1, |(last, _)| last + 1);
        assert!(sequence <= next, "{sequence} came before {next}");
        assert!(sequence <= most, "{sequence} was not answered yet");
        match seen.insert(sequence, (id.clone(), body.clone())) {
            Some(before) => {
                assert_eq!(before, (id, body), "a repeat says the same");
                repeats += 1;
            }
            None => assert_eq!(sequence, next),
        }
        seen.len() as u64
    };
    let mut last = 0;
    for round in 0..8 {
        let wallet = home.serve_with(&["--webhooks-backoff-max", "50ms"]);
        if round == 0 {
            wallet.open_and_pay();
            let url = format!("http://{address}/");
            wallet.ask(&["webhook", "add", &url, "--after", "0"]).expect_code(0);
        }
        last = pay(&wallet, round);
        let until = random.u64(1..last);
        while take(last) < until {}
        // Dropped, it dies of SIGKILL.
    }
    let wallet = home.serve();
    while take(last) < last {}
    let listed = wallet.ask(&["webhook", "list"]).expect_code(0).json();
    assert_eq!(listed["webhooks"][0]["dead_letters"], 0);
    wallet.stop();
    println!("{last} events, {repeats} repeats");
}

#[test]
fn the_command_line_manages_webhooks() {
    let home = Home::new();
    let wallet = home.serve_with(&["--webhooks-retry-time", "0", "--webhooks-timeout", "5s"]);
    wallet.open_and_pay();
    let (address, messages) = receiver();
    let url = format!("http://{address}/hook");
    let made =
        wallet.ask(&["webhook", "add", &url, "--account", "bob", "--type", "transfer"]).expect_code(0).json();
    let id = made["id"].as_str().unwrap();
    assert!(made["secret"].as_str().unwrap().starts_with("whsec_"));
    wallet.ask(&["transfer", "alice", "bob", "1", "USD"]).expect_code(0);
    let (message, body) = messages.recv_timeout(PATIENCE).unwrap();
    assert_eq!((message, &body["data"]["amount"]), (format!("{id}_0_5"), &"1.00".into()));

    let again =
        wallet.ask(&["webhook", "add", &url, "--account", "bob", "--type", "transfer"]).expect_code(1);
    assert!(again.stderr.contains("webhook_exists"), "{again:?}");
    let rotated = wallet.ask(&["webhook", "rotate", id, "--previous-valid", "60"]).expect_code(0).json();
    assert_ne!(rotated["secret"], made["secret"]);
    assert_eq!(wallet.ask(&["webhook", "pause", id]).expect_code(0).json()["status"], "paused");
    assert_eq!(wallet.ask(&["webhook", "resume", id]).expect_code(0).json()["status"], "active");
    let letters = wallet.ask(&["webhook", "dead-letters", id]).expect_code(0).json();
    assert_eq!(letters["dead_letters"], json!([]));
    assert_eq!(wallet.ask(&["webhook", "redeliver", id]).expect_code(0).json()["queued"], 0);
    wallet.ask(&["webhook", "redeliver", id, "--sequence", "5"]).expect_code(1);
    let table = wallet.ask(&["webhook", "list", "--table"]).expect_code(0).stdout;
    assert!(table.contains(id) && table.contains("active"), "{table}");
    let shown = wallet.ask(&["webhook", "show", id, "--table"]).expect_code(0).stdout;
    assert!(shown.contains("cursor") && !shown.contains("whsec_"), "{shown}");
    assert_eq!(wallet.ask(&["webhook", "remove", id]).expect_code(0).json()["status"], "removed");
    wallet.ask(&["webhook", "show", id]).expect_code(1);
    wallet.stop();

    let damaged = home.data().join("webhooks/wh_0123456789abcdef.json");
    std::fs::write(&damaged, "{").unwrap();
    let refused = crate::harness::finish(&mut home.serve_command()).expect_code(4);
    assert!(refused.stderr.contains("wh_0123456789abcdef.json is damaged"), "{refused:?}");
    home.serve_with(&["--webhooks-reach", "off"]).ask(&["webhook", "list"]).expect_code(1);
}
