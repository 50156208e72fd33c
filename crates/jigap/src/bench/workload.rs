//! Which transfers are made. Batch `n` of a seed always has the same transfers, but for the time in ids of version 7.

use super::arguments::{Distribution, IdVersion};
use super::random::Random;

/// Samples of a skewed distribution are drawn ahead: its formula costs more than the rest of a transfer.
const SAMPLES: usize = 1 << 20;
/// The largest amount, in minor units: always three digits, so that requests have one length.
const AMOUNT_MINOR_UNITS_MAX: u64 = 999;

/// One transfer, its accounts by index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Transfer {
    pub(super) transaction_id: u128,
    pub(super) from: u32,
    pub(super) to: u32,
    pub(super) minor_units: u32,
}

/// Makes transfers.
#[derive(Debug, Clone)]
pub(super) struct Workload {
    seed: u64,
    accounts: u32,
    batch: u32,
    ids: IdVersion,
    picks: Picks,
}

#[derive(Debug, Clone)]
enum Picks {
    Uniform,
    Samples(Vec<u32>),
    Hot,
}

impl Workload {
    pub(super) fn new(
        seed: u64,
        accounts: u32,
        batch: u32,
        ids: IdVersion,
        distribution: Distribution,
    ) -> Workload {
        let picks = match distribution {
            Distribution::Uniform => Picks::Uniform,
            Distribution::Hot => Picks::Hot,
            Distribution::Zipf { exponent } => Picks::Samples(zipf_samples(seed, accounts, exponent)),
        };
        Workload { seed, accounts, batch, ids, picks }
    }

    /// How many transfers a batch has.
    pub(super) fn batch(&self) -> u32 {
        self.batch
    }

    /// Makes the transfers of a batch that is sent at this time.
    #[inline]
    pub(super) fn generate(&self, batch: u64, unix_time_ms: u64, mut each: impl FnMut(Transfer)) {
        let mut random = Random::new(self.seed, batch);
        let accounts = u64::from(self.accounts);
        let mut at = random.next() as usize;
        for index in 0..self.batch {
            let bits = random.next();
            let (from, to) = match &self.picks {
                Picks::Uniform => (scale(bits as u32, accounts), scale((bits >> 32) as u32, accounts)),
                Picks::Samples(samples) => {
                    at = at.wrapping_add(2);
                    (samples[at % SAMPLES], samples[(at + 1) % SAMPLES])
                }
                Picks::Hot if index % 2 == 0 => (0, scale(bits as u32, accounts)),
                Picks::Hot => (scale(bits as u32, accounts), 0),
            };
            let to = if to != from {
                to
            } else if to + 1 == self.accounts {
                0
            } else {
                to + 1
            };
            let minor_units = 1 + (bits >> 20) % AMOUNT_MINOR_UNITS_MAX;
            let transaction_id = self.transaction_id(random.next(), random.next(), unix_time_ms);
            each(Transfer { transaction_id, from, to, minor_units: minor_units as u32 });
        }
    }

    #[inline]
    fn transaction_id(&self, high: u64, low: u64, unix_time_ms: u64) -> u128 {
        const VARIANT: u64 = 0b10 << 62;
        let low = low >> 2 | VARIANT;
        let high = match self.ids {
            IdVersion::V4 => high & !0xf000 | 0x4000,
            IdVersion::V7 => unix_time_ms << 16 | high & 0xfff | 0x7000,
        };
        u128::from(high) << 64 | u128::from(low)
    }
}

#[inline]
fn scale(bits: u32, limit: u64) -> u32 {
    ((u64::from(bits) * limit) >> 32) as u32
}

