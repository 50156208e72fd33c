//! Shards of other systems, against the real servers.
#![allow(clippy::unwrap_used, reason = "a test that unwraps nothing has failed")]

mod choreography;
mod partition_map;
mod redis;
mod wallet;
#[path = "../sql/world.rs"]
mod world;
