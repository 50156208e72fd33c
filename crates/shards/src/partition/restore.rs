//! Building a partition's directory as of any past event: the newest checkpoint or snapshot before it, then the recorded frames up
//! to it.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use ledger::codec::{Body, BodyWriter, CodecError};
use ledger::{Digest, Sequence, Timestamp};
use storage::archive::ArchiveError;
use storage::journal::{
    AppendError, Appender, Beginning, DiskKind, Frame, FrameDraft, FrameHash, FrameIndex, ReadError,
};
use storage::objects::{ObjectError, Objects};
use storage::snapshot::{Snapshot, SnapshotError as ObjectsError};
use storage::store::{self, Change, Run, StoreError};

use super::layout;
use super::recovery::{journal_directory, open_store, state_directory, store_options};
use super::replay::Moment;
use super::snapshot::{SnapshotError, digest_of};
use super::source::{Recorded, Source, SourceError};
use super::{OpenError, Options, Partition};

/// Frames that are written together.
const FRAMES_PER_WRITE_MAX: usize = 64;
const WRITE_SIZE_BYTES_MAX: usize = 4 << 20;

/// What to restore, and where.
#[derive(Debug, Clone)]
pub struct RestoreOptions {
    /// Where the history is. Nothing is changed there.
    pub source: Source,
    /// The moment.
    pub moment: Moment,
    /// How much of the history comes along.
    pub extent: Extent,
    /// How the new partition is set up; its directory must be empty or missing.
    pub partition: Options,
}

/// How much of the history a restored partition holds itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// What comes after the snapshot: what came before stays in the archive, with which the partition is served.
    AfterSnapshot,
    /// All of it: the partition needs nobody else, and can be changed without a trace elsewhere.
    Whole,
}

/// What was restored.
#[derive(Debug, Clone)]
pub struct Restored {
    /// The last event.
    pub sequence: Sequence,
    /// Its time.
    pub timestamp: Timestamp,
    /// The digest of the state.
    pub digest: Digest,
    /// The sequence of the snapshot or checkpoint; 0 when all was rebuilt from frames.
    pub snapshot: Sequence,
    /// Events replayed after it.
    pub replayed: u64,
    /// What is damaged in the archive, each named; an older snapshot was taken instead.
    pub skipped: Vec<String>,
    /// The last event that is recorded.
    pub recorded: Sequence,
}

/// Why nothing was restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The history cannot be read, or is damaged where there is nothing to fall back to.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// A snapshot failed otherwise than by damage.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The history ends before the point, or begins after it.
    #[error("the history holds events {first} to {last}: {wanted} is not among them")]
    OutOfRange {
        /// The first event.
        first: u64,
        /// The last event.
        last: u64,
        /// What was asked for.
        wanted: String,
    },
    /// The point is inside a command, whose events belong together.
    #[error(
        "event {wanted} is in the middle of a command that made events {first} to {last}, which happened all together; restore to \
         {before} or to {last}"
    )]
    MidCommand {
        /// What was asked for.
        wanted: u64,
        /// The command's first event.
        first: u64,
        /// Its last.
        last: u64,
        /// The event before it.
        before: u64,
    },
    /// Every snapshot is damaged or too new, and the first frames are not there.
    #[error(
        "no snapshot at or before event {wanted} can be used, and the history begins with event {first}: {skipped:?}"
    )]
    NoStart {
        /// What was asked for.
        wanted: u64,
        /// The first event that is there.
        first: u64,
        /// What was wrong with the snapshots.
        skipped: Vec<String>,
    },
    /// A body is not ours.
    #[error("the recorded frame with event {sequence}: {error}")]
    Body {
        /// A sequence in the frame.
        sequence: u64,
        /// What is wrong.
        error: CodecError,
    },
    /// The new directory cannot be made or written.
    #[error("cannot write {path}: {source}")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The new store cannot be written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The new journal cannot be written.
    #[error(transparent)]
    Append(#[from] AppendError),
    /// The new partition does not open.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The new partition failed while it was brought up to the point.
    #[error("{0}")]
    Failed(String),
}

