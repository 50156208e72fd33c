//! A partition on a real disk: exactly once, durable before answered, and the same state after every restart.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc;

use ledger::{
    AccountId, AccountNumber, AccountRef, Amount, Command, Currency, Event, Group, HoldRequest, Metadata,
    RefusalCode, TransactionId, Transfer, TransferKind,
};
use shards::partition::{
    AccountView, CommandAnswer, NotAccepted, Options, Partition, StateView, TransferAnswer, verify,
};

struct Given {
    directory: tempfile::TempDir,
    run_events: usize,
    partition: Option<Partition>,
}

fn given() -> Given {
    let mut given = Given {
        directory: tempfile::tempdir().expect("a temporary directory"),
        run_events: 1 << 20,
        partition: None,
    };
    given.open();
    given
}

fn options(directory: &Path, run_events: usize) -> Options {
    Options { segment_size_bytes: 4 << 20, run_events, ..Options::new(directory.to_owned()) }
}

fn id(number: u128) -> TransactionId {
    TransactionId(0x0189_0d9e_0000_7000_8000_0000_0000_0000 + number)
}

fn usd() -> Currency {
    Currency::parse("USD").expect("a currency")
}

fn named(name: &str) -> AccountRef {
    AccountId::parse(name).expect("an account id").into()
}

fn transfer(
    number: u128,
    kind: TransferKind,
    from: AccountRef,
    to: AccountRef,
    minor_units: u64,
) -> Transfer {
    Transfer {
        transaction_id: id(number),
        kind,
        from,
        to,
        amount: Amount::from_minor_units(minor_units).expect("an amount"),
        currency: usd(),
        metadata: Metadata::default(),
    }
}

fn deposit(number: u128, to: &str, minor_units: u64) -> Transfer {
    transfer(number, TransferKind::Deposit, AccountNumber::EXTERNAL.into(), named(to), minor_units)
}

fn pay(number: u128, from: &str, to: &str, minor_units: u64) -> Transfer {
    transfer(number, TransferKind::Transfer, named(from), named(to), minor_units)
}

impl Given {
    fn open(&mut self) {
        let fatal = Arc::new(|why: String| panic!("{why}"));
        let options = options(self.directory.path(), self.run_events);
        let partition = Partition::open(options, Box::new(()), fatal, &mut |_, _| {}).expect("it opens");
        self.partition = Some(partition);
    }

    fn partition(&self) -> &Partition {
        self.partition.as_ref().expect("it is open")
    }

    fn restart(&mut self) {
        self.partition().shut_down();
        self.partition = None;
        self.open();
    }

    fn ask<Answer: Send + 'static>(
        &self,
        submit: impl FnOnce(&Partition, Box<dyn FnOnce(Answer) + Send>) -> Result<(), NotAccepted>,
    ) -> Answer {
        let (sender, answer) = mpsc::channel();
        let reply = Box::new(move |answer| sender.send(answer).expect("the test waits"));
        submit(self.partition(), reply).expect("accepted");
        answer.recv().expect("answered")
    }

    fn command(&self, command: Command) -> CommandAnswer {
        self.ask(|partition, reply| partition.submit_command(command, reply))
    }

    fn transfers(&self, transfers: Vec<Transfer>) -> Vec<TransferAnswer> {
        self.ask(|partition, reply| partition.submit_transfers(transfers, reply))
    }

    fn transfer(&self, transfer: Transfer) -> TransferAnswer {
        self.transfers(vec![transfer])[0]
    }

    fn account(&self, name: &str) -> AccountView {
        self.ask(|partition, reply| partition.query_account(named(name), reply)).expect("the account exists")
    }

    fn available(&self, name: &str) -> i64 {
        self.account(name).balances.first().map_or(0, |(_, balance)| balance.available)
    }

    fn state(&self) -> StateView {
        self.ask(|partition, reply| partition.query_state(reply))
    }

    fn open_accounts(&self, names: &[&str]) {
        for name in names {
            let account_id = AccountId::parse(name).expect("an account id");
            let answer = self.command(Command::OpenAccount { account_id, metadata: Metadata::default() });
            assert!(matches!(answer, CommandAnswer::Executed { replayed: false, .. }), "{answer:?}");
        }
    }
}

