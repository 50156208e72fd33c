//! The matcher by examples, and by random statements and ledgers.

use std::collections::BTreeSet;

use chrono::{Days, NaiveDate};
use fastrand::Rng;
use ledger::Currency;

use super::matcher::{By, Keys, LedgerEntry, Outcome, Rules, reconcile};
use super::statement::{Money, Place, StatementEntry};

const ID: u128 = 0x01890d9e_3c1b_7c5f_9d6e_0b6f0f0c9a11;
const OTHER_ID: u128 = 0x01890d9e_3c1b_7c5f_9d6e_0b6f0f0c9a12;
const RULES: Rules = Rules { date_window: 3, keys: Keys::All };

fn money(minor_units: i64) -> Money {
    Money { currency: Currency::parse("EUR").expect("a currency"), minor_units }
}

fn day(number: u64) -> NaiveDate {
    let first = NaiveDate::from_ymd_opt(2026, 1, 1).expect("a date");
    first.checked_add_days(Days::new(number - 1)).expect("a date")
}

/// An entry of the statement; the text holds what identifies it.
fn bank(on: u64, minor_units: i64, text: &str) -> StatementEntry {
    StatementEntry {
        place: Place::default(),
        booked: day(on),
        valued: None,
        money: money(minor_units),
        references: Vec::new(),
        text: text.to_owned(),
        is_reversal: false,
    }
}

fn wallet(on: u64, minor_units: i64, transaction_id: u128, reference: &str) -> LedgerEntry {
    LedgerEntry {
        transaction_id,
        reversed_id: None,
        account: "alice".to_owned(),
        kind: if minor_units < 0 { "withdrawal" } else { "deposit" }.to_owned(),
        timestamp: format!("{}T12:00:00.000000Z", day(on)),
        date: day(on),
        partition: 0,
        sequence: transaction_id as u64,
        money: money(minor_units),
        reference: (!reference.is_empty()).then(|| reference.to_owned()),
    }
}

/// The outcome in a line: `id(0-0)` matched by id, `ref!(0-1)` different by reference, `amount?(0,1-2)` ambiguous, `+0` and `-0` missing in
/// the ledger and in the statement.
fn shown(outcome: &Outcome) -> String {
    let by = |by| match by {
        By::TransactionId => "id",
        By::Reference => "ref",
        By::Amount => "amount",
    };
    let list = |list: &[usize]| list.iter().map(usize::to_string).collect::<Vec<_>>().join(",");
    let mut parts = Vec::new();
    for pair in &outcome.matched {
        parts.push(format!("{}({}-{})", by(pair.by), pair.statement, pair.ledger));
    }
    for pair in &outcome.different {
        parts.push(format!("{}!({}-{})", by(pair.by), pair.statement, pair.ledger));
    }
    for cluster in &outcome.ambiguous {
        parts.push(format!("{}?({}-{})", by(cluster.by), list(&cluster.statement), list(&cluster.ledger)));
    }
    parts.extend(outcome.missing_in_ledger.iter().map(|index| format!("+{index}")));
    parts.extend(outcome.missing_in_statement.iter().map(|index| format!("-{index}")));
    parts.join(" ")
}

