//! Compares the tables with what the API tells about everything.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::databases::Base;
use crate::harness::Wallet;
use crate::workload::Workload;

/// Whatever the API tells about accounts, histories and transactions is in the tables, and nothing else is.
pub(crate) fn compare(wallet: &Wallet<'_>, workload: &Workload, base: &Base) {
    let state = wallet.ask(&["state", "--json"]).expect_code(0).json();
    let position = base.rows("SELECT sequence FROM {}position");
    assert_eq!(position[0][0].as_deref(), Some(state["sequence"].to_string().as_str()));
    let sums = base.rows("SELECT currency, sum(available_minor + held_minor) FROM {}balances GROUP BY 1");
    assert!(sums.iter().all(|row| row[1].as_deref() == Some("0")), "{sums:?}");
    let accounts = base.rows("SELECT count(*) FROM {}accounts WHERE account_id <> '@external'");
    assert_eq!(accounts[0][0].as_deref(), Some(state["accounts"].to_string().as_str()));
    for account in workload.accounts.iter().map(String::as_str).chain(["@external"]) {
        compare_account(workload, base, account);
        compare_history(workload, base, account);
    }
    compare_transactions(workload, base);
}

fn known(text: Option<&String>) -> Value {
    text.map_or(Value::Null, |text| json!(text))
}

fn notes(text: Option<&String>) -> Value {
    serde_json::from_str(text.unwrap()).unwrap()
}

fn compare_account(workload: &Workload, base: &Base, account: &str) {
    let (status, told) = workload.get(&format!("accounts/{account}"));
    assert_eq!(status, 200, "{told}");
    let (opened, metadata) = (base.time("opened_at"), base.metadata());
    let sql = format!(
        "SELECT handle, {opened}, CASE WHEN closed_at IS NULL THEN 'open' ELSE 'closed' END, {metadata} FROM {{}}accounts \
         WHERE account_id = '{account}'"
    );
    let rows = base.rows(&sql);
    let [row] = &rows[..] else { panic!("{account}: {rows:?}") };
    assert_eq!(row[0], Some(told["handle"].to_string()));
    if account != "@external" {
        assert_eq!(known(row[1].as_ref()), told["opened_at"]);
    }
    assert_eq!(known(row[2].as_ref()), told["status"], "{account}");
    assert_eq!(notes(row[3].as_ref()), told["metadata"], "{account}");
    let balances = base.rows(&format!(
        "SELECT currency, available, held, total FROM {{}}balances_decimal WHERE account_id = '{account}' ORDER BY currency"
    ));
    let balances: Vec<Value> = balances
        .iter()
        .map(|row| json!({ "currency": row[0], "available": row[1], "held": row[2], "total": row[3] }))
        .collect();
    let mut expected = told["balances"].as_array().unwrap().clone();
    expected.sort_by_key(|balance| balance["currency"].as_str().unwrap().to_owned());
    assert_eq!(balances, expected, "{account}");
}

fn compare_history(workload: &Workload, base: &Base, account: &str) {
    let mut entries = Vec::new();
    let mut cursor = String::new();
    loop {
        let (status, page) = workload.get(&format!("accounts/{account}/history?limit=100{cursor}"));
        assert_eq!(status, 200, "{page}");
        entries.extend(page["entries"].as_array().unwrap().clone());
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    let at = base.time("timestamp");
    let rows = base.rows(&format!(
        "SELECT transaction_id, type, counterparty, amount, currency, balance_after, sequence, {at} FROM {{}}postings_decimal \
         WHERE account_id = '{account}' ORDER BY sequence DESC"
    ));
    assert_eq!(rows.len(), entries.len(), "{account}");
    for (row, entry) in rows.iter().zip(&entries) {
        if !entry["transaction_id"].is_null() {
            assert_eq!(known(row[0].as_ref()), entry["transaction_id"], "{account}");
        }
        for (column, field) in
            ["type", "counterparty", "amount", "currency", "balance_after"].iter().enumerate()
        {
            assert_eq!(known(row[column + 1].as_ref()), entry[field], "{account} {field}: {entry}");
        }
        assert_eq!(row[6], Some(entry["sequence"].to_string()), "{account}");
        assert_eq!(known(row[7].as_ref()), entry["timestamp"], "{account}");
    }
}

fn compare_transactions(workload: &Workload, base: &Base) {
    let (at, metadata) = (base.time("timestamp"), base.metadata().replace("metadata", "t.metadata"));
    let sql = format!(
        "SELECT d.transaction_id, d.status, d.code, d.type, d.from_account, d.to_account, d.amount, d.currency, d.sequence, {}, \
         d.settled_sequence, {metadata} FROM {{}}transactions_decimal d JOIN {{}}transactions t ON t.transaction_id = d.transaction_id",
        at.replace("timestamp", "d.timestamp"),
    );
    let rows = base.rows(&sql);
    let mut found = BTreeSet::new();
    for row in &rows {
        let id = row[0].as_ref().unwrap();
        assert!(found.insert(id.clone()), "{id} is there twice");
        let (status, told) = workload.get(&format!("transactions/{id}"));
        assert_eq!(status, 200, "{row:?}");
        let fields = ["status", "code", "type", "from_account", "to_account", "amount", "currency"];
        for (column, field) in fields.iter().enumerate() {
            assert_eq!(known(row[column + 1].as_ref()), told[field], "{field}: {told}");
        }
        let events = told["events"].as_array().unwrap();
        assert_eq!(row[8], Some(events[0]["sequence"].to_string()), "{told}");
        assert_eq!(known(row[9].as_ref()), events[0]["timestamp"], "{told}");
        let is_settled =
            ["confirmed", "cancelled", "expired", "reversed"].contains(&told["status"].as_str().unwrap());
        let settled = is_settled.then(|| events.last().unwrap()["sequence"].to_string());
        assert_eq!(row[10], settled, "{told}");
        let expected = if told["metadata"].is_null() { json!({}) } else { told["metadata"].clone() };
        assert_eq!(notes(row[11].as_ref()), expected, "{told}");
    }
    for id in &workload.ids {
        if !found.contains(id) {
            assert_eq!(workload.get(&format!("transactions/{id}")).0, 404, "{id} is missing");
        }
    }
}
