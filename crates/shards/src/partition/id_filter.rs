//! Which transaction_ids were surely never used, and where else to look: a filter over every id there ever was, in memory.
//!
//! Nearly every id is new. One cache line says so with a false alarm in ten thousand at worst, so that the hot path never asks
//! the store; and where there is an alarm, it says in which run to look. On a large filter that line is neither in the cache nor in the
//! address translation cache, and is the dearest access of a transfer: hence one table over the ids of all windows and all of the store.

use storage::memory::prefetch;
use zerocopy::FromZeros;

use super::id_index::RunTag;

/// ```text
/// line    entry 0 .. entry 14 (u32) | count (u32)
/// entry   fingerprint (22 bits) | distance from home (2 bits) | the run's tag (8 bits)
/// count   number of entries, and SATURATED when an entry of this home found no room at all
/// ```
type Line = [u32; LINE_WORDS];

const LINE_WORDS: usize = 16;
const ENTRIES_PER_LINE: usize = 15;
const COUNT: usize = 15;
const SATURATED: u32 = 0x80;
/// An entry stands in its home line or, past full ones, in one of the next three.
const REACH: usize = 4;
const FINGERPRINT_BITS: u32 = 22;
const FINGERPRINT: u64 = (1 << FINGERPRINT_BITS) - 1;
/// Fingerprint and distance.
const WANTED: u32 = 0x00ff_ffff;
const TAG_SHIFT: u32 = 24;
/// Entries of a line on average when the filter is full.
const ENTRIES_PER_LINE_MAX: u64 = 11;
/// Every doubling takes a bit from the fingerprints, and so doubles the false alarms: a ledger begins with room for so many ids.
/// Memory that is not written to yet costs nothing.
const IDS_AT_FIRST: u64 = 8 << 20;
/// Besides the ids that it has, a ledger's filter has room for one more in so many, so that it does not double at once.
const ROOM_SHARE: u64 = 4;
const LINES_MIN: u64 = 1 << 14;

/// A set of hashes without false negatives, each with the tag of a run.
#[derive(Debug)]
pub(super) struct IdFilter {
    /// A hash times this is a fixed-point number, of which a *key* is the whole part and as many bits after the point as a fingerprint
    /// has: the home is a key's beginning, the fingerprint its end. Each doubling makes the home a bit longer.
    lines_at_first: u64,
    table: Table,
    growth: Option<Growth>,
    ids: u64,
    /// Keys with their tags for which there was no room within reach. Hardly any, ever.
    unplaced: Vec<(u64, RunTag)>,
}

/// A table of twice the lines, into which the entries of a home move with each insertion: nobody ever waits for a whole doubling.
#[derive(Debug)]
struct Growth {
    table: Table,
    /// Homes that have moved, counted in lines of the smaller table.
    moved: usize,
}

#[derive(Debug)]
struct Table {
    words: Vec<u32>,
    /// Words to skip so that lines are aligned to cache lines.
    skip: usize,
    lines: usize,
    /// How many bits of a key's fingerprint do not belong to the home.
    shift: u32,
}

impl IdFilter {
    /// An empty filter for a ledger with so many ids, and more to come.
    pub(super) fn of_ledger(ids: u64) -> IdFilter {
        IdFilter::with_room_for((ids + ids / ROOM_SHARE).max(IDS_AT_FIRST))
    }

    /// An empty filter with room for so many ids. It takes more, and doubles then.
    pub(super) fn with_room_for(ids: u64) -> IdFilter {
        IdFilter::with_lines((ids / ENTRIES_PER_LINE_MAX + 1).max(LINES_MIN))
    }

    fn with_lines(lines_at_first: u64) -> IdFilter {
        let lines = usize::try_from(lines_at_first).expect("a filter fits into memory");
        let table = Table::new(lines, FINGERPRINT_BITS);
        IdFilter { lines_at_first, table, growth: None, ids: 0, unplaced: Vec::new() }
    }

    /// False: the id with this hash was never inserted.
    pub(super) fn may_contain(&self, hash: u64) -> bool {
        let key = self.key(hash);
        let (table, home) = self.home(key);
        if is_saturated(table.line(home)) {
            return self.alarms(key).next().is_some();
        }
        for distance in 0..REACH {
            let line = table.line(home + distance);
            if has_entry(line, entry(key, distance)) {
                return true;
            }
            if count(line) < ENTRIES_PER_LINE {
                return false;
            }
        }
        false
    }

    /// The tags of runs that may have the id with this hash, each once.
    pub(super) fn tags(&self, hash: u64) -> Vec<RunTag> {
        let mut tags: Vec<RunTag> = self.alarms(self.key(hash)).collect();
        tags.sort_unstable();
        tags.dedup();
        tags
    }

