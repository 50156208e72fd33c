//! The stream of events.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;
use server::{Config, EventsConfig};

use crate::harness::{Wallet, parse};

/// One event of a stream.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Event {
    id: String,
    pub(crate) kind: String,
    pub(crate) data: Value,
}

impl Event {
    pub(crate) fn sequence(&self) -> u64 {
        self.id.strip_prefix("0:").and_then(|sequence| sequence.parse().ok()).expect("an id")
    }
}

/// Reads a stream as a browser would; its chunked encoding is taken off by hand.
pub(crate) struct Stream {
    lines: BufReader<Chunks>,
}

struct Chunks {
    connection: BufReader<TcpStream>,
    left: usize,
}

impl Read for Chunks {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.left == 0 {
            let mut line = String::new();
            self.connection.read_line(&mut line)?;
            self.left = usize::from_str_radix(line.trim(), 16).expect("the size of a chunk");
            if self.left == 0 {
                return Ok(0);
            }
        }
        let most = self.left.min(buffer.len());
        let count = self.connection.read(&mut buffer[..most])?;
        self.left -= count;
        if self.left == 0 {
            self.connection.read_exact(&mut [0; 2])?;
        }
        Ok(count)
    }
}

impl Stream {
    fn open(wallet: &Wallet, query: &str, last: Option<&str>) -> Stream {
        let mut connection = wallet.connect();
        Stream::ask(&mut connection, query, last);
        Stream::answered(connection)
    }

    /// Sends the request; the answer waits in the socket until it is read.
    pub(crate) fn ask(connection: &mut TcpStream, query: &str, last: Option<&str>) {
        let last = last.map(|last| format!("last-event-id: {last}\r\n")).unwrap_or_default();
        let head = format!("GET /v1/wallet/events{query} HTTP/1.1\r\nhost: w\r\n{last}\r\n");
        connection.write_all(head.as_bytes()).expect("it is sent");
    }

    pub(crate) fn answered(connection: TcpStream) -> Stream {
        let mut connection = BufReader::with_capacity(1024, connection);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert!(connection.read_line(&mut head).expect("an answer") > 0, "{head}");
        }
        let answer = parse(head.as_bytes());
        assert_eq!((answer.status, answer.header("content-type")), (200, Some("text/event-stream")));
        Stream { lines: BufReader::with_capacity(1024, Chunks { connection, left: 0 }) }
    }

    /// The next event; `None` at the end. A comment is an event of the kind `comment`.
    pub(crate) fn next(&mut self) -> Option<Event> {
        let mut fields: Vec<(String, String)> = Vec::new();
        loop {
            let mut line = String::new();
            if self.lines.read_line(&mut line).expect("it is alive") == 0 {
                assert!(fields.is_empty(), "the stream ends within an event");
                return None;
            }
            let line = line.trim_end_matches('\n');
            match line.split_once(": ") {
                Some((name, value)) => fields.push((name.to_owned(), value.to_owned())),
                None => {
                    assert_eq!(line, "");
                    let field = |name: &str| {
                        fields.iter().find(|(other, _)| other == name).map(|(_, value)| value.clone())
                    };
                    let Some(id) = field("id") else {
                        return Some(Event { id: String::new(), kind: "comment".into(), data: Value::Null });
                    };
                    let data = serde_json::from_str(&field("data").expect("data")).expect("JSON");
                    return Some(Event { id, kind: field("event").expect("a type"), data });
                }
            }
        }
    }

    fn take(&mut self, count: usize) -> Vec<Event> {
        (0..count).map(|_| self.next().expect("an event")).collect()
    }
}

fn given() -> Wallet {
    let wallet = Wallet::start();
    wallet.open(&["alice", "bob", "carol"]);
    wallet.deposit("alice", "100.00", "USD");
    wallet
}

fn kinds(events: &[Event]) -> Vec<&str> {
    events.iter().map(|event| event.kind.as_str()).collect()
}

