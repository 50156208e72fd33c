//! Shards in Redis: the suite of every shard, instances that meet, nodes that die, addresses that change; and what happens without a
//! coordinator.

use std::sync::Arc;
use std::time::Duration;

use coordinator::conformance::{self, Options};
use coordinator::machine::{Effect, Machine};
use coordinator::port::{
    Answer, Branch, Claim, Entry, Lease, NoAnswer, Operation, PhaseStatus, Plan, Protocol, ShardNumber, Step,
};
use distributed::partition_map::{PartitionMap, ZooKeeper};
use distributed::redis::RedisShard;
use distributed::wallet::{Located, TransactionAnswer, Wallet, currency_totals};
use distributed::{
    AccountRow, Architecture, Config, Coordination, Driver, HistoryRange, Orphan, Shard, ShardTotals,
    TransactionRow,
};
use ledger::{AccountId, Command, RefusalCode, Timestamp, TransactionId};
use testbed::{Server, redis, zookeeper};
use tokio::sync::watch;

use crate::wallet::{available, commands, fund, names, on_both_shards, open, runtime, settled, transfer};
use crate::world::Sharded;

/// Every how many cases of the suite one is run here. `JIGAP_REDIS_STRIDE=1` runs them all.
const STRIDE: usize = 29;
const TIMEOUT: Duration = Duration::from_secs(2);
const PATIENCE: Duration = Duration::from_secs(60);

fn nodes(count: usize) -> (Vec<Server>, Vec<String>) {
    (0..count).map(|_| redis().unwrap()).unzip()
}

fn config(architecture: Architecture, urls: &[String]) -> Config {
    let mut config = Config::new(architecture, urls.to_vec());
    config.instance = fastrand::u64(..);
    config.lease = Duration::from_secs(1);
    config.step_timeout = TIMEOUT;
    config
}

async fn wallet(architecture: Architecture, urls: &[String]) -> Driver {
    Driver::open(&config(architecture, urls)).await.unwrap()
}

#[test]
fn shards_in_redis_conform() {
    let number = |name: &str, or: usize| std::env::var(name).map_or(or, |text| text.parse().unwrap());
    let (_nodes, urls) = nodes(3);
    let runtime = runtime();
    let shards: Vec<Arc<dyn Shard>> = runtime.block_on(async {
        let mut shards: Vec<Arc<dyn Shard>> = Vec::new();
        for (shard, url) in (0..).map(ShardNumber).zip(&urls) {
            let address = watch::channel(url.clone()).1;
            shards.push(Arc::new(RedisShard::open(address, shard, TIMEOUT).await.unwrap()));
        }
        // The suite expects that the world outside has no room for a deposit of nearly everything, on any shard.
        let wallet = wallet(Architecture::RedisTcc, &urls).await;
        let ballast = names("ballast", 30);
        open(&wallet, &ballast).await;
        fund(&wallet, &ballast, 100_000).await;
        shards
    });
    let seed = number("JIGAP_SEED", fastrand::usize(..)) as u64;
    println!("JIGAP_SEED={seed}");
    let mut world = Sharded { shards, runtime: runtime.handle().clone() };
    let options = Options {
        protocols: vec![Protocol::Tcc, Protocol::Saga],
        choreographed: false,
        stride: number("JIGAP_REDIS_STRIDE", STRIDE),
        seed,
        run: 1,
    };
    let report = conformance::run(&mut world, &options).unwrap_or_else(|failure| panic!("{failure}"));
    println!("Redis: {} cases, {} steps", report.count(), report.steps);
}

