//! From events to rows: what a run of events changes in the tables. Pure, and the same for every database.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};

use api::proto::Event;

/// Stands in `metadata` for the character NUL, which PostgreSQL cannot store: U+2400, its symbol.
const NUL_SYMBOL: &str = "\u{2400}";

/// Why events cannot become rows.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("event {sequence}: {why}; is the wallet of another version?")]
pub(crate) struct RowsError {
    sequence: i64,
    why: String,
}

/// What a run of events changes, to be written in one transaction. Amounts are minor units, times microseconds since 1970.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Rows<'events> {
    /// New rows of `accounts`.
    pub(crate) accounts: Vec<AccountRow<'events>>,
    /// Accounts opened before these events, and closed by them.
    pub(crate) closings: Vec<ClosingRow<'events>>,
    /// New rows of `transactions`.
    pub(crate) transactions: Vec<TransactionRow<'events>>,
    /// What became of transactions before these events.
    pub(crate) fates: Vec<(Id, Fate)>,
    /// Groups with legs before these events: the id, and the first and the last sequence of its legs.
    pub(crate) groups: Vec<(Id, i64, i64)>,
    /// New rows of `postings`.
    pub(crate) postings: Vec<PostingRow<'events>>,
    /// The last balance of every account and currency that changed.
    pub(crate) balances: Vec<BalanceRow<'events>>,
}

/// A transaction's id: the 16 bytes of a UUID.
pub(crate) type Id = [u8; 16];

/// A row of `accounts`.
#[derive(Debug, PartialEq)]
pub(crate) struct AccountRow<'events> {
    pub(crate) account_id: &'events str,
    pub(crate) handle: i64,
    pub(crate) opened_sequence: i64,
    pub(crate) opened_at: i64,
    pub(crate) closed: Option<(i64, i64)>,
    pub(crate) metadata: Metadata,
}

/// What closing changes: when, as sequence and time.
#[derive(Debug, PartialEq)]
pub(crate) struct ClosingRow<'events> {
    pub(crate) account_id: &'events str,
    pub(crate) sequence: i64,
    pub(crate) timestamp: i64,
}

/// A row of `transactions`.
#[derive(Debug, PartialEq)]
pub(crate) struct TransactionRow<'events> {
    pub(crate) transaction_id: Id,
    pub(crate) kind: &'events str,
    pub(crate) fate: Fate,
    pub(crate) code: Option<&'events str>,
    pub(crate) leg: Option<i64>,
    pub(crate) leg_code: Option<&'events str>,
    pub(crate) from_account: Option<&'events str>,
    pub(crate) to_account: Option<&'events str>,
    pub(crate) account_id: Option<&'events str>,
    pub(crate) amount: Option<i64>,
    pub(crate) currency: Option<&'events str>,
    pub(crate) released: Option<i64>,
    pub(crate) expires_at: Option<i64>,
    pub(crate) referenced_transaction_id: Option<Id>,
    pub(crate) group_id: Option<Id>,
    pub(crate) sequence: i64,
    pub(crate) timestamp: i64,
    pub(crate) metadata: Metadata,
}

/// How a transaction stands, and since when where a later event decided it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fate {
    pub(crate) status: &'static str,
    pub(crate) settled_sequence: Option<i64>,
    pub(crate) settled_at: Option<i64>,
}

/// A row of `postings`.
#[derive(Debug, PartialEq)]
pub(crate) struct PostingRow<'events> {
    pub(crate) sequence: i64,
    pub(crate) timestamp: i64,
    pub(crate) transaction_id: Id,
    pub(crate) kind: &'events str,
    pub(crate) account_id: &'events str,
    pub(crate) counterparty: Option<&'events str>,
    pub(crate) currency: &'events str,
    pub(crate) amount: i64,
    pub(crate) balance_after: i64,
    pub(crate) held_after: Option<i64>,
}

/// A row of `balances`; `held` is `None` where it did not change.
#[derive(Debug, PartialEq)]
pub(crate) struct BalanceRow<'events> {
    pub(crate) account_id: &'events str,
    pub(crate) currency: &'events str,
    pub(crate) available: i64,
    pub(crate) held: Option<i64>,
    pub(crate) sequence: i64,
}

/// A caller's notes as JSON, with sorted keys: the same notes are the same text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Metadata {
    /// The notes, exactly.
    pub(crate) exact: Cow<'static, str>,
    /// The notes with U+2400 for NUL; `None` when there is no NUL.
    pub(crate) without_nul: Option<String>,
}

