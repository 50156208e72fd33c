//! What a partition answers.

use ledger::{
    AccountId, AccountNumber, Balance, Currency, Digest, Metadata, Record, Refusal, Sequence, Timestamp,
    Totals,
};

/// Why work was not even queued. Nothing was executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotAccepted {
    /// The queue is full: come back later with the same id.
    #[error("the partition's queue is full")]
    Overloaded,
    /// The partition is stopping.
    #[error("the partition is stopping")]
    Stopping,
}

/// The available balances of both accounts right after a transfer, in minor units.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BalancesAfter {
    /// The payer's.
    pub from: i64,
    /// The payee's.
    pub to: i64,
}

/// What became of one transfer of a submission.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TransferAnswer {
    /// The position of its event; 0 when the refusal is not recorded.
    pub sequence: Sequence,
    /// The time of its event.
    pub timestamp: Timestamp,
    /// True when the id had been executed before, and this is the first answer again.
    pub replayed: bool,
    /// The balances left behind, or why nothing moved.
    pub outcome: Result<BalancesAfter, Refusal>,
}

impl TransferAnswer {
    /// The answer to a transfer of which nothing is remembered.
    pub(super) fn unrecorded(timestamp: Timestamp, refusal: Refusal) -> TransferAnswer {
        TransferAnswer { sequence: Sequence(0), timestamp, replayed: false, outcome: Err(refusal) }
    }
}

/// What became of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CommandAnswer {
    /// These events happened, now or, when `replayed`, the first time. Never empty; a recorded refusal is an event too.
    Executed {
        /// The command's own events, ascending.
        records: Vec<Record>,
        /// True when the id had been executed before, and this is the first answer again.
        replayed: bool,
    },
    /// Nothing happened and nothing is remembered.
    Rejected(Refusal),
    /// The account to be opened is open, with the same metadata.
    AlreadyOpen(AccountView),
}

/// An account as it stood at a position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountView {
    /// The account's name.
    pub account_id: AccountId,
    /// The account's number in its partition.
    pub number: AccountNumber,
    /// When it was opened.
    pub opened_at: Timestamp,
    /// Its owner's notes.
    pub metadata: Metadata,
    /// True once it was closed.
    pub closed: bool,
    /// Every currency that it ever had money in, ascending by numeric code.
    pub balances: Vec<(Currency, Balance)>,
    /// The position of the state that was read.
    pub sequence: Sequence,
    /// The time of that position.
    pub timestamp: Timestamp,
}

/// The whole state, summed up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateView {
    /// The position of the state that was read.
    pub sequence: Sequence,
    /// The time of that position.
    pub timestamp: Timestamp,
    /// Accounts ever opened.
    pub accounts: u64,
    /// Pending holds.
    pub holds: u64,
    /// Every currency's sum.
    pub totals: Vec<Totals>,
    /// The hash of the whole state.
    pub digest: Digest,
}
