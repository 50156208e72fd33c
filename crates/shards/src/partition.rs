//! One event-sourced partition: a thread that owns the state, a journal, a state store, and the index of every
//! transaction_id ever used.
//!
//! ```text
//! submit -> bounded queue -> state thread: look up ids, decide, apply, encode -> journal thread: hash, write, sync
//!                                                                                  -> replies, committed frames
//! ```

mod answer;
mod metrics;

pub use answer::{
    AccountView, BalancesAfter, CommandAnswer, NotAccepted, StateView, TransferAnswer,
};
pub use metrics::{Histogram, Metrics};

use std::path::PathBuf;
use std::sync::Arc;

use ledger::{AccountId, AccountNumber, AccountRef, Command, Sequence, TransactionId, Transfer};
use storage::journal::{Frame, Reader};

/// The greatest number of transfers in one submission.
pub const TRANSFERS_PER_SUBMISSION_MAX: usize = 8190;

/// How a partition is set up.
#[derive(Debug, Clone)]
pub struct Options {
    /// The partition's own directory; made when missing. The caller holds the lock on the data directory.
    pub directory: PathBuf,
    /// The partition's number.
    pub partition: u32,
    /// Write the journal through `mmap` instead of direct I/O.
    pub mmap: bool,
    /// The size of a journal segment.
    pub segment_size_bytes: u64,
    /// How many commands may wait; past it a submission is refused as overloaded.
    pub queue_commands_max: usize,
    /// A checkpoint with its run of ids is cut after this many events.
    pub run_events: usize,
    /// Memory for the state store's block cache.
    pub store_cache_size_bytes: u64,
}

/// Is handed every committed frame, in order, on the journal's thread: it must be quick, and may block only to exert
/// back-pressure on the write side.
pub trait CommitListener: Send {
    /// The frame is durable.
    fn committed(&mut self, frame: &Arc<Frame>);
}

/// Why a partition cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// See the message.
    #[error("{0}")]
    Other(String),
}

/// A handle to a running partition. Clones share it.
#[derive(Clone)]
pub struct Partition {}

impl Partition {
    /// Opens the directory, recovers the state from the last checkpoint and the journal's tail, and starts the threads.
    /// `progress` is called now and then with the sequences recovered so far and the last one.
    pub fn open(
        options: Options,
        listener: Option<Box<dyn CommitListener>>,
        progress: &mut dyn FnMut(Sequence, Sequence),
    ) -> Result<Partition, OpenError> {
        let _ = (options, listener, progress);
        unimplemented!()
    }

    /// The partition's number.
    pub fn number(&self) -> u32 {
        unimplemented!()
    }

    /// Executes transfers, each on its own. `reply` is called on the journal's thread once all are durable, with one answer
    /// per transfer in order: it must be quick. It is never called when the node stops first.
    pub fn submit_transfers(
        &self,
        transfers: Vec<Transfer>,
        reply: impl FnOnce(Vec<TransferAnswer>) + Send + 'static,
    ) -> Result<(), NotAccepted> {
        let _ = (transfers, reply);
        unimplemented!()
    }

    /// Executes any one command. As [`Partition::submit_transfers`].
    pub fn submit_command(
        &self,
        command: Command,
        reply: impl FnOnce(CommandAnswer) + Send + 'static,
    ) -> Result<(), NotAccepted> {
        let _ = (command, reply);
        unimplemented!()
    }

    /// The account as it stands now. `reply` is called once everything that the answer rests on is durable.
    pub fn query_account(
        &self,
        account: AccountRef,
        reply: impl FnOnce(Option<AccountView>) + Send + 'static,
    ) -> Result<(), NotAccepted> {
        let _ = (account, reply);
        unimplemented!()
    }

    /// The sequences of all events about a transaction_id, ascending; empty when it was never used.
    /// [`Partition::read_transaction`] turns them into what happened.
    pub fn query_transaction(
        &self,
        transaction_id: TransactionId,
        reply: impl FnOnce(Vec<Sequence>) + Send + 'static,
    ) -> Result<(), NotAccepted> {
        let _ = (transaction_id, reply);
        unimplemented!()
    }

    /// The names of accounts, in the order asked for.
    pub fn query_names(
        &self,
        accounts: Vec<AccountNumber>,
        reply: impl FnOnce(Vec<Option<AccountId>>) + Send + 'static,
    ) -> Result<(), NotAccepted> {
        let _ = (accounts, reply);
        unimplemented!()
    }

    /// Position, totals and digest. Walks all accounts on the state thread (about 20 ms for a million).
    pub fn query_state(&self, reply: impl FnOnce(StateView) + Send + 'static) -> Result<(), NotAccepted> {
        let _ = reply;
        unimplemented!()
    }

    /// Reads a transaction back from the journal. Blocks on the disk: not for an async thread.
    pub fn read_transaction(
        &self,
        transaction_id: TransactionId,
        sequences: &[Sequence],
    ) -> Result<Option<ledger::Transaction>, storage::journal::ReadError> {
        let _ = (transaction_id, sequences);
        unimplemented!()
    }

    /// Reads committed frames of the journal.
    pub fn reader(&self) -> Reader {
        unimplemented!()
    }

    /// The sequence of the last durable event.
    pub fn committed(&self) -> Sequence {
        unimplemented!()
    }

    /// Counters of the running partition.
    pub fn metrics(&self) -> &Metrics {
        unimplemented!()
    }

    /// Takes no more work, answers what was accepted, writes a checkpoint, and stops the threads.
    pub fn shut_down(&self) {
        unimplemented!()
    }
}
