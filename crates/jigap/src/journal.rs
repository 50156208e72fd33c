//! `jigap journal`: reading a data directory that no server has open.

mod dump;
mod verify;

pub(crate) use dump::{command, dump, event};
pub(crate) use verify::{is_damage, is_store_damage, verify};

/// The partition of a single node.
const PARTITION: u32 = 0;
