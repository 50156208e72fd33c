//! Events as they come, over lost connections.

use tonic::{Status, Streaming};

use super::backoff::Backoff;
use super::{Client, ClientError, is_repeatable};
use crate::proto::{Event, EventBatch, SubscribeRequest};

/// The events that were asked for, each once and in order. It resumes by itself when the connection or the server is lost, and notices when
/// the server that comes back has another history.
pub struct Subscription {
    client: Client,
    /// From where to go on, and what is wanted.
    request: SubscribeRequest,
    batches: Option<Streaming<EventBatch>>,
    /// The last event of all accounts that was given out. It is asked for again after a loss.
    last: Option<Event>,
    /// It was asked for again, and has not come yet.
    awaits_last: bool,
    backoff: Backoff,
}

impl Subscription {
    pub(super) fn new(client: Client, request: SubscribeRequest) -> Subscription {
        let backoff = Backoff::new(&client.options);
        Subscription { client, request, batches: None, last: None, awaits_last: false, backoff }
    }

    /// Everything wanted up to this sequence was given out.
    pub fn position(&self) -> u64 {
        self.request.after
    }

    /// The next batch; it may be empty, and then only tells the position. Waits for as long as nothing happens, and fails when the server is
    /// not there for longer than [`super::Options::patience`]. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Result<EventBatch, ClientError> {
        loop {
            let batches = match &mut self.batches {
                Some(batches) => batches,
                None => {
                    let call =
                        async |mut wallet: super::WalletClient<_>, request| wallet.subscribe(request).await;
                    let mut request = self.request.clone();
                    self.awaits_last = self.last.is_some();
                    if let Some(last) = &self.last {
                        request.after = last.sequence - 1;
                    }
                    let opened = self.client.repeat(call, request).await?;
                    self.batches.insert(opened)
                }
            };
            let lost = match batches.message().await {
                Ok(Some(mut batch)) => {
                    self.backoff.reset();
                    self.recognize(&mut batch)?;
                    self.check(&batch)?;
                    self.request.after = batch.position;
                    if self.request.account_id.is_empty() {
                        self.last = batch.events.last().cloned().or(self.last.take());
                    }
                    return Ok(batch);
                }
                Ok(None) => Status::unavailable("the server ended the stream"),
                Err(status) => status,
            };
            self.batches = None;
            if !is_repeatable(&lost) {
                return Err(ClientError::Failed(Box::new(lost)));
            }
            tracing::debug!(status = %lost, after = self.request.after, "events are subscribed to again");
            tokio::time::sleep(self.backoff.next()).await;
        }
    }

    /// Takes the event out that was asked for again.
    fn recognize(&mut self, batch: &mut EventBatch) -> Result<(), ClientError> {
        if !self.awaits_last {
            return Ok(());
        }
        if !batch.events.is_empty() {
            let again = batch.events.remove(0);
            if Some(&again) != self.last.as_ref() {
                return Err(ClientError::OtherHistory { sequence: self.request.after });
            }
            self.awaits_last = false;
        }
        batch.position = batch.position.max(self.request.after);
        Ok(())
    }

    /// A gap would be silent for whoever only reads events.
    fn check(&self, batch: &EventBatch) -> Result<(), ClientError> {
        let mut last = self.request.after;
        for event in &batch.events {
            let follows = if self.request.account_id.is_empty() {
                event.sequence == last + 1
            } else {
                event.sequence > last
            };
            if !follows {
                let detail = format!("event {} does not follow event {last}", event.sequence);
                return Err(ClientError::Nonsense(detail));
            }
            last = event.sequence;
        }
        if batch.position < last {
            return Err(ClientError::Nonsense(format!("position {} before event {last}", batch.position)));
        }
        Ok(())
    }
}
