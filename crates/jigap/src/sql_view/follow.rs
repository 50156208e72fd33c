//! Follows the ledger into a database: reads events, cuts them where a frame ends, writes them, and begins again when either side was
//! away.

use std::time::{Duration, Instant};

use api::client::{Client, ClientError};
use api::proto::{Event, EventBatch, SubscribeRequest};
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};

use super::database::{Database, DatabaseError, PARTITION, Position, Target};
use super::rows::{Rows, signature};

/// Events that one transaction writes as a rule: more save little, and hold memory.
const TRANSACTION_EVENTS: usize = 10_000;
/// Events that are written even where their frame does not end.
const TRANSACTION_EVENTS_MAX: usize = 100_000;
/// Batches of events between reading and writing.
const BATCHES_WAITING_MAX: usize = 64;
/// Between two attempts: doubled from the first to the longest.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(3);

/// What to follow, whither, and until when.
pub(super) struct Follower<'run> {
    pub(super) runtime: &'run Runtime,
    pub(super) client: Client,
    pub(super) target: Target,
    /// Stop when everything that was committed at the start is in the tables.
    pub(super) once: bool,
    /// How long either side may be away; `None` for ever.
    pub(super) patience: Option<Duration>,
    /// Turns true when it is time to stop.
    pub(super) stopping: watch::Receiver<bool>,
}

/// How far it is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Progress {
    /// The last event in the tables, and its time.
    pub(super) sequence: u64,
    pub(super) as_of: Option<i64>,
    /// The last event of the ledger, as last heard.
    pub(super) committed: u64,
    /// Events written since the start.
    pub(super) written: u64,
}

/// Why following ends before it should.
#[derive(Debug, thiserror::Error)]
pub(super) enum FollowError {
    /// The database will not take it before somebody changes something.
    #[error("{0}")]
    Unusable(String),
    /// The wallet refuses.
    #[error("the wallet refuses: {0}")]
    Refused(ClientError),
    /// One side was away for longer than the patience.
    #[error("{0}")]
    Unavailable(String),
}

/// What ends a session early.
enum Ended {
    /// One side is away; what was not written is read again.
    Away(String),
    Failed(FollowError),
}

impl From<DatabaseError> for Ended {
    fn from(error: DatabaseError) -> Ended {
        match error {
            DatabaseError::Away(why) => Ended::Away(format!("the database is away: {why}")),
            DatabaseError::Moved { .. } => Ended::Away(error.to_string()),
            DatabaseError::Unusable(why) => {
                Ended::Failed(FollowError::Unusable(format!("the database: {why}")))
            }
        }
    }
}

impl From<ClientError> for Ended {
    fn from(error: ClientError) -> Ended {
        match error {
            ClientError::Unanswered { .. } => Ended::Away(format!("the wallet is away: {error}")),
            error => Ended::Failed(FollowError::Refused(error)),
        }
    }
}

