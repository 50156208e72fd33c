//! When a hold lapses, to the microsecond, and how many lapse at once.

use ledger::{AccountNumber, Amount, Currency, EXPIRIES_PER_COMMAND_MAX, Event, Movement, Timestamp};

use crate::harness::{Harness, restored};
use crate::model::Verdict;
use crate::request::{EXTERNAL, Kind, Payment, Request};

const SECOND_MICROS: i64 = 1_000_000;

fn with_money() -> Harness {
    let mut harness = Harness::new();
    for name in ["alice", "bob", "carol"] {
        happens(&mut harness, Request::Open { name: name.into(), note: Vec::new() });
    }
    for (id, to) in [(1, "alice"), (2, "bob")] {
        let deposit =
            Payment { kind: Kind::Deposit, from: EXTERNAL.into(), ..payment(id, "", to, 1_000_000) };
        happens(&mut harness, Request::Pay(deposit));
    }
    harness
}

fn payment(id: u128, from: &str, to: &str, minor_units: u64) -> Payment {
    let (from, to) = (from.into(), to.into());
    Payment { id, kind: Kind::Transfer, from, to, minor_units, currency: "KWD", note: Vec::new() }
}

fn hold(id: u128, from: &str, expires_in_seconds: Option<u32>) -> Request {
    Request::Hold { payment: payment(id, from, "carol", 10), expires_in_seconds }
}

fn happens(harness: &mut Harness, request: Request) -> Vec<String> {
    lines(harness.ask(&request, 0))
}

fn lines(verdict: Verdict) -> Vec<String> {
    match verdict {
        Verdict::Accepted(lines) => lines,
        other => panic!("{other:?}"),
    }
}

fn is_refused(lines: &[String], code: &str) -> bool {
    lines.len() == 1 && lines[0].starts_with("refused") && lines[0].contains(code)
}

/// A hold for `n` seconds can be settled for exactly `n` seconds: the moment of expiry is outside.
#[test]
fn the_last_moment_of_a_hold() {
    for settle in [
        |id| Request::Confirm { id, hold: 10, amount: None },
        |id| Request::Confirm { id, hold: 10, amount: Some("0.001".into()) },
        |id| Request::Cancel { id, hold: 10 },
    ] {
        let mut in_time = with_money();
        happens(&mut in_time, hold(10, "alice", Some(3)));
        assert!(!is_refused(&lines(in_time.ask(&settle(11), 3 * SECOND_MICROS - 1)), ""));
        assert_eq!(in_time.ask(&Request::Expire, SECOND_MICROS), Verdict::Unchanged);

        let mut too_late = with_money();
        happens(&mut too_late, hold(10, "alice", Some(3)));
        assert!(is_refused(&lines(too_late.ask(&settle(11), 3 * SECOND_MICROS)), "hold_expired"));
        assert_eq!(happens(&mut too_late, Request::Expire).len(), 1);
        assert!(is_refused(&happens(&mut too_late, settle(12)), "hold_expired"));
    }
}

#[test]
fn expiry_comes_at_its_time_and_not_before() {
    let mut harness = with_money();
    happens(&mut harness, hold(10, "alice", Some(2)));
    happens(&mut harness, hold(11, "alice", None));
    assert_eq!(harness.ask(&Request::Expire, 2 * SECOND_MICROS - 1), Verdict::Unchanged);
    assert_eq!(lines(harness.ask(&Request::Expire, 1)).len(), 1);
    assert_eq!(harness.ask(&Request::Expire, i64::from(u32::MAX) * SECOND_MICROS), Verdict::Unchanged);
    assert_eq!(harness.state.next_expiry(), None);
    assert_eq!(harness.state.holds().len(), 1);
}

#[test]
fn a_hold_for_no_time_lapses_at_once() {
    let mut harness = with_money();
    happens(&mut harness, hold(10, "alice", Some(0)));
    let confirmed = happens(&mut harness, Request::Confirm { id: 11, hold: 10, amount: None });
    assert!(is_refused(&confirmed, "hold_expired"));
    assert_eq!(happens(&mut harness, Request::Expire).len(), 1);
}