#[test]
fn every_rule_by_an_example() {
    let hyphens = "Order 01890D9E-3C1B-7C5F-9D6E-0B6F0F0C9A11 thanks";
    let broken = "EREF+01890d9e3c1b7c5f9d6e0b 6f0f0c9a11SVWZ";
    let rows: Vec<(&str, Vec<StatementEntry>, Vec<LedgerEntry>, &str)> = vec![
        (
            "an id with hyphens, far away in time",
            vec![bank(300, 5, hyphens)],
            vec![wallet(1, 5, ID, "")],
            "id(0-0)",
        ),
        ("an id broken by a line's end", vec![bank(1, 5, broken)], vec![wallet(1, 5, ID, "")], "id(0-0)"),
        ("an id with another amount", vec![bank(1, 6, hyphens)], vec![wallet(1, 5, ID, "")], "id!(0-0)"),
        ("an id in the other direction", vec![bank(1, -5, hyphens)], vec![wallet(1, 5, ID, "")], "id!(0-0)"),
        (
            "an id wins over an amount",
            vec![bank(1, 5, ""), bank(1, 5, hyphens)],
            vec![wallet(1, 5, ID, ""), wallet(1, 5, OTHER_ID, "")],
            "amount(0-1) id(1-0)",
        ),
        (
            "a reference by its letters",
            vec![bank(1, 5, "Rg. re 2026/17")],
            vec![wallet(1, 5, ID, "RE-2026-17")],
            "ref(0-0)",
        ),
        (
            "a reference within a longer word",
            vec![bank(9, 5, "XRE-2026-178")],
            vec![wallet(1, 5, ID, "RE-2026-17")],
            "+0 -0",
        ),
        (
            "a reference with another amount",
            vec![bank(1, 6, "RE-2026-17")],
            vec![wallet(1, 5, ID, "RE-2026-17")],
            "ref!(0-0)",
        ),
        (
            "one reference every month, one missing in the ledger",
            vec![bank(1, 5, "RENT-7"), bank(31, 5, "RENT-7"), bank(60, 5, "RENT-7")],
            vec![wallet(1, 5, ID, "RENT-7"), wallet(61, 5, OTHER_ID, "RENT-7")],
            "ref(0-0) ref(2-1) +1",
        ),
        (
            "one reference and amount twice on both sides",
            vec![bank(2, 5, "RENT-7"), bank(1, 5, "RENT-7")],
            vec![wallet(1, 5, ID, "RENT-7"), wallet(2, 5, OTHER_ID, "RENT-7")],
            "ref(1-0) ref(0-1)",
        ),
        (
            "booked twice by the bank",
            vec![bank(1, 5, hyphens), bank(1, 5, hyphens)],
            vec![wallet(1, 5, ID, "")],
            "id?(0,1-0)",
        ),
        (
            "an amount on the last day of the window",
            vec![bank(4, 5, "")],
            vec![wallet(1, 5, ID, "")],
            "amount(0-0)",
        ),
        ("an amount a day too late", vec![bank(5, 5, "")], vec![wallet(1, 5, ID, "")], "+0 -0"),
        ("an amount in the other direction", vec![bank(1, -5, "")], vec![wallet(1, 5, ID, "")], "+0 -0"),
        (
            "an amount that two could mean",
            vec![bank(2, 5, "")],
            vec![wallet(1, 5, ID, ""), wallet(2, 5, OTHER_ID, "")],
            "amount?(0-0,1)",
        ),
        (
            "as many amounts as amounts are still a guess",
            vec![bank(1, 5, ""), bank(2, 5, "")],
            vec![wallet(1, 5, ID, ""), wallet(2, 5, OTHER_ID, "")],
            "amount?(0,1-0,1)",
        ),
        (
            "a short reference in a text is chance",
            vec![bank(9, 6, "17")],
            vec![wallet(1, 5, ID, "17")],
            "+0 -0",
        ),
        ("nothing", vec![], vec![], ""),
    ];
    for (name, statement, ledger, expected) in rows {
        assert_eq!(shown(&reconcile(&statement, &ledger, RULES)), expected, "{name}");
    }
}

#[test]
fn what_banks_call_a_reference_counts_even_when_it_is_short() {
    let entry = StatementEntry { references: vec!["17".to_owned()], ..bank(90, 5, "") };
    assert_eq!(shown(&reconcile(&[entry], &[wallet(1, 5, ID, "17")], RULES)), "ref(0-0)");
}

#[test]
fn the_value_date_counts_too() {
    let entry = StatementEntry { valued: Some(day(3)), ..bank(20, 5, "") };
    assert_eq!(shown(&reconcile(&[entry], &[wallet(1, 5, ID, "")], RULES)), "amount(0-0)");
}

#[test]
fn another_currency_is_another_amount() {
    let dollars = Money { currency: Currency::parse("USD").expect("a currency"), minor_units: 5 };
    let entry = StatementEntry { money: dollars, ..bank(1, 5, "RE-2026-17") };
    assert_eq!(shown(&reconcile(&[entry], &[wallet(1, 5, ID, "RE-2026-17")], RULES)), "ref!(0-0)");
    let entry = StatementEntry { money: dollars, ..bank(1, 5, "") };
    assert_eq!(shown(&reconcile(&[entry], &[wallet(1, 5, ID, "")], RULES)), "+0 -0");
}

