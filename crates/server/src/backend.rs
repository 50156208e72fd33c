//! What stands behind the server: the event-sourced partition, or a wallet over shards. Both are asked the same questions here, and answer
//! in shapes from which each interface builds the same answers.

use std::sync::Arc;

use api::response::{self, Names, Position};
use api::{Code, Problem};
use axum::http::HeaderMap;
use distributed::wallet::{self, Located, NotAnswered, TransactionAnswer, TransferResult, Wallet};
use distributed::{AccountRow, Entry, EntryKind, HistoryRange, ShardTotals};
use ledger::{AccountNumber, AccountRef, Sequence, Timestamp, Transaction, TransactionId, Transfer};
use shards::partition::{AccountView, StateView, TransferAnswer};
use views::{HistoryPage, HistoryQuery};

use crate::query::{self, AccountNames};
use crate::{Node, Shared};

/// What answers.
#[derive(Clone)]
pub(crate) enum Backend {
    EventSourced(Node),
    Distributed(Arc<dyn Wallet>),
}

/// An account with its number, where accounts have one.
pub(crate) struct Account {
    pub(crate) number: Option<AccountNumber>,
    pub(crate) row: AccountRow,
}

/// The answers to a batch of transfers, in order.
pub(crate) enum TransferAnswers {
    Partition { partition: u32, answers: Vec<TransferAnswer> },
    Shards(Vec<TransferResult>),
}

/// A page of an account's history.
pub(crate) enum Page {
    Partition { partition: u32, page: HistoryPage, names: AccountNames, position: Sequence },
    Shard(Located<wallet::HistoryPage>),
}

/// What is known of a transaction.
pub(crate) enum Found {
    Finished { transaction: Box<Transaction>, names: AnswerNames, last: Sequence },
    InFlight(Box<coordinator::port::PhaseStatus>),
}

/// Names for the numbers in one answer.
pub(crate) enum AnswerNames {
    Partition(AccountNames),
    Shards(wallet::AccountNames),
}

/// The sums of all accounts.
pub(crate) enum Totals {
    Partition { partition: u32, view: StateView },
    Shards(Vec<Located<ShardTotals>>),
}

impl Shared {
    /// What answers, once it can.
    pub(crate) fn backend(&self) -> Result<&Backend, Problem> {
        self.backend
            .get()
            .ok_or_else(|| Problem::new(Code::Unavailable, "the server is still recovering its state"))
    }
}

/// Why there is no answer, as a problem.
pub(crate) fn not_answered(why: NotAnswered) -> Problem {
    let code = match why {
        NotAnswered::Overloaded => Code::Overloaded,
        NotAnswered::Unavailable(_) => Code::Unavailable,
        NotAnswered::NotSupported(_) => Code::NotSupportedByArchitecture,
    };
    Problem::new(code, why.to_string())
}

/// What this wallet cannot give, because only an event-sourced one can.
pub(crate) fn not_supported(what: &str) -> Problem {
    let detail = format!("{what} needs architecture event-sourced, this wallet has another");
    Problem::new(Code::NotSupportedByArchitecture, detail)
}

impl Backend {
    /// The event-sourced partition, for what only it can give.
    pub(crate) fn event_sourced(&self, what: &str) -> Result<&Node, Problem> {
        match self {
            Backend::EventSourced(node) => Ok(node),
            Backend::Distributed(_) => Err(not_supported(what)),
        }
    }

    /// The partition of what is answered without having been executed.
    pub(crate) fn default_partition(&self) -> u32 {
        match self {
            Backend::EventSourced(node) => node.partition.number(),
            Backend::Distributed(_) => 0,
        }
    }

    /// Executes one transfer; those that come at the same time travel together.
    pub(crate) async fn transfer(&self, transfer: Transfer) -> Result<Located<TransferAnswer>, Problem> {
        match self {
            Backend::EventSourced(node) => {
                let value = node.batcher.execute(transfer).await.map_err(query::not_accepted)?;
                Ok(Located { partition: node.partition.number(), value })
            }
            Backend::Distributed(wallet) => {
                let mut answers = wallet.transfers(vec![transfer]).await;
                let answer = answers.pop().expect("the wallet answers every transfer");
                answer.map_err(not_answered)
            }
        }
    }

