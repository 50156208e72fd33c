//! Commands and queries as both protocols know them: asked of the partition and the views, answered in the domain's own types.

use std::collections::HashMap;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use api::response;
use api::{Code, Problem, problem::Subject};
use axum::http::HeaderMap;
use distributed::wallet::{self, Located};
use ledger::{
    AccountNumber, AccountRef, Command, Event, Record, Sequence, Timestamp, Transaction, TransactionId,
};
use shards::partition::{AccountView, CommandAnswer, NotAccepted, SnapshotReport, StateView};
use tokio::sync::oneshot;
use tracing::Instrument;
use views::{History, HistoryError, HistoryPage, HistoryQuery, Moment, PastAccount};

use crate::Node;
use crate::backend::{Account, Backend, not_answered};
use crate::position::Unreached;

/// How many entries of a history are answered unless the client asks for another number.
pub(crate) const HISTORY_LIMIT: usize = 50;
/// The most that a client may ask for.
pub(crate) const HISTORY_LIMIT_MAX: usize = 1000;
/// How long a query waits for the read side to reach the client's position.
const POSITION_PATIENCE: Duration = Duration::from_secs(1);

/// Names of accounts, as far as an answer needs them.
pub(crate) type AccountNames = HashMap<AccountNumber, String>;

/// Hands something to the partition and waits for the answer.
pub(crate) async fn ask<Reply: Send + 'static>(
    submit: impl FnOnce(Box<dyn FnOnce(Reply) + Send>) -> Result<(), NotAccepted>,
) -> Result<Reply, Problem> {
    let (sender, reply) = oneshot::channel();
    // The client may have gone away when the answer comes.
    submit(Box::new(move |answer| drop(sender.send(answer)))).map_err(not_accepted)?;
    reply.await.map_err(|_| not_accepted(NotAccepted::Stopping))
}

pub(crate) fn not_accepted(refused: NotAccepted) -> Problem {
    match refused {
        NotAccepted::Overloaded => {
            Problem::new(Code::Overloaded, "the queue is full; repeat with the same id")
        }
        NotAccepted::Stopping => {
            let detail = "no answer can be given now: the server is stopping, or the archive that holds the first answer cannot be \
                          reached; repeat with the same id";
            Problem::new(Code::Unavailable, detail)
        }
    }
}

/// What became of a command.
pub(crate) enum Outcome {
    /// An account was opened, or was open with the same metadata.
    Account { account: Box<Account>, existed: bool },
    /// These events happened.
    Executed { records: Vec<Record>, replayed: bool },
    /// Nothing moved. A refusal that is recorded has a position.
    Refused { problem: Problem, sequence: Option<Sequence>, timestamp: Timestamp, replayed: bool },
}

/// Executes any command but a plain transfer.
pub(crate) async fn execute(backend: &Backend, command: Command) -> Result<Located<Outcome>, Problem> {
    match backend {
        Backend::EventSourced(node) => {
            let value = begin_in_partition(node, command).await?;
            Ok(Located { partition: node.partition.number(), value })
        }
        Backend::Distributed(wallet) => {
            let (transaction_id, asked) = (command.transaction_id(), command.clone());
            let answer = wallet.command(command).await;
            let answer = answer.map_err(|why| Problem { transaction_id, ..not_answered(why) })?;
            let value = wallet_outcome(&asked, answer.value);
            Ok(Located { partition: answer.partition, value })
        }
    }
}

/// Executes commands, each on its own. All are handed over before the first is waited for, so that they can share a frame or a round trip.
pub(crate) async fn execute_all(
    backend: &Backend,
    commands: impl Iterator<Item = Result<Command, Problem>>,
) -> Result<Vec<Located<Outcome>>, Problem> {
    let malformed = |problem| Outcome::Refused {
        problem,
        sequence: None,
        timestamp: Timestamp::default(),
        replayed: false,
    };
    let partition = backend.default_partition();
    let mut outcomes = Vec::new();
    match backend {
        Backend::EventSourced(node) => {
            let begun = commands.map(|command| command.map(|command| begin_in_partition(node, command)));
            for command in begun.collect::<Vec<_>>() {
                let value = match command {
                    Ok(outcome) => outcome.await?,
                    Err(problem) => malformed(problem),
                };
                outcomes.push(Located { partition, value });
            }
        }
        Backend::Distributed(_) => {
            let begun = commands.map(|command| {
                let backend = backend.clone();
                command.map(|command| {
                    tokio::spawn(async move { execute(&backend, command).await }.in_current_span())
                })
            });
            for command in begun.collect::<Vec<_>>() {
                outcomes.push(match command {
                    Ok(outcome) => outcome.await.map_err(|_| not_accepted(NotAccepted::Stopping))??,
                    Err(problem) => Located { partition, value: malformed(problem) },
                });
            }
        }
    }
    Ok(outcomes)
}

