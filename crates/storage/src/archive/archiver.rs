//! The thread that packs durable frames into the archive, and lets the journal go of what is safely there.
//!
//! It never blocks the write side: when the archive fails, the journal grows and the thread tries again.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use super::history::{History, Parcel, Stock};
use super::parcel::{Packer, ParcelName, short};
use super::{ArchiveError, journal_folder};
use crate::journal::{Frame, FrameIndex, FramesFrom, ReadError, Reader, ReleasedFrames, Releaser, Sequence};
use crate::objects::Objects;

/// How often the thread looks for new frames.
const TICK: Duration = Duration::from_millis(200);
const BACK_OFF_MIN: Duration = Duration::from_millis(250);
const BACK_OFF_MAX: Duration = Duration::from_secs(30);
const CURSOR_HEADING: &str = "jigap archive cursor 1";

/// How a journal is archived.
#[derive(Clone)]
pub struct ArchiverOptions {
    /// Where to.
    pub objects: Objects,
    /// A parcel is full at this size.
    pub parcel_size_bytes: usize,
    /// A parcel that is not full is written after this time: what a lost disk may take with it.
    pub interval: Duration,
    /// The journal keeps at least so many bytes of its own; what is older and archived is released.
    pub keep_size_bytes: u64,
    /// The small file that says up to which frame the archive was read back and found right.
    pub cursor: PathBuf,
}

/// What the archiver has done and is doing.
#[derive(Debug, Default)]
pub struct ArchiveMetrics {
    /// The last event in the archive.
    pub sequence: AtomicU64,
    /// Parcels written.
    pub parcels: AtomicU64,
    /// Bytes written.
    pub bytes: AtomicU64,
    /// Attempts that failed; each is repeated.
    pub failures: AtomicU64,
    /// The oldest frame that the journal still holds itself.
    pub first_local_index: AtomicU64,
}

/// Up to where the archive reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flushed {
    /// The first frame that is not in the archive.
    pub next_index: FrameIndex,
    /// The first sequence that is not.
    pub next_sequence: Sequence,
}

enum Message {
    Flush(Sender<Result<Flushed, ArchiveError>>),
    Stop,
}

/// The running archiver. Dropping it stops its thread after one last attempt to archive everything.
pub struct Archiver {
    messages: Sender<Message>,
    live: Arc<Live>,
    metrics: Arc<ArchiveMetrics>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// The archived history of a journal that is being written.
struct Live {
    objects: Objects,
    /// Local only.
    reader: Reader,
    /// `None` until the archive was listed.
    history: RwLock<Option<History>>,
}

impl Live {
    /// Finds this journal's history in the archive, unless that was done before.
    fn with_history<Answer>(
        &self,
        read: impl FnOnce(&History) -> Result<Answer, ArchiveError>,
    ) -> Result<Answer, ArchiveError> {
        if let Some(history) = self.history.read().unwrap_or_else(PoisonError::into_inner).as_ref() {
            return read(history);
        }
        let found = self.find()?;
        let mut history = self.history.write().unwrap_or_else(PoisonError::into_inner);
        read(history.get_or_insert(found))
    }

    fn find(&self) -> Result<History, ArchiveError> {
        let stock = Stock::list(&self.objects, self.reader.partition())?;
        let first_local = self.reader.first_local_index();
        let chain = stock.chain_of(|index| {
            if index.0 + 1 == first_local.0 {
                return Some(short(self.reader.previous_hash()));
            }
            let frame = self.reader.frame_at(index).ok().flatten()?;
            Some(short(frame.header().hash))
        });
        let history = History::new(self.objects.clone(), self.reader.partition(), chain);
        let (first, next) = (history.first_index(), history.next_index());
        if first_local > FrameIndex::FIRST
            && (history.parcels().is_empty() || first > FrameIndex::FIRST || next < first_local)
        {
            tracing::warn!(
                archive = self.objects.url(),
                first_local = first_local.0,
                "the archive does not have the whole history of this journal: what was released and is not there cannot be read; \
                 serve with the archive that has it"
            );
        }
        Ok(history)
    }
}

impl ReleasedFrames for Live {
    fn first_index(&self) -> FrameIndex {
        let history = self.history.read().unwrap_or_else(PoisonError::into_inner);
        match history.as_ref() {
            Some(history) if !history.parcels().is_empty() => history.first_index(),
            Some(_) => self.reader.first_local_index(),
            // Not known yet: looking will tell, or say that the archive cannot be reached.
            None => FrameIndex::FIRST,
        }
    }

