//! `TransferBatchResult`, and the `TransferResult` in it.

use ledger::{Sequence, Timestamp};

use super::read::{
    FIXED64, Fields, LENGTH_DELIMITED, VARINT, key, put_bytes, put_varint, varint_size, zigzag_decoded,
    zigzag_encoded,
};
use super::{Malformed, Message};
use crate::request::TRANSFERS_MAX;

const BATCH_ID: u64 = key(1, VARINT);
const PARTITION: u64 = key(2, VARINT);
const RESULTS: u64 = key(3, LENGTH_DELIMITED);
const BATCH_CODE: u64 = key(4, LENGTH_DELIMITED);
const BATCH_DETAIL: u64 = key(5, LENGTH_DELIMITED);

const CODE: u64 = key(1, LENGTH_DELIMITED);
const DETAIL: u64 = key(2, LENGTH_DELIMITED);
const SEQUENCE: u64 = key(3, VARINT);
const TIMESTAMP: u64 = key(4, FIXED64);
const FROM_BALANCE: u64 = key(5, VARINT);
const TO_BALANCE: u64 = key(6, VARINT);
const REPLAYED: u64 = key(7, VARINT);
const ELSEWHERE: u64 = key(8, VARINT);

/// The balances that a transfer left behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Success {
    /// The payer's available balance, in minor units.
    pub from_balance: i64,
    /// The payee's.
    pub to_balance: i64,
}

/// Why a transfer, or a whole batch, was not executed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// The stable code.
    pub code: String,
    /// In words.
    pub detail: String,
}

/// What became of one transfer of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransferResult {
    /// The partition of its position, where the batch's is another; else 0.
    pub partition: u32,
    /// The position of its event; 0 when the refusal is not recorded.
    pub sequence: Sequence,
    /// The time of its event.
    pub timestamp: Timestamp,
    /// True when this is the first answer again.
    pub replayed: bool,
    /// The balances left behind, or why nothing moved.
    pub outcome: Result<Success, Box<Refused>>,
}

/// What became of a batch.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BatchResult {
    /// The number that the client chose.
    pub batch_id: u64,
    /// The partition of all positions.
    pub partition: u32,
    /// One per transfer, in order.
    pub results: Vec<TransferResult>,
    /// Why the whole batch was not executed.
    pub refused: Option<Refused>,
}

/// Writes a `TransferBatchResult`, result by result.
pub struct ResultWriter {
    buffer: Vec<u8>,
    /// The partition of the results to come, where the batch's is another; else 0.
    elsewhere: u32,
}

/// No success is longer: four numbers, a fixed one and a flag.
const SUCCESS_SIZE_BYTES_MAX: usize = 64;

impl ResultWriter {
    /// Begins the result of a batch of `count` transfers.
    pub fn new(batch_id: u64, partition: u32, count: usize) -> ResultWriter {
        /// A success with a sequence of four bytes and two balances of three.
        const RESULT_SIZE_BYTES: usize = 32;
        let mut buffer = Vec::with_capacity(32 + count * RESULT_SIZE_BYTES);
        put_number(&mut buffer, BATCH_ID, batch_id);
        put_number(&mut buffer, PARTITION, partition.into());
        ResultWriter { buffer, elsewhere: 0 }
    }

    /// The positions of the results to come are in this partition, which need not be the batch's. Only for a batch whose partition is 0.
    pub fn located(&mut self, partition: u32) {
        self.elsewhere = partition;
    }

    /// The next transfer moved money.
    #[inline]
    pub fn success(&mut self, sequence: Sequence, timestamp: Timestamp, replayed: bool, success: Success) {
        // Put together on the stack with its size, so that the buffer grows once.
        let mut bytes = [0; SUCCESS_SIZE_BYTES_MAX];
        bytes[0] = RESULTS as u8;
        let mut at = 2;
        let mut put = |key: u64, mut value: u64| {
            if value == 0 {
                return;
            }
            bytes[at] = key as u8;
            at += 1;
            while value >= 0x80 {
                bytes[at] = value as u8 | 0x80;
                value >>= 7;
                at += 1;
            }
            bytes[at] = value as u8;
            at += 1;
        };
        put(SEQUENCE, sequence.0);
        put(FROM_BALANCE, zigzag_encoded(success.from_balance));
        put(TO_BALANCE, zigzag_encoded(success.to_balance));
        put(REPLAYED, replayed.into());
        put(ELSEWHERE, self.elsewhere.into());
        bytes[at] = TIMESTAMP as u8;
        bytes[at + 1..at + 9].copy_from_slice(&timestamp.as_micros().to_le_bytes());
        at += 9;
        // The key and the size are not part of the size.
        bytes[1] = (at - 2) as u8;
        self.buffer.extend_from_slice(&bytes[..at]);
    }