#[test]
fn past_events_come_first_then_live_ones() {
    let wallet = given();
    let mut stream = Stream::open(&wallet, "", None);
    let past = stream.take(4);
    assert_eq!(kinds(&past), ["account_opened", "account_opened", "account_opened", "deposit"]);
    assert_eq!((&past[0].id[..], &past[0].data["account_id"]), ("0:1", &"alice".into()));
    assert_eq!(past[3].data["from_account"], "@external");
    wallet.transfer("alice", "bob", "12.50", "USD").ok();
    assert_eq!(wallet.transfer("bob", "carol", "99.00", "USD").problem(), "insufficient_funds");
    let live = stream.take(2);
    assert_eq!(kinds(&live), ["transfer", "refused"]);
    assert_eq!(
        (&live[0].data["postings"][1]["balance_after"], &live[0].data["sequence"]),
        (&"12.50".into(), &5.into())
    );
    let refused = &live[1].data;
    assert_eq!(
        (&refused["code"], &refused["from_account"], &refused["amount"]),
        (&"insufficient_funds".into(), &"bob".into(), &"99.00".into())
    );
    for event in past.iter().chain(&live) {
        assert_eq!((&event.data["type"], &event.data["partition"]), (&event.kind.as_str().into(), &0.into()));
        assert!(api::event::TYPES.iter().any(|(name, _)| *name == event.kind));
    }
    // The same shape as in the answer about the transaction.
    let id = live[0].data["transaction_id"].as_str().expect("an id");
    let transaction = wallet.get(&format!("/v1/wallet/transactions/{id}")).ok();
    assert_eq!(transaction["events"][0], live[0].data);
    let mut again = Stream::open(&wallet, "", None);
    assert_eq!(again.take(6), [past, live].concat(), "live and past events are the same");
    let metrics = wallet.get("/metrics").text;
    assert!(metrics.contains("jigap_events_subscribers 2"), "{metrics}");
    assert!(metrics.contains("jigap_events_sent_total 12"), "{metrics}");
}

#[test]
fn a_stream_resumes_where_it_is_told() {
    let wallet = given();
    for _ in 0..10 {
        wallet.transfer("alice", "bob", "1.00", "USD").ok();
    }
    let rows = [
        ("", Some("0:9"), 10),
        ("?after=3", Some("0:9"), 10),
        ("?after=9&partition=0", None, 10),
        ("?after=0", None, 1),
    ];
    for (query, last, first) in rows {
        let event = Stream::open(&wallet, query, last).next().expect("an event");
        assert_eq!(event.sequence(), first, "{query} {last:?}");
    }
    let mut at_the_end = Stream::open(&wallet, "?after=14", None);
    wallet.transfer("alice", "bob", "1.00", "USD").ok();
    assert_eq!(at_the_end.next().expect("an event").sequence(), 15);
}

#[test]
fn what_makes_no_sense_is_refused() {
    let wallet = given();
    let rows = [
        ("?after=5", None, 400, "invalid_request"),
        ("?after=-1", None, 400, "invalid_request"),
        ("?after=x", None, 400, "invalid_request"),
        ("?partition=1", None, 400, "invalid_request"),
        ("?colour=red", None, 400, "invalid_request"),
        ("", Some("5"), 400, "invalid_request"),
        ("", Some("0:x"), 400, "invalid_request"),
        ("", Some("1:1"), 400, "invalid_request"),
        ("", Some("0:5"), 400, "invalid_request"),
        ("?account=nobody", None, 404, "account_not_found"),
        ("?account=a%20b", None, 400, "invalid_account_id"),
    ];
    for (query, last, status, code) in rows {
        let headers: Vec<_> = last.iter().map(|last| ("last-event-id", *last)).collect();
        let answer = wallet.request("GET", &format!("/v1/wallet/events{query}"), &headers, b"");
        assert_eq!((answer.status, answer.problem().as_str()), (status, code), "{query} {last:?}");
    }
}

