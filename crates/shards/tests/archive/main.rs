//! The archive below a partition: snapshots and restores repeat the state bit for bit at every past event, whatever is damaged,
//! released, unreachable or killed on the way.

mod collisions;
mod crash;
#[path = "../../../storage/tests/archive/faulty_store.rs"]
mod faulty_store;
mod scene;
mod tools;

use std::time::Duration;

use faulty_store::Fault;
use ledger::{Command, Sequence, Timestamp};
use scene::{Scene, batch, id, pay};
use shards::partition::{
    CommandAnswer, Extent, Moment, Partition, RestoreError, RestoreOptions, Restored, Source, restore,
    verify, verify_snapshot,
};
use storage::snapshot::Snapshot;

#[test]
fn every_past_event_can_be_restored_bit_for_bit() {
    let mut scene = Scene::new();
    let mut known = Vec::new();
    for round in 0..40 {
        scene.run(batch(round));
        if round % 9 == 4 {
            scene.partition().snapshot().expect("a snapshot");
        }
        let state = scene.state();
        known.push((state.sequence, state.timestamp, state.digest));
        if round == 20 {
            scene.restart();
        }
    }
    scene.partition().archiver().expect("it has one").flush().expect("the store is well");
    let reader = scene.partition().reader();
    assert!(reader.first_local_index().0 > 1, "segments were released");
    scene.stop();
    assert!(Snapshot::list(&scene.objects, 0).expect("a list").len() > 3);

    for (sequence, timestamp, digest) in known.iter().step_by(5).chain(known.last()) {
        let restored = scene.restore(Moment::Sequence(*sequence)).expect("it is restored");
        assert_eq!((restored.sequence, restored.digest), (*sequence, *digest));
        assert!(restored.skipped.is_empty());
        let by_time = scene.restore(Moment::Time(*timestamp)).expect("it is restored");
        assert_eq!((by_time.sequence, by_time.digest), (*sequence, *digest));
    }
    let latest = scene.restore(Moment::Latest).expect("it is restored");
    assert_eq!(
        Some((latest.sequence, latest.digest)),
        known.last().map(|(sequence, _, digest)| (*sequence, *digest))
    );
    assert_eq!(latest.recorded, latest.sequence);
}

#[test]
fn an_event_in_the_middle_of_a_frame_is_the_last_one_restored() {
    let mut scene = Scene::new();
    for round in 0..6 {
        scene.run(batch(round));
    }
    scene.stop();
    let last = scene.report().sequence.0;
    for sequence in (1..=last).step_by(23) {
        match scene.restore(Moment::Sequence(Sequence(sequence))) {
            Ok(restored) => {
                assert_eq!(restored.sequence, Sequence(sequence));
                let report = verify(&scene.restored_options(), &mut |_, _| {}).expect("it proves itself");
                assert_eq!((report.sequence, report.digest), (restored.sequence, restored.digest));
            }
            Err(RestoreError::MidCommand { first, last, before, .. }) => {
                assert!(first <= sequence && sequence < last && before + 1 == first);
            }
            Err(error) => panic!("{error}"),
        }
    }
    for beyond in [0, last + 1] {
        let refused = scene.restore(Moment::Sequence(Sequence(beyond)));
        assert!(matches!(refused, Err(RestoreError::OutOfRange { .. })), "{refused:?}");
    }
    let refused = scene.restore(Moment::Time(Timestamp::from_micros(0)));
    assert!(matches!(refused, Err(RestoreError::OutOfRange { .. })), "{refused:?}");
}

#[test]
fn a_restored_partition_answers_as_the_first_one_did_and_goes_on() {
    let mut scene = Scene::new();
    for round in 0..12 {
        scene.run(batch(round));
    }
    scene.partition().snapshot().expect("a snapshot");
    scene.run(batch(12));
    scene.stop();
    scene.restore(Moment::Latest).expect("it is restored");
    scene.move_to_restored();
    // Every command ever executed is known: nothing is done twice.
    for round in 0..13 {
        for answer in scene.transfers(batch(round)) {
            assert!(answer.replayed || answer.outcome.is_err(), "{answer:?}");
        }
    }
    let before = scene.state().sequence;
    scene.run(batch(13));
    assert!(scene.state().sequence > before);
    scene.stop();
    scene.report();
}