impl From<ObjectError> for RestoreError {
    fn from(error: ObjectError) -> RestoreError {
        ArchiveError::from(error).into()
    }
}

impl From<ArchiveError> for RestoreError {
    fn from(error: ArchiveError) -> RestoreError {
        RestoreError::Source(error.into())
    }
}

impl From<ReadError> for RestoreError {
    fn from(error: ReadError) -> RestoreError {
        RestoreError::Source(error.into())
    }
}

/// The moment as a place in the journal.
struct End {
    sequence: Sequence,
    frame: Arc<Frame>,
}

/// A state that need not be rebuilt from events.
#[derive(Debug, Clone, Copy)]
struct Start {
    sequence: Sequence,
    /// The frame that ends with it.
    index: FrameIndex,
}

/// Restores. `progress` is called now and then with the last event written, and the last one there will be.
pub fn restore(
    options: &RestoreOptions,
    progress: &mut dyn FnMut(Sequence, Sequence),
) -> Result<Restored, RestoreError> {
    let recorded = Recorded::open(&options.source)?;
    let first_index = recorded.first_index()?;
    let first = match first_index < recorded.next_index {
        true => Sequence(recorded.header(first_index)?.first_sequence.0),
        false => Sequence(1),
    };
    let end = end(&recorded, options.moment, first)?;
    let directory = &options.partition.directory;
    let failed = |source| RestoreError::Directory { path: directory.clone(), source };
    std::fs::create_dir_all(journal_directory(directory)).map_err(failed)?;

    let mut skipped = Vec::new();
    let start = match checkpoint(options, &recorded, &end)? {
        None => usable_snapshot(options, &recorded, &end, &mut skipped)?,
        checkpoint => checkpoint,
    };
    let start_sequence = start.map_or(Sequence(0), |start| start.sequence);
    if start_sequence.next() < first {
        return Err(RestoreError::NoStart { wanted: end.sequence.0, first: first.0, skipped });
    }
    let from = match (options.extent, start) {
        (Extent::AfterSnapshot, Some(start)) => start.index,
        _ => first_index,
    };
    write_journal(options, &recorded, from, &end, progress)?;
    let (digest, timestamp) = bring_up(options, progress)?;
    sync_all(directory).map_err(failed)?;
    let replayed = end.sequence.0 - start_sequence.0;
    let sequence = end.sequence;
    Ok(Restored {
        sequence,
        timestamp,
        digest,
        snapshot: start_sequence,
        replayed,
        skipped,
        recorded: recorded.last,
    })
}

fn end(recorded: &Recorded, moment: Moment, first: Sequence) -> Result<End, RestoreError> {
    let last = recorded.last;
    let out_of_range = |wanted: String| RestoreError::OutOfRange { first: first.0, last: last.0, wanted };
    let sequence = match moment {
        Moment::Latest => last,
        Moment::Sequence(sequence) => sequence,
        Moment::Time(time) => {
            let wanted = || out_of_range(format!("the time {} us", time.as_micros()));
            let index = recorded.index_at_time(time)?.ok_or_else(wanted)?;
            Sequence(recorded.header(index)?.last_sequence().0)
        }
    };
    let beyond = || out_of_range(format!("event {}", sequence.0));
    if sequence.0 == 0 || sequence > last || sequence < first {
        return Err(beyond());
    }
    let index = recorded.index_of(sequence)?.ok_or_else(beyond)?;
    Ok(End { sequence, frame: recorded.frame(index)? })
}

