//! Torn and damaged bytes at every class of offset: cut cleanly, or refused precisely; never silence.

use std::sync::Arc;

use storage::journal::faulty::FaultyDisk;
use storage::journal::{Appender, BLOCK_SIZE_BYTES, OpenError, ReadError, Reader, Sequence};

use crate::harness::{Place, append, content, draft, index, options, segment_path, side_car_path};

const SECTOR: usize = 512;
/// Three of these fill a segment: segments begin at frames 1, 4 and 7.
const BODY: usize = 20_000;
const FRAME: usize = 20_480;
const HEADER: usize = 144;

/// Eight frames in three segments, the last of which holds two.
fn journal() -> (Place, FaultyDisk) {
    let (place, disk) = Place::faulty(3);
    append(&mut place.open(), &[BODY + 1; 8]);
    (place, disk)
}

fn segment_of(frame: usize) -> (u64, usize) {
    let first = (frame - 1) / 3 * 3 + 1;
    (first as u64, (frame - first) * FRAME)
}

fn open(place: &Place) -> Result<(Appender, storage::journal::Recovered), OpenError> {
    Appender::open(&place.directory, &options(), Arc::clone(&place.disk))
}

/// Without side-cars, opening looks at every frame.
fn remove_side_cars(place: &Place, disk: &FaultyDisk) {
    for first in [1, 4] {
        disk.remove_file(&side_car_path(&place.directory, first));
    }
}

#[track_caller]
fn assert_damaged(place: &Place, frame: usize) {
    let (first, offset) = segment_of(frame);
    let files = place.disk.list(&place.directory).unwrap();
    for error in [
        open(place).err().expect("damage is refused"),
        Reader::open_read_only_on(&place.directory, Arc::clone(&place.disk))
            .err()
            .expect("damage is refused"),
    ] {
        let OpenError::Damaged(damage) = &error else { panic!("{error}") };
        assert_eq!((damage.index, damage.offset), (index(frame as u64), offset as u64), "{error}");
        assert_eq!(damage.segment, segment_path(&place.directory, first));
        assert!(error.to_string().contains("Keep a copy of the directory"), "the message says what to do");
    }
    assert_eq!(place.disk.list(&place.directory).unwrap(), files, "a refusal changes nothing");
}

/// Every byte of the header, and the body and padding at their ends and in between.
fn offset_classes() -> Vec<usize> {
    let body_end = HEADER + BODY + 1;
    // The reserved parts of the header are covered as well: by hash, checksum or both.
    let header = 0..HEADER;
    let body = [
        HEADER,
        HEADER + 1,
        SECTOR - 1,
        SECTOR,
        BLOCK_SIZE_BYTES - 1,
        BLOCK_SIZE_BYTES,
        BODY / 2,
        body_end - 1,
    ];
    let padding = [body_end, body_end + 1, FRAME - 1];
    header.chain(body).chain(padding).collect()
}

#[test]
fn a_flipped_bit_anywhere_is_damage() {
    let mut cases = 0;
    for frame in 1..=8 {
        let (place, disk) = journal();
        remove_side_cars(&place, &disk);
        let (first, offset) = segment_of(frame);
        for class in offset_classes() {
            let bit = ((offset + class) * 8 + class % 8) as u64;
            disk.flip_bit(&place.segment(first), bit);
            assert_damaged(&place, frame);
            disk.flip_bit(&place.segment(first), bit);
            cases += 1;
        }
        assert_eq!(content(&open(&place).unwrap().0.reader()).len(), 8, "all is well once the bits are back");
    }
    println!("{cases} cases");
}

/// A zero sector may be a lost write only in the last frame.
#[test]
fn a_lost_sector_is_a_torn_tail_in_the_last_frame_and_damage_before() {
    let mut cases = 0;
    for frame in 1..=8 {
        let (place, disk) = journal();
        remove_side_cars(&place, &disk);
        let (first, offset) = segment_of(frame);
        let path = place.segment(first);
        let whole = disk.read_file(&path).unwrap();
        for sector in 0..(HEADER + BODY + 1).div_ceil(SECTOR) {
            let mut torn = whole.clone();
            let lost = &mut torn[offset + sector * SECTOR..][..SECTOR];
            if lost.iter().all(|byte| *byte == 0) {
                continue;
            }
            lost.fill(0);
            disk.write_file(&path, torn);
            if frame < 8 {
                assert_damaged(&place, frame);
            } else {
                let (reader, seen) =
                    Reader::open_read_only_on(&place.directory, Arc::clone(&place.disk)).unwrap();
                // Without the header nothing tells the size of the frame but its last byte that is not zero.
                let last_written = whole.iter().rposition(|byte| *byte != 0).unwrap() - offset;
                let size_bytes =
                    if sector == 0 { last_written.next_multiple_of(BLOCK_SIZE_BYTES) } else { FRAME } as u64;
                assert_eq!((content(&reader).len(), seen.torn_tail_bytes), (7, size_bytes));
                let (mut appender, recovered) = open(&place).unwrap();
                assert_eq!(
                    (recovered.last.unwrap().index, recovered.torn_tail_bytes),
                    (index(7), size_bytes)
                );
                append(&mut appender, &[30, 40_000]);
                assert_eq!(open(&place).unwrap().1.torn_tail_bytes, 0);
                appender.truncate_after(index(7)).unwrap();
            }
            cases += 1;
        }
    }
    println!("{cases} cases");
}

