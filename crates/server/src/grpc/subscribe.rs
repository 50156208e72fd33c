//! A subscription to events as a gRPC stream.

use api::proto::{EventBatch, SubscribeRequest};
use api::{Code, Problem, grpc as message, request};
use ledger::Sequence;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use crate::events::{self, Delivery, Form, Next, Subscription};
use crate::{Node, query};

/// Batches on their way to one client.
const BATCHES_WAITING_MAX: usize = 1;
/// Events in one batch: some 100 KiB.
const BATCH_EVENTS_MAX: usize = 512;

/// Starts the stream that is asked for.
pub(super) async fn start(
    node: &Node,
    asked: &SubscribeRequest,
) -> Result<ReceiverStream<Result<EventBatch, Status>>, Problem> {
    events::check_partition(node, asked.partition)?;
    let account = match asked.account_id.as_str() {
        "" => None,
        account => Some(query::account_view(node, request::path_account(account)?).await?.number),
    };
    let after = Sequence(asked.after);
    events::check_position(node, after)?;
    let subscription =
        node.events.subscribe(after, account, Form::Messages).ok_or_else(|| events::too_many(node))?;
    let (batches, sent) = mpsc::channel(BATCHES_WAITING_MAX);
    tokio::spawn(run(node.clone(), subscription, batches));
    Ok(ReceiverStream::new(sent))
}

/// Sends until the subscription ends, or the client goes away.
async fn run(node: Node, mut subscription: Subscription, batches: mpsc::Sender<Result<EventBatch, Status>>) {
    let heartbeat = node.events.config().heartbeat;
    // The first batch tells at once how far the ledger is.
    let mut silent_until = Instant::now();
    loop {
        let next = tokio::select! {
            next = subscription.next() => next,
            () = tokio::time::sleep_until(silent_until) => Next::Position,
            () = batches.closed() => return,
        };
        let position = subscription.position().0;
        let ending = |why: &str| Status::unavailable(format!("unavailable: {why}; resume after {position}"));
        let sent = match next {
            Next::Events(delivery) => send(&node, &delivery, &batches).await,
            Next::Position if Instant::now() < silent_until => continue,
            Next::Position => batches.send(Ok(batch(&node, Vec::new(), position))).await.is_ok(),
            Next::Stopped => {
                // The client may have gone away meanwhile.
                let _ = batches.send(Err(ending("the server is stopping"))).await;
                return;
            }
            Next::Dropped => {
                let _ = batches.send(Err(ending("the client read nothing for too long"))).await;
                return;
            }
            Next::Failed => {
                let problem = Problem::new(Code::Unavailable, "the journal cannot be read");
                let _ = batches.send(Err(message::status(&problem))).await;
                return;
            }
        };
        if !sent {
            return;
        }
        silent_until = Instant::now() + heartbeat;
    }
}

/// False when the client is gone.
async fn send(node: &Node, delivery: &Delivery, batches: &mpsc::Sender<Result<EventBatch, Status>>) -> bool {
    let (partition, names) = (node.partition.number(), node.events.names());
    let mut events = delivery.events().peekable();
    while events.peek().is_some() {
        let some = events.by_ref().take(BATCH_EVENTS_MAX);
        let some = some.map(|event| message::event(partition, &event.record, event.command.as_ref(), names));
        let some: Vec<_> = some.collect();
        let position = some.last().map_or(0, |event| event.sequence);
        if batches.send(Ok(batch(node, some, position))).await.is_err() {
            return false;
        }
    }
    true
}

fn batch(node: &Node, events: Vec<api::proto::Event>, position: u64) -> EventBatch {
    EventBatch { events, position, committed: node.partition.committed().0 }
}
