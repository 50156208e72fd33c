//! Frame bodies: every event is found alone as it is found in order, and damaged bytes are an error, never a panic.

use ledger::codec::{BODY_VERSION, Body, BodyWriter, CodecError, Entry, Step};
use ledger::{Command, Decision, Event, Sequence, State, Timestamp};

use crate::generator::history;
use crate::harness::{Harness, bytes_of};
use crate::random::{Random, for_each_seed};

const FIRST: Sequence = Sequence(1_000_000);

/// A body of a random history, some of its commands over and over, so that it has several restarts.
fn body_of(seed: u64, steps: usize) -> Vec<u8> {
    let mut harness = Harness::new();
    for step in history(seed, steps) {
        harness.step(&step);
    }
    let mut writer = BodyWriter::new();
    for (command, events) in &harness.history {
        writer.push(command, events);
    }
    bytes_of(&writer)
}

/// Reads everything there is to read, each event alone too. Whatever the bytes, it must come to an end.
fn read_all(bytes: &[u8], first_sequence: Sequence) -> Result<Vec<Entry>, CodecError> {
    let body = Body::parse(bytes, first_sequence)?;
    let count = u64::from(body.event_count()).min(200);
    for ordinal in (0..count).chain([u64::from(body.event_count()), u64::MAX - first_sequence.0]) {
        if let Ok(entry) = body.entry_of(Sequence(first_sequence.0 + ordinal)) {
            let found = entry.sequenced().any(|(sequence, _)| sequence.0 == first_sequence.0 + ordinal);
            assert!(found, "an entry without the event that was asked for");
        }
    }
    body.entries().collect()
}

#[test]
fn each_event_is_found_alone() {
    for_each_seed("each_event_is_found_alone", 12, |seed| {
        let bytes = body_of(seed, 400);
        let body = Body::parse(&bytes, FIRST).unwrap();
        let mut next = FIRST;
        let mut commands = 0;
        for entry in body.entries() {
            let entry = entry.unwrap();
            assert_eq!(entry.first_sequence, next);
            for (sequence, _) in entry.sequenced() {
                assert_eq!(body.entry_of(sequence).as_ref(), Ok(&entry));
            }
            next = Sequence(next.0 + entry.events.len() as u64);
            commands += 1;
        }
        assert_eq!(next.0 - FIRST.0, u64::from(body.event_count()));
        assert_eq!(commands, body.command_count());
        let steps = body.steps().map(|step| match step.unwrap() {
            Step::Plain(transfer) => transfer.into_entry(),
            Step::Entry(entry) => *entry,
        });
        assert_eq!(steps.collect::<Vec<_>>(), body.entries().map(Result::unwrap).collect::<Vec<_>>());
        for outside in [Sequence(0), Sequence(FIRST.0 - 1), next, Sequence(u64::MAX)] {
            assert_eq!(body.entry_of(outside), Err(CodecError::Invalid("sequence")));
        }
    });
}

#[test]
fn a_restart_stands_before_every_64th_command() {
    let (state, now) = (State::new(), Timestamp::from_micros(1));
    let open = Command::OpenAccount {
        account_id: ledger::AccountId::parse("alice").unwrap(),
        metadata: Default::default(),
    };
    let Decision::Accepted(events) = state.decide(&open, now, None) else { panic!("refused") };
    for commands in [0, 1, 63, 64, 65, 127, 128, 129, 1000] {
        let mut writer = BodyWriter::new();
        // What was there before is forgotten.
        writer.push(&open, &events);
        writer.clear();
        for _ in 0..commands {
            writer.push(&open, &events);
        }
        let bytes = bytes_of(&writer);
        let body = Body::parse(&bytes, FIRST).unwrap();
        assert_eq!((body.command_count(), body.event_count()), (commands, commands));
        for ordinal in 0..u64::from(commands) {
            let sequence = Sequence(FIRST.0 + ordinal);
            assert_eq!(body.entry_of(sequence).unwrap().first_sequence, sequence);
        }
    }
}

#[test]
fn the_hot_path_writes_the_same_bytes() {
    for_each_seed("the_hot_path_writes_the_same_bytes", 12, |seed| {
        let mut harness = Harness::new();
        for step in history(seed, 250) {
            harness.step(&step);
        }
        let (mut one, mut two) = (BodyWriter::new(), BodyWriter::new());
        for (command, events) in &harness.history {
            one.push(command, events);
            match (command, events.as_slice()) {
                (Command::Transfer(transfer), [Event::Transferred { movement, .. }]) => {
                    two.push_transfer(transfer, &Ok(*movement));
                }
                (Command::Transfer(transfer), [Event::Refused { refusal, .. }]) => {
                    two.push_transfer(transfer, &Err(*refusal));
                }
                _ => two.push(command, events),
            }
        }
        assert_eq!(bytes_of(&one), bytes_of(&two));
    });
}

#[test]
fn every_shorter_body_is_an_error() {
    for_each_seed("every_shorter_body_is_an_error", 3, |seed| {
        let bytes = body_of(seed, 60);
        assert!(read_all(&bytes, FIRST).is_ok());
        for size in 0..bytes.len() {
            let outcome = read_all(&bytes[..size], FIRST);
            // A cut between two restarts leaves all commands whole; the frame's checksum tells that one.
            let in_restarts = bytes.len() - size < 24 && (bytes.len() - size).is_multiple_of(12);
            assert!(outcome.is_err() || in_restarts, "cut to {size} of {} bytes", bytes.len());
        }
    });
}

