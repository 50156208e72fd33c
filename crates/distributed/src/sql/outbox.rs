//! What a shard sends to others: stored with what caused it, and forgotten once the broker has it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use coordinator::machine::Travelling;
use coordinator::port::ShardNumber;
use ledger::TransactionId;

use super::cell::{Cell, Row};
use super::connection::{Connection, Dialect, Store};
use super::content::Stored;
use super::failure::Failure;
use super::schema::OUTBOX;

/// How many messages one statement forgets.
const FORGOTTEN_PER_STATEMENT_MAX: usize = 256;

/// A transaction on its way to a shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Message {
    /// Made from the rest: what is sent twice is one message.
    pub(crate) id: u128,
    pub(crate) to: ShardNumber,
    pub(crate) content: String,
}

impl Message {
    pub(crate) fn of(travelling: &Travelling) -> Message {
        let (to, _) = travelling.next();
        let content = travelling.to_text();
        let hash = blake3::hash(content.as_bytes());
        let first = hash.as_bytes().first_chunk().expect("a hash has 32 bytes");
        Message { id: u128::from_be_bytes(*first), to, content }
    }

    fn cells(&self) -> Vec<Cell> {
        vec![
            Cell::Id(TransactionId(self.id)),
            Cell::Integer(self.to.0.into()),
            Cell::Text(self.content.clone()),
        ]
    }

    fn read(row: &Row) -> Result<Message, Failure> {
        let content = row.text(2)?.to_owned();
        Ok(Message { id: row.id(0)?.0, to: ShardNumber(row.number(1)?), content })
    }
}

/// Messages that the broker has, until a batch forgets them: that needs no sync of its own.
#[derive(Clone, Default)]
pub(super) struct Sent(Arc<Mutex<Vec<u128>>>);

impl Sent {
    pub(super) fn note(&self, message_id: u128) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(message_id);
    }

    /// Forgets them within a transaction. When that fails, they are sent again some time: no harm.
    pub(super) async fn forget(
        &self,
        connection: &mut dyn Connection,
        dialect: Dialect,
    ) -> Result<(), Failure> {
        let sent = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        for ids in sent.chunks(FORGOTTEN_PER_STATEMENT_MAX) {
            // A power of two: a few prepared statements serve all sizes.
            let count = ids.len().next_power_of_two();
            let last = ids.last().into_iter().cycle();
            let parameters: Vec<Cell> =
                ids.iter().chain(last).take(count).map(|id| Cell::Id(TransactionId(*id))).collect();
            let marks = vec!["?"; count].join(", ");
            let statement = dialect.statement(&format!("DELETE FROM outbox WHERE message_id IN ({marks})"));
            connection.rows(&statement, &parameters).await?;
        }
        Ok(())
    }
}

pub(super) fn store(messages: &BTreeMap<u128, Message>) -> Store {
    Store { table: &OUTBOX, rows: messages.values().map(Message::cells).collect() }
}

/// What the broker may not have yet.
pub(super) async fn read(
    connection: &mut dyn Connection,
    dialect: Dialect,
    limit: usize,
) -> Result<Vec<Message>, Failure> {
    let statement = dialect.statement("SELECT message_id, shard, content FROM outbox LIMIT ?");
    let limit = Cell::Integer(i64::try_from(limit).unwrap_or(i64::MAX));
    connection.rows(&statement, &[limit]).await?.iter().map(Message::read).collect()
}
