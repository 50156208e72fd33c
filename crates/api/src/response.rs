//! The bodies of answers.

use std::collections::HashMap;
use std::fmt::Write;

use ledger::{
    AccountNumber, Amount, Balance, Command, Currency, Event, Metadata, Record, Sequence, Timestamp,
    Transaction, TransactionId, format_minor_units,
};
use serde_json::{Map, Value, json};

use crate::problem::{Code, Problem};
use crate::{event, format_timestamp};

/// Where and when an event happened.
#[derive(Debug, Clone, Copy)]
pub struct Position {
    /// The partition.
    pub partition: u32,
    /// The event's sequence.
    pub sequence: Sequence,
    /// The event's time.
    pub timestamp: Timestamp,
}

/// Money as the API shows it: major units with all digits of the currency.
pub fn money(minor_units: i64, currency: Currency) -> String {
    let mut text = String::with_capacity(24);
    push_money(&mut text, minor_units, currency);
    text
}

fn push_money(text: &mut String, minor_units: i64, currency: Currency) {
    let exponent = usize::from(currency.exponent());
    // The longest 64-bit number has 20 digits; a point and leading zeros may come to them.
    let mut digits = [b'0'; 48];
    let (mut at, mut rest) = (digits.len(), minor_units.unsigned_abs());
    while rest > 0 || digits.len() - at <= exponent {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    let (whole, fraction) = digits[at..].split_at(digits.len() - at - exponent);
    let ascii = |digits| std::str::from_utf8(digits).expect("digits are ASCII");
    if minor_units < 0 {
        text.push('-');
    }
    text.push_str(ascii(whole));
    if exponent > 0 {
        text.push('.');
        text.push_str(ascii(fraction));
    }
}

/// The answer to a transfer, deposit or withdrawal. Every part is digits, letters and hyphens: nothing needs escaping.
pub fn transferred(
    transaction_id: TransactionId,
    position: Position,
    currency: Currency,
    from_balance: i64,
    to_balance: i64,
) -> String {
    let mut text = String::with_capacity(256);
    // Writing to a String cannot fail.
    let _ = write!(
        text,
        "{{\"status\":\"success\",\"transaction_id\":\"{transaction_id}\",\"partition\":{},\"sequence\":{},\"timestamp\":\"",
        position.partition, position.sequence.0
    );
    text.push_str(&format_timestamp(position.timestamp));
    text.push_str("\",\"from_balance\":\"");
    push_money(&mut text, from_balance, currency);
    text.push_str("\",\"to_balance\":\"");
    push_money(&mut text, to_balance, currency);
    text.push_str("\"}");
    text
}

/// An element of a batch that was not a success. A malformed one may have no transaction_id, or one that is malformed itself. One that
/// has no answer is to be repeated with the same id: it may have happened.
pub fn refused_element(transaction_id: Option<&str>, problem: &Problem) -> Value {
    json!({
        "status": if problem.code.is_retryable() { "unanswered" } else { "refused" },
        "transaction_id": transaction_id,
        "code": problem.code.name(),
        "detail": problem.detail,
    })
}

/// The answer to a command that is not a plain transfer: what its last event says.
pub fn executed(partition: u32, records: &[Record]) -> Value {
    let Some(last) = records.last() else { return Value::Null };
    let position = Position { partition, sequence: last.sequence, timestamp: last.timestamp };
    let mut body = Map::new();
    let status = if matches!(last.event, Event::Held { .. }) { "held" } else { "success" };
    body.insert("status".into(), json!(status));
    if let Some(transaction_id) = last.event.transaction_id() {
        body.insert("transaction_id".into(), json!(transaction_id.to_string()));
    }
    put_position(&mut body, position);
    if let Event::GroupCommitted { .. } = last.event {
        let legs =
            records[..records.len() - 1].iter().map(|leg| executed(partition, std::slice::from_ref(leg)));
        body.insert("results".into(), legs.collect());
    }
    if let Some(movement) = last.event.movement() {
        body.insert("amount".into(), json!(money(movement.amount.signed(), movement.currency)));
        body.insert("currency".into(), json!(movement.currency.code()));
        body.insert("from_balance".into(), json!(money(movement.from_after, movement.currency)));
        body.insert("to_balance".into(), json!(money(movement.to_after, movement.currency)));
    }
    match &last.event {
        Event::Held { hold, available_after, .. } => {
            body.insert("amount".into(), json!(money(hold.amount.signed(), hold.currency)));
            body.insert("currency".into(), json!(hold.currency.code()));
            body.insert("from_balance".into(), json!(money(*available_after, hold.currency)));
            body.insert("expires_at".into(), json!(hold.expires_at.map(format_timestamp)));
        }
        Event::HoldConfirmed { hold_id, released, movement, .. } => {
            body.insert("hold_id".into(), json!(hold_id.to_string()));
            body.insert("released".into(), json!(money(*released as i64, movement.currency)));
        }
        Event::HoldReleased { hold_id, amount, currency, available_after, .. } => {
            body.insert("hold_id".into(), json!(hold_id.to_string()));
            body.insert("released".into(), json!(money(amount.signed(), *currency)));
            body.insert("currency".into(), json!(currency.code()));
            body.insert("from_balance".into(), json!(money(*available_after, *currency)));
        }
        Event::Reversed { original_id, .. } => {
            body.insert("reversed_transaction_id".into(), json!(original_id.to_string()));
        }
        _ => {}
    }
    Value::Object(body)
}

fn put_position(body: &mut Map<String, Value>, position: Position) {
    body.insert("partition".into(), json!(position.partition));
    body.insert("sequence".into(), json!(position.sequence.0));
    body.insert("timestamp".into(), json!(format_timestamp(position.timestamp)));
}

fn metadata(metadata: &Metadata) -> Value {
    Value::Object(metadata.iter().map(|(key, value)| (key.to_owned(), json!(value))).collect())
}

/// An account as it stood at a position.
#[derive(Debug)]
pub struct Account<'view> {
    /// Its name.
    pub account_id: &'view str,
    /// Its number in its partition; `None` where accounts have none.
    pub number: Option<AccountNumber>,
    /// When it was opened.
    pub opened_at: Timestamp,
    /// Its owner's notes.
    pub metadata: &'view Metadata,
    /// True once it was closed.
    pub closed: bool,
    /// Every currency that it ever had money in.
    pub balances: &'view [(Currency, Balance)],
    /// Where the state stood.
    pub position: Position,
}

