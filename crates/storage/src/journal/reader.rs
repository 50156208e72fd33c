//! Reads durable frames, while others are being written.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::buffer::PooledBytes;
use super::catalogue::{Catalogue, Frames, Location};
use super::disk::{DirectDisk, Disk};
use super::error::{Damage, JournalError, OpenError, ReadError};
use super::frame::{Frame, FrameHeader, check_body, parse_header};
use super::layout::{Listing, Meta, segment_path};
use super::recovery::{self, Company, Recovered};
use super::shared::Shared;
use super::{FrameHash, FrameIndex, Sequence};

/// How much a sequential reader asks for at a time: it pays for few system calls and stays in the processor's cache.
const RUN_SIZE_BYTES: usize = 1 << 20;
/// How often a look-up is repeated when frames were removed between looking and reading.
const ATTEMPTS_MAX: usize = 8;
/// How often a journal that somebody else writes to is looked at, until two looks agree.
const OPEN_ATTEMPTS_MAX: usize = 16;
const OPEN_PAUSE: Duration = Duration::from_millis(5);

/// Reads durable frames from any thread. Clones share their caches.
#[derive(Clone)]
pub struct Reader {
    shared: Arc<Shared>,
    partition: u32,
    reach: Reach,
    /// What it reads is not kept in the page cache.
    reads_once: bool,
}

/// A file with frames, one after the other from its beginning, each padded to whole blocks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// Where it is.
    pub path: PathBuf,
    /// The frame after its last one.
    pub next_index: FrameIndex,
    /// It gets no more frames.
    pub is_sealed: bool,
    /// The size of the file.
    pub size_bytes: u64,
    /// Where its frames end.
    pub end_offset: u64,
}

/// Where a reader looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reach {
    /// Into the archive as well, if there is one.
    Everything,
    /// Only where it takes no network.
    Local,
}

/// Where frames are that the journal has released.
pub trait ReleasedFrames: Send + Sync {
    /// The oldest frame there is.
    fn first_index(&self) -> FrameIndex;

    /// The last frame that begins at or before this sequence, which must have been released.
    fn index_of(&self, sequence: Sequence) -> Result<FrameIndex, ReadError>;

    /// Frames from this one on, in order and checked: at least one, and more when they come cheaply with it.
    fn frames_from(&self, index: FrameIndex, size_bytes: usize) -> Result<Vec<Arc<Frame>>, ReadError>;
}

impl Reader {
    pub(crate) fn new(shared: Arc<Shared>, partition: u32) -> Reader {
        Reader { shared, partition, reach: Reach::Everything, reads_once: false }
    }

    /// Says where the frames are that this journal released. Every reader of it finds them from now on; the first call counts.
    pub fn attach(&self, released: Arc<dyn ReleasedFrames>) {
        if self.shared.released.set(released).is_err() {
            tracing::warn!("a journal was given an archive twice; it keeps the first");
        }
    }

    /// A reader that never asks the archive: it answers [`ReadError::Released`] for what is neither here nor was read lately.
    pub fn local(&self) -> Reader {
        Reader { reach: Reach::Local, ..self.clone() }
    }

    /// A reader of what nobody will read again soon: it leaves the page cache to others.
    pub fn once(&self) -> Reader {
        Reader { reads_once: true, ..self.clone() }
    }

    fn released(&self) -> Option<&Arc<dyn ReleasedFrames>> {
        self.shared.released.get().filter(|_| self.reach == Reach::Everything)
    }

    /// What the hash chain begins with.
    pub fn genesis(&self) -> [u8; 32] {
        self.shared.genesis
    }

    /// The hash that the first frame held here repeats.
    pub fn previous_hash(&self) -> FrameHash {
        self.shared.catalogue.read().segments.front().expect("there is always a segment").previous_hash
    }

    /// The first frame of the oldest segment that must stay so that at least so many bytes do.
    pub fn index_keeping(&self, size_bytes: u64) -> FrameIndex {
        let frames = self.shared.catalogue.read();
        let mut kept = 0;
        let mut index = frames.active().first_index;
        for segment in frames.segments.iter().rev() {
            index = segment.first_index;
            kept += segment.end_offset;
            if kept >= size_bytes {
                break;
            }
        }
        index
    }

