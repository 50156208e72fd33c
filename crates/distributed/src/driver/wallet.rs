//! [`Wallet`] by a [`Driver`]: what the shards say, in the words of the ledger.

use coordinator::plan::Placement;
use coordinator::port::{BalanceAfter, EntryKind, PhaseStatus, Reference, ShardNumber, Task};
use futures_util::future::{join_all, try_join_all};
use ledger::{
    AccountId, AccountRef, Balance, Command, Currency, Event, Record, Sequence, Transaction, TransactionId,
    Transfer,
};
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use super::{Cancelled, Coordination, Executed, Finished, unanswered};
use crate::records::{lapsed, records};
use crate::wallet::{
    AccountNames, CommandAnswer, HistoryPage, Intervention, Located, NotAnswered, TransactionAnswer,
    TransferResult, Wallet, account_id,
};
use crate::{AccountRow, Driver, Entry, HistoryRange, Metrics, ShardTotals, TransactionRow};
use shards::partition::{BalancesAfter, TransferAnswer};

/// Entries of one account at one position: every leg of a group may touch it.
const ENTRIES_PER_POSITION_MAX: usize = 2 * ledger::GROUP_LEGS_MAX;
/// How many entries of a payee's history are looked through at a time.
const CREDITS_PER_LOOK: usize = 1_000;
/// How long a shard may take to say that it is there.
const READY_PATIENCE: Duration = Duration::from_secs(2);

#[async_trait::async_trait]
impl Wallet for Driver {
    fn shards(&self) -> u32 {
        u32::try_from(self.inner.links.len()).expect("there are fewer shards than 2^32")
    }

    async fn transfers(&self, transfers: Vec<Transfer>) -> Vec<TransferResult> {
        let waves = waves(&transfers);
        let mut waiting: Vec<Option<Transfer>> = transfers.into_iter().map(Some).collect();
        let mut results: Vec<Option<TransferResult>> = waiting.iter().map(|_| None).collect();
        for wave in 0..=waves.iter().copied().max().unwrap_or(0) {
            let members = (0..waves.len()).filter(|index| waves[*index] == wave);
            let running = members.filter_map(|index| Some((index, waiting[index].take()?)));
            let running = running.map(async |(index, transfer)| (index, self.transfer(transfer).await));
            for (index, result) in join_all(running.collect::<Vec<_>>()).await {
                results[index] = Some(result);
            }
        }
        results.into_iter().map(|result| result.expect("every transfer is in a wave")).collect()
    }

    async fn command(&self, command: Command) -> Result<Located<CommandAnswer>, NotAnswered> {
        match self.execute(command).await? {
            Executed::Rejected(refusal) => Ok(located(ShardNumber(0), CommandAnswer::Rejected(refusal))),
            Executed::Opened { account_id, existed } => {
                let account = self.account(&account_id).await?;
                let lost = || NotAnswered::Unavailable("the account that was opened is not there".to_owned());
                let Located { partition, value: account } = account.ok_or_else(lost)?;
                Ok(Located { partition, value: CommandAnswer::Opened { account, existed } })
            }
            Executed::Recorded(Finished { plan, outcome, replayed }) => {
                let mut names = AccountNames::default();
                let records = records(&plan, &outcome, &mut names);
                Ok(located(plan.owner(), CommandAnswer::Executed { records, names, replayed }))
            }
        }
    }

    async fn account(&self, account: &AccountId) -> Result<Option<Located<AccountRow>>, NotAnswered> {
        if *account == AccountId::external() {
            return self.external().await;
        }
        let shard = self.inner.shard_of(account);
        let row = self.inner.link(shard).shard().account(account).await.map_err(unanswered)?;
        Ok(row.map(|row| located(shard, row)))
    }

    async fn history(
        &self,
        account: &AccountId,
        range: &HistoryRange,
    ) -> Result<Option<Located<HistoryPage>>, NotAnswered> {
        // What the outside did is in the histories of the others.
        let Some(Located { partition, value: row }) = self.account(account).await? else { return Ok(None) };
        let wider = HistoryRange { limit: range.limit + ENTRIES_PER_POSITION_MAX, ..range.clone() };
        let shard = self.inner.link(ShardNumber(partition)).shard();
        let entries = shard.history(account, &wider).await.map_err(unanswered)?;
        let value = page(entries, range.limit, row.sequence);
        Ok(Some(Located { partition, value }))
    }

