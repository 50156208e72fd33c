//! What an operator asks: is the money all there, and which transactions are under way?

use std::collections::HashMap;

use api::response::{self, IN_FLIGHT};
use api::{Code, Problem, format_timestamp};
use axum::body::Body;
use axum::http::{Response, StatusCode};
use coordinator::port::{PhaseStatus, SecondPhase, TryState};
use distributed::ShardTotals;
use distributed::wallet::{self, CurrencyTotal, Intervention, Located};
use ledger::{Currency, TransactionId, format_minor_units};
use serde_json::{Value, json};

use crate::backend::{Backend, Totals, not_answered};
use crate::{answer, query};

/// How many transactions are listed unless the operator asks for another number.
const LISTED: usize = 100;
/// The most that an operator may ask for.
const LISTED_MAX: usize = 10_000;
/// How often the sums are read again while they change between two readings.
const READINGS_MAX: usize = 5;

type Answer = Result<Response<Body>, Problem>;

/// The state of a wallet over shards. They have no position in common, and so there is none, and no digest.
pub(crate) fn shards_state(shards: &[Located<ShardTotals>]) -> Response<Body> {
    let body = json!({
        "accounts": shards.iter().map(|shard| shard.value.accounts).sum::<u64>(),
        "totals": totals(&wallet::currency_totals(shards)),
        "shards": positions(shards),
    });
    answer::value(StatusCode::OK, &body)
}

fn totals(totals: &[CurrencyTotal]) -> Vec<Value> {
    let total = |total: &CurrencyTotal| {
        json!({
            "currency": total.currency.code(),
            "sum": format_minor_units(total.sum, total.currency),
            "in_flight": format_minor_units(total.in_flight, total.currency),
        })
    };
    totals.iter().map(total).collect()
}

fn positions(shards: &[Located<ShardTotals>]) -> Vec<Value> {
    let position = |shard: &Located<ShardTotals>| {
        let ShardTotals { sequence, accounts, .. } = &shard.value;
        json!({ "partition": shard.partition, "sequence": sequence.0, "accounts": accounts })
    };
    shards.iter().map(position).collect()
}

/// Whether every currency sums to zero over all shards, money in flight included. Shards are read one after the other, so the sums are of
/// one moment only when a second reading finds them unchanged; else the answer says that it is not settled.
pub(crate) async fn check(backend: &Backend) -> Answer {
    let wallet = match backend {
        Backend::Distributed(wallet) => wallet,
        Backend::EventSourced(_) => return check_partition(backend).await,
    };
    let read = async || wallet.totals().await.map_err(not_answered);
    let (mut before, mut settled) = (read().await?, false);
    for _ in 1..READINGS_MAX {
        let after = read().await?;
        settled = before == after;
        before = after;
        if settled {
            break;
        }
    }
    let currencies: Vec<(Currency, i128, i128)> = wallet::currency_totals(&before)
        .iter()
        .map(|total| (total.currency, total.sum, total.in_flight))
        .collect();
    Ok(checked(settled, &currencies, positions(&before)))
}

async fn check_partition(backend: &Backend) -> Answer {
    let Totals::Partition { partition, view } = backend.totals().await? else {
        return Err(Problem::new(Code::Unavailable, "the totals of a partition are those of one partition"));
    };
    let currencies: Vec<_> = view.totals.iter().map(|total| (total.currency, total.sum, 0)).collect();
    let position = json!({ "partition": partition, "sequence": view.sequence.0, "accounts": view.accounts });
    Ok(checked(true, &currencies, vec![position]))
}

fn checked(settled: bool, currencies: &[(Currency, i128, i128)], shards: Vec<Value>) -> Response<Body> {
    let currency = |(currency, sum, in_flight): &(Currency, i128, i128)| {
        json!({
            "currency": currency.code(),
            "sum": format_minor_units(*sum, *currency),
            "in_flight": format_minor_units(*in_flight, *currency),
            "difference": format_minor_units(sum + in_flight, *currency),
        })
    };
    let body = json!({
        "balanced": currencies.iter().all(|(_, sum, in_flight)| sum + in_flight == 0),
        "settled": settled,
        "currencies": currencies.iter().map(currency).collect::<Vec<_>>(),
        "shards": shards,
    });
    answer::value(StatusCode::OK, &body)
}

