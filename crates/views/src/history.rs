//! The read side's memory: what every account had, and which events made it so, at any moment since the first event.
//!
//! For every account the view keeps a few *series*: whether it is open, and for each currency what is available and held. A posting
//! is one value of a series with the event that left it behind; the event itself stands in the journal. New postings collect in
//! memory; a full run is packed by a builder thread into parts of 256 neighbouring accounts and ingested into the view's own
//! store, together with the position that it reaches. Every few runs a page of accounts gets an *image*, the last value of each
//! series: so a look-up reads a bounded number of parts, however long the history is.

mod builder;
mod layout;
mod lookup;
mod part;
mod past;
mod series;
mod tail;

use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use ledger::codec::{Body, CodecError};
use ledger::{AccountNumber, BalanceChange, Currency, Record, Sequence, Timestamp};
use storage::journal::{self, Frame, ReadError, Reader};
use storage::store::{self, Engine, StateStore, StoreError, StoreOptions};

use builder::{Builder, Counters};
use layout::{FORMAT_VERSION, FrameEnd, RunRow, damaged};
use part::Value;
use series::{Posting, Series};
use tail::{Chunk, Sealed, Snapshot, Spare, Tail};

pub use past::{Moment, PastAccount, PastState};

/// Runs that may wait for the builder besides the one it works on: past it, committing waits.
const RUNS_WAITING_MAX: usize = 1;
/// Chunks that may wait to be grouped. One that finds no place is grouped when its run is written.
const CHUNKS_WAITING_MAX: usize = 256;

/// How the view is set up.
#[derive(Debug, Clone)]
pub struct HistoryOptions {
    /// A run is cut after about so many postings.
    pub run_postings: usize,
    /// Memory for blocks that were read.
    pub cache_size_bytes: u64,
    /// What keeps the view's files.
    pub engine: Engine,
}

impl Default for HistoryOptions {
    fn default() -> HistoryOptions {
        HistoryOptions { run_postings: 4 << 20, engine: Engine::PREFERRED, cache_size_bytes: 32 << 20 }
    }
}

/// Why the view cannot go on. It can be dropped and built again.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// The journal cannot be read.
    #[error(transparent)]
    Journal(#[from] ReadError),
    /// The view's store failed.
    #[error("history: {0}; its directory can be moved away: it is built again from the journal")]
    Store(#[from] StoreError),
    /// A frame is whole, yet its body is not ours.
    #[error("history: the frame with event {sequence}: {error}")]
    Body {
        /// A sequence in the frame.
        sequence: u64,
        /// What is wrong with its body.
        error: CodecError,
    },
    /// The view names an event that the journal does not have, or that does not concern the account.
    #[error(
        "history: the journal has no posting of account {account} at {sequence}; move the view's directory away"
    )]
    Mismatch {
        /// The account's number.
        account: u32,
        /// The event's sequence.
        sequence: u64,
    },
    /// Rebuilding a whole state took longer than it may.
    #[error("history: rebuilding the state took too long: {accounts} of {of} accounts were done")]
    TooLong {
        /// How many accounts were done.
        accounts: u32,
        /// How many there are.
        of: u32,
    },
    /// A view of another format cannot be removed.
    #[error("history: cannot remove {path}, which has another format: {source}")]
    Remove {
        /// The view's directory.
        path: std::path::PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A thread cannot be started.
    #[error("history: cannot start a thread: {0}")]
    Thread(std::io::Error),
}

/// Which entries are asked for.
#[derive(Debug, Clone, Default)]
pub struct HistoryQuery {
    /// At most so many.
    pub limit: usize,
    /// Only events before this sequence: the cursor.
    pub before: Option<Sequence>,
    /// Only this currency.
    pub currency: Option<Currency>,
    /// Only events at or after this time.
    pub since: Option<Timestamp>,
    /// Only events at or before this time.
    pub until: Option<Timestamp>,
}

/// One posting of an account with the event that made it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryEntry {
    /// The event.
    pub record: Record,
    /// What it changed in the account.
    pub change: BalanceChange,
}

/// Entries, newest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryPage {
    /// At most as many as asked for.
    pub entries: Vec<HistoryEntry>,
    /// The cursor of the next page; `None` at the end.
    pub next: Option<Sequence>,
}