#[test]
fn a_refusal_says_what_was_refused() {
    let wallet = given();
    let leg = wallet.transfer_body("bob", "alice", "1.00", "USD");
    let group = serde_json::json!({ "mode": "atomic", "transaction_id": wallet.id(), "transfers": [leg] });
    assert_eq!(wallet.post("/v1/wallet/balance_transfers", &group).problem(), "leg_refused");
    let cancel = format!("/v1/wallet/holds/{}/cancel", wallet.id());
    let unknown = wallet.post(&cancel, &serde_json::json!({ "transaction_id": wallet.id() }));
    assert_eq!(unknown.problem(), "transaction_not_found");
    let events = Stream::open(&wallet, "?after=4", None).take(2);
    let said = |event: &Event| {
        let fields = ["code", "refused_type", "leg", "leg_code"].map(|name| event.data[name].clone());
        serde_json::Value::from(fields.to_vec())
    };
    let of_group = serde_json::json!(["leg_refused", "group", 0, "insufficient_funds"]);
    let of_cancelling = serde_json::json!(["transaction_not_found", "hold_cancelled", null, null]);
    assert_eq!((said(&events[0]), said(&events[1])), (of_group, of_cancelling));
}

#[test]
fn an_account_s_stream_has_what_concerns_it() {
    let wallet = given();
    let mut live = Stream::open(&wallet, "?account=bob", None);
    assert_eq!(live.next().expect("an event").kind, "account_opened");
    wallet.transfer("alice", "carol", "1.00", "USD").ok();
    wallet.transfer("alice", "bob", "2.00", "USD").ok();
    assert_eq!(wallet.transfer("carol", "bob", "50.00", "USD").problem(), "insufficient_funds");
    let hold = wallet.transfer_body("alice", "bob", "3.00", "USD");
    wallet.post("/v1/wallet/holds", &hold).ok();
    wallet.transfer("alice", "carol", "1.00", "USD").ok();
    let path = format!("/v1/wallet/holds/{}/confirm", hold["transaction_id"].as_str().expect("text"));
    wallet.post(&path, &serde_json::json!({ "transaction_id": wallet.id() })).ok();
    let events = live.take(4);
    assert_eq!(kinds(&events), ["transfer", "refused", "hold", "hold_confirmed"]);
    assert_eq!(events[3].data["postings"][0]["held_after"], "0.00");
    let mut past = Stream::open(&wallet, "?account=bob&after=2", None);
    assert_eq!(past.take(4), events);
}

#[test]
fn nothing_is_lost_or_repeated_over_a_hundred_lost_connections() {
    const EVENTS: u64 = 4_000;
    let wallet = Arc::new(given());
    let paying = Arc::clone(&wallet);
    let payer = std::thread::spawn(move || {
        for _ in 0..EVENTS / 100 {
            let transfers: Vec<Value> =
                (0..100).map(|_| paying.transfer_body("alice", "bob", "0.01", "USD")).collect();
            paying.post("/v1/wallet/balance_transfers", &serde_json::json!({ "transfers": transfers })).ok();
        }
    });
    let mut seen: Vec<u64> = Vec::new();
    let last = 4 + EVENTS;
    let mut connection = 0;
    while seen.last() != Some(&last) {
        let position = seen.last().map(|last| format!("0:{last}"));
        let mut stream = Stream::open(&wallet, "", position.as_deref());
        connection += 1;
        // Each connection breaks somewhere else.
        let count = (connection * 7 % 83 + 1).min(last - seen.last().copied().unwrap_or(0));
        seen.extend(stream.take(count as usize).iter().map(Event::sequence));
    }
    payer.join().expect("it paid");
    assert!(connection > 90, "{connection}");
    assert_eq!(seen, (1..=last).collect::<Vec<_>>());
}

