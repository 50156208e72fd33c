//! The fuzz targets' bodies, driven by a seeded generator: a short smoke of what `make fuzz` does for longer.
#![allow(clippy::unwrap_used, reason = "a test that unwraps nothing has failed")]

#[path = "../../../fuzz/src/bodies.rs"]
#[allow(unreachable_pub, reason = "public to the fuzz targets")]
mod bodies;

use fastrand::Rng;

/// A valid input with one to four things wrong: a byte, a run cut out, doubled or overwritten, a piece of another input.
fn damaged(seeds: &[Vec<u8>], seed: u64) -> Vec<u8> {
    const TELLING: [u8; 10] = [0, 1, 0x7f, 0x80, 0xff, b'"', b'\\', b'{', b'0', b','];
    let mut random = Rng::with_seed(seed);
    let mut bytes = seeds[random.usize(..seeds.len())].clone();
    for _ in 0..=random.usize(..4) {
        let start = random.usize(..bytes.len().max(1));
        let end = (start + 1 + random.usize(..30)).min(bytes.len());
        match random.usize(..7) {
            0 if start < end => bytes[start] ^= 1 << random.usize(..8),
            1 if start < end => bytes[start] = TELLING[random.usize(..TELLING.len())],
            2 if start < end => bytes[start] = random.u8(..),
            3 => drop(bytes.drain(start..end)),
            4 => {
                let run = bytes[start..end].to_vec();
                bytes.splice(start..start, run);
            }
            5 => {
                let other = &seeds[random.usize(..seeds.len())];
                let from = random.usize(..other.len().max(1));
                let to = (from + 1 + random.usize(..60)).min(other.len());
                bytes.splice(start..start, other[from..to].iter().copied());
            }
            _ => bytes.extend((0..random.usize(..12)).map(|_| random.u8(..))),
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
