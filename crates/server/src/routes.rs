//! Every route: read the request, hand it over, answer.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use api::problem::{Problem, Subject};
use api::request::{self, Endpoint, FollowUp, Malformed, Transfers};
use api::response;
use api::{Code, openapi};
use axum::Router;
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{FromRequestParts, Path, RawQuery, Request, State};
use axum::http::request::Parts;
use axum::http::{self, HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use axum::middleware::{self, Next};
use axum::routing::{get, post};
use distributed::wallet::Located;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use ledger::{Command, Currency, Sequence, TransactionId};
use serde_json::{Value, json};
use tracing::{Instrument, Span};
use views::HistoryQuery;

use crate::backend::{self, Account, Backend, Found, Totals, TransferAnswers};
use crate::query::{self, Outcome, Point};
use crate::{Node, Shared, admin, answer, events, metrics, spans, webhooks};

/// The largest request body.
const BODY_SIZE_BYTES_MAX: usize = 1 << 20;
/// How much of a body that is too large is read all the same, and dropped: most clients listen only once they have sent everything.
const PASSED_OVER_SIZE_BYTES_MAX: u64 = 8 << 20;
/// The one request that has no time limit: whoever gave up and asked again would have it done again.
const SNAPSHOTS: &str = "/v1/admin/snapshots";

/// The routes that are served without the router.
mod path {
    pub(super) const BALANCE_TRANSFER: &str = "/v1/wallet/balance_transfer";
    pub(super) const DEPOSIT: &str = "/v1/wallet/deposit";
    pub(super) const WITHDRAW: &str = "/v1/wallet/withdraw";
}

type Answer = Result<Response<Body>, Problem>;
type App = State<Arc<Shared>>;

pub(crate) fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route(path::BALANCE_TRANSFER, post(balance_transfer))
        .route(path::DEPOSIT, post(deposit))
        .route(path::WITHDRAW, post(withdraw))
        .route("/v1/wallet/balance_transfers", post(balance_transfers))
        .route("/v1/wallet/accounts", post(open_account))
        .route("/v1/wallet/accounts/{account_id}", get(account))
        .route("/v1/wallet/accounts/{account_id}/close", post(close_account))
        .route("/v1/wallet/accounts/{account_id}/history", get(history))
        .route("/v1/wallet/holds", post(hold))
        .route("/v1/wallet/holds/{transaction_id}/confirm", post(confirm))
        .route("/v1/wallet/holds/{transaction_id}/cancel", post(cancel))
        .route("/v1/wallet/transactions/{transaction_id}", get(transaction))
        .route("/v1/wallet/transactions/{transaction_id}/reverse", post(reverse))
        .route("/v1/wallet/transactions/{transaction_id}/receipt", get(receipt))
        .route("/v1/wallet/state", get(state))
        .route("/v1/wallet/events", get(events))
        .route(SNAPSHOTS, post(snapshot))
        .merge(webhooks::routes())
        .route("/v1/admin/check", get(check))
        .route("/v1/admin/transactions", get(in_flight))
        .route("/v1/admin/transactions/{transaction_id}/retry", post(retry_in_flight))
        .route("/v1/admin/transactions/{transaction_id}/cancel", post(cancel_in_flight))
        .route("/healthz", get(async || answer::text("text/plain", "ok\n".into())))
        .route("/readyz", get(ready))
        .route("/metrics", get(prometheus))
        .route("/openapi.json", get(async || answer::value(StatusCode::OK, &openapi::document())))
        .fallback(async || answer::problem(&Problem::new(Code::RouteNotFound, "there is no such route")))
        .method_not_allowed_fallback(async |method: Method| {
            let detail = format!("the route does not know the method {method}");
            answer::problem(&Problem::new(Code::MethodNotAllowed, detail))
        })
        .layer(middleware::from_fn_with_state(Arc::clone(&shared), observe))
        .with_state(shared)
}

