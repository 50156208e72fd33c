//! `jigap snapshot` and `jigap restore`, against a directory, S3 and HDFS.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::harness::{Finished, Home, Wallet};
use crate::seaweed::Seaweed;

/// The state as `jigap state` tells it.
fn state(wallet: &Wallet) -> (u64, String) {
    let state = wallet.ask(&["state", "--json"]).expect_code(0).json();
    (state["sequence"].as_u64().unwrap(), state["digest"].as_str().unwrap().to_owned())
}

fn restored(finished: Finished) -> (u64, String) {
    let report = finished.expect_code(0).json();
    assert!(report["recovery_time_seconds"].as_f64().unwrap() > 0.0);
    assert!(report["recovery_point_age_seconds"].as_f64().unwrap() >= 0.0);
    (report["sequence"].as_u64().unwrap(), report["digest"].as_str().unwrap().to_owned())
}

/// The whole way, whatever the archive is.
fn there_and_back(url: &str, environment: &[(&str, &str)]) {
    let home = Home::with_environment(environment);
    let wallet = home.serve_with(&["--archive-url", url, "--archive-interval", "10ms"]);
    wallet.open_and_pay();
    let first = state(&wallet);
    let snapshot = wallet.ask(&["snapshot", "create"]).expect_code(0).json();
    assert_eq!(
        (snapshot["sequence"].as_u64().unwrap(), snapshot["digest"].as_str().unwrap().to_owned()),
        first
    );
    wallet.ask(&["transfer", "alice", "bob", "1", "USD"]).expect_code(0);
    let second = state(&wallet);
    wallet.ask(&["transfer", "alice", "bob", "2", "USD"]).expect_code(0);
    let last = state(&wallet);
    wallet.stop();

    let list = home.run(&["snapshot", "list", "--archive-url", url]).expect_code(0).json();
    assert_eq!(list["snapshots"].as_array().unwrap().len(), 1);
    assert_eq!(list["snapshots"][0]["digest"], first.1.as_str());
    let verified = home.run(&["snapshot", "verify", "--archive-url", url]).expect_code(0).json();
    assert_eq!(verified["snapshots"][0]["verified"], true);
    let restore =
        |to: &str, point: &[&str]| home.run(&[&["restore", "--from", url, "--to", to][..], point].concat());
    assert_eq!(restored(restore("latest", &[])), last);
    assert_eq!(restored(restore("second", &["--at-sequence", &second.0.to_string()])), second);
    assert_eq!(restored(restore("first", &["--at-sequence", &first.0.to_string()])), first);
    let again = restore("latest", &[]).expect_code(7);
    assert!(again.stderr.contains("is not empty"), "{again:?}");
    let beyond = restore("beyond", &["--at-sequence", "1000"]).expect_code(2);
    assert!(beyond.stderr.contains(&format!("holds events 1 to {}", last.0)), "{beyond:?}");

    // Served, the restored directory knows everything that the first one knew.
    let flags = ["--data-dir", "latest", "--archive-url", url];
    let wallet = home.serve_with(&flags);
    assert_eq!(state(&wallet), last);
    let history = wallet.ask(&["history", "alice", "--json"]).expect_code(0).json();
    assert_eq!(history["entries"].as_array().unwrap().len(), 4);
    wallet.stop();
    home.run(&["journal", "verify", "--data-dir", "latest", "--archive-url", url]).expect_code(0);
}

#[test]
fn a_directory_gives_back_every_past_state() {
    let home = Home::new();
    there_and_back(&format!("file://{}/archive", home.path().display()), &[]);
}

#[test]
fn s3_gives_back_every_past_state() {
    let seaweed = Seaweed::start();
    there_and_back("s3://wallet/some/prefix", &seaweed.environment("right-secret"));
    let home = Home::with_environment(&seaweed.environment("wrong-secret"));
    let denied = home.run(&["snapshot", "list", "--archive-url", "s3://wallet/some/prefix"]).expect_code(2);
    assert!(
        denied.stderr.contains("access denied") && denied.stderr.contains("AWS_SECRET_ACCESS_KEY"),
        "{denied:?}"
    );
    // The wallet serves all the same, and says what is wrong.
    let mut wallet = home.serve_with(&["--archive-url", "s3://wallet/other", "--archive-interval", "10ms"]);
    wallet.open_and_pay();
    let line = wallet.wait_for_log("archiving failed");
    assert!(line.contains("access denied"), "{line}");
    let refused = wallet.ask(&["snapshot", "create", "--timeout", "1s"]).expect_code(3);
    assert!(refused.stderr.contains("access denied"), "{refused:?}");
    wallet.stop();
    drop(seaweed);
    let gone = home.run(&["restore", "--from", "s3://wallet/some/prefix", "--to", "gone"]).expect_code(3);
    assert!(gone.stderr.contains("s3://wallet/some/prefix"), "{gone:?}");
}

