//! What changes over time: every account has a few series of values, and a posting is one value of one of them.

use ledger::{AccountNumber, BalanceChange, Currency, Sequence};

/// One series of an account: whether it is open, or what is available or held in one currency.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Series(u16);

impl Series {
    /// [`OPEN`] from the account's opening on, [`CLOSED`] from its closing on.
    pub(super) const LIFE: Series = Series(0);
    pub(super) const MAX: Series = Series(u16::MAX);

    pub(super) fn available(currency: Currency) -> Series {
        Series(currency.numeric() << 1)
    }

    pub(super) fn held(currency: Currency) -> Series {
        Series(currency.numeric() << 1 | 1)
    }

    /// `None` for [`Series::LIFE`].
    pub(super) fn currency(self) -> Option<Currency> {
        Currency::from_numeric(self.0 >> 1)
    }

    pub(super) fn is_held(self) -> bool {
        self.0 & 1 == 1
    }

    pub(super) fn number(self) -> u16 {
        self.0
    }

    pub(super) fn from_number(number: u16) -> Series {
        Series(number)
    }
}

pub(super) const OPEN: i64 = 1;
pub(super) const CLOSED: i64 = 0;

/// The value that an event left behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Posting {
    pub(super) sequence: Sequence,
    pub(super) value: i64,
    pub(super) account: AccountNumber,
    pub(super) series: Series,
}

impl Posting {
    pub(super) fn key(&self) -> u64 {
        u64::from(self.account.0) << 16 | u64::from(self.series.0)
    }

    pub(super) fn same_series(&self, other: &Posting) -> bool {
        self.account == other.account && self.series == other.series
    }

    /// One for `available`, and one for `held` where that changed.
    pub(super) fn of(change: BalanceChange, sequence: Sequence) -> impl Iterator<Item = Posting> {
        let BalanceChange { account, currency, available_after, held_after, .. } = change;
        let posting = move |series, value| Posting { sequence, value, account, series };
        let held = held_after.map(|held| posting(Series::held(currency), held));
        std::iter::once(posting(Series::available(currency), available_after)).chain(held)
    }
}

/// Fewer are ordered faster by comparing.
const RADIX_FROM: usize = 512;

/// Orders postings by account and series; those of one series keep their order, which is that of their sequences.
pub(super) fn order(postings: &mut [Posting]) {
    if postings.len() < RADIX_FROM {
        postings.sort_by_key(Posting::key);
    } else {
        radsort::sort_by_key(postings, Posting::key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordering_is_stable_for_few_and_for_many() {
        for count in [0u64, 1, 100, 5_000] {
            let posting = |sequence: u64| Posting {
                sequence: Sequence(sequence),
                value: 0,
                account: AccountNumber((sequence.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as u32 % 5_000),
                series: Series((sequence % 7) as u16 * 300),
            };
            let mut postings: Vec<Posting> = (0..count).map(posting).collect();
            let mut expected = postings.clone();
            expected.sort_by_key(Posting::key);
            order(&mut postings);
            assert_eq!(postings, expected);
        }
    }
}
