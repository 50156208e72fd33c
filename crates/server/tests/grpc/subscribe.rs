//! Events over gRPC, through the typed client.

use std::time::Duration;

use api::client::{Client, ClientError};
use api::proto::wallet_client::WalletClient;
use api::proto::{Event, SubscribeRequest};
use serde_json::json;
use server::{Config, EventsConfig};
use tonic::transport::Endpoint;

use crate::harness::Wallet;
use crate::proxy::Proxy;
use crate::{client, given, options, run, transfer, transfer_message};

fn request(after: u64, account: &str) -> SubscribeRequest {
    SubscribeRequest { partition: 0, after, account_id: account.into() }
}

/// Reads until there are so many.
async fn take(subscription: &mut api::client::Subscription, count: usize) -> Vec<Event> {
    let mut events = Vec::new();
    while events.len() < count {
        events.extend(subscription.next().await.expect("a batch").events);
    }
    events
}

#[test]
fn an_event_says_all_that_it_says_over_http() {
    let wallet = given();
    wallet.post("/v1/wallet/accounts", &json!({"account_id": "carol", "metadata": {"tier": "gold"}})).ok();
    let hold = wallet.transfer_body("alice", "bob", "3.00", "USD");
    wallet.post("/v1/wallet/holds", &hold).ok();
    assert_eq!(wallet.transfer("bob", "alice", "1.00", "USD").problem(), "insufficient_funds");
    run(async {
        let mut subscription = client(&wallet).subscribe(request(0, ""));
        let events = take(&mut subscription, 6).await;
        let types: Vec<&str> = events.iter().map(|event| event.r#type.as_str()).collect();
        let expected = ["account_opened", "account_opened", "deposit", "account_opened", "hold", "refused"];
        assert_eq!(types, expected);
        assert_eq!((events[1].account_id.as_str(), events[1].handle), ("bob", Some(2)));
        assert_eq!(events[3].metadata.get("tier").map(String::as_str), Some("gold"));
        let hold = &events[4];
        assert_eq!(
            (hold.from_account.as_str(), hold.to_account.as_str(), hold.amount),
            ("alice", "bob", 300)
        );
        assert_eq!((hold.expires_at_micros, hold.postings[0].held_after), (None, Some(300)));
        let refused = &events[5];
        assert_eq!(
            (refused.code.as_str(), refused.amount, refused.currency.as_str()),
            ("insufficient_funds", 100, "USD")
        );
        assert_eq!((refused.refused_type.as_str(), refused.leg), ("transfer", None));
        assert_eq!(subscription.position(), 6);
        let mut of_bob = client(&wallet).subscribe(request(0, "bob"));
        let sequences: Vec<u64> = take(&mut of_bob, 3).await.iter().map(|event| event.sequence).collect();
        assert_eq!(sequences, [2, 5, 6]);
    });
}

#[test]
fn what_makes_no_sense_is_refused_and_not_repeated() {
    let wallet = given();
    run(async {
        let other = SubscribeRequest { partition: 1, ..request(0, "") };
        for wrong in [request(4, ""), request(0, "nobody"), request(0, "a b"), other] {
            let error = client(&wallet).subscribe(wrong.clone()).next().await.expect_err("it is wrong");
            assert!(matches!(error, ClientError::Failed(_)), "{wrong:?}: {error}");
        }
    });
}

#[test]
fn one_that_reads_nothing_is_dropped_and_told_where_to_resume() {
    let events = EventsConfig {
        buffer_events: 1_000,
        patience: Duration::from_millis(100),
        heartbeat: Duration::from_millis(10),
        ..EventsConfig::default()
    };
    let wallet = Wallet::with_config(Config { events, ..Config::default() });
    wallet.open(&["alice", "bob"]);
    wallet.deposit("alice", "1000.00", "USD");
    run(async {
        let address = format!("http://{}", wallet.grpc_address);
        let channel = Endpoint::from_shared(address).expect("an address").connect().await;
        let mut client = WalletClient::new(channel.expect("it listens"));
        let mut stream = client.subscribe(request(0, "")).await.expect("a stream").into_inner();
        let is_dropped = || {
            let metrics = wallet.get("/metrics").text;
            let lines = ["jigap_events_dropped_total 1", "jigap_events_subscribers 0"];
            lines.iter().all(|line| metrics.contains(line))
        };
        let mut rounds = 0;
        while !is_dropped() {
            rounds += 1;
            assert!(rounds < 400, "it is never dropped");
            let transfers: Vec<_> =
                (0..200).map(|_| wallet.transfer_body("alice", "bob", "0.01", "USD")).collect();
            wallet.post("/v1/wallet/balance_transfers", &json!({ "transfers": transfers })).ok();
        }
        let mut last = 0;
        let status = loop {
            match stream.message().await {
                Ok(batch) => {
                    for event in batch.expect("it ends with a status").events {
                        assert_eq!(event.sequence, last + 1);
                        last = event.sequence;
                    }
                }
                Err(status) => break status,
            }
        };
        assert_eq!(status.code(), tonic::Code::Unavailable);
        assert!(status.message().ends_with(&format!("resume after {last}")), "after {last}: {status:?}");
        let mut resumed = crate::client(&wallet).subscribe(request(last, ""));
        assert_eq!(take(&mut resumed, 1).await[0].sequence, last + 1);
    });
}

#[test]
fn nothing_is_lost_or_repeated_when_connections_are() {
    const BATCHES: usize = 40;
    let wallet = given();
    run(async {
        let proxy = Proxy::to(wallet.grpc_address).await;
        let cut = Client::new(&format!("http://{}", proxy.address), options()).expect("an address");
        let mut subscription = cut.subscribe(request(3, ""));
        let paying = client(&wallet).transfer_stream();
        let mut seen = Vec::new();
        for number in 0..BATCHES {
            let batch: Vec<_> = (0..50).map(|_| transfer("alice", "bob", 1)).collect();
            let answered = paying.send(&batch).await.expect("room");
            if number % 4 == 1 {
                proxy.cut();
            }
            answered.await.expect("a result");
            seen.extend(take(&mut subscription, 1).await.iter().map(|event| event.sequence));
        }
        let last = 3 + BATCHES as u64 * 50;
        while seen.last() != Some(&last) {
            seen.extend(take(&mut subscription, 1).await.iter().map(|event| event.sequence));
        }
        assert_eq!(seen, (4..=last).collect::<Vec<_>>());
    });
}

/// Whoever joins while the last one leaves begins where it has seen everything, not where the publisher is.
#[test]
fn subscribers_that_come_and_go_under_load_miss_nothing() {
    const COMINGS: usize = 600;
    let wallet = given();
    run(async {
        let paying = client(&wallet);
        let pays = tokio::spawn(async move {
            loop {
                let paid = paying.transfer(transfer_message("alice", "bob", 1)).await.expect("an answer");
                let back = paying.transfer(transfer_message("bob", "alice", 1)).await.expect("an answer");
                assert_eq!((paid.code.as_str(), back.code.as_str()), ("", ""));
            }
        });
        let reader = client(&wallet);
        let mut seen = 0;
        for _ in 0..COMINGS {
            let mut subscription = reader.subscribe(request(seen, ""));
            // The client itself refuses a gap.
            for event in take(&mut subscription, 3).await {
                assert_eq!(event.sequence, seen + 1);
                seen = event.sequence;
            }
        }
        pays.abort();
    });
}

#[test]
fn a_server_that_comes_back_with_another_history_is_noticed() {
    let (wallet, other) = (given(), given());
    run(async {
        let proxy = Proxy::to(wallet.grpc_address).await;
        let turned = Client::new(&format!("http://{}", proxy.address), options()).expect("an address");
        let mut subscription = turned.subscribe(request(0, ""));
        assert_eq!(take(&mut subscription, 3).await.len(), 3);
        proxy.turn_to(other.grpc_address);
        // Batches that only tell the position may come first; events may not.
        let error = loop {
            match subscription.next().await {
                Ok(batch) => assert_eq!(batch.events, [], "of another history"),
                Err(error) => break error,
            }
        };
        assert!(matches!(error, ClientError::OtherHistory { sequence: 3 }), "{error}");
    });
}
