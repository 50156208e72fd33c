//! `TransferBatch`, and the `Transfer` in it.

use ledger::{
    AccountId, AccountNumber, AccountRef, Amount, Currency, Metadata, TransactionId, Transfer, TransferKind,
};

use super::plain::PlainReader;
use super::read::{Fields, LENGTH_DELIMITED, VARINT, key, put_bytes, put_varint, varint_size};
use super::{Malformed, Message};
use crate::request::TRANSFERS_MAX;
use crate::{Code, Problem};

const BATCH_ID: u64 = key(1, VARINT);
const TRANSFERS: u64 = key(2, LENGTH_DELIMITED);

pub(super) const TRANSACTION_ID: u64 = key(1, LENGTH_DELIMITED);
pub(super) const FROM_ACCOUNT: u64 = key(2, LENGTH_DELIMITED);
pub(super) const FROM_HANDLE: u64 = key(3, VARINT);
pub(super) const TO_ACCOUNT: u64 = key(4, LENGTH_DELIMITED);
pub(super) const TO_HANDLE: u64 = key(5, VARINT);
pub(super) const AMOUNT: u64 = key(6, VARINT);
pub(super) const CURRENCY: u64 = key(7, LENGTH_DELIMITED);
const METADATA: u64 = key(8, LENGTH_DELIMITED);
const METADATA_KEY: u64 = key(1, LENGTH_DELIMITED);
const METADATA_VALUE: u64 = key(2, LENGTH_DELIMITED);

/// A batch that was read: transfers to execute, and those that are malformed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// The client's number.
    pub batch_id: u64,
    /// How many transfers the batch has. Above [`TRANSFERS_MAX`] none of them was read.
    pub count: usize,
    /// The well-formed ones, in order.
    pub transfers: Vec<Transfer>,
    /// The others: their index in the batch, ascending, and what is wrong.
    pub malformed: Vec<(usize, Problem)>,
}

impl Batch {
    /// Reads a batch. What is wrong with one transfer is that transfer's own problem.
    pub fn read(message: &Message) -> Result<Batch, Malformed> {
        Batch::read_into(message, Vec::new())
    }

    /// As [`Batch::read`], with the transfers in a vector that may have memory already. It must be empty.
    pub fn read_into(message: &Message, transfers: Vec<Transfer>) -> Result<Batch, Malformed> {
        /// The least that a transfer takes, but for unusually small handles.
        const TRANSFER_SIZE_BYTES: usize = 32;
        assert!(transfers.is_empty(), "a batch begins with its own transfers");
        let mut batch = Batch { transfers, ..Batch::default() };
        batch.transfers.reserve((message.0.len() / TRANSFER_SIZE_BYTES).min(TRANSFERS_MAX));
        let (mut fields, mut plain) = (Fields(&message.0), PlainReader::default());
        while let Some(key) = fields.next_key()? {
            match key {
                BATCH_ID => batch.batch_id = fields.varint()?,
                TRANSFERS => {
                    let transfer = fields.bytes()?;
                    batch.count += 1;
                    if batch.count <= TRANSFERS_MAX {
                        if let Some(transfer) = plain.read(transfer) {
                            batch.transfers.push(transfer);
                            continue;
                        }
                        let fields = read_transfer(transfer)?;
                        match well_formed(&fields) {
                            Some(transfer) => batch.transfers.push(transfer),
                            None => batch.malformed.push((batch.count - 1, why_malformed(&fields))),
                        }
                    }
                }
                unknown => fields.skip(unknown)?,
            }
        }
        if batch.count > TRANSFERS_MAX {
            batch.transfers.clear();
            batch.malformed.clear();
        }
        Ok(batch)
    }
}

/// Finds single transfers of a batch again, to word a refusal: the batch itself went to the ledger.
pub struct Transfers<'message> {
    fields: Fields<'message>,
    next: usize,
}

