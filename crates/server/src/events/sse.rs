//! `GET /v1/wallet/events`: a subscription as server-sent events.

use std::collections::HashMap;
use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;

use api::request;
use api::{Code, Problem};
use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, HeaderValue, Response, header};
use ledger::Sequence;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;

use super::names::NameCache;
use super::{Delivery, Form, Next, NoRoom, Subscription};
use crate::{Node, query};

/// Pieces of text on their way to one connection, and the size of one: what it may hold besides its mailbox.
const PIECES_WAITING_MAX: usize = 1;
const PIECE_SIZE_BYTES: usize = 16 << 10;

/// Text of this size goes out as it is; smaller ones are copied together.
const SHARED_SIZE_BYTES_MIN: usize = 4 << 10;

const HEARTBEAT: Bytes = Bytes::from_static(b": still here\n\n");

/// Answers the request for a stream of events.
pub(crate) async fn serve(
    node: &Node,
    parameters: &HashMap<String, String>,
    headers: &HeaderMap,
) -> Result<Response<Body>, Problem> {
    let after = start(node, parameters, headers)?;
    query::reach_position(node, headers).await?;
    let account = match parameters.get("account") {
        None => None,
        Some(account) => Some(query::account_view(node, request::path_account(account)?).await?.number),
    };
    check_position(node, after)?;
    let subscription = node.events.subscribe(after, account, Form::Text).ok_or_else(|| too_many(node))?;
    let (pieces, body) = mpsc::channel(PIECES_WAITING_MAX);
    tokio::spawn(run(subscription, node.partition.number(), pieces));
    let mut response = Response::new(Body::from_stream(ReceiverStream::new(body)));
    let head = response.headers_mut();
    head.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    head.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // Proxies that collect answers would hold events back.
    head.insert("x-accel-buffering", HeaderValue::from_static("no"));
    Ok(response)
}

pub(crate) fn too_many(node: &Node) -> Problem {
    let max = node.events.config().subscribers_max;
    Problem::new(Code::Overloaded, format!("there are {max} subscribers already, which is the limit"))
}

/// The position that a client has seen must exist: one in the future is of another ledger, or a mistake.
pub(crate) fn check_position(node: &Node, after: Sequence) -> Result<(), Problem> {
    let committed = node.partition.committed();
    if after <= committed {
        return Ok(());
    }
    let detail = format!("sequence {} is in the future: the last event is {}", after.0, committed.0);
    Err(Problem::new(Code::InvalidRequest, detail))
}

/// The partition that is asked for must be this one.
pub(crate) fn check_partition(node: &Node, partition: u32) -> Result<(), Problem> {
    let own = node.partition.number();
    if partition == own {
        return Ok(());
    }
    Err(Problem::new(Code::InvalidRequest, format!("there is no partition {partition}, only {own}")))
}

/// The last sequence that the client has seen: what it resumes from, else what it asks for, else 0.
fn start(
    node: &Node,
    parameters: &HashMap<String, String>,
    headers: &HeaderMap,
) -> Result<Sequence, Problem> {
    let number = |name: &str| match parameters.get(name) {
        None => Ok(None),
        Some(text) => query::whole_number::<u64>(text).map(Some).ok_or_else(|| {
            let detail = format!("query parameter {name} must be a whole number, it is {text:?}");
            Problem::new(Code::InvalidRequest, detail)
        }),
    };
    let (partition, after) = (number("partition")?, number("after")?);
    if let Some(partition) = partition {
        check_partition(node, u32::try_from(partition).unwrap_or(u32::MAX))?;
    }
    let Some(last) = headers.get("last-event-id").filter(|last| !last.is_empty()) else {
        return Ok(Sequence(after.unwrap_or(0)));
    };
    let Some((partition, sequence)) = last.to_str().ok().and_then(position_of) else {
        let detail = format!("the header Last-Event-ID must be partition:sequence, it is {last:?}");
        return Err(Problem::new(Code::InvalidRequest, detail));
    };
    check_partition(node, partition)?;
    Ok(sequence)
}

/// Reads `partition:sequence`.
fn position_of(text: &str) -> Option<(u32, Sequence)> {
    let (partition, sequence) = text.split_once(':')?;
    Some((query::whole_number(partition)?, Sequence(query::whole_number(sequence)?)))
}

