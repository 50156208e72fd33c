//! Building a partition's directory as of any past event, from the archive alone: the newest snapshot before it, then the
//! archived frames up to it.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use ledger::codec::{Body, BodyWriter, CodecError};
use ledger::{Digest, Sequence, Timestamp};
use storage::archive::{ArchiveError, History};
use storage::journal::{
    self, AppendError, Appender, Beginning, DiskKind, Frame, FrameDraft, FrameHash, FrameIndex,
};
use storage::objects::{ObjectError, Objects};
use storage::snapshot::{Snapshot, SnapshotError as ObjectsError};
use storage::store::{Change, Run, StoreError};

use super::recovery::{journal_directory, open_store, state_directory};
use super::snapshot::{SnapshotError, digest_of};
use super::{OpenError, Options, Partition};

/// Frames that are written together.
const FRAMES_PER_WRITE_MAX: usize = 64;
const WRITE_SIZE_BYTES_MAX: usize = 4 << 20;

/// Which moment is restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestorePoint {
    /// Everything that the archive has.
    Latest,
    /// After this event.
    Sequence(Sequence),
    /// After the last event that is not later.
    Time(Timestamp),
}

/// What to restore, and where.
#[derive(Debug, Clone)]
pub struct RestoreOptions {
    /// The archive.
    pub objects: Objects,
    /// The moment.
    pub point: RestorePoint,
    /// How the new partition is set up; its directory must be empty or missing.
    pub partition: Options,
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
    /// The snapshot's sequence; 0 when all was rebuilt from frames.
    pub snapshot: Sequence,
    /// Events replayed after it.
    pub replayed: u64,
    /// What is damaged in the archive, each named; an older snapshot was taken instead.
    pub skipped: Vec<String>,
    /// The last event that the archive has.
    pub archived: Sequence,
}

/// Why nothing was restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The archive failed, or is damaged where there is nothing to fall back to.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// A snapshot failed otherwise than by damage.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The archive has nothing of this partition.
    #[error("{url}: the archive has no journal of partition {partition}")]
    Empty {
        /// The archive.
        url: String,
        /// The partition.
        partition: u32,
    },
    /// The archive ends before the point, or begins after it.
    #[error("the archive holds events {first} to {last}: {wanted} is not among them")]
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
    /// Every snapshot is damaged or too new, and the first frames are not in the archive.
    #[error(
        "no snapshot at or before event {wanted} can be used, and the archive begins with event {first}: {skipped:?}"
    )]
    NoStart {
        /// What was asked for.
        wanted: u64,
        /// The first event in the archive.
        first: u64,
        /// What was wrong with the snapshots.
        skipped: Vec<String>,
    },
    /// A body is not ours.
    #[error("the archived frame with event {sequence}: {error}")]
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
        RestoreError::Archive(error.into())
    }
}

/// The moment as a place in the journal.
struct End {
    sequence: Sequence,
    frame: Arc<Frame>,
}

/// Restores. `progress` is called now and then with the last event written, and the last one there will be.
pub fn restore(
    options: &RestoreOptions,
    progress: &mut dyn FnMut(Sequence, Sequence),
) -> Result<Restored, RestoreError> {
    let partition = options.partition.partition;
    let history = History::newest(&options.objects, partition)?;
    let history =
        history.ok_or_else(|| RestoreError::Empty { url: options.objects.url().to_owned(), partition })?;
    let archived = Sequence(history.next_sequence()?.0 - 1);
    let end = end(&history, options.point, archived)?;
    let directory = &options.partition.directory;
    let failed = |source| RestoreError::Directory { path: directory.clone(), source };
    std::fs::create_dir_all(journal_directory(directory)).map_err(failed)?;

    let mut skipped = Vec::new();
    let snapshot = usable_snapshot(options, &history, &end, &mut skipped)?;
    let from = match &snapshot {
        Some(snapshot) => FrameIndex(snapshot.manifest.subject.frame_index),
        None => FrameIndex::FIRST,
    };
    if snapshot.is_none() && history.parcels()[0].name.first_index > FrameIndex::FIRST {
        let first = history.parcels()[0].name.first_sequence.0;
        return Err(RestoreError::NoStart { wanted: end.sequence.0, first, skipped });
    }
    write_journal(options, &history, from, &end, progress)?;
    let start = snapshot.map_or(Sequence(0), |snapshot| Sequence(snapshot.manifest.subject.sequence));
    let (digest, timestamp) = bring_up(options, progress)?;
    sync_all(directory).map_err(failed)?;
    let replayed = end.sequence.0 - start.0;
    Ok(Restored { sequence: end.sequence, timestamp, digest, snapshot: start, replayed, skipped, archived })
}

