//! The history over a real journal, against a plain list of everything that happened.

use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};

use ledger::codec::BodyWriter;
use ledger::{
    AccountId, AccountNumber, Amount, Command, Currency, Decision, Metadata, Sequence, State, Timestamp,
    TransactionId, Transfer, TransferKind,
};
use storage::journal::{self, DiskKind, Frame, FrameDraft, Journal, Term};
use views::{History, HistoryEntry, HistoryOptions, HistoryQuery};

const ACCOUNTS: u32 = 40;
const FRAME_COMMANDS: u64 = 25;

/// A journal with its state, and what a reader should find.
struct Ledger {
    journal: Journal,
    state: State,
    expected: Vec<(AccountNumber, Sequence, i64, i64, Timestamp)>,
    seed: u64,
    frames: u64,
}

impl Ledger {
    fn open(directory: &Path) -> Ledger {
        let options = journal::Options { segment_size_bytes: 1 << 20, ..journal::Options::default() };
        let fatal = Box::new(|error| panic!("{error}"));
        let (journal, _) =
            Journal::open(directory, options, DiskKind::Direct.disk(), fatal).expect("it opens");
        Ledger { journal, state: State::new(), expected: Vec::new(), seed: 7, frames: 0 }
    }

    fn random(&mut self, below: u64) -> u64 {
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.seed >> 33) % below
    }

    fn next_command(&mut self) -> Command {
        if self.state.account_numbers() <= ACCOUNTS {
            let account_id =
                AccountId::parse(&format!("account-{}", self.state.account_numbers())).expect("an id");
            return Command::OpenAccount { account_id, metadata: Metadata::default() };
        }
        let payee = 1 + self.random(u64::from(ACCOUNTS)) as u32;
        let payer = 1 + (payee + self.random(u64::from(ACCOUNTS) - 1) as u32) % ACCOUNTS;
        let deposit = payer == payee || self.random(4) == 0;
        let (kind, from) = match deposit {
            true => (TransferKind::Deposit, AccountNumber::EXTERNAL),
            false => (TransferKind::Transfer, AccountNumber(payer)),
        };
        Command::Transfer(Transfer {
            transaction_id: TransactionId(
                u128::from(self.random(u64::MAX)) << 64 | u128::from(self.state.sequence().0),
            ),
            kind,
            from: from.into(),
            to: AccountNumber(payee).into(),
            amount: Amount::from_minor_units(1 + self.random(100)).expect("an amount"),
            currency: Currency::parse(if self.random(2) == 0 { "USD" } else { "KWD" }).expect("a currency"),
            metadata: Metadata::default(),
        })
    }

    fn frame(&mut self) -> Arc<Frame> {
        self.frames += 1;
        let now = Timestamp::from_micros(self.frames as i64 * 1_000);
        let first = self.state.sequence().next();
        let mut body = BodyWriter::new();
        for _ in 0..FRAME_COMMANDS {
            let command = self.next_command();
            let Decision::Accepted(events) = self.state.decide(&command, now, None) else {
                panic!("{command:?}")
            };
            for event in events.iter() {
                self.state.apply(now, event);
                let sequence = self.state.sequence();
                for change in event.balance_changes().into_iter().flatten() {
                    let (amount, after) = (change.available_change, change.available_after);
                    self.expected.push((change.account, sequence, amount, after, now));
                }
            }
            body.push(&command, &events);
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

    fn history(&self, directory: &Path) -> History {
        let options = HistoryOptions { run_postings: 300, ..HistoryOptions::default() };
        History::open(directory, self.journal.reader(), options, Arc::new(|why| panic!("{why}")))
            .expect("it opens")
    }

    /// Reads every account's whole history in pages, and compares.
    fn compare(&self, history: &History) {
        for account in (0..=ACCOUNTS).map(AccountNumber) {
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
            let mut expected: Vec<_> = self.expected.iter().filter(|row| row.0 == account).copied().collect();
            expected.reverse();
            assert_eq!(found, expected, "account {}", account.0);
        }
    }
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
fn the_view_equals_a_plain_list_live_reopened_and_rebuilt() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let place = |name| place(&directory, name);
    let mut ledger = Ledger::open(&place("journal"));
    let history = ledger.history(&place("history"));
    for round in 0..60 {
        let frame = ledger.frame();
        history.committed(&frame).expect("it takes the frame in");
        history.committed(&frame).expect("a repeated frame changes nothing");
        if round % 20 == 19 {
            ledger.compare(&history);
        }
    }
    assert_eq!(history.position(), ledger.state.sequence());
    drop(history);
    // Frames that were committed while the view was away are caught up with.
    for _ in 0..5 {
        ledger.frame();
    }
    ledger.compare(&ledger.history(&place("history")));
    ledger.compare(&ledger.history(&place("rebuilt")));
}

#[test]
fn times_and_currencies_narrow_a_query() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let place = |name| place(&directory, name);
    let mut ledger = Ledger::open(&place("journal"));
    let history = ledger.history(&place("history"));
    for _ in 0..40 {
        history.committed(&ledger.frame()).expect("it takes the frame in");
    }
    let (since, until) = (Timestamp::from_micros(10_000), Timestamp::from_micros(20_000));
    let kwd = Currency::parse("KWD").expect("a currency");
    let query = HistoryQuery {
        limit: 1000,
        before: None,
        currency: Some(kwd),
        since: Some(since),
        until: Some(until),
    };
    let all = HistoryQuery { limit: 100_000, ..HistoryQuery::default() };
    for account in (0..=ACCOUNTS).map(AccountNumber) {
        let page = history.history(account, &query).expect("it answers");
        let mut expected = history.history(account, &all).expect("it answers").entries;
        expected.retain(|entry| {
            entry.change.currency == kwd && entry.record.timestamp >= since && entry.record.timestamp <= until
        });
        assert_eq!(page.entries, expected, "account {}", account.0);
    }
}