#[test]
fn a_return_belongs_to_the_reversal_and_never_to_what_it_takes_back() {
    let text = format!("{ID:032x}");
    let paid = bank(1, 5, &text);
    let returned = StatementEntry { is_reversal: true, ..bank(9, -5, &text) };
    let deposit = wallet(1, 5, ID, "");
    let reversal =
        LedgerEntry { reversed_id: Some(ID), kind: "reversal".to_owned(), ..wallet(2, -5, OTHER_ID, "") };
    let rows = [
        (vec![paid.clone(), returned.clone()], vec![deposit.clone(), reversal.clone()], "id(0-0) id(1-1)"),
        (vec![paid.clone(), returned.clone()], vec![deposit.clone()], "id(0-0) +1"),
        (vec![returned], vec![deposit.clone()], "+0 -0"),
        (vec![paid], vec![deposit, reversal], "id(0-0) -1"),
    ];
    for (statement, ledger, expected) in rows {
        assert_eq!(shown(&reconcile(&statement, &ledger, RULES)), expected);
    }
}

#[test]
fn the_caller_says_which_references_count() {
    let statement = [bank(1, 5, &format!("{ID:032x}")), bank(1, 6, "RE-2026-17")];
    let ledger = [wallet(90, 5, ID, ""), wallet(90, 6, OTHER_ID, "RE-2026-17")];
    for (keys, expected) in [
        (Keys::All, "id(0-0) ref(1-1)"),
        (Keys::TransactionId, "id(0-0) +1 -1"),
        (Keys::Reference, "ref(1-1) +0 -0"),
    ] {
        assert_eq!(shown(&reconcile(&statement, &ledger, Rules { keys, ..RULES })), expected);
    }
}

/// Few values, so that everything collides.
fn random_sides(random: &mut Rng) -> (Vec<StatementEntry>, Vec<LedgerEntry>) {
    let references = ["", "", "INV-0001", "INV-0002", "7", "INV-0001-INV"];
    let ledger: Vec<LedgerEntry> = (0..random.usize(..12))
        .map(|index| {
            let reference = references[random.usize(..references.len())];
            let amount = [5, 6, -5, -6][random.usize(..4)];
            let entry = wallet(random.u64(1..20), amount, ID + index as u128, reference);
            LedgerEntry {
                reversed_id: (random.u8(..8) == 0).then(|| ID + u128::from(random.u8(..12))),
                ..entry
            }
        })
        .collect();
    let statement = (0..random.usize(..12)).map(|_| {
        let text = match random.u8(..4) {
            0 => format!("{:032x}", ID + u128::from(random.u8(..14))),
            1 => {
                format!("{:032x} {:032X}", ID + u128::from(random.u8(..14)), ID + u128::from(random.u8(..14)))
            }
            _ => references[random.usize(..references.len())].to_owned(),
        };
        let entry = bank(random.u64(1..20), [5, 6, -5, -6][random.usize(..4)], &text);
        let valued = (random.u8(..4) == 0).then(|| day(random.u64(1..20)));
        StatementEntry { valued, is_reversal: random.u8(..8) == 0, ..entry }
    });
    let statement = statement.collect();
    (statement, ledger)
}

/// What became of entries, by their content: equal ones may stand for each other.
fn by_content(outcome: &Outcome, statement: &[StatementEntry], ledger: &[LedgerEntry]) -> Vec<String> {
    let bank = |index: &usize| format!("{:?}", statement[*index]);
    let wallet = |index: &usize| ledger[*index].transaction_id.to_string();
    let pair = |kind: &str, pair: &super::matcher::Pair| {
        format!("{kind} {:?} {} {}", pair.by, bank(&pair.statement), wallet(&pair.ledger))
    };
    let mut lines: Vec<String> = outcome.matched.iter().map(|found| pair("matched", found)).collect();
    lines.extend(outcome.different.iter().map(|found| pair("different", found)));
    for cluster in &outcome.ambiguous {
        let mut members: Vec<String> = cluster.statement.iter().map(bank).collect();
        members.sort();
        let mut others: Vec<String> = cluster.ledger.iter().map(wallet).collect();
        others.sort();
        lines.push(format!("ambiguous {members:?} {others:?}"));
    }
    lines.extend(outcome.missing_in_ledger.iter().map(|index| format!("missing {}", bank(index))));
    lines.extend(outcome.missing_in_statement.iter().map(|index| format!("missing {}", wallet(index))));
    lines.sort();
    lines
}

