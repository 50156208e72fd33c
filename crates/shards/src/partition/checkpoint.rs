//! Turns a full window into one sorted run of the state store: the balances as of the window's last event, and its ids.
//!
//! Everything comes from the window, which the events filled: the state thread is never stopped and its state never copied.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender};
use ledger::{AccountDetails, AccountNumber, Currency, TransactionId};
use storage::store::{Change, Groups, StateStore, StoreError};

use super::commit::Committed;
use super::id_filter::IdFilter;
use super::id_index::{IdSeed, SealedWindow};
use super::layout::{self, ACCOUNTS_PER_PAGE, BalancePage, CheckpointPosition, PackedId};
use super::metrics::Metrics;
use super::window::{AvailableChange, IdEntry, RareChange, Window};

/// Besides the one being filled: one waits, one is written, one is at hand. Memory that nothing was written to yet costs nothing.
const SPARE_WINDOWS: usize = 3;

pub(super) struct CheckpointBuilder {
    pub(super) store: Arc<dyn StateStore>,
    pub(super) seed: IdSeed,
    /// Of every id in the store. The state thread looks ids up in it meanwhile.
    pub(super) filter: Arc<IdFilter>,
    /// Where a window's changes and ids are grouped: memory that is used again.
    pub(super) memory: GroupMemory,
    /// Takes empty windows to the state thread, which would be held up by making or emptying them.
    pub(super) spare: Sender<Window>,
    /// How many events a window is for.
    pub(super) run_events: usize,
    /// What the state thread may still look into.
    pub(super) used: Used,
    pub(super) committed: Arc<Committed>,
    pub(super) metrics: Arc<Metrics>,
}

#[derive(Default)]
pub(super) struct Used {
    windows: Vec<Arc<SealedWindow>>,
    filters: Vec<Arc<IdFilter>>,
}

#[derive(Default)]
pub(super) struct GroupMemory {
    changes: Vec<AvailableChange>,
    ids: Vec<PackedId>,
}

impl CheckpointBuilder {
    /// Works until the state thread hangs up. An error is fatal for the node: the caller stops it.
    pub(super) fn run(&mut self, windows: &Receiver<Arc<SealedWindow>>) -> Result<(), StoreError> {
        for _ in 0..SPARE_WINDOWS {
            self.give(Window::new(self.run_events));
        }
        for sealed in windows {
            // A checkpoint must not hold what the journal could still lose.
            if !self.committed.wait_for(sealed.window.last_sequence) {
                return Ok(());
            }
            self.recycle();
            self.ingest(&sealed)?;
            self.used.windows.push(sealed);
            self.store.wait_for_compaction()?;
        }
        Ok(())
    }

    /// Makes windows empty, and frees filters, that the state thread no longer looks into.
    fn recycle(&mut self) {
        self.used.filters.retain(|filter| Arc::strong_count(filter) > 1);
        let unused = |sealed: &mut Arc<SealedWindow>| Arc::strong_count(sealed) == 1;
        let unused: Vec<_> = self.used.windows.extract_if(.., unused).collect();
        for sealed in unused.into_iter().filter_map(Arc::into_inner) {
            self.give(sealed.window.emptied());
        }
    }

    fn give(&self, window: Window) {
        // At the very end nobody wants it.
        let _ = self.spare.send(window);
    }

