//! The rules of money, held against a naive model, against tables of the contract, and against damaged bytes.
#![allow(clippy::unwrap_used, reason = "a test that unwraps nothing has failed")]

mod amounts;
mod codec;
mod generator;
mod harness;
mod holds;
mod identities;
mod model;
mod random;
mod refusals;
mod request;
mod sequences;
