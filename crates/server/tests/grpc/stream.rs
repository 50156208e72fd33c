//! The stream of batches.

use api::client::Client;
use api::proto;
use api::wire::{Success, TransferResult};
use ledger::{AccountNumber, AccountRef, Sequence};
use serde_json::json;

use crate::proxy::Proxy;
use crate::{client, given, options, run, transfer};

fn code(result: &TransferResult) -> &str {
    result.outcome.as_ref().map_or_else(|refused| refused.code.as_str(), |_| "success")
}

#[test]
fn each_transfer_of_a_batch_stands_alone() {
    let wallet = given();
    run(async {
        let stream = client(&wallet).transfer_stream();
        let mut by_handle = transfer("alice", "bob", 1);
        (by_handle.from, by_handle.to) =
            (AccountRef::Number(AccountNumber(1)), AccountRef::Number(AccountNumber(2)));
        let mut to_the_outside = transfer("alice", "bob", 1);
        to_the_outside.to = AccountRef::Number(AccountNumber::EXTERNAL);
        let first = transfer("alice", "bob", 1_250);
        let batch = [
            first.clone(),
            transfer("alice", "nobody", 1),
            to_the_outside,
            transfer("alice", "alice", 1),
            transfer("bob", "alice", 1_251),
            by_handle,
            first,
        ];
        let result = stream.send(&batch).await.expect("room").await.expect("a result");
        let codes: Vec<&str> = result.results.iter().map(code).collect();
        let expected = [
            "success",
            "account_not_found",
            "invalid_account_id",
            "same_account",
            "insufficient_funds",
            "success",
            "success",
        ];
        assert_eq!(codes, expected);
        assert_eq!(result.results[0].outcome, Ok(Success { from_balance: 8_750, to_balance: 1_250 }));
        assert_eq!(result.results[5].outcome, Ok(Success { from_balance: 8_749, to_balance: 1_251 }));
        let again = TransferResult { replayed: true, ..result.results[0].clone() };
        assert_eq!(result.results[6], again, "a repeat within the batch");
        assert_eq!(result.results[2].sequence, Sequence(0), "what is malformed is not recorded");
        let repeated = stream.send(&batch).await.expect("room").await.expect("a result");
        for (first, again) in result.results.iter().zip(&repeated.results) {
            assert_eq!((&first.outcome, first.sequence), (&again.outcome, again.sequence));
            assert_eq!(again.replayed, again.sequence > Sequence(0));
        }
    });
    assert_eq!(wallet.balance("alice", "USD")[0], "87.49");
    let metrics = wallet.get("/metrics").text;
    assert!(metrics.contains("jigap_grpc_batches_total 2"), "{metrics}");
}

#[test]
fn many_full_batches_are_in_flight_and_come_back_in_order() {
    const BATCHES: usize = 12;
    let wallet = given();
    run(async {
        let stream = client(&wallet).transfer_stream();
        let mut pending = Vec::new();
        for _ in 0..BATCHES {
            let batch: Vec<_> =
                (0..8190)
                    .map(|index| {
                        if index % 2 == 0 { transfer("alice", "bob", 1) } else { transfer("bob", "alice", 1) }
                    })
                    .collect();
            pending.push(stream.send(&batch).await.expect("room"));
        }
        let mut last = Sequence(0);
        for batch in pending {
            let result = batch.await.expect("a result");
            assert_eq!(result.results.len(), 8190);
            for transfer in &result.results {
                assert_eq!(code(transfer), "success");
                assert!(transfer.sequence > last, "in order");
                last = transfer.sequence;
            }
        }
    });
    assert_eq!(wallet.balance("alice", "USD")[0], "100.00");
}

