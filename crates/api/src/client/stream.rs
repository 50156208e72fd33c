//! The stream of batches: several in flight, and none lost when the connection is.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use ledger::Transfer;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

use super::backoff::Backoff;
use super::{ClientError, Options, is_repeatable};
use crate::proto::wallet_client::WalletClient;
use crate::request::TRANSFERS_MAX;
use crate::wire::{BatchResult, Message, encode_batch, read_result};

/// A stream of batches of transfers between accounts of users. Batches that were sent are answered even when it is dropped.
pub struct TransferStream {
    batches: mpsc::UnboundedSender<Unanswered>,
    room: Arc<Semaphore>,
    next_id: AtomicU64,
}

/// The result of a batch, once it is there. Results come in the order in which batches were sent.
pub struct PendingBatch(oneshot::Receiver<Result<BatchResult, ClientError>>);

impl Future for PendingBatch {
    type Output = Result<BatchResult, ClientError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context).map(|result| result.unwrap_or(Err(ClientError::Ended)))
    }
}

struct Unanswered {
    batch_id: u64,
    count: usize,
    message: Message,
    /// When it was given to the stream.
    first_sent: Instant,
    /// When it was last given to a connection.
    sent: Instant,
    reply: oneshot::Sender<Result<BatchResult, ClientError>>,
    _room: OwnedSemaphorePermit,
}

impl TransferStream {
    pub(super) fn start(wallet: WalletClient<Channel>, options: Arc<Options>) -> TransferStream {
        let (batches, queue) = mpsc::unbounded_channel();
        let room = Arc::new(Semaphore::new(options.batches_in_flight_max.max(1)));
        let backoff = Backoff::new(&options);
        let driver = Driver { wallet, options, queue, unanswered: VecDeque::new(), backoff };
        tokio::spawn(driver.run());
        TransferStream { batches, room, next_id: AtomicU64::new(1) }
    }

    /// Sends a batch, once fewer than [`Options::batches_in_flight_max`] are unanswered. Every transfer needs its own
    /// transaction_id; the batch is repeated with the same ids until it is answered. Panics above 8,190 transfers.
    pub async fn send(&self, transfers: &[Transfer]) -> Result<PendingBatch, ClientError> {
        assert!(transfers.len() <= TRANSFERS_MAX, "a batch has at most {TRANSFERS_MAX} transfers");
        let room = Arc::clone(&self.room).acquire_owned().await.map_err(|_| ClientError::Ended)?;
        let batch_id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let (reply, result) = oneshot::channel();
        let now = Instant::now();
        let batch = Unanswered {
            batch_id,
            count: transfers.len(),
            message: encode_batch(batch_id, transfers),
            first_sent: now,
            sent: now,
            reply,
            _room: room,
        };
        self.batches.send(batch).map_err(|_| ClientError::Ended)?;
        Ok(PendingBatch(result))
    }
}

/// Keeps a call open and every batch on its way until it is answered.
struct Driver {
    wallet: WalletClient<Channel>,
    options: Arc<Options>,
    queue: mpsc::UnboundedReceiver<Unanswered>,
    /// In the order in which they were sent.
    unanswered: VecDeque<Unanswered>,
    backoff: Backoff,
}

/// Why one call of the stream ended.
enum End {
    /// Nobody will send any more, and everything is answered.
    Finished,
    /// The connection is lost, or the server asked to come back.
    Lost(Status),
}

impl Driver {
    async fn run(mut self) {
        loop {
            if self.unanswered.is_empty() {
                match self.queue.recv().await {
                    Some(batch) => self.unanswered.push_back(batch),
                    None => return,
                }
            }
            let status = match self.call().await {
                End::Finished => return,
                End::Lost(status) => status,
            };
            if !is_repeatable(&status) {
                self.fail_all(&status);
                continue;
            }
            tracing::debug!(%status, batches = self.unanswered.len(), "the stream is opened again");
            tokio::time::sleep(self.backoff.next()).await;
            self.give_up_on_the_oldest(&status);
        }
    }