impl Metadata {
    fn of(notes: &HashMap<String, String>) -> Metadata {
        if notes.is_empty() {
            return Metadata { exact: Cow::Borrowed("{}"), without_nul: None };
        }
        let sorted: BTreeMap<&str, &str> =
            notes.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        let has_nul = sorted.iter().any(|(key, value)| key.contains('\0') || value.contains('\0'));
        let without_nul = has_nul.then(|| {
            let replaced = |text: &str| text.replace('\0', NUL_SYMBOL);
            let replaced: BTreeMap<String, String> =
                sorted.iter().map(|(key, value)| (replaced(key), replaced(value))).collect();
            json(&replaced)
        });
        Metadata { exact: Cow::Owned(json(&sorted)), without_nul }
    }
}

fn json(pairs: &impl serde::Serialize) -> String {
    serde_json::to_string(pairs).expect("every key is a string")
}

/// What tells an event from every other, of other ledgers too.
pub(crate) fn signature(event: &Event) -> String {
    let time = api::format_timestamp(ledger::Timestamp::from_micros(event.timestamp_micros));
    let subject = match (&event.transaction_id, &event.referenced_transaction_id) {
        (id, _) if !id.is_empty() => hex::encode(id),
        (_, id) if !id.is_empty() => hex::encode(id),
        _ => event.account_id.clone(),
    };
    format!("event {} of {time}: {} {subject}", event.sequence, event.r#type)
}

impl<'events> Rows<'events> {
    /// The rows of events that follow each other.
    pub(crate) fn of(events: &'events [Event]) -> Result<Rows<'events>, RowsError> {
        let mut builder = Builder::default();
        for event in events {
            let wrong = |why| RowsError { sequence: event.sequence as i64, why };
            builder.add(event).map_err(wrong)?;
        }
        Ok(builder.rows)
    }
}

/// Rows, and where among them what later events change is.
#[derive(Default)]
struct Builder<'events> {
    rows: Rows<'events>,
    accounts: HashMap<&'events str, usize>,
    transactions: HashMap<Id, usize>,
    balances: HashMap<(&'events str, &'events str), usize>,
}

/// A text that may be missing, as protobuf has it.
fn present(text: &str) -> Option<&str> {
    Some(text).filter(|text| !text.is_empty())
}

fn id(name: &str, bytes: &[u8]) -> Result<Option<Id>, String> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let wrong = |_| format!("{name} has {} bytes", bytes.len());
    bytes.try_into().map(Some).map_err(wrong)
}