    fn index_of(&self, sequence: Sequence) -> Result<FrameIndex, ReadError> {
        Ok(self.with_history(|history| history.index_of(sequence).map_err(|error| Box::new(error).into()))?)
    }

    fn frames_from(&self, index: FrameIndex, size_bytes: usize) -> Result<Vec<Arc<Frame>>, ReadError> {
        Ok(self.with_history(|history| history.read(index, size_bytes))?)
    }
}

impl Archiver {
    /// Makes the archive readable through every reader of the journal, and starts archiving. `floor` answers the sequence up to
    /// which nobody needs the journal's own frames any more.
    pub fn start(
        options: ArchiverOptions,
        reader: &Reader,
        releaser: Releaser,
        floor: Box<dyn Fn() -> Sequence + Send>,
    ) -> std::io::Result<Archiver> {
        let live = Arc::new(Live {
            objects: options.objects.clone(),
            reader: reader.local(),
            history: RwLock::new(None),
        });
        reader.attach(Arc::clone(&live) as Arc<dyn ReleasedFrames>);
        let metrics = Arc::new(ArchiveMetrics::default());
        let (messages, receiver) = bounded(16);
        let work = Work {
            packer: Packer::new(reader.partition(), reader.genesis()),
            pending: None,
            next_sequence: Sequence(1),
            frames: None,
            ready: false,
            uploaded: Instant::now(),
            live: Arc::clone(&live),
            metrics: Arc::clone(&metrics),
            options,
            releaser,
            floor,
        };
        let thread =
            std::thread::Builder::new().name("jigap-archive".into()).spawn(move || work.run(&receiver))?;
        Ok(Archiver { messages, live, metrics, thread: Mutex::new(Some(thread)) })
    }

    /// Makes the archive readable through every reader of a journal that nobody writes to.
    pub fn attach(objects: &Objects, reader: &Reader) {
        let live = Live { objects: objects.clone(), reader: reader.local(), history: RwLock::new(None) };
        reader.attach(Arc::new(live));
    }

    /// Archives everything that is durable now, and waits for it.
    pub fn flush(&self) -> Result<Flushed, ArchiveError> {
        let (done, answer) = bounded(1);
        let stopped = || {
            ArchiveError::Object(crate::objects::ObjectError::Unavailable {
                store: self.live.objects.url().to_owned(),
                action: "write to",
                path: journal_folder(self.live.reader.partition()),
                why: "the archiver has stopped".to_owned(),
            })
        };
        self.messages.send(Message::Flush(done)).map_err(|_| stopped())?;
        answer.recv().unwrap_or_else(|_| Err(stopped()))
    }

    /// Where it archives to.
    pub fn objects(&self) -> &Objects {
        &self.live.objects
    }

    /// Counters.
    pub fn metrics(&self) -> &ArchiveMetrics {
        &self.metrics
    }

    /// Stops after one last attempt to archive everything. Later calls do nothing.
    pub fn stop(&self) {
        // The thread may have ended already.
        let _ = self.messages.send(Message::Stop);
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // A panic there was reported by the panic hook; nothing rests on the archiver but the archive.
            drop(thread.join());
        }
    }
}

impl Drop for Archiver {
    fn drop(&mut self) {
        self.stop();
    }
}

struct Pending {
    name: ParcelName,
    bytes: Bytes,
    next_sequence: Sequence,
}

