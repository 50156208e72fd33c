//! Opening a partition: the last checkpoint, then the journal's tail, then the threads.

use std::hash::{BuildHasher, RandomState};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam_channel::{bounded, unbounded};
use ledger::codec::{Body, CodecError};
use ledger::{Sequence, State, Timestamp};
use storage::archive::{Archiver, ArchiverOptions};
use storage::attestation::{Attestation, AttestationError, Keys};
use storage::journal::{self, DiskKind, Frame, Journal, ReadError, Reader, Term};
use storage::store::{self, StateStore, StoreError, StoreOptions};

use super::away::{Fetched, Fetcher};
use super::checkpoint::{CheckpointBuilder, GroupMemory, Used};
use super::commit::Committed;
use super::engine::{Batch, Engine};
use super::id_filter::IdFilter;
use super::id_index::{IdIndex, IdSeed};
use super::layout;
use super::metrics::Metrics;
use super::replay::for_each_frame;
use super::shadow::{Shadow, Stop};
use super::snapshot::Snapshots;
use super::window::Window;
use super::{
    Archive, ArchiveOptions, BatchBuffers, CommitListener, Inner, Needed, OnFatal, Options, Partition,
};

/// Windows that may wait for the checkpoint's builder besides the one it works on.
const WINDOWS_WAITING_MAX: usize = 1;
/// Submissions that may wait for the archive; past it the state thread waits, too.
const AWAY_WAITING_MAX: usize = 1024;
/// Snapshots that may be asked for at a time.
const SNAPSHOTS_WAITING_MAX: usize = 4;
/// How often frames are looked for that fill a signed checkpoint.
const SIGNING_INTERVAL: Duration = Duration::from_millis(200);
/// How many events are replayed between two reports of progress.
const PROGRESS_EVENTS: u64 = 500_000;

/// Why a partition cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The directory cannot be made or used.
    #[error("partition directory {path}: {source}")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The journal cannot be opened.
    #[error(transparent)]
    Journal(#[from] journal::OpenError),
    /// The journal cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The state store cannot be opened or read. It can be built again from the journal.
    #[error("{0}; the state directory can be moved away: it is built again from the journal")]
    Store(#[from] StoreError),
    /// The state store is ahead of the journal, which must then have lost events.
    #[error(
        "the state stands at event {state}, the journal ends with event {journal}: the journal lost events; restore both \
         from one backup"
    )]
    JournalBehindState {
        /// The checkpoint's sequence.
        state: u64,
        /// The journal's last sequence.
        journal: u64,
    },
    /// A frame is whole, yet its body is not ours.
    #[error("journal frame with event {sequence}: {error}")]
    Body {
        /// The first sequence of the frame.
        sequence: u64,
        /// What is wrong with its body.
        error: CodecError,
    },
    /// An event does not follow the state: the journal was written by other rules, or the checkpoint is wrong.
    #[error("event {sequence} does not follow the state before it: {why}; run `jigap verify`")]
    DoesNotFollow {
        /// The event's sequence.
        sequence: u64,
        /// What does not fit.
        why: &'static str,
    },
    /// The keys or the signed checkpoints cannot be used.
    #[error("signing: {0}")]
    Signing(#[from] AttestationError),
    /// A thread cannot be started.
    #[error("cannot start a thread: {0}")]
    Thread(std::io::Error),
}

pub(super) fn journal_directory(partition: &Path) -> PathBuf {
    partition.join("journal")
}

pub(super) fn state_directory(partition: &Path) -> PathBuf {
    partition.join("state")
}

/// The sequence of the last event in the journal; 0 when there is none.
pub(super) fn last_sequence(reader: &Reader) -> Sequence {
    Sequence(reader.last().map_or(0, |frame| frame.last_sequence().0))
}

pub(super) fn store_options(options: &Options) -> StoreOptions {
    StoreOptions { engine: options.store_engine, cache_size_bytes: options.store_cache_size_bytes }
}

