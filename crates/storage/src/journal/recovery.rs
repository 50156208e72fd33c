//! What is on disk after a crash, and whether it may be believed.
//!
//! A segment is all zero before it is used, a sector is written whole or not at all, and at most one write is under way. So a
//! torn write leaves each of its sectors new or zero, and nothing valid of any later write behind it. Whatever looks different
//! is damage, and is never repaired here by guessing.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::path::{Path, PathBuf};

use super::buffer::{BLOCK_SIZE_BYTES, BufferPool, PooledBytes};
use super::catalogue::{Location, SegmentFrames};
use super::disk::{Access, Disk, DiskFile};
use super::error::{Damage, JournalError, OpenError};
use super::frame::{
    BodyState, FORMAT_VERSION, FrameHeader, HeaderState, SECTOR_SIZE_BYTES, check_body, is_zero, parse_header,
};
use super::layout::{Listing, Meta, segment_path};
use super::{FrameHash, FrameIndex, Sequence, Term, sidecar};

/// How much is read at a time.
const WINDOW_SIZE_BYTES: usize = 4 << 20;

/// What was found on opening a journal.
#[derive(Debug, Clone)]
pub struct Recovered {
    /// The last frame: its index, term, hash, sequences and timestamp. `None` if the journal has no frames.
    pub last: Option<FrameHeader>,
    /// The oldest frame still held, or the next to be written when there is none.
    pub first_index: FrameIndex,
    /// The frame that will be appended next.
    pub next_index: FrameIndex,
    /// The hash that the next frame will repeat.
    pub previous_hash: FrameHash,
    /// How many bytes of a torn, never acknowledged write were cut from the end (or, when opened read-only, would be).
    pub torn_tail_bytes: u64,
}

/// The result of looking at everything, before anything is changed.
pub(crate) struct Survey {
    pub(crate) segments: VecDeque<SegmentFrames>,
    /// Sealed segments whose side-car is to be written again.
    pub(crate) without_side_car: Vec<FrameIndex>,
    /// Where in the last segment a torn write begins, and its size.
    pub(crate) torn_tail: Option<(u64, u64)>,
}

impl Survey {
    pub(crate) fn recovered(&self) -> Recovered {
        let active = self.segments.back().expect("a survey has at least one segment");
        Recovered {
            last: self.segments.iter().rev().find_map(|segment| segment.last),
            first_index: self.segments[0].first_index,
            next_index: active.next_index(),
            previous_hash: active.last_hash(),
            torn_tail_bytes: self.torn_tail.map_or(0, |(_, size_bytes)| size_bytes),
        }
    }
}

/// Who may be writing while the journal is surveyed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Company {
    /// Nobody: whoever surveys has the directory to itself.
    Alone,
    /// Perhaps a server: frames may become whole behind the place that is being read.
    PerhapsAWriter,
}

/// Looks at all segments from `meta.first_index` on: sealed ones through their side-cars, the last one frame by frame.
pub(crate) fn survey(
    disk: &dyn Disk,
    directory: &Path,
    listing: &Listing,
    meta: &Meta,
    company: Company,
) -> Result<Survey, OpenError> {
    let kept: Vec<_> =
        listing.segments.iter().filter(|(first, _)| *first >= meta.first_index).copied().collect();
    let missing = |index: FrameIndex| Damage {
        segment: segment_path(directory, index),
        offset: 0,
        index,
        why: "the segment that holds this frame is missing".into(),
    };
    match kept.first() {
        Some((first, _)) if *first == meta.first_index => {}
        _ => return Err(missing(meta.first_index).into()),
    }
    let mut survey = Survey { segments: VecDeque::new(), without_side_car: Vec::new(), torn_tail: None };
    let mut chain = Chain { partition: meta.partition, previous_hash: meta.previous_hash, last: None };
    for (position, (first_index, size_bytes)) in kept.iter().copied().enumerate() {
        let frames = match kept.get(position + 1) {
            Some((next_first, _)) => {
                let sealed = Sealed { first_index, next_first: *next_first, size_bytes };
                let (frames, from_side_car) = sealed.survey(disk, directory, chain)?;
                if !from_side_car {
                    survey.without_side_car.push(first_index);
                }
                frames
            }
            None => {
                let mut walk = Walk::open(disk, directory, first_index, chain)?;
                survey.torn_tail = walk.run_active(company)?;
                if listing.side_cars.contains(&first_index) {
                    return Err(missing(walk.frames.next_index()).into());
                }
                walk.frames
            }
        };
        chain.previous_hash = frames.last_hash();
        chain.last = frames.last.or(chain.last);
        survey.segments.push_back(frames);
    }
    Ok(survey)
}