struct Work {
    options: ArchiverOptions,
    live: Arc<Live>,
    metrics: Arc<ArchiveMetrics>,
    releaser: Releaser,
    floor: Box<dyn Fn() -> Sequence + Send>,
    packer: Packer,
    /// Packed, and not yet safely there.
    pending: Option<Pending>,
    /// The first sequence that is not in the archive.
    next_sequence: Sequence,
    /// What comes after the packer's last frame; `None` after a failure.
    frames: Option<FramesFrom>,
    /// Whether the archive was listed, and what is in it read back.
    ready: bool,
    uploaded: Instant,
}

impl Work {
    fn run(mut self, messages: &Receiver<Message>) {
        crate::background::give_way();
        let mut back_off = None;
        loop {
            match messages.recv_timeout(back_off.unwrap_or(TICK)) {
                Ok(Message::Flush(done)) => {
                    let flushed = self.work(Duration::ZERO);
                    self.report(&flushed, &mut back_off);
                    // Whoever asked has gone: then nobody waits.
                    drop(done.send(flushed));
                }
                Err(RecvTimeoutError::Timeout) => {
                    let worked = self.work(self.options.interval);
                    self.report(&worked, &mut back_off);
                }
                Ok(Message::Stop) | Err(RecvTimeoutError::Disconnected) => {
                    if let Err(error) = self.work(Duration::ZERO) {
                        tracing::warn!(%error, "the journal's end was not archived; the next start does it");
                    }
                    return;
                }
            }
        }
    }

    fn report(&self, worked: &Result<Flushed, ArchiveError>, back_off: &mut Option<Duration>) {
        match (worked, *back_off) {
            (Ok(_), None) => {}
            (Ok(_), Some(_)) => {
                tracing::info!(archive = self.options.objects.url(), "archiving goes on");
                *back_off = None;
            }
            (Err(error), before) => {
                self.metrics.failures.fetch_add(1, Ordering::Relaxed);
                if before.is_none() {
                    tracing::error!(%error, "archiving failed and is tried again; the wallet goes on, and its journal grows meanwhile");
                }
                *back_off = Some(before.map_or(BACK_OFF_MIN, |before| (before * 2).min(BACK_OFF_MAX)));
            }
        }
    }

    /// Archives every full parcel, and one that is not full if the last one is older than `patience`; then releases.
    fn work(&mut self, patience: Duration) -> Result<Flushed, ArchiveError> {
        self.prepare()?;
        self.upload()?;
        loop {
            let full = self.pack()?;
            let due = self.packer.last().is_some() && self.uploaded.elapsed() >= patience;
            if !full && !due {
                break;
            }
            let next_sequence = self.packer.last().map(|last| last.next_sequence());
            self.pending = self
                .packer
                .finish()
                .zip(next_sequence)
                .map(|((name, bytes), next_sequence)| Pending { name, bytes: bytes.into(), next_sequence });
            self.upload()?;
            if !full {
                break;
            }
        }
        self.release();
        let next_index = self.live.with_history(|history| Ok(history.next_index()))?;
        Ok(Flushed { next_index, next_sequence: self.next_sequence })
    }

    /// Finds what is there already, and reads back what nobody has read back since it was written.
    fn prepare(&mut self) -> Result<(), ArchiveError> {
        if self.ready {
            return Ok(());
        }
        self.options.objects.remove_drafts()?;
        let cursor = read_cursor(&self.options.cursor);
        let first_local = self.live.reader.first_local_index();
        self.next_sequence = self.live.with_history(|history| {
            for (place, parcel) in history.parcels().iter().enumerate() {
                if parcel.name.last_index >= first_local && parcel.name.last_index > cursor {
                    history.verify(place)?;
                }
            }
            history.next_sequence()
        })?;
        self.metrics.sequence.store(self.next_sequence.0 - 1, Ordering::Relaxed);
        self.ready = true;
        Ok(())
    }