/// Transactions that are under way, oldest first.
pub(crate) async fn in_flight(backend: &Backend, parameters: &HashMap<String, String>) -> Answer {
    let invalid = |detail: String| Err(Problem::new(Code::InvalidRequest, detail));
    match parameters.get("state").map(String::as_str) {
        None | Some(IN_FLIGHT) => {}
        Some(other) => return invalid(format!("query parameter state must be {IN_FLIGHT}, it is {other:?}")),
    }
    let limit = match parameters.get("limit") {
        None => LISTED,
        Some(text) => match query::whole_number(text) {
            Some(limit @ 1..=LISTED_MAX) => limit,
            _ => {
                return invalid(format!(
                    "query parameter limit must be a number from 1 to {LISTED_MAX}, it is {text:?}"
                ));
            }
        },
    };
    let found = match backend {
        // One partition does everything at once.
        Backend::EventSourced(_) => Vec::new(),
        Backend::Distributed(wallet) => wallet.in_flight(limit).await.map_err(not_answered)?,
    };
    let now = query::now().as_micros();
    let transactions: Vec<Value> =
        found.iter().map(|found| transaction(found.partition, &found.value, now)).collect();
    Ok(answer::value(StatusCode::OK, &json!({ "transactions": transactions })))
}

fn transaction(partition: u32, status: &PhaseStatus, now_us: i64) -> Value {
    let mut body = response::transaction_in_flight(status.plan.transaction_id, &status.plan.command);
    let tries = status.plan.branches.iter().zip(&status.tries).enumerate().map(|(index, (branch, state))| {
        json!({
            "shard": branch.shard.0,
            "try": try_name(*state),
            "second_phase_done": status.second_phase_done.get(index).copied().unwrap_or(false),
        })
    });
    let age_us = now_us.saturating_sub(status.started_at.as_micros()).max(0);
    let more = json!({
        "partition": partition,
        "phase": if status.second_phase.is_some() { "second" } else { "first" },
        "second_phase": status.second_phase.map(second_phase_name),
        "branches": tries.collect::<Vec<_>>(),
        "out_of_order": status.out_of_order,
        "attempts": status.attempts,
        "last_error": Some(&status.last_error).filter(|error| !error.is_empty()),
        "started_at": format_timestamp(status.started_at),
        "age_seconds": age_us / 1_000_000,
        "lease": status.lease.as_ref().map(|lease| json!({
            "holder": format!("{:016x}", lease.holder),
            "until": format_timestamp(lease.until),
        })),
    });
    if let (Value::Object(body), Value::Object(more)) = (&mut body, more) {
        body.remove("events");
        body.extend(more);
    }
    body
}

fn try_name(state: TryState) -> &'static str {
    match state {
        TryState::NotSent => "not_sent",
        TryState::Sent => "sent",
        TryState::Accepted => "accepted",
        TryState::Refused => "refused",
    }
}

fn second_phase_name(phase: SecondPhase) -> &'static str {
    match phase {
        SecondPhase::Confirm => "confirm",
        SecondPhase::Cancel => "cancel",
    }
}

/// Drives a transaction on at once.
pub(crate) async fn retry(backend: &Backend, transaction_id: TransactionId) -> Answer {
    let intervention = match backend {
        Backend::EventSourced(_) => finished(backend, transaction_id).await?,
        Backend::Distributed(wallet) => wallet.retry(transaction_id).await.map_err(not_answered)?,
    };
    intervened(transaction_id, intervention)
}

/// Undoes a transaction, where that is still allowed.
pub(crate) async fn cancel(backend: &Backend, transaction_id: TransactionId) -> Answer {
    let intervention = match backend {
        Backend::EventSourced(_) => finished(backend, transaction_id).await?,
        Backend::Distributed(wallet) => wallet.cancel(transaction_id).await.map_err(not_answered)?,
    };
    match intervention {
        Intervention::Finished => {
            intervened(transaction_id, Intervention::TooLate("it is finished".to_owned()))
        }
        other => intervened(transaction_id, other),
    }
}

/// In one partition every transaction is finished as soon as it is known.
async fn finished(backend: &Backend, transaction_id: TransactionId) -> Result<Intervention, Problem> {
    backend.transaction(transaction_id).await.map(|_| Intervention::Finished)
}

fn intervened(transaction_id: TransactionId, intervention: Intervention) -> Answer {
    match intervention {
        Intervention::Begun(Located { partition, value }) => {
            let body = transaction(partition, &value, query::now().as_micros());
            Ok(answer::value(StatusCode::ACCEPTED, &body))
        }
        Intervention::Finished => {
            let body = json!({ "transaction_id": transaction_id.to_string(), "status": "finished" });
            Ok(answer::value(StatusCode::OK, &body))
        }
        Intervention::Unknown => Err(query::no_transaction(transaction_id)),
        Intervention::TooLate(why) => {
            let detail = format!("transaction_id {transaction_id} can no longer be cancelled: {why}");
            Err(Problem::new(Code::NotCancellable, detail).with_transaction(transaction_id))
        }
    }
}
