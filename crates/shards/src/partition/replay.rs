//! Applying recorded events: in order, read and checked ahead by a second thread.

use std::sync::Arc;
use std::thread;

use crossbeam_channel::bounded;
use ledger::codec::{Body, CodecError, Step};
use ledger::{AccountRef, Digest, Sequence, State, Timestamp, Totals};
use storage::journal::{Frame, FrameIndex, ReadError};
use storage::memory::prefetch;

use super::source::{Recorded, Source, SourceError};

/// Frames that may be read ahead of whoever applies them.
const FRAMES_AHEAD: usize = 8;
/// Events whose cache misses are made to overlap.
const CHUNK: usize = 32;
/// Events between two reports of progress.
const PROGRESS_EVENTS: u64 = 500_000;

/// Calls `each` for every frame, in order, until there are no more or something fails.
/// Reading and checking hashes runs beside `each`, so that both cores work.
pub(super) fn for_each_frame<Failure: From<ReadError>>(
    frames: impl Iterator<Item = Result<Arc<Frame>, ReadError>> + Send,
    mut each: impl FnMut(&Frame) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let (sender, ahead) = bounded::<Result<Arc<Frame>, ReadError>>(FRAMES_AHEAD);
    thread::scope(|scope| {
        scope.spawn(move || {
            for frame in frames {
                // The other side hangs up when it has failed, or has enough: then nobody needs more frames.
                if sender.send(frame).is_err() {
                    return;
                }
            }
        });
        for frame in ahead {
            each(&*frame?)?;
        }
        Ok(())
    })
}

/// A moment of a history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// Everything that is recorded.
    Latest,
    /// After this event.
    Sequence(Sequence),
    /// After the last event that is not later.
    Time(Timestamp),
}

/// What to replay.
#[derive(Debug, Clone)]
pub struct ReplayOptions {
    /// The history, from its first event.
    pub source: Source,
    /// Where to stop.
    pub until: Moment,
    /// A digest is taken whenever so many more events are applied.
    pub digest_every: Option<u64>,
}

/// The state at one point of a replay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DigestAt {
    /// The last event applied.
    pub sequence: Sequence,
    /// Its time.
    pub timestamp: Timestamp,
    /// The hash of the state after it.
    pub digest: Digest,
}

/// What a replay came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplayReport {
    /// Frames read, each with its checksum and its place in the hash chain.
    pub frames: u64,
    /// The state at the end.
    pub end: DigestAt,
    /// Accounts ever opened.
    pub accounts: u64,
    /// Every currency's sum over all accounts.
    pub totals: Vec<Totals>,
    /// The last event that is recorded.
    pub recorded: Sequence,
}

/// Why a replay did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// There is no history to read.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// A frame is damaged, or the chain is broken.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A frame is whole, yet its body is not ours.
    #[error("the frame with event {sequence}: {error}")]
    Body {
        /// The first sequence of the frame.
        sequence: u64,
        /// What is wrong with its body.
        error: CodecError,
    },
    /// An event does not follow the state.
    #[error("event {sequence} does not follow the state before it: {why}; run `jigap verify`")]
    DoesNotFollow {
        /// The event's sequence.
        sequence: u64,
        /// What does not fit.
        why: &'static str,
    },
    /// The history ends before the moment.
    #[error("the history ends with event {last}: event {wanted} is not in it")]
    Beyond {
        /// The last event.
        last: u64,
        /// What was asked for.
        wanted: u64,
    },
}

/// Applies all events of a history from the first one on. `progress` is called now and then with the last event applied and the last
/// there will be; `digest` with every digest that was asked for.
pub fn replay(
    options: &ReplayOptions,
    progress: &mut dyn FnMut(Sequence, Sequence),
    digest: &mut dyn FnMut(DigestAt),
) -> Result<ReplayReport, ReplayError> {
    let recorded = Recorded::open_whole(&options.source)?;
    let end = match options.until {
        Moment::Latest => recorded.last,
        Moment::Sequence(wanted) if wanted > recorded.last => {
            return Err(ReplayError::Beyond { last: recorded.last.0, wanted: wanted.0 });
        }
        Moment::Sequence(wanted) => wanted,
        Moment::Time(time) => match recorded.index_at_time(time)? {
            None => Sequence(0),
            Some(index) => Sequence(recorded.header(index)?.last_sequence().0),
        },
    };
    let every = options.digest_every.unwrap_or(u64::MAX).max(1);
    let mut replay =
        Replay { state: State::new(), next_stop: Sequence(0), chunk: Vec::new(), next_chunk: Vec::new() };
    let (mut frames, mut reported) = (0, Sequence(0));
    for_each_frame(until(recorded.frames(FrameIndex::FIRST), end), |frame| {
        frames += 1;
        loop {
            replay.next_stop =
                end.min(Sequence((replay.state.sequence().0 / every + 1).saturating_mul(every)));
            let stopped = replay.frame(frame)?;
            if stopped && replay.state.sequence().0.is_multiple_of(every) {
                digest(replay.digest());
            }
            if !stopped || replay.state.sequence() >= end {
                break;
            }
        }
        if replay.state.sequence().0 - reported.0 >= PROGRESS_EVENTS {
            reported = replay.state.sequence();
            progress(reported, end);
        }
        Ok::<(), ReplayError>(())
    })?;
    progress(replay.state.sequence(), end);
    Ok(ReplayReport {
        frames,
        end: replay.digest(),
        accounts: replay.state.account_count(),
        totals: replay.state.totals(),
        recorded: recorded.last,
    })
}

