//! The time of an instance. A shard never goes back behind the time of its last event, whatever an instance's clock says.

use std::time::{SystemTime, UNIX_EPOCH};

use ledger::Timestamp;

pub(super) fn now() -> Timestamp {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_micros(i64::try_from(since_epoch.as_micros()).unwrap_or(i64::MAX))
}
