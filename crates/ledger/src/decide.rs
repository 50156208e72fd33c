//! Deciding: a command becomes events, or a refusal, which is an event too.
//!
//! The order of checks is part of the contract, because the first that fails is the one that is told:
//!
//! 1. malformed (a payer that is its own payee, a system account named by a user; any leg of a group): rejected, not
//!    recorded;
//! 2. the earlier transaction: `transaction_not_found`, `already_reversed`, `hold_not_pending`, `hold_expired`,
//!    `invalid_amount` (rejected), `amount_exceeds_hold`;
//! 3. the accounts, payer before payee: `account_not_found`, then `account_closed`;
//! 4. the money: `insufficient_funds`, then `balance_overflow`;
//! 5. closing: `account_not_empty`.
//!
//! A transaction_id that was used before never comes this far: its answer is repeated, or `transaction_id_reused`.

use crate::{
    AccountId, AccountNumber, AccountRef, Amount, Balance, Command, Currency, DecimalAmount,
    EXPIRIES_PER_COMMAND_MAX, Event, Events, GROUP_LEGS_MAX, Group, Hold, HoldRequest, Metadata, Movement,
    Party, Refusal, RefusalCode, State, Timestamp, Transaction, TransactionId, Transfer, TransferKind,
};

/// What became of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// These events happen, a recorded refusal among them. Never empty.
    Accepted(Events),
    /// Nothing happens and nothing is remembered: the command was malformed, or opens an account that another has.
    Rejected(Refusal),
    /// Nothing happens: the command has nothing to do. The account exists just so, or no hold has lapsed.
    Unchanged,
}

/// Balances as they stand while the legs of a group are decided one after the other.
trait Balances {
    fn balance(&self, account: AccountNumber, currency: Currency) -> Balance;
}

impl Balances for State {
    fn balance(&self, account: AccountNumber, currency: Currency) -> Balance {
        State::balance(self, account, currency)
    }
}

/// The state, with what earlier legs of the same group changed.
struct Overlay<'state> {
    state: &'state State,
    changed: Vec<((AccountNumber, Currency), Balance)>,
}

impl Balances for Overlay<'_> {
    fn balance(&self, account: AccountNumber, currency: Currency) -> Balance {
        let changed = self.changed.iter().find(|(key, _)| *key == (account, currency));
        changed.map_or_else(|| self.state.balance(account, currency), |(_, balance)| *balance)
    }
}

impl Overlay<'_> {
    fn set_available(&mut self, account: AccountNumber, currency: Currency, available: i64) {
        let held = self.balance(account, currency).held;
        let key = (account, currency);
        self.changed.retain(|(other, _)| *other != key);
        self.changed.push((key, Balance { available, held }));
    }
}

impl State {
    /// Decides one command at the time that the leader stamped.
    ///
    /// `referenced` is what is recorded of [`Command::referenced_id`]; `None` when nothing is, or the command has none.
    /// The caller has made sure that the command's own transaction_id is new.
    pub fn decide(&self, command: &Command, now: Timestamp, referenced: Option<&Transaction>) -> Decision {
        match command {
            Command::Transfer(transfer) => match self.decide_transfer(transfer) {
                Ok(movement) => Decision::Accepted(Events::One(transferred(transfer, movement))),
                Err(refusal) => refused(transfer.transaction_id, refusal),
            },
            Command::OpenAccount { account_id, metadata } => self.decide_open(account_id, metadata),
            Command::Group(group) => self.decide_group(group),
            Command::Hold(request) => {
                or_refused(request.transfer.transaction_id, self.decide_hold(request, now))
            }
            Command::ConfirmHold { transaction_id, hold_id, amount } => or_refused(
                *transaction_id,
                self.decide_confirm(*transaction_id, *hold_id, *amount, now, referenced),
            ),
            Command::CancelHold { transaction_id, hold_id } => {
                let hold = self.pending_hold(*hold_id, now, referenced);
                or_refused(
                    *transaction_id,
                    hold.map(|hold| self.released(Some(*transaction_id), *hold_id, hold)),
                )
            }
            Command::Reverse { transaction_id, original_id, metadata } => {
                let movement = self.decide_reverse(referenced);
                or_refused(
                    *transaction_id,
                    movement.map(|movement| Event::Reversed {
                        transaction_id: *transaction_id,
                        original_id: *original_id,
                        movement,
                        metadata: metadata.clone(),
                    }),
                )
            }
            Command::CloseAccount { transaction_id, account } => {
                or_refused(*transaction_id, self.decide_close(*transaction_id, account))
            }
            Command::ExpireHolds => self.decide_expiries(now),
        }
    }

