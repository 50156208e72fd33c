//! Which transaction_ids were surely never used: a filter over every id there ever was, in memory.
//!
//! Nearly every id is new. One cache line per generation says so with a false alarm in about a million, so that the hot
//! path never asks the store. An id costs about 4 bytes for ever.

/// An entry is 24 bits: 16 in a lane of the first five words, 8 in a byte after them. The last byte counts the entries.
const ENTRIES_PER_LINE: usize = 20;
const WORDS_PER_LINE: usize = 8;
const LANE_WORDS: usize = 5;
const HIGH_BYTES_OFFSET: usize = 40;
const COUNT_OFFSET: usize = 63;
/// Past this share of all entries a line would overflow into its neighbour too often.
const FILL_PERCENT_MAX: usize = 78;
const FIRST_GENERATION_LINES: usize = 1 << 16;
const FINGERPRINT_BITS: u32 = 24;

/// Generations of growing size: when one is full, the next has twice its lines.
#[derive(Debug, Default)]
pub(super) struct IdFilter {
    generations: Vec<Generation>,
}

impl IdFilter {
    pub(super) fn new() -> IdFilter {
        IdFilter { generations: vec![Generation::new(FIRST_GENERATION_LINES)] }
    }

    /// A filter whose first generation takes so many ids, in any order: ids that come sorted by their hash would crowd the first
    /// lines of a smaller one.
    pub(super) fn with_room_for(ids: u64) -> IdFilter {
        let entries_per_line = (ENTRIES_PER_LINE * FILL_PERCENT_MAX / 100) as u64;
        let lines = usize::try_from(ids / entries_per_line + 1).expect("a filter fits into memory");
        IdFilter { generations: vec![Generation::new(lines.max(FIRST_GENERATION_LINES))] }
    }

    /// False: the id with this hash was never inserted.
    pub(super) fn may_contain(&self, hash: u64) -> bool {
        self.generations.iter().any(|generation| generation.contains(hash))
    }

    pub(super) fn insert(&mut self, hash: u64) {
        let newest = self.generations.last().expect("there is always a generation");
        if newest.entries >= newest.entries_max() {
            let lines = newest.lines * 2;
            self.generations.push(Generation::new(lines));
        }
        self.generations.last_mut().expect("there is always a generation").insert(hash);
    }

    /// Reads the lines that a look-up will need, so that the misses of a batch overlap.
    pub(super) fn touch(&self, hash: u64) -> u64 {
        self.generations
            .iter()
            .map(|generation| generation.line(generation.home(hash))[0])
            .fold(0, |one, two| one ^ two)
    }

    pub(super) fn size_bytes(&self) -> usize {
        self.generations.iter().map(|generation| generation.words.len() * 8).sum()
    }
}

#[derive(Debug)]
struct Generation {
    /// Zeroed by the allocator, which maps fresh pages lazily: making a generation does not stall the state thread.
    words: Vec<u64>,
    /// Words to skip so that lines are aligned to cache lines.
    skip: usize,
    lines: usize,
    entries: usize,
}

impl Generation {
    fn new(lines: usize) -> Generation {
        let words = vec![0u64; (lines + 1) * WORDS_PER_LINE];
        let skip = words.as_ptr().align_offset(64).min(WORDS_PER_LINE);
        Generation { words, skip, lines, entries: 0 }
    }

    fn entries_max(&self) -> usize {
        self.lines * ENTRIES_PER_LINE * FILL_PERCENT_MAX / 100
    }

    /// The line where an id's entry belongs; past full lines, it stands in the next.
    fn home(&self, hash: u64) -> usize {
        let upper = hash >> FINGERPRINT_BITS;
        ((u128::from(upper) * self.lines as u128) >> (64 - FINGERPRINT_BITS)) as usize
    }

    fn line(&self, line: usize) -> &[u64] {
        let start = self.skip + line * WORDS_PER_LINE;
        &self.words[start..start + WORDS_PER_LINE]
    }

