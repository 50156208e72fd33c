//! One transaction, driven to its end.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use coordinator::machine::{Effect, Machine, Phase, Ticket};
use coordinator::port::{Answer, Lease, NoAnswer, Outcome};
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use ledger::Timestamp;
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{Instrument, Span};

use super::{Ended, Finished, Inner, now, spans, unanswered};
use crate::wallet::NotAnswered;

/// What an operator wants of a transaction under way.
pub(super) enum Wish {
    /// Undo it. Answered with whether that is still possible.
    Cancel(oneshot::Sender<bool>),
}

/// A machine at its beginning.
pub(super) struct Start {
    pub(super) machine: Machine,
    pub(super) effects: Vec<Effect>,
    /// When this instance began the transaction; `None` when it takes over.
    pub(super) begun_at: Option<Timestamp>,
}

type Steps<'inner> = FuturesUnordered<BoxFuture<'inner, (Ticket, Answer)>>;

/// A transaction under way.
struct Drive<'inner> {
    inner: &'inner Arc<Inner>,
    machine: Machine,
    begun_at: Option<Timestamp>,
    /// Somebody else began it, and nobody here waits for a repeat.
    taken_over: bool,
    replayed: bool,
    /// What is being done, since when, and its span.
    phase: Option<(Phase, Instant, Span)>,
    steps: Steps<'inner>,
    tell: &'inner watch::Sender<Ended>,
    /// Why the last step had no answer, until it is noted in the record.
    error: Arc<Mutex<Option<String>>>,
    elsewhere: Option<Lease>,
    outcome: Option<Outcome>,
}

/// Drives a transaction until nothing more is to be done.
pub(super) async fn drive(
    inner: &Arc<Inner>,
    start: Start,
    tell: &watch::Sender<Ended>,
    mut wishes: mpsc::UnboundedReceiver<Wish>,
) {
    let taken_over = start.begun_at.is_none();
    let mut drive = Drive {
        inner,
        machine: start.machine,
        begun_at: start.begun_at,
        taken_over,
        replayed: taken_over,
        phase: None,
        steps: FuturesUnordered::new(),
        tell,
        error: Arc::default(),
        elsewhere: None,
        outcome: None,
    };
    drive.follow(start.effects);
    // The lease is renewed well before it runs out, so that nobody takes over what is only slow.
    let mut renewal = tokio::time::interval(inner.lease / 3);
    renewal.reset();
    loop {
        if let Some(lease) = drive.elsewhere.take() {
            drive.wait_out(&lease).await;
        } else if drive.steps.is_empty() {
            return;
        } else {
            tokio::select! {
                Some((ticket, answer)) = drive.steps.next() => drive.answered(ticket, answer),
                Some(Wish::Cancel(possible)) = wishes.recv() => drive.cancel(possible),
                _ = renewal.tick() => drive.renew().await,
            }
        }
    }
}

impl Drive<'_> {
    /// Does what the machine wants, and measures how long it is at what.
    fn follow(&mut self, effects: Vec<Effect>) {
        let phase = self.machine.phase();
        if phase != self.phase.as_ref().map(|(current, ..)| *current) {
            if let Some((ended, since, _)) = self.phase.take() {
                self.inner.metrics.phase(ended, since.elapsed());
            }
            self.phase = phase.map(|phase| (phase, Instant::now(), spans::phase(phase.name())));
        }
        for effect in effects {
            match effect {
                Effect::Send { ticket, shard, step } => {
                    let link = self.inner.link(shard).clone();
                    let error = Arc::clone(&self.error);
                    let failed = move |attempts: u32, no_answer: &NoAnswer| {
                        let (NoAnswer::Busy(why) | NoAnswer::Unknown(why)) = no_answer;
                        tracing::debug!(shard = shard.0, attempts, why, "a step is repeated");
                        *error.lock().unwrap_or_else(PoisonError::into_inner) = Some(why.clone());
                    };
                    let span = self.phase.as_ref().map_or_else(Span::none, |(.., span)| span.clone());
                    let answered = async move { (ticket, link.insist(step, failed).await) };
                    self.steps.push(Box::pin(answered.instrument(span)));
                }
                Effect::Finished(outcome) => self.outcome = Some(outcome),
                Effect::Elsewhere(lease) => self.elsewhere = Some(lease),
                Effect::Broken(why) => {
                    tracing::error!(
                        why,
                        "a transaction cannot go on; look whether a shard's data were changed by hand"
                    );
                    self.inner.metrics.broken();
                    self.tell.send_replace(Some(Err(NotAnswered::Unavailable(why))));
                }
                Effect::Over => self.over(),
            }
        }
    }

    fn answered(&mut self, ticket: Ticket, answer: Answer) {
        if let (Answer::Known(status), Some(begun_at)) = (&answer, self.begun_at.take()) {
            self.replayed = !self.inner.began(status, begun_at);
        }
        if matches!(&answer, Answer::Known(status) if status.outcome.is_some()) {
            // It was at its end already, and is counted by whoever brought it there.
            self.taken_over = false;
        }
        let effects = self.machine.answered(ticket, answer);
        self.follow(effects);
    }

    /// The client is told once the record says the same: a query that comes after the answer must not see it under way.
    fn over(&mut self) {
        self.steps.clear();
        let Some(outcome) = self.outcome.take() else { return };
        if self.taken_over || !self.replayed {
            self.inner.metrics.ended(&outcome);
        }
        let plan = Arc::new(self.machine.plan().clone());
        self.tell.send_replace(Some(Ok(Finished { plan, outcome, replayed: self.replayed })));
    }

    fn cancel(&mut self, possible: oneshot::Sender<bool>) {
        let effects = self.machine.cancel();
        // The operator may have gone.
        let _ = possible.send(effects.is_ok());
        self.follow(effects.unwrap_or_default());
    }

    /// Keeps the lease, and tells in the record what hinders the transaction. Tried once: the next renewal comes soon.
    async fn renew(&mut self) {
        let error = self.error.lock().unwrap_or_else(PoisonError::into_inner).take();
        let (owner, note) = self.machine.note(self.inner.lease_from_now(), error);
        let renewed = self.inner.link(owner).attempt(note);
        // Another holder means that an instance took over while this one slept. Both may go on: the barriers keep them in step.
        let _ = tokio::time::timeout(self.inner.lease / 3, renewed).await;
    }

    /// Another instance drives it: waits until its lease is over, then looks what became of it.
    async fn wait_out(&mut self, lease: &Lease) {
        let left = u64::try_from(lease.until.as_micros() - now().as_micros()).unwrap_or(0);
        let patience = Duration::from_micros(left).min(self.inner.lease) / 8;
        tokio::time::sleep(patience.max(Duration::from_millis(2))).await;
        let transaction_id = self.machine.plan().transaction_id;
        let owner = self.machine.plan().owner();
        match self.inner.link(owner).shard().transaction(transaction_id, transaction_id).await {
            Ok(Some(row)) => {
                let (machine, effects) = Machine::resume(row.status, self.inner.lease_from_now());
                self.machine = machine;
                self.follow(effects);
            }
            Ok(None) => self.elsewhere = Some(lease.clone()),
            Err(no_answer) => {
                tracing::debug!(error = %unanswered(no_answer), "a record cannot be read yet");
                self.elsewhere = Some(lease.clone());
            }
        }
    }
}
