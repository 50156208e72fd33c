//! kill -9 at random moments under load: afterwards every acknowledged command is there exactly once, nothing is applied by half,
//! the digest equals an independent replay, and every currency sums to zero.
//!
//! The test starts itself again as the child that is killed. `JIGAP_CRASH_POINTS` sets how many kills, `JIGAP_CRASH_SEED` repeats
//! a failure.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command as Process, Stdio};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use fastrand::Rng;
use ledger::{
    AccountId, AccountNumber, AccountRef, Amount, Command, Currency, Metadata, TransactionId, Transfer,
    TransferKind,
};
use shards::partition::{Options, Partition, TransferAnswer, verify};

const CHILD_DIRECTORY: &str = "JIGAP_CRASH_CHILD_DIRECTORY";
const CHILD_ROUND: &str = "JIGAP_CRASH_CHILD_ROUND";
const KILLS: u64 = 200;
const ACCOUNTS: u64 = 50;
const OPENING_BALANCE: u64 = 1_000_000_000;
const BATCHES_IN_FLIGHT: usize = 4;
const BATCH_MAX: u64 = 200;
const VERIFY_EVERY: u64 = 25;

fn options(directory: &Path) -> Options {
    // Small segments and windows: the kills meet sealing, checkpoints and ingestion, not only plain appends.
    Options { segment_size_bytes: 1 << 20, run_events: 3_000, ..Options::new(directory.to_owned()) }
}

fn open(directory: &Path) -> Partition {
    let fatal = Arc::new(|why: String| panic!("{why}"));
    Partition::open(options(directory), Box::new(()), fatal, &mut |_, _| {}).expect("it opens")
}

/// The transfers of a batch follow from its round and number, so that the parent knows what the child sent.
fn batch(round: u64, number: u64) -> Vec<Transfer> {
    let mut random = Rng::with_seed(round << 32 | number);
    let count = 1 + random.u64(..BATCH_MAX);
    let usd = Currency::parse("USD").expect("a currency");
    let numbers = 0..count;
    numbers
        .map(|index| {
            let from = random.u64(..ACCOUNTS);
            let to = (from + 1 + random.u64(..ACCOUNTS - 1)) % ACCOUNTS;
            Transfer {
                transaction_id: TransactionId(
                    u128::from(round) << 64 | u128::from(number) << 16 | u128::from(index) | 1 << 127,
                ),
                kind: TransferKind::Transfer,
                from: AccountRef::Number(AccountNumber(from as u32 + 1)),
                to: AccountRef::Number(AccountNumber(to as u32 + 1)),
                amount: Amount::from_minor_units(1 + random.u64(..1_000)).expect("an amount"),
                currency: usd,
                metadata: Metadata::default(),
            }
        })
        .collect()
}

fn submit(partition: &Partition, transfers: Vec<Transfer>) -> mpsc::Receiver<Vec<TransferAnswer>> {
    let (sender, answers) = mpsc::channel();
    // The child may be draining when it is killed: then nobody listens.
    let reply = move |answers| drop(sender.send(answers));
    partition.submit_transfers(transfers, reply).expect("there is room");
    answers
}

fn set_up(directory: &Path) {
    let partition = open(directory);
    let usd = Currency::parse("USD").expect("a currency");
    for number in 0..ACCOUNTS {
        let account_id = AccountId::parse(&format!("account-{number}")).expect("an id");
        let (sender, answer) = mpsc::channel();
        let open = Command::OpenAccount { account_id: account_id.clone(), metadata: Metadata::default() };
        partition.submit_command(open, move |answer| drop(sender.send(answer))).expect("there is room");
        answer.recv().expect("it is answered");
        let deposit = Transfer {
            transaction_id: TransactionId(u128::from(number) + 1),
            kind: TransferKind::Deposit,
            from: AccountNumber::EXTERNAL.into(),
            to: account_id.into(),
            amount: Amount::from_minor_units(OPENING_BALANCE).expect("an amount"),
            currency: usd,
            metadata: Metadata::default(),
        };
        submit(&partition, vec![deposit]).recv().expect("it is answered");
    }
    partition.shut_down();
}

