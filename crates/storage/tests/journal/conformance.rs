//! What a journal promises, over every kind of disk.

use std::sync::Arc;

use storage::journal::{
    AppendError, Appender, OpenError, Options, ReadError, Reader, Sequence, Term, TruncateError,
};

use crate::harness::{Place, append, body, content, draft, index, next_sequence, options, side_car_path};

type Case = (&'static str, fn(&Place));

const CASES: [Case; 15] = [
    ("an empty journal is empty, again and again", empty),
    ("what was appended is there after opening again", appended_is_there),
    ("frames of every size around a block and a sector come back", sizes),
    ("several frames in one write", groups),
    ("a frame as large as a segment", largest_frame),
    ("a sequence finds its frame", sequences),
    ("frames without events", frames_without_events),
    ("drafts that do not continue are refused, whole groups of them", refused_drafts),
    ("a suffix is truncated, within a segment and across segments", truncated),
    ("a prefix is released, whole segments only", released),
    ("the last segment stays when everything is released", released_to_the_end),
    ("side-cars are made again", side_cars),
    ("another segment size", other_segment_size),
    ("another partition is refused", other_partition),
    ("read-only opening sees the same and changes nothing", read_only),
];

#[test]
fn every_disk_conforms() {
    let mut cases = 0;
    for (name, case) in CASES {
        for place in Place::all() {
            println!("{name} ({})", place.name);
            case(&place);
            cases += 1;
        }
    }
    println!("{cases} cases");
}

fn empty(place: &Place) {
    for _ in 0..3 {
        let (appender, recovered) =
            Appender::open(&place.directory, &options(), Arc::clone(&place.disk)).unwrap();
        assert!(recovered.last.is_none() && recovered.torn_tail_bytes == 0);
        assert_eq!((recovered.first_index, recovered.next_index), (index(1), index(1)));
        assert!(appender.last().is_none());
        let reader = appender.reader();
        assert!(reader.frame_at(index(1)).unwrap().is_none());
        assert!(reader.frame_containing(Sequence(1)).unwrap().is_none());
        assert_eq!(reader.frames_from(index(1)).count(), 0);
    }
}

fn appended_is_there(place: &Place) {
    let mut expected = Vec::new();
    for round in 0..4 {
        let mut appender = place.open();
        assert_eq!(content(&appender.reader()), expected);
        append(&mut appender, &[100 + round, 9000, 40_000, 1]);
        expected = content(&appender.reader());
        assert_eq!(expected.len(), 4 * (round + 1));
        let last = appender.last().unwrap();
        drop(appender);
        let (_, recovered) = Appender::open(&place.directory, &options(), Arc::clone(&place.disk)).unwrap();
        assert_eq!(recovered.last, Some(last));
        assert_eq!((recovered.previous_hash, recovered.torn_tail_bytes), (last.hash, 0));
    }
}

fn sizes(place: &Place) {
    let sizes: Vec<usize> =
        [0, 1, 367, 368, 369, 3951, 3952, 3953, 4096, 8047, 8048, 8049].into_iter().chain(500..520).collect();
    let mut appender = place.open();
    append(&mut appender, &sizes);
    drop(appender);
    let read: Vec<usize> = content(&place.open().reader()).iter().map(|(.., body)| body.len()).collect();
    assert_eq!(read, sizes);
}

fn groups(place: &Place) {
    let mut appender = place.open();
    let mut bodies = Vec::new();
    for group in 1..8_u64 {
        let start = next_sequence(&appender);
        let body_at = |at: u64| body(group * 100 + at, 5000);
        let drafts = (0..group).map(|at| draft(appender.buffer(), 1, start + at, 1, &body_at(at))).collect();
        bodies.extend((0..group).map(body_at));
        let frames = appender.append(drafts).unwrap();
        assert_eq!(frames.len() as u64, group);
        assert!(frames.iter().zip(start..).all(|(frame, sequence)| frame.first_sequence().0 == sequence));
    }
    drop(appender);
    let read: Vec<Vec<u8>> = content(&place.open().reader()).into_iter().map(|(.., body)| body).collect();
    assert_eq!(read, bodies);
}

fn largest_frame(place: &Place) {
    let largest = options().segment_size_bytes as usize - storage::journal::HEADER_SIZE_BYTES;
    let mut appender = place.open();
    append(&mut appender, &[largest, 10, largest, largest]);
    let too_large = draft(appender.buffer(), 1, next_sequence(&appender), 1, &vec![1; largest + 1]);
    assert!(matches!(appender.append(vec![too_large]), Err(AppendError::TooLarge { .. })));
    append(&mut appender, &[10]);
    assert_eq!(content(&place.open().reader()).len(), 5);
}

fn sequences(place: &Place) {
    let mut appender = place.open();
    let mut sequence = 100;
    for count in 1..60 {
        let next = draft(appender.buffer(), 1, sequence, count, &body(u64::from(count), 3000));
        appender.append(vec![next]).unwrap();
        sequence += u64::from(count);
    }
    for reader in [appender.reader(), place.open().reader()] {
        assert!(reader.frame_containing(Sequence(99)).unwrap().is_none());
        assert!(reader.frame_containing(Sequence(sequence)).unwrap().is_none());
        for wanted in 100..sequence {
            let frame = reader.frame_containing(Sequence(wanted)).unwrap().unwrap();
            assert!(frame.header().contains(Sequence(wanted)));
            assert_eq!(frame.body(), body(u64::from(frame.sequence_count()), 3000));
            assert_eq!(reader.frame_at(frame.index()).unwrap().unwrap().header(), frame.header());
        }
    }
}

fn frames_without_events(place: &Place) {
    let mut appender = place.open();
    for (first_sequence, count) in [(1, 0), (1, 0), (1, 5), (6, 0), (6, 1), (7, 0), (7, 0)] {
        let next = draft(appender.buffer(), 1, first_sequence, count, b"body");
        appender.append(vec![next]).unwrap();
    }
    let reader = appender.reader();
    let found = |sequence| reader.frame_containing(Sequence(sequence)).unwrap().map(|frame| frame.index().0);
    assert_eq!(
        (0..9).map(found).collect::<Vec<_>>(),
        [None, Some(3), Some(3), Some(3), Some(3), Some(3), Some(5), None, None]
    );
}

fn refused_drafts(place: &Place) {
    let mut appender = place.open();
    let first = draft(appender.buffer(), 5, 1, 3, b"first");
    appender.append(vec![first]).unwrap();
    let gap = draft(appender.buffer(), 5, 5, 1, b"gap");
    let expected = Sequence(4);
    let refused = appender.append(vec![gap]);
    assert!(
        matches!(refused, Err(AppendError::SequenceGap { expected: e, found }) if e == expected && found.0 == 5)
    );
    let good = draft(appender.buffer(), 5, 4, 1, b"good");
    let old_term = draft(appender.buffer(), 4, 5, 1, b"old term");
    let refused = appender.append(vec![good, old_term]);
    assert!(matches!(refused, Err(AppendError::TermWentBack { last: Term(5), found: Term(4) })));
    assert_eq!(content(&appender.reader()).len(), 1);
    let good = draft(appender.buffer(), 6, 4, 1, b"good");
    assert_eq!(appender.append(vec![good]).unwrap()[0].index(), index(2));
}

fn truncated(place: &Place) {
    let mut appender = place.open();
    append(&mut appender, &[20_000; 20]);
    let all = content(&appender.reader());
    for after in [20, 19, 17, 11, 3, 0] {
        let reader = appender.reader();
        if let Some(frame) = reader.frame_at(index(after + 1)).unwrap() {
            assert_eq!(frame.body(), all[after as usize].2);
        }
        appender.truncate_after(index(after)).unwrap();
        assert_eq!(content(&appender.reader()), all[..after as usize]);
        assert!(reader.frame_at(index(after + 1)).unwrap().is_none());
        drop(appender);
        appender = place.open();
        assert_eq!(content(&appender.reader()), all[..after as usize]);
        let sequence = next_sequence(&appender);
        let other = draft(appender.buffer(), 30 - after, sequence, 1, &body(after, 30_000));
        assert_eq!(appender.append(vec![other]).unwrap()[0].index(), index(after + 1));
        assert_eq!(content(&appender.reader()).len() as u64, after + 1);
        appender.truncate_after(index(after)).unwrap();
    }
    assert!(matches!(appender.truncate_after(index(1)), Err(TruncateError::OutOfRange { .. })));
    append(&mut appender, &[20_000; 20]);
    assert_eq!(content(&appender.reader()).len(), 20);
}

fn released(place: &Place) {
    let mut appender = place.open();
    // Three frames of 20 KiB fill a segment: segments begin at 1, 4, 7, ...
    append(&mut appender, &[20_000; 20]);
    let all = content(&appender.reader());
    for (before, first) in [(1, 1), (3, 1), (4, 4), (8, 7), (5, 7), (18, 16)] {
        let reader = appender.reader();
        let mut late = reader.frames_from(index(1));
        appender.release_before(index(before)).unwrap();
        assert_eq!(reader.first_index(), index(first));
        assert_eq!(first == 1, late.next().unwrap().is_ok());
        assert_eq!(content(&reader), all[first as usize - 1..]);
        drop(appender);
        appender = place.open();
        assert_eq!(content(&appender.reader()), all[first as usize - 1..]);
    }
    let reader = appender.reader();
    assert!(matches!(reader.frame_at(index(15)), Err(ReadError::Released { first }) if first == index(16)));
    assert!(matches!(reader.frame_containing(Sequence(1)), Err(ReadError::Released { .. })));
    assert!(matches!(appender.truncate_after(index(14)), Err(TruncateError::OutOfRange { .. })));
    appender.truncate_after(index(15)).unwrap();
    drop(appender);
    let mut appender = place.open();
    assert_eq!(content(&appender.reader()), []);
    let next = draft(appender.buffer(), 1, 31, 2, b"goes on");
    assert_eq!(appender.append(vec![next]).unwrap()[0].index(), index(16));
    // Old segments are used again.
    let spares = place.disk.list(&place.directory).unwrap();
    assert!(spares.iter().filter(|file| file.name.ends_with(".spare")).count() <= 3);
}

fn released_to_the_end(place: &Place) {
    let mut appender = place.open();
    append(&mut appender, &[20_000; 6]);
    appender.release_before(index(1000)).unwrap();
    assert_eq!(appender.reader().first_index(), index(4));
    append(&mut appender, &[20_000; 30]);
    drop(appender);
    assert_eq!(content(&place.open().reader()).len(), 33);
}

fn side_cars(place: &Place) {
    let mut appender = place.open();
    append(&mut appender, &[20_000; 9]);
    let all = content(&appender.reader());
    drop(appender);
    let side_car = side_car_path(&place.directory, 4);
    place.disk.remove(&side_car).unwrap();
    assert_eq!(content(&place.open().reader()), all);
    for damaged_offset in [0, 8, 24, 40, 70, 100, 130, 512, 700, 4095] {
        let file = place.disk.open(&side_car, storage::journal::Access::Read).unwrap();
        let mut bytes = vec![0; file.size_bytes() as usize];
        file.read_exact(0, &mut bytes).unwrap();
        bytes[damaged_offset] ^= 0x10;
        replace(place, &side_car, &bytes);
        let appender = place.open();
        assert_eq!(content(&appender.reader()), all);
        drop(appender);
        let file = place.disk.open(&side_car, storage::journal::Access::Read).unwrap();
        let mut repaired = vec![0; file.size_bytes() as usize];
        file.read_exact(0, &mut repaired).unwrap();
        bytes[damaged_offset] ^= 0x10;
        assert!(repaired == bytes, "the side-car was written again");
    }
}

/// Puts other bytes into a file, by the same port.
fn replace(place: &Place, path: &std::path::Path, bytes: &[u8]) {
    let pool = storage::journal::BufferPool::new();
    let mut buffer = pool.buffer();
    // The body of a buffer is not aligned: pad up to the next block.
    let padding = storage::journal::BLOCK_SIZE_BYTES - storage::journal::HEADER_SIZE_BYTES;
    buffer.extend_zeroed(padding);
    buffer.extend_from_slice(bytes);
    let file = place.disk.create(path, bytes.len() as u64).unwrap();
    file.write_durable(0, &[std::io::IoSlice::new(&buffer.as_slice()[padding..])]).unwrap();
}

fn other_segment_size(place: &Place) {
    for (size_bytes, body_size_bytes) in
        [(64 << 10, 20_000), (128 << 10, 100_000), (32 << 10, 20_000), (1 << 20, 500_000)]
    {
        let options = Options { segment_size_bytes: size_bytes, ..options() };
        let (mut appender, _) = Appender::open(&place.directory, &options, Arc::clone(&place.disk)).unwrap();
        append(&mut appender, &[body_size_bytes; 7]);
        appender.truncate_after(index(appender.last().unwrap().index.0 - 2)).unwrap();
        append(&mut appender, &[body_size_bytes; 2]);
    }
    assert_eq!(content(&place.open().reader()).len(), 28);
    let bad = Options { segment_size_bytes: 5000, ..options() };
    let refused = Appender::open(&place.directory, &bad, Arc::clone(&place.disk));
    assert!(matches!(refused, Err(OpenError::Options(_))));
}

fn other_partition(place: &Place) {
    append(&mut place.open(), &[10]);
    let options = Options { partition: 9, ..options() };
    let refused = Appender::open(&place.directory, &options, Arc::clone(&place.disk)).err().unwrap();
    assert!(matches!(refused, OpenError::WrongPartition { found: 0, expected: 9, .. }));
}

fn read_only(place: &Place) {
    let mut appender = place.open();
    append(&mut appender, &[20_000; 8]);
    let all = content(&appender.reader());
    drop(appender);
    let mut before = place.disk.list(&place.directory).unwrap();
    let (reader, recovered) = Reader::open_read_only_on(&place.directory, Arc::clone(&place.disk)).unwrap();
    assert_eq!(content(&reader), all);
    assert_eq!((recovered.last, reader.partition()), (reader.last(), 0));
    assert_eq!(
        reader.frames_from(index(5)).map(|frame| frame.unwrap().index().0).collect::<Vec<_>>(),
        [5, 6, 7, 8]
    );
    let mut after = place.disk.list(&place.directory).unwrap();
    before.sort_by(|one, other| one.name.cmp(&other.name));
    after.sort_by(|one, other| one.name.cmp(&other.name));
    assert_eq!(before, after);
}