fn records(answer: CommandAnswer) -> (Vec<Event>, bool) {
    match answer {
        CommandAnswer::Executed { records, replayed } => {
            (records.into_iter().map(|record| record.event).collect(), replayed)
        }
        other => panic!("not executed: {other:?}"),
    }
}

#[test]
fn money_moves_once_and_repeats_answer_the_same_across_a_restart() {
    let mut given = given();
    given.open_accounts(&["alice", "bob"]);
    let funded = given.transfer(deposit(1, "alice", 10_000));
    assert_eq!(funded.outcome.expect("it succeeds").to, 10_000);
    let paid = given.transfer(pay(2, "alice", "bob", 1_250));
    let refused = given.transfer(pay(3, "bob", "alice", 9_999));
    assert_eq!(refused.outcome.expect_err("bob has too little").code, RefusalCode::InsufficientFunds);
    for _ in 0..2 {
        let again = given.transfer(pay(2, "alice", "bob", 1_250));
        assert_eq!(again, TransferAnswer { replayed: true, ..paid });
        let refused_again = given.transfer(pay(3, "bob", "alice", 9_999));
        assert_eq!(refused_again, TransferAnswer { replayed: true, ..refused });
        let other = given.transfer(pay(2, "alice", "bob", 1_251));
        assert_eq!(other.outcome.expect_err("other content").code, RefusalCode::TransactionIdReused);
        assert_eq!((given.available("alice"), given.available("bob")), (8_750, 1_250));
        given.restart();
    }
}

#[test]
fn a_thousand_repeats_in_flight_together_are_executed_once() {
    let given = given();
    given.open_accounts(&["alice", "bob"]);
    given.transfer(deposit(1, "alice", 10_000));
    let (sender, answers) = mpsc::channel();
    for _ in 0..1_000 {
        let sender = sender.clone();
        let reply = move |answers: Vec<TransferAnswer>| sender.send(answers[0]).expect("the test waits");
        given.partition().submit_transfers(vec![pay(7, "alice", "bob", 10)], reply).expect("accepted");
    }
    let answers: Vec<TransferAnswer> = answers.iter().take(1_000).collect();
    assert_eq!(answers.iter().filter(|answer| !answer.replayed).count(), 1);
    assert!(
        answers
            .iter()
            .all(|answer| (answer.sequence, answer.outcome) == (answers[0].sequence, answers[0].outcome))
    );
    assert_eq!(given.available("bob"), 10);
}

#[test]
fn a_repeat_within_one_submission_is_answered_from_the_first() {
    let given = given();
    given.open_accounts(&["alice", "bob"]);
    let answers =
        given.transfers(vec![deposit(1, "alice", 100), deposit(1, "alice", 100), pay(2, "alice", "bob", 60)]);
    assert_eq!((answers[0].replayed, answers[1].replayed), (false, true));
    assert_eq!(answers[0].sequence, answers[1].sequence);
    assert_eq!(given.available("alice"), 40);
}