    /// The hot path: one movement between two accounts, or why not.
    pub fn decide_transfer(&self, transfer: &Transfer) -> Result<Movement, Refusal> {
        let (from, to) = self.parties(transfer)?;
        check_movement(self, from, to, transfer.amount, transfer.currency)
    }

    /// Both accounts of a transfer: well-formed, existing, open.
    fn parties(&self, transfer: &Transfer) -> Result<(AccountNumber, AccountNumber), Refusal> {
        let (from, to) = self.well_formed(transfer)?;
        let from = from.ok_or(Refusal::of(RefusalCode::AccountNotFound, Party::From))?;
        let to = to.ok_or(Refusal::of(RefusalCode::AccountNotFound, Party::To))?;
        self.check_open(from, Party::From)?;
        self.check_open(to, Party::To)?;
        Ok((from, to))
    }

    /// Both accounts, where they exist, of a transfer between two that its kind allows.
    fn well_formed(
        &self,
        transfer: &Transfer,
    ) -> Result<(Option<AccountNumber>, Option<AccountNumber>), Refusal> {
        let from = self.number(&transfer.from);
        let to = self.number(&transfer.to);
        if transfer.from == transfer.to || (from.is_some() && from == to) {
            return Err(Refusal::new(RefusalCode::SameAccount));
        }
        if (from == Some(AccountNumber::EXTERNAL)) != (transfer.kind == TransferKind::Deposit) {
            return Err(Refusal::of(RefusalCode::InvalidAccountId, Party::From));
        }
        if (to == Some(AccountNumber::EXTERNAL)) != (transfer.kind == TransferKind::Withdrawal) {
            return Err(Refusal::of(RefusalCode::InvalidAccountId, Party::To));
        }
        Ok((from, to))
    }

    fn number(&self, account: &AccountRef) -> Option<AccountNumber> {
        match account {
            AccountRef::Number(number) => (number.0 < self.account_numbers()).then_some(*number),
            AccountRef::Named(name) => self.resolve(name.as_str()),
        }
    }

    fn check_open(&self, account: AccountNumber, party: Party) -> Result<(), Refusal> {
        if self.is_closed(account) { Err(Refusal::of(RefusalCode::AccountClosed, party)) } else { Ok(()) }
    }

    fn decide_open(&self, account_id: &AccountId, metadata: &Metadata) -> Decision {
        let Some(existing) = self.resolve(account_id.as_str()) else {
            return Decision::Accepted(Events::One(Event::AccountOpened {
                account: AccountNumber(self.account_numbers()),
                account_id: account_id.clone(),
                metadata: metadata.clone(),
            }));
        };
        let same = self.details(existing).is_some_and(|details| details.metadata == *metadata);
        if same { Decision::Unchanged } else { Decision::Rejected(Refusal::new(RefusalCode::AccountExists)) }
    }

    fn decide_group(&self, group: &Group) -> Decision {
        let ids = group.legs.iter().map(|leg| leg.transaction_id).chain([group.transaction_id]);
        let mut sorted: Vec<TransactionId> = ids.collect();
        sorted.sort_unstable();
        let repeated = sorted.windows(2).any(|pair| pair[0] == pair[1]);
        if repeated || group.legs.is_empty() || group.legs.len() > GROUP_LEGS_MAX {
            return Decision::Rejected(Refusal::new(RefusalCode::InvalidRequest));
        }
        // Every leg first: a malformed group leaves no trace, even when an earlier leg would be refused and recorded.
        for (index, leg) in group.legs.iter().enumerate() {
            if let Err(refusal) = self.well_formed(leg) {
                return Decision::Rejected(Refusal { leg: Some(index as u8), ..refusal });
            }
        }
        let mut overlay = Overlay { state: self, changed: Vec::new() };
        let mut events = Vec::with_capacity(group.legs.len() + 1);
        for (index, leg) in group.legs.iter().enumerate() {
            let movement = self
                .parties(leg)
                .and_then(|(from, to)| check_movement(&overlay, from, to, leg.amount, leg.currency));
            match movement {
                Ok(movement) => {
                    overlay.set_available(movement.from, movement.currency, movement.from_after);
                    overlay.set_available(movement.to, movement.currency, movement.to_after);
                    events.push(transferred(leg, movement));
                }
                Err(refusal) => {
                    let leg = Some(index as u8);
                    return refused(group.transaction_id, Refusal { leg, ..refusal });
                }
            }
        }
        events.push(Event::GroupCommitted {
            transaction_id: group.transaction_id,
            legs: group.legs.len() as u8,
        });
        Decision::Accepted(Events::Many(events))
    }

