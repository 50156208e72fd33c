//! From protobuf messages to `ledger` types, checked as [`crate::request`] checks JSON, and from outcomes to protobuf messages.

use std::collections::HashMap;

use ledger::{
    AccountNumber, AccountRef, Command, DecimalAmount, Event, GROUP_LEGS_MAX, Group, HoldRequest, Metadata,
    Record, Timestamp, Transaction, Transfer, TransferKind,
};

use crate::event::Details;
use crate::proto::{self, transfer};
use crate::request::{TRANSFERS_MAX, checked_account_id, path_account, path_account_id};
use crate::response::{self, Names, Position};
use crate::wire::batch::{
    Party, TransferFields, check, check_amount, check_currency, check_metadata, check_transaction_id,
};
use crate::{Code, Problem};

/// The metadata key under which an answer tells its position, and a query the position that it must see.
pub const POSITION_KEY: &str = "x-wallet-position";

fn pairs(metadata: &HashMap<String, String>) -> impl Iterator<Item = (&str, &str)> {
    metadata.iter().map(|(key, value)| (key.as_str(), value.as_str()))
}

/// A transfer between two accounts.
pub fn transfer(message: &proto::Transfer) -> Result<Transfer, Problem> {
    check(&TransferFields {
        transaction_id: &message.transaction_id,
        from: message.from.as_ref().map(|from| match from {
            transfer::From::FromAccount(name) => Party::Account(name.as_bytes()),
            transfer::From::FromHandle(handle) => Party::Handle((*handle).into()),
        }),
        to: message.to.as_ref().map(|to| match to {
            transfer::To::ToAccount(name) => Party::Account(name.as_bytes()),
            transfer::To::ToHandle(handle) => Party::Handle((*handle).into()),
        }),
        amount: message.amount_minor_units,
        currency: message.currency.as_bytes(),
        metadata: pairs(&message.metadata).collect(),
    })
}

/// A deposit or a withdrawal.
pub fn outside(kind: TransferKind, message: &proto::OutsideRequest) -> Result<Transfer, Problem> {
    let transaction_id = check_transaction_id("transaction_id", &message.transaction_id)?;
    let check = || {
        let account = AccountRef::Named(checked_account_id("account", &message.account)?);
        let external = AccountRef::Number(AccountNumber::EXTERNAL);
        let (from, to) =
            if kind == TransferKind::Deposit { (external, account) } else { (account, external) };
        let currency = check_currency(message.currency.as_bytes())?;
        let amount = check_amount(message.amount_minor_units)?;
        let metadata = check_metadata(pairs(&message.metadata))?;
        Ok(Transfer { transaction_id, kind, from, to, amount, currency, metadata })
    };
    check().map_err(|problem: Problem| problem.with_transaction(transaction_id))
}

/// Opens an account.
pub fn open_account(message: &proto::OpenAccountRequest) -> Result<Command, Problem> {
    let account_id = path_account_id(&message.account_id)?;
    Ok(Command::OpenAccount { account_id, metadata: check_metadata(pairs(&message.metadata))? })
}

/// Checks how many accounts one request opens.
pub fn check_open_accounts(message: &proto::OpenAccountsRequest) -> Result<(), Problem> {
    let count = message.accounts.len();
    if count > TRANSFERS_MAX {
        let detail = format!("a request opens at most {TRANSFERS_MAX} accounts, this opens {count}");
        return Err(Problem::new(Code::RequestTooLarge, detail));
    }
    Ok(())
}

/// Closes an account.
pub fn close_account(message: &proto::CloseAccountRequest) -> Result<Command, Problem> {
    let transaction_id = check_transaction_id("transaction_id", &message.transaction_id)?;
    let account =
        path_account_id(&message.account_id).map_err(|problem| problem.with_transaction(transaction_id))?;
    Ok(Command::CloseAccount { transaction_id, account: account.into() })
}

