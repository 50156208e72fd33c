//! One history in an archive: the parcels that continue each other, found by their names alone.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use super::parcel::{Entry, ParcelIndex, ParcelName, TRAILER_SIZE_BYTES};
use super::{ArchiveError, journal_folder};
use crate::journal::RecentlyUsed;
use crate::journal::{BufferPool, Frame, FrameHash, FrameIndex, ReadError, ReleasedFrames, Sequence};
use crate::objects::{ObjectError, Objects};

/// What is read of an object's end at first: most indexes fit.
const TAIL_SIZE_BYTES: u64 = 64 << 10;
const CACHED_INDEXES_MAX: usize = 256;
const CACHED_INDEXES_SIZE_BYTES_MAX: usize = 32 << 20;
/// Bytes that came wrong once are asked for again: the object may be right.
const READS_MAX: usize = 2;

/// A parcel in the archive.
#[derive(Debug, Clone)]
pub struct Parcel {
    /// What its name says.
    pub name: ParcelName,
    /// The size of the object.
    pub size_bytes: u64,
}

/// Everything in the archive about one partition, of all histories.
pub(super) struct Stock {
    /// By first frame; of those that begin together the longest first.
    parcels: Vec<Parcel>,
}

impl Stock {
    pub(super) fn list(objects: &Objects, partition: u32) -> Result<Stock, ObjectError> {
        let folder = journal_folder(partition);
        let named = objects.list(&folder)?.into_iter().filter_map(|listed| {
            let file = listed.path.rsplit('/').next()?;
            Some(Parcel { name: ParcelName::parse(file)?, size_bytes: listed.size_bytes })
        });
        let mut parcels: Vec<Parcel> = named.collect();
        parcels.sort_by_key(|parcel| (parcel.name.first_index, std::cmp::Reverse(parcel.name.last_index)));
        Ok(Stock { parcels })
    }

    /// Parcels that end with this frame.
    fn ending(&self) -> HashMap<(FrameIndex, u64), usize> {
        // The longest wins: it is looked at last.
        let ends = self.parcels.iter().enumerate().rev();
        ends.map(|(place, parcel)| ((parcel.name.last_index, parcel.name.last_hash), place)).collect()
    }

    /// The parcels that lead to this one, oldest first.
    fn chain_to(&self, last: usize) -> Vec<Parcel> {
        let ending = self.ending();
        let mut chain = vec![self.parcels[last].clone()];
        loop {
            let first = &chain.last().expect("it begins with one").name;
            let before = (FrameIndex(first.first_index.0 - 1), first.previous_hash);
            match ending.get(&before) {
                Some(place) if first.first_index > FrameIndex::FIRST => {
                    chain.push(self.parcels[*place].clone())
                }
                _ => break,
            }
        }
        chain.reverse();
        chain
    }

    /// The history of a journal: `hash_at` answers the beginning of the hash of a frame that the journal knows.
    pub(super) fn chain_of(&self, hash_at: impl Fn(FrameIndex) -> Option<u64>) -> Vec<Parcel> {
        let ours = |parcel: &Parcel| hash_at(parcel.name.last_index) == Some(parcel.name.last_hash);
        let last = self.parcels.iter().enumerate().filter(|(_, parcel)| ours(parcel));
        let last = last.max_by_key(|(_, parcel)| parcel.name.last_index);
        last.map_or_else(Vec::new, |(place, _)| self.chain_to(place))
    }

    /// Every history's last parcel.
    fn heads(&self) -> impl Iterator<Item = usize> {
        let continued: std::collections::HashSet<(FrameIndex, u64)> = self
            .parcels
            .iter()
            .map(|parcel| (FrameIndex(parcel.name.first_index.0 - 1), parcel.name.previous_hash))
            .collect();
        let is_head =
            move |parcel: &Parcel| !continued.contains(&(parcel.name.last_index, parcel.name.last_hash));
        self.parcels.iter().enumerate().filter(move |(_, parcel)| is_head(parcel)).map(|(place, _)| place)
    }
}

/// The frames of one history, read from its parcels.
pub struct History {
    objects: Objects,
    partition: u32,
    parcels: Vec<Parcel>,
    pool: BufferPool,
    indexes: Mutex<RecentlyUsed<Arc<ParcelIndex>>>,
}

impl History {
    pub(super) fn new(objects: Objects, partition: u32, parcels: Vec<Parcel>) -> History {
        let indexes = RecentlyUsed::new(CACHED_INDEXES_MAX, CACHED_INDEXES_SIZE_BYTES_MAX);
        History { objects, partition, parcels, pool: BufferPool::new(), indexes: Mutex::new(indexes) }
    }

