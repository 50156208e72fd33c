//! One event-sourced partition: a thread that owns the state, a journal, a state store, and the index of every
//! transaction_id ever used.
//!
//! ```text
//! submit -> bounded queue -> state thread: look up ids, decide, apply, encode -> journal thread: hash, write, sync
//!                                                                                  -> replies, committed frames
//! ```

mod answer;
mod away;
mod buffers;
mod checkpoint;
mod commit;
mod engine;
mod id_filter;
mod id_index;
mod layout;
mod metrics;
mod past;
mod receipt;
mod recovery;
mod redecide;
mod replay;
mod restore;
mod shadow;
mod snapshot;
mod source;
mod upgrade;
mod verify;
mod window;

pub use answer::{AccountView, BalancesAfter, CommandAnswer, NotAccepted, StateView, TransferAnswer};
pub use metrics::{Histogram, Metrics};
pub use past::PastError;
pub use receipt::{NotProven, Proven, ReceiptError, verify_receipt};
pub use recovery::OpenError;
pub use redecide::{Difference, Redecision, VerifyError};
pub use replay::{DigestAt, Moment, ReplayError, ReplayOptions, ReplayReport, replay};
pub use restore::{Extent, RestoreError, RestoreOptions, Restored, restore};
pub use snapshot::{SnapshotError, SnapshotReport, verify_snapshot};
pub use source::{Source, SourceError};
pub use upgrade::{UpgradeReport, check_upgrade};
pub use verify::{VerifyReport, verify};

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::Sender;
use ledger::{AccountId, AccountNumber, AccountRef, Command, Sequence, Transaction, TransactionId, Transfer};
use storage::archive::Archiver;
use storage::attestation::Attestation;
use storage::journal::{self, Frame, Reader};
use storage::objects::Objects;
use storage::store::Engine;

use buffers::Buffers;
use commit::Committed;
use engine::Work;

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
    pub queue_commands_max: u64,
    /// A checkpoint with its run of ids is cut after this many events.
    pub run_events: usize,
    /// What keeps the state store's files.
    pub store_engine: Engine,
    /// Memory for the state store's block cache.
    pub store_cache_size_bytes: u64,
    /// The data directory with the keys that sign checkpoints, made when there are none; without, there are no receipts.
    pub keys: Option<PathBuf>,
    /// Where the journal is archived and snapshots go; nowhere without.
    pub archive: Option<ArchiveOptions>,
    /// A shadow verifier goes along, at so many events a second at most; none without.
    pub verifier_events_per_second: Option<u64>,
}

/// How a partition is archived.
#[derive(Debug, Clone)]
pub struct ArchiveOptions {
    /// Where to.
    pub objects: Objects,
    /// Frames are archived at the latest after this time: what the loss of the disk may take with it.
    pub interval: Duration,
    /// An object of frames is full at this size.
    pub parcel_size_bytes: usize,
    /// The journal itself keeps at least so many bytes.
    pub keep_size_bytes: u64,
    /// A snapshot is written after so many events; 0 for only when asked.
    pub snapshot_events: u64,
    /// Older snapshots are removed; 0 keeps all.
    pub snapshots_kept: usize,
}

impl ArchiveOptions {
    /// The defaults for an archive.
    pub fn new(objects: Objects) -> ArchiveOptions {
        ArchiveOptions {
            objects,
            interval: Duration::from_secs(60),
            parcel_size_bytes: 16 << 20,
            keep_size_bytes: 1 << 30,
            snapshot_events: 50_000_000,
            snapshots_kept: 8,
        }
    }
}

impl Options {
    /// The defaults for a partition in this directory.
    pub fn new(directory: PathBuf) -> Options {
        Options {
            directory,
            partition: 0,
            mmap: false,
            segment_size_bytes: 64 << 20,
            queue_commands_max: 128 << 10,
            run_events: 2 << 20,
            store_engine: Engine::PREFERRED,
            store_cache_size_bytes: 64 << 20,
            keys: None,
            archive: None,
            verifier_events_per_second: None,
        }
    }
}

/// Is handed every committed frame, in order, on the journal's thread: it must be quick, and may block only to exert
/// back-pressure on the write side.
pub trait CommitListener: Send {
    /// The frame is durable.
    fn committed(&mut self, frame: &Arc<Frame>);
}

/// Listens to nothing.
impl CommitListener for () {
    fn committed(&mut self, _frame: &Arc<Frame>) {}
}

/// Is told why the node cannot go on: the journal or the store failed. Nothing is answered any more; the process should
/// end, and recover from the journal when it is started again.
pub type OnFatal = Arc<dyn Fn(String) + Send + Sync>;

/// A handle to a running partition. Clones share it.
#[derive(Clone)]
pub struct Partition {
    inner: Arc<Inner>,
}