/// Counts every request, and answers those that take too long.
async fn observe(State(shared): App, request: Request, next: Next) -> Response<Body> {
    let route = route_name(request.uri().path());
    let span = spans::request(&request, route);
    observed(&shared, route, span, next.run(request)).await
}

async fn observed(
    shared: &Shared,
    route: &'static str,
    span: Span,
    answer: impl Future<Output = Response<Body>>,
) -> Response<Body> {
    let started = Instant::now();
    let patience = if route == SNAPSHOTS { Duration::MAX } else { shared.config.request_timeout };
    let in_time = tokio::time::timeout(patience, answer.instrument(span.clone()));
    let response = match in_time.await {
        Ok(response) => response,
        Err(_) => answer::problem(&Problem::new(
            Code::Unavailable,
            "the request took too long and its outcome is not known; repeat it with the same id",
        )),
    };
    let status = response.status().as_u16();
    spans::answered(&span, status);
    shared.metrics.count(route, status, started.elapsed().as_micros() as u64);
    response
}

/// The route of a path, so that ids in paths do not become series of their own.
fn route_name(path: &str) -> &'static str {
    let matches = |pattern: &str| {
        let (pattern, parts) = (pattern.split('/'), path.split('/'));
        pattern.clone().count() == parts.clone().count()
            && pattern.zip(parts).all(|(expected, part)| expected == part || expected.starts_with('{'))
    };
    openapi::ROUTES.iter().find(|route| matches(route.path)).map_or("other", |route| route.path)
}

/// The event-sourced partition, for the routes that only it can serve.
pub(crate) fn node(shared: &Shared) -> Result<&Node, Problem> {
    shared.backend()?.event_sourced("this route")
}

/// The whole body of a command, once its headers were checked. What is far too large is not read to its end.
pub(crate) async fn read_body<Content>(headers: &HeaderMap, mut content: Content) -> Result<Bytes, Problem>
where
    Content: HttpBody<Data = Bytes> + Unpin,
    Content::Error: std::fmt::Display,
{
    let media = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let essence = media.map(|media| media.split(';').next().unwrap_or_default().trim());
    if !essence.is_some_and(|essence| essence.eq_ignore_ascii_case("application/json")) {
        let detail = format!("content-type must be application/json, it is {:?}", media.unwrap_or("missing"));
        return Err(Problem::new(Code::UnsupportedMediaType, detail));
    }
    let too_large = || {
        Problem::new(Code::RequestTooLarge, format!("the body is larger than {BODY_SIZE_BYTES_MAX} bytes"))
    };
    if content.size_hint().lower() > BODY_SIZE_BYTES_MAX as u64 {
        pass_over(content).await;
        return Err(too_large());
    }
    // A small body comes in one piece, which needs no copy.
    let (mut first, mut joined) = (Bytes::new(), Vec::new());
    while let Some(frame) = content.frame().await {
        let frame = frame.map_err(|error| {
            Problem::new(Code::InvalidRequest, format!("the body cannot be read: {error}"))
        })?;
        let Ok(piece) = frame.into_data() else { continue };
        if first.len().max(joined.len()) + piece.len() > BODY_SIZE_BYTES_MAX {
            pass_over(content).await;
            return Err(too_large());
        }
        if first.is_empty() {
            first = piece;
        } else {
            if joined.is_empty() {
                joined.extend_from_slice(&first);
            }
            joined.extend_from_slice(&piece);
        }
    }
    Ok(if joined.is_empty() { first } else { joined.into() })
}

/// Reads what is left of a body and drops it, unless it is too much even for that.
async fn pass_over<Content: HttpBody<Data = Bytes> + Unpin>(mut content: Content) {
    if content.size_hint().lower() > PASSED_OVER_SIZE_BYTES_MAX {
        return;
    }
    let mut passed = 0;
    while let Some(Ok(frame)) = content.frame().await {
        passed += frame.data_ref().map_or(0, |piece| piece.len() as u64);
        if passed > PASSED_OVER_SIZE_BYTES_MAX {
            return;
        }
    }
}

