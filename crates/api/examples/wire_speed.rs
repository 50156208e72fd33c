//! How long one transfer takes on the wire, each way: `cargo run --release -p api --example wire_speed`.

use std::hint::black_box;
use std::time::Instant;

use api::wire::{Batch, ResultWriter, Success, encode_batch, read_result};
use ledger::{
    AccountId, Amount, Currency, Metadata, Sequence, Timestamp, TransactionId, Transfer, TransferKind,
};

const TRANSFERS: usize = 8190;
const ROUNDS: usize = 500;

fn main() {
    let name = |number: usize| AccountId::parse(&format!("account-{number:07}")).expect("a name").into();
    let transfers: Vec<Transfer> = (0..TRANSFERS)
        .map(|number| Transfer {
            transaction_id: TransactionId(
                (number as u128).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835),
            ),
            kind: TransferKind::Transfer,
            from: name(number * 7919 % 1_000_000),
            to: name(number * 104_729 % 1_000_000 + 1_000_000),
            amount: Amount::from_minor_units(1 + number as u64).expect("an amount"),
            currency: Currency::parse("USD").expect("a currency"),
            metadata: Metadata::default(),
        })
        .collect();
    let batch = encode_batch(1, &transfers);
    let write = || {
        let mut writer = ResultWriter::new(1, 0, TRANSFERS);
        for number in 0..TRANSFERS as u64 {
            let success = Success { from_balance: 1_000_000 + number as i64, to_balance: 2_000_000 };
            let sequence = Sequence(100_000_000 + number);
            writer.success(sequence, Timestamp::from_micros(1_767_323_045_678_901), false, success);
        }
        writer.finish()
    };
    let result = write();
    println!("{} bytes a transfer, {} a result", batch.0.len() / TRANSFERS, result.0.len() / TRANSFERS);
    measure("client: write transfers", || {
        black_box(encode_batch(1, black_box(&transfers)));
    });
    measure("server: read transfers", || {
        black_box(Batch::read(black_box(&batch)).expect("a batch"));
    });
    measure("server: write results", || {
        black_box(write());
    });
    measure("client: read results", || {
        black_box(read_result(black_box(&result)).expect("a result"));
    });
}

fn measure(what: &str, mut act: impl FnMut()) {
    let mut best = f64::MAX;
    for _ in 0..ROUNDS {
        let started = Instant::now();
        act();
        best = best.min(started.elapsed().as_nanos() as f64 / TRANSFERS as f64);
    }
    println!("{what:<26} {best:5.1} ns");
}
