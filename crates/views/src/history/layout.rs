//! How the view lies in its store: the keys, and the small rows. `docs/formats.md` draws it.

use ledger::{AccountDetails, AccountId, AccountNumber, Hold, Metadata, Sequence, Timestamp, TransactionId};
use storage::store::{Cursor, StoreError, put_number};

use super::series::Series;

/// The version of everything below. A store of another version is dropped and built again from the journal.
pub(super) const FORMAT_VERSION: u8 = 2;
pub(super) const ACCOUNTS_PER_PAGE: u32 = 256;

const ACCOUNT: u8 = b'A';
const HOLD_CHANGES: u8 = b'D';
const FRAMES: u8 = b'F';
const TIMES: u8 = b'G';
const PART: u8 = b'H';
const IMAGE: u8 = b'I';
const PENDING: u8 = b'J';
const RUN: u8 = b'R';
const FORMAT: u8 = b'V';

pub(super) type Key = Vec<u8>;

fn key(kind: u8, fields: &[&[u8]]) -> Key {
    let mut key = vec![kind];
    fields.iter().for_each(|field| key.extend_from_slice(field));
    key
}

pub(super) fn format_key() -> Key {
    vec![FORMAT]
}

pub(super) fn page_of(account: AccountNumber) -> u32 {
    account.0 / ACCOUNTS_PER_PAGE
}

pub(super) fn index_in_page(account: AccountNumber) -> u8 {
    (account.0 % ACCOUNTS_PER_PAGE) as u8
}

/// Leads to accounts with consecutive numbers, of which this is the first.
pub(super) fn accounts_key(first: AccountNumber) -> Key {
    key(ACCOUNT, &[&first.0.to_be_bytes()])
}

pub(super) fn hold_changes_key(run_end: Sequence, part: u32) -> Key {
    key(HOLD_CHANGES, &[&run_end.0.to_be_bytes(), &part.to_be_bytes()])
}

pub(super) fn pending_key(run_end: Sequence, part: u32) -> Key {
    key(PENDING, &[&run_end.0.to_be_bytes(), &part.to_be_bytes()])
}

/// The sequence of a run's end, which follows the kind in some keys.
pub(super) fn run_end_of(key: &[u8]) -> Option<Sequence> {
    key.get(1..)?.first_chunk().map(|bytes| Sequence(u64::from_be_bytes(*bytes)))
}

pub(super) fn frames_key(last: Sequence) -> Key {
    key(FRAMES, &[&last.0.to_be_bytes()])
}

/// Sorts by time, and leads to the part of the frames that ends with this one.
pub(super) fn time_key(time: Timestamp, last: Sequence) -> Key {
    // With the sign's bit turned, times sort as unsigned numbers.
    let time = time.as_micros() as u64 ^ 1 << 63;
    key(TIMES, &[&time.to_be_bytes(), &last.0.to_be_bytes()])
}

pub(super) fn sequence_of_time_key(key: &[u8]) -> Option<Sequence> {
    key.last_chunk().map(|bytes| Sequence(u64::from_be_bytes(*bytes)))
}

pub(super) fn run_key(run_end: Sequence) -> Key {
    key(RUN, &[&run_end.0.to_be_bytes()])
}

pub(super) fn image_key(page: u32, run_end: Sequence) -> Key {
    key(IMAGE, &[&page.to_be_bytes(), &run_end.0.to_be_bytes()])
}

pub(super) fn run_end_of_image_key(key: &[u8]) -> Option<Sequence> {
    key.last_chunk().map(|bytes| Sequence(u64::from_be_bytes(*bytes)))
}

/// Where a part of a run stands, and what it begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PartKey {
    pub(super) page: u32,
    pub(super) run_end: Sequence,
    /// Of the part's first account within its page.
    pub(super) index: u8,
    pub(super) series: Series,
    /// The oldest posting of the part's first series.
    pub(super) sequence: Sequence,
}

impl PartKey {
    /// Before every part of the page in this run.
    pub(super) fn start_of_run(page: u32, run_end: Sequence) -> PartKey {
        PartKey { page, run_end, index: 0, series: Series::LIFE, sequence: Sequence(0) }
    }

    pub(super) fn encode(&self) -> Key {
        key(
            PART,
            &[
                &self.page.to_be_bytes(),
                &self.run_end.0.to_be_bytes(),
                &[self.index],
                &self.series.number().to_be_bytes(),
                &self.sequence.0.to_be_bytes(),
            ],
        )
    }

    pub(super) fn decode(key: &[u8]) -> Option<PartKey> {
        let mut cursor = Cursor(key.strip_prefix(&[PART])?);
        Some(PartKey {
            page: u32::from_be_bytes(cursor.take()?),
            run_end: Sequence(u64::from_be_bytes(cursor.take()?)),
            index: u8::from_be_bytes(cursor.take()?),
            series: Series::from_number(u16::from_be_bytes(cursor.take()?)),
            sequence: Sequence(u64::from_be_bytes(cursor.take()?)),
        })
    }
}

/// What is known of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RunRow {
    pub(super) end: Sequence,
    /// How many accounts have a number once the run is over, `@external` included.
    pub(super) account_numbers: u32,
    /// How many holds were made or settled since the last image of the pending holds.
    pub(super) hold_changes: u32,
    /// How many holds that image has.
    pub(super) pending: u32,
}

impl RunRow {
    pub(super) fn encode(&self) -> Vec<u8> {
        [self.account_numbers, self.hold_changes, self.pending].iter().flat_map(|n| n.to_le_bytes()).collect()
    }

