//! Three stateless instances side by side over the same shards, of which any may be killed at any moment.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::architecture::of;
use crate::harness::{self, Home};
use crate::wallet::{Wallet, transfer};

const INSTANCES: usize = 3;
const CLIENTS: usize = 6;
const KILLS: usize = 3;
/// How long a transaction may take whose instance was killed: a lease, and what is left of a round of looking.
const PATIENCE: Duration = Duration::from_secs(60);

/// Clients repeat with the same id, at any instance, until they have an answer; every answer stands, and no money is lost.
pub(crate) fn any_may_be_killed(name: &str, flags: &[&str]) {
    let flags = &[flags, &["--transaction-lease", "1s"]].concat()[..];
    let homes: [Home; INSTANCES] = std::array::from_fn(|_| Home::new());
    let mut served: Vec<harness::Wallet<'_>> = homes.iter().map(|home| home.serve_with(flags)).collect();
    let accounts: [String; 4] = Wallet::new(of(name), &served[0]).accounts();
    for account in &accounts {
        Wallet::new(of(name), &served[0]).deposit(account, "100.00").ok();
    }
    let is_over = AtomicBool::new(false);
    let answered = AtomicUsize::new(0);
    for kill in 0..KILLS {
        is_over.store(false, Ordering::Relaxed);
        let victim = kill % INSTANCES;
        let instances: Vec<Wallet> = served.iter().map(|served| Wallet::new(of(name), served)).collect();
        let others: Vec<&Wallet> =
            (0..INSTANCES).filter(|index| *index != victim).map(|index| &instances[index]).collect();
        let answers: Vec<(Value, Value)> = std::thread::scope(|scope| {
            // However this ends: clients that went on would be waited for without end.
            let _end_of_clients = OnDrop(|| is_over.store(true, Ordering::Relaxed));
            let clients: Vec<_> = (0..CLIENTS)
                .map(|client| {
                    let (instances, others, accounts) = (&instances, &others, &accounts);
                    let (is_over, answered) = (&is_over, &answered);
                    scope.spawn(move || {
                        let mut answers = Vec::new();
                        for number in client.. {
                            if is_over.load(Ordering::Relaxed) {
                                return answers;
                            }
                            let [from, to] = [number, number + 1 + client % 3].map(|at| &accounts[at % 4]);
                            let body = transfer(from, to, "0.01");
                            let first =
                                instances[number % INSTANCES].try_post("/v1/wallet/balance_transfer", &body);
                            let answer = first.unwrap_or_else(|| until_answered(others, &body));
                            answers.push((body, answer));
                            answered.fetch_add(1, Ordering::Relaxed);
                        }
                        unreachable!("numbers do not end")
                    })
                })
                .collect();
            let before = answered.load(Ordering::Relaxed);
            wait_until(|| answered.load(Ordering::Relaxed) >= before + 2 * CLIENTS);
            served[victim].signal(rustix::process::Signal::KILL);
            let before = answered.load(Ordering::Relaxed);
            wait_until(|| answered.load(Ordering::Relaxed) >= before + 2 * CLIENTS);
            is_over.store(true, Ordering::Relaxed);
            clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
        });
        served[victim] = homes[victim].serve_with(flags);
        let back = Wallet::new(of(name), &served[victim]);
        settled(&back);
        for (body, answer) in &answers {
            let again = back.post("/v1/wallet/balance_transfer", body);
            assert!(again.replayed, "{again:?}");
            assert_eq!(again.ok(), *answer);
        }
    }
    println!("{name}: {KILLS} instances killed, {} answers stand", answered.load(Ordering::Relaxed));
}

/// Does it when dropped, in a panic too.
struct OnDrop<Act: Fn()>(Act);

impl<Act: Fn()> Drop for OnDrop<Act> {
    fn drop(&mut self) {
        self.0();
    }
}

fn until_answered(others: &[&Wallet], body: &Value) -> Value {
    let deadline = Instant::now() + PATIENCE;
    for attempt in 0.. {
        let answer = others[attempt % others.len()].try_post("/v1/wallet/balance_transfer", body);
        if let Some(answer) = answer {
            return answer;
        }
        assert!(Instant::now() < deadline, "no answer to {body}");
        std::thread::sleep(Duration::from_millis(20));
    }
    unreachable!("attempts do not end")
}

fn wait_until(condition: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "the clients get on");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn settled(wallet: &Wallet) {
    let in_flight = || wallet.get("/v1/admin/transactions?state=in_flight").ok()["transactions"].clone();
    wait_until(|| in_flight().as_array().unwrap().is_empty());
    let check = wallet.get("/v1/admin/check").ok();
    assert_eq!((&check["balanced"], &check["settled"]), (&true.into(), &true.into()), "{check}");
}