/// What the view does, for metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HistoryStatus {
    /// The last event that queries see.
    pub position: Sequence,
    /// The last event in the view's store: what is later is built again from the journal after a restart.
    pub stored: Sequence,
    /// Runs written since the view was opened.
    pub runs: u64,
    /// Images of pages written since then.
    pub images: u64,
    /// How long committing waited for the builder since then, in microseconds: the back-pressure on the write side.
    pub waited_us: u64,
}

struct Shared {
    tail: Mutex<Tail>,
    reached: Condvar,
    store: Arc<dyn StateStore>,
    reader: Reader,
    counters: Counters,
    spare: Spare,
}

/// Where full chunks and runs go.
struct Outlets {
    chunks: Sender<Arc<Chunk>>,
    runs: Sender<Arc<Sealed>>,
}

/// The view. Dropping it stops its builder; what was not ingested is built again from the journal.
pub struct History {
    shared: Arc<Shared>,
    outlets: Option<Outlets>,
    builder: Option<JoinHandle<()>>,
}

impl History {
    /// Opens the view in its directory and catches up with the journal. A view of another format is dropped and built again.
    /// `on_fatal` is told when its store fails later.
    pub fn open(
        directory: &Path,
        reader: Reader,
        options: HistoryOptions,
        on_fatal: Arc<dyn Fn(String) + Send + Sync>,
    ) -> Result<History, HistoryError> {
        let store = open_store(directory, &options)?;
        let end = past::stored_end(store.as_ref())?;
        let tail = Tail::new(end, load_runs(store.as_ref())?, options.run_postings);
        let (tail, reached, counters) = (Mutex::new(tail), Condvar::new(), Counters::default());
        let spare = Spare::default();
        let shared = Arc::new(Shared { tail, reached, store, reader, counters, spare });
        let (chunks, waiting_chunks) = bounded(CHUNKS_WAITING_MAX);
        let (runs, waiting_runs) = bounded(RUNS_WAITING_MAX);
        let builder = Builder { shared: Arc::clone(&shared), pages: Vec::new() };
        let builder = std::thread::Builder::new()
            .name("jigap-history".into())
            .spawn(move || run_builder(builder, &waiting_chunks, &waiting_runs, &*on_fatal))
            .map_err(HistoryError::Thread)?;
        let history = History { shared, outlets: Some(Outlets { chunks, runs }), builder: Some(builder) };
        history.catch_up(end.last)?;
        Ok(history)
    }

    /// Takes in a committed frame; frames come in order, and one that was taken in before is passed over. Quick, but waits while the
    /// builder is a whole run behind.
    pub fn committed(&self, frame: &Frame) -> Result<(), HistoryError> {
        if frame.sequence_count() == 0 {
            return Ok(());
        }
        let first = Sequence(frame.first_sequence().0);
        let last = Sequence(frame.header().last_sequence().0);
        let timestamp = Timestamp::from_micros(frame.timestamp_us());
        let in_body = |error| HistoryError::Body { sequence: first.0, error };
        let body = Body::parse(frame.body(), first).map_err(in_body)?;
        let mut tail = self.shared.lock();
        if last <= tail.end.last {
            return Ok(());
        }
        for outcome in body.outcomes() {
            let (sequence, outcome) = outcome.map_err(in_body)?;
            tail.filling.push(sequence, timestamp, &outcome);
        }
        let full = tail.end_frame(FrameEnd { last, timestamp }, &self.shared.spare);
        drop(tail);
        self.shared.reached.notify_all();
        let Some(Outlets { chunks, runs }) = &self.outlets else { return Ok(()) };
        if let Some(chunk) = full.chunk {
            // Without a place it is grouped when its run is written.
            let _ = chunks.try_send(chunk);
        }
        if let Some(run) = full.run {
            let started = Instant::now();
            // Without its builder the view is stopping or has reported its failure: the journal builds the run again.
            let _ = runs.send(run);
            self.shared.counters.waited_us.fetch_add(started.elapsed().as_micros() as u64, Ordering::Relaxed);
        }
        Ok(())
    }

    /// The last event that queries see.
    pub fn position(&self) -> Sequence {
        self.shared.lock().end.last
    }

