//! Random lives of a journal, each cut short at a random operation, and the next one begun on what is left.

use std::sync::Arc;

use fastrand::Rng;
use storage::journal::faulty::{Fault, FaultyDisk, Planned, Tear};
use storage::journal::{Appender, FrameIndex, Reader};

use crate::harness::{Place, content, draft, index, options, random_body};

/// `JIGAP_SEED=17` runs that seed alone.
const SEEDS: u64 = 1_000;
const LIVES_PER_SEED: u64 = 4;
const STEPS_PER_LIFE_MAX: u64 = 40;

type Content = Vec<(u64, u64, Vec<u8>)>;

/// What must, and what may, be there after a crash.
struct Model {
    /// Frames that were acknowledged, from index 1 on, released ones included.
    durable: Content,
    /// Frames that were being written, or removed, when the disk failed: any number of them from the start may be there.
    possible: Content,
    /// The journal begins at or before this frame.
    released_before: u64,
    term: u64,
}

impl Model {
    fn next_sequence(&self) -> u64 {
        self.durable.last().map_or(1, |(_, sequence, _)| sequence + 1)
    }

    /// One random thing; `Err` when the disk failed.
    fn step(&mut self, appender: &mut Appender, random: &mut Rng) -> Result<(), ()> {
        let count = self.durable.len() as u64;
        match random.u64(..20) {
            0 if count > 0 => {
                let first = appender.reader().first_index().0;
                let after = first - 1 + random.u64(..count + 2 - first);
                self.possible = self.durable.split_off(after as usize);
                appender.truncate_after(FrameIndex(after)).map_err(|_| ())?;
                self.possible.clear();
                self.term += 1;
                Ok(())
            }
            1 => {
                let before = 1 + random.u64(..count + 1);
                self.released_before = self.released_before.max(before);
                appender.release_before(FrameIndex(before)).map_err(|_| ())
            }
            _ => self.append(appender, random),
        }
    }

    fn append(&mut self, appender: &mut Appender, random: &mut Rng) -> Result<(), ()> {
        let mut drafts = Vec::new();
        for at in 0..1 + random.u64(..4) {
            let size_bytes = match random.u64(..4) {
                0 => random.u64(..60_000),
                _ => random.u64(..6_000),
            };
            let body = random_body(random, size_bytes as usize);
            let sequence = self.next_sequence() + at;
            drafts.push(draft(appender.buffer(), self.term, sequence, 1, &body));
            self.possible.push((self.durable.len() as u64 + 1 + at, sequence, body));
        }
        let frames = appender.append(drafts).map_err(|_| ())?;
        assert_eq!(frames.len(), self.possible.len());
        self.durable.append(&mut self.possible);
        Ok(())
    }

    /// Compares with what is there, which is what counts from now on.
    fn reconcile(&mut self, found: Content, first_index: u64) {
        assert!(first_index <= self.released_before.max(1), "{first_index} was not to be released");
        let released = first_index as usize - 1;
        assert!(released <= self.durable.len(), "acknowledged frames are missing");
        let acknowledged = self.durable.len() - released;
        assert!(found.len() >= acknowledged, "{} frames found, {acknowledged} acknowledged", found.len());
        assert!(found[..acknowledged] == self.durable[released..], "an acknowledged frame has changed");
        let more = &found[acknowledged..];
        assert!(more.len() <= self.possible.len(), "frames from nowhere");
        assert!(*more == self.possible[..more.len()], "a frame that was never written");
        self.durable.extend_from_slice(more);
        self.possible.clear();
        // Sequences go on after the frames that are there.
        self.term += 1;
    }
}

fn random_fault(random: &mut Rng) -> Fault {
    let tear = [Tear::All, Tear::Suffix, Tear::Random, Tear::One][random.u64(..4) as usize];
    match random.u64(..10) {
        0 => Fault::NoSpace,
        1 => Fault::ShortWrite,
        2 => Fault::InputOutput(tear),
        3 | 4 => Fault::Sync(tear),
        _ => Fault::Crash(tear),
    }
}

