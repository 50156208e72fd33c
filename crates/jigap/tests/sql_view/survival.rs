//! `kill -9` of everything, at random points.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::databases::Base;
use crate::harness::{Home, Wallet};
use crate::seed;
use crate::workload::Workload;

const KILLS: u32 = 25;
const KILLS_OF_THE_DATABASE: u32 = 6;
/// The longest that a process lives before it is killed.
const LIFE_MAX: Duration = Duration::from_millis(250);
const PATIENCE: Duration = Duration::from_secs(120);

/// Sees to new events while `work` runs.
fn under_load(wallet: &Wallet<'_>, random: &mut fastrand::Rng, work: impl FnOnce(&mut fastrand::Rng)) {
    let is_over = AtomicBool::new(false);
    let mut workload = Workload::new(wallet, random.u64(..));
    workload.run(100);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                workload.run(1);
            }
        });
        work(random);
        is_over.store(true, Ordering::Relaxed);
    });
}

fn random_life(random: &mut fastrand::Rng) {
    std::thread::sleep(LIFE_MAX.mul_f64(random.f64()));
}

/// What the tables hold is what nobody disturbed would hold.
fn compare_with_undisturbed(wallet: &Wallet<'_>, base: &Base) {
    base.follow_once(wallet).expect_code(0);
    let undisturbed = Base::sqlite();
    undisturbed.follow_once(wallet).expect_code(0);
    assert_eq!(base.dump(), undisturbed.dump());
}

pub(crate) fn kills_lose_and_double_nothing(base: &mut Base) {
    let home = Home::new();
    let wallet = home.serve();
    let mut random = fastrand::Rng::with_seed(seed());
    under_load(&wallet, &mut random, |random| {
        for _ in 0..KILLS {
            let follower = base.follower(home.path(), &wallet);
            random_life(random);
            drop(follower);
        }
    });
    compare_with_undisturbed(&wallet, base);
    wallet.stop();
}

#[test]
fn a_database_that_is_killed_loses_and_doubles_nothing() {
    let home = Home::new();
    let wallet = home.serve();
    let mut random = fastrand::Rng::with_seed(seed());
    let mut base = Base::postgres();
    let mut follower = base.follower(home.path(), &wallet);
    let second = base.follower(home.path(), &wallet);
    under_load(&wallet, &mut random, |random| {
        for _ in 0..KILLS_OF_THE_DATABASE {
            random_life(random);
            let Base::Postgres(server) = &mut base else { unreachable!("it was made so") };
            server.kill();
            random_life(random);
            server.start_again();
        }
    });
    // It came back each time by itself, and ends between two transactions when it is told to.
    let committed = wallet.ask(&["state", "--json"]).expect_code(0).json()["sequence"].to_string();
    let log = || std::fs::read_to_string(home.path().join("views.log")).unwrap();
    let deadline = Instant::now() + PATIENCE;
    while base.rows("SELECT sequence FROM {}position")[0][0].as_ref() != Some(&committed) {
        assert!(Instant::now() < deadline, "it does not catch up: {}", log());
        assert!(!follower.has_ended(), "it ended: {}", log());
        std::thread::sleep(Duration::from_millis(20));
    }
    for follower in [follower, second] {
        assert_eq!(follower.stop(), Some(0), "{}", log());
    }
    compare_with_undisturbed(&wallet, &base);
    wallet.stop();
}

/// Each finds no tables, and one makes them.
#[test]
fn several_may_begin_at_once() {
    const FOLLOWERS: usize = 6;
    let home = Home::new();
    let wallet = home.serve();
    wallet.open_and_pay();
    for base in [Base::sqlite(), Base::postgres()] {
        let arguments = ["views", "sql", "--once", "--to", &base.url()];
        std::thread::scope(|scope| {
            let start = || scope.spawn(|| wallet.ask(&arguments).expect_code(0));
            let followers: Vec<_> = (0..FOLLOWERS).map(|_| start()).collect();
            followers.into_iter().for_each(|follower| drop(follower.join().unwrap()));
        });
        compare_with_undisturbed(&wallet, &base);
    }
    wallet.stop();
}

/// As a user's script has it: the wallet ends, and another one serves the same directory at the same address.
#[test]
fn a_wallet_that_is_killed_is_found_again() {
    let home = Home::new();
    let wallet = home.serve();
    wallet.open_and_pay();
    let base = Base::sqlite();
    base.follow_once(&wallet).expect_code(0);
    let (grpc, http) = (wallet.grpc.to_string(), wallet.http.to_string());
    let follower = base.follower(home.path(), &wallet);
    wallet.signal(Signal::KILL);
    drop(wallet);
    let wallet = home.serve_at(&http, &grpc);
    wallet.ask(&["transfer", "alice", "bob", "1", "USD"]).expect_code(0);
    let deadline = Instant::now() + PATIENCE;
    while base.rows("SELECT sequence FROM {}position")[0][0].as_deref() != Some("5") {
        assert!(Instant::now() < deadline, "it does not come back");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(follower.stop(), Some(0));
    wallet.stop();
}
