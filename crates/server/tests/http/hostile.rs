//! Clients that are slow, half-open, enormous or confused: a precise error, and everyone else is served.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::time::Duration;

use server::Config;

use crate::harness::Wallet;

const PATH: &str = "/v1/wallet/balance_transfer";

#[test]
fn a_huge_body_is_refused_before_it_is_read() {
    let wallet = Wallet::start();
    let head = format!(
        "POST {PATH} HTTP/1.1\r\nhost: w\r\ncontent-type: application/json\r\ncontent-length: 104857600\r\n\r\n"
    );
    let answer = wallet.raw(head.as_bytes());
    assert_eq!((answer.status, answer.problem().as_str()), (413, "request_too_large"));
    // Without a length, it is cut off once it is too long.
    let mut stream = wallet.connect();
    let head = format!(
        "POST {PATH} HTTP/1.1\r\nhost: w\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).expect("it is sent");
    let chunk = [b"10000\r\n".as_slice(), &vec![b' '; 0x10000], b"\r\n"].concat();
    let sent = (0..1600).take_while(|_| stream.write_all(&chunk).is_ok()).count();
    assert!(sent < 1600, "100 MiB were taken");
    wallet.open(&["alice"]);
}

#[test]
fn nonsense_is_answered_precisely() {
    let wallet = Wallet::start();
    let rows: [&[u8]; 6] = [b"", b"{", b"[]", b"null", b"\xff\xfe{\"a\":1}", b"{\"amount\":\"\xc3\x28\"}"];
    for body in rows {
        let answer = wallet.request("POST", PATH, &[("content-type", "application/json")], body);
        assert_eq!((answer.status, answer.problem().as_str()), (400, "invalid_request"), "{body:?}");
    }
    for open in ["[", "{\"metadata\":", "{\"amount\":["] {
        let answer = wallet.post_text(PATH, &open.repeat(50_000), &[]);
        assert_eq!((answer.status, answer.problem().as_str()), (400, "invalid_request"));
    }
}

#[test]
fn slow_and_half_open_clients_are_dropped_and_hold_nobody_up() {
    let config = Config {
        header_timeout: Duration::from_millis(300),
        request_timeout: Duration::from_millis(500),
        ..Config::default()
    };
    let wallet = Wallet::with_config(config);
    let mut slow_head = wallet.connect();
    slow_head.write_all(b"POST /v1/wa").expect("it is sent");
    let mut slow_body = wallet.connect();
    let head = format!(
        "POST {PATH} HTTP/1.1\r\nhost: w\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{{"
    );
    slow_body.write_all(head.as_bytes()).expect("it is sent");
    let mut half = wallet.connect();
    half.write_all(head.as_bytes()).expect("it is sent");
    half.shutdown(Shutdown::Write).expect("half of it is closed");
    wallet.open(&["alice", "bob"]);
    wallet.deposit("alice", "1", "USD");
    let mut answer = Vec::new();
    slow_body.read_to_end(&mut answer).expect("it is answered or closed");
    let answer = crate::harness::parse(&answer);
    assert_eq!((answer.status, answer.problem().as_str()), (503, "unavailable"));
    for mut stream in [slow_head, half] {
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).expect("it is closed");
    }
}

#[test]
fn thousands_of_idle_connections_cost_little() {
    const CONNECTIONS: usize = 2_000;
    let wallet = Wallet::start();
    let resident = || {
        let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
        let line =
            status.lines().find(|line| line.starts_with("VmRSS")).expect("the resident size").to_owned();
        line.split_whitespace().nth(1).and_then(|size| size.parse::<u64>().ok()).expect("a number")
    };
    let limit = std::fs::read_to_string("/proc/self/limits").expect("Linux");
    let files = limit.lines().find(|line| line.starts_with("Max open files")).expect("a limit");
    let files: usize =
        files.split_whitespace().nth(3).and_then(|soft| soft.parse().ok()).unwrap_or(usize::MAX);
    let count = CONNECTIONS.min(files / 2 - 50);
    wallet.open(&["alice", "bob"]);
    let before = resident();
    let idle: Vec<_> = (0..count).map(|_| wallet.connect()).collect();
    wallet.deposit("alice", "1", "USD");
    let grown = resident().saturating_sub(before);
    assert!(grown < 64 * count as u64, "{grown} KiB for {count} connections");
    drop(idle);
}