/// Writes the stream until it ends, or the client goes away.
async fn run(
    mut subscription: Subscription,
    partition: u32,
    pieces: mpsc::Sender<Result<Bytes, Infallible>>,
) {
    let shared = Arc::clone(subscription.shared());
    let heartbeat = shared.config.heartbeat;
    let mut silent_until = Instant::now() + heartbeat;
    let mut silence = pin!(tokio::time::sleep_until(silent_until));
    let mut unsent = Unsent { names: &shared.names, delivery: None, next: 0 };
    loop {
        let next = tokio::select! {
            next = subscription.next() => next,
            () = &mut silence => {
                // Setting the alarm anew for each event would cost more than waking up in vain now and then.
                let is_silent = Instant::now() >= silent_until;
                silence.as_mut().reset(if is_silent { Instant::now() + heartbeat } else { silent_until });
                if is_silent { Next::Position } else { continue }
            },
            () = pieces.closed() => return,
        };
        let ending = match next {
            Next::Events(delivery) => {
                unsent.add(delivery);
                None
            }
            Next::Position if Instant::now() < silent_until => continue,
            Next::Position => None,
            Next::Stopped => return,
            Next::Dropped => Some("too_slow"),
            Next::Failed => Some("unreadable"),
        };
        if let Some(reason) = ending {
            let last = last_event(partition, subscription.position(), reason);
            return finish(subscription, unsent, last, &pieces).await;
        }
        loop {
            match subscription.room(&pieces).await {
                // What has come while there was no room goes along.
                Ok(room) => room.send(Ok(unsent.piece(|| subscription.waiting()).unwrap_or(HEARTBEAT))),
                Err(NoRoom::Gone) => return,
                Err(NoRoom::TooSlow) => {
                    let last = last_event(partition, subscription.position(), "too_slow");
                    return finish(subscription, unsent, last, &pieces).await;
                }
            }
            if unsent.is_empty() {
                break;
            }
        }
        silent_until = Instant::now() + heartbeat;
    }
}

/// Events that were taken from a subscription and not sent yet.
struct Unsent<'names> {
    names: &'names NameCache,
    delivery: Option<Delivery>,
    /// The first of the delivery that was not sent.
    next: usize,
}

impl Unsent<'_> {
    /// Only when it is empty.
    fn add(&mut self, delivery: Delivery) {
        (self.delivery, self.next) = (Some(delivery), 0);
    }

    fn is_empty(&self) -> bool {
        self.delivery.as_ref().is_none_or(|delivery| self.next == delivery.count())
    }

    /// Events that stand together, from this delivery or `more`.
    fn part(&mut self, more: &mut impl FnMut() -> Option<Delivery>) -> Option<Bytes> {
        if self.is_empty() {
            self.add(more()?);
        }
        self.delivery.as_ref()?.sse(self.names, &mut self.next, PIECE_SIZE_BYTES)
    }

    /// What is sent at once: events that stand together, or lone ones put together, for each piece is a system call.
    fn piece(&mut self, mut more: impl FnMut() -> Option<Delivery>) -> Option<Bytes> {
        let first = self.part(&mut more)?;
        if first.len() >= SHARED_SIZE_BYTES_MIN {
            return Some(first);
        }
        let Some(second) = self.part(&mut more) else { return Some(first) };
        let mut piece = [first, second].concat();
        while piece.len() < PIECE_SIZE_BYTES
            && let Some(part) = self.part(&mut more)
        {
            piece.extend_from_slice(&part);
        }
        Some(piece.into())
    }
}

/// Sends what is left, however long the client takes to read it. It is a subscriber no more.
async fn finish(
    subscription: Subscription,
    mut unsent: Unsent<'_>,
    last: Bytes,
    pieces: &mpsc::Sender<Result<Bytes, Infallible>>,
) {
    drop(subscription);
    while let Some(piece) = unsent.piece(|| None) {
        if pieces.send(Ok(piece)).await.is_err() {
            return;
        }
    }
    // The client may go at this moment.
    let _ = pieces.send(Ok(last)).await;
}

/// Tells why nothing follows, and with its id where to resume.
fn last_event(partition: u32, position: Sequence, reason: &str) -> Bytes {
    let data = json!({ "reason": reason, "partition": partition, "resume_after": position.0 });
    format!("id: {partition}:{}\nevent: dropped\ndata: {data}\n\n", position.0).into()
}
