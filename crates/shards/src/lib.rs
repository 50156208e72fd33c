//! Where money lives: an event-sourced [`partition`], in memory and in files.
//!
//! A shard takes commands and answers with what became of them, durable before it is answered. It must never know HTTP,
//! gRPC or the read side.

pub mod partition;
