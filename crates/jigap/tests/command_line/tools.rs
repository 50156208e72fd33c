//! The tools that read recorded history: `verify`, `replay`, `upgrade-check`, `fork`, beside a running wallet and without one.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::SystemTime;

use ledger::codec::BodyWriter;
use ledger::{
    AccountNumber, Amount, Command, Currency, Event, Events, Metadata, Party, Refusal, RefusalCode,
    TransactionId, Transfer, TransferKind,
};
use serde_json::Value;
use storage::journal::{Appender, DiskKind, FrameDraft, Options};

use crate::harness::{Finished, Home, Wallet};

fn state(wallet: &Wallet) -> (u64, String) {
    let state = wallet.ask(&["state", "--json"]).expect_code(0).json();
    (state["sequence"].as_u64().unwrap(), state["digest"].as_str().unwrap().to_owned())
}

fn position(document: &Value) -> (u64, String) {
    (document["sequence"].as_u64().unwrap(), document["digest"].as_str().unwrap().to_owned())
}

fn lines(finished: &Finished) -> Vec<Value> {
    finished.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Every file below, with when it was last written.
fn files(directory: &Path) -> BTreeMap<String, SystemTime> {
    let mut found = BTreeMap::new();
    let mut waiting = vec![directory.to_owned()];
    while let Some(directory) = waiting.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let written = path.metadata().unwrap().modified().unwrap();
            if path.is_dir() {
                waiting.push(path.clone());
            }
            found.insert(path.display().to_string(), written);
        }
    }
    found
}

#[test]
fn a_running_wallet_is_proven_replayed_and_forked_beside_its_work() {
    let home = Home::new();
    let wallet = home.serve_with(&["--checkpoint-events", "3", "--archive-url", "off"]);
    wallet.open_and_pay();
    let middle = state(&wallet);
    wallet.ask(&["transfer", "alice", "bob", "1000", "USD"]).expect_code(1);
    let last = state(&wallet);

    for verify in [&["verify"][..], &["journal", "verify"]] {
        let verified = home.run(verify).expect_code(0).json();
        assert_eq!((&verified["verified"], position(&verified)), (&true.into(), last.clone()));
    }
    let replayed = lines(&home.run(&["replay", "--digest-every", "2"]).expect_code(0));
    let sequences: Vec<_> = replayed.iter().map(|line| line["sequence"].as_u64().unwrap()).collect();
    assert_eq!(sequences, [2, 4, 5]);
    assert_eq!((position(&replayed[1]), position(&replayed[2])), (middle.clone(), last.clone()));
    let time = replayed[1]["timestamp"].as_str().unwrap();
    for until in [middle.0.to_string().as_str(), time] {
        let part = home.run(&["replay", "--until", until]).expect_code(0).json();
        assert_eq!((position(&part), &part["recorded_sequence"]), (middle.clone(), &last.0.into()));
    }
    home.run(&["replay", "--until", "6"]).expect_code(2);
    home.run(&["replay", "--until", "yesterday"]).expect_code(2);
    let same = home.run(&["upgrade-check", "--against", "jigap-data"]).expect_code(0).json();
    assert_eq!((&same["same"], position(&same)), (&true.into(), last.clone()));

    let fork = ["fork", "--at-sequence", &middle.0.to_string(), "--to", "what-if"];
    assert_eq!(position(&home.run(&fork).expect_code(0).json()), middle);
    let again = home.run(&fork).expect_code(7);
    assert!(again.stderr.contains("is not empty"), "{again:?}");
    let other = home.serve_with(&["--data-dir", "what-if"]);
    assert_eq!(state(&other), middle);
    other.ask(&["transfer", "bob", "alice", "1", "USD"]).expect_code(0);
    let history = other.ask(&["history", "alice", "--json"]).expect_code(0).json();
    assert_eq!(history["entries"].as_array().map(Vec::len), Some(3));
    other.stop();
    assert_eq!(state(&wallet), last);
    home.run(&["verify", "--data-dir", "what-if"]).expect_code(0);
    wallet.stop();

    let before = files(&home.data());
    for tool in [&["verify"][..], &["replay"], &["upgrade-check"], &["fork", "--to", "latest"]] {
        home.run(tool).expect_code(0);
    }
    assert_eq!(files(&home.data()), before, "nothing is written there");
    let shown = home.run(&["replay", "--table", "--digest-every", "4"]).expect_code(0);
    assert!(shown.stdout.contains(&middle.1) && shown.stdout.contains(&last.1), "{shown:?}");
}