/// Every prefix of the last frame's sectors, and every group of two frames with one lost sector.
#[test]
fn torn_writes_of_several_frames_are_cut_whole() {
    let mut cases = 0;
    for sector in 0..2 * FRAME / SECTOR {
        for keep_rest in [false, true] {
            let (place, disk) = Place::faulty(4);
            let mut appender = place.open();
            append(&mut appender, &[100]);
            // The bodies fill their last sector.
            let body = |byte| vec![byte; FRAME - HEADER];
            let group =
                (0..2).map(|at| draft(appender.buffer(), 1, 3 + at, 1, &body(at as u8 + 1))).collect();
            appender.append(group).unwrap();
            drop(appender);
            let path = place.segment(1);
            let mut bytes = disk.read_file(&path).unwrap();
            let start = BLOCK_SIZE_BYTES + sector * SECTOR;
            let end = if keep_rest { start + SECTOR } else { BLOCK_SIZE_BYTES + 2 * FRAME };
            bytes[start..end].fill(0);
            disk.write_file(&path, bytes);
            let whole = 1 + sector / (FRAME / SECTOR);
            let (appender, recovered) = open(&place).unwrap();
            assert_eq!(
                recovered.last.unwrap().index,
                index(whole as u64),
                "sector {sector}, rest {keep_rest}"
            );
            assert_eq!(content(&appender.reader()).len(), whole);
            cases += 1;
        }
    }
    println!("{cases} cases");
}

#[test]
fn bytes_after_the_last_frame_are_cut_or_refused() {
    let (place, disk) = journal();
    let (first, offset) = segment_of(8);
    let path = place.segment(first);
    let whole = disk.read_file(&path).unwrap();
    let tail = offset + FRAME;
    let mut cases = 0;
    // The sector of a header that is neither zero nor a header was never written by a journal.
    for (at, is_torn) in [
        (0, false),
        (SECTOR - 1, false),
        (SECTOR, true),
        (4095, true),
        (4096, true),
        (whole.len() - tail - 1, true),
    ] {
        let mut bytes = whole.clone();
        bytes[tail + at] = 1;
        disk.write_file(&path, bytes);
        if is_torn {
            let (_, recovered) = open(&place).unwrap();
            let expected = (at + 1).next_multiple_of(BLOCK_SIZE_BYTES) as u64;
            assert_eq!((recovered.last.unwrap().index, recovered.torn_tail_bytes), (index(8), expected));
            assert!(disk.read_file(&path).unwrap() == whole, "the tail is zero again");
        } else {
            assert!(matches!(open(&place), Err(OpenError::Damaged(damage)) if damage.index == index(9)));
        }
        cases += 1;
    }
    println!("{cases} cases");
}

#[test]
fn damage_behind_a_side_car_is_found_when_it_is_read() {
    let (place, disk) = journal();
    let mut cases = 0;
    for frame in 1..=6 {
        let (first, offset) = segment_of(frame);
        for class in offset_classes() {
            let bit = ((offset + class) * 8) as u64;
            disk.flip_bit(&place.segment(first), bit);
            let (appender, _) = open(&place).unwrap();
            let reader = appender.reader();
            let sequence = Sequence(2 * frame as u64);
            for found in [reader.frame_at(index(frame as u64)), reader.frame_containing(sequence)] {
                let Err(ReadError::Damaged(damage)) = found else { panic!("byte {class} of frame {frame}") };
                assert_eq!((damage.index, damage.offset), (index(frame as u64), offset as u64));
            }
            let walked: Vec<_> = reader.frames_from(index(1)).collect();
            assert_eq!(walked.len(), frame, "the walk ends with the error");
            assert!(
                matches!(walked.last(), Some(Err(ReadError::Damaged(damage))) if damage.index == index(frame as u64))
            );
            disk.flip_bit(&place.segment(first), bit);
            cases += 1;
        }
    }
    println!("{cases} cases");
}

