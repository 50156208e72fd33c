//! Receipts: proven by this program and by an independent one, and by neither once a byte was changed.

mod independent;

use std::path::Path;
use std::sync::{Arc, mpsc};

use ledger::{
    AccountId, AccountNumber, Amount, Command, Currency, Metadata, Sequence, TransactionId, Transfer,
    TransferKind,
};
use shards::partition::{NotProven, Options, Partition, verify_receipt};
use storage::attestation::Keys;

fn open(directory: &Path) -> Partition {
    let options = Options { keys: Some(directory.to_owned()), ..Options::new(directory.join("partition-0")) };
    let fatal = Arc::new(|why: String| panic!("{why}"));
    Partition::open(options, Box::new(()), fatal, &mut |_, _| {}).expect("it opens")
}

fn id(number: u64) -> TransactionId {
    TransactionId(1 << 127 | u128::from(number))
}

/// So many transfers in one submission, and so in one frame.
fn pay(partition: &Partition, first: u64, count: u64) {
    let transfer = |number: u64| Transfer {
        transaction_id: id(number),
        kind: TransferKind::Transfer,
        from: AccountNumber(1).into(),
        to: AccountNumber(2).into(),
        amount: Amount::from_minor_units(1).expect("an amount"),
        currency: Currency::parse("USD").expect("a currency"),
        metadata: Metadata::default(),
    };
    let (sender, answers) = mpsc::channel();
    let transfers = (first..first + count).map(transfer).collect();
    partition.submit_transfers(transfers, move |answers| drop(sender.send(answers))).expect("there is room");
    assert_eq!(answers.recv().expect("it is answered").len() as u64, count);
}

fn set_up(partition: &Partition) {
    for name in ["alice", "bob"] {
        let open = Command::OpenAccount {
            account_id: AccountId::parse(name).expect("an id"),
            metadata: Metadata::default(),
        };
        let (sender, answer) = mpsc::channel();
        partition.submit_command(open, move |answer| drop(sender.send(answer))).expect("there is room");
        answer.recv().expect("it is answered");
    }
}

fn receipt(partition: &Partition, number: u64) -> String {
    let (sender, sequences) = mpsc::channel();
    partition.query_transaction(id(number), move |found| drop(sender.send(found))).expect("there is room");
    let sequences: Vec<Sequence> = sequences.recv().expect("it is answered");
    partition.receipt(id(number), &sequences).expect("the journal is well").expect("it exists")
}

#[test]
fn two_verifiers_agree_that_a_receipt_proves_its_transaction() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let partition = open(directory.path());
    set_up(&partition);
    let mut next = 1;
    // Frames of one chunk, of two, and of hundreds; lone ones, and many to a checkpoint.
    for count in [1, 3, 15, 40, 64, 65, 700, 4000, 1, 1, 1, 1] {
        pay(&partition, next, count);
        let key = Keys::open(directory.path()).expect("keys").public();
        for number in [next, next + count / 2, next + count - 1] {
            let receipt = receipt(&partition, number);
            let proven = verify_receipt(&receipt, &[key]).expect("it is proven");
            assert_eq!(proven.transaction_id, id(number));
            assert_eq!(independent::transfer_id(&receipt, &key), id(number).to_bytes());
        }
        next += count;
    }
    for _ in 0..1500 {
        pay(&partition, next, 1);
        next += 1;
    }
    // Over full checkpoints, a restart, and a new key: old receipts and new ones.
    let old = receipt(&partition, 2);
    let old_key = Keys::open(directory.path()).expect("keys").public();
    partition.shut_down();
    let keys = Keys::open(directory.path()).expect("keys").rotate().expect("a new key");
    let new_key = keys.public();
    assert_ne!(old_key, new_key);
    assert_eq!(keys.all().expect("both").len(), 2);
    let partition = open(directory.path());
    pay(&partition, next, 1);
    for (number, key) in [(2, old_key), (next - 1000, old_key), (next, new_key)] {
        let receipt = receipt(&partition, number);
        verify_receipt(&receipt, &[key]).expect("it is proven");
        assert_eq!(independent::transfer_id(&receipt, &key), id(number).to_bytes());
    }
    assert_eq!(receipt(&partition, 2), old, "a signed checkpoint never changes");
    assert!(matches!(verify_receipt(&old, &[new_key]), Err(NotProven::UnknownKey(_))));
    partition.shut_down();
}

#[test]
fn no_byte_of_a_receipt_can_be_changed() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let partition = open(directory.path());
    set_up(&partition);
    pay(&partition, 1, 1);
    pay(&partition, 2, 300);
    let key = Keys::open(directory.path()).expect("keys").public();
    for (number, step) in [(1, 1), (150, 7)] {
        let whole = receipt(&partition, number);
        verify_receipt(&whole, &[key]).expect("it is proven");
        for at in (0..whole.len()).step_by(step) {
            for change in [1, 2, 4, 32] {
                let mut bytes = whole.clone().into_bytes();
                bytes[at] ^= change;
                let Ok(changed) = String::from_utf8(bytes) else { continue };
                assert!(verify_receipt(&changed, &[key]).is_err(), "byte {at}, bit {change}");
            }
        }
        assert!(verify_receipt(&whole[..whole.len() - 1], &[key]).is_err());
        assert!(verify_receipt(&format!("{whole} "), &[key]).is_err());
        // Parts of one receipt do not fit another.
        let mut mixed: serde_json::Value = serde_json::from_str(&whole).expect("JSON");
        mixed["transaction_id"] = id(number + 1).to_string().into();
        let mixed = verify_receipt(&mixed.to_string(), &[key]);
        assert!(matches!(mixed, Err(NotProven::Transaction { .. })), "{mixed:?}");
    }
    partition.shut_down();
}

#[test]
fn the_secret_key_is_its_owners_alone() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().expect("a temporary directory");
    Keys::open(directory.path()).expect("keys");
    let files = std::fs::read_dir(directory.path().join("keys")).expect("a directory");
    let secret = files
        .map(|file| file.expect("a file").path())
        .find(|path| path.extension().is_some_and(|end| end == "secret"));
    let mode = std::fs::metadata(secret.expect("a secret")).expect("a file").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn checkpoints_cut_short_are_signed_again() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let partition = open(directory.path());
    set_up(&partition);
    pay(&partition, 1, 1);
    let before = receipt(&partition, 1);
    pay(&partition, 2, 1);
    receipt(&partition, 2);
    partition.shut_down();
    let path = directory.path().join("partition-0/checkpoints");
    let whole = std::fs::read(&path).expect("checkpoints");
    for cut in [whole.len() - 1, whole.len() - 40, 300, 100, 0] {
        std::fs::write(&path, &whole[..cut]).expect("written");
        let partition = open(directory.path());
        let key = Keys::open(directory.path()).expect("keys").public();
        for number in [1, 2] {
            verify_receipt(&receipt(&partition, number), &[key]).expect("it is proven");
        }
        verify_receipt(&before, &[key]).expect("an old receipt stays proven");
        partition.shut_down();
    }
}