#[test]
fn an_archive_is_replayed_checked_and_forked_like_a_directory() {
    let home = Home::new();
    let wallet = home.serve();
    wallet.open_and_pay();
    wallet.ask(&["snapshot", "create"]).expect_code(0);
    let last = state(&wallet);
    wallet.stop();
    let url = format!("file://{}/archive", home.data().display());
    for tool in [
        &["replay", "--from", &url][..],
        &["upgrade-check", "--against", &url],
        &["fork", "--from", &url, "--to", "copy"],
    ] {
        assert_eq!(position(&home.run(tool).expect_code(0).json()), last);
    }
    let copy = home.serve_with(&["--data-dir", "copy"]);
    assert_eq!(state(&copy), last);
    copy.ask(&["transfer", "bob", "alice", "1", "USD"]).expect_code(0);
    copy.stop();
    let original = home.run(&["replay", "--from", &url]).expect_code(0).json();
    assert_eq!(position(&original), last, "the copy archives elsewhere");
    home.run(&["replay", "--from", "nothing"]).expect_code(7);
    home.run(&["upgrade-check", "--against", "file:///nothing/there"]).expect_code(2);
}

/// Writes into the journal what another program would have recorded: it refused a transfer that this one makes.
fn plant(home: &Home) -> TransactionId {
    let journal = home.data().join("partition-0/journal");
    let opened = Appender::open(&journal, &Options::default(), DiskKind::Direct.disk());
    let (mut appender, found) = opened.unwrap();
    let last = found.last.unwrap();
    let transaction_id = TransactionId(0x0189_0d9e_3c1b_7c5f_9d6e_0b6f_0f0c_9aff);
    let command = Command::Transfer(Transfer {
        transaction_id,
        kind: TransferKind::Transfer,
        from: AccountNumber(1).into(),
        to: AccountNumber(2).into(),
        amount: Amount::from_minor_units(4200).unwrap(),
        currency: Currency::parse("USD").unwrap(),
        metadata: Metadata::default(),
    });
    let refusal = Refusal { available: 77, ..Refusal::of(RefusalCode::InsufficientFunds, Party::From) };
    let mut writer = BodyWriter::new();
    writer.push(&command, &Events::One(Event::Refused { transaction_id, refusal }));
    let mut body = appender.buffer();
    writer.write(|bytes| body.extend_from_slice(bytes));
    let draft = FrameDraft {
        term: last.term,
        first_sequence: last.next_sequence(),
        sequence_count: 1,
        timestamp_us: last.timestamp_us,
        body,
    };
    appender.append(vec![draft]).unwrap();
    transaction_id
}

#[test]
fn a_rule_that_changed_is_named_before_it_does_harm() {
    let home = Home::new();
    let wallet = home.serve();
    wallet.open_and_pay();
    wallet.stop();
    let transaction_id = plant(&home).to_string();
    let checked = home.run(&["upgrade-check", "--against", "jigap-data", "--json"]).expect_code(1);
    let first = &checked.json()["first_difference"];
    assert_eq!((&first["partition"], &first["sequence"]), (&0.into(), &5.into()));
    assert_eq!(
        (&first["command"]["type"], &first["command"]["amount"]),
        (&"transfer".into(), &"42.00".into())
    );
    assert_eq!(first["command"]["transaction_id"], transaction_id.as_str());
    assert_eq!(
        (&first["expected"]["type"], &first["actual"]["type"]),
        (&"refused".into(), &"transfer".into())
    );
    let told = home.run(&["upgrade-check", "--table"]).expect_code(1).stderr;
    for part in ["partition 0 sequence 5", &transaction_id, "insufficient_funds", "expected  refused"] {
        assert!(told.contains(part), "{part:?} is not in {told}");
    }
    // To `verify`, it is history that this program did not make.
    let verified = home.run(&["verify", "--json"]).expect_code(4).json();
    assert_eq!(verified["first_difference"]["sequence"], 5);
    assert_eq!(verified["first_difference"]["redecision"]["actual"]["type"], "transfer");
    // Events are the truth: replay does not ask the rules.
    home.run(&["replay"]).expect_code(0);
    // The wallet goes on, and its shadow verifier says what it found.
    let mut wallet = home.serve_with(&["--verifier", "on"]);
    let alarm = wallet.wait_for_log("recorded history is not what the rules give");
    assert!(alarm.contains("partition 0 sequence 5") && alarm.contains("ERROR"), "{alarm}");
    wallet.ask(&["transfer", "alice", "bob", "1", "USD"]).expect_code(0);
    wallet.stop();
}
