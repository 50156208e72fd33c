//! The OpenAPI 3.1 description of the HTTP interface.

use serde_json::{Map, Value, json};

use crate::Code;

/// A route of the API: method, path, summary, the schema of its body, the status of success.
pub struct Route {
    /// `get`, `post` or `delete`.
    pub method: &'static str,
    /// With `{name}` for parameters.
    pub path: &'static str,
    /// One line.
    pub summary: &'static str,
    /// The schema of the request body, if it has one.
    pub body: Option<&'static str>,
    /// The status of success.
    pub success: u16,
    /// The schema of a success; `None` for plain text.
    pub answer: Option<&'static str>,
    /// Names of query parameters.
    pub query: &'static [&'static str],
}

const fn post(
    path: &'static str,
    summary: &'static str,
    body: &'static str,
    success: u16,
    answer: &'static str,
) -> Route {
    Route { method: "post", path, summary, body: Some(body), success, answer: Some(answer), query: &[] }
}

const fn get(
    path: &'static str,
    summary: &'static str,
    query: &'static [&'static str],
    answer: Option<&'static str>,
) -> Route {
    Route { method: "get", path, summary, body: None, success: 200, answer, query }
}

/// A route of the admin interface.
const fn admin(
    method: &'static str,
    path: &'static str,
    summary: &'static str,
    body: Option<&'static str>,
    success: u16,
    answer: &'static str,
) -> Route {
    Route { method, path, summary, body, success, answer: Some(answer), query: &[] }
}

/// What an operator does to a transaction that is under way.
const fn intervention(path: &'static str, summary: &'static str) -> Route {
    Route {
        method: "post",
        path,
        summary,
        body: None,
        success: 202,
        answer: Some("TransactionInFlight"),
        query: &[],
    }
}

