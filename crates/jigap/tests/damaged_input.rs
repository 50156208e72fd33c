//! The fuzz targets' bodies, driven by a seeded generator: a short smoke of what `make fuzz` does for longer.
#![allow(clippy::unwrap_used, reason = "a test that unwraps nothing has failed")]

#[path = "../../../fuzz/src/bodies.rs"]
#[allow(unreachable_pub, reason = "public to the fuzz targets")]
mod bodies;

/// SplitMix64 (Steele, Lea, Flood 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }
}

/// A valid input with one to four things wrong: a byte, a run cut out, doubled or overwritten, a piece of another input.
fn damaged(seeds: &[Vec<u8>], seed: u64) -> Vec<u8> {
    const TELLING: [u8; 10] = [0, 1, 0x7f, 0x80, 0xff, b'"', b'\\', b'{', b'0', b','];
    let mut random = Random(seed);
    let mut bytes = seeds[random.below(seeds.len())].clone();
    for _ in 0..=random.below(4) {
        let start = random.below(bytes.len());
        let end = (start + 1 + random.below(30)).min(bytes.len());
        match random.below(7) {
            0 if start < end => bytes[start] ^= 1 << random.below(8),
            1 if start < end => bytes[start] = TELLING[random.below(TELLING.len())],
            2 if start < end => bytes[start] = random.next() as u8,
            3 => drop(bytes.drain(start..end)),
            4 => {
                let run = bytes[start..end].to_vec();
                bytes.splice(start..start, run);
            }
            5 => {
                let other = &seeds[random.below(seeds.len())];
                let from = random.below(other.len());
                let to = (from + 1 + random.below(60)).min(other.len());
                bytes.splice(start..start, other[from..to].iter().copied());
            }
            _ => bytes.extend((0..random.below(12)).map(|_| random.next() as u8)),
        }
    }
    bytes
}

/// Gives so many damaged inputs to a target; `TEST_CASES` multiplies them, `TEST_SEED` chooses one.
fn drive(target: &str, cases: u64) {
    let setting = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let (_, body, seeds) = bodies::TARGETS.into_iter().find(|(name, ..)| *name == target).unwrap();
    let seeds = seeds();
    seeds.iter().for_each(|seed| body(seed));
    let cases = match setting("TEST_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..cases * setting("TEST_CASES").unwrap_or(1),
    };
    for seed in cases {
        let input = damaged(&seeds, seed);
        if let Err(panic) = std::panic::catch_unwind(|| body(&input)) {
            eprintln!("seed {seed} failed with {:?}; repeat it with", input.escape_ascii().to_string());
            eprintln!("    TEST_SEED={seed} cargo test -p jigap --test damaged_input {target}");
            std::panic::resume_unwind(panic);
        }
    }
}

#[test]
fn codec_body() {
    drive("codec_body", 20_000);
}

#[test]
fn journal_recovery() {
    drive("journal_recovery", 1_000);
}

#[test]
fn json_request() {
    drive("json_request", 20_000);
}

#[test]
fn protobuf_batch() {
    drive("protobuf_batch", 20_000);
}
