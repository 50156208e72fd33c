//! The builder's thread: groups chunks by page, and turns full runs into rows of the store.
//!
//! Nothing in the store is ever rewritten: a run adds parts, and now and then an image of a page, so that a look-up reads at most
//! [`RUNS_PER_IMAGE`] runs however long the history is.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use crossbeam_channel::{Receiver, select_biased};
use ledger::{Hold, Sequence, TransactionId};
use storage::store::{Change, Run};

use super::layout::{
    self, AccountRow, FORMAT_VERSION, FrameEnd, HoldChange, Key, PartKey, RunRow, damaged, page_of,
};
use super::lookup::{self, PageValues};
use super::part::{Part, PartWriter, Row, Value, encode_image};
use super::series::{Packed, PageOrder, Posting};
use super::tail::{Chunk, Sealed};
use super::{HistoryError, Shared};

/// A page gets an image once so many runs had postings of it.
pub(super) const RUNS_PER_IMAGE: u8 = 8;
/// So many neighbours get their images in the same run: what is read for one is then at hand for the next.
const PAGES_IN_STEP: u32 = 64;
/// The pending holds get an image after at least so many changes, and after as many as there are holds in the last one: so it
/// costs each change the same, and holds as of any event cost what is pending.
const HOLD_CHANGES_PER_IMAGE_MIN: u32 = 4096;
/// Accounts of one row.
const ACCOUNTS_PER_ROW: usize = 256;
/// Frames of one row.
const FRAMES_PER_ROW: usize = 4096;

pub(super) struct Builder {
    pub(super) shared: Arc<Shared>,
    /// By page; `None` until it is looked up in the store.
    pub(super) pages: Vec<Option<PageState>>,
}

/// What the builder knows of a page.
#[derive(Debug, Clone, Copy)]
pub(super) struct PageState {
    /// How many runs had postings of it since its last image.
    runs_since_image: u8,
    /// The run of its last image.
    image: Option<Sequence>,
}

impl Builder {
    /// Works until the view is dropped.
    pub(super) fn run(
        mut self,
        chunks: &Receiver<Arc<Chunk>>,
        runs: &Receiver<Arc<Sealed>>,
    ) -> Result<(), HistoryError> {
        loop {
            select_biased! {
                recv(runs) -> sealed => match sealed {
                    Ok(sealed) => {
                        self.write(&sealed)?;
                        sealed.recycle(&self.shared.spare);
                    }
                    Err(_) => return Ok(()),
                },
                recv(chunks) -> chunk => match chunk {
                    Ok(chunk) => match Arc::try_unwrap(chunk) {
                        // Its run was written first.
                        Ok(chunk) => chunk.recycle(&self.shared.spare),
                        Err(chunk) => drop(chunk.grouped(&self.shared.spare)),
                    },
                    Err(_) => return Ok(()),
                },
            }
        }
    }

    fn write(&mut self, sealed: &Sealed) -> Result<(), HistoryError> {
        let started = Instant::now();
        let (run, row) = self.build(sealed)?;
        let (keys, built) = (run.changes.len(), started.elapsed());
        self.shared.store.ingest(run)?;
        self.shared.lock().ingested(row);
        self.shared.counters.runs.fetch_add(1, Ordering::Relaxed);
        let ingest_ms = (started.elapsed() - built).as_millis() as u64;
        let build_ms = built.as_millis() as u64;
        tracing::debug!(keys, build_ms, ingest_ms, position = row.end.0, "history run written");
        self.shared.store.wait_for_compaction()?;
        Ok(())
    }

