//! `TransferBatch` as bytes, and what matters of `TransferBatchResult`, without anything in between.

use anyhow::ensure;
use api::Code;
use api::wire::Message;
use prost::bytes::{Buf, Bytes};
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};

use super::accounts::Accounts;
use super::arguments::AccountRefs;
use super::http::{NAME_PREFIX, account_name, put_decimal};
use super::load::{Due, Plan};
use super::workload::{Transfer, Workload};

/// Field numbers and wire types of `wallet.proto`, as the byte that begins a field.
mod key {
    pub(super) const BATCH_ID: u8 = 1 << 3;
    pub(super) const TRANSFERS: u8 = 2 << 3 | 2;
    pub(super) const TRANSACTION_ID: u8 = 1 << 3 | 2;
    pub(super) const FROM_ACCOUNT: u8 = 2 << 3 | 2;
    pub(super) const FROM_HANDLE: u8 = 3 << 3;
    pub(super) const TO_ACCOUNT: u8 = 4 << 3 | 2;
    pub(super) const TO_HANDLE: u8 = 5 << 3;
    pub(super) const AMOUNT: u8 = 6 << 3;
    pub(super) const CURRENCY: u8 = 7 << 3 | 2;
}

/// The largest encoded transfer: two names of 15 bytes, an id, an amount and a currency, each with its key.
const TRANSFER_SIZE_BYTES_MAX: usize = 96;
const NAME_SIZE_BYTES: usize = 15;

/// Writes batches.
pub(super) struct BatchEncoder {
    accounts: References,
}

enum References {
    /// The handle of an account is its index and this.
    Consecutive(u32),
    Handles(Vec<u32>),
    Names,
}

impl BatchEncoder {
    pub(super) fn new(plan: &Plan, accounts: &Accounts) -> BatchEncoder {
        let references = match plan.account_refs {
            AccountRefs::Handles => {
                let first = accounts.handles[0];
                let consecutive =
                    accounts.handles.iter().zip(first..).all(|(handle, expected)| *handle == expected);
                if consecutive {
                    References::Consecutive(first)
                } else {
                    References::Handles(accounts.handles.clone())
                }
            }
            AccountRefs::Names => References::Names,
        };
        BatchEncoder { accounts: references }
    }

    /// The batch as it travels.
    pub(super) fn encode(&self, workload: &Workload, due: &Due) -> Message {
        let size = match self.accounts {
            References::Names => 64,
            _ => 40,
        };
        let mut buffer = Vec::with_capacity(16 + workload.batch() as usize * size);
        let mut begin = [0; 11];
        let mut writer = Writer { bytes: &mut begin, at: 0 };
        writer.byte(key::BATCH_ID);
        writer.varint(due.batch);
        let written = writer.at;
        buffer.extend_from_slice(&begin[..written]);
        match &self.accounts {
            References::Consecutive(first) => {
                let handle = |index: u32| first + index;
                workload.generate(due.batch, due.unix_time_ms, |transfer| {
                    put_with_handles(&mut buffer, &transfer, handle);
                });
            }
            References::Handles(handles) => {
                let handle = |index: u32| handles[index as usize];
                workload.generate(due.batch, due.unix_time_ms, |transfer| {
                    put_with_handles(&mut buffer, &transfer, handle);
                });
            }
            References::Names => {
                let name = NameTemplate::new();
                workload.generate(due.batch, due.unix_time_ms, |transfer| {
                    put_with_names(&mut buffer, &transfer, &name);
                });
            }
        }
        Message(Bytes::from(buffer))
    }
}

#[inline]
fn put_with_handles(buffer: &mut Vec<u8>, transfer: &Transfer, handle: impl Fn(u32) -> u32) {
    put(buffer, transfer, |writer| {
        writer.byte(key::FROM_HANDLE);
        writer.varint(handle(transfer.from).into());
        writer.byte(key::TO_HANDLE);
        writer.varint(handle(transfer.to).into());
    });
}

