//! The HTTP contract, line by line, over real sockets and a real data directory.

mod commands;
mod events;
mod fan_out;
mod harness;
mod hostile;
mod queries;
mod receiver;
mod refusals;
mod webhooks;
