//! Bytes from outside must never stop the node: what is fuzzed, by libFuzzer in `make fuzz` and by a seeded generator in `make test`.
#![allow(clippy::unwrap_used, reason = "a fuzz target that unwraps nothing has found a bug")]

pub mod bodies;

/// Puts the inputs that a target starts from into the directory that `FUZZ_SEEDS` names, before libFuzzer reads its corpus.
pub fn write_seeds(target: &str) {
    let Some(directory) = std::env::var_os("FUZZ_SEEDS") else { return };
    let (.., seeds) = bodies::TARGETS.into_iter().find(|(name, ..)| *name == target).unwrap();
    for (index, seed) in seeds().iter().enumerate() {
        std::fs::write(std::path::Path::new(&directory).join(format!("seed-{index:03}")), seed).unwrap();
    }
}
