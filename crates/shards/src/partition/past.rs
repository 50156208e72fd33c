//! Reading back from the journal what was recorded of a transaction_id.

use ledger::codec::{Body, CodecError, Entry};
use ledger::{Event, Record, Sequence, Timestamp, Transaction, TransactionId};
use storage::journal::{self, ReadError, Reader};

/// Why the past cannot be read. The node stops: it could not keep its promises.
#[derive(Debug, thiserror::Error)]
pub enum PastError {
    /// The journal cannot be read.
    #[error(transparent)]
    Journal(#[from] ReadError),
    /// A frame is whole, yet its body is not ours.
    #[error("the frame with sequence {sequence}: {error}")]
    Body {
        /// A sequence in the frame.
        sequence: u64,
        /// What is wrong with its body.
        error: CodecError,
    },
    /// The index of ids names an event that the journal does not have.
    #[error("the journal has no event {sequence}, which the index of transaction_ids names")]
    Missing {
        /// The event's sequence.
        sequence: u64,
    },
}

/// A transaction, and all events of the command that used its id first (for a leg: those of the whole group).
#[derive(Debug)]
pub(super) struct Past {
    pub(super) transaction: Transaction,
    pub(super) own_records: Vec<Record>,
}

/// Reads those events at `sequences`, ascending, that are about the id; `None` when there are none.
pub(super) fn read(
    reader: &Reader,
    id: TransactionId,
    sequences: &[Sequence],
) -> Result<Option<Past>, PastError> {
    let mut past: Option<Past> = None;
    for sequence in sequences {
        let (timestamp, entry) = read_entry(reader, *sequence)?;
        let records: Vec<Record> = entry
            .sequenced()
            .map(|(sequence, event)| Record { sequence, timestamp, event: event.clone() })
            .collect();
        let own = records.iter().find(|record| record.sequence == *sequence && is_about(&record.event, id));
        let Some(own) = own.cloned() else { continue };
        match &mut past {
            Some(past) => past.transaction.records.push(own),
            None => {
                let transaction =
                    Transaction { transaction_id: id, command: entry.command.clone(), records: vec![own] };
                past = Some(Past { transaction, own_records: records });
            }
        }
    }
    Ok(past)
}

/// The event has the id, or refers to it.
fn is_about(event: &Event, id: TransactionId) -> bool {
    [event.transaction_id(), event.referenced_id()].contains(&Some(id))
}

fn read_entry(reader: &Reader, sequence: Sequence) -> Result<(Timestamp, Entry), PastError> {
    let frame = reader
        .frame_containing(journal::Sequence(sequence.0))?
        .ok_or(PastError::Missing { sequence: sequence.0 })?;
    let entry = Body::parse(frame.body(), Sequence(frame.first_sequence().0))
        .and_then(|body| body.entry_of(sequence))
        .map_err(|error| PastError::Body { sequence: sequence.0, error })?;
    Ok((Timestamp::from_micros(frame.timestamp_us()), entry))
}
