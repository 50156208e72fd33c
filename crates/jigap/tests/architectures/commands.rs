//! Commands: what moves, what is refused, and that each happens once.

use serde_json::{Value, json};

use crate::architecture::Feature;
use crate::wallet::{Wallet, id, transfer};

const NOT_SUPPORTED: &str = "not_supported_by_architecture";

/// Money moves, and the answers tell what is left.
pub(crate) fn transfers(wallet: &Wallet) {
    let (alice, bob) = wallet.payer_and_payee();
    let mut body = transfer(&alice, &bob, "12.50");
    body["metadata"] = json!({ "order": "A-17" });
    let answer = wallet.post("/v1/wallet/balance_transfer", &body);
    assert!(!answer.replayed && answer.position.is_some(), "{answer:?}");
    let answer = answer.ok();
    assert_eq!(answer["status"], "success");
    assert_eq!(answer["transaction_id"], body["transaction_id"]);
    assert_eq!((&answer["from_balance"], &answer["to_balance"]), (&"87.50".into(), &"12.50".into()));
    assert!(answer["sequence"].as_u64().unwrap() > 0 && answer["partition"].is_u64(), "{answer}");
    wallet.assert_balances(&[(&alice, "87.50", "0.00"), (&bob, "12.50", "0.00")]);

    let body = json!({ "account": bob, "amount": "2.50", "currency": "USD", "transaction_id": id() });
    let answer = wallet.post("/v1/wallet/withdraw", &body).ok();
    assert_eq!(answer["from_balance"], "10.00");
    wallet.assert_balances(&[(&bob, "10.00", "0.00")]);
}

/// A repeat answers what the first one did; the same id with other content is refused.
pub(crate) fn repeats(wallet: &Wallet) {
    let (alice, bob) = wallet.payer_and_payee();
    let body = transfer(&alice, &bob, "1.00");
    let first = wallet.post("/v1/wallet/balance_transfer", &body).ok();
    wallet.transfer(&alice, &bob, "1.00").ok();
    let again = wallet.post("/v1/wallet/balance_transfer", &body);
    assert!(again.replayed, "{again:?}");
    assert_eq!(again.ok(), first);
    let mut other = body.clone();
    other["amount"] = json!("2.00");
    assert_eq!(wallet.post("/v1/wallet/balance_transfer", &other).code(), "transaction_id_reused");
    wallet.assert_balances(&[(&alice, "98.00", "0.00"), (&bob, "2.00", "0.00")]);

    let [carol] = wallet.accounts();
    let open = json!({ "account_id": carol });
    assert_eq!(wallet.post("/v1/wallet/accounts", &open).status, 200, "it is open already");
    let other = json!({ "account_id": carol, "metadata": { "vip": "yes" } });
    assert_eq!(wallet.post("/v1/wallet/accounts", &other).code(), "account_exists");
}

/// What moves nothing says why, and a business refusal says so for ever.
pub(crate) fn refusals(wallet: &Wallet) {
    let (alice, bob) = wallet.payer_and_payee();
    let too_much = transfer(&alice, &bob, "100.01");
    assert_eq!(wallet.post("/v1/wallet/balance_transfer", &too_much).code(), "insufficient_funds");
    wallet.deposit(&alice, "1.00").ok();
    let again = wallet.post("/v1/wallet/balance_transfer", &too_much);
    assert_eq!((again.code(), again.replayed), ("insufficient_funds", true));
    let rows = [
        (transfer(&alice, "nobody-at-all", "1.00"), 404, "account_not_found"),
        (transfer("nobody-at-all", &alice, "1.00"), 404, "account_not_found"),
        (transfer(&alice, &alice, "1.00"), 400, "same_account"),
        (transfer(&alice, "@external", "1.00"), 400, "invalid_account_id"),
        (transfer(&alice, &bob, "1.001"), 400, "invalid_amount"),
        (transfer(&alice, "'; DROP TABLE accounts; --", "1.00"), 400, "invalid_account_id"),
    ];
    for (body, status, code) in rows {
        let answer = wallet.post("/v1/wallet/balance_transfer", &body);
        assert_eq!((answer.status, answer.code()), (status, code), "{body}");
    }
    // As much as an account can have, and then more; in a currency of its own, because the outside has limits as well.
    let cash = |route: &str, account: &str, amount: &str| {
        let body = json!({ "account": account, "amount": amount, "currency": "JPY", "transaction_id": id() });
        wallet.post(&format!("/v1/wallet/{route}"), &body)
    };
    let ([rich], most) = (wallet.accounts(), "9223372036854775807");
    cash("deposit", &rich, most).ok();
    assert_eq!(cash("deposit", &rich, "1").code(), "balance_overflow");
    cash("withdraw", &rich, most).ok();
    wallet.assert_balances(&[(&alice, "101.00", "0.00"), (&bob, "none", "none")]);
}