    fn decide_hold(&self, request: &HoldRequest, now: Timestamp) -> Result<Event, Refusal> {
        let transfer = &request.transfer;
        if transfer.kind != TransferKind::Transfer {
            return Err(Refusal::new(RefusalCode::InvalidRequest));
        }
        let (from, to) = self.parties(transfer)?;
        let amount = transfer.amount.signed();
        let balance = self.balance(from, transfer.currency);
        if balance.available < amount {
            return Err(insufficient(balance));
        }
        let held_after =
            balance.held.checked_add(amount).ok_or(Refusal::of(RefusalCode::BalanceOverflow, Party::From))?;
        Ok(Event::Held {
            hold_id: transfer.transaction_id,
            hold: Hold {
                from,
                to,
                amount: transfer.amount,
                currency: transfer.currency,
                expires_at: request.expires_in_seconds.map(|seconds| now.plus_seconds(seconds)),
            },
            available_after: balance.available - amount,
            held_after,
            metadata: transfer.metadata.clone(),
        })
    }

    /// The hold, when it still can be settled at `now`.
    fn pending_hold(
        &self,
        hold_id: TransactionId,
        now: Timestamp,
        referenced: Option<&Transaction>,
    ) -> Result<&Hold, Refusal> {
        if let Some(hold) = self.hold(hold_id) {
            return if hold.is_expired(now) { Err(Refusal::new(RefusalCode::HoldExpired)) } else { Ok(hold) };
        }
        let settled =
            referenced.filter(|transaction| matches!(transaction.outcome().event, Event::Held { .. }));
        let Some(settled) = settled else {
            return Err(Refusal::new(RefusalCode::TransactionNotFound));
        };
        let lapsed = settled
            .records
            .iter()
            .any(|record| matches!(record.event, Event::HoldReleased { transaction_id: None, .. }));
        Err(Refusal::new(if lapsed { RefusalCode::HoldExpired } else { RefusalCode::HoldNotPending }))
    }

    fn decide_confirm(
        &self,
        transaction_id: TransactionId,
        hold_id: TransactionId,
        amount: Option<DecimalAmount>,
        now: Timestamp,
        referenced: Option<&Transaction>,
    ) -> Result<Event, Refusal> {
        let hold = self.pending_hold(hold_id, now, referenced)?;
        let amount = match amount {
            None => hold.amount,
            Some(decimal) => {
                decimal.in_currency(hold.currency).map_err(|_| Refusal::new(RefusalCode::InvalidAmount))?
            }
        };
        if amount > hold.amount {
            let available = hold.amount.signed();
            return Err(Refusal { available, ..Refusal::new(RefusalCode::AmountExceedsHold) });
        }
        self.check_open(hold.to, Party::To)?;
        let payer = self.balance(hold.from, hold.currency);
        let released = hold.amount.minor_units() - amount.minor_units();
        let to_after = credited(self.balance(hold.to, hold.currency), amount)?;
        Ok(Event::HoldConfirmed {
            transaction_id,
            hold_id,
            movement: Movement {
                from: hold.from,
                to: hold.to,
                amount,
                currency: hold.currency,
                from_after: payer.available + released as i64,
                to_after,
            },
            held_after: payer.held - hold.amount.signed(),
            released,
        })
    }

    fn released(&self, transaction_id: Option<TransactionId>, hold_id: TransactionId, hold: &Hold) -> Event {
        self.released_from(self.balance(hold.from, hold.currency), transaction_id, hold_id, hold)
    }

    fn released_from(
        &self,
        balance: Balance,
        transaction_id: Option<TransactionId>,
        hold_id: TransactionId,
        hold: &Hold,
    ) -> Event {
        Event::HoldReleased {
            transaction_id,
            hold_id,
            account: hold.from,
            amount: hold.amount,
            currency: hold.currency,
            available_after: balance.available + hold.amount.signed(),
            held_after: balance.held - hold.amount.signed(),
        }
    }

