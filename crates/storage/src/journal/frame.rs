//! One frame: a header, a body, zeros to the end of the 4 KiB block. `docs/formats.md` draws it.

use std::sync::Arc;

use super::buffer::{BLOCK_SIZE_BYTES, BufferPool, PooledBytes, whole_blocks};
use super::{FrameHash, FrameIndex, Sequence, Term};

/// The version of the format of frames, segments, side-cars and `journal.meta`.
pub const FORMAT_VERSION: u16 = 1;
/// The header of a frame; the body follows at once.
pub const HEADER_SIZE_BYTES: usize = 144;
/// The largest frame, header and padding included.
pub const FRAME_SIZE_BYTES_MAX: usize = 16 << 20;
/// What a disk writes whole or not at all.
pub(crate) const SECTOR_SIZE_BYTES: usize = 512;

const MAGIC: [u8; 8] = *b"JIGAPFRM";
/// The hash covers the header up to here, then the body.
pub const HASHED_HEADER_SIZE_BYTES: usize = 96;
/// The checksum covers the header up to here.
const CHECKED_HEADER_SIZE_BYTES: usize = 136;

/// What a frame says about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHeader {
    /// The partition that the journal belongs to.
    pub partition: u32,
    /// The term in which the frame was made.
    pub term: Term,
    /// The number of the frame.
    pub index: FrameIndex,
    /// The sequence of the first event inside, or of the next event when there is none inside.
    pub first_sequence: Sequence,
    /// How many sequences the frame takes; may be 0.
    pub sequence_count: u32,
    /// Microseconds since the Unix epoch, as the leader stamped them.
    pub timestamp_us: i64,
    /// The size of the body.
    pub body_size_bytes: u32,
    /// The hash of the frame before, or the genesis hash.
    pub previous_hash: FrameHash,
    /// The hash of this frame: over its header, the previous hash included, and its body.
    pub hash: FrameHash,
    /// How many sectors of header and body are all zero by right: any more, and the frame is torn.
    pub(crate) zero_sectors: u32,
    /// How many frames came before this one in the same write. Not hashed: every node groups its writes by itself.
    pub(crate) frames_before_in_write: u32,
}

impl FrameHeader {
    /// Reads what the hash is taken over: the header up to the hash, then the whole body. `None` when that is no frame.
    pub fn of_hashed_bytes(bytes: &[u8], hash: FrameHash) -> Option<FrameHeader> {
        let body_size_bytes = bytes.len().checked_sub(HASHED_HEADER_SIZE_BYTES)?;
        let header = FrameHeader { hash, ..read_hashed_part(bytes) };
        (bytes.starts_with(&MAGIC) && header.body_size_bytes as usize == body_size_bytes).then_some(header)
    }

    /// The sequence that follows this frame.
    pub fn next_sequence(&self) -> Sequence {
        Sequence(self.first_sequence.0 + u64::from(self.sequence_count))
    }

    /// The last event inside, or before the frame when there is none inside.
    pub fn last_sequence(&self) -> Sequence {
        Sequence(self.next_sequence().0 - 1)
    }

    /// Whether an event of this sequence is inside.
    pub fn contains(&self, sequence: Sequence) -> bool {
        self.first_sequence <= sequence && sequence < self.next_sequence()
    }

    /// The size of the whole frame on disk.
    pub fn frame_size_bytes(&self) -> usize {
        whole_blocks(self.content_size_bytes())
    }

    fn content_size_bytes(&self) -> usize {
        HEADER_SIZE_BYTES + self.body_size_bytes as usize
    }

    /// Fills in hash and zero sectors, and writes the header in front of the body. `frame` is the whole frame.
    pub(crate) fn seal(&mut self, frame: &mut [u8]) {
        assert_eq!(frame.len(), self.frame_size_bytes());
        let content = &mut frame[..HEADER_SIZE_BYTES + self.body_size_bytes as usize];
        // The sector of the header is never zero, whatever the header says: so its content can wait.
        content[..HEADER_SIZE_BYTES].copy_from_slice(&self.encode());
        self.zero_sectors = zero_sectors(content);
        self.write_hashed_part(content);
        self.hash = hash_of(content);
        content[..HEADER_SIZE_BYTES].copy_from_slice(&self.encode());
    }

    /// The header as it is on disk.
    pub(crate) fn encode(&self) -> [u8; HEADER_SIZE_BYTES] {
        let mut bytes = [0; HEADER_SIZE_BYTES];
        self.write_hashed_part(&mut bytes);
        bytes[96..128].copy_from_slice(&self.hash.0);
        bytes[128..132].copy_from_slice(&self.frames_before_in_write.to_le_bytes());
        let checksum = checksum_of(&bytes);
        bytes[CHECKED_HEADER_SIZE_BYTES..].copy_from_slice(&checksum);
        bytes
    }

