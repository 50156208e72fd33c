//! What was taken in and is not in the store yet.
//!
//! Committed frames fill a chunk; full chunks are put in order by the builder's thread while the next one fills; enough chunks
//! make a run, which the builder writes. A reader takes a [`Snapshot`], which nothing changes any more.

use std::collections::VecDeque;
use std::sync::{Arc, PoisonError, RwLock};

use ledger::codec::Outcome;
use ledger::{AccountDetails, AccountNumber, BalanceChange, Event, Sequence, Timestamp};

use super::layout::{AccountRow, FrameEnd, HoldChange, RunRow};
use super::series::{CLOSED, OPEN, Posting, Series, order};

/// Chunks of a run.
const CHUNKS_PER_RUN: usize = 64;
/// Rows of another kind that a chunk may have; a frame has few of them for each posting.
const ROWS_PER_CHUNK_MAX: usize = 64 << 10;

/// Rows as they come, oldest first.
#[derive(Debug, Default, Clone)]
pub(super) struct Rows {
    pub(super) postings: Vec<Posting>,
    pub(super) accounts: Vec<AccountRow>,
    pub(super) holds: Vec<HoldChange>,
    pub(super) frames: Vec<FrameEnd>,
}

impl Rows {
    /// Takes in what an event left behind.
    pub(super) fn push(&mut self, sequence: Sequence, timestamp: Timestamp, outcome: &Outcome) {
        match outcome {
            Outcome::Moved(movement) => {
                for (account, value) in
                    [(movement.from, movement.from_after), (movement.to, movement.to_after)]
                {
                    let series = Series::available(movement.currency);
                    self.postings.push(Posting { sequence, value, account, series });
                }
            }
            Outcome::Event(event) => self.push_event(sequence, timestamp, event),
        }
    }

    fn push_event(&mut self, sequence: Sequence, timestamp: Timestamp, event: &Event) {
        let changes = event.balance_changes().into_iter().flatten();
        self.postings.extend(changes.flat_map(|change: BalanceChange| Posting::of(change, sequence)));
        let life = |account, value| Posting { sequence, value, account, series: Series::LIFE };
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

    fn is_full(&self, chunk_postings: usize) -> bool {
        self.postings.len() >= chunk_postings
            || self.accounts.len().max(self.holds.len()).max(self.frames.len()) >= ROWS_PER_CHUNK_MAX
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
    rows: Arc<Vec<Posting>>,
    ordered: bool,
}

impl Chunk {
    fn new(after: Sequence, rows: Rows) -> Chunk {
        let Rows { postings, accounts, holds, frames } = rows;
        let postings = RwLock::new(Postings { rows: Arc::new(postings), ordered: false });
        Chunk { after, postings, accounts, holds, frames }
    }

    fn postings(&self) -> Postings {
        self.postings.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The postings by account and series, put in order by whoever needs them first.
    pub(super) fn ordered(&self) -> Arc<Vec<Posting>> {
        let Postings { rows, ordered } = self.postings();
        if ordered {
            return rows;
        }
        let mut sorted = rows.as_ref().clone();
        order(&mut sorted);
        let rows = Arc::new(sorted);
        *self.postings.write().unwrap_or_else(PoisonError::into_inner) =
            Postings { rows: Arc::clone(&rows), ordered: true };
        rows
    }

    /// An account's postings by series. Does not put the others in order: one look through them is cheaper.
    pub(super) fn of_account(&self, account: AccountNumber) -> Vec<Posting> {
        let Postings { rows, ordered } = self.postings();
        if ordered {
            let start = rows.partition_point(|posting| posting.account < account);
            return rows[start..].iter().take_while(|posting| posting.account == account).copied().collect();
        }
        let mut own: Vec<Posting> =
            rows.iter().filter(|posting| posting.account == account).copied().collect();
        own.sort_by_key(Posting::key);
        own
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

#[derive(Debug)]
pub(super) struct Tail {
    /// The last frame taken in.
    pub(super) end: FrameEnd,
    /// The last frame of the run before the one that fills.
    before_run: FrameEnd,
    before_chunk: Sequence,
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
            before_chunk: end.last,
            filling: Rows::default(),
            filled: Vec::new(),
            filled_postings: 0,
            sealed: VecDeque::new(),
            runs: Arc::new(runs),
            run_postings,
            chunk_postings: run_postings.div_ceil(CHUNKS_PER_RUN).max(1),
        }
    }

    /// A frame was taken in as a whole.
    pub(super) fn end_frame(&mut self, end: FrameEnd) -> Full {
        self.filling.frames.push(end);
        self.end = end;
        if !self.filling.is_full(self.chunk_postings) {
            return Full::default();
        }
        // The next chunk will be about as large: growing by halves would move megabytes while a frame waits.
        let room = Rows { postings: Vec::with_capacity(self.chunk_postings * 5 / 4), ..Rows::default() };
        self.filled_postings += self.filling.postings.len();
        let chunk = Arc::new(Chunk::new(self.before_chunk, std::mem::replace(&mut self.filling, room)));
        self.before_chunk = end.last;
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
        let filling = Arc::new(Chunk::new(self.before_chunk, part(&self.filling)));
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