/// Takes the checkpoint of the directory that the history comes from, if it is not too new.
fn checkpoint(
    options: &RestoreOptions,
    recorded: &Recorded,
    end: &End,
) -> Result<Option<Start>, RestoreError> {
    let Source::Directory { directory, .. } = &options.source else { return Ok(None) };
    let store = store::open_read_only(&state_directory(directory), &store_options(&options.partition))?;
    let Some(store) = store else { return Ok(None) };
    let position = layout::load_position(store.as_ref())?;
    let Some(position) = position.filter(|position| position.sequence <= end.sequence) else {
        return Ok(None);
    };
    let index = recorded.index_of(position.sequence)?;
    let index = index.ok_or(RestoreError::NoStart {
        wanted: end.sequence.0,
        first: position.sequence.0,
        skipped: Vec::new(),
    })?;
    let (start, stop) = layout::ALL;
    let mut entries =
        store.scan(start, stop).map(|entry| entry.map(|(key, value)| (key, Change::Put(value))));
    open_store(&options.partition)?.ingest_from(position.sequence.0, &mut entries)?;
    Ok(Some(Start { sequence: position.sequence, index }))
}

/// Takes the newest snapshot that is whole and belongs to this history, and puts it into the new state store.
fn usable_snapshot(
    options: &RestoreOptions,
    recorded: &Recorded,
    end: &End,
    skipped: &mut Vec<String>,
) -> Result<Option<Start>, RestoreError> {
    let (Source::Archive { objects, .. } | Source::Directory { archive: Some(objects), .. }) =
        &options.source
    else {
        return Ok(None);
    };
    let names = Snapshot::list(objects, options.partition.partition)?;
    for name in names.iter().rev().filter(|name| name.sequence <= end.sequence.0) {
        match take_snapshot(options, objects, recorded, &name.folder) {
            Ok(Some(start)) => return Ok(Some(start)),
            Ok(None) => {}
            Err(RestoreError::Snapshot(SnapshotError::Objects(damage @ ObjectsError::Damaged { .. }))) => {
                skipped.push(damage.to_string());
            }
            Err(error) => return Err(error),
        }
        clear_state(options)?;
    }
    Ok(None)
}

fn clear_state(options: &RestoreOptions) -> Result<(), RestoreError> {
    let path = state_directory(&options.partition.directory);
    match std::fs::remove_dir_all(&path) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(RestoreError::Directory { path, source })
        }
        _ => Ok(()),
    }
}

/// `None` for a snapshot of another history.
fn take_snapshot(
    options: &RestoreOptions,
    objects: &Objects,
    recorded: &Recorded,
    folder: &str,
) -> Result<Option<Start>, RestoreError> {
    let snapshot = Snapshot::open(objects, folder).map_err(SnapshotError::from)?;
    let subject = &snapshot.manifest.subject;
    let index = FrameIndex(subject.frame_index);
    let known = recorded.first_index()?..recorded.next_index;
    if !known.contains(&index) || recorded.header(index)?.hash.to_string() != subject.frame_hash {
        return Ok(None);
    }
    // Before anything is written: what is damaged must not cost a second attempt its time.
    digest_of(&snapshot)?;
    let store = open_store(&options.partition)?;
    let parts = snapshot.manifest.parts.len();
    for number in 0..parts {
        let entries = snapshot.part(number).map_err(SnapshotError::from)?;
        // The last run has the snapshot's own position; those before count up to it.
        let position = (subject.sequence + 1 + number as u64)
            .checked_sub(parts as u64)
            .filter(|position| *position > 0)
            .ok_or_else(|| RestoreError::Failed("the snapshot has more parts than events".into()))?;
        let changes = entries.into_iter().map(|(key, value)| (key, Change::Put(value))).collect();
        store.ingest(Run { position, changes })?;
    }
    store.wait_for_compaction()?;
    Ok(Some(Start { sequence: Sequence(subject.sequence), index }))
}