impl<'events> Builder<'events> {
    fn add(&mut self, event: &'events Event) -> Result<(), String> {
        let transaction_id = id("transaction_id", &event.transaction_id)?;
        let referenced = id("referenced_transaction_id", &event.referenced_transaction_id)?;
        let fate = match event.r#type.as_str() {
            "account_opened" => {
                self.open(event)?;
                None
            }
            "account_closed" => {
                self.close(event);
                None
            }
            "hold_confirmed" => Some("confirmed"),
            "hold_cancelled" => Some("cancelled"),
            "hold_expired" => Some("expired"),
            "reversal" => Some("reversed"),
            "transfer" | "deposit" | "withdrawal" | "hold" | "refused" => None,
            "group_committed" => {
                self.group(transaction_id.ok_or("a group without an id")?, event);
                None
            }
            other => return Err(format!("unknown type {other:?}")),
        };
        if let Some(status) = fate {
            let original = referenced.ok_or("the earlier transaction is missing")?;
            self.decide(original, status, event);
        }
        self.post(transaction_id.or(referenced), event)?;
        if let Some(transaction_id) = transaction_id {
            self.transactions.insert(transaction_id, self.rows.transactions.len());
            self.rows.transactions.push(transaction(transaction_id, referenced, event));
        }
        Ok(())
    }

    fn open(&mut self, event: &'events Event) -> Result<(), String> {
        let handle = event.handle.ok_or("an opened account has no number")?.into();
        let account_id = event.account_id.as_str();
        self.accounts.insert(account_id, self.rows.accounts.len());
        self.rows.accounts.push(AccountRow {
            account_id,
            handle,
            opened_sequence: event.sequence as i64,
            opened_at: event.timestamp_micros,
            closed: None,
            metadata: Metadata::of(&event.metadata),
        });
        Ok(())
    }

    fn close(&mut self, event: &'events Event) {
        let (account_id, sequence) = (event.account_id.as_str(), event.sequence as i64);
        let timestamp = event.timestamp_micros;
        match self.accounts.get(account_id) {
            Some(&place) => self.rows.accounts[place].closed = Some((sequence, timestamp)),
            None => self.rows.closings.push(ClosingRow { account_id, sequence, timestamp }),
        }
    }

    /// The legs are the events just before, of which the first may be in the tables already.
    fn group(&mut self, group_id: Id, event: &Event) {
        let last = event.sequence as i64 - 1;
        let first = event.sequence as i64 - i64::from(event.legs);
        let mut seen = 0;
        for row in self.rows.transactions.iter_mut().rev().take_while(|row| row.sequence >= first) {
            row.group_id = Some(group_id);
            seen += 1;
        }
        if seen < event.legs {
            self.rows.groups.push((group_id, first, last));
        }
    }

    fn decide(&mut self, transaction_id: Id, status: &'static str, event: &Event) {
        let (sequence, time) = (event.sequence as i64, event.timestamp_micros);
        let fate = Fate { status, settled_sequence: Some(sequence), settled_at: Some(time) };
        match self.transactions.get(&transaction_id) {
            Some(&place) => self.rows.transactions[place].fate = fate,
            None => self.rows.fates.push((transaction_id, fate)),
        }
    }

    fn post(&mut self, transaction_id: Option<Id>, event: &'events Event) -> Result<(), String> {
        let sequence = event.sequence as i64;
        for posting in &event.postings {
            let account_id = posting.account_id.as_str();
            let counterparty = if account_id == event.from_account {
                present(&event.to_account)
            } else {
                present(&event.from_account)
            };
            self.rows.postings.push(PostingRow {
                sequence,
                timestamp: event.timestamp_micros,
                transaction_id: transaction_id.ok_or("postings without a transaction")?,
                kind: &event.r#type,
                account_id,
                counterparty,
                currency: &posting.currency,
                amount: posting.amount,
                balance_after: posting.balance_after,
                held_after: posting.held_after,
            });
            let currency = posting.currency.as_str();
            let place = *self.balances.entry((account_id, currency)).or_insert_with(|| {
                self.rows.balances.push(BalanceRow {
                    account_id,
                    currency,
                    available: 0,
                    held: None,
                    sequence,
                });
                self.rows.balances.len() - 1
            });
            let balance = &mut self.rows.balances[place];
            (balance.available, balance.sequence) = (posting.balance_after, sequence);
            balance.held = posting.held_after.or(balance.held);
        }
        Ok(())
    }
}

fn transaction<'events>(
    transaction_id: Id,
    referenced_transaction_id: Option<Id>,
    event: &'events Event,
) -> TransactionRow<'events> {
    let (kind, status) = match event.r#type.as_str() {
        "refused" => (event.refused_type.as_str(), "refused"),
        "hold" => ("hold", "held"),
        kind => (kind, "success"),
    };
    TransactionRow {
        transaction_id,
        kind,
        fate: Fate { status, settled_sequence: None, settled_at: None },
        code: present(&event.code),
        leg: event.leg.map(i64::from),
        leg_code: present(&event.leg_code),
        from_account: present(&event.from_account),
        to_account: present(&event.to_account),
        account_id: present(&event.account_id),
        amount: present(&event.currency).map(|_| event.amount),
        currency: present(&event.currency),
        released: event.released,
        expires_at: event.expires_at_micros,
        referenced_transaction_id,
        group_id: None,
        sequence: event.sequence as i64,
        timestamp: event.timestamp_micros,
        metadata: Metadata::of(&event.metadata),
    }
}

#[cfg(test)]
mod tests {
    use api::proto::Posting;

    use super::*;

    const HOLD: u8 = 7;

    fn event(sequence: u64, kind: &str, id: u8) -> Event {
        Event {
            r#type: kind.to_owned(),
            sequence,
            timestamp_micros: 1_000 * sequence as i64,
            transaction_id: if id == 0 { Vec::new() } else { vec![id; 16] },
            ..Event::default()
        }
    }

    fn about(referenced: u8, event: Event) -> Event {
        Event { referenced_transaction_id: vec![referenced; 16], ..event }
    }

    fn posting(account_id: &str, amount: i64, balance_after: i64, held_after: Option<i64>) -> Posting {
        let (account_id, currency) = (account_id.to_owned(), "USD".to_owned());
        Posting { account_id, currency, amount, balance_after, held_after }
    }

    fn moving(postings: [Posting; 2], event: Event) -> Event {
        let (from_account, to_account) = (postings[0].account_id.clone(), postings[1].account_id.clone());
        let (amount, currency) = (postings[1].amount, "USD".to_owned());
        Event { postings: postings.to_vec(), from_account, to_account, amount, currency, ..event }
    }

