//! In a directory on the same file system, whole segments of the journal become objects of the archive by a second name. Such a file
//! is never written to again, whatever the journal does.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use storage::archive::{ArchiveError, Archiver, ArchiverOptions, History};
use storage::journal::{
    DiskKind, FrameDraft, FrameIndex, Journal, Options, ReadError, Reader, Sequence, Term,
};
use storage::objects::{Objects, Purpose};
use tempfile::TempDir;

const SEGMENT_SIZE_BYTES: u64 = 2 << 20;
const FRAMES: u64 = 300;

struct Scene {
    directory: TempDir,
    archive: PathBuf,
    kind: DiskKind,
}

impl Scene {
    fn new(kind: DiskKind) -> Scene {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("journal")).unwrap();
        let archive = directory.path().join("archive");
        Scene { directory, archive, kind }
    }

    fn journal_directory(&self) -> PathBuf {
        self.directory.path().join("journal")
    }

    fn journal(&self) -> Journal {
        let options =
            Options { segment_size_bytes: SEGMENT_SIZE_BYTES, genesis: Some([7; 32]), ..Options::default() };
        let fatal = Box::new(|error| panic!("{error}"));
        Journal::open(&self.journal_directory(), options, self.kind.disk(), fatal).unwrap().0
    }

    fn objects(&self) -> Objects {
        Objects::open(&format!("file://{}", self.archive.display()), Purpose::Write).unwrap()
    }

    fn archiver(&self, journal: &Journal) -> Archiver {
        let options = ArchiverOptions {
            objects: self.objects(),
            parcel_size_bytes: 1 << 20,
            interval: Duration::from_secs(3600),
            keep_size_bytes: 2 * SEGMENT_SIZE_BYTES,
            cursor: self.directory.path().join("archive.cursor"),
        };
        let last = journal.reader();
        let floor = Box::new(move || Sequence(last.last().map_or(0, |last| last.next_sequence().0 - 1)));
        Archiver::start(options, &journal.reader(), journal.releaser(), floor).unwrap()
    }

    fn objects_directory(&self) -> PathBuf {
        self.archive.join("partition-0/journal")
    }

    /// Every segment in the archive, with the hash of its bytes.
    fn segments(&self) -> BTreeMap<PathBuf, blake3::Hash> {
        let files = std::fs::read_dir(self.objects_directory()).unwrap().map(|file| file.unwrap().path());
        let segments = files.filter(|path| path.extension().is_some_and(|suffix| suffix == "segment"));
        segments.map(|path| (path.clone(), blake3::hash(&std::fs::read(path).unwrap()))).collect()
    }

    /// The parcels that are indexes alone.
    fn indexes(&self) -> Vec<PathBuf> {
        self.segments().keys().map(|path| path.with_extension("parcel")).collect()
    }
}

/// Frames of 40 to 80 KB; waits until they are durable.
fn append(journal: &Journal, frames: u64) {
    let (durable, wait) = std::sync::mpsc::channel();
    for _ in 0..frames {
        let index = journal.next_index().0;
        let mut body = journal.buffer();
        let size_bytes = (40_000 + index * 997 % 40_000) as usize;
        body.extend_from_slice(&blake3::hash(&index.to_le_bytes()).as_bytes().repeat(size_bytes / 32));
        let draft = FrameDraft {
            term: Term(1),
            first_sequence: Sequence(3 * index - 2),
            sequence_count: 3,
            timestamp_us: 1_000_000 + index as i64,
            body,
        };
        let durable = durable.clone();
        journal.append(draft, Box::new(move |frame| drop(durable.send(frame)))).unwrap();
    }
    for _ in 0..frames {
        wait.recv().unwrap();
    }
}

fn assert_whole(reader: &Reader, frames: u64) {
    let walked = reader.frames_from(FrameIndex(1)).map(|frame| frame.unwrap().index().0);
    assert!(walked.eq(1..=frames));
    for index in (1..=frames).step_by(7) {
        let frame = reader.frame_containing(Sequence(3 * index - 1)).unwrap().unwrap();
        assert_eq!((frame.index(), frame.first_sequence()), (FrameIndex(index), Sequence(3 * index - 2)));
    }
}

fn inode(path: &Path) -> u64 {
    std::fs::metadata(path).unwrap().ino()
}

#[test]
fn segments_become_objects_as_they_are() {
    for kind in [DiskKind::Direct, DiskKind::Mmap] {
        let scene = Scene::new(kind);
        let journal = scene.journal();
        let archiver = scene.archiver(&journal);
        append(&journal, FRAMES);
        let flushed = archiver.flush().unwrap();
        assert_eq!(flushed.next_index, journal.next_index());
        let segments = scene.segments();
        assert!(segments.len() >= 5, "{} segments", segments.len());
        let kept: Vec<PathBuf> = std::fs::read_dir(scene.journal_directory())
            .unwrap()
            .map(|file| file.unwrap().path())
            .filter(|path| path.extension().is_some_and(|suffix| suffix == "segment"))
            .collect();
        let shared = |path: &&PathBuf| segments.keys().any(|segment| inode(segment) == inode(path));
        assert_eq!(kept.iter().filter(shared).count(), kept.len() - 1, "all but the one that is written");
        let reader = journal.reader();
        assert!(reader.first_local_index() > FrameIndex(FRAMES / 2), "segments were released");
        assert_whole(&reader, FRAMES);

        // The journal goes through many segments more, and releases them.
        append(&journal, FRAMES);
        archiver.flush().unwrap();
        assert_whole(&reader, 2 * FRAMES);
        let now = scene.segments();
        assert!(segments.iter().all(|(path, hash)| now.get(path) == Some(hash)), "an object never changes");
        drop(archiver);
        drop(journal);

        // Another process finds everything, and goes on in the middle of a segment.
        let journal = scene.journal();
        let archiver = scene.archiver(&journal);
        append(&journal, FRAMES);
        archiver.flush().unwrap();
        assert_whole(&journal.reader(), 3 * FRAMES);
        let history = History::newest(&scene.objects(), 0).unwrap().unwrap();
        assert_eq!(history.next_index(), FrameIndex(3 * FRAMES + 1));
        assert_eq!(history.index_at_time(1_000_000 + 77).unwrap(), Some(FrameIndex(77)));
        for place in 0..history.parcels().len() {
            history.verify(place).unwrap();
        }
    }
}

