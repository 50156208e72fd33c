//! The names of a journal's files, and the small file that says whose journal it is. `docs/formats.md` draws it.

use std::io::IoSlice;
use std::path::{Path, PathBuf};

use super::buffer::{BLOCK_SIZE_BYTES, BufferPool};
use super::disk::{Disk, FileEntry};
use super::error::{Damage, JournalError, OpenError};
use super::frame::{FORMAT_VERSION, field};
use super::{FrameHash, FrameIndex};

const META_NAME: &str = "journal.meta";
const META_DRAFT_NAME: &str = "journal.meta.new";
const META_MAGIC: [u8; 8] = *b"JIGAPJNL";
const META_SIZE_BYTES: usize = BLOCK_SIZE_BYTES;
const META_CHECKED_SIZE_BYTES: usize = 96;

pub(crate) fn segment_path(directory: &Path, first_index: FrameIndex) -> PathBuf {
    directory.join(format!("{:016x}.segment", first_index.0))
}

pub(crate) fn side_car_path(directory: &Path, first_index: FrameIndex) -> PathBuf {
    directory.join(format!("{:016x}.index", first_index.0))
}

/// A segment out of use, with any content.
pub(crate) fn spare_path(directory: &Path, number: u64) -> PathBuf {
    directory.join(format!("{number:016x}.spare"))
}

/// A segment out of use, all zero and so ready to be used.
pub(crate) fn zeroed_path(directory: &Path, number: u64) -> PathBuf {
    directory.join(format!("{number:016x}.zeroed"))
}

/// What the directory holds, by kind, each sorted. Files with other names are left alone.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    /// First index and size of each.
    pub(crate) segments: Vec<(FrameIndex, u64)>,
    pub(crate) side_cars: Vec<FrameIndex>,
    /// Number and size of each.
    pub(crate) spares: Vec<(u64, u64)>,
    /// Number and size of each.
    pub(crate) zeroed: Vec<(u64, u64)>,
    pub(crate) meta: bool,
    /// Names of files that were being written when the node stopped, and of no use.
    pub(crate) drafts: Vec<String>,
}

impl Listing {
    pub(crate) fn read(disk: &dyn Disk, directory: &Path) -> Result<Listing, OpenError> {
        let entries = disk
            .list(directory)
            .map_err(|source| OpenError::Directory { path: directory.to_owned(), source })?;
        let mut listing = Listing::default();
        entries.iter().for_each(|entry| listing.add(entry));
        listing.segments.sort_unstable();
        listing.side_cars.sort_unstable();
        listing.spares.sort_unstable();
        listing.zeroed.sort_unstable();
        Ok(listing)
    }

    /// A number that no spare has.
    pub(crate) fn next_spare(&self) -> u64 {
        self.spares.iter().chain(&self.zeroed).map(|(number, _)| number + 1).max().unwrap_or(0)
    }

    fn add(&mut self, entry: &FileEntry) {
        if entry.name == META_NAME {
            self.meta = true;
        }
        if entry.name.ends_with(".index.new") {
            self.drafts.push(entry.name.clone());
        }
        let Some((stem, extension)) = entry.name.split_once('.') else { return };
        let (16, Ok(number)) = (stem.len(), u64::from_str_radix(stem, 16)) else { return };
        match extension {
            "segment" => self.segments.push((FrameIndex(number), entry.size_bytes)),
            "index" => self.side_cars.push(FrameIndex(number)),
            "spare" => self.spares.push((number, entry.size_bytes)),
            "zeroed" => self.zeroed.push((number, entry.size_bytes)),
            _ => {}
        }
    }
}

/// Whose journal this is, and where it begins now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Meta {
    pub(crate) partition: u32,
    /// Random, or given: two journals with the same frames have the same hashes only if this is the same, too.
    pub(crate) genesis: [u8; 32],
    /// The first frame that is not released.
    pub(crate) first_index: FrameIndex,
    /// The hash of the frame before that; the genesis hash if there was none.
    pub(crate) previous_hash: FrameHash,
}

impl Meta {
    pub(crate) fn new(partition: u32, genesis: [u8; 32]) -> Meta {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"jigap journal genesis").update(&genesis);
        let previous_hash = FrameHash(*hasher.finalize().as_bytes());
        Meta { partition, genesis, first_index: FrameIndex::FIRST, previous_hash }
    }

    fn encode(&self, bytes: &mut [u8]) {
        bytes.fill(0);
        bytes[0..8].copy_from_slice(&META_MAGIC);
        bytes[8..10].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.partition.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.first_index.0.to_le_bytes());
        bytes[32..64].copy_from_slice(&self.genesis);
        bytes[64..96].copy_from_slice(&self.previous_hash.0);
        let checksum = blake3::hash(&bytes[..META_CHECKED_SIZE_BYTES]);
        bytes[96..128].copy_from_slice(checksum.as_bytes());
    }

    /// Puts the file in place of the one before, whole or not at all.
    pub(crate) fn store(&self, disk: &dyn Disk, directory: &Path) -> Result<(), JournalError> {
        let draft = directory.join(META_DRAFT_NAME);
        let mut bytes = BufferPool::new().take(META_SIZE_BYTES);
        self.encode(&mut bytes[..META_SIZE_BYTES]);
        let failed = |source| JournalError::io("write", &draft, source);
        let file = disk.create(&draft, META_SIZE_BYTES as u64).map_err(failed)?;
        file.write_durable(0, &[IoSlice::new(&bytes[..META_SIZE_BYTES])]).map_err(failed)?;
        drop(file);
        disk.rename(&draft, &directory.join(META_NAME))
            .map_err(|source| JournalError::io("rename", &draft, source))?;
        disk.sync_directory(directory).map_err(|source| JournalError::io("sync", directory, source))
    }

    pub(crate) fn load(disk: &dyn Disk, directory: &Path) -> Result<Meta, OpenError> {
        let path = directory.join(META_NAME);
        let damaged = |why: &str| Damage {
            segment: path.clone(),
            offset: 0,
            index: FrameIndex::FIRST,
            why: why.into(),
        };
        let mut bytes = [0; META_CHECKED_SIZE_BYTES + 32];
        let file = disk
            .open(&path, super::disk::Access::Read)
            .map_err(|source| JournalError::io("open", &path, source))?;
        if file.size_bytes() != META_SIZE_BYTES as u64 {
            return Err(damaged("the file has the wrong size").into());
        }
        file.read_exact(0, &mut bytes).map_err(|source| JournalError::io("read", &path, source))?;
        if bytes[0..8] != META_MAGIC || bytes[96..128] != *blake3::hash(&bytes[..96]).as_bytes() {
            return Err(damaged("the file does not match its checksum").into());
        }
        let found = u16::from_le_bytes(field(&bytes, 8));
        if found != FORMAT_VERSION {
            return Err(OpenError::UnsupportedVersion { path, found, supported: FORMAT_VERSION });
        }
        Ok(Meta {
            partition: u32::from_le_bytes(field(&bytes, 12)),
            genesis: field(&bytes, 32),
            first_index: FrameIndex(u64::from_le_bytes(field(&bytes, 16))),
            previous_hash: FrameHash(field(&bytes, 64)),
        })
    }
}