#[test]
fn redis_answers_as_the_ledger_would_and_survives_its_nodes() {
    let (mut servers, urls) = nodes(2);
    let runtime = runtime();
    let wallet = runtime.block_on(async {
        let wallet = wallet(Architecture::RedisTcc, &urls).await;
        commands(&wallet, "redis-tcc").await;
        settled(&wallet).await;
        wallet
    });
    let all = names("survivors", 8);
    runtime.block_on(async {
        open(&wallet, &all).await;
        fund(&wallet, &all, 1_000).await;
    });
    let mut answers = Vec::new();
    for round in 0..6 {
        let transfers: Vec<_> = (0..40).map(|_| random_transfer(&all)).collect();
        let asked: Vec<_> = transfers
            .iter()
            .map(|one| {
                let (wallet, one) = (wallet.clone(), one.clone());
                runtime.spawn(async move { wallet.transfers(vec![one]).await.remove(0) })
            })
            .collect();
        // With every write synced, a node that is killed keeps what it answered.
        let victim = &mut servers[round % 2];
        victim.kill();
        victim.restart().unwrap();
        for (one, answer) in transfers.into_iter().zip(asked) {
            answers.push((one, runtime.block_on(answer).unwrap().unwrap()));
        }
    }
    runtime.block_on(async {
        settled(&wallet).await;
        for (one, answer) in answers {
            let again = wallet.transfers(vec![one]).await.remove(0).unwrap();
            assert_eq!(
                (again.value.outcome, again.value.sequence),
                (answer.value.outcome, answer.value.sequence)
            );
        }
    });
}

fn random_transfer(all: &[String]) -> ledger::Transfer {
    let from = fastrand::usize(..all.len());
    let to = (from + fastrand::usize(1..all.len())) % all.len();
    transfer(&all[from], &all[to], 3)
}

#[test]
fn instances_that_write_the_same_partitions_lose_nothing() {
    let (_servers, urls) = nodes(2);
    let runtime = runtime();
    runtime.block_on(async {
        let wallets =
            [wallet(Architecture::RedisTcc, &urls).await, wallet(Architecture::RedisTcc, &urls).await];
        let all = names("shared", 6);
        open(&wallets[0], &all).await;
        fund(&wallets[0], &all, 500).await;
        let asked: Vec<_> = (0..200)
            .map(|number| {
                let (wallet, one) = (wallets[number % 2].clone(), random_transfer(&all));
                tokio::spawn(async move { wallet.transfers(vec![one]).await.remove(0).unwrap() })
            })
            .collect();
        for answer in asked {
            answer.await.unwrap();
        }
        settled(&wallets[1]).await;
        let mut sum = 0;
        for name in &all {
            sum += available(&wallets[1], name).await;
        }
        assert_eq!(sum, 3_000);
    });
}

#[test]
fn a_partition_that_moves_is_followed_without_a_restart() {
    let (mut servers, urls) = nodes(3);
    let (_ensemble, address) = zookeeper(1).unwrap();
    let runtime = runtime();
    runtime.block_on(async {
        let directory = ZooKeeper::parse(&address).unwrap();
        let map = |partitions: &[&String]| PartitionMap {
            partitions: partitions.iter().map(|&url| url.clone()).collect(),
        };
        crate::partition_map::publish(&directory, &map(&[&urls[0], &urls[1]])).await;
        let mut config = config(Architecture::RedisTcc, &[]);
        config.zookeeper = Some(address.clone());
        let wallet = Driver::open(&config).await.unwrap();
        let all = names("movers", 6);
        open(&wallet, &all).await;
        fund(&wallet, &all, 100).await;
        settled(&wallet).await;

        // An operator copies the partition to another node, and says so.
        let port = |url: &String| url.rsplit_once(':').unwrap().1.to_owned();
        let copied = std::process::Command::new("redis-cli")
            .args(["-p", &port(&urls[2]), "REPLICAOF", "127.0.0.1", &port(&urls[1])])
            .status()
            .unwrap();
        assert!(copied.success());
        in_sync(&port(&urls[2])).await;
        let promoted = std::process::Command::new("redis-cli")
            .args(["-p", &port(&urls[2]), "REPLICAOF", "NO", "ONE"])
            .status()
            .unwrap();
        assert!(promoted.success());
        crate::partition_map::publish(&directory, &map(&[&urls[0], &urls[2]])).await;
        servers[1].kill();
        // Whichever accounts were on the node that is gone: all answer, and money moves.
        for (from, to) in all.iter().zip(all.iter().cycle().skip(1)) {
            let answer = tokio::time::timeout(PATIENCE, wallet.transfers(vec![transfer(from, to, 1)])).await;
            answer.expect("the new node is used").remove(0).unwrap().value.outcome.unwrap();
        }
        settled(&wallet).await;
    });
}

