//! The journal with its threads: order, limits, and what happens to those who wait.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use storage::journal::faulty::{Fault, Planned, Tear};
use storage::journal::{AppendError, Journal, Options, Reader, Sequence};

use crate::harness::{Place, body, content, draft, index, options};

/// Only to turn a hang into a failure.
const PATIENCE: Duration = Duration::from_secs(30);

fn open(place: &Place, options: Options) -> Journal {
    let on_fatal = Box::new(|error| panic!("{error}"));
    Journal::open(&place.directory, options, Arc::clone(&place.disk), on_fatal).unwrap().0
}

#[test]
fn frames_are_called_back_in_order_and_seen_by_readers_by_then() {
    let mut frames = 0;
    for place in Place::all() {
        let journal = open(&place, options());
        let (durable, order) = channel();
        for sequence in 1..=300_u64 {
            let body = body(sequence, (sequence * 97 % 9000) as usize);
            let (durable, reader) = (durable.clone(), journal.reader());
            let callback = move |frame: Arc<storage::journal::Frame>| {
                assert_eq!(reader.last().map(|last| last.index >= frame.index()), Some(true));
                durable.send(frame).unwrap();
            };
            let given =
                journal.append(draft(journal.buffer(), 1, sequence, 1, &body), Box::new(callback)).unwrap();
            assert_eq!(given, index(sequence));
        }
        // Dropping writes what was handed over.
        let reader = journal.reader();
        drop(journal);
        drop(durable);
        let called: Vec<_> = order.iter().collect();
        assert_eq!(called.len(), 300);
        for (frame, sequence) in called.iter().zip(1..) {
            assert_eq!((frame.index().0, frame.first_sequence().0), (sequence, sequence));
            assert_eq!(frame.body(), body(sequence, (sequence * 97 % 9000) as usize));
        }
        assert_eq!(content(&reader).len(), 300);
        assert_eq!(content(&place.open().reader()), content(&reader));
        frames += called.len();
    }
    println!("{frames} cases");
}

#[test]
fn readers_follow_the_writer() {
    for place in Place::all() {
        let journal = open(&place, options());
        let written = Arc::new(AtomicU64::new(0));
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                let (reader, done, written) = (journal.reader(), &done, &written);
                scope.spawn(move || {
                    let mut frames = reader.frames_from(index(1));
                    let mut next = 1;
                    loop {
                        let finished = done.load(Ordering::Acquire);
                        for frame in frames.by_ref() {
                            assert_eq!(frame.unwrap().index().0, next);
                            next += 1;
                        }
                        assert!(next > written.load(Ordering::Acquire) || !finished);
                        if finished {
                            break;
                        }
                        let sequence = Sequence(1 + next / 2);
                        let found = reader.frame_containing(sequence).unwrap();
                        assert!(found.is_none_or(|frame| frame.header().contains(sequence)));
                        std::thread::yield_now();
                    }
                    assert_eq!(next, 401);
                });
            }
            for sequence in 1..=400_u64 {
                let next = draft(journal.buffer(), 1, sequence, 1, &body(sequence, 3000));
                let written = Arc::clone(&written);
                let callback = move |frame: Arc<storage::journal::Frame>| {
                    written.store(frame.index().0, Ordering::Release)
                };
                journal.append(next, Box::new(callback)).unwrap();
            }
            journal.truncate_after(index(400)).unwrap();
            done.store(true, Ordering::Release);
        });
        println!("{}: 800 cases", place.name);
    }
}

/// A process of its own would see just this: the directory, and no word from the writer.
#[test]
fn a_journal_is_opened_as_it_stands_beside_its_writer() {
    let mut cases = 0;
    for place in Place::all() {
        let journal = open(&place, options());
        let written = AtomicU64::new(0);
        std::thread::scope(|scope| {
            let (journal, written) = (&journal, &written);
            scope.spawn(move || {
                for sequence in 1..=600_u64 {
                    let next = draft(
                        journal.buffer(),
                        1,
                        sequence,
                        1,
                        &body(sequence, (sequence * 97 % 9000) as usize),
                    );
                    let (durable, wait) = channel();
                    journal.append(next, Box::new(move |_| _ = durable.send(()))).unwrap();
                    // Many in one write, and one alone.
                    if sequence % 7 == 0 {
                        wait.recv().unwrap();
                        written.store(sequence, Ordering::Release);
                    }
                }
                written.store(u64::MAX, Ordering::Release);
            });
            loop {
                let before = written.load(Ordering::Acquire);
                let opened = Reader::open_read_only_on(&place.directory, Arc::clone(&place.disk));
                let (reader, _) = opened.unwrap_or_else(|error| panic!("{}: {error}", place.name));
                let frames = content(&reader);
                assert!(before == u64::MAX || frames.len() as u64 >= before, "{}", place.name);
                for ((index, sequence, found), number) in frames.iter().zip(1..) {
                    assert_eq!((*index, *sequence), (number, number));
                    assert_eq!(*found, body(number, (number * 97 % 9000) as usize));
                }
                cases += 1;
                if before == u64::MAX {
                    break;
                }
            }
        });
    }
    println!("{cases} cases");
}

