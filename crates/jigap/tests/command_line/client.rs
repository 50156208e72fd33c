//! The client commands: what they print and how they exit.

use std::net::TcpListener;

use serde_json::Value;

use crate::harness::{Home, Wallet, run};

const USED_ID: &str = "01890d9e-3c1b-7c5f-9d6e-0b6f0f0c9a11";

fn with_accounts(home: &Home) -> Wallet<'_> {
    let wallet = home.serve();
    for name in ["alice", "bob"] {
        wallet.ask(&["account", "open", name, "--metadata", "tier=gold"]).expect_code(0);
    }
    wallet.ask(&["deposit", "alice", "100", "USD"]).expect_code(0);
    wallet
}

#[test]
fn every_command_of_a_life_of_money() {
    let home = Home::new();
    let wallet = with_accounts(&home);
    let ask = |arguments: &[&str]| wallet.ask(arguments).expect_code(0).json();
    let id = |answer: &Value| answer["transaction_id"].as_str().unwrap().to_owned();

    let paid = ask(&["transfer", "alice", "bob", "12.5", "USD", "--metadata", "order=A-17"]);
    assert_eq!((&paid["status"], &paid["from_balance"]), (&"success".into(), &"87.50".into()));
    ask(&["reverse", &id(&paid)]);
    let held = ask(&["hold", "alice", "bob", "20", "USD", "--expires-in", "3600"]);
    ask(&["confirm", &id(&held), "--amount", "15.00"]);
    let cancelled = ask(&["hold", "alice", "bob", "1", "USD"]);
    ask(&["cancel", &id(&cancelled)]);
    ask(&["withdraw", "bob", "15", "USD"]);
    ask(&["account", "close", "bob"]);

    let alice = ask(&["account", "show", "alice"]);
    assert_eq!(alice["metadata"]["tier"], "gold");
    assert_eq!(alice["balances"][0]["available"], "85.00");
    let transaction = ask(&["transaction", &id(&paid)]);
    assert_eq!(
        (&transaction["status"], &transaction["metadata"]["order"]),
        (&"reversed".into(), &"A-17".into())
    );
    let history = ask(&["history", "alice", "--limit", "2", "--currency", "USD"]);
    assert_eq!(history["entries"].as_array().unwrap().len(), 2);
    let older = ask(&["history", "alice", "--cursor", history["next_cursor"].as_str().unwrap()]);
    assert_ne!(older["entries"][0], history["entries"][0]);
    assert_eq!(ask(&["state"])["totals"][0]["sum"], "0.00");

    let deposited = ask(&["account", "show", "alice", "--at-sequence", "3"]);
    assert_eq!(deposited["balances"][0]["available"], "100.00");
    let then = deposited["as_of"].as_str().unwrap();
    assert_eq!(ask(&["account", "show", "alice", "--at", then]), deposited);
    assert_eq!(ask(&["state", "--at-sequence", "3"])["sequence"], 3);
    let entries = ask(&["history", "alice", "--until", then])["entries"].clone();
    assert_eq!(entries.as_array().unwrap().len(), 1);
    wallet.ask(&["account", "show", "alice", "--at-sequence", "1000"]).expect_code(1);
    wallet.ask(&["account", "show", "alice", "--at-sequence", "3", "--at", then]).expect_code(2);
    wallet.stop();
}

#[test]
fn an_id_happens_once_and_one_is_made_and_told_when_not_given() {
    let home = Home::new();
    let wallet = with_accounts(&home);
    let pay = ["transfer", "alice", "bob", "1", "USD", "--id", USED_ID];
    let first = wallet.ask(&pay).expect_code(0).json();
    let again = wallet.ask(&pay).expect_code(0).json();
    assert_eq!(first, again);
    let made = wallet.ask(&pay[..5]).expect_code(0).json();
    let made = uuid::Uuid::parse_str(made["transaction_id"].as_str().unwrap()).unwrap();
    assert_eq!(made.get_version_num(), 7);
    let other = wallet.ask(&["transfer", "alice", "bob", "2", "USD", "--id", USED_ID]).expect_code(1);
    assert_eq!(other.json()["code"], "transaction_id_reused");
    wallet.stop();
}

