//! One event as the contract shows it: in the answer about a transaction, in the event stream, in webhooks.

use ledger::{AccountNumber, Command, Currency, Event, Metadata, Record};
use serde::Serialize;
use serde::ser::SerializeMap;
use serde_json::Value;

use crate::format_timestamp;
use crate::response::{Names, account_name, command_type, money, transfer_type};

/// Every type of event on the wire, and what it says.
pub const TYPES: &[(&str, &str)] = &[
    ("account_opened", "An account exists: account_id, handle, and its metadata where it has some"),
    ("transfer", "Money moved between two accounts, alone or as a leg of a group"),
    ("deposit", "Money came in from @external"),
    ("withdrawal", "Money went out to @external"),
    (
        "hold",
        "Money was set aside for a payee: it left the payer's available balance and is held; expires_at is null when it never lapses",
    ),
    (
        "hold_confirmed",
        "A hold was paid out; `released` went back to the payer, referenced_transaction_id is the hold",
    ),
    ("hold_cancelled", "A hold was released by its owner; referenced_transaction_id is the hold"),
    ("hold_expired", "A hold lapsed and was released; referenced_transaction_id is the hold"),
    ("reversal", "The money of referenced_transaction_id moved back"),
    ("account_closed", "An account takes no more commands"),
    ("group_committed", "The `legs` events before this one happened all together"),
    (
        "refused",
        "A command was refused for ever: code, refused_type (the type of the event that was asked for), what it asked for where it asked for one \
         movement, and of leg_refused the leg with its own leg_code",
    ),
];

/// The type of an event on the wire.
pub fn type_of(event: &Event) -> &'static str {
    match event {
        Event::AccountOpened { .. } => "account_opened",
        Event::Transferred { kind, .. } => transfer_type(*kind),
        Event::Held { .. } => "hold",
        Event::HoldConfirmed { .. } => "hold_confirmed",
        Event::HoldReleased { transaction_id: Some(_), .. } => "hold_cancelled",
        Event::HoldReleased { transaction_id: None, .. } => "hold_expired",
        Event::Reversed { .. } => "reversal",
        Event::AccountClosed { .. } => "account_closed",
        Event::GroupCommitted { .. } => "group_committed",
        Event::Refused { .. } => "refused",
    }
}

/// The accounts that an event is about, whoever they are: those of its postings, a hold's payee, an account opened or closed, and
/// those that a refused command named by number. At most two.
pub fn accounts(event: &Event, command: Option<&Command>) -> [Option<AccountNumber>; 2] {
    match event {
        Event::AccountOpened { account, .. } | Event::AccountClosed { account, .. } => [Some(*account), None],
        Event::Held { hold, .. } => [Some(hold.from), Some(hold.to)],
        Event::Refused { .. } => match command {
            Some(Command::Transfer(transfer)) => [number(&transfer.from), number(&transfer.to)],
            Some(Command::Hold(hold)) => [number(&hold.transfer.from), number(&hold.transfer.to)],
            Some(Command::CloseAccount { account, .. }) => [number(account), None],
            _ => [None, None],
        },
        event => event.balance_changes().map(|change| change.map(|change| change.account)),
    }
}

fn number(account: &ledger::AccountRef) -> Option<AccountNumber> {
    match account {
        ledger::AccountRef::Number(number) => Some(*number),
        ledger::AccountRef::Named(_) => None,
    }
}

/// What an event says beside its position, its ids and its postings.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Details {
    /// The account opened or closed, with its number.
    pub account: Option<(String, Option<AccountNumber>)>,
    /// Payer, payee, minor units and currency of what moved, was set aside, or was refused.
    pub money: Option<(String, String, i64, Currency)>,
    /// What a hold gave back, in minor units.
    pub released: Option<(i64, Currency)>,
}

impl Details {
    /// Of an event; the command matters for a refusal only.
    pub fn of(event: &Event, command: Option<&Command>, names: &impl Names) -> Details {
        let asked = |transfer: &ledger::Transfer| {
            let (from, to) = (account_name(&transfer.from, names), account_name(&transfer.to, names));
            Some((from, to, transfer.amount.signed(), transfer.currency))
        };
        let mut details = Details::default();
        match event {
            Event::AccountOpened { account, account_id, .. } => {
                details.account = Some((account_id.as_str().to_owned(), names.handle(*account)));
            }
            Event::AccountClosed { account, .. } => {
                details.account = Some((names.name(*account), names.handle(*account)));
            }
            Event::Held { hold, .. } => {
                let (from, to) = (names.name(hold.from), names.name(hold.to));
                details.money = Some((from, to, hold.amount.signed(), hold.currency));
            }
            Event::HoldReleased { amount, currency, .. } => {
                details.released = Some((amount.signed(), *currency))
            }
            Event::Refused { .. } => match command {
                Some(Command::Transfer(transfer)) => details.money = asked(transfer),
                Some(Command::Hold(hold)) => details.money = asked(&hold.transfer),
                Some(Command::CloseAccount { account, .. }) => {
                    details.account = Some((account_name(account, names), number(account)));
                }
                _ => {}
            },
            _ => {}
        }
        if let Event::HoldConfirmed { released, movement, .. } = event {
            details.released = Some((*released as i64, movement.currency));
        }
        if let Some(movement) = event.movement() {
            let (from, to) = (names.name(movement.from), names.name(movement.to));
            details.money = Some((from, to, movement.amount.signed(), movement.currency));
        }
        details
    }
}