    fn next(&self, line: usize) -> usize {
        if line + 1 == self.lines { 0 } else { line + 1 }
    }

    fn contains(&self, hash: u64) -> bool {
        let mut at = self.home(hash);
        loop {
            let line = self.line(at);
            if has_lane(line, hash as u16) && has_entry(line, hash) {
                return true;
            }
            if count(line) < ENTRIES_PER_LINE {
                return false;
            }
            at = self.next(at);
        }
    }

    fn insert(&mut self, hash: u64) {
        let mut at = self.home(hash);
        while count(self.line(at)) == ENTRIES_PER_LINE {
            at = self.next(at);
        }
        let start = self.skip + at * WORDS_PER_LINE;
        let line = &mut self.words[start..start + WORDS_PER_LINE];
        let entry = count(line);
        line[entry / 4] |= u64::from(hash as u16) << (entry % 4 * 16);
        set_byte(line, HIGH_BYTES_OFFSET + entry, (hash >> 16) as u8);
        set_byte(line, COUNT_OFFSET, entry as u8 + 1);
        self.entries += 1;
    }
}

fn byte(line: &[u64], offset: usize) -> u8 {
    (line[offset / 8] >> (offset % 8 * 8)) as u8
}

fn set_byte(line: &mut [u64], offset: usize, value: u8) {
    let shift = offset % 8 * 8;
    line[offset / 8] = line[offset / 8] & !(0xff << shift) | u64::from(value) << shift;
}

fn count(line: &[u64]) -> usize {
    usize::from(byte(line, COUNT_OFFSET))
}

/// True when any 16-bit lane equals `low`: the classic test for a zero lane, after an exclusive or.
fn has_lane(line: &[u64], low: u16) -> bool {
    const ONES: u64 = 0x0001_0001_0001_0001;
    const TOPS: u64 = 0x8000_8000_8000_8000;
    let pattern = u64::from(low) * ONES;
    let zero_lanes = line[..LANE_WORDS].iter().fold(0, |found, word| {
        let difference = word ^ pattern;
        found | difference.wrapping_sub(ONES) & !difference & TOPS
    });
    zero_lanes != 0
}

fn has_entry(line: &[u64], hash: u64) -> bool {
    (0..count(line)).any(|entry| {
        (line[entry / 4] >> (entry % 4 * 16)) as u16 == hash as u16
            && byte(line, HIGH_BYTES_OFFSET + entry) == (hash >> 16) as u8
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(number: u64) -> u64 {
        let product = u128::from(number ^ 0x9e37_79b9_7f4a_7c15) * 0xd6e8_feb8_6659_fd93_u128;
        (product as u64 ^ (product >> 64) as u64).wrapping_mul(0xa076_1d64_78bd_642f)
    }

    #[test]
    fn ids_sorted_by_their_hash_fill_a_filter_made_for_them_evenly() {
        const INSERTED: u64 = 3_000_000;
        let mut hashes: Vec<u64> = (0..INSERTED).map(hash).collect();
        hashes.sort_unstable();
        let mut filter = IdFilter::with_room_for(INSERTED);
        hashes.iter().for_each(|hash| filter.insert(*hash));
        assert_eq!(filter.generations.len(), 1);
        assert!(hashes.iter().all(|hash| filter.may_contain(*hash)));
    }

    #[test]
    fn every_inserted_id_is_found_over_several_generations_and_few_others_are() {
        const INSERTED: u64 = 6_000_000;
        let mut filter = IdFilter::new();
        for number in 0..INSERTED {
            filter.insert(hash(number));
        }
        assert!(filter.generations.len() > 2);
        assert!((0..INSERTED).all(|number| filter.may_contain(hash(number))));
        let false_alarms =
            (INSERTED..2 * INSERTED).filter(|number| filter.may_contain(hash(*number))).count();
        assert!(false_alarms < 100, "{false_alarms} false alarms in {INSERTED}");
        assert!(filter.size_bytes() < INSERTED as usize * 9, "{} bytes", filter.size_bytes());
    }
}
