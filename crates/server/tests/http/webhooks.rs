//! Webhooks: signed, in order, at least once, and nobody waits for a receiver.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use server::{Config, Reach, WebhookStore, WebhooksConfig};

use crate::harness::Wallet;
use crate::receiver::{Receiver, Reply, Request};

/// Quick, so that tests are.
fn webhooks(directory: &Path) -> WebhooksConfig {
    let store = WebhookStore::open(&directory.join("webhooks")).expect("it opens");
    WebhooksConfig {
        backoff_min: Duration::from_millis(5),
        backoff_max: Duration::from_millis(40),
        ..WebhooksConfig::new(store)
    }
}

fn start(change: impl FnOnce(WebhooksConfig) -> WebhooksConfig) -> Wallet {
    let directory = Arc::new(tempfile::tempdir().expect("a temporary directory"));
    let webhooks = Some(change(webhooks(directory.path())));
    let wallet = Wallet::start_in(Arc::clone(&directory), Config { webhooks, ..Config::default() });
    wallet.open(&["alice", "bob", "carol"]);
    wallet.deposit("alice", "100.00", "USD");
    wallet
}

fn restart(wallet: Wallet, change: impl FnOnce(WebhooksConfig) -> WebhooksConfig) -> Wallet {
    let directory = Arc::clone(&wallet.directory);
    let used = *wallet.next_id.lock().expect("no panic");
    drop(wallet);
    let webhooks = Some(change(webhooks(directory.path())));
    let wallet = Wallet::start_in(directory, Config { webhooks, ..Config::default() });
    *wallet.next_id.lock().expect("no panic") = used;
    wallet
}

fn add(wallet: &Wallet, body: &Value) -> (String, String) {
    let made = wallet.post("/v1/admin/webhooks", body);
    assert_eq!(made.status, 201, "{made:?}");
    let text = |name: &str| made.json()[name].as_str().expect("text").to_owned();
    (text("id"), text("secret"))
}

fn show(wallet: &Wallet, id: &str) -> Value {
    wallet.get(&format!("/v1/admin/webhooks/{id}")).ok()
}

fn act(wallet: &Wallet, id: &str, verb: &str, body: &Value) -> Value {
    wallet.post(&format!("/v1/admin/webhooks/{id}/{verb}"), body).ok()
}

fn dead_letters(wallet: &Wallet, id: &str) -> Vec<Value> {
    let letters = wallet.get(&format!("/v1/admin/webhooks/{id}/dead-letters")).ok();
    letters["dead_letters"].as_array().expect("an array").clone()
}

/// Asks until it is so.
fn until(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !is_so() {
        assert!(Instant::now() < deadline, "still not: {what}");
    }
}

fn sequences(requests: &[Request]) -> Vec<u64> {
    requests.iter().map(Request::sequence).collect()
}

#[test]
fn events_come_signed_and_in_order_with_the_data_of_the_stream() {
    let wallet = start(|webhooks| webhooks);
    let receiver = Receiver::willing();
    let (id, secret) = add(&wallet, &json!({ "url": receiver.url(), "after": 0 }));
    for _ in 0..20 {
        wallet.transfer("alice", "bob", "1.00", "USD").ok();
    }
    wallet.transfer("bob", "carol", "99.00", "USD");
    let requests = receiver.take(25);
    assert_eq!(sequences(&requests), (1..=25).collect::<Vec<_>>());
    for request in &requests {
        assert_eq!(request.line, "POST /hook HTTP/1.1");
        assert_eq!(request.signatures_by(&secret), 1, "{request:?}");
        assert_eq!(request.header("webhook-id"), format!("{id}_0_{}", request.sequence()));
        assert_eq!(request.header("content-type"), "application/json");
        let sent: u64 = request.header("webhook-timestamp").parse().expect("seconds");
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
        assert!((now - 60..=now).contains(&sent), "{sent}");
        let body = request.json();
        assert_eq!(body.as_object().expect("an object").len(), 3, "{body}");
        assert_eq!((&body["type"], &body["timestamp"]), (&body["data"]["type"], &body["data"]["timestamp"]));
    }
    let mut forged = requests[0].clone();
    forged.body[20] ^= 1;
    assert_eq!(forged.signatures_by(&secret), 0);
    let paid = requests[4].json();
    let path = format!("/v1/wallet/transactions/{}", paid["data"]["transaction_id"].as_str().expect("an id"));
    assert_eq!(wallet.get(&path).ok()["events"][0], paid["data"]);
    assert_eq!(requests[24].json()["data"]["code"], "insufficient_funds");
    until("everything is noted as delivered", || show(&wallet, &id)["lag_events"] == 0);
    let shown = show(&wallet, &id);
    assert_eq!((&shown["status"], &shown["cursor"]), (&"active".into(), &25.into()));
    assert!(shown.get("secret").is_none() && !shown.to_string().contains("whsec_"), "{shown}");
    let metrics = wallet.get("/metrics").text;
    let line = format!("jigap_webhook_attempts_total{{webhook=\"{id}\",result=\"delivered\"}} 25");
    assert!(metrics.contains(&line), "{metrics}");
}

