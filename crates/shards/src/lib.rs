//! Where money can live: an event-sourced [`partition`], in memory and in files, or [shards](distributed) of other systems' databases.
//!
//! A shard takes commands and answers with what became of them, durable before it is answered. It must never know HTTP,
//! gRPC or the read side.

pub mod distributed;
pub mod partition;
pub mod trace;
pub mod wallet;