impl<'message> Transfers<'message> {
    /// Of a batch that was read before.
    pub fn of(message: &'message Message) -> Transfers<'message> {
        Transfers { fields: Fields(&message.0), next: 0 }
    }

    /// The well-formed transfer at this index of the batch. Indices must ascend from call to call.
    pub fn at(&mut self, index: usize) -> Option<Transfer> {
        while let Some(key) = self.fields.next_key().ok()? {
            if key != TRANSFERS {
                self.fields.skip(key).ok()?;
                continue;
            }
            let transfer = self.fields.bytes().ok()?;
            self.next += 1;
            if self.next == index + 1 {
                return well_formed(&read_transfer(transfer).ok()?);
            }
        }
        None
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Party<'message> {
    Account(&'message [u8]),
    Handle(u64),
}

/// What a `Transfer` says, not checked yet.
#[derive(Default)]
pub(crate) struct TransferFields<'message> {
    pub(crate) transaction_id: &'message [u8],
    pub(crate) from: Option<Party<'message>>,
    pub(crate) to: Option<Party<'message>>,
    pub(crate) amount: u64,
    pub(crate) currency: &'message [u8],
    pub(crate) metadata: Vec<(&'message str, &'message str)>,
}

fn read_transfer(message: &[u8]) -> Result<TransferFields<'_>, Malformed> {
    let mut transfer = TransferFields::default();
    let mut fields = Fields(message);
    while let Some(key) = fields.next_key()? {
        match key {
            TRANSACTION_ID => transfer.transaction_id = fields.bytes()?,
            FROM_ACCOUNT => transfer.from = Some(Party::Account(fields.bytes()?)),
            FROM_HANDLE => transfer.from = Some(Party::Handle(fields.varint()?)),
            TO_ACCOUNT => transfer.to = Some(Party::Account(fields.bytes()?)),
            TO_HANDLE => transfer.to = Some(Party::Handle(fields.varint()?)),
            AMOUNT => transfer.amount = fields.varint()?,
            CURRENCY => transfer.currency = fields.bytes()?,
            METADATA => transfer.metadata.push(read_pair(fields.bytes()?)?),
            unknown => fields.skip(unknown)?,
        }
    }
    Ok(transfer)
}

fn read_pair(message: &[u8]) -> Result<(&str, &str), Malformed> {
    let mut pair = ("", "");
    let mut fields = Fields(message);
    while let Some(key) = fields.next_key()? {
        match key {
            METADATA_KEY => pair.0 = fields.text()?,
            METADATA_VALUE => pair.1 = fields.text()?,
            unknown => fields.skip(unknown)?,
        }
    }
    Ok(pair)
}

/// The checks of `request`, in the same order.
pub(crate) fn check(fields: &TransferFields<'_>) -> Result<Transfer, Problem> {
    well_formed(fields).ok_or_else(|| why_malformed(fields))
}

/// The hot path: whether, not why.
#[inline(always)]
fn well_formed(fields: &TransferFields<'_>) -> Option<Transfer> {
    let transaction_id = TransactionId::from_bytes(fields.transaction_id.try_into().ok()?);
    let (from, to) = (fields.from?, fields.to?);
    // Compared as they came: a name that was only just put together is slow to read.
    if from == to {
        return None;
    }
    let (from, to) = (known_party(from)?, known_party(to)?);
    let currency = Currency::parse(std::str::from_utf8(fields.currency).ok()?)?;
    let amount = Amount::from_minor_units(fields.amount)?;
    let metadata = match fields.metadata.as_slice() {
        [] => Metadata::default(),
        pairs => Metadata::new(pairs.iter().copied()).ok()?,
    };
    Some(Transfer { transaction_id, kind: TransferKind::Transfer, from, to, amount, currency, metadata })
}

#[inline(always)]
pub(super) fn known_party(party: Party<'_>) -> Option<AccountRef> {
    match party {
        Party::Account(bytes) => {
            AccountId::parse(std::str::from_utf8(bytes).ok()?).ok().map(AccountRef::Named)
        }
        Party::Handle(0) => None,
        Party::Handle(handle) => u32::try_from(handle).ok().map(|handle| AccountNumber(handle).into()),
    }
}

/// The first check that fails, in words.
#[cold]
fn why_malformed(fields: &TransferFields<'_>) -> Problem {
    let transaction_id = match check_transaction_id("transaction_id", fields.transaction_id) {
        Ok(transaction_id) => transaction_id,
        Err(problem) => return problem,
    };
    let check = || {
        let from = account("from", fields.from)?;
        let to = account("to", fields.to)?;
        check_currency(fields.currency)?;
        check_amount(fields.amount)?;
        if from == to {
            return Err(Problem::new(Code::SameAccount, "payer and payee are the same account"));
        }
        check_metadata(fields.metadata.iter().copied())
    };
    match check() {
        Err(problem) => problem.with_transaction(transaction_id),
        Ok(_) => unreachable!("the same checks just failed"),
    }
}

fn account(side: &str, party: Option<Party<'_>>) -> Result<AccountRef, Problem> {
    match party {
        None => Err(Problem::new(Code::InvalidRequest, format!("missing field `{side}_account`"))),
        Some(party) => known_party(party).ok_or_else(|| match party {
            Party::Account(bytes) => bad_account(side, bytes),
            Party::Handle(handle) => bad_handle(side, handle),
        }),
    }
}

pub(crate) fn check_transaction_id(field: &str, bytes: &[u8]) -> Result<TransactionId, Problem> {
    match <[u8; 16]>::try_from(bytes) {
        Ok(bytes) => Ok(TransactionId::from_bytes(bytes)),
        Err(_) => {
            let detail = format!("{field} must have 16 bytes, it has {}", bytes.len());
            Err(Problem::new(Code::InvalidTransactionId, detail))
        }
    }
}

pub(crate) fn check_currency(code: &[u8]) -> Result<Currency, Problem> {
    std::str::from_utf8(code).ok().and_then(Currency::parse).ok_or_else(|| bad_currency(code))
}

pub(crate) fn check_amount(minor_units: u64) -> Result<Amount, Problem> {
    Amount::from_minor_units(minor_units).ok_or_else(|| bad_amount(minor_units))
}

pub(crate) fn check_metadata<'text>(
    pairs: impl IntoIterator<Item = (&'text str, &'text str)>,
) -> Result<Metadata, Problem> {
    Metadata::new(pairs).map_err(|error| Problem::new(Code::InvalidRequest, format!("metadata {error}")))
}