/// Every route.
pub const ROUTES: &[Route] = &[
    post("/v1/wallet/accounts", "Open an account", "OpenAccount", 201, "Account"),
    post(
        "/v1/wallet/accounts/{account_id}/close",
        "Close an account whose every balance is zero",
        "FollowUp",
        200,
        "Success",
    ),
    post("/v1/wallet/deposit", "Move money in from the world outside", "Outside", 200, "Transferred"),
    post("/v1/wallet/withdraw", "Move money out to the world outside", "Outside", 200, "Transferred"),
    post("/v1/wallet/balance_transfer", "Move money between two accounts", "Transfer", 200, "Transferred"),
    post(
        "/v1/wallet/balance_transfers",
        "Up to 8,190 transfers, each on its own, or up to 64 atomically",
        "Transfers",
        200,
        "TransferResults",
    ),
    post("/v1/wallet/holds", "Set money aside for a payee", "Hold", 200, "Held"),
    post(
        "/v1/wallet/holds/{transaction_id}/confirm",
        "Pay a hold out, wholly or partly",
        "Confirm",
        200,
        "Settled",
    ),
    post("/v1/wallet/holds/{transaction_id}/cancel", "Release a hold", "FollowUp", 200, "Settled"),
    post(
        "/v1/wallet/transactions/{transaction_id}/reverse",
        "Move the money of a transaction back, once",
        "Reverse",
        200,
        "Reversed",
    ),
    get(
        "/v1/wallet/accounts/{account_id}",
        "An account with its balances, now or as it stood at a time or after an event",
        &["at", "at_sequence"],
        Some("Account"),
    ),
    get(
        "/v1/wallet/accounts/{account_id}/history",
        "What changed an account's balances, newest first",
        &["limit", "cursor", "currency", "since", "until"],
        Some("History"),
    ),
    get("/v1/wallet/transactions/{transaction_id}", "What became of a transaction", &[], Some("Transaction")),
    get(
        "/v1/wallet/transactions/{transaction_id}/receipt",
        "A proof that a transaction's first event is in the journal, to be checked offline; keep it byte for byte",
        &[],
        Some("Receipt"),
    ),
    get(
        "/v1/wallet/state",
        "Position, totals and digest of the whole state, now or after an event of the past",
        &["at_sequence"],
        Some("State"),
    ),
    get(
        "/v1/wallet/events",
        "Every event, past ones first, then live ones as they become durable",
        &["partition", "after", "account"],
        Some("EventStream"),
    ),
    admin(
        "post",
        "/v1/admin/snapshots",
        "Write a snapshot of now into the archive; 200 when nothing has happened since the last one",
        None,
        201,
        "Snapshot",
    ),
    admin(
        "post",
        "/v1/admin/webhooks",
        "Add a webhook; the answer has its secret, which is shown only now",
        Some("NewWebhook"),
        201,
        "WebhookWithSecret",
    ),
    admin("get", "/v1/admin/webhooks", "Every webhook", None, 200, "Webhooks"),
    admin(
        "get",
        "/v1/admin/webhooks/{webhook_id}",
        "A webhook with its cursor, its lag and its last error",
        None,
        200,
        "Webhook",
    ),
    admin(
        "delete",
        "/v1/admin/webhooks/{webhook_id}",
        "Remove a webhook, its cursor and its dead letters",
        None,
        200,
        "Webhook",
    ),
    admin(
        "post",
        "/v1/admin/webhooks/{webhook_id}/pause",
        "Send nothing until it is resumed; the journal keeps what happens meanwhile",
        None,
        200,
        "Webhook",
    ),
    admin(
        "post",
        "/v1/admin/webhooks/{webhook_id}/resume",
        "Go on after the cursor: after a pause, or when a receiver that was gone is back",
        None,
        200,
        "Webhook",
    ),
    admin(
        "post",
        "/v1/admin/webhooks/{webhook_id}/rotate-secret",
        "Make a new secret, shown only now; the previous one signs beside it for a while",
        Some("RotateSecret"),
        200,
        "WebhookWithSecret",
    ),
    admin(
        "get",
        "/v1/admin/webhooks/{webhook_id}/dead-letters",
        "The events that were given up",
        None,
        200,
        "DeadLetters",
    ),
    admin(
        "post",
        "/v1/admin/webhooks/{webhook_id}/redeliver",
        "Send dead letters once more, each once: what is delivered is no dead letter any more",
        Some("Redeliver"),
        202,
        "Redelivery",
    ),
    get(
        "/v1/admin/check",
        "Does every currency sum to zero over all shards, money in flight included?",
        &[],
        Some("Check"),
    ),
    get(
        "/v1/admin/transactions",
        "Transactions that are under way over several shards, oldest first",
        &["state", "limit"],
        Some("TransactionsInFlight"),
    ),
    intervention(
        "/v1/admin/transactions/{transaction_id}/retry",
        "Drive a transaction on at once; 200 when it is finished",
    ),
    intervention(
        "/v1/admin/transactions/{transaction_id}/cancel",
        "Undo a transaction that is under way, where its protocol still allows it",
    ),
    get("/healthz", "The process lives", &[], None),
    get("/readyz", "The server can serve", &[], None),
    get("/metrics", "Metrics for Prometheus", &[], None),
    get("/openapi.json", "This document", &[], Some("Document")),
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
        .map(|(name, _)| json!({"name": name, "in": "path", "required": true, "schema": path_schema(name)}))
        .collect();
    parameters.extend(
        route.query.iter().map(
            |name| json!({"name": name, "in": "query", "required": false, "schema": query_schema(name)}),
        ),
    );
    parameters.extend(headers(route));
    if route.answer == Some("EventStream") {
        parameters.push(json!({ "name": "Last-Event-ID", "in": "header", "required": false,
            "description": "The id of the last event seen: resume after it. It wins over `after`",
            "schema": { "type": "string", "pattern": "^[0-9]+:[0-9]+$" } }));
    }
    let mut responses = Map::new();
    responses.insert(route.success.to_string(), success(route));
    if matches!(route.success, 201 | 202) {
        responses.insert("200".into(), success(route));
    }
    let statuses: std::collections::BTreeSet<u16> = Code::ALL.iter().map(|code| code.status()).collect();
    for status in statuses {
        responses.insert(status.to_string(), problem(status));
    }
    let mut operation = json!({ "summary": route.summary, "parameters": parameters, "responses": responses });
    if route.answer == Some("WebhookWithSecret") && route.success == 201 {
        operation["callbacks"] =
            json!({ "event": { "{$request.body#/url}": { "post": crate::webhook::callback() } } });
    }
    if let Some(body) = route.body {
        let schema = json!({ "$ref": format!("#/components/schemas/{body}") });
        let is_required = !matches!(body, "RotateSecret" | "Redeliver");
        operation["requestBody"] =
            json!({ "required": is_required, "content": { "application/json": { "schema": schema } } });
    }
    operation
}

