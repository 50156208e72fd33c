//! The journal without its threads: every call does its I/O before it returns.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::path::Path;
use std::sync::Arc;

use crossbeam_channel::Sender;

use super::buffer::{FrameBuffer, PooledBytes, whole_blocks};
use super::catalogue::{Catalogue, SegmentFrames};
use super::disk::{Disk, DiskFile};
use super::error::{AppendError, Damage, JournalError, OpenError, TruncateError};
use super::frame::{FRAME_SIZE_BYTES_MAX, Frame, FrameHeader, HEADER_SIZE_BYTES};
use super::layout::{Listing, Meta, segment_path, spare_path, zeroed_path};
use super::reader::Reader;
use super::recovery::{self, Company, Recovered};
use super::shared::Shared;
use super::workshop::{Helper, Job, Workshop};
use super::{FrameHash, FrameIndex, Options, Sequence, Term};
use crate::random::{RANDOM_SOURCE, random_bytes};

/// Frames that wait together are written together, up to these limits: the first bounds the system call, the second the time
/// that the first of them waits for the last.
const FRAMES_PER_WRITE_MAX: usize = 256;
const WRITE_SIZE_BYTES_MAX: usize = 16 << 20;

/// A frame to be appended.
#[derive(Debug)]
pub struct FrameDraft {
    /// The term in which the frame is made; not before that of the last frame.
    pub term: Term,
    /// The sequence of the first event inside; must continue the last frame. The very first frame may begin anywhere.
    pub first_sequence: Sequence,
    /// How many sequences the frame takes; may be 0.
    pub sequence_count: u32,
    /// Microseconds since the Unix epoch.
    pub timestamp_us: i64,
    /// The content, from [`super::Journal::buffer`].
    pub body: FrameBuffer,
}

/// What the next draft must continue: kept by whoever takes drafts in.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Continuation {
    pub(crate) next_index: FrameIndex,
    pub(crate) last: Option<(Term, Sequence)>,
    pub(crate) body_size_bytes_max: usize,
}

impl Continuation {
    /// Checks a draft and gives it its index.
    pub(crate) fn admit(&mut self, draft: &FrameDraft) -> Result<FrameIndex, AppendError> {
        if draft.body.len() > self.body_size_bytes_max {
            let (size_bytes, limit_bytes) = (draft.body.len(), self.body_size_bytes_max);
            return Err(AppendError::TooLarge { size_bytes, limit_bytes });
        }
        if let Some((last, expected)) = self.last {
            if draft.term < last {
                return Err(AppendError::TermWentBack { last, found: draft.term });
            }
            if draft.first_sequence != expected {
                return Err(AppendError::SequenceGap { expected, found: draft.first_sequence });
            }
        }
        let index = self.next_index;
        self.next_index = index.next();
        self.last = Some((draft.term, Sequence(draft.first_sequence.0 + u64::from(draft.sequence_count))));
        Ok(index)
    }

    pub(crate) fn rewind(&mut self, last: Option<FrameHeader>, next_index: FrameIndex) {
        self.next_index = next_index;
        self.last = last.map(|last| (last.term, last.next_sequence()));
    }
}

/// Who prepares segments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Preparation {
    /// The caller's thread, when a segment is needed.
    Inline,
    /// A thread in the background, ahead of need.
    Ahead,
}

/// A journal that does all its work in the caller's thread, in an order that depends on nothing but the calls: for
/// simulation, and the engine inside [`super::Journal`].
///
/// After an error that says "stopped" nothing may be appended any more; every later call is refused.
pub struct Appender {
    shared: Arc<Shared>,
    partition: u32,
    file: Box<dyn DiskFile>,
    continuation: Continuation,
    previous_hash: FrameHash,
    helper: Helper,
    stopped: Option<JournalError>,
}

