//! The clock of the machine is set back, under a running wallet and between two runs: event times never go back.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use serde_json::Value;

use crate::harness::{Home, Wallet};

/// The library that stands between a process and its clock. `.ci/tools faketime` installs it.
fn library() -> PathBuf {
    let places = fs::read_dir("/usr/lib").unwrap().map(|entry| entry.unwrap().path());
    let libraries = places.map(|path| path.join("faketime/libfaketimeMT.so.1"));
    libraries.into_iter().find(|path| path.exists()).expect("libfaketime is installed: .ci/tools faketime")
}

/// A home whose wallets have another clock: the machine's and an offset, which may change at any moment.
struct OffsetHome {
    home: Home,
    offset: PathBuf,
    _directory: tempfile::TempDir,
}

impl OffsetHome {
    fn new() -> OffsetHome {
        let directory = tempfile::tempdir().unwrap();
        let offset = directory.path().join("offset");
        let (library, file) = (library(), offset.display().to_string());
        let home = Home::with_environment(&[
            ("LD_PRELOAD", library.to_str().unwrap()),
            ("FAKETIME_TIMESTAMP_FILE", &file),
            // The file counts at every look at the clock.
            ("FAKETIME_NO_CACHE", "1"),
            // Time-outs are measured with the other clock, which nobody can set.
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
            ("DONT_FAKE_MONOTONIC", "1"),
        ]);
        let clocked = OffsetHome { home, offset, _directory: directory };
        clocked.set("+0");
        clocked
    }

    /// Whole or not at all: the wallet reads it at any moment.
    fn set(&self, offset: &str) {
        let draft = self.offset.with_extension("new");
        fs::write(&draft, format!("{offset}\n")).unwrap();
        fs::rename(draft, &self.offset).unwrap();
    }
}

/// A transfer, and the time that the wallet gave it.
fn pay(wallet: &Wallet) -> String {
    let paid = wallet.ask(&["transfer", "alice", "bob", "1", "USD", "--json"]).expect_code(0).json();
    paid["timestamp"].as_str().unwrap().to_owned()
}

fn hours_from_now(hours: u64) -> String {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let then = since + Duration::from_secs(hours * 3600);
    let micros = i64::try_from(then.as_micros()).unwrap();
    api::format_timestamp(ledger::Timestamp::from_micros(micros))
}

#[test]
fn event_times_never_go_back_whatever_the_clock_does() {
    let clocked = OffsetHome::new();
    let wallet = clocked.home.serve();
    wallet.open_and_pay();
    let mut times = vec![pay(&wallet)];
    assert!(times[0] < hours_from_now(1), "{times:?}");
    clocked.set("+2h");
    times.push(pay(&wallet));
    assert!(times[1] > hours_from_now(1), "the wallet does not see the clock that it is given: {times:?}");
    for offset in ["+0", "-1d", "+1h", "-400d"] {
        clocked.set(offset);
        times.push(pay(&wallet));
        times.push(pay(&wallet));
    }
    // Killed, and stopped, with the clock set back meanwhile.
    drop(wallet);
    clocked.set("-2d");
    let wallet = clocked.home.serve();
    times.push(pay(&wallet));
    wallet.stop();
    clocked.set("-3d");
    let wallet = clocked.home.serve();
    times.push(pay(&wallet));
    // Once it has caught up, time goes on.
    clocked.set("+3h");
    times.push(pay(&wallet));
    assert!(times[times.len() - 2] < *times.last().unwrap(), "{times:?}");
    wallet.stop();

    assert!(times.is_sorted(), "{times:?}");
    let dump = clocked.home.run(&["journal", "dump"]).expect_code(0);
    let recorded: Vec<String> = dump
        .stdout
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .map(|line| line["events"][0]["timestamp"].as_str().unwrap().to_owned())
        .collect();
    assert!(recorded.is_sorted() && recorded.len() == times.len() + 4, "{recorded:?}");
    assert!(times.iter().all(|time| recorded.contains(time)));
    clocked.home.run(&["verify"]).expect_code(0);
}
