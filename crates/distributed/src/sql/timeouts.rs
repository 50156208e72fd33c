//! How long what may take.

use std::time::Duration;

/// How long what may take. A database that is slower answers like one that is not there.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// Until a connection stands.
    pub connect: Duration,
    /// Until a row that another transaction has locked is free.
    pub lock: Duration,
    /// Until a statement has an answer.
    pub statement: Duration,
    /// Until the server ends a transaction whose client says nothing.
    pub idle_in_transaction: Duration,
}

impl Default for Timeouts {
    fn default() -> Timeouts {
        Timeouts {
            connect: Duration::from_secs(3),
            lock: Duration::from_secs(1),
            statement: Duration::from_secs(10),
            idle_in_transaction: Duration::from_secs(10),
        }
    }
}