impl Appender {
    /// Makes a journal that continues another one, and opens it.
    pub fn create_at(
        directory: &Path,
        beginning: &Beginning,
        segment_size_bytes: u64,
        disk: Arc<dyn Disk>,
    ) -> Result<Appender, OpenError> {
        let options = Options { partition: beginning.partition, segment_size_bytes, ..Options::default() };
        options.check()?;
        create_at(directory, beginning, segment_size_bytes, &*disk)?;
        Ok(Self::open_with(directory, &options, disk, Preparation::Inline)?.0)
    }

    /// As [`super::Journal::open`].
    pub fn open(
        directory: &Path,
        options: &Options,
        disk: Arc<dyn Disk>,
    ) -> Result<(Appender, Recovered), OpenError> {
        Self::open_with(directory, options, disk, Preparation::Inline)
    }

    pub(crate) fn open_with(
        directory: &Path,
        options: &Options,
        disk: Arc<dyn Disk>,
        preparation: Preparation,
    ) -> Result<(Appender, Recovered), OpenError> {
        options.check()?;
        let mut listing = Listing::read(&*disk, directory)?;
        if !listing.meta {
            create(directory, options, &disk, &listing)?;
            listing = Listing::read(&*disk, directory)?;
        }
        let meta = Meta::load(&*disk, directory)?;
        if meta.partition != options.partition {
            let (found, expected) = (meta.partition, options.partition);
            return Err(OpenError::WrongPartition { path: directory.to_owned(), found, expected });
        }
        let survey = recovery::survey(&*disk, directory, &listing, &meta, Company::Alone)?;
        let recovered = survey.recovered();

        // From here on the disk is changed: everything was looked at, and nothing is damaged.
        let active = survey.segments.back().expect("a survey has at least one segment").clone();
        let catalogue = Catalogue::new(survey.segments);
        let shared = Arc::new(Shared::new(directory, disk, catalogue, listing.next_spare(), meta.genesis));
        let file = shared.open_active(active.first_index)?;
        recovery::settle(&*file, &segment_path(directory, active.first_index), &active)?;
        let mut workshop = Workshop::new(Arc::clone(&shared), &listing, meta, options.segment_size_bytes)?;
        clear_leftovers(&shared, &listing, &mut workshop)?;
        // Names that are seen here may not be durable yet: the sync that was to make them so may have failed.
        shared.sync_directory()?;
        for first_index in survey.without_side_car {
            shared.store_side_car(first_index, options.partition);
        }
        let helper = match preparation {
            Preparation::Inline => Helper::Inline(workshop),
            Preparation::Ahead => Helper::start(workshop)?,
        };
        let frame_size_bytes_max = options.segment_size_bytes.min(FRAME_SIZE_BYTES_MAX as u64) as usize;
        let mut continuation = Continuation {
            next_index: recovered.next_index,
            last: None,
            body_size_bytes_max: frame_size_bytes_max - HEADER_SIZE_BYTES,
        };
        continuation.rewind(recovered.last, recovered.next_index);
        let previous_hash = recovered.previous_hash;
        let partition = options.partition;
        let appender =
            Appender { shared, partition, file, continuation, previous_hash, helper, stopped: None };
        Ok((appender, recovered))
    }

    /// Writes the frames; they are durable when this returns. None is written if any is refused.
    pub fn append(&mut self, drafts: Vec<FrameDraft>) -> Result<Vec<Arc<Frame>>, AppendError> {
        if let Some(error) = &self.stopped {
            return Err(error.clone().into());
        }
        let mut continuation = self.continuation;
        for draft in &drafts {
            continuation.admit(draft)?;
        }
        let mut drafts = VecDeque::from(drafts);
        let mut frames = Vec::with_capacity(drafts.len());
        while !drafts.is_empty() {
            frames.append(&mut self.write_next(&mut drafts)?);
        }
        Ok(frames)
    }

    /// Takes as many drafts from the front as make one write, writes them, and answers them as durable frames. The drafts were
    /// admitted.
    pub(crate) fn write_next(
        &mut self,
        drafts: &mut VecDeque<FrameDraft>,
    ) -> Result<Vec<Arc<Frame>>, JournalError> {
        self.guarded(|appender| {
            let first = drafts.front().expect("callers give at least one draft");
            if appender.room_bytes() < frame_size_bytes(first) as u64 {
                appender.roll()?;
            }
            let group = appender.seal_group(drafts);
            appender.write(group)
        })
    }