fn live(seed: u64) -> u64 {
    let mut random = Rng::with_seed(seed);
    let (place, disk) = Place::faulty(seed);
    let mut model = Model { durable: Vec::new(), possible: Vec::new(), released_before: 1, term: 1 };
    let mut crashes = 0;
    for _ in 0..LIVES_PER_SEED {
        let (mut appender, failures) = open(&place, &disk, &mut random);
        crashes += failures;
        let reader = appender.reader();
        model.reconcile(content(&reader), reader.first_index().0);
        if model.durable.len() as u64 + 1 == reader.first_index().0 {
            // Everything held was released or truncated: the last sequence is known here only, and any may follow.
            assert!(appender.last().is_none());
        }
        disk.plan(Planned {
            operation: disk.operations() + random.u64(..60),
            fault: random_fault(&mut random),
        });
        for _ in 0..STEPS_PER_LIFE_MAX {
            if model.step(&mut appender, &mut random).is_err() {
                crashes += 1;
                break;
            }
        }
        drop(appender);
        disk.clear_plan();
        if !disk.is_powered() || random.u64(..2) == 0 {
            disk.restart();
        }
    }
    let (appender, _) = open(&place, &disk, &mut random);
    model.reconcile(content(&appender.reader()), appender.reader().first_index().0);
    crashes
}

/// Opens, though the power may fail on the way a few times.
fn open(place: &Place, disk: &FaultyDisk, random: &mut Rng) -> (Appender, u64) {
    for failures in 0..3 {
        if random.u64(..3) == 0 {
            let fault = random_fault(random);
            disk.plan(Planned { operation: disk.operations() + random.u64(..12), fault });
        }
        let opened = Appender::open(&place.directory, &options(), Arc::clone(&place.disk));
        disk.clear_plan();
        match opened {
            Ok((appender, _)) if disk.is_powered() => return (appender, failures),
            _ if !disk.is_powered() || random.u64(..2) == 0 => disk.restart(),
            _ => {}
        }
    }
    let looked = Reader::open_read_only_on(&place.directory, Arc::clone(&place.disk));
    let (appender, recovered) =
        Appender::open(&place.directory, &options(), Arc::clone(&place.disk)).unwrap();
    if let Ok((reader, seen)) = looked {
        assert_eq!(seen.last, recovered.last);
        assert_eq!(content(&reader), content(&appender.reader()));
    }
    (appender, 3)
}

#[test]
fn whatever_was_acknowledged_survives_a_crash_at_any_operation() {
    let chosen: Option<u64> = std::env::var("JIGAP_SEED").ok().map(|seed| seed.parse().unwrap());
    let seeds = chosen.map_or(0..SEEDS, |seed| seed..seed + 1);
    let (mut lives, mut crashes) = (0, 0);
    for seed in seeds {
        let outcome = std::panic::catch_unwind(|| live(seed));
        match outcome {
            Ok(count) => crashes += count,
            Err(_) => panic!(
                "seed {seed}; again: JIGAP_SEED={seed} cargo test -p storage --test journal acknowledged"
            ),
        }
        lives += LIVES_PER_SEED;
    }
    println!("{lives} cases, {crashes} of them ended by a fault");
}

/// The crash points of one write, one by one: every sector lost alone, every prefix.
#[test]
fn a_crash_in_the_middle_of_a_truncation_leaves_a_shorter_journal() {
    let mut cases = 0;
    for tear in [Tear::All, Tear::Suffix, Tear::Random, Tear::One] {
        for operation in 0..40 {
            let (place, disk) = Place::faulty(operation);
            let mut appender = place.open();
            crate::harness::append(&mut appender, &[9_000; 20]);
            let all = content(&appender.reader());
            disk.plan(Planned { operation: disk.operations() + operation, fault: Fault::Crash(tear) });
            let truncated = appender.truncate_after(index(2)).is_ok();
            drop(appender);
            disk.restart();
            let left = content(&place.open().reader());
            assert!(left.len() >= 2 && left == all[..left.len()]);
            assert!(!truncated || left.len() == 2);
            cases += 1;
        }
    }
    println!("{cases} cases");
}