#[test]
fn holds_groups_reversals_and_closing_survive_restarts_with_one_digest() {
    let mut given = given();
    given.run_events = 3;
    given.restart();
    given.open_accounts(&["alice", "bob", "carol"]);
    given.transfer(deposit(1, "alice", 1_000));
    let hold = HoldRequest { transfer: pay(2, "alice", "bob", 300), expires_in_seconds: None };
    records(given.command(Command::Hold(Box::new(hold))));
    given.restart();
    let confirm = Command::ConfirmHold { transaction_id: id(3), hold_id: id(2), amount: None };
    records(given.command(confirm.clone()));
    assert!(records(given.command(confirm)).1, "a repeated confirmation is the first one again");
    let again = Command::ConfirmHold { transaction_id: id(4), hold_id: id(2), amount: None };
    let (events, _) = records(given.command(again));
    assert!(
        matches!(&events[..], [Event::Refused { refusal, .. }] if refusal.code == RefusalCode::HoldNotPending)
    );
    let legs = vec![pay(11, "bob", "carol", 100), pay(12, "carol", "alice", 100)];
    let group = Command::Group(Box::new(Group { transaction_id: id(10), legs }));
    let (events, _) = records(given.command(group.clone()));
    assert_eq!(events.len(), 3);
    given.restart();
    assert_eq!(records(given.command(group)), (events, true));
    let reverse = |number, original| Command::Reverse {
        transaction_id: id(number),
        original_id: id(original),
        metadata: Metadata::default(),
    };
    records(given.command(reverse(20, 12)));
    let (events, _) = records(given.command(reverse(21, 12)));
    assert!(
        matches!(&events[..], [Event::Refused { refusal, .. }] if refusal.code == RefusalCode::AlreadyReversed)
    );
    records(given.command(reverse(22, 11)));
    let close = Command::CloseAccount { transaction_id: id(30), account: named("carol") };
    records(given.command(close));
    let before = given.state();
    assert!(before.totals.iter().all(|total| total.sum == 0));
    given.restart();
    assert_eq!(given.state(), before);
    assert!(given.account("carol").closed);
    given.partition().shut_down();
    let report = verify(&options(given.directory.path(), 3), &mut |_, _| {}).expect("it verifies");
    assert_eq!((report.digest, report.sequence), (before.digest, before.sequence));
    assert_eq!(report.checkpoint, Some(before.sequence));
}

#[test]
fn holds_lapse_by_themselves() {
    let given = given();
    given.open_accounts(&["alice", "bob"]);
    given.transfer(deposit(1, "alice", 100));
    let hold = HoldRequest { transfer: pay(2, "alice", "bob", 100), expires_in_seconds: Some(1) };
    records(given.command(Command::Hold(Box::new(hold))));
    assert_eq!(given.available("alice"), 0);
    // Nothing is submitted meanwhile: a query does not start a frame. The reader sees the expiry once it is durable.
    let expiry = given.state().sequence.next();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while given.partition().committed() < expiry {
        assert!(std::time::Instant::now() < deadline, "the hold did not lapse");
        std::thread::yield_now();
    }
    assert_eq!(given.available("alice"), 100);
    let late = Command::ConfirmHold { transaction_id: id(3), hold_id: id(2), amount: None };
    let (events, _) = records(given.command(late));
    assert!(
        matches!(&events[..], [Event::Refused { refusal, .. }] if refusal.code == RefusalCode::HoldExpired)
    );
}

#[test]
fn ids_are_remembered_over_many_checkpoints() {
    const BATCHES: u128 = 40;
    const BATCH: u128 = 500;
    let mut given = given();
    given.run_events = 1_000;
    given.restart();
    given.open_accounts(&["alice", "bob"]);
    given.transfer(deposit(1, "alice", 1_000_000));
    let batch = |batch: u128| {
        (0..BATCH).map(|n| pay(1_000 + batch * BATCH + n, "alice", "bob", 1)).collect::<Vec<_>>()
    };
    let first: Vec<Vec<TransferAnswer>> = (0..BATCHES).map(|number| given.transfers(batch(number))).collect();
    given.restart();
    let state = given.state();
    for number in 0..BATCHES {
        let again = given.transfers(batch(number));
        assert!(again.iter().all(|answer| answer.replayed));
        assert!(
            again.iter().zip(&first[number as usize]).all(|(again, first)| again.outcome == first.outcome)
        );
    }
    assert_eq!(given.state(), state);
    given.partition().shut_down();
    // The state directory can be thrown away: the journal builds it again.
    std::fs::remove_dir_all(given.directory.path().join("state")).expect("it is removed");
    given.partition = None;
    given.open();
    assert_eq!(given.state(), state);
    assert!(given.transfers(batch(0)).iter().all(|answer| answer.replayed));
}
