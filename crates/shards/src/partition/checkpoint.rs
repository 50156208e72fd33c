//! Turns a full window into one sorted run of the state store: the balances as of the window's last event, and its ids.
//!
//! Everything comes from the window, which the events filled: the state thread is never stopped and its state never copied.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};
use ledger::{AccountDetails, AccountNumber, Currency, TransactionId};
use storage::store::{Change, Run, StateStore, StoreError};

use super::commit::Committed;
use super::id_filter::IdFilter;
use super::id_index::{IdSeed, SealedWindow};
use super::layout::{self, ACCOUNTS_PER_PAGE, BalancePage, CheckpointPosition, IdBlock};
use super::metrics::Metrics;
use super::window::{AvailableChange, IdEntry, RareChange, Window};

/// How long the builder waits for a window before it looks for compaction work.
const IDLE: Duration = Duration::from_millis(200);

pub(super) struct CheckpointBuilder {
    pub(super) store: Arc<dyn StateStore>,
    pub(super) seed: IdSeed,
    /// Of every id in the store. The state thread looks ids up in it meanwhile.
    pub(super) filter: Arc<IdFilter>,
    pub(super) committed: Arc<Committed>,
    pub(super) metrics: Arc<Metrics>,
}

impl CheckpointBuilder {
    /// Works until the state thread hangs up. An error is fatal for the node: the caller stops it.
    pub(super) fn run(&mut self, windows: &Receiver<Arc<SealedWindow>>) -> Result<(), StoreError> {
        loop {
            match windows.recv_timeout(IDLE) {
                Ok(sealed) => {
                    // A checkpoint must not hold what the journal could still lose.
                    if !self.committed.wait_for(sealed.window.last_sequence) {
                        return Ok(());
                    }
                    self.ingest(&sealed)?;
                }
                Err(RecvTimeoutError::Timeout) => {
                    self.store.maintain()?;
                }
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            }
        }
    }

    fn ingest(&mut self, sealed: &SealedWindow) -> Result<(), StoreError> {
        let started = Instant::now();
        let run = self.build(&sealed.window)?;
        let keys = run.changes.len();
        let built = started.elapsed();
        self.store.ingest(run)?;
        sealed.ingested.set(Arc::clone(&self.filter)).expect("a window is ingested once");
        let sequence = sealed.window.last_sequence.0;
        self.metrics.checkpoint_sequence.store(sequence, Ordering::Relaxed);
        tracing::debug!(
            sequence,
            keys,
            ids = sealed.window.entries.len(),
            build_ms = built.as_millis() as u64,
            ingest_ms = (started.elapsed() - built).as_millis() as u64,
            "checkpoint written"
        );
        while self.store.maintain()? {}
        Ok(())
    }

    fn build(&mut self, window: &Window) -> Result<Run, StoreError> {
        let rare = RareRows::collect(&window.rare);
        let mut changes = Vec::new();
        for (account, (details, closed)) in rare.accounts {
            changes
                .push((layout::account_key(account), Change::Put(layout::encode_account(details, closed))));
        }
        self.build_pages(window, &mut changes)?;
        for (hold_id, hold) in rare.holds {
            let change = hold.map_or(Change::Delete, |hold| Change::Put(layout::encode_hold(&hold)));
            changes.push((layout::hold_key(hold_id), change));
        }
        self.build_id_blocks(window, &mut changes);
        let ids_before = layout::load_position(self.store.as_ref())?.map_or(0, |position| position.ids);
        let position = CheckpointPosition {
            sequence: window.last_sequence,
            timestamp: window.timestamp,
            seed: self.seed,
            ids: ids_before + window.entries.len() as u64,
        };
        changes.push((layout::position_key(), Change::Put(layout::encode_position(&position))));
        Ok(Run { position: window.last_sequence.0, changes })
    }

