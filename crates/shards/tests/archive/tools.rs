//! What reads recorded history beside whoever writes it: replay, verify, the check before an upgrade, forks.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use ledger::codec::BodyWriter;
use ledger::{Command, Decision, Event, Events, Party, Refusal, RefusalCode, Sequence, Transfer};
use shards::partition::{
    Difference, DigestAt, Extent, Moment, Options, Partition, ReplayError, ReplayOptions, RestoreOptions,
    Source, SourceError, VerifyError, check_upgrade, replay, restore, verify,
};
use storage::journal::{self, Appender, DiskKind, FrameDraft};

use crate::scene::{Scene, batch, id, open, options, pay, set_up};

/// How often a partition is verified while it works.
const LIVE_ROUNDS: usize = 25;

fn everything(source: &Source) -> ReplayOptions {
    ReplayOptions { source: source.clone(), until: Moment::Latest, digest_every: None }
}

fn execute(partition: &Partition, command: Command) {
    let (sender, answer) = mpsc::channel();
    let reply = move |answer| drop(sender.send(answer));
    partition.submit_command(command, reply).expect("there is room");
    answer.recv().expect("it is answered");
}

/// Commands that refer to earlier ones, in every way: to what is pending, settled, reversed, and never was.
fn refer(scene: &Scene, round: u128) {
    let number = |kind: u128| id(kind << 40 | round);
    let reverse = |kind: u128, original: u128| Command::Reverse {
        transaction_id: number(kind),
        original_id: id(original),
        metadata: ledger::Metadata::default(),
    };
    let cancel =
        |kind: u128, hold: u128| Command::CancelHold { transaction_id: number(kind), hold_id: id(hold) };
    let confirm = |kind: u128, hold: u128| Command::ConfirmHold {
        transaction_id: number(kind),
        hold_id: id(hold),
        amount: None,
    };
    let (transfer, hold) = (round << 16 | 3, 3 << 50 | round);
    for command in [
        reverse(1, transfer),
        reverse(2, transfer),
        reverse(3, 77 << 60),
        cancel(4, hold),
        cancel(5, hold),
        confirm(6, hold),
        confirm(7, transfer),
    ] {
        execute(scene.partition(), command);
    }
}

#[test]
fn a_replay_repeats_every_state_that_it_passes() {
    let mut scene = Scene::new();
    let mut known = Vec::new();
    for round in 0..30 {
        scene.run(batch(round));
        let state = scene.state();
        known.push(DigestAt { sequence: state.sequence, timestamp: state.timestamp, digest: state.digest });
        if round == 15 {
            scene.restart();
        }
    }
    scene.partition().archiver().expect("it has one").flush().expect("the store is well");
    // The partition is open all the time.
    for source in [scene.source(), scene.archive_alone()] {
        let whole = replay(&everything(&source), &mut |_, _| {}, &mut |_| {}).expect("it is replayed");
        assert_eq!(Some(&whole.end), known.last());
        assert!(whole.totals.iter().all(|total| total.sum == 0));
        for at in known.iter().step_by(7) {
            for until in [Moment::Sequence(at.sequence), Moment::Time(at.timestamp)] {
                let options = ReplayOptions { until, ..everything(&source) };
                let part = replay(&options, &mut |_, _| {}, &mut |_| {}).expect("it is replayed");
                assert_eq!((part.end, part.recorded), (*at, whole.recorded));
            }
        }
        let mut passed = Vec::new();
        let options = ReplayOptions { digest_every: Some(50), ..everything(&source) };
        replay(&options, &mut |_, _| {}, &mut |at| passed.push(at)).expect("it is replayed");
        let expected: Vec<u64> = (1..=whole.end.sequence.0 / 50).map(|number| number * 50).collect();
        assert_eq!(passed.iter().map(|at| at.sequence.0).collect::<Vec<_>>(), expected);
        for at in known.iter().filter(|at| at.sequence.0.is_multiple_of(50)) {
            assert!(passed.contains(at));
        }
        let options = ReplayOptions { until: Moment::Sequence(whole.recorded.next()), ..everything(&source) };
        let beyond = replay(&options, &mut |_, _| {}, &mut |_| {});
        assert!(matches!(beyond, Err(ReplayError::Beyond { .. })), "{beyond:?}");
    }
    scene.stop();
    let alone = Source::Directory { directory: scene.data().to_owned(), archive: None };
    let begun = replay(&everything(&alone), &mut |_, _| {}, &mut |_| {});
    assert!(matches!(begun, Err(ReplayError::Source(SourceError::NoBeginning { .. }))), "{begun:?}");
}

