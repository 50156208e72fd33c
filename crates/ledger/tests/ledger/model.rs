//! The wallet as a schoolbook would keep it: maps of texts and wide integers, cloned where that is simpler.
//!
//! Shares no code with the crate, not even its types: requests come in as texts and integers, and what happened goes out
//! as lines of text.

use std::collections::{BTreeMap, BTreeSet};

use crate::request::{EXTERNAL, Kind, Note, Payment, Request};

const LARGEST: i128 = i64::MAX as i128;
const SMALLEST: i128 = i64::MIN as i128;
const EXPIRIES_AT_ONCE: usize = 64;
const LEGS_AT_MOST: usize = 64;

/// The currencies that tests use: without, with two, three and four digits after the point.
pub(crate) const CURRENCIES: [(&str, usize); 5] =
    [("USD", 2), ("JPY", 0), ("KWD", 3), ("EUR", 2), ("CLF", 4)];

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// These events happen, each as a line.
    Accepted(Vec<String>),
    /// Nothing happens and nothing is remembered.
    Rejected(String),
    Unchanged,
    /// The id was used for the same content.
    Repeated,
    /// The id was used for other content.
    Reused,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Account {
    pub(crate) number: usize,
    pub(crate) note: Note,
    pub(crate) closed: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Money {
    pub(crate) available: i128,
    pub(crate) held: i128,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HoldStatus {
    Pending,
    Settled,
    Lapsed,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hold {
    pub(crate) from: String,
    pub(crate) to: String,
    pub(crate) minor_units: i128,
    pub(crate) currency: &'static str,
    pub(crate) expires_at: Option<i128>,
    pub(crate) status: HoldStatus,
}

#[derive(Debug, Clone)]
struct Moved {
    from: String,
    to: String,
    minor_units: i128,
    currency: &'static str,
    reversed: bool,
}

/// Account and currency -> money. An entry exists once money was ever there.
pub(crate) type Book = BTreeMap<(String, &'static str), Money>;

#[derive(Debug, Default)]
pub(crate) struct Model {
    pub(crate) accounts: BTreeMap<String, Account>,
    pub(crate) book: Book,
    pub(crate) holds: BTreeMap<u128, Hold>,
    moved: BTreeMap<u128, Moved>,
    used: BTreeMap<u128, Request>,
}

/// A refusal as text, and whether it becomes an event.
struct Refusal {
    text: String,
    recorded: bool,
}

fn refusal(code: &str, party: &str, available: i128) -> Refusal {
    let malformed =
        ["same_account", "invalid_account_id", "invalid_amount", "invalid_request", "account_exists"];
    Refusal { text: format!("{code} {party} {available}"), recorded: !malformed.contains(&code) }
}

impl Model {
    pub(crate) fn new() -> Model {
        let mut model = Model::default();
        model.accounts.insert(EXTERNAL.into(), Account { number: 0, note: Vec::new(), closed: false });
        model
    }

    pub(crate) fn money(&self, account: &str, currency: &'static str) -> Money {
        self.book.get(&(account.to_string(), currency)).copied().unwrap_or_default()
    }

    /// Decides and executes.
    pub(crate) fn execute(&mut self, request: &Request, now: i128) -> Verdict {
        if let Some(first) = request.id().and_then(|id| self.used.get(&id)) {
            return if same_content(first, request) { Verdict::Repeated } else { Verdict::Reused };
        }
        if request.leg_ids().iter().any(|id| self.used.contains_key(id)) {
            return Verdict::Reused;
        }
        let verdict = match request {
            Request::Open { name, note } => return self.open(name, note),
            Request::Expire => return self.expire(now),
            Request::Group { id, legs } => self.group(*id, legs),
            Request::Pay(payment) => self.pay(payment).map(|line| vec![line]),
            Request::Hold { payment, expires_in_seconds } => self.hold(payment, *expires_in_seconds, now),
            Request::Confirm { id, hold, amount } => self.confirm(*id, *hold, amount.as_deref(), now),
            Request::Cancel { id, hold } => self.cancel(*id, *hold, now),
            Request::Reverse { id, original, note } => self.reverse(*id, *original, note),
            Request::Close { id, account } => self.close(*id, account),
        };
        let id = request.id().expect("only opening and expiry have none");
        let lines = match verdict {
            Ok(lines) => lines,
            Err(refusal) if refusal.recorded => vec![format!("refused {id} {}", refusal.text)],
            Err(refusal) => return Verdict::Rejected(refusal.text),
        };
        if !lines[0].starts_with("refused") {
            for leg in request.leg_ids() {
                self.used.insert(leg, request.clone());
            }
        }
        self.used.insert(id, request.clone());
        Verdict::Accepted(lines)
    }

    fn open(&mut self, name: &str, note: &Note) -> Verdict {
        match self.accounts.get(name) {
            Some(account) if account.note == *note => Verdict::Unchanged,
            Some(_) => Verdict::Rejected(refusal("account_exists", "none", 0).text),
            None => {
                let number = self.accounts.len();
                self.accounts.insert(name.into(), Account { number, note: note.clone(), closed: false });
                Verdict::Accepted(vec![format!("opened {name} {number} {note:?}")])
            }
        }
    }

    fn well_formed(payment: &Payment) -> Result<(), Refusal> {
        if payment.from == payment.to {
            return Err(refusal("same_account", "none", 0));
        }
        if (payment.from == EXTERNAL) != (payment.kind == Kind::Deposit) {
            return Err(refusal("invalid_account_id", "from", 0));
        }
        if (payment.to == EXTERNAL) != (payment.kind == Kind::Withdrawal) {
            return Err(refusal("invalid_account_id", "to", 0));
        }
        Ok(())
    }

    fn accounts_open(&self, from: &str, to: &str) -> Result<(), Refusal> {
        for (name, party) in [(from, "from"), (to, "to")] {
            if !self.accounts.contains_key(name) {
                return Err(refusal("account_not_found", party, 0));
            }
        }
        for (name, party) in [(from, "from"), (to, "to")] {
            if self.accounts[name].closed {
                return Err(refusal("account_closed", party, 0));
            }
        }
        Ok(())
    }

    /// Moves the money, and says what is available afterwards on both sides.
    fn move_money(&mut self, moved: &Moved) -> Result<(i128, i128), Refusal> {
        let payer = self.money(&moved.from, moved.currency);
        let payee = self.money(&moved.to, moved.currency);
        if moved.from != EXTERNAL && payer.available < moved.minor_units {
            return Err(refusal("insufficient_funds", "from", payer.available));
        }
        if payer.available - moved.minor_units < SMALLEST {
            return Err(refusal("balance_overflow", "from", 0));
        }
        if payee.available + payee.held + moved.minor_units > LARGEST {
            return Err(refusal("balance_overflow", "to", 0));
        }
        let from_after = self.add(&moved.from, moved.currency, -moved.minor_units, 0).available;
        let to_after = self.add(&moved.to, moved.currency, moved.minor_units, 0).available;
        Ok((from_after, to_after))
    }

    fn add(&mut self, account: &str, currency: &'static str, available: i128, held: i128) -> Money {
        let money = self.book.entry((account.to_string(), currency)).or_default();
        money.available += available;
        money.held += held;
        *money
    }

    fn pay(&mut self, payment: &Payment) -> Result<String, Refusal> {
        Self::well_formed(payment)?;
        self.accounts_open(&payment.from, &payment.to)?;
        let moved = Moved {
            from: payment.from.clone(),
            to: payment.to.clone(),
            minor_units: payment.minor_units.into(),
            currency: payment.currency,
            reversed: false,
        };
        let (from_after, to_after) = self.move_money(&moved)?;
        self.moved.insert(payment.id, moved);
        let Payment { id, kind, from, to, minor_units, currency, note } = payment;
        Ok(format!(
            "transferred {id} {kind:?} {from} {to} {minor_units} {currency} {from_after} {to_after} {note:?}"
        ))
    }

    fn group(&mut self, id: u128, legs: &[Payment]) -> Result<Vec<String>, Refusal> {
        let ids: BTreeSet<u128> = legs.iter().map(|leg| leg.id).chain([id]).collect();
        if ids.len() != legs.len() + 1 || legs.is_empty() || legs.len() > LEGS_AT_MOST {
            return Err(refusal("invalid_request", "none", 0));
        }
        let of_leg = |index: usize, refusal: Refusal| Refusal {
            text: format!("{} leg {index}", refusal.text),
            recorded: refusal.recorded,
        };
        for (index, leg) in legs.iter().enumerate() {
            Self::well_formed(leg).map_err(|refusal| of_leg(index, refusal))?;
        }
        let before = (self.book.clone(), self.moved.clone());
        let mut lines = Vec::new();
        for (index, leg) in legs.iter().enumerate() {
            match self.pay(leg) {
                Ok(line) => lines.push(line),
                Err(refusal) => {
                    (self.book, self.moved) = before;
                    return Err(of_leg(index, refusal));
                }
            }
        }
        lines.push(format!("committed {id} {}", legs.len()));
        Ok(lines)
    }

    fn hold(
        &mut self,
        payment: &Payment,
        expires_in_seconds: Option<u32>,
        now: i128,
    ) -> Result<Vec<String>, Refusal> {
        if payment.kind != Kind::Transfer {
            return Err(refusal("invalid_request", "none", 0));
        }
        Self::well_formed(payment)?;
        self.accounts_open(&payment.from, &payment.to)?;
        let minor_units = i128::from(payment.minor_units);
        let before = self.money(&payment.from, payment.currency);
        if before.available < minor_units {
            return Err(refusal("insufficient_funds", "from", before.available));
        }
        let after = self.add(&payment.from, payment.currency, -minor_units, minor_units);
        let expires_at = expires_in_seconds.map(|seconds| now + i128::from(seconds) * 1_000_000);
        let Payment { id, from, to, currency, note, .. } = payment;
        self.holds.insert(
            *id,
            Hold {
                from: from.clone(),
                to: to.clone(),
                minor_units,
                currency,
                expires_at,
                status: HoldStatus::Pending,
            },
        );
        let Money { available, held } = after;
        Ok(vec![format!(
            "held {id} {from} {to} {minor_units} {currency} {expires_at:?} {available} {held} {note:?}"
        )])
    }

    fn pending(&self, hold: u128, now: i128) -> Result<Hold, Refusal> {
        let hold = self.holds.get(&hold).ok_or_else(|| refusal("transaction_not_found", "none", 0))?;
        match hold.status {
            HoldStatus::Settled => Err(refusal("hold_not_pending", "none", 0)),
            HoldStatus::Lapsed => Err(refusal("hold_expired", "none", 0)),
            HoldStatus::Pending if hold.expires_at.is_some_and(|expires_at| now >= expires_at) => {
                Err(refusal("hold_expired", "none", 0))
            }
            HoldStatus::Pending => Ok(hold.clone()),
        }
    }

    fn confirm(
        &mut self,
        id: u128,
        hold_id: u128,
        amount: Option<&str>,
        now: i128,
    ) -> Result<Vec<String>, Refusal> {
        let hold = self.pending(hold_id, now)?;
        let minor_units = match amount {
            None => hold.minor_units,
            Some(text) => {
                minor_units(text, hold.currency).ok_or_else(|| refusal("invalid_amount", "none", 0))?
            }
        };
        if minor_units > hold.minor_units {
            return Err(refusal("amount_exceeds_hold", "none", hold.minor_units));
        }
        if self.accounts[&hold.to].closed {
            return Err(refusal("account_closed", "to", 0));
        }
        let payee = self.money(&hold.to, hold.currency);
        if payee.available + payee.held + minor_units > LARGEST {
            return Err(refusal("balance_overflow", "to", 0));
        }
        let released = hold.minor_units - minor_units;
        let payer = self.add(&hold.from, hold.currency, released, -hold.minor_units);
        let payee = self.add(&hold.to, hold.currency, minor_units, 0);
        self.holds.get_mut(&hold_id).expect("it is pending").status = HoldStatus::Settled;
        let Hold { from, to, currency, .. } = hold;
        let line = format!(
            "confirmed {id} {hold_id} {from} {to} {minor_units} {currency} {} {} {} {released}",
            payer.available, payee.available, payer.held
        );
        self.moved.insert(id, Moved { from, to, minor_units, currency, reversed: false });
        Ok(vec![line])
    }

    fn release(&mut self, id: Option<u128>, hold_id: u128, status: HoldStatus) -> String {
        let hold = self.holds.get_mut(&hold_id).expect("it is pending");
        hold.status = status;
        let Hold { from, minor_units, currency, .. } = hold.clone();
        let Money { available, held } = self.add(&from, currency, minor_units, -minor_units);
        format!("released {id:?} {hold_id} {from} {minor_units} {currency} {available} {held}")
    }

    fn cancel(&mut self, id: u128, hold_id: u128, now: i128) -> Result<Vec<String>, Refusal> {
        self.pending(hold_id, now)?;
        Ok(vec![self.release(Some(id), hold_id, HoldStatus::Settled)])
    }

    fn expire(&mut self, now: i128) -> Verdict {
        let mut lapsed: Vec<(i128, u128)> = Vec::new();
        for (hold_id, hold) in &self.holds {
            if let (HoldStatus::Pending, Some(expires_at)) = (hold.status, hold.expires_at)
                && expires_at <= now
            {
                lapsed.push((expires_at, *hold_id));
            }
        }
        lapsed.sort();
        lapsed.truncate(EXPIRIES_AT_ONCE);
        if lapsed.is_empty() {
            return Verdict::Unchanged;
        }
        let release = |(_, hold_id)| self.release(None, hold_id, HoldStatus::Lapsed);
        Verdict::Accepted(lapsed.into_iter().map(release).collect())
    }

    fn reverse(&mut self, id: u128, original: u128, note: &Note) -> Result<Vec<String>, Refusal> {
        let moved =
            self.moved.get(&original).cloned().ok_or_else(|| refusal("transaction_not_found", "none", 0))?;
        if moved.reversed {
            return Err(refusal("already_reversed", "none", 0));
        }
        let back = Moved { from: moved.to, to: moved.from, ..moved };
        self.accounts_open(&back.from, &back.to)?;
        let (from_after, to_after) = self.move_money(&back)?;
        self.moved.get_mut(&original).expect("it was just found").reversed = true;
        let Moved { from, to, minor_units, currency, .. } = &back;
        let line = format!(
            "reversed {id} {original} {from} {to} {minor_units} {currency} {from_after} {to_after} {note:?}"
        );
        self.moved.insert(id, back);
        Ok(vec![line])
    }

    fn close(&mut self, id: u128, name: &str) -> Result<Vec<String>, Refusal> {
        if !self.accounts.contains_key(name) {
            return Err(refusal("account_not_found", "from", 0));
        }
        if name == EXTERNAL {
            return Err(refusal("invalid_account_id", "from", 0));
        }
        let account = self.accounts.get_mut(name).expect("it was just found");
        if account.closed {
            return Err(refusal("account_closed", "from", 0));
        }
        let mut money = self.book.iter().filter(|((owner, _), _)| owner == name);
        if money.any(|(_, money)| *money != Money::default()) {
            return Err(refusal("account_not_empty", "from", 0));
        }
        account.closed = true;
        Ok(vec![format!("closed {id} {name}")])
    }
}

/// Equal but for how an amount was written: `"5.0"` and `"5.00"` ask for the same.
fn same_content(one: &Request, two: &Request) -> bool {
    let plain = |request: &Request| match request.clone() {
        Request::Confirm { id, hold, amount: Some(text) } if text.contains('.') => {
            let text = text.trim_end_matches('0').trim_end_matches('.').to_string();
            Request::Confirm { id, hold, amount: Some(text) }
        }
        other => other,
    };
    plain(one) == plain(two)
}

/// Major units as text in minor units, by moving the point in the text.
fn minor_units(text: &str, currency: &str) -> Option<i128> {
    let (_, exponent) = CURRENCIES.into_iter().find(|(code, _)| *code == currency)?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if fraction.len() > exponent {
        return None;
    }
    let minor_units: i128 = format!("{whole}{fraction:0<exponent$}").parse().ok()?;
    (1..=LARGEST).contains(&minor_units).then_some(minor_units)
}
