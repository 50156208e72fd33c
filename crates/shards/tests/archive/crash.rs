//! kill -9 while segments seal, parcels and snapshots are uploaded, segments linked and released, and while a restore runs: the directory
//! opens, the archive holds together, and a restore repeats the state. `JIGAP_ARCHIVE_KILLS` sets how many kills,
//! `JIGAP_ARCHIVE_SEED` repeats a failure.

use std::path::{Path, PathBuf};
use std::process::{Child, Command as Process, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use shards::partition::{Extent, Moment, Options, Partition, RestoreOptions, Source, restore, verify};
use storage::objects::{Objects, Purpose};

use crate::scene::{batch_of, open, options, set_up};

const CHILD: &str = "JIGAP_ARCHIVE_CHILD";
const CHILD_DIRECTORY: &str = "JIGAP_ARCHIVE_CHILD_DIRECTORY";
const CHILD_ROUND: &str = "JIGAP_ARCHIVE_CHILD_ROUND";
const KILLS: u64 = 40;
/// Rounds of transfers that no child ever reaches the end of.
const ROUND_SIZE: u64 = 10_000;
/// Transfers of a batch, in turn by round: few fill a segment with padding, which is packed; many make one that becomes an object.
const TRANSFERS: [u64; 2] = [40, 1_000];
const SEGMENT_SIZE_BYTES: u64 = 1 << 20;
/// A checkpoint for some batches of many transfers.
const RUN_EVENTS: usize = 5_000;
/// How long a child lives at least: in the rounds of many transfers until the archiver has looked for segments twice.
const ALIVE_US: [u64; 2] = [20_000, 250_000];

fn objects(directory: &Path) -> Objects {
    let url = format!("file://{}", directory.join("archive").display());
    Objects::open(&url, Purpose::Write).expect("a directory")
}

fn options_in(directory: &Path, data: &str) -> Options {
    let mut options = options(&directory.join(data), objects(directory));
    options.segment_size_bytes = SEGMENT_SIZE_BYTES;
    options.run_events = RUN_EVENTS;
    // Longer than a child lives: a part of a segment is packed only when a snapshot needs it.
    options.archive.as_mut().expect("it has one").interval = Duration::from_secs(1);
    options
}

fn open_archived(directory: &Path) -> Partition {
    open(options_in(directory, "data"))
}

/// What the child does until it is killed: transfers, in every other round with snapshots from a second thread. A snapshot has the
/// journal archived up to its end, so that hardly a segment is left whole.
fn load(directory: &Path, round: u64) {
    let partition = open_archived(directory);
    if round.is_multiple_of(2) {
        let of_snapshots = partition.clone();
        std::thread::spawn(move || {
            loop {
                of_snapshots.snapshot().expect("the store is well");
            }
        });
    }
    for number in 0..ROUND_SIZE {
        let (sender, answers) = mpsc::channel();
        let transfers = batch_of(round * ROUND_SIZE + number, TRANSFERS[(round % 2) as usize]);
        partition
            .submit_transfers(transfers, move |answers| drop(sender.send(answers)))
            .expect("there is room");
        answers.recv().expect("it is answered");
    }
}

fn restore_options(directory: &Path, to: &str) -> RestoreOptions {
    let partition = options_in(directory, to);
    let source = Source::Archive { objects: objects(directory), partition: 0 };
    RestoreOptions { source, moment: Moment::Latest, extent: Extent::AfterSnapshot, partition }
}

fn child(what: &str, directory: &Path, round: u64) -> Child {
    Process::new(std::env::current_exe().expect("this test"))
        .args(["--exact", "crash::the_archive_survives_kill_9", "--nocapture"])
        .env(CHILD, what)
        .env(CHILD_DIRECTORY, directory)
        .env(CHILD_ROUND, round.to_string())
        .stdout(Stdio::null())
        .stderr(Stdio::inherit())
        .spawn()
        .expect("the child starts")
}

fn kill_after(mut child: Child, after: Duration) -> bool {
    std::thread::sleep(after);
    child.kill().expect("it is killed");
    child.wait().expect("it ends").code().is_none()
}

#[test]
fn the_archive_survives_kill_9() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    if let Some(what) = std::env::var_os(CHILD) {
        let directory = PathBuf::from(std::env::var_os(CHILD_DIRECTORY).expect("a directory"));
        match what.to_str() {
            Some("load") => load(&directory, number(CHILD_ROUND).expect("a round")),
            _ => drop(restore(&restore_options(&directory, "half"), &mut |_, _| {}).expect("it is restored")),
        }
        return;
    }
    let seed = number("JIGAP_ARCHIVE_SEED").unwrap_or_else(|| u64::from(std::process::id()));
    let kills = number("JIGAP_ARCHIVE_KILLS").unwrap_or(KILLS);
    println!(
        "repeat with JIGAP_ARCHIVE_SEED={seed} JIGAP_ARCHIVE_KILLS={kills} cargo test -p shards --test archive crash"
    );
    let directory = tempfile::tempdir().expect("a temporary directory");
    let directory = directory.path();
    let partition = open_archived(directory);
    set_up(&partition);
    partition.shut_down();
    let mut random = seed;
    let mut below = |limit: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % limit
    };
    for round in 1..=kills {
        let loaded = child("load", directory, round);
        assert!(
            kill_after(loaded, Duration::from_micros(ALIVE_US[(round % 2) as usize] + below(200_000))),
            "seed {seed}: the child ended by itself"
        );
        // A restore from what is there, killed as well: the archive is only read.
        let _ = kill_after(child("restore", directory, round), Duration::from_micros(5_000 + below(60_000)));
        let _ = std::fs::remove_dir_all(directory.join("half"));
        if round % 5 != 0 && round != kills {
            continue;
        }
        let partition = open_archived(directory);
        partition.archiver().expect("it has one").flush().expect("the store is well");
        let (sender, state) = mpsc::channel();
        partition.query_state(move |state| drop(sender.send(state))).expect("there is room");
        let state = state.recv().expect("it is answered");
        partition.shut_down();
        let restored =
            restore(&restore_options(directory, "restored"), &mut |_, _| {}).expect("it is restored");
        assert_eq!(
            (restored.sequence, restored.digest),
            (state.sequence, state.digest),
            "seed {seed}, round {round}"
        );
        assert!(restored.skipped.is_empty(), "seed {seed}, round {round}: {:?}", restored.skipped);
        std::fs::remove_dir_all(directory.join("restored")).expect("removed");
        let report = verify(&options_in(directory, "data"), &mut |_, _| {});
        let report = report.unwrap_or_else(|error| panic!("seed {seed}, round {round}: {error}"));
        assert_eq!(report.digest, state.digest, "seed {seed}, round {round}");
    }
    let archived = std::fs::read_dir(directory.join("archive/partition-0/journal")).expect("a directory");
    let linked = archived.filter(|file| {
        let file = file.as_ref().expect("it can be listed");
        file.path().extension().is_some_and(|extension| extension == "segment")
    });
    let linked = linked.count();
    assert!(kills < KILLS || linked > 5, "seed {seed}: {linked} segments became objects");
}
