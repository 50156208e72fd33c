//! What each client command sends.

use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::cli::{
    CashArguments, HistoryArguments, IdentityArguments, MetadataArguments, MomentArguments, TransferArguments,
};
use crate::exit::Failure;

/// One request.
pub(crate) struct Ask {
    pub(crate) subject: Subject,
    pub(crate) path: String,
    pub(crate) method: Method,
    /// The id under which the command happens once.
    pub(crate) transaction_id: Option<String>,
}

/// How it is asked.
#[derive(Debug)]
pub(crate) enum Method {
    Get,
    Post(Value),
    Delete,
}

/// Which entries of a history.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HistoryQuery<'query> {
    pub(crate) account: &'query str,
    pub(crate) limit: Option<u32>,
    pub(crate) cursor: Option<&'query str>,
    pub(crate) currency: Option<&'query str>,
    pub(crate) since: Option<&'query str>,
    pub(crate) until: Option<&'query str>,
}

impl<'query> From<&'query HistoryArguments> for HistoryQuery<'query> {
    fn from(arguments: &'query HistoryArguments) -> HistoryQuery<'query> {
        HistoryQuery {
            account: &arguments.account,
            limit: arguments.limit,
            cursor: arguments.cursor.as_deref(),
            currency: arguments.currency.as_deref(),
            since: arguments.since.as_deref(),
            until: arguments.until.as_deref(),
        }
    }
}

/// What the answer is about, and so how it is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Subject {
    Account,
    Command,
    History,
    Transaction,
    State,
    Receipt,
    Webhooks,
    DeadLetters,
    InFlight,
    Check,
}

impl Ask {
    /// A query.
    pub(crate) fn query(subject: Subject, path: String) -> Ask {
        Ask { subject, path, method: Method::Get, transaction_id: None }
    }

    /// A request to the admin interface.
    pub(crate) fn admin(path: String, method: Method) -> Ask {
        Ask { subject: Subject::Command, path, method, transaction_id: None }
    }

    /// `account show`.
    pub(crate) fn account(account_id: &str, moment: &MomentArguments) -> Ask {
        let at_sequence = moment.at_sequence.map(|sequence| sequence.to_string());
        let parameters = [("at", moment.at.as_deref()), ("at_sequence", at_sequence.as_deref())];
        let path = with_parameters(format!("/v1/wallet/accounts/{}", escape(account_id)), &parameters);
        Ask::query(Subject::Account, path)
    }

    /// `transaction`.
    pub(crate) fn transaction(transaction_id: &str) -> Ask {
        Ask::query(Subject::Transaction, format!("/v1/wallet/transactions/{}", escape(transaction_id)))
    }

    /// `receipt get`.
    pub(crate) fn receipt(transaction_id: &str) -> Ask {
        Ask::query(Subject::Receipt, format!("/v1/wallet/transactions/{}/receipt", escape(transaction_id)))
    }

    /// `state`.
    pub(crate) fn state(at_sequence: Option<u64>) -> Ask {
        let at_sequence = at_sequence.map(|sequence| sequence.to_string());
        let parameters = [("at_sequence", at_sequence.as_deref())];
        Ask::query(Subject::State, with_parameters("/v1/wallet/state".to_owned(), &parameters))
    }

    /// `snapshot create`.
    pub(crate) fn snapshot() -> Ask {
        Ask::admin("/v1/admin/snapshots".to_owned(), Method::Post(json!({})))
    }

    /// `check`.
    pub(crate) fn check() -> Ask {
        Ask::query(Subject::Check, "/v1/admin/check".to_owned())
    }

    /// `transactions stuck`.
    pub(crate) fn in_flight(limit: Option<u32>) -> Ask {
        let limit = limit.map_or_else(String::new, |limit| format!("&limit={limit}"));
        Ask::query(Subject::InFlight, format!("/v1/admin/transactions?state=in_flight{limit}"))
    }

    /// `transactions retry` and `cancel`.
    pub(crate) fn intervene(transaction_id: &str, verb: &str) -> Ask {
        let path = format!("/v1/admin/transactions/{}/{verb}", escape(transaction_id));
        Ask::admin(path, Method::Post(json!({})))
    }

    /// `history`.
    pub(crate) fn history(query: &HistoryQuery) -> Ask {
        let limit = query.limit.map(|limit| limit.to_string());
        let parameters = [
            ("limit", limit.as_deref()),
            ("cursor", query.cursor),
            ("currency", query.currency),
            ("since", query.since),
            ("until", query.until),
        ];
        let path = format!("/v1/wallet/accounts/{}/history", escape(query.account));
        Ask::query(Subject::History, with_parameters(path, &parameters))
    }

