//! A subscription to events as a gRPC stream.

use api::proto::{EventBatch, SubscribeRequest};
use api::{Code, Problem, grpc as message, request};
use ledger::Sequence;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use crate::events::{self, Delivery, Form, Next, NoRoom, Subscription};
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
    let mut sent = subscription.position();
    let last = loop {
        let next = tokio::select! {
            next = subscription.next() => next,
            () = tokio::time::sleep_until(silent_until) => Next::Position,
            () = batches.closed() => return,
        };
        if !matches!(next, Next::Events(_)) {
            sent = subscription.position();
        }
        let ending = |why: &str, sent: Sequence| {
            Status::unavailable(format!("unavailable: {why}; resume after {}", sent.0))
        };
        let went = match next {
            Next::Events(delivery) => send(&node, &subscription, &delivery, &batches, &mut sent).await,
            Next::Position if Instant::now() < silent_until => continue,
            Next::Position => {
                let room = subscription.room(&batches).await;
                room.map(|room| room.send(Ok(batch(&node, Vec::new(), sent))))
            }
            Next::Stopped => break ending("the server is stopping", sent),
            Next::Dropped => Err(NoRoom::TooSlow),
            Next::Failed => {
                break message::status(&Problem::new(Code::Unavailable, "the journal cannot be read"));
            }
        };
        match went {
            Ok(()) => silent_until = Instant::now() + heartbeat,
            Err(NoRoom::Gone) => return,
            Err(NoRoom::TooSlow) => break ending("the client read nothing for too long", sent),
        }
    };
    // It is a subscriber no more: this is for when it reads again, unless it has gone away meanwhile.
    drop(subscription);
    let _ = batches.send(Err(last)).await;
}

/// Sends the events, and tells what the last one sent was.
async fn send(
    node: &Node,
    subscription: &Subscription,
    delivery: &Delivery,
    batches: &mpsc::Sender<Result<EventBatch, Status>>,
    sent: &mut Sequence,
) -> Result<(), NoRoom> {
    let (partition, names) = (node.partition.number(), node.events.names());
    let mut events = delivery.events().peekable();
    while events.peek().is_some() {
        let some: Vec<_> = events.by_ref().take(BATCH_EVENTS_MAX).collect();
        let last = some.last().map_or(*sent, |event| event.record.sequence);
        let some = some
            .into_iter()
            .map(|event| message::event(partition, &event.record, event.command.as_ref(), names))
            .collect();
        subscription.room(batches).await?.send(Ok(batch(node, some, last)));
        *sent = last;
    }
    Ok(())
}

fn batch(node: &Node, events: Vec<api::proto::Event>, position: Sequence) -> EventBatch {
    EventBatch { events, position: position.0, committed: node.partition.committed().0 }
}
