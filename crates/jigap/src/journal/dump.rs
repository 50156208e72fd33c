//! `jigap journal dump`: what the journal holds, as it was written.

use std::path::Path;

use anyhow::{Context, anyhow};
use api::format_timestamp;
use api::response::{self, Names};
use ledger::codec::{Body, Entry};
use ledger::{AccountNumber, AccountRef, Command, Metadata, Record, Sequence, Timestamp, Transfer};
use serde_json::{Map, Value, json};
use storage::journal::{self, Frame, FrameIndex, Reader};

use super::PARTITION;
use crate::cli::{DumpArguments, Output};
use crate::data_directory::DataDirectory;
use crate::exit::{Exit, Failure, OrExit};
use crate::output::{print_json, print_line};
use crate::settings::Settings;

/// Prints every command of a range with its events.
pub(crate) fn dump(arguments: &DumpArguments) -> Result<(), Failure> {
    let settings = Settings::load(&arguments.directory.0)?;
    let directory = DataDirectory::open_for_reading(&settings.path("data-dir"))?;
    let reader = open(&directory.partition(PARTITION).join("journal"))?;
    let range = Range { from: Sequence(arguments.from.max(1)), to: Sequence(arguments.to) };
    let output = arguments.output.choose();
    for frame in reader.frames_from(first_frame(&reader, range.from)?) {
        let frame = frame.or_exit(Exit::Damaged)?;
        if Sequence(frame.first_sequence().0) > range.to {
            break;
        }
        if frame.header().next_sequence().0 > range.from.0 {
            print_frame(&frame, &range, output)?;
        }
    }
    Ok(())
}

struct Range {
    from: Sequence,
    to: Sequence,
}

fn open(journal: &Path) -> Result<Reader, Failure> {
    let (reader, recovered) = Reader::open_read_only(journal).map_err(|error| {
        let exit = match error {
            journal::OpenError::Damaged(_) => Exit::Damaged,
            _ => Exit::Directory,
        };
        Failure::new(exit, error)
    })?;
    if recovered.torn_tail_bytes > 0 {
        tracing::warn!(
            bytes = recovered.torn_tail_bytes,
            "the journal ends in an unfinished frame, which nobody was told about"
        );
    }
    Ok(reader)
}

fn first_frame(reader: &Reader, from: Sequence) -> Result<FrameIndex, Failure> {
    let frame = reader.frame_containing(journal::Sequence(from.0)).or_exit(Exit::Damaged)?;
    Ok(match (frame, reader.last()) {
        (Some(frame), _) => frame.index(),
        // Past the end: nothing is printed, but for the last frame's end nothing need be read.
        (None, Some(last)) => last.index,
        (None, None) => reader.first_index(),
    })
}

fn print_frame(frame: &Frame, range: &Range, output: Output) -> Result<(), Failure> {
    let first = Sequence(frame.first_sequence().0);
    let timestamp = Timestamp::from_micros(frame.timestamp_us());
    if output == Output::People {
        let last = frame.header().next_sequence().0.saturating_sub(1);
        let (index, term, size) = (frame.index(), frame.term(), frame.body().len());
        let time = format_timestamp(timestamp);
        print_line(&format!(
            "frame {index}  term {term}  sequences {}-{last}  {time}  {size} bytes",
            first.0
        ))?;
    }
    if frame.sequence_count() == 0 {
        return Ok(());
    }
    let damaged = || anyhow!("frame {} is whole, but its body is not ours", frame.index());
    let body = Body::parse(frame.body(), first).with_context(damaged).or_exit(Exit::Damaged)?;
    for entry in body.entries() {
        let entry = entry.with_context(damaged).or_exit(Exit::Damaged)?;
        let records: Vec<Record> = entry
            .sequenced()
            .map(|(sequence, event)| Record { sequence, timestamp, event: event.clone() })
            .collect();
        if records.iter().any(|record| (range.from..=range.to).contains(&record.sequence)) {
            print_entry(frame, &entry, &records, output)?;
        }
    }
    Ok(())
}