#[test]
fn batches_that_are_too_large_or_empty_are_refused_whole() {
    let wallet = given();
    run(async {
        let client = client(&wallet);
        let empty = client.transfer_stream().send(&[]).await.expect("room").await.expect("a result");
        assert_eq!(empty.refused.map(|refused| refused.code), Some("invalid_request".into()));
        let message = api::wire::encode_batch(7, &vec![transfer("alice", "bob", 1); 8191]);
        let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{}", wallet.grpc_address));
        let channel = endpoint.expect("an address").connect_lazy();
        let mut raw = proto::wallet_client::WalletClient::new(channel);
        let mut results = raw.transfers(tokio_stream::once(message)).await.expect("a stream").into_inner();
        let result = results.message().await.expect("a result").expect("one result");
        let result = api::wire::read_result(&result).expect("a result");
        assert_eq!(result.batch_id, 7);
        assert_eq!(result.refused.map(|refused| refused.code), Some("request_too_large".into()));
        assert!(results.message().await.expect("the end").is_none());
        let damaged = api::wire::Message(vec![0x12, 0x7f].into());
        let mut results = raw.transfers(tokio_stream::once(damaged)).await.expect("a stream").into_inner();
        let status = results.message().await.expect_err("a status");
        assert_eq!(status.code(), tonic::Code::InvalidArgument);
    });
}

#[test]
fn batches_survive_lost_connections_and_happen_once() {
    const BATCHES: usize = 60;
    let wallet = given();
    run(async {
        let proxy = Proxy::to(wallet.grpc_address).await;
        let client = Client::new(&format!("http://{}", proxy.address), options()).expect("an address");
        let stream = client.transfer_stream();
        let mut pending = Vec::new();
        for number in 0..BATCHES {
            if number % 10 == 5 {
                proxy.cut();
            }
            let batch: Vec<_> = (0..50).map(|_| transfer("alice", "bob", 1)).collect();
            pending.push(stream.send(&batch).await.expect("room"));
            tokio::task::yield_now().await;
        }
        let mut sequences = Vec::new();
        for batch in pending {
            let result = batch.await.expect("a result");
            assert!(result.results.iter().all(|transfer| code(transfer) == "success"));
            sequences.extend(result.results.iter().map(|transfer| transfer.sequence));
        }
        sequences.sort_unstable();
        sequences.dedup();
        assert_eq!(sequences.len(), BATCHES * 50, "every transfer has a position of its own");
    });
    assert_eq!(wallet.balance("bob", "USD")[0], "30.00");
}

#[test]
fn the_same_id_sent_a_thousand_times_at_once_is_executed_once() {
    let wallet = given();
    let only = transfer("alice", "bob", 100);
    run(async {
        let client = client(&wallet);
        let streams: Vec<_> = (0..10).map(|_| client.transfer_stream()).collect();
        let mut pending = Vec::new();
        for stream in &streams {
            for _ in 0..4 {
                pending.push(stream.send(&vec![only.clone(); 25]).await.expect("room"));
            }
        }
        let mut results = Vec::new();
        for batch in pending {
            results.extend(batch.await.expect("a result").results);
        }
        assert_eq!(results.len(), 1000);
        assert_eq!(results.iter().filter(|result| !result.replayed).count(), 1);
        let first = TransferResult { replayed: true, ..results[0].clone() };
        assert!(results.into_iter().all(|result| TransferResult { replayed: true, ..result } == first));
    });
    let body = json!({"from_account": "alice", "to_account": "bob", "amount": "1.00", "currency": "USD",
        "transaction_id": only.transaction_id.to_string()});
    let over_http = wallet.post("/v1/wallet/balance_transfer", &body);
    assert_eq!(
        (over_http.ok()["to_balance"].as_str(), over_http.header("idempotent-replayed")),
        (Some("1.00"), Some("true"))
    );
    assert_eq!(wallet.balance("bob", "USD")[0], "1.00");
}

#[test]
fn a_server_that_stops_answers_what_it_took_and_ends_the_stream() {
    let wallet = given();
    run(async {
        let patient = client(&wallet);
        let stream = patient.transfer_stream();
        let result = stream.send(&[transfer("alice", "bob", 1)]).await.expect("room").await;
        assert_eq!(result.expect("a result").results.len(), 1);
        let address = wallet.address;
        let started = std::time::Instant::now();
        // Dropping the wallet stops the server and joins its thread, while the stream is open.
        tokio::task::spawn_blocking(move || drop(wallet)).await.expect("it stops");
        assert!(started.elapsed() < std::time::Duration::from_secs(9), "the open stream did not hold it up");
        assert!(std::net::TcpStream::connect(address).is_err());
    });
}
