//! A database that cannot be used is refused when it is opened, with what to do about it.

use coordinator::port::ShardNumber;
use distributed::Shard;
use distributed::sql::{SqlOptions, SqlShard, Timeouts, migrate};

use crate::servers::{Databases, Kind, run, value};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_is_refused_with_what_to_do() {
    is_refused_with_what_to_do(Kind::Postgres).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mariadb_is_refused_with_what_to_do() {
    is_refused_with_what_to_do(Kind::MariaDb).await;
}

async fn refusal(url: &str, number: u32) -> String {
    match SqlShard::open(url, ShardNumber(number), SqlOptions::default()).await {
        Ok(_) => panic!("{url} was opened as shard {number}"),
        Err(error) => error.to_string(),
    }
}

#[track_caller]
fn assert_says(message: &str, wanted: &[&str]) {
    for words in wanted {
        assert!(message.contains(words), "{words:?} is not in {message:?}");
    }
}

async fn is_refused_with_what_to_do(kind: Kind) {
    let databases = Databases::start(kind);
    let url = databases.fresh().await;

    assert_says(&refusal(&url, 0).await, &["no tables of ours", "jigap sql migrate"]);

    // Two at once, and once more: one of them makes the tables.
    let (one, two) = tokio::join!(migrate(&url, Timeouts::default()), migrate(&url, Timeouts::default()));
    let mut from = [one.unwrap().from, two.unwrap().from];
    from.sort_unstable();
    assert_eq!(from, [0, 1], "the second finds what the first has made");
    let again = migrate(&url, Timeouts::default()).await.unwrap();
    assert_eq!((again.from, again.to), (1, 1));

    run(&url, "UPDATE schema_versions SET version = 0").await;
    assert_says(&refusal(&url, 0).await, &["schema version 0", "needs 1", "jigap sql migrate"]);
    run(&url, "UPDATE schema_versions SET version = 7").await;
    assert_says(&refusal(&url, 0).await, &["schema version 7", "knows only 1", "newer program"]);
    assert_says(&migrate(&url, Timeouts::default()).await.unwrap_err().to_string(), &["version 7", "newer"]);
    run(&url, "UPDATE schema_versions SET version = 1").await;

    let shard = SqlShard::open(&url, ShardNumber(1), SqlOptions::default()).await.unwrap();
    assert_eq!(shard.totals().await.unwrap().accounts, 0);
    assert_says(&refusal(&url, 0).await, &["holds shard 1", "opened as shard 0"]);

    let (scheme, rest) = url.split_once("://").unwrap();
    let (_, place) = rest.split_once('@').unwrap();
    let nobody = format!("{scheme}://nobody_there@{place}");
    assert_says(&refusal(&nobody, 1).await, &["cannot connect to", "nobody_there"]);
    assert_says(&refusal("sqlite://wallet", 0).await, &["postgres://", "mysql://"]);

    permissions(&databases, &url, &format!("{scheme}://reader@{place}")).await;
    durability(kind, &databases, &url).await;
}

/// A user who may read, and not write.
async fn permissions(databases: &Databases, url: &str, as_reader: &str) {
    match databases.kind {
        Kind::Postgres => {
            run(url, "CREATE USER reader; GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader").await;
        }
        Kind::MariaDb => {
            let as_root = url.replacen("wallet@", "root@", 1);
            run(&as_root, "CREATE USER 'reader'@'%'").await;
            run(&as_root, "GRANT SELECT ON *.* TO 'reader'@'%'").await;
        }
    }
    assert_says(&refusal(as_reader, 1).await, &["lacks a permission"]);
}

/// A server that answers before its disk has what it committed.
async fn durability(kind: Kind, databases: &Databases, url: &str) {
    match kind {
        Kind::Postgres => assert_eq!(value(url, "SHOW fsync").await, "on"),
        Kind::MariaDb => {
            databases.run("SET GLOBAL innodb_flush_log_at_trx_commit = 2").await;
            assert_says(&refusal(url, 1).await, &["may forget", "innodb_flush_log_at_trx_commit = 1"]);
        }
    }
}