#[test]
fn damaged_snapshots_are_named_and_older_ones_taken() {
    let mut scene = Scene::new();
    let mut folders = Vec::new();
    for round in 0..9 {
        scene.run(batch(round));
        if round % 3 == 2 {
            scene.partition().snapshot().expect("a snapshot");
            folders = Snapshot::list(&scene.objects, 0).expect("a list");
        }
    }
    let digest = scene.state().digest;
    scene.stop();
    assert_eq!(folders.len(), 3);
    let path = |file: &str, folder: usize| scene.archive().join(&folders[folder].folder).join(file);
    let mut part = std::fs::read(path("part-00000", 2)).expect("a part");
    let middle = part.len() / 2;
    part[middle] ^= 1;
    std::fs::write(path("part-00000", 2), part).expect("written");
    std::fs::remove_file(path("part-00000", 1)).expect("removed");
    for (place, name) in folders.iter().enumerate() {
        let verified = Snapshot::open(&scene.objects, &name.folder).map_err(Into::into);
        let verified = verified.and_then(|snapshot| verify_snapshot(&snapshot));
        assert_eq!(verified.is_ok(), place == 0, "{verified:?}");
    }
    let restored = scene.restore(Moment::Latest).expect("it is restored");
    assert_eq!(restored.digest, digest);
    assert_eq!(restored.snapshot.0, folders[0].sequence);
    assert_eq!(restored.skipped.len(), 2);
    assert!(restored.skipped[0].contains(&folders[2].folder), "{:?}", restored.skipped);
    assert!(restored.skipped[1].contains("it is missing"), "{:?}", restored.skipped);
    std::fs::write(path("manifest", 0), b"nonsense").expect("written");
    let restored = scene.restore(Moment::Latest).expect("all is replayed from the first frame");
    assert_eq!((restored.digest, restored.snapshot, restored.skipped.len()), (digest, Sequence(0), 3));
}

#[test]
fn what_an_unfinished_snapshot_leaves_is_none_and_is_taken_away() {
    let mut scene = Scene::new();
    scene.run(batch(0));
    let report = scene.partition().snapshot().expect("a snapshot");
    assert!(!report.existed);
    let again = scene.partition().snapshot().expect("the same");
    assert!(again.existed, "nothing has happened since");
    scene.stop();
    let name = Snapshot::list(&scene.objects, 0).expect("a list").pop().expect("one");
    std::fs::remove_file(scene.archive().join(&name.folder).join("manifest")).expect("removed");
    assert!(Snapshot::list(&scene.objects, 0).expect("a list").is_empty());
    assert_eq!(scene.restore(Moment::Latest).expect("from the frames").snapshot, Sequence(0));
    let removed = storage::snapshot::collect_leftovers(&scene.objects, 0, Duration::ZERO);
    assert_eq!(removed.expect("the store is well"), 1);
}

#[test]
fn an_unreachable_archive_stops_old_answers_and_nothing_else() {
    let mut scene = Scene::new();
    for round in 0..30 {
        scene.run(batch(round));
    }
    scene.partition().snapshot().expect("a snapshot");
    scene.partition().archiver().expect("it has one").flush().expect("the store is well");
    assert!(scene.partition().reader().first_local_index().0 > 1);
    let reverse = |number: u128| Command::Reverse {
        transaction_id: id(1 << 40 | number),
        original_id: batch(0)[0].transaction_id,
        metadata: Default::default(),
    };
    for (number, fault) in
        [Fault::Refuse, Fault::Slow(Duration::from_secs(60)), Fault::WrongBytes].into_iter().enumerate()
    {
        // Another process has nothing in memory.
        scene.restart();
        scene.store.set(fault);
        let number = number as u128;
        assert!(scene.try_transfers(batch(0)).is_none(), "{fault:?}: an old repeat cannot be answered");
        assert!(scene.try_command(reverse(number)).is_none(), "{fault:?}");
        assert!(
            scene.try_transfers(vec![pay(9 << 40 | number, 1, 2)]).is_some(),
            "{fault:?}: new commands are"
        );
        scene.store.set(Fault::None);
    }
    assert!(scene.transfers(batch(0)).iter().all(|answer| answer.replayed));
    let answer = scene.try_command(reverse(9)).expect("it is answered");
    assert!(matches!(answer, CommandAnswer::Executed { replayed: false, .. }), "{answer:?}");
    // A submission of old and new: each gets its own answer.
    let mut mixed = batch(1);
    mixed.push(pay(10 << 40, 1, 2));
    let answers = scene.transfers(mixed);
    let (new, old) = answers.split_last().expect("answers");
    assert!(!new.replayed && old.iter().all(|answer| answer.replayed));
    scene.stop();
    scene.report();
}

#[test]
fn without_an_archive_there_is_no_snapshot() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let options = shards::partition::Options::new(directory.path().to_owned());
    let fatal = std::sync::Arc::new(|why: String| panic!("{why}"));
    let partition = Partition::open(options, Box::new(()), fatal, &mut |_, _| {}).expect("it opens");
    assert!(partition.snapshot().is_err());
    partition.shut_down();
}

impl Scene {
    fn restore(&self, moment: Moment) -> Result<Restored, RestoreError> {
        // Whatever an earlier one left.
        let _ = std::fs::remove_dir_all(self.restored());
        let source = Source::Archive { objects: self.objects.clone(), partition: 0 };
        let partition = self.restored_options();
        let options = RestoreOptions { source, moment, extent: Extent::AfterSnapshot, partition };
        restore(&options, &mut |_, _| {})
    }
}