/// The answer to a query for an account, and to opening it.
pub fn account(account: &Account<'_>) -> Value {
    let balances = account.balances.iter().map(|(currency, balance)| {
        json!({
            "currency": currency.code(),
            "available": money(balance.available, *currency),
            "held": money(balance.held, *currency),
            "total": format_minor_units(balance.total(), *currency),
        })
    });
    let mut body = json!({
        "account_id": account.account_id,
        "status": if account.closed { "closed" } else { "open" },
        "opened_at": format_timestamp(account.opened_at),
        "metadata": metadata(account.metadata),
        "balances": balances.collect::<Vec<_>>(),
        "partition": account.position.partition,
        "sequence": account.position.sequence.0,
        "as_of": format_timestamp(account.position.timestamp),
    });
    if let Some(number) = account.number {
        body["handle"] = json!(number.0);
    }
    body
}

/// One entry of an account's history.
#[derive(Debug)]
pub struct HistoryEntry<'view> {
    /// Of the transaction or leg; `None` when a hold lapsed.
    pub transaction_id: Option<TransactionId>,
    /// The type of the event on the wire.
    pub kind: &'static str,
    /// The other account, where there is one.
    pub counterparty: Option<String>,
    /// What was added to the available balance, in minor units.
    pub amount: i64,
    /// Of what.
    pub currency: Currency,
    /// The available balance afterwards.
    pub balance_after: i64,
    /// Where and when.
    pub position: Position,
    /// The caller's notes.
    pub metadata: Option<&'view Metadata>,
}

impl HistoryEntry<'_> {
    /// Of an event that changed the account.
    pub fn of<'view>(
        partition: u32,
        record: &'view Record,
        change: &ledger::BalanceChange,
        names: &impl Names,
    ) -> HistoryEntry<'view> {
        HistoryEntry {
            transaction_id: record.event.transaction_id().or(record.event.referenced_id()),
            kind: event::type_of(&record.event),
            counterparty: change.counterparty.map(|account| names.name(account)),
            amount: change.available_change,
            currency: change.currency,
            balance_after: change.available_after,
            position: Position { partition, sequence: record.sequence, timestamp: record.timestamp },
            metadata: record.event.metadata(),
        }
    }
}

