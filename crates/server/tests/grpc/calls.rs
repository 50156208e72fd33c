//! The unary calls.

use api::client::ClientError;
use api::proto;
use tonic::transport::Endpoint;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

use crate::harness::Wallet;
use crate::{client, given, id_bytes, run, transfer_message};

#[test]
fn many_accounts_open_together_and_each_stands_alone() {
    let wallet = Wallet::start();
    run(async {
        let client = client(&wallet);
        let open = |account_id: String| proto::OpenAccountRequest { account_id, ..Default::default() };
        client.open_account(open("account-7".into())).await.expect("an answer");
        let mut accounts: Vec<_> = (0..1000).map(|number| open(format!("account-{number}"))).collect();
        accounts[5] = open("@system".into());
        let opened = client.open_accounts(proto::OpenAccountsRequest { accounts: accounts.clone() }).await;
        let opened = opened.expect("an answer").results;
        assert_eq!(opened.len(), 1000);
        for (number, result) in opened.iter().enumerate() {
            let expected = if number == 5 { "invalid_account_id" } else { "" };
            assert_eq!((result.code.as_str(), result.existed), (expected, number == 7), "{number}");
        }
        let handles: std::collections::BTreeSet<u32> =
            opened.iter().filter_map(|result| Some(result.account.as_ref()?.handle)).collect();
        assert_eq!(handles.len(), 999);
        let found = proto::GetAccountRequest { account_id: "account-999".into() };
        let found = client.get_account(found).await.expect("an answer");
        assert_eq!(Some(found.handle), opened[999].account.as_ref().map(|account| account.handle));

        accounts.resize(8191, open("one-too-many".into()));
        let refused = client.open_accounts(proto::OpenAccountsRequest { accounts }).await;
        assert!(matches!(refused, Err(ClientError::Failed(_))), "{refused:?}");
    });
}

#[test]
fn every_command_and_query_works() {
    let wallet = Wallet::start();
    run(async {
        let client = client(&wallet);
        for account_id in ["alice", "bob"] {
            let metadata = [("tier".to_owned(), "gold".to_owned())].into();
            let request = proto::OpenAccountRequest { account_id: account_id.into(), metadata };
            let opened = client.open_account(request.clone()).await.expect("an answer");
            assert_eq!((opened.code.as_str(), opened.existed), ("", false));
            assert!(client.open_account(request).await.expect("an answer").existed);
        }
        let outside = |account: &str, amount_minor_units| proto::OutsideRequest {
            transaction_id: id_bytes(),
            account: account.into(),
            amount_minor_units,
            currency: "USD".into(),
            metadata: Default::default(),
        };
        let deposited = client.deposit(outside("alice", 10_000)).await.expect("an answer");
        assert_eq!((deposited.to_balance, deposited.replayed), (Some(10_000), false));
        let withdrawn = client.withdraw(outside("alice", 1_000)).await.expect("an answer");
        assert_eq!((withdrawn.from_balance, withdrawn.amount_minor_units), (Some(9_000), 1_000));
        let request = transfer_message("alice", "bob", 1_250);
        let moved = client.transfer(request.clone()).await.expect("an answer");
        assert_eq!((moved.from_balance, moved.to_balance), (Some(7_750), Some(1_250)));
        let again = client.transfer(request.clone()).await.expect("an answer");
        assert_eq!(again, proto::CommandResult { replayed: true, ..moved });
        let group = proto::TransferGroupRequest {
            transaction_id: id_bytes(),
            transfers: vec![transfer_message("alice", "bob", 50), transfer_message("bob", "alice", 100)],
        };
        let grouped = client.transfer_group(group).await.expect("an answer");
        assert_eq!(grouped.legs.len(), 2);
        assert_eq!(grouped.legs[1].to_balance, 7_800);
        let reverse = proto::ReverseRequest {
            transaction_id: id_bytes(),
            original_id: request.transaction_id.clone(),
            metadata: Default::default(),
        };
        let reversed = client.reverse(reverse).await.expect("an answer");
        assert_eq!(reversed.code, "insufficient_funds", "bob has 12.00 left of 12.50");
        holds(&client).await;
        queries(&client, &request.transaction_id).await;
    });
}

async fn holds(client: &api::client::Client) {
    let hold = |transfer| proto::HoldRequest { transfer: Some(transfer), expires_in_seconds: Some(60) };
    let first = transfer_message("alice", "bob", 500);
    let held = client.hold(hold(first.clone())).await.expect("an answer");
    assert_eq!((held.code.as_str(), held.from_balance), ("", Some(7_300)));
    assert_eq!(held.expires_at_micros, Some(held.timestamp_micros + 60_000_000));
    let confirm = proto::ConfirmHoldRequest {
        transaction_id: id_bytes(),
        hold_id: first.transaction_id.clone(),
        amount: "2.00".into(),
    };
    let confirmed = client.confirm_hold(confirm).await.expect("an answer");
    assert_eq!((confirmed.amount_minor_units, confirmed.released_minor_units), (200, 300));
    let second = transfer_message("alice", "bob", 500);
    client.hold(hold(second.clone())).await.expect("an answer");
    let cancel =
        proto::CancelHoldRequest { transaction_id: id_bytes(), hold_id: second.transaction_id.clone() };
    let cancelled = client.cancel_hold(cancel).await.expect("an answer");
    assert_eq!((cancelled.code.as_str(), cancelled.released_minor_units), ("", 500));
}

