//! Request bodies, checked.
//!
//! The order of checks: the body is JSON with known fields, each once; `transaction_id`; the accounts, payer first; `currency`;
//! `amount`; payer is not payee; `metadata`. The first that fails is told.

use std::borrow::Cow;

use ledger::{
    AccountId, AccountNumber, AccountRef, Amount, Command, Currency, DecimalAmount, GROUP_LEGS_MAX, Group,
    HoldRequest, Metadata, TransactionId, Transfer, TransferKind,
};
use serde::Deserialize;

use crate::json::{Count, List, Pairs, Text, Wrong, object};
use crate::{Code, Problem};

/// The greatest number of transfers in one request.
pub const TRANSFERS_MAX: usize = 8190;

/// The three endpoints that move money in one piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Endpoint {
    /// `balance_transfer`
    Transfer,
    /// `deposit`
    Deposit,
    /// `withdraw`
    Withdraw,
}

object! {
    struct TransferBody {
        from_account: Text<'body>,
        to_account: Text<'body>,
        amount: Text<'body>,
        currency: Text<'body>,
        transaction_id: Text<'body>,
        metadata: Pairs<'body>,
    }
}

object! {
    struct OutsideBody {
        account: Text<'body>,
        amount: Text<'body>,
        currency: Text<'body>,
        transaction_id: Text<'body>,
        metadata: Pairs<'body>,
    }
}

object! {
    struct HoldBody {
        from_account: Text<'body>,
        to_account: Text<'body>,
        amount: Text<'body>,
        currency: Text<'body>,
        transaction_id: Text<'body>,
        metadata: Pairs<'body>,
        expires_in_seconds: Count,
    }
}

object! {
    struct TransfersBody {
        mode: Text<'body>,
        transaction_id: Text<'body>,
        transfers: List<TransferBody<'body>>,
    }
}

object! {
    struct AccountBody {
        account_id: Text<'body>,
        metadata: Pairs<'body>,
    }
}

object! {
    struct FollowUpBody {
        transaction_id: Text<'body>,
        amount: Text<'body>,
        metadata: Pairs<'body>,
    }
}

/// A body of `balance_transfers`.
#[derive(Debug, PartialEq, Eq)]
pub enum Transfers {
    /// Each stands alone.
    Independent(Vec<Result<Transfer, Malformed>>),
    /// All or none.
    Atomic(Command),
}

/// A transfer of a batch that cannot be executed.
#[derive(Debug, PartialEq, Eq)]
pub struct Malformed {
    /// What is wrong with it.
    pub problem: Problem,
    /// What it gave as its transaction_id, if that was text, well-formed or not.
    pub transaction_id: Option<String>,
}

/// Reads the body of `balance_transfer`, `deposit` or `withdraw`.
pub fn transfer(endpoint: Endpoint, body: &[u8]) -> Result<Transfer, Problem> {
    let kind = match endpoint {
        Endpoint::Transfer => return parse::<TransferBody<'_>>(body)?.check(),
        Endpoint::Deposit => TransferKind::Deposit,
        Endpoint::Withdraw => TransferKind::Withdrawal,
    };
    let body: OutsideBody<'_> = parse(body)?;
    check_fields(body.wrong, &body.transaction_id)?;
    let transaction_id = transaction_id(&body.transaction_id)?;
    let check = || {
        let account = AccountRef::Named(account_id("account", &body.account)?);
        let external = AccountRef::Number(AccountNumber::EXTERNAL);
        let (from, to) =
            if kind == TransferKind::Deposit { (external, account) } else { (account, external) };
        let currency = currency(&body.currency)?;
        let amount = amount(&body.amount, currency)?;
        let metadata = metadata(body.metadata.as_ref())?;
        Ok(Transfer { transaction_id, kind, from, to, amount, currency, metadata })
    };
    check().map_err(|problem: Problem| problem.with_transaction(transaction_id))
}

impl TransferBody<'_> {
    fn check(&self) -> Result<Transfer, Problem> {
        check_fields(self.wrong.clone(), &self.transaction_id)?;
        let transaction_id = transaction_id(&self.transaction_id)?;
        let check = || {
            let from = account_id("from_account", &self.from_account)?;
            let to = account_id("to_account", &self.to_account)?;
            let currency = currency(&self.currency)?;
            let amount = amount(&self.amount, currency)?;
            if from == to {
                return Err(Problem::new(
                    Code::SameAccount,
                    format!("from_account and to_account are both {from:?}"),
                ));
            }
            let metadata = metadata(self.metadata.as_ref())?;
            let (from, to) = (from.into(), to.into());
            Ok(Transfer {
                transaction_id,
                kind: TransferKind::Transfer,
                from,
                to,
                amount,
                currency,
                metadata,
            })
        };
        check().map_err(|problem: Problem| problem.with_transaction(transaction_id))
    }

    /// As one of many that stand alone.
    fn check_alone(&self) -> Result<Transfer, Malformed> {
        self.check().map_err(|problem| {
            let as_sent = match &self.transaction_id {
                Some(Text::Is(text)) => Some(text.to_string()),
                None | Some(Text::Not) => None,
            };
            let transaction_id = problem.transaction_id.map(|id| id.to_string()).or(as_sent);
            Malformed { problem, transaction_id }
        })
    }
}

