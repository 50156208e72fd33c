//! The thread that packs durable frames into the archive, and lets the journal go of what is safely there.
//!
//! It never blocks the write side: when the archive fails, the journal grows and the thread tries again.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use super::history::{History, Parcel, Stock};
use super::parcel::{Packed, Packer, short};
use super::{ArchiveError, journal_folder};
use crate::journal::{
    BLOCK_SIZE_BYTES, Frame, FrameIndex, FramesFrom, ReadError, Reader, ReleasedFrames, Releaser, Segment,
    Sequence,
};
use crate::objects::Objects;

/// How often the thread looks for new frames.
const TICK: Duration = Duration::from_millis(200);
const BACK_OFF_MIN: Duration = Duration::from_millis(250);
const BACK_OFF_MAX: Duration = Duration::from_secs(30);
/// A segment becomes an object as it is unless packing it would save more than this part of it.
const LINKED_SAVING_RATIO: u64 = 8;
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
            links: options.objects.links_files(),
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

struct Work {
    options: ArchiverOptions,
    live: Arc<Live>,
    metrics: Arc<ArchiveMetrics>,
    releaser: Releaser,
    floor: Box<dyn Fn() -> Sequence + Send>,
    packer: Packer,
    /// Packed, and not yet safely there.
    pending: Option<Packed>,
    /// The first sequence that is not in the archive.
    next_sequence: Sequence,
    /// What comes after the packer's last frame; `None` after a failure.
    frames: Option<FramesFrom>,
    /// Whether the archive was listed, and what is in it read back.
    ready: bool,
    uploaded: Instant,
    /// Segments may become objects as they are.
    links: bool,
}

/// What is done about the next frame.
enum Next {
    /// It is packed.
    Pack,
    /// Its segment becomes an object when it is sealed.
    Wait,
    /// Its segment becomes an object.
    Link(Segment),
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
            let due = self.uploaded.elapsed() >= patience;
            let full = self.pack(due)?;
            if !full && !due {
                break;
            }
            self.pending = self.packer.finish();
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

    /// Takes durable frames in; true when the parcel is finished. Segments that become objects as they are do so on the way. `due` says
    /// that nothing may wait for its segment to be sealed.
    fn pack(&mut self, due: bool) -> Result<bool, ArchiveError> {
        while self.packer.size_bytes() < self.options.parcel_size_bytes {
            let next = self.next_index()?;
            match self.decide(next, due) {
                Next::Wait => return Ok(false),
                Next::Link(_) if self.packer.last().is_some() => return Ok(true),
                Next::Link(segment) => {
                    self.link(next, &segment)?;
                    continue;
                }
                Next::Pack => {}
            }
            let frames = self.frames.get_or_insert_with(|| self.live.reader.once().frames_from(next));
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

    /// The first frame that is neither in the archive nor packed.
    fn next_index(&self) -> Result<FrameIndex, ArchiveError> {
        if let Some(last) = self.packer.last() {
            return Ok(FrameIndex(last.index.0 + 1));
        }
        let archived = self.live.with_history(|history| Ok(history.next_index()))?;
        Ok(archived.max(self.live.reader.first_local_index()))
    }

    fn decide(&self, next: FrameIndex, due: bool) -> Next {
        let segment = self.links.then(|| self.live.reader.segment_from(next)).flatten();
        match segment {
            Some(segment) if segment.is_sealed && is_dense(&segment, next) => Next::Link(segment),
            Some(segment) if !segment.is_sealed && !due => Next::Wait,
            _ => Next::Pack,
        }
    }

    /// Makes a sealed segment an object. Its frames were durable before anybody heard of them, so that they are not read again.
    fn link(&mut self, first: FrameIndex, segment: &Segment) -> Result<(), ArchiveError> {
        let last = FrameIndex(segment.next_index.0 - 1);
        let headers = self.live.reader.headers(first, last).map_err(Box::new)?;
        let Some(packed) = self.packer.index_segment(&headers) else { return Ok(()) };
        let path = packed.name.segment_path(self.live.reader.partition());
        self.links = self.options.objects.link(&path, &segment.path)?;
        if self.links {
            self.frames = None;
            self.pending = Some(packed);
            self.upload()?;
        }
        Ok(())
    }

    /// Writes the pending parcel and reads it back. It stays pending until that is done.
    fn upload(&mut self) -> Result<(), ArchiveError> {
        let Some(Packed { name, bytes, next_sequence }) = &self.pending else { return Ok(()) };
        let path = name.path(self.live.reader.partition());
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

/// Whether packing the frames, which takes their padding and the unused end of the segment away, would save little.
fn is_dense(segment: &Segment, first: FrameIndex) -> bool {
    // Half a block a frame, on average.
    let padding = (segment.next_index.0 - first.0) * BLOCK_SIZE_BYTES as u64 / 2;
    let saved = segment.size_bytes - segment.end_offset + padding;
    saved <= segment.size_bytes / LINKED_SAVING_RATIO && segment.size_bytes <= u64::from(u32::MAX)
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
