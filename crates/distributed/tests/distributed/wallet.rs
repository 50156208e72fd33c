//! The wallet over real databases, in each protocol: what it answers, exactly once, over instances that die, with sums that stay zero.

use std::sync::Arc;
use std::time::Duration;

use distributed::wallet::{CommandAnswer, TransactionAnswer, Wallet, currency_totals};
use distributed::{Architecture, Config, Driver, HistoryRange, sql};
use ledger::{
    AccountId, AccountNumber, Amount, Command, Currency, Group, HoldRequest, Metadata, RefusalCode,
    TransactionId, Transfer, TransferKind,
};
use testbed::{Server, mariadb, nats, postgres};
use tokio::runtime::{Builder, Runtime};

const PROTOCOLS: [Architecture; 4] =
    [Architecture::Tcc, Architecture::Saga, Architecture::TwoPhaseCommit, Architecture::SagaChoreographed];
const PATIENCE: Duration = Duration::from_secs(60);

/// Two shards in two kinds of database, and a broker.
pub(crate) struct Scene {
    pub(crate) urls: Vec<String>,
    broker_url: String,
    pub(crate) databases: Vec<Server>,
    pub(crate) broker: Server,
}

impl Scene {
    pub(crate) fn new() -> Scene {
        let (one, two) = (postgres().unwrap(), mariadb().unwrap());
        let urls = vec![one.1, two.1];
        let runtime = runtime();
        for url in &urls {
            runtime.block_on(sql::migrate(url, sql::Timeouts::default())).unwrap();
        }
        let (broker, broker_url) = nats().unwrap();
        Scene { urls, broker_url, databases: vec![one.0, two.0], broker }
    }

    fn config(&self, architecture: Architecture) -> Config {
        let mut config = Config::new(architecture, self.urls.clone());
        config.instance = fastrand::u64(..);
        config.lease = Duration::from_secs(1);
        config.broker = (architecture == Architecture::SagaChoreographed).then(|| self.broker_url.clone());
        config
    }

    pub(crate) async fn wallet(&self, architecture: Architecture) -> Driver {
        Driver::open(&self.config(architecture)).await.unwrap()
    }
}

pub(crate) fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

fn usd() -> Currency {
    Currency::parse("USD").unwrap()
}

pub(crate) fn id() -> TransactionId {
    TransactionId(fastrand::u128(..))
}

fn account(name: &str) -> AccountId {
    AccountId::parse(name).unwrap()
}

fn amount(minor_units: u64) -> Amount {
    Amount::from_minor_units(minor_units).unwrap()
}

pub(crate) fn transfer(from: &str, to: &str, minor_units: u64) -> Transfer {
    Transfer {
        transaction_id: id(),
        kind: TransferKind::Transfer,
        from: account(from).into(),
        to: account(to).into(),
        amount: amount(minor_units),
        currency: usd(),
        metadata: Metadata::default(),
    }
}

fn deposit(to: &str, minor_units: u64) -> Transfer {
    let from = AccountNumber::EXTERNAL.into();
    Transfer { kind: TransferKind::Deposit, from, ..transfer("nobody", to, minor_units) }
}

pub(crate) async fn open(wallet: &Driver, names: &[String]) {
    for name in names {
        let command = Command::OpenAccount { account_id: account(name), metadata: Metadata::default() };
        let opened = wallet.command(command).await.unwrap().value;
        assert!(matches!(opened, CommandAnswer::Opened { .. }), "{opened:?}");
    }
}

pub(crate) async fn fund(wallet: &Driver, names: &[String], minor_units: u64) {
    let deposits = names.iter().map(|name| deposit(name, minor_units)).collect();
    for answer in wallet.transfers(deposits).await {
        answer.unwrap().value.outcome.unwrap();
    }
}

pub(crate) async fn available(wallet: &Driver, name: &str) -> i64 {
    let row = wallet.account(&account(name)).await.unwrap().unwrap().value;
    row.balances.iter().find(|(currency, _)| *currency == usd()).map_or(0, |(_, balance)| balance.available)
}