#[test]
fn a_slow_subscriber_falls_back_to_the_journal_and_one_that_reads_nothing_is_dropped() {
    let config = |(buffer_events, retained_size_bytes, patience)| {
        let events = EventsConfig { buffer_events, retained_size_bytes, patience, ..EventsConfig::default() };
        Config { events, ..Config::default() }
    };
    let (patient, impatient) = (Duration::from_secs(60), Duration::from_millis(1));
    // Its own buffer is full, or what all together keep in memory.
    let rows = [
        ((8, 1 << 30, patient), false),
        ((1 << 30, 64 << 10, patient), false),
        ((8, 1 << 30, impatient), true),
    ];
    for (limits, is_dropped) in rows {
        let wallet = Wallet::with_config(config(limits));
        // Whoever reads nothing is dropped all the same, and gives up its place.
        let fallen = "jigap_events_fallen_behind_total 1";
        let is_behind = |metrics: &str| match is_dropped {
            false => metrics.contains(fallen),
            true => ["jigap_events_dropped_total 1", "jigap_events_subscribers 0"]
                .iter()
                .all(|line| metrics.contains(line)),
        };
        wallet.open(&["alice", "bob"]);
        wallet.deposit("alice", "1000.00", "USD");
        let mut stream = Stream::open(&wallet, "?after=3", None);
        wallet.transfer("alice", "bob", "0.01", "USD").ok();
        assert_eq!(stream.next().expect("an event").sequence(), 4);
        // More than the sockets between the two can hold.
        let metadata = "m".repeat(1000);
        let mut last = 4;
        while !is_behind(&wallet.get("/metrics").text) {
            let transfers: Vec<Value> = (0..200)
                .map(|_| {
                    let mut body = wallet.transfer_body("alice", "bob", "0.01", "USD");
                    body["metadata"] = serde_json::json!({ "note": metadata });
                    body
                })
                .collect();
            wallet.post("/v1/wallet/balance_transfers", &serde_json::json!({ "transfers": transfers })).ok();
            last += 200;
            assert!(last < 80_000, "it never falls behind");
        }
        let mut sequence = 4;
        while let Some(event) = stream.next() {
            if event.kind == "dropped" {
                assert!(is_dropped);
                assert_eq!((event.sequence(), &event.data["reason"]), (sequence, &"too_slow".into()));
                assert_eq!(event.data["resume_after"], sequence);
                assert_eq!(stream.next(), None, "it is the last event");
                let resumed = Stream::open(&wallet, "", Some(&event.id)).next().expect("an event");
                assert_eq!(resumed.sequence(), sequence + 1);
                break;
            }
            sequence += 1;
            assert_eq!(event.sequence(), sequence);
            if sequence == last {
                assert!(!is_dropped);
                break;
            }
        }
        let metrics = wallet.get("/metrics").text;
        assert!(!metrics.contains("jigap_events_fallen_behind_total 0"), "{metrics}");
        assert!(
            metrics.contains(&format!("jigap_events_dropped_total {}", u8::from(is_dropped))),
            "{metrics}"
        );
    }
}

#[test]
fn silent_streams_show_that_they_live_and_end_when_the_server_stops() {
    let events =
        EventsConfig { heartbeat: Duration::from_millis(20), subscribers_max: 1, ..EventsConfig::default() };
    let wallet = Wallet::with_config(Config { events, ..Config::default() });
    let mut stream = Stream::open(&wallet, "", None);
    let comments = stream.take(3);
    assert_eq!(kinds(&comments), ["comment"; 3]);
    let refused = wallet.get("/v1/wallet/events");
    assert_eq!((refused.status, refused.problem().as_str()), (503, "overloaded"));
    let started = Instant::now();
    let stopping = std::thread::spawn(move || drop(wallet));
    while let Some(event) = stream.next() {
        assert_eq!(event.kind, "comment");
    }
    stopping.join().expect("it stops");
    assert!(started.elapsed() < Duration::from_secs(5), "the open stream did not hold it up");
}
