//! A partition with an archive in a directory, behind a store that can be made to fail.

use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use ledger::{
    AccountId, AccountNumber, AccountRef, Amount, Command, Currency, Group, HoldRequest, Metadata,
    TransactionId, Transfer, TransferKind,
};
use shards::partition::{
    ArchiveOptions, CommandAnswer, Options, Partition, Source, StateView, TransferAnswer, VerifyReport,
    verify,
};
use storage::objects::Objects;
use storage::objects::object_store::local::LocalFileSystem;

use crate::faulty_store::FaultyStore;

pub(crate) const ACCOUNTS: u32 = 30;
const OPENING_BALANCE: u64 = 1_000_000_000;
const TRANSFERS: u64 = 40;

pub(crate) struct Scene {
    directory: tempfile::TempDir,
    pub(crate) store: Arc<FaultyStore>,
    pub(crate) objects: Objects,
    data: PathBuf,
    partition: Option<Partition>,
    restored: u32,
}

pub(crate) fn usd() -> Currency {
    Currency::parse("USD").expect("a currency")
}

pub(crate) fn id(number: u128) -> TransactionId {
    TransactionId(1 << 127 | number)
}

pub(crate) fn pay(number: u128, from: u32, to: u32) -> Transfer {
    Transfer {
        transaction_id: id(number),
        kind: TransferKind::Transfer,
        from: AccountNumber(from).into(),
        to: AccountNumber(to).into(),
        amount: Amount::from_minor_units(1 + (number % 97) as u64).expect("an amount"),
        currency: usd(),
        metadata: Metadata::default(),
    }
}

/// The transfers of a round: always the same.
pub(crate) fn batch(round: u64) -> Vec<Transfer> {
    batch_of(round, TRANSFERS)
}

/// So many transfers of a round.
pub(crate) fn batch_of(round: u64, transfers: u64) -> Vec<Transfer> {
    let transfer = |index: u64| {
        let from = 1 + (round * 7 + index) as u32 % ACCOUNTS;
        let to = 1 + (from + index as u32 % (ACCOUNTS - 1)) % ACCOUNTS;
        pay(u128::from(round << 16 | index), from, if to == from { 1 + to % ACCOUNTS } else { to })
    };
    (0..transfers).map(transfer).collect()
}

pub(crate) fn options(directory: &Path, objects: Objects) -> Options {
    let archive = ArchiveOptions {
        interval: Duration::from_millis(20),
        parcel_size_bytes: 20 << 10,
        keep_size_bytes: 64 << 10,
        snapshot_events: 0,
        ..ArchiveOptions::new(objects)
    };
    Options {
        segment_size_bytes: 64 << 10,
        run_events: 500,
        archive: Some(archive),
        ..Options::new(directory.to_owned())
    }
}

pub(crate) fn open(options: Options) -> Partition {
    let fatal = Arc::new(|why: String| panic!("{why}"));
    let partition = Partition::open(options, Box::new(()), fatal, &mut |_, _| {}).expect("it opens");
    partition.release_before(|| ledger::Sequence(u64::MAX));
    partition
}

impl Scene {
    pub(crate) fn new() -> Scene {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let archive = directory.path().join("archive");
        std::fs::create_dir(&archive).expect("a directory");
        let local = LocalFileSystem::new_with_prefix(archive).expect("a directory");
        let store = Arc::new(FaultyStore::over(Arc::new(local)));
        let objects = Objects::over(store.clone(), "faulty://", Duration::from_secs(1)).expect("a store");
        let data = directory.path().join("data");
        let mut scene = Scene { directory, store, objects, data, partition: None, restored: 0 };
        scene.start();
        scene.set_up();
        scene
    }

    pub(crate) fn archive(&self) -> PathBuf {
        self.directory.path().join("archive")
    }

    pub(crate) fn data(&self) -> &Path {
        &self.data
    }

    pub(crate) fn options(&self) -> Options {
        options(&self.data, self.objects.clone())
    }

    /// The partition's history, from its directory and its archive.
    pub(crate) fn source(&self) -> Source {
        Source::Directory { directory: self.data.clone(), archive: Some(self.objects.clone()) }
    }

    pub(crate) fn archive_alone(&self) -> Source {
        Source::Archive { objects: self.objects.clone(), partition: 0 }
    }

    pub(crate) fn restored(&self) -> PathBuf {
        self.directory.path().join(format!("restored-{}", self.restored))
    }

