//! `jigap compare`: wallets of several architectures, measured, killed and written down.

use std::fmt::Write;
use std::path::Path;

use serde_json::Value;

use crate::harness::{self, Home};

/// What the file says of a wallet that the shell can kill and start again, at the same addresses.
fn entry(name: &str, served: &harness::Wallet<'_>, flags: &[&str]) -> String {
    let (http, grpc, binary) = (served.http, served.grpc, env!("CARGO_BIN_EXE_jigap"));
    let mut text = String::new();
    writeln!(text, "[[architecture]]\nname = {name:?}\nlabel = \"{name} here\"\nnote = \"of the test\"")
        .unwrap();
    writeln!(text, "server = \"http://{http}\"\ngrpc-server = \"http://{grpc}\"").unwrap();
    let process = served.process();
    // Until all its threads are gone it may hold its lock; then it may stay as a zombie.
    let lives = "[ $(ls /proc/$p/task | wc -l) -gt 1 ] || grep -qs '^State:.[^ZX]' /proc/$p/status";
    let dead = format!("while {lives}; do sleep 0.01; done");
    writeln!(text, "kill = \"p=$(cat {name}.pid || echo {process}); kill -9 $p; {dead}\"").unwrap();
    let flags = flags.join(" ");
    writeln!(
        text,
        "start = \"{binary} serve --data-dir {name} --listen {http} --grpc-listen {grpc} {flags} & echo $! > {name}.pid\""
    )
    .unwrap();
    text
}

/// Ends what the start command of an entry left running.
struct Started<'home>(&'home Home, &'static str);

impl Drop for Started<'_> {
    fn drop(&mut self) {
        let pid = std::fs::read_to_string(self.0.path().join(format!("{}.pid", self.1)));
        let pid = pid.ok().and_then(|pid| rustix::process::Pid::from_raw(pid.trim().parse().ok()?));
        if let Some(pid) = pid {
            // The shell that started it is gone, so nobody waits for it.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
}

fn read(directory: &Path, name: &str) -> String {
    std::fs::read_to_string(directory.join(name)).unwrap()
}

#[test]
fn compares_wallets_that_run() {
    let (_first, first) = testbed::redis().unwrap();
    let (_second, second) = testbed::redis().unwrap();
    let shards = format!("{first},{second}");
    let home = Home::new();
    let own = ["--data-dir", "event-sourced"];
    let over_redis = ["--architecture", "redis-tcc", "--shards", &shards, "--transaction-lease", "300ms"];
    let (one, two) = (home.serve_with(&own), home.serve_with(&over_redis));
    let reference = "[[reference]]\nname = \"something else\"\ntransfers-per-second = 1000.0\np50-ms = 1.0\np99-ms = 2.0\n";
    let file = entry("event-sourced", &one, &[]) + &entry("redis-tcc", &two, &over_redis) + reference;
    std::fs::write(home.path().join("wallets.toml"), file).unwrap();
    let _started = [Started(&home, "event-sourced"), Started(&home, "redis-tcc")];

    let compare = ["compare", "--config", "wallets.toml", "--out", "made/here", "--json", "--accounts", "50"];
    let tiny = ["--connections", "8", "--batch", "5", "--warm-up", "50ms", "--duration", "300ms"];
    let fault = ["--kills", "2", "--kill-after", "200ms", "--seed", "7"];
    let compared = home.run(&[&compare[..], &tiny, &fault].concat()).expect_code(0);

    let document = compared.json();
    let out = home.path().join("made/here");
    let written: Value = serde_json::from_str(&read(&out, "comparison.json")).unwrap();
    let rows = document["architectures"].as_array().unwrap();
    assert_eq!((rows, rows.len()), (written["architectures"].as_array().unwrap(), 2));
    for (row, past) in rows.iter().zip([true, false]) {
        assert_eq!(
            (&row["answers_a_past_balance"], &row["wrong_balances"]),
            (&past.into(), &0.into()),
            "{row}"
        );
        let loads = row["loads"].as_array().unwrap();
        assert_eq!((&loads[0]["transport"], &loads[1]["transport"]), (&"http".into(), &"http-batch".into()));
        let kills = row["kills"].as_array().unwrap();
        assert_eq!(kills.len(), 2, "{row}");
        for load in loads {
            assert!(load["transfers"].as_u64().unwrap() > 0, "{row}");
        }
        for kill in kills {
            for amount in ["lost", "doubled", "different_after_repeats"] {
                assert_eq!(kill[amount], "0.00", "{row}");
            }
            assert!(kill["settled_after_seconds"].as_f64().unwrap() > 0.0, "{row}");
            assert!(kill["unanswered"].as_u64().unwrap() > 0, "{row}");
        }
        for part in loads.iter().chain(kills) {
            let acknowledged = &part["acknowledged"];
            assert!(acknowledged["checked"].as_u64().unwrap() > 0, "{row}");
            assert_eq!(acknowledged["found"], acknowledged["checked"], "{row}");
        }
    }
    let table = read(&out, "README.md");
    for text in [
        "| | event-sourced here | redis-tcc here | something else |",
        "| answers a past balance | yes | no |",
        "| killed under load: money lost | none in 2 kills | none in 2 kills |",
        "| every balance exact in the end | yes, all 50 | yes, all 50 |",
        "- redis-tcc here: of the test",
        "--accounts 50",
    ] {
        assert!(table.contains(text), "{text:?} is not in {table}");
    }
    let picture = read(&out, "comparison.svg");
    assert!(picture.starts_with("<svg") && picture.trim_end().ends_with("</svg>"), "{picture}");
    for text in ["event-sourced here", "something else", "p99", "until nothing is in flight"] {
        assert!(picture.contains(text), "{text:?} is not in the picture");
    }
}

#[test]
fn what_cannot_be_compared_is_told_before_anything_is_sent() {
    let home = Home::new();
    let compare = |file: &str, more: &[&str]| {
        std::fs::write(home.path().join("wallets.toml"), file).unwrap();
        home.run(&[&["compare", "--config", "wallets.toml", "--out", "out"], more].concat())
    };
    let nobody = "[[architecture]]\nname = \"tcc\"\nserver = \"http://127.0.0.1:1\"\n";
    for (file, more, code, told) in [
        ("", &[][..], 2, "wallets.toml: lists no wallet"),
        ("[[architecture]]\nname = \"tcc\"\n", &[], 2, "missing field `server`"),
        ("[[architecture]]\nname = \"tc\"\nserver = \"127.0.0.1:1\"\n", &[], 2, "no architecture \"tc\""),
        (nobody, &["--transport", "grpc-stream"], 2, "needs `grpc-server` of tcc"),
        (nobody, &["--duration", "0"], 2, "must be above 0"),
        (nobody, &[], 3, "tcc does not serve: http://127.0.0.1:1/readyz"),
    ] {
        let refused = compare(file, more).expect_code(code);
        assert!(refused.stderr.contains(told), "{refused:?}");
        assert!(!home.path().join("out").exists(), "a mistake leaves no trace");
    }
    home.run(&["compare", "--config", "missing.toml"]).expect_code(2);
}