    async fn transaction(
        &self,
        transaction_id: TransactionId,
    ) -> Result<Option<Located<TransactionAnswer>>, NotAnswered> {
        let Some((owner, row)) = Driver::transaction(self, transaction_id).await? else { return Ok(None) };
        let row = self.with_both_sides(row).await?;
        if row.status.outcome.is_none() {
            return Ok(Some(located(owner, TransactionAnswer::InFlight(Box::new(row.status)))));
        }
        let (transaction, names) = self.told(transaction_id, owner, &row).await?;
        Ok(Some(located(owner, TransactionAnswer::Finished { transaction, names })))
    }

    async fn totals(&self) -> Result<Vec<Located<ShardTotals>>, NotAnswered> {
        let all = self.numbered().map(async |(shard, link)| {
            link.shard().totals().await.map(|totals| located(shard, totals)).map_err(unanswered)
        });
        try_join_all(all).await
    }

    async fn in_flight(&self, limit: usize) -> Result<Vec<Located<PhaseStatus>>, NotAnswered> {
        let all = self.numbered().map(async |(shard, link)| {
            let found = link.shard().in_flight(limit).await.map_err(unanswered)?;
            Ok(found.into_iter().map(|status| located(shard, status)).collect::<Vec<_>>())
        });
        let mut found: Vec<_> = try_join_all(all).await?.into_iter().flatten().collect();
        found.sort_by_key(|status| status.value.started_at);
        found.truncate(limit);
        Ok(found)
    }

    async fn retry(&self, transaction_id: TransactionId) -> Result<Intervention, NotAnswered> {
        let Some((owner, row)) = Driver::transaction(self, transaction_id).await? else {
            return Ok(Intervention::Unknown);
        };
        if row.status.outcome.is_some() {
            return Ok(Intervention::Finished);
        }
        self.take_over(row.status.clone())?;
        Ok(Intervention::Begun(located(owner, Box::new(row.status))))
    }

    async fn cancel(&self, transaction_id: TransactionId) -> Result<Intervention, NotAnswered> {
        let Some((owner, row)) = Driver::transaction(self, transaction_id).await? else {
            return Ok(Intervention::Unknown);
        };
        if row.status.outcome.is_some() {
            return Ok(Intervention::Finished);
        }
        match self.cancel_driven(row.status.clone()).await? {
            Cancelled::Begun => Ok(Intervention::Begun(located(owner, Box::new(row.status)))),
            Cancelled::TooLate => {
                let why = "it is decided already, and will be finished as decided".to_owned();
                Ok(Intervention::TooLate(why))
            }
        }
    }

    async fn ready(&self) -> Result<(), NotAnswered> {
        let all = self.numbered().map(async |(shard, link)| {
            let unavailable = |why: String| NotAnswered::Unavailable(format!("shard {}: {why}", shard.0));
            match tokio::time::timeout(READY_PATIENCE, link.shard().in_flight(1)).await {
                Ok(Ok(_)) => Ok(()),
                Ok(Err(no_answer)) => Err(unavailable(unanswered(no_answer).to_string())),
                Err(_) => Err(unavailable("it does not answer".to_owned())),
            }
        });
        try_join_all(all).await.map(drop)
    }

    fn metrics(&self) -> &Metrics {
        &self.inner.metrics
    }

    async fn shut_down(&self) {
        self.stop().await;
    }
}

impl Driver {
    async fn transfer(&self, transfer: Transfer) -> TransferResult {
        for account in [&transfer.from, &transfer.to] {
            account_id(account)?;
        }
        let executed = self.execute(Command::Transfer(transfer)).await?;
        let (shard, answer) = match executed {
            Executed::Recorded(Finished { plan, outcome, replayed }) => {
                let outcome_of_transfer = match &outcome.result {
                    Err(refusal) => Err(*refusal),
                    Ok(balances) => {
                        let [from, to] = balances.as_slice() else {
                            unreachable!("a transfer leaves two balances behind")
                        };
                        Ok(BalancesAfter { from: from.available, to: to.available })
                    }
                };
                let (sequence, timestamp) = (outcome.sequence, outcome.timestamp);
                let answer = TransferAnswer { sequence, timestamp, replayed, outcome: outcome_of_transfer };
                (plan.owner(), answer)
            }
            Executed::Rejected(refusal) => {
                let answer = TransferAnswer {
                    sequence: Sequence(0),
                    timestamp: ledger::Timestamp::default(),
                    replayed: false,
                    outcome: Err(refusal),
                };
                (ShardNumber(0), answer)
            }
            Executed::Opened { .. } => unreachable!("a transfer opens no account"),
        };
        Ok(located(shard, answer))
    }

