//! Between rows of tables and what they mean.

use coordinator::book::{AccountState, Balances, BranchRow, Fate, HoldRow};
use coordinator::port::{Claim, Entry, Lease, PhaseStatus, Reference, ShardNumber};
use ledger::{AccountId, Currency, Sequence, Timestamp, TransactionId};

use super::cell::{Cell, Row};
use super::content::{self, Stored};
use super::failure::Failure;

pub(super) fn currency(row: &Row, index: usize) -> Result<Currency, Failure> {
    let numeric = row.number(index)?;
    Currency::from_numeric(numeric).ok_or_else(|| Failure::refused(format!("{numeric} is no currency")))
}

pub(super) fn stored<Content: Stored>(row: &Row, index: usize) -> Result<Content, Failure> {
    Content::from_text(row.text(index)?).map_err(|error| Failure::refused(error.to_string()))
}

/// Content that may be absent.
pub(super) fn stored_or_none<Content: Stored>(row: &Row, index: usize) -> Result<Option<Content>, Failure> {
    row.optional(index, stored)
}

/// The cell of content that may be absent.
pub(super) fn text_or_null<Content: Stored>(content: Option<&Content>) -> Cell {
    content.map_or(Cell::Null, |content| Cell::Text(content.to_text()))
}

/// Databases know signed integers only. No sequence, limit or count comes near their end.
pub(super) fn clamp(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

pub(super) fn claim(row: &Row) -> Result<(TransactionId, Claim), Failure> {
    let fingerprint =
        row.bytes(1)?.try_into().map_err(|_| Failure::refused("a fingerprint is not 32 bytes long"))?;
    let claim = Claim { fingerprint, owner: ShardNumber(row.number(2)?), recorded_under: row.id(3)? };
    Ok((row.id(0)?, claim))
}

pub(super) fn claim_cells(transaction_id: TransactionId, claim: &Claim) -> Vec<Cell> {
    vec![
        Cell::Id(transaction_id),
        Cell::Bytes(claim.fingerprint.to_vec()),
        Cell::Integer(claim.owner.0.into()),
        Cell::Id(claim.recorded_under),
    ]
}

/// A row of the phase status table.
pub(super) fn status(row: &Row) -> Result<PhaseStatus, Failure> {
    let lease = match (row.optional(10, Row::integer)?, row.optional(11, Row::integer)?) {
        (Some(holder), Some(until)) => {
            Some(Lease { holder: holder.cast_unsigned(), until: Timestamp::from_micros(until) })
        }
        _ => None,
    };
    let done: Vec<bool> = serde_json::from_str(row.text(4)?)
        .map_err(|error| Failure::refused(format!("the second phase of a record: {error}")))?;
    Ok(PhaseStatus {
        plan: stored(row, 1)?,
        tries: stored(row, 2)?,
        second_phase: row.optional(3, numbered)?,
        second_phase_done: done,
        out_of_order: row.flag(5)?,
        refusal: stored_or_none(row, 6)?,
        outcome: stored_or_none(row, 7)?,
        attempts: row.number(8)?,
        last_error: serde_json::from_str(row.text(9)?)
            .map_err(|error| Failure::refused(format!("the last error of a record: {error}")))?,
        lease,
        started_at: Timestamp::from_micros(row.integer(12)?),
    })
}

pub(super) fn status_cells(status: &PhaseStatus) -> Vec<Cell> {
    let started_at = Cell::Integer(status.started_at.as_micros());
    let (holder, until) = match &status.lease {
        Some(lease) => (Cell::Integer(lease.holder.cast_signed()), Cell::Integer(lease.until.as_micros())),
        None => (Cell::Null, Cell::Null),
    };
    let json = |text: Result<String, serde_json::Error>| Cell::Text(text.expect("plain values are JSON"));
    vec![
        Cell::Id(status.plan.transaction_id),
        Cell::Text(status.plan.to_text()),
        Cell::Text(status.tries.to_text()),
        status.second_phase.map_or(Cell::Null, |phase| Cell::Integer(phase.form().into())),
        json(serde_json::to_string(&status.second_phase_done)),
        Cell::Flag(status.out_of_order),
        text_or_null(status.refusal.as_ref()),
        text_or_null(status.outcome.as_ref()),
        Cell::Integer(status.attempts.into()),
        // Errors quote what databases say, which may be any bytes; as JSON it has no control characters.
        json(serde_json::to_string(&status.last_error)),
        holder,
        until,
        started_at.clone(),
        if status.outcome.is_none() { started_at } else { Cell::Null },
    ]
}

pub(super) fn account_id(row: &Row, index: usize) -> Result<AccountId, Failure> {
    let text = row.text(index)?;
    content::account_id(text).ok_or_else(|| Failure::refused(format!("{text:?} is no account id")))
}

fn timestamp(row: &Row, index: usize) -> Result<Timestamp, Failure> {
    row.integer(index).map(Timestamp::from_micros)
}

/// A number that the domain fixes.
fn numbered<Value: Stored<Form = u8>>(row: &Row, index: usize) -> Result<Value, Failure> {
    let number = row.number(index)?;
    Value::from_form(number)
        .ok_or_else(|| Failure::refused(format!("column {index} of a row holds an unknown {number}")))
}

pub(super) fn account(row: &Row) -> Result<(AccountId, AccountState), Failure> {
    let state = AccountState {
        opened_at: timestamp(row, 1)?,
        metadata: stored(row, 2)?,
        closed: row.flag(3)?,
        pins: row.number(4)?,
    };
    Ok((account_id(row, 0)?, state))
}

pub(super) fn account_cells(account_id: &AccountId, state: &AccountState) -> Vec<Cell> {
    vec![
        Cell::Text(account_id.as_str().to_owned()),
        Cell::Integer(state.opened_at.as_micros()),
        Cell::Text(state.metadata.to_text()),
        Cell::Flag(state.closed),
        Cell::Integer(state.pins.into()),
    ]
}

pub(super) fn balances(row: &Row) -> Result<(AccountId, Currency, Balances), Failure> {
    let balances = Balances {
        available: row.integer(2)?,
        held: row.integer(3)?,
        taken: row.integer(4)?,
        incoming: row.integer(5)?,
        unwritten: row.integer(6)?,
    };
    Ok((account_id(row, 0)?, currency(row, 1)?, balances))
}

pub(super) fn balances_cells(account_id: &AccountId, currency: Currency, balances: &Balances) -> Vec<Cell> {
    vec![
        Cell::Text(account_id.as_str().to_owned()),
        Cell::Integer(currency.numeric().into()),
        Cell::Integer(balances.available),
        Cell::Integer(balances.held),
        Cell::Integer(balances.taken),
        Cell::Integer(balances.incoming),
        Cell::Integer(balances.unwritten),
    ]
}

pub(super) fn branch(row: &Row) -> Result<(TransactionId, BranchRow), Failure> {
    let branch = BranchRow {
        state: numbered(row, 1)?,
        owner: ShardNumber(row.number(2)?),
        started_at: timestamp(row, 3)?,
        branch: stored_or_none(row, 4)?,
        sequence: Sequence(row.number(5)?),
        timestamp: timestamp(row, 6)?,
        balances: stored(row, 7)?,
        refusal: stored_or_none(row, 8)?,
    };
    Ok((row.id(0)?, branch))
}

pub(super) fn branch_cells(transaction_id: TransactionId, branch: &BranchRow) -> Vec<Cell> {
    vec![
        Cell::Id(transaction_id),
        Cell::Integer(branch.state.form().into()),
        Cell::Integer(branch.owner.0.into()),
        Cell::Integer(branch.started_at.as_micros()),
        text_or_null(branch.branch.as_ref()),
        Cell::Integer(clamp(branch.sequence.0)),
        Cell::Integer(branch.timestamp.as_micros()),
        Cell::Text(branch.balances.to_text()),
        text_or_null(branch.refusal.as_ref()),
    ]
}

pub(super) fn hold(row: &Row) -> Result<(TransactionId, HoldRow), Failure> {
    let hold =
        HoldRow { terms: stored(row, 1)?, expires_at: row.optional(2, timestamp)?, pending: row.flag(3)? };
    Ok((row.id(0)?, hold))
}

pub(super) fn hold_cells(hold_id: TransactionId, hold: &HoldRow) -> Vec<Cell> {
    vec![
        Cell::Id(hold_id),
        Cell::Text(hold.terms.to_text()),
        hold.expires_at.map_or(Cell::Null, |time| Cell::Integer(time.as_micros())),
        Cell::Flag(hold.pending),
    ]
}

pub(super) fn fate(row: &Row) -> Result<(TransactionId, Fate), Failure> {
    let reference = match row.optional(2, numbered)? {
        None => None,
        Some(kind) => Some(Reference {
            kind,
            transaction_id: row.optional(3, Row::id)?,
            sequence: Sequence(row.number(4)?),
            timestamp: timestamp(row, 5)?,
        }),
    };
    Ok((row.id(0)?, Fate { locked_by: row.optional(1, Row::id)?, reference }))
}

pub(super) fn fate_cells(transaction_id: TransactionId, fate: &Fate) -> Vec<Cell> {
    let mut cells = vec![Cell::Id(transaction_id), fate.locked_by.map_or(Cell::Null, Cell::Id)];
    match &fate.reference {
        None => cells.extend([Cell::Null, Cell::Null, Cell::Null, Cell::Null]),
        Some(reference) => cells.extend([
            Cell::Integer(reference.kind.form().into()),
            reference.transaction_id.map_or(Cell::Null, Cell::Id),
            Cell::Integer(clamp(reference.sequence.0)),
            Cell::Integer(reference.timestamp.as_micros()),
        ]),
    }
    cells
}

/// `ordinal` tells entries of one account and event apart.
pub(super) fn entry_cells(account_id: &AccountId, ordinal: usize, entry: &Entry) -> Vec<Cell> {
    vec![
        Cell::Text(account_id.as_str().to_owned()),
        Cell::Integer(clamp(entry.sequence.0)),
        Cell::Integer(clamp(ordinal as u64)),
        entry.transaction_id.map_or(Cell::Null, Cell::Id),
        Cell::Integer(entry.kind.form().into()),
        entry.counterparty.as_ref().map_or(Cell::Null, |other| Cell::Text(other.as_str().to_owned())),
        Cell::Integer(entry.amount),
        Cell::Integer(entry.currency.numeric().into()),
        Cell::Integer(entry.balance_after),
        Cell::Integer(entry.timestamp.as_micros()),
        Cell::Text(entry.metadata.to_text()),
    ]
}

pub(super) fn entry(row: &Row) -> Result<Entry, Failure> {
    Ok(Entry {
        sequence: Sequence(row.number(1)?),
        transaction_id: row.optional(3, Row::id)?,
        kind: numbered(row, 4)?,
        counterparty: row.optional(5, account_id)?,
        amount: row.integer(6)?,
        currency: currency(row, 7)?,
        balance_after: row.integer(8)?,
        timestamp: timestamp(row, 9)?,
        metadata: stored(row, 10)?,
    })
}
