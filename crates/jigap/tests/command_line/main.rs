//! The binary from outside, as its users have it: processes, pipes, sockets, signals, files.
#![allow(clippy::unwrap_used, reason = "a test that unwraps nothing has failed")]

mod archive;
mod bench;
mod client;
mod clock;
mod configuration;
mod harness;
mod journal;
mod receipt;
mod reconcile;
mod seaweed;
mod serve;
mod state_store;
mod tools;
mod webhook;
