//! Snapshots of the checkpoint in the archive, written beside the running partition.
//!
//! Everything comes from the state store, whose iterators see one checkpoint however long they take: the state thread is asked
//! for nothing but a fresh checkpoint.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use ledger::{Digest, Sequence};
use storage::archive::{ArchiveError, Archiver};
use storage::journal::{self, ReadError, Reader};
use storage::objects::{ObjectError, Objects};
use storage::snapshot::{self, Manifest, Snapshot, SnapshotSubject, SnapshotWriter};
use storage::store::{Entry, StateStore, StoreError};

use super::commit::Committed;
use super::engine::Work;
use super::layout::{self, CheckpointPosition};
use super::metrics::Metrics;

/// How often the thread looks whether a snapshot is due.
const TICK: Duration = Duration::from_secs(1);
/// After a failure, a snapshot that is due waits so long.
const BACK_OFF: Duration = Duration::from_secs(60);
/// How long a snapshot waits for a fresh checkpoint before it takes the last one.
const CHECKPOINT_PATIENCE: Duration = Duration::from_secs(60);
const CHECKPOINT_POLL: Duration = Duration::from_millis(5);
/// How often the iterators are made anew when a checkpoint came in between.
const ATTEMPTS_MAX: usize = 100;
/// What was begun so long ago and is not finished never will be.
const LEFTOVER_AGE: Duration = Duration::from_secs(3600);

/// Why there is no snapshot.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The archive failed, or answers wrong bytes.
    #[error(transparent)]
    Objects(#[from] snapshot::SnapshotError),
    /// The journal was not archived up to the snapshot.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// The state store cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The frame that ends with the checkpoint cannot be read.
    #[error(transparent)]
    Journal(#[from] ReadError),
    /// There is no checkpoint yet: nothing has happened.
    #[error("there is nothing to snapshot: the ledger has no events yet")]
    Empty,
    /// No frame ends where the checkpoint stands.
    #[error("the checkpoint stands at event {0}, where no frame ends; run `jigap verify`")]
    Anchor(u64),
    /// The partition stops.
    #[error("the partition is stopping")]
    Stopping,
    /// The partition has no archive.
    #[error("there is no archive: set archive-url")]
    NoArchive,
}

impl From<ObjectError> for SnapshotError {
    fn from(error: ObjectError) -> SnapshotError {
        SnapshotError::Objects(error.into())
    }
}

/// A snapshot that was asked for.
#[derive(Debug, Clone)]
pub struct SnapshotReport {
    /// The snapshot.
    pub manifest: Manifest,
    /// Whether it was there already.
    pub existed: bool,
    /// From being asked to being done.
    pub elapsed: Duration,
}

pub(super) type Request = Sender<Result<SnapshotReport, SnapshotError>>;

/// The thread that writes snapshots, one at a time.
pub(super) struct Snapshots {
    pub(super) store: Arc<dyn StateStore>,
    pub(super) reader: Reader,
    pub(super) archiver: Arc<Archiver>,
    pub(super) committed: Arc<Committed>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) wake: Sender<Work>,
    pub(super) stopping: Arc<AtomicBool>,
    /// A snapshot is due after so many events; 0 for never.
    pub(super) every_events: u64,
    /// Older ones are removed; 0 keeps all.
    pub(super) kept: usize,
}

/// Everything that is read of one checkpoint.
struct View<'store> {
    position: CheckpointPosition,
    accounts: u32,
    account_entries: Entries<'store>,
    page_entries: Entries<'store>,
    hold_entries: Entries<'store>,
    all: Entries<'store>,
}

type Entries<'store> = Box<dyn Iterator<Item = Result<Entry, StoreError>> + 'store>;

