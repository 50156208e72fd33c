//! One object of the archive: frames of the journal one after the other, without their padding, then an index of them; or such an
//! index alone, of frames that stand in a segment of the journal. `docs/formats.md` draws both.

use std::sync::Arc;

use bytes::Bytes;

use super::journal_folder;
use crate::journal::{FORMAT_VERSION, Frame, FrameHash, FrameHeader, FrameIndex, Sequence};

pub(super) const TRAILER_SIZE_BYTES: usize = 128;
pub(super) const ENTRY_SIZE_BYTES: usize = 56;
const MAGIC: [u8; 8] = *b"JIGAPPCL";
const CHECKED_SIZE_BYTES: usize = 96;
const SUFFIX: &str = ".parcel";
const SEGMENT_SUFFIX: &str = ".segment";

/// What the name of a parcel says. The name follows from the frames inside, by their hashes: an object never changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParcelName {
    /// The first frame inside.
    pub first_index: FrameIndex,
    /// The last frame inside.
    pub last_index: FrameIndex,
    /// The first sequence inside.
    pub first_sequence: Sequence,
    /// The beginning of the hash that the first frame repeats.
    pub previous_hash: u64,
    /// The beginning of the last frame's hash.
    pub last_hash: u64,
}

/// The beginning of a hash, for names.
pub(super) fn short(hash: FrameHash) -> u64 {
    u64::from_be_bytes(hash.0[..8].try_into().expect("a hash has 32 bytes"))
}

impl ParcelName {
    fn of(first: &FrameHeader, last: &FrameHeader) -> ParcelName {
        ParcelName {
            first_index: first.index,
            last_index: last.index,
            first_sequence: first.first_sequence,
            previous_hash: short(first.previous_hash),
            last_hash: short(last.hash),
        }
    }

    /// The object's file name.
    pub fn file(&self) -> String {
        self.with_suffix(SUFFIX)
    }

    /// The object's path.
    pub(super) fn path(&self, partition: u32) -> String {
        format!("{}/{}", journal_folder(partition), self.file())
    }

    /// The path of the segment that holds the frames, where they are not in the object itself.
    pub(super) fn segment_path(&self, partition: u32) -> String {
        format!("{}/{}", journal_folder(partition), self.with_suffix(SEGMENT_SUFFIX))
    }

    fn with_suffix(&self, suffix: &str) -> String {
        let ParcelName { first_index, last_index, first_sequence, previous_hash, last_hash } = self;
        format!(
            "{:020}-{:020}-{:020}-{previous_hash:016x}-{last_hash:016x}{suffix}",
            first_index.0, last_index.0, first_sequence.0
        )
    }

    /// Reads a file name; `None` for other files.
    pub fn parse(file: &str) -> Option<ParcelName> {
        let parts: Vec<&str> = file.strip_suffix(SUFFIX)?.split('-').collect();
        let [first_index, last_index, first_sequence, previous_hash, last_hash] = parts.try_into().ok()?;
        let name = ParcelName {
            first_index: FrameIndex(first_index.parse().ok()?),
            last_index: FrameIndex(last_index.parse().ok()?),
            first_sequence: Sequence(first_sequence.parse().ok()?),
            previous_hash: u64::from_str_radix(previous_hash, 16).ok()?,
            last_hash: u64::from_str_radix(last_hash, 16).ok()?,
        };
        (name.file() == file && name.first_index <= name.last_index).then_some(name)
    }
}

/// A parcel that can be written.
pub(super) struct Packed {
    pub(super) name: ParcelName,
    pub(super) bytes: Bytes,
    /// The sequence after its last one.
    pub(super) next_sequence: Sequence,
}

/// A parcel being packed.
pub(super) struct Packer {
    bytes: Vec<u8>,
    entries: Vec<u8>,
    first: Option<FrameHeader>,
    last: Option<FrameHeader>,
    partition: u32,
    genesis: [u8; 32],
}

impl Packer {
    pub(super) fn new(partition: u32, genesis: [u8; 32]) -> Packer {
        Packer { bytes: Vec::new(), entries: Vec::new(), first: None, last: None, partition, genesis }
    }

    pub(super) fn push(&mut self, frame: &Frame) {
        self.list(frame.header(), self.bytes.len());
        self.bytes.extend_from_slice(frame.content());
    }