/// What the next frame must continue.
#[derive(Debug, Clone, Copy)]
struct Chain {
    partition: u32,
    previous_hash: FrameHash,
    last: Option<FrameHeader>,
}

impl Chain {
    fn check(&self, header: &FrameHeader, index: FrameIndex) -> Result<(), String> {
        let term = self.last.map_or(Term(0), |last| last.term);
        let sequence: Option<Sequence> = self.last.map(|last| last.next_sequence());
        if header.partition != self.partition {
            return Err(format!(
                "the frame belongs to partition {}, not {}",
                header.partition, self.partition
            ));
        }
        if header.index != index {
            return Err(format!("frame {} stands where frame {index} belongs", header.index));
        }
        if header.previous_hash != self.previous_hash {
            return Err("the frame does not continue the hash chain".into());
        }
        if header.term < term {
            return Err(format!(
                "the frame's term {} is before term {term} of the frame before",
                header.term
            ));
        }
        match sequence {
            Some(expected) if expected != header.first_sequence => {
                Err(format!("the frame begins at sequence {}, not at {expected}", header.first_sequence))
            }
            _ => Ok(()),
        }
    }
}

/// A segment that has a successor, and so is complete.
struct Sealed {
    first_index: FrameIndex,
    next_first: FrameIndex,
    size_bytes: u64,
}

impl Sealed {
    /// The frames, and whether they came from a side-car.
    fn survey(
        &self,
        disk: &dyn Disk,
        directory: &Path,
        chain: Chain,
    ) -> Result<(SegmentFrames, bool), OpenError> {
        let side_car = sidecar::load(disk, directory, chain.partition, self.first_index, self.size_bytes);
        match side_car {
            Some(frames)
                if frames.next_index() == self.next_first && frames.previous_hash == chain.previous_hash =>
            {
                Ok((frames, true))
            }
            _ => {
                let mut walk = Walk::open(disk, directory, self.first_index, chain)?;
                walk.run_sealed(self.next_first)?;
                Ok((walk.frames, false))
            }
        }
    }
}

/// Goes through one segment, frame by frame.
struct Walk {
    path: PathBuf,
    window: Window,
    chain: Chain,
    frames: SegmentFrames,
}

/// Why a walk came to its end.
enum Stop {
    /// The end of the file.
    End,
    /// A zero sector where a header would be.
    NoHeader,
    /// A valid header of a frame that has sectors missing.
    MissingSectors(FrameHeader),
}

impl Walk {
    fn open(
        disk: &dyn Disk,
        directory: &Path,
        first_index: FrameIndex,
        chain: Chain,
    ) -> Result<Walk, OpenError> {
        let path = segment_path(directory, first_index);
        let file =
            disk.open(&path, Access::Read).map_err(|source| JournalError::io("open", &path, source))?;
        let frames = SegmentFrames::new(first_index, chain.previous_hash, file.size_bytes());
        let window = Window::new(file);
        let walk = Walk { path, window, chain, frames };
        if !walk.frames.size_bytes.is_multiple_of(BLOCK_SIZE_BYTES as u64) || walk.frames.size_bytes == 0 {
            return Err(walk.damage("the file's size is not a multiple of 4 KiB").into());
        }
        Ok(walk)
    }

    fn damage(&self, why: impl Into<String>) -> Damage {
        Damage {
            segment: self.path.clone(),
            offset: self.frames.end_offset,
            index: self.frames.next_index(),
            why: why.into(),
        }
    }

