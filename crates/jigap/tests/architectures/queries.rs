//! Queries, and what an architecture cannot give.

use serde_json::Value;

use crate::architecture::Feature;
use crate::wallet::{Wallet, id, transfer};

/// Every posting of an account, newest first, in pages.
pub(crate) fn histories(wallet: &Wallet) {
    let (alice, bob) = wallet.payer_and_payee();
    for amount in ["1.00", "2.00", "3.00"] {
        wallet.transfer(&alice, &bob, amount).ok();
    }
    let page = |query: &str| {
        let answer = wallet.get(&format!("/v1/wallet/accounts/{alice}/history?{query}")).ok();
        (answer["entries"].as_array().unwrap().clone(), answer["next_cursor"].as_str().map(str::to_owned))
    };
    let (mut entries, mut cursor) = page("limit=3");
    assert_eq!(entries.len(), 3);
    while let Some(next) = cursor {
        let (more, after) = page(&format!("limit=3&cursor={next}"));
        assert!(!more.is_empty() || after.is_none(), "an empty page has no next one");
        entries.extend(more);
        cursor = after;
    }
    let column =
        |name: &str| entries.iter().map(|entry| entry[name].as_str().unwrap().to_owned()).collect::<Vec<_>>();
    assert_eq!(column("type"), ["transfer", "transfer", "transfer", "deposit"]);
    assert_eq!(column("amount"), ["-3.00", "-2.00", "-1.00", "100.00"]);
    assert_eq!(column("balance_after"), ["94.00", "97.00", "99.00", "100.00"]);
    assert_eq!(column("counterparty"), [bob.as_str(), &bob, &bob, "@external"]);
    let (since, until) = (column("timestamp")[1].clone(), column("timestamp")[2].clone());
    assert_eq!(page(&format!("since={since}")).0, entries[..2], "at or after");
    assert_eq!(page(&format!("until={until}")).0, entries[2..], "at or before");
    assert_eq!(page("currency=JPY").0, [] as [Value; 0]);
    assert_eq!(wallet.get("/v1/wallet/accounts/nobody-at-all/history").code(), "account_not_found");
}

/// What became of a transaction, whichever account one comes from.
pub(crate) fn transactions(wallet: &Wallet) {
    let (alice, bob) = wallet.payer_and_payee();
    let (paid, refused) = (transfer(&alice, &bob, "12.50"), transfer(&bob, &alice, "12.51"));
    for body in [&paid, &refused] {
        wallet.post("/v1/wallet/balance_transfer", body);
    }
    let look = |body: &Value| {
        wallet.get(&format!("/v1/wallet/transactions/{}", body["transaction_id"].as_str().unwrap()))
    };
    let found = look(&paid).ok();
    assert_eq!((&found["status"], &found["type"]), (&"success".into(), &"transfer".into()));
    for field in ["transaction_id", "from_account", "to_account", "amount", "currency"] {
        assert_eq!(found[field], paid[field], "{field}");
    }
    assert_eq!(found["events"][0]["postings"][1]["account_id"], bob.as_str(), "{found}");
    assert_eq!(found["events"][0]["postings"][1]["balance_after"], "12.50", "{found}");
    let found = look(&refused).ok();
    assert_eq!((&found["status"], &found["code"]), (&"refused".into(), &"insufficient_funds".into()));
    assert_eq!(look(&transfer(&alice, &bob, "1.00")).code(), "transaction_not_found");
}

/// A query that sends the position of an answer sees what that answer told.
pub(crate) fn positions(wallet: &Wallet) {
    let (alice, bob) = wallet.payer_and_payee();
    for round in 1..=5 {
        let position = wallet.transfer(&alice, &bob, "1.00").position;
        for (account, expected) in [(&alice, 100 - round), (&bob, round)] {
            let path = format!("/v1/wallet/accounts/{account}");
            let found = wallet.get_at(&path, position.as_deref()).ok();
            assert_eq!(found["balances"][0]["available"], format!("{expected}.00"));
            let history = wallet.get_at(&format!("{path}/history?limit=1"), position.as_deref()).ok();
            assert_eq!(history["entries"][0]["balance_after"], format!("{expected}.00"));
        }
    }
    for wrong in ["here", "4000000000:1", "0:x", "1"] {
        assert_eq!(wallet.get_at("/v1/wallet/state", Some(wrong)).code(), "invalid_request", "{wrong}");
    }
}

/// What an architecture cannot give is told apart from what is wrong or missing.
pub(crate) fn what_cannot_be_given(wallet: &Wallet) {
    let (alice, bob) = wallet.payer_and_payee();
    let paid = wallet.transfer(&alice, &bob, "1.00").ok();
    let transaction_id = paid["transaction_id"].as_str().unwrap();
    let rows = [
        (Feature::Past, format!("/v1/wallet/accounts/{alice}?at_sequence={}", paid["sequence"])),
        (Feature::Past, format!("/v1/wallet/accounts/{alice}?at={}", paid["timestamp"].as_str().unwrap())),
        (Feature::Past, format!("/v1/wallet/state?at_sequence={}", paid["sequence"])),
        (Feature::Receipts, format!("/v1/wallet/transactions/{transaction_id}/receipt")),
    ];
    for (feature, path) in rows {
        let answer = wallet.get(&path);
        expect(wallet, feature, answer.status, &answer.body);
    }
    let answer = wallet.post("/v1/admin/snapshots", &serde_json::json!({}));
    expect(wallet, Feature::Snapshots, answer.status, &answer.body);
    if !wallet.can(Feature::Events) {
        let answer = wallet.get("/v1/wallet/events");
        expect(wallet, Feature::Events, answer.status, &answer.body);
    }
    let state = wallet.get("/v1/wallet/state").ok();
    assert_eq!(state["digest"].is_string(), wallet.can(Feature::Digest), "{state}");
    assert_eq!(state["sequence"].is_u64(), wallet.can(Feature::Digest), "{state}");
    let account = wallet.get(&format!("/v1/wallet/accounts/{alice}")).ok();
    assert_eq!(account["handle"].is_u64(), wallet.can(Feature::Handles), "{account}");
    assert_eq!(wallet.get(&format!("/v1/wallet/transactions/{}", id())).code(), "transaction_not_found");
}

fn expect(wallet: &Wallet, feature: Feature, status: u16, body: &Value) {
    if wallet.can(feature) {
        assert!((200..300).contains(&status), "{feature:?}: {status} {body}");
    } else {
        assert_eq!((status, &body["code"]), (501, &"not_supported_by_architecture".into()), "{feature:?}");
    }
}