fn path_schema(name: &str) -> Value {
    match name {
        "transaction_id" => json!({ "type": "string", "format": "uuid" }),
        "webhook_id" => json!({ "type": "string", "pattern": "^wh_[0-9a-f]{16}$" }),
        _ => json!({ "type": "string", "pattern": "^(@external|[A-Za-z0-9._:-]{1,64})$" }),
    }
}

fn query_schema(name: &str) -> Value {
    match name {
        "limit" => json!({ "type": "integer", "minimum": 1, "maximum": 1000, "default": 50 }),
        "state" => json!({ "const": crate::response::IN_FLIGHT }),
        "since" | "until" | "at" => json!({ "type": "string", "format": "date-time" }),
        "at_sequence" | "after" | "partition" => json!({ "type": "integer", "minimum": 0 }),
        "currency" => json!({ "type": "string", "pattern": "^[A-Z]{3}$" }),
        _ => json!({ "type": "string" }),
    }
}

/// The headers that a request may carry.
fn headers(route: &Route) -> Option<Value> {
    if !route.path.starts_with("/v1/wallet/") {
        return None;
    }
    let (name, description, schema) = match route.method {
        "post" => (
            "Idempotency-Key",
            "Must equal the body's transaction_id",
            json!({ "type": "string", "format": "uuid" }),
        ),
        _ => (
            "X-Wallet-Position",
            "Of an earlier answer: wait, at most a second, until the read side has reached it",
            json!({ "type": "string", "pattern": "^[0-9]+:[0-9]+$" }),
        ),
    };
    Some(
        json!({ "name": name, "in": "header", "required": false, "description": description, "schema": schema }),
    )
}

fn success(route: &Route) -> Value {
    let content = match route.answer {
        Some("Document") => json!({ "application/json": { "schema": { "type": "object" } } }),
        Some("EventStream") => json!({ "text/event-stream": { "schema": {
            "$ref": "#/components/schemas/EventStream" } } }),
        Some(name) => {
            json!({ "application/json": { "schema": { "$ref": format!("#/components/schemas/{name}") } } })
        }
        None => json!({ "text/plain": { "schema": { "type": "string" } } }),
    };
    let mut response = json!({ "description": "Success", "content": content });
    if route.path.starts_with("/v1/wallet/") {
        response["headers"] = json!({
            "X-Wallet-Position": { "description": "partition:sequence", "schema": { "type": "string" } },
            "Idempotent-Replayed": { "description": "`true` when this is the first answer again",
                "schema": { "const": "true" } },
        });
    }
    response
}

/// All errors of a status.
fn problem(status: u16) -> Value {
    let codes: Vec<&str> =
        Code::ALL.iter().filter(|code| code.status() == status).map(|code| code.name()).collect();
    let mut response = json!({
        "description": format!("One of the codes {}", codes.join(", ")),
        "content": { "application/problem+json": { "schema": { "allOf": [
            { "$ref": "#/components/schemas/Problem" },
            { "properties": { "status": { "const": status }, "code": { "enum": codes } } },
        ] } } },
    });
    if status == 503 {
        response["headers"] =
            json!({ "Retry-After": { "description": "seconds", "schema": { "type": "integer" } } });
    }
    response
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
    let requests = json!({
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
    });
    let mut schemas = requests;
    for more in [answers(), crate::webhook::schemas()] {
        if let (Some(schemas), Value::Object(more)) = (schemas.as_object_mut(), more) {
            schemas.extend(more);
        }
    }
    schemas
}