    /// After the first error nothing is tried again.
    fn guarded<Answer>(
        &mut self,
        work: impl FnOnce(&mut Appender) -> Result<Answer, JournalError>,
    ) -> Result<Answer, JournalError> {
        if let Some(error) = &self.stopped {
            return Err(error.clone());
        }
        work(self).inspect_err(|error| self.stopped = Some(error.clone()))
    }

    fn room_bytes(&self) -> u64 {
        let frames = self.shared.catalogue.read();
        frames.active().size_bytes - frames.active().end_offset
    }

    fn seal_group(&mut self, drafts: &mut VecDeque<FrameDraft>) -> Vec<(FrameHeader, PooledBytes)> {
        let room_bytes = self.room_bytes().min(WRITE_SIZE_BYTES_MAX as u64) as usize;
        let mut group = Vec::new();
        let mut size_bytes = 0;
        while group.len() < FRAMES_PER_WRITE_MAX {
            let fits = |draft: &mut FrameDraft| size_bytes + frame_size_bytes(draft) <= room_bytes;
            let Some(draft) = drafts.pop_front_if(fits) else { break };
            size_bytes += frame_size_bytes(&draft);
            group.push(self.seal(draft, group.len()));
        }
        assert!(
            !group.is_empty(),
            "the caller made room for the first draft, and drafts over the limits are refused"
        );
        group
    }

    fn seal(&mut self, draft: FrameDraft, frames_before_in_write: usize) -> (FrameHeader, PooledBytes) {
        let index = self.continuation.admit(&draft).expect("the draft was admitted before");
        let mut header = FrameHeader {
            partition: self.partition,
            term: draft.term,
            index,
            first_sequence: draft.first_sequence,
            sequence_count: draft.sequence_count,
            timestamp_us: draft.timestamp_us,
            body_size_bytes: u32::try_from(draft.body.len()).expect("admitted bodies are at most 16 MiB"),
            previous_hash: self.previous_hash,
            hash: self.previous_hash,
            zero_sectors: 0,
            frames_before_in_write: u32::try_from(frames_before_in_write).expect("a write has few frames"),
        };
        let mut bytes = draft.body.into_blocks();
        header.seal(&mut bytes[..header.frame_size_bytes()]);
        self.previous_hash = header.hash;
        (header, bytes)
    }

    fn write(&mut self, group: Vec<(FrameHeader, PooledBytes)>) -> Result<Vec<Arc<Frame>>, JournalError> {
        let (segment, offset) = {
            let frames = self.shared.catalogue.read();
            (frames.active().first_index, frames.active().end_offset)
        };
        let blocks: Vec<_> =
            group.iter().map(|(header, bytes)| IoSlice::new(&bytes[..header.frame_size_bytes()])).collect();
        self.file.write_durable(offset, &blocks).map_err(|source| {
            JournalError::io("write durably to", &segment_path(&self.shared.directory, segment), source)
        })?;
        let mut frames = self.shared.catalogue.write();
        group.iter().for_each(|(header, _)| frames.active_mut().push(header));
        drop(frames);
        let frame = |(header, bytes)| Arc::new(Frame::new(header, Arc::new(bytes), 0));
        Ok(group.into_iter().map(frame).collect())
    }

    /// Begins the next segment. Its name is durable before its first frame is, so that no frame is ever without a segment.
    fn roll(&mut self) -> Result<(), JournalError> {
        let spare = self.helper.spare()?;
        let first_index = self.continuation.next_index;
        let from = zeroed_path(&self.shared.directory, spare.number);
        // A segment without frames has the same name, and is replaced: it is there, and too small, when the configured size
        // was raised.
        self.shared
            .disk
            .rename(&from, &segment_path(&self.shared.directory, first_index))
            .map_err(|source| JournalError::io("rename", &from, source))?;
        self.shared.sync_directory()?;
        let size_bytes = spare.file.size_bytes();
        self.file = spare.file;
        let mut frames = self.shared.catalogue.write();
        let sealed = (frames.active().first_index < first_index).then(|| frames.active().first_index);
        if sealed.is_none() {
            frames.segments.pop_back();
        }
        frames.segments.push_back(SegmentFrames::new(first_index, self.previous_hash, size_bytes));
        drop(frames);
        match sealed {
            Some(sealed) => self.helper.give(Job::Seal(sealed)),
            None => self.shared.forget_cached(),
        }
        Ok(())
    }

