//! The typed client over gRPC.
//!
//! It connects when it is first used and again whenever the connection is lost. Every call has a time-out. A call whose outcome is not known, or that the
//! server had no room for, is repeated with the same transaction_id until it is answered or [`Options::patience`] is over: the
//! server executes an id at most once, so that repeating is safe. Queries see what this client's commands did.
//!
//! ```no_run
//! # async fn example() -> Result<(), api::client::ClientError> {
//! use api::client::{Client, Options};
//! use api::proto;
//!
//! let client = Client::new("http://127.0.0.1:8081", Options::default())?;
//! let alice = proto::OpenAccountRequest { account_id: "alice".into(), ..Default::default() };
//! client.open_account(alice).await?;
//! let account = client.get_account(proto::GetAccountRequest { account_id: "alice".into() }).await?;
//! println!("{} balances", account.balances.len());
//! # Ok(())
//! # }
//! ```

mod backoff;
mod stream;
mod subscription;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Response, Status};

use crate::grpc::POSITION_KEY;
use crate::proto::{self, wallet_client::WalletClient};

use backoff::Backoff;
pub use stream::{PendingBatch, TransferStream};
pub use subscription::Subscription;

/// As large as the server takes them.
const MESSAGE_SIZE_BYTES_MAX: usize = 16 << 20;
const STREAM_WINDOW_SIZE_BYTES: u32 = 4 << 20;
const CONNECTION_WINDOW_SIZE_BYTES: u32 = 16 << 20;

/// How long the client waits, and for what.
#[derive(Debug, Clone)]
pub struct Options {
    /// Until a connection stands.
    pub connect_timeout: Duration,
    /// Until one attempt of a call, or one batch of a stream, is answered; then it is repeated.
    pub call_timeout: Duration,
    /// Until the client gives up repeating, with [`ClientError::Unanswered`].
    pub patience: Duration,
    /// After the first attempt that failed; doubled after each further one, and shortened at random by up to half.
    pub backoff_first: Duration,
    /// The longest wait between two attempts.
    pub backoff_max: Duration,
    /// Batches of one stream that may be unanswered at a time.
    pub batches_in_flight_max: usize,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            connect_timeout: Duration::from_secs(5),
            call_timeout: Duration::from_secs(15),
            patience: Duration::from_secs(60),
            backoff_first: Duration::from_millis(10),
            backoff_max: Duration::from_secs(2),
            batches_in_flight_max: 8,
        }
    }
}

/// Why a call has no answer. A refused command is an answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The server's address makes no sense.
    #[error("{address:?} is no address such as \"http://127.0.0.1:8081\"")]
    InvalidAddress {
        /// The address.
        address: String,
    },
    /// The server says that repeating is of no use: what a query asks for does not exist, or is malformed.
    #[error("{} ({:?})", .0.message(), .0.code())]
    Failed(Box<Status>),
    /// There was no answer in time. A command may have been executed: repeat it with the same transaction_id.
    #[error("no answer in {patience:?}; the outcome is not known, repeat it with the same id: {last}")]
    Unanswered {
        /// How long it was tried.
        patience: Duration,
        /// What came of the last attempt.
        last: Box<Status>,
    },
    /// The server answered what it was not asked.
    #[error("the server's answer makes no sense: {0}")]
    Nonsense(String),
    /// The server that came back is not the one that went away, or was restored to an earlier point.
    #[error("the server has another history: event {sequence} is not the one that it sent before")]
    OtherHistory {
        /// The event that differs.
        sequence: u64,
    },
    /// The stream's task has ended, with the runtime that it ran in.
    #[error("the stream has ended")]
    Ended,
}

/// A client. Clones share a connection.
#[derive(Clone)]
pub struct Client {
    wallet: WalletClient<Channel>,
    options: Arc<Options>,
    /// The furthest position that an answer told.
    position: Arc<Mutex<Option<(u32, u64)>>>,
}

/// True when the same call may succeed later, or may have succeeded unheard.
fn is_repeatable(status: &Status) -> bool {
    !matches!(
        status.code(),
        Code::InvalidArgument
            | Code::NotFound
            | Code::AlreadyExists
            | Code::FailedPrecondition
            | Code::OutOfRange
            | Code::Unimplemented
            | Code::Unauthenticated
            | Code::PermissionDenied
    )
}

