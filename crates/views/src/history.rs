//! The history of every account: which events changed its balances, newest first.
//!
//! Only (account, sequence) is kept here: the events themselves stand in the journal, with the balance that each left behind.
//! New postings collect in memory; a full run is packed by a builder thread into blocks of 256 neighbouring accounts and
//! ingested into the view's own store.

mod block;

use std::collections::VecDeque;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use ledger::codec::{Body, CodecError};
use ledger::{AccountNumber, BalanceChange, Currency, Record, Sequence, Timestamp};
use storage::journal::{self, Frame, FrameIndex, ReadError, Reader};
use storage::store::{self, Engine, StateStore, StoreError, StoreOptions};

use block::Posting;

/// Runs that may wait for the builder besides the one it works on: past it, committing waits.
const RUNS_WAITING_MAX: usize = 1;
/// How long the builder waits for a run before it looks for compaction work.
const IDLE: Duration = Duration::from_millis(200);

/// How the view is set up.
#[derive(Debug, Clone)]
pub struct HistoryOptions {
    /// A run is cut after this many postings.
    pub run_postings: usize,
    /// What keeps the view's files.
    pub engine: Engine,
    /// Memory for blocks that were read.
    pub cache_size_bytes: u64,
}

impl Default for HistoryOptions {
    fn default() -> HistoryOptions {
        HistoryOptions { run_postings: 4 << 20, engine: Engine::default(), cache_size_bytes: 32 << 20 }
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

/// A full run on its way into the store.
#[derive(Debug)]
struct Sealed {
    postings: Vec<Posting>,
    last: Sequence,
    ingested: AtomicBool,
}

#[derive(Debug, Default)]
struct Tail {
    position: Sequence,
    postings: Vec<Posting>,
    sealed: VecDeque<Arc<Sealed>>,
}

struct Shared {
    tail: Mutex<Tail>,
    reached: Condvar,
    store: Arc<dyn StateStore>,
    reader: Reader,
    run_postings: usize,
}

/// The view. Dropping it stops its builder; what was not ingested is built again from the journal.
pub struct History {
    shared: Arc<Shared>,
    runs: Option<Sender<Arc<Sealed>>>,
    builder: Option<JoinHandle<()>>,
}

impl History {
    /// Opens the view in its directory and catches up with the journal. `on_fatal` is told when its store fails later.
    pub fn open(
        directory: &Path,
        reader: Reader,
        options: HistoryOptions,
        on_fatal: Arc<dyn Fn(String) + Send + Sync>,
    ) -> Result<History, HistoryError> {
        let store_options =
            StoreOptions { engine: options.engine, cache_size_bytes: options.cache_size_bytes };
        let store = store::open(directory, &store_options)?;
        let position = Sequence(store.position()?.unwrap_or(0));
        let shared = Arc::new(Shared {
            tail: Mutex::new(Tail { position, ..Tail::default() }),
            reached: Condvar::new(),
            store,
            reader,
            run_postings: options.run_postings,
        });
        let (runs, waiting) = bounded(RUNS_WAITING_MAX);
        let of_builder = Arc::clone(&shared);
        let builder = std::thread::Builder::new()
            .name("jigap-history".into())
            .spawn(move || {
                if let Err(error) = build_runs(of_builder.store.as_ref(), &waiting) {
                    on_fatal(format!("the history view failed: {error}"));
                }
            })
            .map_err(HistoryError::Thread)?;
        let history = History { shared, runs: Some(runs), builder: Some(builder) };
        history.catch_up(position)?;
        Ok(history)
    }

    /// Takes in a committed frame; frames come in order, and one that was taken in before is passed over. Quick, but waits while the
    /// builder is a whole run behind.
    pub fn committed(&self, frame: &Frame) -> Result<(), HistoryError> {
        if frame.sequence_count() == 0 {
            return Ok(());
        }
        let first = Sequence(frame.first_sequence().0);
        let last = Sequence(first.0 + u64::from(frame.sequence_count()) - 1);
        let in_body = |error| HistoryError::Body { sequence: first.0, error };
        let body = Body::parse(frame.body(), first).map_err(in_body)?;
        let mut tail = self.shared.lock();
        if last <= tail.position {
            return Ok(());
        }
        for entry in body.entries() {
            let entry = entry.map_err(in_body)?;
            for (sequence, event) in entry.sequenced() {
                for change in event.balance_changes().into_iter().flatten() {
                    tail.postings.push(Posting { account: change.account, sequence });
                }
            }
        }
        tail.position = last;
        let full = (tail.postings.len() >= self.shared.run_postings).then(|| tail.seal());
        drop(tail);
        self.shared.reached.notify_all();
        if let (Some(sealed), Some(runs)) = (full, &self.runs) {
            // Without its builder the view is stopping or has reported its failure: the journal builds the run again.
            let _ = runs.send(sealed);
        }
        Ok(())
    }

    /// The last event that queries see.
    pub fn position(&self) -> Sequence {
        self.shared.lock().position
    }

    /// The last event that is in the view's own files: after a restart the view needs the journal from here on.
    pub fn stored_position(&self) -> Result<Sequence, HistoryError> {
        Ok(Sequence(self.shared.store.position()?.unwrap_or(0)))
    }

    /// Waits until queries see this event; false when that takes too long.
    pub fn wait_for(&self, sequence: Sequence, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        let mut tail = self.shared.lock();
        while tail.position < sequence {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else { return false };
            let waited = self.shared.reached.wait_timeout(tail, left);
            tail = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// What changed the account's balances, newest first. Blocks on the disk.
    pub fn history(&self, account: AccountNumber, query: &HistoryQuery) -> Result<HistoryPage, HistoryError> {
        let mut before = query.before.unwrap_or(Sequence(u64::MAX));
        if let Some(until) = query.until {
            before = before.min(self.shared.first_after(until)?);
        }
        let mut page = HistoryPage { entries: Vec::new(), next: None };
        let mut recent = self.shared.in_memory(account, before).into_iter();
        // What memory had not, the store has: it is asked after memory, so nothing falls between the two.
        let older = self.shared.in_store(account, before);
        let mut previous = None;
        let sequences = recent.by_ref().map(Ok).chain(older);
        for sequence in sequences {
            let sequence = sequence?;
            // A run ingested between the two look-ups is seen twice.
            if previous.is_some_and(|previous| previous <= sequence) {
                continue;
            }
            previous = Some(sequence);
            let record = self.shared.read(account, sequence)?;
            if query.since.is_some_and(|since| record.timestamp < since) {
                break;
            }
            for change in postings_of(&record, account, query.currency) {
                if page.entries.len() == query.limit {
                    page.next = page.entries.last().map(|entry: &HistoryEntry| entry.record.sequence);
                    return Ok(page);
                }
                page.entries.push(HistoryEntry { record: record.clone(), change });
            }
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
        self.runs = None;
        if let Some(builder) = self.builder.take() {
            // A panic there was reported by the panic hook.
            let _ = builder.join();
        }
    }
}

impl Tail {
    fn seal(&mut self) -> Arc<Sealed> {
        self.sealed.retain(|sealed| !sealed.ingested.load(Ordering::Acquire));
        let postings = std::mem::take(&mut self.postings);
        let sealed = Arc::new(Sealed { postings, last: self.position, ingested: AtomicBool::new(false) });
        self.sealed.push_back(Arc::clone(&sealed));
        sealed
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Tail> {
        self.tail.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The account's postings not yet in the store, newest first.
    fn in_memory(&self, account: AccountNumber, before: Sequence) -> Vec<Sequence> {
        let find = |postings: &[Posting]| -> Vec<Sequence> {
            let own = postings.iter().rev().filter(|posting| posting.account == account);
            own.map(|posting| posting.sequence).filter(|sequence| *sequence < before).collect()
        };
        let tail = self.lock();
        let mut sequences = find(&tail.postings);
        let sealed: Vec<Arc<Sealed>> = tail.sealed.iter().rev().cloned().collect();
        drop(tail);
        sealed.iter().for_each(|sealed| sequences.extend(find(&sealed.postings)));
        sequences
    }

    /// The account's postings in the store, newest first.
    fn in_store(
        &self,
        account: AccountNumber,
        before: Sequence,
    ) -> impl Iterator<Item = Result<Sequence, HistoryError>> + '_ {
        let (start, end) = block::key_range(account);
        self.store.scan_reverse(&start, &end).flat_map(move |entry| {
            let found = match entry {
                Ok((key, value)) => block::find(&value, account).ok_or_else(|| {
                    HistoryError::Store(StoreError::Engine(format!(
                        "the history block {key:02x?} is damaged"
                    )))
                }),
                Err(error) => Err(error.into()),
            };
            match found {
                Ok(mut sequences) => {
                    sequences.retain(|sequence| *sequence < before);
                    sequences.reverse();
                    sequences.into_iter().map(Ok).collect()
                }
                Err(error) => vec![Err(error)],
            }
        })
    }

    fn read(&self, account: AccountNumber, sequence: Sequence) -> Result<Record, HistoryError> {
        let mismatch = HistoryError::Mismatch { account: account.0, sequence: sequence.0 };
        let Some(frame) = self.reader.frame_containing(journal::Sequence(sequence.0))? else {
            return Err(mismatch);
        };
        let entry = Body::parse(frame.body(), Sequence(frame.first_sequence().0))
            .and_then(|body| body.entry_of(sequence))
            .map_err(|error| HistoryError::Body { sequence: sequence.0, error })?;
        let event = entry.sequenced().find(|(at, _)| *at == sequence).map(|(_, event)| event.clone());
        let timestamp = Timestamp::from_micros(frame.timestamp_us());
        let record = event.map(|event| Record { sequence, timestamp, event }).ok_or(mismatch)?;
        Ok(record)
    }

    /// The first sequence whose event is later than this time. Times never go backwards, so the frames are searched by halves.
    fn first_after(&self, time: Timestamp) -> Result<Sequence, HistoryError> {
        let Some(last) = self.reader.last() else { return Ok(Sequence(u64::MAX)) };
        let (mut low, mut high) = (self.reader.first_index().0, last.index.0 + 1);
        let mut found = Sequence(u64::MAX);
        while low < high {
            let middle = low + (high - low) / 2;
            let Some(frame) = self.reader.frame_at(FrameIndex(middle))? else { break };
            if frame.timestamp_us() > time.as_micros() {
                found = Sequence(frame.first_sequence().0);
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        Ok(found)
    }
}

fn postings_of(
    record: &Record,
    account: AccountNumber,
    currency: Option<Currency>,
) -> impl Iterator<Item = BalanceChange> {
    let changes = record.event.balance_changes().into_iter().flatten();
    changes.filter(move |change| {
        change.account == account && currency.is_none_or(|currency| change.currency == currency)
    })
}

/// What the builder's thread does until the view is dropped.
fn build_runs(store: &dyn StateStore, waiting: &Receiver<Arc<Sealed>>) -> Result<(), StoreError> {
    loop {
        match waiting.recv_timeout(IDLE) {
            Ok(sealed) => {
                let started = Instant::now();
                store.ingest(block::build_run(&sealed.postings, sealed.last))?;
                sealed.ingested.store(true, Ordering::Release);
                let (postings, build_ms) = (sealed.postings.len(), started.elapsed().as_millis() as u64);
                tracing::debug!(postings, build_ms, position = sealed.last.0, "history run written");
                while store.maintain()? {}
            }
            Err(RecvTimeoutError::Timeout) => {
                store.maintain()?;
            }
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
        }
    }
}
