//! `jigap serve`: what it prints, one process a directory, how it ends.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;

use rustix::process::Signal;
use serde_json::Value;

use crate::harness::{Home, Wallet, finish};

#[test]
fn the_lines_to_try_work_as_pasted() {
    let home = Home::new();
    let wallet = home.serve();
    assert_eq!(wallet.examples.len(), 3);
    for line in &wallet.examples {
        let pasted = finish(Command::new("sh").args(["-c", line])).expect_code(0);
        assert!(!pasted.stdout.contains("problem"), "{line}: {pasted:?}");
    }
    let alice = wallet.ask(&["account", "show", "alice"]).expect_code(0).json();
    assert_eq!(alice["balances"][0]["available"], "87.50");
    let bob = wallet.ask(&["account", "show", "bob"]).expect_code(0).json();
    assert_eq!(bob["balances"][0]["available"], "12.50");
    wallet.stop();
}

#[test]
fn it_answers_what_it_began_before_it_ends_on_sigterm_and_finds_it_again() {
    let home = Home::new();
    let mut wallet = home.serve();
    let body = r#"{"account_id":"carol"}"#;
    let mut connection = TcpStream::connect(wallet.http).unwrap();
    let head = format!(
        "POST /v1/wallet/accounts HTTP/1.1\r\nhost: wallet\r\ncontent-type: application/json\r\nexpect: 100-continue\r\n\
         content-length: {}\r\n\r\n",
        body.len()
    );
    connection.write_all(head.as_bytes()).unwrap();
    let mut continues = [0; 25];
    connection.read_exact(&mut continues).unwrap();
    assert_eq!(&continues, b"HTTP/1.1 100 Continue\r\n\r\n");

    wallet.signal(Signal::TERM);
    wallet.wait_for_log("draining");
    connection.write_all(body.as_bytes()).unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
    assert_eq!(wallet.wait().code(), Some(0));

    let wallet = home.serve();
    wallet.ask(&["account", "show", "carol"]).expect_code(0);
    wallet.signal(Signal::INT);
    drop(wallet);
    let report = home.run(&["journal", "verify"]).expect_code(0).json();
    assert_eq!((&report["verified"], &report["events"]), (&Value::Bool(true), &Value::from(1)));
}

#[test]
fn what_a_history_that_was_off_left_out_is_there_once_it_is_on_again() {
    let home = Home::new();
    let pay = |wallet: &Wallet, amount: &str| {
        wallet.ask(&["transfer", "alice", "bob", amount, "USD"]).expect_code(0);
    };
    let wallet = home.serve();
    wallet.open_and_pay();
    pay(&wallet, "1");
    wallet.stop();

    let wallet = home.serve_with(&["--history", "off"]);
    pay(&wallet, "2");
    let refused = wallet.ask(&["history", "alice"]).expect_code(1);
    assert!(
        refused.stderr.contains("not_implemented") && refused.stderr.contains("setting history"),
        "{refused:?}"
    );
    // What stands now is known without it.
    wallet.ask(&["account", "show", "bob"]).expect_code(0);
    wallet.stop();

    let wallet = home.serve();
    pay(&wallet, "3");
    let history = wallet.ask(&["history", "bob"]).expect_code(0).json();
    let amounts =
        history["entries"].as_array().unwrap().iter().map(|entry| entry["amount"].as_str().unwrap());
    assert_eq!(amounts.collect::<Vec<_>>(), ["3.00", "2.00", "1.00", "12.50"]);
    wallet.stop();
}

#[test]
fn a_second_process_is_refused_and_told_which_has_the_directory() {
    let home = Home::new();
    let wallet = home.serve();
    let process = format!("process {}", wallet.process());
    for second in [finish(&mut home.serve_command()), home.run(&["journal", "dump"])] {
        let second = second.expect_code(6);
        assert!(second.stderr.contains(&process), "{second:?}");
    }
    // It only looks, and takes no lock.
    home.run(&["journal", "verify"]).expect_code(0);
    wallet.stop();
    home.run(&["journal", "dump"]).expect_code(0);
}

#[test]
fn a_directory_of_another_format_version_is_refused() {
    let home = Home::new();
    home.serve().stop();
    let meta = home.data().join("jigap.meta");
    fs::write(&meta, fs::read_to_string(&meta).unwrap().replace("format 1", "format 2")).unwrap();
    let refused = finish(&mut home.serve_command()).expect_code(7);
    assert!(refused.stderr.contains("newer jigap"), "{refused:?}");
}

#[test]
fn a_taken_port_is_named() {
    let home = Home::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let refused = home.run(&["serve", "--listen", &address, "--grpc-listen", "127.0.0.1:0"]).expect_code(8);
    assert!(refused.stderr.contains(&address), "{refused:?}");
}

#[test]
fn the_network_has_as_many_threads_as_it_is_given() {
    for threads in ["1", "3"] {
        let home = Home::new();
        let wallet = home.serve_with(&["--network-threads", threads]);
        let tasks = fs::read_dir(format!("/proc/{}/task", wallet.process())).unwrap();
        let names =
            tasks.map(|task| fs::read_to_string(task.unwrap().path().join("comm")).unwrap_or_default());
        let of_network = names.filter(|name| name.trim() == "jigap-network").count();
        // The only one is the main thread.
        assert_eq!(of_network, if threads == "1" { 0 } else { 3 });
        let load = ["bench", "--accounts", "100", "--warm-up", "0", "--duration", "200ms"];
        wallet.ask(&load).expect_code(0);
        wallet.stop();
    }
    let home = Home::new();
    home.run(&["serve", "--network-threads", "0"]).expect_code(2);
}

#[test]
fn log_lines_are_json_when_nobody_watches() {
    let home = Home::new();
    let mut wallet = home.serve();
    let line: Value = serde_json::from_str(&wallet.wait_for_log("serving")).unwrap();
    assert_eq!((&line["level"], &line["message"]), (&Value::from("INFO"), &Value::from("serving")));
    assert_eq!(line["http"], wallet.http.to_string());
    wallet.stop();
}

#[test]
fn a_disk_that_fails_ends_the_process_with_its_own_code_and_says_what_to_do() {
    let home = Home::new();
    let mut wallet = home.serve_with(&["--journal-segment-size", "1MiB"]);
    wallet.ask(&["account", "open", "alice"]).expect_code(0);
    // The next segment cannot be made.
    fs::remove_dir_all(home.data().join("partition-0/journal")).unwrap();
    let load = ["bench", "--accounts", "100", "--warm-up", "0", "--duration", "60s", "--timeout", "2s"];
    wallet.ask(&load).expect_code(3);
    assert_eq!(wallet.wait().code(), Some(5));
    let line = wallet.wait_for_log("storage failed");
    assert!(line.contains("start `jigap serve` again"), "{line}");
}