    /// Takes in every whole frame. What cannot be a torn write is an error.
    fn run(&mut self) -> Result<Stop, OpenError> {
        while self.frames.end_offset < self.frames.size_bytes {
            let offset = self.frames.end_offset;
            let header = match parse_header(self.window.read(&self.path, offset, BLOCK_SIZE_BYTES)?) {
                HeaderState::Empty => return Ok(Stop::NoHeader),
                HeaderState::Valid(header) => header,
                HeaderState::Broken(why) => return Err(self.damage(why).into()),
                HeaderState::OtherVersion(found) => {
                    let path = self.path.clone();
                    return Err(OpenError::UnsupportedVersion { path, found, supported: FORMAT_VERSION });
                }
            };
            self.chain.check(&header, self.frames.next_index()).map_err(|why| self.damage(why))?;
            if offset + header.frame_size_bytes() as u64 > self.frames.size_bytes {
                return Err(self.damage("the frame reaches beyond the end of the segment").into());
            }
            match check_body(&header, self.window.read(&self.path, offset, header.frame_size_bytes())?) {
                BodyState::Whole => {}
                BodyState::Torn => return Ok(Stop::MissingSectors(header)),
                BodyState::Broken(why) => return Err(self.damage(why).into()),
            }
            self.frames.push(&header);
            self.chain.previous_hash = header.hash;
            self.chain.last = Some(header);
        }
        Ok(Stop::End)
    }

    /// A segment with a successor must hold exactly the frames up to it.
    fn run_sealed(&mut self, next_first: FrameIndex) -> Result<(), OpenError> {
        let stop = self.run()?;
        if self.frames.next_index() == next_first {
            return Ok(());
        }
        let why = match stop {
            Stop::MissingSectors(_) => {
                "sectors of the frame are zero, and a later segment follows".to_owned()
            }
            Stop::End | Stop::NoHeader => {
                format!("frames up to before {next_first} are missing: a later segment follows")
            }
        };
        Err(self.damage(why).into())
    }

    /// The last segment may end in a torn write: where it begins, and its size.
    fn run_active(&mut self, company: Company) -> Result<Option<(u64, u64)>, OpenError> {
        let start = match self.run()? {
            Stop::End => return Ok(None),
            Stop::NoHeader => self.frames.end_offset,
            Stop::MissingSectors(header) => self.frames.end_offset + header.frame_size_bytes() as u64,
        };
        let torn = self.end_of_torn_write(start);
        if torn.is_err() && company == Company::PerhapsAWriter && self.has_become_whole()? {
            return Ok(None);
        }
        let end = torn?.max(start);
        let size_bytes = end - self.frames.end_offset;
        Ok((size_bytes > 0).then_some((self.frames.end_offset, size_bytes)))
    }

    /// Whether the frame that was missing is whole by now: then it was being written, and so was what follows it.
    fn has_become_whole(&mut self) -> Result<bool, OpenError> {
        self.window.forget();
        let offset = self.frames.end_offset;
        let header = parse_header(self.window.read(&self.path, offset, BLOCK_SIZE_BYTES)?);
        let HeaderState::Valid(header) = header else { return Ok(false) };
        let size_bytes = header.frame_size_bytes();
        if self.chain.check(&header, self.frames.next_index()).is_err()
            || offset + size_bytes as u64 > self.frames.size_bytes
        {
            return Ok(false);
        }
        Ok(matches!(check_body(&header, self.window.read(&self.path, offset, size_bytes)?), BodyState::Whole))
    }

    /// The end of the last block from `start` on that is not zero. A valid header there is damage unless it comes from the
    /// same write as the bad frame: had its write been begun later, the bad frame would have been durable by then.
    fn end_of_torn_write(&mut self, start: u64) -> Result<u64, OpenError> {
        let bad = self.frames.next_index();
        let mut end = start;
        let mut offset = start;
        while offset < self.frames.size_bytes {
            let block = self.window.read(&self.path, offset, BLOCK_SIZE_BYTES)?;
            offset += BLOCK_SIZE_BYTES as u64;
            if is_zero(block) {
                continue;
            }
            end = offset;
            let HeaderState::Valid(header) = parse_header(block) else { continue };
            let write_began = header.index.0.saturating_sub(u64::from(header.frames_before_in_write));
            if header.partition == self.chain.partition && write_began > bad.0 {
                let why = format!(
                    "the frame is missing or incomplete, and the later frame {} follows",
                    header.index
                );
                return Err(self.damage(why).into());
            }
        }
        Ok(end)
    }
}

/// Reads a file front to back in large pieces.
struct Window {
    file: Box<dyn DiskFile>,
    pool: BufferPool,
    bytes: PooledBytes,
    start: u64,
    size_bytes: usize,
}

