//! Events as they come, over lost connections.

use tonic::{Status, Streaming};

use super::backoff::Backoff;
use super::{Client, ClientError, is_repeatable};
use crate::proto::{EventBatch, SubscribeRequest};

/// The events that were asked for, each once and in order. It resumes by itself when the connection or the server is lost.
pub struct Subscription {
    client: Client,
    /// From where to go on, and what is wanted.
    request: SubscribeRequest,
    batches: Option<Streaming<EventBatch>>,
    backoff: Backoff,
}

impl Subscription {
    pub(super) fn new(client: Client, request: SubscribeRequest) -> Subscription {
        let backoff = Backoff::new(&client.options);
        Subscription { client, request, batches: None, backoff }
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
                    let opened = self.client.repeat(call, self.request.clone()).await?;
                    self.batches.insert(opened)
                }
            };
            let lost = match batches.message().await {
                Ok(Some(batch)) => {
                    self.backoff.reset();
                    self.check(&batch)?;
                    self.request.after = batch.position;
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
