//! What happened. Events are facts: applying them never fails.

use crate::{
    AccountId, AccountNumber, Amount, Currency, Hold, Metadata, Refusal, TransactionId, TransferKind,
};

/// Money that moved, and the available balances that it left behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Movement {
    /// The payer.
    pub from: AccountNumber,
    /// The payee.
    pub to: AccountNumber,
    /// How much.
    pub amount: Amount,
    /// Of what.
    pub currency: Currency,
    /// The payer's available balance afterwards, in minor units.
    pub from_after: i64,
    /// The payee's available balance afterwards, in minor units.
    pub to_after: i64,
}

/// What happened to one partition's state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// An account exists from now on.
    AccountOpened {
        /// Its number: one more than the last.
        account: AccountNumber,
        /// Its name.
        account_id: AccountId,
        /// Its owner's notes.
        metadata: Metadata,
    },
    /// Money moved: a transfer, a deposit, a withdrawal, or one leg of a group.
    Transferred {
        /// The caller's id.
        transaction_id: TransactionId,
        /// Which way.
        kind: TransferKind,
        /// The money.
        movement: Movement,
        /// The caller's notes.
        metadata: Metadata,
    },
    /// Money was set aside.
    Held {
        /// The caller's id, by which the hold is known.
        hold_id: TransactionId,
        /// The hold.
        hold: Hold,
        /// The payer's available balance afterwards.
        available_after: i64,
        /// The payer's held balance afterwards.
        held_after: i64,
        /// The caller's notes.
        metadata: Metadata,
    },
    /// A hold was paid out; what was held above the movement's amount was released.
    HoldConfirmed {
        /// The caller's id of the confirmation.
        transaction_id: TransactionId,
        /// The hold.
        hold_id: TransactionId,
        /// The money that moved; `from_after` includes what was released.
        movement: Movement,
        /// The payer's held balance afterwards.
        held_after: i64,
        /// What was released, in minor units; often 0.
        released: u64,
    },
    /// A hold was given up by its owner, or by time.
    HoldReleased {
        /// The caller's id of the cancellation; `None` when the hold expired.
        transaction_id: Option<TransactionId>,
        /// The hold.
        hold_id: TransactionId,
        /// Whose money it is again.
        account: AccountNumber,
        /// How much.
        amount: Amount,
        /// Of what.
        currency: Currency,
        /// The account's available balance afterwards.
        available_after: i64,
        /// The account's held balance afterwards.
        held_after: i64,
    },
    /// The money of an earlier transaction moved back.
    Reversed {
        /// The caller's id.
        transaction_id: TransactionId,
        /// The earlier transaction.
        original_id: TransactionId,
        /// The money: its `from` is the payee of the original.
        movement: Movement,
        /// The caller's notes.
        metadata: Metadata,
    },
    /// An account takes no commands from now on.
    AccountClosed {
        /// The caller's id.
        transaction_id: TransactionId,
        /// The account.
        account: AccountNumber,
    },
    /// Every leg of a group happened: the legs are the events just before this one.
    GroupCommitted {
        /// The group's id.
        transaction_id: TransactionId,
        /// How many legs.
        legs: u8,
    },
    /// Nothing moved, and the transaction_id says so for ever.
    Refused {
        /// The caller's id.
        transaction_id: TransactionId,
        /// Why.
        refusal: Refusal,
    },
}

/// What an event left behind in one account and currency.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BalanceChange {
    /// The account.
    pub account: AccountNumber,
    /// The other side, where there is one.
    pub counterparty: Option<AccountNumber>,
    /// The currency.
    pub currency: Currency,
    /// What was added to `available` (negative: taken), in minor units.
    pub available_change: i64,
    /// The available balance afterwards.
    pub available_after: i64,
    /// The held balance afterwards; `None` when it did not change.
    pub held_after: Option<i64>,
}