    /// Takes durable frames in; true when the parcel is full.
    fn pack(&mut self) -> Result<bool, ArchiveError> {
        let next = match self.packer.last() {
            Some(last) => FrameIndex(last.index.0 + 1),
            None => self
                .live
                .with_history(|history| Ok(history.next_index()))?
                .max(self.live.reader.first_local_index()),
        };
        let frames = self.frames.get_or_insert_with(|| self.live.reader.once().frames_from(next));
        while self.packer.size_bytes() < self.options.parcel_size_bytes {
            match frames.next() {
                None => return Ok(false),
                Some(Ok(frame)) => self.packer.push(&frame),
                Some(Err(error)) => {
                    self.frames = None;
                    return Err(ArchiveError::Journal(Box::new(error)));
                }
            }
        }
        Ok(true)
    }

    /// Writes the pending parcel and reads it back. It stays pending until that is done.
    fn upload(&mut self) -> Result<(), ArchiveError> {
        let Some(Pending { name, bytes, next_sequence }) = &self.pending else { return Ok(()) };
        let path = format!("{}/{}", journal_folder(self.live.reader.partition()), name.file());
        let objects = &self.options.objects;
        objects.put_new(&path, bytes.clone())?;
        let mut parcel = Parcel { name: name.clone(), size_bytes: bytes.len() as u64 };
        if !objects.holds(&path, bytes)? {
            parcel.size_bytes = objects.get(&path)?.len() as u64;
            // Another replica may have grouped its writes otherwise: then the frames are right all the same.
            let single = History::new(objects.clone(), self.live.reader.partition(), vec![parcel.clone()]);
            if let Err(error) = single.verify(0) {
                // It is not what this journal holds under the same hashes, so nobody can rely on it.
                objects.remove(&path)?;
                return Err(error);
            }
        }
        let (last_index, size_bytes) = (name.last_index, bytes.len() as u64);
        write_cursor(&self.options.cursor, last_index).map_err(|error| {
            let (path, why) = (self.options.cursor.display().to_string(), error.to_string());
            crate::objects::ObjectError::Unavailable {
                store: objects.url().to_owned(),
                action: "note the cursor in",
                path,
                why,
            }
        })?;
        let mut history = self.live.history.write().unwrap_or_else(PoisonError::into_inner);
        history.as_mut().expect("it was found before anything was packed").push(parcel);
        drop(history);
        self.next_sequence = *next_sequence;
        if let Some(written) = self.pending.take() {
            self.packer.reuse(written.bytes.into());
        }
        self.uploaded = Instant::now();
        self.metrics.parcels.fetch_add(1, Ordering::Relaxed);
        self.metrics.bytes.fetch_add(size_bytes, Ordering::Relaxed);
        self.metrics.sequence.store(self.next_sequence.0 - 1, Ordering::Relaxed);
        Ok(())
    }

    /// Lets the journal go of segments that are archived, checkpointed, in every view, and beyond what it is to keep.
    fn release(&self) {
        let reader = &self.live.reader;
        let archived =
            self.live.with_history(|history| Ok(history.next_index())).unwrap_or(FrameIndex::FIRST);
        let needed = reader.local_index_of((self.floor)()).unwrap_or(FrameIndex::FIRST);
        let before = archived.min(needed).min(reader.index_keeping(self.options.keep_size_bytes));
        // A failure stops the journal, which says so itself.
        if before > reader.first_local_index() && self.releaser.release_before(before).is_ok() {
            tracing::debug!(before = before.0, "archived segments were released");
        }
        self.metrics.first_local_index.store(reader.first_local_index().0, Ordering::Relaxed);
    }
}

/// The last frame up to which everything in the archive was read back; 0 when that is not known.
fn read_cursor(path: &Path) -> FrameIndex {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let index = text.strip_prefix(CURSOR_HEADING).and_then(|rest| rest.trim().parse().ok());
    FrameIndex(index.unwrap_or(0))
}

fn write_cursor(path: &Path, index: FrameIndex) -> std::io::Result<()> {
    let draft = path.with_extension("new");
    let mut file = std::fs::File::create(&draft)?;
    writeln!(file, "{CURSOR_HEADING}\n{}", index.0)?;
    file.sync_all()?;
    std::fs::rename(&draft, path)
}