    fn ingest(&mut self, sealed: &SealedWindow) -> Result<(), StoreError> {
        let started = Instant::now();
        let window = &sealed.window;
        while self.filter.is_full_with(window.entries.len() as u64) {
            let doubled = Arc::new(self.filter.doubled());
            self.used.filters.push(std::mem::replace(&mut self.filter, doubled));
        }
        let seed = self.seed;
        let GroupMemory { changes, ids } = std::mem::take(&mut self.memory);
        let pages = Groups::of(&window.changes, changes, |change| page_of(change.account), |change| *change);
        let bucket_of = |entry: &IdEntry| layout::id_bucket(seed.hash(entry.id())).into();
        let packed =
            |entry: &IdEntry| layout::pack_id(seed.hash(entry.id()), entry.sequence, window.last_sequence);
        let buckets = Groups::of(&window.entries, ids, bucket_of, packed);

        let rare = RareRows::collect(&window.rare);
        let ids_before = layout::load_position(self.store.as_ref())?.map_or(0, |position| position.ids);
        let position = CheckpointPosition {
            sequence: window.last_sequence,
            timestamp: window.timestamp,
            seed,
            ids: ids_before + window.entries.len() as u64,
        };
        let accounts = rare.accounts.iter().map(|(account, (details, closed))| {
            Ok((layout::account_key(*account), Change::Put(layout::encode_account(details, *closed))))
        });
        let store = self.store.as_ref();
        let balances = pages.iter().map(|(page, changes)| balances(store, page, changes, &rare.held));
        let holds = rare.holds.iter().map(|(hold_id, hold)| {
            let change = hold.map_or(Change::Delete, |hold| Change::Put(layout::encode_hold(&hold)));
            Ok((layout::hold_key(*hold_id), change))
        });
        let filter = self.filter.as_ref();
        let ids = buckets.iter().map(|(bucket, ids)| {
            let bucket = bucket as u16;
            let hashes = ids.iter().map(|id| layout::packed_hash(bucket, id));
            hashes.clone().for_each(|hash| filter.prefetch(hash));
            hashes.for_each(|hash| filter.insert(hash));
            let key = layout::ids_key(bucket, window.last_sequence);
            Ok((key, Change::Put(layout::id_block(window.last_sequence, ids))))
        });
        let last = [Ok((layout::position_key(), Change::Put(layout::encode_position(&position))))];
        // In the order of their keys.
        let mut changes = accounts.chain(balances).chain(holds).chain(ids).chain(last);
        store.ingest_from(window.last_sequence.0, &mut changes)?;
        drop(changes);
        self.memory = GroupMemory { changes: pages.into_memory(), ids: buckets.into_memory() };
        sealed.ingested.set(Arc::clone(&self.filter)).expect("a window is ingested once");
        let sequence = window.last_sequence.0;
        self.metrics.checkpoint_sequence.store(sequence, Ordering::Relaxed);
        let write_ms = started.elapsed().as_millis() as u64;
        tracing::debug!(sequence, ids = window.entries.len(), write_ms, "checkpoint written");
        Ok(())
    }
}

fn page_of(account: AccountNumber) -> u32 {
    account.0 / ACCOUNTS_PER_PAGE
}

/// A page of balances as the window's changes leave it.
fn balances(
    store: &dyn StateStore,
    page: u32,
    changes: &[AvailableChange],
    held: &BTreeMap<AccountNumber, Vec<(Currency, i64)>>,
) -> Result<(Vec<u8>, Change), StoreError> {
    let key = layout::balances_key(page);
    let within = |account: AccountNumber| (account.0 % ACCOUNTS_PER_PAGE) as u8;
    let mut balances = match store.get(&key)? {
        None => BalancePage::default(),
        Some(image) => BalancePage::decode(&image).ok_or_else(|| layout::damaged(&key))?,
    };
    for AvailableChange { account, currency, available } in changes {
        balances.balance_mut(within(*account), *currency).available = *available;
    }
    // A held balance never changes without the available one: every page with the first has the second.
    let first = AccountNumber(page * ACCOUNTS_PER_PAGE);
    let last = AccountNumber(first.0 + (ACCOUNTS_PER_PAGE - 1));
    for (account, held) in held.range(first..=last) {
        for (currency, after) in held {
            balances.balance_mut(within(*account), *currency).held = *after;
        }
    }
    Ok((key, Change::Put(balances.encode())))
}

/// The last word on each account and hold that the window's rare changes concern, in order of their keys.
#[derive(Default)]
struct RareRows<'window> {
    accounts: BTreeMap<AccountNumber, (&'window AccountDetails, bool)>,
    held: BTreeMap<AccountNumber, Vec<(Currency, i64)>>,
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
                RareChange::Held(account, currency, after) => {
                    rows.held.entry(*account).or_default().push((*currency, *after));
                }
            }
        }
        rows
    }
}