    pub(super) fn decode(key: &[u8], bytes: &[u8]) -> Option<RunRow> {
        let mut cursor = Cursor(bytes);
        Some(RunRow {
            end: run_end_of(key)?,
            account_numbers: u32::from_le_bytes(cursor.take()?),
            hold_changes: u32::from_le_bytes(cursor.take()?),
            pending: u32::from_le_bytes(cursor.take()?),
        })
    }
}

/// An account as its opening says.
#[derive(Debug, Clone)]
pub(super) struct AccountRow {
    pub(super) number: AccountNumber,
    pub(super) opened: Sequence,
    pub(super) details: AccountDetails,
}

impl AccountRow {
    pub(super) fn encode(&self, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(&self.opened.0.to_le_bytes());
        bytes.extend_from_slice(&self.details.opened_at.as_micros().to_le_bytes());
        bytes.push(self.details.account_id.as_str().len() as u8);
        bytes.extend_from_slice(self.details.account_id.as_str().as_bytes());
        bytes.push(self.details.metadata.iter().len() as u8);
        for text in self.details.metadata.iter().flat_map(|(key, value)| [key, value]) {
            bytes.extend_from_slice(&(text.len() as u16).to_le_bytes());
            bytes.extend_from_slice(text.as_bytes());
        }
    }

    /// Accounts with consecutive numbers, whose first the key holds.
    pub(super) fn decode_all(key: &[u8], bytes: &[u8]) -> Option<Vec<AccountRow>> {
        let first = u32::from_be_bytes(*key.get(1..)?.first_chunk()?);
        let mut cursor = Cursor(bytes);
        let mut rows = Vec::new();
        while !cursor.0.is_empty() {
            let number = AccountNumber(first.checked_add(rows.len() as u32)?);
            rows.push(AccountRow::decode(number, &mut cursor)?);
        }
        Some(rows)
    }

    fn decode(number: AccountNumber, cursor: &mut Cursor) -> Option<AccountRow> {
        let opened = Sequence(u64::from_le_bytes(cursor.take()?));
        let opened_at = Timestamp::from_micros(i64::from_le_bytes(cursor.take()?));
        let [size] = cursor.take()?;
        let account_id = AccountId::parse(std::str::from_utf8(cursor.slice(size.into())?).ok()?).ok()?;
        let [pairs] = cursor.take()?;
        let mut texts = Vec::new();
        for _ in 0..2 * usize::from(pairs) {
            let size = u16::from_le_bytes(cursor.take()?);
            texts.push(std::str::from_utf8(cursor.slice(size.into())?).ok()?);
        }
        let (pairs, _) = texts.as_chunks::<2>();
        let metadata = Metadata::new(pairs.iter().map(|[key, value]| (*key, *value))).ok()?;
        let details = AccountDetails { account_id, opened_at, metadata };
        Some(AccountRow { number, opened, details })
    }
}

/// A hold that was made, or settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct HoldChange {
    pub(super) sequence: Sequence,
    pub(super) hold_id: TransactionId,
    /// `None` once it is settled.
    pub(super) hold: Option<Hold>,
}

impl HoldChange {
    /// The largest encoding.
    pub(super) const SIZE_BYTES_MAX: usize = 8 + 16 + 1 + Hold::SIZE_BYTES;

    pub(super) fn encode(&self, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(&self.sequence.0.to_le_bytes());
        bytes.extend_from_slice(&self.hold_id.to_bytes());
        bytes.push(u8::from(self.hold.is_some()));
        if let Some(hold) = &self.hold {
            bytes.extend_from_slice(&hold.to_bytes());
        }
    }

    pub(super) fn decode(cursor: &mut Cursor) -> Option<HoldChange> {
        let sequence = Sequence(u64::from_le_bytes(cursor.take()?));
        let hold_id = TransactionId::from_bytes(cursor.take()?);
        let hold = match cursor.take()? {
            [0] => None,
            [1] => Some(Hold::from_bytes(&cursor.take()?)?),
            _ => return None,
        };
        Some(HoldChange { sequence, hold_id, hold })
    }
}

/// The last event of a frame, and the time of all its events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FrameEnd {
    pub(super) last: Sequence,
    pub(super) timestamp: Timestamp,
}

/// `sequence u64, time u64` of the frame before, then for each frame how far its end and its time are behind, as LEB128.
pub(super) fn encode_frames(before: FrameEnd, frames: &[FrameEnd]) -> Vec<u8> {
    let mut bytes = before.last.0.to_le_bytes().to_vec();
    bytes.extend_from_slice(&before.timestamp.as_micros().to_le_bytes());
    let mut previous = before;
    for frame in frames {
        put_number(&mut bytes, frame.last.0 - previous.last.0);
        put_number(
            &mut bytes,
            frame.timestamp.as_micros().wrapping_sub(previous.timestamp.as_micros()) as u64,
        );
        previous = *frame;
    }
    bytes
}

/// The frame before, and the frames.
pub(super) fn decode_frames(bytes: &[u8]) -> Option<(FrameEnd, Vec<FrameEnd>)> {
    let mut cursor = Cursor(bytes);
    let before = FrameEnd {
        last: Sequence(u64::from_le_bytes(cursor.take()?)),
        timestamp: Timestamp::from_micros(i64::from_le_bytes(cursor.take()?)),
    };
    let (mut frames, mut previous) = (Vec::new(), before);
    while !cursor.0.is_empty() {
        let last = Sequence(previous.last.0.checked_add(cursor.number()?)?);
        let timestamp =
            Timestamp::from_micros(previous.timestamp.as_micros().wrapping_add(cursor.number()? as i64));
        previous = FrameEnd { last, timestamp };
        frames.push(previous);
    }
    Some((before, frames))
}

pub(super) fn damaged(key: &[u8]) -> StoreError {
    StoreError::Engine(format!("the value of key {key:02x?} of the history is damaged"))
}
