//! Transfers over HTTP: prebuilt requests of one length, patched in place.

use std::ops::Range;
use std::time::Instant;

use super::Target;
use super::engine::{Engine, Exchange, Turn};
use super::load::{Due, Load, Next, Plan};
use super::workload::Transfer;
use crate::exit::{Exit, Failure, OrExit};

/// Digits of an account's number in its name.
const NUMBER_DIGITS: usize = 9;
pub(super) const NAME_PREFIX: &str = "bench-";
const UUID_SIZE_BYTES: usize = 36;
/// What a refused transfer of a batch begins with.
const REFUSED_IN_BATCH: &[u8] = b"\"status\":\"refused\"";
/// What a transfer of a batch that has no answer begins with.
pub(super) const UNANSWERED_IN_BATCH: &[u8] = b"\"status\":\"unanswered\"";
/// Where an answer without content of interest is cut in messages.
const EXCERPT_SIZE_BYTES: usize = 200;

/// How many transfers a request has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    Single,
    Batch,
}

/// Runs the load.
pub(super) fn run(target: &Target, plan: &Plan, load: &mut Load, shape: Shape) -> Result<(), Failure> {
    let mut engine =
        Engine::connect(target.http, plan.connections, target.timeout).or_exit(Exit::Unavailable)?;
    load.restart_clock();
    let deadline = load.deadline();
    let mut exchange = LoadExchange { load, shape, request: TransferRequest::new(&authority(target), shape) };
    engine.run(&mut exchange, deadline).or_exit(Exit::Unavailable)
}

/// Runs single transfers until the wallet is lost, and answers whether it was: what is under way then stays without an answer.
pub(super) fn run_until_lost(target: &Target, plan: &Plan, load: &mut Load) -> Result<bool, Failure> {
    let mut engine =
        Engine::connect(target.http, plan.connections, target.timeout).or_exit(Exit::Unavailable)?;
    load.restart_clock();
    let deadline = load.deadline();
    let request = TransferRequest::new(&authority(target), Shape::Single);
    let mut exchange =
        UntilLost { load: LoadExchange { load, shape: Shape::Single, request }, is_lost: false };
    let outcome = engine.run(&mut exchange, deadline);
    Ok(exchange.is_lost || outcome.is_err())
}

/// The name of an account by its index.
pub(super) fn account_name(index: u32) -> String {
    format!("{NAME_PREFIX}{index:0NUMBER_DIGITS$}")
}

/// What the `Host` header says.
pub(super) fn authority(target: &Target) -> String {
    target.http.to_string()
}

/// The head of a POST request.
pub(super) fn head(authority: &str, path: &str, body_size_bytes: usize) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nhost: {authority}\r\ncontent-type: application/json\r\ncontent-length: {body_size_bytes}\r\n\r\n"
    )
}

/// An answer in an error message.
pub(super) fn describe(status: u16, body: &[u8]) -> String {
    let excerpt = &body[..body.len().min(EXCERPT_SIZE_BYTES)];
    format!("status {status}: {}", String::from_utf8_lossy(excerpt))
}

struct LoadExchange<'run> {
    load: &'run mut Load,
    shape: Shape,
    request: TransferRequest,
}

impl Exchange for LoadExchange<'_> {
    type Token = Due;

    fn request(&mut self, now: Instant, buffer: &mut Vec<u8>) -> Turn<Due> {
        let due = match self.load.next(now) {
            Next::Now(due) => due,
            Next::At(until) => return Turn::Wait(until),
            Next::Over => return Turn::Over,
        };
        let request = &mut self.request;
        request.begin(self.load.workload().batch(), buffer);
        self.load.workload().generate(due.batch, due.unix_time_ms, |transfer| request.put(&transfer, buffer));
        request.end(buffer);
        Turn::Send(due)
    }

    fn answered(&mut self, due: Due, now: Instant, status: u16, body: &[u8]) {
        match (self.shape, status) {
            (Shape::Single, 200) => self.load.acknowledged(&due, now, 0),
            // A business refusal of a transfer; what was not executed is 400, 401, 403, 413, 429 or 5xx.
            (Shape::Single, 404 | 409 | 422) => self.load.acknowledged(&due, now, 1),
            (Shape::Batch, 200) if memchr::memmem::find(body, UNANSWERED_IN_BATCH).is_some() => {
                self.load.failed(|| "some transfers of a batch had no answer".to_owned());
            }
            (Shape::Batch, 200) => {
                let refused = memchr::memmem::find_iter(body, REFUSED_IN_BATCH).count();
                let refused = u32::try_from(refused).expect("a batch has at most 8190 transfers");
                self.load.acknowledged(&due, now, refused);
            }
            _ => self.load.failed(|| describe(status, body)),
        }
    }

    fn failed(&mut self, _due: Due, why: &anyhow::Error) {
        self.load.failed(|| format!("{why:#}"));
    }
}

/// A load that ends with the first connection that breaks.
struct UntilLost<'run> {
    load: LoadExchange<'run>,
    is_lost: bool,
}

impl Exchange for UntilLost<'_> {
    type Token = Due;

    fn request(&mut self, now: Instant, buffer: &mut Vec<u8>) -> Turn<Due> {
        if self.is_lost { Turn::Over } else { self.load.request(now, buffer) }
    }

    fn answered(&mut self, due: Due, now: Instant, status: u16, body: &[u8]) {
        self.load.answered(due, now, status, body);
    }

    fn failed(&mut self, due: Due, why: &anyhow::Error) {
        self.is_lost = true;
        self.load.failed(due, why);
    }
}

