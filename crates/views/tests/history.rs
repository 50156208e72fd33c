//! The view over a real journal, against a plain list of everything that happened, with which it shares no code.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command as Process, Stdio};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use ledger::codec::BodyWriter;
use ledger::{
    AccountId, AccountNumber, Amount, Balance, Command, Currency, Decision, Event, Group, HoldRequest,
    Metadata, Record, Sequence, State, Timestamp, Transaction, TransactionId, Transfer, TransferKind,
};
use storage::journal::{self, DiskKind, Frame, FrameDraft, Journal, Term};
use views::{History, HistoryEntry, HistoryOptions, HistoryQuery, PastAccount};

const ACCOUNTS: u32 = 700;
const FRAME_COMMANDS: u64 = 25;

/// Tells a child of the test where it is to take frames in, until it is killed.
const CHILD_DIRECTORY: &str = "JIGAP_VIEWS_CHILD_DIRECTORY";
/// Kills that hit a child at work.
const KILLS: u32 = 100;
const CHILDREN_MAX: u32 = 1_000;

/// A journal with its state, and all that happened.
struct Ledger {
    journal: Journal,
    state: State,
    events: Vec<Record>,
    /// Transfers that may be reversed.
    transfers: Vec<Transaction>,
    seed: u64,
    frames: u64,
}

fn open_journal(directory: &Path) -> Journal {
    let options = journal::Options { segment_size_bytes: 1 << 20, ..journal::Options::default() };
    let fatal = Box::new(|error| panic!("{error}"));
    Journal::open(directory, options, DiskKind::Direct.disk(), fatal).expect("it opens").0
}

/// Runs of a few frames: pages get images, holds too, and most of the history is in the store.
fn open_history(directory: &Path, journal: &Journal) -> History {
    let options = HistoryOptions { run_postings: 300, ..HistoryOptions::default() };
    History::open(directory, journal.reader(), options, Arc::new(|why| panic!("{why}"))).expect("it opens")
}

impl Ledger {
    fn open(directory: &Path, seed: u64) -> Ledger {
        let journal = open_journal(directory);
        Ledger { journal, state: State::new(), events: Vec::new(), transfers: Vec::new(), seed, frames: 0 }
    }

