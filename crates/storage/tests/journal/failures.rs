//! A disk that fails: the journal stops, once, and says nothing that is not so.

use std::path::Path;
use std::sync::Arc;

use storage::journal::faulty::{Fault, Planned, Tear};
use storage::journal::{AppendError, Appender, DiskKind, JournalError, OpenError, Reader};

use crate::harness::{Place, append, content, draft, next_sequence, options};

const FAULTS: [Fault; 10] = [
    Fault::NoSpace,
    Fault::ReadOnly,
    Fault::ShortWrite,
    Fault::InputOutput(Tear::All),
    Fault::InputOutput(Tear::Suffix),
    Fault::InputOutput(Tear::Random),
    Fault::Sync(Tear::All),
    Fault::Sync(Tear::Suffix),
    Fault::Sync(Tear::Random),
    Fault::Sync(Tear::One),
];

/// Every fault, at every operation of a short life, with and without a power failure after it.
#[test]
fn a_failed_operation_stops_the_journal_and_loses_nothing() {
    let mut cases = 0;
    for fault in FAULTS {
        for operation in 0.. {
            for power_fails in [false, true] {
                let (place, disk) = Place::faulty(operation * 31 + u64::from(power_fails));
                let mut appender = place.open();
                let start = disk.operations();
                disk.plan(Planned { operation: start + operation, fault });
                let mut durable = 0;
                let failed = loop {
                    let sequence = next_sequence(&appender);
                    let next = draft(appender.buffer(), 1, sequence, 1, &[9; 20_000]);
                    match appender.append(vec![next]) {
                        Ok(_) if durable == 8 => break None,
                        Ok(_) => durable += 1,
                        Err(error) => break Some(error),
                    }
                };
                // A side-car that cannot be written is no reason to stop.
                if failed.is_some() {
                    let sequence = next_sequence(&appender);
                    let next = draft(appender.buffer(), 1, sequence, 1, b"later");
                    let refused = appender.append(vec![next]);
                    assert!(matches!(refused, Err(AppendError::Stopped(JournalError::Io { .. }))));
                    assert_eq!(content(&appender.reader()).len(), durable, "only durable frames are seen");
                    assert_eq!(appender.last().map_or(0, |last| last.index.0), durable as u64);
                }
                drop(appender);
                disk.clear_plan();
                if power_fails {
                    disk.restart();
                }
                let frames = content(&place.open().reader()).len();
                assert!(
                    frames == durable || frames == durable + 1,
                    "{fault:?} at {operation}: {frames}, not {durable}"
                );
                // What was found on opening counts from then on: a power failure must not take it away.
                disk.crash();
                disk.restart();
                assert_eq!(content(&place.open().reader()).len(), frames, "{fault:?} at {operation}");
                cases += 1;
            }
            if operation > 40 {
                break;
            }
        }
    }
    println!("{cases} cases");
}

#[test]
fn a_failure_while_opening_is_an_error_that_names_the_file() {
    let mut cases = 0;
    for fault in FAULTS {
        for fresh in [true, false] {
            for operation in 0.. {
                let (place, disk) = Place::faulty(operation);
                if !fresh {
                    append(&mut place.open(), &[20_000; 7]);
                }
                disk.plan(Planned { operation: disk.operations() + operation, fault });
                let before = disk.operations();
                match Appender::open(&place.directory, &options(), Arc::clone(&place.disk)) {
                    Ok(_) if disk.operations() - before <= operation => break,
                    Ok(_) => {}
                    Err(OpenError::Io(JournalError::Io { path, .. })) => {
                        assert!(path.starts_with(&place.directory))
                    }
                    Err(other) => panic!("{fault:?} at {operation}: {other}"),
                }
                disk.clear_plan();
                assert_eq!(content(&place.open().reader()).len(), if fresh { 0 } else { 7 });
                cases += 1;
            }
        }
    }
    println!("{cases} cases");
}

#[test]
fn a_directory_that_cannot_be_used_is_named() {
    let kept = tempfile::tempdir().unwrap();
    let file = kept.path().join("file");
    std::fs::write(&file, b"no directory").unwrap();
    for kind in [DiskKind::Direct, DiskKind::Mmap] {
        for directory in [kept.path().join("missing"), file.clone()] {
            let refused = Appender::open(&directory, &options(), kind.disk()).err().unwrap();
            assert!(matches!(&refused, OpenError::Directory { path, .. } if *path == directory), "{refused}");
        }
    }
    let refused = Reader::open_read_only(Path::new("/nowhere at all")).err().unwrap();
    assert!(refused.to_string().contains("create it, or mend its path or permissions"));
    assert!(
        matches!(Reader::open_read_only(kept.path()), Err(OpenError::Io(_))),
        "a directory without a journal"
    );
    println!("6 cases");
}