    /// The next transfer moved nothing.
    pub fn refused(
        &mut self,
        sequence: Sequence,
        timestamp: Timestamp,
        replayed: bool,
        code: &str,
        detail: &str,
    ) {
        let mut body = Vec::with_capacity(32 + code.len() + detail.len());
        put_bytes(&mut body, 1, code.as_bytes());
        put_bytes(&mut body, 2, detail.as_bytes());
        put_number(&mut body, SEQUENCE, sequence.0);
        if timestamp != Timestamp::default() {
            put_varint(&mut body, TIMESTAMP);
            body.extend_from_slice(&timestamp.as_micros().to_le_bytes());
        }
        put_number(&mut body, REPLAYED, replayed.into());
        put_number(&mut body, ELSEWHERE, self.elsewhere.into());
        put_bytes(&mut self.buffer, 3, &body);
    }

    /// The whole result.
    pub fn finish(self) -> Message {
        Message(self.buffer.into())
    }

    /// The result of a batch that was not executed at all.
    pub fn refused_batch(batch_id: u64, partition: u32, code: &str, detail: &str) -> Message {
        let mut writer = ResultWriter::new(batch_id, partition, 0);
        put_bytes(&mut writer.buffer, 4, code.as_bytes());
        put_bytes(&mut writer.buffer, 5, detail.as_bytes());
        writer.finish()
    }
}

/// A number that is left out when it is zero, as protobuf has it.
fn put_number(buffer: &mut Vec<u8>, key: u64, value: u64) {
    if value != 0 {
        buffer.reserve(varint_size(key) + varint_size(value));
        put_varint(buffer, key);
        put_varint(buffer, value);
    }
}

/// Reads what became of a batch.
pub fn read_result(message: &Message) -> Result<BatchResult, Malformed> {
    /// A success with small numbers.
    const RESULT_SIZE_BYTES: usize = 18;
    let mut result = BatchResult::default();
    result.results.reserve((message.0.len() / RESULT_SIZE_BYTES).min(TRANSFERS_MAX));
    let mut refused = Refused { code: String::new(), detail: String::new() };
    let mut fields = Fields(&message.0);
    while let Some(key) = fields.next_key()? {
        match key {
            BATCH_ID => result.batch_id = fields.varint()?,
            PARTITION => {
                result.partition = partition(fields.varint()?)?;
            }
            RESULTS => result.results.push(read_transfer_result(fields.bytes()?)?),
            BATCH_CODE => refused.code = fields.text()?.to_owned(),
            BATCH_DETAIL => refused.detail = fields.text()?.to_owned(),
            unknown => fields.skip(unknown)?,
        }
    }
    if !refused.code.is_empty() {
        result.refused = Some(refused);
    }
    Ok(result)
}

fn partition(number: u64) -> Result<u32, Malformed> {
    u32::try_from(number).map_err(|_| Malformed("a partition is too large"))
}

