//! Where recorded history comes from for those who only read it: a partition's directory, a server on it or not, or an archive alone.
//!
//! Beside a running server the ground moves: segments are released, zeroed and used again while they are read, and their frames are
//! in the archive by then. So whatever fails is looked at anew, and counts only when it fails again.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ledger::{Sequence, Timestamp};
use storage::archive::{ArchiveError, Archiver, History};
use storage::journal::{
    self, Frame, FrameHash, FrameHeader, FrameIndex, FramesFrom, ReadError, Reader, ReleasedFrames,
};
use storage::objects::Objects;

use super::recovery::journal_directory;

/// How much of an archive is asked for at a time.
const RUN_SIZE_BYTES: usize = 4 << 20;
/// How often what cannot be read is looked at anew.
const LOOKS_MAX: usize = 5;
/// Between two looks: longer than a segment takes to be released.
const LOOK_PAUSE: Duration = Duration::from_millis(20);

/// What holds a partition's history.
#[derive(Debug, Clone)]
pub enum Source {
    /// A partition's directory. A server may be working in it: nothing is locked, and nothing written.
    Directory {
        /// The directory.
        directory: PathBuf,
        /// Where its journal is archived, for what the journal has released.
        archive: Option<Objects>,
    },
    /// An archive alone; of several histories in it, the one with the newest event.
    Archive {
        /// The archive.
        objects: Objects,
        /// The partition.
        partition: u32,
    },
}

/// Why history cannot be read at all.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The journal cannot be opened.
    #[error(transparent)]
    Journal(#[from] journal::OpenError),
    /// The archive cannot be used.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// A frame cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The archive has nothing of this partition.
    #[error("{url}: the archive has no journal of partition {partition}")]
    Empty {
        /// The archive.
        url: String,
        /// The partition.
        partition: u32,
    },
    /// The beginning is elsewhere.
    #[error(
        "the history found here begins with event {first}: what came before was released; name the archive that has it"
    )]
    NoBeginning {
        /// The first event that is here.
        first: u64,
    },
}

#[derive(Clone)]
enum View {
    Journal(Reader),
    Archive(Arc<History>),
}

/// The history of a partition as it was when it was opened.
pub(super) struct Recorded {
    source: Source,
    view: Mutex<View>,
    /// The first frame that is not part of it.
    pub(super) next_index: FrameIndex,
    /// The last event; 0 when there is none.
    pub(super) last: Sequence,
    /// Bytes of a frame that was not whole, at the end of the journal.
    pub(super) torn_bytes: u64,
}

impl Recorded {
    pub(super) fn open(source: &Source) -> Result<Recorded, SourceError> {
        let (view, torn_bytes) = look(source)?;
        let mut recorded = Recorded {
            source: source.clone(),
            next_index: FrameIndex::FIRST,
            last: Sequence(0),
            torn_bytes,
            view: Mutex::new(view.clone()),
        };
        match &view {
            View::Archive(history) => {
                recorded.next_index = history.next_index();
                recorded.last = Sequence(history.next_sequence()?.0 - 1);
            }
            View::Journal(reader) => {
                let last = reader.last();
                recorded.next_index =
                    last.map_or_else(|| reader.first_local_index(), |last| FrameIndex(last.index.0 + 1));
                let last = match last {
                    None if recorded.next_index > FrameIndex::FIRST => {
                        Some(recorded.header(FrameIndex(recorded.next_index.0 - 1))?)
                    }
                    last => last,
                };
                recorded.last = last.map_or(Sequence(0), |last| Sequence(last.last_sequence().0));
            }
        }
        Ok(recorded)
    }

    /// The same, refused unless it goes back to the first event.
    pub(super) fn open_whole(source: &Source) -> Result<Recorded, SourceError> {
        let recorded = Recorded::open(source)?;
        let first = recorded.first_index()?;
        if first > FrameIndex::FIRST && first < recorded.next_index {
            return Err(SourceError::NoBeginning { first: recorded.header(first)?.first_sequence.0 });
        }
        Ok(recorded)
    }

