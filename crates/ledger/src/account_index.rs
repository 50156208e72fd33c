//! Account name -> account number, as an open-addressing table that grows without a stall.

use crate::state::AccountDetails;
use crate::{AccountNumber, state::Chunked};

/// How many slots of the old table move for every insertion while the table grows.
const MIGRATIONS_PER_INSERT: usize = 16;
const INITIAL_SLOTS: usize = 1024;

/// Slots are `hash (upper 32 bits) | number + 1 (lower 32 bits)`; 0 is empty. At most half of the slots are in use.
#[derive(Debug)]
pub(crate) struct AccountIndex {
    slots: Vec<u64>,
    used: usize,
    /// The table being left behind, and the first slot of it that has not moved yet.
    old: Vec<u64>,
    moved: usize,
}

impl AccountIndex {
    pub(crate) fn new() -> AccountIndex {
        AccountIndex { slots: vec![0; INITIAL_SLOTS], used: 0, old: Vec::new(), moved: 0 }
    }

    pub(crate) fn get(&self, name: &str, accounts: &Chunked<AccountDetails>) -> Option<AccountNumber> {
        let hash = hash_name(name.as_bytes());
        find(&self.slots, hash, name, accounts).or_else(|| {
            // Slots that moved stay readable in the old table, so that probing there never meets a hole.
            if self.old.is_empty() { None } else { find(&self.old, hash, name, accounts) }
        })
    }

    /// Where a look-up of this name starts.
    pub(crate) fn address(&self, name: &str) -> *const u64 {
        &self.slots[start(hash_name(name.as_bytes()), self.slots.len())]
    }

    /// The number that most likely belongs to the name, its account not looked at.
    pub(crate) fn guess(&self, name: &str) -> Option<AccountNumber> {
        let hash = hash_name(name.as_bytes());
        let slot = self.slots[start(hash, self.slots.len())];
        ((slot >> 32) as u32 == hash && slot != 0).then(|| AccountNumber(slot as u32 - 1))
    }

    /// The name must not be in the table.
    pub(crate) fn insert(&mut self, name: &str, number: AccountNumber) {
        if self.old.is_empty() && (self.used + 1) * 2 > self.slots.len() {
            let larger = vec![0; self.slots.len() * 2];
            self.old = std::mem::replace(&mut self.slots, larger);
            self.moved = 0;
        }
        self.migrate();
        let hash = hash_name(name.as_bytes());
        place(&mut self.slots, u64::from(hash) << 32 | (u64::from(number.0) + 1));
        self.used += 1;
    }

    fn migrate(&mut self) {
        if self.old.is_empty() {
            return;
        }
        let end = (self.moved + MIGRATIONS_PER_INSERT).min(self.old.len());
        for &slot in &self.old[self.moved..end] {
            if slot != 0 {
                place(&mut self.slots, slot);
            }
        }
        self.moved = end;
        if end == self.old.len() {
            self.old = Vec::new();
        }
    }
}

fn start(hash: u32, slots: usize) -> usize {
    // Tables have a power of two of slots. The hash's own low bits are well mixed.
    hash as usize & (slots - 1)
}

fn place(slots: &mut [u64], slot: u64) {
    let mut at = start((slot >> 32) as u32, slots.len());
    while slots[at] != 0 {
        at = (at + 1) & (slots.len() - 1);
    }
    slots[at] = slot;
}

fn find(slots: &[u64], hash: u32, name: &str, accounts: &Chunked<AccountDetails>) -> Option<AccountNumber> {
    let mut at = start(hash, slots.len());
    loop {
        let slot = slots[at];
        if slot == 0 {
            return None;
        }
        if (slot >> 32) as u32 == hash {
            let number = AccountNumber(slot as u32 - 1);
            if accounts.get(number.index()).is_some_and(|details| details.account_id.as_str() == name) {
                return Some(number);
            }
        }
        at = (at + 1) & (slots.len() - 1);
    }
}

/// Folded multiplication over 8-byte words (the construction of wyhash): a few nanoseconds for a short name.
fn hash_name(name: &[u8]) -> u32 {
    const FIRST: u64 = 0xa076_1d64_78bd_642f;
    const SECOND: u64 = 0xe703_7ed1_a0b4_28db;
    let fold = |one: u64, two: u64| {
        let product = u128::from(one) * u128::from(two);
        product as u64 ^ (product >> 64) as u64
    };
    let mut hash = FIRST ^ name.len() as u64;
    let mut words = name.chunks_exact(8);
    for word in &mut words {
        let word = u64::from_le_bytes(word.try_into().expect("a chunk of eight bytes"));
        hash = fold(hash ^ word, SECOND);
    }
    let mut last = [0; 8];
    last[..words.remainder().len()].copy_from_slice(words.remainder());
    hash = fold(hash ^ u64::from_le_bytes(last), FIRST);
    (hash ^ hash >> 32) as u32
}
