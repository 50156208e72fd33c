//! The same contract over gRPC.

use api::client::{Client, Options};
use api::proto;
use ledger::{AccountId, AccountNumber, AccountRef, Amount, Currency, Metadata, Transfer, TransferKind};
use uuid::Uuid;

use crate::architecture::Feature;
use crate::harness;
use crate::wallet::Wallet;

pub(crate) fn transfer(from: AccountRef, to: AccountRef, minor_units: u64) -> Transfer {
    Transfer {
        transaction_id: ledger::TransactionId(Uuid::new_v4().as_u128()),
        kind: TransferKind::Transfer,
        from,
        to,
        amount: Amount::from_minor_units(minor_units).unwrap(),
        currency: Currency::parse("USD").unwrap(),
        metadata: Metadata::default(),
    }
}

pub(crate) fn named(account: &str) -> AccountRef {
    AccountId::parse(account).unwrap().into()
}

fn run(served: &harness::Wallet<'_>, test: impl AsyncFnOnce(Client)) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let address = format!("http://{}", served.grpc);
    runtime.block_on(async { test(Client::new(&address, Options::default()).unwrap()).await });
}

/// Unary calls answer what HTTP does.
pub(crate) fn calls(wallet: &Wallet, served: &harness::Wallet<'_>) {
    let (alice, bob) = wallet.payer_and_payee();
    run(served, async |client| {
        let names: Vec<String> = (0..5).map(|_| format!("g-{}", Uuid::new_v4())).collect();
        let accounts = names.iter().map(|name| proto::OpenAccountRequest {
            account_id: name.clone(),
            ..proto::OpenAccountRequest::default()
        });
        let request = proto::OpenAccountsRequest { accounts: accounts.collect() };
        let opened = client.open_accounts(request).await.unwrap().results;
        for (name, result) in names.iter().zip(opened) {
            assert_eq!(result.account.unwrap().account_id, *name);
        }
        let request = proto::Transfer {
            transaction_id: Uuid::new_v4().as_bytes().to_vec(),
            from: Some(proto::transfer::From::FromAccount(alice.clone())),
            to: Some(proto::transfer::To::ToAccount(bob.clone())),
            amount_minor_units: 1250,
            currency: "USD".into(),
            ..proto::Transfer::default()
        };
        let result = client.transfer(request.clone()).await.unwrap();
        assert_eq!(
            (result.code.as_str(), result.from_balance, result.to_balance),
            ("", Some(8750), Some(1250))
        );
        let transaction = proto::GetTransactionRequest { transaction_id: request.transaction_id.clone() };
        let transaction = client.get_transaction(transaction).await.unwrap();
        assert_eq!(
            (transaction.status.as_str(), transaction.from_account.as_str()),
            ("success", alice.as_str())
        );
        let request =
            proto::GetHistoryRequest { account_id: bob.clone(), ..proto::GetHistoryRequest::default() };
        let history = client.get_history(request).await.unwrap();
        assert_eq!(
            (history.entries[0].balance_after, history.entries[0].counterparty.as_str()),
            (1250, alice.as_str())
        );
        let state = client.get_state(proto::GetStateRequest {}).await.unwrap();
        assert_eq!(state.digest.is_empty(), !wallet.can(Feature::Digest));
        assert!(state.totals.iter().any(|total| total.currency == "USD"));
    });
}

/// Batches: each transfer stands alone, and is answered in its place.
pub(crate) fn streams(wallet: &Wallet, served: &harness::Wallet<'_>) {
    let (alice, bob) = wallet.payer_and_payee();
    run(served, async |client| {
        let first = transfer(named(&alice), named(&bob), 1250);
        let by_handle = transfer(AccountNumber(4_000_000_000).into(), named(&bob), 1);
        let batch = [
            first.clone(),
            transfer(named(&alice), named(&bob), 1_000_000),
            by_handle,
            transfer(named(&bob), named(&alice), 250),
            first,
        ];
        let stream = client.transfer_stream();
        let result = stream.send(&batch).await.unwrap().await.unwrap();
        let code = |result: &api::wire::TransferResult| match &result.outcome {
            Ok(_) => "success".to_owned(),
            Err(refused) => refused.code.clone(),
        };
        let codes: Vec<String> = result.results.iter().map(code).collect();
        let unknown = match wallet.can(Feature::Handles) {
            true => "account_not_found",
            false => "not_supported_by_architecture",
        };
        assert_eq!(codes, ["success", "insufficient_funds", unknown, "success", "success"]);
        assert!(result.results[4].replayed, "a repeat within the batch");
    });
    wallet.assert_balances(&[(&alice, "90.00", "0.00"), (&bob, "10.00", "0.00")]);
}
