//! Who and when: account ids, transaction ids, sequences, timestamps, metadata.

use std::fmt;

use compact_str::CompactString;

use crate::{METADATA_PAIRS_MAX, METADATA_SIZE_BYTES_MAX};

/// Why a text is no id, or why pairs are no metadata.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdentityError {
    /// Not 1 to 64 characters of `A-Z a-z 0-9 . _ : -`.
    AccountId,
    /// Not a UUID.
    TransactionId,
    /// More than 16 pairs, or more than 1 KiB in all, or a repeated key.
    Metadata,
}

impl fmt::Display for IdentityError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            IdentityError::AccountId => "must be 1 to 64 characters of A-Z a-z 0-9 . _ : -",
            IdentityError::TransactionId => "must be a UUID",
            IdentityError::Metadata => "must be at most 16 pairs of distinct keys, 1 KiB in all",
        })
    }
}

impl std::error::Error for IdentityError {}

/// Which bytes an account id may have.
const ALLOWED_IN_ACCOUNT_ID: [bool; 256] = {
    let mut allowed = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        allowed[byte] =
            (byte as u8).is_ascii_alphanumeric() || matches!(byte as u8, b'.' | b'_' | b':' | b'-');
        byte += 1;
    }
    allowed
};

/// The name of an account as its owner knows it. Up to 24 bytes stand inline, without an allocation.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AccountId(CompactString);

impl AccountId {
    /// The longest id, in bytes.
    pub const SIZE_BYTES_MAX: usize = 64;
    /// The name of the world outside.
    pub const EXTERNAL: &'static str = "@external";

    /// A user's account id. Ids that begin with `@` are the system's own and are refused here.
    pub fn parse(text: &str) -> Result<AccountId, IdentityError> {
        if text.is_empty() || text.len() > Self::SIZE_BYTES_MAX {
            return Err(IdentityError::AccountId);
        }
        // Without a branch per byte: two names are checked per transfer.
        let allowed =
            text.bytes().fold(true, |allowed, byte| allowed & ALLOWED_IN_ACCOUNT_ID[usize::from(byte)]);
        if !allowed {
            return Err(IdentityError::AccountId);
        }
        Ok(AccountId(CompactString::new(text)))
    }

    /// The world outside.
    pub fn external() -> AccountId {
        AccountId(CompactString::const_new(Self::EXTERNAL))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for AccountId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), formatter)
    }
}

impl fmt::Display for AccountId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// The dense number of an account within its partition, in order of opening. 0 is [`AccountNumber::EXTERNAL`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AccountNumber(pub u32);

impl AccountNumber {
    /// `@external`, the world outside: the only account that may go below zero.
    pub const EXTERNAL: AccountNumber = AccountNumber(0);

    /// The number as an index.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// The client's id of a transaction: a UUID of any version.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TransactionId(pub u128);

impl TransactionId {
    /// Reads the hyphenated form in any case.
    pub fn parse(text: &str) -> Result<TransactionId, IdentityError> {
        let bytes = text.as_bytes();
        if bytes.len() != 36 {
            return Err(IdentityError::TransactionId);
        }
        let mut value: u128 = 0;
        for (position, &byte) in bytes.iter().enumerate() {
            if matches!(position, 8 | 13 | 18 | 23) {
                if byte != b'-' {
                    return Err(IdentityError::TransactionId);
                }
                continue;
            }
            let digit = match byte {
                b'0'..=b'9' => byte - b'0',
                b'a'..=b'f' => byte - b'a' + 10,
                b'A'..=b'F' => byte - b'A' + 10,
                _ => return Err(IdentityError::TransactionId),
            };
            value = value << 4 | u128::from(digit);
        }
        Ok(TransactionId(value))
    }

    /// The 16 bytes in network order, as a UUID is written.
    pub fn to_bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }

    /// The id of 16 bytes in network order.
    pub fn from_bytes(bytes: [u8; 16]) -> TransactionId {
        TransactionId(u128::from_be_bytes(bytes))
    }
}

impl fmt::Display for TransactionId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut text = [b'-'; 36];
        let mut at = 0;
        for (index, byte) in self.to_bytes().into_iter().enumerate() {
            if matches!(index, 4 | 6 | 8 | 10) {
                at += 1;
            }
            text[at] = DIGITS[usize::from(byte >> 4)];
            text[at + 1] = DIGITS[usize::from(byte & 15)];
            at += 2;
        }
        formatter.write_str(std::str::from_utf8(&text).expect("hexadecimal digits and hyphens are ASCII"))
    }
}

impl fmt::Debug for TransactionId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

/// The position of an event within its partition: 1, 2, 3, … without gaps. 0 is "before the first event".
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Sequence(pub u64);

impl Sequence {
    /// The sequence after this one.
    pub fn next(self) -> Sequence {
        Sequence(self.0 + 1)
    }
}

/// Microseconds since 1970-01-01T00:00:00Z, set by the leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(i64);

impl Timestamp {
    /// A point in time from microseconds since the epoch.
    pub const fn from_micros(micros: i64) -> Timestamp {
        Timestamp(micros)
    }

    /// Microseconds since the epoch.
    pub const fn as_micros(self) -> i64 {
        self.0
    }

    /// This time plus whole seconds; saturates at the end of time.
    pub const fn plus_seconds(self, seconds: u32) -> Timestamp {
        Timestamp(self.0.saturating_add(seconds as i64 * 1_000_000))
    }
}

/// Free pairs of text that a caller attaches; sorted by key, so that equal content compares equal.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[expect(
    clippy::box_collection,
    reason = "nearly every transfer has none: eight bytes in a transfer instead of 24"
)]
pub struct Metadata(Option<Box<Vec<(CompactString, CompactString)>>>);

impl Metadata {
    /// Checks and sorts the pairs.
    pub fn new<'text>(
        pairs: impl IntoIterator<Item = (&'text str, &'text str)>,
    ) -> Result<Metadata, IdentityError> {
        let mut size_bytes = 0;
        let mut sorted: Vec<(CompactString, CompactString)> = Vec::new();
        for (key, value) in pairs {
            size_bytes += key.len() + value.len();
            if sorted.len() == METADATA_PAIRS_MAX || size_bytes > METADATA_SIZE_BYTES_MAX {
                return Err(IdentityError::Metadata);
            }
            sorted.push((key.into(), value.into()));
        }
        sorted.sort_unstable();
        if sorted.windows(2).any(|pair| pair[0].0 == pair[1].0) {
            return Err(IdentityError::Metadata);
        }
        Ok(if sorted.is_empty() { Metadata(None) } else { Metadata(Some(Box::new(sorted))) })
    }

    /// True without pairs.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// The pairs in order of their keys.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &str)> {
        let pairs = self.0.as_deref().map_or(&[][..], Vec::as_slice);
        pairs.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }
}
