//! Databases that are killed, connections that break, disks that fill up.

use std::path::Path;
use std::process::Command as Process;
use std::sync::Arc;

use coordinator::port::{NoAnswer, Operation, Protocol, RecordChange, Step};
use distributed::Shard;
use futures_util::future::join_all;
use ledger::{Metadata, TransferKind};

use crate::proxy::Proxy;
use crate::scene::{Faults, Kill, Run, Scene, planned, transfer};
use crate::servers::{Databases, Kind, definition, run};

/// How many steps a transfer between two shards takes.
const STEPS: usize = 6;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn money_survives_kill_9_of_a_database_in_each_phase() {
    let (postgres, mariadb) = (Databases::start(Kind::Postgres), Databases::start(Kind::MariaDb));
    let servers = vec![postgres.server.clone(), mariadb.server.clone()];
    let scene = Scene::open(vec![postgres.fresh().await, mariadb.fresh().await]).await;
    let accounts = ["0-payer".to_owned(), "1-payer".to_owned()];
    for account in &accounts {
        scene.open_account(account, Metadata::default()).await;
        scene.deposit(account, 1_000).await;
    }
    let mut kills = 0;
    let mut ways = vec![(Protocol::TwoPhaseCommit, &accounts[0], &accounts[1])];
    if std::env::var_os("JIGAP_SQL_ALL_KILLS").is_some() {
        ways.push((Protocol::TwoPhaseCommit, &accounts[1], &accounts[0]));
        ways.push((Protocol::Tcc, &accounts[0], &accounts[1]));
        ways.push((Protocol::Tcc, &accounts[1], &accounts[0]));
    }
    for (protocol, from, to) in ways {
        for after_steps in 0..STEPS {
            let before = (scene.available(from).await, scene.available(to).await);
            let command = transfer(TransferKind::Transfer, from, to, 10, Metadata::default());
            let mut faults = Faults { kill: Some(Kill { after_steps, servers: servers.clone() }) };
            let run = Run { scene: &scene, plan: planned(&command, protocol), faults: &mut faults };
            run.drive().await.unwrap();
            assert!(faults.kill.is_none(), "step {after_steps} was reached");
            let after = (scene.available(from).await, scene.available(to).await);
            assert_eq!(after, (before.0 - 10, before.1 + 10), "{protocol:?}, killed in step {after_steps}");
            kills += 1;
        }
        scene.assert_whole(&accounts).await;
    }
    println!("{kills} kills of a database");
}

