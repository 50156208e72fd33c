//! The two messages of the `Transfers` stream, written and read by hand.
//!
//! The bytes are those of `TransferBatch` and `TransferBatchResult` in `wallet.proto`, as any protobuf library writes them. A batch is
//! decoded straight into `ledger` transfers, without one allocation per transfer; the tests hold both directions against `prost`.

pub(crate) mod batch;
mod plain;
mod read;
mod result;

use bytes::{Buf, BufMut, Bytes};
use prost::DecodeError;
use prost::encoding::{DecodeContext, WireType};

pub use batch::{Batch, Transfers, encode_batch};
pub use result::{BatchResult, Refused, ResultWriter, Success, TransferResult, read_result};

/// The bytes are no protobuf message of the expected type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the message is damaged: {0}")]
pub struct Malformed(pub(crate) &'static str);

/// A message that stays as it travels: encoded. To `tonic` it is a protobuf message like any other.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Message(pub Bytes);

impl prost::Message for Message {
    fn encode_raw(&self, buffer: &mut impl BufMut) {
        buffer.put_slice(&self.0);
    }

    fn merge_field(
        &mut self,
        _tag: u32,
        _wire_type: WireType,
        _buffer: &mut impl Buf,
        _context: DecodeContext,
    ) -> Result<(), DecodeError> {
        unreachable!("the message is taken whole, by `decode` or `merge`")
    }

    fn encoded_len(&self) -> usize {
        self.0.len()
    }

    fn decode(mut buffer: impl Buf) -> Result<Message, DecodeError> {
        Ok(Message(buffer.copy_to_bytes(buffer.remaining())))
    }

    fn merge(&mut self, buffer: impl Buf) -> Result<(), DecodeError> {
        *self = Message::decode(buffer)?;
        Ok(())
    }

    fn clear(&mut self) {
        self.0.clear();
    }
}
