//! Bytes that survive a crash: the append-only [`journal`] and the file-based state [`store`], and, in an [object store](objects),
//! the [`archive`] of all that the journal ever held and [snapshots](snapshot) of the state store.
//!
//! This crate knows frames, segments, runs and positions. It must never know money: bodies and keys are opaque bytes here.
//! It is the only crate of the workspace that may use `unsafe` for I/O.

pub mod archive;
pub mod attestation;
pub mod background;
pub mod journal;
pub mod memory;
pub mod objects;
pub mod open_files;
pub mod proof;
pub mod random;
pub mod snapshot;
pub mod store;
