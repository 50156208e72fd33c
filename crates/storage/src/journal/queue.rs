//! The bounded queue between those who append and the writer's thread.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use crossbeam_channel::Sender;

use super::appender::{Continuation, FrameDraft};
use super::error::{AppendError, JournalError, TruncateError};
use super::frame::Frame;
use super::{FrameIndex, Options};

/// Called on the writer's thread once the frame is durable.
pub type OnDurable = Box<dyn FnOnce(Arc<Frame>) + Send>;
/// Called once, on the writer's thread, when the journal has stopped for good.
pub type OnFatal = Box<dyn FnOnce(JournalError) + Send>;

/// What the writer is to do, in order.
pub(crate) enum Task {
    Append { draft: FrameDraft, on_durable: OnDurable },
    Truncate { after: FrameIndex, done: Sender<Result<(), TruncateError>> },
    Release { before: FrameIndex, done: Sender<Result<(), JournalError>> },
}

/// How much was handed over and is not durable yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct InFlight {
    /// Frames.
    pub frames: usize,
    /// The bytes of their bodies.
    pub bytes: usize,
}

struct State {
    tasks: VecDeque<Task>,
    in_flight: InFlight,
    continuation: Continuation,
    /// No more tasks come; those that are here are still done.
    closed: bool,
    stopped: Option<JournalError>,
    on_fatal: Option<OnFatal>,
}

pub(crate) struct Queue {
    state: Mutex<State>,
    /// Signalled when there is something to do.
    work: Condvar,
    /// Signalled when there is room.
    room: Condvar,
    limit: InFlight,
}

impl Queue {
    pub(crate) fn new(options: &Options, continuation: Continuation, on_fatal: OnFatal) -> Queue {
        let state = State {
            tasks: VecDeque::new(),
            in_flight: InFlight::default(),
            continuation,
            closed: false,
            stopped: None,
            on_fatal: Some(on_fatal),
        };
        let limit = InFlight { frames: options.in_flight_frames_max, bytes: options.in_flight_bytes_max };
        Queue { state: Mutex::new(state), work: Condvar::new(), room: Condvar::new(), limit }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no code panics while it holds the queue")
    }

    /// Waits for room. One frame is always let in when there is none in flight, however large.
    pub(crate) fn append(&self, draft: FrameDraft, on_durable: OnDurable) -> Result<FrameIndex, AppendError> {
        let size_bytes = draft.body.len();
        let is_full = |state: &mut State| {
            let InFlight { frames, bytes } = state.in_flight;
            state.stopped.is_none()
                && frames > 0
                && (frames >= self.limit.frames || bytes + size_bytes > self.limit.bytes)
        };
        let mut state =
            self.room.wait_while(self.lock(), is_full).expect("no code panics while it holds the queue");
        if let Some(error) = &state.stopped {
            return Err(error.clone().into());
        }
        let index = state.continuation.admit(&draft)?;
        state.in_flight.frames += 1;
        state.in_flight.bytes += size_bytes;
        state.tasks.push_back(Task::Append { draft, on_durable });
        self.work.notify_one();
        Ok(index)
    }

    /// Adds a task that is no frame. Frames handed over before it are written first.
    pub(crate) fn push(&self, task: Task) -> Result<(), JournalError> {
        let mut state = self.lock();
        if let Some(error) = &state.stopped {
            return Err(error.clone());
        }
        state.tasks.push_back(task);
        self.work.notify_one();
        Ok(())
    }

    /// Waits for tasks and takes all; nothing once the queue is closed and empty, or stopped.
    pub(crate) fn take(&self) -> VecDeque<Task> {
        let is_idle = |state: &mut State| state.tasks.is_empty() && !state.closed && state.stopped.is_none();
        let mut state =
            self.work.wait_while(self.lock(), is_idle).expect("no code panics while it holds the queue");
        std::mem::take(&mut state.tasks)
    }

    /// Takes what has come, without waiting.
    pub(crate) fn take_more(&self, tasks: &mut VecDeque<Task>) {
        tasks.append(&mut self.lock().tasks);
    }

    /// Frames are durable: there is room for others.
    pub(crate) fn landed(&self, landed: InFlight) {
        let mut state = self.lock();
        state.in_flight.frames -= landed.frames;
        state.in_flight.bytes -= landed.bytes;
        drop(state);
        self.room.notify_all();
    }

    /// The journal now ends elsewhere.
    pub(crate) fn rewind(&self, continuation: Continuation) {
        self.lock().continuation = continuation;
    }

    pub(crate) fn in_flight(&self) -> InFlight {
        self.lock().in_flight
    }

    pub(crate) fn next_index(&self) -> FrameIndex {
        self.lock().continuation.next_index
    }

    pub(crate) fn stopped(&self) -> Option<JournalError> {
        self.lock().stopped.clone()
    }

    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.work.notify_one();
    }

    /// As [`Queue::push`]; false when the journal is being closed, and takes nothing more.
    pub(crate) fn push_unless_closed(&self, task: Task) -> Result<bool, JournalError> {
        let mut state = self.lock();
        if let Some(error) = &state.stopped {
            return Err(error.clone());
        }
        if !state.closed {
            state.tasks.push_back(task);
            self.work.notify_one();
        }
        Ok(!state.closed)
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// Stops for good: whatever waits is dropped without an answer, and the node is told, once.
    pub(crate) fn fail(&self, error: JournalError) {
        let mut state = self.lock();
        if state.stopped.is_some() {
            return;
        }
        state.stopped = Some(error.clone());
        let dropped = std::mem::take(&mut state.tasks);
        let on_fatal = state.on_fatal.take();
        drop(state);
        self.work.notify_one();
        self.room.notify_all();
        if let Some(on_fatal) = on_fatal {
            on_fatal(error);
        }
        // Last, and without the lock: what callbacks own may do anything when it is dropped.
        drop(dropped);
    }
}