fn begin_in_partition(
    node: &Node,
    command: Command,
) -> impl Future<Output = Result<Outcome, Problem>> + Send + use<> {
    let transaction_id = command.transaction_id();
    let asked = command.clone();
    let (sender, reply) = oneshot::channel();
    // The client may have gone away when the answer comes.
    let submitted = node.partition.submit_command(command, move |answer| drop(sender.send(answer)));
    async move {
        let answer = match submitted {
            Ok(()) => reply.await.map_err(|_| not_accepted(NotAccepted::Stopping)),
            Err(refused) => Err(not_accepted(refused)),
        };
        let answer = answer.map_err(|problem| Problem { transaction_id, ..problem })?;
        Ok(outcome(&asked, answer))
    }
}

fn worded(asked: &Command, refusal: &ledger::Refusal) -> Problem {
    Problem::refused(refusal, &Subject::of_command(asked, refusal.leg))
}

fn rejected(asked: &Command, refusal: &ledger::Refusal) -> Outcome {
    let problem = worded(asked, refusal);
    Outcome::Refused { problem, sequence: None, timestamp: Timestamp::default(), replayed: false }
}

fn outcome(asked: &Command, answer: CommandAnswer) -> Outcome {
    match answer {
        CommandAnswer::Rejected(refusal) => rejected(asked, &refusal),
        CommandAnswer::AlreadyOpen(view) => {
            Outcome::Account { account: Box::new(Account::of(view)), existed: true }
        }
        CommandAnswer::Executed { records, replayed } => match records.last() {
            Some(Record {
                event: Event::AccountOpened { account, account_id, metadata },
                sequence,
                timestamp,
            }) => {
                let view = AccountView {
                    account_id: account_id.clone(),
                    number: *account,
                    opened_at: *timestamp,
                    metadata: metadata.clone(),
                    closed: false,
                    balances: Vec::new(),
                    sequence: *sequence,
                    timestamp: *timestamp,
                };
                Outcome::Account { account: Box::new(Account::of(view)), existed: false }
            }
            _ => executed(asked, records, replayed),
        },
    }
}

fn wallet_outcome(asked: &Command, answer: wallet::CommandAnswer) -> Outcome {
    match answer {
        wallet::CommandAnswer::Rejected(refusal) => rejected(asked, &refusal),
        wallet::CommandAnswer::Opened { account, existed } => {
            Outcome::Account { account: Box::new(Account { number: None, row: account }), existed }
        }
        // What a command answers tells balances, not names: whoever asked knows them.
        wallet::CommandAnswer::Executed { records, names: _, replayed } => executed(asked, records, replayed),
    }
}

fn executed(asked: &Command, records: Vec<Record>, replayed: bool) -> Outcome {
    match records.last() {
        Some(Record { event: Event::Refused { refusal, .. }, sequence, timestamp }) => {
            let (sequence, timestamp) = (Some(*sequence), *timestamp);
            Outcome::Refused { problem: worded(asked, refusal), sequence, timestamp, replayed }
        }
        _ => Outcome::Executed { records, replayed },
    }
}

/// A number of digits alone: without a sign.
pub(crate) fn whole_number<Number: FromStr>(text: &str) -> Option<Number> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

/// The position that the client has seen, if it tells one; it must be in a partition that there is.
pub(crate) fn position(
    headers: &HeaderMap,
    is_known: impl FnOnce(u32) -> bool,
) -> Result<Option<Sequence>, Problem> {
    let Some(header) = headers.get(api::grpc::POSITION_KEY) else { return Ok(None) };
    let position =
        header.to_str().ok().and_then(|text| text.split_once(':')).and_then(|(partition, sequence)| {
            Some((whole_number::<u32>(partition)?, whole_number::<u64>(sequence)?))
        });
    match position {
        Some((partition, sequence)) if is_known(partition) => Ok(Some(Sequence(sequence))),
        _ => {
            let detail = format!("the header X-Wallet-Position must be partition:sequence, it is {header:?}");
            Err(Problem::new(Code::InvalidRequest, detail))
        }
    }
}