/// The header `Idempotency-Key`, if sent, must name the body's transaction.
fn check_key(headers: &HeaderMap, transaction_id: TransactionId) -> Result<(), Problem> {
    let same =
        |key: &HeaderValue| key.to_str().is_ok_and(|key| TransactionId::parse(key) == Ok(transaction_id));
    let Some(key) = headers.get_all("idempotency-key").iter().find(|key| !same(key)) else { return Ok(()) };
    let detail =
        format!("the header Idempotency-Key is {key:?}, the body's transaction_id is {transaction_id}");
    Err(Problem::new(Code::InvalidRequest, detail).with_transaction(transaction_id))
}

/// The id in a path. What is no text there becomes a character that no id has, and so meets the check of the id.
pub(crate) struct Segment(pub(crate) String);

impl<State: Send + Sync> FromRequestParts<State> for Segment {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, state: &State) -> Result<Segment, Infallible> {
        let segment = Path::<String>::from_request_parts(parts, state).await;
        Ok(Segment(segment.map_or_else(|_| char::REPLACEMENT_CHARACTER.to_string(), |Path(text)| text)))
    }
}

pub(crate) fn respond(answer: Answer) -> Response<Body> {
    answer.unwrap_or_else(|problem| answer::problem(&problem))
}

// Commands.

async fn balance_transfer(State(shared): App, request: Request) -> Response<Body> {
    respond(transfer(&shared, Endpoint::Transfer, request).await)
}

async fn deposit(State(shared): App, request: Request) -> Response<Body> {
    respond(transfer(&shared, Endpoint::Deposit, request).await)
}

async fn withdraw(State(shared): App, request: Request) -> Response<Body> {
    respond(transfer(&shared, Endpoint::Withdraw, request).await)
}

/// The endpoint, and its route, of a request that need not go through the router: single transfers are most of the load.
pub(crate) fn direct<Content>(request: &http::Request<Content>) -> Option<(Endpoint, &'static str)> {
    if request.method() != Method::POST {
        return None;
    }
    match request.uri().path() {
        path::BALANCE_TRANSFER => Some((Endpoint::Transfer, path::BALANCE_TRANSFER)),
        path::DEPOSIT => Some((Endpoint::Deposit, path::DEPOSIT)),
        path::WITHDRAW => Some((Endpoint::Withdraw, path::WITHDRAW)),
        _ => None,
    }
}