    /// The next frame of the index, which lies at this offset.
    fn list(&mut self, header: &FrameHeader, offset: usize) {
        if let Some(last) = &self.last {
            assert_eq!((last.index.0 + 1, last.hash), (header.index.0, header.previous_hash));
        }
        let offset = u32::try_from(offset).expect("a parcel has at most a few frames over its limit");
        self.entries.extend_from_slice(&header.first_sequence.0.to_le_bytes());
        self.entries.extend_from_slice(&header.timestamp_us.to_le_bytes());
        self.entries.extend_from_slice(&offset.to_le_bytes());
        self.entries.extend_from_slice(&header.sequence_count.to_le_bytes());
        self.entries.extend_from_slice(&header.hash.0);
        self.first.get_or_insert(*header);
        self.last = Some(*header);
    }

    pub(super) fn size_bytes(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn last(&self) -> Option<&FrameHeader> {
        self.last.as_ref()
    }

    /// Packs the next object into the memory of one that was written: fresh memory for each is dearer than all else that is done to it.
    pub(super) fn reuse(&mut self, mut written: Vec<u8>) {
        if self.bytes.is_empty() && self.bytes.capacity() < written.capacity() {
            written.clear();
            self.bytes = written;
        }
    }

    /// The object; `None` when there are no frames.
    pub(super) fn finish(&mut self) -> Option<Packed> {
        let bytes = std::mem::take(&mut self.bytes);
        self.finish_index(bytes, None)
    }

    /// The object for all frames of a segment, which lie there one after the other; `None` when there are none. No parcel must have
    /// been begun.
    pub(super) fn index_segment(&mut self, headers: &[FrameHeader]) -> Option<Packed> {
        assert!(self.last.is_none(), "a parcel was begun");
        let mut offset = 0;
        for header in headers {
            self.list(header, offset);
            offset += header.frame_size_bytes();
        }
        let frames_end = u32::try_from(offset).expect("a segment that is indexed has less than 4 GiB");
        self.finish_index(Vec::new(), Some(frames_end))
    }

    /// Adds index and trailer. `in_segment` is where the frames end that are not before them.
    fn finish_index(&mut self, mut bytes: Vec<u8>, in_segment: Option<u32>) -> Option<Packed> {
        let (first, last) = (self.first.take()?, self.last.take()?);
        let index_start = bytes.len();
        bytes.append(&mut self.entries);
        let frames = u32::try_from((bytes.len() - index_start) / ENTRY_SIZE_BYTES).expect("few frames");
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        bytes.extend_from_slice(&u16::from(in_segment.is_some()).to_le_bytes());
        bytes.extend_from_slice(&self.partition.to_le_bytes());
        bytes.extend_from_slice(&first.index.0.to_le_bytes());
        bytes.extend_from_slice(&frames.to_le_bytes());
        bytes.extend_from_slice(&in_segment.unwrap_or(0).to_le_bytes());
        bytes.extend_from_slice(&self.genesis);
        bytes.extend_from_slice(&first.previous_hash.0);
        let checksum = blake3::hash(&bytes[index_start..]);
        bytes.extend_from_slice(checksum.as_bytes());
        let next_sequence = last.next_sequence();
        Some(Packed { name: ParcelName::of(&first, &last), bytes: bytes.into(), next_sequence })
    }
}

/// What the index of a parcel says about one frame.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    pub(super) first_sequence: u64,
    pub(super) timestamp_us: i64,
    pub(super) offset: u32,
    pub(super) sequence_count: u32,
    pub(super) hash: FrameHash,
}

/// The index of a parcel, checked.
#[derive(Debug)]
pub(super) struct ParcelIndex {
    pub(super) first_index: FrameIndex,
    pub(super) genesis: [u8; 32],
    pub(super) previous_hash: FrameHash,
    pub(super) entries: Vec<Entry>,
    /// The frames are in the segment beside, with their padding.
    pub(super) in_segment: bool,
    /// Where the last frame ends.
    pub(super) frames_end: u32,
}

impl ParcelIndex {
    /// How many bytes index and trailer have, as the trailer says: the last bytes of the object.
    pub(super) fn size_bytes(trailer: &[u8]) -> Option<usize> {
        let frames = u32::from_le_bytes(trailer.get(24..28)?.try_into().ok()?);
        (trailer[..8] == MAGIC).then(|| frames as usize * ENTRY_SIZE_BYTES + TRAILER_SIZE_BYTES)
    }

