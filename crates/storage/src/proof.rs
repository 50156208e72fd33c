//! Proofs that bytes are in a frame of the journal, and that a frame is among those that a checkpoint signs.
//!
//! A frame's hash is BLAKE3, whose tree of 1 KiB chunks gives short proofs of parts; the frames of a checkpoint are the leaves of
//! a Merkle tree. `docs/protocol.md` tells how a third party checks both.

use std::collections::BTreeMap;
use std::ops::Range;

use blake3::hazmat::{HasherExt, Mode, left_subtree_len, merge_subtrees_non_root, merge_subtrees_root};

use crate::journal::{Frame, FrameHash, HASHED_HEADER_SIZE_BYTES, HEADER_SIZE_BYTES};

/// The leaves of BLAKE3's tree.
pub const CHUNK_SIZE_BYTES: usize = 1024;

/// Some chunks of what a frame's hash is taken over, and the hashes of all that is left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChunkProof {
    /// The size of what was hashed.
    pub size_bytes: u32,
    /// The chunks shown, by number.
    pub chunks: BTreeMap<u32, Vec<u8>>,
    /// The chaining values of the subtrees left out, from left to right.
    pub path: Vec<[u8; 32]>,
}

/// What a frame's hash is taken over: its header up to the hash, then its body.
pub fn hashed_bytes(frame: &Frame) -> Vec<u8> {
    let content = frame.content();
    [&content[..HASHED_HEADER_SIZE_BYTES], &content[HEADER_SIZE_BYTES..]].concat()
}

/// The chunks that these ranges touch.
pub fn chunks_of(ranges: &[Range<usize>]) -> Vec<u32> {
    let touched = ranges.iter().filter(|range| !range.is_empty());
    let mut chunks: Vec<u32> = touched
        .flat_map(|range| range.start / CHUNK_SIZE_BYTES..=(range.end - 1) / CHUNK_SIZE_BYTES)
        .map(|chunk| u32::try_from(chunk).expect("a frame has at most 16 MiB"))
        .collect();
    chunks.sort_unstable();
    chunks.dedup();
    chunks
}

impl ChunkProof {
    /// Proves these chunks of the bytes.
    pub fn new(bytes: &[u8], chunks: &[u32]) -> ChunkProof {
        let shown = |chunk: &u32| {
            let start = *chunk as usize * CHUNK_SIZE_BYTES;
            (*chunk, bytes[start..(start + CHUNK_SIZE_BYTES).min(bytes.len())].to_vec())
        };
        let mut proof = ChunkProof {
            size_bytes: u32::try_from(bytes.len()).expect("a frame has at most 16 MiB"),
            chunks: chunks.iter().map(shown).collect(),
            path: Vec::new(),
        };
        let mut path = Vec::new();
        proof.collect(bytes, 0..bytes.len(), &mut path);
        proof.path = path;
        proof
    }

    fn shows(&self, range: &Range<usize>) -> bool {
        let chunk =
            |place: usize| u32::try_from(place / CHUNK_SIZE_BYTES).expect("a frame has at most 16 MiB");
        self.chunks
            .range(chunk(range.start)..chunk(range.end.next_multiple_of(CHUNK_SIZE_BYTES)))
            .next()
            .is_some()
    }

    fn collect(&self, bytes: &[u8], range: Range<usize>, path: &mut Vec<[u8; 32]>) {
        if !self.shows(&range) {
            path.push(subtree(&bytes[range.clone()], range.start));
        } else if range.len() > CHUNK_SIZE_BYTES {
            let middle = range.start + left_subtree_len(range.len() as u64) as usize;
            self.collect(bytes, range.start..middle, path);
            self.collect(bytes, middle..range.end, path);
        }
    }

    /// The hash of the whole that this proof leads to; `None` when it is not one.
    pub fn root(&self) -> Option<FrameHash> {
        let size = self.size_bytes as usize;
        let mut path = self.path.iter();
        if size <= CHUNK_SIZE_BYTES {
            let chunk = self.chunks.get(&0).filter(|chunk| chunk.len() == size && self.chunks.len() == 1)?;
            return self.path.is_empty().then(|| FrameHash(*blake3::hash(chunk).as_bytes()));
        }
        let mut used = 0;
        let middle = left_subtree_len(size as u64) as usize;
        let left = self.value(0..middle, &mut path, &mut used)?;
        let right = self.value(middle..size, &mut path, &mut used)?;
        let whole = path.next().is_none() && used == self.chunks.len();
        whole.then(|| FrameHash(*merge_subtrees_root(&left, &right, Mode::Hash).as_bytes()))
    }

