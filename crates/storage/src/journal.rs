//! The append-only journal: frames of opaque bytes, hash-chained, durable when it says so.
//!
//! The journal is the only truth of a node; everything else can be built again from it. It is made to be a Raft log as well:
//! frames carry (term, index), a suffix can be truncated and a prefix released.
//!
//! It must never: say that a frame is durable which a crash could take; go on after a failed write or sync; guess when what is
//! on disk cannot be explained by a crash; look into a body. `docs/formats.md` draws the bytes.
//!
//! ```
//! use storage::journal::{DiskKind, FrameDraft, Journal, Options, Sequence, Term};
//!
//! let directory = tempfile::tempdir()?;
//! let options = Options { segment_size_bytes: 1 << 20, ..Options::default() };
//! let on_fatal = Box::new(|error| eprintln!("{error}"));
//! let (journal, recovered) = Journal::open(directory.path(), options, DiskKind::Direct.disk(), on_fatal)?;
//! assert!(recovered.last.is_none());
//!
//! let mut body = journal.buffer();
//! body.extend_from_slice(b"three events");
//! let draft =
//!     FrameDraft { term: Term(1), first_sequence: Sequence(1), sequence_count: 3, timestamp_us: 1_767_322_985_678_901, body };
//! let (durable, wait) = std::sync::mpsc::channel();
//! journal.append(draft, Box::new(move |frame| durable.send(frame).expect("the example waits")))?;
//! assert_eq!(wait.recv()?.body(), b"three events");
//!
//! let frame = journal.reader().frame_containing(Sequence(2))?.expect("it is durable");
//! assert_eq!(frame.first_sequence(), Sequence(1));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod appender;
mod buffer;
mod catalogue;
mod disk;
mod error;
pub mod faulty;
mod frame;
mod layout;
mod position;
mod queue;
mod reader;
mod recovery;
mod shared;
mod sidecar;
mod workshop;

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

pub use appender::{Appender, Beginning, FrameDraft};
pub use buffer::{BLOCK_SIZE_BYTES, BufferPool, FrameBuffer};
pub use disk::{Access, DirectDisk, Disk, DiskFile, DiskKind, FileEntry, MmapDisk};
pub use error::{AppendError, Damage, JournalError, OpenError, ReadError, TruncateError};
pub use frame::{
    FORMAT_VERSION, FRAME_SIZE_BYTES_MAX, Frame, FrameHeader, HASHED_HEADER_SIZE_BYTES, HEADER_SIZE_BYTES,
};
pub use position::{FrameHash, FrameIndex, Sequence, Term};
pub use queue::{InFlight, OnDurable, OnFatal};
pub use reader::{FramesFrom, Reader, ReleasedFrames, Segment};
pub use recovery::Recovered;

use appender::Preparation;
pub(crate) use buffer::whole_blocks;
pub(crate) use disk::{create as create_file, open_direct, write_all};
use queue::{Queue, Task};
pub(crate) use shared::RecentlyUsed;

/// How a journal is set up.
#[derive(Debug, Clone)]
pub struct Options {
    /// The size of a new segment: a multiple of 4 KiB. No frame is larger. Segments that exist keep their size.
    pub segment_size_bytes: u64,
    /// [`Journal::append`] waits while so many frames are not durable yet.
    pub in_flight_frames_max: usize,
    /// [`Journal::append`] waits while the bodies of frames that are not durable yet have so many bytes.
    pub in_flight_bytes_max: usize,
    /// The partition that the journal belongs to. A journal of another one is refused.
    pub partition: u32,
    /// What the hash chain of a new journal begins with: random when not given. Replicas of one partition need the same.
    /// Without effect on a journal that exists.
    pub genesis: Option<[u8; 32]>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            segment_size_bytes: 64 << 20,
            in_flight_frames_max: 1024,
            in_flight_bytes_max: 16 << 20,
            partition: 0,
            genesis: None,
        }
    }
}