/// Names are made anew each time: a table of a million would cost a cache miss for each.
#[inline]
fn put_with_names(buffer: &mut Vec<u8>, transfer: &Transfer, template: &NameTemplate) {
    put(buffer, transfer, |writer| {
        for (key, account) in [(key::FROM_ACCOUNT, transfer.from), (key::TO_ACCOUNT, transfer.to)] {
            writer.byte(key);
            writer.byte(NAME_SIZE_BYTES as u8);
            writer.array(&template.name(account));
        }
    });
}

struct NameTemplate([u8; NAME_SIZE_BYTES]);

impl NameTemplate {
    fn new() -> NameTemplate {
        NameTemplate(account_name(0).into_bytes().try_into().expect("all names have one length"))
    }

    #[inline]
    fn name(&self, account: u32) -> [u8; NAME_SIZE_BYTES] {
        let mut name = self.0;
        put_decimal(account, &mut name[NAME_PREFIX.len()..]);
        name
    }
}

/// Put together on the stack with its size, so that the buffer grows once.
#[inline]
fn put(buffer: &mut Vec<u8>, transfer: &Transfer, put_accounts: impl FnOnce(&mut Writer<'_>)) {
    let mut bytes = [0; TRANSFER_SIZE_BYTES_MAX];
    let mut writer = Writer { bytes: &mut bytes, at: 0 };
    writer.byte(key::TRANSFERS);
    writer.byte(0);
    writer.array(&[key::TRANSACTION_ID, 16]);
    writer.array(&transfer.transaction_id.to_be_bytes());
    put_accounts(&mut writer);
    writer.byte(key::AMOUNT);
    writer.varint(transfer.minor_units.into());
    writer.array(&[key::CURRENCY, 3, b'U', b'S', b'D']);
    let written = writer.at;
    // One byte is enough for the size of what is below 128 bytes; key and size are not part of it.
    bytes[1] = (written - 2) as u8;
    buffer.extend_from_slice(&bytes[..written]);
}

struct Writer<'bytes> {
    bytes: &'bytes mut [u8],
    at: usize,
}

impl Writer<'_> {
    #[inline]
    fn byte(&mut self, byte: u8) {
        self.bytes[self.at] = byte;
        self.at += 1;
    }

    #[inline]
    fn array<const SIZE: usize>(&mut self, array: &[u8; SIZE]) {
        self.bytes[self.at..self.at + SIZE].copy_from_slice(array);
        self.at += SIZE;
    }

    #[inline]
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.byte(value as u8 | 0x80);
            value >>= 7;
        }
        self.byte(value as u8);
    }
}

/// What became of a batch.
#[derive(Debug, PartialEq, Eq, Default)]
pub(super) struct Outcome {
    pub(super) batch_id: u64,
    pub(super) results: u32,
    pub(super) refused: u32,
    /// Of the results, those that tell to come back with the same id.
    pub(super) unanswered: u32,
    /// Why the whole batch was not executed.
    pub(super) code: Option<String>,
}

impl Outcome {
    #[inline]
    fn count(&mut self, result: &[u8]) {
        const CODE_KEY: u8 = 1 << 3 | 2;
        self.results += 1;
        if let [CODE_KEY, size, rest @ ..] = result {
            let code = rest.get(..usize::from(*size)).unwrap_or_default();
            let says = |wanted: Code| code == wanted.name().as_bytes();
            match says(Code::Unavailable) || says(Code::Overloaded) {
                true => self.unanswered += 1,
                false => self.refused += 1,
            }
        }
    }
}