    fn view(&self) -> View {
        self.view.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The oldest frame there is.
    pub(super) fn first_index(&self) -> Result<FrameIndex, ReadError> {
        let reader = match self.view() {
            View::Archive(history) => {
                return Ok(history
                    .parcels()
                    .first()
                    .map_or(FrameIndex::FIRST, |first| first.name.first_index));
            }
            View::Journal(reader) => reader,
        };
        if reader.first_local_index() == FrameIndex::FIRST {
            return Ok(FrameIndex::FIRST);
        }
        match reader.frame_at(FrameIndex::FIRST) {
            // The archive was looked into by now, and says where it begins.
            Err(ReadError::Released { .. }) => Ok(reader.first_index()),
            frame => frame.map(|_| FrameIndex::FIRST),
        }
    }

    /// What the hash chain begins with.
    pub(super) fn genesis(&self) -> Result<[u8; 32], ReadError> {
        match self.view() {
            View::Journal(reader) => Ok(reader.genesis()),
            View::Archive(history) => Ok(history.genesis()?),
        }
    }

    /// Looks, and looks anew where that fails.
    fn repeated<Answer>(
        &self,
        attempt: impl Fn(&View) -> Result<Answer, ReadError>,
    ) -> Result<Answer, ReadError> {
        for _ in 1..LOOKS_MAX {
            match attempt(&self.view()) {
                Err(error) if self.may_be_mended_by_looking(&error) => self.look_anew(),
                other => return other,
            }
        }
        attempt(&self.view())
    }

    fn may_be_mended_by_looking(&self, error: &ReadError) -> bool {
        matches!(self.source, Source::Directory { .. }) && !matches!(error, ReadError::Archive { .. })
    }

    fn look_anew(&self) {
        std::thread::sleep(LOOK_PAUSE);
        // A journal that cannot be opened now is told of by what cannot be read.
        if let Ok((view, _)) = look(&self.source) {
            *self.view.lock().unwrap_or_else(PoisonError::into_inner) = view;
        }
    }

    /// The header of a frame.
    pub(super) fn header(&self, index: FrameIndex) -> Result<FrameHeader, ReadError> {
        self.repeated(|view| match view {
            View::Journal(reader) => reader
                .headers(index, index)?
                .first()
                .copied()
                .ok_or_else(|| ReadError::Released { first: reader.first_local_index() }),
            View::Archive(history) => Ok(*one(history, index)?.header()),
        })
    }

    /// A frame.
    pub(super) fn frame(&self, index: FrameIndex) -> Result<Arc<Frame>, ReadError> {
        self.repeated(|view| match view {
            View::Journal(reader) => reader
                .frame_at(index)?
                .ok_or_else(|| ReadError::Released { first: reader.first_local_index() }),
            View::Archive(history) => one(history, index),
        })
    }

    /// Reads the journal: of a directory only.
    pub(super) fn with_reader<Answer>(
        &self,
        read: impl Fn(&Reader) -> Result<Answer, ReadError>,
    ) -> Option<Result<Answer, ReadError>> {
        if matches!(self.view(), View::Archive(_)) {
            return None;
        }
        Some(self.repeated(|view| match view {
            View::Journal(reader) => read(reader),
            View::Archive(_) => unreachable!("a view of a directory stays one"),
        }))
    }

    /// The last frame that begins at or before this event; `None` when it is before the first frame.
    pub(super) fn index_of(&self, sequence: Sequence) -> Result<Option<FrameIndex>, ReadError> {
        match self.view() {
            View::Archive(history) => Ok(Some(history.index_of(journal::Sequence(sequence.0))?)),
            View::Journal(_) => self.last_frame_where(|header| header.first_sequence.0 <= sequence.0),
        }
    }

    /// The last frame that is not later than this time; `None` when all are.
    pub(super) fn index_at_time(&self, time: Timestamp) -> Result<Option<FrameIndex>, ReadError> {
        match self.view() {
            View::Archive(history) => Ok(history.index_at_time(time.as_micros())?),
            View::Journal(_) => self.last_frame_where(|header| header.timestamp_us <= time.as_micros()),
        }
    }

    /// The last frame of those at the beginning that pass: halves the rest with every header.
    fn last_frame_where(
        &self,
        passes: impl Fn(&FrameHeader) -> bool,
    ) -> Result<Option<FrameIndex>, ReadError> {
        let (mut low, mut high) = (self.first_index()?.0, self.next_index.0);
        let first = low;
        while low < high {
            let middle = low + (high - low) / 2;
            if passes(&self.header(FrameIndex(middle))?) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Ok((low > first).then(|| FrameIndex(low - 1)))
    }

    /// All frames from this one on, in order, each checked against its hash and the one before.
    pub(super) fn frames(&self, from: FrameIndex) -> Frames<'_> {
        Frames {
            recorded: self,
            next: from,
            previous_hash: None,
            ahead: Ahead::Nothing,
            looks: 0,
            failed: false,
        }
    }
}

fn one(history: &History, index: FrameIndex) -> Result<Arc<Frame>, ReadError> {
    let frame = history.read(index, 0)?.into_iter().next();
    Ok(frame.ok_or(ArchiveError::NotThere { index })?)
}

/// Opens what there is now, and says how many bytes of a torn frame it ends with.
fn look(source: &Source) -> Result<(View, u64), SourceError> {
    match source {
        Source::Directory { directory, archive } => {
            let (reader, found) = Reader::open_read_only(&journal_directory(directory))?;
            if let Some(objects) = archive {
                Archiver::attach(objects, &reader);
            }
            Ok((View::Journal(reader), found.torn_tail_bytes))
        }
        Source::Archive { objects, partition } => {
            let history = History::newest(objects, *partition)?;
            let empty = || SourceError::Empty { url: objects.url().to_owned(), partition: *partition };
            Ok((View::Archive(Arc::new(history.ok_or_else(empty)?)), 0))
        }
    }
}

/// See [`Recorded::frames`].
pub(super) struct Frames<'recorded> {
    recorded: &'recorded Recorded,
    next: FrameIndex,
    /// `None` until the first frame was read.
    previous_hash: Option<FrameHash>,
    ahead: Ahead,
    looks: usize,
    failed: bool,
}

