//! What the events since the last checkpoint changed: the exact ids, and everything that the next checkpoint must hold.
//!
//! The state thread fills a window as it decides; when it is full it is cut, and the checkpoint's builder turns it into one
//! sorted run of the state store while the next window fills.

use ledger::{
    AccountDetails, AccountNumber, BalanceChange, Currency, Event, Hold, Movement, Sequence, State,
    Timestamp, TransactionId,
};

use super::id_filter::IdFilter;
use super::layout::HASH_BITS;

/// One use of a transaction_id. 24 bytes: a `u128` would align to 32.
#[derive(Debug, Clone, Copy)]
pub(super) struct IdEntry {
    id: [u64; 2],
    pub(super) sequence: u64,
}

impl IdEntry {
    pub(super) fn new(id: TransactionId, sequence: Sequence) -> IdEntry {
        IdEntry { id: [(id.0 >> 64) as u64, id.0 as u64], sequence: sequence.0 }
    }

    pub(super) fn id(&self) -> TransactionId {
        TransactionId(u128::from(self.id[0]) << 64 | u128::from(self.id[1]))
    }
}

/// The available balance that an event left behind.
#[derive(Debug, Clone, Copy)]
pub(super) struct AvailableChange {
    pub(super) account: AccountNumber,
    pub(super) currency: Currency,
    pub(super) available: i64,
}

/// A change that few events make.
#[derive(Debug, Clone)]
pub(super) enum RareChange {
    Opened(AccountNumber, AccountDetails),
    Closed(AccountNumber, AccountDetails),
    Held(AccountNumber, Currency, i64),
    HoldMade(TransactionId, Hold),
    HoldSettled(TransactionId),
}

/// Entries that share a table.
const BLOCK: usize = 1 << 14;
const TABLE_SLOTS: usize = 2 * BLOCK;

/// A window is only cut between frames: it must have room for the ids of one more, however many groups it holds.
const FRAME_ENTRIES_MAX: usize = 1 << 16;

/// See the module.
#[derive(Debug)]
pub(super) struct Window {
    pub(super) last_sequence: Sequence,
    pub(super) timestamp: Timestamp,
    pub(super) entries: Vec<IdEntry>,
    /// Of the ids of all entries.
    pub(super) filter: IdFilter,
    /// One small open-addressing table for every [`BLOCK`] of entries: the index of an entry within the block plus one; 0 is empty.
    /// Insertions go to the newest only, which stays in the cache; a look-up, which is rare, probes them all.
    tables: Vec<[u16; TABLE_SLOTS]>,
    pub(super) changes: Vec<AvailableChange>,
    pub(super) rare: Vec<RareChange>,
}

impl Window {
    /// An empty one, for so many events.
    pub(super) fn new(events_max: usize) -> Window {
        Window {
            last_sequence: Sequence(0),
            timestamp: Timestamp::from_micros(0),
            // Reserved at once: growing by halves would move tens of megabytes on the state thread.
            entries: Vec::with_capacity(events_max + FRAME_ENTRIES_MAX),
            filter: IdFilter::with_room_for((events_max + FRAME_ENTRIES_MAX) as u64),
            tables: Vec::with_capacity((events_max + FRAME_ENTRIES_MAX) / BLOCK + 1),
            changes: Vec::with_capacity(2 * events_max + FRAME_ENTRIES_MAX),
            rare: Vec::new(),
        }
    }

    /// The window, for what follows this event.
    pub(super) fn after(self, last_sequence: Sequence, timestamp: Timestamp) -> Window {
        Window { last_sequence, timestamp, ..self }
    }

    /// The window emptied. Its memory is used again: fresh pages would have to be faulted in.
    pub(super) fn emptied(mut self) -> Window {
        self.entries.clear();
        self.filter.clear();
        self.tables.clear();
        self.changes.clear();
        self.rare.clear();
        self
    }

    /// The hot path of [`Window::record`].
    pub(super) fn record_movement(&mut self, movement: &Movement) {
        self.changes.push(AvailableChange {
            account: movement.from,
            currency: movement.currency,
            available: movement.from_after,
        });
        self.changes.push(AvailableChange {
            account: movement.to,
            currency: movement.currency,
            available: movement.to_after,
        });
    }

    /// Notes what an event changed. `state` has applied it.
    pub(super) fn record(&mut self, event: &Event, state: &State) {
        for change in event.balance_changes().into_iter().flatten() {
            let BalanceChange { account, currency, available_after: available, held_after, .. } = change;
            self.changes.push(AvailableChange { account, currency, available });
            if let Some(held) = held_after {
                self.rare.push(RareChange::Held(account, currency, held));
            }
        }
        let details =
            |account: AccountNumber| state.details(account).expect("an applied account exists").clone();
        match event {
            Event::AccountOpened { account, .. } => {
                self.rare.push(RareChange::Opened(*account, details(*account)))
            }
            Event::AccountClosed { account, .. } => {
                self.rare.push(RareChange::Closed(*account, details(*account)))
            }
            Event::Held { hold_id, hold, .. } => self.rare.push(RareChange::HoldMade(*hold_id, *hold)),
            Event::HoldConfirmed { hold_id, .. } | Event::HoldReleased { hold_id, .. } => {
                self.rare.push(RareChange::HoldSettled(*hold_id));
            }
            Event::Transferred { .. }
            | Event::Reversed { .. }
            | Event::GroupCommitted { .. }
            | Event::Refused { .. } => {}
        }
    }

    pub(super) fn insert(&mut self, id: TransactionId, hash: u64, sequence: Sequence) {
        self.filter.insert(hash);
        if self.entries.len().is_multiple_of(BLOCK) {
            self.tables.push([0; TABLE_SLOTS]);
        }
        self.entries.push(IdEntry::new(id, sequence));
        let table = self.tables.last_mut().expect("an entry begins a table or follows one that did");
        let mut at = home(hash);
        while table[at] != 0 {
            at = (at + 1) % TABLE_SLOTS;
        }
        table[at] = ((self.entries.len() - 1) % BLOCK + 1) as u16;
    }

    /// Appends the sequences of every use of the id.
    pub(super) fn find(&self, id: TransactionId, hash: u64, sequences: &mut Vec<Sequence>) {
        if !self.filter.may_contain(hash) {
            return;
        }
        for (table, entries) in self.tables.iter().zip(self.entries.chunks(BLOCK)) {
            let mut at = home(hash);
            while table[at] != 0 {
                let entry = &entries[usize::from(table[at]) - 1];
                if entry.id() == id {
                    sequences.push(Sequence(entry.sequence));
                }
                at = (at + 1) % TABLE_SLOTS;
            }
        }
    }

    /// True when it is time to cut the window.
    pub(super) fn is_full(&self, events_max: usize) -> bool {
        self.entries.len().max(self.changes.len() / 2).max(self.rare.len()) >= events_max
    }

    /// True when no event was noted.
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.changes.is_empty() && self.rare.is_empty()
    }
}

/// Where in a block's table a look-up starts: the bits that the filters use least.
fn home(hash: u64) -> usize {
    (hash >> (u64::BITS - HASH_BITS)) as usize % TABLE_SLOTS
}