impl Follower<'_> {
    /// Removes the tables and makes empty ones.
    pub(super) fn make_anew(&self) -> Result<(), FollowError> {
        let done = self.target.open().and_then(|mut database| database.make_anew());
        done.map_err(|error| match error {
            DatabaseError::Away(why) => FollowError::Unavailable(why),
            other => FollowError::Unusable(other.to_string()),
        })
    }

    /// Follows until it is done or told to stop.
    pub(super) fn run(&self, report: &mut dyn FnMut(Progress)) -> Result<(), FollowError> {
        let mut pause = PAUSE_MIN;
        let mut well_at = Instant::now();
        let mut written = 0;
        loop {
            let before = written;
            let mut noted = |progress: Progress| {
                // Having connected is no success yet: a full disk takes connections.
                if progress.written > written || progress.sequence == progress.committed {
                    (pause, well_at, written) = (PAUSE_MIN, Instant::now(), progress.written);
                }
                report(progress);
            };
            let why = match self.session(before, &mut noted) {
                Ok(()) => return Ok(()),
                Err(Ended::Failed(error)) => return Err(error),
                Err(Ended::Away(why)) => why,
            };
            if self.patience.is_some_and(|patience| well_at.elapsed() + pause > patience) {
                return Err(FollowError::Unavailable(why));
            }
            tracing::warn!(retry_after_ms = pause.as_millis() as u64, "{why}");
            if self.sleep(pause) {
                return Ok(());
            }
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// True when it is time to stop.
    fn sleep(&self, pause: Duration) -> bool {
        let mut stopping = self.stopping.clone();
        // Whoever could say so is gone: then it is time as well.
        let told =
            async { tokio::time::timeout(pause, stopping.wait_for(|stopping| *stopping)).await.is_ok() };
        self.runtime.block_on(told)
    }

    /// One connection to each side, until there is no more to do.
    fn session(&self, written: u64, report: &mut dyn FnMut(Progress)) -> Result<(), Ended> {
        let mut database = self.target.open()?;
        let position = database.position()?;
        // The last event of the tables comes again: only the ledger that they follow has it there.
        let mut events = self.subscribe(position.sequence.saturating_sub(1));
        let mut session = Session {
            database,
            waiting: Vec::new(),
            is_verified: position.sequence == 0,
            position,
            committed: 0,
            seen: 0,
            written,
        };
        let mut end = None;
        while let Some(batch) = events.blocking_recv() {
            self.take(&mut session, batch)?;
            let end = *end.get_or_insert(session.committed);
            while session.waiting.len() < TRANSACTION_EVENTS
                && let Ok(batch) = events.try_recv()
            {
                self.take(&mut session, batch)?;
            }
            session.write()?;
            if session.is_verified {
                report(session.progress());
            }
            if self.once && session.is_verified && session.position.sequence >= end {
                return Ok(());
            }
        }
        match *self.stopping.borrow() {
            true => Ok(()),
            false => Err(Ended::Away("the events ended".to_owned())),
        }
    }

    /// Reads events beside the writing. The channel ends when it is time to stop.
    fn subscribe(&self, after: u64) -> mpsc::Receiver<Result<EventBatch, ClientError>> {
        let (sender, receiver) = mpsc::channel(BATCHES_WAITING_MAX);
        let request = SubscribeRequest { partition: PARTITION, after, account_id: String::new() };
        let (client, mut stopping) = (self.client.clone(), self.stopping.clone());
        self.runtime.spawn(async move {
            let mut subscription = client.subscribe(request);
            loop {
                let batch = tokio::select! {
                    batch = subscription.next() => batch,
                    _ = stopping.wait_for(|stopping| *stopping) => return,
                    () = sender.closed() => return,
                };
                let is_last = batch.is_err();
                if sender.send(batch).await.is_err() || is_last {
                    return;
                }
            }
        });
        receiver
    }

    fn take(&self, session: &mut Session, batch: Result<EventBatch, ClientError>) -> Result<(), Ended> {
        let batch = batch.map_err(|error| self.refused(&session.position, error))?;
        (session.committed, session.seen) = (batch.committed, batch.position);
        session.waiting.extend(batch.events);
        if session.is_verified || session.waiting.is_empty() {
            return Ok(());
        }
        let again = session.waiting.remove(0);
        if signature(&again) != session.position.last_event {
            return Err(self.other_history(&session.position, Some(&again)));
        }
        session.is_verified = true;
        Ok(())
    }

    /// A position that the ledger has not reached is refused: then it is another one, or an older state of the same.
    fn refused(&self, position: &Position, error: ClientError) -> Ended {
        match error {
            ClientError::Failed(_) | ClientError::OtherHistory { .. } if position.sequence > 0 => {
                self.other_history(position, None)
            }
            error => error.into(),
        }
    }

    /// The signature of the ledger's first event, if it has one.
    fn first_event(&self) -> Result<Option<String>, Ended> {
        let mut events = self.subscribe(0);
        while let Some(batch) = events.blocking_recv() {
            let batch = batch?;
            if !batch.events.is_empty() || batch.committed == 0 {
                return Ok(batch.events.first().map(signature));
            }
        }
        Err(Ended::Away("stopped while it looked at the ledger's first event".to_owned()))
    }

    /// Says how the ledger differs from the one in the tables.
    fn other_history(&self, position: &Position, found: Option<&Event>) -> Ended {
        let first = match self.first_event() {
            Ok(first) => first,
            Err(ended) => return ended,
        };
        let there = first.as_deref().unwrap_or("nothing");
        let why = if first.as_ref() != Some(&position.ledger) {
            format!(
                "it follows another ledger: that one begins with {:?}, this one with {there:?}; use another database, or --drop",
                position.ledger
            )
        } else {
            let found =
                found.map_or_else(|| "no such event".to_owned(), |event| format!("{:?}", signature(event)));
            format!(
                "it follows another history of this ledger: it ends with {:?}, and the wallet has {found}, as after a restore to an earlier \
                 point; build it again with --drop",
                position.last_event
            )
        };
        Ended::Failed(FollowError::Unusable(format!("the database: {why}")))
    }
}

/// One connection to each side.
struct Session {
    database: Box<dyn Database>,
    position: Position,
    /// The ledger has the last event of the tables.
    is_verified: bool,
    /// Events that follow the position, not written yet.
    waiting: Vec<Event>,
    committed: u64,
    /// Where the last batch ended.
    seen: u64,
    written: u64,
}

impl Session {
    fn progress(&self) -> Progress {
        Progress {
            sequence: self.position.sequence,
            as_of: self.position.as_of,
            committed: self.committed.max(self.position.sequence),
            written: self.written,
        }
    }

    /// Writes what waits, up to the end of a frame: a group is in the tables with all its legs or not at all.
    fn write(&mut self) -> Result<(), DatabaseError> {
        let is_all = self.seen >= self.committed || self.waiting.len() >= TRANSACTION_EVENTS_MAX;
        let count = if is_all { self.waiting.len() } else { whole_frames(&self.waiting) };
        let Some(last) = count.checked_sub(1).map(|last| &self.waiting[last]) else { return Ok(()) };
        let ledger = match self.position.sequence {
            0 => signature(&self.waiting[0]),
            _ => self.position.ledger.clone(),
        };
        let to = Position {
            ledger,
            sequence: last.sequence,
            last_event: signature(last),
            as_of: Some(last.timestamp_micros),
        };
        let rows = Rows::of(&self.waiting[..count])?;
        self.database.apply(&rows, &self.position, &to)?;
        self.position = to;
        self.written += count as u64;
        self.waiting.drain(..count);
        Ok(())
    }
}

/// How many of the events are surely of frames that are here to their end: those of a frame have the same time, and more of the last one
/// may follow. The events of one command are in one frame.
fn whole_frames(events: &[Event]) -> usize {
    let Some(last) = events.last() else { return 0 };
    let same =
        events.iter().rev().take_while(|event| event.timestamp_micros == last.timestamp_micros).count();
    events.len() - same
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_cut_where_a_frame_ends() {
        for (times, count) in
            [(&[][..], 0), (&[1, 1, 1], 0), (&[1, 1, 2], 2), (&[1, 2, 2], 1), (&[1, 2, 3], 2)]
        {
            let at = |time: &i64| Event { timestamp_micros: *time, ..Event::default() };
            let events: Vec<Event> = times.iter().map(at).collect();
            assert_eq!(whole_frames(&events), count, "{times:?}");
        }
    }
}
