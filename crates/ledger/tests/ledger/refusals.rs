//! Every refusal code of a command, and the documented order in which checks are told.

use ledger::{
    AccountNumber, AccountRef, Amount, Command, Currency, Decision, Group, HoldRequest, Metadata,
    RefusalCode, State, TransactionId, Transfer, TransferKind,
};

use crate::harness::{Harness, tell_refusal};
use crate::model::Verdict;
use crate::request::{EXTERNAL, Kind, Payment, Request};

/// A wallet with every situation that a command can be refused for. The world outside has given `alice` and `rich`
/// nearly all the yen that fit.
struct Wallet {
    harness: Harness,
    next_id: u128,
}

const PAID: u128 = 1;
const REVERSED: u128 = 2;
const PENDING: u128 = 3;
const CONFIRMED: u128 = 4;
const CANCELLED: u128 = 5;
const OVERDUE: u128 = 6;
const LAPSED: u128 = 7;
const GROUP: u128 = 8;
const REFUSED: u128 = 9;
const TO_CLOSED: u128 = 10;
const TO_RICH: u128 = 11;
const PAID_BY_CLOSED: u128 = 12;
const UNKNOWN: u128 = 99;
const LARGEST: u64 = i64::MAX as u64;

fn payment(id: u128, from: &str, to: &str, minor_units: u64, currency: &'static str) -> Payment {
    let kind = match (from, to) {
        (EXTERNAL, _) => Kind::Deposit,
        (_, EXTERNAL) => Kind::Withdrawal,
        _ => Kind::Transfer,
    };
    Payment { id, kind, from: from.into(), to: to.into(), minor_units, currency, note: Vec::new() }
}

fn held(id: u128, to: &str, minor_units: u64, currency: &'static str, expires: Option<u32>) -> Request {
    let payment = Payment { kind: Kind::Transfer, ..payment(id, "alice", to, minor_units, currency) };
    Request::Hold { payment, expires_in_seconds: expires }
}

impl Wallet {
    fn new() -> Wallet {
        let mut wallet = Wallet { harness: Harness::new(), next_id: 1000 };
        for name in ["alice", "bob", "closed", "gone", "rich"] {
            wallet.happens(Request::Open { name: name.into(), note: Vec::new() });
        }
        wallet.pays(payment(100, EXTERNAL, "alice", 100_000, "USD"));
        wallet.pays(payment(101, EXTERNAL, "rich", LARGEST, "JPY"));
        wallet.pays(payment(102, EXTERNAL, "alice", 1, "JPY"));
        wallet.pays(payment(PAID, "alice", "bob", 500, "USD"));
        wallet.pays(payment(REVERSED, "alice", "bob", 200, "USD"));
        wallet.happens(Request::Reverse { id: 103, original: REVERSED, note: Vec::new() });
        wallet.pays(payment(PAID_BY_CLOSED, "alice", "gone", 10, "USD"));
        wallet.pays(payment(104, "gone", "alice", 10, "USD"));
        for (id, to) in [(OVERDUE, "bob"), (LAPSED, "bob")] {
            let expires = if id == LAPSED { 0 } else { 1 };
            wallet.happens(held(id, to, 100, "USD", Some(expires)));
        }
        wallet.happens(Request::Expire);
        for (id, to) in [(PENDING, "bob"), (CONFIRMED, "bob"), (CANCELLED, "bob"), (TO_CLOSED, "closed")] {
            wallet.happens(held(id, to, 1_000, "USD", None));
        }
        wallet.happens(held(TO_RICH, "rich", 1, "JPY", None));
        wallet.happens(Request::Confirm { id: 105, hold: CONFIRMED, amount: None });
        wallet.happens(Request::Cancel { id: 106, hold: CANCELLED });
        let legs = vec![payment(107, "alice", "bob", 1, "USD"), payment(108, "bob", "alice", 1, "USD")];
        wallet.happens(Request::Group { id: GROUP, legs });
        wallet.happens(Request::Pay(payment(REFUSED, "alice", "nobody", 1, "USD")));
        for (id, account) in [(109, "closed"), (110, "gone")] {
            wallet.happens(Request::Close { id, account: account.into() });
        }
        wallet.ask(Request::Expire, 1_000_000 - 1);
        wallet.ask(Request::Open { name: "late".into(), note: Vec::new() }, 1);
        wallet
    }

