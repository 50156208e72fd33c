//! Connections that hold what they prepared.
//!
//! In MariaDB, a prepared branch is its connection's own until the connection is closed, and closing is not one step: the server first
//! gives the branch's name free, and only then the branch. A commit by another connection between the two is answered with success, does
//! nothing, and takes the name away, so that nobody can end the branch until the server is started again. So the connection that prepared
//! a branch stays with it, and ends it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::{Duration, Instant};

use ledger::TransactionId;

use super::connection::Connection;

/// How long a connection waits for the second phase: then the branch may be another instance's to end. The server itself lets go of what
/// an instance holds that hangs.
const HELD_MAX: Duration = Duration::from_secs(2);
/// How often that is looked at.
const SWEEP_INTERVAL: Duration = Duration::from_millis(500);

type Connections = HashMap<TransactionId, (Instant, Box<dyn Connection>)>;

/// The connections that hold a prepared branch, by its transaction.
pub(super) struct Held {
    connections: Mutex<Connections>,
    count_max: usize,
}

impl Held {
    pub(super) fn new(count_max: usize) -> Arc<Held> {
        let held = Arc::new(Held { connections: Mutex::default(), count_max });
        tokio::spawn(let_go(Arc::downgrade(&held)));
        held
    }

    /// Keeps a connection for the second phase; gives it back when there are too many, and it is to be closed.
    pub(super) fn keep(
        &self,
        transaction_id: TransactionId,
        connection: Box<dyn Connection>,
    ) -> Result<(), Box<dyn Connection>> {
        let mut connections = self.lock();
        if connections.len() >= self.count_max {
            return Err(connection);
        }
        connections.insert(transaction_id, (Instant::now(), connection));
        Ok(())
    }

    /// The connection that prepared a transaction's branch, if it is held here.
    pub(super) fn take(&self, transaction_id: TransactionId) -> Option<Box<dyn Connection>> {
        self.lock().remove(&transaction_id).map(|(_, connection)| connection)
    }

    fn take_old(&self) -> Vec<Box<dyn Connection>> {
        let mut connections = self.lock();
        let old: Vec<TransactionId> = connections
            .iter()
            .filter(|(_, (since, _))| since.elapsed() >= HELD_MAX)
            .map(|(transaction_id, _)| *transaction_id)
            .collect();
        old.iter().filter_map(|old| connections.remove(old)).map(|(_, connection)| connection).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Connections> {
        self.connections.lock().expect("nobody panics while holding the map")
    }
}

async fn let_go(held: Weak<Held>) {
    loop {
        tokio::time::sleep(SWEEP_INTERVAL).await;
        let Some(held) = held.upgrade() else { return };
        for connection in held.take_old() {
            connection.close().await;
        }
    }
}