    /// How far the view is, and what it did.
    pub fn status(&self) -> HistoryStatus {
        let tail = self.shared.lock();
        let (position, stored) = (tail.end.last, tail.last_run().map_or(Sequence(0), |run| run.end));
        drop(tail);
        let load = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        let Counters { runs, images, waited_us } = &self.shared.counters;
        HistoryStatus { position, stored, runs: load(runs), images: load(images), waited_us: load(waited_us) }
    }

    /// The last event that is in the view's own files: after a restart the view needs the journal from here on.
    pub fn stored_position(&self) -> Result<Sequence, HistoryError> {
        Ok(Sequence(self.shared.store.position()?.unwrap_or(0)))
    }

    /// Waits until queries see this event; false when that takes too long.
    pub fn wait_for(&self, sequence: Sequence, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        let mut tail = self.shared.lock();
        while tail.end.last < sequence {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else { return false };
            let waited = self.shared.reached.wait_timeout(tail, left);
            tail = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// What changed the account's balances, newest first. Blocks on the disk.
    pub fn history(&self, account: AccountNumber, query: &HistoryQuery) -> Result<HistoryPage, HistoryError> {
        let mut until = Sequence(query.before.map_or(u64::MAX, |before| before.0.saturating_sub(1)));
        let mut after = Sequence(0);
        if query.until.is_some() || query.since.is_some() {
            let snapshot = self.shared.lock().snapshot(past::frames_of);
            if let Some(time) = query.until {
                until = until.min(self.shared.last_frame_by(&snapshot, time)?.last);
            }
            if let Some(time) = query.since {
                let before = Timestamp::from_micros(time.as_micros().saturating_sub(1));
                after = self.shared.last_frame_by(&snapshot, before)?.last;
            }
        }
        let mut walk = Walk::start(&self.shared, account, query.currency, until)?;
        let mut page = HistoryPage { entries: Vec::new(), next: None };
        while let Some((currency, sequence)) = walk.next()? {
            if sequence <= after {
                break;
            }
            if page.entries.len() == query.limit {
                page.next = page.entries.last().map(|entry| entry.record.sequence);
                break;
            }
            page.entries.push(self.shared.read(account, currency, sequence)?);
        }
        Ok(page)
    }

    fn catch_up(&self, position: Sequence) -> Result<(), HistoryError> {
        let Some(first) = self.shared.reader.frame_containing(journal::Sequence(position.0 + 1))? else {
            return Ok(());
        };
        tracing::info!(from = position.0 + 1, "the history view catches up with the journal");
        for frame in self.shared.reader.frames_from(first.index()) {
            self.committed(&*frame?)?;
        }
        Ok(())
    }
}

impl Drop for History {
    fn drop(&mut self) {
        self.outlets = None;
        if let Some(builder) = self.builder.take() {
            // A panic there was reported by the panic hook.
            let _ = builder.join();
        }
    }
}

fn open_store(directory: &Path, options: &HistoryOptions) -> Result<Arc<dyn StateStore>, HistoryError> {
    let store_options = StoreOptions { engine: options.engine, cache_size_bytes: options.cache_size_bytes };
    let store = store::open(directory, &store_options)?;
    if store.position()?.is_none() || store.get(&layout::format_key())? == Some(vec![FORMAT_VERSION]) {
        return Ok(store);
    }
    tracing::warn!(
        directory = %directory.display(),
        format = FORMAT_VERSION,
        "the history view has another format: it is dropped and built again from the journal"
    );
    drop(store);
    std::fs::remove_dir_all(directory)
        .map_err(|source| HistoryError::Remove { path: directory.to_owned(), source })?;
    Ok(store::open(directory, &store_options)?)
}

fn load_runs(store: &dyn StateStore) -> Result<Vec<RunRow>, StoreError> {
    let (start, end) = (layout::run_key(Sequence(0)), layout::run_key(Sequence(u64::MAX)));
    let rows = store.scan(&start, &end).map(|entry| {
        let (key, value) = entry?;
        RunRow::decode(&key, &value).ok_or_else(|| damaged(&key))
    });
    rows.collect()
}

fn run_builder(
    builder: Builder,
    chunks: &Receiver<Arc<Chunk>>,
    runs: &Receiver<Arc<Sealed>>,
    on_fatal: &(dyn Fn(String) + Send + Sync),
) {
    if let Err(error) = builder.run(chunks, runs) {
        on_fatal(format!("the history view failed: {error}"));
    }
}

/// Goes through an account's postings, newest first: one currency's series each, merged.
struct Walk<'view> {
    shared: &'view Shared,
    account: AccountNumber,
    snapshot: Snapshot,
    series: Vec<SeriesWalk>,
}

struct SeriesWalk {
    currency: Currency,
    /// Of one chunk or part, oldest first; never empty.
    ahead: Vec<Sequence>,
}

impl<'view> Walk<'view> {
    fn start(
        shared: &'view Shared,
        account: AccountNumber,
        currency: Option<Currency>,
        until: Sequence,
    ) -> Result<Walk<'view>, HistoryError> {
        let snapshot = shared.snapshot_of(account);
        let mut walk = Walk { shared, account, snapshot, series: Vec::new() };
        let values = shared.account_values(&walk.snapshot, account, until)?;
        for (series, Value { sequence, .. }) in values.iter() {
            let Some(own) = series.currency().filter(|_| !series.is_held()) else { continue };
            if currency.is_none_or(|wanted| wanted == own) {
                let ahead = walk.postings_until(series, sequence)?;
                walk.series.push(SeriesWalk { currency: own, ahead });
            }
        }
        Ok(walk)
    }