    /// The segment that begins with this frame; `None` when none does.
    pub fn segment_from(&self, first_index: FrameIndex) -> Option<Segment> {
        let frames = self.shared.catalogue.read();
        let place = frames.segments.binary_search_by_key(&first_index, |segment| segment.first_index).ok()?;
        let segment = &frames.segments[place];
        Some(Segment {
            path: segment_path(&self.shared.directory, first_index),
            next_index: segment.next_index(),
            is_sealed: place + 1 < frames.segments.len(),
            size_bytes: segment.size_bytes,
            end_offset: segment.end_offset,
        })
    }

    /// The frame with this sequence, if it is held here.
    pub fn local_index_of(&self, sequence: Sequence) -> Option<FrameIndex> {
        Some(self.shared.catalogue.read().locate_sequence(sequence)?.index)
    }

    /// Opens a journal as it stands now, changes nothing, and needs no right to write. The partition is the journal's own. A torn
    /// tail is left out and reported.
    ///
    /// A server may be writing meanwhile. The reader keeps to the frames that were whole when it was opened. Those that are
    /// released afterwards it can no longer read, and may then report damage: open it again, and see whether they are still there.
    pub fn open_read_only(directory: &Path) -> Result<(Reader, Recovered), OpenError> {
        Self::open_read_only_on(directory, Arc::new(DirectDisk::new()))
    }

    /// As [`Reader::open_read_only`], from any disk.
    pub fn open_read_only_on(
        directory: &Path,
        disk: Arc<dyn Disk>,
    ) -> Result<(Reader, Recovered), OpenError> {
        let mut before = None;
        for _ in 1..OPEN_ATTEMPTS_MAX {
            match Self::open_as_it_stands(directory, &disk) {
                // A segment that was released between two looks, or a frame that was half there. Damage stays where it is.
                Err(error @ (OpenError::Damaged(_) | OpenError::Io(_))) => {
                    let error = error.to_string();
                    if before.as_ref() == Some(&error) {
                        break;
                    }
                    before = Some(error);
                    std::thread::sleep(OPEN_PAUSE);
                }
                opened => return opened,
            }
        }
        Self::open_as_it_stands(directory, &disk)
    }

    fn open_as_it_stands(directory: &Path, disk: &Arc<dyn Disk>) -> Result<(Reader, Recovered), OpenError> {
        let listing = Listing::read(&**disk, directory)?;
        let meta = Meta::load(&**disk, directory)?;
        let survey = recovery::survey(&**disk, directory, &listing, &meta, Company::PerhapsAWriter)?;
        let recovered = survey.recovered();
        let catalogue = Catalogue::new(survey.segments);
        let disk = Arc::clone(disk);
        let shared = Shared::new(directory, disk, catalogue, listing.next_spare(), meta.genesis);
        Ok((Reader::new(Arc::new(shared), meta.partition), recovered))
    }

    /// The partition that the journal belongs to.
    pub fn partition(&self) -> u32 {
        self.partition
    }

    /// The last durable frame.
    pub fn last(&self) -> Option<FrameHeader> {
        self.shared.catalogue.read().last()
    }

    /// The oldest frame that can be read, or the next to be written when there is none.
    pub fn first_index(&self) -> FrameIndex {
        self.released().map_or_else(|| self.first_local_index(), |released| released.first_index())
    }

    /// The oldest frame held here, or the next to be written when there is none.
    pub fn first_local_index(&self) -> FrameIndex {
        self.shared.catalogue.read().first_index()
    }

    /// The bytes that the frames held take on disk, padding included; spare segments do not count.
    pub fn size_bytes(&self) -> u64 {
        self.shared.catalogue.read().segments.iter().map(|segment| segment.end_offset).sum()
    }

