//! Every error of the contract: status, code, and that a business refusal repeats while a malformed request leaves no trace.

use serde_json::{Value, json};

use crate::harness::Wallet;

/// A wallet in which every refusal can be provoked.
fn given() -> (Wallet, String) {
    let wallet = Wallet::start();
    wallet.open(&["alice", "bob", "closed"]);
    wallet.deposit("alice", "100.00", "USD");
    wallet.post("/v1/wallet/accounts/closed/close", &json!({"transaction_id": wallet.id()})).ok();
    let hold = wallet.transfer_body("alice", "bob", "5.00", "USD");
    wallet.post("/v1/wallet/holds", &hold).ok();
    let hold_id = hold["transaction_id"].as_str().expect("text").to_owned();
    (wallet, hold_id)
}

#[test]
fn business_refusals_are_recorded_and_repeat() {
    let (wallet, hold) = given();
    let unknown = "ffffffff-ffff-7fff-bfff-ffffffffffff";
    let transfer = "/v1/wallet/balance_transfer".to_owned();
    let max = "92233720368547758.07";
    let follow = |extra: Value| {
        let mut body = json!({"transaction_id": wallet.id()});
        if let (Some(body), Some(extra)) = (body.as_object_mut(), extra.as_object()) {
            body.extend(extra.clone());
        }
        body
    };
    let outside = |account: &str, amount: &str| json!({"account": account, "amount": amount, "currency": "USD", "transaction_id": wallet.id()});
    let rows: Vec<(String, Value, u16, &str)> = vec![
        (transfer.clone(), wallet.transfer_body("nobody", "bob", "1", "USD"), 404, "account_not_found"),
        (transfer.clone(), wallet.transfer_body("alice", "nobody", "1", "USD"), 404, "account_not_found"),
        (transfer.clone(), wallet.transfer_body("closed", "bob", "1", "USD"), 422, "account_closed"),
        (transfer.clone(), wallet.transfer_body("alice", "closed", "1", "USD"), 422, "account_closed"),
        (transfer.clone(), wallet.transfer_body("alice", "bob", "95.01", "USD"), 422, "insufficient_funds"),
        (transfer, wallet.transfer_body("alice", "bob", "1", "EUR"), 422, "insufficient_funds"),
        ("/v1/wallet/withdraw".into(), outside("bob", "0.01"), 422, "insufficient_funds"),
        ("/v1/wallet/deposit".into(), outside("alice", max), 422, "balance_overflow"),
        (format!("/v1/wallet/holds/{unknown}/confirm"), follow(json!({})), 404, "transaction_not_found"),
        (
            format!("/v1/wallet/holds/{hold}/confirm"),
            follow(json!({"amount": "5.01"})),
            422,
            "amount_exceeds_hold",
        ),
        (
            format!("/v1/wallet/transactions/{unknown}/reverse"),
            follow(json!({})),
            404,
            "transaction_not_found",
        ),
        (format!("/v1/wallet/transactions/{hold}/reverse"), follow(json!({})), 404, "transaction_not_found"),
        ("/v1/wallet/accounts/alice/close".into(), follow(json!({})), 409, "account_not_empty"),
        ("/v1/wallet/accounts/nobody/close".into(), follow(json!({})), 404, "account_not_found"),
    ];
    for (path, body, status, code) in rows {
        let first = wallet.post(&path, &body);
        assert_eq!((first.status, first.problem().as_str()), (status, code), "{path} {body}");
        assert_eq!(first.json()["transaction_id"], body["transaction_id"]);
        let again = wallet.post(&path, &body);
        assert_eq!((again.status, &again.text), (first.status, &first.text), "{path} {body}");
        assert_eq!(again.header("idempotent-replayed"), Some("true"));
        let known = wallet
            .get(&format!("/v1/wallet/transactions/{}", body["transaction_id"].as_str().expect("text")));
        assert_eq!((&known.ok()["status"], &known.ok()["code"]), (&json!("refused"), &json!(code)));
    }
}

#[test]
fn an_id_with_other_content_is_refused_and_changes_nothing() {
    let (wallet, _) = given();
    let body = wallet.transfer_body("alice", "bob", "1.00", "USD");
    let path = "/v1/wallet/balance_transfer";
    let first = wallet.post(path, &body).ok();
    for (field, value) in [
        ("amount", json!("2.00")),
        ("currency", json!("EUR")),
        ("to_account", json!("closed")),
        ("metadata", json!({"a": "b"})),
    ] {
        let mut other = body.clone();
        other[field] = value;
        let refused = wallet.post(path, &other);
        assert_eq!((refused.status, refused.problem().as_str()), (422, "transaction_id_reused"), "{field}");
    }
    let deposit = json!({"account": "alice", "amount": "1", "currency": "USD", "transaction_id": body["transaction_id"]});
    assert_eq!(wallet.post("/v1/wallet/deposit", &deposit).problem(), "transaction_id_reused");
    assert_eq!(wallet.post(path, &body).ok(), first);
}

