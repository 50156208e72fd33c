//! Reading a `Transfer` whose fields stand one after the other, each once, as every library writes them, and without metadata:
//! nearly all do, and need no look at what comes next.

use ledger::{Amount, Currency, Metadata, TransactionId, Transfer, TransferKind};

use super::batch::{
    AMOUNT, CURRENCY, FROM_ACCOUNT, FROM_HANDLE, Party, TO_ACCOUNT, TO_HANDLE, TRANSACTION_ID, known_party,
};
use super::read::Fields;

const ID_HEAD: [u8; 2] = [TRANSACTION_ID as u8, size_of::<TransactionId>() as u8];
const CURRENCY_HEAD: [u8; 2] = [CURRENCY as u8, 3];

/// Reads the plain ones of a batch.
#[derive(Default)]
pub(super) struct PlainReader {
    /// The currency looked up last: most batches have one.
    currency: Option<([u8; 3], Currency)>,
}

impl PlainReader {
    /// The transfer; `None` when it is unusual or malformed, and must be read field by field.
    #[inline(always)]
    pub(super) fn read(&mut self, message: &[u8]) -> Option<Transfer> {
        let (head, rest) = message.split_first_chunk()?;
        let (id, rest) = rest.split_first_chunk()?;
        let mut fields = Fields(rest);
        let from = party(&mut fields, FROM_ACCOUNT, FROM_HANDLE)?;
        let to = party(&mut fields, TO_ACCOUNT, TO_HANDLE)?;
        let amount_key = fields.next_key().ok()??;
        let amount = Amount::from_minor_units(fields.varint().ok()?)?;
        let [one, two, code @ ..] = *<&[u8; 5]>::try_from(fields.0).ok()?;
        // Compared as they came: a name that was only just put together is slow to read.
        if *head != ID_HEAD || amount_key != AMOUNT || [one, two] != CURRENCY_HEAD || from == to {
            return None;
        }
        Some(Transfer {
            transaction_id: TransactionId::from_bytes(*id),
            kind: TransferKind::Transfer,
            from: known_party(from)?,
            to: known_party(to)?,
            amount,
            currency: self.currency(code)?,
            metadata: Metadata::default(),
        })
    }

    #[inline(always)]
    fn currency(&mut self, code: [u8; 3]) -> Option<Currency> {
        match self.currency {
            Some((known, currency)) if known == code => Some(currency),
            _ => {
                let currency = Currency::parse(std::str::from_utf8(&code).ok()?)?;
                self.currency = Some((code, currency));
                Some(currency)
            }
        }
    }
}

#[inline(always)]
fn party<'message>(
    fields: &mut Fields<'message>,
    account_key: u64,
    handle_key: u64,
) -> Option<Party<'message>> {
    let key = fields.next_key().ok()??;
    if key == handle_key {
        fields.varint().ok().map(Party::Handle)
    } else if key == account_key {
        fields.bytes().ok().map(Party::Account)
    } else {
        None
    }
}