    fn alarms(&self, key: u64) -> impl Iterator<Item = RunTag> {
        let (table, home) = self.home(key);
        let of_home =
            table.entries_of(home).filter(move |(fingerprint, _)| *fingerprint == key & FINGERPRINT);
        let unplaced = self.unplaced.iter().filter(move |(other, _)| *other == key);
        of_home.map(|(_, tag)| tag).chain(unplaced.map(|(_, tag)| *tag))
    }

    pub(super) fn insert(&mut self, hash: u64, tag: RunTag) {
        if self.growth.is_some() {
            self.move_home();
        } else if self.ids >= self.table.lines as u64 * ENTRIES_PER_LINE_MAX {
            let shift = self.table.shift.checked_sub(1);
            let shift = shift.expect("a filter doubles until its fingerprints are used up");
            self.growth = Some(Growth { table: Table::new(2 * self.table.lines, shift), moved: 0 });
        }
        self.ids += 1;
        let key = self.key(hash);
        let table = match &mut self.growth {
            Some(growth) if self.table.home(key) < growth.moved => &mut growth.table,
            _ => &mut self.table,
        };
        if !table.place(key, tag) {
            self.unplaced.push((key, tag));
        }
    }

    /// Asks for the line that a look-up will need.
    pub(super) fn prefetch(&self, hash: u64) {
        let (table, home) = self.home(self.key(hash));
        prefetch(table.line(home));
    }

    pub(super) fn size_bytes(&self) -> usize {
        let growing = self.growth.as_ref().map_or(0, |growth| growth.table.words.len());
        (self.table.words.len() + growing) * size_of::<u32>()
    }

    /// Moves the entries of one home into the larger table, which takes the smaller one's place after the last.
    fn move_home(&mut self) {
        let Some(Growth { table: larger, moved }) = &mut self.growth else { return };
        let home = *moved;
        // The whole part and the first bits of the fingerprint, which belong to the home, as they stand in a key.
        let key_start = (home as u64) >> (FINGERPRINT_BITS - self.table.shift) << FINGERPRINT_BITS;
        for (fingerprint, tag) in self.table.entries_of(home) {
            if !larger.place(key_start | fingerprint, tag) {
                self.unplaced.push((key_start | fingerprint, tag));
            }
        }
        if is_saturated(self.table.line(home)) {
            [2 * home, 2 * home + 1].into_iter().for_each(|home| saturate(larger.line_mut(home)));
        }
        *moved += 1;
        if *moved == self.table.lines
            && let Some(growth) = self.growth.take()
        {
            self.table = growth.table;
        }
    }

    fn key(&self, hash: u64) -> u64 {
        let product = u128::from(hash) * u128::from(self.lines_at_first);
        (product >> (u64::BITS - FINGERPRINT_BITS)) as u64
    }

    /// The home of a key, in the table that has its entries.
    fn home(&self, key: u64) -> (&Table, usize) {
        let home = self.table.home(key);
        match &self.growth {
            Some(Growth { table, moved }) if home < *moved => (table, table.home(key)),
            _ => (&self.table, home),
        }
    }
}

impl Table {
    fn new(lines: usize, shift: u32) -> Table {
        let words = u32::new_vec_zeroed((lines + 1) * LINE_WORDS).expect("a filter fits into memory");
        let skip = words.as_ptr().align_offset(64).min(LINE_WORDS);
        Table { words, skip, lines, shift }
    }

    fn home(&self, key: u64) -> usize {
        (key >> self.shift) as usize
    }

    /// Past the last line the first one follows.
    fn start(&self, at: usize) -> usize {
        let at = if at < self.lines { at } else { at - self.lines };
        self.skip + at * LINE_WORDS
    }

    fn line(&self, at: usize) -> &Line {
        self.words[self.start(at)..].first_chunk().expect("there is a line more than are used")
    }

    fn line_mut(&mut self, at: usize) -> &mut Line {
        let start = self.start(at);
        self.words[start..].first_chunk_mut().expect("there is a line more than are used")
    }

    /// False when there is no room: then the key must be kept elsewhere.
    fn place(&mut self, key: u64, tag: RunTag) -> bool {
        let home = self.home(key);
        for distance in 0..REACH {
            let line = self.line_mut(home + distance);
            let count = count(line);
            if count < ENTRIES_PER_LINE {
                line[count] = entry(key, distance) | u32::from(tag) << TAG_SHIFT;
                line[COUNT] += 1;
                return true;
            }
        }
        saturate(self.line_mut(home));
        false
    }

