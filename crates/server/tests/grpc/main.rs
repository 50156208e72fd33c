//! The gRPC contract over real sockets and a real data directory, through the typed client.

mod calls;
#[path = "../http/harness.rs"]
#[allow(dead_code, reason = "shared with the tests of HTTP")]
mod harness;
mod proxy;
mod stream;
mod subscribe;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use api::client::{Client, Options};
use api::proto;
use harness::Wallet;
use ledger::{AccountId, Amount, Currency, Metadata, TransactionId, Transfer, TransferKind};

/// Options under which a test that cannot succeed ends soon.
fn options() -> Options {
    Options { call_timeout: Duration::from_secs(10), patience: Duration::from_secs(20), ..Options::default() }
}

fn client(wallet: &Wallet) -> Client {
    Client::new(&format!("http://{}", wallet.grpc_address), options()).expect("an address")
}

fn id() -> TransactionId {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    TransactionId(
        0x0189_0d9e_3c1b_7c5f_9d6f_0000_0000_0000 + u128::from(NEXT.fetch_add(1, Ordering::Relaxed)),
    )
}

fn id_bytes() -> Vec<u8> {
    id().to_bytes().to_vec()
}

fn transfer(from: &str, to: &str, minor_units: u64) -> Transfer {
    Transfer {
        transaction_id: id(),
        kind: TransferKind::Transfer,
        from: AccountId::parse(from).expect("a name").into(),
        to: AccountId::parse(to).expect("a name").into(),
        amount: Amount::from_minor_units(minor_units).expect("an amount"),
        currency: Currency::parse("USD").expect("a currency"),
        metadata: Metadata::default(),
    }
}

/// The same for a unary call.
fn transfer_message(from: &str, to: &str, minor_units: u64) -> proto::Transfer {
    proto::Transfer {
        transaction_id: id_bytes(),
        from: Some(proto::transfer::From::FromAccount(from.into())),
        to: Some(proto::transfer::To::ToAccount(to.into())),
        amount_minor_units: minor_units,
        currency: "USD".into(),
        metadata: Default::default(),
    }
}

/// A wallet in which alice has 100.00 USD.
fn given() -> Wallet {
    let wallet = Wallet::start();
    wallet.open(&["alice", "bob"]);
    wallet.deposit("alice", "100.00", "USD");
    wallet
}

/// Runs a test's client.
fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(test);
}