#[test]
fn filters_choose_by_type_and_account_and_quiet_webhooks_keep_up() {
    let wallet = start(|webhooks| webhooks);
    let (of_bob, refusals) = (Receiver::willing(), Receiver::willing());
    let (bob, _) = add(&wallet, &json!({ "url": of_bob.url(), "account": "bob", "after": 0 }));
    let (refused, _) = add(&wallet, &json!({ "url": refusals.url(), "types": ["refused"] }));
    wallet.transfer("alice", "carol", "1.00", "USD").ok();
    wallet.transfer("alice", "bob", "2.00", "USD").ok();
    wallet.transfer("carol", "alice", "50.00", "USD");
    wallet.transfer("alice", "carol", "1.00", "USD").ok();
    assert_eq!(sequences(&of_bob.take(2)), [2, 6]);
    assert_eq!(sequences(&refusals.take(1)), [7]);
    // What is not wanted need not be looked at again after a restart.
    until("both are at the end", || [&bob, &refused].iter().all(|id| show(&wallet, id)["cursor"] == 8));
    let wallet = restart(wallet, |webhooks| webhooks);
    assert_eq!(show(&wallet, &bob)["cursor"], 8);
    wallet.transfer("alice", "bob", "3.00", "USD").ok();
    assert_eq!(sequences(&of_bob.take(1)), [9]);
}

#[test]
fn what_fails_is_tried_again_with_the_same_id_and_nothing_overtakes_it() {
    let elsewhere = Receiver::willing();
    let mut replies = vec![
        Reply::Status(500),
        Reply::With(307, format!("location: {}", elsewhere.url())),
        Reply::With(301, format!("location: {}", elsewhere.url())),
        Reply::Raw(b""),
        Reply::Raw(b"HTTP/1.1 20"),
        Reply::Raw(b"no HTTP at all\r\n\r\n"),
        Reply::Hang,
        Reply::With(429, "retry-after: 0".to_owned()),
        Reply::Status(404),
        Reply::Status(204),
    ];
    let tries = replies.len();
    let receiver = Receiver::start(move |_| match replies.is_empty() {
        true => Reply::Status(200),
        false => replies.remove(0),
    });
    let wallet = start(|webhooks| WebhooksConfig { timeout: Duration::from_millis(300), ..webhooks });
    let (id, secret) = add(&wallet, &json!({ "url": receiver.url() }));
    wallet.transfer("alice", "bob", "1.00", "USD").ok();
    wallet.transfer("alice", "bob", "2.00", "USD").ok();
    let requests = receiver.take(tries + 1);
    let (first, second) = requests.split_at(tries);
    for request in first {
        assert_eq!((request.sequence(), request.signatures_by(&secret)), (5, 1));
        assert_eq!(
            (request.header("webhook-id"), &request.body),
            (first[0].header("webhook-id"), &first[0].body)
        );
    }
    assert_eq!(second[0].sequence(), 6);
    until("both are delivered", || show(&wallet, &id)["lag_events"] == 0);
    let shown = show(&wallet, &id);
    assert_eq!((&shown["pending"], &shown["dead_letters"]), (&Value::Null, &0.into()));
    assert_eq!(shown["last_error"]["status"], 404, "the last failure stays in sight");
    assert!(elsewhere.waiting().is_none(), "redirects are not followed");
    let line = format!("jigap_webhook_attempts_total{{webhook=\"{id}\",result=\"failed\"}} {}", tries - 1);
    assert!(wallet.get("/metrics").text.contains(&line));
}