    /// The history whose last event is the newest. `None` when the archive has nothing of the partition. A restore to an earlier
    /// point, served with the same archive, begins another history that shares the beginning.
    pub fn newest(objects: &Objects, partition: u32) -> Result<Option<History>, ArchiveError> {
        let stock = Stock::list(objects, partition)?;
        let mut newest: Option<(i64, History)> = None;
        for head in stock.heads() {
            let history = History::new(objects.clone(), partition, stock.chain_to(head));
            let last = match history.last_entry() {
                Ok(last) => last,
                // A damaged head is no history to follow; what comes before it is still one. But one that cannot be read just now
                // may be the newest, which must not be passed over.
                Err(ArchiveError::Damaged { path, why }) => {
                    tracing::warn!(
                        parcel = path,
                        why,
                        "an object of the archive is damaged: what it holds is not followed"
                    );
                    continue;
                }
                Err(error) => return Err(error),
            };
            if newest.as_ref().is_none_or(|(time, _)| *time < last.timestamp_us) {
                newest = Some((last.timestamp_us, history));
            }
        }
        Ok(newest.map(|(_, history)| history))
    }

    /// The parcels, oldest first.
    pub fn parcels(&self) -> &[Parcel] {
        &self.parcels
    }

    pub(super) fn push(&mut self, parcel: Parcel) {
        self.parcels.push(parcel);
    }

    /// What the hash chain begins with.
    pub fn genesis(&self) -> Result<[u8; 32], ArchiveError> {
        Ok(self.index(self.parcels.len() - 1)?.genesis)
    }

    /// The frame after the last one.
    pub fn next_index(&self) -> FrameIndex {
        self.parcels.last().map_or(FrameIndex::FIRST, |last| FrameIndex(last.name.last_index.0 + 1))
    }

    /// The sequence after the last one.
    pub fn next_sequence(&self) -> Result<Sequence, ArchiveError> {
        if self.parcels.is_empty() {
            return Ok(Sequence(1));
        }
        let last = self.last_entry()?;
        Ok(Sequence(last.first_sequence + u64::from(last.sequence_count)))
    }

    fn last_entry(&self) -> Result<Entry, ArchiveError> {
        let index = self.index(self.parcels.len() - 1)?;
        Ok(*index.entries.last().expect("a parcel has a frame"))
    }

    /// The hash of a frame; `None` when it is not here.
    pub fn hash_of(&self, index: FrameIndex) -> Result<Option<FrameHash>, ArchiveError> {
        let Some(place) = self.place_of(index) else { return Ok(None) };
        let parcel = self.index(place)?;
        Ok(Some(parcel.entries[(index.0 - parcel.first_index.0) as usize].hash))
    }

    /// The last frame that is not later than this time; `None` when there is none.
    pub fn index_at_time(&self, timestamp_us: i64) -> Result<Option<FrameIndex>, ArchiveError> {
        let (mut low, mut high) = (0, self.parcels.len());
        while low < high {
            let middle = low + (high - low) / 2;
            if self.index(middle)?.entries[0].timestamp_us <= timestamp_us {
                low = middle + 1
            } else {
                high = middle
            }
        }
        let Some(place) = low.checked_sub(1) else { return Ok(None) };
        let parcel = self.index(place)?;
        let count = parcel.entries.partition_point(|entry| entry.timestamp_us <= timestamp_us);
        Ok(Some(FrameIndex(parcel.first_index.0 + count as u64 - 1)))
    }

    fn place_of(&self, index: FrameIndex) -> Option<usize> {
        let place = self.parcels.partition_point(|parcel| parcel.name.first_index <= index).checked_sub(1)?;
        (index <= self.parcels[place].name.last_index).then_some(place)
    }

    /// The index of a parcel, from memory or from its object.
    fn index(&self, place: usize) -> Result<Arc<ParcelIndex>, ArchiveError> {
        let parcel = &self.parcels[place];
        let key = parcel.name.first_index.0;
        let cached = self.indexes.lock().expect("no code panics while it holds a cache").get(key);
        if let Some(index) = cached {
            return Ok(index);
        }
        let index = Arc::new(self.twice(|| self.read_index(parcel))?);
        let size_bytes = index.entries.len() * size_of::<Entry>();
        self.indexes.lock().expect("no code panics while it holds a cache").insert(
            0,
            key,
            Arc::clone(&index),
            size_bytes,
        );
        Ok(index)
    }

