//! How fast the view takes in committed frames, and how long a balance at a random moment of the past takes.
//!
//! `cargo run --release -p views --example time_travel -- [transfers] [accounts] [directory]`
//!
//! The first run writes a journal of so many transfers into the directory (random accounts, ten of them hot), later runs use it
//! again.

use std::path::Path;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use fastrand::Rng;
use ledger::codec::BodyWriter;
use ledger::{
    AccountId, AccountNumber, Amount, Command, Currency, Decision, Metadata, Sequence, State, Timestamp,
    TransactionId, Transfer, TransferKind,
};
use storage::journal::{self, DiskKind, FrameDraft, Journal, Reader, Term};
use storage::memory::HugePages;
use views::{History, HistoryOptions, HistoryQuery};

/// As the binary has it.
#[global_allocator]
static ALLOCATOR: HugePages<mimalloc::MiMalloc> = HugePages(mimalloc::MiMalloc);

const TRANSFERS_PER_FRAME: u64 = 5_000;
const FRAMES_IN_FLIGHT: usize = 8;
const LOOK_UPS: usize = 5_000;
const STATES: usize = 3;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |index: usize, default: u64| {
        arguments.get(index).map_or(default, |text| text.parse().expect("a number"))
    };
    let transfers = number(0, 1_000_000);
    let accounts = number(1, 1_000_000);
    let directory = arguments.get(2).map_or_else(|| std::env::temp_dir().join("jigap-travel"), Into::into);
    let journal = directory.join("journal");
    if !journal.exists() {
        write_journal(&journal, transfers, accounts);
    }
    let (reader, _) = Reader::open_read_only(&journal).expect("the journal opens");
    let history = take_in(&directory, reader);
    look_up(&history, accounts);
}

fn take_in(directory: &Path, reader: Reader) -> History {
    let last = reader.last().map_or(0, |frame| frame.last_sequence().0);
    let (started, cpu) = (Instant::now(), cpu_seconds());
    let fatal = Arc::new(|why: String| panic!("{why}"));
    let history = History::open(&directory.join("history"), reader, HistoryOptions::default(), fatal)
        .expect("it opens");
    let (seconds, cpu) = (started.elapsed().as_secs_f64(), cpu_seconds() - cpu);
    println!(
        "opened at event {last} in {seconds:.2} s: {:.2} M events/s, {:.0} ns of processor time an event, reading included",
        last as f64 / seconds / 1e6,
        cpu * 1e9 / last as f64
    );
    history
}

/// Balances of random accounts at random moments, pages of histories, and whole states.
fn look_up(history: &History, accounts: u64) {
    let last = history.position().0;
    let mut random = Rng::with_seed(11);
    let account = |random: &mut Rng| AccountNumber((random.u64(..accounts + 1)) as u32);
    measure("account at a random event", LOOK_UPS, || {
        let at = Sequence(random.u64(..last) + 1);
        history.account_at(account(&mut random), at).expect("it answers");
    });
    let end = history.moment_of(Sequence(last)).expect("it answers").expect("it happened").timestamp;
    measure("account at a random time", LOOK_UPS, || {
        let time = Timestamp::from_micros((random.u64(..end.as_micros() as u64)) as i64);
        let at = history.moment_at(time).expect("it answers").sequence;
        history.account_at(account(&mut random), at).expect("it answers");
    });
    measure("hot account at a random event", LOOK_UPS, || {
        let at = Sequence(random.u64(..last) + 1);
        history.account_at(AccountNumber((random.u64(..10)) as u32 + 1), at).expect("it answers");
    });
    measure("page of 10 postings before a random event", LOOK_UPS / 10, || {
        let before = Some(Sequence(random.u64(..last) + 1));
        let query = HistoryQuery { limit: 10, before, ..HistoryQuery::default() };
        history.history(account(&mut random), &query).expect("it answers");
    });
    measure("whole state at a random event", STATES, || {
        let deadline = Instant::now() + Duration::from_secs(600);
        history.state_at(Sequence(random.u64(..last) + 1), deadline).expect("it answers");
    });
}

/// Once to warm the caches, once to measure.
fn measure(what: &str, count: usize, mut look_up: impl FnMut()) {
    (0..count).for_each(|_| look_up());
    let mut took: Vec<Duration> = (0..count)
        .map(|_| {
            let started = Instant::now();
            look_up();
            started.elapsed()
        })
        .collect();
    took.sort_unstable();
    let percentile = |percent: usize| took[(count - 1) * percent / 100].as_secs_f64() * 1e3;
    println!(
        "{what}: median {:.3} ms, p99 {:.3} ms, max {:.3} ms over {count}",
        percentile(50),
        percentile(99),
        percentile(100)
    );
}