#[test]
fn a_receiver_that_was_down_gets_everything_when_it_is_up() {
    let port = TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("an address");
    let wallet = start(|webhooks| webhooks);
    let (id, _) = add(&wallet, &json!({ "url": format!("http://{port}/hook") }));
    for _ in 0..50 {
        wallet.transfer("alice", "bob", "1.00", "USD").ok();
    }
    until("it has failed", || show(&wallet, &id)["pending"]["attempts"].as_u64() > Some(2));
    let shown = show(&wallet, &id);
    assert_eq!((&shown["pending"]["sequence"], &shown["last_error"]["status"]), (&5.into(), &Value::Null));
    let detail = shown["last_error"]["detail"].as_str().expect("text");
    assert!(detail.starts_with("no connection"), "{detail}");
    let receiver = Receiver::over(TcpListener::bind(port).expect("it is still free"), |_| Reply::Status(200));
    assert_eq!(sequences(&receiver.take(50)), (5..55).collect::<Vec<_>>());
}

#[test]
fn what_is_not_taken_in_time_becomes_a_dead_letter_and_can_be_sent_again() {
    let is_mended = Arc::new(AtomicBool::new(false));
    let mended = Arc::clone(&is_mended);
    let receiver = Receiver::start(move |request| match request.kind().as_str() {
        "deposit" if !mended.load(Ordering::Relaxed) => Reply::Status(422),
        _ => Reply::Status(200),
    });
    let hurried = |webhooks| WebhooksConfig { retry_time: Duration::ZERO, ..webhooks };
    let wallet = start(hurried);
    let (id, secret) = add(&wallet, &json!({ "url": receiver.url(), "after": 3 }));
    wallet.transfer("alice", "bob", "1.00", "USD").ok();
    wallet.deposit("bob", "5.00", "USD");
    wallet.transfer("alice", "bob", "1.00", "USD").ok();
    let first = receiver.take(4);
    assert_eq!(sequences(&first), [4, 5, 6, 7], "the cursor goes on");
    until("two are dead", || dead_letters(&wallet, &id).len() == 2 && show(&wallet, &id)["lag_events"] == 0);
    let wallet = restart(wallet, hurried);
    let letters = dead_letters(&wallet, &id);
    let of = |name: &str| letters.iter().map(|letter| letter[name].clone()).collect::<Vec<Value>>();
    assert_eq!((of("sequence"), of("type")), (vec![4.into(), 6.into()], vec!["deposit".into(); 2]));
    assert_eq!(letters[0]["last_error"]["status"], 422);
    assert_eq!(letters[0]["webhook_id"], first[0].header("webhook-id"));

    // Still refused: it stays.
    assert_eq!(act(&wallet, &id, "redeliver", &json!({ "sequences": [6] }))["queued"], 1);
    assert_eq!(receiver.next().sequence(), 6);
    until("the attempt is noted", || dead_letters(&wallet, &id)[1]["attempts"] == 2);
    assert_eq!(
        (dead_letters(&wallet, &id).len(), &dead_letters(&wallet, &id)[1]["queued"]),
        (2, &false.into())
    );
    is_mended.store(true, Ordering::Relaxed);
    let unknown = wallet.post(&format!("/v1/admin/webhooks/{id}/redeliver"), &json!({ "sequences": [5] }));
    assert_eq!(unknown.problem(), "invalid_request");
    assert_eq!(act(&wallet, &id, "redeliver", &json!({}))["queued"], 2);
    let again = receiver.take(2);
    assert_eq!(sequences(&again), [4, 6]);
    assert_eq!(
        (again[0].header("webhook-id"), &again[0].body),
        (first[0].header("webhook-id"), &first[0].body)
    );
    assert_eq!(again[0].signatures_by(&secret), 1);
    until("none is left", || dead_letters(&wallet, &id).is_empty());
    let metrics = wallet.get("/metrics").text;
    assert!(metrics.contains(&format!("jigap_webhook_dead_letters{{webhook=\"{id}\"}} 0")), "{metrics}");
}