    /// The rows in order of their keys: accounts, changes of holds, frames, their times, parts, images, pending holds, the run.
    fn build(&mut self, sealed: &Sealed) -> Result<(Run, RunRow), HistoryError> {
        let end = sealed.last;
        let before = self.shared.lock().last_run();
        let mut changes = Vec::new();
        let mut put = |key: Key, value: Vec<u8>| changes.push((key, Change::Put(value)));
        let accounts: Vec<&AccountRow> = sealed.chunks.iter().flat_map(|chunk| &chunk.accounts).collect();
        put_accounts(&accounts, &mut put);
        let account_numbers = match accounts.last() {
            Some(last) => last.number.0 + 1,
            None => before.map_or(1, |run| run.account_numbers),
        };
        let holds: Vec<HoldChange> = sealed.chunks.iter().flat_map(|chunk| &chunk.holds).copied().collect();
        put_holds(&holds, |part| layout::hold_changes_key(end, part), &mut put);
        put_frames(sealed, &mut put);
        let images = self.put_parts(sealed, &mut put)?;
        images.into_iter().for_each(|(key, value)| put(key, value));
        let (mut hold_changes, mut pending) = before.map_or((0, 0), |run| (run.hold_changes, run.pending));
        hold_changes += holds.len() as u32;
        if hold_changes >= pending.max(HOLD_CHANGES_PER_IMAGE_MIN) {
            let image = self.pending_after(before, &holds)?;
            (hold_changes, pending) = (0, image.len() as u32);
            let image: Vec<HoldChange> = image
                .into_iter()
                .map(|(hold_id, hold)| HoldChange { sequence: end, hold_id, hold: Some(hold) })
                .collect();
            put_holds(&image, |part| layout::pending_key(end, part), &mut put);
            if image.is_empty() {
                put(layout::pending_key(end, 0), Vec::new());
            }
        }
        let row = RunRow { end, account_numbers, hold_changes, pending };
        put(layout::run_key(end), row.encode());
        put(layout::format_key(), vec![FORMAT_VERSION]);
        Ok((Run { position: end.0, changes }, row))
    }

    fn pending_after(
        &self,
        before: Option<RunRow>,
        changes: &[HoldChange],
    ) -> Result<BTreeMap<TransactionId, Hold>, HistoryError> {
        let mut pending = match before {
            None => BTreeMap::new(),
            Some(run) => lookup::pending_holds(self.shared.store.as_ref(), run.end, run.end)?,
        };
        changes.iter().for_each(|change| lookup::apply_hold_change(&mut pending, change));
        Ok(pending)
    }

    /// Puts the postings page by page, and answers the images that are due.
    fn put_parts(
        &mut self,
        sealed: &Sealed,
        put: &mut impl FnMut(Key, Vec<u8>),
    ) -> Result<Vec<(Key, Vec<u8>)>, HistoryError> {
        let chunks: Vec<(Sequence, Arc<Vec<Packed>>)> =
            sealed.chunks.iter().map(|chunk| (chunk.after, chunk.grouped(&self.shared.spare))).collect();
        let mut rest: Vec<(Sequence, &[Packed])> =
            chunks.iter().map(|(after, rows)| (*after, rows.as_slice())).collect();
        let (mut order, mut values, mut images) = (PageOrder::default(), PageValues::default(), Vec::new());
        let mut parts = Vec::with_capacity(rest.len());
        while let Some(page) = take_page(&mut rest, &mut parts) {
            let postings = order.order(&parts);
            let state = self.count_run(page)?;
            put_page(page, sealed.last, state.runs_since_image, postings, put);
            if state.runs_since_image == 0 {
                images.push(self.image(page, state.image, sealed, postings, &mut values)?);
                self.pages[page as usize] = Some(PageState { image: Some(sealed.last), ..state });
            }
        }
        Ok(images)
    }

    /// Counts a run with postings of the page: the count is 0 when its image is due now.
    fn count_run(&mut self, page: u32) -> Result<PageState, HistoryError> {
        let place = page as usize;
        if self.pages.len() <= place {
            self.pages.resize(place + 1, None);
        }
        let mut state = match self.pages[place] {
            Some(state) => state,
            None => self.stored_state(page)?,
        };
        state.runs_since_image = (state.runs_since_image + 1) % RUNS_PER_IMAGE;
        self.pages[place] = Some(state);
        Ok(state)
    }

    /// Pages begin at different counts, so that their images are not all due in the same run.
    fn stored_state(&self, page: u32) -> Result<PageState, HistoryError> {
        let store = self.shared.store.as_ref();
        let start = PartKey::start_of_run(page, Sequence(0)).encode();
        let end = PartKey::start_of_run(page + 1, Sequence(0)).encode();
        let Some(newest) = store.scan_reverse(&start, &end).next() else {
            let count = page / PAGES_IN_STEP % u32::from(RUNS_PER_IMAGE);
            return Ok(PageState { runs_since_image: count as u8, image: None });
        };
        let (key, value) = newest?;
        let count = PartKey::decode(&key)
            .and_then(|key| Part::parse(&value, key.run_end))
            .map(|part| part.runs_since_image)
            .filter(|count| *count < RUNS_PER_IMAGE);
        let runs_since_image = count.ok_or_else(|| damaged(&key))?;
        let image = lookup::newest_image(store, page, Sequence(u64::MAX))?.map(|(run_end, _)| run_end);
        Ok(PageState { runs_since_image, image })
    }

