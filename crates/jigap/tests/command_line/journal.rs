//! `jigap journal`: reading and proving a directory, whole or damaged.

use std::fs;
use std::path::PathBuf;

use serde_json::Value;

use crate::harness::{Finished, Home, finish};

fn with_history() -> Home {
    let home = Home::new();
    let wallet = home.serve();
    wallet.open_and_pay();
    wallet.ask(&["transfer", "alice", "bob", "1000", "USD"]).expect_code(1);
    wallet.stop();
    home
}

fn lines(finished: &Finished) -> Vec<Value> {
    finished.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_dump_tells_every_command_with_its_events() {
    let home = with_history();
    let dump = lines(&home.run(&["journal", "dump"]).expect_code(0));
    let types: Vec<_> = dump
        .iter()
        .map(|line| (line["command"]["type"].as_str().unwrap(), line["events"][0]["type"].as_str().unwrap()))
        .collect();
    assert_eq!(
        types,
        [
            ("open_account", "account_opened"),
            ("open_account", "account_opened"),
            ("deposit", "deposit"),
            ("transfer", "transfer"),
            ("transfer", "refused"),
        ]
    );
    let part = lines(&home.run(&["journal", "dump", "--from", "3", "--to", "4"]).expect_code(0));
    assert_eq!(part, dump[2..4]);
    assert_eq!(lines(&home.run(&["journal", "dump", "--from", "100"]).expect_code(0)), Vec::<Value>::new());
    let shown = home.run(&["journal", "dump", "--table"]).expect_code(0);
    assert!(shown.stdout.contains("5 refused code=insufficient_funds"), "{shown:?}");
}

#[test]
fn a_whole_history_is_proven() {
    let home = with_history();
    let report = home.run(&["journal", "verify"]).expect_code(0).json();
    assert_eq!(report["verified"], true);
    assert_eq!((&report["events"], &report["commands"]), (&5.into(), &5.into()));
    assert_eq!(report["totals"][0]["sum"], "0.00");
    let shown = home.run(&["journal", "verify", "--table"]).expect_code(0);
    assert!(shown.stdout.contains(report["digest"].as_str().unwrap()), "{shown:?}");
}

#[test]
fn one_flipped_bit_is_found_by_all_who_look() {
    let home = with_history();
    let (segment, mut bytes) = segment_with(&home, b"alice");
    let at = bytes.windows(5).position(|window| window == b"alice").unwrap();
    bytes[at] ^= 1;
    fs::write(&segment, bytes).unwrap();
    for damaged in
        [home.run(&["journal", "verify"]), home.run(&["journal", "dump"]), finish(&mut home.serve_command())]
    {
        let damaged = damaged.expect_code(4);
        assert!(damaged.stderr.contains("damaged"), "{damaged:?}");
        assert!(damaged.stderr.contains(segment.file_name().unwrap().to_str().unwrap()), "{damaged:?}");
    }
}

fn segment_with(home: &Home, text: &[u8]) -> (PathBuf, Vec<u8>) {
    let journal = home.data().join("partition-0/journal");
    let files = fs::read_dir(journal).unwrap().map(|entry| entry.unwrap().path());
    let mut segments = files.map(|path| (path.clone(), fs::read(path).unwrap()));
    segments.find(|(_, bytes)| bytes.windows(text.len()).any(|window| window == text)).unwrap()
}

#[test]
fn what_is_no_data_directory_is_left_alone() {
    let home = Home::new();
    home.run(&["journal", "verify"]).expect_code(7);
    home.run(&["journal", "dump", "--data-dir", "/nonexistent"]).expect_code(7);
    assert!(!home.data().exists());
}