/// Waits until the read side has seen what the client has seen.
pub(crate) async fn reach_position(node: &Node, headers: &HeaderMap) -> Result<(), Problem> {
    let position = position(headers, |partition| partition == node.partition.number())?;
    let Some(sequence) = position.filter(|sequence| node.read_side.position() < *sequence) else {
        return Ok(());
    };
    let reached = node.positions.reach(sequence, POSITION_PATIENCE).await;
    reached.map_err(|why| match why {
        Unreached::TooLate => {
            let detail = format!("the read side has not reached {} within a second", sequence.0);
            Problem::new(Code::Unavailable, detail)
        }
        Unreached::TooMany => Problem::new(Code::Overloaded, "too many queries wait for a position already"),
    })
}

/// An account as it stands.
pub(crate) async fn account_view(node: &Node, account: AccountRef) -> Result<AccountView, Problem> {
    let asked = account.clone();
    ask(|reply| node.partition.query_account(account, reply)).await?.ok_or_else(|| match asked {
        AccountRef::Named(name) => no_account(name.as_str()),
        AccountRef::Number(number) => no_account(&number.0.to_string()),
    })
}

/// There is no such account.
pub(crate) fn no_account(name: &str) -> Problem {
    Problem::new(Code::AccountNotFound, format!("account_id {name:?} does not exist"))
}

/// There is no such transaction.
pub(crate) fn no_transaction(transaction_id: TransactionId) -> Problem {
    let detail = format!("transaction_id {transaction_id} does not exist");
    Problem::new(Code::TransactionNotFound, detail).with_transaction(transaction_id)
}

/// The server's clock, to tell what is in the future.
pub(crate) fn now() -> Timestamp {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_micros(i64::try_from(since_epoch.as_micros()).unwrap_or(i64::MAX))
}

/// A moment that a client names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Point {
    /// After the last event at or before this time.
    Time(Timestamp),
    /// After this event.
    Sequence(Sequence),
}

/// An account as it stood at a moment of the past. `now` is the server's clock when the request came.
pub(crate) async fn past_account(
    node: &Node,
    account: AccountRef,
    point: Point,
    now: Timestamp,
) -> Result<AccountView, Problem> {
    // Once this is answered, all events stamped before the request came are in the view.
    let present = account_view(node, account).await?;
    let history = node.read_side.history()?;
    let number = present.number;
    let found = blocking(move || {
        let Some(moment) = moment(&history, point, now)? else { return Ok(None) };
        Ok::<_, HistoryError>(Some((moment, history.account_at(number, moment.sequence)?)))
    })
    .await?;
    let Some((moment, past)) = found else { return Err(future(node, point)) };
    let Some(PastAccount { closed, balances }) = past else {
        let detail = format!(
            "account_id {:?} did not exist at sequence {}",
            present.account_id.as_str(),
            moment.sequence.0
        );
        return Err(Problem::new(Code::AccountNotFound, detail));
    };
    Ok(AccountView { closed, balances, sequence: moment.sequence, timestamp: moment.timestamp, ..present })
}

/// `None` for a point in the future.
fn moment(history: &History, point: Point, now: Timestamp) -> Result<Option<Moment>, HistoryError> {
    match point {
        Point::Sequence(sequence) => history.moment_of(sequence),
        Point::Time(time) => {
            // Times of events never go backwards, so they may be ahead of a clock that did.
            let last = history.moment_of(history.position())?;
            let known = last.map_or(now, |last| last.timestamp.max(now));
            if time > known { Ok(None) } else { history.moment_at(time).map(Some) }
        }
    }
}

fn future(node: &Node, point: Point) -> Problem {
    let last = node.read_side.position().0;
    let detail = match point {
        Point::Time(time) => format!("at is {}, which is in the future", api::format_timestamp(time)),
        Point::Sequence(Sequence(at)) => {
            format!("at_sequence is {at}, which is in the future: the last event is {last}")
        }
    };
    Problem::new(Code::InvalidRequest, detail)
}

/// Reads the `next_cursor` of an earlier answer.
pub(crate) fn cursor(text: &str) -> Result<Sequence, Problem> {
    whole_number(text).map(Sequence).ok_or_else(|| {
        let detail = format!("cursor must be the next_cursor of an earlier answer, it is {text:?}");
        Problem::new(Code::InvalidRequest, detail)
    })
}

