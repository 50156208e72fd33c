//! What each command answers, and answers again.

use serde_json::{Value, json};

use crate::harness::Wallet;

#[test]
fn a_transfer_answers_both_balances_and_repeats_word_for_word() {
    let wallet = Wallet::start();
    wallet.open(&["alice", "bob"]);
    wallet.deposit("alice", "100", "USD");
    let body = wallet.transfer_body("alice", "bob", "12.5", "USD");
    let first = wallet.post("/v1/wallet/balance_transfer", &body);
    let answer = first.ok();
    assert_eq!(answer["status"], "success");
    assert_eq!((&answer["from_balance"], &answer["to_balance"]), (&json!("87.50"), &json!("12.50")));
    assert_eq!(answer["transaction_id"], body["transaction_id"]);
    assert_eq!((&answer["partition"], &answer["sequence"]), (&json!(0), &json!(4)));
    assert!(answer["timestamp"].as_str().is_some_and(|time| time.len() == 27 && time.ends_with('Z')));
    assert_eq!(first.header("x-wallet-position"), Some("0:4"));
    assert_eq!(first.header("idempotent-replayed"), None);
    let again = wallet.post("/v1/wallet/balance_transfer", &body);
    assert_eq!((again.ok(), again.header("idempotent-replayed")), (answer.clone(), Some("true")));
    // The same amount in other digits, the id in upper case: the same content.
    let upper = body["transaction_id"].as_str().expect("text").to_uppercase();
    let mut same: Value = body.clone();
    (same["transaction_id"], same["amount"]) = (json!(upper), json!("12.50"));
    assert_eq!(wallet.post("/v1/wallet/balance_transfer", &same).ok(), answer);
    let wallet = wallet.restart();
    assert_eq!(wallet.post("/v1/wallet/balance_transfer", &body).ok(), answer);
    assert_eq!(wallet.balance("alice", "USD"), ["87.50", "0.00", "87.50"]);
}

#[test]
fn currencies_keep_their_own_digits() {
    let wallet = Wallet::start();
    wallet.open(&["alice"]);
    for (amount, currency, shown) in [("10", "JPY", "10"), ("1.234", "KWD", "1.234"), ("7", "USD", "7.00")] {
        assert_eq!(wallet.deposit("alice", amount, currency)["to_balance"], shown);
    }
    assert_eq!(wallet.balance("@external", "KWD")[0], "-1.234");
}

#[test]
fn opening_is_idempotent_by_account_id() {
    let wallet = Wallet::start();
    let body = json!({"account_id": "alice", "metadata": {"tier": "gold"}});
    let opened = wallet.post("/v1/wallet/accounts", &body);
    assert_eq!(opened.status, 201);
    assert_eq!(opened.ok()["metadata"], json!({"tier": "gold"}));
    assert_eq!(wallet.post("/v1/wallet/accounts", &body).status, 200);
    let other = wallet.post("/v1/wallet/accounts", &json!({"account_id": "alice"}));
    assert_eq!((other.status, other.problem().as_str()), (409, "account_exists"));
}

#[test]
fn a_hold_sets_money_aside_until_it_is_confirmed_in_part() {
    let wallet = Wallet::start();
    wallet.open(&["alice", "bob"]);
    wallet.deposit("alice", "10.00", "USD");
    let mut body = wallet.transfer_body("alice", "bob", "4.00", "USD");
    body["expires_in_seconds"] = json!(3600);
    let held = wallet.post("/v1/wallet/holds", &body).ok();
    assert_eq!(held["status"], "held");
    assert_eq!(wallet.balance("alice", "USD"), ["6.00", "4.00", "10.00"]);
    let hold = body["transaction_id"].as_str().expect("text");
    let confirm = json!({"transaction_id": wallet.id(), "amount": "1.5"});
    let path = format!("/v1/wallet/holds/{hold}/confirm");
    let confirmed = wallet.post(&path, &confirm);
    assert_eq!(confirmed.ok()["status"], "success");
    assert_eq!(wallet.balance("alice", "USD"), ["8.50", "0.00", "8.50"]);
    assert_eq!(wallet.balance("bob", "USD"), ["1.50", "0.00", "1.50"]);
    let again = wallet.post(&path, &confirm);
    assert_eq!((again.ok(), again.header("idempotent-replayed")), (confirmed.ok(), Some("true")));
    let late = wallet.post(&path, &json!({"transaction_id": wallet.id()}));
    assert_eq!((late.status, late.problem().as_str()), (409, "hold_not_pending"));
    let transaction = wallet.get(&format!("/v1/wallet/transactions/{hold}")).ok();
    assert_eq!(transaction["status"], "confirmed");
    assert_eq!(transaction["events"].as_array().map(Vec::len), Some(2));
}