/// Reads the body of `holds`.
pub fn hold(body: &[u8]) -> Result<Command, Problem> {
    let body: HoldBody<'_> = parse(body)?;
    let transfer = TransferBody {
        from_account: body.from_account,
        to_account: body.to_account,
        amount: body.amount,
        currency: body.currency,
        transaction_id: body.transaction_id,
        metadata: body.metadata,
        wrong: body.wrong,
    };
    let transfer = transfer.check()?;
    let expires_in_seconds = match body.expires_in_seconds {
        None => None,
        Some(Count::Is(seconds @ 1..=0xffff_ffff)) => Some(seconds as u32),
        Some(Count::Is(_) | Count::Not) => {
            let detail = "expires_in_seconds must be a whole number from 1 to 4294967295";
            let problem = Problem::new(Code::InvalidRequest, detail);
            return Err(problem.with_transaction(transfer.transaction_id));
        }
    };
    Ok(Command::Hold(Box::new(HoldRequest { transfer, expires_in_seconds })))
}

/// Reads the body of `balance_transfers`.
pub fn transfers(body: &[u8]) -> Result<Transfers, Problem> {
    let body: TransfersBody<'_> = parse(body)?;
    check_fields(body.wrong.clone(), &body.transaction_id)?;
    let group_id = transaction_id(&body.transaction_id);
    let named = group_id.as_ref().ok().copied();
    let read = match &body.mode {
        None => independent(body),
        Some(Text::Is(mode)) if mode == "independent" => independent(body),
        Some(Text::Is(mode)) if mode == "atomic" => group_id.and_then(|transaction_id| {
            let legs = legs(body)?;
            Ok(Transfers::Atomic(Command::Group(Box::new(Group { transaction_id, legs }))))
        }),
        Some(Text::Is(mode)) => {
            let detail = format!("mode must be \"independent\" or \"atomic\", it is {:?}", shortened(mode));
            Err(Problem::new(Code::InvalidRequest, detail))
        }
        Some(Text::Not) => Err(Problem::new(Code::InvalidRequest, "mode must be a string")),
    };
    // A leg's own problem is told as that of the group.
    read.map_err(|problem| Problem { transaction_id: named, ..problem })
}

fn independent(body: TransfersBody<'_>) -> Result<Transfers, Problem> {
    if body.transaction_id.is_some() {
        let detail = "transaction_id of the whole request goes with \"mode\":\"atomic\"";
        return Err(Problem::new(Code::InvalidRequest, detail));
    }
    let (transfers, _) = elements(body.transfers)?;
    Ok(Transfers::Independent(transfers.iter().map(TransferBody::check_alone).collect()))
}

fn legs(body: TransfersBody<'_>) -> Result<Vec<Transfer>, Problem> {
    let (transfers, count) = elements(body.transfers)?;
    if count > GROUP_LEGS_MAX {
        let detail = format!("an atomic group has at most {GROUP_LEGS_MAX} transfers, this has {count}");
        return Err(Problem::new(Code::InvalidRequest, detail));
    }
    let legs = transfers.iter().enumerate().map(|(index, leg)| {
        leg.check().map_err(|problem| {
            let detail = format!("transfers[{index}]: {}", problem.detail);
            Problem { detail, ..problem }
        })
    });
    legs.collect()
}

/// As many as a request may have, and at least one.
fn elements(field: Option<List<TransferBody<'_>>>) -> Result<(Vec<TransferBody<'_>>, usize), Problem> {
    match field {
        None => Err(missing("transfers")),
        Some(List::Not) => Err(Problem::new(Code::InvalidRequest, "transfers must be an array")),
        Some(List::Is(_, 0)) => Err(Problem::new(Code::InvalidRequest, "transfers is empty")),
        Some(List::Is(_, count)) if count > TRANSFERS_MAX => {
            let detail = format!("transfers has {count} elements, at most {TRANSFERS_MAX} are taken");
            Err(Problem::new(Code::RequestTooLarge, detail))
        }
        Some(List::Is(transfers, count)) => Ok((transfers, count)),
    }
}