impl Snapshots {
    pub(super) fn run(self, requests: &Receiver<Request>) {
        storage::background::give_way();
        let mut last = None;
        let mut not_before = Instant::now();
        loop {
            match requests.recv_timeout(TICK) {
                Ok(request) => {
                    let written = self.fresh_checkpoint().and_then(|()| self.write());
                    if let Ok(report) = &written {
                        last = Some(report.manifest.subject.sequence);
                    }
                    // Whoever asked has gone: then nobody waits.
                    drop(request.send(written));
                }
                Err(RecvTimeoutError::Timeout) if self.every_events > 0 && Instant::now() >= not_before => {
                    if let Err(error) = self.write_if_due(&mut last)
                        && !self.stopping.load(Ordering::Acquire)
                    {
                        tracing::error!(%error, "the snapshot that is due was not written; it is tried again");
                        not_before = Instant::now() + BACK_OFF;
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn write_if_due(&self, last: &mut Option<u64>) -> Result<(), SnapshotError> {
        let checkpoint = self.metrics.checkpoint_sequence.load(Ordering::Relaxed);
        if checkpoint < self.every_events {
            return Ok(());
        }
        let before = match *last {
            Some(before) => before,
            None => {
                let names = Snapshot::list(self.archiver.objects(), self.reader.partition())?;
                *last.insert(names.last().map_or(0, |name| name.sequence))
            }
        };
        if checkpoint.saturating_sub(before) >= self.every_events {
            *last = Some(self.write()?.manifest.subject.sequence);
        }
        Ok(())
    }

    /// Asks the state thread for a checkpoint of everything committed by now, and waits for it; not for ever.
    fn fresh_checkpoint(&self) -> Result<(), SnapshotError> {
        let wanted = self.committed.sequence();
        let deadline = Instant::now() + CHECKPOINT_PATIENCE;
        self.wake.send(Work::Checkpoint).map_err(|_| SnapshotError::Stopping)?;
        while self.metrics.checkpoint_sequence.load(Ordering::Relaxed) < wanted.0 && Instant::now() < deadline
        {
            if self.stopping.load(Ordering::Acquire) {
                return Err(SnapshotError::Stopping);
            }
            std::thread::sleep(CHECKPOINT_POLL);
        }
        Ok(())
    }

    fn write(&self) -> Result<SnapshotReport, SnapshotError> {
        let started = Instant::now();
        let objects = self.archiver.objects();
        let partition = self.reader.partition();
        let leftovers = snapshot::collect_leftovers(objects, partition, LEFTOVER_AGE)?;
        if leftovers > 0 {
            tracing::info!(objects = leftovers, "took away what an unfinished snapshot left");
        }
        let view = self.view()?;
        // The snapshot stands on a frame: that one must be in the archive before anyone can restore from it.
        self.archiver.flush()?;
        let anchor = self
            .reader
            .frame_containing(journal::Sequence(view.position.sequence.0))?
            .filter(|frame| frame.header().next_sequence().0 == view.position.sequence.0 + 1)
            .ok_or(SnapshotError::Anchor(view.position.sequence.0))?;
        let digest = layout::digest(
            &view.position,
            view.accounts,
            self.unless_stopping(view.account_entries),
            self.unless_stopping(view.page_entries),
            self.unless_stopping(view.hold_entries),
        )?;
        let subject = SnapshotSubject {
            partition,
            sequence: view.position.sequence.0,
            timestamp_us: view.position.timestamp.as_micros(),
            digest: digest.to_string(),
            frame_index: anchor.index().0,
            frame_hash: anchor.header().hash.to_string(),
            accounts: u64::from(view.accounts) - 1,
            ids: view.position.ids,
        };
        let mut writer = SnapshotWriter::new(objects, subject);
        if let Some(manifest) = writer.existing() {
            return Ok(SnapshotReport { manifest, existed: true, elapsed: started.elapsed() });
        }
        for entry in self.unless_stopping(view.all) {
            let (key, value) = entry?;
            writer.put(&key, &value)?;
        }
        let manifest = writer.finish()?;
        let elapsed = started.elapsed();
        self.metrics.snapshot_sequence.store(manifest.subject.sequence, Ordering::Relaxed);
        self.metrics.snapshot_us.store(elapsed.as_micros() as u64, Ordering::Relaxed);
        self.metrics.snapshot_bytes.store(manifest.size_bytes(), Ordering::Relaxed);
        tracing::info!(
            sequence = manifest.subject.sequence,
            digest = manifest.subject.digest,
            size_bytes = manifest.size_bytes(),
            elapsed_ms = elapsed.as_millis() as u64,
            "snapshot written"
        );
        self.forget_old(objects, partition)?;
        Ok(SnapshotReport { manifest, existed: false, elapsed })
    }

    fn forget_old(&self, objects: &Objects, partition: u32) -> Result<(), SnapshotError> {
        if self.kept == 0 {
            return Ok(());
        }
        let names = Snapshot::list(objects, partition)?;
        for name in names.iter().rev().skip(self.kept) {
            Snapshot::remove(objects, name)?;
        }
        Ok(())
    }

    /// Iterators that all see the same checkpoint: none came in while they were made.
    fn view(&self) -> Result<View<'_>, SnapshotError> {
        let store = self.store.as_ref();
        let scan = |(start, end): (&[u8], &[u8])| store.scan(start, end);
        for _ in 0..ATTEMPTS_MAX {
            let position = layout::load_position(store)?.ok_or(SnapshotError::Empty)?;
            let view = View {
                position,
                accounts: layout::count_accounts(store)?,
                account_entries: scan(layout::ACCOUNTS),
                page_entries: scan(layout::PAGES),
                hold_entries: scan(layout::HOLDS),
                all: scan(layout::ALL),
            };
            if layout::load_position(store)? == Some(position) {
                return Ok(view);
            }
        }
        Err(StoreError::Engine("checkpoints come too fast to be read".into()).into())
    }

    fn unless_stopping<'view>(
        &'view self,
        entries: Entries<'view>,
    ) -> impl Iterator<Item = Result<Entry, SnapshotError>> + 'view {
        entries.map(|entry| match self.stopping.load(Ordering::Relaxed) {
            true => Err(SnapshotError::Stopping),
            false => Ok(entry?),
        })
    }
}

/// Asks the thread for a snapshot of now, and waits for it.
pub(super) fn ask(requests: &Sender<Request>) -> Result<SnapshotReport, SnapshotError> {
    let (done, answer) = bounded(1);
    requests.send(done).map_err(|_| SnapshotError::Stopping)?;
    answer.recv().unwrap_or(Err(SnapshotError::Stopping))
}

/// The digest of what a snapshot holds, every part checked against its checksum on the way.
pub(super) fn digest_of(snapshot: &Snapshot) -> Result<Digest, SnapshotError> {
    let damaged = |why: &str| snapshot::SnapshotError::Damaged {
        path: snapshot.folder().to_owned(),
        why: why.to_owned(),
    };
    let scan =
        |(start, end): (&[u8], &[u8])| snapshot.scan(start, end).map(|entry| Ok::<_, SnapshotError>(entry?));
    let (key, end) = (layout::position_key(), [layout::position_key().as_slice(), &[0]].concat());
    let (_, value) = scan((&key, &end)).next().ok_or_else(|| damaged("it has no position"))??;
    let position = layout::decode_position(&value).ok_or_else(|| damaged("its position is damaged"))?;
    if position.sequence != Sequence(snapshot.manifest.subject.sequence) {
        return Err(damaged("its position is not the manifest's").into());
    }
    let accounts =
        u32::try_from(snapshot.manifest.subject.accounts + 1).map_err(|_| damaged("too many accounts"))?;
    let found = layout::digest(
        &position,
        accounts,
        scan(layout::ACCOUNTS),
        scan(layout::PAGES),
        scan(layout::HOLDS),
    )?;
    if found.to_string() != snapshot.manifest.subject.digest {
        return Err(damaged(&format!("the digest of its content is {found}")).into());
    }
    Ok(found)
}

/// Checks a snapshot through and through: every part, the ids as well, and the digest.
pub fn verify_snapshot(snapshot: &Snapshot) -> Result<Digest, SnapshotError> {
    let digest = digest_of(snapshot)?;
    for number in 0..snapshot.manifest.parts.len() {
        snapshot.part(number)?;
    }
    Ok(digest)
}
