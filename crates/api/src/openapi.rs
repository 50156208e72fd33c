//! The OpenAPI 3.1 description of the HTTP interface.

use serde_json::{Map, Value, json};

use crate::Code;

/// A route of the API: method, path, summary, the schema of its body, the status of success.
pub struct Route {
    /// `get` or `post`.
    pub method: &'static str,
    /// With `{name}` for parameters.
    pub path: &'static str,
    /// One line.
    pub summary: &'static str,
    /// The schema of the request body, if it has one.
    pub body: Option<&'static str>,
    /// The status of success.
    pub success: u16,
    /// Names of query parameters.
    pub query: &'static [&'static str],
}

const fn post(path: &'static str, summary: &'static str, body: &'static str, success: u16) -> Route {
    Route { method: "post", path, summary, body: Some(body), success, query: &[] }
}

const fn get(path: &'static str, summary: &'static str, query: &'static [&'static str]) -> Route {
    Route { method: "get", path, summary, body: None, success: 200, query }
}

/// Every route.
pub const ROUTES: &[Route] = &[
    post("/v1/wallet/accounts", "Open an account", "OpenAccount", 201),
    post(
        "/v1/wallet/accounts/{account_id}/close",
        "Close an account whose every balance is zero",
        "FollowUp",
        200,
    ),
    post("/v1/wallet/deposit", "Move money in from the world outside", "Outside", 200),
    post("/v1/wallet/withdraw", "Move money out to the world outside", "Outside", 200),
    post("/v1/wallet/balance_transfer", "Move money between two accounts", "Transfer", 200),
    post(
        "/v1/wallet/balance_transfers",
        "Up to 8,190 transfers, each on its own, or up to 64 atomically",
        "Transfers",
        200,
    ),
    post("/v1/wallet/holds", "Set money aside for a payee", "Hold", 200),
    post("/v1/wallet/holds/{transaction_id}/confirm", "Pay a hold out, wholly or partly", "Confirm", 200),
    post("/v1/wallet/holds/{transaction_id}/cancel", "Release a hold", "FollowUp", 200),
    post(
        "/v1/wallet/transactions/{transaction_id}/reverse",
        "Move the money of a transaction back, once",
        "Reverse",
        200,
    ),
    get("/v1/wallet/accounts/{account_id}", "An account with its balances", &["at", "at_sequence"]),
    get(
        "/v1/wallet/accounts/{account_id}/history",
        "What changed an account's balances, newest first",
        &["limit", "cursor", "currency", "since", "until"],
    ),
    get("/v1/wallet/transactions/{transaction_id}", "What became of a transaction", &[]),
    get("/v1/wallet/state", "Position, totals and digest of the whole state", &["at_sequence"]),
    get("/v1/wallet/events", "Server-sent events", &["partition", "after", "account"]),
    get("/healthz", "The process lives", &[]),
    get("/readyz", "The server can serve", &[]),
    get("/metrics", "Metrics for Prometheus", &[]),
    get("/openapi.json", "This document", &[]),
];

/// The whole document.
pub fn document() -> Value {
    let mut paths: Map<String, Value> = Map::new();
    for route in ROUTES {
        let path = paths.entry(route.path).or_insert_with(|| json!({}));
        if let Some(path) = path.as_object_mut() {
            path.insert(route.method.into(), operation(route));
        }
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Jigap wallet",
            "version": env!("CARGO_PKG_VERSION"),
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        },
        "paths": paths,
        "components": { "schemas": schemas() },
    })
}

fn operation(route: &Route) -> Value {
    let mut parameters: Vec<Value> = route
        .path
        .split('{')
        .skip(1)
        .filter_map(|rest| rest.split_once('}'))
        .map(|(name, _)| json!({"name": name, "in": "path", "required": true, "schema": {"type": "string"}}))
        .collect();
    parameters.extend(
        route.query.iter().map(
            |name| json!({"name": name, "in": "query", "required": false, "schema": {"type": "string"}}),
        ),
    );
    let problem = json!({
        "description": "An error, with a stable code",
        "content": { "application/problem+json": { "schema": { "$ref": "#/components/schemas/Problem" } } },
    });
    let success = json!({ "description": "Success", "content": { "application/json": { "schema": { "type": "object" } } } });
    let mut operation = json!({
        "summary": route.summary,
        "parameters": parameters,
        "responses": { route.success.to_string(): success, "4XX": problem, "5XX": problem },
    });
    if let Some(body) = route.body {
        let schema = json!({ "$ref": format!("#/components/schemas/{body}") });
        operation["requestBody"] =
            json!({ "required": true, "content": { "application/json": { "schema": schema } } });
    }
    operation
}

fn schemas() -> Value {
    let text = |description: &str| json!({ "type": "string", "description": description });
    let account = json!({ "type": "string", "pattern": "^[A-Za-z0-9._:-]{1,64}$" });
    let amount = text("A decimal number in major units, at most the minor-unit digits of the currency");
    let currency = json!({ "type": "string", "pattern": "^[A-Z]{3}$" });
    let id = json!({ "type": "string", "format": "uuid" });
    let metadata =
        json!({ "type": "object", "maxProperties": 16, "additionalProperties": { "type": "string" } });
    let object = |required: &[&str], properties: Value| json!({ "type": "object", "additionalProperties": false, "required": required, "properties": properties });
    let codes: Vec<&str> = Code::ALL.iter().map(|code| code.name()).collect();
    let money_fields = ["from_account", "to_account", "amount", "currency", "transaction_id"];
    let transfer = json!({ "from_account": account, "to_account": account, "amount": amount, "currency": currency,
        "transaction_id": id, "metadata": metadata });
    let mut hold = transfer.clone();
    hold["expires_in_seconds"] = json!({ "type": "integer", "minimum": 1, "maximum": u32::MAX });
    json!({
        "Transfer": object(&money_fields, transfer),
        "Hold": object(&money_fields, hold),
        "Outside": object(&["account", "amount", "currency", "transaction_id"], json!({ "account": account, "amount": amount,
            "currency": currency, "transaction_id": id, "metadata": metadata })),
        "Transfers": object(&["transfers"], json!({ "mode": { "enum": ["independent", "atomic"] }, "transaction_id": id,
            "transfers": { "type": "array", "minItems": 1, "maxItems": 8190, "items": { "$ref": "#/components/schemas/Transfer" } } })),
        "OpenAccount": object(&["account_id"], json!({ "account_id": account, "metadata": metadata })),
        "FollowUp": object(&["transaction_id"], json!({ "transaction_id": id })),
        "Confirm": object(&["transaction_id"], json!({ "transaction_id": id, "amount": amount })),
        "Reverse": object(&["transaction_id"], json!({ "transaction_id": id, "metadata": metadata })),
        "Problem": { "type": "object", "required": ["type", "title", "status", "detail", "code", "retryable"], "properties": {
            "type": { "type": "string", "format": "uri" }, "title": { "type": "string" }, "status": { "type": "integer" },
            "detail": { "type": "string" }, "code": { "enum": codes }, "retryable": { "type": "boolean" },
            "transaction_id": id, "leg": { "type": "integer" }, "leg_code": { "enum": codes } } },
    })
}