/// An atomic group.
pub fn group(message: &proto::TransferGroupRequest) -> Result<Command, Problem> {
    let transaction_id = check_transaction_id("transaction_id", &message.transaction_id)?;
    let count = message.transfers.len();
    if !(1..=GROUP_LEGS_MAX).contains(&count) {
        let detail = format!("an atomic group has 1 to {GROUP_LEGS_MAX} transfers, this has {count}");
        return Err(Problem::new(Code::InvalidRequest, detail).with_transaction(transaction_id));
    }
    let legs = message.transfers.iter().enumerate().map(|(index, leg)| {
        transfer(leg).map_err(|problem| Problem {
            detail: format!("transfers[{index}]: {}", problem.detail),
            transaction_id: Some(transaction_id),
            ..problem
        })
    });
    let legs = legs.collect::<Result<Vec<Transfer>, Problem>>()?;
    Ok(Command::Group(Box::new(Group { transaction_id, legs })))
}

/// Sets money aside.
pub fn hold(message: &proto::HoldRequest) -> Result<Command, Problem> {
    let missing = || Problem::new(Code::InvalidRequest, "missing field `transfer`");
    let transfer = transfer(message.transfer.as_ref().ok_or_else(missing)?)?;
    if message.expires_in_seconds == Some(0) {
        let problem = Problem::new(Code::InvalidRequest, "expires_in_seconds must be at least 1, it is 0");
        return Err(problem.with_transaction(transfer.transaction_id));
    }
    Ok(Command::Hold(Box::new(HoldRequest { transfer, expires_in_seconds: message.expires_in_seconds })))
}

/// Pays a hold out.
pub fn confirm_hold(message: &proto::ConfirmHoldRequest) -> Result<Command, Problem> {
    let transaction_id = check_transaction_id("transaction_id", &message.transaction_id)?;
    let hold_id = check_transaction_id("hold_id", &message.hold_id)
        .map_err(|problem| problem.with_transaction(transaction_id))?;
    let amount = match message.amount.as_str() {
        "" => None,
        text => Some(DecimalAmount::parse(text).map_err(|error| {
            let detail = format!("amount {error}, it is {:?}", crate::request::shortened(text));
            Problem::new(Code::InvalidAmount, detail).with_transaction(transaction_id)
        })?),
    };
    Ok(Command::ConfirmHold { transaction_id, hold_id, amount })
}

/// Releases a hold.
pub fn cancel_hold(message: &proto::CancelHoldRequest) -> Result<Command, Problem> {
    let transaction_id = check_transaction_id("transaction_id", &message.transaction_id)?;
    let hold_id = check_transaction_id("hold_id", &message.hold_id)
        .map_err(|problem| problem.with_transaction(transaction_id))?;
    Ok(Command::CancelHold { transaction_id, hold_id })
}

/// Moves money back.
pub fn reverse(message: &proto::ReverseRequest) -> Result<Command, Problem> {
    let transaction_id = check_transaction_id("transaction_id", &message.transaction_id)?;
    let check = || {
        let original_id = check_transaction_id("original_id", &message.original_id)?;
        let metadata = check_metadata(pairs(&message.metadata))?;
        Ok(Command::Reverse { transaction_id, original_id, metadata })
    };
    check().map_err(|problem: Problem| problem.with_transaction(transaction_id))
}

/// The account that a query asks for; `@external` may be asked for too.
pub fn queried_account(account_id: &str) -> Result<AccountRef, Problem> {
    path_account(account_id)
}

/// The transaction that a query asks for.
pub fn queried_transaction(transaction_id: &[u8]) -> Result<ledger::TransactionId, Problem> {
    check_transaction_id("transaction_id", transaction_id)
}

/// The currency that a query asks for.
pub fn queried_currency(code: &str) -> Result<ledger::Currency, Problem> {
    check_currency(code.as_bytes())
}

/// A command that was refused.
pub fn refused(problem: &Problem, position: Position, replayed: bool) -> proto::CommandResult {
    proto::CommandResult {
        code: problem.code.name().into(),
        detail: problem.detail.clone(),
        leg: problem.leg.map(|(leg, _)| leg.into()),
        leg_code: problem.leg.map(|(_, code)| code.name().into()).unwrap_or_default(),
        partition: position.partition,
        sequence: position.sequence.0,
        timestamp_micros: position.timestamp.as_micros(),
        replayed,
        ..proto::CommandResult::default()
    }
}

