//! Answers as people read them.

use std::io;

use comfy_table::Table;
use serde_json::Value;

use super::request::{Ask, Subject};
use crate::output::{print_json, print_line, print_table, table};

/// Prints an answer.
pub(super) fn print(ask: &Ask, body: &Value) -> io::Result<()> {
    match ask.subject {
        Subject::Account => {
            print_fields(body, &["balances"])?;
            print_rows(body, "balances", &["currency", "available", "held", "total"])
        }
        Subject::Command => print_fields(body, &["results"]),
        Subject::History => {
            let columns = [
                "timestamp",
                "type",
                "amount",
                "currency",
                "balance_after",
                "counterparty",
                "transaction_id",
            ];
            print_rows(body, "entries", &columns)?;
            match body.get("next_cursor").and_then(Value::as_str) {
                Some(cursor) => print_line(&format!("older entries: --cursor {cursor}")),
                None => Ok(()),
            }
        }
        Subject::Transaction => {
            print_fields(body, &["events"])?;
            print_rows(body, "events", &["sequence", "timestamp", "type", "code", "transaction_id"])
        }
        Subject::Webhooks => {
            let columns = ["id", "url", "types", "account", "status", "cursor", "lag_events", "dead_letters"];
            print_rows(body, "webhooks", &columns)
        }
        Subject::DeadLetters => {
            let columns = ["sequence", "type", "attempts", "first_attempt_at", "queued", "last_error"];
            print_rows(body, "dead_letters", &columns)
        }
        Subject::Receipt => print_json(body),
        Subject::InFlight => {
            let columns = [
                "transaction_id",
                "type",
                "amount",
                "currency",
                "phase",
                "second_phase",
                "attempts",
                "age_seconds",
                "last_error",
            ];
            print_rows(body, "transactions", &columns)
        }
        Subject::Check => {
            print_fields(body, &["currencies", "shards"])?;
            print_rows(body, "currencies", &["currency", "sum", "in_flight", "difference"])
        }
        Subject::State => {
            print_fields(body, &["totals"])?;
            print_rows(body, "totals", &["currency", "sum", "in_flight"])
        }
    }
}

/// All fields but these, a row each.
fn print_fields(body: &Value, without: &[&str]) -> io::Result<()> {
    let mut fields = Table::new();
    fields.load_preset(comfy_table::presets::NOTHING);
    for (name, value) in body.as_object().into_iter().flatten() {
        if !without.contains(&name.as_str()) && !is_empty(value) {
            fields.add_row([name.clone(), text(value)]);
        }
    }
    print_table(&fields)
}

fn print_rows(body: &Value, list: &str, columns: &[&str]) -> io::Result<()> {
    let rows = body.get(list).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    if rows.is_empty() {
        return print_line(&format!("no {list}"));
    }
    let mut rendered = table(columns);
    for row in rows {
        rendered.add_row(columns.iter().map(|column| row.get(column).map_or_else(String::new, text)));
    }
    print_table(&rendered)
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    }
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Object(fields) => {
            let pairs: Vec<String> =
                fields.iter().map(|(key, value)| format!("{key}={}", text(value))).collect();
            pairs.join(" ")
        }
        other => other.to_string(),
    }
}
