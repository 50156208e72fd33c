//! A hash of the whole state that every replica, replay and snapshot of the same position repeats bit for bit.

use std::fmt;

use crate::{AccountNumber, Currency, Metadata, State};

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
        let mut canonical =
            Canonical { hasher: blake3::Hasher::new(), buffer: Vec::with_capacity(BUFFER_SIZE_BYTES + 4096) };
        canonical.put(b"jigap state 1\0");
        canonical.put(&self.sequence().0.to_le_bytes());
        canonical.put(&self.timestamp().as_micros().to_le_bytes());
        canonical.put(&self.account_numbers().to_le_bytes());
        let mut balances = Vec::new();
        for number in (0..self.account_numbers()).map(AccountNumber) {
            let details = self.details(number).expect("every number below the count has details");
            canonical.text(details.account_id.as_str());
            canonical.put(&details.opened_at.as_micros().to_le_bytes());
            canonical.put(&[u8::from(self.is_closed(number))]);
            canonical.metadata(&details.metadata);
            self.balances_into(number, &mut balances);
            canonical.put(&(balances.len() as u32).to_le_bytes());
            for (currency, balance) in &balances {
                canonical.currency(*currency);
                canonical.put(&balance.available.to_le_bytes());
                canonical.put(&balance.held.to_le_bytes());
            }
        }
        canonical.put(&(self.holds.iter().len() as u64).to_le_bytes());
        for (hold_id, hold) in self.holds.iter() {
            canonical.put(&hold_id.to_bytes());
            canonical.put(&hold.from.0.to_le_bytes());
            canonical.put(&hold.to.0.to_le_bytes());
            canonical.put(&hold.amount.minor_units().to_le_bytes());
            canonical.currency(hold.currency);
            canonical.put(&hold.expires_at.map_or(i64::MAX, |time| time.as_micros()).to_le_bytes());
        }
        canonical.finish()
    }
}
