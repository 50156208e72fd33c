//! Moves money between shards so that a transaction happens wholly or not at all.
//!
//! Three protocols, one machine: **TC/C** (try in parallel, then confirm or cancel), **Saga** (debit first, credit last, undo in reverse),
//! and **two-phase commit** (prepare, commit or roll back, over XA). Everything here is pure: steps to take come out, answers go in. Who
//! carries them to real shards lives in crate `shards`. This crate must never know a database, a clock, a thread or a socket.

pub mod book;
#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
pub mod machine;
pub mod plan;
pub mod port;
