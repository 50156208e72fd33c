//! `state-store`: which engine keeps checkpoints and history.

use std::fs;

use serde_json::Value;

use crate::harness::{Home, finish};

const ENGINES: [&str; 2] = ["lsm-tree", "rocksdb"];

fn is_built_in(engine: &str) -> bool {
    engine == "lsm-tree" || cfg!(feature = "rocksdb")
}

/// Transfers over many checkpoints, kill -9, and all of it again from the store and the journal's tail.
#[test]
fn each_engine_serves_and_recovers_and_is_remembered() {
    for engine in ENGINES.into_iter().filter(|engine| is_built_in(engine)) {
        let home = Home::new();
        let flags = ["--state-store", engine, "--checkpoint-events", "3"];
        let wallet = home.serve_with(&flags);
        wallet.ask(&["account", "open", "alice"]).expect_code(0);
        wallet.ask(&["account", "open", "bob"]).expect_code(0);
        wallet.ask(&["deposit", "alice", "100", "USD"]).expect_code(0);
        for _ in 0..10 {
            wallet.ask(&["transfer", "alice", "bob", "1", "USD"]).expect_code(0);
        }
        drop(wallet);

        let wallet = home.serve_with(&flags);
        let alice = wallet.ask(&["account", "show", "alice"]).expect_code(0).json();
        assert_eq!(alice["balances"][0]["available"], "90.00");
        let history = wallet.ask(&["history", "bob"]).expect_code(0).json();
        assert_eq!(history["entries"].as_array().map(Vec::len), Some(10));
        wallet.stop();
        let verified = home.run(&["journal", "verify", "--state-store", engine]).expect_code(0).json();
        assert_eq!((&verified["verified"], &verified["checkpoint"]), (&Value::Bool(true), &Value::from(13)));

        for directory in ["partition-0/state", "views/history"] {
            let marker = fs::read_to_string(home.data().join(directory).join("ENGINE")).unwrap();
            assert_eq!(marker, format!("jigap state store\nengine {engine}\n"));
        }
        for other in ENGINES.into_iter().filter(|other| *other != engine && is_built_in(other)) {
            let refused = finish(home.serve_command().args(["--state-store", other])).expect_code(7);
            let expected = format!("was made by the engine {engine}, and is to be opened by {other}");
            assert!(refused.stderr.contains(&expected), "{refused:?}");
            // Moved away, it is built again by whichever engine is asked.
            for directory in ["partition-0/state", "views/history"] {
                fs::rename(home.data().join(directory), home.path().join(directory.replace('/', "-")))
                    .unwrap();
            }
            let wallet = home.serve_with(&["--state-store", other]);
            let again = wallet.ask(&["account", "show", "alice"]).expect_code(0).json();
            assert_eq!(again["balances"], alice["balances"]);
            wallet.stop();
        }
    }
}

#[test]
fn the_default_is_rocksdb_where_it_is_built_in_and_else_it_is_refused_by_name() {
    let home = Home::new();
    let config = home.run(&["config"]).expect_code(0).json();
    let chosen = home.run(&["config", "--state-store", "rocksdb"]);
    if is_built_in("rocksdb") {
        assert_eq!(config["state-store"]["value"], "rocksdb");
        chosen.expect_code(0);
    } else {
        assert_eq!(config["state-store"]["value"], "lsm-tree");
        let refused = chosen.expect_code(2);
        assert!(refused.stderr.contains("built without; build it with `--features rocksdb`"), "{refused:?}");
    }
    let refused = home.run(&["config", "--state-store", "leveldb"]).expect_code(2);
    assert!(refused.stderr.contains("must be one of lsm-tree, rocksdb"), "{refused:?}");
}