    fn image(
        &self,
        page: u32,
        before: Option<Sequence>,
        sealed: &Sealed,
        postings: &[Posting],
        values: &mut PageValues,
    ) -> Result<(Key, Vec<u8>), HistoryError> {
        values.clear();
        for series in postings.chunk_by(Posting::same_series) {
            values.note(row_of(series));
        }
        if let Some(last_run) = self.shared.lock().last_run() {
            let store = self.shared.store.as_ref();
            let before = before.map(|run_end| lookup::image_of_run(store, page, run_end)).transpose()?;
            lookup::page_values(store, page, before, last_run.end, last_run.end, values)?;
        }
        self.shared.counters.images.fetch_add(1, Ordering::Relaxed);
        Ok((layout::image_key(page, sealed.last), encode_image(sealed.last, values.rows())))
    }
}

/// Takes the rows of the first page that chunks have left from the front of them, and answers which that is.
fn take_page<'rows>(
    rest: &mut [(Sequence, &'rows [Packed])],
    parts: &mut Vec<(Sequence, &'rows [Packed])>,
) -> Option<u32> {
    let page_of = |row: &Packed| page_of(row.account());
    let page = rest.iter().filter_map(|(_, rows)| rows.first()).map(page_of).min()?;
    parts.clear();
    for (after, rows) in rest {
        let count = rows.iter().take_while(|row| page_of(row) == page).count();
        let (taken, left) = rows.split_at(count);
        *rows = left;
        if count > 0 {
            parts.push((*after, taken));
        }
    }
    Some(page)
}

/// The newest of a series' postings.
pub(super) fn row_of(series: &[Posting]) -> Row {
    let last = series.last().expect("a group has at least one posting");
    Row {
        index: layout::index_in_page(last.account),
        series: last.series,
        last: Value { sequence: last.sequence, value: last.value },
    }
}

fn put_page(
    page: u32,
    run_end: Sequence,
    runs_since_image: u8,
    postings: &[Posting],
    put: &mut impl FnMut(Key, Vec<u8>),
) {
    let mut part = PartWriter::new(run_end, runs_since_image);
    let mut key = None;
    for series in postings.chunk_by(Posting::same_series) {
        let mut rest = series;
        while !rest.is_empty() {
            let (index, first) = (layout::index_in_page(rest[0].account), rest[0]);
            if key.is_none() {
                key = Some(PartKey { page, run_end, index, series: first.series, sequence: first.sequence });
                if rest.len() < series.len() {
                    part.continues();
                }
            }
            let taken = part.push(index, rest);
            rest = &rest[taken..];
            // The rest of a series begins a part of its own, whose key says where.
            if (part.is_full() || !rest.is_empty())
                && let Some(key) = key.take()
            {
                put(key.encode(), part.take());
            }
        }
    }
    if let Some(key) = key.filter(|_| !part.is_empty()) {
        put(key.encode(), part.take());
    }
}

fn put_accounts(accounts: &[&AccountRow], put: &mut impl FnMut(Key, Vec<u8>)) {
    for accounts in accounts.chunks(ACCOUNTS_PER_ROW) {
        let mut bytes = Vec::new();
        accounts.iter().for_each(|account| account.encode(&mut bytes));
        put(layout::accounts_key(accounts[0].number), bytes);
    }
}

fn put_holds(changes: &[HoldChange], key: impl Fn(u32) -> Key, put: &mut impl FnMut(Key, Vec<u8>)) {
    let per_row = super::part::PART_SIZE_BYTES / HoldChange::SIZE_BYTES_MAX;
    for (part, changes) in changes.chunks(per_row).enumerate() {
        let mut bytes = Vec::with_capacity(changes.len() * HoldChange::SIZE_BYTES_MAX);
        changes.iter().for_each(|change| change.encode(&mut bytes));
        put(key(part as u32), bytes);
    }
}

fn put_frames(sealed: &Sealed, put: &mut impl FnMut(Key, Vec<u8>)) {
    let frames: Vec<FrameEnd> = sealed.chunks.iter().flat_map(|chunk| &chunk.frames).copied().collect();
    let mut before = sealed.before;
    let mut times = Vec::new();
    for frames in frames.chunks(FRAMES_PER_ROW) {
        let last = *frames.last().expect("a row has frames");
        put(layout::frames_key(last.last), layout::encode_frames(before, frames));
        times.push(layout::time_key(last.timestamp, last.last));
        before = last;
    }
    times.into_iter().for_each(|key| put(key, Vec::new()));
}

/// What the view has done since it was opened.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) runs: AtomicU64,
    pub(super) images: AtomicU64,
    /// How long committing waited for the builder, in microseconds.
    pub(super) waited_us: AtomicU64,
}