    fn random(&mut self, below: u64) -> u64 {
        self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.seed ^ self.seed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ mixed >> 31) % below
    }

    fn id(&mut self) -> TransactionId {
        TransactionId(u128::from(self.random(u64::MAX)) << 64 | u128::from(self.random(u64::MAX)))
    }

    /// Some accounts are hot, some hardly used; one in fifty is never paid.
    fn account(&mut self) -> AccountNumber {
        let opened = u64::from(self.state.account_numbers()) - 1;
        let among = if self.random(3) == 0 { opened.min(5) } else { opened };
        AccountNumber(1 + self.random(among) as u32)
    }

    fn transfer(&mut self) -> Transfer {
        let (to, other) = (self.account(), self.account());
        let deposit = to == other || self.random(4) == 0;
        let (kind, from) = match deposit {
            true => (TransferKind::Deposit, AccountNumber::EXTERNAL),
            false => (TransferKind::Transfer, other),
        };
        let currency = ["USD", "KWD", "JPY", "EUR"][(self.random(8) / 2) as usize];
        Transfer {
            transaction_id: self.id(),
            kind,
            from: from.into(),
            to: to.into(),
            amount: Amount::from_minor_units(1 + self.random(100)).expect("an amount"),
            currency: Currency::parse(currency).expect("a currency"),
            metadata: Metadata::default(),
        }
    }

    fn held(&mut self) -> Option<TransactionId> {
        let count = self.state.holds().len() as u64;
        let place = if count == 0 { return None } else { self.random(count) };
        self.state.holds().nth(place as usize).map(|(hold_id, _)| hold_id)
    }

    /// A command, and the earlier transaction that it is about.
    fn next_command(&mut self) -> (Command, Option<Transaction>) {
        let opened = self.state.account_numbers() - 1;
        if opened < 10 || (opened < ACCOUNTS && self.random(8) == 0) {
            let account_id = AccountId::parse(&format!("account-{opened}")).expect("an id");
            let metadata = Metadata::new([("number", opened.to_string().as_str())]).expect("metadata");
            return (Command::OpenAccount { account_id, metadata }, None);
        }
        let command = match self.random(20) {
            0..3 => {
                let transfer =
                    Transfer { kind: TransferKind::Transfer, from: self.account().into(), ..self.transfer() };
                let expires_in_seconds = Some(self.random(3) as u32 + 1).filter(|seconds| *seconds < 3);
                Command::Hold(Box::new(HoldRequest { transfer, expires_in_seconds }))
            }
            3 => match self.held() {
                Some(hold_id) => Command::ConfirmHold { transaction_id: self.id(), hold_id, amount: None },
                None => Command::Transfer(self.transfer()),
            },
            4 => match self.held() {
                Some(hold_id) => Command::CancelHold { transaction_id: self.id(), hold_id },
                None => Command::Transfer(self.transfer()),
            },
            5 => {
                let legs = (0..1 + self.random(3)).map(|_| self.transfer()).collect();
                Command::Group(Box::new(Group { transaction_id: self.id(), legs }))
            }
            6 if !self.transfers.is_empty() => {
                let place = self.random(self.transfers.len() as u64) as usize;
                let original = self.transfers.swap_remove(place);
                let original_id = original.transaction_id;
                let metadata = Metadata::default();
                let command = Command::Reverse { transaction_id: self.id(), original_id, metadata };
                return (command, Some(original));
            }
            7 => Command::CloseAccount { transaction_id: self.id(), account: self.account().into() },
            _ => Command::Transfer(self.transfer()),
        };
        (command, None)
    }

    fn frame(&mut self) -> Arc<Frame> {
        self.frames += 1;
        let now = Timestamp::from_micros(self.frames as i64 * 50_000);
        let first = self.state.sequence().next();
        let mut body = BodyWriter::new();
        while self.state.next_expiry().is_some_and(|expiry| expiry <= now) {
            self.execute(&Command::ExpireHolds, None, now, &mut body);
        }
        for _ in 0..FRAME_COMMANDS {
            let (command, about) = self.next_command();
            self.execute(&command, about.as_ref(), now, &mut body);
        }
        let mut buffer = self.journal.buffer();
        body.write(|part| buffer.extend_from_slice(part));
        let (sender, durable) = mpsc::channel();
        let draft = FrameDraft {
            term: Term(1),
            first_sequence: journal::Sequence(first.0),
            sequence_count: body.event_count(),
            timestamp_us: now.as_micros(),
            body: buffer,
        };
        let done = Box::new(move |frame| sender.send(frame).expect("the test waits"));
        self.journal.append(draft, done).expect("it is taken");
        durable.recv().expect("it becomes durable")
    }

    fn execute(
        &mut self,
        command: &Command,
        about: Option<&Transaction>,
        now: Timestamp,
        body: &mut BodyWriter,
    ) {
        let Decision::Accepted(events) = self.state.decide(command, now, about) else { return };
        for event in events.iter() {
            self.state.apply(now, event);
            let sequence = self.state.sequence();
            self.events.push(Record { sequence, timestamp: now, event: event.clone() });
        }
        if let (Command::Transfer(transfer), [Event::Transferred { .. }]) = (command, events.as_slice()) {
            let records = self.events.last().cloned().into_iter().collect();
            let (transaction_id, command) = (transfer.transaction_id, command.clone());
            self.transfers.push(Transaction { transaction_id, command, records });
        }
        body.push(command, &events);
    }

    fn history(&self, directory: &Path) -> History {
        open_history(directory, &self.journal)
    }

    /// What a plain replay of the first `at` events gives.
    fn naive_account(&self, account: AccountNumber, at: Sequence) -> Option<PastAccount> {
        let (mut opened, mut closed) = (account == AccountNumber::EXTERNAL, false);
        let mut balances: BTreeMap<Currency, Balance> = BTreeMap::new();
        for record in &self.events[..at.0 as usize] {
            let mut add = |who: AccountNumber, currency, available: i64, held: i64| {
                if who == account {
                    let balance = balances.entry(currency).or_default();
                    balance.available += available;
                    balance.held += held;
                }
            };
            match &record.event {
                Event::AccountOpened { account: number, .. } => opened |= *number == account,
                Event::AccountClosed { account: number, .. } => closed |= *number == account,
                Event::Transferred { movement, .. } | Event::Reversed { movement, .. } => {
                    add(movement.from, movement.currency, -movement.amount.signed(), 0);
                    add(movement.to, movement.currency, movement.amount.signed(), 0);
                }
                Event::Held { hold, .. } => {
                    add(hold.from, hold.currency, -hold.amount.signed(), hold.amount.signed());
                }
                Event::HoldConfirmed { movement, released, .. } => {
                    let released = *released as i64;
                    let held = movement.amount.signed() + released;
                    add(movement.from, movement.currency, released, -held);
                    add(movement.to, movement.currency, movement.amount.signed(), 0);
                }
                Event::HoldReleased { account, amount, currency, .. } => {
                    add(*account, *currency, amount.signed(), -amount.signed());
                }
                Event::GroupCommitted { .. } | Event::Refused { .. } => {}
            }
        }
        opened.then(|| PastAccount { closed, balances: balances.into_iter().collect() })
    }

    fn naive_state(&self, at: Sequence) -> State {
        let mut state = State::new();
        self.events[..at.0 as usize].iter().for_each(|record| state.apply(record.timestamp, &record.event));
        state
    }

    /// Balances at so many random moments, by sequence and by time.
    fn compare_past(&mut self, history: &History, pairs: u32) {
        for _ in 0..pairs {
            let at = Sequence(self.random(self.state.sequence().0 + 1));
            let account = AccountNumber(self.random(u64::from(self.state.account_numbers())) as u32);
            let found = history.account_at(account, at).expect("it answers");
            assert_eq!(found, self.naive_account(account, at), "account {} at {}", account.0, at.0);
            let moment = history.moment_of(at).expect("it answers").expect("it happened");
            let stamped = at.0.checked_sub(1).map(|last| self.events[last as usize].timestamp);
            assert_eq!(moment.timestamp, stamped.unwrap_or_default(), "the time of event {}", at.0);
            let time = Timestamp::from_micros(self.random(self.frames * 50_000 + 100_000) as i64);
            let by_then = self.events.iter().take_while(|record| record.timestamp <= time).count() as u64;
            let moment = history.moment_at(time).expect("it answers");
            assert_eq!(moment.sequence.0, by_then, "the last event by {}", time.as_micros());
        }
        assert!(history.moment_of(self.state.sequence().next()).expect("it answers").is_none());
    }

    /// Whole states at so many random moments, and the present one.
    fn compare_states(&mut self, history: &History, moments: u32) {
        let last = self.state.sequence();
        for number in 0..=moments {
            let at = if number == 0 { last } else { Sequence(self.random(last.0)) };
            let deadline = Instant::now() + Duration::from_secs(60);
            let found = history.state_at(at, deadline).expect("it answers").expect("it happened");
            let state = self.naive_state(at);
            assert_eq!(
                (found.moment.sequence, found.moment.timestamp),
                (state.sequence(), state.timestamp())
            );
            assert_eq!((found.accounts, found.holds), (state.account_count(), state.holds().len() as u64));
            assert_eq!(found.totals, state.totals(), "at {}", at.0);
            assert_eq!(found.digest, state.digest(), "at {}", at.0);
        }
    }

    /// Reads every account's whole history in pages, and compares.
    fn compare_history(&self, history: &History) {
        let mut expected: BTreeMap<AccountNumber, Vec<_>> = BTreeMap::new();
        for record in self.events.iter().rev() {
            for change in record.event.balance_changes().into_iter().flatten() {
                expected
                    .entry(change.account)
                    .or_default()
                    .push(row(&HistoryEntry { record: record.clone(), change }));
            }
        }
        for account in (0..self.state.account_numbers()).map(AccountNumber) {
            let mut found = Vec::new();
            let mut before = None;
            loop {
                let query = HistoryQuery { limit: 17, before, ..HistoryQuery::default() };
                let page = history.history(account, &query).expect("it answers");
                found.extend(page.entries.iter().map(row));
                before = page.next;
                if before.is_none() {
                    break;
                }
            }
            assert_eq!(found, expected.remove(&account).unwrap_or_default(), "account {}", account.0);
        }
    }
}