/// What is read ahead.
enum Ahead {
    Nothing,
    Journal(FramesFrom),
    Archive(Arc<History>, VecDeque<Arc<Frame>>),
}

impl Frames<'_> {
    fn read(&mut self) -> Result<Arc<Frame>, ReadError> {
        if matches!(self.ahead, Ahead::Nothing) {
            self.ahead = match self.recorded.view() {
                View::Journal(reader) => Ahead::Journal(reader.frames_from(self.next)),
                View::Archive(history) => Ahead::Archive(history, VecDeque::new()),
            };
        }
        let gone = |index: FrameIndex| ReadError::Released { first: index };
        let frame = match &mut self.ahead {
            Ahead::Nothing => None,
            Ahead::Journal(frames) => frames.next().transpose()?,
            Ahead::Archive(history, frames) => {
                if frames.is_empty() {
                    *frames = history.read(self.next, RUN_SIZE_BYTES)?.into();
                }
                frames.pop_front()
            }
        };
        let frame = frame.ok_or_else(|| gone(self.next))?;
        let continues = self.previous_hash.is_none_or(|hash| hash == frame.header().previous_hash);
        if frame.index() != self.next || !continues {
            let why = format!("frame {} does not continue the hash chain", self.next);
            return Err(ReadError::ArchiveDamaged { why });
        }
        Ok(frame)
    }
}

impl Iterator for Frames<'_> {
    type Item = Result<Arc<Frame>, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed || self.next >= self.recorded.next_index {
            return None;
        }
        loop {
            match self.read() {
                Ok(frame) => {
                    self.looks = 0;
                    self.previous_hash = Some(frame.header().hash);
                    self.next = FrameIndex(frame.index().0 + 1);
                    return Some(Ok(frame));
                }
                Err(error) if self.looks < LOOKS_MAX && self.recorded.may_be_mended_by_looking(&error) => {
                    self.looks += 1;
                    self.ahead = Ahead::Nothing;
                    self.recorded.look_anew();
                }
                Err(error) => {
                    self.failed = true;
                    return Some(Err(error));
                }
            }
        }
    }
}
