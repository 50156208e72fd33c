//! Clients that are slow, half-open, enormous or confused: a precise error, and everyone else is served.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::{Command as Process, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
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
    // Whoever sends a little too much is heard to the end before he is answered, and may go on.
    let mut stream = wallet.connect();
    for size_bytes in [(1 << 20) + 1, 4 << 20] {
        let head = format!(
            "POST {PATH} HTTP/1.1\r\nhost: w\r\ncontent-type: application/json\r\ncontent-length: {size_bytes}\r\n\r\n"
        );
        stream.write_all(&[head.as_bytes(), &vec![b' '; size_bytes]].concat()).expect("it is all taken");
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).expect("it is answered");
        assert_eq!(&answer, b"HTTP/1.1 413");
        let mut rest = Vec::new();
        while !rest.ends_with(b"}") {
            let mut byte = [0];
            stream.read_exact(&mut byte).expect("it is answered");
            rest.push(byte[0]);
        }
    }
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

/// What this process has in memory, the server included.
pub(crate) fn resident_size_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find(|line| line.starts_with("VmRSS")).expect("the resident size");
    let kibibytes = line.split_whitespace().nth(1).and_then(|size| size.parse::<u64>().ok());
    kibibytes.expect("a number") << 10
}

/// Raises the number of files that this process may have open.
pub(crate) fn raise_open_files_limit(wanted: u64) {
    let limit = getrlimit(Resource::Nofile);
    let hard = limit.maximum.unwrap_or(u64::MAX);
    assert!(hard >= wanted, "{wanted} open files are needed, {hard} are allowed: raise `ulimit -Hn`");
    let current = limit.current.map(|current| current.max(wanted));
    let raised = Rlimit { current, maximum: limit.maximum };
    setrlimit(Resource::Nofile, raised).expect("below the hard limit it may be raised");
}

const IDLE_CONNECTIONS: usize = 10_000;
const IDLE_CHILD_ADDRESS: &str = "JIGAP_IDLE_CHILD_ADDRESS";

/// The clients, in a process of their own: half of them are served once and kept alive, the others never say a word. Then they wait
/// until the parent has seen enough; the last one is served at the very end.
fn stay_idle(address: &str) {
    raise_open_files_limit(IDLE_CONNECTIONS as u64 + 100);
    let connect = || TcpStream::connect(address).expect("it accepts");
    let mut idle: Vec<_> = (0..IDLE_CONNECTIONS).map(|_| connect()).collect();
    let serve = |stream: &mut TcpStream| {
        stream.write_all(b"GET /readyz HTTP/1.1\r\nhost: w\r\n\r\n").expect("it is sent");
        let mut answer = [0; 15];
        stream.read_exact(&mut answer).expect("it is answered");
        assert_eq!(&answer, b"HTTP/1.1 200 OK");
    };
    idle.iter_mut().step_by(2).for_each(serve);
    println!("idle");
    let _ = std::io::stdin().read(&mut [0]);
    serve(&mut idle[1]);
    println!("served");
}

#[test]
fn ten_thousand_idle_connections_cost_little_and_hold_nobody_up() {
    const SIZE_BYTES_MAX_EACH: u64 = 24 << 10;
    if let Ok(address) = std::env::var(IDLE_CHILD_ADDRESS) {
        return stay_idle(&address);
    }
    raise_open_files_limit(IDLE_CONNECTIONS as u64 + 200);
    let wallet = Wallet::start();
    wallet.open(&["alice", "bob"]);
    let before = resident_size_bytes();
    let test = "hostile::ten_thousand_idle_connections_cost_little_and_hold_nobody_up";
    let mut clients = Process::new(std::env::current_exe().expect("this test"))
        .args(["--exact", test, "--nocapture"])
        .env(IDLE_CHILD_ADDRESS, wallet.address.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the clients start");
    let mut lines = BufReader::new(clients.stdout.take().expect("a pipe")).lines().map_while(Result::ok);
    assert!(lines.any(|line| line.ends_with("idle")), "the clients are connected");
    let grown = resident_size_bytes().saturating_sub(before);
    println!("{IDLE_CONNECTIONS} connections cost {} bytes each", grown / IDLE_CONNECTIONS as u64);
    let started = Instant::now();
    wallet.deposit("alice", "1", "USD");
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    assert!(grown < SIZE_BYTES_MAX_EACH * IDLE_CONNECTIONS as u64, "{grown} bytes");
    drop(clients.stdin.take());
    assert!(lines.any(|line| line.ends_with("served")), "one that never spoke is served in the end");
    assert!(clients.wait().expect("they end").success());
}
