//! The suite that every kind of shard passes, against real databases.

use std::sync::Arc;

use coordinator::conformance::{self, Options, Report};
use coordinator::port::Protocol;
use distributed::Shard;
use ledger::Metadata;

use crate::scene::Scene;
use crate::servers::{Databases, Kind, prepared_count};
use crate::world::Sharded;

/// Every how many cases of the suite one is run here; all of them are a matter of minutes. `JIGAP_SQL_STRIDE=1` runs them.
const STRIDE: usize = 41;

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
    let mut world = Sharded { shards: shards(&scene), runtime: runtime.handle().clone() };
    let options = Options {
        protocols: match std::env::var_os("JIGAP_SQL_STRIDE") {
            Some(_) => vec![Protocol::Tcc, Protocol::Saga, Protocol::TwoPhaseCommit],
            None => vec![protocol],
        },
        choreographed: false,
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

fn shards(scene: &Scene) -> Vec<Arc<dyn Shard>> {
    scene.shards.iter().map(|shard| Arc::clone(shard) as Arc<dyn Shard>).collect()
}

fn print(kinds: &[Kind], report: &Report) {
    println!("{kinds:?}: {} cases, {} steps", report.count(), report.steps);
    for (what, count) in &report.cases {
        println!("  {count:6} {what}");
    }
}
