//! Drives the ledger as a partition does, and holds every step against the model, a replica and a restored copy.

use std::collections::BTreeMap;

use ledger::codec::{Body, BodyWriter};
use ledger::{
    AccountNumber, Command, Currency, Decision, Event, Metadata, Movement, Party, Record, Refusal, Sequence,
    State, Timestamp, Transaction, TransactionId, TransferKind,
};

use crate::generator::Step;
use crate::model::{HoldStatus, Model, Verdict};
use crate::request::{EXTERNAL, Request};

/// What is recorded of every transaction_id, as a partition's index and journal would answer.
#[derive(Debug, Default)]
pub(crate) struct Records(BTreeMap<TransactionId, Transaction>);

impl Records {
    pub(crate) fn get(&self, id: Option<TransactionId>) -> Option<&Transaction> {
        self.0.get(&id?)
    }

    pub(crate) fn add(&mut self, command: &Command, timestamp: Timestamp, sequence: Sequence, event: &Event) {
        let record = Record { sequence, timestamp, event: event.clone() };
        if let Some(transaction_id) = event.transaction_id() {
            let command = command.clone();
            let known = self.0.insert(
                transaction_id,
                Transaction { transaction_id, command, records: vec![record.clone()] },
            );
            assert!(known.is_none(), "{transaction_id} has two outcomes");
        }
        if let Some(earlier) = event.referenced_id() {
            self.0.get_mut(&earlier).expect("an event changes the fate of a known one").records.push(record);
        }
    }
}

pub(crate) struct Harness {
    pub(crate) state: State,
    pub(crate) model: Model,
    /// Fed with encoded bodies only, as a follower or a replay is.
    replica: State,
    records: Records,
    /// Fed with nothing but the postings of events, as the history of accounts is.
    postings: BTreeMap<(AccountNumber, Currency), (i64, i64)>,
    pub(crate) now: Timestamp,
    /// All that was recorded, for the checks of one body with everything in it.
    pub(crate) history: Vec<(Command, Vec<Event>)>,
}

impl Harness {
    pub(crate) fn new() -> Harness {
        Harness {
            state: State::new(),
            model: Model::new(),
            replica: State::new(),
            records: Records::default(),
            postings: BTreeMap::new(),
            now: Timestamp::from_micros(0),
            history: Vec::new(),
        }
    }

    /// One request as it arrives in a quiet moment.
    pub(crate) fn ask(&mut self, request: &Request, advance_micros: i64) -> Verdict {
        self.step(&Step { request: request.clone(), advance_micros, resolve: true, restart: false })
    }

    /// What the ledger and the model agree on.
    pub(crate) fn step(&mut self, step: &Step) -> Verdict {
        self.now = Timestamp::from_micros(self.now.as_micros() + step.advance_micros);
        if step.restart {
            self.state = restored(&self.state);
        }
        let mut command = step.request.to_command();
        if step.resolve {
            command.resolve(&self.state);
        }
        let expected = self.model.execute(&step.request, self.now.as_micros().into());
        let seen = self.execute(&step.request, &command);
        assert_eq!(seen, expected, "the ledger (left) and the model (right) disagree about {step:?}");
        self.check_balances();
        self.check_holds();
        assert_eq!(self.state.digest(), self.replica.digest(), "the replay differs after {step:?}");
        seen
    }

    /// Decides and executes on the ledger, and tells it in the words of the model.
    fn execute(&mut self, request: &Request, command: &Command) -> Verdict {
        if let Some(first) = self.records.get(command.transaction_id()) {
            let same = first.transaction_id == first.command.transaction_id().unwrap_or(TransactionId(0))
                && first.command.same_content(command, &self.state);
            return if same { Verdict::Repeated } else { Verdict::Reused };
        }
        if request.leg_ids().iter().any(|id| self.records.get(Some(TransactionId(*id))).is_some()) {
            return Verdict::Reused;
        }
        let before = self.state.digest();
        let referenced = self.records.get(command.referenced_id());
        let events = match self.state.decide(command, self.now, referenced) {
            Decision::Unchanged => return Verdict::Unchanged,
            Decision::Rejected(refusal) => {
                assert!(!refusal.is_recorded(), "{refusal:?} leaves no trace");
                return Verdict::Rejected(tell_refusal(&refusal));
            }
            Decision::Accepted(events) => events.to_vec(),
        };
        assert_eq!(self.state.digest(), before, "deciding changes nothing");
        let first_sequence = self.state.sequence().next();
        self.state.apply_all(self.now, &events);
        let lines = events.iter().map(|event| self.tell(event)).collect();
        self.replicate(command, &events, first_sequence);
        self.check_postings(&events);
        for (index, event) in events.iter().enumerate() {
            let sequence = Sequence(first_sequence.0 + index as u64);
            self.records.add(command, self.now, sequence, event);
        }
        self.history.push((command.clone(), events));
        Verdict::Accepted(lines)
    }