#[test]
fn refusals_exit_with_1_mistakes_with_2_and_silence_with_3() {
    let home = Home::new();
    let wallet = with_accounts(&home);
    let refusals: [(&[&str], &str); 4] = [
        (&["transfer", "alice", "bob", "1000", "USD"], "insufficient_funds"),
        (&["account", "show", "nobody"], "account_not_found"),
        (&["deposit", "alice", "1.234", "USD"], "invalid_amount"),
        (&["transaction", USED_ID], "transaction_not_found"),
    ];
    for (arguments, code) in refusals {
        let refused = wallet.ask(arguments).expect_code(1);
        assert_eq!(refused.json()["code"], code);
        assert!(refused.stderr.contains(code), "{refused:?}");
    }
    let mistakes: [&[&str]; 5] = [
        &["transfer", "alice"],
        &["transfer", "alice", "bob", "1", "USD", "--id", "x"],
        &["account", "open", "carol", "--metadata", "x"],
        &["state", "--server", "ftp://x"],
        &["fly"],
    ];
    for arguments in mistakes {
        wallet.ask(arguments).expect_code(2);
    }
    wallet.stop();

    // A port that was free a moment ago.
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let server = format!("http://{free}");
    let arguments = ["transfer", "alice", "bob", "1", "USD", "--id", USED_ID, "--server", &server];
    let silence = run(home.path(), &arguments).expect_code(3);
    assert!(silence.stderr.contains(&format!("--id {USED_ID}")), "{silence:?}");
}

#[test]
fn a_server_that_never_answers_is_given_up_on_in_time() {
    let home = Home::new();
    let mute = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = format!("http://{}", mute.local_addr().unwrap());
    let silence = run(home.path(), &["state", "--server", &server, "--timeout", "200ms"]).expect_code(3);
    assert!(silence.stderr.contains("no answer"), "{silence:?}");
}

#[test]
fn people_are_shown_tables() {
    let home = Home::new();
    let wallet = with_accounts(&home);
    let rows: [(&[&str], &[&str]); 4] = [
        (&["account", "show", "alice", "--table"], &["tier=gold", "available", "100.00"]),
        (&["history", "alice", "--table"], &["deposit", "@external", "100.00"]),
        (&["state", "--table"], &["digest", "USD", "0.00"]),
        (&["transfer", "alice", "bob", "1", "USD", "--table"], &["transaction_id", "99.00"]),
    ];
    for (arguments, expected) in rows {
        let shown = wallet.ask(arguments).expect_code(0);
        for text in expected {
            assert!(shown.stdout.contains(text), "{shown:?} should show {text}");
        }
    }
    wallet.stop();
}

#[test]
fn completions_are_made_for_the_usual_shells() {
    let home = Home::new();
    for shell in ["bash", "zsh", "fish"] {
        let script = home.run(&["completions", shell]).expect_code(0);
        for word in ["transfer", "expires-in", "journal"] {
            assert!(script.stdout.contains(word), "{shell}: {word}");
        }
    }
}

#[test]
fn help_lists_examples_and_exit_codes() {
    let home = Home::new();
    let help = home.run(&["--help"]).expect_code(0);
    for text in ["jigap transfer alice bob 12.50 USD", "Exit codes:", "jigap bench"] {
        assert!(help.stdout.contains(text), "{text}");
    }
}

#[test]
fn events_are_printed_as_http_tells_them() {
    let home = Home::new();
    let wallet = with_accounts(&home);
    wallet.ask(&["transfer", "alice", "bob", "12.5", "USD", "--metadata", "order=A-17"]).expect_code(0);
    let held = wallet.ask(&["hold", "alice", "bob", "20", "USD"]).expect_code(0).json();
    let hold_id = held["transaction_id"].as_str().unwrap();
    wallet.ask(&["confirm", hold_id, "--amount", "15.00"]).expect_code(0);
    let shown = wallet.ask(&["events"]).expect_code(0);
    let events: Vec<Value> = shown.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let sequences: Vec<u64> = events.iter().map(|event| event["sequence"].as_u64().unwrap()).collect();
    assert_eq!(sequences, [1, 2, 3, 4, 5, 6]);
    let hold = wallet.ask(&["transaction", hold_id]).expect_code(0).json();
    assert_eq!(hold["events"].as_array().unwrap()[..], events[4..6]);
    let of_bob = wallet.ask(&["events", "--account", "bob", "--after", "2", "--table"]).expect_code(0);
    assert!(of_bob.stdout.contains("alice -> bob 12.50 USD"), "{of_bob:?}");
    assert_eq!(of_bob.stdout.lines().count(), 3);
    wallet.ask(&["events", "--account", "nobody"]).expect_code(1);
    wallet.ask(&["events", "--after", "7"]).expect_code(1);
    wallet.stop();
}