    /// Executes transfers, each on its own.
    pub(crate) async fn transfers(&self, transfers: Vec<Transfer>) -> Result<TransferAnswers, Problem> {
        match self {
            Backend::EventSourced(node) => {
                let answers = query::ask(|reply| node.partition.submit_transfers(transfers, reply)).await?;
                Ok(TransferAnswers::Partition { partition: node.partition.number(), answers })
            }
            Backend::Distributed(wallet) => Ok(TransferAnswers::Shards(wallet.transfers(transfers).await)),
        }
    }

    /// Waits until the read side has seen what the client has seen. Over shards queries ask the databases themselves, which have.
    pub(crate) async fn reach_position(&self, headers: &HeaderMap) -> Result<(), Problem> {
        match self {
            Backend::EventSourced(node) => query::reach_position(node, headers).await,
            Backend::Distributed(wallet) => {
                query::position(headers, |partition| partition < wallet.shards()).map(drop)
            }
        }
    }

    /// An account as it stands.
    pub(crate) async fn account(&self, account: AccountRef) -> Result<Located<Account>, Problem> {
        match self {
            Backend::EventSourced(node) => {
                let view = query::account_view(node, account).await?;
                Ok(Located { partition: node.partition.number(), value: Account::of(view) })
            }
            Backend::Distributed(wallet) => {
                let account = wallet::account_id(&account).map_err(not_answered)?;
                let found = wallet.account(&account).await.map_err(not_answered)?;
                let Located { partition, value } =
                    found.ok_or_else(|| query::no_account(account.as_str()))?;
                Ok(Located { partition, value: Account { number: None, row: value } })
            }
        }
    }

    /// A page of an account's history.
    pub(crate) async fn history(&self, account: AccountRef, query: HistoryQuery) -> Result<Page, Problem> {
        match self {
            Backend::EventSourced(node) => {
                let (page, names) = query::history(node, account, query).await?;
                let (partition, position) = (node.partition.number(), node.read_side.position());
                Ok(Page::Partition { partition, page, names, position })
            }
            Backend::Distributed(wallet) => {
                let account = wallet::account_id(&account).map_err(not_answered)?;
                let after = |time: Timestamp| Timestamp::from_micros(time.as_micros().saturating_add(1));
                let range = HistoryRange {
                    before: query.before,
                    currency: query.currency,
                    since: query.since,
                    // Ours is at or before, the shard's is before.
                    until: query.until.map(after),
                    limit: query.limit,
                };
                let found = wallet.history(&account, &range).await.map_err(not_answered)?;
                found.map(Page::Shard).ok_or_else(|| query::no_account(account.as_str()))
            }
        }
    }

    /// What became of a transaction.
    pub(crate) async fn transaction(&self, transaction_id: TransactionId) -> Result<Located<Found>, Problem> {
        match self {
            Backend::EventSourced(node) => {
                let (transaction, names, last) = query::transaction(node, transaction_id).await?;
                let (transaction, names) = (Box::new(transaction), AnswerNames::Partition(names));
                let value = Found::Finished { transaction, names, last };
                Ok(Located { partition: node.partition.number(), value })
            }
            Backend::Distributed(wallet) => {
                let found = wallet.transaction(transaction_id).await.map_err(not_answered)?;
                let Located { partition, value } =
                    found.ok_or_else(|| query::no_transaction(transaction_id))?;
                let value = match value {
                    TransactionAnswer::InFlight(status) => Found::InFlight(status),
                    TransactionAnswer::Finished { transaction, names } => Found::Finished {
                        last: transaction.records.last().map(|record| record.sequence).unwrap_or_default(),
                        transaction: Box::new(transaction),
                        names: AnswerNames::Shards(names),
                    },
                };
                Ok(Located { partition, value })
            }
        }
    }

    /// The sums of all accounts.
    pub(crate) async fn totals(&self) -> Result<Totals, Problem> {
        match self {
            Backend::EventSourced(node) => {
                let view = query::state(node).await?;
                Ok(Totals::Partition { partition: node.partition.number(), view })
            }
            Backend::Distributed(wallet) => wallet.totals().await.map(Totals::Shards).map_err(not_answered),
        }
    }
}

impl Account {
    pub(crate) fn of(view: AccountView) -> Account {
        let AccountView { account_id, number, opened_at, metadata, closed, balances, sequence, timestamp } =
            view;
        let row = AccountRow { account_id, opened_at, metadata, closed, balances, sequence, timestamp };
        Account { number: Some(number), row }
    }

    /// As the contract shows it.
    pub(crate) fn shown(&self, partition: u32) -> response::Account<'_> {
        let row = &self.row;
        response::Account {
            account_id: row.account_id.as_str(),
            number: self.number,
            opened_at: row.opened_at,
            metadata: &row.metadata,
            closed: row.closed,
            balances: &row.balances,
            position: Position { partition, sequence: row.sequence, timestamp: row.timestamp },
        }
    }
}