impl Window {
    fn new(file: Box<dyn DiskFile>) -> Window {
        let pool = BufferPool::new();
        let of_file = usize::try_from(file.size_bytes()).unwrap_or(usize::MAX);
        // Small segments are many: each gets no more than it has.
        let bytes = pool.take(of_file.clamp(BLOCK_SIZE_BYTES, WINDOW_SIZE_BYTES));
        Window { file, pool, bytes, start: 0, size_bytes: 0 }
    }

    /// What was read may have changed: it is read again.
    fn forget(&mut self) {
        self.size_bytes = 0;
    }

    /// The bytes at this place, which must lie inside the file.
    fn read(&mut self, path: &Path, offset: u64, size_bytes: usize) -> Result<&[u8], JournalError> {
        let inside =
            offset >= self.start && offset + size_bytes as u64 <= self.start + self.size_bytes as u64;
        if !inside {
            let rest = self.file.size_bytes() - offset;
            let wanted = usize::try_from(rest).unwrap_or(usize::MAX).min(WINDOW_SIZE_BYTES.max(size_bytes));
            if self.bytes.len() < wanted {
                self.bytes = self.pool.take(wanted);
            }
            self.file
                .read_exact(offset, &mut self.bytes[..wanted])
                .map_err(|source| JournalError::io("read", path, source))?;
            (self.start, self.size_bytes) = (offset, wanted);
        }
        let start =
            usize::try_from(offset - self.start).expect("the window was just checked to hold the place");
        Ok(&self.bytes[start..start + size_bytes])
    }
}

/// Makes what was found durable: zeroes the rest of the last segment, a torn tail included, and writes the last write's frames
/// once more.
///
/// What is read need not be on the disk: it may be in a page cache whose sync failed, or in the disk's own cache. Frames of the
/// last write that are whole count from now on, though they were never acknowledged; and zeros of a truncation must not turn
/// into old frames again. The bytes are the same, so that a crash here changes nothing.
pub(crate) fn settle(file: &dyn DiskFile, path: &Path, active: &SegmentFrames) -> Result<(), JournalError> {
    if active.end_offset < active.size_bytes {
        file.zero_durable(active.end_offset, active.size_bytes - active.end_offset)
            .map_err(|source| JournalError::io("zero the unused end of", path, source))?;
    }
    let Some(last) = active.last else { return Ok(()) };
    let frames_in_write = u64::from(last.frames_before_in_write) + 1;
    let first =
        active.next_index().0.checked_sub(frames_in_write).filter(|first| *first >= active.first_index.0);
    let Some(first) = first else { return Ok(()) };
    let start = active.location((first - active.first_index.0) as usize).offset;
    let size_bytes =
        usize::try_from(active.end_offset - start).expect("a write is far smaller than the address space");
    let mut bytes = BufferPool::new().take(size_bytes);
    file.read_exact(start, &mut bytes[..size_bytes])
        .map_err(|source| JournalError::io("read", path, source))?;
    file.write_durable(start, &[IoSlice::new(&bytes[..size_bytes])])
        .map_err(|source| JournalError::io("write again the last frames of", path, source))
}

/// The header of a frame that the catalogue knows.
pub(crate) fn header_at(
    file: &dyn DiskFile,
    path: &Path,
    location: Location,
) -> Result<FrameHeader, JournalError> {
    let mut sector = [0; SECTOR_SIZE_BYTES];
    file.read_exact(location.offset, &mut sector).map_err(|source| JournalError::io("read", path, source))?;
    let why = match parse_header(&sector) {
        HeaderState::Valid(header) if header.index == location.index => return Ok(header),
        HeaderState::Valid(header) => format!("frame {} stands here", header.index),
        HeaderState::Empty => "the header is all zero".into(),
        HeaderState::OtherVersion(version) => format!("the header has format version {version}"),
        HeaderState::Broken(why) => why.into(),
    };
    Err(Damage { segment: path.to_owned(), offset: location.offset, index: location.index, why }.into())
}

/// Whether a segment was made but never written to.
pub(crate) fn is_unused(disk: &dyn Disk, path: &Path) -> Result<bool, JournalError> {
    let failed = |source| JournalError::io("read", path, source);
    let file = disk.open(path, Access::Read).map_err(failed)?;
    let mut sector = [0; SECTOR_SIZE_BYTES];
    file.read_exact(0, &mut sector).map_err(failed)?;
    Ok(is_zero(&sector))
}