/// A truncation may make a segment the one that is written again: the journal then writes to a copy.
#[test]
fn a_linked_segment_is_copied_before_it_is_written_to_again() {
    let scene = Scene::new(DiskKind::Direct);
    let journal = scene.journal();
    let archiver = scene.archiver(&journal);
    append(&journal, FRAMES);
    archiver.flush().unwrap();
    drop(archiver);
    let segments = scene.segments();
    for after in [FRAMES - 40, FRAMES - 60] {
        journal.truncate_after(FrameIndex(after)).unwrap();
        append(&journal, 10);
    }
    let reader = journal.reader();
    let last = journal.next_index().0 - 1;
    assert_eq!(last, FRAMES - 50);
    assert_eq!(scene.segments(), segments);
    drop(journal);
    // A crash may come between the truncation and the copy.
    drop(reader);
    let files = std::fs::read_dir(scene.journal_directory()).unwrap().map(|file| file.unwrap().path());
    let active =
        files.filter(|path| path.extension().is_some_and(|suffix| suffix == "segment")).max().unwrap();
    let kept = scene.objects_directory().join("kept");
    std::fs::hard_link(&active, &kept).unwrap();
    let before = std::fs::read(&kept).unwrap();
    let journal = scene.journal();
    append(&journal, 10);
    assert_ne!(inode(&active), inode(&kept));
    assert!(std::fs::read(&kept).unwrap() == before, "the other name's bytes are as they were");
    drop(journal);
    let journal = scene.journal();
    assert_eq!(journal.next_index(), FrameIndex(last + 11));
}

#[test]
fn a_crash_between_link_and_index_is_made_up_for() {
    let scene = Scene::new(DiskKind::Direct);
    let journal = scene.journal();
    let archiver = scene.archiver(&journal);
    append(&journal, FRAMES);
    archiver.flush().unwrap();
    drop(archiver);
    // As if the last two segments had been linked, and nothing more been done.
    let indexes = scene.indexes();
    let first = &indexes[indexes.len() - 2];
    for file in std::fs::read_dir(scene.objects_directory()).unwrap().map(|file| file.unwrap().path()) {
        if file >= *first && file.extension().is_some_and(|suffix| suffix == "parcel") {
            std::fs::remove_file(file).unwrap();
        }
    }
    std::fs::remove_file(scene.directory.path().join("archive.cursor")).unwrap();
    drop(journal);
    let journal = scene.journal();
    append(&journal, FRAMES);
    scene.archiver(&journal).flush().unwrap();
    assert_whole(&journal.reader(), 2 * FRAMES);
}

#[test]
fn damage_to_a_linked_segment_is_found_and_named() {
    let scene = Scene::new(DiskKind::Direct);
    let journal = scene.journal();
    append(&journal, FRAMES);
    scene.archiver(&journal).flush().unwrap();
    drop(journal);
    let path = scene.segments().into_keys().next().unwrap();
    let whole = std::fs::read(&path).unwrap();
    let verified = || History::newest(&scene.objects(), 0).unwrap().unwrap().verify(0);
    let frames = verified().unwrap();
    assert!(frames > 20, "{frames} frames");
    for at in (0..whole.len() - 200_000).step_by(9_973) {
        let mut damaged = whole.clone();
        damaged[at] ^= 1 << (at % 8);
        std::fs::write(&path, &damaged).unwrap();
        let error = verified().unwrap_err();
        let ArchiveError::Damaged { path: named, .. } = &error else { panic!("byte {at}: {error}") };
        assert!(path.ends_with(named), "{error}");
    }
    std::fs::write(&path, &whole[..100_000]).unwrap();
    verified().unwrap_err();
    std::fs::remove_file(&path).unwrap();
    let error = verified().unwrap_err().to_string();
    assert!(error.contains("is missing, though its index is there"), "{error}");
}

/// On another file system the frames are packed, as for any other store.
#[test]
fn what_cannot_be_linked_is_packed() {
    let mut scene = Scene::new(DiskKind::Direct);
    let other = tempfile::tempdir_in("/dev/shm").unwrap();
    let device = |path: &Path| std::fs::metadata(path).unwrap().dev();
    assert_ne!(device(other.path()), device(scene.directory.path()), "they are file systems of their own");
    scene.archive = other.path().to_owned();
    let journal = scene.journal();
    let archiver = scene.archiver(&journal);
    append(&journal, FRAMES);
    archiver.flush().unwrap();
    assert!(scene.segments().is_empty());
    assert_whole(&journal.reader(), FRAMES);
    let error = journal.reader().local().frame_at(FrameIndex(2)).unwrap_err();
    assert!(matches!(error, ReadError::Released { .. }), "{error}");
}