#[test]
fn malformed_requests_are_precise_and_leave_no_trace() {
    let (wallet, _) = given();
    let path = "/v1/wallet/balance_transfer";
    let before = wallet.get("/v1/wallet/state").ok();
    let good = wallet.transfer_body("alice", "bob", "1.00", "USD");
    let rows = [
        ("amount", json!(1), "invalid_amount"),
        ("amount", json!("0.00"), "invalid_amount"),
        ("amount", json!("-1"), "invalid_amount"),
        ("amount", json!("+1"), "invalid_amount"),
        ("amount", json!("1e2"), "invalid_amount"),
        ("amount", json!(" 1"), "invalid_amount"),
        ("amount", json!("1,000"), "invalid_amount"),
        ("amount", json!(".5"), "invalid_amount"),
        ("amount", json!("1.005"), "invalid_amount"),
        ("amount", json!("92233720368547758.08"), "invalid_amount"),
        ("amount", Value::Null, "invalid_request"),
        ("currency", json!("XAU"), "invalid_currency"),
        ("currency", json!("usd"), "invalid_currency"),
        ("currency", json!(840), "invalid_currency"),
        ("from_account", json!("@external"), "invalid_account_id"),
        ("to_account", json!("a b"), "invalid_account_id"),
        ("to_account", json!("x".repeat(65)), "invalid_account_id"),
        ("to_account", json!("alice"), "same_account"),
        ("transaction_id", json!("not-a-uuid"), "invalid_transaction_id"),
        ("transaction_id", json!("01890d9e3c1b7c5f9d6e0b6f0f0c9a11"), "invalid_transaction_id"),
        ("metadata", json!({"key": "x".repeat(1025)}), "invalid_request"),
        ("metadata", json!([]), "invalid_request"),
        ("ammount", json!("1"), "invalid_request"),
    ];
    for (field, value, code) in rows {
        let mut body = good.clone();
        body[field] = value;
        let answer = wallet.post(path, &body);
        assert_eq!((answer.status, answer.problem().as_str()), (400, code), "{body}");
        assert!(answer.json()["detail"].as_str().is_some_and(|detail| !detail.is_empty()));
        if field != "transaction_id" {
            assert_eq!(answer.json()["transaction_id"], good["transaction_id"]);
        }
    }
    let repeated = format!("{{\"amount\":\"2.00\",{}", &good.to_string()[1..]);
    let refused = wallet.post_text(path, &repeated, &[]);
    assert_eq!(refused.problem(), "invalid_request");
    assert_eq!(refused.json()["transaction_id"], good["transaction_id"]);
    let follow_ups = ["holds/x/confirm", "holds/x/cancel", "transactions/x/reverse", "accounts/@x/close"];
    for path in follow_ups.map(|path| format!("/v1/wallet/{path}")) {
        let refused = wallet.post(&path, &json!({"transaction_id": good["transaction_id"]}));
        assert_eq!(
            (refused.status, &refused.json()["transaction_id"]),
            (400, &good["transaction_id"]),
            "{path}"
        );
    }
    for seconds in [json!(0), json!(-1), json!(1.5), json!("60"), json!(4_294_967_296_u64)] {
        let mut hold = good.clone();
        hold["expires_in_seconds"] = seconds;
        let refused = wallet.post("/v1/wallet/holds", &hold);
        assert_eq!((refused.status, refused.problem().as_str()), (400, "invalid_request"), "{hold}");
        assert_eq!(refused.json()["transaction_id"], good["transaction_id"]);
    }
    assert_eq!(wallet.get("/v1/wallet/state").ok()["digest"], before["digest"]);
    wallet.post(path, &good).ok();
}

#[test]
fn routes_methods_types_and_sizes_are_checked() {
    let (wallet, _) = given();
    let path = "/v1/wallet/balance_transfer";
    assert_eq!(
        (wallet.get("/v1/wallet/nothing").status, wallet.get("/").problem().as_str()),
        (404, "route_not_found")
    );
    let method = wallet.get(path);
    assert_eq!((method.status, method.problem().as_str()), (405, "method_not_allowed"));
    assert!(method.header("allow").is_some_and(|allow| allow.contains("POST")));
    let delete = wallet.request("DELETE", "/v1/wallet/accounts/alice", &[], b"");
    assert_eq!(delete.problem(), "method_not_allowed");
    let body = wallet.transfer_body("alice", "bob", "1", "USD").to_string();
    for media in ["text/plain", "application/x-www-form-urlencoded", "application/jsonp"] {
        let answer = wallet.request("POST", path, &[("content-type", media)], body.as_bytes());
        assert_eq!((answer.status, answer.problem().as_str()), (415, "unsupported_media_type"), "{media}");
    }
    assert_eq!(wallet.request("POST", path, &[], body.as_bytes()).problem(), "unsupported_media_type");
    let with_charset = [("content-type", "application/json; charset=utf-8")];
    wallet.request("POST", path, &with_charset, body.as_bytes()).ok();
    let large = wallet.post_text(path, &" ".repeat((1 << 20) + 1), &[]);
    assert_eq!((large.status, large.problem().as_str()), (413, "request_too_large"));
    let one = r#"{"from_account":"a","to_account":"b","amount":"1","currency":"USD","transaction_id":""}"#;
    let many = format!("{{\"transfers\":[{}]}}", vec![one; 8_191].join(","));
    assert_eq!(wallet.post_text("/v1/wallet/balance_transfers", &many, &[]).problem(), "request_too_large");
    assert_eq!(wallet.get("/v1/wallet/accounts/nobody").problem(), "account_not_found");
    for no_id in ["a%20b", "%ff", "%zz", "a%2Fb", "%00"] {
        let account = wallet.get(&format!("/v1/wallet/accounts/{no_id}"));
        assert_eq!((account.status, account.problem().as_str()), (400, "invalid_account_id"), "{no_id}");
        let transaction = wallet.get(&format!("/v1/wallet/transactions/{no_id}"));
        assert_eq!(transaction.problem(), "invalid_transaction_id", "{no_id}");
    }
    assert_eq!(
        wallet.get(&format!("/v1/wallet/transactions/{}", wallet.id())).problem(),
        "transaction_not_found"
    );
    assert_eq!(wallet.get("/v1/wallet/transactions/x").problem(), "invalid_transaction_id");
}