/// From `JIGAP_VIEWS_SEED`, or another each time.
fn seed() -> u64 {
    let given = std::env::var("JIGAP_VIEWS_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = given.unwrap_or_else(|| u64::from(std::process::id()));
    println!("repeat with JIGAP_VIEWS_SEED={seed} cargo test -p views --test history");
    seed
}

fn place(directory: &tempfile::TempDir, name: &str) -> PathBuf {
    let path = directory.path().join(name);
    std::fs::create_dir_all(&path).expect("a directory");
    path
}

fn row(entry: &HistoryEntry) -> (AccountNumber, Sequence, i64, i64, Timestamp) {
    let change = &entry.change;
    let record = &entry.record;
    (change.account, record.sequence, change.available_change, change.available_after, record.timestamp)
}

#[test]
fn the_view_equals_a_plain_replay_live_reopened_and_rebuilt() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let place = |name| place(&directory, name);
    let mut ledger = Ledger::open(&place("journal"), seed());
    let history = ledger.history(&place("history"));
    for round in 0..400 {
        let frame = ledger.frame();
        history.committed(&frame).expect("it takes the frame in");
        history.committed(&frame).expect("a repeated frame changes nothing");
        if round % 40 == 39 {
            // The builder is at work meanwhile.
            ledger.compare_past(&history, 50);
            ledger.compare_states(&history, 2);
        }
    }
    assert_eq!(history.position(), ledger.state.sequence());
    ledger.compare_past(&history, 500);
    ledger.compare_history(&history);
    drop(history);
    // Frames that were committed while the view was away are caught up with.
    for _ in 0..5 {
        ledger.frame();
    }
    for name in ["history", "rebuilt"] {
        let history = ledger.history(&place(name));
        ledger.compare_past(&history, 500);
        ledger.compare_states(&history, 10);
        ledger.compare_history(&history);
        let status = history.status();
        assert!(
            name == "history" || (status.runs > 8 && status.images > 0),
            "too small to prove anything: {status:?}"
        );
    }
}

