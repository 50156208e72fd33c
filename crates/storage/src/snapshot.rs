//! Snapshots in an object store: the sorted entries of a state store as of a position, in parts, and a manifest that makes them
//! one.
//!
//! ```text
//! partition-N/snapshots/<sequence>-<digest>/part-00000, part-00001, ...
//!                                          /manifest            written last: without it there is no snapshot
//! ```

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::objects::{ObjectError, Objects};
use crate::store::Entry;

/// A part is full at this size: it is what writer and reader hold in memory.
const PART_SIZE_BYTES: usize = 16 << 20;
const PART_MAGIC: [u8; 8] = *b"JIGAPSNP";
const PART_HEADER_SIZE_BYTES: usize = 16;
const MANIFEST: &str = "manifest";
const FORMAT_VERSION: u32 = 1;
/// Bytes that came wrong once are asked for again: the object may be right.
const READS_MAX: usize = 2;

/// Why a snapshot cannot be written or read.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SnapshotError {
    /// The store failed.
    #[error(transparent)]
    Object(#[from] ObjectError),
    /// An object has other bytes than were written.
    #[error("the snapshot's object {path} is damaged: {why}")]
    Damaged {
        /// Its name.
        path: String,
        /// What is wrong.
        why: String,
    },
}

impl SnapshotError {
    fn damaged(path: &str, why: impl std::fmt::Display) -> SnapshotError {
        SnapshotError::Damaged { path: path.to_owned(), why: why.to_string() }
    }
}

/// What a snapshot is of: everything but its parts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotSubject {
    /// The partition.
    pub partition: u32,
    /// The last event taken in.
    pub sequence: u64,
    /// Its time, in microseconds since 1970.
    pub timestamp_us: i64,
    /// The digest of the state, in hexadecimal.
    pub digest: String,
    /// The frame that ends with that event.
    pub frame_index: u64,
    /// Its hash, in hexadecimal: the snapshot belongs to every history that has this frame.
    pub frame_hash: String,
    /// How many accounts it holds, `@external` not counted.
    pub accounts: u64,
    /// How many uses of transaction_ids its index holds.
    pub ids: u64,
}

/// One part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotPart {
    /// The object's size.
    pub size_bytes: u64,
    /// Entries inside.
    pub entries: u64,
    /// The first key inside, in hexadecimal.
    pub first_key: String,
    /// BLAKE3 of the object, in hexadecimal.
    pub blake3: String,
}

/// The manifest: one line of JSON, then the BLAKE3 of that line in hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    format: u32,
    /// What it is of.
    #[serde(flatten)]
    pub subject: SnapshotSubject,
    /// When it was written, in microseconds since 1970.
    pub created_us: i64,
    /// The parts, in order of their keys.
    pub parts: Vec<SnapshotPart>,
}

impl Manifest {
    /// All parts together.
    pub fn size_bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.size_bytes).sum()
    }

    /// All entries together.
    pub fn entries(&self) -> u64 {
        self.parts.iter().map(|part| part.entries).sum()
    }
}

/// The folder of a partition's snapshots.
fn snapshots_folder(partition: u32) -> String {
    format!("partition-{partition}/snapshots")
}

/// What the name of a snapshot says.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct SnapshotName {
    /// The last event taken in.
    pub sequence: u64,
    /// The folder of its objects.
    pub folder: String,
}

fn microseconds(time: SystemTime) -> i64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

/// Writes a snapshot part by part. Dropped before it is finished, it leaves parts without a manifest, which
/// [`collect_leftovers`] takes away.
pub struct SnapshotWriter<'objects> {
    objects: &'objects Objects,
    folder: String,
    subject: SnapshotSubject,
    parts: Vec<SnapshotPart>,
    buffer: Vec<u8>,
    entries: u64,
    first_key: Vec<u8>,
}

impl<'objects> SnapshotWriter<'objects> {
    /// Begins.
    pub fn new(objects: &'objects Objects, subject: SnapshotSubject) -> SnapshotWriter<'objects> {
        let folder =
            format!("{}/{:020}-{}", snapshots_folder(subject.partition), subject.sequence, subject.digest);
        SnapshotWriter {
            objects,
            folder,
            subject,
            parts: Vec::new(),
            buffer: Vec::with_capacity(PART_SIZE_BYTES + (PART_SIZE_BYTES >> 3)),
            entries: 0,
            first_key: Vec::new(),
        }
    }

    /// The manifest when the same snapshot is there already: then there is nothing to write.
    pub fn existing(&self) -> Option<Manifest> {
        Snapshot::open(self.objects, &self.folder).ok().map(|snapshot| snapshot.manifest)
    }

    /// The next entry, in order.
    pub fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), SnapshotError> {
        if self.buffer.is_empty() {
            self.buffer.extend_from_slice(&PART_MAGIC);
            self.buffer.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
            self.buffer.extend_from_slice(&self.subject.partition.to_le_bytes());
            self.first_key = key.to_vec();
        }
        let key_size = u16::try_from(key.len()).expect("keys are short");
        let value_size = u32::try_from(value.len()).expect("values are far below 4 GiB");
        self.buffer.extend_from_slice(&key_size.to_le_bytes());
        self.buffer.extend_from_slice(&value_size.to_le_bytes());
        self.buffer.extend_from_slice(key);
        self.buffer.extend_from_slice(value);
        self.entries += 1;
        if self.buffer.len() >= PART_SIZE_BYTES { self.write_part() } else { Ok(()) }
    }