impl Options {
    fn check(&self) -> Result<(), OpenError> {
        let block_size_bytes = BLOCK_SIZE_BYTES as u64;
        if self.segment_size_bytes < block_size_bytes
            || !self.segment_size_bytes.is_multiple_of(block_size_bytes)
        {
            return Err(OpenError::Options("the segment size must be a multiple of 4096 bytes, and not 0"));
        }
        if self.segment_size_bytes > 1 << 40 {
            return Err(OpenError::Options("the segment size must be at most 1 TiB"));
        }
        if self.in_flight_frames_max == 0 {
            return Err(OpenError::Options("at least one frame must be allowed in flight"));
        }
        Ok(())
    }
}

/// The journal with its writer's thread. Dropping it writes what was handed over, and waits for that.
pub struct Journal {
    queue: Arc<Queue>,
    reader: Reader,
    pool: BufferPool,
    writer: Option<JoinHandle<()>>,
}

impl Journal {
    /// Opens the journal in a directory that exists, or makes a new one there. The caller holds a lock on the directory. A torn
    /// tail, which nobody was told is durable, is cut; anything else that is wrong is an error, and nothing is changed then.
    ///
    /// `on_fatal` is called at most once, on the writer's thread: the node must stop then.
    pub fn open(
        directory: &Path,
        options: Options,
        disk: Arc<dyn Disk>,
        on_fatal: OnFatal,
    ) -> Result<(Journal, Recovered), OpenError> {
        let (appender, recovered) = Appender::open_with(directory, &options, disk, Preparation::Ahead)?;
        let queue = Arc::new(Queue::new(&options, appender.continuation(), on_fatal));
        let reader = appender.reader();
        let pool = appender.shared().pool.clone();
        let of_writer = Arc::clone(&queue);
        let writer = std::thread::Builder::new()
            .name("journal-writer".into())
            .spawn(move || Writer { queue: of_writer, appender }.run())
            .map_err(|source| JournalError::io("start a thread for", directory, source))?;
        Ok((Journal { queue, reader, pool, writer: Some(writer) }, recovered))
    }

    /// An empty body to write into. It goes to the disk from where it stands.
    pub fn buffer(&self) -> FrameBuffer {
        self.pool.buffer()
    }

    /// Where [`Journal::buffer`] takes its memory from, for threads that have no journal at hand.
    pub fn buffer_pool(&self) -> BufferPool {
        self.pool.clone()
    }

    /// Hands a frame over and answers its index. Waits while too much is in flight. `on_durable` is called on the writer's
    /// thread, in the order of the frames, once this and every earlier frame is durable; it must be quick, and must not append.
    /// If the journal stops first, it is dropped without being called: whether the frame is durable is then unknown.
    pub fn append(&self, draft: FrameDraft, on_durable: OnDurable) -> Result<FrameIndex, AppendError> {
        self.queue.append(draft, on_durable)
    }

    /// Removes every frame after this one, once all frames handed over before are durable. For frames that were never
    /// acknowledged to a client. Nobody may append meanwhile. Waits; not to be called from `on_durable`.
    pub fn truncate_after(&self, after: FrameIndex) -> Result<(), TruncateError> {
        let (done, answer) = crossbeam_channel::bounded(1);
        self.queue.push(Task::Truncate { after, done })?;
        answer.recv().unwrap_or_else(|_| Err(self.why_stopped().into()))
    }

    /// Lets go of all whole segments that hold only frames before this one; the segment being written is never among them.
    /// Appending goes on meanwhile. Waits; not to be called from `on_durable`.
    pub fn release_before(&self, before: FrameIndex) -> Result<(), JournalError> {
        self.releaser().release_before(before)
    }

    /// For whoever lets go of frames on another thread.
    pub fn releaser(&self) -> Releaser {
        Releaser { queue: Arc::clone(&self.queue) }
    }

    /// The last durable frame.
    pub fn last(&self) -> Option<FrameHeader> {
        self.reader.last()
    }

    /// The index that the next frame handed over will get.
    pub fn next_index(&self) -> FrameIndex {
        self.queue.next_index()
    }