    /// The durable frame with the event of this sequence; `None` if there is none yet. Frames read lately come from memory.
    pub fn frame_containing(&self, sequence: Sequence) -> Result<Option<Arc<Frame>>, ReadError> {
        let found = self.find(|frames| match frames.locate_sequence(sequence) {
            Some(location) => Ok(Some(location)),
            // Sequences before the first frame were released with the frames that held them. Without any frame here it can
            // only be told by looking.
            None if frames.first_index() > FrameIndex::FIRST => {
                Err(ReadError::Released { first: frames.first_index() })
            }
            None => Ok(None),
        });
        let frame = match found {
            Err(error @ ReadError::Released { .. }) => self.released_frame_containing(sequence, error)?,
            found => found?,
        };
        Ok(frame.filter(|frame| frame.header().contains(sequence)))
    }

    fn released_frame_containing(
        &self,
        sequence: Sequence,
        error: ReadError,
    ) -> Result<Option<Arc<Frame>>, ReadError> {
        let cached = self
            .shared
            .frames
            .lock()
            .expect("no code panics while it holds a cache")
            .find(|frame| frame.header().contains(sequence));
        match (cached, self.released()) {
            (Some(frame), _) => Ok(Some(frame)),
            (None, Some(released)) => self.released_frame(released.index_of(sequence)?, error),
            (None, None) => Err(error),
        }
    }

    fn released_frame(&self, index: FrameIndex, error: ReadError) -> Result<Option<Arc<Frame>>, ReadError> {
        let generation = self.generations().frames;
        let cached = self.shared.frames.lock().expect("no code panics while it holds a cache").get(index.0);
        if let Some(frame) = cached {
            return Ok(Some(frame));
        }
        let Some(released) = self.released() else { return Err(error) };
        let frame = released.frames_from(index, 0)?.into_iter().next();
        if let Some(frame) = &frame {
            let mut frames = self.shared.frames.lock().expect("no code panics while it holds a cache");
            frames.insert(generation, index.0, Arc::clone(frame), frame.header().frame_size_bytes());
        }
        Ok(frame)
    }

    /// The durable frame with this index; `None` if there is none yet.
    pub fn frame_at(&self, index: FrameIndex) -> Result<Option<Arc<Frame>>, ReadError> {
        let found = self.find(|frames| {
            if index < frames.first_index() {
                return Err(ReadError::Released { first: frames.first_index() });
            }
            Ok(frames.locate(index))
        });
        match found {
            Err(error @ ReadError::Released { .. }) => self.released_frame(index, error),
            found => found,
        }
    }

    /// The headers of durable frames, both ends included. Of frames held here only the headers are read.
    pub fn headers(&self, first: FrameIndex, last: FrameIndex) -> Result<Vec<FrameHeader>, ReadError> {
        (first.0..=last.0).map_while(|index| self.header(FrameIndex(index)).transpose()).collect()
    }

    fn header(&self, index: FrameIndex) -> Result<Option<FrameHeader>, ReadError> {
        let local = self.repeated(|generations| {
            let Some(location) = self.shared.catalogue.read().locate(index) else { return Ok(None) };
            let file = self.shared.segment(location.segment, generations.files)?;
            Ok(Some(recovery::header_at(&*file, &self.path(&location), location)?))
        })?;
        match local {
            Some(header) => Ok(Some(header)),
            None => Ok(self.frame_at(index)?.map(|frame| *frame.header())),
        }
    }

    /// All durable frames from this one on, in order, each checked against its hash and the one before. After the last durable
    /// frame the iterator answers `None`, and goes on when it is asked again and more are durable. After an error it ends.
    pub fn frames_from(&self, index: FrameIndex) -> FramesFrom {
        FramesFrom {
            reader: self.clone(),
            next: index,
            previous_hash: None,
            run: VecDeque::new(),
            released: VecDeque::new(),
            failed: false,
        }
    }