    fn write_part(&mut self) -> Result<(), SnapshotError> {
        let path = part_path(&self.folder, self.parts.len());
        let content = Bytes::from(std::mem::take(&mut self.buffer));
        let blake3 = blake3::hash(&content).to_hex().to_string();
        let part = SnapshotPart {
            size_bytes: content.len() as u64,
            entries: std::mem::take(&mut self.entries),
            first_key: hex::encode(&self.first_key),
            blake3,
        };
        self.objects.put_new(&path, content.clone())?;
        // A part of the same name comes from an attempt that was cut off: it is right, or it is taken away.
        if !self.objects.holds(&path, &content)? {
            self.objects.remove(&path)?;
            self.objects.put_new(&path, content.clone())?;
            if !self.objects.holds(&path, &content)? {
                return Err(SnapshotError::damaged(&path, "it reads back otherwise than it was written"));
            }
        }
        self.parts.push(part);
        // Its memory is used again.
        self.buffer = content.into();
        self.buffer.clear();
        Ok(())
    }

    /// Writes the manifest: from now on the snapshot exists.
    pub fn finish(mut self) -> Result<Manifest, SnapshotError> {
        if !self.buffer.is_empty() {
            self.write_part()?;
        }
        let manifest = Manifest {
            format: FORMAT_VERSION,
            subject: self.subject,
            created_us: microseconds(SystemTime::now()),
            parts: self.parts,
        };
        let line = serde_json::to_string(&manifest).expect("a manifest is plain data");
        let text = format!("{line}\n{}\n", blake3::hash(line.as_bytes()).to_hex());
        self.objects.put_new(&format!("{}/{MANIFEST}", self.folder), Bytes::from(text))?;
        // Another process may have written the same snapshot meanwhile: whichever manifest stands counts.
        Ok(Snapshot::open(self.objects, &self.folder)?.manifest)
    }
}

fn part_path(folder: &str, number: usize) -> String {
    format!("{folder}/part-{number:05}")
}

/// A snapshot whose manifest was read.
#[derive(Debug, Clone)]
pub struct Snapshot {
    objects: Objects,
    folder: String,
    /// What it says about itself.
    pub manifest: Manifest,
}

impl Snapshot {
    /// The names of a partition's snapshots, oldest first. A folder without a manifest is none.
    pub fn list(objects: &Objects, partition: u32) -> Result<Vec<SnapshotName>, ObjectError> {
        let listed = objects.list(&snapshots_folder(partition))?;
        let names = listed.into_iter().filter_map(|listed| {
            let folder = listed.path.strip_suffix(&format!("/{MANIFEST}"))?;
            let (sequence, _) = folder.rsplit('/').next()?.split_once('-')?;
            Some(SnapshotName { sequence: sequence.parse().ok()?, folder: folder.to_owned() })
        });
        let mut names: Vec<SnapshotName> = names.collect();
        names.sort();
        Ok(names)
    }

    /// Reads the manifest of a snapshot.
    pub fn open(objects: &Objects, folder: &str) -> Result<Snapshot, SnapshotError> {
        let path = format!("{folder}/{MANIFEST}");
        twice(|| {
            let bytes = objects.get(&path)?;
            let text = std::str::from_utf8(&bytes).map_err(|error| SnapshotError::damaged(&path, error))?;
            let (line, hash) = text.split_once('\n').unwrap_or_default();
            if hash.trim_end() != blake3::hash(line.as_bytes()).to_hex().as_str() {
                return Err(SnapshotError::damaged(&path, "it does not match its checksum"));
            }
            let manifest: Manifest =
                serde_json::from_str(line).map_err(|error| SnapshotError::damaged(&path, error))?;
            if manifest.format != FORMAT_VERSION {
                let why = format!("it has format {}, this program knows {FORMAT_VERSION}", manifest.format);
                return Err(SnapshotError::damaged(&path, why));
            }
            Ok(Snapshot { objects: objects.clone(), folder: folder.to_owned(), manifest })
        })
    }

