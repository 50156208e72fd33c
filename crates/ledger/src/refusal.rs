//! Why a command was refused, with enough context to say the same words again for ever.

/// The stable code of a refusal. Numbers are on disk: never renumber.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum RefusalCode {
    /// No such account.
    AccountNotFound = 1,
    /// The account is closed.
    AccountClosed = 2,
    /// The payer has less available than the amount.
    InsufficientFunds = 3,
    /// A balance would leave the range of 64-bit integers.
    BalanceOverflow = 4,
    /// No such transaction, or none that can be meant here.
    TransactionNotFound = 5,
    /// The hold was confirmed or cancelled already.
    HoldNotPending = 6,
    /// The hold's time is over.
    HoldExpired = 7,
    /// More was to be confirmed than is held.
    AmountExceedsHold = 8,
    /// The transaction was reversed already.
    AlreadyReversed = 9,
    /// A balance of the account is not zero.
    AccountNotEmpty = 10,
    /// Another account has this id, with other metadata. Not recorded: opening has no transaction_id.
    AccountExists = 11,
    /// The transaction_id was used for other content. Not recorded: the id belongs to the first.
    TransactionIdReused = 12,
    /// Payer and payee are one account. Malformed, not recorded.
    SameAccount = 13,
    /// The amount cannot be one of the currency. Malformed, not recorded.
    InvalidAmount = 14,
    /// The account is the system's own. Malformed, not recorded.
    InvalidAccountId = 15,
    /// The command contradicts itself (a repeated id within a group). Malformed, not recorded.
    InvalidRequest = 16,
    /// An operator cancelled the transaction before it was decided. Only where several shards share the money.
    TransactionCancelled = 17,
}

impl RefusalCode {
    /// Every code, in order.
    pub const ALL: [RefusalCode; 17] = [
        RefusalCode::AccountNotFound,
        RefusalCode::AccountClosed,
        RefusalCode::InsufficientFunds,
        RefusalCode::BalanceOverflow,
        RefusalCode::TransactionNotFound,
        RefusalCode::HoldNotPending,
        RefusalCode::HoldExpired,
        RefusalCode::AmountExceedsHold,
        RefusalCode::AlreadyReversed,
        RefusalCode::AccountNotEmpty,
        RefusalCode::AccountExists,
        RefusalCode::TransactionIdReused,
        RefusalCode::SameAccount,
        RefusalCode::InvalidAmount,
        RefusalCode::InvalidAccountId,
        RefusalCode::InvalidRequest,
        RefusalCode::TransactionCancelled,
    ];

    /// The code of this number on disk or wire.
    pub fn from_number(number: u8) -> Option<RefusalCode> {
        Self::ALL.get(usize::from(number).checked_sub(1)?).copied()
    }

    /// The number of this code on disk or wire.
    pub fn number(self) -> u8 {
        self as u8
    }

    /// The stable name that the API shows.
    pub fn name(self) -> &'static str {
        match self {
            RefusalCode::AccountNotFound => "account_not_found",
            RefusalCode::AccountClosed => "account_closed",
            RefusalCode::InsufficientFunds => "insufficient_funds",
            RefusalCode::BalanceOverflow => "balance_overflow",
            RefusalCode::TransactionNotFound => "transaction_not_found",
            RefusalCode::HoldNotPending => "hold_not_pending",
            RefusalCode::HoldExpired => "hold_expired",
            RefusalCode::AmountExceedsHold => "amount_exceeds_hold",
            RefusalCode::AlreadyReversed => "already_reversed",
            RefusalCode::AccountNotEmpty => "account_not_empty",
            RefusalCode::AccountExists => "account_exists",
            RefusalCode::TransactionIdReused => "transaction_id_reused",
            RefusalCode::SameAccount => "same_account",
            RefusalCode::InvalidAmount => "invalid_amount",
            RefusalCode::InvalidAccountId => "invalid_account_id",
            RefusalCode::InvalidRequest => "invalid_request",
            RefusalCode::TransactionCancelled => "transaction_cancelled",
        }
    }
}

/// Which account of a command a refusal speaks of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(u8)]
pub enum Party {
    /// None in particular.
    #[default]
    None = 0,
    /// The payer.
    From = 1,
    /// The payee.
    To = 2,
}

/// A refusal as it is recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Refusal {
    /// Why.
    pub code: RefusalCode,
    /// Whose account.
    pub party: Party,
    /// For a group: the index of the first leg that failed, for that `code`. The API shows `leg_refused`.
    pub leg: Option<u8>,
    /// For `insufficient_funds`: what was available, in minor units. For `amount_exceeds_hold`: what is held. Else 0.
    pub available: i64,
}

impl Refusal {
    /// A refusal that speaks of no account in particular.
    pub fn new(code: RefusalCode) -> Refusal {
        Refusal { code, party: Party::None, leg: None, available: 0 }
    }

    /// The same, about one account of the command.
    pub fn of(code: RefusalCode, party: Party) -> Refusal {
        Refusal { party, ..Refusal::new(code) }
    }

    /// True for a business refusal, which is an event. False for a malformed command, of which nothing is remembered.
    pub fn is_recorded(&self) -> bool {
        !matches!(
            self.code,
            RefusalCode::AccountExists
                | RefusalCode::TransactionIdReused
                | RefusalCode::SameAccount
                | RefusalCode::InvalidAmount
                | RefusalCode::InvalidAccountId
                | RefusalCode::InvalidRequest
        )
    }

    /// The name that the API shows: `leg_refused` for a leg of a group.
    pub fn name(&self) -> &'static str {
        if self.leg.is_some() { "leg_refused" } else { self.code.name() }
    }
}