fn assert_every_entry_once(outcome: &Outcome, statement: usize, ledger: usize) {
    let pairs = || outcome.matched.iter().chain(&outcome.different);
    let clusters = || outcome.ambiguous.iter();
    let of_statement: Vec<usize> = pairs()
        .map(|pair| pair.statement)
        .chain(clusters().flat_map(|cluster| cluster.statement.clone()))
        .chain(outcome.missing_in_ledger.clone())
        .collect();
    let of_ledger: Vec<usize> = pairs()
        .map(|pair| pair.ledger)
        .chain(clusters().flat_map(|cluster| cluster.ledger.clone()))
        .chain(outcome.missing_in_statement.clone())
        .collect();
    for (found, count) in [(of_statement, statement), (of_ledger, ledger)] {
        assert_eq!(found.len(), count);
        assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), (0..count).collect());
    }
}

/// No rule was broken: said again, without the matcher's code.
fn assert_sound(outcome: &Outcome, statement: &[StatementEntry], ledger: &[LedgerEntry]) {
    let is_near = |bank: &StatementEntry, wallet: &LedgerEntry| {
        let days = [Some(bank.booked), bank.valued].into_iter().flatten();
        days.into_iter().any(|day| (day - wallet.date).num_days().abs() <= 3)
    };
    for pair in &outcome.matched {
        let (bank, wallet) = (&statement[pair.statement], &ledger[pair.ledger]);
        assert_eq!(bank.money, wallet.money);
        assert!(pair.by != By::Amount || is_near(bank, wallet));
    }
    for pair in &outcome.different {
        let (bank, wallet) = (&statement[pair.statement], &ledger[pair.ledger]);
        assert_ne!(bank.money, wallet.money);
        let reverses = bank.is_reversal || wallet.reversed_id.is_some();
        assert!(!reverses || bank.money.minor_units.signum() == wallet.money.minor_units.signum());
    }
    for bank in outcome.missing_in_ledger.iter().map(|index| &statement[*index]) {
        for wallet in outcome.missing_in_statement.iter().map(|index| &ledger[*index]) {
            assert!(
                bank.money != wallet.money || !is_near(bank, wallet),
                "{bank:?} and {wallet:?} were overlooked"
            );
            let names_it = bank.text.to_lowercase().contains(&format!("{:032x}", wallet.transaction_id));
            assert!(!names_it || bank.money != wallet.money, "{bank:?} names {wallet:?}");
        }
    }
}

#[test]
fn any_order_gives_the_same_and_no_entry_is_lost_or_doubled() {
    let cases = std::env::var("TEST_CASES").ok().and_then(|text| text.parse::<u64>().ok()).unwrap_or(1);
    for seed in 0..5_000 * cases {
        let caught = std::panic::catch_unwind(|| {
            let mut random = Rng::with_seed(seed);
            let (mut statement, mut ledger) = random_sides(&mut random);
            let outcome = reconcile(&statement, &ledger, RULES);
            assert_every_entry_once(&outcome, statement.len(), ledger.len());
            assert_sound(&outcome, &statement, &ledger);
            let before = by_content(&outcome, &statement, &ledger);
            random.shuffle(&mut statement);
            random.shuffle(&mut ledger);
            let again = reconcile(&statement, &ledger, RULES);
            assert_eq!(by_content(&again, &statement, &ledger), before);
        });
        assert!(caught.is_ok(), "seed {seed}");
    }
}

#[test]
fn many_entries_alike_take_no_long_time() {
    // Compared each with each, this would be four thousand million comparisons.
    let statement: Vec<_> = (0..60_000).map(|index| bank(1 + index % 300, 1000, "TOPUP 1")).collect();
    let ledger: Vec<_> =
        (0..60_000).map(|index| wallet(1 + index % 300, 1000, ID + u128::from(index), "TOPUP-1")).collect();
    let outcome = reconcile(&statement, &ledger, RULES);
    assert_eq!(outcome.matched.len(), 60_000);
}