/// One entry of the answer to a query for a history.
pub fn history_entry(entry: &HistoryEntry<'_>) -> Value {
    json!({
        "transaction_id": entry.transaction_id.map(|id| id.to_string()),
        "type": entry.kind,
        "counterparty": entry.counterparty,
        "amount": money(entry.amount, entry.currency),
        "currency": entry.currency.code(),
        "balance_after": money(entry.balance_after, entry.currency),
        "partition": entry.position.partition,
        "sequence": entry.position.sequence.0,
        "timestamp": format_timestamp(entry.position.timestamp),
        "metadata": entry.metadata.map_or_else(|| json!({}), metadata),
    })
}

pub(crate) fn transfer_type(kind: ledger::TransferKind) -> &'static str {
    match kind {
        ledger::TransferKind::Transfer => "transfer",
        ledger::TransferKind::Deposit => "deposit",
        ledger::TransferKind::Withdrawal => "withdrawal",
    }
}

/// The kind of a command on the wire.
pub fn command_type(command: &Command) -> &'static str {
    match command {
        Command::OpenAccount { .. } => "account_opened",
        Command::Transfer(transfer) => transfer_type(transfer.kind),
        Command::Group(_) => "group",
        Command::Hold(_) => "hold",
        Command::ConfirmHold { .. } => "hold_confirmed",
        Command::CancelHold { .. } => "hold_cancelled",
        Command::Reverse { .. } => "reversal",
        Command::CloseAccount { .. } => "account_closed",
        Command::ExpireHolds => "hold_expired",
    }
}

/// Account names by number, as far as an answer needs them.
pub trait Names {
    /// The name of the account, or its number as text.
    fn name(&self, account: AccountNumber) -> String;

    /// The number as clients may use it; `None` where numbers mean nothing beyond one answer.
    fn handle(&self, account: AccountNumber) -> Option<AccountNumber> {
        Some(account)
    }
}

impl Names for HashMap<AccountNumber, String> {
    fn name(&self, account: AccountNumber) -> String {
        self.get(&account).cloned().unwrap_or_else(|| account.0.to_string())
    }
}

/// The accounts that an answer about a transaction names.
pub fn accounts_of(transaction: &Transaction) -> Vec<AccountNumber> {
    let mut accounts: Vec<AccountNumber> = Vec::new();
    for record in &transaction.records {
        for change in record.event.balance_changes().into_iter().flatten() {
            accounts.extend([Some(change.account), change.counterparty].into_iter().flatten());
        }
        if let Event::AccountClosed { account, .. } = &record.event {
            accounts.push(*account);
        }
    }
    if let Command::Transfer(transfer) = &transaction.command {
        accounts.extend(account_number(&transfer.from).into_iter().chain(account_number(&transfer.to)));
    }
    if let Command::Hold(request) = &transaction.command {
        let (from, to) = (&request.transfer.from, &request.transfer.to);
        accounts.extend(account_number(from).into_iter().chain(account_number(to)));
    }
    accounts.sort_unstable();
    accounts.dedup();
    accounts
}

fn account_number(account: &ledger::AccountRef) -> Option<AccountNumber> {
    match account {
        ledger::AccountRef::Number(number) => Some(*number),
        ledger::AccountRef::Named(_) => None,
    }
}

pub(crate) fn account_name(account: &ledger::AccountRef, names: &impl Names) -> String {
    match account {
        ledger::AccountRef::Number(number) => names.name(*number),
        ledger::AccountRef::Named(name) => name.as_str().to_owned(),
    }
}

/// The answer to a query for a transaction: what became of it, and every event with its position.
pub fn transaction(partition: u32, transaction: &Transaction, names: &impl Names) -> Value {
    let outcome = transaction.outcome();
    let mut body = Map::new();
    body.insert("transaction_id".into(), json!(transaction.transaction_id.to_string()));
    let (status, code) = status(transaction);
    body.insert("status".into(), json!(status));
    if let Some(code) = code {
        body.insert("code".into(), json!(code.name()));
    }
    body.insert("type".into(), json!(transaction_type(transaction)));
    if let Some(Money { from, to, amount, currency }) = money_of(transaction, names) {
        body.insert("from_account".into(), json!(from));
        body.insert("to_account".into(), json!(to));
        body.insert("amount".into(), json!(money(amount.signed(), currency)));
        body.insert("currency".into(), json!(currency.code()));
    }
    if let Some(notes) = outcome.event.metadata() {
        body.insert("metadata".into(), metadata(notes));
    }
    let events = transaction
        .records
        .iter()
        .map(|record| event::value(partition, record, Some(&transaction.command), names));
    body.insert("events".into(), events.collect());
    Value::Object(body)
}