    /// Where its objects are.
    pub fn folder(&self) -> &str {
        &self.folder
    }

    /// The entries of one part, checked.
    pub fn part(&self, number: usize) -> Result<Vec<Entry>, SnapshotError> {
        let part = &self.manifest.parts[number];
        let path = part_path(&self.folder, number);
        let bytes = twice(|| {
            let bytes = match self.objects.get(&path) {
                Err(ObjectError::Missing { .. }) => {
                    return Err(SnapshotError::damaged(&path, "it is missing"));
                }
                other => other?,
            };
            if blake3::hash(&bytes).to_hex().as_str() != part.blake3 {
                return Err(SnapshotError::damaged(&path, "it does not match the manifest's checksum"));
            }
            Ok(bytes)
        })?;
        let entries = entries(&bytes).filter(|entries| entries.len() as u64 == part.entries);
        entries.ok_or_else(|| {
            SnapshotError::damaged(&path, "it does not hold the entries that the manifest says")
        })
    }

    /// Entries with `start <= key < end`, ascending; holds one part in memory.
    pub fn scan<'snapshot>(
        &'snapshot self,
        start: &[u8],
        end: &[u8],
    ) -> impl Iterator<Item = Result<Entry, SnapshotError>> + use<'snapshot> {
        let (start, end) = (start.to_vec(), end.to_vec());
        let (low, high) = (hex::encode(&start), hex::encode(&end));
        let parts = &self.manifest.parts;
        let first = parts.partition_point(|part| part.first_key <= low).saturating_sub(1);
        let numbers = (first..parts.len()).take_while(move |number| parts[*number].first_key < high);
        numbers.flat_map(move |number| {
            let (entries, error) = match self.part(number) {
                Ok(entries) => (entries, None),
                Err(error) => (Vec::new(), Some(Err(error))),
            };
            let (start, end) = (start.clone(), end.clone());
            let inside = entries.into_iter().filter(move |(key, _)| *key >= start && *key < end);
            inside.map(Ok).chain(error)
        })
    }

    /// Removes the snapshot: its manifest first, so that half a snapshot is none.
    pub fn remove(objects: &Objects, name: &SnapshotName) -> Result<(), ObjectError> {
        objects.remove(&format!("{}/{MANIFEST}", name.folder))?;
        for listed in objects.list(&name.folder)? {
            objects.remove(&listed.path)?;
        }
        Ok(())
    }
}

/// Takes away the parts of snapshots that were begun at least so long ago and never finished; answers how many objects.
pub fn collect_leftovers(objects: &Objects, partition: u32, age: Duration) -> Result<usize, ObjectError> {
    let listed = objects.list(&snapshots_folder(partition))?;
    let folder_of = |path: &str| path.rsplit_once('/').map(|(folder, _)| folder.to_owned());
    let finished: std::collections::BTreeSet<_> = listed
        .iter()
        .filter(|listed| listed.path.ends_with(&format!("/{MANIFEST}")))
        .filter_map(|listed| folder_of(&listed.path))
        .collect();
    let now = SystemTime::now();
    let mut removed = 0;
    for listed in &listed {
        let unfinished = folder_of(&listed.path).is_some_and(|folder| !finished.contains(&folder));
        if unfinished && now.duration_since(listed.modified).unwrap_or_default() >= age {
            objects.remove(&listed.path)?;
            removed += 1;
        }
    }
    Ok(removed)
}

fn twice<Answer>(read: impl Fn() -> Result<Answer, SnapshotError>) -> Result<Answer, SnapshotError> {
    for _ in 1..READS_MAX {
        match read() {
            Err(SnapshotError::Damaged { .. }) => {}
            other => return other,
        }
    }
    read()
}

fn entries(bytes: &[u8]) -> Option<Vec<Entry>> {
    let (header, mut rest) = bytes.split_at_checked(PART_HEADER_SIZE_BYTES)?;
    if header[..8] != PART_MAGIC || header[8..12] != FORMAT_VERSION.to_le_bytes() {
        return None;
    }
    let mut entries = Vec::new();
    while !rest.is_empty() {
        let (sizes, after) = rest.split_first_chunk::<6>()?;
        let key_size = u16::from_le_bytes([sizes[0], sizes[1]]);
        let value_size = u32::from_le_bytes([sizes[2], sizes[3], sizes[4], sizes[5]]);
        let (key, after) = after.split_at_checked(key_size.into())?;
        let (value, after) = after.split_at_checked(value_size as usize)?;
        entries.push((key.to_vec(), value.to_vec()));
        rest = after;
    }
    Some(entries)
}
