//! Random numbers at two or three nanoseconds each. Not for secrets.

/// A generator (wyrand). Its quality passes the usual statistical batteries.
#[derive(Debug, Clone)]
pub(super) struct Random(u64);

impl Random {
    /// The generator of one stream of a seed: streams of neighbouring numbers have nothing in common.
    #[inline]
    pub(super) fn new(seed: u64, stream: u64) -> Random {
        let mut random = Random(seed ^ stream.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mixed = random.next() ^ stream;
        Random(mixed.wrapping_mul(0xd6e8_feb8_6659_fd93) ^ seed.rotate_left(32))
    }

    /// 64 random bits.
    #[inline]
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0xa076_1d64_78bd_642f);
        let product = u128::from(self.0) * u128::from(self.0 ^ 0xe703_7ed1_a0b4_28db);
        (product >> 64) as u64 ^ product as u64
    }

    /// A number below `limit`.
    #[inline]
    pub(super) fn below(&mut self, limit: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(limit)) >> 64) as u64
    }

    /// A number from 0 up to, not including, 1.
    pub(super) fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_of_a_seed_repeat_and_differ() {
        let first: Vec<u64> = (0..1000).map(|stream| Random::new(7, stream).next()).collect();
        let again: Vec<u64> = (0..1000).map(|stream| Random::new(7, stream).next()).collect();
        assert_eq!(first, again);
        let distinct: std::collections::BTreeSet<u64> = first.into_iter().collect();
        assert_eq!(distinct.len(), 1000);
    }

    #[test]
    fn numbers_below_a_limit_fall_evenly() {
        let mut random = Random::new(1, 2);
        let mut counts = [0u32; 10];
        for _ in 0..100_000 {
            counts[random.below(10) as usize] += 1;
        }
        assert!(counts.iter().all(|count| (9_500..10_500).contains(count)), "{counts:?}");
    }
}
