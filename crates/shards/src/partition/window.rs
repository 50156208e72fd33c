//! What the events since the last checkpoint changed: the exact ids, and everything that the next checkpoint must hold.
//!
//! The state thread fills a window as it decides; when it is full it is cut, and the checkpoint's builder turns it into one
//! sorted run of the state store while the next window fills.

use ledger::{
    AccountDetails, AccountNumber, BalanceChange, Currency, Event, Hold, Movement, Sequence, State,
    Timestamp, TransactionId,
};

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

/// A window is only cut between frames: it must have room for the ids of one more, however many groups it holds.
const FRAME_ENTRIES_MAX: usize = 1 << 16;

/// See the module.
#[derive(Debug)]
pub(super) struct Window {
    pub(super) last_sequence: Sequence,
    pub(super) timestamp: Timestamp,
    pub(super) entries: Vec<IdEntry>,
    /// Open addressing: `hash (upper 32 bits) | entry + 1 (lower 32 bits)`; 0 is empty.
    table: Vec<u64>,
    pub(super) changes: Vec<AvailableChange>,
    pub(super) rare: Vec<RareChange>,
}

impl Window {
    pub(super) fn new(events_max: usize, after: Sequence, timestamp: Timestamp) -> Window {
        Window {
            last_sequence: after,
            timestamp,
            // Reserved at once: growing by halves would move tens of megabytes on the state thread.
            entries: Vec::with_capacity(events_max + FRAME_ENTRIES_MAX),
            table: vec![0; ((events_max + FRAME_ENTRIES_MAX) * 2).next_power_of_two()],
            changes: Vec::with_capacity(2 * events_max + FRAME_ENTRIES_MAX),
            rare: Vec::new(),
        }
    }

    /// The window emptied, for what follows this event. Its memory is used again: fresh pages would have to be faulted in.
    pub(super) fn reused(mut self, after: Sequence, timestamp: Timestamp) -> Window {
        self.last_sequence = after;
        self.timestamp = timestamp;
        self.entries.clear();
        self.table.fill(0);
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
        self.entries.push(IdEntry::new(id, sequence));
        let mut at = self.home(hash);
        while self.table[at] != 0 {
            at = (at + 1) & (self.table.len() - 1);
        }
        let entry = u32::try_from(self.entries.len()).expect("a window is far below 2^32 entries");
        self.table[at] = hash & 0xffff_ffff_0000_0000 | u64::from(entry);
    }

    /// Appends the sequences of every use of the id.
    pub(super) fn find(&self, id: TransactionId, hash: u64, sequences: &mut Vec<Sequence>) {
        let mut at = self.home(hash);
        while self.table[at] != 0 {
            let slot = self.table[at];
            let entry = &self.entries[slot as u32 as usize - 1];
            if slot >> 32 == hash >> 32 && entry.id() == id {
                sequences.push(Sequence(entry.sequence));
            }
            at = (at + 1) & (self.table.len() - 1);
        }
    }

    pub(super) fn touch(&self, hash: u64) -> u64 {
        self.table[self.home(hash)]
    }

    /// True when it is time to cut the window.
    pub(super) fn is_full(&self, events_max: usize) -> bool {
        self.entries.len().max(self.changes.len() / 2).max(self.rare.len()) >= events_max
    }

    /// True when no event was noted.
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.changes.is_empty() && self.rare.is_empty()
    }

    fn home(&self, hash: u64) -> usize {
        hash as usize & (self.table.len() - 1)
    }
}
