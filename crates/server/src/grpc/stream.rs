//! The stream of batches: read, submitted, answered in order.
//!
//! Two tasks serve a stream. The first takes a batch only when there is room for its answer and room in the partition's queue:
//! what it does not take stays with the client, by the flow control of HTTP/2. The second waits for each batch to be durable,
//! and writes its result. A batch wakes the network thread once, whatever its size.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use api::problem::{Problem, Subject};
use api::request::TRANSFERS_MAX;
use api::wire::{Batch, Message, ResultWriter, Success, Transfers};
use api::{Code, wire};
use distributed::wallet::{TransferResult, Wallet};
use ledger::{Sequence, Timestamp, Transfer};
use shards::partition::TransferAnswer;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Status, Streaming};
use tracing::{Instrument, Span};

use crate::backend::{Backend, TransferAnswers};
use crate::{Node, Shared, query, spans};

/// Batches of one stream that may wait for the disk.
const BATCHES_IN_FLIGHT_MAX: usize = 16;
/// Results that may wait for the client to read them.
const RESULTS_WAITING_MAX: usize = 2;
/// How long to wait before a full queue is looked at again.
const FULL_QUEUE_PAUSE: Duration = Duration::from_millis(1);

/// A batch whose answers are awaited.
struct Submitted {
    batch_id: u64,
    count: usize,
    malformed: Vec<(usize, Problem)>,
    /// To word refusals: the transfers themselves went to the ledger.
    message: Message,
    answers: Answers,
    /// Ends when the batch was answered.
    _span: Span,
}

enum Answers {
    /// At least one transfer went to the ledger.
    Awaited(oneshot::Receiver<Vec<TransferAnswer>>),
    /// At least one transfer went to the shards.
    AwaitedFromShards(JoinHandle<Vec<TransferResult>>),
    /// The batch was not executed.
    Refused(Problem),
    /// Nothing in it could be executed.
    NoneWellFormed,
}

/// What ends a stream from the server's side, after everything before it was answered.
type Ending = Result<(), Status>;

/// Serves one stream.
pub(super) fn start(
    backend: Backend,
    shared: Arc<Shared>,
    stopped: watch::Receiver<bool>,
    request: Request<Streaming<Message>>,
) -> ReceiverStream<Result<Message, Status>> {
    let (submitted, awaited) = mpsc::channel(BATCHES_IN_FLIGHT_MAX);
    let (results, answered) = mpsc::channel(RESULTS_WAITING_MAX);
    let patience = shared.config.request_timeout;
    let answering = backend.clone();
    let reading = tokio::spawn(read(backend, shared, stopped, request, submitted));
    tokio::spawn(async move {
        if let Err(status) = answer(&answering, patience, awaited, &results).await {
            // The client may have gone away meanwhile.
            let _ = results.send(Err(status)).await;
            reading.abort();
            return;
        }
        if let Ok(Err(status)) = reading.await {
            let _ = results.send(Err(status)).await;
        }
    });
    ReceiverStream::new(answered)
}

async fn read(
    backend: Backend,
    shared: Arc<Shared>,
    mut stopped: watch::Receiver<bool>,
    request: Request<Streaming<Message>>,
    submitted: mpsc::Sender<Submitted>,
) -> Ending {
    let (metadata, _, mut batches) = request.into_parts();
    let traceparent = spans::traceparent(metadata.as_ref());
    loop {
        // Without a reader of results the client is gone.
        let Ok(room) = submitted.reserve().await else { return Ok(()) };
        let message = tokio::select! {
            message = batches.message() => message?,
            // An error means that the server is gone, which is to stop as well.
            _ = stopped.wait_for(|stopped| *stopped) => {
                return Err(Status::unavailable("unavailable: the server is stopping; repeat what was not answered"));
            }
        };
        let Some(message) = message else { return Ok(()) };
        room.send(submit(&backend, &shared, message, traceparent).await?);
    }
}

async fn submit(
    backend: &Backend,
    shared: &Shared,
    message: Message,
    traceparent: Option<&str>,
) -> Result<Submitted, Status> {
    let buffer = match backend {
        Backend::EventSourced(node) => node.partition.transfers_buffer(),
        Backend::Distributed(_) => Vec::new(),
    };
    let batch =
        Batch::read_into(&message, buffer).map_err(|error| Status::invalid_argument(error.to_string()))?;
    let Batch { batch_id, count, transfers, malformed } = batch;
    shared.metrics.batches.fetch_add(1, Ordering::Relaxed);
    shared.metrics.batch_transfers.fetch_add(count as u64, Ordering::Relaxed);
    let span = spans::batch(count, traceparent);
    let answers = if count > TRANSFERS_MAX {
        let detail = format!("transfers has {count} elements, at most {TRANSFERS_MAX} are taken");
        Answers::Refused(Problem::new(Code::RequestTooLarge, detail))
    } else if count == 0 {
        Answers::Refused(Problem::new(Code::InvalidRequest, "transfers is empty"))
    } else if transfers.is_empty() {
        Answers::NoneWellFormed
    } else {
        match backend {
            Backend::EventSourced(node) => execute(node, shared, transfers).await,
            Backend::Distributed(wallet) => execute_on_shards(Arc::clone(wallet), transfers, span.clone()),
        }
    };
    Ok(Submitted { batch_id, count, malformed, message, answers, _span: span })
}

