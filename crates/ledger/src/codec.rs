//! The body of a journal frame: the commands of a batch beside the events that they became.
//!
//! An event is written as what its command did not already say, so one transfer costs 52 bytes in all. Replay reads the
//! events; `verify` decides the commands again and compares. `docs/formats.md` draws every byte.
//!
//! ```text
//! | version 1 | 0 0 0 | command_count u32 | event_count u32 | commands_size u32 | events_size u32 |
//! | commands ... | events ... | restarts: (command_offset, event_offset, event_ordinal) u32 each |
//! ```
//!
//! A restart stands before every 64th command, so that one event is found without decoding those before it.

mod read;
mod write;

pub use read::{Body, Entries, Entry, Located, Outcome, Outcomes, PlainTransfer, Step, Steps};
pub use write::BodyWriter;

/// The version of this codec, the first byte of every body.
pub const BODY_VERSION: u8 = 1;

const HEADER_SIZE_BYTES: usize = 20;
const RESTART_INTERVAL_COMMANDS: u32 = 64;
/// Every leg of the largest group, and its end. Damaged bytes cannot make a reader collect more than this.
const EVENTS_PER_COMMAND_MAX: usize = crate::GROUP_LEGS_MAX + 1;
const _: () = assert!(crate::EXPIRIES_PER_COMMAND_MAX <= EVENTS_PER_COMMAND_MAX);
const RESTART_SIZE_BYTES: usize = 12;
/// A transfer by numbers without metadata: tag, id, payer, payee, amount, currency.
const PLAIN_COMMAND_SIZE_BYTES: usize = 1 + 16 + 4 + 4 + 8 + 2;
/// Its event: tag, both balances.
const PLAIN_EVENT_SIZE_BYTES: usize = 1 + 8 + 8;

/// Why bytes are no frame body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CodecError {
    /// Written by another version of the codec.
    UnsupportedVersion {
        /// The version found.
        found: u8,
    },
    /// The bytes end before what they announce.
    Truncated,
    /// A field holds what cannot be.
    Invalid(&'static str),
}

impl std::fmt::Display for CodecError {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            CodecError::UnsupportedVersion { found } => {
                write!(formatter, "frame body of version {found}, this program reads version {BODY_VERSION}")
            }
            CodecError::Truncated => formatter.write_str("frame body ends too early"),
            CodecError::Invalid(what) => write!(formatter, "frame body holds an impossible {what}"),
        }
    }
}

impl std::error::Error for CodecError {}

mod command_tag {
    pub(super) const KIND_MASK: u8 = 0x0f;
    pub(super) const FROM_NAMED: u8 = 0x10;
    pub(super) const TO_NAMED: u8 = 0x20;
    pub(super) const METADATA: u8 = 0x40;
    /// An optional number follows: a hold's expiry, a confirmation's amount.
    pub(super) const OPTION: u8 = 0x80;

    pub(super) const TRANSFER: u8 = 1;
    pub(super) const DEPOSIT: u8 = 2;
    pub(super) const WITHDRAWAL: u8 = 3;
    pub(super) const OPEN_ACCOUNT: u8 = 4;
    pub(super) const GROUP: u8 = 5;
    pub(super) const HOLD: u8 = 6;
    pub(super) const CONFIRM_HOLD: u8 = 7;
    pub(super) const CANCEL_HOLD: u8 = 8;
    pub(super) const REVERSE: u8 = 9;
    pub(super) const CLOSE_ACCOUNT: u8 = 10;
    pub(super) const EXPIRE_HOLDS: u8 = 11;
}

mod event_tag {
    pub(super) const KIND_MASK: u8 = 0x1f;
    /// Another event of the same command follows.
    pub(super) const MORE: u8 = 0x80;

    pub(super) const TRANSFERRED: u8 = 1;
    /// As above, for a command that names its accounts.
    pub(super) const TRANSFERRED_RESOLVED: u8 = 2;
    pub(super) const REFUSED: u8 = 3;
    pub(super) const ACCOUNT_OPENED: u8 = 4;
    pub(super) const HELD: u8 = 5;
    pub(super) const HOLD_CONFIRMED: u8 = 6;
    pub(super) const HOLD_RELEASED: u8 = 7;
    pub(super) const REVERSED: u8 = 8;
    pub(super) const ACCOUNT_CLOSED: u8 = 9;
    pub(super) const GROUP_COMMITTED: u8 = 10;
}

/// Written in place of a leg's index when a refusal is not about a leg.
const NO_LEG: u8 = u8::MAX;
/// Written in place of a time when a hold never lapses.
const NEVER: i64 = i64::MAX;
