//! Files that decay or vanish: an error, or exactly what some number of runs add up to; never anything else.

use std::fs;
use std::path::{Path, PathBuf};

use fastrand::Rng;
use storage::store::{Engine, StoreError};

use crate::harness::{content_after, ingest_up_to, open, read_all, runs_in, seed, try_open};

for_every_engine!("damage": a_damaged_or_missing_file_is_never_passed_over);

const RUNS: u64 = 12;
const FLIPS_PER_FILE: usize = 25;

#[derive(Debug, Clone, Copy)]
enum Damage {
    Missing,
    Empty,
    /// Cut at this byte.
    Cut(usize),
    /// A byte has changed.
    Flip(usize),
    /// A sector is all zero.
    Zeros(usize),
}

impl Damage {
    fn inflict(self, path: &Path, whole: &[u8]) {
        let mut bytes = whole.to_vec();
        match self {
            Damage::Missing => return fs::remove_file(path).unwrap(),
            Damage::Empty => bytes.clear(),
            Damage::Cut(at) => bytes.truncate(at),
            Damage::Flip(at) => bytes[at] ^= 0x55,
            Damage::Zeros(at) => {
                let end = bytes.len().min(at + 512);
                bytes[at..end].fill(0);
            }
        }
        fs::write(path, bytes).unwrap();
    }
}

fn files_below(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files.extend(files_below(&path)) } else { files.push(path) }
    }
    files.sort();
    files
}

fn copy(from: &Path, to: &Path) {
    for file in files_below(from) {
        let target = to.join(file.strip_prefix(from).unwrap());
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        fs::copy(&file, target).unwrap();
    }
}

/// How many runs are there, and whether the data is exactly theirs.
fn look(engine: Engine, directory: &Path) -> Result<u64, StoreError> {
    let store = try_open(engine, directory)?;
    let runs = runs_in(store.as_ref())?;
    let content = read_all(store.as_ref())?;
    assert!(content == content_after(runs), "{runs} runs do not add up to this");
    Ok(runs)
}

fn a_damaged_or_missing_file_is_never_passed_over(engine: Engine, test: &str) {
    let mut random = Rng::with_seed(seed(test));
    let whole = tempfile::tempdir().unwrap();
    ingest_up_to(open(engine, whole.path()).as_ref(), RUNS);
    let (mut refused, mut harmless, mut shorter) = (0, 0, 0);
    for file in files_below(whole.path()) {
        let name = file.strip_prefix(whole.path()).unwrap();
        let bytes = fs::read(&file).unwrap();
        let mut damages = vec![Damage::Missing, Damage::Empty];
        if !bytes.is_empty() {
            damages.extend([Damage::Cut(bytes.len() / 2), Damage::Cut(bytes.len() - 1)]);
            damages.extend((0..FLIPS_PER_FILE).map(|_| Damage::Flip(random.usize(..bytes.len()))));
            damages.extend((0..3).map(|_| Damage::Zeros(random.usize(..bytes.len()))));
        }
        for damage in damages {
            let place = tempfile::tempdir().unwrap();
            copy(whole.path(), place.path());
            damage.inflict(&place.path().join(name), &bytes);
            let outcome = std::panic::catch_unwind(|| look(engine, place.path()));
            match outcome {
                Ok(Err(error)) => {
                    assert!(!error.to_string().is_empty());
                    refused += 1;
                }
                Ok(Ok(RUNS)) => harmless += 1,
                Ok(Ok(runs)) => {
                    assert!(runs < RUNS);
                    shorter += 1;
                }
                Err(_) => panic!("{} with {damage:?}", name.display()),
            }
        }
    }
    println!(
        "{refused} refused, {harmless} harmless, {shorter} opened as of an earlier run, all of {RUNS} runs"
    );
    assert!(refused > 50);
}
