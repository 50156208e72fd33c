//! The public contract: what a client may send, what it is answered, and every error code.
//!
//! Requests are checked here once, in a documented order, and become `ledger` types that prove it. This crate must never
//! know sockets, threads or storage.
//!
//! ```
//! use api::request::{Endpoint, transfer};
//!
//! let body = br#"{"from_account":"alice","to_account":"bob","amount":"12.50","currency":"USD",
//!     "transaction_id":"01890d9e-3c1b-7c5f-9d6e-0b6f0f0c9a11"}"#;
//! assert_eq!(transfer(Endpoint::Transfer, body).unwrap().amount.minor_units(), 1250);
//! let misspelt = br#"{"from_acount":"alice"}"#;
//! assert_eq!(transfer(Endpoint::Transfer, misspelt).unwrap_err().code.name(), "invalid_request");
//! ```

mod json;
pub mod openapi;
pub mod problem;
pub mod request;
pub mod response;
mod time;

pub use problem::{Code, Problem};
pub use time::{format_timestamp, parse_timestamp};
