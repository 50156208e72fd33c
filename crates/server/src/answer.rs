//! Turning outcomes into HTTP answers.

use api::Code;
use api::problem::{Problem, Subject};
use api::response::{self, Position};
use axum::body::Body;
use axum::http::{HeaderValue, Response, StatusCode, header};
use ledger::{AccountRef, Sequence, Transfer, TransferKind};
use serde_json::Value;
use shards::partition::{NotAccepted, TransferAnswer};

/// Seconds after which an overloaded server may be asked again.
const RETRY_AFTER_SECONDS: &str = "1";

pub(crate) fn json(status: StatusCode, body: String) -> Response<Body> {
    with_type(status, "application/json", body)
}

pub(crate) fn value(status: StatusCode, body: &Value) -> Response<Body> {
    json(status, body.to_string())
}

pub(crate) fn text(content_type: &'static str, body: String) -> Response<Body> {
    with_type(StatusCode::OK, content_type, body)
}

fn with_type(status: StatusCode, content_type: &'static str, body: String) -> Response<Body> {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

pub(crate) fn problem(problem: &Problem) -> Response<Body> {
    let status = StatusCode::from_u16(problem.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = with_type(status, "application/problem+json", problem.to_json().to_string());
    if problem.code.is_retryable() {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER_SECONDS));
    }
    response
}

pub(crate) fn not_accepted(refused: NotAccepted) -> Problem {
    match refused {
        NotAccepted::Overloaded => {
            Problem::new(Code::Overloaded, "the queue is full; repeat with the same id")
        }
        NotAccepted::Stopping => {
            Problem::new(Code::Unavailable, "the server is stopping; repeat with the same id")
        }
    }
}

/// Marks an answer that was given before.
pub(crate) fn replayed(mut response: Response<Body>, replayed: bool) -> Response<Body> {
    if replayed {
        response.headers_mut().insert("idempotent-replayed", HeaderValue::from_static("true"));
    }
    response
}

/// Tells the client up to where it has seen the ledger.
pub(crate) fn at_position(
    mut response: Response<Body>,
    partition: u32,
    sequence: Sequence,
) -> Response<Body> {
    if let Ok(position) = HeaderValue::from_str(&format!("{partition}:{}", sequence.0)) {
        response.headers_mut().insert("x-wallet-position", position);
    }
    response
}

/// What remains of a transfer once it was handed over: enough to word its answer.
pub(crate) struct Asked {
    from: String,
    to: String,
    currency: ledger::Currency,
    transaction_id: ledger::TransactionId,
}

impl Asked {
    pub(crate) fn of(transfer: &Transfer) -> Asked {
        let name = |account: &AccountRef| match account {
            AccountRef::Named(name) => name.as_str().to_owned(),
            AccountRef::Number(_) => ledger::AccountId::EXTERNAL.to_owned(),
        };
        debug_assert!(transfer.kind != TransferKind::Deposit || transfer.from != transfer.to);
        Asked {
            from: name(&transfer.from),
            to: name(&transfer.to),
            currency: transfer.currency,
            transaction_id: transfer.transaction_id,
        }
    }

    pub(crate) fn outcome(&self, partition: u32, answer: &TransferAnswer) -> Result<String, Problem> {
        match &answer.outcome {
            Ok(after) => {
                let position = Position { partition, sequence: answer.sequence, timestamp: answer.timestamp };
                Ok(response::transferred(self.transaction_id, position, self.currency, after.from, after.to))
            }
            Err(refusal) => {
                let subject = Subject {
                    from: &self.from,
                    to: &self.to,
                    currency: Some(self.currency),
                    referenced: None,
                };
                Err(Problem::refused(refusal, &subject, self.transaction_id))
            }
        }
    }
}
