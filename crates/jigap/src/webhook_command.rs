//! `jigap webhook`: the webhooks of a running wallet.

use clap::{Args, Subcommand};
use serde_json::json;

use crate::cli::ClientArguments;
use crate::client::{self, Ask, Method, Subject, escape};
use crate::exit::Failure;

pub(crate) const HELP: &str = "\
Every event is posted as {type, timestamp, data}, signed as Standard Webhooks has it, in order, at least once: a receiver answers 2xx, and
passes over a webhook-id that it has seen. Anything else is tried again, ever more slowly; what is not taken within --webhooks-retry-time of
`serve` becomes a dead letter.

Examples:
  jigap webhook add https://example.com/hooks                     every event from now on; prints the secret, once
  jigap webhook add http://127.0.0.1:9000/ --account alice --type transfer --type deposit
  jigap webhook list
  jigap webhook dead-letters wh_0123456789abcdef
  jigap webhook redeliver wh_0123456789abcdef --sequence 42";

/// `jigap webhook ...`
#[derive(Debug, Subcommand)]
pub(crate) enum WebhookSubject {
    /// Send events to this address from now on; prints the secret, which is shown only now
    Add(AddArguments),
    /// List all webhooks, with how far each is
    List {
        #[command(flatten)]
        client: ClientArguments,
    },
    /// Show a webhook: its cursor, its lag, its last error
    Show(OneArguments),
    /// Remove a webhook, its cursor and its dead letters
    Remove(OneArguments),
    /// Send nothing until it is resumed; nothing is lost
    Pause(OneArguments),
    /// Go on, after a pause or when a receiver that answered 410 Gone is back
    Resume(OneArguments),
    /// Make a new secret and print it; the previous one signs beside it for a while
    Rotate {
        /// For how long the previous secret still signs; a day unless given
        #[arg(long, value_name = "SECONDS")]
        previous_valid: Option<u64>,
        #[command(flatten)]
        one: OneArguments,
    },
    /// List the events that were given up
    DeadLetters(OneArguments),
    /// Send dead letters once more: all, or those named
    Redeliver {
        /// Only the event with this sequence; may be given several times
        #[arg(long = "sequence", value_name = "SEQUENCE")]
        sequences: Vec<u64>,
        #[command(flatten)]
        one: OneArguments,
    },
}

/// `jigap webhook add`
#[derive(Debug, Args)]
pub(crate) struct AddArguments {
    /// http:// or https://; redirects are not followed
    url: String,
    /// Only events of this type, such as transfer; may be given several times
    #[arg(long = "type", value_name = "TYPE")]
    types: Vec<String>,
    /// Only events about this account
    #[arg(long)]
    account: Option<String>,
    /// Begin after this sequence; 0 for the first event
    #[arg(long, value_name = "SEQUENCE")]
    after: Option<u64>,
    #[command(flatten)]
    client: ClientArguments,
}

/// A webhook.
#[derive(Debug, Args)]
pub(crate) struct OneArguments {
    /// Its id
    id: String,
    #[command(flatten)]
    client: ClientArguments,
}

impl OneArguments {
    fn path(&self, rest: &str) -> String {
        format!("/v1/admin/webhooks/{}{rest}", escape(&self.id))
    }

    fn post(&self, rest: &str, body: serde_json::Value) -> Result<(), Failure> {
        client::run(&Ask::admin(self.path(rest), Method::Post(body)), &self.client)
    }
}

/// Asks the wallet.
pub(crate) fn run(subject: &WebhookSubject) -> Result<(), Failure> {
    let all = || "/v1/admin/webhooks".to_owned();
    match subject {
        WebhookSubject::Add(new) => {
            let body =
                json!({ "url": new.url, "types": new.types, "account": new.account, "after": new.after });
            client::run(&Ask::admin(all(), Method::Post(body)), &new.client)
        }
        WebhookSubject::List { client } => client::run(&Ask::query(Subject::Webhooks, all()), client),
        WebhookSubject::Show(one) => client::run(&Ask::admin(one.path(""), Method::Get), &one.client),
        WebhookSubject::Remove(one) => client::run(&Ask::admin(one.path(""), Method::Delete), &one.client),
        WebhookSubject::Pause(one) => one.post("/pause", json!({})),
        WebhookSubject::Resume(one) => one.post("/resume", json!({})),
        WebhookSubject::Rotate { previous_valid, one } => {
            one.post("/rotate-secret", json!({ "previous_valid_seconds": previous_valid }))
        }
        WebhookSubject::DeadLetters(one) => {
            client::run(&Ask::query(Subject::DeadLetters, one.path("/dead-letters")), &one.client)
        }
        WebhookSubject::Redeliver { sequences, one } => {
            let named = (!sequences.is_empty()).then_some(sequences);
            one.post("/redeliver", json!({ "sequences": named }))
        }
    }
}
