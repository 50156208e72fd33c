//! `jigap events`: prints events, past ones and then live ones.

use std::io::Write;

use anyhow::Context;
use api::client::{Client, ClientError, Options};
use api::proto::{Event, SubscribeRequest};
use clap::Args;
use ledger::{Currency, Timestamp, TransactionId, format_minor_units};
use serde_json::{Map, Value, json};
use tokio::runtime::Builder;

use crate::cli::{ClientArguments, Output};
use crate::exit::{Exit, Failure, OrExit};
use crate::settings::Settings;

pub(crate) const HELP: &str = "\
Examples:
  jigap events --account alice             everything that concerns alice, up to now
  jigap events --after 42 --follow         what comes after event 42, and whatever happens from now on
  jigap events --json | jq .postings       one JSON object a line";

/// `events`.
#[derive(Debug, Args)]
pub(crate) struct EventsArguments {
    /// Only events about this account
    #[arg(long)]
    account: Option<String>,
    /// Begin after this sequence; 0 for the first event
    #[arg(long, value_name = "SEQUENCE", default_value_t = 0)]
    after: u64,
    /// Go on with live events; survives restarts of the wallet
    #[arg(long)]
    follow: bool,
    #[command(flatten)]
    client: ClientArguments,
}

/// Prints until everything durable was shown, or for ever.
pub(crate) fn run(arguments: &EventsArguments) -> Result<(), Failure> {
    let settings = Settings::load(&arguments.client.settings.0)?;
    let output = arguments.client.output.choose();
    let patience = std::time::Duration::from_millis(settings.number("timeout"));
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the asynchronous runtime")?;
    runtime.block_on(async {
        let options = Options { patience, ..Options::default() };
        let client = Client::new(settings.text("grpc-server"), options).or_exit(Exit::Usage)?;
        let account_id = arguments.account.clone().unwrap_or_default();
        let request = SubscribeRequest { partition: 0, after: arguments.after, account_id };
        let mut subscription = client.subscribe(request);
        let mut end = None;
        loop {
            let batch = subscription.next().await.map_err(|error| {
                let refused = matches!(error, ClientError::Failed(_));
                Failure::new(if refused { Exit::Refused } else { Exit::Unavailable }, error)
            })?;
            let end = *end.get_or_insert(batch.committed);
            for event in batch.events.iter().filter(|event| arguments.follow || event.sequence <= end) {
                let line = match output {
                    Output::Programs => json_of(event).to_string(),
                    Output::People => line_of(event),
                };
                match writeln!(std::io::stdout().lock(), "{line}") {
                    // Whoever reads has seen enough, and nothing else would end this.
                    Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => return Ok(()),
                    written => written?,
                }
            }
            if !arguments.follow && subscription.position() >= end {
                return Ok(());
            }
        }
    })
}

/// Minor units as people write them.
fn money(minor_units: i64, currency: &str) -> String {
    Currency::parse(currency)
        .map_or_else(|| minor_units.to_string(), |currency| format_minor_units(minor_units.into(), currency))
}

fn id_of(bytes: &[u8]) -> Option<String> {
    Some(TransactionId::from_bytes(bytes.try_into().ok()?).to_string())
}

fn line_of(event: &Event) -> String {
    let time = api::format_timestamp(Timestamp::from_micros(event.timestamp_micros));
    let mut parts = vec![format!("{:>8}  {time}  {:<15}", event.sequence, event.r#type)];
    if !event.code.is_empty() {
        parts.push(event.code.clone());
    }
    if !event.account_id.is_empty() {
        parts.push(event.account_id.clone());
    }
    if !event.currency.is_empty() {
        let amount = money(event.amount, &event.currency);
        parts.push(format!("{} -> {} {amount} {}", event.from_account, event.to_account, event.currency));
    }
    let left = event
        .postings
        .iter()
        .map(|posting| format!("{}={}", posting.account_id, money(posting.balance_after, &posting.currency)));
    let left = left.collect::<Vec<_>>().join(" ");
    if !left.is_empty() {
        parts.push(format!("leaving {left}"));
    }
    parts.join("  ")
}

/// The shape that the HTTP interface gives an event.
fn json_of(event: &Event) -> Value {
    let time = |micros| api::format_timestamp(Timestamp::from_micros(micros));
    let mut fields = Map::new();
    let mut put = |name: &str, value: Value| fields.insert(name.to_owned(), value);
    put("type", json!(event.r#type));
    put("partition", json!(event.partition));
    put("sequence", json!(event.sequence));
    put("timestamp", json!(time(event.timestamp_micros)));
    let texts = [
        ("code", &event.code),
        ("refused_type", &event.refused_type),
        ("leg_code", &event.leg_code),
        ("account_id", &event.account_id),
        ("from_account", &event.from_account),
        ("to_account", &event.to_account),
        ("currency", &event.currency),
    ];
    for (name, text) in texts.into_iter().filter(|(_, text)| !text.is_empty()) {
        put(name, json!(text));
    }
    let ids = [
        ("transaction_id", &event.transaction_id),
        ("referenced_transaction_id", &event.referenced_transaction_id),
    ];
    for (name, id) in ids.into_iter().filter_map(|(name, id)| Some((name, id_of(id)?))) {
        put(name, json!(id));
    }
    if let Some(handle) = event.handle {
        put("handle", json!(handle));
    }
    if let Some(leg) = event.leg {
        put("leg", json!(leg));
    }
    if !event.currency.is_empty() {
        put("amount", json!(money(event.amount, &event.currency)));
    }
    if let (Some(released), Some(posting)) = (event.released, event.postings.first()) {
        put("released", json!(money(released, &posting.currency)));
    }
    if event.r#type == "hold" {
        put("expires_at", json!(event.expires_at_micros.map(time)));
    }
    if event.legs > 0 {
        put("legs", json!(event.legs));
    }
    let postings = event.postings.iter().map(|posting| {
        let mut shown = json!({
            "account_id": posting.account_id,
            "currency": posting.currency,
            "amount": money(posting.amount, &posting.currency),
            "balance_after": money(posting.balance_after, &posting.currency),
        });
        if let Some(held) = posting.held_after {
            shown["held_after"] = json!(money(held, &posting.currency));
        }
        shown
    });
    if !event.postings.is_empty() {
        put("postings", postings.collect());
    }
    if !event.metadata.is_empty() {
        put("metadata", json!(event.metadata));
    }
    Value::Object(fields)
}
