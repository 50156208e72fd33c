//! `jigap receipt` and `jigap keys`.

use std::fs;

use crate::harness::Home;

#[test]
fn a_receipt_is_checked_without_a_server() {
    let home = Home::new();
    let wallet = home.serve();
    wallet.ask(&["account", "open", "alice"]).expect_code(0);
    let paid = wallet.ask(&["deposit", "alice", "10", "USD"]).expect_code(0).json();
    let id = paid["transaction_id"].as_str().unwrap();
    let receipt = wallet.ask(&["receipt", "get", id]).expect_code(0).stdout;
    wallet.ask(&["receipt", "get", "00000000-0000-4000-8000-000000000000"]).expect_code(1);
    let keys = home.run(&["keys", "list"]).expect_code(0).json();
    let key = keys["keys"][0]["public_key"].as_str().unwrap().to_owned();
    wallet.stop();

    fs::write(home.path().join("receipt.json"), &receipt).unwrap();
    let proven = home.run(&["receipt", "verify", "receipt.json", "--key", &key]).expect_code(0).json();
    assert_eq!((&proven["proven"], proven["transaction_id"].as_str()), (&true.into(), Some(id)));
    assert_eq!(proven["command"]["type"], "deposit");
    assert_eq!(proven["events"][0]["sequence"], 2);
    let file = format!("jigap-data/keys/{}.public", keys["keys"][0]["id"].as_str().unwrap());
    let shown = home.run(&["receipt", "verify", "receipt.json", "--key", &file, "--table"]).expect_code(0);
    assert!(shown.stdout.contains("PROVEN"), "{shown:?}");

    fs::write(home.path().join("changed.json"), receipt.replace("\"sequence\":2", "\"sequence\":1")).unwrap();
    let refused = home.run(&["receipt", "verify", "changed.json", "--key", &key]).expect_code(1);
    assert!(refused.stderr.contains("NOT proven"), "{refused:?}");
    let rotated = home.run(&["keys", "rotate"]).expect_code(0).json();
    assert_eq!(rotated["keys"].as_array().unwrap().len(), 2);
    home.run(&["receipt", "verify", "receipt.json", "--key", "nonsense"]).expect_code(2);
}
