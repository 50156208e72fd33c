//! A hash of the whole state that every replica, replay and snapshot of the same position repeats bit for bit.

use std::fmt;

use crate::{
    AccountDetails, AccountNumber, Balance, Currency, Hold, Metadata, Sequence, State, Timestamp,
    TransactionId,
};

/// BLAKE3 of the canonical form of a state.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest(pub [u8; 32]);

impl fmt::Display for Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

/// Large updates let BLAKE3 hash many blocks at once.
const BUFFER_SIZE_BYTES: usize = 1 << 17;

struct Canonical {
    hasher: blake3::Hasher,
    buffer: Vec<u8>,
}

/// The digest of a state that is fed piece by piece, for states that are not in memory. The order is binding: every account by
/// ascending number, then every hold by ascending id.
pub struct StateHasher(Canonical);

impl StateHasher {
    /// `accounts` counts `@external` as well, which comes first.
    pub fn new(sequence: Sequence, timestamp: Timestamp, accounts: u32) -> StateHasher {
        let mut canonical =
            Canonical { hasher: blake3::Hasher::new(), buffer: Vec::with_capacity(BUFFER_SIZE_BYTES + 4096) };
        canonical.put(b"jigap state 1\0");
        canonical.put(&sequence.0.to_le_bytes());
        canonical.put(&timestamp.as_micros().to_le_bytes());
        canonical.put(&accounts.to_le_bytes());
        StateHasher(canonical)
    }

    /// The next account with its balances, ascending by currency.
    pub fn account(&mut self, details: &AccountDetails, closed: bool, balances: &[(Currency, Balance)]) {
        let canonical = &mut self.0;
        canonical.text(details.account_id.as_str());
        canonical.put(&details.opened_at.as_micros().to_le_bytes());
        canonical.put(&[u8::from(closed)]);
        canonical.metadata(&details.metadata);
        canonical.put(&(balances.len() as u32).to_le_bytes());
        for (currency, balance) in balances {
            canonical.currency(*currency);
            canonical.put(&balance.available.to_le_bytes());
            canonical.put(&balance.held.to_le_bytes());
        }
    }

    /// How many holds follow, after the last account.
    pub fn holds(&mut self, count: u64) {
        self.0.put(&count.to_le_bytes());
    }

    /// The next hold.
    pub fn hold(&mut self, hold_id: TransactionId, hold: &Hold) {
        let canonical = &mut self.0;
        canonical.put(&hold_id.to_bytes());
        canonical.put(&hold.to_bytes());
    }

    /// The digest.
    pub fn finish(self) -> Digest {
        self.0.finish()
    }
}

impl Canonical {
    fn put(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= BUFFER_SIZE_BYTES {
            self.hasher.update(&self.buffer);
            self.buffer.clear();
        }
    }

    fn text(&mut self, text: &str) {
        self.put(&(text.len() as u32).to_le_bytes());
        self.put(text.as_bytes());
    }

    fn metadata(&mut self, metadata: &Metadata) {
        self.put(&(metadata.iter().len() as u32).to_le_bytes());
        for (key, value) in metadata.iter() {
            self.text(key);
            self.text(value);
        }
    }

    fn currency(&mut self, currency: Currency) {
        self.put(&currency.numeric().to_le_bytes());
    }

    fn finish(mut self) -> Digest {
        self.hasher.update(&self.buffer);
        Digest(*self.hasher.finalize().as_bytes())
    }
}

impl State {
    /// Hashes everything: position, accounts in order of their numbers, balances by currency, holds by id.
    /// The form is drawn in `docs/formats.md`. Walks all accounts (about 15 ms for a million).
    pub fn digest(&self) -> Digest {
        let mut hasher = StateHasher::new(self.sequence(), self.timestamp(), self.account_numbers());
        let mut balances = Vec::new();
        for number in (0..self.account_numbers()).map(AccountNumber) {
            let details = self.details(number).expect("every number below the count has details");
            self.balances_into(number, &mut balances);
            hasher.account(details, self.is_closed(number), &balances);
        }
        hasher.holds(self.holds.iter().len() as u64);
        for (hold_id, hold) in self.holds.iter() {
            hasher.hold(hold_id, hold);
        }
        hasher.finish()
    }
}
