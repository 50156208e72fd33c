//! Which frame is where: about 12 bytes of memory per frame.

use std::collections::VecDeque;
use std::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::buffer::BLOCK_SIZE_BYTES;
use super::frame::FrameHeader;
use super::{FrameHash, FrameIndex, Sequence};

/// The frames of one segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SegmentFrames {
    /// Also the name of the segment.
    pub(crate) first_index: FrameIndex,
    /// The hash of the frame before the first.
    pub(crate) previous_hash: FrameHash,
    /// The size of the file.
    pub(crate) size_bytes: u64,
    /// Where the next frame would begin.
    pub(crate) end_offset: u64,
    /// The header of the last frame, if there is one.
    pub(crate) last: Option<FrameHeader>,
    /// Per frame.
    pub(crate) first_sequences: Vec<u64>,
    /// Per frame, in blocks.
    pub(crate) block_offsets: Vec<u32>,
}

impl SegmentFrames {
    pub(crate) fn new(first_index: FrameIndex, previous_hash: FrameHash, size_bytes: u64) -> SegmentFrames {
        SegmentFrames {
            first_index,
            previous_hash,
            size_bytes,
            end_offset: 0,
            last: None,
            first_sequences: Vec::new(),
            block_offsets: Vec::new(),
        }
    }

    /// The index that follows the last frame.
    pub(crate) fn next_index(&self) -> FrameIndex {
        FrameIndex(self.first_index.0 + self.block_offsets.len() as u64)
    }

    /// The hash that the next frame repeats.
    pub(crate) fn last_hash(&self) -> FrameHash {
        self.last.map_or(self.previous_hash, |last| last.hash)
    }

    /// Adds the frame that was written at the end.
    pub(crate) fn push(&mut self, header: &FrameHeader) {
        assert_eq!(header.index, self.next_index());
        assert_eq!(header.previous_hash, self.last_hash());
        let block_offset = self.end_offset / BLOCK_SIZE_BYTES as u64;
        self.first_sequences.push(header.first_sequence.0);
        self.block_offsets.push(u32::try_from(block_offset).expect("a segment is far smaller than 16 TiB"));
        self.end_offset += header.frame_size_bytes() as u64;
        self.last = Some(*header);
        assert!(self.end_offset <= self.size_bytes);
    }

    /// Forgets all frames after this one, which is `last`, or none.
    pub(crate) fn truncate(&mut self, last: Option<FrameHeader>) {
        let count = last.map_or(0, |last| last.index.0 + 1 - self.first_index.0) as usize;
        if let Some(offset) = self.block_offsets.get(count) {
            self.end_offset = u64::from(*offset) * BLOCK_SIZE_BYTES as u64;
        }
        self.first_sequences.truncate(count);
        self.block_offsets.truncate(count);
        self.last = last;
    }

    fn offset(&self, position: usize) -> u64 {
        self.block_offsets
            .get(position)
            .map_or(self.end_offset, |block| u64::from(*block) * BLOCK_SIZE_BYTES as u64)
    }

    /// Where the frame at this position (from 0) of the segment is.
    pub(crate) fn location(&self, position: usize) -> Location {
        assert!(position < self.block_offsets.len());
        let offset = self.offset(position);
        Location {
            segment: self.first_index,
            index: FrameIndex(self.first_index.0 + position as u64),
            offset,
            size_bytes: usize::try_from(self.offset(position + 1) - offset)
                .expect("a frame has at most 16 MiB"),
        }
    }
}

/// Where a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Location {
    /// The first index, and so the name, of the segment.
    pub(crate) segment: FrameIndex,
    pub(crate) index: FrameIndex,
    pub(crate) offset: u64,
    pub(crate) size_bytes: usize,
}

/// All durable frames, oldest first. There is always at least one segment; the last one is being written.
#[derive(Debug)]
pub(crate) struct Frames {
    pub(crate) segments: VecDeque<SegmentFrames>,
}

impl Frames {
    /// The oldest frame held, or the next to be written when there is none.
    pub(crate) fn first_index(&self) -> FrameIndex {
        self.segments.front().expect("there is always a segment").first_index
    }

    pub(crate) fn active(&self) -> &SegmentFrames {
        self.segments.back().expect("there is always a segment")
    }

    pub(crate) fn active_mut(&mut self) -> &mut SegmentFrames {
        self.segments.back_mut().expect("there is always a segment")
    }

    /// The last durable frame still held.
    pub(crate) fn last(&self) -> Option<FrameHeader> {
        self.segments.iter().rev().find_map(|segment| segment.last)
    }

    pub(crate) fn next_index(&self) -> FrameIndex {
        self.active().next_index()
    }

    pub(crate) fn locate(&self, index: FrameIndex) -> Option<Location> {
        if index < self.first_index() || index >= self.next_index() {
            return None;
        }
        let segment = self.segments.partition_point(|segment| segment.first_index <= index) - 1;
        let segment = &self.segments[segment];
        Some(segment.location((index.0 - segment.first_index.0) as usize))
    }

    /// The last frame that begins at or before this sequence: the only one that can hold it. A frame without events has
    /// the first sequence of the frame that follows, which is why it must be the last one.
    pub(crate) fn locate_sequence(&self, sequence: Sequence) -> Option<Location> {
        let begins_by = |segment: &SegmentFrames| {
            segment.first_sequences.first().is_none_or(|first| *first <= sequence.0)
        };
        let candidates = self.segments.partition_point(begins_by);
        // Only the segment being written can be without frames.
        let segment = self.segments.range(..candidates).rev().find(|segment| segment.last.is_some())?;
        let count = segment.first_sequences.partition_point(|first| *first <= sequence.0);
        Some(segment.location(count.checked_sub(1)?))
    }
}

/// [`Frames`] behind a lock that is held for look-ups only, never during I/O.
#[derive(Debug)]
pub(crate) struct Catalogue(RwLock<Frames>);

impl Catalogue {
    pub(crate) fn new(segments: VecDeque<SegmentFrames>) -> Catalogue {
        Catalogue(RwLock::new(Frames { segments }))
    }

    pub(crate) fn read(&self) -> RwLockReadGuard<'_, Frames> {
        self.0.read().expect("no code panics while it changes the catalogue")
    }

    pub(crate) fn write(&self) -> RwLockWriteGuard<'_, Frames> {
        self.0.write().expect("no code panics while it changes the catalogue")
    }
}
