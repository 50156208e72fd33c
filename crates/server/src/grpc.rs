//! gRPC: a stream of batches for volume ([`stream`]), unary calls for everything else, and reflection.

mod connection;
mod stream;
mod subscribe;

use std::sync::Arc;
use std::time::Duration;

use api::grpc::{self as message, POSITION_KEY};
use api::proto::wallet_server::{Wallet, WalletServer};
use api::proto::{self, CommandResult};
use api::response::Position;
use api::{Code, Problem, problem::Subject, wire};
use distributed::ShardTotals;
use distributed::wallet::{self, Located};
use ledger::{Command, Sequence, Timestamp, Transfer, TransferKind};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};
use views::HistoryQuery;

use crate::backend::{Backend, Found, Totals};
use crate::query::{self, Outcome};
use crate::{Shared, spans};

/// The largest message: a batch in which every transfer has long names and all the metadata that it may have.
const MESSAGE_SIZE_BYTES_MAX: usize = 16 << 20;
/// How much of a stream may be on its way before the server has read it: a few batches.
const STREAM_WINDOW_SIZE_BYTES: u32 = 4 << 20;
/// The same for all streams of a connection.
const CONNECTION_WINDOW_SIZE_BYTES: u32 = 16 << 20;
const FRAME_SIZE_BYTES: u32 = 256 << 10;
/// Calls that one connection may have open.
const CALLS_PER_CONNECTION_MAX: u32 = 1024;
/// A connection that is silent for so long is asked for a sign of life.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
/// A connection that gives none in this time is closed.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);

/// Serves until `stop` resolves, then takes no more connections and batches, and lets those that are busy finish.
pub(crate) async fn serve(listener: TcpListener, shared: Arc<Shared>, stop: impl Future<Output = ()>) {
    let (stopping, stopped) = watch::channel(false);
    let connections_max = shared.config.connections_max;
    let wallet = WalletServer::new(WalletService { shared, stopped })
        .max_decoding_message_size(MESSAGE_SIZE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_SIZE_BYTES_MAX);
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(proto::DESCRIPTORS)
    };
    let reflection_v1 = reflection().build_v1().expect("the descriptors were made by the build");
    let reflection_v1alpha = reflection().build_v1alpha().expect("the descriptors were made by the build");
    let served = Server::builder()
        .trace_fn(spans::call)
        .initial_stream_window_size(STREAM_WINDOW_SIZE_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_SIZE_BYTES)
        .max_frame_size(FRAME_SIZE_BYTES)
        .max_concurrent_streams(CALLS_PER_CONNECTION_MAX)
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .add_service(wallet)
        .add_service(reflection_v1)
        .add_service(reflection_v1alpha)
        .serve_with_incoming_shutdown(connection::incoming(listener, connections_max), async {
            stop.await;
            stopping.send_replace(true);
        })
        .await;
    if let Err(error) = served {
        tracing::error!(%error, "gRPC ended early");
    }
}

struct WalletService {
    shared: Arc<Shared>,
    /// Turns true when the server is told to stop.
    stopped: watch::Receiver<bool>,
}

type Answer<Message> = Result<Response<Message>, Status>;

/// An answer that tells the client up to where it has seen the ledger.
fn at_position<Message>(message: Message, partition: u32, sequence: Sequence) -> Response<Message> {
    let mut response = Response::new(message);
    if let Ok(position) = format!("{partition}:{}", sequence.0).parse() {
        response.metadata_mut().insert(POSITION_KEY, position);
    }
    response
}

impl WalletService {
    fn backend(&self) -> Result<&Backend, Problem> {
        self.shared.backend()
    }

    /// Counts the call, and answers when it takes too long.
    async fn observe<Message>(
        &self,
        method: &'static str,
        answer: impl Future<Output = Result<Response<Message>, Problem>>,
    ) -> Answer<Message> {
        let answer = match tokio::time::timeout(self.shared.config.request_timeout, answer).await {
            Ok(answer) => answer.map_err(|problem| message::status(&problem)),
            Err(_) => Err(Status::unavailable(
                "unavailable: the call took too long and its outcome is not known; repeat it with the same id",
            )),
        };
        let code = answer.as_ref().err().map_or(tonic::Code::Ok, Status::code);
        spans::called(code as i32);
        self.shared.metrics.count_call(method, code as i32);
        answer
    }