/// The schemas of successes. Fields may be added to them.
fn answers() -> Value {
    let object = |properties: Value| {
        let required: Vec<&String> = properties.as_object().into_iter().flat_map(Map::keys).collect();
        json!({ "type": "object", "required": required, "properties": properties })
    };
    let array =
        |name: &str| json!({ "type": "array", "items": { "$ref": format!("#/components/schemas/{name}") } });
    let (text, count) = (json!({ "type": "string" }), json!({ "type": "integer", "minimum": 0 }));
    let money = json!({ "type": "string", "pattern": "^-?[0-9]+([.][0-9]+)?$" });
    let time = json!({ "type": "string", "format": "date-time" });
    let (id, maybe_id) = (
        json!({ "type": "string", "format": "uuid" }),
        json!({ "type": ["string", "null"], "format": "uuid" }),
    );
    let metadata = json!({ "type": "object", "additionalProperties": { "type": "string" } });
    // What every command answers, with its own fields and those that are not always there.
    let command = |status: &str, own: Value, sometimes: Value| {
        let mut schema = object(
            json!({ "status": { "const": status }, "transaction_id": id, "partition": count, "sequence": count, "timestamp": time }),
        );
        for (name, value) in own.as_object().into_iter().flatten() {
            schema["properties"][name] = value.clone();
            if let Some(required) = schema["required"].as_array_mut() {
                required.push(json!(name));
            }
        }
        for (name, value) in sometimes.as_object().into_iter().flatten() {
            schema["properties"][name] = value.clone();
        }
        schema
    };
    let moved = json!({ "amount": money, "currency": text, "from_balance": money, "to_balance": money });
    let mut reversed = moved.clone();
    reversed["reversed_transaction_id"] = id.clone();
    // As it was sent, when it is malformed itself.
    let sent_id = json!({ "type": ["string", "null"] });
    let refused = object(
        json!({ "status": { "enum": ["refused", "unanswered"] }, "transaction_id": sent_id, "code": text, "detail": text }),
    );
    let result = json!({ "oneOf": [{ "$ref": "#/components/schemas/Transferred" }, { "$ref": "#/components/schemas/Refused" }] });
    json!({
        "Success": command("success", json!({}), json!({})),
        "Transferred": command("success", json!({ "from_balance": money, "to_balance": money }), json!({ "amount": money, "currency": text })),
        "Refused": refused,
        "TransferResults": { "type": "object", "required": ["results"], "properties": {
            "results": { "type": "array", "items": result }, "status": { "const": "success" }, "transaction_id": id,
            "partition": count, "sequence": count, "timestamp": time } },
        "Held": command("held", json!({ "amount": money, "currency": text, "from_balance": money, "expires_at": { "type": ["string", "null"], "format": "date-time" } }), json!({})),
        "Settled": command("success", json!({ "hold_id": id, "released": money, "currency": text, "from_balance": money }), json!({ "amount": money, "to_balance": money })),
        "Reversed": command("success", reversed, json!({})),
        "Balance": object(json!({ "currency": text, "available": money, "held": money, "total": money })),
        "Account": sometimes(object(json!({ "account_id": text, "status": { "enum": ["open", "closed"] }, "opened_at": time,
            "metadata": metadata, "balances": array("Balance"), "partition": count, "sequence": count, "as_of": time })),
            json!({ "handle": count })),
        "HistoryEntry": object(json!({ "transaction_id": maybe_id, "type": text, "counterparty": { "type": ["string", "null"] }, "amount": money,
            "currency": text, "balance_after": money, "partition": count, "sequence": count, "timestamp": time, "metadata": metadata })),
        "History": object(json!({ "entries": array("HistoryEntry"), "next_cursor": { "type": ["string", "null"] } })),
        "Posting": { "type": "object", "required": ["account_id", "currency", "amount", "balance_after"], "properties": { "account_id": text,
            "currency": text, "amount": money, "balance_after": money, "held_after": money } },
        "Event": { "type": "object", "required": ["type", "partition", "sequence", "timestamp"], "properties": { "type": event_type(),
            "partition": count, "sequence": count, "timestamp": time, "transaction_id": id, "referenced_transaction_id": id, "code": text,
            "refused_type": text, "leg": count, "leg_code": text,
            "account_id": text, "handle": count, "from_account": text, "to_account": text, "amount": money, "currency": text, "released": money,
            "expires_at": { "type": ["string", "null"], "format": "date-time" }, "legs": count, "postings": array("Posting"), "metadata": metadata } },
        "EventStream": { "type": "string", "description": EVENT_STREAM },
        "Transaction": { "type": "object", "required": ["transaction_id", "status", "type", "events"], "properties": { "transaction_id": id,
            "status": { "enum": ["success", "refused", "held", "confirmed", "cancelled", "expired", "reversed", "in_flight"] }, "code": text, "type": text,
            "from_account": text, "to_account": text, "amount": money, "currency": text, "metadata": metadata, "events": array("Event") } },
        "Total": object(json!({ "currency": text, "sum": money, "in_flight": money })),
        "State": sometimes(object(json!({ "accounts": count, "totals": array("Total") })), json!({ "partition": count, "sequence": count,
            "pending_holds": count, "as_of": time, "digest": text, "shards": array("ShardPosition") })),
        "ShardPosition": object(json!({ "partition": count, "sequence": count, "accounts": count })),
        "Check": object(json!({ "balanced": { "type": "boolean" }, "settled": { "type": "boolean",
                "description": "False when the sums changed while they were read: ask again before a difference means anything" },
            "currencies": { "type": "array", "items": object(json!({ "currency": text, "sum": money, "in_flight": money,
                "difference": money })) }, "shards": array("ShardPosition") })),
        "TransactionsInFlight": object(json!({ "transactions": array("TransactionInFlight") })),
        "TransactionInFlight": in_flight(&text, &count),
        "Receipt": object(json!({ "checkpoint": text, "format": count, "frame": object(json!({ "chunks": { "type": "array" },
            "path": { "type": "array", "items": text }, "restart": count, "size": count })),
            "inclusion": { "type": "array", "items": text }, "sequence": count, "transaction_id": id })),
        "Snapshot": object(json!({ "partition": count, "sequence": count, "as_of": time, "digest": text, "accounts": count,
            "transaction_ids": count, "size_bytes": count, "parts": count, "elapsed_ms": count, "archive": text })),
    })
}