fn read_transfer_result(message: &[u8]) -> Result<TransferResult, Malformed> {
    let (mut code, mut detail) = ("", "");
    let (mut sequence, mut timestamp, mut replayed, mut elsewhere) = (0, 0, false, 0);
    let mut success = Success { from_balance: 0, to_balance: 0 };
    let mut fields = Fields(message);
    while let Some(key) = fields.next_key()? {
        match key {
            CODE => code = fields.text()?,
            DETAIL => detail = fields.text()?,
            SEQUENCE => sequence = fields.varint()?,
            TIMESTAMP => timestamp = fields.fixed64()? as i64,
            FROM_BALANCE => success.from_balance = zigzag_decoded(fields.varint()?),
            TO_BALANCE => success.to_balance = zigzag_decoded(fields.varint()?),
            REPLAYED => replayed = fields.varint()? != 0,
            ELSEWHERE => elsewhere = partition(fields.varint()?)?,
            unknown => fields.skip(unknown)?,
        }
    }
    let outcome = if code.is_empty() {
        Ok(success)
    } else {
        Err(Box::new(Refused { code: code.to_owned(), detail: detail.to_owned() }))
    };
    Ok(TransferResult {
        partition: elsewhere,
        sequence: Sequence(sequence),
        timestamp: Timestamp::from_micros(timestamp),
        replayed,
        outcome,
    })
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;
    use crate::reference;

    fn written() -> Message {
        let mut writer = ResultWriter::new(9, 3, 4);
        let time = Timestamp::from_micros(1_767_323_045_678_901);
        let success = |from_balance, to_balance| Success { from_balance, to_balance };
        writer.success(Sequence(1), time, false, success(8750, 1250));
        writer.success(Sequence(u64::MAX), time, true, success(i64::MIN, i64::MAX));
        writer.success(Sequence(2), time, false, success(0, 0));
        writer.refused(Sequence(3), time, true, "insufficient_funds", "too little");
        writer.refused(Sequence(0), Timestamp::default(), false, "invalid_amount", "it is 0");
        writer.finish()
    }

    #[test]
    fn what_is_written_is_read_back() {
        let result = read_result(&written()).expect("a result");
        assert_eq!((result.batch_id, result.partition, result.refused), (9, 3, None));
        assert_eq!(result.results.len(), 5);
        assert_eq!(result.results[1].outcome, Ok(Success { from_balance: i64::MIN, to_balance: i64::MAX }));
        assert_eq!(result.results[1].sequence, Sequence(u64::MAX));
        let refused = result.results[3].outcome.as_ref().expect_err("refused");
        assert_eq!((refused.code.as_str(), refused.detail.as_str()), ("insufficient_funds", "too little"));
        let message = ResultWriter::refused_batch(4, 1, "overloaded", "come back later");
        let result = read_result(&message).expect("a result");
        assert_eq!(result.refused.map(|refused| refused.code), Some("overloaded".into()));
    }

    #[test]
    fn results_may_be_elsewhere_than_their_batch() {
        let mut writer = ResultWriter::new(1, 0, 3);
        let time = Timestamp::from_micros(i64::MIN);
        let success = Success { from_balance: i64::MIN, to_balance: i64::MIN };
        writer.success(Sequence(1), time, false, success);
        writer.located(u32::MAX);
        writer.success(Sequence(u64::MAX), time, true, success);
        writer.refused(Sequence(2), time, false, "insufficient_funds", "too little");
        let message = writer.finish();
        let result = read_result(&message).expect("a result");
        let partitions: Vec<u32> = result.results.iter().map(|result| result.partition).collect();
        assert_eq!(partitions, [0, u32::MAX, u32::MAX]);
        let read = reference::TransferBatchResult::decode(message.0.clone()).expect("a message");
        assert_eq!(read.results[2].partition, u32::MAX);
    }

    #[test]
    fn the_library_reads_what_is_written() {
        let message = written();
        let read = reference::TransferBatchResult::decode(message.0.clone()).expect("a message");
        assert_eq!((read.batch_id, read.partition), (9, 3));
        assert_eq!(read.results[0].from_balance, 8750);
        assert_eq!(read.results[0].timestamp_micros, 1_767_323_045_678_901);
        assert_eq!(read.results[1].to_balance, i64::MAX);
        assert!(read.results[1].replayed);
        assert_eq!(read.results[3].code, "insufficient_funds");
        assert_eq!(read.encoded_len(), message.0.len());
        let again = Message(read.encode_to_vec().into());
        assert_eq!(read_result(&again), read_result(&message));
    }

    #[test]
    fn damage_is_told() {
        let message = written();
        for size in 0..message.0.len() {
            // Some cuts fall between two results: what matters is that none panics.
            let _ = read_result(&Message(message.0.slice(..size)));
        }
        assert!(read_result(&Message(message.0.slice(..message.0.len() - 1))).is_err());
    }
}