#[test]
fn a_receiver_that_is_gone_is_sent_nothing_until_it_is_resumed() {
    let is_back = Arc::new(AtomicBool::new(false));
    let back = Arc::clone(&is_back);
    let receiver =
        Receiver::start(move |_| Reply::Status(if back.load(Ordering::Relaxed) { 200 } else { 410 }));
    let wallet = start(|webhooks| webhooks);
    let (id, _) = add(&wallet, &json!({ "url": receiver.url() }));
    wallet.transfer("alice", "bob", "1.00", "USD").ok();
    assert_eq!(receiver.next().sequence(), 5);
    until("it is gone", || show(&wallet, &id)["status"] == "gone");
    wallet.transfer("alice", "bob", "1.00", "USD").ok();
    let wallet = restart(wallet, |webhooks| webhooks);
    assert_eq!(show(&wallet, &id)["status"], "gone");
    is_back.store(true, Ordering::Relaxed);
    assert_eq!(act(&wallet, &id, "resume", &json!({}))["status"], "active");
    assert_eq!(sequences(&receiver.take(2)), [5, 6], "nothing was sent meanwhile, and nothing is lost");

    assert_eq!(act(&wallet, &id, "pause", &json!({}))["status"], "paused");
    wallet.transfer("alice", "bob", "1.00", "USD").ok();
    assert_eq!(act(&wallet, &id, "resume", &json!({}))["status"], "active");
    assert_eq!(receiver.next().sequence(), 7);
}