impl TransferAnswers {
    /// Of nothing.
    pub(crate) fn none() -> TransferAnswers {
        TransferAnswers::Shards(Vec::new())
    }

    pub(crate) fn len(&self) -> usize {
        match self {
            TransferAnswers::Partition { answers, .. } => answers.len(),
            TransferAnswers::Shards(answers) => answers.len(),
        }
    }

    /// The answer to one transfer, and its partition.
    #[inline]
    pub(crate) fn get(&self, index: usize) -> Result<(u32, &TransferAnswer), Problem> {
        match self {
            TransferAnswers::Partition { partition, answers } => Ok((*partition, &answers[index])),
            TransferAnswers::Shards(answers) => match &answers[index] {
                Ok(Located { partition, value }) => Ok((*partition, value)),
                Err(why) => Err(not_answered(why.clone())),
            },
        }
    }

    /// A position that tells what the client has seen: over shards, of any of them.
    pub(crate) fn last(&self) -> Option<(u32, Sequence)> {
        match self {
            TransferAnswers::Partition { partition, answers } => {
                Some((*partition, answers.iter().map(|answer| answer.sequence).max().unwrap_or_default()))
            }
            TransferAnswers::Shards(answers) => {
                answers.iter().flatten().map(|answer| (answer.partition, answer.value.sequence)).next_back()
            }
        }
    }

    /// True when every transfer was answered before.
    pub(crate) fn all_replayed(&self) -> bool {
        match self {
            TransferAnswers::Partition { answers, .. } => answers.iter().all(|answer| answer.replayed),
            TransferAnswers::Shards(answers) => {
                answers.iter().all(|answer| answer.as_ref().is_ok_and(|answer| answer.value.replayed))
            }
        }
    }
}

impl Page {
    pub(crate) fn entries(&self) -> Vec<response::HistoryEntry<'_>> {
        match self {
            Page::Partition { partition, page, names, .. } => {
                let entries = page
                    .entries
                    .iter()
                    .map(|entry| response::HistoryEntry::of(*partition, &entry.record, &entry.change, names));
                entries.collect()
            }
            Page::Shard(Located { partition, value }) => {
                value.entries.iter().map(|entry| shard_entry(*partition, entry)).collect()
            }
        }
    }

    /// The cursor of the next page.
    pub(crate) fn next(&self) -> Option<String> {
        let next = match self {
            Page::Partition { page, .. } => page.next,
            Page::Shard(page) => page.value.next,
        };
        next.map(|sequence| sequence.0.to_string())
    }

    pub(crate) fn position(&self) -> (u32, Sequence) {
        match self {
            Page::Partition { partition, position, .. } => (*partition, *position),
            Page::Shard(page) => (page.partition, page.value.position),
        }
    }
}

fn shard_entry(partition: u32, entry: &Entry) -> response::HistoryEntry<'_> {
    let kind = match entry.kind {
        EntryKind::Transfer => "transfer",
        EntryKind::Deposit => "deposit",
        EntryKind::Withdrawal => "withdrawal",
        EntryKind::Held => "hold",
        EntryKind::HoldConfirmed => "hold_confirmed",
        EntryKind::HoldReleased if entry.transaction_id.is_none() => "hold_expired",
        EntryKind::HoldReleased => "hold_cancelled",
        EntryKind::Reversed => "reversal",
    };
    response::HistoryEntry {
        transaction_id: entry.transaction_id,
        kind,
        counterparty: entry.counterparty.as_ref().map(|account| account.as_str().to_owned()),
        amount: entry.amount,
        currency: entry.currency,
        balance_after: entry.balance_after,
        position: Position { partition, sequence: entry.sequence, timestamp: entry.timestamp },
        metadata: Some(&entry.metadata),
    }
}

impl Names for AnswerNames {
    fn name(&self, account: AccountNumber) -> String {
        match self {
            AnswerNames::Partition(names) => names.name(account),
            AnswerNames::Shards(names) => {
                names.name(account).map_or_else(|| account.0.to_string(), |name| name.as_str().to_owned())
            }
        }
    }

    fn handle(&self, account: AccountNumber) -> Option<AccountNumber> {
        match self {
            AnswerNames::Partition(_) => Some(account),
            AnswerNames::Shards(_) => None,
        }
    }
}