#[cold]
fn bad_account(side: &str, bytes: &[u8]) -> Problem {
    let text = String::from_utf8_lossy(bytes);
    let error = ledger::IdentityError::AccountId;
    let detail = format!("{side}_account {error}, it is {:?}", crate::request::shortened(&text));
    Problem::new(Code::InvalidAccountId, detail)
}

#[cold]
fn bad_handle(side: &str, handle: u64) -> Problem {
    let detail = format!("{side}_handle must be the handle of a user's account, it is {handle}");
    Problem::new(Code::InvalidAccountId, detail)
}

#[cold]
fn bad_currency(bytes: &[u8]) -> Problem {
    let text = String::from_utf8_lossy(bytes);
    let shown = crate::request::shortened(&text);
    let detail = format!("currency must be an ISO 4217 code such as \"USD\", it is {shown:?}");
    Problem::new(Code::InvalidCurrency, detail)
}

#[cold]
fn bad_amount(minor_units: u64) -> Problem {
    let detail = format!("amount_minor_units must be from 1 to 2^63-1, it is {minor_units}");
    Problem::new(Code::InvalidAmount, detail)
}

/// Writes a batch. Only the ids, accounts, money and metadata travel: every transfer is one between two accounts of users.
pub fn encode_batch(batch_id: u64, transfers: &[Transfer]) -> Message {
    /// With room for a name of middling length on both sides.
    const TRANSFER_SIZE_BYTES: usize = 64;
    let mut buffer = Vec::with_capacity(16 + transfers.len() * TRANSFER_SIZE_BYTES);
    put_varint(&mut buffer, BATCH_ID);
    put_varint(&mut buffer, batch_id);
    for transfer in transfers {
        put_varint(&mut buffer, TRANSFERS);
        put_varint(&mut buffer, transfer_size(transfer) as u64);
        put_transfer(&mut buffer, transfer);
    }
    Message(buffer.into())
}

fn account_size(account: &AccountRef) -> usize {
    match account {
        AccountRef::Named(name) => 2 + name.as_str().len(),
        AccountRef::Number(number) => 1 + varint_size(number.0.into()),
    }
}

/// A text field whose key takes one byte; left out when it is empty, as protobuf has it.
fn text_size(text: &str) -> usize {
    if text.is_empty() { 0 } else { 1 + varint_size(text.len() as u64) + text.len() }
}

