//! The read side.

use std::io::{Read, Write};

use serde_json::{Value, json};

use crate::harness::{Wallet, parse};
use crate::hostile::raise_open_files_limit;

#[test]
fn history_is_newest_first_in_pages_with_running_balances() {
    let wallet = Wallet::start();
    wallet.open(&["alice", "bob"]);
    wallet.deposit("alice", "100.00", "USD");
    wallet.deposit("alice", "1.000", "KWD");
    for _ in 0..7 {
        wallet.transfer("alice", "bob", "2.00", "USD").ok();
    }
    let mut entries: Vec<Value> = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = wallet.get(&format!("/v1/wallet/accounts/alice/history?limit=4{cursor}")).ok();
        entries.extend(page["entries"].as_array().expect("an array").iter().cloned());
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(entries.len(), 9);
    assert_eq!(entries[0]["balance_after"], "86.00");
    assert_eq!((&entries[0]["amount"], &entries[0]["counterparty"]), (&json!("-2.00"), &json!("bob")));
    assert_eq!((&entries[8]["type"], &entries[8]["counterparty"]), (&json!("deposit"), &json!("@external")));
    assert!(entries.windows(2).all(|pair| pair[0]["sequence"].as_u64() > pair[1]["sequence"].as_u64()));
    let kwd = wallet.get("/v1/wallet/accounts/alice/history?currency=KWD").ok();
    assert_eq!(kwd["entries"].as_array().map(Vec::len), Some(1));
    let time = entries[3]["timestamp"].as_str().expect("text");
    let since = wallet.get(&format!("/v1/wallet/accounts/alice/history?since={time}")).ok();
    assert_eq!(since["entries"].as_array().map(Vec::len), Some(4));
    let until = wallet.get(&format!("/v1/wallet/accounts/alice/history?until={time}")).ok();
    assert_eq!(until["entries"].as_array().map(Vec::len), Some(6));
    let wrong = [
        "limit=0",
        "limit=1001",
        "limit=x",
        "limit=",
        "limit=%2B1",
        "limit=1.0",
        "limit=%zz",
        "limit=1&limit=2",
        "cursor=x",
        "cursor=",
        "cursor=-1",
        "cursor=%2B1",
        "since=yesterday",
        "until=2026-13-01T00:00:00Z",
        "colour=red",
    ];
    for wrong in wrong {
        let refused = wallet.get(&format!("/v1/wallet/accounts/alice/history?{wrong}"));
        assert_eq!((refused.status, refused.problem().as_str()), (400, "invalid_request"), "{wrong}");
    }
    let transaction = format!("/v1/wallet/transactions/{}?colour=red", wallet.id());
    assert_eq!(wallet.get(&transaction).problem(), "invalid_request");
    assert_eq!(wallet.get("/v1/wallet/accounts/alice/history?currency=ZZZ").problem(), "invalid_currency");
    let wallet = wallet.restart();
    let again = wallet.get("/v1/wallet/accounts/alice/history").ok();
    assert_eq!(again["entries"], Value::Array(entries));
}

#[test]
fn a_query_sees_what_its_client_has_seen() {
    let wallet = Wallet::start();
    wallet.open(&["alice", "bob"]);
    wallet.deposit("alice", "100.00", "USD");
    for count in 2..30 {
        let paid = wallet.transfer("alice", "bob", "0.01", "USD");
        let position = paid.header("x-wallet-position").expect("a position");
        let path = "/v1/wallet/accounts/alice/history?limit=1000";
        let history = wallet.request("GET", path, &[("x-wallet-position", position)], b"").ok();
        assert_eq!(history["entries"].as_array().map(Vec::len), Some(count));
    }
    let future = wallet.request("GET", "/v1/wallet/state", &[("x-wallet-position", "0:1000000")], b"");
    assert_eq!((future.status, future.problem().as_str()), (503, "unavailable"));
    for position in
        ["here", "", "0", "0:", ":1", "0:1:2", "0:-1", "0:+1", "+0:1", "1:1", "0:18446744073709551616"]
    {
        let wrong = wallet.request("GET", "/v1/wallet/state", &[("x-wallet-position", position)], b"");
        assert_eq!((wrong.status, wrong.problem().as_str()), (400, "invalid_request"), "{position:?}");
    }
}