fn end(history: &History, point: RestorePoint, archived: Sequence) -> Result<End, RestoreError> {
    let first = history.parcels()[0].name.first_sequence.0;
    let out_of_range = |wanted: String| RestoreError::OutOfRange { first, last: archived.0, wanted };
    let sequence = match point {
        RestorePoint::Latest => archived,
        RestorePoint::Sequence(sequence) => sequence,
        RestorePoint::Time(time) => {
            let index = history.index_at_time(time.as_micros())?;
            let wanted = || out_of_range(format!("the time {} us", time.as_micros()));
            let index = index.ok_or_else(wanted)?;
            let frame = one_frame(history, index)?;
            Sequence(frame.header().last_sequence().0)
        }
    };
    if sequence.0 == 0 || sequence > archived || sequence.0 < first {
        return Err(out_of_range(format!("event {}", sequence.0)));
    }
    use journal::ReleasedFrames;
    let index = history
        .index_of(journal::Sequence(sequence.0))
        .map_err(|error| ArchiveError::Journal(Box::new(error)))?;
    Ok(End { sequence, frame: one_frame(history, index)? })
}

fn one_frame(history: &History, index: FrameIndex) -> Result<Arc<Frame>, RestoreError> {
    let frame = history.read(index, 0)?.into_iter().next();
    Ok(frame.ok_or(ArchiveError::NotThere { index })?)
}

/// Takes the newest snapshot that is whole and belongs to this history, and puts it into the new state store.
fn usable_snapshot(
    options: &RestoreOptions,
    history: &History,
    end: &End,
    skipped: &mut Vec<String>,
) -> Result<Option<Snapshot>, RestoreError> {
    let names = Snapshot::list(&options.objects, options.partition.partition)?;
    for name in names.iter().rev().filter(|name| name.sequence <= end.sequence.0) {
        match take_snapshot(options, history, &name.folder) {
            Ok(Some(snapshot)) => return Ok(Some(snapshot)),
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
    history: &History,
    folder: &str,
) -> Result<Option<Snapshot>, RestoreError> {
    let snapshot = Snapshot::open(&options.objects, folder).map_err(SnapshotError::from)?;
    let subject = &snapshot.manifest.subject;
    let anchor = history.hash_of(FrameIndex(subject.frame_index))?;
    if anchor.is_none_or(|hash| hash.to_string() != subject.frame_hash) {
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
    while store.maintain()? {}
    Ok(Some(snapshot))
}

/// Writes the frames from this one to the end, with the hashes that they had; the last one anew when the end is inside it.
fn write_journal(
    options: &RestoreOptions,
    history: &History,
    from: FrameIndex,
    end: &End,
    progress: &mut dyn FnMut(Sequence, Sequence),
) -> Result<(), RestoreError> {
    let first = one_frame(history, from)?;
    let beginning = Beginning {
        partition: options.partition.partition,
        genesis: history.genesis()?,
        first_index: from,
        previous_hash: first.header().previous_hash,
    };
    let directory = journal_directory(&options.partition.directory);
    let segment_size_bytes = options.partition.segment_size_bytes;
    let mut appender =
        Appender::create_at(&directory, &beginning, segment_size_bytes, DiskKind::Direct.disk())
            .map_err(OpenError::from)?;
    let mut drafts = Vec::new();
    let mut hashes: Vec<Option<FrameHash>> = Vec::new();
    let mut size_bytes = 0;
    let mut index = from;
    while index <= end.frame.index() {
        for frame in history.read(index, WRITE_SIZE_BYTES_MAX)? {
            if frame.index() > end.frame.index() {
                break;
            }
            index = FrameIndex(frame.index().0 + 1);
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
            if drafts.len() >= FRAMES_PER_WRITE_MAX
                || size_bytes >= WRITE_SIZE_BYTES_MAX
                || index > end.frame.index()
            {
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
fn sync_all(directory: &std::path::Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() { sync_all(&path)? } else { std::fs::File::open(&path)?.sync_all()? }
    }
    std::fs::File::open(directory)?.sync_all()
}