macro_rules! calls {
    ($($(#[$doc:meta])* $name:ident($request:ident) -> $answer:ident;)*) => {
        impl Client {
            $(
                $(#[$doc])*
                pub async fn $name(&self, request: proto::$request) -> Result<proto::$answer, ClientError> {
                    self.repeat(async |mut wallet, request| wallet.$name(request).await, request).await
                }
            )*
        }
    };
}

calls! {
    /// Opens an account. Idempotent by its id.
    open_account(OpenAccountRequest) -> OpenAccountResult;
    /// Opens up to 8,190 accounts, each on its own.
    open_accounts(OpenAccountsRequest) -> OpenAccountsResult;
    /// Closes an account whose every balance is zero.
    close_account(CloseAccountRequest) -> CommandResult;
    /// Moves money in from the world outside.
    deposit(OutsideRequest) -> CommandResult;
    /// Moves money out to the world outside.
    withdraw(OutsideRequest) -> CommandResult;
    /// Moves money between two accounts.
    transfer(Transfer) -> CommandResult;
    /// Up to 64 transfers, all or none.
    transfer_group(TransferGroupRequest) -> CommandResult;
    /// Sets money aside.
    hold(HoldRequest) -> CommandResult;
    /// Pays a hold out, wholly or partly.
    confirm_hold(ConfirmHoldRequest) -> CommandResult;
    /// Releases a hold.
    cancel_hold(CancelHoldRequest) -> CommandResult;
    /// Moves the money of a transaction back, once.
    reverse(ReverseRequest) -> CommandResult;
    /// An account as it stands.
    get_account(GetAccountRequest) -> Account;
    /// What changed an account's balances, newest first.
    get_history(GetHistoryRequest) -> History;
    /// What became of a transaction.
    get_transaction(GetTransactionRequest) -> Transaction;
    /// Position, totals and digest of the whole state.
    get_state(GetStateRequest) -> State;
}

impl Client {
    /// A client of the server at an address such as `http://127.0.0.1:8081`. Connects with its first call; must be made within a `tokio` runtime.
    pub fn new(address: &str, options: Options) -> Result<Client, ClientError> {
        let endpoint = Endpoint::from_shared(address.to_owned())
            .map_err(|_| ClientError::InvalidAddress { address: address.to_owned() })?;
        let channel = endpoint
            .connect_timeout(options.connect_timeout)
            .initial_stream_window_size(STREAM_WINDOW_SIZE_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_SIZE_BYTES)
            .http2_keep_alive_interval(Duration::from_secs(20))
            .keep_alive_timeout(Duration::from_secs(10))
            .connect_lazy();
        let wallet = WalletClient::new(channel)
            .max_decoding_message_size(MESSAGE_SIZE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_SIZE_BYTES_MAX);
        Ok(Client { wallet, options: Arc::new(options), position: Arc::default() })
    }

    /// A stream of batches, for volume. Must be called within a `tokio` runtime.
    pub fn transfer_stream(&self) -> TransferStream {
        TransferStream::start(self.wallet.clone(), Arc::clone(&self.options))
    }

    /// Events after a position, of one account or of all: past ones first, then live ones. Connects with its first batch.
    pub fn subscribe(&self, request: proto::SubscribeRequest) -> Subscription {
        Subscription::new(self.clone(), request)
    }

    async fn repeat<Message: Clone, Reply>(
        &self,
        call: impl AsyncFn(WalletClient<Channel>, Request<Message>) -> Result<Response<Reply>, Status>,
        message: Message,
    ) -> Result<Reply, ClientError> {
        let deadline = Instant::now() + self.options.patience;
        let mut backoff = Backoff::new(&self.options);
        loop {
            let attempt = call(self.wallet.clone(), self.request(message.clone()));
            let status = match tokio::time::timeout(self.options.call_timeout, attempt).await {
                Ok(Ok(response)) => return Ok(self.heard(response)),
                Ok(Err(status)) => status,
                Err(_) => Status::deadline_exceeded("no answer in time"),
            };
            if !is_repeatable(&status) {
                return Err(ClientError::Failed(Box::new(status)));
            }
            let pause = backoff.next();
            if Instant::now() + pause > deadline {
                let patience = self.options.patience;
                return Err(ClientError::Unanswered { patience, last: Box::new(status) });
            }
            tracing::debug!(%status, "a call is repeated");
            tokio::time::sleep(pause).await;
        }
    }

    /// A request that will see what this client did before.
    fn request<Message>(&self, message: Message) -> Request<Message> {
        let mut request = Request::new(message);
        let position = *self.position.lock().unwrap_or_else(PoisonError::into_inner);
        let text = position.map(|(partition, sequence)| format!("{partition}:{sequence}"));
        if let Some(value) = text.and_then(|text| MetadataValue::try_from(text).ok()) {
            request.metadata_mut().insert(POSITION_KEY, value);
        }
        request
    }

    fn heard<Reply>(&self, response: Response<Reply>) -> Reply {
        let told = response.metadata().get(POSITION_KEY).and_then(|value| {
            let (partition, sequence) = value.to_str().ok()?.split_once(':')?;
            Some((partition.parse().ok()?, sequence.parse().ok()?))
        });
        let mut position = self.position.lock().unwrap_or_else(PoisonError::into_inner);
        *position = told.max(*position);
        response.into_inner()
    }
}
