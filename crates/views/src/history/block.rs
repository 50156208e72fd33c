//! How the history lies in its store. `docs/formats.md` draws it.
//!
//! A run is split into blocks: 256 neighbouring accounts each, and several parts where an account is hot. Within a block the
//! postings lie account by account, ascending by sequence.

use ledger::{AccountNumber, Sequence};
use storage::store::{Change, Run};

const HISTORY: u8 = b'H';
const ACCOUNTS_PER_PAGE: u32 = 256;
/// A part is closed once it has so many bytes, so that one page of a hot account's history never reads megabytes.
const PART_SIZE_BYTES: usize = 32 << 10;

/// One event that changed a balance of an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Posting {
    pub(super) account: AccountNumber,
    pub(super) sequence: Sequence,
}

/// The keys of all blocks that can hold the account's postings; they sort by age.
pub(super) fn key_range(account: AccountNumber) -> (Vec<u8>, Vec<u8>) {
    let page = page_of(account);
    (key(page, Sequence(0), 0), key(page, Sequence(u64::MAX), u32::MAX))
}

fn page_of(account: AccountNumber) -> u32 {
    account.0 / ACCOUNTS_PER_PAGE
}

fn key(page: u32, run_end: Sequence, part: u32) -> Vec<u8> {
    let mut key = vec![HISTORY];
    key.extend_from_slice(&page.to_be_bytes());
    key.extend_from_slice(&run_end.0.to_be_bytes());
    key.extend_from_slice(&part.to_be_bytes());
    key
}

/// Packs the postings of a run, given in order of their sequences.
pub(super) fn build_run(postings: &[Posting], run_end: Sequence) -> Run {
    let ordered = by_page(postings);
    let mut changes = Vec::new();
    for page in ordered.chunk_by(|one, two| page_of(one.account) == page_of(two.account)) {
        let number = page_of(page[0].account);
        let mut page = page.to_vec();
        page.sort_by_key(|posting| posting.account);
        let mut part = Part::new(run_end);
        let mut parts = 0;
        for account in page.chunk_by(|one, two| one.account == two.account) {
            let mut rest = account;
            while !rest.is_empty() {
                let taken = part.push(rest);
                rest = &rest[taken..];
                if part.bytes.len() >= PART_SIZE_BYTES {
                    let full = std::mem::replace(&mut part, Part::new(run_end));
                    changes.push((key(number, run_end, parts), Change::Put(full.bytes)));
                    parts += 1;
                }
            }
        }
        if part.bytes.len() > Part::HEADER_SIZE_BYTES {
            changes.push((key(number, run_end, parts), Change::Put(part.bytes)));
        }
    }
    Run { position: run_end.0, changes }
}

/// A stable counting sort by page: two sequential passes.
fn by_page(postings: &[Posting]) -> Vec<Posting> {
    let page = |posting: &Posting| page_of(posting.account) as usize;
    let pages = postings.iter().map(|posting| page(posting) + 1).max().unwrap_or(0);
    let mut next = vec![0; pages + 1];
    for posting in postings {
        next[page(posting) + 1] += 1;
    }
    for page in 0..pages {
        next[page + 1] += next[page];
    }
    let mut ordered = postings.to_vec();
    for posting in postings {
        let place = &mut next[page(posting)];
        ordered[*place] = *posting;
        *place += 1;
    }
    ordered
}

/// `run_end u64`, then for each account: index u8, count u32, size u32, and the distances of its events before `run_end`, the first
/// from there, the others from the one before, as LEB128.
struct Part {
    bytes: Vec<u8>,
    run_end: Sequence,
}

impl Part {
    const HEADER_SIZE_BYTES: usize = 8;
    const ACCOUNT_SIZE_BYTES: usize = 9;

    fn new(run_end: Sequence) -> Part {
        Part { bytes: run_end.0.to_le_bytes().to_vec(), run_end }
    }

    /// Takes as many of one account's postings as fit, at least one.
    fn push(&mut self, postings: &[Posting]) -> usize {
        let start = self.bytes.len();
        self.bytes.push((postings[0].account.0 % ACCOUNTS_PER_PAGE) as u8);
        self.bytes.extend_from_slice(&[0; Self::ACCOUNT_SIZE_BYTES - 1]);
        let mut count: u32 = 0;
        let mut previous = None;
        for posting in postings {
            let number = match previous {
                None => self.run_end.0 - posting.sequence.0,
                Some(previous) => posting.sequence.0 - previous,
            };
            put_number(&mut self.bytes, number);
            previous = Some(posting.sequence.0);
            count += 1;
            if self.bytes.len() >= PART_SIZE_BYTES {
                break;
            }
        }
        let size = (self.bytes.len() - start - Self::ACCOUNT_SIZE_BYTES) as u32;
        self.bytes[start + 1..start + 5].copy_from_slice(&count.to_le_bytes());
        self.bytes[start + 5..start + 9].copy_from_slice(&size.to_le_bytes());
        count as usize
    }
}

/// The account's sequences in a part, ascending; `None` when the part is damaged.
pub(super) fn find(bytes: &[u8], account: AccountNumber) -> Option<Vec<Sequence>> {
    let (run_end, mut rest) = bytes.split_first_chunk::<8>()?;
    let run_end = u64::from_le_bytes(*run_end);
    let wanted = (account.0 % ACCOUNTS_PER_PAGE) as u8;
    let mut sequences = Vec::new();
    while !rest.is_empty() {
        let (head, tail) = rest.split_first_chunk::<{ Part::ACCOUNT_SIZE_BYTES }>()?;
        let count = u32::from_le_bytes(head[1..5].try_into().ok()?);
        let size = u32::from_le_bytes(head[5..9].try_into().ok()?) as usize;
        let (mut numbers, next) = tail.split_at_checked(size)?;
        rest = next;
        if head[0] != wanted {
            continue;
        }
        let mut previous = None;
        for _ in 0..count {
            let number = take_number(&mut numbers)?;
            let sequence: u64 = match previous {
                None => run_end.checked_sub(number)?,
                Some(previous) => number.checked_add(previous)?,
            };
            sequences.push(Sequence(sequence));
            previous = Some(sequence);
        }
    }
    Some(sequences)
}

fn put_number(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

fn take_number(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_holds_just_its_postings_also_of_a_hot_account() {
        const EVENTS: u64 = 60_000;
        let first = 1_000;
        let account_of = |sequence: u64| match sequence % 3 {
            0 => AccountNumber(700),
            1 => AccountNumber((sequence % 997) as u32),
            _ => AccountNumber((sequence * sequence % 2_003) as u32),
        };
        let postings: Vec<Posting> = (first..first + EVENTS)
            .map(|sequence| Posting { account: account_of(sequence), sequence: Sequence(sequence) })
            .collect();
        let run = build_run(&postings, Sequence(first + EVENTS));
        assert!(run.changes.windows(2).all(|pair| pair[0].0 < pair[1].0));
        for account in (0..2_100).map(AccountNumber) {
            let (start, end) = key_range(account);
            let mut found = Vec::new();
            for (key, change) in &run.changes {
                if let (true, Change::Put(value)) = (*key >= start && *key < end, change) {
                    assert!(value.len() < PART_SIZE_BYTES + 64);
                    found.extend(find(value, account).expect("a whole part"));
                }
            }
            let expected: Vec<Sequence> = postings
                .iter()
                .filter(|posting| posting.account == account)
                .map(|posting| posting.sequence)
                .collect();
            assert_eq!(found, expected, "account {}", account.0);
        }
    }
}
