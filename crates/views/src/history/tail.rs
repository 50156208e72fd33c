//! What was taken in and is not in the store yet.
//!
//! Committed frames fill a chunk; full chunks are grouped by page by the builder's thread while the next one fills; enough chunks
//! make a run, which the builder writes. A reader takes a [`Snapshot`], which nothing changes any more.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use ledger::codec::Outcome;
use ledger::{AccountDetails, AccountNumber, BalanceChange, Event, Sequence, Timestamp};

use super::layout::{AccountRow, FrameEnd, HoldChange, RunRow, page_of};
use super::series::{CLOSED, OPEN, Packed, Posting, Series, group_by_page};

/// Chunks of a run.
const CHUNKS_PER_RUN: usize = 64;
/// Rows of another kind that a chunk may have; a frame has few of them for each posting.
const ROWS_PER_CHUNK_MAX: usize = 64 << 10;
/// Events of a chunk, most of them refusals then. The last frame may bring as many again.
const EVENTS_PER_CHUNK_MAX: u64 = Packed::DISTANCE_MAX / 2;

/// Rows as they come, oldest first.
#[derive(Debug, Default, Clone)]
pub(super) struct Rows {
    /// The last event before them.
    pub(super) after: Sequence,
    pub(super) postings: Vec<Packed>,
    pub(super) accounts: Vec<AccountRow>,
    pub(super) holds: Vec<HoldChange>,
    pub(super) frames: Vec<FrameEnd>,
}

impl Rows {
    /// Takes in what an event left behind.
    #[inline]
    pub(super) fn push(&mut self, sequence: Sequence, timestamp: Timestamp, outcome: &Outcome) {
        match outcome {
            Outcome::Moved(movement) => {
                let series = Series::available(movement.currency);
                let packed =
                    |account, value| Packed::new(Posting { sequence, value, account, series }, self.after);
                self.postings.extend([
                    packed(movement.from, movement.from_after),
                    packed(movement.to, movement.to_after),
                ]);
            }
            Outcome::Event(event) => self.push_event(sequence, timestamp, event),
        }
    }

    fn push_event(&mut self, sequence: Sequence, timestamp: Timestamp, event: &Event) {
        let changes = event.balance_changes().into_iter().flatten();
        let after = self.after;
        let postings = changes.flat_map(|change: BalanceChange| Posting::of(change, sequence));
        self.postings.extend(postings.map(|posting| Packed::new(posting, after)));
        let life =
            |account, value| Packed::new(Posting { sequence, value, account, series: Series::LIFE }, after);
        match event {
            Event::AccountOpened { account, account_id, metadata } => {
                self.postings.push(life(*account, OPEN));
                let details = AccountDetails {
                    account_id: account_id.clone(),
                    opened_at: timestamp,
                    metadata: metadata.clone(),
                };
                self.accounts.push(AccountRow { number: *account, opened: sequence, details });
            }
            Event::AccountClosed { account, .. } => self.postings.push(life(*account, CLOSED)),
            Event::Held { hold_id, hold, .. } => {
                self.holds.push(HoldChange { sequence, hold_id: *hold_id, hold: Some(*hold) });
            }
            Event::HoldConfirmed { hold_id, .. } | Event::HoldReleased { hold_id, .. } => {
                self.holds.push(HoldChange { sequence, hold_id: *hold_id, hold: None });
            }
            Event::Transferred { .. }
            | Event::Reversed { .. }
            | Event::GroupCommitted { .. }
            | Event::Refused { .. } => {}
        }
    }

    fn is_full(&self, chunk_postings: usize, end: Sequence) -> bool {
        self.postings.len() >= chunk_postings
            || end.0 - self.after.0 >= EVENTS_PER_CHUNK_MAX
            || self.accounts.len().max(self.holds.len()).max(self.frames.len()) >= ROWS_PER_CHUNK_MAX
    }
}

/// Vectors of full size that are not needed any more. Fresh memory would have to be faulted in for each chunk, which costs more
/// than filling it.
#[derive(Debug, Default)]
pub(super) struct Spare(Mutex<Vec<Vec<Packed>>>);

impl Spare {
    /// The runs that fill, wait and are written need no more.
    const VECTORS_MAX: usize = 3 * CHUNKS_PER_RUN;

