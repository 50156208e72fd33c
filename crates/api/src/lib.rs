//! The public contract: what a client may send, what it is answered, and every error code.
//!
//! Requests are checked here once, in a documented order, and become `ledger` types that prove it: from JSON in [`request`], from the
//! stream's protobuf in [`wire`], from the other protobuf messages in [`grpc`]. [`client`] is the other end of the line. This crate must never
//! know storage, nor anything of how the server works.
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

pub mod client;
pub mod event;
pub mod grpc;
mod json;
pub mod openapi;
pub mod problem;
pub mod request;
pub mod response;
mod time;
pub mod webhook;
pub mod wire;

/// What `wallet.proto` says, as the library reads it; `TransferBatch` and `TransferBatchResult` are [`wire::Message`]. Made by
/// `tests/generated.rs`, which also says when it is out of date: nobody who builds Jigap waits for it.
#[allow(missing_docs, unreachable_pub, clippy::all)]
pub mod proto {
    include!("generated/wallet.rs");

    /// The descriptors of `wallet.proto`, for server reflection.
    pub const DESCRIPTORS: &[u8] = include_bytes!("generated/wallet.descriptors");
}

#[cfg(test)]
#[allow(missing_docs, unreachable_pub, clippy::all, dead_code)]
mod reference {
    include!("generated/reference.rs");
}

pub use problem::{Code, Problem};
pub use time::{format_timestamp, parse_timestamp};
