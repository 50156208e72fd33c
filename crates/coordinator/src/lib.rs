//! Moves money between shards so that a transaction happens wholly or not at all.
//!
//! Three protocols, one machine: **TC/C** (try, then confirm or cancel), **Saga** (debit first, credit last, undo in reverse), and
//! **two-phase commit** (prepare, commit or roll back, over XA). Everything here is pure: answers go in, steps to take come out. Who
//! carries them to real shards lives in crate `shards`. This crate must never know a database, a clock, a thread or a socket.
//!
//! - [`port`]: what is asked of a shard, and what a shard promises;
//! - [`plan`]: a command becomes one branch for each shard that it touches;
//! - [`machine`]: one transaction's coordinator, from its beginning or from its record;
//! - [`book`]: the rules of a shard, over the rows that its database loads and stores;
//! - `conformance` (a feature): the suite that every kind of shard passes.
//!
//! ```
//! use coordinator::machine::{Effect, Machine};
//! use coordinator::plan::{Placement, Planned, plan};
//! use coordinator::port::{Lease, Protocol, ShardNumber};
//! use ledger::{AccountId, Amount, Command, Currency, Metadata, Timestamp, TransactionId, Transfer, TransferKind};
//!
//! struct ByLength;
//! impl Placement for ByLength {
//!     fn shard_of(&self, account: &AccountId) -> ShardNumber {
//!         ShardNumber(account.as_str().len() as u32 % 2)
//!     }
//!     fn home_of(&self, transaction_id: TransactionId) -> ShardNumber {
//!         ShardNumber((transaction_id.0 % 2) as u32)
//!     }
//! }
//!
//! let usd = Currency::parse("USD").unwrap();
//! let command = Command::Transfer(Transfer {
//!     transaction_id: TransactionId(7),
//!     kind: TransferKind::Transfer,
//!     from: AccountId::parse("alice").unwrap().into(),
//!     to: AccountId::parse("dora").unwrap().into(),
//!     amount: Amount::parse("12.50", usd).unwrap(),
//!     currency: usd,
//!     metadata: Metadata::default(),
//! });
//! let Planned::Run(plan) = plan(&command, Protocol::Tcc, &ByLength, None) else { panic!("refused") };
//! assert_eq!(plan.branches.len(), 2);
//! let lease = Lease { holder: 1, until: Timestamp::from_micros(30_000_000) };
//! let (machine, effects) = Machine::begin(plan, lease, Timestamp::from_micros(1));
//! // One step to begin with: the record and the payer's first phase, in one local transaction on the payer's shard.
//! assert!(matches!(&effects[..], [Effect::Send { shard: ShardNumber(1), .. }]));
//! ```

pub mod book;
#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
pub mod machine;
pub mod plan;
pub mod port;