/// Reads the body of `accounts`.
pub fn open_account(body: &[u8]) -> Result<Command, Problem> {
    let body: AccountBody<'_> = parse(body)?;
    check_fields(body.wrong, &None)?;
    let account_id = account_id("account_id", &body.account_id)?;
    Ok(Command::OpenAccount { account_id, metadata: metadata(body.metadata.as_ref())? })
}

/// The four commands about something earlier, whose subject is in the path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FollowUp {
    /// `holds/{id}/confirm`
    Confirm(TransactionId),
    /// `holds/{id}/cancel`
    Cancel(TransactionId),
    /// `transactions/{id}/reverse`
    Reverse(TransactionId),
    /// `accounts/{id}/close`
    Close(AccountId),
}

/// Reads the body of a command about something earlier.
pub fn follow_up(about: Result<FollowUp, Problem>, body: &[u8]) -> Result<Command, Problem> {
    let body: FollowUpBody<'_> = parse(body)?;
    check_fields(body.wrong, &body.transaction_id)?;
    let transaction_id = transaction_id(&body.transaction_id)?;
    let in_transaction = |problem: Problem| problem.with_transaction(transaction_id);
    let about = about.map_err(in_transaction)?;
    if body.amount.is_some() && !matches!(about, FollowUp::Confirm(_)) {
        return Err(in_transaction(Problem::new(Code::InvalidRequest, "unknown field `amount`")));
    }
    if body.metadata.is_some() && !matches!(about, FollowUp::Reverse(_)) {
        return Err(in_transaction(Problem::new(Code::InvalidRequest, "unknown field `metadata`")));
    }
    Ok(match about {
        FollowUp::Confirm(hold_id) => {
            let amount = match &body.amount {
                None => None,
                Some(Text::Is(text)) => Some(
                    DecimalAmount::parse(text).map_err(|error| in_transaction(bad_amount(text, error)))?,
                ),
                Some(Text::Not) => {
                    return Err(in_transaction(Problem::new(Code::InvalidAmount, "amount must be a string")));
                }
            };
            Command::ConfirmHold { transaction_id, hold_id, amount }
        }
        FollowUp::Cancel(hold_id) => Command::CancelHold { transaction_id, hold_id },
        FollowUp::Reverse(original_id) => {
            let metadata = metadata(body.metadata.as_ref()).map_err(in_transaction)?;
            Command::Reverse { transaction_id, original_id, metadata }
        }
        FollowUp::Close(account) => Command::CloseAccount { transaction_id, account: account.into() },
    })
}

/// Reads an account id out of a path. The system's own accounts may be asked about, too.
pub fn path_account(text: &str) -> Result<AccountRef, Problem> {
    if text == AccountId::EXTERNAL {
        return Ok(AccountNumber::EXTERNAL.into());
    }
    Ok(checked_account_id("account_id", text)?.into())
}

/// Reads an account id out of the path of a command.
pub fn path_account_id(text: &str) -> Result<AccountId, Problem> {
    checked_account_id("account_id", text)
}

/// Reads a transaction_id out of a path or header.
pub fn path_transaction(text: &str) -> Result<TransactionId, Problem> {
    checked_transaction_id(text)
}

pub(crate) fn parse<'body, Body: Deserialize<'body>>(body: &'body [u8]) -> Result<Body, Problem> {
    serde_json::from_slice(body).map_err(|error| Problem::new(Code::InvalidRequest, error.to_string()))
}

/// Every field is known and there once. What is answered names the transaction all the same, where there is one.
fn check_fields(wrong: Option<Wrong>, id: &Option<Text<'_>>) -> Result<(), Problem> {
    let Some(wrong) = wrong else { return Ok(()) };
    let problem = Problem::new(Code::InvalidRequest, wrong.to_string());
    Err(match transaction_id(id) {
        Ok(transaction_id) => problem.with_transaction(transaction_id),
        Err(_) => problem,
    })
}

fn missing(field: &str) -> Problem {
    Problem::new(Code::InvalidRequest, format!("missing field `{field}`"))
}

/// Enough of a wrong value to recognise it by.
pub(crate) fn shortened(text: &str) -> Cow<'_, str> {
    const SHOWN_CHARACTERS: usize = 80;
    match text.char_indices().nth(SHOWN_CHARACTERS) {
        None => Cow::Borrowed(text),
        Some((end, _)) => Cow::Owned(format!("{}…", &text[..end])),
    }
}

fn transaction_id(field: &Option<Text<'_>>) -> Result<TransactionId, Problem> {
    match field {
        None => Err(missing("transaction_id")),
        Some(Text::Is(text)) => checked_transaction_id(text),
        Some(Text::Not) => Err(Problem::new(Code::InvalidTransactionId, "transaction_id must be a string")),
    }
}

