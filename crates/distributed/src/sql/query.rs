//! What is asked of a shard without changing it. Each answer comes from one statement, so that it is of one moment.

use coordinator::port::{Claim, Entry, PhaseStatus, ShardNumber};
use ledger::{AccountId, Balance, Metadata, Sequence, Timestamp, TransactionId};

use super::cell::{Cell, Row};
use super::connection::{Connection, Dialect};
use super::failure::Failure;
use super::rows;
use super::schema::{CLAIMS, FATES, HISTORY, TRANSACTIONS};
use crate::{AccountRow, HistoryRange, Orphan, ShardTotals, TransactionRow};

/// What is asked, and over which database.
pub(super) struct Query<'connection> {
    pub(super) connection: &'connection mut dyn Connection,
    pub(super) dialect: Dialect,
}

impl Query<'_> {
    async fn ask(&mut self, statement: &str, parameters: &[Cell]) -> Result<Vec<Row>, Failure> {
        let statement = self.dialect.statement(statement);
        self.connection.rows(&statement, parameters).await
    }

    /// A currency in which nothing ever moved has no balance, though a refused transaction may have left a row of zeros.
    pub(super) async fn account(&mut self, account: &AccountId) -> Result<Option<AccountRow>, Failure> {
        let found = self
            .ask(
                "SELECT a.opened_at, a.metadata, a.closed, p.sequence, p.moment, b.currency, b.available, b.held \
                 FROM accounts a CROSS JOIN shard_position p LEFT JOIN balances b ON b.account_id = a.account_id \
                 AND (b.available <> 0 OR b.held <> 0 OR EXISTS (SELECT 1 FROM history h \
                      WHERE h.account_id = b.account_id AND h.currency = b.currency)) \
                 WHERE a.account_id = ? ORDER BY b.currency",
                &[Cell::Text(account.as_str().to_owned())],
            )
            .await?;
        let Some(first) = found.first() else { return Ok(None) };
        let mut balances = Vec::with_capacity(found.len());
        for row in &found {
            if let Some(currency) = row.optional(5, rows::currency)? {
                balances.push((currency, Balance { available: row.integer(6)?, held: row.integer(7)? }));
            }
        }
        Ok(Some(AccountRow {
            account_id: account.clone(),
            opened_at: Timestamp::from_micros(first.integer(0)?),
            metadata: rows::stored::<Metadata>(first, 1)?,
            closed: first.flag(2)?,
            balances,
            sequence: Sequence(first.number(3)?),
            timestamp: Timestamp::from_micros(first.integer(4)?),
        }))
    }

    pub(super) async fn history(
        &mut self,
        account: &AccountId,
        range: &HistoryRange,
    ) -> Result<Vec<Entry>, Failure> {
        let mut statement = format!("SELECT {} FROM history WHERE account_id = ?", HISTORY.column_list());
        let mut parameters = vec![Cell::Text(account.as_str().to_owned())];
        let conditions = [
            (" AND sequence < ?", range.before.map(|before| rows::clamp(before.0))),
            (" AND currency = ?", range.currency.map(|currency| i64::from(currency.numeric()))),
            (" AND moment >= ?", range.since.map(Timestamp::as_micros)),
            (" AND moment < ?", range.until.map(Timestamp::as_micros)),
        ];
        for (condition, value) in conditions {
            if let Some(value) = value {
                statement.push_str(condition);
                parameters.push(Cell::Integer(value));
            }
        }
        statement.push_str(" ORDER BY sequence DESC, ordinal DESC LIMIT ?");
        parameters.push(Cell::Integer(rows::clamp(range.limit as u64)));
        self.ask(&statement, &parameters).await?.iter().map(rows::entry).collect()
    }

    pub(super) async fn claim(&mut self, transaction_id: TransactionId) -> Result<Option<Claim>, Failure> {
        let statement = format!("SELECT {} FROM claims WHERE transaction_id = ?", CLAIMS.column_list());
        let found = self.ask(&statement, &[Cell::Id(transaction_id)]).await?;
        Ok(found.first().map(rows::claim).transpose()?.map(|(_, claim)| claim))
    }

    pub(super) async fn transaction(
        &mut self,
        recorded_under: TransactionId,
        transaction_id: TransactionId,
    ) -> Result<Option<TransactionRow>, Failure> {
        let statement =
            format!("SELECT {} FROM transactions WHERE transaction_id = ?", TRANSACTIONS.column_list());
        let found = self.ask(&statement, &[Cell::Id(recorded_under)]).await?;
        let Some(row) = found.first() else { return Ok(None) };
        let status = rows::status(row)?;
        // What refers to it is only ever added, and only to what is finished: a later one does not contradict the record.
        let statement = format!("SELECT {} FROM fates WHERE transaction_id = ?", FATES.column_list());
        let found = self.ask(&statement, &[Cell::Id(transaction_id)]).await?;
        let fate = found.first().map(rows::fate).transpose()?;
        let references = fate.and_then(|(_, fate)| fate.reference).into_iter().collect();
        Ok(Some(TransactionRow { status, references }))
    }

    pub(super) async fn unfinished(
        &mut self,
        now: Timestamp,
        limit: usize,
    ) -> Result<Vec<PhaseStatus>, Failure> {
        let statement = format!(
            "SELECT {} FROM transactions WHERE unfinished_since IS NOT NULL \
             AND (lease_until IS NULL OR lease_until <= ?) ORDER BY unfinished_since LIMIT ?",
            TRANSACTIONS.column_list()
        );
        let parameters = [Cell::Integer(now.as_micros()), Cell::Integer(rows::clamp(limit as u64))];
        self.ask(&statement, &parameters).await?.iter().map(rows::status).collect()
    }

    pub(super) async fn in_flight(&mut self, limit: usize) -> Result<Vec<PhaseStatus>, Failure> {
        let statement = format!(
            "SELECT {} FROM transactions WHERE unfinished_since IS NOT NULL ORDER BY unfinished_since LIMIT ?",
            TRANSACTIONS.column_list()
        );
        let parameters = [Cell::Integer(rows::clamp(limit as u64))];
        self.ask(&statement, &parameters).await?.iter().map(rows::status).collect()
    }

    pub(super) async fn orphans(
        &mut self,
        here: ShardNumber,
        before: Timestamp,
        limit: usize,
    ) -> Result<Vec<Orphan>, Failure> {
        let parameters = [
            Cell::Integer(before.as_micros()),
            Cell::Integer(here.0.into()),
            Cell::Integer(rows::clamp(limit as u64)),
        ];
        // State 1: the first phase is done, and no second one.
        let found = self
            .ask(
                "SELECT transaction_id, owner FROM branches WHERE state = 1 AND started_at < ? AND owner <> ? \
                 ORDER BY started_at LIMIT ?",
                &parameters,
            )
            .await?;
        let orphan =
            |row: &Row| Ok(Orphan { transaction_id: row.id(0)?, owner: ShardNumber(row.number(1)?) });
        found.iter().map(orphan).collect()
    }

    pub(super) async fn totals(&mut self) -> Result<ShardTotals, Failure> {
        // Sums may be larger than any integer type of the database, so they travel as text.
        let text = match self.dialect {
            Dialect::Postgres => "text",
            Dialect::MariaDb => "CHAR",
        };
        let statement = format!(
            "SELECT p.sequence, p.accounts, s.currency, s.total, s.taken FROM shard_position p LEFT JOIN \
             (SELECT currency, CAST(SUM(available) + SUM(held) AS {text}) AS total, CAST(SUM(taken) AS {text}) AS taken \
             FROM balances GROUP BY currency) s ON TRUE ORDER BY s.currency"
        );
        let found = self.ask(&statement, &[]).await?;
        let first = found.first().ok_or_else(|| Failure::refused("the row of the position is missing"))?;
        let mut currencies = Vec::with_capacity(found.len());
        for row in &found {
            if let Some(currency) = row.optional(2, rows::currency)? {
                currencies.push((currency, sum(row, 3)?, sum(row, 4)?));
            }
        }
        Ok(ShardTotals { sequence: Sequence(first.number(0)?), accounts: first.number(1)?, currencies })
    }
}

fn sum(row: &Row, index: usize) -> Result<i128, Failure> {
    let text = row.text(index)?;
    text.parse().map_err(|_| Failure::refused(format!("a sum is no integer: {text}")))
}
