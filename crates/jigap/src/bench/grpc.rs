//! Transfers over the gRPC stream: batches are encoded by hand into the bytes that travel, results are scanned and dropped.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Instant;

use anyhow::{Context, anyhow};
use api::proto::wallet_client::WalletClient;
use api::wire::Message;
use tokio::sync::mpsc;
use tokio::task::LocalSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::{Channel, Endpoint};

use super::Target;
use super::accounts::Accounts;
use super::load::{Due, Load, Next, Plan};
use super::message::{BatchEncoder, Outcome, read_outcome};
use crate::exit::{Exit, Failure, OrExit};

/// What the wallet may send before it must wait for us, per stream.
const STREAM_WINDOW_SIZE_BYTES: u32 = 8 << 20;
const CONNECTION_WINDOW_SIZE_BYTES: u32 = 16 << 20;
/// What the wallet may send in one frame of HTTP/2.
const FRAME_SIZE_BYTES: u32 = 256 << 10;
/// A result in which every transfer of a full batch was refused, in words.
const MESSAGE_SIZE_BYTES_MAX: usize = 16 << 20;

/// Runs the load.
pub(super) fn run(target: &Target, plan: &Plan, accounts: &Accounts, load: Load) -> Result<Load, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the asynchronous runtime")?;
    let load = Rc::new(RefCell::new(load));
    let encoder = Rc::new(BatchEncoder::new(plan, accounts));
    let shared = Rc::clone(&load);
    LocalSet::new()
        .block_on(&runtime, async move {
            let mut streams = Vec::new();
            for _ in 0..plan.connections {
                streams.push(Stream::open(target, plan, &shared, &encoder).await?);
            }
            shared.borrow_mut().restart_clock();
            let tasks: Vec<_> =
                streams.into_iter().map(|stream| tokio::task::spawn_local(stream.run())).collect();
            for task in tasks {
                task.await.context("a stream panicked")??;
            }
            Ok::<(), anyhow::Error>(())
        })
        .or_exit(Exit::Unavailable)?;
    drop(runtime);
    let load = Rc::into_inner(load).expect("all streams have ended");
    Ok(load.into_inner())
}

/// One stream on a connection of its own.
struct Stream {
    requests: mpsc::Sender<Message>,
    results: Streaming<Message>,
    under_way: VecDeque<Due>,
    in_flight_max: usize,
    load: Rc<RefCell<Load>>,
    encoder: Rc<BatchEncoder>,
}

impl Stream {
    async fn open(
        target: &Target,
        plan: &Plan,
        load: &Rc<RefCell<Load>>,
        encoder: &Rc<BatchEncoder>,
    ) -> anyhow::Result<Stream> {
        let url = format!("http://{}", target.grpc);
        let endpoint: Endpoint = Channel::from_shared(url.clone())?;
        let channel = endpoint
            .connect_timeout(target.timeout)
            .initial_stream_window_size(STREAM_WINDOW_SIZE_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_SIZE_BYTES)
            .max_frame_size(FRAME_SIZE_BYTES)
            .tcp_nodelay(true)
            .connect()
            .await
            .with_context(|| format!("cannot connect to {url}"))?;
        let in_flight_max = plan.in_flight as usize;
        let (requests, waiting) = mpsc::channel(in_flight_max);
        let mut client = WalletClient::new(channel).max_decoding_message_size(MESSAGE_SIZE_BYTES_MAX);
        let results = client
            .transfers(ReceiverStream::new(waiting))
            .await
            .with_context(|| format!("cannot open a stream to {url}"))?
            .into_inner();
        let (load, encoder) = (Rc::clone(load), Rc::clone(encoder));
        Ok(Stream { requests, results, under_way: VecDeque::new(), in_flight_max, load, encoder })
    }

    /// Keeps batches under way until the load is over and every batch was answered.
    async fn run(mut self) -> anyhow::Result<()> {
        let deadline = self.load.borrow().deadline();
        loop {
            let next = self.send_what_is_due().await?;
            let wake = match next {
                Next::Over if self.under_way.is_empty() => return Ok(()),
                Next::At(until) => until.min(deadline),
                Next::Over | Next::Now(_) => deadline,
            };
            tokio::select! {
                result = self.results.message() => match result {
                    Ok(Some(message)) => self.take(&message)?,
                    Ok(None) => return self.lost("the wallet ended the stream"),
                    Err(status) => return self.lost(&format!("the stream broke: {status}")),
                },
                () = tokio::time::sleep_until(wake.into()) => {
                    if Instant::now() >= deadline {
                        return self.lost("no answer in time");
                    }
                }
            }
        }
    }

    /// Answers why it stopped: nothing due, nothing left, or (`Now`) no room.
    async fn send_what_is_due(&mut self) -> anyhow::Result<Next> {
        loop {
            let now = Instant::now();
            if self.under_way.len() == self.in_flight_max {
                let no_room = self.under_way[0];
                return Ok(Next::Now(no_room));
            }
            let (due, message) = {
                let mut load = self.load.borrow_mut();
                match load.next(now) {
                    Next::Now(due) => (due, self.encoder.encode(load.workload(), &due)),
                    other => return Ok(other),
                }
            };
            self.under_way.push_back(due);
            self.requests.send(message).await.map_err(|_| anyhow!("the stream was closed"))?;
        }
    }

    fn take(&mut self, message: &Message) -> anyhow::Result<()> {
        let outcome = read_outcome(&message.0).context("a result is no protobuf")?;
        let due = self.under_way.pop_front().ok_or_else(|| anyhow!("a result came for no batch"))?;
        let mut load = self.load.borrow_mut();
        let Outcome { batch_id, results, refused, unanswered, code } = outcome;
        anyhow::ensure!(batch_id == due.batch, "the result of batch {batch_id} came for batch {}", due.batch);
        match code {
            None => {
                let expected = load.workload().batch();
                anyhow::ensure!(results == expected, "{results} results for {expected} transfers");
                match unanswered {
                    0 => load.acknowledged(&due, Instant::now(), refused),
                    _ => load.failed(|| format!("{unanswered} of {results} transfers had no answer")),
                }
            }
            Some(code) => load.failed(|| format!("a whole batch was refused: {code}")),
        }
        Ok(())
    }

    fn lost(&mut self, why: &str) -> anyhow::Result<()> {
        let mut load = self.load.borrow_mut();
        for _ in self.under_way.drain(..) {
            load.failed(|| why.to_owned());
        }
        Ok(())
    }
}
