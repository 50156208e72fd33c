//! The ledger's deposits and withdrawals, as a running wallet tells them.

use std::collections::BTreeSet;

use anyhow::{Context, anyhow};
use chrono::NaiveDate;
use ledger::{Currency, Timestamp};
use serde_json::Value;
use uuid::Uuid;

use super::matcher::LedgerEntry;
use super::money::{DecimalMark, parse_amount};
use super::statement::Money;
use crate::client::{Ask, Client, HistoryQuery};
use crate::exit::{Exit, Failure, OrExit};

/// The world outside: deposits come from it, withdrawals go to it.
const EXTERNAL: &str = "@external";
/// Entries of one page, the most that the wallet gives.
const PAGE_ENTRIES: u32 = 1000;
/// The most entries that are matched at once: about 2 GB of memory.
const ENTRIES_MAX: usize = 5_000_000;

/// Which deposits and withdrawals.
#[derive(Debug)]
pub(crate) struct Wanted<'wanted> {
    /// None, or `@external`: of all accounts.
    pub(crate) accounts: &'wanted [String],
    pub(crate) since: Timestamp,
    pub(crate) until: Timestamp,
    /// The metadata key of the bank's reference.
    pub(crate) reference_key: &'wanted str,
}

/// Asks for all of them.
pub(crate) fn read(client: &Client, wanted: &Wanted) -> Result<Vec<LedgerEntry>, Failure> {
    let mut entries = Vec::new();
    let is_everything =
        wanted.accounts.is_empty() || wanted.accounts.iter().any(|account| account == EXTERNAL);
    let accounts: BTreeSet<&str> = match is_everything {
        true => BTreeSet::from([EXTERNAL]),
        false => wanted.accounts.iter().map(String::as_str).collect(),
    };
    for account in accounts {
        read_account(client, account, wanted, &mut entries)?;
    }
    // What comes back from the world outside says which transaction it takes back only when it is asked for itself.
    for entry in entries.iter_mut().filter(|entry| entry.kind == "reversal") {
        let id = Uuid::from_u128(entry.transaction_id).to_string();
        let answer = client.answer(&Ask::transaction(&id))?;
        let reversed = answer.pointer("/events/0/referenced_transaction_id").and_then(Value::as_str);
        entry.reversed_id = reversed.and_then(|text| Uuid::try_parse(text).ok()).map(|id| id.as_u128());
    }
    Ok(entries)
}

fn read_account(
    client: &Client,
    account: &str,
    wanted: &Wanted,
    entries: &mut Vec<LedgerEntry>,
) -> Result<(), Failure> {
    let (since, until) = (api::format_timestamp(wanted.since), api::format_timestamp(wanted.until));
    let mut cursor: Option<String> = None;
    loop {
        let query = HistoryQuery {
            account,
            limit: Some(PAGE_ENTRIES),
            cursor: cursor.as_deref(),
            since: Some(&since),
            until: Some(&until),
            currency: None,
        };
        let page = client.answer(&Ask::history(&query))?;
        for told in page.get("entries").and_then(Value::as_array).into_iter().flatten() {
            let entry = entry(account, told, wanted.reference_key)
                .with_context(|| format!("the wallet's answer makes no sense: {told}"))
                .or_exit(Exit::Failed)?;
            entries.extend(entry);
        }
        if entries.len() > ENTRIES_MAX {
            let why = format!(
                "more than {ENTRIES_MAX} ledger entries; narrow them with --since, --until or --account"
            );
            return Err(Failure::usage(why));
        }
        match page.get("next_cursor").and_then(Value::as_str) {
            Some(next) => cursor = Some(next.to_owned()),
            None => return Ok(()),
        }
    }
}

/// `None` for what did not cross the border to the world outside.
fn entry(account: &str, told: &Value, reference_key: &str) -> anyhow::Result<Option<LedgerEntry>> {
    let text = |name: &str| {
        told.get(name).and_then(Value::as_str).ok_or_else(|| anyhow!("the field {name} is missing"))
    };
    // An opening or closing has neither.
    let Some(counterparty) = told.get("counterparty").and_then(Value::as_str) else { return Ok(None) };
    if account != EXTERNAL && counterparty != EXTERNAL {
        return Ok(None);
    }
    let currency = Currency::parse(text("currency")?).context("the currency is unknown")?;
    let amount = parse_amount(text("amount")?, DecimalMark::Point, currency).map_err(|why| anyhow!(why))?;
    let (owner, minor_units) = match account {
        // What the world outside gives away is a deposit.
        EXTERNAL => (counterparty, amount.checked_neg().context("the amount is too large")?),
        _ => (account, amount),
    };
    let timestamp = text("timestamp")?.to_owned();
    let date = timestamp.get(..10).and_then(|day| NaiveDate::parse_from_str(day, "%Y-%m-%d").ok());
    let number = |name: &str| told.get(name).and_then(Value::as_u64).unwrap_or_default();
    let reference =
        told.get("metadata").and_then(|metadata| metadata.get(reference_key)).and_then(Value::as_str);
    Ok(Some(LedgerEntry {
        transaction_id: Uuid::try_parse(text("transaction_id")?)?.as_u128(),
        reversed_id: None,
        account: owner.to_owned(),
        kind: text("type")?.to_owned(),
        date: date.context("the timestamp has no date")?,
        timestamp,
        partition: number("partition"),
        sequence: number("sequence"),
        money: Money { currency, minor_units },
        reference: reference.map(str::to_owned),
    }))
}
