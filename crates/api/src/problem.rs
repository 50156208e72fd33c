//! Errors as RFC 9457 `application/problem+json`, each with a stable code.

use ledger::{
    AccountId, AccountNumber, AccountRef, Amount, Command, Currency, Party, Refusal, RefusalCode,
    TransactionId, Transfer, TransferKind, format_minor_units,
};
use serde_json::{Map, Value, json};

macro_rules! codes {
    ($($(#[$doc:meta])* $variant:ident = ($name:literal, $status:literal, $retryable:literal, $title:literal);)*) => {
        /// The stable code of an error.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Code { $(#[doc = $title] $variant,)* }

        impl Code {
            /// Every code.
            pub const ALL: &[Code] = &[$(Code::$variant),*];

            /// The name on the wire.
            pub fn name(self) -> &'static str { match self { $(Code::$variant => $name),* } }

            /// The HTTP status.
            pub fn status(self) -> u16 { match self { $(Code::$variant => $status),* } }

            /// True when the same request may succeed later.
            pub fn is_retryable(self) -> bool { match self { $(Code::$variant => $retryable),* } }

            /// A short summary of the kind of error.
            pub fn title(self) -> &'static str { match self { $(Code::$variant => $title),* } }
        }
    };
}

codes! {
    InvalidRequest = ("invalid_request", 400, false, "The request is malformed");
    InvalidAmount = ("invalid_amount", 400, false, "The amount is not valid");
    InvalidCurrency = ("invalid_currency", 400, false, "The currency is not valid");
    InvalidAccountId = ("invalid_account_id", 400, false, "The account id is not valid");
    InvalidTransactionId = ("invalid_transaction_id", 400, false, "The transaction id is not valid");
    SameAccount = ("same_account", 400, false, "Payer and payee are the same account");
    Unauthenticated = ("unauthenticated", 401, false, "A key is needed");
    Forbidden = ("forbidden", 403, false, "The key does not allow this");
    AccountNotFound = ("account_not_found", 404, false, "No such account");
    TransactionNotFound = ("transaction_not_found", 404, false, "No such transaction");
    WebhookNotFound = ("webhook_not_found", 404, false, "No such webhook");
    AccountExists = ("account_exists", 409, false, "The account exists with other metadata");
    WebhookExists = ("webhook_exists", 409, false, "Such a webhook exists already");
    HoldNotPending = ("hold_not_pending", 409, false, "The hold is settled already");
    NotCancellable = ("not_cancellable", 409, false, "The transaction can no longer be cancelled");
    AccountNotEmpty = ("account_not_empty", 409, false, "The account still has money");
    RouteNotFound = ("route_not_found", 404, false, "No such route");
    MethodNotAllowed = ("method_not_allowed", 405, false, "The route does not know this method");
    UnsupportedMediaType = ("unsupported_media_type", 415, false, "The content type must be application/json");
    RequestTooLarge = ("request_too_large", 413, false, "The request is too large");
    TransactionIdReused = ("transaction_id_reused", 422, false, "The transaction id was used for other content");
    InsufficientFunds = ("insufficient_funds", 422, false, "The payer has too little money");
    AccountClosed = ("account_closed", 422, false, "The account is closed");
    BalanceOverflow = ("balance_overflow", 422, false, "A balance would be too large");
    HoldExpired = ("hold_expired", 422, false, "The hold has expired");
    AmountExceedsHold = ("amount_exceeds_hold", 422, false, "The amount exceeds the hold");
    AlreadyReversed = ("already_reversed", 422, false, "The transaction was reversed already");
    LegRefused = ("leg_refused", 422, false, "A leg of the group was refused");
    TransactionCancelled = ("transaction_cancelled", 422, false, "An operator cancelled the transaction");
    Overloaded = ("overloaded", 503, true, "Too many requests are waiting");
    Unavailable = ("unavailable", 503, true, "The outcome is not known; repeat with the same id");
    NotImplemented = ("not_implemented", 501, false, "Not offered by this server");
    NotSupportedByArchitecture = ("not_supported_by_architecture", 501, false, "The architecture of this wallet cannot give this");
}

impl Code {
    /// The code of a refusal that is not about a leg.
    pub fn of_refusal(code: RefusalCode) -> Code {
        match code {
            RefusalCode::AccountNotFound => Code::AccountNotFound,
            RefusalCode::AccountClosed => Code::AccountClosed,
            RefusalCode::InsufficientFunds => Code::InsufficientFunds,
            RefusalCode::BalanceOverflow => Code::BalanceOverflow,
            RefusalCode::TransactionNotFound => Code::TransactionNotFound,
            RefusalCode::HoldNotPending => Code::HoldNotPending,
            RefusalCode::HoldExpired => Code::HoldExpired,
            RefusalCode::AmountExceedsHold => Code::AmountExceedsHold,
            RefusalCode::AlreadyReversed => Code::AlreadyReversed,
            RefusalCode::AccountNotEmpty => Code::AccountNotEmpty,
            RefusalCode::AccountExists => Code::AccountExists,
            RefusalCode::TransactionIdReused => Code::TransactionIdReused,
            RefusalCode::SameAccount => Code::SameAccount,
            RefusalCode::InvalidAmount => Code::InvalidAmount,
            RefusalCode::InvalidAccountId => Code::InvalidAccountId,
            RefusalCode::InvalidRequest => Code::InvalidRequest,
            RefusalCode::TransactionCancelled => Code::TransactionCancelled,
        }
    }
}

/// One error, ready to be answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// What kind.
    pub code: Code,
    /// Which field, and which value was wrong.
    pub detail: String,
    /// The request's transaction_id, where it had one.
    pub transaction_id: Option<TransactionId>,
    /// For `leg_refused`: the index of the leg, and its own code.
    pub leg: Option<(u8, Code)>,
}

impl Problem {
    /// An error of this kind.
    pub fn new(code: Code, detail: impl Into<String>) -> Problem {
        Problem { code, detail: detail.into(), transaction_id: None, leg: None }
    }

    /// The same, about a transaction.
    #[must_use]
    pub fn with_transaction(mut self, transaction_id: TransactionId) -> Problem {
        self.transaction_id = Some(transaction_id);
        self
    }

    /// A refusal in words. The words depend on the refusal and its command alone, so that a repeat says the same.
    pub fn refused(refusal: &Refusal, subject: &Subject) -> Problem {
        let code = Code::of_refusal(refusal.code);
        let detail = subject.detail(refusal);
        let transaction_id = subject.transaction_id;
        match refusal.leg {
            None => Problem { code, detail, transaction_id, leg: None },
            Some(leg) => Problem {
                // A malformed leg makes the whole request malformed.
                code: if code.status() == 400 { code } else { Code::LegRefused },
                detail: format!("leg {leg}: {detail}"),
                transaction_id,
                leg: Some((leg, code)),
            },
        }
    }

    /// The body of the answer.
    pub fn to_json(&self) -> Value {
        let mut body = Map::new();
        body.insert("type".into(), json!(format!("urn:jigap:error:{}", self.code.name())));
        body.insert("title".into(), json!(self.code.title()));
        body.insert("status".into(), json!(self.code.status()));
        body.insert("detail".into(), json!(self.detail));
        body.insert("code".into(), json!(self.code.name()));
        body.insert("retryable".into(), json!(self.code.is_retryable()));
        if let Some(transaction_id) = self.transaction_id {
            body.insert("transaction_id".into(), json!(transaction_id.to_string()));
        }
        if let Some((leg, code)) = self.leg {
            body.insert("leg".into(), json!(leg));
            body.insert("leg_code".into(), json!(code.name()));
        }
        Value::Object(body)
    }
}

/// What a command was about, as far as a refusal's words need it. Cheap to make: accounts with short names are not copied to the heap.
#[derive(Debug, Clone, Default)]
pub struct Subject {
    transaction_id: Option<TransactionId>,
    /// The field that named the payer, or the only account, and what it said.
    from: Option<(&'static str, AccountRef)>,
    to: Option<(&'static str, AccountRef)>,
    money: Option<(Amount, Currency)>,
    referenced: Option<TransactionId>,
    /// For a group: the id of the leg.
    leg_id: Option<TransactionId>,
}

impl Subject {
    /// Of a transfer, deposit or withdrawal.
    pub fn of_transfer(transfer: &Transfer) -> Subject {
        let (from, to) = match transfer.kind {
            TransferKind::Transfer => ("from_account", "to_account"),
            TransferKind::Deposit => ("from_account", "account"),
            TransferKind::Withdrawal => ("account", "to_account"),
        };
        Subject {
            transaction_id: Some(transfer.transaction_id),
            from: Some((from, transfer.from.clone())),
            to: Some((to, transfer.to.clone())),
            money: Some((transfer.amount, transfer.currency)),
            ..Subject::default()
        }
    }

    /// Of any command; of a group, the leg that the refusal is about.
    pub fn of_command(command: &Command, leg: Option<u8>) -> Subject {
        let account = |account: AccountRef| Some(("account_id", account));
        let subject = match command {
            Command::Transfer(transfer) => Subject::of_transfer(transfer),
            Command::Hold(request) => Subject::of_transfer(&request.transfer),
            Command::Group(group) => {
                let leg = leg.and_then(|leg| group.legs.get(usize::from(leg)));
                let leg_id = leg.map(|leg| leg.transaction_id);
                Subject { leg_id, ..leg.map(Subject::of_transfer).unwrap_or_default() }
            }
            Command::OpenAccount { account_id, .. } => {
                Subject { from: account(account_id.clone().into()), ..Subject::default() }
            }
            Command::CloseAccount { account: closed, .. } => {
                Subject { from: account(closed.clone()), ..Subject::default() }
            }
            _ => Subject::default(),
        };
        Subject { transaction_id: command.transaction_id(), referenced: command.referenced_id(), ..subject }
    }

    fn detail(&self, refusal: &Refusal) -> String {
        let party = match refusal.party {
            Party::To => named(&self.to, "the payee"),
            Party::From | Party::None => named(&self.from, "the payer"),
        };
        let referenced = self.referenced.map_or_else(String::new, |id| id.to_string());
        match refusal.code {
            RefusalCode::AccountNotFound => format!("{party} does not exist"),
            RefusalCode::AccountClosed => format!("{party} is closed"),
            RefusalCode::InsufficientFunds => match self.money {
                Some((amount, currency)) => format!(
                    "amount is {} {currency}, but {party} has {} {currency} available",
                    format_minor_units(amount.signed().into(), currency),
                    format_minor_units(refusal.available.into(), currency)
                ),
                None => format!("{party} has too little: {} minor units available", refusal.available),
            },
            RefusalCode::BalanceOverflow => {
                format!("the balance of {party} would be above 2^63-1 minor units")
            }
            RefusalCode::TransactionNotFound => {
                format!("transaction {referenced} does not exist, or is not one that this can be done to")
            }
            RefusalCode::HoldNotPending => format!("hold {referenced} was confirmed or cancelled already"),
            RefusalCode::HoldExpired => format!("hold {referenced} has expired"),
            RefusalCode::AmountExceedsHold => {
                format!(
                    "amount is more than hold {referenced}, which is for {} minor units",
                    refusal.available
                )
            }
            RefusalCode::AlreadyReversed => format!("transaction {referenced} was reversed already"),
            RefusalCode::AccountNotEmpty => format!("{party} has a balance that is not zero"),
            RefusalCode::AccountExists => format!("{party} exists with other metadata"),
            RefusalCode::TransactionIdReused => {
                let id = self.leg_id.or(self.transaction_id).map_or_else(String::new, |id| id.to_string());
                format!("transaction_id {id} was used for other content")
            }
            RefusalCode::SameAccount => "payer and payee are the same account".into(),
            RefusalCode::InvalidAmount => {
                format!("amount has more digits than the currency of hold {referenced}")
            }
            RefusalCode::InvalidAccountId => format!("{party} is the system's own"),
            RefusalCode::InvalidRequest => "a transaction_id appears twice in the group".into(),
            RefusalCode::TransactionCancelled => {
                "an operator cancelled it before it was decided; nothing moved".into()
            }
        }
    }
}

fn named(account: &Option<(&'static str, AccountRef)>, unnamed: &str) -> String {
    match account {
        None => unnamed.to_owned(),
        Some((field, AccountRef::Named(name))) => format!("{field} {:?}", name.as_str()),
        Some((field, AccountRef::Number(AccountNumber::EXTERNAL))) => {
            format!("{field} {:?}", AccountId::EXTERNAL)
        }
        Some((field, AccountRef::Number(number))) => format!("{field} with handle {}", number.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_has_a_code_of_the_same_name() {
        for code in RefusalCode::ALL {
            assert_eq!(Code::of_refusal(code).name(), code.name());
        }
    }

    #[test]
    fn statuses_are_those_of_the_contract() {
        let statuses: std::collections::BTreeMap<u16, Vec<&str>> =
            Code::ALL.iter().fold(std::collections::BTreeMap::new(), |mut map, code| {
                map.entry(code.status()).or_insert_with(Vec::new).push(code.name());
                map
            });
        assert_eq!(
            statuses[&409],
            ["account_exists", "webhook_exists", "hold_not_pending", "not_cancellable", "account_not_empty"]
        );
        assert_eq!(
            statuses[&404],
            ["account_not_found", "transaction_not_found", "webhook_not_found", "route_not_found"]
        );
        assert_eq!(statuses[&503], ["overloaded", "unavailable"]);
        // The contract's eight, and `transaction_cancelled`, which only money over several shards can be told.
        assert_eq!(statuses[&422].len(), 9);
        assert_eq!(statuses[&400].len(), 6);
    }
}