    fn pays(&mut self, payment: Payment) {
        self.happens(Request::Pay(payment));
    }

    fn happens(&mut self, request: Request) {
        let verdict = self.ask(request.clone(), 0);
        assert!(matches!(verdict, Verdict::Accepted(_)), "{request:?}: {verdict:?}");
    }

    /// The model's verdict, with which the ledger was found to agree.
    fn ask(&mut self, request: Request, advance_micros: i64) -> Verdict {
        self.harness.ask(&request, advance_micros)
    }

    fn id(&mut self) -> u128 {
        self.next_id += 1;
        self.next_id
    }

    /// What a refused request is told.
    fn refusal(&mut self, request: Request) -> String {
        match self.ask(request.clone(), 0) {
            Verdict::Accepted(lines) if lines[0].starts_with("refused") => {
                format!("recorded: {}", lines[0].splitn(3, ' ').nth(2).unwrap())
            }
            Verdict::Rejected(refusal) => format!("rejected: {refusal}"),
            verdict => panic!("{request:?} was not refused: {verdict:?}"),
        }
    }
}

fn check(rows: impl IntoIterator<Item = (Request, &'static str)>) {
    let mut wallet = Wallet::new();
    for (mut request, expected) in rows {
        let id = wallet.id();
        match &mut request {
            Request::Pay(payment) | Request::Hold { payment, .. } => payment.id = id,
            Request::Group { id: own, .. }
            | Request::Confirm { id: own, .. }
            | Request::Cancel { id: own, .. }
            | Request::Reverse { id: own, .. }
            | Request::Close { id: own, .. } => *own = id,
            Request::Open { .. } | Request::Expire => {}
        }
        let told = wallet.refusal(request.clone());
        assert_eq!(told, expected, "{request:?}");
    }
}

fn pay(from: &str, to: &str, minor_units: u64, currency: &'static str) -> Request {
    Request::Pay(payment(0, from, to, minor_units, currency))
}

fn of_kind(kind: Kind, from: &str, to: &str) -> Request {
    Request::Pay(Payment { kind, ..payment(0, from, to, 1, "USD") })
}

fn confirm(hold: u128, amount: Option<&str>) -> Request {
    Request::Confirm { id: 0, hold, amount: amount.map(str::to_string) }
}

fn cancel(hold: u128) -> Request {
    Request::Cancel { id: 0, hold }
}

fn reverse(original: u128) -> Request {
    Request::Reverse { id: 0, original, note: Vec::new() }
}

fn close(account: &str) -> Request {
    Request::Close { id: 0, account: account.into() }
}

#[test]
fn transfers() {
    check([
        (pay("alice", "alice", 1, "USD"), "rejected: same_account none 0"),
        (pay("nobody", "nobody", 1, "USD"), "rejected: same_account none 0"),
        (of_kind(Kind::Deposit, EXTERNAL, EXTERNAL), "rejected: same_account none 0"),
        (of_kind(Kind::Transfer, EXTERNAL, "alice"), "rejected: invalid_account_id from 0"),
        (of_kind(Kind::Withdrawal, EXTERNAL, "alice"), "rejected: invalid_account_id from 0"),
        (of_kind(Kind::Deposit, "alice", "bob"), "rejected: invalid_account_id from 0"),
        (of_kind(Kind::Transfer, "alice", EXTERNAL), "rejected: invalid_account_id to 0"),
        (of_kind(Kind::Withdrawal, "alice", "bob"), "rejected: invalid_account_id to 0"),
        (pay("nobody", "bob", 1, "USD"), "recorded: account_not_found from 0"),
        (pay("alice", "nobody", 1, "USD"), "recorded: account_not_found to 0"),
        (pay("closed", "bob", 1, "USD"), "recorded: account_closed from 0"),
        (pay("alice", "closed", 1, "USD"), "recorded: account_closed to 0"),
        (pay("bob", "alice", 1_501, "USD"), "recorded: insufficient_funds from 1500"),
        (pay("bob", "alice", 1, "EUR"), "recorded: insufficient_funds from 0"),
        (pay(EXTERNAL, "bob", 1, "JPY"), "recorded: balance_overflow from 0"),
        (pay(EXTERNAL, "rich", 1, "JPY"), "recorded: balance_overflow from 0"),
    ]);
}

/// Each row breaks several rules; the one that comes first in the documented order is told.
#[test]
fn the_order_of_checks() {
    check([
        // Malformed comes before unknown, closed and poor.
        (of_kind(Kind::Deposit, "nobody", "closed"), "rejected: invalid_account_id from 0"),
        (pay("closed", "closed", 1, "USD"), "rejected: same_account none 0"),
        (of_kind(Kind::Transfer, "nobody", EXTERNAL), "rejected: invalid_account_id to 0"),
        // The payer is told before the payee, unknown before closed.
        (pay("nobody", "unknown", 1, "USD"), "recorded: account_not_found from 0"),
        (pay("closed", "nobody", 1, "USD"), "recorded: account_not_found to 0"),
        (pay("closed", "gone", 1, "USD"), "recorded: account_closed from 0"),
        // Accounts before money.
        (pay("bob", "closed", LARGEST, "USD"), "recorded: account_closed to 0"),
        // Not enough money before too much of it.
        (pay("bob", "rich", 1, "JPY"), "recorded: insufficient_funds from 0"),
        // The earlier transaction comes before everything that follows from it.
        (confirm(UNKNOWN, Some("0.001")), "recorded: transaction_not_found none 0"),
        (confirm(CONFIRMED, Some("9999")), "recorded: hold_not_pending none 0"),
        (confirm(OVERDUE, Some("9999")), "recorded: hold_expired none 0"),
        (confirm(TO_CLOSED, Some("1.234")), "rejected: invalid_amount none 0"),
        (confirm(TO_CLOSED, Some("10.01")), "recorded: amount_exceeds_hold none 1000"),
        (confirm(TO_CLOSED, Some("10.00")), "recorded: account_closed to 0"),
        (reverse(REVERSED), "recorded: already_reversed none 0"),
    ]);
}

#[test]
fn holds_and_what_is_asked_of_them() {
    check([
        (held(0, "alice", 1, "USD", None), "rejected: same_account none 0"),
        (
            Request::Hold { payment: payment(0, "alice", EXTERNAL, 1, "USD"), expires_in_seconds: None },
            "rejected: invalid_request none 0",
        ),
        (held(0, EXTERNAL, 1, "USD", None), "rejected: invalid_account_id to 0"),
        (held(0, "nobody", 1, "USD", None), "recorded: account_not_found to 0"),
        (held(0, "closed", 1, "USD", None), "recorded: account_closed to 0"),
        (held(0, "bob", 96_401, "USD", None), "recorded: insufficient_funds from 96400"),
        (confirm(UNKNOWN, None), "recorded: transaction_not_found none 0"),
        (confirm(PAID, None), "recorded: transaction_not_found none 0"),
        (confirm(REFUSED, None), "recorded: transaction_not_found none 0"),
        (confirm(CONFIRMED, None), "recorded: hold_not_pending none 0"),
        (confirm(CANCELLED, None), "recorded: hold_not_pending none 0"),
        (confirm(LAPSED, None), "recorded: hold_expired none 0"),
        (confirm(OVERDUE, None), "recorded: hold_expired none 0"),
        (confirm(PENDING, Some("10.000")), "rejected: invalid_amount none 0"),
        (confirm(TO_RICH, Some("1.0")), "rejected: invalid_amount none 0"),
        (confirm(PENDING, Some("10.01")), "recorded: amount_exceeds_hold none 1000"),
        (confirm(TO_CLOSED, None), "recorded: account_closed to 0"),
        (confirm(TO_RICH, None), "recorded: balance_overflow to 0"),
        (cancel(UNKNOWN), "recorded: transaction_not_found none 0"),
        (cancel(PAID), "recorded: transaction_not_found none 0"),
        (cancel(CONFIRMED), "recorded: hold_not_pending none 0"),
        (cancel(CANCELLED), "recorded: hold_not_pending none 0"),
        (cancel(LAPSED), "recorded: hold_expired none 0"),
        (cancel(OVERDUE), "recorded: hold_expired none 0"),
    ]);
}

#[test]
fn reversals() {
    check([
        (reverse(UNKNOWN), "recorded: transaction_not_found none 0"),
        // No money moved under these ids.
        (reverse(REFUSED), "recorded: transaction_not_found none 0"),
        (reverse(PENDING), "recorded: transaction_not_found none 0"),
        (reverse(CONFIRMED), "recorded: transaction_not_found none 0"),
        (reverse(GROUP), "recorded: transaction_not_found none 0"),
        (reverse(REVERSED), "recorded: already_reversed none 0"),
        (reverse(PAID_BY_CLOSED), "recorded: account_closed from 0"),
        (reverse(104), "recorded: account_closed to 0"),
    ]);
    let mut wallet = Wallet::new();
    wallet.pays(payment(200, "bob", "alice", 1_500, "USD"));
    assert_eq!(wallet.refusal(reverse(PAID)), "recorded: insufficient_funds from 0");
}

#[test]
fn a_reversal_is_reversed_once_too() {
    let mut wallet = Wallet::new();
    wallet.happens(Request::Reverse { id: 300, original: PAID, note: Vec::new() });
    wallet.happens(Request::Reverse { id: 301, original: 300, note: Vec::new() });
    wallet.happens(Request::Reverse { id: 302, original: 301, note: Vec::new() });
    for original in [PAID, 300, 301] {
        let request = Request::Reverse { id: 400 + original, original, note: Vec::new() };
        assert_eq!(wallet.refusal(request), "recorded: already_reversed none 0");
    }
    // A leg and the payment of a hold move money under their own ids; so do deposits and withdrawals.
    wallet.happens(Request::Cancel { id: 303, hold: TO_RICH });
    wallet.pays(payment(304, "alice", EXTERNAL, 5, "USD"));
    for (id, original) in [(305, 107), (306, 105), (307, 102), (308, 304)] {
        wallet.happens(Request::Reverse { id, original, note: Vec::new() });
    }
}

#[test]
fn closing() {
    check([
        (close("nobody"), "recorded: account_not_found from 0"),
        (close(EXTERNAL), "rejected: invalid_account_id from 0"),
        (close("closed"), "recorded: account_closed from 0"),
        (close("bob"), "recorded: account_not_empty from 0"),
    ]);
    // Held money keeps an account open just as available money does.
    let mut wallet = Wallet::new();
    wallet.happens(Request::Hold {
        payment: payment(500, "bob", "alice", 1_500, "USD"),
        expires_in_seconds: None,
    });
    assert_eq!(
        wallet.refusal(Request::Close { id: 501, account: "bob".into() }),
        "recorded: account_not_empty from 0"
    );
    wallet.happens(Request::Confirm { id: 502, hold: 500, amount: None });
    // Money may still be on its way here by a hold, and the account closes all the same.
    wallet.happens(Request::Close { id: 503, account: "bob".into() });
    assert_eq!(
        wallet.refusal(Request::Confirm { id: 504, hold: PENDING, amount: None }),
        "recorded: account_closed to 0"
    );
    wallet.happens(Request::Cancel { id: 505, hold: PENDING });
}

#[test]
fn opening_again() {
    let mut wallet = Wallet::new();
    let open = |note: &[(&str, &str)]| Request::Open {
        name: "dora".into(),
        note: note.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect(),
    };
    wallet.happens(open(&[("tier", "gold")]));
    assert_eq!(wallet.ask(open(&[("tier", "gold")]), 0), Verdict::Unchanged);
    assert_eq!(wallet.refusal(open(&[("tier", "tin")])), "rejected: account_exists none 0");
    assert_eq!(wallet.refusal(open(&[])), "rejected: account_exists none 0");
    wallet.happens(Request::Close { id: 600, account: "dora".into() });
    assert_eq!(
        wallet.ask(open(&[("tier", "gold")]), 0),
        Verdict::Unchanged,
        "closing is not undone by opening"
    );
}

fn group(legs: Vec<Payment>) -> Request {
    Request::Group { id: 0, legs }
}

fn legs(count: u64) -> Vec<Payment> {
    (0..count).map(|leg| payment(700 + u128::from(leg), "alice", "bob", 1, "USD")).collect()
}

#[test]
fn groups() {
    let leg = |id: u128, from: &str, to: &str, minor_units| payment(id, from, to, minor_units, "USD");
    let mut same_as_group = legs(2);
    // The row's own id, which `check` counts up from 1001.
    same_as_group[1].id = 1004;
    let mut doubled = legs(3);
    doubled[2].id = doubled[0].id;
    check([
        (group(Vec::new()), "rejected: invalid_request none 0"),
        (group(legs(65)), "rejected: invalid_request none 0"),
        (group(doubled), "rejected: invalid_request none 0"),
        (group(same_as_group), "rejected: invalid_request none 0"),
        (
            group(vec![leg(701, "alice", "bob", 1), leg(702, "bob", "alice", 9_999)]),
            "recorded: insufficient_funds from 1501 leg 1",
        ),
        (
            group(vec![leg(703, "nobody", "bob", 1), leg(704, "bob", "alice", 9_999)]),
            "recorded: account_not_found from 0 leg 0",
        ),
        (
            group(vec![leg(705, "alice", "bob", 1), leg(706, "alice", "closed", 1)]),
            "recorded: account_closed to 0 leg 1",
        ),
        // A malformed leg leaves no trace, even behind a leg that would be refused and recorded.
        (
            group(vec![leg(707, "nobody", "bob", 1), leg(708, "bob", "bob", 1)]),
            "rejected: same_account none 0 leg 1",
        ),
        (
            group(vec![
                leg(709, "nobody", "bob", 1),
                Payment { kind: Kind::Deposit, ..leg(710, "alice", "bob", 1) },
            ]),
            "rejected: invalid_account_id from 0 leg 1",
        ),
    ]);
}

#[test]
fn legs_depend_on_the_legs_before_them() {
    let mut wallet = Wallet::new();
    wallet.happens(Request::Open { name: "eve".into(), note: Vec::new() });
    let there = payment(801, "alice", "eve", 50, "USD");
    let back = payment(802, "eve", "bob", 50, "USD");
    let refused = wallet.refusal(Request::Group { id: 800, legs: vec![back.clone(), there.clone()] });
    assert_eq!(refused, "recorded: insufficient_funds from 0 leg 0");
    wallet.happens(Request::Group { id: 803, legs: vec![there, back] });
    wallet.happens(Request::Group { id: 804, legs: legs(64) });
}

#[test]
fn ids_are_used_once_for_ever() {
    let mut wallet = Wallet::new();
    let again = payment(PAID, "alice", "bob", 500, "USD");
    assert_eq!(wallet.ask(Request::Pay(again.clone()), 0), Verdict::Repeated);
    for other in [
        Payment { minor_units: 501, ..again.clone() },
        Payment { currency: "EUR", ..again.clone() },
        Payment { to: "rich".into(), ..again.clone() },
        Payment { from: "rich".into(), ..again.clone() },
        Payment { note: vec![("a".into(), "b".into())], ..again.clone() },
    ] {
        assert_eq!(wallet.ask(Request::Pay(other), 0), Verdict::Reused);
    }
    assert_eq!(wallet.ask(Request::Cancel { id: PAID, hold: PENDING }, 0), Verdict::Reused);
    // A refusal is remembered as a success is, also once its reason is gone.
    let refused = payment(REFUSED, "alice", "nobody", 1, "USD");
    wallet.happens(Request::Open { name: "nobody".into(), note: Vec::new() });
    assert_eq!(wallet.ask(Request::Pay(refused), 0), Verdict::Repeated);
    // What was malformed is not remembered.
    let malformed = payment(900, "alice", "alice", 1, "USD");
    assert_eq!(wallet.refusal(Request::Pay(malformed)), "rejected: same_account none 0");
    wallet.pays(payment(900, "alice", "bob", 1, "USD"));
    let (amount, other) = (Some("5.0".to_string()), Some("5.00".to_string()));
    wallet.happens(Request::Confirm { id: 901, hold: PENDING, amount });
    assert_eq!(wallet.ask(Request::Confirm { id: 901, hold: PENDING, amount: other }, 0), Verdict::Repeated);
}

#[test]
fn a_payee_cannot_hold_more_than_fits() {
    let mut wallet = Wallet::new();
    // What alice has of this currency is on hold.
    assert_eq!(
        wallet.refusal(pay("alice", "rich", 1, "JPY").with_id(2001)),
        "recorded: insufficient_funds from 0"
    );
    wallet.happens(Request::Cancel { id: 2002, hold: TO_RICH });
    assert_eq!(
        wallet.refusal(pay("alice", "rich", 1, "JPY").with_id(2003)),
        "recorded: balance_overflow to 0"
    );
    // What the payee has set aside counts as well, so that giving it up never overflows.
    let set_aside = payment(2004, "rich", "bob", 10, "JPY");
    wallet.happens(Request::Hold { payment: set_aside, expires_in_seconds: None });
    assert_eq!(
        wallet.refusal(pay("alice", "rich", 1, "JPY").with_id(2005)),
        "recorded: balance_overflow to 0"
    );
    // The same between the legs of a group.
    let legs = [(2011, "rich", "bob"), (2012, "bob", "rich"), (2013, "alice", "rich")];
    let legs = legs.map(|(id, from, to)| payment(id, from, to, 1, "JPY")).to_vec();
    let refused = wallet.refusal(Request::Group { id: 2010, legs });
    assert_eq!(refused, "recorded: balance_overflow to 0 leg 2");
    wallet.happens(Request::Confirm { id: 2006, hold: 2004, amount: Some("1".into()) });
    wallet.happens(pay("alice", "rich", 1, "JPY").with_id(2007));
    // The world outside goes down to exactly -2^63, and every yen can come back.
    wallet.happens(pay("rich", EXTERNAL, LARGEST, "JPY").with_id(2008));
    wallet.happens(pay("bob", EXTERNAL, 1, "JPY").with_id(2009));
}

impl Request {
    fn with_id(mut self, new_id: u128) -> Request {
        match &mut self {
            Request::Pay(payment) | Request::Hold { payment, .. } => payment.id = new_id,
            other => panic!("{other:?}"),
        }
        self
    }
}

/// A handle that was never given out is an account that is not there; it must not reach into memory.
#[test]
fn account_numbers_out_of_range() {
    let state = State::new();
    let currency = Currency::parse("USD").unwrap();
    let transfer = |from: AccountRef, to: AccountRef| Transfer {
        transaction_id: TransactionId(1),
        kind: TransferKind::Transfer,
        from,
        to,
        amount: Amount::MAX,
        currency,
        metadata: Metadata::default(),
    };
    let numbers = [1, 2, u32::MAX - 1, u32::MAX].map(|number| AccountRef::Number(AccountNumber(number)));
    let told = |command: &Command| match state.decide(command, Default::default(), None) {
        Decision::Accepted(events) => match &events[..] {
            [ledger::Event::Refused { refusal, .. }] => tell_refusal(refusal),
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    };
    for (from, to) in [(0, 1), (2, 3), (3, 0)] {
        let transfer = transfer(numbers[from].clone(), numbers[to].clone());
        let hold = HoldRequest { transfer: transfer.clone(), expires_in_seconds: None };
        let group = Group { transaction_id: TransactionId(2), legs: vec![transfer.clone()] };
        assert_eq!(told(&Command::Transfer(transfer)), "account_not_found from 0");
        assert_eq!(told(&Command::Hold(Box::new(hold))), "account_not_found from 0");
        assert_eq!(told(&Command::Group(Box::new(group))), "account_not_found from 0 leg 0");
    }
    for account in numbers {
        let close = Command::CloseAccount { transaction_id: TransactionId(3), account };
        assert_eq!(told(&close), "account_not_found from 0");
    }
}

#[test]
fn codes_have_stable_numbers_and_names() {
    let rows = [
        (1, "account_not_found", true),
        (2, "account_closed", true),
        (3, "insufficient_funds", true),
        (4, "balance_overflow", true),
        (5, "transaction_not_found", true),
        (6, "hold_not_pending", true),
        (7, "hold_expired", true),
        (8, "amount_exceeds_hold", true),
        (9, "already_reversed", true),
        (10, "account_not_empty", true),
        (11, "account_exists", false),
        (12, "transaction_id_reused", false),
        (13, "same_account", false),
        (14, "invalid_amount", false),
        (15, "invalid_account_id", false),
        (16, "invalid_request", false),
        (17, "transaction_cancelled", true),
    ];
    assert_eq!(rows.len(), RefusalCode::ALL.len());
    for (code, (number, name, recorded)) in RefusalCode::ALL.into_iter().zip(rows) {
        assert_eq!((code.number(), code.name()), (number, name));
        assert_eq!(RefusalCode::from_number(number), Some(code));
        let refusal = ledger::Refusal::new(code);
        assert_eq!((refusal.is_recorded(), refusal.name()), (recorded, name));
        assert_eq!(ledger::Refusal { leg: Some(0), ..refusal }.name(), "leg_refused");
    }
    for number in [0, 18, u8::MAX] {
        assert_eq!(RefusalCode::from_number(number), None);
    }
}