/// Soonest first, by id where the time is the same, and never more than the limit in one command.
#[test]
fn many_expiries_take_several_commands() {
    const HOLDS: usize = 2 * EXPIRIES_PER_COMMAND_MAX + 7;
    let mut harness = with_money();
    for index in 0..HOLDS {
        let from = ["alice", "bob"][index % 2];
        // Ids against the order of opening, and two seconds apart or none.
        happens(&mut harness, hold(10_000 - index as u128, from, Some(1 + (index % 2) as u32)));
    }
    let mut released = Vec::new();
    let mut sizes = Vec::new();
    let mut verdict = harness.ask(&Request::Expire, 5 * SECOND_MICROS);
    while let Verdict::Accepted(lines) = verdict {
        sizes.push(lines.len());
        released.extend(lines.iter().map(|line| line.split(' ').nth(2).unwrap().parse::<u128>().unwrap()));
        verdict = harness.ask(&Request::Expire, 0);
    }
    assert_eq!(verdict, Verdict::Unchanged);
    assert_eq!(sizes, [EXPIRIES_PER_COMMAND_MAX, EXPIRIES_PER_COMMAND_MAX, 7]);
    let mut expected: Vec<(usize, u128)> =
        (0..HOLDS).map(|index| (index % 2, 10_000 - index as u128)).collect();
    expected.sort_unstable();
    assert_eq!(released, expected.into_iter().map(|(_, id)| id).collect::<Vec<_>>());
    assert_eq!(harness.state.holds().len(), 0);
}

#[test]
fn a_partial_confirmation_releases_the_rest() {
    let mut harness = with_money();
    happens(&mut harness, hold(10, "alice", None));
    let lines = happens(&mut harness, Request::Confirm { id: 11, hold: 10, amount: Some("0.004".into()) });
    assert_eq!(lines, ["confirmed 11 10 alice carol 4 KWD 999996 4 0 6"]);
    // What was paid out can be reversed, and only that.
    let lines = happens(&mut harness, Request::Reverse { id: 12, original: 11, note: Vec::new() });
    assert_eq!(lines, ["reversed 12 11 carol alice 4 KWD 0 1000000 []"]);
}

/// An event that settles a hold for someone else, or in another currency, does not follow the state, whoever wrote it.
#[test]
fn a_false_settlement_does_not_apply() {
    let decided = |settle: Request| {
        let mut harness = with_money();
        happens(&mut harness, hold(10, "alice", None));
        let state = restored(&harness.state);
        happens(&mut harness, settle);
        let (_, events) = harness.history.pop().unwrap();
        (state, events.into_iter().next().unwrap())
    };
    let refused = |settle: &Request, change: &dyn Fn(&mut Event)| {
        let (mut state, mut event) = decided(settle.clone());
        restored(&state).try_apply(Timestamp::from_micros(0), &event).expect("the event as it was decided");
        change(&mut event);
        assert!(state.try_apply(Timestamp::from_micros(0), &event).is_err(), "{event:?}");
    };
    let confirm = Request::Confirm { id: 11, hold: 10, amount: Some("0.004".into()) };
    let confirmed = |change: fn(&mut Movement, &mut u64)| {
        refused(&confirm, &move |event| match event {
            Event::HoldConfirmed { movement, released, .. } => change(movement, released),
            other => panic!("{other:?}"),
        });
    };
    confirmed(|movement, _| movement.from = AccountNumber(2));
    confirmed(|movement, _| movement.to = AccountNumber(2));
    confirmed(|movement, _| movement.currency = Currency::parse("USD").unwrap());
    confirmed(|movement, _| movement.amount = Amount::from_minor_units(5).unwrap());
    confirmed(|_, released| *released = 7);
    confirmed(|_, released| *released = u64::MAX);
    let released = |change: fn(&mut AccountNumber, &mut Amount, &mut Currency)| {
        refused(&Request::Cancel { id: 11, hold: 10 }, &move |event| match event {
            Event::HoldReleased { account, amount, currency, .. } => change(account, amount, currency),
            other => panic!("{other:?}"),
        });
    };
    released(|account, _, _| *account = AccountNumber(2));
    released(|_, amount, _| *amount = Amount::from_minor_units(5).unwrap());
    released(|_, _, currency| *currency = Currency::parse("USD").unwrap());
}