/// Writes the frames from this one to the end, with the hashes that they had; the last one anew when the end is inside it.
fn write_journal(
    options: &RestoreOptions,
    recorded: &Recorded,
    from: FrameIndex,
    end: &End,
    progress: &mut dyn FnMut(Sequence, Sequence),
) -> Result<(), RestoreError> {
    let beginning = Beginning {
        partition: options.partition.partition,
        genesis: recorded.genesis()?,
        first_index: from,
        previous_hash: recorded.header(from)?.previous_hash,
    };
    let directory = journal_directory(&options.partition.directory);
    let segment_size_bytes = options.partition.segment_size_bytes;
    let mut appender =
        Appender::create_at(&directory, &beginning, segment_size_bytes, DiskKind::Direct.disk())
            .map_err(OpenError::from)?;
    let mut drafts = Vec::new();
    let mut hashes: Vec<Option<FrameHash>> = Vec::new();
    let mut size_bytes = 0;
    for frame in recorded.frames(from) {
        let frame = frame?;
        let whole = frame.header().next_sequence().0 <= end.sequence.0 + 1;
        let mut body = appender.buffer();
        let sequence_count = match whole {
            true => {
                body.extend_from_slice(frame.body());
                frame.sequence_count()
            }
            false => cut_body(&frame, end.sequence, |bytes| body.extend_from_slice(bytes))?,
        };
        size_bytes += frame.body().len();
        hashes.push(whole.then(|| frame.header().hash));
        drafts.push(FrameDraft {
            term: frame.term(),
            first_sequence: frame.first_sequence(),
            sequence_count,
            timestamp_us: frame.timestamp_us(),
            body,
        });
        let is_last = frame.index() >= end.frame.index();
        if drafts.len() >= FRAMES_PER_WRITE_MAX || size_bytes >= WRITE_SIZE_BYTES_MAX || is_last {
            let written = appender.append(std::mem::take(&mut drafts))?;
            for (frame, hash) in written.iter().zip(hashes.drain(..)) {
                assert!(
                    hash.is_none_or(|hash| hash == frame.header().hash),
                    "the same content has the same hash"
                );
            }
            size_bytes = 0;
            let done = written.last().map_or(0, |frame| frame.header().last_sequence().0);
            progress(Sequence(done), end.sequence);
        }
        if is_last {
            break;
        }
    }
    Ok(())
}

/// The commands of a frame up to an event, which must be the last one of its command.
fn cut_body(frame: &Frame, end: Sequence, put: impl FnMut(&[u8])) -> Result<u32, RestoreError> {
    let first = Sequence(frame.first_sequence().0);
    let in_body = |error| RestoreError::Body { sequence: first.0, error };
    let mut writer = BodyWriter::new();
    for entry in Body::parse(frame.body(), first).map_err(in_body)?.entries() {
        let entry = entry.map_err(in_body)?;
        let last = entry.first_sequence.0 + entry.events.len() as u64 - 1;
        if entry.first_sequence > end {
            break;
        }
        if last > end.0 {
            let (first, before) = (entry.first_sequence.0, entry.first_sequence.0 - 1);
            return Err(RestoreError::MidCommand { wanted: end.0, first, last, before });
        }
        writer.push(&entry.command, &entry.events);
    }
    writer.write(put);
    Ok(writer.event_count())
}

/// Opens the new partition, which applies the frames after the snapshot and checks each, and closes it with a checkpoint.
fn bring_up(
    options: &RestoreOptions,
    progress: &mut dyn FnMut(Sequence, Sequence),
) -> Result<(Digest, Timestamp), RestoreError> {
    let failure = Arc::new(Mutex::new(None));
    let noted = Arc::clone(&failure);
    let on_fatal = Arc::new(move |why: String| {
        noted.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(why);
    });
    let mut partition_options = options.partition.clone();
    partition_options.archive = None;
    let partition = Partition::open(partition_options, Box::new(()), on_fatal, progress)?;
    let (sender, state) = crossbeam_channel::bounded(1);
    let asked = partition.query_state(move |state| drop(sender.send(state)));
    let state = asked.ok().and_then(|()| state.recv().ok());
    partition.shut_down();
    let failure = failure.lock().unwrap_or_else(PoisonError::into_inner).take();
    match (failure, state) {
        (Some(why), _) => Err(RestoreError::Failed(why)),
        (None, Some(state)) => Ok((state.digest, state.timestamp)),
        (None, None) => Err(RestoreError::Failed("the restored partition stopped by itself".into())),
    }
}

/// What was written under names that are not durable yet would be lost with them.
fn sync_all(directory: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() { sync_all(&path)? } else { std::fs::File::open(&path)?.sync_all()? }
    }
    std::fs::File::open(directory)?.sync_all()
}
