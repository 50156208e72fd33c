//! What can go wrong, and what to do then.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{FrameIndex, Sequence, Term};

/// Why a journal has stopped for good. The node must stop too: what was handed over and not called back is *unknown*, and
/// only opening the journal again tells.
#[derive(Debug, Clone, thiserror::Error)]
pub enum JournalError {
    /// The operating system refused or failed an operation. It is never repeated: after a failed sync nobody knows what is
    /// on the disk, and a second sync that succeeds proves nothing.
    #[error(
        "journal: cannot {action} {path}: {source}; stop this node, mend the disk (space, health, mount), start again"
    )]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file or directory concerned.
        path: PathBuf,
        /// What the operating system said.
        source: Arc<io::Error>,
    },
    /// A frame that was durable once cannot be read back.
    #[error(transparent)]
    Damaged(#[from] Damage),
    /// A thread of the journal panicked.
    #[error("journal: a thread of the journal panicked; stop this node and start it again")]
    Panicked,
}

impl JournalError {
    pub(crate) fn io(action: &'static str, path: &Path, source: io::Error) -> JournalError {
        JournalError::Io { action, path: path.to_owned(), source: Arc::new(source) }
    }
}

/// Bytes on disk that no crash explains.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "journal damaged: {} at byte {offset}, frame {index}: {why}. Nothing was changed. This is no torn write: events that \
     were acknowledged may be affected. Keep a copy of the directory, check the disk, and restore the journal from a \
     backup, an archive or a peer",
    segment.display()
)]
pub struct Damage {
    /// The file concerned.
    pub segment: PathBuf,
    /// Where in the file, in bytes.
    pub offset: u64,
    /// The frame that is, or should be, there.
    pub index: FrameIndex,
    /// What is wrong.
    pub why: String,
}

/// Why a journal cannot be opened. Nothing was changed on disk.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The directory is missing or cannot be listed.
    #[error("journal directory {path} cannot be used: {source}; create it, or mend its path or permissions")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The operating system refused or failed an operation (a read-only file system, no space, ...).
    #[error(transparent)]
    Io(JournalError),
    /// See [`Damage`].
    #[error(transparent)]
    Damaged(#[from] Damage),
    /// Written by an older or a newer version of this software.
    #[error(
        "{path} has journal format version {found}, this software reads version {supported}; use the software that wrote it"
    )]
    UnsupportedVersion {
        /// The file concerned.
        path: PathBuf,
        /// The version in the file.
        found: u16,
        /// The version that is understood here.
        supported: u16,
    },
    /// The journal belongs to another partition.
    #[error(
        "{path} belongs to partition {found}, not to partition {expected}; check the configured data directory"
    )]
    WrongPartition {
        /// The file concerned.
        path: PathBuf,
        /// The partition in the file.
        found: u32,
        /// The partition in the options.
        expected: u32,
    },
    /// The options contradict each other.
    #[error("journal options: {0}")]
    Options(&'static str),
}

impl From<JournalError> for OpenError {
    fn from(error: JournalError) -> OpenError {
        match error {
            JournalError::Damaged(damage) => OpenError::Damaged(damage),
            other => OpenError::Io(other),
        }
    }
}

/// Why a frame was not taken.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AppendError {
    /// The journal has stopped.
    #[error(transparent)]
    Stopped(#[from] JournalError),
    /// The frame would not fit.
    #[error("a body of {size_bytes} bytes is over the limit of {limit_bytes}")]
    TooLarge {
        /// The size of the body.
        size_bytes: usize,
        /// The largest body that fits in a frame and a segment.
        limit_bytes: usize,
    },
    /// The frame does not continue the sequences of the journal.
    #[error("the frame begins at sequence {found}, the journal continues at {expected}")]
    SequenceGap {
        /// The sequence that must come next.
        expected: Sequence,
        /// The first sequence of the draft.
        found: Sequence,
    },
    /// The term is before that of the last frame.
    #[error("the frame's term {found} is before the journal's term {last}")]
    TermWentBack {
        /// The term of the last frame.
        last: Term,
        /// The term of the draft.
        found: Term,
    },
}

/// Why a suffix was not removed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum TruncateError {
    /// The journal has stopped.
    #[error(transparent)]
    Stopped(#[from] JournalError),
    /// There is no such frame to keep as the last.
    #[error("cannot truncate after frame {after}: the journal holds {first} up to before {next}")]
    OutOfRange {
        /// What was asked for.
        after: FrameIndex,
        /// The first frame held.
        first: FrameIndex,
        /// The next frame to be written.
        next: FrameIndex,
    },
}

/// Why frames cannot be read.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ReadError {
    /// The operating system failed the read.
    #[error(transparent)]
    Io(JournalError),
    /// See [`Damage`].
    #[error(transparent)]
    Damaged(#[from] Damage),
    /// The frame was released from the journal, and the archive that has it did not give it. Nothing is lost: worth repeating.
    #[error("the archive cannot be read now: {why}; repeat later")]
    Archive {
        /// What the archive said.
        why: String,
    },
    /// The frame was released from the journal, and what the archive has in its place is damaged.
    #[error("{why}")]
    ArchiveDamaged {
        /// What is wrong, and where.
        why: String,
    },
    /// The frame was released; the first one still here is named.
    #[error("the frame was released from the journal, which now begins at frame {first}")]
    Released {
        /// The first frame still held.
        first: FrameIndex,
    },
}

impl From<JournalError> for ReadError {
    fn from(error: JournalError) -> ReadError {
        match error {
            JournalError::Damaged(damage) => ReadError::Damaged(damage),
            other => ReadError::Io(other),
        }
    }
}