#[cfg(feature = "hdfs")]
#[test]
fn hdfs_gives_back_every_past_state() {
    let mut hdfs = testbed::Hdfs::start().unwrap();
    let archive = hdfs.url("some/archive");
    there_and_back(&archive, &[]);
    nothing_is_lost_over_kill_9(&mut hdfs);
    // Whoever may not write there serves all the same, and says what is wrong.
    let home = Home::with_environment(&[("HADOOP_USER_NAME", "stranger")]);
    home.run(&["snapshot", "list", "--archive-url", &archive]).expect_code(0);
    let mut wallet = home.serve_with(&["--archive-url", &hdfs.url("other"), "--archive-interval", "10ms"]);
    wallet.open_and_pay();
    let line = wallet.wait_for_log("archiving failed");
    assert!(line.contains("access denied") && line.contains("HADOOP_USER_NAME"), "{line}");
    let refused = wallet.ask(&["snapshot", "create", "--timeout", "1s"]).expect_code(3);
    assert!(refused.stderr.contains("access denied"), "{refused:?}");
    wallet.stop();
    drop(hdfs);
    let gone = home.run(&["restore", "--from", &archive, "--to", "gone"]).expect_code(3);
    assert!(gone.stderr.contains(&archive) && gone.stderr.contains("Connection refused"), "{gone:?}");
}

/// Each node is killed below a wallet that serves, which says what is wrong, loses nothing, and goes on by itself.
#[cfg(feature = "hdfs")]
fn nothing_is_lost_over_kill_9(hdfs: &mut testbed::Hdfs) {
    let archive = hdfs.url("killed");
    let home = Home::new();
    let mut wallet = home.serve_with(&["--archive-url", &archive, "--archive-interval", "10ms"]);
    wallet.open_and_pay();
    let first = state(&wallet);
    wallet.ask(&["snapshot", "create"]).expect_code(0);
    let restore = |to: &str| home.run(&["restore", "--from", &archive, "--to", to]);

    hdfs.kill_data_node();
    wallet.ask(&["transfer", "alice", "bob", "1", "USD"]).expect_code(0);
    let line = wallet.wait_for_log("archiving failed");
    assert!(
        line.contains("cannot write") && line.contains("disk of a DataNode: Connection refused"),
        "{line}"
    );
    let unread = restore("unread").expect_code(3);
    assert!(unread.stderr.contains(&archive) && unread.stderr.contains("All DataNodes failed"), "{unread:?}");
    hdfs.restart_data_node().unwrap();
    // By its own repetition, at the latest with the snapshot.
    wallet.ask(&["snapshot", "create"]).expect_code(0);
    wallet.wait_for_log("archiving goes on");

    hdfs.kill_name_node();
    wallet.ask(&["transfer", "alice", "bob", "2", "USD"]).expect_code(0);
    let line = wallet.wait_for_log("archiving failed");
    assert!(line.contains(&archive) && line.contains("Connection refused"), "{line}");
    let last = state(&wallet);
    // The wallet ends as well, so that the archive's end is written by the next one.
    wallet.stop();
    hdfs.restart_name_node().unwrap();
    let wallet = home.serve_with(&["--archive-url", &archive, "--archive-interval", "10ms"]);
    wallet.ask(&["snapshot", "create"]).expect_code(0);
    wallet.stop();

    assert_eq!(restored(restore("restored")), last);
    let from_start =
        home.run(&["restore", "--from", &archive, "--to", "past", "--at-sequence", &first.0.to_string()]);
    assert_eq!(restored(from_start), first);
    home.run(&["snapshot", "verify", "--archive-url", &archive]).expect_code(0);
}

#[test]
fn the_default_archive_is_in_the_data_directory() {
    let home = Home::new();
    let wallet = home.serve();
    wallet.open_and_pay();
    let last = state(&wallet);
    wallet.ask(&["snapshot", "create"]).expect_code(0);
    wallet.stop();
    let url = format!("file://{}", home.data().join("archive").display());
    assert_eq!(restored(home.run(&["restore", "--from", &url, "--to", "elsewhere"])), last);
    let shown = home.run(&["snapshot", "list", "--table"]).expect_code(0);
    assert!(shown.stdout.contains(&last.1), "{shown:?}");
}

