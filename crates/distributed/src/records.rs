//! What became of a transaction over shards, in the words of the ledger: every interface then answers in one way, whatever stands
//! behind it.

use coordinator::port::{BalanceAfter, HoldTerms, Outcome, Plan, Task};
use ledger::{
    AccountId, AccountRef, Amount, Command, Currency, Event, Hold, Metadata, Movement, Record, TransactionId,
    Transfer,
};

use crate::wallet::{AccountNames, account_id};

/// The events of a finished transaction, numbered by the names of the same answer.
pub(super) fn records(plan: &Plan, outcome: &Outcome, names: &mut AccountNames) -> Vec<Record> {
    let events = match &outcome.result {
        Err(refusal) => vec![Event::Refused { transaction_id: plan.transaction_id, refusal: *refusal }],
        Ok(balances) => Told { plan, outcome, balances, names }.events(),
    };
    let record = |event| Record { sequence: outcome.sequence, timestamp: outcome.timestamp, event };
    events.into_iter().map(record).collect()
}

/// The event that says that a hold lapsed by itself.
pub(super) fn lapsed(
    terms: &HoldTerms,
    available_after: i64,
    held_after: i64,
    names: &mut AccountNames,
) -> Event {
    Event::HoldReleased {
        transaction_id: None,
        hold_id: terms.hold_id,
        account: names.number(&terms.from),
        amount: terms.amount,
        currency: terms.currency,
        available_after,
        held_after,
    }
}

/// A success that is being told.
struct Told<'told> {
    plan: &'told Plan,
    outcome: &'told Outcome,
    balances: &'told [BalanceAfter],
    names: &'told mut AccountNames,
}

/// Money that went from one account to another.
struct Money<'told> {
    leg: u8,
    from: &'told AccountId,
    to: &'told AccountId,
    amount: Amount,
    currency: Currency,
}

impl Told<'_> {
    fn events(mut self) -> Vec<Event> {
        let transaction_id = self.plan.transaction_id;
        match &self.plan.command {
            Command::Transfer(transfer) => vec![self.transferred(0, transfer)],
            Command::Group(group) => {
                let legs = u8::try_from(group.legs.len()).expect("a group has 64 legs at most");
                let mut events: Vec<Event> = (0..legs)
                    .zip(&group.legs)
                    .map(|(leg, transfer)| self.transferred(leg, transfer))
                    .collect();
                events.push(Event::GroupCommitted { transaction_id, legs });
                events
            }
            Command::Hold(request) => vec![self.held(request.transfer.metadata.clone())],
            Command::ConfirmHold { .. } | Command::CancelHold { .. } => vec![self.settled()],
            Command::Reverse { original_id, metadata, .. } => {
                vec![self.reversed(*original_id, metadata.clone())]
            }
            Command::CloseAccount { account, .. } => {
                let account = self.names.number(&named(account));
                vec![Event::AccountClosed { transaction_id, account }]
            }
            Command::OpenAccount { .. } | Command::ExpireHolds => Vec::new(),
        }
    }

    fn transferred(&mut self, leg: u8, transfer: &Transfer) -> Event {
        let (from, to) = (named(&transfer.from), named(&transfer.to));
        let money = Money { leg, from: &from, to: &to, amount: transfer.amount, currency: transfer.currency };
        Event::Transferred {
            transaction_id: transfer.transaction_id,
            kind: transfer.kind,
            movement: self.movement(&money),
            metadata: transfer.metadata.clone(),
        }
    }

    fn movement(&mut self, money: &Money<'_>) -> Movement {
        let from_after = self.after(money.leg, money.from, money.currency).available;
        let to_after = self.after(money.leg, money.to, money.currency).available;
        Movement {
            from: self.names.number(money.from),
            to: self.names.number(money.to),
            amount: money.amount,
            currency: money.currency,
            from_after,
            to_after,
        }
    }

    fn after(&self, leg: u8, account: &AccountId, currency: Currency) -> &BalanceAfter {
        self.balances
            .iter()
            .find(|after| after.leg == leg && after.account == *account && after.currency == currency)
            .expect("a finished transaction tells what each of its postings left behind")
    }

    fn held(&mut self, metadata: Metadata) -> Event {
        let terms = self.hold_terms().0;
        let after = self.after(0, &terms.from, terms.currency);
        let (available_after, held_after) = (after.available, after.held);
        let expires_at = terms.expires_in_seconds.map(|seconds| self.outcome.timestamp.plus_seconds(seconds));
        let hold = Hold {
            from: self.names.number(&terms.from),
            to: self.names.number(&terms.to),
            amount: terms.amount,
            currency: terms.currency,
            expires_at,
        };
        Event::Held { hold_id: terms.hold_id, hold, available_after, held_after, metadata }
    }

    fn settled(&mut self) -> Event {
        let (terms, confirm) = self.hold_terms();
        let transaction_id = self.plan.transaction_id;
        let payer = self.after(0, &terms.from, terms.currency);
        let (available_after, held_after) = (payer.available, payer.held);
        let Some(amount) = confirm else {
            return Event::HoldReleased {
                transaction_id: Some(transaction_id),
                hold_id: terms.hold_id,
                account: self.names.number(&terms.from),
                amount: terms.amount,
                currency: terms.currency,
                available_after,
                held_after,
            };
        };
        let money = Money { leg: 0, from: &terms.from, to: &terms.to, amount, currency: terms.currency };
        Event::HoldConfirmed {
            transaction_id,
            hold_id: terms.hold_id,
            movement: self.movement(&money),
            held_after,
            released: terms.amount.minor_units() - amount.minor_units(),
        }
    }

    /// The hold that the plan places or settles, and what is paid out of it.
    fn hold_terms(&self) -> (HoldTerms, Option<Amount>) {
        let tasks = self.plan.branches.iter().filter_map(|branch| branch.task.as_ref());
        tasks
            .filter_map(|task| match task {
                Task::PlaceHold(terms) => Some((terms.clone(), None)),
                Task::SettleHold { hold, confirm } => Some((hold.clone(), *confirm)),
                Task::CloseAccount { .. } | Task::MarkReversed { .. } => None,
            })
            .next()
            .expect("a plan about a hold has it as a task")
    }

    fn reversed(&mut self, original_id: TransactionId, metadata: Metadata) -> Event {
        let changes = self.plan.branches.iter().flat_map(|branch| &branch.changes);
        let (payer, posting) = changes
            .filter_map(|change| {
                Some((change, change.postings.first().filter(|posting| posting.amount < 0)?))
            })
            .next()
            .expect("a reversal has a payer");
        let amount = Amount::from_minor_units(posting.amount.unsigned_abs()).expect("a posting moves money");
        let (from, to, currency) = (payer.account.clone(), posting.counterparty.clone(), payer.currency);
        let money = Money { leg: posting.leg, from: &from, to: &to, amount, currency };
        Event::Reversed {
            transaction_id: self.plan.transaction_id,
            original_id,
            movement: self.movement(&money),
            metadata,
        }
    }
}

/// Plans name accounts; only `@external` may be there by its number.
fn named(account: &AccountRef) -> AccountId {
    account_id(account).expect("what is planned names its accounts")
}