    async fn transfer_command(
        &self,
        method: &'static str,
        transfer: Result<Transfer, Problem>,
    ) -> Answer<CommandResult> {
        self.observe(method, async {
            let backend = self.backend()?;
            let transfer = match transfer {
                Ok(transfer) => transfer,
                Err(problem) => return Ok(malformed(backend, &problem)),
            };
            let (subject, money) = (Subject::of_transfer(&transfer), (transfer.amount, transfer.currency));
            let Located { partition, value: answer } = backend.transfer(transfer).await?;
            let position = Position { partition, sequence: answer.sequence, timestamp: answer.timestamp };
            let result = match &answer.outcome {
                Ok(after) => message::transferred(money, position, answer.replayed, (after.from, after.to)),
                Err(refusal) => {
                    message::refused(&Problem::refused(refusal, &subject), position, answer.replayed)
                }
            };
            Ok(at_position(result, partition, answer.sequence))
        })
        .await
    }

    async fn command(
        &self,
        method: &'static str,
        command: Result<Command, Problem>,
    ) -> Answer<CommandResult> {
        self.observe(method, async {
            let backend = self.backend()?;
            let command = match command {
                Ok(command) => command,
                Err(problem) => return Ok(malformed(backend, &problem)),
            };
            let Located { partition, value } = query::execute(backend, command).await?;
            let result = match value {
                Outcome::Executed { records, replayed } => message::executed(partition, &records, replayed),
                Outcome::Refused { problem, sequence, timestamp, replayed } => {
                    let sequence = sequence.unwrap_or_default();
                    message::refused(&problem, Position { partition, sequence, timestamp }, replayed)
                }
                Outcome::Account { account, .. } => CommandResult {
                    partition,
                    sequence: account.row.sequence.0,
                    timestamp_micros: account.row.timestamp.as_micros(),
                    ..CommandResult::default()
                },
            };
            let sequence = Sequence(result.sequence);
            Ok(at_position(result, partition, sequence))
        })
        .await
    }
}

/// A command that is malformed is a result like any other refusal.
fn malformed(backend: &Backend, problem: &Problem) -> Response<CommandResult> {
    let partition = backend.default_partition();
    let nowhere = Position { partition, sequence: Sequence(0), timestamp: Timestamp::default() };
    Response::new(message::refused(problem, nowhere, false))
}

/// What became of opening an account, and the position that it rests on.
fn opened_account(outcome: Located<Outcome>) -> Result<(proto::OpenAccountResult, Sequence), Problem> {
    match outcome.value {
        Outcome::Account { account, existed } => {
            let sequence = account.row.sequence;
            let account = Some(message::account(&account.shown(outcome.partition)));
            let result = proto::OpenAccountResult { account, existed, ..proto::OpenAccountResult::default() };
            Ok((result, sequence))
        }
        Outcome::Refused { problem, sequence, .. } => {
            let (code, detail) = (problem.code.name().into(), problem.detail);
            let result = proto::OpenAccountResult { code, detail, ..proto::OpenAccountResult::default() };
            Ok((result, sequence.unwrap_or_default()))
        }
        Outcome::Executed { .. } => {
            Err(Problem::new(Code::Unavailable, "opening an account was answered with other events"))
        }
    }
}

#[tonic::async_trait]
impl Wallet for WalletService {
    type TransfersStream = ReceiverStream<Result<wire::Message, Status>>;

    async fn transfers(&self, request: Request<Streaming<wire::Message>>) -> Answer<Self::TransfersStream> {
        let backend = self.backend().map_err(|problem| message::status(&problem))?.clone();
        let results = stream::start(backend, Arc::clone(&self.shared), self.stopped.clone(), request);
        Ok(Response::new(results))
    }

    type SubscribeStream = ReceiverStream<Result<proto::EventBatch, Status>>;

