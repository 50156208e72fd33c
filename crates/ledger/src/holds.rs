//! Pending holds, by id and by the time at which they lapse.

use std::collections::{BTreeMap, BTreeSet};

use crate::{AccountNumber, Amount, Currency, Timestamp, TransactionId};

/// Money set aside and not yet settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hold {
    /// The payer, whose money it still is.
    pub from: AccountNumber,
    /// The payee of a confirmation.
    pub to: AccountNumber,
    /// How much.
    pub amount: Amount,
    /// Of what.
    pub currency: Currency,
    /// When it lapses; `None` is never.
    pub expires_at: Option<Timestamp>,
}

impl Hold {
    /// The size of [`Hold::to_bytes`].
    pub const SIZE_BYTES: usize = 26;

    /// `from u32, to u32, amount u64, currency u16, expires_at i64 (i64::MAX for never)`, little-endian: as a hold stands in every
    /// store and in the digest of the state.
    pub fn to_bytes(&self) -> [u8; Self::SIZE_BYTES] {
        let expires_at = self.expires_at.map_or(i64::MAX, Timestamp::as_micros);
        let mut bytes = [0; Self::SIZE_BYTES];
        bytes[..4].copy_from_slice(&self.from.0.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.to.0.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.amount.minor_units().to_le_bytes());
        bytes[16..18].copy_from_slice(&self.currency.numeric().to_le_bytes());
        bytes[18..].copy_from_slice(&expires_at.to_le_bytes());
        bytes
    }

    /// Reads [`Hold::to_bytes`]; `None` when they are no hold.
    pub fn from_bytes(bytes: &[u8; Self::SIZE_BYTES]) -> Option<Hold> {
        let (from, rest) = bytes.split_first_chunk()?;
        let (to, rest) = rest.split_first_chunk()?;
        let (amount, rest) = rest.split_first_chunk()?;
        let (currency, rest) = rest.split_first_chunk()?;
        let expires_at = i64::from_le_bytes(rest.try_into().ok()?);
        Some(Hold {
            from: AccountNumber(u32::from_le_bytes(*from)),
            to: AccountNumber(u32::from_le_bytes(*to)),
            amount: Amount::from_minor_units(u64::from_le_bytes(*amount))?,
            currency: Currency::from_numeric(u16::from_le_bytes(*currency))?,
            expires_at: (expires_at != i64::MAX).then(|| Timestamp::from_micros(expires_at)),
        })
    }

    /// True from the expiry time on.
    pub fn is_expired(&self, now: Timestamp) -> bool {
        self.expires_at.is_some_and(|expires_at| expires_at <= now)
    }
}

/// Ordered maps: their iteration order is part of the digest, and must not depend on a hash.
#[derive(Debug, Default)]
pub(crate) struct Holds {
    by_id: BTreeMap<TransactionId, Hold>,
    by_expiry: BTreeSet<(Timestamp, TransactionId)>,
}

impl Holds {
    pub(crate) fn get(&self, hold_id: TransactionId) -> Option<&Hold> {
        self.by_id.get(&hold_id)
    }

    /// False when the id is taken.
    pub(crate) fn insert(&mut self, hold_id: TransactionId, hold: Hold) -> bool {
        if self.by_id.insert(hold_id, hold).is_some() {
            return false;
        }
        if let Some(expires_at) = hold.expires_at {
            self.by_expiry.insert((expires_at, hold_id));
        }
        true
    }

    pub(crate) fn remove(&mut self, hold_id: TransactionId) -> Option<Hold> {
        let hold = self.by_id.remove(&hold_id)?;
        if let Some(expires_at) = hold.expires_at {
            self.by_expiry.remove(&(expires_at, hold_id));
        }
        Some(hold)
    }

    pub(crate) fn iter(&self) -> impl ExactSizeIterator<Item = (TransactionId, &Hold)> {
        self.by_id.iter().map(|(id, hold)| (*id, hold))
    }

    pub(crate) fn next_expiry(&self) -> Option<Timestamp> {
        self.by_expiry.first().map(|(expires_at, _)| *expires_at)
    }

    /// Holds that lapsed at or before `now`, soonest first.
    pub(crate) fn expired(&self, now: Timestamp) -> impl Iterator<Item = (TransactionId, &Hold)> {
        self.by_expiry
            .iter()
            .take_while(move |(expires_at, _)| *expires_at <= now)
            .map(|(_, hold_id)| (*hold_id, self.by_id.get(hold_id).expect("both maps hold the same ids")))
    }
}