    /// Reads index and trailer of an object of this size and name, or says what is wrong.
    pub(super) fn parse(
        bytes: &[u8],
        object_size_bytes: u64,
        name: &ParcelName,
        partition: u32,
    ) -> Result<ParcelIndex, &'static str> {
        let Some((entries, trailer)) = bytes.split_last_chunk::<TRAILER_SIZE_BYTES>() else {
            return Err("it is shorter than its trailer");
        };
        let checked = entries.len() + CHECKED_SIZE_BYTES;
        if blake3::hash(&bytes[..checked]).as_bytes() != &bytes[checked..] {
            return Err("its index does not match its checksum");
        }
        let field =
            |start: usize| u32::from_le_bytes(trailer[start..start + 4].try_into().expect("four bytes"));
        if u16::from_le_bytes([trailer[8], trailer[9]]) != FORMAT_VERSION {
            return Err("it has another format version");
        }
        if field(12) != partition {
            return Err("it belongs to another partition");
        }
        let (in_segment, frames_end) = match u16::from_le_bytes([trailer[10], trailer[11]]) {
            0 => (false, object_size_bytes - bytes.len() as u64),
            1 if bytes.len() as u64 == object_size_bytes => (true, u64::from(field(28))),
            _ => return Err("its frames are at an unknown place"),
        };
        let entries: Vec<Entry> = entries.chunks_exact(ENTRY_SIZE_BYTES).map(entry).collect();
        let index = ParcelIndex {
            first_index: FrameIndex(u64::from_le_bytes(trailer[16..24].try_into().expect("eight bytes"))),
            genesis: trailer[32..64].try_into().expect("32 bytes"),
            previous_hash: FrameHash(trailer[64..96].try_into().expect("32 bytes")),
            entries,
            in_segment,
            frames_end: u32::try_from(frames_end).map_err(|_| "it is larger than a parcel can be")?,
        };
        let frames = name.last_index.0 - name.first_index.0 + 1;
        let fits = index.first_index == name.first_index
            && index.entries.len() as u64 == frames
            && short(index.previous_hash) == name.previous_hash
            && index.entries.last().is_some_and(|last| short(last.hash) == name.last_hash)
            && index.entries.windows(2).all(|pair| pair[0].offset < pair[1].offset)
            && index.entries.last().is_some_and(|last| last.offset < index.frames_end);
        if fits { Ok(index) } else { Err("it is not what its name says") }
    }

    /// Where the frame at this place (from 0) lies in the object.
    pub(super) fn range(&self, place: usize) -> std::ops::Range<u64> {
        let end = self.entries.get(place + 1).map_or(self.frames_end, |next| next.offset);
        u64::from(self.entries[place].offset)..u64::from(end)
    }

    /// The frame whose bytes these are, if they are.
    pub(super) fn check(
        &self,
        place: usize,
        content: &[u8],
        pool: &crate::journal::BufferPool,
    ) -> Result<Arc<Frame>, &'static str> {
        let frame = Frame::parse(content, pool)?;
        let (header, entry) = (frame.header(), &self.entries[place]);
        let previous = place.checked_sub(1).map_or(self.previous_hash, |before| self.entries[before].hash);
        let fits = header.hash == entry.hash
            && header.previous_hash == previous
            && header.index.0 == self.first_index.0 + place as u64
            && header.first_sequence.0 == entry.first_sequence
            && header.sequence_count == entry.sequence_count
            && header.timestamp_us == entry.timestamp_us;
        if fits { Ok(Arc::new(frame)) } else { Err("another frame stands there than its index says") }
    }
}

fn entry(bytes: &[u8]) -> Entry {
    let eight = |start: usize| bytes[start..start + 8].try_into().expect("eight bytes");
    let four = |start: usize| u32::from_le_bytes(bytes[start..start + 4].try_into().expect("four bytes"));
    Entry {
        first_sequence: u64::from_le_bytes(eight(0)),
        timestamp_us: i64::from_le_bytes(eight(8)),
        offset: four(16),
        sequence_count: four(20),
        hash: FrameHash(bytes[24..56].try_into().expect("32 bytes")),
    }
}
