//! `jigap views sql` from outside: a real wallet, a real PostgreSQL, a real SQLite. Each scenario is written once and run with both
//! databases.
#![allow(clippy::unwrap_used, reason = "a test that unwraps nothing has failed")]

mod answers;
mod databases;
#[path = "../command_line/harness.rs"]
#[allow(dead_code, reason = "it is made for the tests of the command line")]
mod harness;
mod refusals;
mod survival;
mod workload;

use databases::{Base, PostgresServer};
use harness::Home;
use workload::Workload;

/// Runs a scenario with each database.
macro_rules! for_every_database {
    ($($scenario:path as $name:ident;)*) => {
        mod sqlite {
            $(#[test] fn $name() { $scenario(&mut $crate::Base::sqlite()); })*
        }
        mod postgres {
            $(#[test] fn $name() { $scenario(&mut $crate::Base::postgres()); })*
        }
    };
}

for_every_database! {
    crate::tables_tell_what_the_api_tells as tables_tell_what_the_api_tells;
    crate::survival::kills_lose_and_double_nothing as kills_lose_and_double_nothing;
    crate::refusals::tables_of_others_are_left_alone as tables_of_others_are_left_alone;
}

/// A seed, told so that a failure can be repeated with `JIGAP_TEST_SEED`.
pub(crate) fn seed() -> u64 {
    let given = std::env::var("JIGAP_TEST_SEED").ok().and_then(|text| text.parse().ok());
    let seed = given.unwrap_or_else(|| fastrand::u64(..));
    println!("JIGAP_TEST_SEED={seed}");
    seed
}

/// What the README asks tables whose names begin so: it must work as pasted.
fn queries_of_the_readme(prefix: &str) -> Vec<&'static str> {
    let readme = include_str!("../../../../README.md");
    let quoted =
        readme.lines().filter_map(|line| line.split_once("\"SELECT").map(|_| line.split('"').nth(1)));
    let queries: Vec<&str> = quoted.flatten().filter(|query| query.contains(prefix)).collect();
    assert_ne!(queries.len(), 0, "the README asks nothing of {prefix}");
    queries
}

fn tables_tell_what_the_api_tells(base: &mut Base) {
    let home = Home::new();
    let wallet = home.serve();
    let mut workload = Workload::new(&wallet, seed());
    base.follow_once(&wallet).expect_code(0);
    assert_eq!(
        base.rows("SELECT sequence, last_event FROM {}position"),
        [[Some("0".into()), Some(String::new())]]
    );
    workload.run(150);
    base.follow_once(&wallet).expect_code(0);
    workload.run(250);
    workload.let_a_hold_expire();
    let last = base.follow_once(&wallet).expect_code(0);
    assert!(last.stdout.lines().last().unwrap().contains("\"lag\":0"), "{last:?}");
    answers::compare(&wallet, &workload, base);
    for query in queries_of_the_readme(base.prefix()) {
        assert_ne!(base.rows(query).len(), 0, "{query}");
    }

    let before = base.dump();
    base.follow_once(&wallet).expect_code(0);
    assert_eq!(base.dump(), before);
    // Thrown away and built again, all at once this time.
    base.follow_with(&wallet, &["--once", "--drop"]).expect_code(0);
    assert_eq!(base.dump(), before);
    wallet.stop();
}

#[test]
fn both_databases_hold_the_same() {
    let home = Home::new();
    let wallet = home.serve();
    let mut workload = Workload::new(&wallet, seed());
    workload.run(200);
    let (sqlite, postgres) = (Base::sqlite(), Base::Postgres(PostgresServer::start()));
    sqlite.follow_once(&wallet).expect_code(0);
    postgres.follow_once(&wallet).expect_code(0);
    assert_eq!(sqlite.dump(), postgres.dump());
    wallet.stop();
}
