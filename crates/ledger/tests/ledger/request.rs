//! What a client asks for, in plain texts and integers: the input of the model, and of the ledger once translated.

use ledger::{
    AccountId, AccountNumber, AccountRef, Amount, Command, Currency, DecimalAmount, Group, HoldRequest,
    Metadata, TransactionId, Transfer, TransferKind,
};

pub(crate) const EXTERNAL: &str = "@external";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Transfer,
    Deposit,
    Withdrawal,
}

/// Pairs ascending by key.
pub(crate) type Note = Vec<(String, String)>;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Payment {
    pub(crate) id: u128,
    pub(crate) kind: Kind,
    pub(crate) from: String,
    pub(crate) to: String,
    pub(crate) minor_units: u64,
    pub(crate) currency: &'static str,
    pub(crate) note: Note,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Request {
    Open { name: String, note: Note },
    Pay(Payment),
    Group { id: u128, legs: Vec<Payment> },
    Hold { payment: Payment, expires_in_seconds: Option<u32> },
    Confirm { id: u128, hold: u128, amount: Option<String> },
    Cancel { id: u128, hold: u128 },
    Reverse { id: u128, original: u128, note: Note },
    Close { id: u128, account: String },
    Expire,
}

impl Request {
    pub(crate) fn id(&self) -> Option<u128> {
        match self {
            Request::Open { .. } | Request::Expire => None,
            Request::Pay(payment) | Request::Hold { payment, .. } => Some(payment.id),
            Request::Group { id, .. }
            | Request::Confirm { id, .. }
            | Request::Cancel { id, .. }
            | Request::Reverse { id, .. }
            | Request::Close { id, .. } => Some(*id),
        }
    }

    pub(crate) fn leg_ids(&self) -> Vec<u128> {
        match self {
            Request::Group { legs, .. } => legs.iter().map(|leg| leg.id).collect(),
            _ => Vec::new(),
        }
    }

    /// The command that the boundary would make of it, with accounts by their names.
    pub(crate) fn to_command(&self) -> Command {
        let transaction_id = TransactionId(self.id().unwrap_or(0));
        match self {
            Request::Open { name, note } => {
                Command::OpenAccount { account_id: AccountId::parse(name).unwrap(), metadata: metadata(note) }
            }
            Request::Pay(payment) => Command::Transfer(transfer(payment)),
            Request::Group { legs, .. } => {
                Command::Group(Box::new(Group { transaction_id, legs: legs.iter().map(transfer).collect() }))
            }
            Request::Hold { payment, expires_in_seconds } => Command::Hold(Box::new(HoldRequest {
                transfer: transfer(payment),
                expires_in_seconds: *expires_in_seconds,
            })),
            Request::Confirm { hold, amount, .. } => Command::ConfirmHold {
                transaction_id,
                hold_id: TransactionId(*hold),
                amount: amount.as_deref().map(|text| DecimalAmount::parse(text).unwrap()),
            },
            Request::Cancel { hold, .. } => {
                Command::CancelHold { transaction_id, hold_id: TransactionId(*hold) }
            }
            Request::Reverse { original, note, .. } => Command::Reverse {
                transaction_id,
                original_id: TransactionId(*original),
                metadata: metadata(note),
            },
            Request::Close { account, .. } => {
                Command::CloseAccount { transaction_id, account: reference(account) }
            }
            Request::Expire => Command::ExpireHolds,
        }
    }
}

fn transfer(payment: &Payment) -> Transfer {
    Transfer {
        transaction_id: TransactionId(payment.id),
        kind: match payment.kind {
            Kind::Transfer => TransferKind::Transfer,
            Kind::Deposit => TransferKind::Deposit,
            Kind::Withdrawal => TransferKind::Withdrawal,
        },
        from: reference(&payment.from),
        to: reference(&payment.to),
        amount: Amount::from_minor_units(payment.minor_units).unwrap(),
        currency: Currency::parse(payment.currency).unwrap(),
        metadata: metadata(&payment.note),
    }
}

fn reference(name: &str) -> AccountRef {
    match name {
        EXTERNAL => AccountNumber::EXTERNAL.into(),
        _ => AccountId::parse(name).unwrap().into(),
    }
}

fn metadata(note: &Note) -> Metadata {
    Metadata::new(note.iter().map(|(key, value)| (key.as_str(), value.as_str()))).unwrap()
}
