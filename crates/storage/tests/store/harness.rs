//! Runs that follow from their number alone, and a plain map that says what a store holds after them.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use fastrand::Rng;
use storage::store::{self, Change, Engine, Run, StateStore, StoreError, StoreOptions};

pub(crate) type Content = BTreeMap<Vec<u8>, Vec<u8>>;
pub(crate) type Store = Arc<dyn StateStore>;

/// Few enough that runs overwrite and delete what others put.
const KEYS: u32 = 400;
const CHANGES_MAX: usize = 120;
const OWN_SIZE_BYTES: usize = 8_000;
/// Positions have gaps, as the sequences of checkpoints do.
const POSITION_STEP: u64 = 7;
/// Every run says under these two keys which one it is: the first and the last of all.
pub(crate) const FIRST_KEY: &[u8] = &[1];
pub(crate) const LAST_KEY: &[u8] = &[0xff, 0xff];
/// Behind every key of a run.
pub(crate) const END: &[u8] = &[0xff, 0xff, 0xff];

pub(crate) fn options(engine: Engine) -> StoreOptions {
    StoreOptions { engine, cache_size_bytes: 1 << 20 }
}

pub(crate) fn try_open(engine: Engine, directory: &Path) -> Result<Store, StoreError> {
    store::open(directory, &options(engine))
}

pub(crate) fn open(engine: Engine, directory: &Path) -> Store {
    try_open(engine, directory).unwrap()
}

pub(crate) fn key(number: u32) -> Vec<u8> {
    let mut key = b"key ".to_vec();
    key.extend_from_slice(&number.to_be_bytes());
    key
}

pub(crate) fn random_key(random: &mut Rng) -> Vec<u8> {
    key(random.u32(..KEYS))
}

fn random_change(random: &mut Rng) -> Change {
    let mut bytes = |size: usize| (0..size).map(|_| random.u8(..)).collect::<Vec<u8>>();
    let kind = bytes(1)[0] % 20;
    match kind {
        0..3 => Change::Delete,
        3 => Change::Put(Vec::new()),
        4 => Change::Put(bytes(40_000)),
        _ => Change::Put(bytes(usize::from(kind) * 30)),
    }
}

/// The run with this number; the first is 1.
pub(crate) fn run(number: u64) -> Run {
    let mut random = Rng::with_seed(number);
    let mut changes = BTreeMap::new();
    for _ in 0..random.usize(..CHANGES_MAX) {
        changes.insert(random_key(&mut random), random_change(&mut random));
    }
    // Something that no later run touches, so that the store grows.
    let own = [b"own ".as_slice(), &number.to_be_bytes()].concat();
    changes.insert(own, Change::Put(vec![number as u8; OWN_SIZE_BYTES]));
    for key in [FIRST_KEY, LAST_KEY] {
        changes.insert(key.to_vec(), Change::Put(number.to_be_bytes().to_vec()));
    }
    Run { position: number * POSITION_STEP, changes: changes.into_iter().collect() }
}

/// How many runs a store has taken in.
pub(crate) fn runs_in(store: &dyn StateStore) -> Result<u64, StoreError> {
    let position = store.position()?.unwrap_or(0);
    assert_eq!(position % POSITION_STEP, 0, "no run has this position");
    Ok(position / POSITION_STEP)
}

pub(crate) fn apply(content: &mut Content, run: &Run) {
    for (key, change) in &run.changes {
        match change {
            Change::Put(value) => drop(content.insert(key.clone(), value.clone())),
            Change::Delete => drop(content.remove(key)),
        }
    }
}

pub(crate) fn content_after(runs: u64) -> Content {
    let mut content = Content::new();
    (1..=runs).for_each(|number| apply(&mut content, &run(number)));
    content
}

/// Everything in the store, read from end to end.
pub(crate) fn read_all(store: &dyn StateStore) -> Result<Content, StoreError> {
    store.scan(FIRST_KEY, END).collect()
}

/// Ingests the runs after those that are there, up to this number, and compacts as much as there is to.
pub(crate) fn ingest_up_to(store: &dyn StateStore, number: u64) {
    for next in runs_in(store).unwrap() + 1..=number {
        store.ingest(run(next)).unwrap();
        store.wait_for_compaction().unwrap();
    }
}

const CHILD_DIRECTORY: &str = "JIGAP_STORE_CHILD_DIRECTORY";

/// In a child, where it is to work.
pub(crate) fn child_directory() -> Option<std::path::PathBuf> {
    std::env::var_os(CHILD_DIRECTORY).map(Into::into)
}

/// This test once more, as a child that works in a directory. `shell` may set limits first; it ends with `exec "$@"`.
pub(crate) fn child(test: &str, directory: &Path, shell: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", shell, "sh"]).arg(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture"]).env(CHILD_DIRECTORY, directory);
    command
}

/// `JIGAP_SEED=17` repeats what a failure printed.
pub(crate) fn seed(test: &str) -> u64 {
    let chosen = std::env::var("JIGAP_SEED").ok().map(|seed| seed.parse().unwrap());
    let seed = chosen.unwrap_or_else(|| fastrand::u64(..1 << 32));
    println!("again: JIGAP_SEED={seed} cargo nextest run -p storage --features rocksdb {test}");
    seed
}
