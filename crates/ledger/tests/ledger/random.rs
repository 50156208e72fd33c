//! Random numbers from a seed that a failure prints.

use fastrand::Rng;

/// A generator with the questions that the tests ask.
#[derive(Debug, Clone)]
pub(crate) struct Random(Rng);

impl Random {
    pub(crate) fn new(seed: u64) -> Random {
        Random(Rng::with_seed(seed))
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0.u64(..)
    }

    /// 0 to `limit - 1`.
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.0.u64(..limit)
    }

    pub(crate) fn percent(&mut self, chance: u64) -> bool {
        self.below(100) < chance
    }

    pub(crate) fn pick<'items, T>(&mut self, items: &'items [T]) -> &'items T {
        &items[self.0.usize(..items.len())]
    }
}

/// Runs `body` once for every case. `TEST_SEED` runs one case alone; `TEST_CASES` multiplies how many there are.
pub(crate) fn for_each_seed(test: &str, cases: u64, mut body: impl FnMut(u64)) {
    let setting = |name: &str| {
        let text = std::env::var(name).ok()?;
        Some(text.parse::<u64>().unwrap_or_else(|_| panic!("{name}={text} is no number")))
    };
    if let Some(seed) = setting("TEST_SEED") {
        return body(seed);
    }
    for seed in 0..cases * setting("TEST_CASES").unwrap_or(1) {
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| body(seed)));
        if let Err(panic) = outcome {
            eprintln!("seed {seed} failed; repeat it with");
            eprintln!("    TEST_SEED={seed} cargo test -p ledger --test ledger {test}");
            std::panic::resume_unwind(panic);
        }
    }
}