    fn rows_of(events: &[Event]) -> Rows<'_> {
        Rows::of(events).expect("the events make sense")
    }

    #[test]
    fn the_last_balance_of_each_account_is_kept_and_held_only_where_it_changed() {
        let events = [
            Event { postings: vec![posting("alice", -20, 80, Some(20))], ..event(1, "hold", HOLD) },
            moving([posting("alice", -5, 75, None), posting("bob", 5, 5, None)], event(2, "transfer", 8)),
        ];
        let rows = rows_of(&events);
        let balance = |account_id, available, held, sequence| {
            let currency = "USD";
            BalanceRow { account_id, currency, available, held, sequence }
        };
        assert_eq!(rows.balances, [balance("alice", 75, Some(20), 2), balance("bob", 5, None, 2)]);
        let sides: Vec<_> =
            rows.postings.iter().map(|row| (row.account_id, row.counterparty, row.amount)).collect();
        assert_eq!(sides, [("alice", None, -20), ("alice", Some("bob"), -5), ("bob", Some("alice"), 5)]);
    }

    #[test]
    fn a_fate_is_written_where_its_transaction_is() {
        let fates =
            [("hold_confirmed", "confirmed"), ("hold_cancelled", "cancelled"), ("reversal", "reversed")];
        for (kind, status) in fates {
            let events = [event(1, "hold", HOLD), about(HOLD, event(2, kind, 8))];
            let fate = Fate { status, settled_sequence: Some(2), settled_at: Some(2_000) };
            let together = rows_of(&events);
            assert_eq!((together.transactions[0].fate, together.fates.len()), (fate, 0), "{kind}");
            let alone = rows_of(&events[1..]);
            assert_eq!(alone.fates, [([HOLD; 16], fate)], "{kind}");
            assert_eq!(alone.transactions[0].fate.status, "success");
        }
        let expiry = [about(HOLD, event(3, "hold_expired", 0))];
        let rows = rows_of(&expiry);
        assert_eq!((rows.fates[0].1.status, rows.transactions.len()), ("expired", 0));
    }

    #[test]
    fn legs_know_their_group_wherever_they_were_written() {
        let committed = Event { legs: 2, ..event(4, "group_committed", 9) };
        let events = [event(1, "transfer", 1), event(2, "transfer", 2), event(3, "transfer", 3), committed];
        let rows = rows_of(&events);
        let groups: Vec<_> = rows.transactions.iter().map(|row| row.group_id).collect();
        assert_eq!((groups, rows.groups.len()), (vec![None, Some([9; 16]), Some([9; 16]), None], 0));
        let rows = rows_of(&events[2..]);
        assert_eq!(rows.groups, [([9; 16], 2, 3)]);
    }

    #[test]
    fn accounts_close_in_their_own_row_or_in_an_earlier_one() {
        let named = |event: Event| Event { account_id: "alice".to_owned(), handle: Some(1), ..event };
        let events = [named(event(1, "account_opened", 0)), named(event(2, "account_closed", 5))];
        let together = rows_of(&events);
        assert_eq!((together.accounts[0].closed, together.closings.len()), (Some((2, 2_000)), 0));
        let alone = rows_of(&events[1..]);
        assert_eq!(alone.closings, [ClosingRow { account_id: "alice", sequence: 2, timestamp: 2_000 }]);
    }

    #[test]
    fn notes_are_exact_and_have_a_form_without_nul() {
        let notes = |pairs: &[(&str, &str)]| {
            Metadata::of(&pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect())
        };
        assert_eq!(notes(&[]), Metadata { exact: "{}".into(), without_nul: None });
        assert_eq!(notes(&[("b", "\"'"), ("a", "지갑")]).exact, r#"{"a":"지갑","b":"\"'"}"#);
        let with_nul = notes(&[("a\0", "b\0")]);
        assert_eq!(with_nul.exact, r#"{"a\u0000":"b\u0000"}"#);
        assert_eq!(with_nul.without_nul.as_deref(), Some("{\"a\u{2400}\":\"b\u{2400}\"}"));
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for wrong in [
            event(1, "miracle", 1),
            event(1, "hold_confirmed", 1),
            event(1, "account_opened", 0),
            Event { transaction_id: vec![1; 3], ..event(1, "transfer", 1) },
        ] {
            assert!(Rows::of(std::slice::from_ref(&wrong)).is_err(), "{wrong:?}");
        }
    }
}