#[test]
fn a_hot_account_fills_many_parts_and_is_found_in_each() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let place = |name| place(&directory, name);
    let mut ledger = Ledger::open(&place("journal"), 7);
    for _ in 0..1_200 {
        ledger.frame();
    }
    // All of it in few runs: @external alone has more postings than a part takes.
    let options = HistoryOptions { run_postings: 20_000, ..HistoryOptions::default() };
    let fatal = Arc::new(|why| panic!("{why}"));
    let history =
        History::open(&place("history"), ledger.journal.reader(), options, fatal).expect("it opens");
    let last = ledger.state.sequence().0;
    for at in (0..last).step_by(last as usize / 97).map(Sequence) {
        let found = history.account_at(AccountNumber::EXTERNAL, at).expect("it answers");
        assert_eq!(found, ledger.naive_account(AccountNumber::EXTERNAL, at), "at {}", at.0);
    }
    ledger.compare_states(&history, 5);
    ledger.compare_history(&history);
}

#[test]
fn a_view_of_another_format_is_dropped_and_built_again() {
    use storage::store::{self, Change, Run, StoreOptions};
    let directory = tempfile::tempdir().expect("a temporary directory");
    let place = |name| place(&directory, name);
    let mut ledger = Ledger::open(&place("journal"), 9);
    for _ in 0..40 {
        ledger.frame();
    }
    let store = store::open(&place("history"), &StoreOptions::default()).expect("it opens");
    let changes = vec![(b"Hold bytes".to_vec(), Change::Put(b"of another format".to_vec()))];
    store.ingest(Run { position: 500, changes }).expect("it is written");
    drop(store);
    let history = ledger.history(&place("history"));
    ledger.compare_past(&history, 50);
    ledger.compare_history(&history);
}

#[test]
fn a_whole_state_gives_up_at_its_deadline() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let place = |name| place(&directory, name);
    let mut ledger = Ledger::open(&place("journal"), 11);
    ledger.frame();
    let history = ledger.history(&place("history"));
    let late = history.state_at(Sequence(3), Instant::now() - Duration::from_secs(1));
    assert!(matches!(late, Err(views::HistoryError::TooLong { accounts: 0, .. })), "{late:?}");
}