    /// Without a coordinator the record knows the payer's side only, and the payee's is in his history. A record whose other half is
    /// nowhere is not finished.
    async fn with_both_sides(&self, mut row: TransactionRow) -> Result<TransactionRow, NotAnswered> {
        let Command::Transfer(transfer) = &row.status.plan.command else { return Ok(row) };
        let (Coordination::None, AccountRef::Named(payee)) = (self.inner.coordination(), &transfer.to) else {
            return Ok(row);
        };
        let Some(Ok(balances)) = row.status.outcome.as_mut().map(|outcome| outcome.result.as_mut()) else {
            return Ok(row);
        };
        if balances.iter().any(|after| after.account == *payee) {
            return Ok(row);
        }
        match self.credited(payee, transfer).await? {
            Some(after) => balances.push(after),
            None => row.status.outcome = None,
        }
        Ok(row)
    }

    /// What a transfer left with its payee.
    async fn credited(
        &self,
        payee: &AccountId,
        transfer: &Transfer,
    ) -> Result<Option<BalanceAfter>, NotAnswered> {
        let shard = self.inner.link(self.inner.shard_of(payee)).shard();
        let mut range = HistoryRange { limit: CREDITS_PER_LOOK, ..HistoryRange::default() };
        loop {
            let entries = shard.history(payee, &range).await.map_err(unanswered)?;
            let found = entries.iter().find(|entry| entry.transaction_id == Some(transfer.transaction_id));
            if let Some(entry) = found {
                return Ok(Some(BalanceAfter {
                    leg: 0,
                    account: payee.clone(),
                    currency: transfer.currency,
                    available: entry.balance_after,
                    held: 0,
                }));
            }
            match entries.last() {
                Some(last) if entries.len() == range.limit => range.before = Some(last.sequence),
                _ => return Ok(None),
            }
        }
    }

    /// The outside, summed over the shards; its position is that of shard 0.
    async fn external(&self) -> Result<Option<Located<AccountRow>>, NotAnswered> {
        let external = AccountId::external();
        let all =
            self.numbered().map(async |(_, link)| link.shard().account(&external).await.map_err(unanswered));
        let mut rows = try_join_all(all).await?.into_iter().flatten();
        let Some(mut first) = rows.next() else { return Ok(None) };
        let mut balances: BTreeMap<u16, (Currency, Balance)> = first
            .balances
            .iter()
            .map(|(currency, balance)| (currency.numeric(), (*currency, *balance)))
            .collect();
        for (currency, balance) in rows.flat_map(|row| row.balances) {
            let (_, sum) = balances.entry(currency.numeric()).or_insert((currency, Balance::default()));
            let overflow = || NotAnswered::Unavailable("the outside owes more than can be told".to_owned());
            sum.available = sum.available.checked_add(balance.available).ok_or_else(overflow)?;
            sum.held = sum.held.checked_add(balance.held).ok_or_else(overflow)?;
        }
        first.balances = balances.into_values().collect();
        Ok(Some(located(ShardNumber(0), first)))
    }

    /// A finished transaction, or the leg of one, with what later ones did to it.
    async fn told(
        &self,
        transaction_id: TransactionId,
        owner: ShardNumber,
        row: &TransactionRow,
    ) -> Result<(Transaction, AccountNames), NotAnswered> {
        let mut names = AccountNames::default();
        let mut own = of_record(&row.status, &mut names);
        if own.len() > 1 && transaction_id != row.status.plan.transaction_id {
            own.retain(|record| record.event.transaction_id() == Some(transaction_id));
        } else if let Some(last) = own.pop() {
            own = vec![last];
        }
        for reference in &row.references {
            own.extend(self.referenced(owner, row, reference, &mut names).await?);
        }
        let command = row.status.plan.command.clone();
        Ok((Transaction { transaction_id, command, records: own }, names))
    }

    /// The event of a later transaction, at its position beside the earlier one.
    async fn referenced(
        &self,
        owner: ShardNumber,
        row: &TransactionRow,
        reference: &Reference,
        names: &mut AccountNames,
    ) -> Result<Option<Record>, NotAnswered> {
        let event = match reference.transaction_id {
            Some(later) => {
                let later = Driver::transaction(self, later).await?;
                later.and_then(|(_, later)| of_record(&later.status, names).pop()).map(|record| record.event)
            }
            None => self.lapse(owner, row, reference, names).await?,
        };
        let Reference { sequence, timestamp, .. } = *reference;
        Ok(event.map(|event| Record { sequence, timestamp, event }))
    }