#[test]
fn the_state_sums_to_zero_and_keeps_its_digest_over_a_restart() {
    let wallet = Wallet::start();
    wallet.open(&["alice", "bob"]);
    wallet.deposit("alice", "100.00", "USD");
    wallet.deposit("bob", "5", "JPY");
    wallet.transfer("alice", "bob", "30", "USD").ok();
    let state = wallet.get("/v1/wallet/state").ok();
    assert_eq!((&state["accounts"], &state["sequence"]), (&json!(2), &json!(5)));
    assert_eq!(state["totals"].as_array().map(Vec::len), Some(2));
    for total in state["totals"].as_array().expect("an array") {
        assert!(total["sum"] == "0.00" || total["sum"] == "0", "{total}");
    }
    assert_eq!(wallet.restart().get("/v1/wallet/state").ok(), state);
}

#[test]
fn operations_endpoints_answer() {
    let wallet = Wallet::start();
    wallet.open(&["alice"]);
    assert_eq!((wallet.get("/healthz").status, wallet.get("/readyz").status), (200, 200));
    let metrics = wallet.get("/metrics").text;
    for name in [
        "jigap_commands_total 1",
        "jigap_journal_sync_microseconds_count 1",
        "jigap_refusals_total{code=\"insufficient_funds\"} 0",
        "jigap_http_requests_total{route=\"/v1/wallet/accounts\",status=\"201\"} 1",
        "jigap_queue_depth 0",
        "jigap_view_lag_events 0",
    ] {
        assert!(metrics.contains(name), "{name} is not in\n{metrics}");
    }
    assert!(!metrics.contains("jigap_journal_bytes_total 0\n"), "the journal has a frame");
    let document = wallet.get("/openapi.json").ok();
    assert_eq!(document["openapi"], "3.1.0");
    let paths = document["paths"].as_object().expect("an object").len();
    let sources = [include_str!("../../src/routes.rs"), include_str!("../../src/webhooks/routes.rs")];
    let routes: usize = sources.iter().map(|source| source.matches(".route(").count()).sum();
    assert_eq!(paths, routes, "every route of the router is described");
    for route in api::openapi::ROUTES {
        assert!(document["paths"][route.path][route.method].is_object(), "{}", route.path);
        let path = route.path.replace("{account_id}", "alice").replace("{transaction_id}", &wallet.id());
        let path = path.replace("{webhook_id}", "wh_0");
        // A stream of events does not end by itself.
        let path = if route.answer == Some("EventStream") { format!("{path}?after=none") } else { path };
        let answer = wallet.request(&route.method.to_uppercase(), &path, &[], b"");
        let code = if answer.status >= 400 { answer.problem() } else { String::new() };
        assert!(code != "route_not_found" && code != "method_not_allowed", "{} {}", route.method, route.path);
    }
}