    /// An empty vector with room for so many.
    pub(super) fn take(&self, capacity: usize) -> Vec<Packed> {
        let spare = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        spare.filter(|spare| spare.capacity() >= capacity).unwrap_or_else(|| Vec::with_capacity(capacity))
    }

    /// Takes a vector that is not needed any more.
    fn give_back(&self, mut used: Vec<Packed>) {
        used.clear();
        let mut spare = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if spare.len() < Spare::VECTORS_MAX {
            spare.push(used);
        }
    }

    /// As [`Spare::give_back`], unless a reader still holds it.
    fn give_back_unless_read(&self, used: Arc<Vec<Packed>>) {
        if let Some(used) = Arc::into_inner(used) {
            self.give_back(used);
        }
    }
}

/// Rows that do not change any more.
#[derive(Debug)]
pub(super) struct Chunk {
    /// The last event before it.
    pub(super) after: Sequence,
    postings: RwLock<Postings>,
    pub(super) accounts: Vec<AccountRow>,
    pub(super) holds: Vec<HoldChange>,
    pub(super) frames: Vec<FrameEnd>,
}

#[derive(Debug, Clone)]
struct Postings {
    rows: Arc<Vec<Packed>>,
    grouped: bool,
}

impl Chunk {
    fn new(rows: Rows) -> Chunk {
        let Rows { after, postings, accounts, holds, frames } = rows;
        let postings = RwLock::new(Postings { rows: Arc::new(postings), grouped: false });
        Chunk { after, postings, accounts, holds, frames }
    }

    fn postings(&self) -> Postings {
        self.postings.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The postings by page, those of a page in the order of their events; grouped by whoever needs them first.
    pub(super) fn grouped(&self, spare: &Spare) -> Arc<Vec<Packed>> {
        let Postings { rows, grouped } = self.postings();
        if grouped {
            return rows;
        }
        let mut by_page = spare.take(rows.len());
        group_by_page(&rows, &mut by_page);
        let by_page = Arc::new(by_page);
        let grouped = Postings { rows: Arc::clone(&by_page), grouped: true };
        let before =
            std::mem::replace(&mut *self.postings.write().unwrap_or_else(PoisonError::into_inner), grouped);
        drop(rows);
        spare.give_back_unless_read(before.rows);
        by_page
    }

    /// An account's postings by series. Does not group the others: one look through them is cheaper.
    pub(super) fn of_account(&self, account: AccountNumber) -> Vec<Posting> {
        let Postings { rows, grouped } = self.postings();
        let own = |rows: &[Packed]| {
            let own = rows.iter().filter(|row| row.account() == account);
            let mut own: Vec<Posting> = own.map(|row| row.posting(self.after)).collect();
            own.sort_by_key(Posting::key);
            own
        };
        if !grouped {
            return own(&rows);
        }
        let page = page_of(account);
        let start = rows.partition_point(|row| page_of(row.account()) < page);
        let count = rows[start..].partition_point(|row| page_of(row.account()) == page);
        own(&rows[start..start + count])
    }

    /// The chunk is in the store: its memory is used again.
    pub(super) fn recycle(self, spare: &Spare) {
        let postings = self.postings.into_inner().unwrap_or_else(PoisonError::into_inner);
        spare.give_back_unless_read(postings.rows);
    }
}

/// A full run on its way into the store.
#[derive(Debug)]
pub(super) struct Sealed {
    /// Oldest first.
    pub(super) chunks: Vec<Arc<Chunk>>,
    pub(super) last: Sequence,
    /// The last frame before the run.
    pub(super) before: FrameEnd,
}

/// What the last frame taken in made full.
#[derive(Debug, Default)]
pub(super) struct Full {
    pub(super) chunk: Option<Arc<Chunk>>,
    pub(super) run: Option<Arc<Sealed>>,
}

impl Sealed {
    /// The run is in the store: its memory is used again, unless a reader still holds it.
    pub(super) fn recycle(self: Arc<Sealed>, spare: &Spare) {
        let chunks = Arc::into_inner(self).map(|sealed| sealed.chunks).unwrap_or_default();
        chunks.into_iter().filter_map(Arc::into_inner).for_each(|chunk| chunk.recycle(spare));
    }
}

#[derive(Debug)]
pub(super) struct Tail {
    /// The last frame taken in.
    pub(super) end: FrameEnd,
    /// The last frame of the run before the one that fills.
    before_run: FrameEnd,
    pub(super) filling: Rows,
    filled: Vec<Arc<Chunk>>,
    filled_postings: usize,
    /// Oldest first; the builder works on the first.
    sealed: VecDeque<Arc<Sealed>>,
    /// What the store has, oldest first.
    runs: Arc<Vec<RunRow>>,
    run_postings: usize,
    chunk_postings: usize,
}

impl Tail {
    pub(super) fn new(end: FrameEnd, runs: Vec<RunRow>, run_postings: usize) -> Tail {
        Tail {
            end,
            before_run: end,
            filling: Rows { after: end.last, ..Rows::default() },
            filled: Vec::new(),
            filled_postings: 0,
            sealed: VecDeque::new(),
            runs: Arc::new(runs),
            run_postings,
            chunk_postings: run_postings.div_ceil(CHUNKS_PER_RUN).max(1),
        }
    }

