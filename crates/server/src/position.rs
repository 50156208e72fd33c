//! The position of the read side, and waiting until it is reached, without a thread for each who waits.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use api::{Code, Problem};
use ledger::Sequence;
use shards::partition::Partition;
use tokio::sync::oneshot;
use views::History;

/// How many may wait at the same time: as many as there may be connections.
const WAITING_MAX: usize = 16_384;
/// How long the thread waits for the read side before it looks whether anybody still waits.
const IDLE: Duration = Duration::from_millis(50);

/// What answers about the past: the history, which follows the journal, unless none is kept.
#[derive(Clone)]
pub(crate) struct ReadSide {
    pub(crate) partition: Partition,
    pub(crate) kept: Option<Arc<History>>,
}

impl ReadSide {
    /// The last event that queries see.
    pub(crate) fn position(&self) -> Sequence {
        self.kept.as_ref().map_or_else(|| self.partition.committed(), |history| history.position())
    }

    fn wait_for(&self, sequence: Sequence, patience: Duration) {
        match &self.kept {
            Some(history) => history.wait_for(sequence, patience),
            None => self.partition.wait_for_committed(sequence, patience),
        };
    }

    /// The history, or why there is none.
    pub(crate) fn history(&self) -> Result<Arc<History>, Problem> {
        let off = "this wallet keeps no history: it is switched off by the setting history";
        self.kept.clone().ok_or_else(|| Problem::new(Code::NotImplemented, off))
    }
}

/// The position of the read side, for tasks that wait. One thread follows it, and only while somebody waits; it ends when this is
/// dropped.
pub(crate) struct Positions {
    waiting: Arc<Waiting>,
    thread: Option<JoinHandle<()>>,
}

/// Why a position was not reached.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Unreached {
    /// It took too long.
    TooLate,
    /// Too many wait already.
    TooMany,
}

impl Positions {
    /// Starts the thread.
    pub(crate) fn start(read_side: ReadSide) -> std::io::Result<Positions> {
        let waiting = Arc::new(Waiting::default());
        let of_thread = Arc::clone(&waiting);
        let follow = move || follow(&read_side, &of_thread);
        let thread = std::thread::Builder::new().name("jigap-positions".into()).spawn(follow)?;
        Ok(Positions { waiting, thread: Some(thread) })
    }

    /// Waits until the read side has reached the sequence.
    pub(crate) async fn reach(&self, sequence: Sequence, patience: Duration) -> Result<(), Unreached> {
        let mut turn = self.waiting.add(sequence).ok_or(Unreached::TooMany)?;
        let reached = tokio::time::timeout(patience, &mut turn.reached).await;
        reached.map_err(|_| Unreached::TooLate)?.map_err(|_| Unreached::TooLate)
    }
}

impl Drop for Positions {
    fn drop(&mut self) {
        self.waiting.stop();
        if let Some(thread) = self.thread.take() {
            // A panic there was reported by the panic hook. Whoever closes the history next must be the last who has it.
            let _ = thread.join();
        }
    }
}

fn follow(read_side: &ReadSide, waiting: &Waiting) {
    while waiting.is_wanted() {
        let position = read_side.position();
        waiting.reached(position);
        read_side.wait_for(position.next(), IDLE);
    }
}

/// Who waits for what. A commit looks at the first alone, however many wait for later ones.
#[derive(Default)]
struct Waiting {
    inner: Mutex<Inner>,
    changed: Condvar,
}

#[derive(Default)]
struct Inner {
    by_sequence: BTreeMap<(Sequence, u64), oneshot::Sender<()>>,
    /// Tells those apart that wait for the same.
    next_number: u64,
    is_stopping: bool,
}

/// One who waits, until this is dropped.
struct Turn<'waiting> {
    waiting: &'waiting Waiting,
    key: (Sequence, u64),
    reached: oneshot::Receiver<()>,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.waiting.lock().by_sequence.remove(&self.key);
    }
}

impl Waiting {
    /// `None` when too many wait already.
    fn add(&self, sequence: Sequence) -> Option<Turn<'_>> {
        let (told, reached) = oneshot::channel();
        let mut inner = self.lock();
        if inner.by_sequence.len() >= WAITING_MAX {
            return None;
        }
        let key = (sequence, inner.next_number);
        inner.next_number += 1;
        inner.by_sequence.insert(key, told);
        drop(inner);
        self.changed.notify_one();
        Some(Turn { waiting: self, key, reached })
    }

    /// Wakes those who wait for this position or an earlier one.
    fn reached(&self, position: Sequence) {
        let mut inner = self.lock();
        while let Some(first) = inner.by_sequence.first_entry()
            && first.key().0 <= position
        {
            // Its time may be over at this moment.
            let _ = first.remove().send(());
        }
    }

    /// Sleeps while nobody waits; false once it is stopped.
    fn is_wanted(&self) -> bool {
        let idle = |inner: &mut Inner| inner.by_sequence.is_empty() && !inner.is_stopping;
        let inner = self.changed.wait_while(self.lock(), idle);
        !inner.unwrap_or_else(PoisonError::into_inner).is_stopping
    }

    fn stop(&self) {
        self.lock().is_stopping = true;
        self.changed.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_waits_is_told_at_its_position_and_not_before() {
        let waiting = Waiting::default();
        let mut turns: Vec<Turn> = [7, 5, 5, 6].map(|at| waiting.add(Sequence(at)).expect("room")).into();
        drop(turns.remove(1));
        waiting.reached(Sequence(6));
        let told: Vec<bool> = turns.iter_mut().map(|turn| turn.reached.try_recv().is_ok()).collect();
        assert_eq!(told, [false, true, true]);
        assert_eq!(waiting.lock().by_sequence.len(), 1);
    }

    #[test]
    fn one_too_many_is_refused_until_another_has_gone() {
        let waiting = Waiting::default();
        let mut turns: Vec<Turn> =
            (0..WAITING_MAX).map(|_| waiting.add(Sequence(1)).expect("room")).collect();
        assert!(waiting.add(Sequence(1)).is_none());
        turns.pop();
        assert!(waiting.add(Sequence(1)).is_some());
    }
}