pub(super) fn open_store(options: &Options) -> Result<Arc<dyn StateStore>, StoreError> {
    store::open(&state_directory(&options.directory), &store_options(options))
}

pub(super) fn open(
    options: Options,
    listener: Box<dyn CommitListener>,
    on_fatal: OnFatal,
    progress: &mut dyn FnMut(Sequence, Sequence),
) -> Result<Partition, OpenError> {
    std::fs::create_dir_all(&options.directory)
        .map_err(|source| OpenError::Directory { path: options.directory.clone(), source })?;
    let store = open_store(&options)?;
    let loaded = load_checkpoint(&store)?;
    let committed = Arc::new(Committed::default());
    let (journal, reader) = open_journal(&options, &committed, &on_fatal)?;
    let last = last_sequence(&reader);
    committed.restore(last);
    let metrics = Arc::new(Metrics::default());
    metrics.committed_sequence.store(last.0, Ordering::Relaxed);
    metrics.checkpoint_sequence.store(loaded.state.sequence().0, Ordering::Relaxed);

    let (away, waiting) = bounded(AWAY_WAITING_MAX);
    let archive = match &options.archive {
        Some(archive) => Some(start_archive(&options, archive, &journal, &metrics)?),
        None => None,
    };
    let (checkpoints, windows) = bounded(WINDOWS_WAITING_MAX);
    let (spare_sender, spare) = unbounded();
    let filter = Arc::new(loaded.filter);
    let mut builder = CheckpointBuilder {
        filter: Arc::clone(&filter),
        memory: GroupMemory::default(),
        spare: spare_sender,
        run_events: options.run_events,
        used: Used::default(),
        store: Arc::clone(&store),
        seed: loaded.seed,
        committed: Arc::clone(&committed),
        metrics: Arc::clone(&metrics),
    };
    let builder_fatal = Arc::clone(&on_fatal);
    let builder = spawn("jigap-checkpoint", move || {
        if let Err(error) = builder.run(&windows) {
            builder_fatal(format!("cannot write a checkpoint: {error}"));
        }
    })?;

    let (work_sender, work) = unbounded();
    let buffers = Arc::new(BatchBuffers::default());
    let window = Window::new(options.run_events).after(loaded.state.sequence(), loaded.state.timestamp());
    let stopping = Arc::new(AtomicBool::new(false));
    let mut threads = Vec::new();
    let archive = match (archive, &options.archive) {
        (Some((archiver, needed)), Some(archive_options)) => {
            let (sender, requests) = bounded(SNAPSHOTS_WAITING_MAX);
            let snapshots = Snapshots {
                store: Arc::clone(&store),
                reader: reader.clone(),
                archiver: Arc::clone(&archiver),
                committed: Arc::clone(&committed),
                metrics: Arc::clone(&metrics),
                wake: work_sender.clone(),
                stopping: Arc::clone(&stopping),
                every_events: archive_options.snapshot_events,
                kept: archive_options.snapshots_kept,
            };
            threads.push(spawn("jigap-snapshots", move || snapshots.run(&requests))?);
            Some(Archive { archiver, snapshots: Mutex::new(Some(sender)), needed })
        }
        _ => None,
    };
    let attestation = match &options.keys {
        Some(directory) => {
            let keys = Keys::open(directory)?;
            Some(Arc::new(Attestation::open(keys, &options.directory, reader.clone())?))
        }
        None => None,
    };
    if let Some(attestation) = &attestation {
        let (attestation, stopping) = (Arc::clone(attestation), Arc::clone(&stopping));
        threads.push(spawn("jigap-signer", move || sign_checkpoints(&attestation, &stopping))?);
    }
    let shadow_stop = Arc::new(Stop::default());
    let shadow = options.verifier_events_per_second.map(|events_per_second| Shadow {
        partition: options.partition,
        reader: reader.clone(),
        store: Arc::clone(&store),
        committed: Arc::clone(&committed),
        metrics: Arc::clone(&metrics),
        work: work_sender.clone(),
        stop: Arc::clone(&shadow_stop),
        events_per_second: events_per_second.max(1),
    });
    let fetcher = Fetcher { reader: reader.clone(), wake: work_sender.clone() };
    threads.push(spawn("jigap-past", move || fetcher.run(&waiting))?);
    let mut engine = Engine {
        term: journal.last().map_or(Term(1), |frame| frame.term),
        ids: IdIndex::new(loaded.seed, filter, window, spare, store),
        state: loaded.state,
        journal,
        reader: reader.local(),
        away,
        fetched: Fetched::default(),
        committed: Arc::clone(&committed),
        metrics: Arc::clone(&metrics),
        listener: Arc::new(Mutex::new(listener)),
        checkpoints,
        work,
        wake: work_sender.clone(),
        run_events: options.run_events,
        batch: Batch::default(),
        buffers: Arc::clone(&buffers),
        on_fatal,
    };
    // What the tail needs may have been released from a journal whose checkpoint was lost.
    replay_tail(&mut engine, &reader, last, progress)?;
    threads.insert(0, spawn("jigap-state", move || engine.run())?);
    threads.insert(1, builder);
    if let Some(shadow) = shadow {
        threads.push(spawn("jigap-verifier", move || shadow.run())?);
    }
    let inner = Inner {
        number: options.partition,
        queue_commands_max: options.queue_commands_max,
        work: work_sender,
        reader,
        committed,
        metrics,
        buffers,
        stopping,
        archive,
        attestation,
        shadow: shadow_stop,
        threads: Mutex::new(threads),
    };
    Ok(Partition { inner: Arc::new(inner) })
}

