//! Text that would like to be SQL.

use coordinator::port::{Protocol, ShardNumber};
use distributed::{HistoryRange, Shard};
use ledger::{AccountId, Metadata, TransferKind};

use crate::scene::{Faults, Run, Scene, planned, transfer};
use crate::servers::{Databases, Kind};

const HOSTILE: &[(&str, &str)] = &[
    ("quote", "'; DROP TABLE accounts; --"),
    ("double \" quote", "\"; DELETE FROM history WHERE \"\"=\""),
    ("back\\slash", "\\'; DROP TABLE accounts; -- \\"),
    ("nul", "before\0after"),
    ("controls", "\u{1}\u{7f}\u{85}\r\n\t\u{2028}"),
    ("parameters", "$1 ? :name %s {} @@version ${IFS}"),
    ("comments", "/*! SELECT SLEEP(10) */ # -- ;"),
    ("emoji", "💸🏦👩‍👩‍👧‍👦"),
    ("unicode", "ﷺ 漢字 א ß İ \u{202e}evil \u{feff} \u{10ffff}"),
    ("", "empty key"),
    ("empty value", ""),
    ("json", "{\"a\":[1,\"\\u0000\"]}"),
];

/// All that an account id may hold, and case that matters.
const NAMES: &[&str] = &["0-alice", "0-Alice", "0-ALICE", "1-.", "1-:-_.", "1--"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_text_is_kept_word_for_word() {
    let (postgres, mariadb) = (Databases::start(Kind::Postgres), Databases::start(Kind::MariaDb));
    let scene = Scene::open(vec![postgres.fresh().await, mariadb.fresh().await]).await;
    let longest = format!("1-{}", "z".repeat(AccountId::SIZE_BYTES_MAX - 2));
    let mut accounts: Vec<String> = NAMES.iter().map(|name| (*name).to_owned()).collect();
    accounts.push(longest);
    let metadata = Metadata::new(HOSTILE.iter().copied()).unwrap();
    for account in &accounts {
        scene.open_account(account, metadata.clone()).await;
        scene.deposit(account, 100).await;
    }
    let mut cases = 0;
    for protocol in [Protocol::Tcc, Protocol::TwoPhaseCommit] {
        for (from, to) in accounts.iter().zip(accounts.iter().cycle().skip(1)) {
            let command = transfer(TransferKind::Transfer, from, to, 1, metadata.clone());
            let mut faults = Faults::default();
            let plan = planned(&command, protocol);
            let (transaction_id, owner) = (plan.transaction_id, plan.owner());
            let run = Run { scene: &scene, plan: plan.clone(), faults: &mut faults };
            run.drive().await.unwrap();
            let shard = &scene.shards[owner.0 as usize];
            let found = shard.transaction(transaction_id, transaction_id).await.unwrap().unwrap();
            assert_eq!(found.status.plan, plan, "the record is what was asked for");
            for account in [from, to] {
                let account_id = AccountId::parse(account).unwrap();
                let shard = &scene.shards[shard_of(account).0 as usize];
                let row = shard.account(&account_id).await.unwrap().unwrap();
                assert_eq!(row.metadata, metadata, "{account}");
                let range = HistoryRange { limit: 1, ..HistoryRange::default() };
                let newest = shard.history(&account_id, &range).await.unwrap();
                assert_eq!(newest[0].metadata, metadata, "{account}");
                cases += HOSTILE.len();
            }
        }
    }
    scene.assert_whole(&accounts).await;
    println!("{cases} hostile texts read back");
}

fn shard_of(account: &str) -> ShardNumber {
    ShardNumber(account[..1].parse().unwrap())
}
