//! What an operator asks, by hand and by command.

use serde_json::json;

use crate::harness;
use crate::wallet::{Wallet, id};

/// Every currency sums to zero over all shards.
pub(crate) fn money_is_all_there(wallet: &Wallet, served: &harness::Wallet<'_>) {
    let check = wallet.get("/v1/admin/check").ok();
    assert_eq!((&check["balanced"], &check["settled"]), (&true.into(), &true.into()), "{check}");
    let dollars = check["currencies"].as_array().unwrap().iter().find(|total| total["currency"] == "USD");
    let dollars = dollars.unwrap();
    let zero = json!({ "currency": "USD", "sum": "0.00", "in_flight": "0.00", "difference": "0.00" });
    assert_eq!(*dollars, zero);
    assert!(!check["shards"].as_array().unwrap().is_empty());
    let totals = wallet.get("/v1/wallet/state").ok()["totals"].clone();
    assert!(totals.as_array().unwrap().iter().any(|total| total["currency"] == "USD"), "{totals}");
    assert_eq!(served.ask(&["check", "--json"]).expect_code(0).json()["balanced"], true);
}

/// When nothing happens, nothing is stuck; what is finished can be neither helped nor undone.
pub(crate) fn nothing_is_under_way(wallet: &Wallet, served: &harness::Wallet<'_>) {
    let (alice, bob) = wallet.payer_and_payee();
    let paid = wallet.transfer(&alice, &bob, "1.00").ok();
    let transaction_id = paid["transaction_id"].as_str().unwrap();
    let listed = wallet.get("/v1/admin/transactions?state=in_flight").ok();
    assert_eq!(listed["transactions"], json!([]));
    assert_eq!(served.ask(&["transactions", "stuck", "--json"]).expect_code(0).json(), listed);
    for wrong in ["state=finished", "limit=0", "limit=10001", "phase=1"] {
        let answer = wallet.get(&format!("/v1/admin/transactions?{wrong}"));
        assert_eq!(answer.code(), "invalid_request", "{wrong}");
    }
    let path = |id: &str, verb: &str| format!("/v1/admin/transactions/{id}/{verb}");
    let retried = wallet.post(&path(transaction_id, "retry"), &json!({})).ok();
    assert_eq!(retried, json!({ "transaction_id": transaction_id, "status": "finished" }));
    let cancelled = wallet.post(&path(transaction_id, "cancel"), &json!({}));
    assert_eq!((cancelled.status, cancelled.code()), (409, "not_cancellable"));
    for verb in ["retry", "cancel"] {
        assert_eq!(wallet.post(&path(&id(), verb), &json!({})).code(), "transaction_not_found");
    }
    served.ask(&["transactions", "retry", transaction_id]).expect_code(0);
    let refused = served.ask(&["transactions", "cancel", transaction_id]).expect_code(1);
    assert!(refused.stderr.contains("not_cancellable"), "{refused:?}");
}

/// The load generator measures any architecture, and proves in the end that nothing was lost.
pub(crate) fn bench(served: &harness::Wallet<'_>) {
    for transport in ["grpc-stream", "http", "http-batch"] {
        let batch = if transport == "http" { "1" } else { "5" };
        let arguments = ["--accounts", "100", "--connections", "2", "--warm-up", "50ms", "--duration", "1s"];
        let bench = ["bench", "--json", "--transport", transport, "--batch", batch];
        let report = served.ask(&[&bench[..], &arguments].concat()).expect_code(0).json();
        assert!(report["transfers"].as_u64().unwrap() > 0, "{report}");
        assert_eq!((&report["errors"], &report["refused"]), (&0.into(), &0.into()), "{report}");
        assert_eq!(report["proof"]["sum_unchanged"], true, "{report}");
        assert_eq!(report["proof"]["found"], report["proof"]["checked"], "{report}");
    }
}
