//! Webhooks: the bodies of the requests that manage them, checked, and what the OpenAPI document says of them.

use serde::Deserialize;
use serde_json::{Value, json};

use crate::event;
use crate::request::{parse, path_account, shortened};
use crate::{Code, Problem};

/// How long an old secret signs beside its successor unless the request says otherwise.
const PREVIOUS_VALID_SECONDS: u64 = 24 * 3600;
/// The longest that it may.
const PREVIOUS_VALID_SECONDS_MAX: u64 = 30 * 24 * 3600;

/// The body of `POST /v1/admin/webhooks`.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewWebhook {
    /// Where events are sent; whether it may be is for the server to say.
    pub url: String,
    /// Only events of these types; empty for all.
    #[serde(default)]
    pub types: Vec<String>,
    /// Only events about this account.
    pub account: Option<String>,
    /// Begin after this sequence; without it, with what happens from now on.
    pub after: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RotateBody {
    previous_valid_seconds: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RedeliverBody {
    sequences: Option<Vec<u64>>,
}

/// Reads the body of a new webhook.
pub fn create(body: &[u8]) -> Result<NewWebhook, Problem> {
    let mut new: NewWebhook = parse(body)?;
    for name in &new.types {
        if !event::TYPES.iter().any(|(known, _)| known == name) {
            let known: Vec<&str> = event::TYPES.iter().map(|(known, _)| *known).collect();
            let detail = format!("types has {:?}, it may have {}", shortened(name), known.join(", "));
            return Err(Problem::new(Code::InvalidRequest, detail));
        }
    }
    new.types.sort_unstable();
    new.types.dedup();
    if let Some(account) = &new.account {
        path_account(account)?;
    }
    Ok(new)
}

/// Reads the body of a rotation: for how many seconds the previous secret signs beside the new one.
pub fn rotate(body: &[u8]) -> Result<u64, Problem> {
    let body: RotateBody = parse(body)?;
    let seconds = body.previous_valid_seconds.unwrap_or(PREVIOUS_VALID_SECONDS);
    if seconds > PREVIOUS_VALID_SECONDS_MAX {
        let detail =
            format!("previous_valid_seconds is {seconds}, at most {PREVIOUS_VALID_SECONDS_MAX} are taken");
        return Err(Problem::new(Code::InvalidRequest, detail));
    }
    Ok(seconds)
}

/// Reads which dead letters are to be sent again; `None` for all.
pub fn redeliver(body: &[u8]) -> Result<Option<Vec<u64>>, Problem> {
    Ok(parse::<RedeliverBody>(body)?.sequences)
}

/// What the receiver of a webhook is sent, and what it should answer.
pub(crate) fn callback() -> Value {
    let header = |name: &str, description: &str| json!({ "name": name, "in": "header", "required": true, "description": description, "schema": { "type": "string" } });
    json!({
        "summary": "An event, signed as Standard Webhooks has it",
        "parameters": [
            header("webhook-id", "The same however often the event is sent: whoever has seen it has nothing to do"),
            header("webhook-timestamp", "Seconds since 1970, of this attempt: refuse what is older than some minutes"),
            header("webhook-signature", "`v1,` and the base64 of HMAC-SHA256 over `id.timestamp.body`, keyed with the bytes \
                that the secret has in base64 after `whsec_`; after a rotation two of them, with a space between"),
        ],
        "requestBody": { "required": true, "content": { "application/json": { "schema": {
            "$ref": "#/components/schemas/WebhookMessage" } } } },
        "responses": {
            "2XX": { "description": "Delivered" },
            "410": { "description": "The receiver is gone: nothing more is sent until the webhook is resumed" },
            "default": { "description": "Sent again, ever more slowly, until the time of the setting `webhooks-retry-time` \
                is over; then it becomes a dead letter. Redirects are not followed. Retry-After is respected" },
        },
    })
}

/// The schemas of requests and answers.
pub(crate) fn schemas() -> Value {
    let (text, count) = (json!({ "type": "string" }), json!({ "type": "integer", "minimum": 0 }));
    let time = json!({ "type": "string", "format": "date-time" });
    let maybe_time = json!({ "type": ["string", "null"], "format": "date-time" });
    let array = |items: Value| json!({ "type": "array", "items": items });
    let object = |properties: Value| {
        let required: Vec<&String> = properties.as_object().into_iter().flat_map(|map| map.keys()).collect();
        json!({ "type": "object", "required": required, "properties": properties })
    };
    let request = |required: &[&str], properties: Value| json!({ "type": "object", "additionalProperties": false, "required": required, "properties": properties });
    let types = array(json!({ "enum": event::TYPES.iter().map(|(name, _)| *name).collect::<Vec<_>>() }));
    let error = object(
        json!({ "sequence": count, "at": time, "status": { "type": ["integer", "null"] }, "detail": text }),
    );
    let maybe = |schema: &Value| json!({ "oneOf": [schema, { "type": "null" }] });
    let pending =
        object(json!({ "sequence": count, "webhook_id": text, "attempts": count, "first_attempt_at": time,
        "next_attempt_at": maybe_time }));
    let webhook = object(
        json!({ "id": text, "url": text, "types": types, "account": { "type": ["string", "null"] },
        "status": { "enum": ["active", "paused", "gone", "removed"] }, "created_at": time, "partition": count, "cursor": count,
        "lag_events": count, "last_delivery_at": maybe_time, "last_error": maybe(&error), "pending": maybe(&pending),
        "dead_letters": count, "secrets": array(object(json!({ "created_at": time, "expires_at": maybe_time }))) }),
    );
    let mut with_secret = webhook.clone();
    with_secret["properties"]["secret"] = json!({ "type": "string", "pattern": "^whsec_" });
    let letter = object(json!({ "sequence": count, "type": text, "webhook_id": text, "attempts": count,
        "first_attempt_at": time, "last_error": error, "queued": { "type": "boolean" } }));
    json!({
        "NewWebhook": request(&["url"], json!({ "url": { "type": "string", "format": "uri", "pattern": "^https?://" },
            "types": types, "account": { "type": ["string", "null"] }, "after": { "type": ["integer", "null"], "minimum": 0 } })),
        "RotateSecret": request(&[], json!({ "previous_valid_seconds": { "type": ["integer", "null"], "minimum": 0,
            "maximum": PREVIOUS_VALID_SECONDS_MAX, "default": PREVIOUS_VALID_SECONDS } })),
        "Redeliver": request(&[], json!({ "sequences": { "type": ["array", "null"], "items": count } })),
        "Webhook": webhook,
        "WebhookWithSecret": with_secret,
        "Webhooks": object(json!({ "webhooks": array(json!({ "$ref": "#/components/schemas/Webhook" })) })),
        "DeadLetters": object(json!({ "dead_letters": array(letter) })),
        "Redelivery": object(json!({ "id": text, "queued": count })),
        "WebhookMessage": object(json!({ "type": text, "timestamp": time, "data": { "$ref": "#/components/schemas/Event" } })),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_misspelt_is_refused() {
        let rows = [
            ("{}", "missing field `url`"),
            (r#"{"url":"http://a","typos":[]}"#, "unknown field `typos`"),
            (r#"{"url":"http://a","url":"http://b"}"#, "duplicate field `url`"),
            (
                r#"{"url":"http://a","types":["transfers"]}"#,
                "types has \"transfers\", it may have account_opened",
            ),
            (r#"{"url":"http://a","account":"a b"}"#, "account_id"),
            (r#"{"url":"http://a","after":-1}"#, "invalid value"),
        ];
        for (body, expected) in rows {
            let problem = create(body.as_bytes()).expect_err(body);
            assert!(problem.detail.contains(expected), "{body}: {}", problem.detail);
        }
        let body = br#"{"url":"http://a","types":["refused","deposit","refused"]}"#;
        assert_eq!(create(body).expect("it is right").types, ["deposit", "refused"]);
        assert_eq!(rotate(b"{}"), Ok(PREVIOUS_VALID_SECONDS));
        assert!(rotate(br#"{"previous_valid_seconds":2592001}"#).is_err());
        assert_eq!(redeliver(br#"{"sequences":[1,2]}"#), Ok(Some(vec![1, 2])));
    }
}