    pub(crate) fn restored_options(&self) -> Options {
        options(&self.restored(), self.objects.clone())
    }

    fn start(&mut self) {
        self.start_with(self.options());
    }

    pub(crate) fn start_with(&mut self, options: Options) {
        self.partition = Some(open(options));
    }

    pub(crate) fn stop(&mut self) {
        self.partition.take().expect("it is open").shut_down();
    }

    pub(crate) fn restart(&mut self) {
        self.restart_with(self.options());
    }

    pub(crate) fn restart_with(&mut self, options: Options) {
        self.stop();
        self.start_with(options);
    }

    /// From now on the partition is the one that was restored last.
    pub(crate) fn move_to_restored(&mut self) {
        self.data = self.restored();
        self.restored += 1;
        self.start();
    }

    pub(crate) fn partition(&self) -> &Partition {
        self.partition.as_ref().expect("it is open")
    }

    pub(crate) fn try_transfers(&self, transfers: Vec<Transfer>) -> Option<Vec<TransferAnswer>> {
        let (sender, answers) = mpsc::channel();
        let reply = move |answers| drop(sender.send(answers));
        self.partition().submit_transfers(transfers, reply).expect("there is room");
        answers.recv().ok()
    }

    pub(crate) fn transfers(&self, transfers: Vec<Transfer>) -> Vec<TransferAnswer> {
        self.try_transfers(transfers).expect("it is answered")
    }

    pub(crate) fn try_command(&self, command: Command) -> Option<CommandAnswer> {
        let (sender, answer) = mpsc::channel();
        self.partition()
            .submit_command(command, move |answer| drop(sender.send(answer)))
            .expect("there is room");
        answer.recv().ok()
    }

    pub(crate) fn state(&self) -> StateView {
        let (sender, state) = mpsc::channel();
        self.partition().query_state(move |state| drop(sender.send(state))).expect("there is room");
        state.recv().expect("it is answered")
    }

    /// A round of transfers, and with it commands of every other kind.
    pub(crate) fn run(&self, transfers: Vec<Transfer>) {
        let round = transfers[0].transaction_id.0 >> 16 & 0xffff;
        assert!(self.transfers(transfers).iter().all(|answer| answer.outcome.is_ok() && !answer.replayed));
        let legs = (0..3).map(|leg| pay(1 << 50 | round << 16 | leg, 1 + leg as u32, 5 + leg as u32));
        let group = Group { transaction_id: id(2 << 50 | round), legs: legs.collect() };
        let hold = HoldRequest { transfer: pay(3 << 50 | round, 3, 4), expires_in_seconds: None };
        let confirm = Command::ConfirmHold {
            transaction_id: id(4 << 50 | round),
            hold_id: id(3 << 50 | round),
            amount: None,
        };
        let mut commands = vec![Command::Group(Box::new(group)), Command::Hold(Box::new(hold))];
        commands.extend(round.is_multiple_of(2).then_some(confirm));
        for command in commands {
            let answer = self.try_command(command).expect("it is answered");
            assert!(matches!(answer, CommandAnswer::Executed { replayed: false, .. }), "{answer:?}");
        }
    }

    /// Proves the directory, its archive included.
    pub(crate) fn report(&self) -> VerifyReport {
        verify(&self.options(), &mut |_, _| {}).expect("it proves itself")
    }

    fn set_up(&self) {
        set_up(self.partition());
    }
}

pub(crate) fn set_up(partition: &Partition) {
    for number in 1..=ACCOUNTS {
        let account_id = AccountId::parse(&format!("account-{number}")).expect("an id");
        let metadata = Metadata::new([("number", number.to_string().as_str())]).expect("metadata");
        let open = Command::OpenAccount { account_id: account_id.clone(), metadata };
        let (sender, answer) = mpsc::channel();
        partition.submit_command(open, move |answer| drop(sender.send(answer))).expect("there is room");
        answer.recv().expect("it is answered");
        let deposit = Transfer {
            kind: TransferKind::Deposit,
            from: AccountNumber::EXTERNAL.into(),
            to: AccountRef::from(account_id),
            amount: Amount::from_minor_units(OPENING_BALANCE).expect("an amount"),
            ..pay(5 << 50 | u128::from(number), 0, number)
        };
        let (sender, answer) = mpsc::channel();
        partition
            .submit_transfers(vec![deposit], move |answers| drop(sender.send(answers)))
            .expect("there is room");
        answer.recv().expect("it is answered");
    }
}