    /// Removes every frame after this one, newest first, so that a crash on the way leaves a shorter journal and never a hole.
    pub fn truncate_after(&mut self, after: FrameIndex) -> Result<(), TruncateError> {
        let (first, next) = {
            let frames = self.shared.catalogue.read();
            (frames.first_index(), frames.next_index())
        };
        if after.next() < first || after >= next {
            return Err(TruncateError::OutOfRange { after, first, next });
        }
        Ok(self.guarded(|appender| appender.remove_frames_after(after))?)
    }

    fn remove_frames_after(&mut self, after: FrameIndex) -> Result<(), JournalError> {
        // No side-car may be written behind our back, and no segment released.
        self.helper.settle();
        while self.shared.catalogue.read().active().first_index > after
            && self.shared.catalogue.read().segments.len() > 1
        {
            self.remove_active_segment()?;
        }
        let frames = self.shared.catalogue.read();
        let active = frames.active();
        let path = segment_path(&self.shared.directory, active.first_index);
        let kept = (after.next().0 - active.first_index.0) as usize;
        let removed: Vec<_> =
            (kept..active.block_offsets.len()).map(|position| active.location(position)).collect();
        let last_kept = kept.checked_sub(1).map(|position| active.location(position));
        drop(frames);

        let last = last_kept.map(|location| recovery::header_at(&*self.file, &path, location)).transpose()?;
        self.shared.catalogue.write().active_mut().truncate(last);
        self.shared.forget_cached();
        for location in removed.iter().rev() {
            self.file
                .zero_durable(location.offset, location.size_bytes as u64)
                .map_err(|source| JournalError::io("zero the removed end of", &path, source))?;
        }
        let frames = self.shared.catalogue.read();
        self.previous_hash = frames.active().last_hash();
        self.continuation.rewind(frames.last(), frames.next_index());
        Ok(())
    }

    /// Takes the last segment away whole; the one before it is written again from now on.
    fn remove_active_segment(&mut self) -> Result<(), JournalError> {
        let mut frames = self.shared.catalogue.write();
        let removed = frames.segments.pop_back().expect("the caller checked that there are two");
        let active = frames.active().first_index;
        drop(frames);
        self.shared.forget_cached();
        // In this order: a side-car without a next segment would tell of a lost segment.
        self.shared.remove_side_car(active)?;
        self.shared.sync_directory()?;
        let retired = self.shared.retire_segment(removed.first_index)?;
        self.shared.sync_directory()?;
        if let Some(number) = retired {
            self.helper.give(Job::Retired { number, size_bytes: removed.size_bytes });
        }
        self.file = self.shared.open_active(active)?;
        Ok(())
    }

    /// Lets go of all whole segments that hold only frames before this one; the segment being written is never among them.
    pub fn release_before(&mut self, before: FrameIndex) -> Result<(), JournalError> {
        let (done, answer) = crossbeam_channel::bounded(1);
        self.guarded(|appender| {
            appender.begin_release(before, done);
            answer.recv().unwrap_or(Err(JournalError::Panicked))
        })
    }

    pub(crate) fn begin_release(&mut self, before: FrameIndex, done: Sender<Result<(), JournalError>>) {
        self.helper.give(Job::Release { before, done });
    }

    /// The last frame held.
    pub fn last(&self) -> Option<FrameHeader> {
        self.shared.catalogue.read().last()
    }

    /// An empty body to write into.
    pub fn buffer(&self) -> FrameBuffer {
        self.shared.pool.buffer()
    }

