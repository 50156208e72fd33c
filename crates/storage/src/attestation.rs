//! Signed checkpoints of the journal: an Ed25519 signature over the root of up to 1,024 frames, stored append-only.
//!
//! ```text
//! DIR/keys/<key id>.secret      the key that signs, mode 0600: 32 bytes in hexadecimal
//! DIR/keys/<key id>.public      every key that ever signed
//! DIR/partition-N/checkpoints   see `docs/formats.md`
//! ```

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use hex::FromHex;

use crate::journal::{FrameHash, FrameIndex, ReadError, Reader, Sequence};
use crate::proof::merkle;
use crate::random::{RANDOM_SOURCE, random_bytes};

/// A checkpoint signs at most so many frames: a path has at most ten hashes, and a proof's leaves 32 KiB.
pub const FRAMES_PER_CHECKPOINT_MAX: u64 = 1024;
/// A checkpoint with its signature.
pub const CHECKPOINT_SIZE_BYTES: usize = SIGNED_SIZE_BYTES + 64;
const SIGNED_SIZE_BYTES: usize = 176;
const MAGIC: [u8; 8] = *b"JIGAPSGN";
const VERSION: u16 = 1;

/// Why a checkpoint cannot be made or read.
#[derive(Debug, thiserror::Error)]
pub enum AttestationError {
    /// A file cannot be used.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// A file does not hold what it must.
    #[error("{path}: {why}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: &'static str,
    },
    /// The journal cannot be read.
    #[error(transparent)]
    Journal(#[from] ReadError),
    /// The frame is not durable yet.
    #[error("frame {0} is not in the journal")]
    NoFrame(FrameIndex),
}

/// What is signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checkpoint {
    /// The journal's partition.
    pub partition: u32,
    /// The first frame covered.
    pub first_index: FrameIndex,
    /// The last frame covered.
    pub last_index: FrameIndex,
    /// The last event covered.
    pub last_sequence: Sequence,
    /// The time of the last frame, in microseconds since 1970.
    pub timestamp_us: i64,
    /// What the journal's hash chain begins with.
    pub genesis: [u8; 32],
    /// The hash of the last frame: the chain up to here.
    pub last_hash: FrameHash,
    /// The root over the hashes of the frames covered.
    pub root: [u8; 32],
    /// The public key that signs.
    pub key: [u8; 32],
}

impl Checkpoint {
    fn encode(&self) -> [u8; SIGNED_SIZE_BYTES] {
        let mut bytes = [0; SIGNED_SIZE_BYTES];
        bytes[0..8].copy_from_slice(&MAGIC);
        bytes[8..10].copy_from_slice(&VERSION.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.partition.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.first_index.0.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.last_index.0.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.last_sequence.0.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.timestamp_us.to_le_bytes());
        bytes[48..80].copy_from_slice(&self.genesis);
        bytes[80..112].copy_from_slice(&self.last_hash.0);
        bytes[112..144].copy_from_slice(&self.root);
        bytes[144..176].copy_from_slice(&self.key);
        bytes
    }

    /// Reads a checkpoint and checks its signature by the key that it names; `None` when it is none.
    pub fn verified(bytes: &[u8; CHECKPOINT_SIZE_BYTES]) -> Option<Checkpoint> {
        let eight =
            |start: usize| u64::from_le_bytes(bytes[start..start + 8].try_into().expect("eight bytes"));
        let hash = |start: usize| -> [u8; 32] { bytes[start..start + 32].try_into().expect("32 bytes") };
        let checkpoint = Checkpoint {
            partition: u32::from_le_bytes(bytes[12..16].try_into().expect("four bytes")),
            first_index: FrameIndex(eight(16)),
            last_index: FrameIndex(eight(24)),
            last_sequence: Sequence(eight(32)),
            timestamp_us: eight(40) as i64,
            genesis: hash(48),
            last_hash: FrameHash(hash(80)),
            root: hash(112),
            key: hash(144),
        };
        let signature = Signature::from_bytes(bytes[SIGNED_SIZE_BYTES..].try_into().expect("64 bytes"));
        let frames = checkpoint.last_index.0.checked_sub(checkpoint.first_index.0)?;
        let right = checkpoint.encode() == bytes[..SIGNED_SIZE_BYTES]
            && frames < FRAMES_PER_CHECKPOINT_MAX
            && VerifyingKey::from_bytes(&checkpoint.key)
                .is_ok_and(|key| key.verify_strict(&bytes[..SIGNED_SIZE_BYTES], &signature).is_ok());
        right.then_some(checkpoint)
    }

    /// How many frames it covers.
    pub fn frames(&self) -> usize {
        (self.last_index.0 - self.first_index.0 + 1) as usize
    }
}

/// The short name of a public key.
pub fn key_id(public: &[u8; 32]) -> String {
    blake3::hash(public).to_hex()[..16].to_owned()
}