struct Inner {
    number: u32,
    queue_commands_max: u64,
    work: Sender<Work>,
    reader: Reader,
    committed: Arc<Committed>,
    metrics: Arc<Metrics>,
    buffers: Arc<BatchBuffers>,
    stopping: Arc<AtomicBool>,
    archive: Option<Archive>,
    attestation: Option<Arc<Attestation>>,
    shadow: Arc<shadow::Stop>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// The archive of a running partition.
struct Archive {
    archiver: Arc<Archiver>,
    /// Taken when the partition stops.
    snapshots: Mutex<Option<Sender<snapshot::Request>>>,
    needed: Arc<Needed>,
}

/// Up to which event somebody besides the partition may still need the journal's own frames.
type NeededFrom = Box<dyn Fn() -> Sequence + Send>;

#[derive(Default)]
struct Needed(Mutex<Option<NeededFrom>>);

impl Needed {
    /// Nothing may be released before somebody has said what is needed.
    fn floor(&self) -> Sequence {
        let needed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        needed.as_ref().map_or(Sequence(0), |needed| needed())
    }
}

/// The vectors that batches travel in.
#[derive(Default)]
struct BatchBuffers {
    transfers: Buffers<Transfer>,
    answers: Buffers<TransferAnswer>,
}

impl Inner {
    /// A submission larger than the whole queue still passes when nothing waits before it.
    fn has_room_for(&self, depth: u64, weight: u64) -> bool {
        depth == 0 || depth + weight <= self.queue_commands_max
    }
}

impl Partition {
    /// Opens the directory, recovers the state from the last checkpoint and the journal's tail, and starts the threads.
    /// `progress` is called now and then with the last sequence recovered so far, and the last one there is.
    ///
    /// The listener hears of frames committed from now on; what is older it finds through [`Partition::reader`].
    pub fn open(
        options: Options,
        listener: Box<dyn CommitListener>,
        on_fatal: OnFatal,
        progress: &mut dyn FnMut(Sequence, Sequence),
    ) -> Result<Partition, OpenError> {
        recovery::open(options, listener, on_fatal, progress)
    }

    /// The partition's number.
    pub fn number(&self) -> u32 {
        self.inner.number
    }

    /// Executes transfers, each on its own. `reply` is called on the journal's thread once all are durable, with one answer
    /// per transfer in order: it must be quick. It is never called when the node stops first.
    pub fn submit_transfers(
        &self,
        transfers: Vec<Transfer>,
        reply: impl FnOnce(Vec<TransferAnswer>) + Send + 'static,
    ) -> Result<(), NotAccepted> {
        assert!(transfers.len() <= TRANSFERS_PER_SUBMISSION_MAX, "the caller splits what is larger");
        self.submit(Work::Transfers(transfers, Box::new(reply)))
    }

    /// An empty vector for the transfers of a large submission. Its memory is used again after the submission was executed.
    pub fn transfers_buffer(&self) -> Vec<Transfer> {
        self.inner.buffers.transfers.take()
    }

    /// Gives answers back that were read, so that their memory is used again.
    pub fn recycle(&self, answers: Vec<TransferAnswer>) {
        self.inner.buffers.answers.give_back(answers);
    }

    /// Executes any one command. As [`Partition::submit_transfers`].
    pub fn submit_command(
        &self,
        command: Command,
        reply: impl FnOnce(CommandAnswer) + Send + 'static,
    ) -> Result<(), NotAccepted> {
        self.submit(Work::Command(Box::new(command), Box::new(reply)))
    }

    /// The account as it stands now. `reply` is called once everything that the answer rests on is durable.
    pub fn query_account(
        &self,
        account: AccountRef,
        reply: impl FnOnce(Option<AccountView>) + Send + 'static,
    ) -> Result<(), NotAccepted> {
        self.submit(Work::Account(account, Box::new(reply)))
    }

    /// The sequences of all events about a transaction_id, ascending; empty when it was never used. An event about another id may be
    /// among them: [`Partition::read_transaction`] sees that, and turns them into what happened.
    pub fn query_transaction(
        &self,
        transaction_id: TransactionId,
        reply: impl FnOnce(Vec<Sequence>) + Send + 'static,
    ) -> Result<(), NotAccepted> {
        self.submit(Work::Transaction(transaction_id, Box::new(reply)))
    }

    /// The names of accounts, in the order asked for.
    pub fn query_names(
        &self,
        accounts: Vec<AccountNumber>,
        reply: impl FnOnce(Vec<Option<AccountId>>) + Send + 'static,
    ) -> Result<(), NotAccepted> {
        self.submit(Work::Names(accounts, Box::new(reply)))
    }

