//! What must come out: [`ledger`]'s own `decide` and `apply`, one command after the other. It shares no code with the rules of a shard.

use std::collections::BTreeMap;

use ledger::{
    AccountId, Command, Currency, Decision, Event, Record, Refusal, Sequence, State, Timestamp, Transaction,
    TransactionId,
};

/// A wallet in which nothing is distributed.
pub(super) struct Oracle {
    pub(super) state: State,
    transactions: BTreeMap<TransactionId, Transaction>,
    sequence: Sequence,
    /// What each account's history must tell: id, amount, balance afterwards.
    pub(super) entries: BTreeMap<AccountId, Vec<(Option<TransactionId>, i64, i64)>>,
}

/// What an account must have after a posting; `@external` is left out, since each shard has a part of it.
pub(super) type Left = (AccountId, Currency, i64);

/// What must become of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Expected {
    Success(Vec<Left>),
    Refused(Refusal),
    Rejected(Refusal),
}

impl Oracle {
    pub(super) fn new() -> Oracle {
        Oracle {
            state: State::new(),
            transactions: BTreeMap::new(),
            sequence: Sequence(0),
            entries: BTreeMap::new(),
        }
    }

    pub(super) fn execute(&mut self, command: &Command) -> Expected {
        let now = Timestamp::from_micros(1);
        let mut resolved = command.clone();
        resolved.resolve(&self.state);
        let referenced = command.referenced_id().and_then(|id| self.transactions.get(&id)).cloned();
        let events = match self.state.decide(&resolved, now, referenced.as_ref()) {
            Decision::Rejected(refusal) => return Expected::Rejected(refusal),
            Decision::Unchanged => return Expected::Success(Vec::new()),
            Decision::Accepted(events) => events,
        };
        self.state.apply_all(now, &events);
        let mut left = Vec::new();
        for event in events.iter() {
            self.sequence = self.sequence.next();
            let record = Record { sequence: self.sequence, timestamp: now, event: event.clone() };
            for id in [event.transaction_id(), event.referenced_id()].into_iter().flatten() {
                let new = Transaction { transaction_id: id, command: command.clone(), records: Vec::new() };
                self.transactions.entry(id).or_insert(new).records.push(record.clone());
            }
            if let Event::Refused { refusal, .. } = event {
                return Expected::Refused(*refusal);
            }
            for change in event.balance_changes().into_iter().flatten() {
                let account = self.state.account_id(change.account).expect("it has a balance").clone();
                let entry = (event.transaction_id(), change.available_change, change.available_after);
                self.entries.entry(account.clone()).or_default().push(entry);
                if account != AccountId::external() {
                    left.push((account, change.currency, change.available_after));
                }
            }
        }
        Expected::Success(left)
    }
}