/// 40,000 damaged bodies: bits turned, bytes overwritten with telling values, runs moved, cut out or put in.
#[test]
fn damaged_bodies_never_panic() {
    const BODIES: u64 = 40;
    const DAMAGES: u64 = 1000;
    for_each_seed("damaged_bodies_never_panic", BODIES, |seed| {
        let whole = body_of(seed, 80);
        let mut random = Random::new(!seed);
        for _ in 0..DAMAGES {
            let mut bytes = whole.clone();
            for _ in 0..=random.below(3) {
                damage(&mut bytes, &mut random);
            }
            let first = *random.pick(&[0, 1, FIRST.0, u64::MAX - 70, u64::MAX]);
            let _ = read_all(&bytes, Sequence(first));
        }
    });
}

/// Bytes that never were a body, behind a header that says they are.
#[test]
fn noise_never_panics() {
    for_each_seed("noise_never_panics", 20_000, |seed| {
        let mut random = Random::new(seed);
        let sizes = [random.below(300), random.below(300), random.below(5) * 12];
        let mut bytes = vec![BODY_VERSION, 0, 0, 0];
        for field in [random.below(5), random.below(100), sizes[0], sizes[1]] {
            bytes.extend_from_slice(&(field as u32).to_le_bytes());
        }
        for _ in 0..sizes.iter().sum() {
            // Small numbers, so that tags and sizes are often possible ones.
            let byte = if random.percent(60) { random.below(12) } else { random.next() };
            bytes.push(byte as u8);
        }
        let _ = read_all(&bytes, FIRST);
    });
}

fn damage(bytes: &mut Vec<u8>, random: &mut Random) {
    if bytes.is_empty() {
        return;
    }
    let at = random.below(bytes.len() as u64) as usize;
    // The header decides most, and is hit too seldom by chance.
    let at = if random.percent(20) { at % 20.min(bytes.len()) } else { at };
    let end = (at + 1 + random.below(40) as usize).min(bytes.len());
    match random.below(6) {
        0 => bytes[at] ^= 1 << random.below(8),
        1 => bytes[at] = *random.pick(&[0, 1, 0x7f, 0x80, 0xff]),
        2 => bytes[at] = random.next() as u8,
        3 => drop(bytes.drain(at..end)),
        4 => {
            let run = bytes[at..end].to_vec();
            let to = random.below(bytes.len() as u64 + 1) as usize;
            bytes.splice(to..to, run);
        }
        _ => bytes[at..end].fill(*random.pick(&[0, 0xff])),
    }
}

#[test]
fn other_versions_are_named() {
    let mut bytes = body_of(1, 20);
    for found in [0, BODY_VERSION + 1, u8::MAX] {
        bytes[0] = found;
        let error = Body::parse(&bytes, FIRST).unwrap_err();
        assert_eq!(error, CodecError::UnsupportedVersion { found });
        assert_eq!(error.to_string(), format!("frame body of version {found}, this program reads version 1"));
    }
    assert_eq!(Body::parse(&[], FIRST).err(), Some(CodecError::Truncated));
}

/// An entry of the restart table that points behind the event asked for must not answer with another event.
#[test]
fn a_false_restart_is_an_error() {
    let mut bytes = body_of(2, 30);
    let ordinal_at = bytes.len() - 4;
    assert_eq!(bytes[ordinal_at..], 0u32.to_le_bytes(), "a short body has one restart, at its first event");
    bytes[ordinal_at] = 3;
    let body = Body::parse(&bytes, FIRST).unwrap();
    for ordinal in 0..3 {
        assert_eq!(body.entry_of(Sequence(FIRST.0 + ordinal)), Err(CodecError::Invalid("restart table")));
    }
}

/// Two bytes an event, thousands of events: what damaged bytes announce is not collected.
#[test]
fn a_command_has_no_more_events_than_a_group() {
    let mut writer = BodyWriter::new();
    let legs = vec![ledger::Transfer {
        transaction_id: ledger::TransactionId(2),
        kind: ledger::TransferKind::Transfer,
        from: ledger::AccountNumber(1).into(),
        to: ledger::AccountNumber(2).into(),
        amount: ledger::Amount::MAX,
        currency: ledger::Currency::parse("USD").unwrap(),
        metadata: Default::default(),
    }];
    let transaction_id = ledger::TransactionId(1);
    let group = Command::Group(Box::new(ledger::Group { transaction_id, legs }));
    let committed = Event::GroupCommitted { transaction_id, legs: 1 };
    writer.push(&group, &vec![committed.clone(); 65]);
    let bytes = bytes_of(&writer);
    assert_eq!(read_all(&bytes, FIRST).unwrap()[0].events.len(), 65);

    let mut longer = bytes.clone();
    let events_at = 20 + u32::from_le_bytes(bytes[12..16].try_into().unwrap()) as usize;
    let more: Vec<u8> = bytes[events_at..events_at + 2].to_vec();
    longer.splice(events_at..events_at, more);
    longer[8] += 1;
    longer[16] += 2;
    assert_eq!(read_all(&longer, FIRST), Err(CodecError::Invalid("event count")));
}