/// Waits for room in the queue, up to the time that a request may take.
async fn execute(node: &Node, shared: &Shared, transfers: Vec<ledger::Transfer>) -> Answers {
    let deadline = Instant::now() + shared.config.request_timeout;
    while !node.partition.has_room_for(transfers.len()) && Instant::now() < deadline {
        tokio::time::sleep(FULL_QUEUE_PAUSE).await;
    }
    let (sender, answers) = oneshot::channel();
    let submitted = node.partition.submit_transfers(transfers, move |answers| {
        // The client may have gone away meanwhile.
        let _ = sender.send(answers);
    });
    match submitted {
        Ok(()) => Answers::Awaited(answers),
        Err(refused) => Answers::Refused(query::not_accepted(refused)),
    }
}

/// The wallet bounds what is under way; the stream bounds its batches.
fn execute_on_shards(wallet: Arc<dyn Wallet>, transfers: Vec<Transfer>, span: Span) -> Answers {
    let executed = async move { wallet.transfers(transfers).await };
    Answers::AwaitedFromShards(tokio::spawn(executed.instrument(span)))
}

async fn answer(
    backend: &Backend,
    patience: Duration,
    mut awaited: mpsc::Receiver<Submitted>,
    results: &mpsc::Sender<Result<Message, Status>>,
) -> Ending {
    let partition = backend.default_partition();
    while let Some(mut batch) = awaited.recv().await {
        let answers = match &mut batch.answers {
            Answers::Refused(problem) => {
                let (code, detail) = (problem.code.name(), &problem.detail);
                let message = ResultWriter::refused_batch(batch.batch_id, partition, code, detail);
                if results.send(Ok(message)).await.is_err() {
                    return Ok(());
                }
                continue;
            }
            Answers::NoneWellFormed => TransferAnswers::none(),
            Answers::Awaited(answers) => {
                TransferAnswers::Partition { partition, answers: in_time(patience, answers).await? }
            }
            Answers::AwaitedFromShards(answers) => TransferAnswers::Shards(in_time(patience, answers).await?),
        };
        let message = write(partition, &batch, &answers);
        if let (Backend::EventSourced(node), TransferAnswers::Partition { answers, .. }) = (backend, answers)
        {
            node.partition.recycle(answers);
        }
        if results.send(Ok(message)).await.is_err() {
            return Ok(());
        }
    }
    Ok(())
}

/// The answers of a batch, unless they take too long.
async fn in_time<Answered, Lost>(
    patience: Duration,
    answers: impl Future<Output = Result<Answered, Lost>>,
) -> Result<Answered, Status> {
    match tokio::time::timeout(patience, answers).await {
        Ok(Ok(answers)) => Ok(answers),
        Ok(Err(_)) => {
            Err(Status::unavailable("unavailable: the server stopped; repeat what was not answered"))
        }
        Err(_) => Err(Status::unavailable(
            "unavailable: a batch took too long and its outcome is not known; repeat what was not answered",
        )),
    }
}

/// One result per transfer of the batch, the malformed ones in their places.
fn write(partition: u32, batch: &Submitted, answers: &TransferAnswers) -> wire::Message {
    assert_eq!(answers.len() + batch.malformed.len(), batch.count, "every transfer has an answer");
    let mut writer = ResultWriter::new(batch.batch_id, partition, batch.count);
    let mut transfers = Transfers::of(&batch.message);
    let mut malformed = batch.malformed.iter().peekable();
    let mut indices = 0..answers.len();
    for index in 0..batch.count {
        if let Some((_, problem)) = malformed.next_if(|(at, _)| *at == index) {
            not_executed(&mut writer, problem);
            continue;
        }
        let answer = answers.get(indices.next().expect("every well-formed transfer has an answer"));
        let (elsewhere, answer) = match answer {
            Ok(answer) => answer,
            Err(problem) => {
                not_executed(&mut writer, &problem);
                continue;
            }
        };
        writer.located(if elsewhere == partition { 0 } else { elsewhere });
        let TransferAnswer { sequence, timestamp, replayed, outcome } = *answer;
        match outcome {
            Ok(after) => {
                let success = Success { from_balance: after.from, to_balance: after.to };
                writer.success(sequence, timestamp, replayed, success);
            }
            Err(refusal) => {
                let transfer = transfers.at(index).expect("the message was read before");
                let problem = Problem::refused(&refusal, &Subject::of_transfer(&transfer));
                writer.refused(sequence, timestamp, replayed, problem.code.name(), &problem.detail);
            }
        }
    }
    writer.finish()
}

/// A transfer that has no position: it was malformed, or has no answer.
fn not_executed(writer: &mut ResultWriter, problem: &Problem) {
    writer.refused(Sequence(0), Timestamp::default(), false, problem.code.name(), &problem.detail);
}
