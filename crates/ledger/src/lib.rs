//! The rules of money: commands are decided into events, events are applied to state.
//!
//! Everything here is a pure function of its inputs. Time arrives as a [`Stamp`](Timestamp) inside the input, set once by
//! the leader; there is no clock, no randomness, no disk, no network, no thread and no float. That is what makes a replay
//! exact: applying the same events always gives the same state, bit for bit, and [`State::digest`] proves it.
//!
//! This crate must never import another crate of the project, and never gain an `async fn`.
//!
//! ```
//! use ledger::{AccountId, Amount, Command, Currency, Decision, Metadata, State, Timestamp, Transfer, TransferKind};
//!
//! let mut state = State::new();
//! let now = Timestamp::from_micros(1_000_000);
//! for name in ["alice", "bob"] {
//!     let open = Command::OpenAccount { account_id: AccountId::parse(name).unwrap(), metadata: Metadata::default() };
//!     let Decision::Accepted(events) = state.decide(&open, now, None) else { panic!("refused") };
//!     state.apply_all(now, &events);
//! }
//! let usd = Currency::parse("USD").unwrap();
//! let deposit = Command::Transfer(Transfer {
//!     transaction_id: ledger::TransactionId::parse("01890d9e-3c1b-7c5f-9d6e-0b6f0f0c9a11").unwrap(),
//!     kind: TransferKind::Deposit,
//!     from: ledger::AccountNumber::EXTERNAL.into(),
//!     to: AccountId::parse("alice").unwrap().into(),
//!     amount: Amount::parse("12.50", usd).unwrap(),
//!     currency: usd,
//!     metadata: Metadata::default(),
//! });
//! let Decision::Accepted(events) = state.decide(&deposit, now, None) else { panic!("refused") };
//! state.apply_all(now, &events);
//! let alice = state.resolve("alice").unwrap();
//! assert_eq!(state.balance(alice, usd).available, 1250);
//! ```

mod account_index;
pub mod codec;
mod command;
mod decide;
mod digest;
mod event;
mod holds;
mod identity;
mod money;
mod refusal;
mod state;
mod transaction;

pub use command::{AccountRef, Command, Group, HoldRequest, Transfer, TransferKind};
pub use decide::Decision;
pub use digest::{Digest, StateHasher};
pub use event::{BalanceChange, Event, Events, Movement};
pub use holds::Hold;
pub use identity::{AccountId, AccountNumber, IdentityError, Metadata, Sequence, Timestamp, TransactionId};
pub use money::{Amount, AmountError, Currency, DecimalAmount, format_minor_units};
pub use refusal::{Party, Refusal, RefusalCode};
pub use state::{AccountDetails, Balance, State, Totals};
pub use transaction::{Record, Transaction};

/// The greatest number of legs in an atomic group.
pub const GROUP_LEGS_MAX: usize = 64;
/// The greatest number of holds that one [`Command::ExpireHolds`] settles.
pub const EXPIRIES_PER_COMMAND_MAX: usize = 64;
/// The greatest number of pairs in [`Metadata`].
pub const METADATA_PAIRS_MAX: usize = 16;
/// The greatest size of all keys and values of one [`Metadata`] together.
pub const METADATA_SIZE_BYTES_MAX: usize = 1024;
