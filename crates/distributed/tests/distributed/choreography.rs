//! A Saga without a coordinator, whose broker and databases die, and whose broker forgets what it was given.

use std::sync::atomic::Ordering;
use std::time::Duration;

use distributed::wallet::Wallet;
use distributed::{Architecture, Driver, Ending};

use crate::wallet::{Scene, available, fund, names, on_both_shards, open, runtime, settled, transfer};

const TRANSFERS: usize = 80;

#[derive(Debug, Clone, Copy)]
enum Fault {
    BrokerKilled,
    /// It comes back with nothing, and a message that it had is nowhere any more.
    BrokerForgets,
    DatabaseKilled(usize),
}

#[test]
fn money_survives_a_broker_that_dies_or_forgets_and_databases_that_die() {
    let mut scene = Scene::new();
    let runtime = runtime();
    // Two instances, so that what one begins another goes on with.
    let wallets = [(); 2].map(|()| runtime.block_on(scene.wallet(Architecture::SagaChoreographed)));
    let all = names("travels", 8);
    runtime.block_on(async {
        open(&wallets[0], &all).await;
        fund(&wallets[0], &all, 10_000).await;
    });
    let faults =
        [Fault::BrokerKilled, Fault::DatabaseKilled(0), Fault::BrokerForgets, Fault::DatabaseKilled(1)];
    for fault in faults {
        let moved: Vec<_> = (0..TRANSFERS)
            .map(|number| {
                let (from, to) = (number % all.len(), (number * 3 + 1) % all.len());
                let to = (to + usize::from(from == to)) % all.len();
                let wallet = wallets[number % wallets.len()].clone();
                runtime.spawn(until_answered(wallet, transfer(&all[from], &all[to], 1)))
            })
            .collect();
        std::thread::sleep(Duration::from_millis(fastrand::u64(5..60)));
        match fault {
            Fault::BrokerKilled | Fault::BrokerForgets => {
                scene.broker.kill();
                if matches!(fault, Fault::BrokerForgets) {
                    std::fs::remove_dir_all(scene.broker.directory().join("jetstream")).unwrap();
                }
                scene.broker.restart().unwrap();
            }
            Fault::DatabaseKilled(which) => {
                scene.databases[which].kill();
                scene.databases[which].restart().unwrap();
            }
        }
        runtime.block_on(async {
            for one in moved {
                one.await.unwrap();
            }
            settled(&wallets[0]).await;
            let mut sum = 0;
            for name in &all {
                sum += available(&wallets[1], name).await;
            }
            assert_eq!(sum, 80_000, "{fault:?}");
        });
        println!("{fault:?}: {TRANSFERS} transfers came to their end");
    }
}

/// As a client does: the same id until there is an answer.
async fn until_answered(wallet: Driver, one: ledger::Transfer) {
    loop {
        match wallet.transfers(vec![one.clone()]).await.remove(0) {
            Ok(answer) => {
                answer.value.outcome.unwrap();
                return;
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

/// A record that somebody deletes by hand leaves a transaction without an end: an operator must be told.
#[test]
fn what_breaks_on_its_way_is_counted() {
    let mut scene = Scene::new();
    let runtime = runtime();
    let wallet = runtime.block_on(scene.wallet(Architecture::SagaChoreographed));
    let one = runtime.block_on(async {
        let (payer, payee) = on_both_shards(&wallet, "breaks").await;
        fund(&wallet, std::slice::from_ref(&payer), 100).await;
        settled(&wallet).await;
        transfer(&payer, &payee, 1)
    });
    scene.broker.kill();
    runtime.spawn({
        let wallet = wallet.clone();
        async move { wallet.transfers(vec![one]).await }
    });
    let until = |what: &str, is_true: &dyn Fn() -> bool| {
        let deadline = std::time::Instant::now() + Duration::from_secs(60);
        while !is_true() {
            assert!(std::time::Instant::now() < deadline, "{what}");
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    // The payer has paid, and what follows waits for the broker.
    until("it begins", &|| !runtime.block_on(wallet.in_flight(1)).unwrap().is_empty());
    runtime.block_on(async {
        let (client, connection) =
            tokio_postgres::connect(&scene.urls[0], tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        client.batch_execute("DELETE FROM transactions WHERE outcome IS NULL").await.unwrap();
    });
    scene.broker.restart().unwrap();
    let broken = &wallet.metrics().endings[Ending::Broken as usize];
    until("it is counted", &|| broken.load(Ordering::Relaxed) > 0);
}