    /// What was handed over and is not durable yet.
    pub fn in_flight(&self) -> InFlight {
        self.queue.in_flight()
    }

    /// Reads what is durable.
    pub fn reader(&self) -> Reader {
        self.reader.clone()
    }

    fn why_stopped(&self) -> JournalError {
        self.queue.stopped().unwrap_or(JournalError::Panicked)
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        self.queue.close();
        let Some(writer) = self.writer.take() else { return };
        // The last owner may be a callback: a thread cannot wait for itself.
        if writer.thread().id() != std::thread::current().id() {
            // A panic there was reported by the panic hook and by `on_fatal`.
            drop(writer.join());
        }
    }
}

/// Lets go of whole segments: see [`Journal::release_before`].
#[derive(Clone)]
pub struct Releaser {
    queue: Arc<Queue>,
}

impl Releaser {
    /// As [`Journal::release_before`]; does nothing any more once the journal is being closed.
    pub fn release_before(&self, before: FrameIndex) -> Result<(), JournalError> {
        let (done, answer) = crossbeam_channel::bounded(1);
        if !self.queue.push_unless_closed(Task::Release { before, done })? {
            return Ok(());
        }
        let released = answer.recv().unwrap_or_else(|_| match self.queue.is_closed() {
            true => Ok(()),
            false => Err(self.queue.stopped().unwrap_or(JournalError::Panicked)),
        });
        if let Err(error) = &released {
            self.queue.fail(error.clone());
        }
        released
    }
}

/// What runs on the writer's thread.
struct Writer {
    queue: Arc<Queue>,
    appender: Appender,
}

impl Writer {
    fn run(mut self) {
        let guard = StopOnPanic(Arc::clone(&self.queue));
        loop {
            let mut tasks = self.queue.take();
            if tasks.is_empty() {
                break;
            }
            if let Err(error) = self.work(&mut tasks) {
                tracing::error!(%error, "the journal has stopped");
                self.queue.fail(error);
                break;
            }
        }
        drop(guard);
    }

    fn work(&mut self, tasks: &mut VecDeque<Task>) -> Result<(), JournalError> {
        let mut drafts = VecDeque::new();
        let mut callbacks = VecDeque::new();
        while !tasks.is_empty() || !drafts.is_empty() {
            while let Some(task) =
                tasks.pop_front_if(|task| matches!(task, Task::Append { .. }) || drafts.is_empty())
            {
                match task {
                    Task::Append { draft, on_durable } => {
                        drafts.push_back(draft);
                        callbacks.push_back(on_durable);
                    }
                    Task::Truncate { after, done } => self.truncate(after, &done)?,
                    Task::Release { before, done } => self.appender.begin_release(before, done),
                }
            }
            if drafts.is_empty() {
                continue;
            }
            let frames = self.appender.write_next(&mut drafts)?;
            let bytes = frames.iter().map(|frame| frame.body().len()).sum();
            self.queue.landed(InFlight { frames: frames.len(), bytes });
            let landed: Vec<_> = callbacks.drain(..frames.len()).collect();
            for (frame, on_durable) in frames.into_iter().zip(landed) {
                on_durable(frame);
            }
            // What came meanwhile goes into the next write.
            self.queue.take_more(tasks);
        }
        Ok(())
    }

    fn truncate(
        &mut self,
        after: FrameIndex,
        done: &crossbeam_channel::Sender<Result<(), TruncateError>>,
    ) -> Result<(), JournalError> {
        let truncated = self.appender.truncate_after(after);
        self.queue.rewind(self.appender.continuation());
        let fatal = match &truncated {
            Err(TruncateError::Stopped(error)) => Err(error.clone()),
            _ => Ok(()),
        };
        // Whoever asked has gone: then nobody waits.
        drop(done.send(truncated));
        fatal
    }
}

/// A callback that panics must not leave others waiting for ever.
struct StopOnPanic(Arc<Queue>);

impl Drop for StopOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.fail(JournalError::Panicked);
        }
    }
}