/// Segments are released and used again, checkpoints written and merged, parcels archived, all the time: none of it is a difference.
#[test]
fn a_partition_is_verified_beside_its_writer() {
    let mut scene = Scene::new();
    scene.run(batch(0));
    refer(&scene, 0);
    let done = AtomicBool::new(false);
    let options = scene.options();
    let mut last = Sequence(0);
    thread::scope(|scope| {
        let (scene, done) = (&scene, &done);
        scope.spawn(move || {
            // Ends with the test, and at the latest when its numbers do.
            for round in (1..60_000).take_while(|_| !done.load(Ordering::Relaxed)) {
                scene.run(batch(round));
                if round % 10 == 0 {
                    refer(scene, round.into());
                }
            }
        });
        let finish = Finish(done);
        for _ in 0..LIVE_ROUNDS {
            let before = scene.partition().committed();
            let report = verify(&options, &mut |_, _| {}).expect("nothing is wrong with it");
            assert!(report.sequence >= before && report.sequence >= last, "{report:?}, {before:?} before");
            last = report.sequence;
            let source = scene.source();
            let replayed = replay(&everything(&source), &mut |_, _| {}, &mut |_| {}).expect("nor with this");
            assert!(replayed.end.sequence >= last);
        }
        drop(finish);
    });
    let reader = scene.partition().reader();
    assert!(reader.first_local_index().0 > 1, "segments were released");
    check_upgrade(&scene.source(), 0, &mut |_, _| {}).expect("this program decides as it decided");
    scene.stop();
    assert!(scene.report().checkpoint.is_some());
}

/// However a test ends, its writer does too.
struct Finish<'flag>(&'flag AtomicBool);

impl Drop for Finish<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Appends a command with events that nobody decided, as another program would have recorded them.
fn plant(directory: &std::path::Path, command: &Command, events: Events) -> Sequence {
    let options = journal::Options { segment_size_bytes: 64 << 10, ..journal::Options::default() };
    let (mut appender, found) =
        Appender::open(&directory.join("journal"), &options, DiskKind::Direct.disk()).expect("it opens");
    let last = found.last.expect("it has frames");
    let mut writer = BodyWriter::new();
    writer.push(command, &events);
    let mut body = appender.buffer();
    writer.write(|bytes| body.extend_from_slice(bytes));
    let draft = FrameDraft {
        term: last.term,
        first_sequence: last.next_sequence(),
        sequence_count: writer.event_count(),
        timestamp_us: last.timestamp_us,
        body,
    };
    appender.append(vec![draft]).expect("it is written");
    Sequence(last.next_sequence().0)
}