#[test]
fn a_cancelled_hold_gives_the_money_back() {
    let wallet = Wallet::start();
    wallet.open(&["alice", "bob"]);
    wallet.deposit("alice", "10.00", "USD");
    let body = wallet.transfer_body("alice", "bob", "4.00", "USD");
    wallet.post("/v1/wallet/holds", &body).ok();
    let hold = body["transaction_id"].as_str().expect("text");
    wallet.post(&format!("/v1/wallet/holds/{hold}/cancel"), &json!({"transaction_id": wallet.id()})).ok();
    assert_eq!(wallet.balance("alice", "USD"), ["10.00", "0.00", "10.00"]);
}

#[test]
fn a_transfer_is_reversed_once() {
    let wallet = Wallet::start();
    wallet.open(&["alice", "bob"]);
    wallet.deposit("alice", "10.00", "USD");
    let body = wallet.transfer_body("alice", "bob", "4.00", "USD");
    wallet.post("/v1/wallet/balance_transfer", &body).ok();
    let path = format!("/v1/wallet/transactions/{}/reverse", body["transaction_id"].as_str().expect("text"));
    let reversed =
        wallet.post(&path, &json!({"transaction_id": wallet.id(), "metadata": {"why": "fraud"}})).ok();
    assert_eq!((&reversed["from_balance"], &reversed["to_balance"]), (&json!("0.00"), &json!("10.00")));
    let twice = wallet.post(&path, &json!({"transaction_id": wallet.id()}));
    assert_eq!((twice.status, twice.problem().as_str()), (422, "already_reversed"));
}

#[test]
fn a_batch_answers_each_transfer_on_its_own() {
    let wallet = Wallet::start();
    wallet.open(&["alice", "bob"]);
    wallet.deposit("alice", "10.00", "USD");
    let transfers: Vec<Value> = ["6.00", "6.00", "4.00"]
        .iter()
        .map(|amount| wallet.transfer_body("alice", "bob", amount, "USD"))
        .collect();
    let results =
        wallet.post("/v1/wallet/balance_transfers", &json!({"transfers": transfers})).ok()["results"].clone();
    assert_eq!(results[0]["status"], "success");
    assert_eq!(
        (&results[1]["status"], &results[1]["code"]),
        (&json!("refused"), &json!("insufficient_funds"))
    );
    assert!(results[1]["detail"].is_string() && results[1]["transaction_id"].is_string());
    assert_eq!(results[2]["from_balance"], "0.00");
}