fn print_entry(frame: &Frame, entry: &Entry, records: &[Record], output: Output) -> std::io::Result<()> {
    // The command stands beside its events: they need not repeat what it asked for.
    let command = command(&entry.command);
    let events = records.iter().map(event);
    if output == Output::Programs {
        return print_json(&json!({
            "partition": PARTITION,
            "frame": frame.index().0,
            "term": frame.term().0,
            "command": command,
            "events": events.collect::<Vec<_>>(),
        }));
    }
    print_line(&format!("  {}", flat(&command)))?;
    for (record, mut event) in records.iter().zip(events) {
        if let Some(fields) = event.as_object_mut() {
            for repeated in ["partition", "sequence", "timestamp", "transaction_id"] {
                fields.remove(repeated);
            }
        }
        print_line(&format!("    {} {}", record.sequence.0, flat(&event)))?;
    }
    Ok(())
}

/// An event as programs read it.
pub(crate) fn event(record: &Record) -> Value {
    api::event::value(PARTITION, record, None, &Numbered)
}

/// The type first, then `key=value`.
pub(super) fn flat(value: &Value) -> String {
    match value {
        Value::Object(fields) => {
            let kind = fields.get("type").and_then(Value::as_str).map(ToOwned::to_owned);
            let rest = fields.iter().filter(|(key, _)| *key != "type");
            let pairs = rest.map(|(key, value)| format!("{key}={}", flat(value)));
            kind.into_iter().chain(pairs).collect::<Vec<_>>().join(" ")
        }
        Value::Array(items) => {
            format!("[{}]", items.iter().map(flat).collect::<Vec<_>>().join("; "))
        }
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Accounts by number: their names stand in the events that opened them.
struct Numbered;

impl Names for Numbered {
    fn name(&self, account: AccountNumber) -> String {
        match account {
            AccountNumber::EXTERNAL => ledger::AccountId::EXTERNAL.to_owned(),
            AccountNumber(number) => format!("#{number}"),
        }
    }
}

fn account(account: &AccountRef) -> String {
    match account {
        AccountRef::Number(number) => Numbered.name(*number),
        AccountRef::Named(name) => name.to_string(),
    }
}

pub(crate) fn command(command: &Command) -> Value {
    match command {
        Command::OpenAccount { account_id, metadata } => {
            with_metadata(json!({ "type": "open_account", "account_id": account_id.as_str() }), metadata)
        }
        Command::Transfer(request) => transfer(request),
        Command::Group(group) => json!({
            "type": "group",
            "transaction_id": group.transaction_id.to_string(),
            "legs": group.legs.iter().map(transfer).collect::<Vec<_>>(),
        }),
        Command::Hold(request) => {
            let mut body = transfer(&request.transfer);
            body["type"] = json!("hold");
            body["expires_in_seconds"] = json!(request.expires_in_seconds);
            body
        }
        Command::ConfirmHold { transaction_id, hold_id, amount } => json!({
            "type": "confirm_hold",
            "transaction_id": transaction_id.to_string(),
            "hold_id": hold_id.to_string(),
            "amount": amount.map(|amount| {
                let (digits, scale) = amount.parts();
                format!("{digits}e-{scale}")
            }),
        }),
        Command::CancelHold { transaction_id, hold_id } => json!({
            "type": "cancel_hold",
            "transaction_id": transaction_id.to_string(),
            "hold_id": hold_id.to_string(),
        }),
        Command::Reverse { transaction_id, original_id, metadata } => with_metadata(
            json!({
                "type": "reverse",
                "transaction_id": transaction_id.to_string(),
                "original_id": original_id.to_string(),
            }),
            metadata,
        ),
        Command::CloseAccount { transaction_id, account: closed } => json!({
            "type": "close_account",
            "transaction_id": transaction_id.to_string(),
            "account": account(closed),
        }),
        Command::ExpireHolds => json!({ "type": "expire_holds" }),
    }
}

fn transfer(transfer: &Transfer) -> Value {
    let kind = match transfer.kind {
        ledger::TransferKind::Transfer => "transfer",
        ledger::TransferKind::Deposit => "deposit",
        ledger::TransferKind::Withdrawal => "withdrawal",
    };
    let body = json!({
        "type": kind,
        "transaction_id": transfer.transaction_id.to_string(),
        "from": account(&transfer.from),
        "to": account(&transfer.to),
        "amount": response::money(transfer.amount.signed(), transfer.currency),
        "currency": transfer.currency.code(),
    });
    with_metadata(body, &transfer.metadata)
}

fn with_metadata(mut body: Value, metadata: &Metadata) -> Value {
    if !metadata.is_empty() {
        let pairs: Map<String, Value> =
            metadata.iter().map(|(key, value)| (key.to_owned(), json!(value))).collect();
        body["metadata"] = Value::Object(pairs);
    }
    body
}