    fn command(path: String, transaction_id: String, mut body: Value, notes: &MetadataArguments) -> Ask {
        body["transaction_id"] = json!(transaction_id);
        put_metadata(&mut body, notes);
        Ask {
            subject: Subject::Command,
            path,
            method: Method::Post(body),
            transaction_id: Some(transaction_id),
        }
    }
}

/// A path with those parameters that have a value.
fn with_parameters(path: String, parameters: &[(&str, Option<&str>)]) -> String {
    let given: Vec<String> =
        parameters.iter().filter_map(|(name, value)| Some(format!("{name}={}", escape((*value)?)))).collect();
    if given.is_empty() { path } else { format!("{path}?{}", given.join("&")) }
}

/// `account open`.
pub(crate) fn open_account(account_id: &str, notes: &MetadataArguments) -> Ask {
    let mut body = json!({ "account_id": account_id });
    put_metadata(&mut body, notes);
    Ask {
        subject: Subject::Account,
        path: "/v1/wallet/accounts".to_owned(),
        method: Method::Post(body),
        transaction_id: None,
    }
}

/// `deposit` and `withdraw`; `route` is the last part of the path.
pub(crate) fn cash(route: &str, arguments: &CashArguments) -> Result<Ask, Failure> {
    let body = json!({
        "account": arguments.account,
        "amount": arguments.amount,
        "currency": arguments.currency,
    });
    let id = transaction_id(&arguments.identity)?;
    Ok(Ask::command(format!("/v1/wallet/{route}"), id, body, &arguments.notes))
}

/// `transfer`.
pub(crate) fn transfer(arguments: &TransferArguments) -> Result<Ask, Failure> {
    let id = transaction_id(&arguments.identity)?;
    let path = "/v1/wallet/balance_transfer".to_owned();
    Ok(Ask::command(path, id, transfer_body(arguments), &arguments.notes))
}

/// `hold`.
pub(crate) fn hold(arguments: &TransferArguments, expires_in_seconds: Option<u32>) -> Result<Ask, Failure> {
    let mut body = transfer_body(arguments);
    if let Some(seconds) = expires_in_seconds {
        body["expires_in_seconds"] = json!(seconds);
    }
    let id = transaction_id(&arguments.identity)?;
    Ok(Ask::command("/v1/wallet/holds".to_owned(), id, body, &arguments.notes))
}

fn transfer_body(arguments: &TransferArguments) -> Value {
    json!({
        "from_account": arguments.from,
        "to_account": arguments.to,
        "amount": arguments.amount,
        "currency": arguments.currency,
    })
}

/// A command about something that exists: `/v1/wallet/COLLECTION/NAME/VERB`.
pub(crate) fn follow_up(
    (collection, name, verb): (&str, &str, &str),
    identity: &IdentityArguments,
    notes: Option<&MetadataArguments>,
    amount: Option<&str>,
) -> Result<Ask, Failure> {
    let mut body = Value::Object(Map::new());
    if let Some(amount) = amount {
        body["amount"] = json!(amount);
    }
    let path = format!("/v1/wallet/{collection}/{}/{verb}", escape(name));
    let none = MetadataArguments { pairs: Vec::new() };
    Ok(Ask::command(path, transaction_id(identity)?, body, notes.unwrap_or(&none)))
}

/// The given id, or a new one that sorts by time.
fn transaction_id(identity: &IdentityArguments) -> Result<String, Failure> {
    match &identity.transaction_id {
        None => Ok(Uuid::now_v7().to_string()),
        Some(text) => match Uuid::try_parse(text) {
            Ok(id) => Ok(id.to_string()),
            Err(error) => Err(Failure::usage(format!("--id: {text:?} is no UUID: {error}"))),
        },
    }
}

fn put_metadata(body: &mut Value, notes: &MetadataArguments) {
    if !notes.pairs.is_empty() {
        let pairs: Map<String, Value> =
            notes.pairs.iter().map(|(key, value)| (key.clone(), json!(value))).collect();
        body["metadata"] = Value::Object(pairs);
    }
}

/// Percent-encodes everything that is not plainly safe in a path or a query.
pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b':' | b'@' => {
                escaped.push(char::from(byte));
            }
            other => escaped.push_str(&format!("%{other:02X}")),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_leave_their_part_of_the_path() {
        assert_eq!(escape("alice-1.x:y"), "alice-1.x:y");
        assert_eq!(escape("../state?x=1&y#z é"), "..%2Fstate%3Fx%3D1%26y%23z%20%C3%A9");
    }

    #[test]
    fn ids_are_made_when_not_given_and_checked_when_given() {
        let made = transaction_id(&IdentityArguments { transaction_id: None }).expect("it is made");
        assert_eq!(Uuid::try_parse(&made).expect("a UUID").get_version_num(), 7);
        let given = IdentityArguments { transaction_id: Some("nonsense".to_owned()) };
        assert!(transaction_id(&given).is_err());
    }
}
