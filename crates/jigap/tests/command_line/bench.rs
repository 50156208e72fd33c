//! `jigap bench`: the shape of its report, and its proof, over every transport.

use serde_json::Value;

use crate::harness::{Home, Wallet};

fn bench(wallet: &Wallet<'_>, arguments: &[&str]) -> Value {
    let common = ["bench", "--json", "--accounts", "100", "--warm-up", "100ms", "--duration", "900ms"];
    let report = wallet.ask(&[&common[..], arguments].concat()).expect_code(0).json();
    for key in ["transfers", "seconds", "transfers_per_second", "refused", "errors"] {
        assert!(report[key].is_number(), "{key} of {report}");
    }
    for key in ["p50", "p99", "max"] {
        assert!(report["latency_ms"][key].as_f64().is_some_and(|latency| latency > 0.0), "{key} of {report}");
    }
    assert!(report["transfers"].as_u64().unwrap() > 0, "{report}");
    assert_eq!((&report["errors"], &report["refused"]), (&0.into(), &0.into()), "{report}");
    assert_eq!(report["proof"]["sum_unchanged"], true);
    assert_eq!(report["proof"]["found"], report["proof"]["checked"]);
    assert!(report["proof"]["checked"].as_u64().unwrap() > 0, "{report}");
    report
}

#[test]
fn every_transport_is_measured_and_its_money_proven() {
    let home = Home::new();
    let wallet = home.serve();
    let rows: [(&str, &[&str], u64); 5] = [
        ("grpc-stream", &["--batch", "100", "--connections", "2", "--in-flight", "2"], 100),
        ("grpc-stream", &["--batch", "50", "--account-refs", "names", "--distribution", "zipf:1.1"], 50),
        ("http", &["--connections", "8", "--ids", "v7", "--distribution", "hot"], 1),
        ("http", &["--connections", "8", "--rate", "500"], 1),
        ("http-batch", &["--batch", "20", "--connections", "2"], 20),
    ];
    for (transport, arguments, batch) in rows {
        let report = bench(&wallet, &[&["--transport", transport], arguments].concat());
        assert_eq!((&report["transport"], &report["batch"]), (&transport.into(), &batch.into()));
    }
    wallet.stop();
    home.run(&["journal", "verify"]).expect_code(0);
}

#[test]
fn a_small_run_is_checked_to_the_last_transfer() {
    let home = Home::new();
    let wallet = home.serve();
    let report = bench(&wallet, &["--transport", "http", "--connections", "2", "--rate", "300"]);
    assert_eq!(report["proof"]["every_one_checked"], true);
    // 300 a second are due for 900 ms; a slow machine answers fewer of them in that time, but never more.
    assert!(report["transfers"].as_u64().unwrap() <= 300, "{report}");
    wallet.stop();
}

#[test]
fn nonsense_is_refused_before_anything_is_sent() {
    let home = Home::new();
    for arguments in [
        &["bench", "--transport", "http", "--batch", "2"][..],
        &["bench", "--distribution", "normal"],
        &["bench", "--duration", "0"],
        &["bench", "--batch", "8191"],
    ] {
        home.run(arguments).expect_code(2);
    }
    home.run(&["bench", "--server", "http://127.0.0.1:1", "--timeout", "1s"]).expect_code(3);
}
