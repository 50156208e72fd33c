//! kill -9 of a process that ingests: afterwards the store has a position, and the data of exactly the runs up to it, among them
//! every run whose ingestion had returned.
//!
//! `JIGAP_CRASH_POINTS` sets how many kills.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use fastrand::Rng;
use storage::store::Engine;

use crate::harness::{child, child_directory, content_after, open, read_all, run, runs_in, seed};

for_every_engine!("crash": kill_9_leaves_whole_runs);

const KILLS: u64 = 60;
/// A fresh store now and then: its first moments are the most delicate, and checking a long one takes long.
const KILLS_PER_STORE: u64 = 10;

/// What the child does until it is killed: prints how many runs are in.
fn ingest_for_ever(engine: Engine, directory: &Path) {
    let mut output = std::io::stdout().lock();
    writeln!(output, "begins").and_then(|()| output.flush()).unwrap();
    let store = open(engine, directory);
    for number in runs_in(store.as_ref()).unwrap() + 1.. {
        store.ingest(run(number)).unwrap();
        writeln!(output, "ingested {number}").and_then(|()| output.flush()).unwrap();
        store.wait_for_compaction().unwrap();
    }
}

/// Kills a child some time after it began, and says which run was the last it had ingested.
fn kill(test: &str, directory: &Path, after: Duration) -> u64 {
    let mut child = child(test, directory, r#"exec "$@""#).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    // Everything before is the work of the test's runner.
    assert!(lines.any(|line| line.ends_with("begins")), "the child never began");
    std::thread::sleep(after);
    child.kill().unwrap();
    let ended = child.wait().unwrap();
    assert!(ended.code().is_none(), "the child ended by itself: {ended}");
    let numbers = lines.filter_map(|line| line.strip_prefix("ingested ")?.parse().ok());
    numbers.max().unwrap_or(0)
}

fn kill_9_leaves_whole_runs(engine: Engine, test: &str) {
    if let Some(directory) = child_directory() {
        return ingest_for_ever(engine, &directory);
    }
    let kills = std::env::var("JIGAP_CRASH_POINTS").map_or(KILLS, |kills| kills.parse().unwrap());
    let mut random = Rng::with_seed(seed(test));
    let (mut total, mut late) = (0, 0);
    let mut place = tempfile::tempdir().unwrap();
    for round in 0..kills {
        if round % KILLS_PER_STORE == 0 {
            place = tempfile::tempdir().unwrap();
        }
        let acknowledged = kill(test, place.path(), Duration::from_micros(random.u64(..80_000)));
        let store = open(engine, place.path());
        let runs = runs_in(store.as_ref()).unwrap();
        assert!(
            runs >= acknowledged,
            "round {round}: run {acknowledged} was ingested, {runs} runs are there"
        );
        assert!(read_all(store.as_ref()).unwrap() == content_after(runs), "round {round}, {runs} runs");
        late += u64::from(runs > acknowledged);
        total += runs;
    }
    println!("{kills} kills, {total} runs looked at, {late} times a run was in that nobody had been told of");
    assert!(total > kills, "the kills came too early to prove anything");
}