#[test]
fn a_thousand_queries_that_wait_for_a_position_need_no_threads_and_hold_up_nobody() {
    let threads = || std::fs::read_dir("/proc/self/task").expect("Linux").count();
    raise_open_files_limit(2_500);
    let wallet = Wallet::start();
    wallet.open(&["alice", "bob"]);
    wallet.deposit("alice", "100.00", "USD");
    assert_eq!(wallet.get("/v1/wallet/accounts/alice/history").status, 200);
    let before = threads();
    // Every other one waits for what never comes.
    let ask = |position: u64| {
        let mut stream = wallet.connect();
        let head = format!(
            "GET /v1/wallet/accounts/alice HTTP/1.1\r\nhost: w\r\nconnection: close\r\nx-wallet-position: 0:{position}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).expect("it is sent");
        (position, stream)
    };
    let waiting: Vec<_> = [4, 1_000_000].into_iter().cycle().take(1000).map(ask).collect();
    assert_eq!(wallet.get("/v1/wallet/accounts/alice/history").status, 200);
    assert!(threads() < before + 50, "{} threads, {before} before", threads());
    wallet.transfer("alice", "bob", "1.00", "USD").ok();
    for (position, mut stream) in waiting {
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("an answer");
        let answer = parse(&answer);
        // On a machine that is busy, some of those that could be answered have waited their second.
        match answer.status {
            200 => assert!(position == 4 && answer.text.contains("\"99.00\""), "{position}: {answer:?}"),
            _ => assert_eq!((answer.status, answer.problem().as_str()), (503, "unavailable")),
        }
    }
    let in_time = wallet.request("GET", "/v1/wallet/accounts/bob", &[("x-wallet-position", "0:4")], b"");
    assert_eq!(in_time.ok()["balances"][0]["available"], "1.00");
}

#[test]
fn accounts_and_states_of_the_past_are_as_they_were() {
    let wallet = Wallet::start();
    wallet.open(&["alice", "bob"]);
    let mut seen = Vec::new();
    let look = |wallet: &Wallet| {
        let accounts =
            ["alice", "bob", "@external"].map(|name| wallet.get(&format!("/v1/wallet/accounts/{name}")).ok());
        (accounts, wallet.get("/v1/wallet/state").ok())
    };
    wallet.deposit("alice", "100.00", "USD");
    seen.push(look(&wallet));
    wallet.deposit("alice", "1.000", "KWD");
    seen.push(look(&wallet));
    let hold = wallet.id();
    let body = json!({"from_account": "alice", "to_account": "bob", "amount": "30.00", "currency": "USD", "transaction_id": hold});
    wallet.post("/v1/wallet/holds", &body).ok();
    seen.push(look(&wallet));
    let body = json!({"transaction_id": wallet.id(), "amount": "12.50"});
    wallet.post(&format!("/v1/wallet/holds/{hold}/confirm"), &body).ok();
    seen.push(look(&wallet));
    wallet.transfer("bob", "alice", "12.50", "USD").ok();
    wallet.post("/v1/wallet/accounts/bob/close", &json!({"transaction_id": wallet.id()})).ok();
    seen.push(look(&wallet));
    wallet.open(&["carol"]);
    let wallet = wallet.restart();
    for (accounts, state) in &seen {
        let sequence = &state["sequence"];
        assert_eq!(wallet.get(&format!("/v1/wallet/state?at_sequence={sequence}")).ok(), *state);
        for account in accounts {
            let path = format!("/v1/wallet/accounts/{}", account["account_id"].as_str().expect("text"));
            assert_eq!(wallet.get(&format!("{path}?at_sequence={sequence}")).ok(), *account);
            let at = account["as_of"].as_str().expect("text");
            assert_eq!(wallet.get(&format!("{path}?at={at}")).ok(), *account);
        }
    }
    let (accounts, _) = seen.last().expect("there are moments");
    let alice = "/v1/wallet/accounts/alice";
    let before_carol =
        format!("/v1/wallet/accounts/carol?at={}", accounts[0]["as_of"].as_str().expect("text"));
    assert_eq!(wallet.get(&before_carol).problem(), "account_not_found");
    assert_eq!(wallet.get(&format!("{alice}?at_sequence=0")).problem(), "account_not_found");
    assert_eq!(wallet.get(&format!("{alice}?at=2001-01-01T00:00:00Z")).problem(), "account_not_found");
    assert_eq!(wallet.get("/v1/wallet/accounts/nobody?at_sequence=3").problem(), "account_not_found");
    for wrong in [
        "at=2999-01-01T00:00:00Z",
        "at_sequence=1000",
        "at=noon",
        "at_sequence=-1",
        "at=2001-01-01T00:00:00Z&at_sequence=1",
    ] {
        assert_eq!(wallet.get(&format!("{alice}?{wrong}")).problem(), "invalid_request", "{wrong}");
    }
    for wrong in ["at_sequence=1000", "at_sequence=x", "at=2001-01-01T00:00:00Z"] {
        assert_eq!(wallet.get(&format!("/v1/wallet/state?{wrong}")).problem(), "invalid_request", "{wrong}");
    }
}
