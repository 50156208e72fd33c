//! The suite against shards in memory, and against bugs that are put in on purpose.
#![allow(clippy::unwrap_used, reason = "a test that unwraps nothing has failed")]

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::{Chaos, Memory, Mutant, Options, World, chaos, run};
use crate::port::Protocol;

const PROTOCOLS: [Protocol; 3] = [Protocol::Tcc, Protocol::Saga, Protocol::TwoPhaseCommit];

fn options(stride: usize) -> Options {
    Options { protocols: PROTOCOLS.to_vec(), choreographed: false, stride, seed: 1, run: 0 }
}

/// Money is short, and then room is.
fn chaos_of(protocol: Protocol, seed: u64) -> Chaos {
    let funds = if seed.is_multiple_of(2) { 100 } else { i64::MAX.unsigned_abs() / 3 };
    Chaos { protocol, choreographed: false, seed, transactions: 60, in_flight: 6, funds, run: 1 }
}

#[test]
fn every_step_of_every_command_survives_everything_with_every_protocol() {
    let report = run(&mut Memory::new(3, None), &options(1)).unwrap();
    println!("{} cases, {} steps", report.count(), report.steps);
    report.cases.iter().for_each(|(what, count)| println!("{count:6} {what}"));
    assert!(report.count() > 1000, "{}", report.count());
}

#[test]
fn many_transactions_at_once_survive_faults_at_any_moment() {
    let times = std::env::var("TEST_CASES").map_or(1, |times| times.parse().unwrap());
    let (mut succeeded, mut refused) = (0, 0);
    for protocol in PROTOCOLS {
        for seed in 0..40 * times {
            let (more, less) = chaos(&mut Memory::new(3, None), &chaos_of(protocol, seed)).unwrap();
            succeeded += more;
            refused += less;
        }
    }
    println!("{succeeded} succeeded, {refused} were refused");
    assert!(succeeded > 1000 && refused > 1000, "{succeeded} {refused}");
}

#[test]
fn what_travels_without_a_coordinator_survives_everything_too() {
    let every_step = Options { protocols: vec![Protocol::Saga], choreographed: true, ..options(1) };
    let report = run(&mut Memory::new(3, None), &every_step).unwrap();
    println!("{} cases, {} steps", report.count(), report.steps);
    assert!(report.count() > 1000, "{}", report.count());
    let (mut succeeded, mut refused) = (0, 0);
    for seed in 0..40 {
        let chaos_of = Chaos { choreographed: true, ..chaos_of(Protocol::Saga, seed) };
        let (more, less) = chaos(&mut Memory::new(3, None), &chaos_of).unwrap();
        succeeded += more;
        refused += less;
    }
    println!("{succeeded} succeeded, {refused} were refused");
    assert!(succeeded > 400 && refused > 400, "{succeeded} {refused}");
}

/// Not one of them may pass both.
#[test]
fn bugs_put_in_on_purpose_are_found() {
    let mut missed = Vec::new();
    for mutant in Mutant::ALL {
        let fails = |test: &mut dyn FnMut(&mut dyn World) -> Result<(), String>| {
            let mut world = Memory::new(3, Some(mutant));
            let why = catch_unwind(AssertUnwindSafe(|| test(&mut world)))
                .unwrap_or(Err("it panics".into()))
                .err()?;
            Some(format!("{why:.200}"))
        };
        let mut in_chaos =
            PROTOCOLS.into_iter().flat_map(|protocol| (0..20).map(move |seed| (protocol, seed))).filter_map(
                |(protocol, seed)| fails(&mut |world| chaos(world, &chaos_of(protocol, seed)).map(|_| ())),
            );
        let found = in_chaos.next().or_else(|| fails(&mut |world| run(world, &options(1)).map(|_| ())));
        match found {
            Some(why) => println!("{mutant:?}: {why}"),
            None => missed.push(mutant),
        }
    }
    assert!(missed.is_empty(), "not found: {missed:?}");
}