/// User and system time of this process.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("Linux tells");
    let fields: Vec<&str> = stat.rsplit(") ").next().expect("the name ends").split(' ').collect();
    (fields[11].parse::<f64>().expect("ticks") + fields[12].parse::<f64>().expect("ticks")) / 100.0
}

fn write_journal(directory: &Path, transfers: u64, accounts: u64) {
    std::fs::create_dir_all(directory).expect("the directory is made");
    let fatal = Box::new(|error| panic!("{error}"));
    let (journal, _) = Journal::open(directory, journal::Options::default(), DiskKind::Direct.disk(), fatal)
        .expect("it opens");
    let mut writer =
        Writer { journal, state: State::new(), body: BodyWriter::new(), in_flight: Vec::new(), frames: 0 };
    let started = Instant::now();
    let mut random = Rng::with_seed(7);
    for number in 0..accounts {
        let account_id = AccountId::parse(&format!("account-{number:09}")).expect("an id");
        writer.execute(&Command::OpenAccount { account_id, metadata: Metadata::default() });
    }
    for number in 0..accounts {
        let to = AccountNumber(number as u32 + 1);
        writer.transfer(&mut random, TransferKind::Deposit, AccountNumber::EXTERNAL, to, 1_000_000_000);
    }
    for number in 0..transfers {
        let pick = |random: &mut Rng, among: u64| AccountNumber((random.u64(..among)) as u32 + 1);
        let from = pick(&mut random, if number % 8 == 0 { 10 } else { accounts });
        let to = pick(&mut random, accounts);
        let to = if to == from { AccountNumber(to.0 % accounts as u32 + 1) } else { to };
        let amount = 1 + random.u64(..100);
        writer.transfer(&mut random, TransferKind::Transfer, from, to, amount);
    }
    writer.flush();
    for durable in writer.in_flight {
        durable.recv().expect("it becomes durable");
    }
    println!("wrote {transfers} transfers in {:.1} s", started.elapsed().as_secs_f64());
}

struct Writer {
    journal: Journal,
    state: State,
    body: BodyWriter,
    in_flight: Vec<mpsc::Receiver<()>>,
    frames: i64,
}

impl Writer {
    fn transfer(
        &mut self,
        random: &mut Rng,
        kind: TransferKind,
        from: AccountNumber,
        to: AccountNumber,
        amount: u64,
    ) {
        let transfer = Transfer {
            transaction_id: TransactionId(random.u128(..)),
            kind,
            from: from.into(),
            to: to.into(),
            amount: Amount::from_minor_units(amount).expect("an amount"),
            currency: Currency::parse("USD").expect("a currency"),
            metadata: Metadata::default(),
        };
        let outcome = self.state.decide_transfer(&transfer);
        self.state.apply_transfer(self.now(), outcome.as_ref().ok());
        self.body.push_transfer(&transfer, &outcome);
        self.flush_when_full();
    }

    fn execute(&mut self, command: &Command) {
        let now = self.now();
        let Decision::Accepted(events) = self.state.decide(command, now, None) else { panic!("{command:?}") };
        self.state.apply_all(now, &events);
        self.body.push(command, &events);
        self.flush_when_full();
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_micros((self.frames + 1) * 1_000)
    }

    fn flush_when_full(&mut self) {
        if u64::from(self.body.event_count()) >= TRANSFERS_PER_FRAME {
            self.flush();
        }
    }

    fn flush(&mut self) {
        if self.body.event_count() == 0 {
            return;
        }
        let timestamp_us = self.now().as_micros();
        let mut buffer = self.journal.buffer();
        self.body.write(|part| buffer.extend_from_slice(part));
        let (sender, durable) = mpsc::channel();
        let draft = FrameDraft {
            term: Term(1),
            first_sequence: journal::Sequence(
                self.state.sequence().0 + 1 - u64::from(self.body.event_count()),
            ),
            sequence_count: self.body.event_count(),
            timestamp_us,
            body: buffer,
        };
        self.journal
            .append(draft, Box::new(move |_| sender.send(()).expect("the writer waits")))
            .expect("it is taken");
        self.in_flight.push(durable);
        if self.in_flight.len() == FRAMES_IN_FLIGHT {
            self.in_flight.remove(0).recv().expect("it becomes durable");
        }
        self.body.clear();
        self.frames += 1;
    }
}