/// MariaDB gives the name of a branch free before the branch itself, and answers a commit in between with a success that is none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_commit_is_lost_when_another_instance_takes_over_what_is_prepared() {
    const ROUNDS: usize = 4;
    const TRANSFERS: usize = 24;
    let mariadb = Databases::start(Kind::MariaDb);
    let scene = Scene::open(vec![mariadb.fresh().await, mariadb.fresh().await]).await;
    let mut accounts = Vec::new();
    for index in 0..TRANSFERS {
        for account in [format!("0-{index}"), format!("1-{index}")] {
            scene.open_account(&account, Metadata::default()).await;
            scene.deposit(&account, 1_000).await;
            accounts.push(account);
        }
    }
    for _ in 0..ROUNDS {
        let dying = scene.instance().await;
        let prepared = accounts.chunks(2).map(|pair| {
            let command = transfer(TransferKind::Transfer, &pair[0], &pair[1], 10, Metadata::default());
            let plan = planned(&command, Protocol::TwoPhaseCommit);
            let dying = &dying;
            async move {
                let mut run = Run { scene: dying, plan: plan.clone(), faults: &mut Faults::default() };
                let (second_phase, refusal) = run.first_phase().await;
                (plan, second_phase, refusal)
            }
        });
        let prepared = join_all(prepared).await;
        // The connections of the one are closed while the other one ends what they prepared.
        drop(dying);
        let ended = prepared.into_iter().map(async |(plan, second_phase, refusal)| {
            let mut run = Run { scene: &scene, plan, faults: &mut Faults::default() };
            run.second_phase(second_phase, refusal).await.unwrap();
        });
        join_all(ended).await;
    }
    for pair in accounts.chunks(2) {
        let moved = 10 * ROUNDS as i64;
        assert_eq!(
            (scene.available(&pair[0]).await, scene.available(&pair[1]).await),
            (1_000 - moved, 1_000 + moved)
        );
    }
    scene.assert_whole(&accounts).await;
    println!("{} transfers taken over", ROUNDS * TRANSFERS);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn money_survives_connections_cut_in_mid_statement() {
    let seed =
        std::env::var("JIGAP_SEED").ok().map_or_else(|| fastrand::u64(..), |seed| seed.parse().unwrap());
    println!("JIGAP_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let (postgres, mariadb) = (Databases::start(Kind::Postgres), Databases::start(Kind::MariaDb));
    let mut proxies = Vec::new();
    let mut urls = Vec::new();
    for url in [postgres.fresh().await, mariadb.fresh().await] {
        let (proxy, url) = Proxy::before(&url, random.u64(..)).await;
        proxies.push(proxy);
        urls.push(url);
    }
    let scene = Scene::open(urls).await;
    let accounts = ["0-a".to_owned(), "1-a".to_owned(), "1-b".to_owned()];
    for account in &accounts {
        scene.open_account(account, Metadata::default()).await;
        scene.deposit(account, 1_000).await;
    }
    proxies.iter().for_each(Proxy::begin_cutting);
    let mut moved = 0;
    for index in 0..30 {
        let protocol = if index % 2 == 0 { Protocol::TwoPhaseCommit } else { Protocol::Tcc };
        let (from, to) = (index % 3, (index + 1) % 3);
        let command =
            transfer(TransferKind::Transfer, &accounts[from], &accounts[to], 7, Metadata::default());
        let mut faults = Faults::default();
        let run = Run { scene: &scene, plan: planned(&command, protocol), faults: &mut faults };
        moved += u32::from(run.drive().await.is_ok());
    }
    proxies.iter().for_each(Proxy::stop_cutting);
    let cuts: usize = proxies.iter().map(Proxy::cuts).sum();
    println!("{cuts} connections cut");
    assert!(cuts > 0, "connections were cut");
    assert_eq!(moved, 30, "every transfer came to its end");
    // Connections that were not cut yet still may be: only what is new is whole.
    scene.instance().await.assert_whole(&accounts).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_is_told_and_loses_nothing_in_postgres() {
    a_full_disk_is_told_and_loses_nothing(Kind::Postgres).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_is_told_and_loses_nothing_in_mariadb() {
    a_full_disk_is_told_and_loses_nothing(Kind::MariaDb).await;
}

/// The history lies on a small disk of its own, so that the rest of the server lives.
async fn a_full_disk_is_told_and_loses_nothing(kind: Kind) {
    let databases = Databases::start(kind);
    let scene = Scene::open(vec![databases.fresh().await]).await;
    let directory = databases.server.lock().unwrap().directory().join("small");
    let disk = SmallDisk::mount(&directory);
    move_history(kind, &scene.urls[0], &directory).await;
    let accounts = ["0-a".to_owned(), "0-b".to_owned()];
    for account in &accounts {
        scene.open_account(account, Metadata::default()).await;
    }
    scene.deposit(&accounts[0], 1_000_000).await;

    let text = "x".repeat(1_000);
    let notes = Metadata::new([("notes", text.as_str())]).unwrap();
    let mut moved = 0;
    let (step, told) = loop {
        let command = transfer(TransferKind::Transfer, &accounts[0], &accounts[1], 1, notes.clone());
        let mut faults = Faults::default();
        let run = Run { scene: &scene, plan: planned(&command, Protocol::Tcc), faults: &mut faults };
        let step = Step::Branch {
            transaction_id: run.plan.transaction_id,
            record: vec![
                RecordChange::Begin(Box::new(run.status())),
                RecordChange::Finish { balances: Vec::new(), refusal: None, out_of_order: false },
            ],
            operation: Some(Operation::Apply(run.plan.branches[0].clone())),
            owner: run.plan.owner(),
        };
        match scene.shards[0].execute(vec![step.clone()]).await.remove(0) {
            Ok(_) => moved += 1,
            Err(NoAnswer::Busy(told) | NoAnswer::Unknown(told)) => break (step, told),
        }
        assert!(moved < 20_000, "the disk is never full");
    };
    assert!(told.contains("disk of the database is full"), "{told}");
    assert_eq!(scene.available(&accounts[1]).await, moved, "what was not answered did not happen by half");

    disk.grow();
    scene.step(coordinator::port::ShardNumber(0), step).await;
    assert_eq!(scene.available(&accounts[1]).await, moved + 1);
    scene.assert_whole(&accounts).await;
}

async fn move_history(kind: Kind, url: &str, directory: &Path) {
    match kind {
        Kind::Postgres => {
            run(url, &format!("CREATE TABLESPACE small LOCATION '{}'", directory.display())).await;
            run(url, "ALTER TABLE history SET TABLESPACE small").await;
        }
        Kind::MariaDb => {
            let definition = definition(url, "history").await;
            run(url, "DROP TABLE history").await;
            run(url, &format!("{definition} DATA DIRECTORY = '{}'", directory.display())).await;
        }
    }
}

/// A disk of half a megabyte, in memory, for the account that servers run under.
struct SmallDisk(Arc<Path>);

impl SmallDisk {
    fn mount(directory: &Path) -> SmallDisk {
        std::fs::create_dir(directory).unwrap();
        let disk = SmallDisk(directory.into());
        disk.call("mount", &["-t", "tmpfs", "-o", "size=512k,mode=0700,uid=65534,gid=65534", "tmpfs"]);
        disk
    }

    fn grow(&self) {
        self.call("mount", &["-o", "remount,size=64m"]);
    }

    fn call(&self, program: &str, arguments: &[&str]) {
        let status = Process::new(program).args(arguments).arg(&*self.0).status().unwrap();
        assert!(status.success(), "{program} needs to be run by root");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: the server still has it open.
        let _ = Process::new("umount").arg("--lazy").arg(&*self.0).status();
    }
}
