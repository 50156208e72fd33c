//! What changes over time: every account has a few series of values, and a posting is one value of one of them.

use ledger::{AccountNumber, BalanceChange, Currency, Sequence};

use super::layout::{ACCOUNTS_PER_PAGE, index_in_page, page_of};

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
    const ZERO: Posting =
        Posting { sequence: Sequence(0), value: 0, account: AccountNumber::EXTERNAL, series: Series::LIFE };

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

/// How many bits of a [`Packed`]'s place say how far its event is from the chunk's beginning.
const DISTANCE_BITS: u32 = 21;
/// The numbers of all series: twice a numeric code below 1000, and one.
const SERIES_BITS: u32 = 11;

/// A posting as a chunk keeps it: two thirds of the size, which is what filling, grouping and reading chunks cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Packed {
    /// The account, the series, and how many events after the last one before the chunk.
    place: u64,
    value: i64,
}

impl Packed {
    /// Events of a chunk. A frame has fewer than half as many, so a chunk that is closed at the half always has room for it.
    pub(super) const DISTANCE_MAX: u64 = (1 << DISTANCE_BITS) - 1;

    #[inline]
    pub(super) fn new(posting: Posting, after: Sequence) -> Packed {
        let Posting { sequence, value, account, series } = posting;
        let distance = sequence.0 - after.0;
        assert!(distance <= Packed::DISTANCE_MAX, "a chunk is closed long before it has so many events");
        assert!(series.0 < 1 << SERIES_BITS, "ISO 4217 numbers its currencies below 1000");
        let series = u64::from(series.0) << DISTANCE_BITS;
        let place = u64::from(account.0) << (DISTANCE_BITS + SERIES_BITS) | series | distance;
        Packed { place, value }
    }

    #[inline]
    pub(super) fn posting(self, after: Sequence) -> Posting {
        let distance = self.place & Packed::DISTANCE_MAX;
        let series = Series((self.place >> DISTANCE_BITS) as u16 & ((1 << SERIES_BITS) - 1));
        Posting { sequence: Sequence(after.0 + distance), value: self.value, account: self.account(), series }
    }

    #[inline]
    pub(super) fn account(self) -> AccountNumber {
        AccountNumber((self.place >> (DISTANCE_BITS + SERIES_BITS)) as u32)
    }
}

/// More pages than this are grouped by sorting: a counter for each would cost more than the rows.
const PAGES_COUNTED_MAX: usize = 1 << 16;

/// Groups rows by page, pages ascending, in their first order within a page. `grouped` is overwritten.
///
/// One pass: the places that are written next, one for each page, stay in the cache.
pub(super) fn group_by_page(rows: &[Packed], grouped: &mut Vec<Packed>) {
    let page = |row: &Packed| page_of(row.account()) as usize;
    let pages = rows.iter().map(page).max().map_or(0, |last| last + 1);
    grouped.clear();
    if pages > PAGES_COUNTED_MAX {
        grouped.extend_from_slice(rows);
        radsort::sort_by_key(grouped, |row| page_of(row.account()));
        return;
    }
    let mut next = vec![0u32; pages];
    rows.iter().for_each(|row| next[page(row)] += 1);
    let mut start = 0;
    for next in &mut next {
        (*next, start) = (start, start + *next);
    }
    grouped.resize(rows.len(), Packed::default());
    for row in rows {
        let next = &mut next[page(row)];
        grouped[*next as usize] = *row;
        *next += 1;
    }
}

/// The postings of a page from rows that are in the order of their events: by account and series, and those of one series in
/// that order still.
#[derive(Debug)]
pub(super) struct PageOrder {
    postings: Vec<Posting>,
    next: [u32; ACCOUNTS_PER_PAGE as usize],
}

impl Default for PageOrder {
    fn default() -> PageOrder {
        PageOrder { postings: Vec::new(), next: [0; ACCOUNTS_PER_PAGE as usize] }
    }
}

impl PageOrder {
    /// Takes rows of the page: some of each chunk, with the last event before the chunk, oldest chunk first.
    pub(super) fn order(&mut self, parts: &[(Sequence, &[Packed])]) -> &[Posting] {
        let index = |row: &Packed| usize::from(index_in_page(row.account()));
        self.next.fill(0);
        for (_, rows) in parts {
            rows.iter().for_each(|row| self.next[index(row)] += 1);
        }
        let mut start = 0;
        for next in &mut self.next {
            (*next, start) = (start, start + *next);
        }
        self.postings.resize(start as usize, Posting::ZERO);
        for (after, rows) in parts {
            for row in *rows {
                let next = &mut self.next[index(row)];
                self.postings[*next as usize] = row.posting(*after);
                *next += 1;
            }
        }
        // Nearly every account has money in one currency, and nothing held: then its postings are in order already.
        for own in self.postings.chunk_by_mut(|one, two| one.account == two.account) {
            if own.iter().any(|posting| posting.series != own[0].series) {
                own.sort_by_key(|posting| posting.series);
            }
        }
        &self.postings
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(number: u64, accounts: u32) -> Packed {
        let posting = Posting {
            sequence: Sequence(1_000 + number),
            value: number as i64 - 500,
            account: AccountNumber((number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u32 % accounts),
            series: Series((number % 7) as u16 * 300),
        };
        let row = Packed::new(posting, Sequence(999));
        assert_eq!(row.posting(Sequence(999)), posting);
        row
    }

    #[test]
    fn rows_of_a_page_keep_their_order_for_few_pages_and_for_many() {
        for accounts in [1, 5_000, u32::MAX] {
            for count in [0u64, 1, 100, 5_000] {
                let rows: Vec<Packed> = (0..count).map(|number| row(number, accounts)).collect();
                let mut expected = rows.clone();
                expected.sort_by_key(|row| page_of(row.account()));
                let mut grouped = vec![row(1, 1); 7];
                group_by_page(&rows, &mut grouped);
                assert_eq!(grouped, expected);
            }
        }
    }

    #[test]
    fn a_page_is_ordered_by_account_and_series_and_event() {
        let mut order = PageOrder::default();
        for count in [2_000u64, 0, 1, 300] {
            let rows: Vec<Packed> = (0..count).map(|number| row(number, ACCOUNTS_PER_PAGE)).collect();
            let parts: Vec<(Sequence, &[Packed])> =
                rows.chunks(90).map(|rows| (Sequence(999), rows)).collect();
            let mut expected: Vec<Posting> = rows.iter().map(|row| row.posting(Sequence(999))).collect();
            expected.sort_by_key(Posting::key);
            assert_eq!(order.order(&parts), expected);
        }
    }

    #[test]
    fn the_extremes_fit_into_a_row() {
        let posting = Posting {
            sequence: Sequence(5 + Packed::DISTANCE_MAX),
            value: i64::MIN,
            account: AccountNumber(u32::MAX),
            series: Series(1999),
        };
        assert_eq!(Packed::new(posting, Sequence(5)).posting(Sequence(5)), posting);
    }
}