/// A transfer, deposit or withdrawal that moved money.
pub fn transferred(
    transfer_money: (ledger::Amount, ledger::Currency),
    position: Position,
    replayed: bool,
    (from_balance, to_balance): (i64, i64),
) -> proto::CommandResult {
    let (amount, currency) = transfer_money;
    proto::CommandResult {
        partition: position.partition,
        sequence: position.sequence.0,
        timestamp_micros: position.timestamp.as_micros(),
        replayed,
        from_balance: Some(from_balance),
        to_balance: Some(to_balance),
        amount_minor_units: amount.minor_units(),
        currency: currency.code().into(),
        ..proto::CommandResult::default()
    }
}

/// A command that was executed: what its last event says.
pub fn executed(partition: u32, records: &[Record], replayed: bool) -> proto::CommandResult {
    let Some(last) = records.last() else { return proto::CommandResult::default() };
    let mut result = proto::CommandResult {
        partition,
        sequence: last.sequence.0,
        timestamp_micros: last.timestamp.as_micros(),
        replayed,
        ..proto::CommandResult::default()
    };
    if let Some(movement) = last.event.movement() {
        result.amount_minor_units = movement.amount.minor_units();
        result.currency = movement.currency.code().into();
        result.from_balance = Some(movement.from_after);
        result.to_balance = Some(movement.to_after);
    }
    match &last.event {
        Event::Held { hold, available_after, .. } => {
            result.amount_minor_units = hold.amount.minor_units();
            result.currency = hold.currency.code().into();
            result.from_balance = Some(*available_after);
            result.expires_at_micros = hold.expires_at.map(Timestamp::as_micros);
        }
        Event::HoldConfirmed { released, .. } => result.released_minor_units = *released,
        Event::HoldReleased { amount, currency, available_after, .. } => {
            result.released_minor_units = amount.minor_units();
            result.currency = currency.code().into();
            result.from_balance = Some(*available_after);
        }
        Event::GroupCommitted { .. } => {
            result.legs = records[..records.len() - 1].iter().map(leg).collect();
        }
        _ => {}
    }
    result
}

fn leg(record: &Record) -> proto::TransferResult {
    let movement = record.event.movement();
    proto::TransferResult {
        sequence: record.sequence.0,
        timestamp_micros: record.timestamp.as_micros(),
        from_balance: movement.map_or(0, |movement| movement.from_after),
        to_balance: movement.map_or(0, |movement| movement.to_after),
        ..proto::TransferResult::default()
    }
}

