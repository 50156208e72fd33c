//! What callers ask for. A command is an intention: it may be refused.

use crate::{AccountId, AccountNumber, Amount, Currency, DecimalAmount, Metadata, State, TransactionId};

/// An account as a command names it.
///
/// The partition's engine turns names into numbers where the account exists; a name that stays a name was unknown when
/// the command was decided, and is kept so that the refusal can be told, and compared, for ever.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AccountRef {
    /// By its dense number.
    Number(AccountNumber),
    /// By its name.
    Named(AccountId),
}

impl From<AccountNumber> for AccountRef {
    fn from(number: AccountNumber) -> AccountRef {
        AccountRef::Number(number)
    }
}

impl From<AccountId> for AccountRef {
    fn from(account_id: AccountId) -> AccountRef {
        AccountRef::Named(account_id)
    }
}

/// Which of the three ways money moves. Numbers are on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum TransferKind {
    /// Between two accounts of users.
    Transfer = 0,
    /// From the world outside.
    Deposit = 1,
    /// To the world outside.
    Withdrawal = 2,
}

/// One movement of money between two accounts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transfer {
    /// The caller's id.
    pub transaction_id: TransactionId,
    /// Where the money goes.
    pub kind: TransferKind,
    /// The payer; [`AccountNumber::EXTERNAL`] for a deposit.
    pub from: AccountRef,
    /// The payee; [`AccountNumber::EXTERNAL`] for a withdrawal.
    pub to: AccountRef,
    /// How much.
    pub amount: Amount,
    /// Of what.
    pub currency: Currency,
    /// The caller's notes.
    pub metadata: Metadata,
}

/// Transfers that happen all together or not at all, applied in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// The id of the group; every leg has its own besides.
    pub transaction_id: TransactionId,
    /// 1 to [`crate::GROUP_LEGS_MAX`] transfers.
    pub legs: Vec<Transfer>,
}

/// Money set aside for a payee until it is confirmed, cancelled or expires.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HoldRequest {
    /// Who, whom, how much; its kind is [`TransferKind::Transfer`].
    pub transfer: Transfer,
    /// Seconds until the hold lapses; without it, it never does.
    pub expires_in_seconds: Option<u32>,
}

/// What callers ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Open an account. Idempotent by its id.
    OpenAccount {
        /// The new account's name.
        account_id: AccountId,
        /// The owner's notes.
        metadata: Metadata,
    },
    /// Move money.
    Transfer(Transfer),
    /// Move money in several legs, atomically.
    Group(Box<Group>),
    /// Set money aside.
    Hold(Box<HoldRequest>),
    /// Pay a hold out, wholly or partly; the rest is released.
    ConfirmHold {
        /// The caller's id.
        transaction_id: TransactionId,
        /// The hold's id.
        hold_id: TransactionId,
        /// At most the hold; all of it without.
        amount: Option<DecimalAmount>,
    },
    /// Release a hold.
    CancelHold {
        /// The caller's id.
        transaction_id: TransactionId,
        /// The hold's id.
        hold_id: TransactionId,
    },
    /// Move the money of an earlier transaction back, once.
    Reverse {
        /// The caller's id.
        transaction_id: TransactionId,
        /// The earlier transaction.
        original_id: TransactionId,
        /// The caller's notes.
        metadata: Metadata,
    },
    /// Close an account whose every balance is zero.
    CloseAccount {
        /// The caller's id.
        transaction_id: TransactionId,
        /// Which account.
        account: AccountRef,
    },
    /// The leader's own: settle holds whose time is over at the stamp.
    ExpireHolds,
}

impl Command {
    /// The id under which this command is executed at most once. `OpenAccount` is idempotent by its account id instead.
    pub fn transaction_id(&self) -> Option<TransactionId> {
        match self {
            Command::OpenAccount { .. } | Command::ExpireHolds => None,
            Command::Transfer(transfer) => Some(transfer.transaction_id),
            Command::Group(group) => Some(group.transaction_id),
            Command::Hold(hold) => Some(hold.transfer.transaction_id),
            Command::ConfirmHold { transaction_id, .. }
            | Command::CancelHold { transaction_id, .. }
            | Command::Reverse { transaction_id, .. }
            | Command::CloseAccount { transaction_id, .. } => Some(*transaction_id),
        }
    }

    /// The command's own id, and those of a group's legs.
    pub fn transaction_ids(&self) -> impl Iterator<Item = TransactionId> {
        let legs = match self {
            Command::Group(group) => group.legs.as_slice(),
            _ => &[],
        };
        self.transaction_id().into_iter().chain(legs.iter().map(|leg| leg.transaction_id))
    }

    /// The earlier transaction that this command is about, which [`State::decide`] must be given.
    pub fn referenced_id(&self) -> Option<TransactionId> {
        match self {
            Command::ConfirmHold { hold_id, .. } | Command::CancelHold { hold_id, .. } => Some(*hold_id),
            Command::Reverse { original_id, .. } => Some(*original_id),
            _ => None,
        }
    }

    /// Turns the names of known accounts into numbers.
    pub fn resolve(&mut self, state: &State) {
        match self {
            Command::Transfer(transfer) => transfer.resolve(state),
            Command::Group(group) => group.legs.iter_mut().for_each(|leg| leg.resolve(state)),
            Command::Hold(hold) => hold.transfer.resolve(state),
            Command::CloseAccount { account, .. } => account.resolve(state),
            _ => {}
        }
    }

    /// True when both ask for the same, however they name their accounts. A repeated transaction_id with the same
    /// content is answered from its event; with other content it is refused.
    pub fn same_content(&self, other: &Command, state: &State) -> bool {
        match (self, other) {
            (Command::Transfer(one), Command::Transfer(two)) => one.same_content(two, state),
            (Command::Group(one), Command::Group(two)) => {
                one.transaction_id == two.transaction_id
                    && one.legs.len() == two.legs.len()
                    && one.legs.iter().zip(&two.legs).all(|(one, two)| one.same_content(two, state))
            }
            (Command::Hold(one), Command::Hold(two)) => {
                one.expires_in_seconds == two.expires_in_seconds
                    && one.transfer.same_content(&two.transfer, state)
            }
            (
                Command::CloseAccount { transaction_id, account },
                Command::CloseAccount { transaction_id: other_id, account: other_account },
            ) => transaction_id == other_id && account.same_account(other_account, state),
            _ => self == other,
        }
    }
}

impl Transfer {
    /// As [`Command::resolve`].
    pub fn resolve(&mut self, state: &State) {
        self.from.resolve(state);
        self.to.resolve(state);
    }

    /// As [`Command::same_content`].
    pub fn same_content(&self, other: &Transfer, state: &State) -> bool {
        self.transaction_id == other.transaction_id
            && self.kind == other.kind
            && self.amount == other.amount
            && self.currency == other.currency
            && self.metadata == other.metadata
            && self.from.same_account(&other.from, state)
            && self.to.same_account(&other.to, state)
    }
}

impl AccountRef {
    fn resolve(&mut self, state: &State) {
        if let AccountRef::Named(name) = self
            && let Some(number) = state.resolve(name.as_str())
        {
            *self = AccountRef::Number(number);
        }
    }

    fn same_account(&self, other: &AccountRef, state: &State) -> bool {
        match (self, other) {
            (AccountRef::Number(one), AccountRef::Number(two)) => one == two,
            (AccountRef::Named(one), AccountRef::Named(two)) => one == two,
            (AccountRef::Number(number), AccountRef::Named(name))
            | (AccountRef::Named(name), AccountRef::Number(number)) => {
                state.account_id(*number).is_some_and(|known| known == name)
            }
        }
    }
}
