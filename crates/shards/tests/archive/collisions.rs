//! The index of ids keeps their hashes alone: an id that shares its hash with another one is still an id of its own. Such ids are made
//! here with the directory's seed, which nobody outside knows, by the formula of `docs/formats.md`.

use ledger::{Command, Group, HoldRequest, Sequence, TransactionId, Transfer};
use shards::partition::CommandAnswer;
use storage::store::{self, StoreOptions};

use crate::scene::{Scene, batch, pay};

fn seed(scene: &Scene) -> u64 {
    let store = store::open_read_only(&scene.data().join("state"), &StoreOptions::default());
    let position = store.expect("it opens").expect("it is there").get(b"P").expect("it is read");
    let position = position.expect("there is a checkpoint");
    assert_eq!(position[0], 2, "the version that this test knows");
    u64::from_le_bytes(position[17..25].try_into().expect("eight bytes"))
}

fn fold(one: u64, two: u64) -> u64 {
    let product = u128::from(one) * u128::from(two);
    product as u64 ^ (product >> 64) as u64
}

/// Another id with the same hash; a different one for each variant.
fn colliding(seed: u64, id: TransactionId, variant: u64) -> TransactionId {
    const FIRST: u64 = 0xa076_1d64_78bd_642f;
    let (upper, lower) = ((id.0 >> 64) as u64, id.0 as u64);
    let other_upper = upper ^ variant << 3;
    let other_lower = fold(upper ^ seed, FIRST) ^ lower ^ fold(other_upper ^ seed, FIRST);
    TransactionId(u128::from(other_upper) << 64 | u128::from(other_lower))
}

#[test]
fn ids_with_the_same_hash_are_told_apart() {
    let mut scene = Scene::new();
    let originals = batch(1);
    let first = scene.transfers(originals.clone());
    scene.restart();
    scene.stop();
    let seed = seed(&scene);
    scene.start_with(scene.options());
    let others = |variant: u64| -> Vec<Transfer> {
        let other = |original: &Transfer| Transfer {
            transaction_id: colliding(seed, original.transaction_id, variant),
            ..pay(77 + u128::from(variant), 1, 2)
        };
        originals.iter().map(other).collect()
    };

    // In the store, then in a window as well, then in the archive alone.
    for variant in 1..4 {
        let answers = scene.transfers(others(variant));
        assert!(answers.iter().all(|answer| answer.outcome.is_ok() && !answer.replayed), "variant {variant}");
        let again = scene.transfers(others(variant));
        assert!(
            again
                .iter()
                .zip(&answers)
                .all(|(again, answer)| again.sequence == answer.sequence && again.replayed)
        );
        let old = scene.transfers(originals.clone());
        assert!(old.iter().zip(&first).all(|(old, first)| old.sequence == first.sequence && old.replayed));
        if variant == 2 {
            (2..60).for_each(|round| scene.run(batch(round)));
            scene.partition().archiver().expect("it has one").flush().expect("the store is well");
            scene.restart();
            let local = scene.partition().reader().local();
            local
                .frame_containing(storage::journal::Sequence(first[0].sequence.0))
                .expect_err("it was released");
        }
    }

    // Legs and holds likewise.
    let legs = others(4)[..5].to_vec();
    let group_id = colliding(seed, originals[6].transaction_id, 4);
    let group = Command::Group(Box::new(Group { transaction_id: group_id, legs }));
    let hold_id = colliding(seed, originals[7].transaction_id, 4);
    let transfer = Transfer { transaction_id: hold_id, ..pay(78, 3, 4) };
    let hold = Command::Hold(Box::new(HoldRequest { transfer, expires_in_seconds: None }));
    let confirm = Command::ConfirmHold {
        transaction_id: colliding(seed, originals[8].transaction_id, 4),
        hold_id,
        amount: None,
    };
    for expected in [false, true] {
        for command in [&group, &hold, &confirm] {
            let answer = scene.try_command(command.clone()).expect("it is answered");
            let executed =
                matches!(&answer, CommandAnswer::Executed { replayed, .. } if *replayed == expected);
            assert!(executed, "{command:?}: {answer:?}");
        }
    }

    // An id that was never used has no history, though its hash has.
    let unused = colliding(seed, originals[0].transaction_id, 9);
    let (sender, sequences) = std::sync::mpsc::channel();
    scene
        .partition()
        .query_transaction(unused, move |found| drop(sender.send(found)))
        .expect("there is room");
    let sequences: Vec<Sequence> = sequences.recv().expect("it is answered");
    assert!(sequences.len() >= 3, "{sequences:?}");
    assert!(scene.partition().read_transaction(unused, &sequences).expect("it is read").is_none());
    assert!(scene.partition().receipt(unused, &sequences).expect("it is read").is_none());
    let original = originals[0].transaction_id;
    let found = scene.partition().read_transaction(original, &sequences).expect("it is read");
    let records = found.expect("it was used").records;
    assert_eq!(records.iter().map(|record| record.sequence).collect::<Vec<_>>(), [first[0].sequence]);

    let digest = scene.state().digest;
    scene.stop();
    assert_eq!(scene.report().digest, digest);
}