fn metadata(metadata: &Metadata) -> HashMap<String, String> {
    metadata.iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

/// An account.
pub fn account(account: &response::Account<'_>) -> proto::Account {
    let balances = account.balances.iter().map(|(currency, balance)| proto::Balance {
        currency: currency.code().into(),
        available: balance.available,
        held: balance.held,
    });
    proto::Account {
        account_id: account.account_id.into(),
        handle: account.number.map_or(0, |number| number.0),
        closed: account.closed,
        opened_at_micros: account.opened_at.as_micros(),
        metadata: metadata(account.metadata),
        balances: balances.collect(),
        partition: account.position.partition,
        sequence: account.position.sequence.0,
        as_of_micros: account.position.timestamp.as_micros(),
    }
}

/// One entry of an account's history.
pub fn history_entry(entry: response::HistoryEntry<'_>) -> proto::HistoryEntry {
    proto::HistoryEntry {
        transaction_id: entry.transaction_id.map(|id| id.to_bytes().to_vec()).unwrap_or_default(),
        r#type: entry.kind.into(),
        counterparty: entry.counterparty.unwrap_or_default(),
        amount: entry.amount,
        currency: entry.currency.code().into(),
        balance_after: entry.balance_after,
        partition: entry.position.partition,
        sequence: entry.position.sequence.0,
        timestamp_micros: entry.position.timestamp.as_micros(),
        metadata: entry.metadata.map(metadata).unwrap_or_default(),
    }
}

/// A transaction that is under way over several shards, with its accounts by name.
pub fn transaction_in_flight(transaction_id: ledger::TransactionId, command: &Command) -> proto::Transaction {
    let mut message = proto::Transaction {
        transaction_id: transaction_id.to_bytes().to_vec(),
        status: response::IN_FLIGHT.into(),
        r#type: response::command_type(command).into(),
        ..proto::Transaction::default()
    };
    if let Some(transfer) = response::transfer_of(command) {
        message.metadata = metadata(&transfer.metadata);
        put_money(&mut message, response::asked(transfer, &HashMap::new()));
    }
    message
}

fn put_money(message: &mut proto::Transaction, money: response::Money) {
    message.from_account = money.from;
    message.to_account = money.to;
    message.amount_minor_units = money.amount.minor_units();
    message.currency = money.currency.code().into();
}

/// What became of a transaction.
pub fn transaction(partition: u32, transaction: &Transaction, names: &impl Names) -> proto::Transaction {
    let (status, code) = response::status(transaction);
    let money = response::money_of(transaction, names);
    let mut message = proto::Transaction {
        transaction_id: transaction.transaction_id.to_bytes().to_vec(),
        status: status.into(),
        code: code.map(|code| code.name().into()).unwrap_or_default(),
        r#type: response::transaction_type(transaction).into(),
        metadata: transaction.outcome().event.metadata().map(metadata).unwrap_or_default(),
        events: transaction
            .records
            .iter()
            .map(|record| event(partition, record, Some(&transaction.command), names))
            .collect(),
        ..proto::Transaction::default()
    };
    if let Some(money) = money {
        put_money(&mut message, money);
    }
    message
}

/// An event with its position and what it left behind; the command matters for a refusal only.
pub fn event(partition: u32, record: &Record, command: Option<&Command>, names: &impl Names) -> proto::Event {
    let id = |id: Option<ledger::TransactionId>| id.map(|id| id.to_bytes().to_vec()).unwrap_or_default();
    let event = &record.event;
    let postings = event.balance_changes().into_iter().flatten().map(|change| proto::Posting {
        account_id: names.name(change.account),
        currency: change.currency.code().into(),
        amount: change.available_change,
        balance_after: change.available_after,
        held_after: change.held_after,
    });
    let Details { account, money, released } = Details::of(event, command, names);
    let (account_id, handle) = account.unwrap_or_default();
    let mut message = proto::Event {
        r#type: crate::event::type_of(event).into(),
        partition,
        sequence: record.sequence.0,
        timestamp_micros: record.timestamp.as_micros(),
        transaction_id: id(event.transaction_id()),
        referenced_transaction_id: id(event.referenced_id()),
        postings: postings.collect(),
        account_id,
        handle: handle.map(|handle| handle.0),
        released: released.map(|(released, _)| released),
        metadata: event.metadata().map(metadata).unwrap_or_default(),
        ..proto::Event::default()
    };
    if let Some((from, to, amount, currency)) = money {
        (message.from_account, message.to_account) = (from, to);
        (message.amount, message.currency) = (amount, currency.code().into());
    }
    match event {
        Event::Refused { refusal, .. } => {
            message.code = refusal.name().into();
            message.refused_type = command.map(response::command_type).unwrap_or_default().into();
            if let Some(leg) = refusal.leg {
                message.leg = Some(leg.into());
                message.leg_code = refusal.code.name().into();
            }
        }
        Event::Held { hold, .. } => {
            message.expires_at_micros = hold.expires_at.map(|time| time.as_micros());
        }
        Event::GroupCommitted { legs, .. } => message.legs = u32::from(*legs),
        _ => {}
    }
    message
}

/// The status that ends a call: for queries, and for commands of which nothing is known.
pub fn status(problem: &Problem) -> tonic::Status {
    let code = match problem.code {
        Code::Overloaded => tonic::Code::ResourceExhausted,
        Code::Unavailable => tonic::Code::Unavailable,
        Code::NotImplemented | Code::NotSupportedByArchitecture => tonic::Code::Unimplemented,
        Code::Unauthenticated => tonic::Code::Unauthenticated,
        Code::Forbidden => tonic::Code::PermissionDenied,
        Code::AccountNotFound | Code::TransactionNotFound | Code::RouteNotFound => tonic::Code::NotFound,
        _ => tonic::Code::InvalidArgument,
    };
    tonic::Status::new(code, format!("{}: {}", problem.code.name(), problem.detail))
}
