//! The archive: nothing is lost when the journal lets go, and nothing wrong is ever read, whatever the store does.

#![allow(clippy::unwrap_used, reason = "a test that cannot set up its scene must stop")]

mod faulty_store;
mod linked;
mod objects;

use std::sync::Arc;
use std::time::Duration;

use faulty_store::{Fault, FaultyStore};
use storage::archive::{Archiver, ArchiverOptions, History};
use storage::journal::{
    DiskKind, FrameDraft, FrameIndex, Journal, Options, ReadError, Reader, Sequence, Term,
};
use storage::objects::Objects;
use tempfile::TempDir;

const SEGMENT_SIZE_BYTES: u64 = 64 << 10;
const FRAMES: u64 = 200;

/// A journal with its archive behind a store that can be made to fail.
struct Scene {
    directory: TempDir,
    store: Arc<FaultyStore>,
    objects: Objects,
}

impl Scene {
    fn new() -> Scene {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("journal")).unwrap();
        let local = storage::objects::object_store::local::LocalFileSystem::new_with_prefix(directory.path());
        let store = Arc::new(FaultyStore::over(Arc::new(local.unwrap())));
        let objects = Objects::over(store.clone(), "faulty://", Duration::from_secs(2)).unwrap();
        Scene { directory, store, objects }
    }

    fn journal(&self) -> Journal {
        let options =
            Options { segment_size_bytes: SEGMENT_SIZE_BYTES, genesis: Some([7; 32]), ..Options::default() };
        let fatal = Box::new(|error| panic!("{error}"));
        Journal::open(&self.directory.path().join("journal"), options, DiskKind::Direct.disk(), fatal)
            .unwrap()
            .0
    }

    fn archiver(&self, journal: &Journal) -> Archiver {
        let reader = journal.reader();
        let options = ArchiverOptions {
            objects: self.objects.clone(),
            parcel_size_bytes: 40 << 10,
            interval: Duration::from_secs(3600),
            keep_size_bytes: 2 * SEGMENT_SIZE_BYTES,
            cursor: self.directory.path().join("archive.cursor"),
        };
        let last = journal.reader();
        let floor = Box::new(move || Sequence(last.last().map_or(0, |last| last.next_sequence().0 - 1)));
        Archiver::start(options, &reader, journal.releaser(), floor).unwrap()
    }
}

