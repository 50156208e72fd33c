//! The journal under everything that can happen to it. Each test prints how many cases it ran.

#![expect(clippy::unwrap_used, reason = "in a test, what fails should panic")]

mod harness;

mod conformance;
mod crash;
mod damage;
mod failures;
mod threads;