/// A page of an account's history, with the names of the other accounts in it.
pub(crate) async fn history(
    node: &Node,
    account: AccountRef,
    query: HistoryQuery,
) -> Result<(HistoryPage, AccountNames), Problem> {
    let number = account_view(node, account).await?.number;
    let history = node.read_side.history()?;
    let page = blocking(move || history.history(number, &query)).await?;
    let accounts = page.entries.iter().filter_map(|entry| entry.change.counterparty).collect();
    let names = names(node, accounts).await?;
    Ok((page, names))
}

/// What became of a transaction, the names of its accounts, and the position of its last event.
pub(crate) async fn transaction(
    node: &Node,
    transaction_id: TransactionId,
) -> Result<(Transaction, AccountNames, Sequence), Problem> {
    let sequences = ask(|reply| node.partition.query_transaction(transaction_id, reply)).await?;
    let partition = node.partition.clone();
    let found = blocking(move || partition.read_transaction(transaction_id, &sequences)).await?;
    let found = found.ok_or_else(|| no_transaction(transaction_id))?;
    let last = found.records.last().map(|record| record.sequence).unwrap_or_default();
    let names = names(node, response::accounts_of(&found)).await?;
    Ok((found, names, last))
}

/// The receipt of a transaction.
pub(crate) async fn receipt(
    node: &Node,
    transaction_id: TransactionId,
) -> Result<(String, Sequence), Problem> {
    let sequences = ask(|reply| node.partition.query_transaction(transaction_id, reply)).await?;
    let first = sequences.first().copied().unwrap_or_default();
    let partition = node.partition.clone();
    let receipt = blocking(move || partition.receipt(transaction_id, &sequences)).await?;
    Ok((receipt.ok_or_else(|| no_transaction(transaction_id))?, first))
}

/// Writes a snapshot as of now.
pub(crate) async fn snapshot(node: &Node) -> Result<SnapshotReport, Problem> {
    let partition = node.partition.clone();
    blocking(move || partition.snapshot()).await
}

/// The whole state, summed up.
pub(crate) async fn state(node: &Node) -> Result<StateView, Problem> {
    ask(|reply| node.partition.query_state(reply)).await
}

/// The whole state as it stood after an event of the past, rebuilt from the view. One at a time: it walks all accounts.
pub(crate) async fn past_state(node: &Node, at: Sequence, patience: Duration) -> Result<StateView, Problem> {
    let deadline = Instant::now() + patience;
    let turn = tokio::time::timeout_at(deadline.into(), Arc::clone(&node.past_states).acquire_owned()).await;
    let Ok(Ok(turn)) = turn else {
        let detail = "another state of the past is being rebuilt, and took too long; ask again";
        return Err(Problem::new(Code::Overloaded, detail));
    };
    let history = node.read_side.history()?;
    let found = blocking(move || {
        let found = history.state_at(at, deadline);
        // The client may have gone: the turn ends with the work, not with the request.
        drop(turn);
        found
    })
    .await?;
    let Some(past) = found else { return Err(future(node, Point::Sequence(at))) };
    Ok(StateView {
        sequence: past.moment.sequence,
        timestamp: past.moment.timestamp,
        accounts: past.accounts,
        holds: past.holds,
        totals: past.totals,
        digest: past.digest,
    })
}

async fn names(node: &Node, accounts: Vec<AccountNumber>) -> Result<AccountNames, Problem> {
    let asked = accounts.clone();
    let names = ask(|reply| node.partition.query_names(asked, reply)).await?;
    let known = accounts
        .into_iter()
        .zip(names)
        .filter_map(|(account, name)| Some((account, name?.as_str().to_owned())));
    Ok(known.collect())
}

/// Reads from the disk on a thread that may wait for it.
async fn blocking<Found: Send + 'static, Error: std::fmt::Display + Send + 'static>(
    read: impl FnOnce() -> Result<Found, Error> + Send + 'static,
) -> Result<Found, Problem> {
    let unavailable = |why: String| {
        tracing::error!(%why, "a query failed");
        Problem::new(Code::Unavailable, why)
    };
    let read = tokio::task::spawn_blocking(read).await;
    read.map_err(|error| unavailable(error.to_string()))?.map_err(|error| unavailable(error.to_string()))
}