/// Frames of any size, some without events; waits until they are durable.
fn append(journal: &Journal, frames: u64) {
    let (durable, wait) = std::sync::mpsc::channel();
    for _ in 0..frames {
        let index = journal.next_index().0;
        let mut body = journal.buffer();
        let size_bytes = (index * 997 % 9000) as usize;
        body.extend_from_slice(&blake3::hash(&index.to_le_bytes()).as_bytes().repeat(size_bytes / 32 + 1));
        let draft = FrameDraft {
            term: Term(1),
            first_sequence: Sequence(1 + sequences_before(index)),
            sequence_count: sequences_in(index),
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

fn sequences_in(index: u64) -> u32 {
    (index % 4) as u32
}

fn sequences_before(index: u64) -> u64 {
    (1..index).map(|index| u64::from(sequences_in(index))).sum()
}

/// Every frame in order, and every frame by one of its sequences, is what was appended.
fn assert_whole(reader: &Reader, frames: u64) {
    let mut next = 1;
    for frame in reader.frames_from(FrameIndex(1)) {
        let frame = frame.unwrap();
        assert_eq!(frame.index(), FrameIndex(next));
        assert_eq!(frame.first_sequence(), Sequence(1 + sequences_before(next)));
        next += 1;
    }
    assert_eq!(next, frames + 1);
    for index in 1..=frames {
        assert_eq!(reader.frame_at(FrameIndex(index)).unwrap().unwrap().index().0, index);
        for offset in 0..u64::from(sequences_in(index)) {
            let sequence = Sequence(1 + sequences_before(index) + offset);
            assert_eq!(reader.frame_containing(sequence).unwrap().unwrap().index().0, index, "{sequence}");
        }
    }
    assert!(reader.frame_at(FrameIndex(frames + 1)).unwrap().is_none());
    assert!(reader.frame_containing(Sequence(1 + sequences_before(frames + 1))).unwrap().is_none());
}

#[test]
fn what_the_journal_lets_go_of_is_read_as_if_it_were_there() {
    assert_released_frames_are_read(&Scene::new());
}

fn assert_released_frames_are_read(scene: &Scene) {
    let journal = scene.journal();
    let archiver = scene.archiver(&journal);
    append(&journal, FRAMES);
    let flushed = archiver.flush().unwrap();
    assert_eq!(flushed.next_index, journal.next_index());
    let reader = journal.reader();
    assert!(reader.first_local_index() > FrameIndex(FRAMES / 2), "segments were released");
    assert_eq!(reader.first_index(), FrameIndex(1));
    assert_whole(&reader, FRAMES);
    assert!(matches!(reader.local().frame_at(FrameIndex(20)), Err(ReadError::Released { .. })));
    drop(archiver);
    drop(journal);

    // Another process finds everything again, and goes on where the archive ends.
    let journal = scene.journal();
    let archiver = scene.archiver(&journal);
    append(&journal, 50);
    archiver.flush().unwrap();
    assert_whole(&journal.reader(), FRAMES + 50);
    let history = History::newest(&scene.objects, 0).unwrap().unwrap();
    assert_eq!(history.next_index(), FrameIndex(FRAMES + 51));
    assert_eq!(history.index_at_time(1_000_000 + 77).unwrap(), Some(FrameIndex(77)));
    assert_eq!(history.index_at_time(1_000_000).unwrap(), None);
    for place in 0..history.parcels().len() {
        history.verify(place).unwrap();
    }
}

/// Of two histories, the newest must not be passed over because it cannot be read just now.
#[test]
fn a_history_that_cannot_be_read_is_an_error_and_not_absent() {
    let scene = Scene::new();
    let journal = scene.journal();
    append(&journal, 10);
    scene.archiver(&journal).flush().unwrap();
    assert!(History::newest(&scene.objects, 0).unwrap().is_some());
    scene.store.set(Fault::RefuseReads);
    let error = History::newest(&scene.objects, 0).err().unwrap();
    assert!(error.to_string().contains("told to fail"), "{error}");
}

#[test]
fn a_store_that_fails_delays_the_archive_and_nothing_else() {
    for fault in [Fault::Refuse, Fault::Slow(Duration::from_secs(60)), Fault::WrongBytes] {
        let scene = Scene::new();
        let journal = scene.journal();
        let archiver = scene.archiver(&journal);
        scene.store.set(fault);
        append(&journal, FRAMES);
        archiver.flush().unwrap_err();
        assert_eq!(journal.reader().first_local_index(), FrameIndex(1), "{fault:?}: nothing may be released");
        assert_whole(&journal.reader(), FRAMES);

        scene.store.set(Fault::None);
        archiver.flush().unwrap();
        assert!(journal.reader().first_local_index() > FrameIndex(1));
        assert_whole(&journal.reader(), FRAMES);
        scene.store.set(fault);
        // Another process has nothing in memory.
        drop(archiver);
        drop(journal);
        let journal = scene.journal();
        let _archiver = scene.archiver(&journal);
        let error = journal.reader().frame_at(FrameIndex(2)).unwrap_err();
        let told = matches!(error, ReadError::Archive { .. } | ReadError::ArchiveDamaged { .. });
        assert!(told, "{fault:?}: {error}");
        append(&journal, 10);
        scene.store.set(Fault::None);
        assert_whole(&journal.reader(), FRAMES + 10);
    }
}

#[test]
fn any_flipped_byte_of_a_parcel_is_found() {
    let scene = Scene::new();
    let journal = scene.journal();
    let archiver = scene.archiver(&journal);
    append(&journal, 12);
    archiver.flush().unwrap();
    drop(archiver);
    let listed = scene.objects.list("partition-0/journal").unwrap();
    let path = scene.directory.path().join(&listed[0].path);
    let whole = std::fs::read(&path).unwrap();
    for at in (0..whole.len()).step_by(7) {
        let mut damaged = whole.clone();
        damaged[at] ^= 1 << (at % 8);
        std::fs::write(&path, &damaged).unwrap();
        let found = History::newest(&scene.objects, 0).unwrap();
        // With a damaged index there is no history to follow; with a damaged frame it does not verify.
        let verified = found.map(|history| history.verify(0));
        assert!(!matches!(verified, Some(Ok(_))), "byte {at} of {}", whole.len());
    }
    for size in [0, 1, 127, 128, whole.len() - 1] {
        std::fs::write(&path, &whole[..size]).unwrap();
        let found = History::newest(&scene.objects, 0).unwrap();
        assert!(!matches!(found.map(|history| history.verify(0)), Some(Ok(_))), "cut to {size}");
    }
}

#[test]
fn a_restored_journal_that_goes_on_begins_a_history_of_its_own() {
    let scene = Scene::new();
    let journal = scene.journal();
    let archiver = scene.archiver(&journal);
    append(&journal, 100);
    archiver.flush().unwrap();
    drop(archiver);
    // As after a restore to frame 90: the same frames up to there, then others.
    journal.truncate_after(FrameIndex(90)).unwrap();
    let archiver = scene.archiver(&journal);
    append(&journal, 3);
    archiver.flush().unwrap();
    let reader = journal.reader();
    let walked = reader.frames_from(FrameIndex(1)).map(|frame| frame.unwrap().index().0);
    assert_eq!(walked.collect::<Vec<_>>(), (1..=93).collect::<Vec<_>>());
}