/// Writes requests: a template for one transfer, of which four fields change, each of one width.
pub(super) struct TransferRequest {
    head: Head,
    template: Vec<u8>,
    from: Range<usize>,
    to: Range<usize>,
    amount: Range<usize>,
    transaction_id: Range<usize>,
}

struct Head {
    authority: String,
    shape: Shape,
    /// The last head made, and for how many transfers.
    made: (u32, Vec<u8>),
}

const BATCH_BEGIN: &[u8] = b"{\"transfers\":[";
const BATCH_END: &[u8] = b"]}";

impl TransferRequest {
    /// For requests of this shape.
    pub(super) fn new(authority: &str, shape: Shape) -> TransferRequest {
        let mut template = Vec::new();
        let mut put = |text: &str, field: &str| {
            template.extend_from_slice(text.as_bytes());
            let start = template.len();
            template.extend_from_slice(field.as_bytes());
            start..template.len()
        };
        let name = account_name(0);
        let number = |name: Range<usize>| name.start + NAME_PREFIX.len()..name.end;
        let from = number(put("{\"from_account\":\"", &name));
        let to = number(put("\",\"to_account\":\"", &name));
        let amount = put("\",\"amount\":\"", "0.00");
        let transaction_id =
            put("\",\"currency\":\"USD\",\"transaction_id\":\"", &"0".repeat(UUID_SIZE_BYTES));
        put("\"}", "");
        let head = Head { authority: authority.to_owned(), shape, made: (0, Vec::new()) };
        TransferRequest { head, template, from, to, amount, transaction_id }
    }

    /// Begins a request of so many transfers.
    pub(super) fn begin(&mut self, transfers: u32, buffer: &mut Vec<u8>) {
        let Head { authority, shape, made } = &mut self.head;
        if made.0 != transfers {
            let transfers_size_bytes = self.template.len() * transfers as usize;
            let head = match shape {
                Shape::Single => head(authority, "/v1/wallet/balance_transfer", transfers_size_bytes),
                Shape::Batch => {
                    // A comma between two transfers.
                    let commas = transfers as usize - 1;
                    let size = BATCH_BEGIN.len() + transfers_size_bytes + commas + BATCH_END.len();
                    head(authority, "/v1/wallet/balance_transfers", size)
                }
            };
            *made = (transfers, head.into_bytes());
        }
        buffer.extend_from_slice(&made.1);
        if self.head.shape == Shape::Batch {
            buffer.extend_from_slice(BATCH_BEGIN);
        }
    }

    /// Adds a transfer.
    pub(super) fn put(&self, transfer: &Transfer, buffer: &mut Vec<u8>) {
        let start = buffer.len();
        buffer.extend_from_slice(&self.template);
        let request = &mut buffer[start..];
        put_decimal(transfer.from, &mut request[self.from.clone()]);
        put_decimal(transfer.to, &mut request[self.to.clone()]);
        let [units, _, tenths, hundredths] = &mut request[self.amount.clone()] else {
            unreachable!("the template's amount has four characters");
        };
        for (digit, divisor) in [(units, 100), (tenths, 10), (hundredths, 1)] {
            *digit = b'0' + (transfer.minor_units / divisor % 10) as u8;
        }
        let id = &mut request[self.transaction_id.clone()];
        uuid::Uuid::from_u128(transfer.transaction_id).as_hyphenated().encode_lower(id);
        if self.head.shape == Shape::Batch {
            buffer.push(b',');
        }
    }

    /// Ends the request.
    pub(super) fn end(&self, buffer: &mut Vec<u8>) {
        if self.head.shape == Shape::Batch {
            // The comma after the last transfer.
            buffer.pop();
            buffer.extend_from_slice(BATCH_END);
        }
    }
}

/// Fills the digits with a number, zeros first.
#[inline]
pub(super) fn put_decimal(mut number: u32, digits: &mut [u8]) {
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(shape: Shape, transfers: &[Transfer]) -> (String, serde_json::Value) {
        let mut writer = TransferRequest::new("127.0.0.1:8080", shape);
        let mut buffer = Vec::new();
        writer.begin(transfers.len() as u32, &mut buffer);
        for transfer in transfers {
            writer.put(transfer, &mut buffer);
        }
        writer.end(&mut buffer);
        let text = String::from_utf8(buffer).expect("it is text");
        let (head, body) = text.split_once("\r\n\r\n").expect("it has a head");
        assert!(head.contains(&format!("content-length: {}", body.len())), "{head} {}", body.len());
        (head.lines().next().expect("a line").to_owned(), serde_json::from_str(body).expect("it is JSON"))
    }

    #[test]
    fn requests_say_what_the_transfer_is() {
        let transfer = Transfer {
            transaction_id: 0x01890d9e_3c1b_7c5f_9d6e_0b6f0f0c9a11,
            from: 12,
            to: 999_999_999,
            minor_units: 907,
        };
        let expected = serde_json::json!({
            "from_account": "bench-000000012", "to_account": "bench-999999999", "amount": "9.07", "currency": "USD",
            "transaction_id": "01890d9e-3c1b-7c5f-9d6e-0b6f0f0c9a11",
        });
        let (line, body) = request(Shape::Single, &[transfer]);
        assert_eq!((line.as_str(), &body), ("POST /v1/wallet/balance_transfer HTTP/1.1", &expected));
        let (line, body) = request(Shape::Batch, &[transfer; 3]);
        assert_eq!(line, "POST /v1/wallet/balance_transfers HTTP/1.1");
        assert_eq!(body, serde_json::json!({ "transfers": [expected, expected, expected] }));
    }
}
