//! Bytes that survive a crash: the append-only [`journal`] and the file-based state [`store`].
//!
//! This crate knows frames, segments, runs and positions. It must never know money: bodies and keys are opaque bytes here.
//! It is the only crate of the workspace that may use `unsafe` for I/O.

pub mod journal;
pub mod memory;
pub mod store;