/// Counts results. One that begins with a code is a refusal: no library writes fields in another order than their numbers'.
pub(super) fn read_outcome(mut bytes: &[u8]) -> anyhow::Result<Outcome> {
    const RESULT_KEY: u8 = 3 << 3 | 2;
    let mut outcome = Outcome::default();
    while bytes.has_remaining() {
        // Nearly everything is a short result.
        if let [RESULT_KEY, size @ 0..0x80, rest @ ..] = bytes
            && let Some((result, rest)) = rest.split_at_checked(usize::from(*size))
        {
            outcome.count(result);
            bytes = rest;
            continue;
        }
        let (field, wire_type) = decode_key(&mut bytes)?;
        match (field, wire_type) {
            (1, WireType::Varint) => outcome.batch_id = decode_varint(&mut bytes)?,
            (3, WireType::LengthDelimited) => {
                outcome.count(take(&mut bytes)?);
            }
            (4, WireType::LengthDelimited) => {
                outcome.code = Some(String::from_utf8_lossy(take(&mut bytes)?).into_owned());
            }
            _ => skip_field(wire_type, field, &mut bytes, DecodeContext::default())?,
        }
    }
    Ok(outcome)
}

#[inline]
fn take<'bytes>(bytes: &mut &'bytes [u8]) -> anyhow::Result<&'bytes [u8]> {
    let size = usize::try_from(decode_varint(bytes)?)?;
    ensure!(size <= bytes.len(), "a field ends after its message");
    let (taken, rest) = bytes.split_at(size);
    *bytes = rest;
    Ok(taken)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use api::wire::{Batch, ResultWriter, Success};
    use ledger::{AccountRef, Sequence, Timestamp};

    use super::super::arguments::{Distribution, IdVersion};
    use super::*;

    fn encode(references: References) -> Batch {
        let workload = Workload::new(5, 1000, 200, IdVersion::V4, Distribution::Uniform);
        let due = Due { batch: 300, since: Instant::now(), unix_time_ms: 1_767_322_985_678 };
        let message = BatchEncoder { accounts: references }.encode(&workload, &due);
        let batch = Batch::read(&message).expect("it is protobuf");
        assert_eq!((batch.batch_id, batch.count, batch.malformed.len()), (300, 200, 0));
        let mut transfers = batch.transfers.iter();
        workload.generate(300, due.unix_time_ms, |sent| {
            let read = transfers.next().expect("as many as were sent");
            assert_eq!(read.transaction_id.0, sent.transaction_id);
            assert_eq!(read.amount.minor_units(), u64::from(sent.minor_units));
            assert_eq!(read.currency.code(), "USD");
        });
        batch
    }

    #[test]
    fn batches_read_as_they_were_meant() {
        for references in [References::Consecutive(2), References::Handles((2..1002).rev().collect())] {
            for transfer in encode(references).transfers {
                assert!(matches!(transfer.from, AccountRef::Number(number) if (2..1002).contains(&number.0)));
                assert_ne!(transfer.from, transfer.to);
            }
        }
        for transfer in encode(References::Names).transfers {
            assert!(
                matches!(&transfer.to, AccountRef::Named(name) if name.as_str().starts_with("bench-000000"))
            );
        }
    }

    #[test]
    fn names_are_those_of_the_accounts() {
        for account in [0, 7, 123_456, 999_999_999] {
            assert_eq!(NameTemplate::new().name(account), account_name(account).as_bytes());
        }
    }

    #[test]
    fn outcomes_count_refusals() {
        let mut writer = ResultWriter::new(7, 0, 4);
        let success = Success { from_balance: -5, to_balance: 0 };
        writer.success(Sequence(9), Timestamp::from_micros(1), false, success);
        writer.refused(Sequence(10), Timestamp::from_micros(1), false, "insufficient_funds", "no money");
        writer.success(Sequence(11), Timestamp::from_micros(1), true, success);
        writer.refused(Sequence(0), Timestamp::default(), false, "unavailable", "repeat it");
        let outcome = read_outcome(&writer.finish().0).expect("it is protobuf");
        assert_eq!(outcome, Outcome { batch_id: 7, results: 4, refused: 1, unanswered: 1, code: None });

        let refused = ResultWriter::refused_batch(8, 0, "overloaded", "come back");
        let outcome = read_outcome(&refused.0).expect("it is protobuf");
        assert_eq!(
            outcome,
            Outcome { batch_id: 8, code: Some("overloaded".to_owned()), ..Outcome::default() }
        );
        assert!(read_outcome(&[3 << 3 | 2, 5, 0]).is_err());
    }
}