    /// Encodes, decodes, decides again, applies: what a follower, a replay and `verify` do between them.
    fn replicate(&mut self, command: &Command, events: &[Event], first_sequence: Sequence) {
        let mut writer = BodyWriter::new();
        writer.push(command, events);
        let bytes = bytes_of(&writer);
        let body = Body::parse(&bytes, first_sequence).unwrap();
        let entries: Vec<_> = body.entries().collect::<Result<_, _>>().unwrap();
        let [entry] = entries.as_slice() else { panic!("one command was written, {entries:?} read") };
        assert_eq!((&entry.command, entry.events.as_slice()), (command, events));
        assert_eq!(entry.first_sequence, first_sequence);
        let referenced = self.records.get(entry.command.referenced_id());
        let again = self.replica.decide(&entry.command, self.now, referenced);
        assert_eq!(again, Decision::Accepted(entry.events.clone()), "deciding again differs");
        for event in entry.events.iter() {
            self.replica.try_apply(self.now, event).unwrap();
        }
    }

    fn check_postings(&mut self, events: &[Event]) {
        for change in events.iter().flat_map(Event::balance_changes).flatten() {
            let (available, held) = self.postings.entry((change.account, change.currency)).or_default();
            *available += change.available_change;
            assert_eq!(*available, change.available_after, "the postings do not add up: {change:?}");
            if let Some(held_after) = change.held_after {
                *held = held_after;
            }
        }
    }

    fn check_balances(&self) {
        let mut rows = 0;
        for number in (0..self.state.account_numbers()).map(AccountNumber) {
            let name = self.state.account_id(number).unwrap().as_str();
            let account = &self.model.accounts[name];
            assert_eq!((account.number, account.closed), (number.index(), self.state.is_closed(number)));
            assert_eq!(self.state.resolve(name), Some(number));
            for (currency, balance) in self.state.balances(number) {
                rows += 1;
                let money = self.model.book[&(name.to_string(), currency.code())];
                assert_eq!((money.available, money.held), (balance.available.into(), balance.held.into()));
                assert_eq!(self.state.balance(number, currency), balance);
                assert_eq!(self.postings[&(number, currency)], (balance.available, balance.held));
                assert!(balance.held >= 0, "{name} holds {balance:?}");
                assert!(name == EXTERNAL || balance.available >= 0, "{name} has {balance:?}");
            }
        }
        assert_eq!(rows, self.model.book.len(), "the same accounts have the same currencies");
        assert_eq!(self.state.account_count() as usize + 1, self.model.accounts.len());
        for totals in self.state.totals() {
            assert_eq!(totals.sum, 0, "{} does not sum to zero", totals.currency);
        }
    }

    fn check_holds(&self) {
        let model = self.model.holds.iter().filter(|(_, hold)| hold.status == HoldStatus::Pending);
        let expected: Vec<_> = model
            .map(|(id, hold)| (*id, hold.from.clone(), hold.to.clone(), hold.minor_units, hold.expires_at))
            .collect();
        let name = |number| self.state.account_id(number).unwrap().to_string();
        let seen: Vec<_> = self
            .state
            .holds()
            .map(|(id, hold)| {
                let expires_at = hold.expires_at.map(|at| i128::from(at.as_micros()));
                (id.0, name(hold.from), name(hold.to), i128::from(hold.amount.signed()), expires_at)
            })
            .collect();
        assert_eq!(seen, expected);
        let next = expected.iter().filter_map(|(.., expires_at)| *expires_at).min();
        assert_eq!(self.state.next_expiry().map(|at| i128::from(at.as_micros())), next);
    }

    fn name(&self, number: AccountNumber) -> &str {
        self.state.account_id(number).unwrap().as_str()
    }

