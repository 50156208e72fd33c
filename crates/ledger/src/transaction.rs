//! What became of a transaction, as told by its events.

use crate::{Command, Event, Movement, Sequence, Timestamp, TransactionId};

/// One event with where and when it happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The event's position within its partition.
    pub sequence: Sequence,
    /// When the leader stamped it.
    pub timestamp: Timestamp,
    /// What happened.
    pub event: Event,
}

/// Everything recorded about one transaction_id: its command, and every event that is its outcome or changed its fate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transaction {
    /// The id.
    pub transaction_id: TransactionId,
    /// The command that used the id first. For a leg of a group, the group.
    pub command: Command,
    /// Ascending by sequence; the first is the outcome of the command for this id.
    pub records: Vec<Record>,
}

impl Transaction {
    /// The event that answered the id.
    pub fn outcome(&self) -> &Record {
        self.records.first().expect("a transaction is only known by its events")
    }

    /// The money that moved under this id, if any did: a pending hold and a refusal moved none.
    pub fn movement(&self) -> Option<&Movement> {
        self.outcome().event.movement()
    }

    /// True once the money went back.
    pub fn is_reversed(&self) -> bool {
        self.records.iter().any(|record| {
            matches!(&record.event, Event::Reversed { original_id, .. } if *original_id == self.transaction_id)
        })
    }
}