/// The answer to a query for a transaction that is under way over several shards, with its accounts by name.
pub fn transaction_in_flight(transaction_id: TransactionId, command: &Command) -> Value {
    let mut body = json!({
        "transaction_id": transaction_id.to_string(),
        "status": IN_FLIGHT,
        "type": command_type(command),
        "events": [],
    });
    if let Some(transfer) = transfer_of(command) {
        let money = asked(transfer, &HashMap::new());
        body["from_account"] = json!(money.from);
        body["to_account"] = json!(money.to);
        body["amount"] = json!(self::money(money.amount.signed(), money.currency));
        body["currency"] = json!(money.currency.code());
        body["metadata"] = metadata(&transfer.metadata);
    }
    body
}

/// The status of a transaction whose outcome is not decided or not carried out yet.
pub const IN_FLIGHT: &str = "in_flight";

/// The one transfer that a command asks for, if it is one.
pub(crate) fn transfer_of(command: &Command) -> Option<&ledger::Transfer> {
    match command {
        Command::Transfer(transfer) => Some(transfer),
        Command::Hold(request) => Some(&request.transfer),
        _ => None,
    }
}

pub(crate) fn asked(transfer: &ledger::Transfer, names: &impl Names) -> Money {
    Money {
        from: account_name(&transfer.from, names),
        to: account_name(&transfer.to, names),
        amount: transfer.amount,
        currency: transfer.currency,
    }
}

/// The kind of a transaction on the wire.
pub fn transaction_type(transaction: &Transaction) -> &'static str {
    match transaction.outcome().event {
        Event::Refused { .. } => command_type(&transaction.command),
        ref event => event::type_of(event),
    }
}

/// What became of a transaction in one word, and the code of a refusal.
pub fn status(transaction: &Transaction) -> (&'static str, Option<Code>) {
    let outcome = &transaction.outcome().event;
    let settled = transaction.records.get(1).map(|record| &record.event);
    match (outcome, settled) {
        (Event::Refused { refusal, .. }, _) => {
            let code = if refusal.leg.is_some() { Code::LegRefused } else { Code::of_refusal(refusal.code) };
            ("refused", Some(code))
        }
        (Event::Held { .. }, None) => ("held", None),
        (Event::Held { .. }, Some(Event::HoldConfirmed { .. })) => ("confirmed", None),
        (Event::Held { .. }, Some(Event::HoldReleased { transaction_id: None, .. })) => ("expired", None),
        (Event::Held { .. }, Some(_)) => ("cancelled", None),
        _ if transaction.is_reversed() => ("reversed", None),
        _ => ("success", None),
    }
}

/// The money that a transaction moved, set aside, or was refused to move.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Money {
    /// The payer's name.
    pub from: String,
    /// The payee's name.
    pub to: String,
    /// How much.
    pub amount: Amount,
    /// Of what.
    pub currency: Currency,
}

/// The money of a transaction; `None` where there is no one sum (a group, a closed account).
pub fn money_of(transaction: &Transaction, names: &impl Names) -> Option<Money> {
    match (&transaction.outcome().event, &transaction.command) {
        (Event::Held { hold, .. }, _) => Some(Money {
            from: names.name(hold.from),
            to: names.name(hold.to),
            amount: hold.amount,
            currency: hold.currency,
        }),
        (Event::Refused { .. }, command) => transfer_of(command).map(|transfer| asked(transfer, names)),
        (event, _) => event.movement().map(|movement| Money {
            from: names.name(movement.from),
            to: names.name(movement.to),
            amount: movement.amount,
            currency: movement.currency,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn money_is_written_as_the_ledger_writes_it() {
        for code in ["USD", "JPY", "KWD", "CLF"] {
            let currency = Currency::parse(code).expect("a currency");
            for minor_units in [0, 1, 9, 10, 99, 100, 1250, 10_000, -1, -10_001, i64::MAX, i64::MIN] {
                let expected = format_minor_units(minor_units.into(), currency);
                assert_eq!(money(minor_units, currency), expected, "{minor_units} {code}");
            }
        }
    }
}
