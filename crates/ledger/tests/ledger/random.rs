//! Random numbers from a seed that a failure prints.

/// SplitMix64 (Steele, Lea, Flood 2014): the same numbers from the same seed on every machine, for ever.
#[derive(Debug, Clone)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Random {
        Random(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// 0 to `limit - 1`.
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    pub(crate) fn percent(&mut self, chance: u64) -> bool {
        self.below(100) < chance
    }

    pub(crate) fn pick<'items, T>(&mut self, items: &'items [T]) -> &'items T {
        &items[self.below(items.len() as u64) as usize]
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
