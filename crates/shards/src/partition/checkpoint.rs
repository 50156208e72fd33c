//! Turns a full window into one sorted run of the state store: the balances as of the window's last event, and its ids.
//!
//! Everything comes from the window, which the events filled: the state thread is never stopped and its state never copied.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};
use ledger::{AccountDetails, AccountNumber, TransactionId};
use storage::store::{Change, Run, StateStore, StoreError};

use super::commit::Committed;
use super::id_index::{IdSeed, SealedWindow};
use super::layout::{self, ACCOUNTS_PER_PAGE, BalancePage, CheckpointPosition, ID_BUCKETS, IdBlock};
use super::metrics::Metrics;
use super::window::{AvailableChange, IdEntry, RareChange, Window};

/// How long the builder waits for a window before it looks for compaction work.
const IDLE: Duration = Duration::from_millis(200);

pub(super) struct CheckpointBuilder {
    pub(super) store: Arc<dyn StateStore>,
    pub(super) seed: IdSeed,
    pub(super) committed: Arc<Committed>,
    pub(super) metrics: Arc<Metrics>,
}

impl CheckpointBuilder {
    /// Works until the state thread hangs up. An error is fatal for the node: the caller stops it.
    pub(super) fn run(&self, windows: &Receiver<Arc<SealedWindow>>) -> Result<(), StoreError> {
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

    fn ingest(&self, sealed: &SealedWindow) -> Result<(), StoreError> {
        let started = Instant::now();
        let run = self.build(&sealed.window)?;
        let keys = run.changes.len();
        let built = started.elapsed();
        self.store.ingest(run)?;
        sealed.ingested.store(true, Ordering::Release);
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

    fn build(&self, window: &Window) -> Result<Run, StoreError> {
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
        let page_of = |account: AccountNumber| (account.0 / ACCOUNTS_PER_PAGE) as usize;
        let available = group_by(&window.changes, |change| page_of(change.account));
        let mut held: Vec<(AccountNumber, _, _)> = Vec::new();
        for change in &window.rare {
            if let RareChange::Held(account, currency, after) = change {
                held.push((*account, *currency, *after));
            }
        }
        // A held balance never changes without the available one: every page with the first has the second.
        let held = group_by(&held, |(account, _, _)| page_of(*account));
        let touched: Vec<usize> =
            (0..available.groups()).filter(|page| !available.group(*page).is_empty()).collect();
        let keys: Vec<Vec<u8>> = touched.iter().map(|page| layout::balances_key(*page as u32)).collect();
        let images = self.store.get_many(&keys)?;
        for ((page, key), image) in touched.into_iter().zip(keys).zip(images) {
            let mut balances = match image {
                None => BalancePage::default(),
                Some(image) => BalancePage::decode(&image).ok_or_else(|| layout::damaged(&key))?,
            };
            let within = |account: AccountNumber| (account.0 % ACCOUNTS_PER_PAGE) as u8;
            for AvailableChange { account, currency, available } in available.group(page) {
                balances.balance_mut(within(*account), *currency).available = *available;
            }
            for (account, currency, after) in held.group(page) {
                balances.balance_mut(within(*account), *currency).held = *after;
            }
            changes.push((key, Change::Put(balances.encode())));
        }
        Ok(())
    }

    fn build_id_blocks(&self, window: &Window, changes: &mut Vec<(Vec<u8>, Change)>) {
        let bucket_of = |entry: &IdEntry| layout::id_bucket(self.seed.hash(entry.id()));
        let buckets = group_by(&window.entries, bucket_of);
        for bucket in 0..buckets.groups().min(ID_BUCKETS) {
            let entries = buckets.group(bucket);
            if entries.is_empty() {
                continue;
            }
            let mut block = IdBlock::new(window.last_sequence, entries.len());
            for entry in entries {
                block.push(entry.id(), entry.sequence);
            }
            changes.push((layout::ids_key(bucket, window.last_sequence), Change::Put(block.into_bytes())));
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

/// Items put in order of a small number by counting, stable: two sequential passes instead of a comparison sort.
struct Grouped<Item> {
    items: Vec<Item>,
    /// Group `n` is `items[starts[n]..starts[n + 1]]`.
    starts: Vec<usize>,
}

impl<Item> Grouped<Item> {
    fn groups(&self) -> usize {
        self.starts.len() - 1
    }

    fn group(&self, group: usize) -> &[Item] {
        match self.starts.get(group..group + 2) {
            Some([start, end]) => &self.items[*start..*end],
            _ => &[],
        }
    }
}

fn group_by<Item: Copy>(items: &[Item], group_of: impl Fn(&Item) -> usize) -> Grouped<Item> {
    let groups = items.iter().map(|item| group_of(item) + 1).max().unwrap_or(0);
    let mut starts = vec![0; groups + 1];
    for item in items {
        starts[group_of(item) + 1] += 1;
    }
    for group in 0..groups {
        starts[group + 1] += starts[group];
    }
    let mut next = starts.clone();
    let mut ordered = items.to_vec();
    for item in items {
        let place = &mut next[group_of(item)];
        ordered[*place] = *item;
        *place += 1;
    }
    Grouped { items: ordered, starts }
}
