//! The admin interface of webhooks.

use std::sync::Arc;
use std::time::Duration;

use api::{Code, Problem, request, webhook};
use axum::Router;
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{Request, State};
use axum::http::{Response, StatusCode};
use axum::routing::{get, post};
use serde_json::{Value, json};

use super::Webhooks;
use super::endpoint::Endpoint;
use super::store::{Account, Status};
use crate::routes::{Segment, node, read_body, respond};
use crate::{Shared, answer, query};

type App = State<Arc<Shared>>;
type Answer = Result<Response<Body>, Problem>;

/// `/v1/admin/webhooks` and what lies below it.
pub(crate) fn routes() -> Router<Arc<Shared>> {
    Router::new()
        .route("/v1/admin/webhooks", get(list).post(create))
        .route("/v1/admin/webhooks/{webhook_id}", get(show).delete(remove))
        .route("/v1/admin/webhooks/{webhook_id}/pause", post(pause))
        .route("/v1/admin/webhooks/{webhook_id}/resume", post(resume))
        .route("/v1/admin/webhooks/{webhook_id}/rotate-secret", post(rotate))
        .route("/v1/admin/webhooks/{webhook_id}/dead-letters", get(dead_letters))
        .route("/v1/admin/webhooks/{webhook_id}/redeliver", post(redeliver))
}

fn webhooks(shared: &Shared) -> Result<&Webhooks, Problem> {
    node(shared)?.webhooks.as_ref().ok_or_else(|| {
        Problem::new(Code::NotImplemented, "webhooks are switched off by the setting webhooks-reach")
    })
}

/// The body, where there may be none.
async fn optional_body(request: Request) -> Result<Bytes, Problem> {
    let (parts, content) = request.into_parts();
    if content.size_hint().exact() == Some(0) {
        return Ok(Bytes::from_static(b"{}"));
    }
    read_body(&parts.headers, content).await
}

/// What a webhook looks like, and its secret where it was just made.
fn shown(webhooks: &Webhooks, endpoint: &Endpoint, secret: Option<String>) -> Value {
    let mut view = webhooks.view(endpoint);
    if let Some(secret) = secret {
        view["secret"] = json!(secret);
    }
    view
}

async fn list(State(shared): App) -> Response<Body> {
    let answer = || -> Answer {
        let webhooks = webhooks(&shared)?;
        let all: Vec<Value> = webhooks.all().iter().map(|endpoint| webhooks.view(endpoint)).collect();
        Ok(answer::value(StatusCode::OK, &json!({ "webhooks": all })))
    };
    respond(answer())
}

async fn create(State(shared): App, request: Request) -> Response<Body> {
    let answer = async {
        let webhooks = webhooks(&shared)?;
        let (parts, content) = request.into_parts();
        let new = webhook::create(&read_body(&parts.headers, content).await?)?;
        let account = match &new.account {
            None => None,
            Some(account_id) => {
                let account = request::path_account(account_id)?;
                let number = query::account_view(node(&shared)?, account).await?.number.0;
                Some(Account { account_id: account_id.clone(), number })
            }
        };
        let endpoint = webhooks.create(new, account).await?;
        let body = shown(webhooks, &endpoint, endpoint.secret());
        Ok(answer::value(StatusCode::CREATED, &body))
    };
    respond(answer.await)
}

async fn show(State(shared): App, Segment(id): Segment) -> Response<Body> {
    let answer = || -> Answer {
        let webhooks = webhooks(&shared)?;
        Ok(answer::value(StatusCode::OK, &webhooks.view(&*webhooks.find(&id)?)))
    };
    respond(answer())
}

async fn remove(State(shared): App, Segment(id): Segment) -> Response<Body> {
    let answer = async {
        let webhooks = webhooks(&shared)?;
        let mut body = webhooks.view(&*webhooks.remove(&id).await?);
        body["status"] = json!("removed");
        Ok(answer::value(StatusCode::OK, &body))
    };
    respond(answer.await)
}

async fn pause(State(shared): App, Segment(id): Segment) -> Response<Body> {
    respond(set_status(&shared, &id, Status::Paused).await)
}

async fn resume(State(shared): App, Segment(id): Segment) -> Response<Body> {
    respond(set_status(&shared, &id, Status::Active).await)
}

async fn set_status(shared: &Shared, id: &str, status: Status) -> Answer {
    let webhooks = webhooks(shared)?;
    let endpoint = webhooks.find(id)?;
    endpoint.set_status(status).await?;
    Ok(answer::value(StatusCode::OK, &webhooks.view(&endpoint)))
}

async fn rotate(State(shared): App, Segment(id): Segment, request: Request) -> Response<Body> {
    let answer = async {
        let webhooks = webhooks(&shared)?;
        let endpoint = webhooks.find(&id)?;
        let seconds = webhook::rotate(&optional_body(request).await?)?;
        let secret = endpoint.rotate(Duration::from_secs(seconds)).await?;
        Ok(answer::value(StatusCode::OK, &shown(webhooks, &endpoint, Some(secret))))
    };
    respond(answer.await)
}

async fn dead_letters(State(shared): App, Segment(id): Segment) -> Response<Body> {
    let answer = || -> Answer {
        let body = webhooks(&shared)?.find(&id)?.dead_letters(node(&shared)?.partition.number());
        Ok(answer::value(StatusCode::OK, &body))
    };
    respond(answer())
}

async fn redeliver(State(shared): App, Segment(id): Segment, request: Request) -> Response<Body> {
    let answer = async {
        let endpoint = webhooks(&shared)?.find(&id)?;
        let sequences = webhook::redeliver(&optional_body(request).await?)?;
        let queued = endpoint.redeliver(sequences.as_deref())?;
        Ok(answer::value(StatusCode::ACCEPTED, &json!({ "id": endpoint.id, "queued": queued })))
    };
    respond(answer.await)
}