/// Draws by rank, and spreads the ranks over all accounts: neighbours in rank are no neighbours in memory.
fn zipf_samples(seed: u64, accounts: u32, exponent: f64) -> Vec<u32> {
    let mut sum = 0.0;
    let cumulative: Vec<f64> = (1..=accounts)
        .map(|rank| {
            sum += f64::from(rank).powf(-exponent);
            sum
        })
        .collect();
    let stride = coprime_stride(accounts);
    let mut random = Random::new(seed, u64::MAX);
    (0..SAMPLES)
        .map(|_| {
            let point = random.unit() * sum;
            let rank = cumulative.partition_point(|below| *below <= point).min(cumulative.len() - 1);
            (rank as u64 * stride % u64::from(accounts)) as u32
        })
        .collect()
}

/// A number that shares no divisor with `accounts`, so that its multiples visit every account once.
fn coprime_stride(accounts: u32) -> u64 {
    let divisor = |mut one: u64, mut two: u64| {
        while two != 0 {
            (one, two) = (two, one % two);
        }
        one
    };
    let accounts = u64::from(accounts);
    let golden = (accounts as f64 * 0.618_033_988_75) as u64;
    (golden.max(1)..).find(|stride| divisor(*stride, accounts) == 1).expect("a prime above comes at last")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn transfers(workload: &Workload, batch: u64) -> Vec<Transfer> {
        let mut transfers = Vec::new();
        workload.generate(batch, 1_767_322_985_678, |transfer| transfers.push(transfer));
        transfers
    }

    const DISTRIBUTIONS: [Distribution; 3] =
        [Distribution::Uniform, Distribution::Zipf { exponent: 1.0 }, Distribution::Hot];

    #[test]
    fn a_batch_can_be_made_again_and_no_other_is_like_it() {
        for distribution in DISTRIBUTIONS {
            let workload = Workload::new(3, 100, 1000, IdVersion::V4, distribution);
            assert_eq!(transfers(&workload, 5), transfers(&workload, 5));
            let mut ids: Vec<u128> = (0..10)
                .flat_map(|batch| transfers(&workload, batch))
                .map(|transfer| transfer.transaction_id)
                .collect();
            ids.sort_unstable();
            ids.dedup();
            assert_eq!(ids.len(), 10_000);
        }
    }

    #[test]
    fn transfers_are_right_whatever_the_distribution() {
        for distribution in DISTRIBUTIONS {
            for accounts in [2, 3, 1000] {
                for transfer in transfers(&Workload::new(9, accounts, 8190, IdVersion::V4, distribution), 0) {
                    assert_ne!(transfer.from, transfer.to);
                    assert!(transfer.from < accounts && transfer.to < accounts);
                    assert!((1..=999).contains(&transfer.minor_units));
                }
            }
        }
    }

    #[test]
    fn ids_are_uuids_of_the_version_asked_for() {
        for (ids, version) in [(IdVersion::V4, 4), (IdVersion::V7, 7)] {
            let workload = Workload::new(3, 10, 100, ids, Distribution::Uniform);
            for transfer in transfers(&workload, 1) {
                let id = uuid::Uuid::from_u128(transfer.transaction_id);
                assert_eq!(id.get_version_num(), version);
                assert_eq!(id.get_variant(), uuid::Variant::RFC4122);
            }
        }
    }

    #[test]
    fn skew_is_as_asked_for() {
        let share = |distribution| {
            let workload = Workload::new(3, 1000, 8190, IdVersion::V4, distribution);
            let mut counts = vec![0u32; 1000];
            for transfer in (0..20).flat_map(|batch| transfers(&workload, batch)) {
                counts[transfer.from as usize] += 1;
                counts[transfer.to as usize] += 1;
            }
            f64::from(counts.into_iter().max().expect("there are accounts")) / (20.0 * 8190.0 * 2.0)
        };
        assert!(share(Distribution::Uniform) < 0.002);
        // The first of 1000 ranks has 1 / H(1000) = 13.4 % of all.
        assert!((0.12..0.15).contains(&share(Distribution::Zipf { exponent: 1.0 })));
        assert!((0.49..0.51).contains(&share(Distribution::Hot)));
    }
}