async fn queries(client: &api::client::Client, transaction_id: &[u8]) {
    let account = |account_id: &str| proto::GetAccountRequest { account_id: account_id.into() };
    let alice = client.get_account(account("alice")).await.expect("an answer");
    assert_eq!(alice.metadata["tier"], "gold");
    assert_eq!((alice.balances[0].available, alice.balances[0].held), (7_600, 0));
    let close = proto::CloseAccountRequest { transaction_id: id_bytes(), account_id: "alice".into() };
    assert_eq!(client.close_account(close).await.expect("an answer").code, "account_not_empty");
    let mut asked = proto::GetHistoryRequest { account_id: "alice".into(), limit: 3, ..Default::default() };
    let mut entries = Vec::new();
    loop {
        let page = client.get_history(asked.clone()).await.expect("an answer");
        entries.extend(page.entries);
        if page.next_cursor.is_empty() {
            break;
        }
        asked.cursor = page.next_cursor;
    }
    assert_eq!(entries.iter().map(|entry| entry.amount).sum::<i64>(), 7_600, "every change, once");
    assert_eq!(entries.last().map(|entry| entry.counterparty.as_str()), Some("@external"));
    let asked = proto::GetTransactionRequest { transaction_id: transaction_id.to_vec() };
    let found = client.get_transaction(asked).await.expect("an answer");
    assert_eq!((found.status.as_str(), found.r#type.as_str()), ("success", "transfer"));
    assert_eq!((found.from_account.as_str(), found.to_account.as_str()), ("alice", "bob"));
    assert_eq!(found.events.len(), 1);
    let state = client.get_state(proto::GetStateRequest {}).await.expect("an answer");
    assert_eq!((state.accounts, state.pending_holds), (2, 0));
    assert!(state.totals.iter().all(|total| total.sum == "0.00"), "{:?}", state.totals);
}

#[test]
fn refused_and_malformed_commands_are_results() {
    let wallet = given();
    run(async {
        let client = client(&wallet);
        type Change = fn(&mut proto::Transfer);
        let rows: [(&str, Change); 7] = [
            ("insufficient_funds", |transfer| transfer.amount_minor_units = 10_001),
            ("account_not_found", |transfer| {
                transfer.to = Some(proto::transfer::To::ToAccount("nobody".into()));
            }),
            ("account_not_found", |transfer| transfer.to = Some(proto::transfer::To::ToHandle(99))),
            ("same_account", |transfer| transfer.to = Some(proto::transfer::To::ToHandle(1))),
            ("invalid_account_id", |transfer| transfer.to = Some(proto::transfer::To::ToHandle(0))),
            ("invalid_amount", |transfer| transfer.amount_minor_units = 0),
            ("invalid_transaction_id", |transfer| transfer.transaction_id.clear()),
        ];
        for (code, change) in rows {
            let mut request = transfer_message("alice", "bob", 1);
            change(&mut request);
            let refused = client.transfer(request.clone()).await.expect("an answer");
            assert_eq!(refused.code, code, "{refused:?}");
            assert!(!refused.detail.is_empty());
            let again = client.transfer(request).await.expect("an answer");
            assert_eq!((again.code, again.detail), (refused.code, refused.detail));
            assert_eq!(again.replayed, refused.sequence > 0, "only what is recorded is replayed");
        }
        let group = proto::TransferGroupRequest {
            transaction_id: id_bytes(),
            transfers: vec![transfer_message("alice", "bob", 1), transfer_message("bob", "nobody", 1)],
        };
        let refused = client.transfer_group(group).await.expect("an answer");
        assert_eq!(
            (refused.code.as_str(), refused.leg, refused.leg_code.as_str()),
            ("leg_refused", Some(1), "account_not_found")
        );
    });
    assert_eq!(wallet.balance("alice", "USD"), ["100.00", "0.00", "100.00"]);
}

#[test]
fn queries_for_what_does_not_exist_end_with_a_status() {
    let wallet = given();
    run(async {
        let client = client(&wallet);
        let code = |error: ClientError| match error {
            ClientError::Failed(status) => status.code(),
            other => panic!("{other}"),
        };
        let nobody = client.get_account(proto::GetAccountRequest { account_id: "nobody".into() }).await;
        assert_eq!(code(nobody.expect_err("a status")), tonic::Code::NotFound);
        let malformed = client.get_account(proto::GetAccountRequest { account_id: "a b".into() }).await;
        assert_eq!(code(malformed.expect_err("a status")), tonic::Code::InvalidArgument);
        let asked = proto::GetTransactionRequest { transaction_id: vec![0xff; 16] };
        let unknown = client.get_transaction(asked).await;
        assert_eq!(code(unknown.expect_err("a status")), tonic::Code::NotFound);
    });
}

#[test]
fn reflection_names_the_service() {
    let wallet = Wallet::start();
    run(async {
        let endpoint = Endpoint::from_shared(format!("http://{}", wallet.grpc_address)).expect("an address");
        let mut reflection = ServerReflectionClient::new(endpoint.connect_lazy());
        let ask = ServerReflectionRequest {
            host: String::new(),
            message_request: Some(MessageRequest::ListServices(String::new())),
        };
        let answers = reflection.server_reflection_info(tokio_stream::once(ask)).await.expect("an answer");
        let answer = answers.into_inner().message().await.expect("an answer").expect("one message");
        let Some(MessageResponse::ListServicesResponse(services)) = answer.message_response else {
            panic!("{answer:?}")
        };
        assert!(services.service.iter().any(|service| service.name == "jigap.v1.Wallet"), "{services:?}");
    });
}
