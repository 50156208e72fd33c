//! The whole life of a journal in an object store: every durable frame is packed into immutable objects, so that the journal may
//! let go of old segments and their frames are found again as if they were still there.
//!
//! ```text
//! partition-N/journal/<first frame>-<last frame>-<first sequence>-<hash before>-<last hash>.parcel
//! partition-N/snapshots/<sequence>-<digest>/...                                  see `crate::snapshot`
//! ```
//!
//! There is no catalogue to lose: names say which parcels continue each other, and contents prove it.

mod archiver;
mod history;
mod parcel;

pub use archiver::{ArchiveMetrics, Archiver, ArchiverOptions, Flushed};
pub use history::{History, Parcel};
pub use parcel::ParcelName;

use crate::journal::{FrameIndex, ReadError};
use crate::objects::ObjectError;

/// Why the archive did not give what it should have.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ArchiveError {
    /// The store failed.
    #[error(transparent)]
    Object(#[from] ObjectError),
    /// An object has other bytes than were written.
    #[error("the archive's object {path} is damaged: {why}")]
    Damaged {
        /// Its name.
        path: String,
        /// What is wrong.
        why: String,
    },
    /// No parcel holds the frame.
    #[error("the archive does not have frame {index}")]
    NotThere {
        /// The frame asked for.
        index: FrameIndex,
    },
    /// The local journal failed while it was being archived.
    #[error(transparent)]
    Journal(#[from] Box<ReadError>),
}

impl From<ArchiveError> for ReadError {
    fn from(error: ArchiveError) -> ReadError {
        match error {
            ArchiveError::Journal(error) => *error,
            ArchiveError::Damaged { .. } => ReadError::ArchiveDamaged { why: error.to_string() },
            other => ReadError::Archive { why: other.to_string() },
        }
    }
}

/// The folder of a partition's parcels.
pub(crate) fn journal_folder(partition: u32) -> String {
    format!("partition-{partition}/journal")
}
