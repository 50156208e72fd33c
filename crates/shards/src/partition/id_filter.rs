//! Which transaction_ids were surely never used: a filter over every id there ever was, in memory.
//!
//! Nearly every id is new. One cache line says so with a false alarm in ten thousand at worst, so that the hot path never asks
//! the store. On a large filter that line is neither in the cache nor in the address translation cache, and is the dearest access
//! of a transfer: hence one table that doubles, and not one for each generation of ids.

use std::sync::atomic::{AtomicU64, Ordering};

use storage::memory::prefetch;
use zerocopy::FromZeros;

/// ```text
/// line    lane 0 .. lane 19 (u16) | high 0 .. high 19 (u8) | unused (3 bytes) | count (u8)
/// entry   lane = fingerprint bits 0-15, high = distance from home (2 bits) | fingerprint bits 16-21
/// count   number of entries, or SATURATED when an entry of this home found no room at all
/// ```
const WORDS_PER_LINE: usize = 8;
const ENTRIES_PER_LINE: usize = 20;
const LANE_WORDS: usize = 5;
const HIGH_BYTES_OFFSET: usize = 40;
const COUNT_OFFSET: usize = 63;
const SATURATED: u8 = 0x80;
/// An entry stands in its home line or, past full ones, in one of the next three.
const REACH: usize = 4;
/// Entries of a line on average when the filter is full: one home in a hundred thousand is saturated then.
const ENTRIES_PER_LINE_MAX: u64 = 13;
/// Every doubling takes a bit from the fingerprints, and so doubles the false alarms: a ledger begins with room for so many ids, and
/// has one in twenty thousand at 100 million. Memory that is not written to yet costs nothing.
const IDS_AT_FIRST: u64 = 8 << 20;
/// Besides the ids that it has, a ledger's filter has room for one more in so many, so that it does not double at once.
const ROOM_SHARE: u64 = 4;
const LINES_MIN: u64 = 1 << 14;
const FINGERPRINT_BITS: u32 = 22;
/// What the distance is shifted by in an entry.
const DISTANCE_SHIFT: u32 = FINGERPRINT_BITS;

type Line = [AtomicU64; WORDS_PER_LINE];

/// A set of hashes without false negatives.
///
/// One thread at a time inserts; others may look up meanwhile, and see an id at the latest once the insertion was made known to them.
#[derive(Debug)]
pub(super) struct IdFilter {
    words: Vec<AtomicU64>,
    /// Words to skip so that lines are aligned to cache lines.
    skip: usize,
    /// The lines that it was made with. A hash times this is a fixed-point number: the whole part is the home, and the first bits
    /// after the point are the fingerprint.
    lines_at_first: u64,
    /// How often the lines were doubled: as many of the fingerprint's first bits belong to the home by now.
    doublings: u32,
    ids: AtomicU64,
}

impl IdFilter {
    /// An empty filter for a ledger with so many ids, and more to come.
    pub(super) fn of_ledger(ids: u64) -> IdFilter {
        IdFilter::with_room_for((ids + ids / ROOM_SHARE).max(IDS_AT_FIRST))
    }

    /// An empty filter with room for so many ids.
    pub(super) fn with_room_for(ids: u64) -> IdFilter {
        IdFilter::with_lines((ids / ENTRIES_PER_LINE_MAX + 1).max(LINES_MIN), 0)
    }

    fn with_lines(lines_at_first: u64, doublings: u32) -> IdFilter {
        let lines = usize::try_from(lines_at_first << doublings).expect("a filter fits into memory");
        let words =
            AtomicU64::new_vec_zeroed((lines + 1) * WORDS_PER_LINE).expect("a filter fits into memory");
        let skip = words.as_ptr().align_offset(64).min(WORDS_PER_LINE);
        IdFilter { words, skip, lines_at_first, doublings, ids: AtomicU64::new(0) }
    }

    /// The same ids in twice the lines. Quick: both are walked in order.
    pub(super) fn doubled(&self) -> IdFilter {
        assert!(self.doublings < FINGERPRINT_BITS, "a filter doubles until its fingerprints are used up");
        let larger = IdFilter::with_lines(self.lines_at_first, self.doublings + 1);
        for at in 0..self.lines() {
            let line = self.line(at);
            for (fingerprint, distance) in entries(line) {
                let home = (at + self.lines() - distance) % self.lines();
                larger.place(larger.home_below(home, fingerprint), fingerprint);
            }
            if is_saturated(line) {
                [2 * at, 2 * at + 1].into_iter().for_each(|home| saturate(larger.line(home)));
            }
        }
        larger.ids.store(self.ids.load(Ordering::Relaxed), Ordering::Relaxed);
        larger
    }