/// Transfers that travel together stand alone.
pub(crate) fn batches(wallet: &Wallet) {
    let (alice, bob) = wallet.payer_and_payee();
    let repeated = transfer(&alice, &bob, "1.00");
    let body = json!({ "transfers": [
        repeated, transfer(&alice, &bob, "1000.00"), transfer(&alice, &alice, "1.00"), transfer(&bob, &alice, "0.25"), repeated,
    ] });
    let answer = wallet.post("/v1/wallet/balance_transfers", &body).ok();
    let outcome = |result: &Value| {
        let text = |key: &str| result[key].as_str().unwrap_or_default().to_owned();
        (text("status"), text("code"))
    };
    let found: Vec<_> = answer["results"].as_array().unwrap().iter().map(outcome).collect();
    let pair = |status: &str, code: &str| (status.to_owned(), code.to_owned());
    let expected = [
        pair("success", ""),
        pair("refused", "insufficient_funds"),
        pair("refused", "same_account"),
        pair("success", ""),
        pair("success", ""),
    ];
    assert_eq!(found, expected, "{answer}");
    assert_eq!(
        answer["results"][0]["sequence"], answer["results"][4]["sequence"],
        "a repeat within the batch"
    );
    wallet.assert_balances(&[(&alice, "99.25", "0.00"), (&bob, "0.75", "0.00")]);
}

/// All legs, in order, or none.
pub(crate) fn groups(wallet: &Wallet) {
    let (alice, bob) = wallet.payer_and_payee();
    let [carol] = wallet.accounts();
    let group = |legs: &[Value]| json!({ "mode": "atomic", "transaction_id": id(), "transfers": legs });
    // Bob has what he passes on only once the first leg has happened.
    let body = group(&[transfer(&alice, &bob, "10.00"), transfer(&bob, &carol, "4.00")]);
    let answer = wallet.post("/v1/wallet/balance_transfers", &body);
    if !wallet.can(Feature::BeyondTransfers) {
        assert_eq!((answer.status, answer.code()), (501, NOT_SUPPORTED));
        return;
    }
    let answer = answer.ok();
    assert_eq!(answer["results"].as_array().unwrap().len(), 2, "{answer}");
    assert_eq!(answer["results"][1]["to_balance"], "4.00");
    let again = wallet.post("/v1/wallet/balance_transfers", &body);
    assert!(again.replayed);
    assert_eq!(again.ok(), answer);
    wallet.assert_balances(&[(&alice, "90.00", "0.00"), (&bob, "6.00", "0.00"), (&carol, "4.00", "0.00")]);

    let body = group(&[transfer(&alice, &bob, "1.00"), transfer(&carol, &bob, "4.01")]);
    let refused = wallet.post("/v1/wallet/balance_transfers", &body);
    assert_eq!((refused.status, refused.code()), (422, "leg_refused"));
    assert_eq!((&refused.body["leg"], &refused.body["leg_code"]), (&1.into(), &"insufficient_funds".into()));
    wallet.assert_balances(&[(&alice, "90.00", "0.00"), (&bob, "6.00", "0.00"), (&carol, "4.00", "0.00")]);
}