    fn tell_movement(&self, movement: &Movement) -> String {
        let (from, to) = (self.name(movement.from), self.name(movement.to));
        let Movement { amount, currency, from_after, to_after, .. } = movement;
        format!("{from} {to} {} {currency} {from_after} {to_after}", amount.minor_units())
    }

    fn tell(&self, event: &Event) -> String {
        match event {
            Event::AccountOpened { account, account_id, metadata } => {
                format!("opened {account_id} {} {}", account.0, tell_note(metadata))
            }
            Event::Transferred { transaction_id, kind, movement, metadata } => {
                let kind = match kind {
                    TransferKind::Transfer => "Transfer",
                    TransferKind::Deposit => "Deposit",
                    TransferKind::Withdrawal => "Withdrawal",
                };
                let id = transaction_id.0;
                format!("transferred {id} {kind} {} {}", self.tell_movement(movement), tell_note(metadata))
            }
            Event::Held { hold_id, hold, available_after, held_after, metadata } => format!(
                "held {} {} {} {} {} {:?} {available_after} {held_after} {}",
                hold_id.0,
                self.name(hold.from),
                self.name(hold.to),
                hold.amount.minor_units(),
                hold.currency,
                hold.expires_at.map(Timestamp::as_micros),
                tell_note(metadata)
            ),
            Event::HoldConfirmed { transaction_id, hold_id, movement, held_after, released } => {
                let movement = self.tell_movement(movement);
                format!("confirmed {} {} {movement} {held_after} {released}", transaction_id.0, hold_id.0)
            }
            Event::HoldReleased {
                transaction_id,
                hold_id,
                account,
                amount,
                currency,
                available_after,
                held_after,
            } => {
                let id = transaction_id.map(|id| id.0);
                let (hold_id, account, amount) = (hold_id.0, self.name(*account), amount.minor_units());
                format!(
                    "released {id:?} {hold_id} {account} {amount} {currency} {available_after} {held_after}"
                )
            }
            Event::Reversed { transaction_id, original_id, movement, metadata } => {
                let (id, original, movement) =
                    (transaction_id.0, original_id.0, self.tell_movement(movement));
                format!("reversed {id} {original} {movement} {}", tell_note(metadata))
            }
            Event::AccountClosed { transaction_id, account } => {
                format!("closed {} {}", transaction_id.0, self.name(*account))
            }
            Event::GroupCommitted { transaction_id, legs } => {
                format!("committed {} {legs}", transaction_id.0)
            }
            Event::Refused { transaction_id, refusal } => {
                assert!(refusal.is_recorded(), "{refusal:?} is no event");
                format!("refused {} {}", transaction_id.0, tell_refusal(refusal))
            }
        }
    }
}

fn tell_note(metadata: &Metadata) -> String {
    format!("{:?}", metadata.iter().collect::<Vec<_>>())
}

pub(crate) fn tell_refusal(refusal: &Refusal) -> String {
    let party = match refusal.party {
        Party::None => "none",
        Party::From => "from",
        Party::To => "to",
    };
    let leg = refusal.leg.map_or(String::new(), |leg| format!(" leg {leg}"));
    format!("{} {party} {}{leg}", refusal.code.name(), refusal.available)
}

pub(crate) fn bytes_of(writer: &BodyWriter) -> Vec<u8> {
    let mut bytes = Vec::new();
    writer.write(|part| bytes.extend_from_slice(part));
    assert_eq!(bytes.len(), writer.size_bytes());
    bytes
}

/// A state put back from what the getters say, as a checkpoint does.
pub(crate) fn restored(state: &State) -> State {
    let mut copy = State::new();
    for number in (0..state.account_numbers()).map(AccountNumber) {
        if number != AccountNumber::EXTERNAL {
            assert_eq!(copy.restore_account(state.details(number).unwrap().clone()), number);
        }
        for (currency, balance) in state.balances(number) {
            copy.restore_balance(number, currency, balance);
        }
        if state.is_closed(number) {
            copy.restore_closed(number);
        }
    }
    for (hold_id, hold) in state.holds() {
        copy.restore_hold(hold_id, *hold);
    }
    copy.restore_position(state.sequence(), state.timestamp());
    assert_eq!(copy.digest(), state.digest(), "the restored state differs");
    copy
}
