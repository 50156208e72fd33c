//! A verifier written from `docs/protocol.md` alone: it shares no code with the project, not even its BLAKE3.

use ed25519_dalek::{Signature, Verifier, VerifyingKey};
use serde_json::Value;

const IV: [u32; 8] =
    [0x6A09_E667, 0xBB67_AE85, 0x3C6E_F372, 0xA54F_F53A, 0x510E_527F, 0x9B05_688C, 0x1F83_D9AB, 0x5BE0_CD19];
const PERMUTATION: [usize; 16] = [2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8];
const CHUNK_START: u32 = 1;
const CHUNK_END: u32 = 2;
const PARENT: u32 = 4;
const ROOT: u32 = 8;
const CHUNK: usize = 1024;

fn mix(state: &mut [u32; 16], [a, b, c, d]: [usize; 4], x: u32, y: u32) {
    state[a] = state[a].wrapping_add(state[b]).wrapping_add(x);
    state[d] = (state[d] ^ state[a]).rotate_right(16);
    state[c] = state[c].wrapping_add(state[d]);
    state[b] = (state[b] ^ state[c]).rotate_right(12);
    state[a] = state[a].wrapping_add(state[b]).wrapping_add(y);
    state[d] = (state[d] ^ state[a]).rotate_right(8);
    state[c] = state[c].wrapping_add(state[d]);
    state[b] = (state[b] ^ state[c]).rotate_right(7);
}

fn compress(value: [u32; 8], block: &[u8], counter: u64, flags: u32) -> [u32; 8] {
    let mut padded = [0; 64];
    padded[..block.len()].copy_from_slice(block);
    let mut words: Vec<u32> =
        padded.chunks(4).map(|word| u32::from_le_bytes([word[0], word[1], word[2], word[3]])).collect();
    let mut state = [0; 16];
    state[..8].copy_from_slice(&value);
    state[8..12].copy_from_slice(&IV[..4]);
    state[12..].copy_from_slice(&[counter as u32, (counter >> 32) as u32, block.len() as u32, flags]);
    for round in 0..7 {
        let lanes = [
            [0, 4, 8, 12],
            [1, 5, 9, 13],
            [2, 6, 10, 14],
            [3, 7, 11, 15],
            [0, 5, 10, 15],
            [1, 6, 11, 12],
            [2, 7, 8, 13],
            [3, 4, 9, 14],
        ];
        for (number, lane) in lanes.into_iter().enumerate() {
            mix(&mut state, lane, words[2 * number], words[2 * number + 1]);
        }
        if round < 6 {
            words = PERMUTATION.iter().map(|place| words[*place]).collect();
        }
    }
    std::array::from_fn(|place| state[place] ^ state[place + 8])
}

fn bytes_of(value: [u32; 8]) -> [u8; 32] {
    let bytes: Vec<u8> = value.iter().flat_map(|word| word.to_le_bytes()).collect();
    bytes.try_into().expect("32 bytes")
}

fn chunk_value(bytes: &[u8], number: u64, root: u32) -> [u8; 32] {
    let mut value = IV;
    let blocks: Vec<&[u8]> = if bytes.is_empty() { vec![&[]] } else { bytes.chunks(64).collect() };
    for (place, block) in blocks.iter().enumerate() {
        let start = if place == 0 { CHUNK_START } else { 0 };
        let end = if place + 1 == blocks.len() { CHUNK_END | root } else { 0 };
        value = compress(value, block, number, start | end);
    }
    bytes_of(value)
}

fn parent(left: [u8; 32], right: [u8; 32], root: u32) -> [u8; 32] {
    bytes_of(compress(IV, &[left, right].concat(), 0, PARENT | root))
}

/// BLAKE3 of short inputs.
fn blake3(bytes: &[u8]) -> [u8; 32] {
    assert!(bytes.len() <= CHUNK);
    chunk_value(bytes, 0, ROOT)
}

/// The largest power of two of chunks that leaves something for the right.
fn left_chunks(chunks: usize) -> usize {
    let mut left = 1;
    while left * 2 < chunks {
        left *= 2;
    }
    left
}