impl Event {
    /// The id that this event is the outcome of.
    pub fn transaction_id(&self) -> Option<TransactionId> {
        match self {
            Event::AccountOpened { .. } => None,
            Event::Held { hold_id, .. } => Some(*hold_id),
            Event::HoldReleased { transaction_id, .. } => *transaction_id,
            Event::Transferred { transaction_id, .. }
            | Event::HoldConfirmed { transaction_id, .. }
            | Event::Reversed { transaction_id, .. }
            | Event::AccountClosed { transaction_id, .. }
            | Event::GroupCommitted { transaction_id, .. }
            | Event::Refused { transaction_id, .. } => Some(*transaction_id),
        }
    }

    /// The earlier transaction whose fate this event changed.
    pub fn referenced_id(&self) -> Option<TransactionId> {
        match self {
            Event::HoldConfirmed { hold_id, .. } | Event::HoldReleased { hold_id, .. } => Some(*hold_id),
            Event::Reversed { original_id, .. } => Some(*original_id),
            _ => None,
        }
    }

    /// The money that moved between two accounts, if any did.
    pub fn movement(&self) -> Option<&Movement> {
        match self {
            Event::Transferred { movement, .. }
            | Event::HoldConfirmed { movement, .. }
            | Event::Reversed { movement, .. } => Some(movement),
            _ => None,
        }
    }

    /// The caller's notes.
    pub fn metadata(&self) -> Option<&Metadata> {
        match self {
            Event::AccountOpened { metadata, .. }
            | Event::Transferred { metadata, .. }
            | Event::Held { metadata, .. }
            | Event::Reversed { metadata, .. } => Some(metadata),
            _ => None,
        }
    }

    /// The postings of this event: at most two, the payer's first.
    pub fn balance_changes(&self) -> [Option<BalanceChange>; 2] {
        match self {
            Event::Transferred { movement, .. } | Event::Reversed { movement, .. } => {
                movement.balance_changes()
            }
            Event::HoldConfirmed { movement, held_after, released, .. } => {
                let [payer, payee] = movement.balance_changes();
                // The amount left `available` when it was held; only what is released comes back to it now.
                let payer = payer.map(|change| BalanceChange {
                    available_change: *released as i64,
                    held_after: Some(*held_after),
                    ..change
                });
                [payer, payee]
            }
            Event::Held { hold, available_after, held_after, .. } => {
                let change = BalanceChange {
                    account: hold.from,
                    counterparty: Some(hold.to),
                    currency: hold.currency,
                    available_change: -hold.amount.signed(),
                    available_after: *available_after,
                    held_after: Some(*held_after),
                };
                [Some(change), None]
            }
            Event::HoldReleased { account, amount, currency, available_after, held_after, .. } => {
                let change = BalanceChange {
                    account: *account,
                    counterparty: None,
                    currency: *currency,
                    available_change: amount.signed(),
                    available_after: *available_after,
                    held_after: Some(*held_after),
                };
                [Some(change), None]
            }
            Event::AccountOpened { .. }
            | Event::AccountClosed { .. }
            | Event::GroupCommitted { .. }
            | Event::Refused { .. } => [None, None],
        }
    }
}

impl Movement {
    fn balance_changes(&self) -> [Option<BalanceChange>; 2] {
        let payer = BalanceChange {
            account: self.from,
            counterparty: Some(self.to),
            currency: self.currency,
            available_change: -self.amount.signed(),
            available_after: self.from_after,
            held_after: None,
        };
        let payee = BalanceChange {
            account: self.to,
            counterparty: Some(self.from),
            currency: self.currency,
            available_change: self.amount.signed(),
            available_after: self.to_after,
            held_after: None,
        };
        [Some(payer), Some(payee)]
    }
}

/// The events of one command. Nearly always one, which then needs no allocation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Events {
    /// One event.
    One(Event),
    /// Two or more, in order.
    Many(Vec<Event>),
}

impl Events {
    /// The events in order.
    pub fn as_slice(&self) -> &[Event] {
        match self {
            Events::One(event) => std::slice::from_ref(event),
            Events::Many(events) => events,
        }
    }
}

impl std::ops::Deref for Events {
    type Target = [Event];

    fn deref(&self) -> &[Event] {
        self.as_slice()
    }
}