    /// One call: sends what is unanswered, then what comes, and hands out results.
    async fn call(&mut self) -> End {
        // Room for everything that can be unanswered: handing a batch to the call never waits. An overloaded server makes us send one again.
        let room = self.options.batches_in_flight_max.max(1) + 1;
        let (outgoing, batches) = mpsc::channel(room);
        let now = Instant::now();
        for batch in &mut self.unanswered {
            batch.sent = now;
            if outgoing.try_send(batch.message.clone()).is_err() {
                return End::Lost(Status::internal("the call takes no batches"));
            }
        }
        let mut wallet = self.wallet.clone();
        let opened =
            tokio::time::timeout(self.options.call_timeout, wallet.transfers(ReceiverStream::new(batches)));
        let mut results = match opened.await {
            Ok(Ok(response)) => response.into_inner(),
            Ok(Err(status)) => return End::Lost(status),
            Err(_) => return End::Lost(Status::deadline_exceeded("the stream was not opened in time")),
        };
        loop {
            match self.step(&outgoing, &mut results).await {
                Ok(true) => {}
                Ok(false) => return End::Finished,
                Err(status) => return End::Lost(status),
            }
        }
    }

    /// The next thing that happens; false when nothing can happen any more.
    async fn step(
        &mut self,
        outgoing: &mpsc::Sender<Message>,
        results: &mut Streaming<Message>,
    ) -> Result<bool, Status> {
        let oldest = self.unanswered.front().map(|batch| batch.sent + self.options.call_timeout);
        let queue_is_over = self.queue.is_closed() && self.queue.is_empty();
        if queue_is_over && self.unanswered.is_empty() {
            return Ok(false);
        }
        tokio::select! {
            batch = self.queue.recv(), if !queue_is_over => {
                let Some(mut batch) = batch else { return Ok(true) };
                batch.sent = Instant::now();
                let message = batch.message.clone();
                self.unanswered.push_back(batch);
                outgoing.send(message).await.map_err(|_| Status::unavailable("the call has ended"))?;
            }
            result = results.message() => match result? {
                Some(message) => self.answered(&message, outgoing).await?,
                None => return Err(Status::unavailable("the server ended the stream")),
            },
            () = tokio::time::sleep_until(oldest.unwrap_or_else(Instant::now)), if oldest.is_some() => {
                return Err(Status::deadline_exceeded("a batch was not answered in time"));
            }
        }
        Ok(true)
    }

    async fn answered(&mut self, message: &Message, outgoing: &mpsc::Sender<Message>) -> Result<(), Status> {
        let nonsense = |why: String| Status::internal(format!("the server's result makes no sense: {why}"));
        let result = read_result(message).map_err(|error| nonsense(error.to_string()))?;
        let at = self.unanswered.iter().position(|batch| batch.batch_id == result.batch_id);
        let at = at.ok_or_else(|| nonsense(format!("batch {} was not sent", result.batch_id)))?;
        let mut batch = self.unanswered.remove(at).expect("the position was just found");
        let not_executed = result.refused.as_ref().map(|refused| refused.code.as_str());
        if let Some("overloaded" | "unavailable") = not_executed
            && batch.first_sent.elapsed() < self.options.patience
        {
            tokio::time::sleep(self.backoff.next()).await;
            batch.sent = Instant::now();
            let message = batch.message.clone();
            self.unanswered.push_back(batch);
            return outgoing.send(message).await.map_err(|_| Status::unavailable("the call has ended"));
        }
        self.backoff.reset();
        let answer = if not_executed.is_none() && result.results.len() != batch.count {
            let detail = format!("{} results for {} transfers", result.results.len(), batch.count);
            Err(ClientError::Nonsense(detail))
        } else {
            Ok(result)
        };
        // Whoever sent it may not care any more.
        let _ = batch.reply.send(answer);
        Ok(())
    }

    fn fail_all(&mut self, status: &Status) {
        for batch in self.unanswered.drain(..) {
            // Whoever sent it may not care any more.
            let _ = batch.reply.send(Err(ClientError::Failed(Box::new(status.clone()))));
        }
    }

    fn give_up_on_the_oldest(&mut self, status: &Status) {
        let patience = self.options.patience;
        while self.unanswered.front().is_some_and(|batch| batch.first_sent.elapsed() >= patience) {
            let Some(batch) = self.unanswered.pop_front() else { return };
            let error = ClientError::Unanswered { patience, last: Box::new(status.clone()) };
            // Whoever sent it may not care any more.
            let _ = batch.reply.send(Err(error));
        }
    }
}