/// Waits until nothing is in flight, then adds everything up.
pub(crate) async fn settled(wallet: &Driver) {
    let deadline = std::time::Instant::now() + PATIENCE;
    loop {
        let found = wallet.in_flight(1).await;
        if found.as_ref().is_ok_and(|found| found.is_empty()) {
            break;
        }
        assert!(std::time::Instant::now() < deadline, "every transaction comes to its end: {found:#?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for total in currency_totals(&wallet.totals().await.unwrap()) {
        assert_eq!((total.sum, total.in_flight), (0, 0), "{total:?}");
    }
}

/// Opens accounts until there is one on each of two shards.
pub(crate) async fn on_both_shards(wallet: &Driver, prefix: &str) -> (String, String) {
    let mut of_shard = [None, None];
    for name in names(prefix, 32) {
        open(wallet, std::slice::from_ref(&name)).await;
        let located = wallet.account(&account(&name)).await.unwrap().unwrap();
        of_shard[located.partition as usize] = Some(name);
        if let [Some(one), Some(two)] = &of_shard {
            return (one.clone(), two.clone());
        }
    }
    panic!("32 accounts are on one shard");
}

pub(crate) fn names(prefix: &str, count: usize) -> Vec<String> {
    (0..count).map(|number| format!("{prefix}-{number}")).collect()
}

#[test]
fn every_command_is_answered_as_the_ledger_would() {
    let scene = Scene::new();
    let runtime = runtime();
    for architecture in PROTOCOLS {
        runtime.block_on(async {
            let wallet = scene.wallet(architecture).await;
            commands(&wallet, architecture.name()).await;
            settled(&wallet).await;
            wallet.shut_down().await;
        });
    }
}

pub(crate) async fn commands(wallet: &Driver, prefix: &str) {
    // Of six accounts some are on each shard.
    let all = names(prefix, 6);
    open(wallet, &all).await;
    fund(wallet, &all, 1_000).await;
    for (from, to) in all.iter().zip(all.iter().skip(1)) {
        let one = transfer(from, to, 10);
        let first = wallet.transfers(vec![one.clone()]).await.remove(0).unwrap();
        first.value.outcome.unwrap();
        assert!(!first.value.replayed);
        let again = wallet.transfers(vec![one.clone()]).await.remove(0).unwrap();
        assert!(again.value.replayed);
        assert_eq!((again.value.outcome, again.value.sequence), (first.value.outcome, first.value.sequence));
        let other = Transfer { amount: amount(11), ..one.clone() };
        let reused = wallet.transfers(vec![other]).await.remove(0).unwrap().value.outcome.unwrap_err();
        assert_eq!(reused.code, RefusalCode::TransactionIdReused);
        told(wallet, &one).await;
    }
    let refused = |transfer, code| async move {
        let refusal = wallet.transfers(vec![transfer]).await.remove(0).unwrap().value.outcome.unwrap_err();
        assert_eq!(refusal.code, code);
    };
    refused(transfer(&all[0], &all[1], 1_000_000), RefusalCode::InsufficientFunds).await;
    refused(transfer(&all[0], "nobody", 1), RefusalCode::AccountNotFound).await;
    refused(transfer("nobody", &all[0], 1), RefusalCode::AccountNotFound).await;
    assert_eq!(available(wallet, &all[0]).await, 990);
    group_and_reversal(wallet, &all).await;
    hold(wallet, &all).await;
}

async fn told(wallet: &Driver, transfer: &Transfer) {
    let told = wallet.transaction(transfer.transaction_id).await.unwrap().unwrap().value;
    let TransactionAnswer::Finished { transaction, .. } = told else { panic!("{told:?} is not finished") };
    assert_eq!(transaction.command, Command::Transfer(transfer.clone()));
    assert_eq!(transaction.movement().unwrap().amount, transfer.amount);
}

async fn group_and_reversal(wallet: &Driver, all: &[String]) {
    // The second leg spends what the first brings.
    let poor = format!("{}-poor", all[0]);
    open(wallet, std::slice::from_ref(&poor)).await;
    let legs =
        vec![transfer(&all[2], &poor, 100), transfer(&poor, &all[3], 60), transfer(&all[4], &all[5], 5)];
    let before = available(wallet, &all[3]).await;
    let group = Group { transaction_id: id(), legs: legs.clone() };
    let done = wallet.command(Command::Group(Box::new(group))).await.unwrap().value;
    let CommandAnswer::Executed { records, .. } = done else { panic!("{done:?}") };
    assert_eq!(records.len(), 4);
    assert_eq!((available(wallet, &poor).await, available(wallet, &all[3]).await), (40, before + 60));

    let reverse = |transaction_id| Command::Reverse {
        transaction_id,
        original_id: legs[1].transaction_id,
        metadata: Metadata::default(),
    };
    for expected in [None, Some(RefusalCode::AlreadyReversed)] {
        let done = wallet.command(reverse(id())).await.unwrap().value;
        let CommandAnswer::Executed { records, .. } = done else { panic!("{done:?}") };
        let refusal = match &records[0].event {
            ledger::Event::Refused { refusal, .. } => Some(refusal.code),
            _ => None,
        };
        assert_eq!(refusal, expected);
    }
    assert_eq!(available(wallet, &poor).await, 100);
    let page = wallet.history(&account(&poor), &HistoryRange { limit: 10, ..HistoryRange::default() }).await;
    let page = page.unwrap().unwrap().value;
    assert_eq!(page.entries.iter().map(|entry| entry.amount).collect::<Vec<_>>(), [60, -60, 100]);
    assert_eq!(page.entries[0].balance_after, 100);
}

async fn hold(wallet: &Driver, all: &[String]) {
    let place = |expires_in_seconds| {
        Command::Hold(Box::new(HoldRequest { transfer: transfer(&all[5], &all[0], 50), expires_in_seconds }))
    };
    let before = available(wallet, &all[5]).await;
    let held = place(None);
    let hold_id = held.transaction_id().unwrap();
    wallet.command(held).await.unwrap();
    assert_eq!(available(wallet, &all[5]).await, before - 50);
    let amount = ledger::DecimalAmount::parse("0.20").unwrap();
    let confirm = Command::ConfirmHold { transaction_id: id(), hold_id, amount: Some(amount) };
    let done = wallet.command(confirm).await.unwrap().value;
    let CommandAnswer::Executed { records, .. } = done else { panic!("{done:?}") };
    assert!(matches!(records[0].event, ledger::Event::HoldConfirmed { released: 30, .. }), "{records:?}");
    assert_eq!(available(wallet, &all[5]).await, before - 20);

    let lapses = place(Some(1));
    let hold_id = lapses.transaction_id().unwrap();
    wallet.command(lapses).await.unwrap();
    tokio::time::timeout(PATIENCE, async {
        while available(wallet, &all[5]).await != before - 20 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await
    .expect("the hold lapses");
    let told = wallet.transaction(hold_id).await.unwrap().unwrap().value;
    let TransactionAnswer::Finished { transaction, .. } = told else { panic!("{told:?}") };
    assert_eq!(transaction.records.len(), 2, "{transaction:?}");
}

#[test]
fn one_id_sent_by_many_to_many_instances_is_executed_once() {
    let scene = Scene::new();
    let runtime = runtime();
    for architecture in PROTOCOLS {
        runtime.block_on(async {
            let wallets = [scene.wallet(architecture).await, scene.wallet(architecture).await];
            let all = names(&format!("once-{architecture}"), 4);
            open(&wallets[0], &all).await;
            fund(&wallets[0], &all, 100).await;
            let one = transfer(&all[0], &all[1], 30);
            let asked = (0..60).map(|number| {
                let (wallet, one) = (wallets[number % 2].clone(), one.clone());
                tokio::spawn(async move { wallet.transfers(vec![one]).await.remove(0).unwrap().value })
            });
            let mut answers = Vec::new();
            for answer in asked.collect::<Vec<_>>() {
                answers.push(answer.await.unwrap());
            }
            assert!(answers.iter().all(|answer| answer.outcome == answers[0].outcome), "{answers:?}");
            assert!(answers.iter().all(|answer| answer.sequence == answers[0].sequence), "{answers:?}");
            assert_eq!(available(&wallets[1], &all[0]).await, 70);
            settled(&wallets[0]).await;
        });
    }
}

/// An instance dies with everything that it had under way: its runtime is dropped at a random moment. Another settles what it left.
#[test]
fn what_a_dead_instance_left_is_settled_by_another() {
    let rounds: usize = std::env::var("JIGAP_COORDINATOR_KILLS").map_or(4, |count| count.parse().unwrap());
    let scene = Scene::new();
    let seed = fastrand::u64(..);
    fastrand::seed(seed);
    let survivor = runtime();
    for architecture in PROTOCOLS {
        let wallet = Arc::new(survivor.block_on(scene.wallet(architecture)));
        let all = names(&format!("dead-{architecture}"), 10);
        survivor.block_on(async {
            open(&wallet, &all).await;
            fund(&wallet, &all, 10_000).await;
        });
        let mut acknowledged = Vec::new();
        for _ in 0..rounds {
            let doomed = runtime();
            let (tell, told) = std::sync::mpsc::channel();
            let other = doomed.block_on(scene.wallet(architecture));
            for _ in 0..100 {
                let [from, to] = [0, 1].map(|_| fastrand::usize(..all.len()));
                let one = transfer(&all[from], &all[(to + usize::from(from == to)) % all.len()], 7);
                let (other, tell) = (other.clone(), tell.clone());
                doomed.spawn(async move {
                    if let Ok(answer) = other.transfers(vec![one.clone()]).await.remove(0) {
                        // The test may have stopped listening.
                        let _ = tell.send((one, answer.value));
                    }
                });
            }
            drop(tell);
            // It dies in the middle of its work, wherever that is.
            std::thread::sleep(Duration::from_millis(fastrand::u64(5..150)));
            doomed.shutdown_background();
            acknowledged.extend(told.try_iter());
        }
        survivor.block_on(async {
            settled(&wallet).await;
            for (one, answer) in &acknowledged {
                let again = wallet.transfers(vec![one.clone()]).await.remove(0).unwrap().value;
                assert!(again.replayed, "seed {seed}: {one:?}");
                assert_eq!(
                    (again.outcome, again.sequence),
                    (answer.outcome, answer.sequence),
                    "seed {seed}: {one:?}"
                );
            }
            let mut sum = 0;
            for name in &all {
                sum += available(&wallet, name).await;
            }
            assert_eq!(sum, 100_000, "seed {seed}");
        });
        println!("{architecture}: {rounds} instances died, {} answers stand", acknowledged.len());
    }
}