    fn value(
        &self,
        range: Range<usize>,
        path: &mut std::slice::Iter<'_, [u8; 32]>,
        used: &mut usize,
    ) -> Option<[u8; 32]> {
        if !self.shows(&range) {
            return path.next().copied();
        }
        if range.len() <= CHUNK_SIZE_BYTES {
            let number = u32::try_from(range.start / CHUNK_SIZE_BYTES).ok()?;
            let chunk = self.chunks.get(&number).filter(|chunk| chunk.len() == range.len())?;
            *used += 1;
            return Some(subtree(chunk, range.start));
        }
        let middle = range.start + left_subtree_len(range.len() as u64) as usize;
        let left = self.value(range.start..middle, path, used)?;
        let right = self.value(middle..range.end, path, used)?;
        Some(merge_subtrees_non_root(&left, &right, Mode::Hash))
    }

    /// What is shown, in its places; zeros where nothing is.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.size_bytes as usize];
        for (number, chunk) in &self.chunks {
            let start = *number as usize * CHUNK_SIZE_BYTES;
            if let Some(place) = bytes.get_mut(start..start + chunk.len()) {
                place.copy_from_slice(chunk);
            }
        }
        bytes
    }
}

fn subtree(bytes: &[u8], offset: usize) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.set_input_offset(offset as u64).update(bytes);
    hasher.finalize_non_root()
}

/// The Merkle tree over frames' hashes, built as RFC 6962 builds it, with BLAKE3.
pub mod merkle {
    use super::FrameHash;

    fn leaf(hash: FrameHash) -> [u8; 32] {
        *blake3::Hasher::new().update(&[0]).update(&hash.0).finalize().as_bytes()
    }

    fn node(left: &[u8; 32], right: &[u8; 32]) -> [u8; 32] {
        *blake3::Hasher::new().update(&[1]).update(left).update(right).finalize().as_bytes()
    }

    /// The largest power of two below the number of leaves.
    fn split(count: usize) -> usize {
        count.next_power_of_two() / 2
    }

    /// The root over at least one leaf.
    pub fn root(leaves: &[FrameHash]) -> [u8; 32] {
        match leaves {
            [one] => leaf(*one),
            _ => {
                let (left, right) = leaves.split_at(split(leaves.len()));
                node(&root(left), &root(right))
            }
        }
    }

    /// The nodes beside the way from a leaf to the root, the lowest first.
    pub fn path(leaves: &[FrameHash], position: usize) -> Vec<[u8; 32]> {
        if leaves.len() == 1 {
            return Vec::new();
        }
        let (left, right) = leaves.split_at(split(leaves.len()));
        let (mut path, beside) = match position.checked_sub(left.len()) {
            None => (path(left, position), root(right)),
            Some(position) => (path(right, position), root(left)),
        };
        path.push(beside);
        path
    }

    /// The root that a path leads to from a leaf of a tree with so many; `None` when its length is wrong.
    pub fn root_of(hash: FrameHash, position: usize, count: usize, path: &[[u8; 32]]) -> Option<[u8; 32]> {
        if count <= 1 {
            return (path.is_empty() && position == 0).then(|| leaf(hash));
        }
        let (beside, below) = path.split_last()?;
        let left = split(count);
        match position.checked_sub(left) {
            None => Some(node(&root_of(hash, position, left, below)?, beside)),
            Some(position) => Some(node(beside, &root_of(hash, position, count - left, below)?)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_chunks_of_any_size_lead_to_the_hash_of_the_whole() {
        for size in [1, 1023, 1024, 1025, 2048, 3000, 5 * 1024, 16 * 1024 + 1, 100_000] {
            let bytes: Vec<u8> = (0..size).map(|place| (place % 251) as u8).collect();
            let last = u32::try_from((size - 1) / CHUNK_SIZE_BYTES).expect("small");
            for chunks in [vec![0], vec![last], vec![0, last], vec![0, last / 2, last], (0..=last).collect()]
            {
                let mut chunks = chunks;
                chunks.dedup();
                let proof = ChunkProof::new(&bytes, &chunks);
                assert_eq!(
                    proof.root(),
                    Some(FrameHash(*blake3::hash(&bytes).as_bytes())),
                    "{size} {chunks:?}"
                );
                let shown = proof.bytes();
                for chunk in chunks {
                    let start = chunk as usize * CHUNK_SIZE_BYTES;
                    let end = (start + CHUNK_SIZE_BYTES).min(bytes.len());
                    assert_eq!(shown[start..end], bytes[start..end]);
                }
            }
        }
    }

    #[test]
    fn every_leaf_has_a_path() {
        for count in 1..40 {
            let leaves: Vec<FrameHash> = (0..count).map(|number| FrameHash([number; 32])).collect();
            let root = merkle::root(&leaves);
            for (position, leaf) in leaves.iter().enumerate() {
                let path = merkle::path(&leaves, position);
                assert_eq!(merkle::root_of(*leaf, position, leaves.len(), &path), Some(root));
                assert_ne!(merkle::root_of(FrameHash([99; 32]), position, leaves.len(), &path), Some(root));
            }
        }
    }
}