/// The hash of a frame from some of its chunks and the values of the subtrees left out.
fn tree(
    chunks: &[(usize, Vec<u8>)],
    first: usize,
    count: usize,
    path: &mut Vec<[u8; 32]>,
    root: u32,
) -> [u8; 32] {
    let inside = || chunks.iter().find(|(number, _)| (first..first + count).contains(number));
    let Some((_, bytes)) = inside() else { return path.remove(0) };
    if count == 1 {
        return chunk_value(bytes, first as u64, root);
    }
    let left = left_chunks(count);
    let one = tree(chunks, first, left, path, 0);
    let two = tree(chunks, first + left, count - left, path, 0);
    parent(one, two, root)
}

fn merkle(leaf: [u8; 32], position: usize, count: usize, path: &[[u8; 32]]) -> [u8; 32] {
    let node = |left: [u8; 32], right: [u8; 32]| blake3(&[&[1], &left[..], &right[..]].concat());
    let Some((beside, below)) = path.split_last() else { return blake3(&[&[0], &leaf[..]].concat()) };
    let left = left_chunks(count);
    if position < left {
        node(merkle(leaf, position, left, below), *beside)
    } else {
        node(*beside, merkle(leaf, position - left, count - left, below))
    }
}

fn unhex(value: &Value) -> Vec<u8> {
    let text = value.as_str().expect("text");
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).expect("digits")).collect()
}

fn hash(value: &Value) -> [u8; 32] {
    unhex(value).try_into().expect("32 bytes")
}

fn hashes(value: &Value) -> Vec<[u8; 32]> {
    value.as_array().expect("a list").iter().map(hash).collect()
}

fn number(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

fn half(bytes: &[u8], at: usize) -> usize {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes")) as usize
}

/// Checks everything, and answers the bytes of the transaction_id of the command, a plain transfer, at the receipt's sequence.
pub(crate) fn transfer_id(receipt: &str, key: &[u8; 32]) -> [u8; 16] {
    let receipt: Value = serde_json::from_str(receipt).expect("JSON");
    let checkpoint = unhex(&receipt["checkpoint"]);
    let signature = Signature::from_bytes(checkpoint[176..].try_into().expect("64 bytes"));
    assert_eq!(checkpoint[144..176], key[..]);
    VerifyingKey::from_bytes(key)
        .expect("a key")
        .verify(&checkpoint[..176], &signature)
        .expect("the signature is right");

    let frame = &receipt["frame"];
    let size = frame["size"].as_u64().expect("a number") as usize;
    let chunks: Vec<(usize, Vec<u8>)> = frame["chunks"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|pair| (pair[0].as_u64().expect("a number") as usize, unhex(&pair[1])))
        .collect();
    let mut path = hashes(&frame["path"]);
    let frame_hash = tree(&chunks, 0, size.div_ceil(CHUNK), &mut path, ROOT);
    assert!(path.is_empty());
    let mut bytes = vec![0; size];
    for (number, chunk) in &chunks {
        bytes[number * CHUNK..number * CHUNK + chunk.len()].copy_from_slice(chunk);
    }
    let (first, last) = (number(&checkpoint, 16), number(&checkpoint, 24));
    let position = number(&bytes, 24) - first;
    let root =
        merkle(frame_hash, position as usize, (last - first + 1) as usize, &hashes(&receipt["inclusion"]));
    assert_eq!(root[..], checkpoint[112..144]);

    // The commands from the restart on, plain transfers between numbered accounts of 35 bytes each.
    let body = &bytes[96..];
    let (commands, events) = (half(body, 12), half(body, 16));
    let restart = 20 + commands + events + 12 * frame["restart"].as_u64().expect("a number") as usize;
    let ordinal = receipt["sequence"].as_u64().expect("a number") - number(&bytes, 32);
    let command = 20 + half(body, restart) + 35 * (ordinal as usize - half(body, restart + 8));
    assert_eq!(body[command], 1, "a transfer");
    body[command + 1..command + 17].try_into().expect("16 bytes")
}