    /// A frame was taken in as a whole.
    pub(super) fn end_frame(&mut self, end: FrameEnd, spare: &Spare) -> Full {
        self.filling.frames.push(end);
        self.end = end;
        if !self.filling.is_full(self.chunk_postings, end.last) {
            return Full::default();
        }
        // The next chunk will be about as large: growing by halves would move megabytes while a frame waits.
        let postings = spare.take(self.chunk_postings * 5 / 4);
        let next = Rows { after: end.last, postings, ..Rows::default() };
        self.filled_postings += self.filling.postings.len();
        let chunk = Arc::new(Chunk::new(std::mem::replace(&mut self.filling, next)));
        self.filled.push(Arc::clone(&chunk));
        let full = self.filled.len() >= CHUNKS_PER_RUN || self.filled_postings >= self.run_postings;
        Full { chunk: Some(chunk), run: full.then(|| self.seal()) }
    }

    fn seal(&mut self) -> Arc<Sealed> {
        let chunks = std::mem::take(&mut self.filled);
        self.filled_postings = 0;
        let sealed = Arc::new(Sealed { chunks, last: self.end.last, before: self.before_run });
        self.before_run = self.end;
        self.sealed.push_back(Arc::clone(&sealed));
        sealed
    }

    /// The oldest sealed run is in the store.
    pub(super) fn ingested(&mut self, row: RunRow) {
        let sealed = self.sealed.pop_front();
        assert!(sealed.is_some_and(|sealed| sealed.last == row.end), "runs are written in order");
        Arc::make_mut(&mut self.runs).push(row);
    }

    /// The last run in the store.
    pub(super) fn last_run(&self) -> Option<RunRow> {
        self.runs.last().copied()
    }

    /// Everything that is taken in now, of the chunk that fills only what `part` takes.
    pub(super) fn snapshot(&self, part: impl FnOnce(&Rows) -> Rows) -> Snapshot {
        let filling = Arc::new(Chunk::new(Rows { after: self.filling.after, ..part(&self.filling) }));
        let chunks = self.sealed.iter().flat_map(|sealed| &sealed.chunks).chain(&self.filled);
        Snapshot {
            chunks: chunks.cloned().chain(std::iter::once(filling)).collect(),
            runs: Arc::clone(&self.runs),
            end: self.end,
        }
    }
}

/// A moment of the view: chunks in memory, and the runs that the store had. The store only grows, so what it had stays.
#[derive(Debug)]
pub(super) struct Snapshot {
    /// Oldest first.
    pub(super) chunks: Vec<Arc<Chunk>>,
    pub(super) runs: Arc<Vec<RunRow>>,
    /// The last frame taken in.
    pub(super) end: FrameEnd,
}

impl Snapshot {
    /// The chunks with events at or before this point, newest first.
    pub(super) fn chunks_until(&self, until: Sequence) -> impl Iterator<Item = &Arc<Chunk>> {
        self.chunks.iter().rev().filter(move |chunk| chunk.after < until)
    }

    /// How many of the runs must be read for what happened until this point: the last of them may reach beyond it.
    pub(super) fn runs_until(&self, until: Sequence) -> usize {
        let whole = self.runs.partition_point(|run| run.end < until);
        (whole + 1).min(self.runs.len())
    }
}
