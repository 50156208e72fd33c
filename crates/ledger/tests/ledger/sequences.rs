//! Random histories: after every command the ledger, the model, a replica and a restored copy agree.

use std::collections::BTreeMap;

use ledger::Sequence;
use ledger::codec::{Body, BodyWriter};

use crate::generator::{Step, history};
use crate::harness::{Harness, bytes_of, restored};
use crate::model::{Model, Verdict};
use crate::random::for_each_seed;

const CASES: u64 = 240;
const STEPS: usize = 250;

#[test]
fn every_step_agrees_with_the_model() {
    for_each_seed("every_step_agrees_with_the_model", CASES, |seed| {
        let steps = history(seed, STEPS);
        let outcome = std::panic::catch_unwind(|| run(&steps));
        if let Err(panic) = outcome {
            let fewer = shrunk(steps);
            eprintln!("seed {seed}: these {} steps suffice to fail:", fewer.len());
            for step in &fewer {
                eprintln!("    {step:?}");
            }
            std::panic::resume_unwind(panic);
        }
    });
}

/// Agreement proves nothing about what never happens: every kind of event and every refusal must be common.
#[test]
fn histories_reach_every_outcome() {
    let mut seen: BTreeMap<String, u64> = BTreeMap::new();
    for seed in 0..CASES {
        let (mut model, mut now) = (Model::new(), 0);
        for step in history(seed, STEPS) {
            now += i128::from(step.advance_micros);
            let lines = match model.execute(&step.request, now) {
                Verdict::Accepted(lines) => lines,
                Verdict::Rejected(refusal) => vec![format!("rejected - {refusal}")],
                other => vec![format!("{other:?}")],
            };
            for line in lines {
                let words: Vec<&str> = line.split(' ').collect();
                let told = matches!(words[0], "refused" | "rejected");
                let outcome = if told { words[2..4].join(" ") } else { words[0].to_string() };
                *seen.entry(outcome).or_default() += 1;
            }
        }
    }
    let expected = [
        "opened",
        "transferred",
        "held",
        "confirmed",
        "released",
        "reversed",
        "closed",
        "committed",
        "Unchanged",
        "Repeated",
        "Reused",
        "account_not_found from",
        "account_not_found to",
        "account_closed from",
        "account_closed to",
        "insufficient_funds from",
        "balance_overflow from",
        "balance_overflow to",
        "transaction_not_found none",
        "hold_not_pending none",
        "hold_expired none",
        "amount_exceeds_hold none",
        "already_reversed none",
        "account_not_empty from",
        "account_exists none",
        "same_account none",
        "invalid_amount none",
        "invalid_account_id from",
        "invalid_account_id to",
        "invalid_request none",
    ];
    for outcome in expected {
        let count = seen.remove(outcome).unwrap_or(0);
        assert!(count >= 10, "{outcome} happened {count} times in {CASES} histories");
    }
    assert!(seen.is_empty(), "outcomes that the table does not name: {seen:?}");
}

fn run(steps: &[Step]) {
    let mut harness = Harness::new();
    for step in steps {
        harness.step(step);
    }
    restored(&harness.state);
    check_one_body(&harness);
}

/// The whole history in one body: each event is found through the restarts just as it is found in order.
fn check_one_body(harness: &Harness) {
    let mut writer = BodyWriter::new();
    for (command, events) in &harness.history {
        writer.push(command, events);
    }
    let bytes = bytes_of(&writer);
    let first = Sequence(1);
    let body = Body::parse(&bytes, first).unwrap();
    assert_eq!(body.command_count() as usize, harness.history.len());
    assert_eq!(u64::from(body.event_count()), harness.state.sequence().0);
    for (entry, (command, events)) in body.entries().zip(&harness.history) {
        let entry = entry.unwrap();
        assert_eq!((&entry.command, entry.events.as_slice()), (command, events.as_slice()));
        for (sequence, _) in entry.sequenced() {
            assert_eq!(body.entry_of(sequence).as_ref(), Ok(&entry));
        }
    }
}

/// Leaves out runs of steps, half of them first and one at the end, for as long as what is left still fails.
fn shrunk(mut steps: Vec<Step>) -> Vec<Step> {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let mut size = steps.len() / 2;
    while size > 0 {
        let mut start = 0;
        while start < steps.len() {
            let mut fewer = steps.clone();
            let left_out = fewer.drain(start..(start + size).min(steps.len()));
            let micros: i64 = left_out.map(|step| step.advance_micros).sum();
            if let Some(next) = fewer.get_mut(start) {
                next.advance_micros += micros;
            }
            if std::panic::catch_unwind(|| run(&fewer)).is_err() {
                steps = fewer;
            } else {
                start += size;
            }
        }
        size /= 2;
    }
    std::panic::set_hook(hook);
    steps
}