/// Waits until a replica has everything.
async fn in_sync(port: &str) {
    let synced = || {
        let asked =
            std::process::Command::new("redis-cli").args(["-p", port, "INFO", "replication"]).output();
        String::from_utf8_lossy(&asked.unwrap().stdout).contains("master_link_status:up")
    };
    tokio::time::timeout(PATIENCE, async {
        while !synced() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await
    .expect("the replica catches up");
}

/// Whoever finds that another instance drives a transaction waits for its end, answers the same, and is done with it too.
#[test]
fn instances_that_are_asked_for_the_same_transfers_all_come_to_rest() {
    let (_servers, urls) = nodes(2);
    runtime().block_on(async {
        let mut wallets = Vec::new();
        for _ in 0..3 {
            wallets.push(wallet(Architecture::RedisTcc, &urls).await);
        }
        let all = names("shared", 6);
        open(&wallets[0], &all).await;
        fund(&wallets[0], &all, 1_000).await;
        for _ in 0..20 {
            let transfers: Vec<_> = (0..20).map(|_| random_transfer(&all)).collect();
            let asked = wallets.iter().map(|wallet| wallet.transfers(transfers.clone()));
            let answers = futures_util::future::join_all(asked).await;
            let told = |of_one: &Vec<distributed::wallet::TransferResult>| -> Vec<_> {
                let values = of_one.iter().map(|answer| &answer.as_ref().unwrap().value);
                values.map(|value| (value.outcome, value.sequence)).collect()
            };
            assert!(answers.iter().all(|of_one| told(of_one) == told(&answers[0])), "{answers:#?}");
        }
        settled(&wallets[0]).await;
        for wallet in &wallets {
            tokio::time::timeout(PATIENCE, wallet.shut_down()).await.expect("nothing is under way");
        }
    });
}

/// However many transactions are under way that began earlier, those that lost their instance are found.
#[test]
fn leased_transactions_do_not_hide_lapsed_ones() {
    let (_server, url) = redis().unwrap();
    runtime().block_on(async {
        let shard = RedisShard::open(watch::channel(url).1, ShardNumber(0), TIMEOUT).await.unwrap();
        let begun = |number: i64, until: Timestamp| {
            let branch = |shard| Branch { shard: ShardNumber(shard), changes: Vec::new(), task: None };
            let one = transfer("alice", "bob", 1);
            let plan = Plan {
                transaction_id: one.transaction_id,
                command: Command::Transfer(one),
                protocol: Protocol::TwoPhaseCommit,
                branches: vec![branch(0), branch(1)],
            };
            let lease = Lease { holder: 1, until };
            let (_, effects) = Machine::begin(plan, lease, Timestamp::from_micros(number));
            let Some(Effect::Send { step, .. }) = effects.into_iter().next() else { panic!("it begins") };
            step
        };
        let lapsed = |number| begun(number, Timestamp::from_micros(number));
        let leased = |number| begun(number, Timestamp::from_micros(i64::MAX));
        let steps: Vec<Step> = (0..4_500).map(leased).chain((4_500..4_510).map(lapsed)).collect();
        let expected: Vec<_> = steps[4_500..].iter().map(Step::transaction_id).collect();
        for answer in shard.execute(steps).await {
            answer.unwrap();
        }
        for limit in [1, 4, 10, 256] {
            // One search reads so many records, and the next goes on from there.
            assert_eq!(shard.unfinished(limit).await.unwrap(), []);
            let found = shard.unfinished(limit).await.unwrap();
            let found: Vec<_> = found.iter().map(|status| Some(status.plan.transaction_id)).collect();
            assert_eq!(found, expected[..limit.min(10)]);
        }
    });
}

/// The chapter's first design: a crash between two updates loses half a transfer; adding up finds it; a repeat gives it.
#[test]
fn without_a_coordinator_half_a_transfer_can_be_lost_and_is_found() {
    let (_servers, urls) = nodes(2);
    let runtime = runtime();
    let difference = |totals: &[Located<ShardTotals>]| -> i128 {
        currency_totals(totals).iter().map(distributed::wallet::CurrencyTotal::difference).sum()
    };
    let lost = runtime.block_on(async {
        let wallet = wallet(Architecture::Redis, &urls).await;
        let all = names("plain", 8);
        open(&wallet, &all).await;
        fund(&wallet, &all, 100).await;
        let refused = transfer(&all[0], "nobody", 5);
        let refusal = wallet.transfers(vec![refused]).await.remove(0).unwrap().value.outcome.unwrap_err();
        assert_eq!(refusal.code, RefusalCode::AccountNotFound);
        for (from, to) in all.iter().zip(all.iter().skip(1)) {
            let one = transfer(from, to, 5);
            let answer = wallet.transfers(vec![one.clone()]).await.remove(0).unwrap().value;
            answer.outcome.unwrap();
            let again = wallet.transfers(vec![one.clone()]).await.remove(0).unwrap().value;
            assert_eq!((again.outcome, again.replayed), (answer.outcome, true));
            let told = wallet.transaction(one.transaction_id).await.unwrap().unwrap().value;
            assert!(matches!(told, TransactionAnswer::Finished { .. }), "{told:?}");
        }
        let close = Command::CloseAccount {
            transaction_id: crate::wallet::id(),
            account: AccountId::parse(&all[0]).unwrap().into(),
        };
        assert!(wallet.command(close).await.is_err(), "more than transfers is not supported");
        assert_eq!(difference(&wallet.totals().await.unwrap()), 0);

        // The instance dies when the payer has paid and the payee has not got anything.
        let mut of_shard = [Vec::new(), Vec::new()];
        for name in &all {
            let located = wallet.account(&AccountId::parse(name).unwrap()).await.unwrap().unwrap();
            of_shard[located.partition as usize].push(name.clone());
        }
        let (payer, payee) = (&of_shard[0][0], &of_shard[1][0]);
        let lost = transfer(payer, payee, 7);
        let before = available(&wallet, payer).await;
        let doomed = hindered(&urls, Hindrance::CreditsNeverArrive).await;
        let asked = tokio::spawn({
            let lost = lost.clone();
            async move { doomed.transfers(vec![lost]).await }
        });
        tokio::time::timeout(PATIENCE, async {
            while available(&wallet, payer).await == before {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await
        .expect("the payer pays");
        asked.abort();
        lost
    });
    drop(runtime);
    let runtime = crate::wallet::runtime();
    runtime.block_on(async {
        let wallet = wallet(Architecture::Redis, &urls).await;
        assert_eq!(difference(&wallet.totals().await.unwrap()), -7, "half a transfer is lost, and found");
        let told = wallet.transaction(lost.transaction_id).await.unwrap().unwrap().value;
        assert!(matches!(told, TransactionAnswer::InFlight(_)), "{told:?}");
        let answer = wallet.transfers(vec![lost]).await.remove(0).unwrap().value;
        answer.outcome.unwrap();
        assert_eq!(difference(&wallet.totals().await.unwrap()), 0, "whoever repeats it gives the other half");
    });
}

/// The refusal is told as what it is, and the payer keeps his money.
#[test]
fn without_a_coordinator_a_payee_without_room_refuses_before_the_payer_pays() {
    let (_servers, urls) = nodes(2);
    let runtime = runtime();
    runtime.block_on(async {
        let wallet = wallet(Architecture::Redis, &urls).await;
        let (payer, payee) = on_both_shards(&wallet, "room").await;
        fund(&wallet, std::slice::from_ref(&payer), 100).await;
        fund(&wallet, std::slice::from_ref(&payee), i64::MAX as u64 - 9).await;
        let outcome = async |wallet: &Driver, one: &ledger::Transfer| {
            wallet.transfers(vec![one.clone()]).await.remove(0).map(|answer| answer.value.outcome)
        };
        // Both refuse: the payer's reason comes first, as everywhere.
        let refusal = outcome(&wallet, &transfer(&payer, &payee, 101)).await.unwrap().unwrap_err();
        assert_eq!((refusal.code, refusal.available), (RefusalCode::InsufficientFunds, 100));
        let too_much = transfer(&payer, &payee, 10);
        let fits = transfer(&payer, &payee, 9);
        for (one, expected) in [(&too_much, Err(RefusalCode::BalanceOverflow)), (&fits, Ok(i64::MAX))] {
            // A repeat is told what was told first, though there is no room for it any more.
            for _ in 0..2 {
                let told = outcome(&wallet, one).await.unwrap();
                assert_eq!(told.map(|after| after.to).map_err(|refusal| refusal.code), expected);
            }
        }
        assert_eq!(available(&wallet, &payer).await, 91);
        settled(&wallet).await;

        // Somebody else's money takes the room after this instance has looked.
        let unaware = hindered(&urls, Hindrance::BalancesUnseen).await;
        let half = transfer(&payer, &payee, 1);
        for _ in 0..2 {
            let told = outcome(&unaware, &half).await.unwrap_err().to_string();
            assert!(told.contains("(balance_overflow): architecture redis has lost half"), "{told}");
        }
    });
}

/// A wallet with something in its way.
async fn hindered(urls: &[String], hindrance: Hindrance) -> Driver {
    let mut shards: Vec<Arc<dyn Shard>> = Vec::new();
    for (number, url) in (0..).map(ShardNumber).zip(urls) {
        let shard = RedisShard::open(watch::channel(url.clone()).1, number, TIMEOUT).await.unwrap();
        shards.push(Arc::new(Hindered { shard, hindrance }));
    }
    Driver::start(shards, Coordination::None, &config(Architecture::Redis, urls))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Hindrance {
    /// The way is cut for the second of two updates.
    CreditsNeverArrive,
    /// Accounts look as they did before they had any money.
    BalancesUnseen,
}

struct Hindered {
    shard: RedisShard,
    hindrance: Hindrance,
}

#[async_trait::async_trait]
impl Shard for Hindered {
    async fn execute(&self, steps: Vec<Step>) -> Vec<Result<Answer, NoAnswer>> {
        let is_credit = |step: &Step| matches!(step, Step::Branch { record, operation: Some(Operation::Apply(_)), .. } if record.is_empty());
        if self.hindrance == Hindrance::CreditsNeverArrive && steps.iter().any(is_credit) {
            std::future::pending::<()>().await;
        }
        self.shard.execute(steps).await
    }

    async fn account(&self, account: &AccountId) -> Result<Option<AccountRow>, NoAnswer> {
        let row = self.shard.account(account).await?;
        Ok(row.map(|row| match self.hindrance {
            Hindrance::BalancesUnseen => AccountRow { balances: Vec::new(), ..row },
            Hindrance::CreditsNeverArrive => row,
        }))
    }

    async fn history(&self, account: &AccountId, range: &HistoryRange) -> Result<Vec<Entry>, NoAnswer> {
        self.shard.history(account, range).await
    }

    async fn claim(&self, transaction_id: TransactionId) -> Result<Option<Claim>, NoAnswer> {
        self.shard.claim(transaction_id).await
    }

    async fn transaction(
        &self,
        recorded_under: TransactionId,
        transaction_id: TransactionId,
    ) -> Result<Option<TransactionRow>, NoAnswer> {
        self.shard.transaction(recorded_under, transaction_id).await
    }

    async fn unfinished(&self, limit: usize) -> Result<Vec<PhaseStatus>, NoAnswer> {
        self.shard.unfinished(limit).await
    }

    async fn in_flight(&self, limit: usize) -> Result<Vec<PhaseStatus>, NoAnswer> {
        self.shard.in_flight(limit).await
    }

    async fn orphans(&self, before: Timestamp, limit: usize) -> Result<Vec<Orphan>, NoAnswer> {
        self.shard.orphans(before, limit).await
    }

    async fn expire_holds(&self, limit: usize) -> Result<usize, NoAnswer> {
        self.shard.expire_holds(limit).await
    }

    async fn totals(&self) -> Result<ShardTotals, NoAnswer> {
        self.shard.totals().await
    }
}
