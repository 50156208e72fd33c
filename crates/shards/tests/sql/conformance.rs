//! The suite that every kind of shard passes, against real databases.

use std::sync::Arc;
use std::time::Duration;

use coordinator::conformance::{self, AccountSeen, Options, Report, World};
use coordinator::port::{Answer, Entry, NoAnswer, PhaseStatus, Protocol, ShardNumber, Step};
use ledger::{AccountId, Currency, Metadata, Timestamp, TransactionId};
use shards::distributed::sql::SqlShard;
use shards::distributed::{HistoryRange, Shard};
use tokio::runtime::Handle;

use crate::scene::Scene;
use crate::servers::{Databases, Kind, prepared_count};

/// Every how many cases of the suite one is run here; all of them are a matter of minutes. `JIGAP_SQL_STRIDE=1` runs them.
const STRIDE: usize = 41;
const RETRIES_MAX: usize = 500;
const RETRY_AFTER: Duration = Duration::from_millis(10);

#[test]
fn shards_in_postgres_conform() {
    conforms(&[Kind::Postgres, Kind::Postgres, Kind::Postgres], Protocol::Tcc);
}

#[test]
fn shards_in_mariadb_conform() {
    conforms(&[Kind::MariaDb, Kind::MariaDb, Kind::MariaDb], Protocol::Saga);
}

#[test]
fn shards_in_postgres_and_mariadb_conform() {
    conforms(&[Kind::Postgres, Kind::MariaDb, Kind::Postgres], Protocol::TwoPhaseCommit);
}

/// Runs one protocol; all of them where the environment says how much of the suite is to be run.
fn conforms(kinds: &[Kind], protocol: Protocol) {
    let number = |name: &str, or: usize| {
        std::env::var(name).map_or(or, |text| text.parse().expect("a number in the environment"))
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let servers: Vec<Databases> = [Kind::Postgres, Kind::MariaDb]
        .into_iter()
        .filter(|kind| kinds.contains(kind))
        .map(Databases::start)
        .collect();
    let scene = runtime.block_on(async {
        let mut urls = Vec::new();
        for kind in kinds {
            urls.push(servers.iter().find(|server| server.kind == *kind).unwrap().fresh().await);
        }
        let scene = Scene::open(urls).await;
        // The suite expects that the world outside has no room for a deposit of nearly everything, on any shard.
        for shard in 0..kinds.len() {
            let account = format!("{shard}-ballast");
            scene.open_account(&account, Metadata::default()).await;
            scene.deposit(&account, 100_000).await;
        }
        scene
    });
    let seed = number("JIGAP_SEED", fastrand::usize(..)) as u64;
    println!("JIGAP_SEED={seed}");
    let mut world = Databased { shards: scene.shards.clone(), runtime: runtime.handle().clone() };
    let options = Options {
        protocols: match std::env::var_os("JIGAP_SQL_STRIDE") {
            Some(_) => vec![Protocol::Tcc, Protocol::Saga, Protocol::TwoPhaseCommit],
            None => vec![protocol],
        },
        stride: number("JIGAP_SQL_STRIDE", STRIDE),
        seed,
        run: 1,
    };
    let report = conformance::run(&mut world, &options).unwrap_or_else(|failure| panic!("{failure}"));
    print(kinds, &report);
    for url in &scene.urls {
        assert_eq!(runtime.block_on(prepared_count(url)), 0, "XA branches are left at {url}");
    }
}

fn print(kinds: &[Kind], report: &Report) {
    println!("{kinds:?}: {} cases, {} steps", report.count(), report.steps);
    for (what, count) in &report.cases {
        println!("  {count:6} {what}");
    }
}

/// Databases under test.
struct Databased {
    shards: Vec<Arc<SqlShard>>,
    runtime: Handle,
}

impl Databased {
    /// Asks until there is an answer.
    fn ask<Value>(
        &self,
        question: impl AsyncFn(&SqlShard) -> Result<Value, NoAnswer>,
        shard: ShardNumber,
    ) -> Value {
        self.runtime.block_on(async {
            for _ in 0..RETRIES_MAX {
                match question(&self.shards[shard.0 as usize]).await {
                    Ok(value) => return value,
                    Err(_) => tokio::time::sleep(RETRY_AFTER).await,
                }
            }
            panic!("shard {} does not answer", shard.0);
        })
    }
}

impl World for Databased {
    fn shard_count(&self) -> u32 {
        self.shards.len() as u32
    }

    fn execute(&mut self, shard: ShardNumber, step: &Step) -> Result<Answer, NoAnswer> {
        self.runtime.block_on(self.shards[shard.0 as usize].execute(vec![step.clone()])).remove(0)
    }

    fn record(&mut self, shard: ShardNumber, transaction_id: TransactionId) -> Option<PhaseStatus> {
        self.ask(async |shard| shard.transaction(transaction_id).await, shard).map(|row| row.status)
    }

    fn account(&mut self, shard: ShardNumber, account: &AccountId) -> Option<AccountSeen> {
        let row = self.ask(async |shard| shard.account(account).await, shard)?;
        Some(AccountSeen { closed: row.closed, balances: row.balances })
    }

    fn history(&mut self, shard: ShardNumber, account: &AccountId) -> Vec<Entry> {
        let range = HistoryRange { limit: 1_000_000, ..HistoryRange::default() };
        let mut entries = self.ask(async |shard| shard.history(account, &range).await, shard);
        entries.reverse();
        entries
    }

    fn totals(&mut self, shard: ShardNumber) -> Vec<(Currency, i128, i128)> {
        self.ask(async |shard| shard.totals().await, shard).currencies
    }

    fn open_branches(&mut self, shard: ShardNumber) -> usize {
        let ever = Timestamp::from_micros(i64::MAX);
        let of_others = self.ask(async |shard| shard.orphans(ever, 1_000).await, shard).len();
        of_others + self.ask(async |shard| shard.in_doubt().await, shard).len()
    }

    fn expire_holds(&mut self, shard: ShardNumber) {
        while self.ask(async |shard| shard.expire_holds(100).await, shard) > 0 {}
    }
}