    /// Rewrites each page of balances that the window touched.
    fn build_pages(&self, window: &Window, changes: &mut Vec<(Vec<u8>, Change)>) -> Result<(), StoreError> {
        let page_of = |account: AccountNumber| account.0 / ACCOUNTS_PER_PAGE;
        let within = |account: AccountNumber| (account.0 % ACCOUNTS_PER_PAGE) as u8;
        let mut available = window.changes.clone();
        radsort::sort_by_key(&mut available, |change| page_of(change.account));
        let mut held: Vec<(AccountNumber, Currency, i64)> = Vec::new();
        for change in &window.rare {
            if let RareChange::Held(account, currency, after) = change {
                held.push((*account, *currency, *after));
            }
        }
        held.sort_by_key(|(account, ..)| page_of(*account));
        let mut held = held.as_slice();

        let pages = || available.chunk_by(|one, two| page_of(one.account) == page_of(two.account));
        let keys: Vec<Vec<u8>> = pages().map(|page| layout::balances_key(page_of(page[0].account))).collect();
        let images = self.store.get_many(&keys)?;
        for ((page, key), image) in pages().zip(keys).zip(images) {
            let mut balances = match image {
                None => BalancePage::default(),
                Some(image) => BalancePage::decode(&image).ok_or_else(|| layout::damaged(&key))?,
            };
            for AvailableChange { account, currency, available } in page {
                balances.balance_mut(within(*account), *currency).available = *available;
            }
            // A held balance never changes without the available one: every page with the first has the second.
            let number = page_of(page[0].account);
            let of_page = held.partition_point(|(account, ..)| page_of(*account) <= number);
            for (account, currency, after) in held.split_off(..of_page).into_iter().flatten() {
                balances.balance_mut(within(*account), *currency).held = *after;
            }
            changes.push((key, Change::Put(balances.encode())));
        }
        Ok(())
    }

    /// Packs the ids into blocks, and makes them known to the permanent filter: both in the order of their hashes, so that memory is
    /// walked and not jumped about in.
    fn build_id_blocks(&mut self, window: &Window, changes: &mut Vec<(Vec<u8>, Change)>) {
        let seed = self.seed;
        let bucket_of = |entry: &IdEntry| layout::id_bucket(seed.hash(entry.id()));
        let mut entries = window.entries.clone();
        radsort::sort_by_key(&mut entries, bucket_of);
        while self.filter.is_full_with(entries.len() as u64) {
            self.filter = Arc::new(self.filter.doubled());
        }
        for entries in entries.chunk_by(|one, two| bucket_of(one) == bucket_of(two)) {
            let mut block = IdBlock::new(window.last_sequence, entries.len());
            for entry in entries {
                self.filter.insert(seed.hash(entry.id()));
                block.push(entry.id(), entry.sequence);
            }
            let key = layout::ids_key(bucket_of(&entries[0]), window.last_sequence);
            changes.push((key, Change::Put(block.into_bytes())));
        }
    }
}

/// The last word on each account and hold that the window's rare changes concern, in order of their keys.
#[derive(Default)]
struct RareRows<'window> {
    accounts: BTreeMap<AccountNumber, (&'window AccountDetails, bool)>,
    holds: BTreeMap<TransactionId, Option<ledger::Hold>>,
}

impl RareRows<'_> {
    fn collect(rare: &[RareChange]) -> RareRows<'_> {
        let mut rows = RareRows::default();
        for change in rare {
            match change {
                RareChange::Opened(account, details) => {
                    rows.accounts.insert(*account, (details, false));
                }
                RareChange::Closed(account, details) => {
                    rows.accounts.insert(*account, (details, true));
                }
                RareChange::HoldMade(hold_id, hold) => {
                    rows.holds.insert(*hold_id, Some(*hold));
                }
                RareChange::HoldSettled(hold_id) => {
                    rows.holds.insert(*hold_id, None);
                }
                RareChange::Held(..) => {}
            }
        }
        rows
    }
}