    fn write_hashed_part(&self, frame: &mut [u8]) {
        frame[0..8].copy_from_slice(&MAGIC);
        frame[8..10].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        frame[10..12].copy_from_slice(&(HEADER_SIZE_BYTES as u16).to_le_bytes());
        frame[12..16].copy_from_slice(&self.partition.to_le_bytes());
        frame[16..24].copy_from_slice(&self.term.0.to_le_bytes());
        frame[24..32].copy_from_slice(&self.index.0.to_le_bytes());
        frame[32..40].copy_from_slice(&self.first_sequence.0.to_le_bytes());
        frame[40..48].copy_from_slice(&self.timestamp_us.to_le_bytes());
        frame[48..52].copy_from_slice(&self.sequence_count.to_le_bytes());
        frame[52..56].copy_from_slice(&self.body_size_bytes.to_le_bytes());
        frame[56..60].copy_from_slice(&self.zero_sectors.to_le_bytes());
        frame[64..96].copy_from_slice(&self.previous_hash.0);
    }
}

/// What the place where a frame's header belongs holds.
#[derive(Debug)]
pub(crate) enum HeaderState {
    /// The first sector is all zero: nothing was written, or the sector was lost.
    Empty,
    /// The checksum is right, and so is every field that can be judged alone.
    Valid(FrameHeader),
    /// A right checksum over another format version.
    OtherVersion(u16),
    /// Neither.
    Broken(&'static str),
}

impl HeaderState {
    /// The header, where there must be one, or what stands there instead.
    pub(crate) fn valid(self) -> Result<FrameHeader, &'static str> {
        match self {
            HeaderState::Valid(header) => Ok(header),
            HeaderState::Empty => Err("the header is all zero"),
            HeaderState::OtherVersion(_) => Err("the header has another format version"),
            HeaderState::Broken(why) => Err(why),
        }
    }
}

/// Judges the first block of a frame.
pub(crate) fn parse_header(block: &[u8]) -> HeaderState {
    if is_zero(&block[..SECTOR_SIZE_BYTES]) {
        return HeaderState::Empty;
    }
    if block[0..8] != MAGIC {
        return HeaderState::Broken("no frame begins here (the magic number is wrong)");
    }
    if block[CHECKED_HEADER_SIZE_BYTES..HEADER_SIZE_BYTES] != checksum_of(block) {
        return HeaderState::Broken("the header does not match its checksum");
    }
    let version = u16::from_le_bytes(field(block, 8));
    if version != FORMAT_VERSION {
        return HeaderState::OtherVersion(version);
    }
    let header = FrameHeader {
        hash: FrameHash(field(block, 96)),
        frames_before_in_write: u32::from_le_bytes(field(block, 128)),
        ..read_hashed_part(block)
    };
    if usize::from(u16::from_le_bytes(field(block, 10))) != HEADER_SIZE_BYTES {
        return HeaderState::Broken("the header has another size than its version has");
    }
    if header.content_size_bytes() > FRAME_SIZE_BYTES_MAX {
        return HeaderState::Broken("the body is larger than a frame may be");
    }
    HeaderState::Valid(header)
}

/// The fields that the hash covers; the others are zero.
fn read_hashed_part(frame: &[u8]) -> FrameHeader {
    FrameHeader {
        partition: u32::from_le_bytes(field(frame, 12)),
        term: Term(u64::from_le_bytes(field(frame, 16))),
        index: FrameIndex(u64::from_le_bytes(field(frame, 24))),
        first_sequence: Sequence(u64::from_le_bytes(field(frame, 32))),
        timestamp_us: i64::from_le_bytes(field(frame, 40)),
        sequence_count: u32::from_le_bytes(field(frame, 48)),
        body_size_bytes: u32::from_le_bytes(field(frame, 52)),
        zero_sectors: u32::from_le_bytes(field(frame, 56)),
        previous_hash: FrameHash(field(frame, 64)),
        hash: FrameHash([0; 32]),
        frames_before_in_write: 0,
    }
}

/// What follows a valid header.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum BodyState {
    /// As it was written.
    Whole,
    /// Sectors are still zero that were to be written.
    Torn,
    /// Every sector was written, and something is wrong all the same.
    Broken(&'static str),
}

impl BodyState {
    /// Says what is wrong where the frame must be whole.
    pub(crate) fn whole(self) -> Result<(), &'static str> {
        match self {
            BodyState::Whole => Ok(()),
            BodyState::Torn => Err("sectors of the frame are zero"),
            BodyState::Broken(why) => Err(why),
        }
    }
}