/// Money is set aside, paid out in part, or given back.
pub(crate) fn holds(wallet: &Wallet) {
    let (alice, bob) = wallet.payer_and_payee();
    let hold = transfer(&alice, &bob, "30.00");
    let answer = wallet.post("/v1/wallet/holds", &hold);
    if !wallet.can(Feature::BeyondTransfers) {
        assert_eq!((answer.status, answer.code()), (501, NOT_SUPPORTED));
        return;
    }
    let answer = answer.ok();
    assert_eq!((&answer["status"], &answer["from_balance"]), (&"held".into(), &"70.00".into()));
    wallet.assert_balances(&[(&alice, "70.00", "30.00")]);
    let settle = |hold: &Value, verb: &str, body: &Value| {
        let hold_id = hold["transaction_id"].as_str().unwrap();
        wallet.post(&format!("/v1/wallet/holds/{hold_id}/{verb}"), body)
    };
    let too_much = json!({ "transaction_id": id(), "amount": "30.01" });
    assert_eq!(settle(&hold, "confirm", &too_much).code(), "amount_exceeds_hold");
    let answer = settle(&hold, "confirm", &json!({ "transaction_id": id(), "amount": "12.50" })).ok();
    assert_eq!((&answer["released"], &answer["to_balance"]), (&"17.50".into(), &"12.50".into()));
    wallet.assert_balances(&[(&alice, "87.50", "0.00"), (&bob, "12.50", "0.00")]);
    let again = settle(&hold, "cancel", &json!({ "transaction_id": id() }));
    assert_eq!((again.status, again.code()), (409, "hold_not_pending"));

    let hold = transfer(&alice, &bob, "7.50");
    wallet.post("/v1/wallet/holds", &hold).ok();
    let answer = settle(&hold, "cancel", &json!({ "transaction_id": id() })).ok();
    assert_eq!(answer["released"], "7.50");
    wallet.assert_balances(&[(&alice, "87.50", "0.00"), (&bob, "12.50", "0.00")]);
    let unknown = settle(&transfer(&alice, &bob, "1.00"), "cancel", &json!({ "transaction_id": id() }));
    assert_eq!(unknown.code(), "transaction_not_found");
}

/// Money goes back, once.
pub(crate) fn reversals(wallet: &Wallet) {
    let (alice, bob) = wallet.payer_and_payee();
    let paid = transfer(&alice, &bob, "12.50");
    wallet.post("/v1/wallet/balance_transfer", &paid).ok();
    let path = format!("/v1/wallet/transactions/{}/reverse", paid["transaction_id"].as_str().unwrap());
    let answer = wallet.post(&path, &json!({ "transaction_id": id() }));
    if !wallet.can(Feature::BeyondTransfers) {
        assert_eq!((answer.status, answer.code()), (501, NOT_SUPPORTED));
        return;
    }
    let answer = answer.ok();
    assert_eq!(answer["reversed_transaction_id"], paid["transaction_id"]);
    wallet.assert_balances(&[(&alice, "100.00", "0.00"), (&bob, "0.00", "0.00")]);
    assert_eq!(wallet.post(&path, &json!({ "transaction_id": id() })).code(), "already_reversed");
}

/// An account that is closed takes no more commands.
pub(crate) fn closing(wallet: &Wallet) {
    let (alice, bob) = wallet.payer_and_payee();
    let close = |account: &str| {
        wallet.post(&format!("/v1/wallet/accounts/{account}/close"), &json!({ "transaction_id": id() }))
    };
    let answer = close(&alice);
    if !wallet.can(Feature::BeyondTransfers) {
        assert_eq!((answer.status, answer.code()), (501, NOT_SUPPORTED));
        return;
    }
    assert_eq!((answer.status, answer.code()), (409, "account_not_empty"));
    close(&bob).ok();
    assert_eq!(wallet.transfer(&alice, &bob, "1.00").code(), "account_closed");
    assert_eq!(wallet.get(&format!("/v1/wallet/accounts/{bob}")).ok()["status"], "closed");
    wallet.assert_balances(&[(&alice, "100.00", "0.00")]);
}