    async fn subscribe(&self, request: Request<proto::SubscribeRequest>) -> Answer<Self::SubscribeStream> {
        self.observe("Subscribe", async {
            let node = self.backend()?.event_sourced("a subscription to events")?;
            query::reach_position(node, request.metadata().as_ref()).await?;
            Ok(Response::new(subscribe::start(node, request.get_ref()).await?))
        })
        .await
    }

    async fn open_account(
        &self,
        request: Request<proto::OpenAccountRequest>,
    ) -> Answer<proto::OpenAccountResult> {
        self.observe("OpenAccount", async {
            let command = message::open_account(request.get_ref());
            let outcomes = query::execute_all(self.backend()?, std::iter::once(command)).await?;
            let opened = outcomes.into_iter().next().expect("one command has one outcome");
            let partition = opened.partition;
            let (result, sequence) = opened_account(opened)?;
            Ok(at_position(result, partition, sequence))
        })
        .await
    }

    async fn open_accounts(
        &self,
        request: Request<proto::OpenAccountsRequest>,
    ) -> Answer<proto::OpenAccountsResult> {
        self.observe("OpenAccounts", async {
            let backend = self.backend()?;
            message::check_open_accounts(request.get_ref())?;
            let commands = request.get_ref().accounts.iter().map(message::open_account);
            let mut results = Vec::with_capacity(request.get_ref().accounts.len());
            let mut last = (backend.default_partition(), Sequence(0));
            for outcome in query::execute_all(backend, commands).await? {
                let partition = outcome.partition;
                let (result, sequence) = opened_account(outcome)?;
                // Positions of several shards cannot be compared; over shards any of them will do.
                last =
                    if partition == last.0 { last.max((partition, sequence)) } else { (partition, sequence) };
                results.push(result);
            }
            let (partition, sequence) = last;
            Ok(at_position(proto::OpenAccountsResult { results }, partition, sequence))
        })
        .await
    }

    async fn close_account(&self, request: Request<proto::CloseAccountRequest>) -> Answer<CommandResult> {
        self.command("CloseAccount", message::close_account(request.get_ref())).await
    }

    async fn deposit(&self, request: Request<proto::OutsideRequest>) -> Answer<CommandResult> {
        let transfer = message::outside(TransferKind::Deposit, request.get_ref());
        self.transfer_command("Deposit", transfer).await
    }

    async fn withdraw(&self, request: Request<proto::OutsideRequest>) -> Answer<CommandResult> {
        let transfer = message::outside(TransferKind::Withdrawal, request.get_ref());
        self.transfer_command("Withdraw", transfer).await
    }

    async fn transfer(&self, request: Request<proto::Transfer>) -> Answer<CommandResult> {
        self.transfer_command("Transfer", message::transfer(request.get_ref())).await
    }

    async fn transfer_group(&self, request: Request<proto::TransferGroupRequest>) -> Answer<CommandResult> {
        self.command("TransferGroup", message::group(request.get_ref())).await
    }

    async fn hold(&self, request: Request<proto::HoldRequest>) -> Answer<CommandResult> {
        self.command("Hold", message::hold(request.get_ref())).await
    }

    async fn confirm_hold(&self, request: Request<proto::ConfirmHoldRequest>) -> Answer<CommandResult> {
        self.command("ConfirmHold", message::confirm_hold(request.get_ref())).await
    }

    async fn cancel_hold(&self, request: Request<proto::CancelHoldRequest>) -> Answer<CommandResult> {
        self.command("CancelHold", message::cancel_hold(request.get_ref())).await
    }

    async fn reverse(&self, request: Request<proto::ReverseRequest>) -> Answer<CommandResult> {
        self.command("Reverse", message::reverse(request.get_ref())).await
    }

    async fn get_account(&self, request: Request<proto::GetAccountRequest>) -> Answer<proto::Account> {
        self.observe("GetAccount", async {
            let backend = self.backend()?;
            let account = message::queried_account(&request.get_ref().account_id)?;
            backend.reach_position(request.metadata().as_ref()).await?;
            let Located { partition, value } = backend.account(account).await?;
            Ok(at_position(message::account(&value.shown(partition)), partition, value.row.sequence))
        })
        .await
    }