/// The key that signs, and every key that ever did.
pub struct Keys {
    directory: PathBuf,
    signing: SigningKey,
}

impl Keys {
    /// Reads the keys below the data directory, and makes the first when there is none.
    pub fn open(data_directory: &Path) -> Result<Keys, AttestationError> {
        let directory = data_directory.join("keys");
        fs::create_dir_all(&directory).map_err(|source| io_error(&directory, source))?;
        let Some(path) = files(&directory, "secret")?.into_iter().next() else {
            return Self::make(directory);
        };
        let text = fs::read_to_string(&path).map_err(|source| io_error(&path, source))?;
        let seed = <[u8; 32]>::from_hex(text.trim()).ok();
        let damaged = || AttestationError::Damaged {
            path: path.clone(),
            why: "it is no key of 32 bytes in hexadecimal",
        };
        let signing = SigningKey::from_bytes(&seed.ok_or_else(damaged)?);
        // A crash between the two files of a new key leaves it without its public half.
        let keys = Keys { directory, signing };
        keys.publish()?;
        Ok(keys)
    }

    fn make(directory: PathBuf) -> Result<Keys, AttestationError> {
        let seed = random_bytes().map_err(|source| io_error(RANDOM_SOURCE.as_ref(), source))?;
        let keys = Keys { directory, signing: SigningKey::from_bytes(&seed) };
        let path = keys.directory.join(format!("{}.secret", key_id(&keys.public())));
        let write = || -> io::Result<()> {
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
            writeln!(file, "{}", hex::encode(seed))?;
            file.sync_all()?;
            File::open(&keys.directory)?.sync_all()
        };
        write().map_err(|source| io_error(&path, source))?;
        keys.publish()?;
        Ok(keys)
    }

    fn publish(&self) -> Result<(), AttestationError> {
        let path = self.directory.join(format!("{}.public", key_id(&self.public())));
        if path.exists() {
            return Ok(());
        }
        let draft = path.with_extension("public.new");
        let write = || -> io::Result<()> {
            let mut file = File::create(&draft)?;
            writeln!(file, "{}", hex::encode(self.public()))?;
            file.sync_all()?;
            fs::rename(&draft, &path)?;
            File::open(&self.directory)?.sync_all()
        };
        write().map_err(|source| io_error(&path, source))
    }

    /// Makes a new key that signs from now on. The old secret is removed, the old public key stays. No server may run meanwhile.
    pub fn rotate(self) -> Result<Keys, AttestationError> {
        let old = files(&self.directory, "secret")?;
        let keys = Self::make(self.directory)?;
        for path in old {
            fs::remove_file(&path).map_err(|source| io_error(&path, source))?;
        }
        Ok(keys)
    }

    /// The public key of the one that signs.
    pub fn public(&self) -> [u8; 32] {
        self.signing.verifying_key().to_bytes()
    }

    /// Every public key, the one that signs among them.
    pub fn all(&self) -> Result<Vec<[u8; 32]>, AttestationError> {
        let read = |path: PathBuf| {
            let text = fs::read_to_string(&path).map_err(|source| io_error(&path, source))?;
            let damaged = AttestationError::Damaged { path, why: "it is no key of 32 bytes in hexadecimal" };
            <[u8; 32]>::from_hex(text.trim()).map_err(|_| damaged)
        };
        files(&self.directory, "public")?.into_iter().map(read).collect()
    }
}

fn io_error(path: &Path, source: io::Error) -> AttestationError {
    AttestationError::Io { path: path.to_owned(), source }
}

/// The files of a directory with this extension, sorted.
fn files(directory: &Path, extension: &str) -> Result<Vec<PathBuf>, AttestationError> {
    let entries = fs::read_dir(directory).map_err(|source| io_error(directory, source))?;
    let mut paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.retain(|path| path.extension().is_some_and(|found| found == extension));
    paths.sort();
    Ok(paths)
}

/// The signed checkpoints of one partition.
pub struct Attestation {
    keys: Keys,
    reader: Reader,
    path: PathBuf,
    log: Mutex<Log>,
}

struct Log {
    file: File,
    end: u64,
    /// First frame and place in the file of each, ascending.
    places: Vec<(FrameIndex, u64)>,
    next_index: FrameIndex,
}

/// A signed checkpoint, and the hashes of the frames that it covers.
#[derive(Debug, Clone)]
pub struct Attested {
    /// With its signature.
    pub bytes: [u8; CHECKPOINT_SIZE_BYTES],
    /// The same, read.
    pub checkpoint: Checkpoint,
    /// The leaves of its tree.
    pub hashes: Vec<FrameHash>,
}

