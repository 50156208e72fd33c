//! One front for every architecture: the same black-box suite against a running `jigap serve`, whatever stands behind it.
//!
//! [`architecture::ARCHITECTURES`] says which there are and what each cannot give; that is expected as `not_supported_by_architecture`.
#![allow(clippy::unwrap_used, reason = "a test that unwraps nothing has failed")]

mod architecture;
mod commands;
mod compare;
mod grpc;
#[path = "../command_line/harness.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod harness;
mod instances;
mod metrics;
mod operator;
mod queries;
mod traces;
mod wallet;

use architecture::Architecture;
use harness::Home;
use wallet::Wallet;

/// Every part of the contract, each with accounts of its own.
fn run(architecture: &Architecture, flags: &[&str]) {
    let home = Home::new();
    let served = home.serve_with(flags);
    let wallet = Wallet::new(architecture, &served);
    commands::transfers(&wallet);
    commands::repeats(&wallet);
    commands::refusals(&wallet);
    commands::batches(&wallet);
    commands::groups(&wallet);
    commands::holds(&wallet);
    commands::reversals(&wallet);
    commands::closing(&wallet);
    queries::histories(&wallet);
    queries::transactions(&wallet);
    queries::positions(&wallet);
    queries::what_cannot_be_given(&wallet);
    grpc::calls(&wallet, &served);
    grpc::streams(&wallet, &served);
    operator::money_is_all_there(&wallet, &served);
    operator::nothing_is_under_way(&wallet, &served);
    metrics::what_happened_is_counted(&wallet);
    let remembered = wallet.remember();
    served.stop();
    let served = home.serve_with(flags);
    Wallet::new(architecture, &served).still_knows(&remembered);
    operator::bench(&served);
    served.stop();
}

#[test]
fn event_sourced() {
    run(architecture::of("event-sourced"), &[]);
}

/// Over a PostgreSQL and a MariaDB: a transfer between the two is a transaction over both.
fn run_over_sql(name: &str, more_flags: &[&str]) {
    let (_postgres, first) = testbed::postgres().unwrap();
    let (_mariadb, second) = testbed::mariadb().unwrap();
    let shards = format!("{first},{second}");
    let home = Home::new();
    let flags = [&["--architecture", name, "--shards", &shards][..], more_flags].concat();
    let unprepared = home.serve_in_vain(&flags).expect_code(3);
    assert!(unprepared.stderr.contains("jigap sql migrate"), "{unprepared:?}");
    home.run(&["sql", "migrate", &first, &second]).expect_code(0);
    run(architecture::of(name), &flags);
    instances::any_may_be_killed(name, &flags);
}

#[test]
fn two_phase_commit() {
    run_over_sql("two-phase-commit", &[]);
}

#[test]
fn tcc() {
    run_over_sql("tcc", &[]);
}

#[test]
fn saga() {
    run_over_sql("saga", &[]);
}

#[test]
fn saga_choreographed() {
    let (_nats, broker) = testbed::nats().unwrap();
    run_over_sql("saga-choreographed", &["--broker", &broker]);
}

#[test]
fn redis() {
    let (_first, first) = testbed::redis().unwrap();
    let (_second, second) = testbed::redis().unwrap();
    let shards = format!("{first},{second}");
    run(architecture::of("redis"), &["--architecture", "redis", "--shards", &shards]);
}

/// With the map of partitions in ZooKeeper.
#[test]
fn redis_tcc() {
    let (_first, first) = testbed::redis().unwrap();
    let (_second, second) = testbed::redis().unwrap();
    let (_nodes, zookeeper) = testbed::zookeeper(1).unwrap();
    let flags = ["--architecture", "redis-tcc", "--zookeeper", &zookeeper];
    let home = Home::new();
    let without_a_map = home.serve_in_vain(&flags).expect_code(3);
    assert!(without_a_map.stderr.contains("jigap partition-map set"), "{without_a_map:?}");
    home.run(&["partition-map", "set", "--zookeeper", &zookeeper, &first, &second]).expect_code(0);
    let smaller = home.run(&["partition-map", "set", "--zookeeper", &zookeeper, &first]).expect_code(2);
    assert!(smaller.stderr.contains("has 2 partitions, and 1 were given"), "{smaller:?}");
    run(architecture::of("redis-tcc"), &flags);
    instances::any_may_be_killed("redis-tcc", &flags);
    let shown = home.run(&["partition-map", "show", "--zookeeper", &zookeeper, "--json"]).expect_code(0);
    assert!(shown.stdout.contains(&first) && shown.stdout.contains(&second), "{shown:?}");
}