/// Judges a whole frame whose header is valid.
pub(crate) fn check_body(header: &FrameHeader, frame: &[u8]) -> BodyState {
    let (content, padding) = frame.split_at(header.content_size_bytes());
    if hash_of(content) != header.hash {
        let torn = zero_sectors(content) > header.zero_sectors;
        return if torn {
            BodyState::Torn
        } else {
            BodyState::Broken("the body does not match the frame's hash")
        };
    }
    if !is_zero(padding) {
        return BodyState::Broken("the padding after the body is not zero");
    }
    BodyState::Whole
}

/// Little-endian fields are read through fixed-size arrays.
pub(crate) fn field<const SIZE: usize>(bytes: &[u8], start: usize) -> [u8; SIZE] {
    bytes[start..start + SIZE].try_into().expect("the slice has the array's size")
}

pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    // Most sectors that are not zero show it in their first bytes; the fold over the rest has no branches.
    let (head, rest) = bytes.split_at(bytes.len().min(16));
    head.iter().all(|byte| *byte == 0) && rest.iter().fold(0, |any, byte| any | byte) == 0
}

fn zero_sectors(content: &[u8]) -> u32 {
    let count = content.chunks(SECTOR_SIZE_BYTES).filter(|sector| is_zero(sector)).count();
    u32::try_from(count).expect("a frame has at most 32,768 sectors")
}

fn hash_of(content: &[u8]) -> FrameHash {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&content[..HASHED_HEADER_SIZE_BYTES]).update(&content[HEADER_SIZE_BYTES..]);
    FrameHash(*hasher.finalize().as_bytes())
}

fn checksum_of(header: &[u8]) -> [u8; 8] {
    field(blake3::hash(&header[..CHECKED_HEADER_SIZE_BYTES]).as_bytes(), 0)
}

/// A durable frame. Its memory goes back to the pool when the last `Arc` is dropped.
pub struct Frame {
    header: FrameHeader,
    bytes: Arc<PooledBytes>,
    start: usize,
}

impl Frame {
    /// A frame at `start` of `bytes`, which was sealed or checked before.
    pub(crate) fn new(header: FrameHeader, bytes: Arc<PooledBytes>, start: usize) -> Frame {
        assert!(start.is_multiple_of(BLOCK_SIZE_BYTES) && start + header.frame_size_bytes() <= bytes.len());
        Frame { header, bytes, start }
    }

    /// A frame from its header and body as they are on disk, with or without the padding; says what is wrong with it if it is not
    /// whole.
    pub(crate) fn parse(content: &[u8], pool: &BufferPool) -> Result<Frame, &'static str> {
        if content.len() < HEADER_SIZE_BYTES {
            return Err("the frame is shorter than its header");
        }
        let size_bytes = whole_blocks(content.len());
        let mut bytes = pool.take(size_bytes);
        bytes[..content.len()].copy_from_slice(content);
        bytes[content.len()..size_bytes].fill(0);
        let header = parse_header(&bytes[..size_bytes]).valid()?;
        if ![header.content_size_bytes(), header.frame_size_bytes()].contains(&content.len()) {
            return Err("the frame has another size than it says");
        }
        check_body(&header, &bytes[..size_bytes]).whole()?;
        Ok(Frame::new(header, Arc::new(bytes), 0))
    }

    /// Header and body as they are on disk, without the padding.
    pub fn content(&self) -> &[u8] {
        &self.bytes[self.start..self.start + self.header.content_size_bytes()]
    }

    /// What the frame says about itself.
    pub fn header(&self) -> &FrameHeader {
        &self.header
    }

    /// The number of the frame.
    pub fn index(&self) -> FrameIndex {
        self.header.index
    }

    /// The term in which the frame was made.
    pub fn term(&self) -> Term {
        self.header.term
    }

    /// The sequence of the first event inside.
    pub fn first_sequence(&self) -> Sequence {
        self.header.first_sequence
    }

    /// How many sequences the frame takes.
    pub fn sequence_count(&self) -> u32 {
        self.header.sequence_count
    }

    /// Microseconds since the Unix epoch.
    pub fn timestamp_us(&self) -> i64 {
        self.header.timestamp_us
    }

    /// What was appended.
    pub fn body(&self) -> &[u8] {
        &self.content()[HEADER_SIZE_BYTES..]
    }

    /// The whole frame as it is on disk, padding included.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[self.start..self.start + self.header.frame_size_bytes()]
    }
}

impl std::fmt::Debug for Frame {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_tuple("Frame").field(&self.header).finish()
    }
}
