//! `/metrics`: what happened is counted, whatever stands behind it.

use std::collections::BTreeMap;

use crate::wallet::{Wallet, transfer};

/// How many accounts are opened until two are on different shards.
const ACCOUNTS_MAX: usize = 64;

/// The phases of a transfer over two shards, as each protocol has them.
fn phases(architecture: &str) -> &'static [&'static str] {
    match architecture {
        "two-phase-commit" | "tcc" | "redis-tcc" => {
            &["claim", "begin", "first_phase", "decide", "second_phase", "finish"]
        }
        "saga" | "saga-choreographed" => &["claim", "begin", "first_phase", "finish"],
        // One update after the other: the payer's, then the payee's.
        "redis" => &["claim", "finish", "second_phase"],
        other => panic!("{other} has no shards"),
    }
}

/// A transfer over two shards, a refused one and a repeated one show, by outcome, phase and shard.
pub(crate) fn what_happened_is_counted(wallet: &Wallet) {
    let name = wallet.architecture.name;
    if name == "event-sourced" {
        let found = wallet.metrics();
        assert!(found["jigap_commands_total"] > 0);
        assert!(!found.contains_key("jigap_transactions_in_flight"), "there is one partition");
        return;
    }
    let (alice, bob) = on_two_shards(wallet);
    let before = wallet.metrics();
    let paid = transfer(&alice, &bob, "1.00");
    wallet.post("/v1/wallet/balance_transfer", &paid).ok();
    assert!(wallet.post("/v1/wallet/balance_transfer", &paid).replayed);
    assert_eq!(wallet.transfer(&alice, &bob, "1000.00").code(), "insufficient_funds");
    let after = wallet.metrics();

    let grown = |series: &str| {
        let value = |found: &BTreeMap<String, u64>| {
            *found.get(series).unwrap_or_else(|| panic!("{series} is missing"))
        };
        value(&after) - value(&before)
    };
    assert_eq!(grown("jigap_transactions_total{outcome=\"success\"}"), 1);
    assert_eq!(grown("jigap_transactions_total{outcome=\"refused\"}"), 1);
    assert_eq!(grown("jigap_refusals_total{code=\"insufficient_funds\"}"), 1);
    assert_eq!(grown("jigap_replayed_total"), 1);
    assert_eq!(grown("jigap_transactions_taken_over_total"), 0);
    assert!(
        after.contains_key("jigap_transactions_in_flight") && after.contains_key("jigap_overloaded_total")
    );
    for phase in phases(name) {
        let series = |end: &str, more: &str| {
            format!("jigap_transaction_phase_microseconds_{end}{{phase=\"{phase}\"{more}}}")
        };
        let count = grown(&series("count", ""));
        assert!(count > 0, "{phase}");
        assert!(grown(&series("sum", "")) > 0, "{phase}");
        assert_eq!(grown(&series("bucket", ",le=\"+Inf\"")), count);
    }
    for shard in 0..2 {
        let done = grown(&format!("jigap_shard_steps_total{{shard=\"{shard}\",outcome=\"done\"}}"));
        let timed = grown(&format!("jigap_shard_step_microseconds_count{{shard=\"{shard}\"}}"));
        assert!(done > 0 && timed >= done, "shard {shard}: {done} of {timed}");
        for outcome in ["busy", "unknown", "contradiction"] {
            grown(&format!("jigap_shard_steps_total{{shard=\"{shard}\",outcome=\"{outcome}\"}}"));
        }
        grown(&format!("jigap_shard_repeats_total{{shard=\"{shard}\"}}"));
    }
    let refused = |shard| grown(&format!("jigap_shard_steps_total{{shard=\"{shard}\",outcome=\"refused\"}}"));
    assert!(refused(0) + refused(1) > 0);
    // The broker's word that it has the last message may still be on its way.
    assert_eq!(after["jigap_outbox_messages_total"] > 0, name == "saga-choreographed");
}

/// An account with money and one on another shard.
pub(crate) fn on_two_shards(wallet: &Wallet) -> (String, String) {
    let shard =
        |account: &str| wallet.get(&format!("/v1/wallet/accounts/{account}")).ok()["partition"].clone();
    let (alice, _) = wallet.payer_and_payee();
    let mut others = (0..ACCOUNTS_MAX).map(|_| {
        let [account] = wallet.accounts();
        account
    });
    let bob =
        others.find(|account| shard(account) != shard(&alice)).expect("half of the accounts are elsewhere");
    (alice, bob)
}