    fn decide_reverse(&self, referenced: Option<&Transaction>) -> Result<Movement, Refusal> {
        let movement = referenced
            .and_then(Transaction::movement)
            .ok_or(Refusal::new(RefusalCode::TransactionNotFound))?;
        if referenced.is_some_and(Transaction::is_reversed) {
            return Err(Refusal::new(RefusalCode::AlreadyReversed));
        }
        self.check_open(movement.to, Party::From)?;
        self.check_open(movement.from, Party::To)?;
        check_movement(self, movement.to, movement.from, movement.amount, movement.currency)
    }

    fn decide_close(&self, transaction_id: TransactionId, account: &AccountRef) -> Result<Event, Refusal> {
        let account = self.number(account).ok_or(Refusal::of(RefusalCode::AccountNotFound, Party::From))?;
        if account == AccountNumber::EXTERNAL {
            return Err(Refusal::of(RefusalCode::InvalidAccountId, Party::From));
        }
        self.check_open(account, Party::From)?;
        if self.balances(account).iter().any(|(_, balance)| *balance != Balance::default()) {
            return Err(Refusal::of(RefusalCode::AccountNotEmpty, Party::From));
        }
        Ok(Event::AccountClosed { transaction_id, account })
    }

    /// Soonest first, a bounded number at a time: the leader asks again while more have lapsed.
    fn decide_expiries(&self, now: Timestamp) -> Decision {
        let mut overlay: Vec<((AccountNumber, Currency), Balance)> = Vec::new();
        let mut events = Vec::new();
        for (hold_id, hold) in self.holds.expired(now).take(EXPIRIES_PER_COMMAND_MAX) {
            let key = (hold.from, hold.currency);
            let known = overlay.iter().position(|(other, _)| *other == key).unwrap_or_else(|| {
                overlay.push((key, self.balance(hold.from, hold.currency)));
                overlay.len() - 1
            });
            let balance = &mut overlay[known].1;
            events.push(self.released_from(*balance, None, hold_id, hold));
            balance.available += hold.amount.signed();
            balance.held -= hold.amount.signed();
        }
        match events.len() {
            0 => Decision::Unchanged,
            1 => Decision::Accepted(Events::One(events.remove(0))),
            _ => Decision::Accepted(Events::Many(events)),
        }
    }
}

/// The money of one movement: the payer has it, the payee can take it.
fn check_movement(
    balances: &impl Balances,
    from: AccountNumber,
    to: AccountNumber,
    amount: Amount,
    currency: Currency,
) -> Result<Movement, Refusal> {
    let payer = balances.balance(from, currency);
    if from != AccountNumber::EXTERNAL && payer.available < amount.signed() {
        return Err(insufficient(payer));
    }
    let overflow = Refusal::of(RefusalCode::BalanceOverflow, Party::From);
    let from_after = payer.available.checked_sub(amount.signed()).ok_or(overflow)?;
    let to_after = credited(balances.balance(to, currency), amount)?;
    Ok(Movement { from, to, amount, currency, from_after, to_after })
}

/// The payee's available balance with the amount; its total must stay in range too, so that a release never overflows.
fn credited(balance: Balance, amount: Amount) -> Result<i64, Refusal> {
    let overflow = Refusal::of(RefusalCode::BalanceOverflow, Party::To);
    let available = balance.available.checked_add(amount.signed()).ok_or(overflow)?;
    available.checked_add(balance.held).map(|_| available).ok_or(overflow)
}

fn insufficient(balance: Balance) -> Refusal {
    Refusal { available: balance.available, ..Refusal::of(RefusalCode::InsufficientFunds, Party::From) }
}

fn transferred(transfer: &Transfer, movement: Movement) -> Event {
    Event::Transferred {
        transaction_id: transfer.transaction_id,
        kind: transfer.kind,
        movement,
        metadata: transfer.metadata.clone(),
    }
}

fn or_refused(transaction_id: TransactionId, outcome: Result<Event, Refusal>) -> Decision {
    match outcome {
        Ok(event) => Decision::Accepted(Events::One(event)),
        Err(refusal) => refused(transaction_id, refusal),
    }
}

/// A business refusal is an event; a malformed command leaves no trace.
fn refused(transaction_id: TransactionId, refusal: Refusal) -> Decision {
    match refusal.is_recorded() {
        true => Decision::Accepted(Events::One(Event::Refused { transaction_id, refusal })),
        false => Decision::Rejected(refusal),
    }
}