#[test]
fn missing_and_foreign_files_are_refused() {
    type Change = fn(&Place, &FaultyDisk);
    let swapped: Change = |place, disk| {
        // The frames of the last segment in the other order: each whole, the chain broken.
        let mut bytes = disk.read_file(&place.segment(7)).unwrap();
        bytes[..2 * FRAME].rotate_left(FRAME);
        disk.write_file(&place.segment(7), bytes);
    };
    let rows: [(&str, Change, u64); 9] = [
        ("first segment", |place, disk| disk.remove_file(&place.segment(1)), 1),
        ("middle segment", |place, disk| disk.remove_file(&place.segment(4)), 4),
        ("last segment", |place, disk| disk.remove_file(&place.segment(7)), 7),
        (
            "all segments",
            |place, disk| [1, 4, 7].iter().for_each(|first| disk.remove_file(&place.segment(*first))),
            1,
        ),
        ("journal.meta", |place, disk| disk.remove_file(&place.directory.join("journal.meta")), 1),
        ("segment cut short", |place, disk| cut_short(place, disk, 7, 5000), 7),
        ("segment of no bytes", |place, disk| cut_short(place, disk, 7, 0), 7),
        ("frames swapped", swapped, 7),
        (
            "segment of zeros in the middle",
            |place, disk| disk.write_file(&place.segment(4), vec![0; 65_536]),
            4,
        ),
    ];
    for (name, change, frame) in rows {
        let (place, disk) = journal();
        remove_sealed_side_car_if_needed(&place, &disk, name);
        change(&place, &disk);
        match open(&place) {
            Err(OpenError::Damaged(damage)) => assert_eq!(damage.index, index(frame), "{name}: {damage}"),
            other => panic!("{name}: {:?}", other.map(|(_, recovered)| recovered)),
        }
    }
    println!("{} cases", rows.len());
}

/// Zeros in a sealed segment hide behind its side-car until they are read.
fn remove_sealed_side_car_if_needed(place: &Place, disk: &FaultyDisk, name: &str) {
    if name.contains("zeros") {
        disk.remove_file(&side_car_path(&place.directory, 4));
    }
}

fn cut_short(place: &Place, disk: &FaultyDisk, first: u64, size_bytes: usize) {
    let mut bytes = disk.read_file(&place.segment(first)).unwrap();
    bytes.truncate(size_bytes);
    disk.write_file(&place.segment(first), bytes);
}

#[test]
fn other_versions_are_named() {
    let mut cases = 0;
    for version in [0_u16, 2, 3, 0xffff] {
        let (place, disk) = journal();
        let path = place.segment(7);
        let whole = disk.read_file(&path).unwrap();
        let mut bytes = whole.clone();
        bytes[8..10].copy_from_slice(&version.to_le_bytes());
        let checksum = blake3::hash(&bytes[..136]);
        bytes[136..144].copy_from_slice(&checksum.as_bytes()[..8]);
        disk.write_file(&path, bytes);
        let refused = open(&place).err().unwrap();
        assert!(
            matches!(&refused, OpenError::UnsupportedVersion { found, supported: 1, .. } if *found == version)
        );
        disk.write_file(&path, whole);

        let path = place.directory.join("journal.meta");
        let mut bytes = disk.read_file(&path).unwrap();
        bytes[8..10].copy_from_slice(&version.to_le_bytes());
        let checksum = blake3::hash(&bytes[..96]);
        bytes[96..128].copy_from_slice(checksum.as_bytes());
        disk.write_file(&path, bytes);
        let refused = open(&place).err().unwrap();
        assert!(refused.to_string().contains("use the software that wrote it"), "{refused}");
        assert!(
            matches!(&refused, OpenError::UnsupportedVersion { found, supported: 1, .. } if *found == version)
        );
        cases += 2;
    }
    println!("{cases} cases");
}

#[test]
fn every_byte_of_the_meta_file_counts() {
    let (place, disk) = journal();
    let path = place.directory.join("journal.meta");
    for byte in 0..128 {
        disk.flip_bit(&path, byte * 8 + byte % 8);
        assert!(
            matches!(open(&place), Err(OpenError::Damaged(damage)) if damage.segment == path),
            "byte {byte}"
        );
        disk.flip_bit(&path, byte * 8 + byte % 8);
    }
    assert!(open(&place).is_ok());
    println!("128 cases");
}
