//! Commands that repeat or refer to one whose frame the journal has released: a thread reads it from the archive, so that the
//! state thread never waits for a network.
//!
//! When the archive does not answer, neither is the command: its caller hears that the outcome is unknown and repeats it.

use std::collections::HashMap;

use crossbeam_channel::{Receiver, Sender};
use ledger::{Command, Sequence, TransactionId, Transfer};
use storage::journal::Reader;

use super::answer::{CommandAnswer, TransferAnswer};
use super::engine::{ReplyWith, Work};
use super::past::{self, Past};

/// What waits for the archive.
pub(super) enum Away {
    /// Repeats among the transfers of a submission, with their places; the others have their answers.
    Transfers {
        answers: Vec<TransferAnswer>,
        away: Vec<(usize, Transfer)>,
        reply: ReplyWith<Vec<TransferAnswer>>,
    },
    /// A command that has done nothing yet.
    Command { command: Box<Command>, reply: ReplyWith<CommandAnswer> },
}

/// With the ids whose past is needed, and the events about each.
pub(super) type SentAway = (Away, Vec<(TransactionId, Vec<Sequence>)>);

impl Away {
    pub(super) fn len(&self) -> usize {
        match self {
            Away::Transfers { away, .. } => away.len(),
            Away::Command { .. } => 1,
        }
    }

    pub(super) fn ids(&self) -> Vec<TransactionId> {
        match self {
            Away::Transfers { away, .. } => {
                away.iter().map(|(_, transfer)| transfer.transaction_id).collect()
            }
            Away::Command { command, .. } => {
                command.transaction_ids().chain(command.referenced_id()).collect()
            }
        }
    }
}

/// What was read, and what it is the past of: events may have come since.
#[derive(Default)]
pub(super) struct Fetched(HashMap<TransactionId, (Vec<Sequence>, Option<Past>)>);

impl Fetched {
    /// The past of the id, if it was read and is still all of it. That is `None` where the events are about another id.
    pub(super) fn take(&mut self, id: TransactionId, sequences: &[Sequence]) -> Option<Option<Past>> {
        if self.0.is_empty() || self.0.get(&id)?.0 != sequences {
            return None;
        }
        self.0.remove(&id).map(|(_, past)| past)
    }
}

/// The thread that reads.
pub(super) struct Fetcher {
    pub(super) reader: Reader,
    pub(super) wake: Sender<Work>,
}

impl Fetcher {
    pub(super) fn run(self, waiting: &Receiver<SentAway>) {
        for (away, wanted) in waiting {
            let mut fetched = Fetched::default();
            let read = wanted.into_iter().try_for_each(|(id, sequences)| {
                let past = past::read(&self.reader, id, &sequences)?;
                fetched.0.insert(id, (sequences, past));
                Ok::<(), past::PastError>(())
            });
            match read {
                // The state thread may be gone at the very end; then nobody waits.
                Ok(()) => drop(self.wake.send(Work::Returned(Box::new(away), fetched))),
                Err(error) => {
                    tracing::warn!(%error, commands = away.len(), "commands are not answered, because their past cannot be read now");
                }
            }
        }
    }
}