/// However long it takes: the time limit of requests is for those that are repeated.
#[test]
fn a_snapshot_has_no_time_limit() {
    let home = Home::new();
    let wallet = home.serve();
    wallet.open_and_pay();
    wallet.stop();
    let wallet = home.serve_with(&["--request-timeout", "1ms"]);
    let url = format!("http://{}/v1/admin/snapshots", wallet.http);
    let answer = ureq::post(&url).send_empty().unwrap();
    assert_eq!(answer.status(), 201);
    wallet.stop();
}

#[test]
fn damage_is_named() {
    let home = Home::new();
    let wallet = home.serve();
    wallet.open_and_pay();
    wallet.ask(&["snapshot", "create"]).expect_code(0);
    let last = state(&wallet);
    wallet.stop();
    let archive = home.data().join("archive");
    let url = format!("file://{}", archive.display());
    flip(&one_file(&archive.join("partition-0/snapshots"), "part-00000"));
    let damaged = home.run(&["snapshot", "verify", "--table"]).expect_code(4);
    assert!(damaged.stdout.contains("DAMAGED"), "{damaged:?}");
    let finished = home.run(&["restore", "--from", &url, "--to", "without"]);
    assert!(
        finished.stderr.contains("passed over") && finished.stderr.contains("part-00000"),
        "{finished:?}"
    );
    assert_eq!(restored(finished), last);
    flip(&one_file(&archive.join("partition-0/journal"), ".parcel"));
    let damaged = home.run(&["restore", "--from", &url, "--to", "nothing"]).expect_code(4);
    assert!(damaged.stderr.contains(".parcel is damaged"), "{damaged:?}");
    // What was begun is not served, and does not stand in the way of another attempt.
    let refused = home.serve_in_vain(&["--data-dir", "nothing"]).expect_code(7);
    assert!(refused.stderr.contains("restore that was not finished"), "{refused:?}");
    flip(&one_file(&archive.join("partition-0/journal"), ".parcel"));
    assert_eq!(restored(home.run(&["restore", "--from", &url, "--to", "nothing"])), last);
}

#[test]
fn a_full_disk_ends_a_restore_with_a_clear_error() {
    let home = Home::new();
    let wallet = home.serve();
    wallet.open_and_pay();
    wallet.stop();
    let url = format!("file://{}", home.data().join("archive").display());
    // A limit on the size of files stands for the disk: the journal's first segment does not fit.
    let program = env!("CARGO_BIN_EXE_jigap");
    let script = format!("trap '' XFSZ; ulimit -f 1000; exec {program} restore --from {url} --to full");
    let mut command = std::process::Command::new("bash");
    let full = crate::harness::finish(command.current_dir(home.path()).args(["-c", &script])).expect_code(7);
    assert!(full.stderr.contains("full/partition-0/journal"), "{full:?}");
    let again = home.run(&["restore", "--from", &url, "--to", "full"]);
    restored(again);
}

fn one_file(directory: &Path, end: &str) -> PathBuf {
    let mut waiting = vec![directory.to_owned()];
    while let Some(directory) = waiting.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                waiting.push(path);
            } else if path.to_str().unwrap().ends_with(end) {
                return path;
            }
        }
    }
    panic!("no {end}");
}

/// Turns a bit over, and back.
fn flip(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(path, bytes).unwrap();
}

#[test]
fn an_archive_that_is_off_or_missing_is_said_so() {
    let home = Home::new();
    let none = home.run(&["snapshot", "list"]).expect_code(2);
    assert!(none.stderr.contains("--archive-url"), "{none:?}");
    home.run(&["snapshot", "list", "--archive-url", "ftp://x"]).expect_code(2);
    home.run(&["restore", "--from", "file:///nonexistent/archive", "--to", "x"]).expect_code(2);
    fs::create_dir(home.path().join("empty")).unwrap();
    let url = format!("file://{}/empty", home.path().display());
    let empty = home.run(&["restore", "--from", &url, "--to", "x"]).expect_code(2);
    assert!(empty.stderr.contains("has no journal"), "{empty:?}");
    let wallet = home.serve_with(&["--archive-url", "off"]);
    let refused = wallet.ask(&["snapshot", "create", "--timeout", "1s"]).expect_code(3);
    assert!(refused.stderr.contains("set archive-url"), "{refused:?}");
    let _: Value = wallet.ask(&["state"]).expect_code(0).json();
    wallet.stop();
    assert!(!home.data().join("archive").exists());
}