/// Signs every full run of frames, a last time when the partition stops: the key may be another at the next start. A failure costs
/// receipts, not transfers: it is tried again.
fn sign_checkpoints(attestation: &Attestation, stopping: &AtomicBool) {
    storage::background::give_way();
    let mut failing = false;
    loop {
        let stops = stopping.load(Ordering::Acquire);
        let signed = attestation.follow();
        if let (Err(error), false) = (&signed, failing) {
            tracing::error!(%error, "checkpoints cannot be signed, so there are no receipts; it is tried again");
        }
        if stops {
            return;
        }
        failing = signed.is_err();
        thread::sleep(SIGNING_INTERVAL);
    }
}

/// Begins to archive, before anything is served: what was released is readable from now on.
fn start_archive(
    options: &Options,
    archive: &ArchiveOptions,
    journal: &Journal,
    metrics: &Arc<Metrics>,
) -> Result<(Arc<Archiver>, Arc<Needed>), OpenError> {
    let archiver_options = ArchiverOptions {
        objects: archive.objects.clone(),
        parcel_size_bytes: archive.parcel_size_bytes,
        interval: archive.interval,
        keep_size_bytes: archive.keep_size_bytes,
        cursor: options.directory.join("archive.cursor"),
    };
    let needed = Arc::new(Needed::default());
    let (metrics, of_archiver) = (Arc::clone(metrics), Arc::clone(&needed));
    let floor = move || {
        let checkpoint = metrics.checkpoint_sequence.load(Ordering::Relaxed);
        journal::Sequence(of_archiver.floor().0.min(checkpoint))
    };
    let archiver = Archiver::start(archiver_options, &journal.reader(), journal.releaser(), Box::new(floor));
    Ok((Arc::new(archiver.map_err(OpenError::Thread)?), needed))
}