    /// Reads what is durable.
    pub fn reader(&self) -> Reader {
        Reader::new(Arc::clone(&self.shared), self.partition)
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    pub(crate) fn continuation(&self) -> Continuation {
        self.continuation
    }
}

fn frame_size_bytes(draft: &FrameDraft) -> usize {
    whole_blocks(HEADER_SIZE_BYTES + draft.body.len())
}

/// Where a journal begins whose earlier frames stand elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Beginning {
    /// The partition that the journal belongs to.
    pub partition: u32,
    /// As in the journal that it continues.
    pub genesis: [u8; 32],
    /// The first frame that will be appended.
    pub first_index: FrameIndex,
    /// The hash of the frame before; without effect for the very first frame.
    pub previous_hash: FrameHash,
}

/// Makes the first segment, then the file that says that there is a journal: a crash in between leaves none.
fn create(
    directory: &Path,
    options: &Options,
    disk: &Arc<dyn Disk>,
    listing: &Listing,
) -> Result<(), OpenError> {
    let path = segment_path(directory, FrameIndex::FIRST);
    for (first_index, _) in &listing.segments {
        if *first_index != FrameIndex::FIRST || !recovery::is_unused(&**disk, &path)? {
            let why = "the directory holds segments, but journal.meta is missing".into();
            let segment = segment_path(directory, *first_index);
            return Err(Damage { segment, offset: 0, index: *first_index, why }.into());
        }
    }
    create_segment(directory, FrameIndex::FIRST, options.segment_size_bytes, &**disk, listing)?;
    let genesis = match options.genesis {
        Some(genesis) => genesis,
        None => random_bytes().map_err(|error| JournalError::io("read", RANDOM_SOURCE.as_ref(), error))?,
    };
    Ok(Meta::new(options.partition, genesis).store(&**disk, directory)?)
}

/// Makes the first segment, which has its name only once it is zero throughout.
fn create_segment(
    directory: &Path,
    first_index: FrameIndex,
    size_bytes: u64,
    disk: &dyn Disk,
    listing: &Listing,
) -> Result<(), JournalError> {
    let spare = spare_path(directory, listing.next_spare());
    let file =
        disk.create(&spare, size_bytes).map_err(|source| JournalError::io("create", &spare, source))?;
    file.zero_durable(0, size_bytes).map_err(|source| JournalError::io("zero", &spare, source))?;
    let path = segment_path(directory, first_index);
    disk.rename(&spare, &path).map_err(|source| JournalError::io("rename", &spare, source))
}

/// Makes an empty journal that continues another one. The directory must exist and hold no journal.
fn create_at(
    directory: &Path,
    beginning: &Beginning,
    segment_size_bytes: u64,
    disk: &dyn Disk,
) -> Result<(), OpenError> {
    let listing = Listing::read(disk, directory)?;
    create_segment(directory, beginning.first_index, segment_size_bytes, disk, &listing)?;
    let mut meta = Meta::new(beginning.partition, beginning.genesis);
    if beginning.first_index > FrameIndex::FIRST {
        meta.first_index = beginning.first_index;
        meta.previous_hash = beginning.previous_hash;
    }
    Ok(meta.store(disk, directory)?)
}

/// Takes away what a crash left behind: released segments that still have their names, side-cars without a segment, drafts.
fn clear_leftovers(shared: &Shared, listing: &Listing, workshop: &mut Workshop) -> Result<(), JournalError> {
    let first_kept = shared.catalogue.read().first_index();
    for (first_index, size_bytes) in &listing.segments {
        if *first_index < first_kept
            && let Some(number) = shared.retire_segment(*first_index)?
        {
            workshop.take_back(number, *size_bytes);
        }
    }
    for first_index in &listing.side_cars {
        if !listing.segments.iter().any(|(segment, _)| segment == first_index) {
            shared.remove_side_car(*first_index)?;
        }
    }
    for name in &listing.drafts {
        let path = shared.directory.join(name);
        shared.disk.remove(&path).map_err(|source| JournalError::io("remove", &path, source))?;
    }
    Ok(())
}
