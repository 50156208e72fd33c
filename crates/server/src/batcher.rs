//! Single requests that arrive together travel together: one submission to the partition, one wake-up when it is durable.
//!
//! No delay is added: whatever has queued up when the task runs makes a batch.

use std::sync::{Arc, Mutex, PoisonError};

use shards::partition::{NotAccepted, Partition, TRANSFERS_PER_SUBMISSION_MAX, TransferAnswer};
use tokio::sync::{mpsc, oneshot};

/// What becomes of one request.
pub(crate) type Outcome = Result<TransferAnswer, NotAccepted>;

struct Request {
    transfer: ledger::Transfer,
    reply: oneshot::Sender<Outcome>,
}

/// The answers of a batch, to be handed out on the network thread: one wake-up crosses threads for all of them.
type Answered = (Vec<oneshot::Sender<Outcome>>, Vec<TransferAnswer>);

#[derive(Clone)]
pub(crate) struct Batcher {
    requests: mpsc::UnboundedSender<Request>,
}

impl Batcher {
    /// Starts the two tasks. Must be called within the server's runtime.
    pub(crate) fn start(partition: Partition) -> Batcher {
        let (requests, queue) = mpsc::unbounded_channel();
        let (answered, answers) = mpsc::unbounded_channel();
        tokio::spawn(submit(partition, queue, answered));
        tokio::spawn(hand_out(answers));
        Batcher { requests }
    }

    /// Executes one transfer.
    pub(crate) async fn execute(&self, transfer: ledger::Transfer) -> Outcome {
        let (reply, outcome) = oneshot::channel();
        self.requests.send(Request { transfer, reply }).map_err(|_| NotAccepted::Stopping)?;
        outcome.await.map_err(|_| NotAccepted::Stopping)?
    }
}

async fn submit(
    partition: Partition,
    mut queue: mpsc::UnboundedReceiver<Request>,
    answered: mpsc::UnboundedSender<Answered>,
) {
    let mut requests = Vec::new();
    while queue.recv_many(&mut requests, TRANSFERS_PER_SUBMISSION_MAX).await > 0 {
        let (transfers, replies): (Vec<_>, Vec<_>) =
            requests.drain(..).map(|request| (request.transfer, request.reply)).unzip();
        // Shared, because the closure is dropped with the replies in it when the partition refuses the submission.
        let replies = Arc::new(Mutex::new(replies));
        let (answered, waiting) = (answered.clone(), Arc::clone(&replies));
        let submitted = partition.submit_transfers(transfers, move |answers| {
            // Nobody hears it when the server is gone.
            let _ = answered.send((take(&waiting), answers));
        });
        if let Err(refused) = submitted {
            take(&replies).into_iter().for_each(|reply| {
                // The client may have gone away meanwhile.
                let _ = reply.send(Err(refused));
            });
        }
    }
}

fn take(replies: &Mutex<Vec<oneshot::Sender<Outcome>>>) -> Vec<oneshot::Sender<Outcome>> {
    std::mem::take(&mut *replies.lock().unwrap_or_else(PoisonError::into_inner))
}

async fn hand_out(mut answers: mpsc::UnboundedReceiver<Answered>) {
    while let Some((replies, answers)) = answers.recv().await {
        assert_eq!(replies.len(), answers.len(), "the partition answers every transfer");
        for (reply, answer) in replies.into_iter().zip(answers) {
            // The client may have gone away meanwhile.
            let _ = reply.send(Ok(answer));
        }
    }
}