/// A schema with properties that are not always there.
fn sometimes(mut schema: Value, properties: Value) -> Value {
    for (name, value) in properties.as_object().into_iter().flatten() {
        schema["properties"][name] = value.clone();
    }
    schema
}

/// A transaction that is under way, as its row of the phase status table tells; only the first two once it is finished.
fn in_flight(text: &Value, count: &Value) -> Value {
    let maybe_text = json!({ "type": ["string", "null"] });
    let phase = json!({ "enum": ["confirm", "cancel", null] });
    let lease = json!({ "type": ["object", "null"], "properties": { "holder": text, "until": text } });
    let branch = json!({ "type": "object", "properties": { "shard": count,
        "try": { "enum": ["not_sent", "sent", "accepted", "refused"] }, "second_phase_done": { "type": "boolean" } } });
    json!({ "type": "object", "required": ["transaction_id", "status"], "properties": { "transaction_id": text,
        "status": { "enum": ["in_flight", "finished"] }, "type": text, "from_account": text, "to_account": text, "amount": text,
        "currency": text, "metadata": { "type": "object" }, "partition": count, "phase": { "enum": ["first", "second"] },
        "second_phase": phase, "branches": { "type": "array", "items": branch }, "out_of_order": { "type": "boolean" },
        "attempts": count, "last_error": maybe_text, "started_at": { "type": "string", "format": "date-time" },
        "age_seconds": count, "lease": lease } })
}

/// What the stream of events consists of.
const EVENT_STREAM: &str = "Server-sent events. Each has `id: partition:sequence`, `event:` the type, and `data:` one Event on one line. \
A client that reconnects with the last id as Last-Event-ID goes on without a gap or a repeat; without it and without `after`, the stream begins with \
the first event. A position in the future is refused with invalid_request. With `account`, only events about that account are sent: those of its \
postings, holds for it, its opening and closing, and refusals of commands that name it. A comment (`: still here`) comes when nothing else does. A client \
that does not read for long is dropped: its last event has `event: dropped`, the id to resume from, and data {reason, partition, resume_after}.";

/// The types of events, each explained.
fn event_type() -> Value {
    let types = crate::event::TYPES.iter();
    let types = types.map(|(name, says)| json!({ "const": name, "description": says }));
    json!({ "type": "string", "oneOf": types.collect::<Vec<_>>() })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every `$ref` in the document.
    fn references(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(object) => {
                if let Some(Value::String(reference)) = object.get("$ref") {
                    found.push(reference.clone());
                }
                object.values().for_each(|value| references(value, found));
            }
            Value::Array(values) => values.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }

    #[test]
    fn every_reference_is_to_something() {
        let document = document();
        let mut found = Vec::new();
        references(&document, &mut found);
        assert!(found.len() > ROUTES.len());
        for reference in found {
            let pointer = reference.strip_prefix('#').expect("within the document");
            assert!(document.pointer(pointer).is_some(), "{reference}");
        }
    }

    #[test]
    fn every_error_code_is_told() {
        let text = document().to_string();
        for code in Code::ALL {
            assert!(text.contains(&format!("\"{}\"", code.name())), "{}", code.name());
        }
    }
}
