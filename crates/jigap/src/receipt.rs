//! `jigap receipt verify` and `jigap keys`: proofs without a server, and the keys behind them.

use std::path::Path;

use anyhow::{Context, anyhow};
use api::format_timestamp;
use hex::FromHex;
use ledger::{Event, Record, Sequence};
use serde_json::{Value, json};
use shards::partition::{Proven, verify_receipt};
use storage::attestation::{Keys, key_id};

use crate::cli::{ArchiveArguments, KeysSubject, Output, ReceiptVerifyArguments};
use crate::data_directory::DataDirectory;
use crate::exit::{Exit, Failure, OrExit};
use crate::journal;
use crate::output::{print_json, print_line, print_table, table};
use crate::settings::Settings;

/// `jigap receipt verify`
pub(crate) fn verify(arguments: &ReceiptVerifyArguments) -> Result<(), Failure> {
    let keys: Vec<[u8; 32]> = arguments.key.iter().map(|key| read_key(key)).collect::<Result<_, _>>()?;
    let cannot_read = || format!("cannot read {}", arguments.file.display());
    let bytes = std::fs::read(&arguments.file).with_context(cannot_read).or_exit(Exit::Usage)?;
    let output = arguments.output.choose();
    let proven = std::str::from_utf8(&bytes)
        .map_err(|_| "the file is not text".to_owned())
        .and_then(|text| verify_receipt(text, &keys).map_err(|error| error.to_string()));
    match proven {
        Ok(proven) => Ok(print(&proven, output)?),
        Err(why) => {
            if output == Output::Programs {
                print_json(&json!({ "proven": false, "error": why }))?;
            }
            Err(Failure::new(Exit::Refused, anyhow!("NOT proven: {why}")))
        }
    }
}

/// Digits, or a file with them.
fn read_key(text: &str) -> Result<[u8; 32], Failure> {
    if let Ok(key) = <[u8; 32]>::from_hex(text) {
        return Ok(key);
    }
    let wrong =
        || Failure::usage(format!("--key {text}: neither 64 hexadecimal digits nor a file with them"));
    let content = std::fs::read_to_string(Path::new(text)).map_err(|_| wrong())?;
    <[u8; 32]>::from_hex(content.trim()).map_err(|_| wrong())
}

fn print(proven: &Proven, output: Output) -> std::io::Result<()> {
    let Proven { transaction_id, entry, timestamp, frame_index, checkpoint } = proven;
    let (time, first) = (format_timestamp(*timestamp), entry.first_sequence.0);
    let command = journal::command(&entry.command);
    let record = |(sequence, event): (Sequence, &Event)| Record {
        sequence,
        timestamp: *timestamp,
        event: event.clone(),
    };
    let events: Vec<Value> = entry.sequenced().map(|event| journal::event(&record(event))).collect();
    let key = hex::encode(checkpoint.key);
    if output == Output::Programs {
        return print_json(&json!({
            "proven": true,
            "transaction_id": transaction_id.to_string(),
            "partition": checkpoint.partition,
            "sequence": first,
            "timestamp": time,
            "frame": frame_index.0,
            "command": command,
            "events": events,
            "key": key,
            "checkpoint_frames": [checkpoint.first_index.0, checkpoint.last_index.0],
        }));
    }
    print_line(&format!("PROVEN       {transaction_id} is in the journal"))?;
    print_line(&format!("position     {}:{first}, {time}, frame {}", checkpoint.partition, frame_index.0))?;
    print_line(&format!("command      {command}"))?;
    for (offset, event) in events.iter().enumerate() {
        print_line(&format!("event {:<6} {event}", first + offset as u64))?;
    }
    let (from, to) = (checkpoint.first_index.0, checkpoint.last_index.0);
    print_line(&format!("signed by    {key}, over frames {from} to {to}"))
}

/// `jigap keys ...`
pub(crate) fn keys(subject: &KeysSubject) -> Result<(), Failure> {
    match subject {
        KeysSubject::List(arguments) => {
            let directory = Settings::load(&arguments.directory.0)?.path("data-dir");
            if !directory.join("keys").exists() {
                let why =
                    anyhow!("{} has no keys yet: they are made at the first start", directory.display());
                return Err(Failure::new(Exit::Directory, why));
            }
            list(&Keys::open(&directory).or_exit(Exit::Directory)?, arguments)
        }
        KeysSubject::Rotate(arguments) => {
            let settings = Settings::load(&arguments.directory.0)?;
            let directory = DataDirectory::open_for_changing(&settings.path("data-dir"))?;
            let keys = Keys::open(directory.path()).and_then(Keys::rotate).or_exit(Exit::Directory)?;
            list(&keys, arguments)
        }
    }
}

fn list(keys: &Keys, arguments: &ArchiveArguments) -> Result<(), Failure> {
    let all = keys.all().or_exit(Exit::Directory)?;
    let use_of = |key: &[u8; 32]| if *key == keys.public() { "signs" } else { "signed" };
    if arguments.output.choose() == Output::Programs {
        let rows: Vec<_> = all
            .iter()
            .map(|key| json!({ "id": key_id(key), "public_key": hex::encode(key), "use": use_of(key) }))
            .collect();
        return Ok(print_json(&json!({ "keys": rows }))?);
    }
    let mut rows = table(&["id", "public key", "use"]);
    for key in &all {
        rows.add_row([key_id(key), hex::encode(key), use_of(key).to_owned()]);
    }
    Ok(print_table(&rows)?)
}