    /// Locates and reads; when the journal changed in between, again.
    fn find(
        &self,
        locate: impl Fn(&Frames) -> Result<Option<Location>, ReadError>,
    ) -> Result<Option<Arc<Frame>>, ReadError> {
        self.repeated(|generations| {
            let Some(location) = locate(&self.shared.catalogue.read())? else { return Ok(None) };
            let cached = self
                .shared
                .frames
                .lock()
                .expect("no code panics while it holds a cache")
                .get(location.index.0);
            if let Some(frame) = cached {
                return Ok(Some(frame));
            }
            let bytes = self.read(generations.files, &location, location.size_bytes)?;
            let frame = Arc::new(self.checked_frame(&Arc::new(bytes), 0, &location)?);
            let mut frames = self.shared.frames.lock().expect("no code panics while it holds a cache");
            frames.insert(generations.frames, location.index.0, Arc::clone(&frame), location.size_bytes);
            Ok(Some(frame))
        })
    }

    /// Truncation and release may take a frame away between looking it up and reading it: such a failure says nothing.
    fn repeated<Answer>(
        &self,
        attempt: impl Fn(Generations) -> Result<Answer, ReadError>,
    ) -> Result<Answer, ReadError> {
        let mut generations = self.generations();
        for _ in 1..ATTEMPTS_MAX {
            match attempt(generations) {
                Ok(answer) => return Ok(answer),
                Err(error) => {
                    let now = self.generations();
                    if now == generations {
                        return Err(error);
                    }
                    generations = now;
                }
            }
        }
        attempt(generations)
    }

    fn generations(&self) -> Generations {
        Generations {
            files: self.shared.files.lock().expect("no code panics while it holds a cache").generation(),
            frames: self.shared.frames.lock().expect("no code panics while it holds a cache").generation(),
        }
    }

    fn path(&self, location: &Location) -> PathBuf {
        segment_path(&self.shared.directory, location.segment)
    }

    fn read(
        &self,
        generation: u64,
        location: &Location,
        size_bytes: usize,
    ) -> Result<PooledBytes, JournalError> {
        let file = self.shared.segment(location.segment, generation)?;
        let mut bytes = self.shared.pool.take(size_bytes);
        let buffer = &mut bytes[..size_bytes];
        let read = match self.reads_once {
            true => file.read_once(location.offset, buffer),
            false => file.read_exact(location.offset, buffer),
        };
        read.map_err(|source| JournalError::io("read", &self.path(location), source))?;
        Ok(bytes)
    }

    /// The frame at `start` of `bytes`, which were read from `location`.
    fn checked_frame(
        &self,
        bytes: &Arc<PooledBytes>,
        start: usize,
        location: &Location,
    ) -> Result<Frame, Damage> {
        let damage = |why: &str| Damage {
            segment: self.path(location),
            offset: location.offset,
            index: location.index,
            why: why.to_owned(),
        };
        let frame = &bytes[start..start + location.size_bytes];
        let header = parse_header(frame).valid().map_err(damage)?;
        if header.partition != self.partition
            || header.index != location.index
            || header.frame_size_bytes() != location.size_bytes
        {
            return Err(damage("another frame stands here than the index says"));
        }
        check_body(&header, frame).whole().map_err(damage)?;
        Ok(Frame::new(header, Arc::clone(bytes), start))
    }
}

/// The states of the caches when a look-up began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Generations {
    files: u64,
    frames: u64,
}

/// See [`Reader::frames_from`].
pub struct FramesFrom {
    reader: Reader,
    next: FrameIndex,
    /// `None` until the first frame is looked for.
    previous_hash: Option<FrameHash>,
    /// Read, and not yet given out.
    run: VecDeque<Unchecked>,
    /// The same, from the archive.
    released: VecDeque<Arc<Frame>>,
    failed: bool,
}

struct Unchecked {
    bytes: Arc<PooledBytes>,
    start: usize,
    location: Location,
}

