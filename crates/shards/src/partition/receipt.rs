//! Receipts: a file that proves, to whoever has the public key, that a command and its events are in the journal.
//!
//! A receipt has exactly one form, and everything in it is either proven or proves: no byte can be changed. `docs/protocol.md`
//! tells how to check one without this program.

use ledger::codec::{Body, CodecError, Entry};
use ledger::{Sequence, Timestamp, TransactionId};
use serde::{Deserialize, Serialize};
use storage::attestation::{Attestation, AttestationError, CHECKPOINT_SIZE_BYTES, Checkpoint};
use storage::journal::{self, Frame, FrameHeader, FrameIndex, HASHED_HEADER_SIZE_BYTES};
use storage::proof::{ChunkProof, chunks_of, hashed_bytes, merkle};

use super::past::PastError;

const FORMAT: u32 = 1;

/// Why there is no receipt.
#[derive(Debug, thiserror::Error)]
pub enum ReceiptError {
    /// The node has no keys.
    #[error("this node signs no checkpoints")]
    NoKeys,
    /// The event cannot be read back.
    #[error(transparent)]
    Past(#[from] PastError),
    /// No checkpoint covers the frame.
    #[error("there is no signed checkpoint: {0}")]
    Attestation(#[from] AttestationError),
}

/// Why a receipt proves nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotProven {
    /// It is not a receipt, or not in its one form.
    #[error("the file is no receipt of format 1, or was changed: {0}")]
    Form(String),
    /// The checkpoint's signature is wrong.
    #[error("the checkpoint's signature is wrong")]
    Signature,
    /// A key signed that was not asked for.
    #[error("the checkpoint is signed by the key {0}, which is not among those given with --key")]
    UnknownKey(String),
    /// The frame is not among those that the checkpoint signs.
    #[error("the frame is not among those that the checkpoint signs")]
    Frame,
    /// The event is not in the frame.
    #[error("the frame does not hold the event: {0}")]
    Event(String),
    /// Another transaction stands there.
    #[error("event {sequence} is not about transaction {transaction_id}")]
    Transaction {
        /// The event.
        sequence: u64,
        /// Whose receipt it claims to be.
        transaction_id: String,
    },
}

/// The fields are in alphabetical order, so that programs that sort keys do not break the one form.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Receipt {
    checkpoint: String,
    format: u32,
    frame: FrameProof,
    inclusion: Vec<String>,
    sequence: u64,
    transaction_id: String,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FrameProof {
    chunks: Vec<(u32, String)>,
    path: Vec<String>,
    restart: u32,
    size: u32,
}

/// What a receipt proves.
#[derive(Debug, Clone)]
pub struct Proven {
    /// Whose it is.
    pub transaction_id: TransactionId,
    /// The command and its events.
    pub entry: Entry,
    /// When they happened.
    pub timestamp: Timestamp,
    /// The frame in which they stand.
    pub frame_index: FrameIndex,
    /// The checkpoint that signs it.
    pub checkpoint: Checkpoint,
}

/// Makes the receipt of the command with this event.
pub(super) fn make(
    attestation: &Attestation,
    frame: &Frame,
    transaction_id: TransactionId,
    sequence: Sequence,
) -> Result<String, ReceiptError> {
    let in_body = |error| PastError::Body { sequence: sequence.0, error };
    let body = Body::parse(frame.body(), Sequence(frame.first_sequence().0)).map_err(in_body)?;
    let located = body.locate(sequence).map_err(in_body)?;
    let proof = ChunkProof::new(&hashed_bytes(frame), &chunks(&located.ranges));
    let attested = attestation.covering(frame.index())?;
    let position = (frame.index().0 - attested.checkpoint.first_index.0) as usize;
    let inclusion = merkle::path(&attested.hashes, position);
    let receipt = Receipt {
        checkpoint: hex::encode(attested.bytes),
        format: FORMAT,
        frame: FrameProof {
            chunks: proof.chunks.iter().map(|(number, chunk)| (*number, hex::encode(chunk))).collect(),
            path: proof.path.iter().map(hex::encode).collect(),
            restart: located.restart,
            size: proof.size_bytes,
        },
        inclusion: inclusion.iter().map(hex::encode).collect(),
        sequence: sequence.0,
        transaction_id: transaction_id.to_string(),
    };
    Ok(serde_json::to_string(&receipt).expect("a receipt is plain data"))
}

/// The chunks of what is hashed that show the header and these ranges of the body.
fn chunks(ranges: &[std::ops::Range<usize>]) -> Vec<u32> {
    let in_body = |range: &std::ops::Range<usize>| {
        range.start + HASHED_HEADER_SIZE_BYTES..range.end + HASHED_HEADER_SIZE_BYTES
    };
    let all: Vec<_> =
        ranges.iter().map(in_body).chain(std::iter::once(0..HASHED_HEADER_SIZE_BYTES)).collect();
    chunks_of(&all)
}

/// Checks a receipt against the public keys that may have signed it. Needs no server and no other file.
pub fn verify_receipt(text: &str, keys: &[[u8; 32]]) -> Result<Proven, NotProven> {
    let text = text.strip_suffix('\n').unwrap_or(text);
    let form = |why: &dyn std::fmt::Display| NotProven::Form(why.to_string());
    let receipt: Receipt = serde_json::from_str(text).map_err(|error| form(&error))?;
    if receipt.format != FORMAT || serde_json::to_string(&receipt).ok().as_deref() != Some(text) {
        return Err(form(&"it is not written as receipts are"));
    }
    let signed: [u8; CHECKPOINT_SIZE_BYTES] = exactly(&receipt.checkpoint)
        .ok_or_else(|| form(&"the checkpoint is not in lower-case hexadecimal"))?;
    let checkpoint = Checkpoint::verified(&signed).ok_or(NotProven::Signature)?;
    if !keys.contains(&checkpoint.key) {
        return Err(NotProven::UnknownKey(hex::encode(checkpoint.key)));
    }
    let proof = chunk_proof(&receipt.frame)
        .ok_or_else(|| form(&"a hash or chunk is not in lower-case hexadecimal"))?;
    let inclusion: Option<Vec<[u8; 32]>> = receipt.inclusion.iter().map(|hash| exactly(hash)).collect();
    let inclusion = inclusion.ok_or_else(|| form(&"a hash is not in lower-case hexadecimal"))?;

    let hash = proof.root().ok_or(NotProven::Frame)?;
    let bytes = proof.bytes();
    let header = FrameHeader::of_hashed_bytes(&bytes, hash).ok_or(NotProven::Frame)?;
    let position =
        header.index.0.checked_sub(checkpoint.first_index.0).and_then(|place| usize::try_from(place).ok());
    let position = position.filter(|position| *position < checkpoint.frames()).ok_or(NotProven::Frame)?;
    let root = merkle::root_of(hash, position, checkpoint.frames(), &inclusion);
    if header.partition != checkpoint.partition || root != Some(checkpoint.root) {
        return Err(NotProven::Frame);
    }
    let event = |error: CodecError| NotProven::Event(error.to_string());
    let body =
        Body::parse(&bytes[HASHED_HEADER_SIZE_BYTES..], Sequence(header.first_sequence.0)).map_err(event)?;
    let located = body.locate_from(receipt.frame.restart, Sequence(receipt.sequence)).map_err(event)?;
    // Only now is it known that everything just read was shown, and nothing else.
    if !chunks(&located.ranges).iter().eq(proof.chunks.keys()) {
        return Err(NotProven::Event("it shows other parts of the frame than those with the event".into()));
    }
    let other = || NotProven::Transaction {
        sequence: receipt.sequence,
        transaction_id: receipt.transaction_id.clone(),
    };
    let transaction_id =
        located.entry.command.transaction_ids().find(|id| id.to_string() == receipt.transaction_id);
    Ok(Proven {
        transaction_id: transaction_id.ok_or_else(other)?,
        entry: located.entry,
        timestamp: Timestamp::from_micros(header.timestamp_us),
        frame_index: header.index,
        checkpoint,
    })
}

/// Reads hexadecimal in its one form.
fn exactly<const SIZE: usize>(text: &str) -> Option<[u8; SIZE]> {
    decoded(text)?.try_into().ok()
}

fn decoded(text: &str) -> Option<Vec<u8>> {
    hex::decode(text).ok().filter(|bytes| hex::encode(bytes) == text)
}

fn chunk_proof(frame: &FrameProof) -> Option<ChunkProof> {
    let chunk = |(number, text): &(u32, String)| Some((*number, decoded(text)?));
    let chunks: Vec<(u32, Vec<u8>)> = frame.chunks.iter().map(chunk).collect::<Option<_>>()?;
    let ascending = chunks.windows(2).all(|pair| pair[0].0 < pair[1].0);
    let fits = frame.size as usize <= journal::FRAME_SIZE_BYTES_MAX;
    let path = frame.path.iter().map(|hash| exactly(hash)).collect::<Option<_>>()?;
    (ascending && fits).then(|| ChunkProof {
        size_bytes: frame.size,
        chunks: chunks.into_iter().collect(),
        path,
    })
}
