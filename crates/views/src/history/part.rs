//! Parts and images: what many accounts' series look like in one value of the store.
//!
//! A part holds postings of one run, series by series, each newest first: so its last value is read without the others. An image
//! holds the last value of every series of a page, and when it came about.

use ledger::Sequence;
use storage::store::{Cursor, put_number, put_signed};

use super::series::{Posting, Series};

/// A part is closed once it has so many bytes, so that a hot account's history is never read by the megabyte.
pub(super) const PART_SIZE_BYTES: usize = 32 << 10;
/// The most postings of one series in one part.
const POSTINGS_MAX: usize = 4096;

const CONTINUES: u8 = 1;
const HEADER_SIZE_BYTES: usize = 2;

/// The value of a series, and the event that left it behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Value {
    pub(super) sequence: Sequence,
    pub(super) value: i64,
}

/// A value of a series of an account of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) index: u8,
    pub(super) series: Series,
    pub(super) last: Value,
}

/// `flags u8, runs since the page's last image u8`, then for each series: `index u8, series u16, size u32`, its last posting
/// (how far before the run's end, its value), and each older one as its distance from the one after it.
pub(super) struct PartWriter {
    bytes: Vec<u8>,
    run_end: Sequence,
    runs_since_image: u8,
}

impl PartWriter {
    pub(super) fn new(run_end: Sequence, runs_since_image: u8) -> PartWriter {
        PartWriter { bytes: vec![0, runs_since_image], run_end, runs_since_image }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes.len() == HEADER_SIZE_BYTES
    }

    pub(super) fn is_full(&self) -> bool {
        self.bytes.len() >= PART_SIZE_BYTES
    }

    /// The part begins in the middle of a series.
    pub(super) fn continues(&mut self) {
        self.bytes[0] |= CONTINUES;
    }

    /// Takes the oldest of one series' postings, at least one, and answers how many.
    pub(super) fn push(&mut self, index: u8, postings: &[Posting]) -> usize {
        let taken = &postings[..postings.len().min(POSTINGS_MAX)];
        self.bytes.push(index);
        self.bytes.extend_from_slice(&taken[0].series.number().to_le_bytes());
        let size_at = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 4]);
        let (mut sequence, mut value) = (self.run_end.0, 0);
        for posting in taken.iter().rev() {
            put_number(&mut self.bytes, sequence - posting.sequence.0);
            put_signed(&mut self.bytes, posting.value.wrapping_sub(value));
            (sequence, value) = (posting.sequence.0, posting.value);
        }
        let size = (self.bytes.len() - size_at - 4) as u32;
        self.bytes[size_at..size_at + 4].copy_from_slice(&size.to_le_bytes());
        taken.len()
    }

    /// The bytes; the writer begins anew.
    pub(super) fn take(&mut self) -> Vec<u8> {
        std::mem::replace(&mut self.bytes, vec![0, self.runs_since_image])
    }
}

/// A part as it was written.
#[derive(Clone, Copy)]
pub(super) struct Part<'bytes> {
    /// True when its first series has older postings in the part before.
    pub(super) continues: bool,
    pub(super) runs_since_image: u8,
    run_end: Sequence,
    rest: Cursor<'bytes>,
}

impl<'bytes> Part<'bytes> {
    pub(super) fn parse(bytes: &'bytes [u8], run_end: Sequence) -> Option<Part<'bytes>> {
        let mut cursor = Cursor(bytes);
        let [flags, runs_since_image] = cursor.take()?;
        Some(Part { continues: flags & CONTINUES != 0, runs_since_image, run_end, rest: cursor })
    }

    /// Every series with its postings, in order of the accounts; an error ends it.
    pub(super) fn series(self) -> impl Iterator<Item = Option<PartSeries<'bytes>>> {
        let mut rest = self.rest;
        std::iter::from_fn(move || {
            if rest.0.is_empty() {
                return None;
            }
            let series = Self::next(&mut rest, self.run_end);
            if series.is_none() {
                rest.0 = &[];
            }
            Some(series)
        })
    }

    fn next(rest: &mut Cursor<'bytes>, run_end: Sequence) -> Option<PartSeries<'bytes>> {
        let [index] = rest.take()?;
        let series = Series::from_number(u16::from_le_bytes(rest.take()?));
        let size = u32::from_le_bytes(rest.take()?) as usize;
        let postings = Postings { rest: Cursor(rest.slice(size)?), sequence: run_end.0, value: 0 };
        Some(PartSeries { index, series, postings })
    }
}

/// A series in a part.
#[derive(Clone, Copy)]
pub(super) struct PartSeries<'bytes> {
    pub(super) index: u8,
    pub(super) series: Series,
    pub(super) postings: Postings<'bytes>,
}

/// Postings of one series, newest first; an error ends it.
#[derive(Clone, Copy)]
pub(super) struct Postings<'bytes> {
    rest: Cursor<'bytes>,
    sequence: u64,
    value: i64,
}

impl Postings<'_> {
    /// The newest posting at or before this point: `Some(None)` when all are later, `None` when the bytes are damaged.
    pub(super) fn last_until(self, until: Sequence) -> Option<Option<Value>> {
        for posting in self {
            let posting = posting?;
            if posting.sequence <= until {
                return Some(Some(posting));
            }
        }
        Some(None)
    }
}

impl Iterator for Postings<'_> {
    type Item = Option<Value>;

    fn next(&mut self) -> Option<Option<Value>> {
        if self.rest.0.is_empty() {
            return None;
        }
        let next = |postings: &mut Self| {
            postings.sequence = postings.sequence.checked_sub(postings.rest.number()?)?;
            postings.value = postings.value.wrapping_add(postings.rest.signed()?);
            Some(Value { sequence: Sequence(postings.sequence), value: postings.value })
        };
        let value = next(self);
        if value.is_none() {
            self.rest.0 = &[];
        }
        Some(value)
    }
}

/// For each series: `index u8, series u16`, how far its last posting is before the run's end, and its value.
pub(super) fn encode_image(run_end: Sequence, rows: impl Iterator<Item = Row>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for row in rows {
        bytes.push(row.index);
        bytes.extend_from_slice(&row.series.number().to_le_bytes());
        put_number(&mut bytes, run_end.0 - row.last.sequence.0);
        put_signed(&mut bytes, row.last.value);
    }
    bytes
}

/// The rows of an image; an error ends it.
pub(super) fn image_rows(bytes: &[u8], run_end: Sequence) -> impl Iterator<Item = Option<Row>> {
    let mut rest = Cursor(bytes);
    std::iter::from_fn(move || {
        if rest.0.is_empty() {
            return None;
        }
        let next = |rest: &mut Cursor| {
            let [index] = rest.take()?;
            let series = Series::from_number(u16::from_le_bytes(rest.take()?));
            let sequence = Sequence(run_end.0.checked_sub(rest.number()?)?);
            let value = rest.signed()?;
            Some(Row { index, series, last: Value { sequence, value } })
        };
        let row = next(&mut rest);
        if row.is_none() {
            rest.0 = &[];
        }
        Some(row)
    })
}