    fn next(&mut self) -> Result<Option<(Currency, Sequence)>, HistoryError> {
        let newest = self.series.iter().enumerate().max_by_key(|(_, walk)| walk.ahead.last().copied());
        let Some((place, _)) = newest else { return Ok(None) };
        let SeriesWalk { currency, ahead } = &mut self.series[place];
        let (currency, sequence) = (*currency, ahead.pop().expect("what is empty is filled or removed"));
        if ahead.is_empty() {
            let series = Series::available(currency);
            let older = Sequence(sequence.0 - 1);
            let values = self.shared.account_values(&self.snapshot, self.account, older)?;
            match values.get(series) {
                Some(last) => self.series[place].ahead = self.postings_until(series, last.sequence)?,
                None => drop(self.series.swap_remove(place)),
            }
        }
        Ok(Some((currency, sequence)))
    }

    /// Some postings of a series, oldest first, of which `last` is the newest.
    fn postings_until(&self, series: Series, last: Sequence) -> Result<Vec<Sequence>, HistoryError> {
        let mismatch = HistoryError::Mismatch { account: self.account.0, sequence: last.0 };
        if let Some(chunk) = self.snapshot.chunks_until(last).next() {
            let own = chunk.of_account(self.account);
            let own = own.iter().filter(|posting: &&Posting| posting.series == series);
            let found: Vec<_> = own.map(|posting| posting.sequence).filter(|at| *at <= last).collect();
            return if found.is_empty() { Err(mismatch) } else { Ok(found) };
        }
        let run_end = self.snapshot.last_run_until(last);
        let store = self.shared.store.as_ref();
        let found = lookup::postings_before(store, self.account, series, run_end, last.next())?;
        let found: Vec<_> = found.iter().rev().map(|value| value.sequence).collect();
        if found.is_empty() { Err(mismatch) } else { Ok(found) }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Tail> {
        self.tail.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The event of a posting, from the journal.
    fn read(
        &self,
        account: AccountNumber,
        currency: Currency,
        sequence: Sequence,
    ) -> Result<HistoryEntry, HistoryError> {
        let mismatch = HistoryError::Mismatch { account: account.0, sequence: sequence.0 };
        let Some(frame) = self.reader.frame_containing(journal::Sequence(sequence.0))? else {
            return Err(mismatch);
        };
        let entry = Body::parse(frame.body(), Sequence(frame.first_sequence().0))
            .and_then(|body| body.entry_of(sequence))
            .map_err(|error| HistoryError::Body { sequence: sequence.0, error })?;
        let event = entry.sequenced().find(|(at, _)| *at == sequence).map(|(_, event)| event.clone());
        let timestamp = Timestamp::from_micros(frame.timestamp_us());
        let record = event.map(|event| Record { sequence, timestamp, event });
        let found = record.and_then(|record| {
            let mut changes = record.event.balance_changes().into_iter().flatten();
            let change = changes.find(|change| change.account == account && change.currency == currency)?;
            Some(HistoryEntry { record, change })
        });
        found.ok_or(mismatch)
    }
}