    /// True when so many more ids should not be inserted before it is doubled.
    pub(super) fn is_full_with(&self, more: u64) -> bool {
        self.ids.load(Ordering::Relaxed) + more > self.lines() as u64 * ENTRIES_PER_LINE_MAX
    }

    /// False: the id with this hash was never inserted.
    pub(super) fn may_contain(&self, hash: u64) -> bool {
        let (home, fingerprint) = self.place_of(hash);
        for distance in 0..REACH {
            let line = self.line(self.next(home, distance));
            if has_entry(line, fingerprint, distance) || (distance == 0 && is_saturated(line)) {
                return true;
            }
            if count(line) < ENTRIES_PER_LINE {
                return false;
            }
        }
        false
    }

    /// One thread at a time.
    pub(super) fn insert(&self, hash: u64) {
        let (home, fingerprint) = self.place_of(hash);
        self.place(home, fingerprint);
        self.ids.store(self.ids.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    /// Asks for the line that a look-up will need.
    pub(super) fn prefetch(&self, hash: u64) {
        prefetch(self.line(self.place_of(hash).0));
    }

    /// Forgets everything and keeps the memory.
    pub(super) fn clear(&mut self) {
        self.words.iter_mut().for_each(|word| *word.get_mut() = 0);
        *self.ids.get_mut() = 0;
    }

    pub(super) fn size_bytes(&self) -> usize {
        self.words.len() * size_of::<u64>()
    }

    fn place(&self, home: usize, fingerprint: u32) {
        for distance in 0..REACH {
            let line = self.line(self.next(home, distance));
            if count(line) < ENTRIES_PER_LINE {
                push_entry(line, fingerprint, distance);
                return;
            }
        }
        saturate(self.line(home));
    }

    fn lines(&self) -> usize {
        (self.lines_at_first << self.doublings) as usize
    }

    /// The home line of a hash, and its fingerprint.
    fn place_of(&self, hash: u64) -> (usize, u32) {
        let product = u128::from(hash) * u128::from(self.lines_at_first);
        let fingerprint = (product as u64 >> (u64::BITS - FINGERPRINT_BITS)) as u32;
        (((product >> 64 << self.doublings) as usize) | self.home_bits(fingerprint), fingerprint)
    }

    /// The home that an entry of the half as large filter's home has here.
    fn home_below(&self, home: usize, fingerprint: u32) -> usize {
        2 * home + (self.home_bits(fingerprint) & 1)
    }

    /// The fingerprint's first bits, which belong to the home.
    fn home_bits(&self, fingerprint: u32) -> usize {
        (fingerprint >> (FINGERPRINT_BITS - self.doublings)) as usize
    }

    fn next(&self, home: usize, distance: usize) -> usize {
        let at = home + distance;
        if at < self.lines() { at } else { at - self.lines() }
    }

    fn line(&self, at: usize) -> &Line {
        let start = self.skip + at * WORDS_PER_LINE;
        self.words[start..].first_chunk().expect("there is a line more than are used")
    }
}

fn load(line: &Line, word: usize) -> u64 {
    line[word].load(Ordering::Relaxed)
}

fn byte(line: &Line, offset: usize) -> u8 {
    (load(line, offset / 8) >> (offset % 8 * 8)) as u8
}

fn set_bits(line: &Line, offset: usize, bits: u64) {
    let word = &line[offset / 8];
    word.store(word.load(Ordering::Relaxed) | bits << (offset % 8 * 8), Ordering::Relaxed);
}

fn count(line: &Line) -> usize {
    usize::from(byte(line, COUNT_OFFSET) & !SATURATED)
}

fn is_saturated(line: &Line) -> bool {
    byte(line, COUNT_OFFSET) & SATURATED != 0
}

fn saturate(line: &Line) {
    set_bits(line, COUNT_OFFSET, SATURATED.into());
}

/// The upper byte of an entry.
fn high(fingerprint: u32, distance: usize) -> u8 {
    ((fingerprint | (distance as u32) << DISTANCE_SHIFT) >> 16) as u8
}

fn push_entry(line: &Line, fingerprint: u32, distance: usize) {
    let entry = count(line);
    set_bits(line, 2 * entry, (fingerprint as u16).into());
    set_bits(line, HIGH_BYTES_OFFSET + entry, high(fingerprint, distance).into());
    // Last, and by adding: the bits of the old count must go.
    let word = &line[COUNT_OFFSET / 8];
    word.store(word.load(Ordering::Relaxed) + (1 << (COUNT_OFFSET % 8 * 8)), Ordering::Relaxed);
}

/// The fingerprint and distance of every entry.
fn entries(line: &Line) -> impl Iterator<Item = (u32, usize)> {
    (0..count(line)).map(|entry| {
        let high = u32::from(byte(line, HIGH_BYTES_OFFSET + entry));
        let entry = u32::from(lane(line, entry)) | high << 16;
        (entry & ((1 << FINGERPRINT_BITS) - 1), (entry >> DISTANCE_SHIFT) as usize)
    })
}

fn lane(line: &Line, entry: usize) -> u16 {
    (load(line, entry / 4) >> (entry % 4 * 16)) as u16
}

fn has_entry(line: &Line, fingerprint: u32, distance: usize) -> bool {
    has_lane(line, fingerprint as u16)
        && (0..count(line)).any(|entry| {
            lane(line, entry) == fingerprint as u16
                && byte(line, HIGH_BYTES_OFFSET + entry) == high(fingerprint, distance)
        })
}

/// True when any 16-bit lane equals `low`: the classic test for a zero lane, after an exclusive or.
fn has_lane(line: &Line, low: u16) -> bool {
    const ONES: u64 = 0x0001_0001_0001_0001;
    const TOPS: u64 = 0x8000_8000_8000_8000;
    let pattern = u64::from(low) * ONES;
    let zero_lanes = (0..LANE_WORDS).fold(0, |found, word| {
        let difference = load(line, word) ^ pattern;
        found | difference.wrapping_sub(ONES) & !difference & TOPS
    });
    zero_lanes != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(number: u64) -> u64 {
        let product = u128::from(number ^ 0x9e37_79b9_7f4a_7c15) * 0xd6e8_feb8_6659_fd93_u128;
        (product as u64 ^ (product >> 64) as u64).wrapping_mul(0xa076_1d64_78bd_642f)
    }

    fn false_alarms(filter: &IdFilter, numbers: std::ops::Range<u64>) -> usize {
        numbers.filter(|number| filter.may_contain(hash(*number))).count()
    }

    #[test]
    fn a_full_filter_finds_all_its_ids_and_hardly_any_other() {
        const INSERTED: u64 = 3_000_000;
        let filter = IdFilter::with_room_for(INSERTED);
        let mut hashes: Vec<u64> = (0..INSERTED).map(hash).collect();
        // Sorted, as the index holds them: the hardest order for a table that moves entries to the next line.
        hashes.sort_unstable();
        hashes.iter().for_each(|hash| filter.insert(*hash));
        assert!(hashes.iter().all(|hash| filter.may_contain(*hash)));
        assert!(filter.is_full_with(10_000));
        let alarms = false_alarms(&filter, INSERTED..2 * INSERTED);
        assert!(alarms < 150, "{alarms} false alarms in {INSERTED}");
        assert!(filter.size_bytes() < INSERTED as usize * 5, "{} bytes", filter.size_bytes());
    }

    #[test]
    fn every_id_stays_through_doublings() {
        const INSERTED: u64 = 6_000_000;
        let mut filter = IdFilter::with_lines(LINES_MIN, 0);
        for number in 0..INSERTED {
            if filter.is_full_with(1) {
                filter = filter.doubled();
            }
            filter.insert(hash(number));
        }
        assert!(filter.doublings >= 4);
        assert!((0..INSERTED).all(|number| filter.may_contain(hash(number))));
        let alarms = false_alarms(&filter, INSERTED..2 * INSERTED);
        assert!(alarms < 1_500, "{alarms} false alarms in {INSERTED}");
        assert!(filter.size_bytes() < INSERTED as usize * 11, "{} bytes", filter.size_bytes());
    }

    #[test]
    fn a_cleared_filter_is_empty() {
        let mut filter = IdFilter::with_room_for(1_000);
        (0..1_000).for_each(|number| filter.insert(hash(number)));
        filter.clear();
        assert_eq!(false_alarms(&filter, 0..1_000), 0);
    }
}