fn differs(outcome: Result<impl std::fmt::Debug, VerifyError>) -> Difference {
    match outcome {
        Err(VerifyError::Difference(difference)) => *difference,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_rule_that_changed_is_named_with_its_command() {
    let mut scene = Scene::new();
    for round in 0..12 {
        scene.run(batch(round));
        refer(&scene, round.into());
    }
    scene.stop();
    let report =
        check_upgrade(&scene.source(), 0, &mut |_, _| {}).expect("this program decides as it decided");
    assert_eq!((report.sequence, report.digest), (scene.report().sequence, scene.report().digest));

    // The program before was stricter: it refused what this one would do.
    let transfer = pay(9 << 50, 1, 2);
    let command = Command::Transfer(transfer.clone());
    let refusal = Refusal { available: 5, ..Refusal::of(RefusalCode::InsufficientFunds, Party::From) };
    let refused = Event::Refused { transaction_id: transfer.transaction_id, refusal };
    let planted = plant(scene.data(), &command, Events::One(refused.clone()));
    for difference in [
        differs(check_upgrade(&scene.source(), 0, &mut |_, _| {})),
        differs(verify(&scene.options(), &mut |_, _| {})),
    ] {
        assert_eq!((difference.partition, difference.sequence), (0, planted));
        let redecision = difference.redecision.expect("it is about a command");
        assert_eq!((&redecision.command, &redecision.recorded), (&command, &Events::One(refused.clone())));
        let Decision::Accepted(decided) = &redecision.decided else { panic!("{redecision:?}") };
        assert!(matches!(decided.as_slice(), [Event::Transferred { .. }]), "{decided:?}");
    }
}

#[test]
fn an_id_that_is_used_twice_is_found_in_the_store_and_after_it() {
    let mut scene = Scene::new();
    for round in 0..30 {
        scene.run(batch(round));
    }
    scene.stop();
    let checkpoint = scene.report().checkpoint.expect("there is one");
    // Both repeat an earlier id with a refusal that is right otherwise: only the id is wrong.
    for repeated in [batch(1)[3].transaction_id, batch(29)[7].transaction_id] {
        let command = Command::Transfer(Transfer { transaction_id: repeated, ..pay(0, 1, 900) });
        let refusal = Refusal::of(RefusalCode::AccountNotFound, Party::To);
        let refused = Event::Refused { transaction_id: repeated, refusal };
        let planted = plant(scene.data(), &command, Events::One(refused));
        assert!(planted > checkpoint);
    }
    let difference = differs(verify(&scene.options(), &mut |_, _| {}));
    assert_eq!(difference.what, "a transaction_id is executed once");
    assert!(difference.found.contains(&batch(1)[3].transaction_id.to_string()), "{difference}");
}

#[test]
fn a_fork_goes_its_own_way_and_leaves_no_trace() {
    let mut scene = Scene::new();
    let mut known = Vec::new();
    for round in 0..25 {
        scene.run(batch(round));
        let state = scene.state();
        known.push((state.sequence, state.timestamp, state.digest));
    }
    // The original goes on all the time.
    for (place, (sequence, timestamp, digest)) in known.iter().enumerate().step_by(8) {
        for (kind, moment) in [Moment::Sequence(*sequence), Moment::Time(*timestamp)].into_iter().enumerate()
        {
            let directory = scene.restored().join(format!("{place}-{kind}"));
            let options = RestoreOptions {
                source: scene.source(),
                moment,
                extent: Extent::Whole,
                partition: Options { archive: None, ..options(&directory, scene.objects.clone()) },
            };
            let forked = restore(&options, &mut |_, _| {}).expect("it is forked");
            assert_eq!((forked.sequence, forked.digest), (*sequence, *digest));
            let fork = open(options.partition.clone());
            // It has every event itself, and takes others than the original.
            assert!(fork.reader().frame_containing(journal::Sequence(1)).expect("a frame").is_some());
            execute(&fork, Command::Transfer(pay(8 << 50 | place as u128, 1, 2)));
            fork.shut_down();
            let report = verify(&options.partition, &mut |_, _| {}).expect("it proves itself");
            assert_eq!(report.sequence, sequence.next());
        }
    }
    let state = scene.state();
    assert_eq!(known.last(), Some(&(state.sequence, state.timestamp, state.digest)));
    scene.stop();
    scene.report();
}

#[test]
fn a_directory_without_an_archive_is_forked_from_its_checkpoint_or_its_first_event() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let at = |name: &str| directory.path().join(name);
    let partition_options =
        |name: &str| Options { segment_size_bytes: 64 << 10, run_events: 50, ..Options::new(at(name)) };
    let original = open(partition_options("original"));
    set_up(&original);
    for round in 0..5 {
        for transfer in batch(round) {
            execute(&original, Command::Transfer(transfer));
        }
    }
    let last = original.committed();
    for (name, sequence, from_start) in [("early", Sequence(20), true), ("late", last, false)] {
        let options = RestoreOptions {
            source: Source::Directory { directory: at("original"), archive: None },
            moment: Moment::Sequence(sequence),
            extent: Extent::Whole,
            partition: partition_options(name),
        };
        let forked = restore(&options, &mut |_, _| {}).expect("it is forked");
        assert_eq!((forked.sequence, forked.snapshot == Sequence(0)), (sequence, from_start));
        let replayed = ReplayOptions {
            until: Moment::Sequence(sequence),
            ..everything(&Source::Directory { directory: at("original"), archive: None })
        };
        let replayed = replay(&replayed, &mut |_, _| {}, &mut |_| {}).expect("it is replayed");
        assert_eq!(replayed.end.digest, forked.digest);
    }
    original.shut_down();
}

/// Waits for what the shadow verifier reports; only a hang takes long.
fn wait_until(partition: &Partition, reported: impl Fn(&Partition) -> bool) {
    for _ in 0..6_000 {
        if reported(partition) {
            return;
        }
        partition.wait_for_committed(Sequence(u64::MAX), Duration::from_millis(5));
    }
    panic!("not reported after half a minute");
}

fn load(value: &AtomicU64) -> u64 {
    value.load(Ordering::Relaxed)
}

#[test]
fn a_shadow_verifier_goes_along_without_an_alarm() {
    let mut scene = Scene::new();
    for round in 0..20 {
        scene.run(batch(round));
        refer(&scene, round.into());
    }
    scene.restart_with(Options { verifier_events_per_second: Some(1_000_000), ..scene.options() });
    for round in 20..60 {
        scene.run(batch(round));
        refer(&scene, round.into());
    }
    let last = scene.partition().committed();
    wait_until(scene.partition(), |partition| load(&partition.metrics().verifier_sequence) == last.0);
    let metrics = scene.partition().metrics();
    wait_until(scene.partition(), |partition| load(&partition.metrics().verifier_rounds) > 0);
    assert!(load(&metrics.checkpoint_sequence) > 500 && load(&metrics.verifier_differences) == 0);
    scene.stop();
    // Hours of work are left, and nobody waits for it.
    scene.start_with(Options { verifier_events_per_second: Some(1), ..scene.options() });
    wait_until(scene.partition(), |partition| load(&partition.metrics().verifier_sequence) > 0);
    scene.stop();
}

#[test]
fn a_shadow_verifier_raises_an_alarm_and_the_partition_goes_on() {
    let mut scene = Scene::new();
    scene.run(batch(0));
    scene.stop();
    let transfer = pay(9 << 50, 1, 2);
    let refusal = Refusal { available: 5, ..Refusal::of(RefusalCode::InsufficientFunds, Party::From) };
    let refused = Event::Refused { transaction_id: transfer.transaction_id, refusal };
    let planted = plant(scene.data(), &Command::Transfer(transfer), Events::One(refused));
    scene.start_with(Options { verifier_events_per_second: Some(1_000_000), ..scene.options() });
    scene.run(batch(1));
    wait_until(scene.partition(), |partition| load(&partition.metrics().verifier_differences) == 1);
    assert!(load(&scene.partition().metrics().verifier_sequence) < planted.0);
    scene.run(batch(2));
    scene.stop();
}
