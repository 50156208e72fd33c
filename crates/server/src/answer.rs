//! Turning outcomes into HTTP answers.

use api::problem::{Problem, Subject};
use api::response::{self, Position};
use axum::body::Body;
use axum::http::{HeaderValue, Response, StatusCode, header};
use ledger::{Currency, Sequence, TransactionId};
use serde_json::Value;
use shards::partition::TransferAnswer;

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

/// The body of a transfer's answer, or its refusal.
pub(crate) fn outcome(
    subject: &Subject,
    transaction_id: TransactionId,
    currency: Currency,
    partition: u32,
    answer: &TransferAnswer,
) -> Result<String, Problem> {
    match &answer.outcome {
        Ok(after) => {
            let position = Position { partition, sequence: answer.sequence, timestamp: answer.timestamp };
            Ok(response::transferred(transaction_id, position, currency, after.from, after.to))
        }
        Err(refusal) => Err(Problem::refused(refusal, subject)),
    }
}