/// The frames up to the one with the last event.
fn until<Frames: Iterator<Item = Result<Arc<Frame>, ReadError>>>(
    frames: Frames,
    end: Sequence,
) -> impl Iterator<Item = Result<Arc<Frame>, ReadError>> {
    let is_wanted = move |frame: &Result<Arc<Frame>, ReadError>| {
        frame.as_ref().map_or(true, |frame| frame.first_sequence().0 <= end.0)
    };
    frames.take_while(is_wanted)
}

struct Replay {
    state: State,
    /// Not a single event is applied beyond this one.
    next_stop: Sequence,
    /// Decoded, their cache lines asked for, and not yet applied.
    chunk: Vec<Step>,
    next_chunk: Vec<Step>,
}

impl Replay {
    fn digest(&self) -> DigestAt {
        DigestAt {
            sequence: self.state.sequence(),
            timestamp: self.state.timestamp(),
            digest: self.state.digest(),
        }
    }

    /// Applies the events of a frame that were not applied yet, up to the next stop; true when that was reached.
    fn frame(&mut self, frame: &Frame) -> Result<bool, ReplayError> {
        if frame.sequence_count() == 0 {
            return Ok(false);
        }
        let first = Sequence(frame.first_sequence().0);
        if first > self.state.sequence().next() {
            let sequence = self.state.sequence().next().0;
            return Err(ReplayError::DoesNotFollow { sequence, why: "the history does not have it" });
        }
        let timestamp = Timestamp::from_micros(frame.timestamp_us());
        let in_body = |error| ReplayError::Body { sequence: first.0, error };
        let mut steps = Body::parse(frame.body(), first).map_err(in_body)?.steps();
        // One chunk's cache lines are on their way while the one before is applied.
        loop {
            let mut next = std::mem::take(&mut self.next_chunk);
            for step in steps.by_ref().take(CHUNK) {
                let step = step.map_err(in_body)?;
                if let Step::Plain(transfer) = &step {
                    prefetch(self.state.address(&AccountRef::Number(transfer.movement.from)));
                    prefetch(self.state.address(&AccountRef::Number(transfer.movement.to)));
                }
                next.push(step);
            }
            let mut chunk = std::mem::replace(&mut self.chunk, next);
            for step in chunk.drain(..) {
                self.apply(&step, timestamp)?;
            }
            self.next_chunk = chunk;
            if self.chunk.is_empty() {
                return Ok(self.state.sequence() >= self.next_stop);
            }
        }
    }

    /// Applies the events of one command, those excepted that were applied before and those beyond the stop.
    fn apply(&mut self, step: &Step, timestamp: Timestamp) -> Result<(), ReplayError> {
        let is_due = |state: &State, sequence: Sequence, stop: Sequence| {
            sequence > state.sequence() && sequence <= stop
        };
        let failed = |sequence: Sequence| move |why| ReplayError::DoesNotFollow { sequence: sequence.0, why };
        match step {
            Step::Plain(transfer) if is_due(&self.state, transfer.sequence, self.next_stop) => {
                let applied = self.state.try_apply_movement(timestamp, &transfer.movement);
                applied.map_err(failed(transfer.sequence))
            }
            Step::Plain(_) => Ok(()),
            Step::Entry(entry) => {
                for (sequence, event) in entry.sequenced() {
                    if is_due(&self.state, sequence, self.next_stop) {
                        self.state.try_apply(timestamp, event).map_err(failed(sequence))?;
                    }
                }
                Ok(())
            }
        }
    }
}