/// What the child does until it is killed: prints the number of each batch once it was acknowledged.
fn load(directory: &Path, round: u64) {
    let partition = open(directory);
    let mut in_flight = std::collections::VecDeque::new();
    let mut output = std::io::stdout().lock();
    for number in 0.. {
        in_flight.push_back((number, submit(&partition, batch(round, number))));
        if in_flight.len() < BATCHES_IN_FLIGHT {
            continue;
        }
        let (number, answers) = in_flight.pop_front().expect("there are batches in flight");
        let answers = answers.recv().expect("it is answered");
        assert!(answers.iter().all(|answer| answer.outcome.is_ok() && !answer.replayed));
        writeln!(output, "acknowledged {number}").and_then(|()| output.flush()).expect("the parent listens");
    }
}

/// Runs the child for a while, kills it, and returns the batches that were acknowledged.
fn kill_under_load(directory: &Path, round: u64, after: Duration) -> Vec<u64> {
    let mut child = Process::new(std::env::current_exe().expect("this test"))
        .args(["--exact", "acknowledged_commands_survive_kill_9", "--nocapture"])
        .env(CHILD_DIRECTORY, directory)
        .env(CHILD_ROUND, round.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the child starts");
    let output = child.stdout.take().expect("a pipe");
    let reader = std::thread::spawn(move || {
        let lines = BufReader::new(output).lines().map_while(Result::ok);
        let numbers = lines.filter_map(|line| line.split_once("acknowledged ")?.1.parse::<u64>().ok());
        numbers.collect::<Vec<_>>()
    });
    std::thread::sleep(after);
    child.kill().expect("it is killed");
    let status = child.wait().expect("it ends");
    let mut errors = String::new();
    let read = child.stderr.take().expect("a pipe").read_to_string(&mut errors);
    assert!(
        read.is_ok() && status.code().is_none(),
        "round {round}: the child ended by itself, {status}: {errors}"
    );
    reader.join().expect("no panic")
}

#[test]
fn acknowledged_commands_survive_kill_9() {
    if let Some(directory) = std::env::var_os(CHILD_DIRECTORY) {
        let round = std::env::var(CHILD_ROUND).ok().and_then(|round| round.parse().ok()).expect("a round");
        return load(&PathBuf::from(directory), round);
    }
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seed = number("JIGAP_CRASH_SEED").unwrap_or_else(|| u64::from(std::process::id()));
    let kills = number("JIGAP_CRASH_POINTS").unwrap_or(KILLS);
    println!(
        "repeat with JIGAP_CRASH_SEED={seed} JIGAP_CRASH_POINTS={kills} cargo test -p shards --test crash"
    );
    let directory = tempfile::tempdir().expect("a temporary directory");
    set_up(directory.path());
    let mut random = Rng::with_seed(seed);
    let (mut acknowledged, mut transfers) = (0, 0);
    for round in 1..=kills {
        let after = Duration::from_micros(5_000 + random.u64(..150_000));
        let batches = kill_under_load(directory.path(), round, after);
        let partition = open(directory.path());
        for (position, number) in batches.iter().enumerate() {
            assert_eq!(*number, position as u64, "batches are acknowledged in order");
            let sent = batch(round, *number);
            let answers = submit(&partition, sent.clone()).recv().expect("it is answered");
            assert!(
                answers.iter().all(|answer| answer.replayed && answer.outcome.is_ok()),
                "seed {seed}, round {round}: batch {number} was acknowledged and is not there"
            );
            transfers += sent.len();
        }
        acknowledged += batches.len();
        let (sender, state) = mpsc::channel();
        partition.query_state(move |state| drop(sender.send(state))).expect("there is room");
        let state = state.recv().expect("it is answered");
        assert!(
            state.totals.iter().all(|total| total.sum == 0),
            "seed {seed}, round {round}: {:?}",
            state.totals
        );
        partition.shut_down();
        if round % VERIFY_EVERY == 0 || round == kills {
            let report = verify(&options(directory.path()), &mut |_, _| {});
            let report = report.unwrap_or_else(|error| panic!("seed {seed}, round {round}: {error}"));
            assert_eq!(
                (report.digest, report.sequence),
                (state.digest, state.sequence),
                "seed {seed}, round {round}"
            );
        }
    }
    println!(
        "{kills} kills, {acknowledged} acknowledged batches of {transfers} transfers, all there exactly once"
    );
    assert!(acknowledged as u64 > kills, "the kills came too early to prove anything");
}