    fn read_index(&self, parcel: &Parcel) -> Result<ParcelIndex, ArchiveError> {
        let path = parcel.name.path(self.partition);
        let damaged = |why: &str| ArchiveError::Damaged { path: path.clone(), why: why.to_owned() };
        if parcel.size_bytes < TRAILER_SIZE_BYTES as u64 {
            return Err(damaged("it is shorter than its trailer"));
        }
        let start = parcel.size_bytes.saturating_sub(TAIL_SIZE_BYTES);
        let mut tail = self.objects.get_range(&path, start..parcel.size_bytes)?;
        let wanted = ParcelIndex::size_bytes(&tail[tail.len() - TRAILER_SIZE_BYTES..]);
        let wanted = wanted.filter(|size| *size as u64 <= parcel.size_bytes);
        let wanted = wanted.ok_or_else(|| damaged("its trailer is not one"))?;
        if wanted > tail.len() {
            tail = self.objects.get_range(&path, parcel.size_bytes - wanted as u64..parcel.size_bytes)?;
        }
        let bytes = &tail[tail.len() - wanted..];
        ParcelIndex::parse(bytes, parcel.size_bytes, &parcel.name, self.partition).map_err(damaged)
    }

    fn twice<Answer>(&self, read: impl Fn() -> Result<Answer, ArchiveError>) -> Result<Answer, ArchiveError> {
        for _ in 1..READS_MAX {
            match read() {
                Err(ArchiveError::Damaged { .. }) => {}
                other => return other,
            }
        }
        read()
    }

    /// Frames from this one on, in order, each checked: at least one, and more of the same parcel up to this size.
    pub fn read(&self, index: FrameIndex, size_bytes: usize) -> Result<Vec<Arc<Frame>>, ArchiveError> {
        let place = self.place_of(index).ok_or(ArchiveError::NotThere { index })?;
        let parcel = self.index(place)?;
        let path = match parcel.in_segment {
            true => self.parcels[place].name.segment_path(self.partition),
            false => self.parcels[place].name.path(self.partition),
        };
        let first = (index.0 - parcel.first_index.0) as usize;
        let start = parcel.range(first).start;
        let mut last = first;
        while last + 1 < parcel.entries.len() && parcel.range(last + 1).end - start <= size_bytes as u64 {
            last += 1;
        }
        self.twice(|| {
            let bytes = match self.objects.get_range(&path, start..parcel.range(last).end) {
                // Its index was made after it, so that it was there.
                Err(ObjectError::Missing { .. }) if parcel.in_segment => {
                    let why = "it is missing, though its index is there".to_owned();
                    return Err(ArchiveError::Damaged { path: path.clone(), why });
                }
                bytes => bytes?,
            };
            let frame = |place: usize| {
                let range = parcel.range(place);
                let content = &bytes[(range.start - start) as usize..(range.end - start) as usize];
                parcel.check(place, content, &self.pool).map_err(|why| ArchiveError::Damaged {
                    path: path.clone(),
                    why: format!("frame {}: {why}", parcel.first_index.0 + place as u64),
                })
            };
            (first..=last).map(frame).collect()
        })
    }

    /// Checks a whole parcel, its index and every frame, and answers how many frames it has.
    pub fn verify(&self, place: usize) -> Result<u64, ArchiveError> {
        let parcel = self.index(place)?;
        let mut index = parcel.first_index;
        let end = parcel.first_index.0 + parcel.entries.len() as u64;
        while index.0 < end {
            index = FrameIndex(index.0 + self.read(index, 4 << 20)?.len() as u64);
        }
        Ok(parcel.entries.len() as u64)
    }
}

impl ReleasedFrames for History {
    fn first_index(&self) -> FrameIndex {
        self.parcels.first().map_or(FrameIndex::FIRST, |first| first.name.first_index)
    }

    fn index_of(&self, sequence: Sequence) -> Result<FrameIndex, ReadError> {
        let count = self.parcels.partition_point(|parcel| parcel.name.first_sequence <= sequence);
        let Some(place) = count.checked_sub(1) else {
            let first = self.first_index();
            return Err(ReadError::Released { first });
        };
        let parcel = self.index(place)?;
        let count = parcel.entries.partition_point(|entry| entry.first_sequence <= sequence.0);
        Ok(FrameIndex(parcel.first_index.0 + count as u64 - 1))
    }

    fn frames_from(&self, index: FrameIndex, size_bytes: usize) -> Result<Vec<Arc<Frame>>, ReadError> {
        match self.read(index, size_bytes) {
            Err(ArchiveError::NotThere { .. }) => Err(ReadError::Released { first: self.first_index() }),
            other => Ok(other?),
        }
    }
}