impl Attestation {
    /// Opens the checkpoints of a partition's directory. What is not whole at the end is cut, and signed again.
    pub fn open(keys: Keys, directory: &Path, reader: Reader) -> Result<Attestation, AttestationError> {
        let path = directory.join("checkpoints");
        let open = || OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let mut file = open().map_err(|source| io_error(&path, source))?;
        let mut log = Log {
            end: 0,
            places: Vec::new(),
            next_index: FrameIndex::FIRST,
            file: file.try_clone().map_err(|source| io_error(&path, source))?,
        };
        let size = file.metadata().map_err(|source| io_error(&path, source))?.len();
        while let Ok(attested) = read_at(&mut file, log.end) {
            if log.places.is_empty() || attested.checkpoint.first_index == log.next_index {
                log.places.push((attested.checkpoint.first_index, log.end));
                log.next_index = FrameIndex(attested.checkpoint.last_index.0 + 1);
                log.end += record_size(&attested.checkpoint);
            } else {
                break;
            }
        }
        if log.end < size {
            tracing::warn!(path = %path.display(), bytes = size - log.end, "cut what is no whole signed checkpoint; it is signed again");
            file.set_len(log.end).map_err(|source| io_error(&path, source))?;
        }
        // A journal that was restored, or is older than its keys' checkpoints, is signed from what it holds itself.
        if log.places.is_empty() {
            log.next_index = reader.first_local_index();
        }
        Ok(Attestation { keys, reader, path, log: Mutex::new(log) })
    }

    /// The public key that signs.
    pub fn public_key(&self) -> [u8; 32] {
        self.keys.public()
    }

    /// Signs all full runs of frames: to be called now and then.
    pub fn follow(&self) -> Result<(), AttestationError> {
        let mut log = self.lock();
        let last = self.reader.last().map_or(0, |last| last.index.0);
        while log.next_index.0 + FRAMES_PER_CHECKPOINT_MAX <= last + 1 {
            self.sign(&mut log, last)?;
        }
        Ok(())
    }

    /// The checkpoint that covers a durable frame; signed now if it was not before.
    pub fn covering(&self, index: FrameIndex) -> Result<Attested, AttestationError> {
        let mut log = self.lock();
        let last = self.reader.last().map_or(0, |last| last.index.0);
        if index.0 > last {
            return Err(AttestationError::NoFrame(index));
        }
        while log.next_index <= index {
            self.sign(&mut log, last)?;
        }
        let place = log.places.partition_point(|(first, _)| *first <= index).checked_sub(1);
        let place = place.ok_or(AttestationError::NoFrame(index))?;
        let offset = log.places[place].1;
        read_at(&mut log.file, offset).map_err(|source| io_error(&self.path, source))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sign(&self, log: &mut Log, last: u64) -> Result<(), AttestationError> {
        let first_index = log.next_index;
        let last_index = FrameIndex(last.min(first_index.0 + FRAMES_PER_CHECKPOINT_MAX - 1));
        let headers = self.reader.headers(first_index, last_index)?;
        let hashes: Vec<FrameHash> = headers.iter().map(|header| header.hash).collect();
        let header = headers.last().ok_or(AttestationError::NoFrame(first_index))?;
        let checkpoint = Checkpoint {
            partition: self.reader.partition(),
            first_index,
            last_index,
            last_sequence: header.last_sequence(),
            timestamp_us: header.timestamp_us,
            genesis: self.reader.genesis(),
            last_hash: header.hash,
            root: merkle::root(&hashes),
            key: self.keys.public(),
        };
        let signed = checkpoint.encode();
        let mut record = signed.to_vec();
        record.extend_from_slice(&self.keys.signing.sign(&signed).to_bytes());
        record.extend(hashes.iter().flat_map(|hash| hash.0));
        let write = |file: &mut File, end: u64| -> io::Result<()> {
            file.seek(SeekFrom::Start(end))?;
            file.write_all(&record)?;
            file.sync_data()
        };
        let end = log.end;
        write(&mut log.file, end).map_err(|source| io_error(&self.path, source))?;
        log.places.push((first_index, end));
        log.end += record.len() as u64;
        log.next_index = FrameIndex(last_index.0 + 1);
        Ok(())
    }
}

fn record_size(checkpoint: &Checkpoint) -> u64 {
    (CHECKPOINT_SIZE_BYTES + 32 * checkpoint.frames()) as u64
}

fn read_at(file: &mut File, offset: u64) -> io::Result<Attested> {
    let mut bytes = [0; CHECKPOINT_SIZE_BYTES];
    file.seek(SeekFrom::Start(offset))?;
    file.read_exact(&mut bytes)?;
    let damaged = || io::Error::new(io::ErrorKind::InvalidData, "a signed checkpoint is damaged");
    let checkpoint = Checkpoint::verified(&bytes).ok_or_else(damaged)?;
    let mut leaves = vec![0; 32 * checkpoint.frames()];
    file.read_exact(&mut leaves)?;
    let hashes: Vec<FrameHash> =
        leaves.chunks_exact(32).map(|hash| FrameHash(hash.try_into().expect("32 bytes"))).collect();
    if merkle::root(&hashes) != checkpoint.root {
        return Err(damaged());
    }
    Ok(Attested { bytes, checkpoint, hashes })
}
