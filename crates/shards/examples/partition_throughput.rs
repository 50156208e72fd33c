//! How many transfers a second one partition executes and makes durable, without a network in front of it.
//!
//! `cargo run --release -p shards --example partition_throughput -- [seconds] [accounts] [batch] [directory]`

use std::collections::VecDeque;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use fastrand::Rng;
use ledger::{
    AccountId, AccountNumber, Amount, Command, Currency, Metadata, TransactionId, Transfer, TransferKind,
};
use shards::partition::{Options, Partition, TRANSFERS_PER_SUBMISSION_MAX, TransferAnswer};
use storage::memory::HugePages;

/// As the binary has it.
#[global_allocator]
static ALLOCATOR: HugePages<std::alloc::System> = HugePages(std::alloc::System);

const BATCHES_IN_FLIGHT: usize = 8;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |index: usize, default: u64| {
        arguments.get(index).map_or(default, |text| text.parse().expect("a number"))
    };
    let seconds = number(0, 10);
    let accounts = number(1, 1_000_000);
    let batch = number(2, TRANSFERS_PER_SUBMISSION_MAX as u64) as usize;
    let directory =
        arguments.get(3).map_or_else(|| std::env::temp_dir().join("jigap-throughput"), Into::into);
    let fatal = Arc::new(|why: String| panic!("{why}"));
    let started = Instant::now();
    let options = Options { queue_commands_max: 1 << 32, ..Options::new(directory) };
    let partition = Partition::open(options, Box::new(()), fatal, &mut |_, _| {}).expect("it opens");
    println!("opened at event {} in {:.2} s", partition.committed().0, started.elapsed().as_secs_f64());
    let mut random = Rng::new();
    set_up(&partition, accounts, &mut random);

    let started = Instant::now();
    let mut executed = 0;
    let mut in_flight = VecDeque::new();
    let mut latencies = Vec::new();
    while started.elapsed() < Duration::from_secs(seconds) {
        let transfers = (0..batch).map(|_| transfer(&mut random, accounts)).collect();
        in_flight.push_back((Instant::now(), submit(&partition, transfers)));
        if in_flight.len() == BATCHES_IN_FLIGHT {
            let (sent, answers) = in_flight.pop_front().expect("there are batches in flight");
            executed += answers.recv().expect("it is answered").len();
            latencies.push(sent.elapsed());
        }
    }
    let elapsed = started.elapsed().as_secs_f64();
    latencies.sort_unstable();
    let percentile = |percent: usize| latencies[(latencies.len() - 1) * percent / 100].as_secs_f64() * 1e3;
    let metrics = partition.metrics();
    let load = |value: &std::sync::atomic::AtomicU64| value.load(std::sync::atomic::Ordering::Relaxed);
    println!(
        "{:.0} transfers/s; batch latency p50 {:.2} ms, p99 {:.2} ms, max {:.2} ms; checkpoint lag {} events; filter {} MiB",
        executed as f64 / elapsed,
        percentile(50),
        percentile(99),
        percentile(100),
        load(&metrics.committed_sequence) - load(&metrics.checkpoint_sequence),
        load(&metrics.id_filter_bytes) >> 20,
    );
    partition.shut_down();
}

fn set_up(partition: &Partition, accounts: u64, random: &mut Rng) {
    let mut last = None;
    for number in 0..accounts {
        let account_id = AccountId::parse(&format!("account-{number:09}")).expect("an id");
        let (sender, answer) = mpsc::channel();
        let open = Command::OpenAccount { account_id, metadata: Metadata::default() };
        partition.submit_command(open, move |answer| drop(sender.send(answer))).expect("there is room");
        last = Some(answer);
    }
    last.map(|answer| answer.recv().expect("it is answered"));
    let mut rest = 0..accounts;
    loop {
        let deposits: Vec<Transfer> = rest
            .by_ref()
            .take(TRANSFERS_PER_SUBMISSION_MAX)
            .map(|number| Transfer {
                kind: TransferKind::Deposit,
                from: AccountNumber::EXTERNAL.into(),
                to: AccountNumber(number as u32 + 1).into(),
                amount: Amount::from_minor_units(1_000_000_000).expect("an amount"),
                ..transfer(random, accounts)
            })
            .collect();
        if deposits.is_empty() {
            return;
        }
        submit(partition, deposits).recv().expect("it is answered");
    }
}

fn transfer(random: &mut Rng, accounts: u64) -> Transfer {
    let from = random.u64(..accounts);
    let to = (from + 1 + random.u64(..accounts - 1)) % accounts;
    Transfer {
        transaction_id: TransactionId(random.u128(..)),
        kind: TransferKind::Transfer,
        from: AccountNumber(from as u32 + 1).into(),
        to: AccountNumber(to as u32 + 1).into(),
        amount: Amount::from_minor_units(1 + random.u64(..100)).expect("an amount"),
        currency: Currency::parse("USD").expect("a currency"),
        metadata: Metadata::default(),
    }
}

fn submit(partition: &Partition, transfers: Vec<Transfer>) -> mpsc::Receiver<Vec<TransferAnswer>> {
    let (sender, answers) = mpsc::channel();
    let reply = move |answers| drop(sender.send(answers));
    partition.submit_transfers(transfers, reply).expect("there is room");
    answers
}