#[test]
fn after_a_rotation_both_secrets_sign_until_the_old_one_expires() {
    let wallet = start(|webhooks| webhooks);
    let receiver = Receiver::willing();
    let (id, first) = add(&wallet, &json!({ "url": receiver.url() }));
    let second = act(&wallet, &id, "rotate-secret", &json!({}))["secret"].as_str().expect("text").to_owned();
    let wallet = restart(wallet, |webhooks| webhooks);
    wallet.transfer("alice", "bob", "1.00", "USD").ok();
    let request = receiver.next();
    assert_eq!((request.signatures_by(&first), request.signatures_by(&second)), (1, 1));
    assert_eq!(show(&wallet, &id)["secrets"].as_array().expect("an array").len(), 2);
    let body = json!({ "previous_valid_seconds": 0 });
    let third = act(&wallet, &id, "rotate-secret", &body)["secret"].as_str().expect("text").to_owned();
    wallet.transfer("alice", "bob", "1.00", "USD").ok();
    let request = receiver.next();
    assert_eq!([&first, &second, &third].map(|secret| request.signatures_by(secret)), [0, 0, 1]);
    for file in std::fs::read_dir(wallet.directory.path().join("webhooks")).expect("a directory") {
        use std::os::unix::fs::PermissionsExt;
        let mode = file.expect("an entry").metadata().expect("a file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}

#[test]
fn one_of_ten_receivers_hangs_and_nobody_waits_for_it() {
    let wallet = start(|webhooks| webhooks);
    let hanging = Receiver::start(|_| Reply::Hang);
    let (stuck, _) = add(&wallet, &json!({ "url": hanging.url() }));
    let receivers: Vec<Receiver> = (0..9).map(|_| Receiver::willing()).collect();
    for receiver in &receivers {
        add(&wallet, &json!({ "url": receiver.url() }));
    }
    for _ in 0..5 {
        let transfers: Vec<Value> =
            (0..20).map(|_| wallet.transfer_body("alice", "bob", "0.01", "USD")).collect();
        wallet.post("/v1/wallet/balance_transfers", &json!({ "transfers": transfers })).ok();
    }
    for receiver in &receivers {
        assert_eq!(sequences(&receiver.take(100)), (5..105).collect::<Vec<_>>());
    }
    assert_eq!(hanging.next().sequence(), 5);
    assert!(hanging.waiting().is_none());
    assert_eq!(show(&wallet, &stuck)["lag_events"], 100);
    assert!(
        wallet.get("/metrics").text.contains(&format!("jigap_webhook_lag_events{{webhook=\"{stuck}\"}} 100"))
    );
    let removed = wallet.request("DELETE", &format!("/v1/admin/webhooks/{stuck}"), &[], b"").ok();
    assert_eq!(removed["status"], "removed");
    assert_eq!(wallet.get(&format!("/v1/admin/webhooks/{stuck}")).problem(), "webhook_not_found");
    let wallet = restart(wallet, |webhooks| webhooks);
    let left = wallet.get("/v1/admin/webhooks").ok();
    let ids: BTreeSet<&str> =
        left["webhooks"].as_array().expect("an array").iter().filter_map(|one| one["id"].as_str()).collect();
    assert!(ids.len() == 9 && !ids.contains(stuck.as_str()), "{ids:?}");
}

#[test]
fn what_makes_no_sense_or_leads_astray_is_refused() {
    let wallet = start(|webhooks| webhooks);
    let rows = [
        (json!({}), 400, "invalid_request"),
        (json!({ "url": "ftp://a/" }), 400, "invalid_request"),
        (json!({ "url": "hooks" }), 400, "invalid_request"),
        (json!({ "url": "http://user:secret@a/" }), 400, "invalid_request"),
        (json!({ "url": "http://169.254.169.254/latest/meta-data" }), 400, "invalid_request"),
        (json!({ "url": "http://[fe80::1]/" }), 400, "invalid_request"),
        (json!({ "url": "http://a/", "types": ["transfers"] }), 400, "invalid_request"),
        (json!({ "url": "http://a/", "after": 5 }), 400, "invalid_request"),
        (json!({ "url": "http://a/", "colour": "red" }), 400, "invalid_request"),
        (json!({ "url": "http://a/", "account": "nobody" }), 404, "account_not_found"),
        (json!({ "url": "http://a/", "account": "a b" }), 400, "invalid_account_id"),
    ];
    for (body, status, code) in rows {
        let refused = wallet.post("/v1/admin/webhooks", &body);
        assert_eq!((refused.status, refused.problem().as_str()), (status, code), "{body}");
    }
    assert_eq!(wallet.post("/v1/admin/webhooks/wh_0/pause", &json!({})).problem(), "webhook_not_found");
    let receiver = Receiver::willing();
    add(&wallet, &json!({ "url": receiver.url(), "types": ["deposit", "transfer"] }));
    let twin = json!({ "url": receiver.url(), "types": ["transfer", "deposit"] });
    assert_eq!(wallet.post("/v1/admin/webhooks", &twin).problem(), "webhook_exists");

    // A name that leads where it may not, and a webhook from before the setting was stricter.
    let wallet = restart(wallet, |webhooks| WebhooksConfig { reach: Reach::Public, ..webhooks });
    wallet.deposit("alice", "1.00", "USD");
    let by_name = json!({ "url": format!("http://localhost:{}/", receiver.address.port()), "after": 4 });
    let (by_name, _) = add(&wallet, &by_name);
    until("both were tried", || {
        let all = wallet.get("/v1/admin/webhooks").ok();
        all["webhooks"]
            .as_array()
            .expect("an array")
            .iter()
            .all(|one| one["last_error"]["status"].is_null() && one["pending"]["attempts"].as_u64() > Some(0))
    });
    let detail = show(&wallet, &by_name)["last_error"]["detail"].as_str().expect("text").to_owned();
    assert!(detail.contains("has no address where webhooks may go"), "{detail}");
    assert!(receiver.waiting().is_none());
    let off = restart(wallet, |webhooks| webhooks).restart();
    assert_eq!(off.get("/v1/admin/webhooks").problem(), "not_implemented");
}