#[test]
fn a_malformed_transfer_of_a_batch_is_answered_in_its_place_and_the_others_are_executed() {
    let wallet = Wallet::start();
    wallet.open(&["alice", "bob"]);
    wallet.deposit("alice", "10.00", "USD");
    let path = "/v1/wallet/balance_transfers";
    let with = |field: &str, value: Value| {
        let mut transfer = wallet.transfer_body("alice", "bob", "1.00", "USD");
        transfer[field] = value;
        transfer
    };
    let mut nameless = with("amount", json!("1.00"));
    nameless.as_object_mut().expect("an object").remove("transaction_id");
    let repeated = with("amount", json!("1.00")).to_string().replacen('{', "{\"amount\":\"5.00\",", 1);
    let deep = format!("{{\"metadata\":{}1{}}}", "[".repeat(50), "]".repeat(50));
    // What is sent, the code of its answer, and whether the transaction_id comes back.
    let rows: Vec<(String, &str, bool)> = vec![
        (with("amount", json!("1e3")).to_string(), "invalid_amount", true),
        (with("amount", json!(1)).to_string(), "invalid_amount", true),
        (with("amount", Value::Null).to_string(), "invalid_request", true),
        (with("currency", json!("XXX")).to_string(), "invalid_currency", true),
        (with("from_account", json!("@external")).to_string(), "invalid_account_id", true),
        (with("to_account", json!("alice")).to_string(), "same_account", true),
        (with("transaction_id", json!("no uuid")).to_string(), "invalid_transaction_id", true),
        (with("transaction_id", json!(7)).to_string(), "invalid_transaction_id", false),
        (with("metadata", json!({"a": 1})).to_string(), "invalid_request", true),
        (with("metadata", json!("note")).to_string(), "invalid_request", true),
        (with("surplus", json!({"deep": [1, {}]})).to_string(), "invalid_request", true),
        (repeated, "invalid_request", true),
        (nameless.to_string(), "invalid_request", false),
        (deep, "invalid_request", false),
        ("{}".into(), "invalid_request", false),
        ("[[]]".into(), "invalid_request", false),
        ("\"text\"".into(), "invalid_request", false),
        ("-1.5".into(), "invalid_request", false),
        ("null".into(), "invalid_request", false),
    ];
    let (first, last) = (with("amount", json!("2.00")), with("amount", json!("3.00")));
    let sent: Vec<String> = rows.iter().map(|(sent, _, _)| sent.clone()).collect();
    let body = format!("{{\"transfers\":[{first},{},{last}]}}", sent.join(","));
    let results = wallet.post_text(path, &body, &[]).ok()["results"].as_array().expect("an array").clone();
    assert_eq!(results.len(), rows.len() + 2);
    assert_eq!(results[0]["to_balance"], "2.00");
    assert_eq!(results[rows.len() + 1]["to_balance"], "5.00");
    for ((sent, code, is_named), result) in rows.iter().zip(&results[1..]) {
        assert_eq!((&result["status"], &result["code"]), (&json!("refused"), &json!(code)), "{sent}");
        assert!(result["detail"].as_str().is_some_and(|detail| !detail.is_empty()), "{sent}");
        let id = serde_json::from_str::<Value>(sent).expect("JSON")["transaction_id"].clone();
        assert_eq!(result["transaction_id"], if *is_named { id } else { Value::Null }, "{sent}");
        // In a group, one malformed leg is the whole request's.
        let group = format!(
            "{{\"mode\":\"atomic\",\"transaction_id\":\"{}\",\"transfers\":[{},{sent}]}}",
            wallet.id(),
            with("amount", json!("0.01"))
        );
        let refused = wallet.post_text(path, &group, &[]);
        assert_eq!((refused.status, refused.problem().as_str()), (400, *code), "{sent}");
        assert!(refused.json()["detail"].as_str().is_some_and(|detail| detail.starts_with("transfers[1]: ")));
    }
    assert_eq!(wallet.balance("bob", "USD")[0], "5.00");
    for body in [
        "[]",
        "{\"transfers\":{}}",
        "{\"transfers\":[]}",
        "{\"transfers\":[{}",
        "{\"transfers\":[{}],\"more\":1}",
    ] {
        assert_eq!(wallet.post_text(path, body, &[]).problem(), "invalid_request", "{body}");
    }
}