    async fn get_history(&self, request: Request<proto::GetHistoryRequest>) -> Answer<proto::History> {
        self.observe("GetHistory", async {
            let backend = self.backend()?;
            let account = message::queried_account(&request.get_ref().account_id)?;
            let asked = history_query(request.get_ref())?;
            backend.reach_position(request.metadata().as_ref()).await?;
            let page = backend.history(account, asked).await?;
            let history = proto::History {
                entries: page.entries().into_iter().map(message::history_entry).collect(),
                next_cursor: page.next().unwrap_or_default(),
            };
            let (partition, position) = page.position();
            Ok(at_position(history, partition, position))
        })
        .await
    }

    async fn get_transaction(
        &self,
        request: Request<proto::GetTransactionRequest>,
    ) -> Answer<proto::Transaction> {
        self.observe("GetTransaction", async {
            let backend = self.backend()?;
            let transaction_id = message::queried_transaction(&request.get_ref().transaction_id)?;
            backend.reach_position(request.metadata().as_ref()).await?;
            let Located { partition, value } = backend.transaction(transaction_id).await?;
            Ok(match value {
                Found::Finished { transaction, names, last } => {
                    at_position(message::transaction(partition, &transaction, &names), partition, last)
                }
                Found::InFlight(status) => {
                    Response::new(message::transaction_in_flight(transaction_id, &status.plan.command))
                }
            })
        })
        .await
    }

    async fn get_state(&self, request: Request<proto::GetStateRequest>) -> Answer<proto::State> {
        self.observe("GetState", async {
            let backend = self.backend()?;
            backend.reach_position(request.metadata().as_ref()).await?;
            let (partition, view) = match backend.totals().await? {
                Totals::Partition { partition, view } => (partition, view),
                Totals::Shards(shards) => return Ok(Response::new(shards_state(&shards))),
            };
            let totals = view.totals.iter().map(|total| total_message(total.currency, total.sum, 0));
            let state = proto::State {
                partition,
                sequence: view.sequence.0,
                as_of_micros: view.timestamp.as_micros(),
                accounts: view.accounts,
                pending_holds: view.holds,
                totals: totals.collect(),
                digest: view.digest.to_string(),
            };
            Ok(at_position(state, partition, view.sequence))
        })
        .await
    }
}

fn total_message(currency: ledger::Currency, sum: i128, in_flight: i128) -> proto::Total {
    let money = |minor_units| ledger::format_minor_units(minor_units, currency);
    proto::Total { currency: currency.code().into(), sum: money(sum), in_flight: money(in_flight) }
}

/// The sums over several shards, which have no position in common.
fn shards_state(shards: &[Located<ShardTotals>]) -> proto::State {
    let totals = wallet::currency_totals(shards);
    let totals = totals.iter().map(|total| total_message(total.currency, total.sum, total.in_flight));
    proto::State {
        accounts: shards.iter().map(|shard| shard.value.accounts).sum(),
        totals: totals.collect(),
        ..proto::State::default()
    }
}

fn history_query(message: &proto::GetHistoryRequest) -> Result<HistoryQuery, Problem> {
    let limit = match message.limit as usize {
        0 => query::HISTORY_LIMIT,
        limit @ 1..=query::HISTORY_LIMIT_MAX => limit,
        limit => {
            let detail = format!("limit must be a number from 1 to 1000, it is {limit}");
            return Err(Problem::new(Code::InvalidRequest, detail));
        }
    };
    let before = match message.cursor.as_str() {
        "" => None,
        cursor => Some(query::cursor(cursor)?),
    };
    let currency = match message.currency.as_str() {
        "" => None,
        code => Some(message::queried_currency(code)?),
    };
    let time = |micros: Option<i64>| micros.map(Timestamp::from_micros);
    Ok(HistoryQuery {
        limit,
        before,
        currency,
        since: time(message.since_micros),
        until: time(message.until_micros),
    })
}
