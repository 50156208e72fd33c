//! The index of a sealed segment in a file beside it, so that opening a journal need not touch every frame.
//!
//! It can always be thrown away: a side-car that is missing or does not match is made again by walking its segment. It is
//! written only after the next segment has its name on disk, and removed before that segment goes away again; so a side-car
//! without a next segment tells that a segment was lost.

use std::io::IoSlice;
use std::path::Path;

use super::buffer::{BufferPool, whole_blocks};
use super::catalogue::SegmentFrames;
use super::disk::{Access, Disk};
use super::error::JournalError;
use super::frame::{FORMAT_VERSION, HEADER_SIZE_BYTES, HeaderState, SECTOR_SIZE_BYTES, field, parse_header};
use super::layout::side_car_path;
use super::{FrameHash, FrameIndex};

const MAGIC: [u8; 8] = *b"JIGAPIDX";
const LAST_HEADER_OFFSET: usize = 128;
const ENTRIES_OFFSET: usize = LAST_HEADER_OFFSET + SECTOR_SIZE_BYTES;
const FIRST_SEQUENCE_SIZE_BYTES: usize = 8;
const BLOCK_OFFSET_SIZE_BYTES: usize = 4;

/// Writes the side-car of a segment that will get no more frames. `last_header` is the last frame's header as it is on disk.
pub(crate) fn store(
    disk: &dyn Disk,
    directory: &Path,
    partition: u32,
    frames: &SegmentFrames,
    last_header: &[u8],
) -> Result<(), JournalError> {
    assert_eq!(last_header.len(), HEADER_SIZE_BYTES);
    let count = frames.block_offsets.len();
    let size_bytes =
        whole_blocks(ENTRIES_OFFSET + count * (FIRST_SEQUENCE_SIZE_BYTES + BLOCK_OFFSET_SIZE_BYTES));
    let mut buffer = BufferPool::new().take(size_bytes);
    let bytes = &mut buffer[..size_bytes];
    bytes.fill(0);
    bytes[0..8].copy_from_slice(&MAGIC);
    bytes[8..10].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
    bytes[12..16].copy_from_slice(&partition.to_le_bytes());
    bytes[16..24].copy_from_slice(&frames.first_index.0.to_le_bytes());
    bytes[24..28]
        .copy_from_slice(&u32::try_from(count).expect("block offsets are 32 bits wide, too").to_le_bytes());
    bytes[32..40].copy_from_slice(&frames.size_bytes.to_le_bytes());
    bytes[40..48].copy_from_slice(&frames.end_offset.to_le_bytes());
    bytes[64..96].copy_from_slice(&frames.previous_hash.0);
    bytes[LAST_HEADER_OFFSET..LAST_HEADER_OFFSET + HEADER_SIZE_BYTES].copy_from_slice(last_header);
    let (sequences, offsets) = bytes[ENTRIES_OFFSET..].split_at_mut(count * FIRST_SEQUENCE_SIZE_BYTES);
    for (entry, sequence) in
        sequences.chunks_exact_mut(FIRST_SEQUENCE_SIZE_BYTES).zip(&frames.first_sequences)
    {
        entry.copy_from_slice(&sequence.to_le_bytes());
    }
    for (entry, offset) in offsets.chunks_exact_mut(BLOCK_OFFSET_SIZE_BYTES).zip(&frames.block_offsets) {
        entry.copy_from_slice(&offset.to_le_bytes());
    }
    let checksum = blake3::hash(bytes);
    bytes[96..128].copy_from_slice(checksum.as_bytes());

    let path = side_car_path(directory, frames.first_index);
    let draft = path.with_extension("index.new");
    let failed = |source| JournalError::io("write", &draft, source);
    let file = disk.create(&draft, size_bytes as u64).map_err(failed)?;
    file.write_durable(0, &[IoSlice::new(bytes)]).map_err(failed)?;
    disk.rename(&draft, &path).map_err(|source| JournalError::io("rename", &draft, source))
}

/// The side-car of a segment of this size, or `None` when there is none that can be trusted.
pub(crate) fn load(
    disk: &dyn Disk,
    directory: &Path,
    partition: u32,
    first_index: FrameIndex,
    segment_size_bytes: u64,
) -> Option<SegmentFrames> {
    let path = side_car_path(directory, first_index);
    let file = disk.open(&path, Access::Read).ok()?;
    let mut bytes = vec![0; usize::try_from(file.size_bytes()).ok()?];
    file.read_exact(0, &mut bytes).ok()?;
    if bytes.len() < ENTRIES_OFFSET || bytes[0..8] != MAGIC {
        return None;
    }
    let checksum: [u8; 32] = field(&bytes, 96);
    bytes[96..128].fill(0);
    let HeaderState::Valid(last) =
        parse_header(&bytes[LAST_HEADER_OFFSET..LAST_HEADER_OFFSET + SECTOR_SIZE_BYTES])
    else {
        return None;
    };
    let count = u32::from_le_bytes(field(&bytes, 24)) as usize;
    let entries_end = ENTRIES_OFFSET + count * (FIRST_SEQUENCE_SIZE_BYTES + BLOCK_OFFSET_SIZE_BYTES);
    let usable = *blake3::hash(&bytes).as_bytes() == checksum
        && u16::from_le_bytes(field(&bytes, 8)) == FORMAT_VERSION
        && u32::from_le_bytes(field(&bytes, 12)) == partition
        && u64::from_le_bytes(field(&bytes, 16)) == first_index.0
        && u64::from_le_bytes(field(&bytes, 32)) == segment_size_bytes
        && entries_end <= bytes.len()
        && last.index.0 + 1 == first_index.0 + count as u64;
    if !usable {
        return None;
    }
    let (sequences, offsets) = bytes[ENTRIES_OFFSET..entries_end].split_at(count * FIRST_SEQUENCE_SIZE_BYTES);
    Some(SegmentFrames {
        first_index,
        previous_hash: FrameHash(field(&bytes, 64)),
        size_bytes: segment_size_bytes,
        end_offset: u64::from_le_bytes(field(&bytes, 40)),
        last: Some(last),
        first_sequences: sequences.chunks_exact(8).map(|entry| u64::from_le_bytes(field(entry, 0))).collect(),
        block_offsets: offsets.chunks_exact(4).map(|entry| u32::from_le_bytes(field(entry, 0))).collect(),
    })
}