    /// The fingerprint and the tag of every entry with this home.
    fn entries_of(&self, home: usize) -> impl Iterator<Item = (u64, RunTag)> {
        (0..REACH).flat_map(move |distance| {
            let line = self.line(home + distance);
            let of_home = move |entry: &&u32| **entry & WANTED == with_distance(**entry, distance);
            let parts = |entry: &u32| (u64::from(*entry) & FINGERPRINT, (entry >> TAG_SHIFT) as RunTag);
            line[..count(line)].iter().filter(of_home).map(parts)
        })
    }
}

fn entry(key: u64, distance: usize) -> u32 {
    with_distance(key as u32, distance)
}

/// The fingerprint of an entry with this distance.
fn with_distance(entry: u32, distance: usize) -> u32 {
    (entry & FINGERPRINT as u32) | (distance as u32) << FINGERPRINT_BITS
}

fn count(line: &Line) -> usize {
    (line[COUNT] & !SATURATED) as usize
}

fn is_saturated(line: &Line) -> bool {
    line[COUNT] & SATURATED != 0
}

fn saturate(line: &mut Line) {
    line[COUNT] |= SATURATED;
}

/// Looks at all words at once, also those that are no entries: one that is equal by chance is a false alarm like any other.
fn has_entry(line: &Line, wanted: u32) -> bool {
    line.iter().fold(false, |found, entry| found | (entry & WANTED == wanted))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(number: u64) -> u64 {
        let product = u128::from(number ^ 0x9e37_79b9_7f4a_7c15) * 0xd6e8_feb8_6659_fd93_u128;
        (product as u64 ^ (product >> 64) as u64).wrapping_mul(0xa076_1d64_78bd_642f)
    }

    fn tag(number: u64) -> RunTag {
        (number % 251) as RunTag
    }

    fn false_alarms(filter: &IdFilter, numbers: std::ops::Range<u64>) -> usize {
        numbers.filter(|number| filter.may_contain(hash(*number))).count()
    }

    fn has(filter: &IdFilter, number: u64) -> bool {
        filter.may_contain(hash(number)) && filter.tags(hash(number)).contains(&tag(number))
    }

    #[test]
    fn a_full_filter_finds_all_its_ids_and_hardly_any_other() {
        const INSERTED: u64 = 3_000_000;
        let mut filter = IdFilter::with_room_for(INSERTED);
        let mut numbers: Vec<u64> = (0..INSERTED).collect();
        // Sorted, as the index holds them: the hardest order for a table that moves entries to the next line.
        numbers.sort_unstable_by_key(|number| hash(*number));
        numbers.iter().for_each(|number| filter.insert(hash(*number), tag(*number)));
        assert!(filter.growth.is_none());
        assert!(numbers.iter().all(|number| has(&filter, *number)));
        let alarms = false_alarms(&filter, INSERTED..2 * INSERTED);
        assert!(alarms < 150, "{alarms} false alarms in {INSERTED}");
        assert!(filter.unplaced.len() < 1_000, "{} ids found no place", filter.unplaced.len());
        assert!(filter.size_bytes() < INSERTED as usize * 6, "{} bytes", filter.size_bytes());
    }

    #[test]
    fn every_id_stays_through_doublings() {
        const INSERTED: u64 = 6_000_000;
        let mut filter = IdFilter::with_lines(LINES_MIN);
        let mut growing = 0;
        for number in 0..INSERTED {
            filter.insert(hash(number), tag(number));
            if filter.growth.is_some() {
                growing += 1;
                // Those that were inserted last, and one of before: moved or not.
                let any = hash(number) % (number + 1);
                assert!(
                    [number, number.saturating_sub(1), any].into_iter().all(|number| has(&filter, number))
                );
            }
        }
        assert!(filter.table.shift <= FINGERPRINT_BITS - 4 && growing > 300_000);
        assert!((0..INSERTED).all(|number| has(&filter, number)));
        let alarms = false_alarms(&filter, INSERTED..2 * INSERTED);
        assert!(alarms < 1_500, "{alarms} false alarms in {INSERTED}");
        assert!(filter.size_bytes() < INSERTED as usize * 18, "{} bytes", filter.size_bytes());
    }

    #[test]
    fn ids_without_room_are_found_all_the_same() {
        let mut filter = IdFilter::with_lines(LINES_MIN);
        // All have the same home, and few find room within reach.
        let crowd: Vec<u64> = (0..200).collect();
        crowd.iter().for_each(|number| filter.insert(*number << 8, tag(*number)));
        assert_eq!(filter.unplaced.len(), 200 - REACH * ENTRIES_PER_LINE);
        let found = |filter: &IdFilter| {
            crowd.iter().all(|number| {
                filter.tags(*number << 8).contains(&tag(*number)) && filter.may_contain(*number << 8)
            })
        };
        assert!(found(&filter));
        (0..LINES_MIN * 13).for_each(|number| filter.insert(hash(number), tag(number)));
        assert!(filter.table.shift < FINGERPRINT_BITS && found(&filter));
    }
}
