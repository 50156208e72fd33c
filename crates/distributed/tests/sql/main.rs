//! Shards in real databases: PostgreSQL and MariaDB.
#![allow(clippy::unwrap_used, reason = "a test that unwraps nothing has failed")]

mod conformance;
mod faults;
mod hostile;
mod opening;
mod proxy;
mod scene;
mod servers;
mod world;