#[test]
fn times_and_currencies_narrow_a_query() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let place = |name| place(&directory, name);
    let mut ledger = Ledger::open(&place("journal"), seed());
    let history = ledger.history(&place("history"));
    for _ in 0..40 {
        history.committed(&ledger.frame()).expect("it takes the frame in");
    }
    let (since, until) = (Timestamp::from_micros(500_000), Timestamp::from_micros(1_000_000));
    let kwd = Currency::parse("KWD").expect("a currency");
    let query = HistoryQuery {
        limit: 1000,
        before: None,
        currency: Some(kwd),
        since: Some(since),
        until: Some(until),
    };
    let all = HistoryQuery { limit: 100_000, ..HistoryQuery::default() };
    for account in (0..ledger.state.account_numbers()).map(AccountNumber) {
        let page = history.history(account, &query).expect("it answers");
        let mut expected = history.history(account, &all).expect("it answers").entries;
        expected.retain(|entry| {
            entry.change.currency == kwd && entry.record.timestamp >= since && entry.record.timestamp <= until
        });
        assert_eq!(page.entries, expected, "account {}", account.0);
    }
}

/// What a child does until it is killed: takes in every frame that the view does not have yet.
fn take_in(directory: &Path) {
    let journal = open_journal(&directory.join("copy"));
    println!("begins");
    let _history = open_history(&directory.join("history"), &journal);
    println!("has all");
    // Until the parent kills it, or is gone.
    let _ = std::io::stdin().read(&mut [0]);
}

fn child(directory: &Path) -> (Child, impl Iterator<Item = String>) {
    let mut child = Process::new(std::env::current_exe().expect("this test"))
        .args(["--exact", "the_view_survives_kill_9_while_it_takes_frames_in", "--nocapture"])
        .env(CHILD_DIRECTORY, directory)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the child starts");
    let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines().map_while(Result::ok);
    (child, lines)
}

/// Kills a child after this time at work, or when it has all if that is sooner; true when it was still at work.
fn kill_at_work(directory: &Path, after: Option<Duration>) -> (bool, Duration) {
    let (mut child, mut lines) = child(directory);
    assert!(lines.any(|line| line.contains("begins")), "the child ended by itself");
    let begun = Instant::now();
    match after {
        Some(after) => std::thread::sleep(after),
        None => assert!(lines.any(|line| line.contains("has all")), "the child ended by itself"),
    }
    let elapsed = begun.elapsed();
    child.kill().expect("it is killed");
    let status = child.wait().expect("it ends");
    assert!(status.code().is_none(), "the child ended by itself: {status}");
    (!lines.any(|line| line.contains("has all")), elapsed)
}

#[test]
fn the_view_survives_kill_9_while_it_takes_frames_in() {
    if let Some(directory) = std::env::var_os(CHILD_DIRECTORY) {
        return take_in(Path::new(&directory));
    }
    let directory = tempfile::tempdir().expect("a temporary directory");
    let place = |name| place(&directory, name);
    let mut ledger = Ledger::open(&place("journal"), seed());
    for _ in 0..300 {
        ledger.frame();
    }
    // The child has a journal of its own: nobody else may have it open.
    let copy = place("copy");
    for segment in std::fs::read_dir(place("journal")).expect("it is there") {
        let segment = segment.expect("it is there");
        std::fs::copy(segment.path(), copy.join(segment.file_name())).expect("it is copied");
    }
    let (_, longest) = kill_at_work(directory.path(), None);
    let (mut kills, mut children) = (0, 0);
    while kills < KILLS {
        children += 1;
        assert!(children < CHILDREN_MAX, "{kills} of {children} kills hit a child at work");
        let after = longest.mul_f64(ledger.random(1_000) as f64 / 1_000.0);
        let (at_work, _) = kill_at_work(directory.path(), Some(after));
        kills += u32::from(at_work);
        // A view that was killed a few times goes on and is right; then a new one is begun.
        if !at_work || ledger.random(4) == 0 {
            let history = ledger.history(&place("history"));
            assert_eq!(history.position(), ledger.state.sequence());
            ledger.compare_past(&history, 20);
            drop(history);
            std::fs::remove_dir_all(place("history")).expect("it is removed");
        }
    }
    kill_at_work(directory.path(), Some(longest / 2));
    for name in ["history", "rebuilt"] {
        let history = ledger.history(&place(name));
        ledger.compare_past(&history, 200);
        ledger.compare_states(&history, 3);
        ledger.compare_history(&history);
    }
}