fn transfer_size(transfer: &Transfer) -> usize {
    /// Key, size and bytes of the id, and of the three letters of the currency; the key of the amount.
    const CONSTANT_SIZE_BYTES: usize = 18 + 5 + 1;
    let pairs = transfer.metadata.iter().map(|(key, value)| {
        let size = text_size(key) + text_size(value);
        1 + varint_size(size as u64) + size
    });
    CONSTANT_SIZE_BYTES
        + account_size(&transfer.from)
        + account_size(&transfer.to)
        + varint_size(transfer.amount.minor_units())
        + pairs.sum::<usize>()
}

fn put_transfer(buffer: &mut Vec<u8>, transfer: &Transfer) {
    put_bytes(buffer, 1, &transfer.transaction_id.to_bytes());
    for (account, name_field, handle_field) in
        [(&transfer.from, 2, FROM_HANDLE), (&transfer.to, 4, TO_HANDLE)]
    {
        match account {
            AccountRef::Named(name) => put_bytes(buffer, name_field, name.as_str().as_bytes()),
            AccountRef::Number(number) => {
                put_varint(buffer, handle_field);
                put_varint(buffer, number.0.into());
            }
        }
    }
    put_varint(buffer, AMOUNT);
    put_varint(buffer, transfer.amount.minor_units());
    put_bytes(buffer, 7, transfer.currency.code().as_bytes());
    for (pair_key, value) in transfer.metadata.iter() {
        put_varint(buffer, METADATA);
        put_varint(buffer, (text_size(pair_key) + text_size(value)) as u64);
        for (number, text) in [(1, pair_key), (2, value)] {
            if !text.is_empty() {
                put_bytes(buffer, number, text.as_bytes());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;
    use crate::reference;

    fn transfer(from: AccountRef, to: AccountRef, metadata: &[(&str, &str)]) -> Transfer {
        Transfer {
            transaction_id: TransactionId(0x0189_0d9e_3c1b_7c5f_9d6e_0b6f_0f0c_9a11),
            kind: TransferKind::Transfer,
            from,
            to,
            amount: Amount::from_minor_units(1250).expect("an amount"),
            currency: Currency::parse("USD").expect("a currency"),
            metadata: Metadata::new(metadata.iter().copied()).expect("metadata"),
        }
    }

    fn named(name: &str) -> AccountRef {
        AccountRef::Named(AccountId::parse(name).expect("a name"))
    }

    fn samples() -> Vec<Transfer> {
        let long = "x".repeat(64);
        let notes = "y".repeat(600);
        vec![
            transfer(named("alice"), named("bob"), &[]),
            transfer(named(&long), AccountNumber(1).into(), &[("order", "A-17"), ("empty", "")]),
            transfer(AccountNumber(u32::MAX).into(), named(&long), &[("long", &notes)]),
        ]
    }

    #[test]
    fn what_is_written_is_read_back() {
        let message = encode_batch(7, &samples());
        let batch = Batch::read(&message).expect("a batch");
        assert_eq!((batch.batch_id, batch.count, batch.malformed.len()), (7, 3, 0));
        assert_eq!(batch.transfers, samples());
        let mut again = Transfers::of(&message);
        assert_eq!(again.at(0).as_ref(), samples().first());
        assert_eq!(again.at(2).as_ref(), samples().get(2));
        assert_eq!(again.at(3), None);
    }

    #[test]
    fn the_library_reads_what_is_written() {
        let message = encode_batch(u64::MAX, &samples());
        let read = reference::TransferBatch::decode(message.0.clone()).expect("a message");
        assert_eq!(read.batch_id, u64::MAX);
        assert_eq!(read.transfers.len(), 3);
        let first = &read.transfers[0];
        assert_eq!(first.transaction_id, samples()[0].transaction_id.to_bytes());
        assert_eq!(first.from, Some(reference::transfer::From::FromAccount("alice".into())));
        assert_eq!(first.to, Some(reference::transfer::To::ToAccount("bob".into())));
        assert_eq!((first.amount_minor_units, first.currency.as_str()), (1250, "USD"));
        assert_eq!(read.transfers[1].metadata["order"], "A-17");
        assert_eq!(read.encoded_len(), message.0.len(), "the same bytes, but for the order of the pairs");
    }

    #[test]
    fn fields_in_any_order_say_the_same() {
        let plain = transfer(AccountNumber(300).into(), AccountNumber(1 << 20).into(), &[]);
        let fields: [&[u8]; 5] = [
            &[&[TRANSACTION_ID as u8, 16], plain.transaction_id.to_bytes().as_slice()].concat(),
            &[FROM_HANDLE as u8, 0xac, 2],
            &[TO_HANDLE as u8, 0x80, 0x80, 0x40],
            &[AMOUNT as u8, 0xe2, 9],
            &[CURRENCY as u8, 3, b'U', b'S', b'D'],
        ];
        for order in [[0, 1, 2, 3, 4], [4, 3, 2, 1, 0], [2, 1, 0, 4, 3]] {
            for repeated in 0..fields.len() {
                let body = [order.map(|field| fields[field]).concat(), fields[repeated].to_vec()].concat();
                for size in [body.len() - fields[repeated].len(), body.len()] {
                    let mut message = Vec::new();
                    put_bytes(&mut message, 2, &body[..size]);
                    let batch = Batch::read(&Message(message.into())).expect("a batch");
                    assert_eq!(batch.transfers, std::slice::from_ref(&plain));
                }
            }
        }
    }

    #[test]
    fn each_malformed_transfer_is_its_own_problem() {
        let good = || reference::Transfer {
            transaction_id: vec![7; 16],
            from: Some(reference::transfer::From::FromAccount("alice".into())),
            to: Some(reference::transfer::To::ToHandle(2)),
            amount_minor_units: 1,
            currency: "JPY".into(),
            metadata: Default::default(),
        };
        type Change = fn(&mut reference::Transfer);
        let rows: [(&str, Change); 10] = [
            ("invalid_transaction_id", |transfer| transfer.transaction_id.truncate(15)),
            ("invalid_request", |transfer| transfer.from = None),
            ("invalid_account_id", |transfer| transfer.to = Some(reference::transfer::To::ToHandle(0))),
            ("invalid_account_id", |transfer| {
                transfer.to = Some(reference::transfer::To::ToAccount("@external".into()));
            }),
            ("invalid_currency", |transfer| transfer.currency = "usd".into()),
            ("invalid_amount", |transfer| transfer.amount_minor_units = 0),
            ("invalid_amount", |transfer| transfer.amount_minor_units = 1 << 63),
            ("same_account", |transfer| {
                transfer.to = Some(reference::transfer::To::ToAccount("alice".into()));
            }),
            ("invalid_request", |transfer| {
                transfer.metadata = (0..17).map(|key| (key.to_string(), String::new())).collect();
            }),
            ("invalid_currency", |transfer| transfer.currency.clear()),
        ];
        let mut transfers = vec![good()];
        for (_, change) in &rows {
            let mut transfer = good();
            change(&mut transfer);
            transfers.push(transfer);
        }
        transfers.push(good());
        let message = reference::TransferBatch { batch_id: 1, transfers }.encode_to_vec();
        let batch = Batch::read(&Message(message.into())).expect("a batch");
        assert_eq!(batch.transfers.len(), 2);
        let codes: Vec<(usize, &str)> =
            batch.malformed.iter().map(|(index, problem)| (*index, problem.code.name())).collect();
        let expected: Vec<(usize, &str)> =
            rows.iter().enumerate().map(|(index, (code, _))| (index + 1, *code)).collect();
        assert_eq!(codes, expected);
    }

    #[test]
    fn damage_is_told_and_unknown_fields_are_passed_over() {
        let message = encode_batch(7, &samples());
        for size in 0..message.0.len() {
            // Some cuts fall between two transfers: what matters is that none panics.
            let _ = Batch::read(&Message(message.0.slice(..size)));
        }
        assert!(Batch::read(&Message(message.0.slice(..message.0.len() - 1))).is_err());
        let mut extended = message.0.to_vec();
        put_bytes(&mut extended, 99, b"from a later version");
        let batch = Batch::read(&Message(extended.into())).expect("a batch");
        assert_eq!(batch.transfers.len(), 3);
    }
}