    /// Position, totals and digest. Walks all accounts on the state thread (about 20 ms for a million).
    pub fn query_state(&self, reply: impl FnOnce(StateView) + Send + 'static) -> Result<(), NotAccepted> {
        self.submit(Work::State(Box::new(reply)))
    }

    fn submit(&self, work: Work) -> Result<(), NotAccepted> {
        let inner = &self.inner;
        if inner.stopping.load(Ordering::Acquire) {
            return Err(NotAccepted::Stopping);
        }
        let weight = work.weight();
        let depth = inner.metrics.queue_depth.fetch_add(weight, Ordering::Relaxed);
        if !inner.has_room_for(depth, weight) {
            inner.metrics.queue_depth.fetch_sub(weight, Ordering::Relaxed);
            inner.metrics.overloaded.fetch_add(1, Ordering::Relaxed);
            return Err(NotAccepted::Overloaded);
        }
        inner.work.send(work).map_err(|_| NotAccepted::Stopping)
    }

    /// True when so many transfers would be accepted now. Others may come first: a submission can still be refused.
    pub fn has_room_for(&self, transfers: usize) -> bool {
        let depth = self.inner.metrics.queue_depth.load(Ordering::Relaxed);
        self.inner.has_room_for(depth, transfers as u64)
    }

    /// Reads a transaction back from the journal. Blocks on the disk: not for an async thread.
    pub fn read_transaction(
        &self,
        transaction_id: TransactionId,
        sequences: &[Sequence],
    ) -> Result<Option<Transaction>, PastError> {
        Ok(past::read(&self.inner.reader, transaction_id, sequences)?.map(|past| past.transaction))
    }

    /// From now on the journal may let go of archived segments before the last checkpoint and before this sequence, which the
    /// views have taken in for good.
    pub fn release_before(&self, needed: impl Fn() -> Sequence + Send + 'static) {
        if let Some(archive) = &self.inner.archive {
            *archive.needed.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(needed));
        }
    }

    /// The archiver, if the partition has an archive.
    pub fn archiver(&self) -> Option<&Archiver> {
        self.inner.archive.as_ref().map(|archive| archive.archiver.as_ref())
    }

    /// The receipt of a transaction whose events are at these sequences; `None` when there are none. Blocks on the disk, and on
    /// the archive for an old transaction: not for an async thread.
    pub fn receipt(
        &self,
        transaction_id: TransactionId,
        sequences: &[Sequence],
    ) -> Result<Option<String>, ReceiptError> {
        let Some(transaction) = self.read_transaction(transaction_id, sequences)? else { return Ok(None) };
        let sequence = transaction.records[0].sequence;
        let attestation = self.inner.attestation.as_ref().ok_or(ReceiptError::NoKeys)?;
        let frame =
            self.inner.reader.frame_containing(journal::Sequence(sequence.0)).map_err(PastError::from)?;
        let frame = frame.ok_or(PastError::Missing { sequence: sequence.0 })?;
        receipt::make(attestation, &frame, transaction_id, sequence).map(Some)
    }

    /// Writes a snapshot as of now into the archive. Blocks until it is there: not for an async thread.
    pub fn snapshot(&self) -> Result<SnapshotReport, SnapshotError> {
        let archive = self.inner.archive.as_ref().ok_or(SnapshotError::NoArchive)?;
        let snapshots = archive.snapshots.lock().unwrap_or_else(PoisonError::into_inner).clone();
        snapshot::ask(&snapshots.ok_or(SnapshotError::Stopping)?)
    }

    /// Reads committed frames of the journal.
    pub fn reader(&self) -> Reader {
        self.inner.reader.clone()
    }

    /// The sequence of the last durable event.
    pub fn committed(&self) -> Sequence {
        self.inner.committed.sequence()
    }

    /// Blocks until this event is durable, or for so long; true when it is. Costs the write side nothing but the waking.
    pub fn wait_for_committed(&self, sequence: Sequence, patience: Duration) -> bool {
        self.inner.committed.wait_for_at_most(sequence, patience)
    }

    /// Counters of the running partition.
    pub fn metrics(&self) -> &Metrics {
        &self.inner.metrics
    }

    /// Takes no more work, answers what was accepted, writes a checkpoint, and stops the threads.
    pub fn shut_down(&self) {
        self.inner.stopping.store(true, Ordering::Release);
        self.inner.shadow.stop();
        // The state thread may be gone already, after a failure.
        let _ = self.inner.work.send(Work::Stop);
        if let Some(archive) = &self.inner.archive {
            drop(archive.snapshots.lock().unwrap_or_else(PoisonError::into_inner).take());
        }
        let threads = std::mem::take(&mut *self.inner.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!(
                    "a thread of the partition panicked; the journal recovers the state at the next start"
                );
            }
        }
        if let Some(archive) = &self.inner.archive {
            archive.archiver.stop();
        }
    }
}
