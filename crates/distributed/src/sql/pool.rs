//! Connections that are used again.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};

use super::connection::{Connection, Database};
use super::failure::{Conclusion, Failure};

/// How many connections one read may lose.
const READ_ATTEMPTS_MAX: usize = 3;
/// How long a connection may idle. Servers, and what stands before them, close what is silent for long.
const IDLE_MAX: Duration = Duration::from_secs(5);

/// Connections to one database, at most so many at a time.
pub(super) struct Pool {
    database: Arc<dyn Database>,
    /// Each with when it was given back; the last is the youngest.
    idle: Mutex<Vec<(Instant, Box<dyn Connection>)>>,
    size: usize,
    permits: Arc<Semaphore>,
    /// Who may wait for locks: never everybody, for a commit that frees locks needs a connection as well.
    lockers: Semaphore,
    patience: Duration,
}

/// A connection on loan. It goes back by [`Pool::give_back`]; otherwise it is closed, and the server undoes what it began.
pub(super) struct Loan {
    pub(super) connection: Box<dyn Connection>,
    /// True when it was used before, so that the server may have closed it long ago.
    pub(super) used_before: bool,
    _permit: OwnedSemaphorePermit,
}

impl Pool {
    pub(super) fn new(database: Arc<dyn Database>, size: usize, patience: Duration) -> Pool {
        let idle = Mutex::new(Vec::new());
        let lockers = Semaphore::new((size / 2).max(1));
        Pool { database, idle, size, permits: Arc::new(Semaphore::new(size)), lockers, patience }
    }

    /// As [`Pool::lockers_turn`], without waiting.
    pub(super) fn lockers_turn_now(&self) -> Option<SemaphorePermit<'_>> {
        self.lockers.try_acquire().ok()
    }

    /// The turn of somebody who is about to lock rows, and to wait for those that others have locked.
    pub(super) async fn lockers_turn(&self) -> Result<SemaphorePermit<'_>, Failure> {
        let turn = tokio::time::timeout(self.patience, self.lockers.acquire()).await;
        let turn = turn.map_err(|_| Failure::busy("too many transactions wait for locks"))?;
        Ok(turn.expect("the semaphore is never closed"))
    }

    pub(super) fn database(&self) -> &dyn Database {
        &*self.database
    }

    /// Waits for a connection that nobody else has.
    pub(super) async fn take(&self) -> Result<Loan, Failure> {
        let permit = tokio::time::timeout(self.patience, self.permits.clone().acquire_owned())
            .await
            .map_err(|_| Failure::busy("all connections to the database are in use"))?
            .expect("the semaphore is never closed");
        let idle = self.youngest_idle();
        let used_before = idle.is_some();
        let connection = match idle {
            Some(connection) => connection,
            None => self.database.connect().await?,
        };
        Ok(Loan { connection, used_before, _permit: permit })
    }

    /// Takes back a connection that is outside of any transaction.
    pub(super) fn give_back(&self, loan: Loan) {
        self.adopt(loan.connection);
    }

    /// Takes in a connection that is outside of any transaction, and was not on loan.
    pub(super) fn adopt(&self, connection: Box<dyn Connection>) {
        let mut idle = self.lock();
        if idle.len() < self.size {
            idle.push((Instant::now(), connection));
        }
    }

    fn youngest_idle(&self) -> Option<Box<dyn Connection>> {
        let mut idle = self.lock();
        let (since, connection) = idle.pop()?;
        if since.elapsed() < IDLE_MAX {
            return Some(connection);
        }
        // The others have idled longer still.
        idle.clear();
        None
    }

    /// Forgets idle connections: one of them was lost, so the others probably are.
    pub(super) fn forget_idle(&self) {
        self.lock().clear();
    }

    /// Runs a read. A lost connection is replaced: a server that restarted closed all the old ones.
    pub(super) async fn read<Answer, Read>(&self, read: Read) -> Result<Answer, Failure>
    where
        Answer: Send,
        Read: for<'loan> Fn(&'loan mut dyn Connection) -> Reading<'loan, Answer> + Send + Sync,
    {
        let mut last = None;
        for _ in 0..READ_ATTEMPTS_MAX {
            let mut loan = self.take().await?;
            match read(&mut *loan.connection).await {
                Ok(answer) => {
                    self.give_back(loan);
                    return Ok(answer);
                }
                Err(failure) if failure.conclusion == Conclusion::Lost => {
                    self.forget_idle();
                    if !loan.used_before {
                        return Err(failure);
                    }
                    last = Some(failure);
                }
                Err(failure) => {
                    // The statement failed by itself, outside of any transaction.
                    self.give_back(loan);
                    return Err(failure);
                }
            }
        }
        Err(last.unwrap_or_else(|| Failure::lost("the database closes every connection")))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<(Instant, Box<dyn Connection>)>> {
        self.idle.lock().expect("nobody panics while holding the list")
    }
}

/// A read that borrows a connection.
pub(super) type Reading<'loan, Answer> =
    std::pin::Pin<Box<dyn Future<Output = Result<Answer, Failure>> + Send + 'loan>>;