    async fn lapse(
        &self,
        owner: ShardNumber,
        row: &TransactionRow,
        reference: &Reference,
        names: &mut AccountNames,
    ) -> Result<Option<Event>, NotAnswered> {
        let tasks = row.status.plan.branches.iter().filter_map(|branch| branch.task.as_ref());
        let mut holds = tasks.filter_map(|task| match task {
            Task::PlaceHold(terms) => Some(terms),
            _ => None,
        });
        let Some(terms) = holds.next() else { return Ok(None) };
        let shard = self.inner.link(owner).shard();
        let range = HistoryRange {
            before: Some(Sequence(reference.sequence.0 + 1)),
            currency: Some(terms.currency),
            limit: ENTRIES_PER_POSITION_MAX,
            ..HistoryRange::default()
        };
        let entries = shard.history(&terms.from, &range).await.map_err(unanswered)?;
        let entry = entries
            .iter()
            .find(|entry| entry.sequence == reference.sequence && entry.kind == EntryKind::HoldReleased);
        let account = shard.account(&terms.from).await.map_err(unanswered)?;
        let held = account.and_then(|account| {
            let of_currency = account.balances.iter().find(|(currency, _)| *currency == terms.currency);
            of_currency.map(|(_, balance)| balance.held)
        });
        let available = entry.map_or(0, |entry| entry.balance_after);
        Ok(Some(lapsed(terms, available, held.unwrap_or(0), names)))
    }
}

/// When each transfer of a batch is carried out. What has nothing to do with each other goes side by side; who spends what he was paid
/// earlier in the batch waits for it, and a repeated id for its first.
fn waves(transfers: &[Transfer]) -> Vec<usize> {
    // `@external` has no name here, and no need to be paid before it pays.
    fn named(account: &AccountRef) -> Option<&AccountId> {
        match account {
            AccountRef::Named(name) => Some(name),
            AccountRef::Number(_) => None,
        }
    }
    let mut paid: HashMap<&AccountId, usize> = HashMap::new();
    let mut used: HashMap<TransactionId, usize> = HashMap::new();
    let mut waves = Vec::with_capacity(transfers.len());
    for transfer in transfers {
        let payment = named(&transfer.from).and_then(|payer| paid.get(payer));
        let earlier = payment.into_iter().chain(used.get(&transfer.transaction_id)).max();
        let wave = earlier.map_or(0, |wave| wave + 1);
        if let Some(payee) = named(&transfer.to) {
            let last = paid.entry(payee).or_insert(wave);
            *last = wave.max(*last);
        }
        used.insert(transfer.transaction_id, wave);
        waves.push(wave);
    }
    waves
}

/// The events of a record that is finished; none of one that is not.
fn of_record(status: &PhaseStatus, names: &mut AccountNames) -> Vec<Record> {
    status.outcome.as_ref().map(|outcome| records(&status.plan, outcome, names)).unwrap_or_default()
}

/// The first entries, and where the next page begins. Entries of one position are never cut apart: a page may be longer for it.
fn page(mut entries: Vec<Entry>, limit: usize, position: Sequence) -> HistoryPage {
    let same_position = |index: usize| index > 0 && entries[index].sequence == entries[index - 1].sequence;
    let end = (limit..entries.len()).find(|index| !same_position(*index));
    let next = end.and_then(|end| Some(entries.get(end.checked_sub(1)?)?.sequence));
    entries.truncate(end.unwrap_or(entries.len()));
    HistoryPage { entries, next, position }
}

fn located<Value>(shard: ShardNumber, value: Value) -> Located<Value> {
    Located { partition: shard.0, value }
}

#[cfg(test)]
mod tests {
    use ledger::{AccountNumber, Amount, Metadata, TransferKind};

    use super::*;

    #[test]
    fn who_spends_what_a_batch_brings_waits_for_it() {
        let named = |name: &str| match name {
            "@external" => AccountRef::Number(AccountNumber::EXTERNAL),
            name => AccountId::parse(name).expect("an id").into(),
        };
        let batch = [
            ("@external", "a", 1, 0),
            ("@external", "b", 2, 0),
            ("a", "b", 3, 1),
            ("a", "c", 4, 1),
            ("b", "@external", 5, 2),
            ("d", "a", 6, 0),
            ("@external", "e", 7, 0),
            ("d", "a", 6, 1),
        ];
        let transfer = |(from, to, id, _): &(&str, &str, u128, usize)| Transfer {
            transaction_id: TransactionId(*id),
            kind: TransferKind::Transfer,
            from: named(from),
            to: named(to),
            amount: Amount::from_minor_units(1).expect("an amount"),
            currency: Currency::parse("USD").expect("a currency"),
            metadata: Metadata::default(),
        };
        let transfers: Vec<Transfer> = batch.iter().map(transfer).collect();
        let expected: Vec<usize> = batch.iter().map(|(.., wave)| *wave).collect();
        assert_eq!(waves(&transfers), expected);
    }
}