impl FramesFrom {
    fn advance(&mut self) -> Result<Option<Arc<Frame>>, ReadError> {
        if self.run.is_empty() && self.released.is_empty() {
            match self.reader.repeated(|generations| self.read_run(generations)) {
                Ok((run, previous_hash)) => (self.run, self.previous_hash) = (run, previous_hash),
                Err(error @ ReadError::Released { .. }) => {
                    let Some(released) = self.reader.released() else { return Err(error) };
                    self.released = released.frames_from(self.next, RUN_SIZE_BYTES)?.into();
                }
                Err(error) => return Err(error),
            }
        }
        if let Some(frame) = self.released.pop_front() {
            let expected = self.previous_hash.unwrap_or(frame.header().previous_hash);
            if frame.index() != self.next || frame.header().previous_hash != expected {
                let why = format!("frame {} of the archive does not continue the hash chain", self.next);
                return Err(ReadError::ArchiveDamaged { why });
            }
            self.previous_hash = Some(frame.header().hash);
            self.next = frame.index().next();
            return Ok(Some(frame));
        }
        let Some(unchecked) = self.run.pop_front() else { return Ok(None) };
        let Unchecked { bytes, start, location } = unchecked;
        let frame = self.reader.checked_frame(&bytes, start, &location)?;
        if self.previous_hash.is_some_and(|hash| hash != frame.header().previous_hash) {
            let why = "the frame does not continue the hash chain".into();
            let (segment, offset, index) = (self.reader.path(&location), location.offset, location.index);
            return Err(Damage { segment, offset, index, why }.into());
        }
        self.previous_hash = Some(frame.header().hash);
        self.next = location.index.next();
        Ok(Some(Arc::new(frame)))
    }

    /// Reads frames that lie one after the other, and makes sure that the hash before them is known.
    fn read_run(
        &self,
        generations: Generations,
    ) -> Result<(VecDeque<Unchecked>, Option<FrameHash>), ReadError> {
        let frames = self.reader.shared.catalogue.read();
        if self.next < frames.first_index() {
            return Err(ReadError::Released { first: frames.first_index() });
        }
        let locations = run_of_locations(&frames, self.next);
        let Some(first) = locations.first().copied() else {
            return Ok((VecDeque::new(), self.previous_hash));
        };
        let before = self.previous_hash.map_or_else(|| Before::of(&frames, &first), Before::Known);
        drop(frames);

        let previous_hash = match before {
            Before::Known(hash) => hash,
            Before::In(location) => {
                let file = self.reader.shared.segment(location.segment, generations.files)?;
                recovery::header_at(&*file, &self.reader.path(&location), location)?.hash
            }
        };
        let size_bytes = locations.iter().map(|location| location.size_bytes).sum();
        let bytes = Arc::new(self.reader.read(generations.files, &first, size_bytes)?);
        let unchecked = |location: &Location| Unchecked {
            bytes: Arc::clone(&bytes),
            start: usize::try_from(location.offset - first.offset)
                .expect("a run is at most a frame over its limit"),
            location: *location,
        };
        Ok((locations.iter().map(unchecked).collect(), Some(previous_hash)))
    }
}

/// Where the hash before a frame comes from.
enum Before {
    Known(FrameHash),
    In(Location),
}

impl Before {
    fn of(frames: &Frames, first: &Location) -> Before {
        let segment = frames.segments.iter().find(|segment| segment.first_index == first.index);
        match segment {
            Some(segment) => Before::Known(segment.previous_hash),
            None => {
                Before::In(frames.locate(FrameIndex(first.index.0 - 1)).expect("it is in the same segment"))
            }
        }
    }
}

/// The frames from this one on, within its segment and up to the size of a run, but at least one if there is one.
fn run_of_locations(frames: &Frames, next: FrameIndex) -> Vec<Location> {
    let mut locations: Vec<Location> = Vec::new();
    let mut size_bytes = 0;
    let mut index = next;
    while let Some(location) = frames.locate(index) {
        size_bytes += location.size_bytes;
        let first = locations.first().unwrap_or(&location);
        if first.segment != location.segment || (size_bytes > RUN_SIZE_BYTES && !locations.is_empty()) {
            break;
        }
        locations.push(location);
        index = index.next();
    }
    locations
}

impl Iterator for FramesFrom {
    type Item = Result<Arc<Frame>, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let advanced = self.advance();
        self.failed = advanced.is_err();
        advanced.transpose()
    }
}