#[test]
fn appending_waits_at_the_limit() {
    let (place, _) = Place::faulty(1);
    let journal = open(&place, Options { in_flight_frames_max: 3, ..options() });
    let (release, gate) = channel::<()>();
    let (entered, inside) = channel();
    let gate = Mutex::new(gate);
    let first = draft(journal.buffer(), 1, 1, 1, b"blocks the writer");
    let callback = move |_| {
        entered.send(()).unwrap();
        gate.lock().unwrap().recv().unwrap();
    };
    journal.append(first, Box::new(callback)).unwrap();
    inside.recv().unwrap();
    // The first frame is durable and no longer counts: three more fit, the fourth must wait.
    std::thread::scope(|scope| {
        let (appended, progress) = channel();
        let journal = &journal;
        scope.spawn(move || {
            for sequence in 2..=5_u64 {
                let next = draft(journal.buffer(), 1, sequence, 1, b"waits");
                journal.append(next, Box::new(|_| {})).unwrap();
                appended.send(sequence).unwrap();
            }
        });
        assert_eq!([2, 3, 4].map(|_| progress.recv_timeout(PATIENCE).unwrap()), [2, 3, 4]);
        assert_eq!(journal.in_flight().frames, 3);
        assert_eq!(progress.recv_timeout(Duration::from_millis(50)), Err(RecvTimeoutError::Timeout));
        release.send(()).unwrap();
        assert_eq!(progress.recv_timeout(PATIENCE), Ok(5));
    });
    drop(journal);
    assert_eq!(content(&place.open().reader()).len(), 5);
    println!("1 case");
}

/// Whatever fails, and wherever: told once, nothing called back afterwards, everybody woken.
#[test]
fn a_fatal_error_is_told_once_and_nobody_waits_for_ever() {
    let mut cases = 0;
    for fault in [Fault::NoSpace, Fault::InputOutput(Tear::Random), Fault::Sync(Tear::One), Fault::ShortWrite]
    {
        for operation in 0..25 {
            let (place, disk) = Place::faulty(operation);
            let fatal = Arc::new(AtomicU64::new(0));
            let told = Arc::clone(&fatal);
            let on_fatal = Box::new(move |_| {
                told.fetch_add(1, Ordering::SeqCst);
            });
            let small = Options { in_flight_frames_max: 4, ..options() };
            let (journal, _) =
                Journal::open(&place.directory, small, Arc::clone(&place.disk), on_fatal).unwrap();
            disk.plan(Planned { operation: disk.operations() + operation, fault });
            let durable = Arc::new(Mutex::new(Vec::new()));
            let mut stopped = false;
            for sequence in 1..=40_u64 {
                let next = draft(journal.buffer(), 1, sequence, 1, &[3; 15_000]);
                let (called, fatal) = (Arc::clone(&durable), Arc::clone(&fatal));
                let callback = move |frame: Arc<storage::journal::Frame>| {
                    assert_eq!(fatal.load(Ordering::SeqCst), 0, "no answer after the failure");
                    called.lock().unwrap().push(frame.index().0);
                };
                match journal.append(next, Box::new(callback)) {
                    Ok(_) => assert!(!stopped, "once refused, always refused"),
                    Err(AppendError::Stopped(_)) => stopped = true,
                    Err(other) => panic!("{other}"),
                }
            }
            if stopped {
                assert!(
                    journal.truncate_after(index(0)).is_err() && journal.release_before(index(1)).is_err()
                );
            }
            drop(journal);
            let durable = durable.lock().unwrap();
            assert_eq!(*durable, (1..=durable.len() as u64).collect::<Vec<_>>(), "in order, without a gap");
            let expected = u64::from(durable.len() < 40);
            assert_eq!(fatal.load(Ordering::SeqCst), expected, "{fault:?} at {operation}");
            disk.restart();
            let frames = content(&place.open().reader());
            assert!(frames.len() >= durable.len(), "{fault:?} at {operation}");
            cases += 1;
        }
    }
    println!("{cases} cases");
}

#[test]
fn truncation_and_release_take_their_turn() {
    for place in Place::all() {
        let journal = open(&place, options());
        let mut sequence = 1;
        let mut held = 0;
        for round in 0..10_u64 {
            for _ in 0..20 {
                let next = draft(journal.buffer(), round, sequence, 1, &body(sequence, 9000));
                journal.append(next, Box::new(|_| {})).unwrap();
                sequence += 1;
                held += 1;
            }
            journal.truncate_after(index(held - 5)).unwrap();
            held -= 5;
            sequence -= 5;
            assert_eq!((journal.last().unwrap().index, journal.next_index()), (index(held), index(held + 1)));
            journal.release_before(index(held - 8)).unwrap();
        }
        let expected = content(&journal.reader());
        assert!(expected.len() < 20 && expected.last().unwrap().0 == held);
        drop(journal);
        assert_eq!(content(&place.open().reader()), expected);
        println!("{}: 10 cases", place.name);
    }
}

#[test]
fn buffers_come_back() {
    let (place, _) = Place::faulty(1);
    let journal = open(&place, options());
    let (durable, wait) = channel();
    let mut addresses = std::collections::BTreeSet::new();
    for sequence in 1..=50_u64 {
        let next = draft(journal.buffer(), 1, sequence, 1, &[1; 30_000]);
        addresses.insert(next.body.as_slice().as_ptr().addr());
        let durable = durable.clone();
        journal.append(next, Box::new(move |frame| durable.send(frame).unwrap())).unwrap();
        drop(wait.recv().unwrap());
    }
    assert!(addresses.len() <= 3, "{} buffers for one frame at a time", addresses.len());
    println!("50 cases");
}