fn open_journal(
    options: &Options,
    committed: &Arc<Committed>,
    on_fatal: &OnFatal,
) -> Result<(Journal, Reader), OpenError> {
    let journal_options = journal::Options {
        partition: options.partition,
        segment_size_bytes: options.segment_size_bytes,
        ..journal::Options::default()
    };
    let disk = if options.mmap { DiskKind::Mmap } else { DiskKind::Direct };
    let directory = journal_directory(&options.directory);
    std::fs::create_dir_all(&directory)
        .map_err(|source| OpenError::Directory { path: directory.clone(), source })?;
    let (committed, on_fatal) = (Arc::clone(committed), Arc::clone(on_fatal));
    let lost = Box::new(move |error: journal::JournalError| {
        committed.stop();
        on_fatal(format!("the journal failed, nothing more is answered: {error}"));
    });
    let (journal, recovered) = Journal::open(&directory, journal_options, disk.disk(), lost)?;
    if recovered.torn_tail_bytes > 0 {
        tracing::warn!(
            bytes = recovered.torn_tail_bytes,
            "cut an unfinished frame off the journal's end: it was never acknowledged"
        );
    }
    let reader = journal.reader();
    Ok((journal, reader))
}

struct Loaded {
    state: State,
    filter: IdFilter,
    seed: IdSeed,
}

/// The accounts and the id filter are read at the same time: each keeps one core busy.
fn load_checkpoint(store: &Arc<dyn StateStore>) -> Result<Loaded, OpenError> {
    let Some(position) = layout::load_position(store.as_ref())? else {
        let seed = IdSeed(RandomState::new().hash_one("transaction ids"));
        return Ok(Loaded { state: State::new(), filter: IdFilter::of_ledger(0), seed });
    };
    let (state, filter) = thread::scope(|scope| {
        let filter = scope.spawn(|| layout::load_filter(store.as_ref(), &position));
        let state = layout::load_state(store.as_ref(), &position);
        (state, filter.join().expect("reading the id index does not panic"))
    });
    Ok(Loaded { state: state?, filter: filter?, seed: position.seed })
}

/// Applies what the journal holds after the checkpoint.
fn replay_tail(
    engine: &mut Engine,
    reader: &Reader,
    last: Sequence,
    progress: &mut dyn FnMut(Sequence, Sequence),
) -> Result<(), OpenError> {
    let start = engine.state.sequence();
    if last < start {
        return Err(OpenError::JournalBehindState { state: start.0, journal: last.0 });
    }
    progress(start, last);
    if last == start {
        return Ok(());
    }
    let first = reader
        .frame_containing(journal::Sequence(start.next().0))?
        .ok_or(OpenError::DoesNotFollow { sequence: start.next().0, why: "the journal does not have it" })?;
    let mut reported = start;
    for_each_frame(reader.frames_from(first.index()), |frame| {
        replay_frame(engine, frame)?;
        if engine.state.sequence().0 - reported.0 >= PROGRESS_EVENTS {
            reported = engine.state.sequence();
            progress(reported, last);
        }
        Ok::<(), OpenError>(())
    })?;
    progress(engine.state.sequence(), last);
    if engine.state.sequence() != last {
        let sequence = engine.state.sequence().next().0;
        return Err(OpenError::DoesNotFollow { sequence, why: "the journal does not have it" });
    }
    Ok(())
}

fn replay_frame(engine: &mut Engine, frame: &Frame) -> Result<(), OpenError> {
    let first = Sequence(frame.first_sequence().0);
    let in_body = |error| OpenError::Body { sequence: first.0, error };
    let timestamp = Timestamp::from_micros(frame.timestamp_us());
    if frame.sequence_count() == 0 {
        return Ok(());
    }
    for entry in Body::parse(frame.body(), first).map_err(in_body)?.entries() {
        for (sequence, event) in entry.map_err(in_body)?.sequenced() {
            engine
                .replay(sequence, timestamp, event)
                .map_err(|why| OpenError::DoesNotFollow { sequence: sequence.0, why })?;
        }
    }
    engine.frame_replayed(timestamp);
    Ok(())
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, OpenError> {
    thread::Builder::new().name(name.into()).spawn(work).map_err(OpenError::Thread)
}
