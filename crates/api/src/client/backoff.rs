//! Pauses between attempts: doubling, and different for every client, so that they do not come back all at once.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

use super::Options;

pub(super) struct Backoff {
    next: Duration,
    first: Duration,
    max: Duration,
}

impl Backoff {
    pub(super) fn new(options: &Options) -> Backoff {
        Backoff { next: options.backoff_first, first: options.backoff_first, max: options.backoff_max }
    }

    /// The next pause: between half of its full length and all of it.
    pub(super) fn next(&mut self) -> Duration {
        let full = self.next;
        self.next = (full * 2).min(self.max);
        // The standard library's only source of randomness: the keys of a hasher.
        let random = RandomState::new().build_hasher().finish() as u32;
        full / 2 + (full / 2).mul_f64(f64::from(random) / f64::from(u32::MAX))
    }

    /// An attempt succeeded.
    pub(super) fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_begin_anew() {
        let options = Options {
            backoff_first: Duration::from_millis(100),
            backoff_max: Duration::from_millis(300),
            ..Options::default()
        };
        let mut backoff = Backoff::new(&options);
        for full in [100, 200, 300, 300] {
            let pause = backoff.next();
            assert!((full / 2..=full).contains(&(pause.as_millis() as u64)), "{pause:?}");
        }
        backoff.reset();
        assert!(backoff.next() <= Duration::from_millis(100));
    }
}