#[test]
fn a_group_moves_all_or_nothing_and_names_the_leg() {
    let wallet = Wallet::start();
    wallet.open(&["alice", "bob", "carol"]);
    wallet.deposit("alice", "10.00", "USD");
    let group =
        |legs: Vec<Value>| json!({"mode": "atomic", "transaction_id": wallet.id(), "transfers": legs});
    let path = "/v1/wallet/balance_transfers";
    let good = group(vec![
        wallet.transfer_body("alice", "bob", "10.00", "USD"),
        wallet.transfer_body("bob", "carol", "3.00", "USD"),
    ]);
    let done = wallet.post(path, &good);
    assert_eq!(done.ok()["results"].as_array().map(Vec::len), Some(2));
    assert_eq!(wallet.post(path, &good).ok(), done.ok());
    let bad = group(vec![
        wallet.transfer_body("bob", "alice", "7.00", "USD"),
        wallet.transfer_body("bob", "carol", "0.01", "USD"),
    ]);
    for _ in 0..2 {
        let refused = wallet.post(path, &bad);
        assert_eq!((refused.status, refused.problem().as_str()), (422, "leg_refused"));
        let body = refused.json();
        assert_eq!((&body["leg"], &body["leg_code"]), (&json!(1), &json!("insufficient_funds")));
        assert_eq!(wallet.balance("bob", "USD")[0], "7.00");
    }
}

#[test]
fn only_an_empty_account_closes_and_then_refuses_everything() {
    let wallet = Wallet::start();
    wallet.open(&["alice", "bob"]);
    wallet.deposit("alice", "1.00", "USD");
    let close = "/v1/wallet/accounts/alice/close";
    let refused = wallet.post(close, &json!({"transaction_id": wallet.id()}));
    assert_eq!((refused.status, refused.problem().as_str()), (409, "account_not_empty"));
    let body = json!({"account": "alice", "amount": "1", "currency": "USD", "transaction_id": wallet.id()});
    wallet.post("/v1/wallet/withdraw", &body).ok();
    wallet.post(close, &json!({"transaction_id": wallet.id()})).ok();
    let body = json!({"account": "alice", "amount": "1", "currency": "USD", "transaction_id": wallet.id()});
    let closed = wallet.post("/v1/wallet/deposit", &body);
    assert_eq!((closed.status, closed.problem().as_str()), (422, "account_closed"));
    assert_eq!(wallet.get("/v1/wallet/accounts/alice").ok()["status"], "closed");
}

#[test]
fn the_idempotency_key_must_name_the_transaction() {
    let wallet = Wallet::start();
    wallet.open(&["alice", "bob"]);
    wallet.deposit("alice", "1.00", "USD");
    let body = wallet.transfer_body("alice", "bob", "1.00", "USD");
    let path = "/v1/wallet/balance_transfer";
    let wrong = wallet.post_text(path, &body.to_string(), &[("idempotency-key", &wallet.id())]);
    assert_eq!((wrong.status, wrong.problem().as_str()), (400, "invalid_request"));
    let right = body["transaction_id"].as_str().expect("text");
    for keys in [[right, "no uuid"], [right, ""]] {
        let headers = keys.map(|key| ("idempotency-key", key));
        assert_eq!(wallet.post_text(path, &body.to_string(), &headers).status, 400, "{keys:?}");
    }
    let key = body["transaction_id"].as_str().expect("text").to_uppercase();
    wallet.post_text(path, &body.to_string(), &[("idempotency-key", &key)]).ok();
}

#[test]
fn a_thousand_concurrent_repeats_are_executed_once() {
    let wallet = Wallet::start();
    wallet.open(&["alice", "bob"]);
    wallet.deposit("alice", "10.00", "USD");
    let body = wallet.transfer_body("alice", "bob", "1.00", "USD");
    let answers: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..20)
            .map(|_| {
                let repeat =
                    || (0..50).map(|_| wallet.post("/v1/wallet/balance_transfer", &body)).collect::<Vec<_>>();
                scope.spawn(repeat)
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("no panic")).collect()
    });
    assert_eq!(answers.len(), 1_000);
    assert!(answers.iter().all(|answer| answer.text == answers[0].text));
    assert_eq!(answers.iter().filter(|answer| answer.header("idempotent-replayed").is_none()).count(), 1);
    assert_eq!(wallet.balance("bob", "USD")[0], "1.00");
}