fn checked_transaction_id(text: &str) -> Result<TransactionId, Problem> {
    TransactionId::parse(text).map_err(|error| {
        Problem::new(
            Code::InvalidTransactionId,
            format!("transaction_id {error}, it is {:?}", shortened(text)),
        )
    })
}

fn account_id(name: &str, field: &Option<Text<'_>>) -> Result<AccountId, Problem> {
    match field {
        None => Err(missing(name)),
        Some(Text::Is(text)) => checked_account_id(name, text),
        Some(Text::Not) => Err(Problem::new(Code::InvalidAccountId, format!("{name} must be a string"))),
    }
}

pub(crate) fn checked_account_id(name: &str, text: &str) -> Result<AccountId, Problem> {
    AccountId::parse(text).map_err(|error| {
        Problem::new(Code::InvalidAccountId, format!("{name} {error}, it is {:?}", shortened(text)))
    })
}

fn currency(field: &Option<Text<'_>>) -> Result<Currency, Problem> {
    match field {
        None => Err(missing("currency")),
        Some(Text::Is(text)) => Currency::parse(text).ok_or_else(|| {
            let detail =
                format!("currency must be an ISO 4217 code such as \"USD\", it is {:?}", shortened(text));
            Problem::new(Code::InvalidCurrency, detail)
        }),
        Some(Text::Not) => Err(Problem::new(Code::InvalidCurrency, "currency must be a string")),
    }
}

fn amount(field: &Option<Text<'_>>, currency: Currency) -> Result<Amount, Problem> {
    match field {
        None => Err(missing("amount")),
        Some(Text::Is(text)) => Amount::parse(text, currency).map_err(|error| bad_amount(text, error)),
        Some(Text::Not) => {
            Err(Problem::new(Code::InvalidAmount, "amount must be a string, so that no digit is lost"))
        }
    }
}

fn bad_amount(text: &str, error: ledger::AmountError) -> Problem {
    Problem::new(Code::InvalidAmount, format!("amount {error}, it is {:?}", shortened(text)))
}

fn metadata(field: Option<&Pairs<'_>>) -> Result<Metadata, Problem> {
    let invalid = |why: &dyn std::fmt::Display| Problem::new(Code::InvalidRequest, format!("metadata {why}"));
    match field {
        None => Ok(Metadata::default()),
        Some(Pairs::Not(why)) => Err(invalid(why)),
        Some(Pairs::Are(pairs)) => {
            Metadata::new(pairs.iter().map(|(key, value)| (key.as_ref(), value.as_ref())))
                .map_err(|error| invalid(&error))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(body: &str) -> &'static str {
        transfer(Endpoint::Transfer, body.as_bytes()).expect_err("malformed").code.name()
    }

    /// A good body with one field replaced.
    fn with(field: &str, value: &str) -> String {
        let mut fields = vec![
            ("from_account", "\"alice\""),
            ("to_account", "\"bob\""),
            ("amount", "\"12.50\""),
            ("currency", "\"USD\""),
            ("transaction_id", "\"01890D9E-3c1b-7c5f-9d6e-0b6f0f0c9a11\""),
        ];
        match fields.iter_mut().find(|(name, _)| *name == field) {
            Some(known) => known.1 = value,
            None => fields.push((field, value)),
        }
        let fields: Vec<String> = fields.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
        format!("{{{}}}", fields.join(","))
    }

    #[test]
    fn each_malformed_field_has_its_own_code() {
        assert!(transfer(Endpoint::Transfer, with("metadata", "{\"order\":\"A-17\"}").as_bytes()).is_ok());
        let rows = [
            ("amount", "12.5", "invalid_amount"),
            ("amount", "\"0\"", "invalid_amount"),
            ("amount", "\"1e3\"", "invalid_amount"),
            ("amount", "\"12.505\"", "invalid_amount"),
            ("currency", "\"usd\"", "invalid_currency"),
            ("currency", "null", "invalid_request"),
            ("from_account", "\"@external\"", "invalid_account_id"),
            ("from_account", "\"\"", "invalid_account_id"),
            ("to_account", "\"alice\"", "same_account"),
            ("to_account", "7", "invalid_account_id"),
            ("transaction_id", "\"01890d9e\"", "invalid_transaction_id"),
            ("metadata", "{\"a\":1}", "invalid_request"),
            ("metadata", "{\"a\":\"1\",\"a\":\"2\"}", "invalid_request"),
            ("surplus", "1", "invalid_request"),
        ];
        for (field, value, expected) in rows {
            assert_eq!(code(&with(field, value)), expected, "{field} {value}");
        }
        assert_eq!(
            code(&with("x", "1").replace("\"x\":1", "\"amount\":\"1\"")),
            "invalid_request",
            "a repeated field"
        );
        assert_eq!(code(&"[".repeat(100_000)), "invalid_request");
        assert_eq!(code(""), "invalid_request");
    }
}
