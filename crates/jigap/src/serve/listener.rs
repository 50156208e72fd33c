//! Feeds the history with committed frames. The partition runs before the history is open, since the history reads the
//! partition's journal: frames committed in between wait here.

use std::sync::{Arc, Mutex, PoisonError};

use shards::partition::{CommitListener, OnFatal};
use storage::journal::Frame;
use views::History;

/// The link between a partition and its history.
#[derive(Clone)]
pub(super) struct HistoryFeed {
    target: Arc<Mutex<Target>>,
    on_fatal: OnFatal,
}

enum Target {
    Waiting(Vec<Arc<Frame>>),
    History(Arc<History>),
    /// The history is switched off.
    Nobody,
}

impl HistoryFeed {
    pub(super) fn new(on_fatal: OnFatal) -> HistoryFeed {
        HistoryFeed { target: Arc::new(Mutex::new(Target::Waiting(Vec::new()))), on_fatal }
    }

    /// From now on frames go to this history, those that waited first; without one, nowhere.
    pub(super) fn begin(&self, history: Option<&Arc<History>>) {
        let mut target = self.target.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(history) = history else {
            *target = Target::Nobody;
            return;
        };
        if let Target::Waiting(frames) = &*target {
            for frame in frames {
                self.hand_over(history, frame);
            }
        }
        *target = Target::History(Arc::clone(history));
    }

    fn hand_over(&self, history: &History, frame: &Frame) {
        if let Err(error) = history.committed(frame) {
            (self.on_fatal)(error.to_string());
        }
    }
}

impl CommitListener for HistoryFeed {
    fn committed(&mut self, frame: &Arc<Frame>) {
        match &mut *self.target.lock().unwrap_or_else(PoisonError::into_inner) {
            Target::Waiting(frames) => frames.push(Arc::clone(frame)),
            Target::History(history) => self.hand_over(history, frame),
            Target::Nobody => {}
        }
    }
}
