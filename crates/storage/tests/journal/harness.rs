//! What every journal test needs: a place, drafts, and a journal's content to compare.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use fastrand::Rng;
use storage::journal::faulty::FaultyDisk;
use storage::journal::{
    Appender, DirectDisk, Disk, FrameBuffer, FrameDraft, FrameIndex, MmapDisk, Options, Reader, Sequence,
    Term,
};

pub(crate) const SEGMENT_SIZE_BYTES: u64 = 64 << 10;

pub(crate) fn options() -> Options {
    Options { segment_size_bytes: SEGMENT_SIZE_BYTES, genesis: Some([7; 32]), ..Options::default() }
}

/// A directory on some disk.
pub(crate) struct Place {
    pub(crate) name: &'static str,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) directory: PathBuf,
    _kept: Option<tempfile::TempDir>,
}

impl Place {
    fn real(name: &'static str, disk: Arc<dyn Disk>) -> Place {
        let kept = tempfile::tempdir().unwrap();
        Place { name, disk, directory: kept.path().to_owned(), _kept: Some(kept) }
    }

    /// One of every kind.
    pub(crate) fn all() -> Vec<Place> {
        vec![
            Place::real("direct", Arc::new(DirectDisk::new())),
            Place::real("buffered", Arc::new(DirectDisk::buffered())),
            Place::real("mmap", Arc::new(MmapDisk::new())),
            Place::faulty(1).0,
        ]
    }

    pub(crate) fn faulty(seed: u64) -> (Place, FaultyDisk) {
        let disk = FaultyDisk::new(seed);
        let directory = PathBuf::from("/journal");
        (Place { name: "faulty", disk: Arc::new(disk.clone()), directory, _kept: None }, disk)
    }

    pub(crate) fn open(&self) -> Appender {
        Appender::open(&self.directory, &options(), Arc::clone(&self.disk)).unwrap().0
    }

    pub(crate) fn segment(&self, first_index: u64) -> PathBuf {
        segment_path(&self.directory, first_index)
    }
}

pub(crate) fn segment_path(directory: &Path, first_index: u64) -> PathBuf {
    directory.join(format!("{first_index:016x}.segment"))
}

pub(crate) fn side_car_path(directory: &Path, first_index: u64) -> PathBuf {
    directory.join(format!("{first_index:016x}.index"))
}

/// Some bodies have sectors that are zero by right, to tempt recovery.
pub(crate) fn random_body(random: &mut Rng, size_bytes: usize) -> Vec<u8> {
    let mut body = vec![0; size_bytes];
    random.fill(&mut body);
    if random.u8(..3) == 0 {
        body[size_bytes / 3..].fill(0);
    }
    body
}

/// The body that follows from a number.
pub(crate) fn body(seed: u64, size_bytes: usize) -> Vec<u8> {
    random_body(&mut Rng::with_seed(seed), size_bytes)
}

pub(crate) fn draft(
    mut buffer: FrameBuffer,
    term: u64,
    first_sequence: u64,
    count: u32,
    body: &[u8],
) -> FrameDraft {
    buffer.extend_from_slice(body);
    FrameDraft {
        term: Term(term),
        first_sequence: Sequence(first_sequence),
        sequence_count: count,
        timestamp_us: 1_767_322_985_678_901 + first_sequence as i64,
        body: buffer,
    }
}

/// The sequence that comes next.
pub(crate) fn next_sequence(appender: &Appender) -> u64 {
    appender.last().map_or(1, |last| last.next_sequence().0)
}

/// Appends one frame of two events for every body size given.
pub(crate) fn append(appender: &mut Appender, sizes_bytes: &[usize]) {
    for size_bytes in sizes_bytes {
        let body = body(*size_bytes as u64, *size_bytes);
        let sequence = next_sequence(appender);
        let draft = draft(appender.buffer(), 1, sequence, 2, &body);
        appender.append(vec![draft]).unwrap();
    }
}

/// Every frame from the first on: its index, sequence and body. Panics if any is damaged or the chain is broken.
pub(crate) fn content(reader: &Reader) -> Vec<(u64, u64, Vec<u8>)> {
    let frames = reader.frames_from(reader.first_index());
    frames
        .map(|frame| frame.unwrap())
        .map(|frame| (frame.index().0, frame.first_sequence().0, frame.body().to_vec()))
        .collect()
}

pub(crate) fn index(index: u64) -> FrameIndex {
    FrameIndex(index)
}
