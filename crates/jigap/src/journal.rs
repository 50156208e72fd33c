//! Recorded history, read from a data directory or an archive: dumped, replayed, proven, decided again.

mod dump;
mod replay;
mod source;
mod upgrade;
mod verify;

pub(crate) use dump::{command, dump, event};
pub(crate) use replay::replay;
pub(crate) use source::{is_damage, is_store_damage, source, source_exit};
pub(crate) use upgrade::check_upgrade;
pub(crate) use verify::verify;

/// The partition of a single node.
const PARTITION: u32 = 0;