/// What the router would do with such a request.
pub(crate) async fn serve_direct(
    shared: Arc<Shared>,
    (endpoint, route): (Endpoint, &'static str),
    request: http::Request<Incoming>,
) -> Response<Body> {
    let span = spans::request(&request, route);
    let answer = async { respond(transfer(&shared, endpoint, request).await) };
    observed(&shared, route, span, answer).await
}

async fn transfer<Content>(shared: &Shared, endpoint: Endpoint, request: http::Request<Content>) -> Answer
where
    Content: HttpBody<Data = Bytes> + Unpin,
    Content::Error: std::fmt::Display,
{
    let backend = shared.backend()?;
    let (parts, content) = request.into_parts();
    let body = read_body(&parts.headers, content).await?;
    let transfer = request::transfer(endpoint, &body)?;
    let transaction_id = transfer.transaction_id;
    check_key(&parts.headers, transaction_id)?;
    let (subject, currency) = (Subject::of_transfer(&transfer), transfer.currency);
    let answer = backend.transfer(transfer).await;
    let Located { partition, value: answer } =
        answer.map_err(|problem| problem.with_transaction(transaction_id))?;
    let response = match answer::outcome(&subject, transaction_id, currency, partition, &answer) {
        Ok(body) => answer::json(StatusCode::OK, body),
        Err(problem) => answer::problem(&problem),
    };
    let response = answer::replayed(response, answer.replayed);
    Ok(answer::at_position(response, partition, answer.sequence))
}

async fn balance_transfers(State(shared): App, request: Request) -> Response<Body> {
    respond(
        async {
            let backend = shared.backend()?;
            let (parts, content) = request.into_parts();
            let (headers, body) = (&parts.headers, read_body(&parts.headers, content).await?);
            match request::transfers(&body)? {
                Transfers::Atomic(command) => execute(backend, headers, command).await,
                Transfers::Independent(transfers) => independent(backend, transfers).await,
            }
        }
        .await,
    )
}

/// Executes what is well-formed; every transfer is answered in its place.
async fn independent(backend: &Backend, transfers: Vec<Result<ledger::Transfer, Malformed>>) -> Answer {
    let mut asked = Vec::with_capacity(transfers.len());
    let mut well_formed = Vec::with_capacity(transfers.len());
    for transfer in transfers {
        asked.push(transfer.map(|transfer| {
            let money = (Subject::of_transfer(&transfer), transfer.transaction_id, transfer.currency);
            well_formed.push(transfer);
            money
        }));
    }
    let answers = match well_formed.is_empty() {
        true => TransferAnswers::none(),
        false => backend.transfers(well_formed).await?,
    };
    let (last_partition, last) = answers.last().unwrap_or((backend.default_partition(), Sequence(0)));
    let all_replayed = answers.len() == asked.len() && answers.all_replayed();
    let mut indices = 0..answers.len();
    let mut body = String::from("{\"results\":[");
    for (index, asked) in asked.into_iter().enumerate() {
        if index > 0 {
            body.push(',');
        }
        let outcome = asked.and_then(|(subject, transaction_id, currency)| {
            let index = indices.next().expect("every transfer is answered");
            let outcome = answers.get(index).and_then(|(partition, answer)| {
                answer::outcome(&subject, transaction_id, currency, partition, answer)
            });
            outcome.map_err(|problem| Malformed { problem, transaction_id: Some(transaction_id.to_string()) })
        });
        match outcome {
            Ok(success) => body.push_str(&success),
            Err(Malformed { problem, transaction_id }) => {
                let refused = response::refused_element(transaction_id.as_deref(), &problem);
                body.push_str(&refused.to_string());
            }
        }
    }
    body.push_str("]}");
    let response = answer::replayed(answer::json(StatusCode::OK, body), all_replayed);
    Ok(answer::at_position(response, last_partition, last))
}

async fn open_account(state: App, request: Request) -> Response<Body> {
    respond(command(state, request, request::open_account).await)
}

async fn hold(state: App, request: Request) -> Response<Body> {
    respond(command(state, request, request::hold).await)
}

async fn confirm(state: App, Segment(id): Segment, request: Request) -> Response<Body> {
    respond(follow_up(state, request, request::path_transaction(&id).map(FollowUp::Confirm)).await)
}

async fn cancel(state: App, Segment(id): Segment, request: Request) -> Response<Body> {
    respond(follow_up(state, request, request::path_transaction(&id).map(FollowUp::Cancel)).await)
}

async fn reverse(state: App, Segment(id): Segment, request: Request) -> Response<Body> {
    respond(follow_up(state, request, request::path_transaction(&id).map(FollowUp::Reverse)).await)
}

async fn close_account(state: App, Segment(id): Segment, request: Request) -> Response<Body> {
    respond(follow_up(state, request, request::path_account_id(&id).map(FollowUp::Close)).await)
}

async fn follow_up(state: App, request: Request, about: Result<FollowUp, Problem>) -> Answer {
    command(state, request, |body| request::follow_up(about, body)).await
}

async fn command(
    State(shared): App,
    request: Request,
    read: impl FnOnce(&[u8]) -> Result<Command, Problem>,
) -> Answer {
    let backend = shared.backend()?;
    let (parts, content) = request.into_parts();
    let (headers, body) = (&parts.headers, read_body(&parts.headers, content).await?);
    execute(backend, headers, read(&body)?).await
}

async fn execute(backend: &Backend, headers: &HeaderMap, command: Command) -> Answer {
    let transaction_id = command.transaction_id();
    if let Some(transaction_id) = transaction_id {
        check_key(headers, transaction_id)?;
    }
    let Located { partition, value } = query::execute(backend, command).await?;
    match value {
        Outcome::Refused { problem, sequence: None, .. } => Err(problem),
        Outcome::Refused { problem, sequence: Some(sequence), replayed, .. } => {
            let response = answer::replayed(answer::problem(&problem), replayed);
            Ok(answer::at_position(response, partition, sequence))
        }
        Outcome::Account { account, existed } => {
            let status = if existed { StatusCode::OK } else { StatusCode::CREATED };
            Ok(account_response(status, partition, &account))
        }
        Outcome::Executed { records, replayed } => {
            let sequence = records.last().map(|record| record.sequence).unwrap_or_default();
            let response = answer::value(StatusCode::OK, &response::executed(partition, &records));
            Ok(answer::at_position(answer::replayed(response, replayed), partition, sequence))
        }
    }
}

fn account_response(status: StatusCode, partition: u32, account: &Account) -> Response<Body> {
    let response = answer::value(status, &response::account(&account.shown(partition)));
    answer::at_position(response, partition, account.row.sequence)
}

// Queries.

/// The parameters of a query, each known and given once.
fn parameters(query: RawQuery, known: &[&str]) -> Result<HashMap<String, String>, Problem> {
    let mut parameters = HashMap::new();
    let RawQuery(Some(query)) = query else { return Ok(parameters) };
    for part in query.split('&').filter(|part| !part.is_empty()) {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        if !known.contains(&name) {
            return Err(Problem::new(Code::InvalidRequest, format!("unknown query parameter {name:?}")));
        }
        let value = percent_decoded(value).ok_or_else(|| {
            Problem::new(Code::InvalidRequest, format!("query parameter {name} is not valid text"))
        })?;
        if parameters.insert(name.to_owned(), value).is_some() {
            return Err(Problem::new(Code::InvalidRequest, format!("query parameter {name} is given twice")));
        }
    }
    Ok(parameters)
}

fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digits = [rest.next()?, rest.next()?];
            bytes.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

/// The point in time that the parameters name; at most one may.
fn point(parameters: &HashMap<String, String>) -> Result<Option<Point>, Problem> {
    let invalid = |detail: String| Err(Problem::new(Code::InvalidRequest, detail));
    match (parameters.get("at"), parameters.get("at_sequence")) {
        (None, None) => Ok(None),
        (Some(_), Some(_)) => invalid("give at or at_sequence, not both".into()),
        (Some(text), None) => match api::parse_timestamp(text) {
            Some(time) => Ok(Some(Point::Time(time))),
            None => invalid(format!(
                "query parameter at must be a time such as 2026-01-02T03:04:05.678901Z, it is {text:?}"
            )),
        },
        (None, Some(text)) => match text.parse() {
            Ok(sequence) => Ok(Some(Point::Sequence(Sequence(sequence)))),
            Err(_) => invalid(format!("query parameter at_sequence must be a sequence, it is {text:?}")),
        },
    }
}

async fn account(
    State(shared): App,
    Segment(id): Segment,
    query: RawQuery,
    headers: HeaderMap,
) -> Response<Body> {
    respond(
        async {
            let backend = shared.backend()?;
            let account = request::path_account(&id)?;
            let point = point(&parameters(query, &["at", "at_sequence"])?)?;
            let now = query::now();
            backend.reach_position(&headers).await?;
            let Located { partition, value: account } = match point {
                None => backend.account(account).await?,
                Some(point) => {
                    let node = backend.event_sourced("an account of the past")?;
                    let view = query::past_account(node, account, point, now).await?;
                    Located { partition: node.partition.number(), value: Account::of(view) }
                }
            };
            Ok(account_response(StatusCode::OK, partition, &account))
        }
        .await,
    )
}

async fn history(
    State(shared): App,
    Segment(id): Segment,
    query: RawQuery,
    headers: HeaderMap,
) -> Response<Body> {
    respond(
        async {
            let backend = shared.backend()?;
            let account = request::path_account(&id)?;
            let query =
                history_query(&parameters(query, &["limit", "cursor", "currency", "since", "until"])?)?;
            backend.reach_position(&headers).await?;
            let page = backend.history(account, query).await?;
            let entries: Vec<Value> = page.entries().iter().map(response::history_entry).collect();
            let body = json!({ "entries": entries, "next_cursor": page.next() });
            let (partition, position) = page.position();
            Ok(answer::at_position(answer::value(StatusCode::OK, &body), partition, position))
        }
        .await,
    )
}

fn history_query(parameters: &HashMap<String, String>) -> Result<HistoryQuery, Problem> {
    let invalid = |name: &str, must: &str| {
        let value = parameters.get(name).map_or("", String::as_str);
        Problem::new(Code::InvalidRequest, format!("query parameter {name} {must}, it is {value:?}"))
    };
    let limit = match parameters.get("limit").map(|text| query::whole_number::<usize>(text)) {
        None => query::HISTORY_LIMIT,
        Some(Some(limit)) if (1..=query::HISTORY_LIMIT_MAX).contains(&limit) => limit,
        Some(_) => return Err(invalid("limit", "must be a number from 1 to 1000")),
    };
    let before = parameters.get("cursor").map(|cursor| query::cursor(cursor)).transpose()?;
    let currency = match parameters.get("currency") {
        None => None,
        Some(code) => Some(Currency::parse(code).ok_or_else(|| {
            let detail = format!("currency must be an ISO 4217 code such as \"USD\", it is {code:?}");
            Problem::new(Code::InvalidCurrency, detail)
        })?),
    };
    let time = |name: &str| match parameters.get(name) {
        None => Ok(None),
        Some(text) => match api::parse_timestamp(text) {
            Some(time) => Ok(Some(time)),
            None => Err(invalid(name, "must be a time such as 2026-01-02T03:04:05.678901Z")),
        },
    };
    Ok(HistoryQuery { limit, before, currency, since: time("since")?, until: time("until")? })
}

async fn transaction(
    State(shared): App,
    Segment(id): Segment,
    query: RawQuery,
    headers: HeaderMap,
) -> Response<Body> {
    respond(
        async {
            let backend = shared.backend()?;
            let transaction_id = request::path_transaction(&id)?;
            parameters(query, &[])?;
            backend.reach_position(&headers).await?;
            let Located { partition, value } = backend.transaction(transaction_id).await?;
            match value {
                Found::Finished { transaction, names, last } => {
                    let body = response::transaction(partition, &transaction, &names);
                    Ok(answer::at_position(answer::value(StatusCode::OK, &body), partition, last))
                }
                Found::InFlight(status) => {
                    let body = response::transaction_in_flight(transaction_id, &status.plan.command);
                    Ok(answer::value(StatusCode::OK, &body))
                }
            }
        }
        .await,
    )
}

async fn state(State(shared): App, query: RawQuery, headers: HeaderMap) -> Response<Body> {
    respond(
        async {
            let backend = shared.backend()?;
            let point = point(&parameters(query, &["at_sequence"])?)?;
            backend.reach_position(&headers).await?;
            let (partition, view) = match point {
                Some(Point::Sequence(at)) => {
                    let node = backend.event_sourced("a state of the past")?;
                    let patience = shared.config.request_timeout * 9 / 10;
                    (node.partition.number(), query::past_state(node, at, patience).await?)
                }
                _ => match backend.totals().await? {
                    Totals::Partition { partition, view } => (partition, view),
                    Totals::Shards(shards) => return Ok(admin::shards_state(&shards)),
                },
            };
            let totals = view.totals.iter().map(|total| {
                json!({
                    "currency": total.currency.code(),
                    "sum": ledger::format_minor_units(total.sum, total.currency),
                    "in_flight": response::money(0, total.currency),
                })
            });
            let body = json!({
                "partition": partition,
                "sequence": view.sequence.0,
                "accounts": view.accounts,
                "pending_holds": view.holds,
                "as_of": api::format_timestamp(view.timestamp),
                "totals": totals.collect::<Vec<_>>(),
                "digest": view.digest.to_string(),
            });
            Ok(answer::at_position(answer::value(StatusCode::OK, &body), partition, view.sequence))
        }
        .await,
    )
}

async fn receipt(State(shared): App, Path(id): Path<String>, headers: HeaderMap) -> Response<Body> {
    respond(
        async {
            let node = node(&shared)?;
            let transaction_id = request::path_transaction(&id)?;
            query::reach_position(node, &headers).await?;
            let (receipt, sequence) = query::receipt(node, transaction_id).await?;
            let partition = node.partition.number();
            Ok(answer::at_position(answer::json(StatusCode::OK, receipt), partition, sequence))
        }
        .await,
    )
}

/// Writes a snapshot. Whoever asks waits for it, as long as it takes.
async fn snapshot(State(shared): App) -> Response<Body> {
    respond(
        async {
            let node = node(&shared)?;
            let report = query::snapshot(node).await?;
            let manifest = &report.manifest;
            let subject = &manifest.subject;
            let archive = node.partition.archiver().map(|archiver| archiver.objects().url().to_owned());
            let status = if report.existed { StatusCode::OK } else { StatusCode::CREATED };
            let body = json!({
                "partition": subject.partition,
                "sequence": subject.sequence,
                "as_of": api::format_timestamp(ledger::Timestamp::from_micros(subject.timestamp_us)),
                "digest": subject.digest,
                "accounts": subject.accounts,
                "transaction_ids": subject.ids,
                "size_bytes": manifest.size_bytes(),
                "parts": manifest.parts.len(),
                "elapsed_ms": report.elapsed.as_millis() as u64,
                "archive": archive,
            });
            Ok(answer::value(status, &body))
        }
        .await,
    )
}

async fn check(State(shared): App) -> Response<Body> {
    respond(async { admin::check(shared.backend()?).await }.await)
}

async fn in_flight(State(shared): App, query: RawQuery) -> Response<Body> {
    respond(
        async {
            let parameters = parameters(query, &["state", "limit"])?;
            admin::in_flight(shared.backend()?, &parameters).await
        }
        .await,
    )
}

async fn retry_in_flight(State(shared): App, Segment(id): Segment) -> Response<Body> {
    let answer = async { admin::retry(shared.backend()?, request::path_transaction(&id)?).await };
    respond(answer.await)
}

async fn cancel_in_flight(State(shared): App, Segment(id): Segment) -> Response<Body> {
    let answer = async { admin::cancel(shared.backend()?, request::path_transaction(&id)?).await };
    respond(answer.await)
}

async fn events(State(shared): App, query: RawQuery, headers: HeaderMap) -> Response<Body> {
    respond(
        async {
            let node = node(&shared)?;
            events::serve(node, &parameters(query, &["partition", "after", "account"])?, &headers).await
        }
        .await,
    )
}

async fn ready(State(shared): App) -> Response<Body> {
    let ready = match shared.backend() {
        Ok(Backend::Distributed(wallet)) => wallet.ready().await.map_err(backend::not_answered),
        Ok(Backend::EventSourced(_)) => Ok(()),
        Err(problem) => Err(problem),
    };
    respond(ready.map(|()| answer::text("text/plain", "ready\n".into())))
}

async fn prometheus(State(shared): App) -> Response<Body> {
    let body = metrics::exposition(&shared.metrics, shared.backend.get());
    answer::text("text/plain; version=0.0.4", body)
}