/// An event that can be written as JSON.
struct Body<'event, N: Names> {
    partition: u32,
    record: &'event Record,
    command: Option<&'event Command>,
    names: &'event N,
}

#[derive(Serialize)]
struct Posting {
    account_id: String,
    currency: &'static str,
    amount: String,
    balance_after: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    held_after: Option<String>,
}

struct Notes<'event>(&'event Metadata);

impl Serialize for Notes<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter())
    }
}

impl<N: Names> Serialize for Body<'_, N> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Record { sequence, timestamp, event } = self.record;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("type", type_of(event))?;
        map.serialize_entry("partition", &self.partition)?;
        map.serialize_entry("sequence", &sequence.0)?;
        map.serialize_entry("timestamp", &format_timestamp(*timestamp))?;
        if let Some(transaction_id) = event.transaction_id() {
            map.serialize_entry("transaction_id", &transaction_id.to_string())?;
        }
        if let Some(referenced) = event.referenced_id() {
            map.serialize_entry("referenced_transaction_id", &referenced.to_string())?;
        }
        if let Event::Refused { refusal, .. } = event {
            map.serialize_entry("code", refusal.name())?;
            if let Some(command) = self.command {
                map.serialize_entry("refused_type", command_type(command))?;
            }
            if let Some(leg) = refusal.leg {
                map.serialize_entry("leg", &leg)?;
                map.serialize_entry("leg_code", refusal.code.name())?;
            }
        }
        let details = Details::of(event, self.command, self.names);
        if let Some((account_id, handle)) = &details.account {
            map.serialize_entry("account_id", account_id)?;
            if let Some(handle) = handle {
                map.serialize_entry("handle", &handle.0)?;
            }
        }
        if let Some((from, to, amount, currency)) = &details.money {
            map.serialize_entry("from_account", from)?;
            map.serialize_entry("to_account", to)?;
            map.serialize_entry("amount", &money(*amount, *currency))?;
            map.serialize_entry("currency", currency.code())?;
        }
        if let Some((released, currency)) = details.released {
            map.serialize_entry("released", &money(released, currency))?;
        }
        match event {
            Event::Held { hold, .. } => {
                map.serialize_entry("expires_at", &hold.expires_at.map(format_timestamp))?
            }
            Event::GroupCommitted { legs, .. } => map.serialize_entry("legs", legs)?,
            _ => {}
        }
        let changes = event.balance_changes();
        if changes[0].is_some() {
            let postings = changes.into_iter().flatten().map(|change| Posting {
                account_id: self.names.name(change.account),
                currency: change.currency.code(),
                amount: money(change.available_change, change.currency),
                balance_after: money(change.available_after, change.currency),
                held_after: change.held_after.map(|held| money(held, change.currency)),
            });
            map.serialize_entry("postings", &postings.collect::<Vec<_>>())?;
        }
        if let Some(notes) = event.metadata().filter(|notes| !notes.is_empty()) {
            map.serialize_entry("metadata", &Notes(notes))?;
        }
        map.end()
    }
}

/// An event with its position and what it left behind. The command matters for a refusal only: it says what was asked for.
pub fn value(partition: u32, record: &Record, command: Option<&Command>, names: &impl Names) -> Value {
    serde_json::to_value(Body { partition, record, command, names }).expect("every key is a string")
}

/// As [`value`], written straight to the end of a text, without line breaks.
pub fn write(
    text: &mut Vec<u8>,
    partition: u32,
    record: &Record,
    command: Option<&Command>,
    names: &impl Names,
) {
    let body = Body { partition, record, command, names };
    serde_json::to_writer(text, &body).expect("every key is a string, and a vector takes every byte");
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use ledger::{Amount, Movement, Sequence, Timestamp, TransactionId, TransferKind};

    use super::*;

    #[test]
    fn both_ways_of_writing_say_the_same() {
        let currency = Currency::parse("USD").expect("a currency");
        let (from, to) = (AccountNumber(1), AccountNumber(2));
        let amount = Amount::from_minor_units(1250).expect("an amount");
        let movement = Movement { from, to, amount, currency, from_after: 8750, to_after: 1250 };
        let transaction_id = TransactionId(7);
        let metadata = Metadata::new([("order", "A\"17")]).expect("notes");
        let event = Event::Transferred { transaction_id, kind: TransferKind::Transfer, movement, metadata };
        let record = Record { sequence: Sequence(42), timestamp: Timestamp::from_micros(0), event };
        let names = HashMap::from([(from, "alice".to_owned()), (to, "bob".to_owned())]);
        let value = value(0, &record, None, &names);
        assert_eq!((&value["type"], &value["metadata"]["order"]), (&"transfer".into(), &"A\"17".into()));
        assert_eq!(value["postings"][1]["balance_after"], "12.50");
        let mut text = Vec::new();
        write(&mut text, 0, &record, None, &names);
        assert_eq!(serde_json::from_slice::<Value>(&text).expect("JSON"), value);
        assert_eq!(accounts(&record.event, None), [Some(from), Some(to)]);
        assert!(TYPES.iter().any(|(name, _)| *name == type_of(&record.event)));
    }
}
