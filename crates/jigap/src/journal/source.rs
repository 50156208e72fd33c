//! Which history a command reads, up to which moment, and how it ends when that cannot be read.

use std::path::Path;

use api::parse_timestamp;
use ledger::Sequence;
use shards::partition::{Moment, OpenError, ReplayError, Source, SourceError, VerifyError};
use storage::archive::ArchiveError;
use storage::journal::{self, ReadError};
use storage::objects::{Objects, Purpose};
use storage::store::StoreError;

use super::PARTITION;
use crate::archive::{self, object_exit};
use crate::data_directory::DataDirectory;
use crate::exit::{Exit, Failure};
use crate::settings::Settings;

/// The history at this place, a data directory or an archive's URL; the data directory of the settings when none is named.
pub(crate) fn source(settings: &Settings, place: Option<&str>) -> Result<Source, Failure> {
    if let Some(url) = place.filter(|place| place.contains("://")) {
        let objects = Objects::open(url, Purpose::Read);
        let objects = objects.map_err(|error| Failure::new(object_exit(&error), error))?;
        return Ok(Source::Archive { objects, partition: PARTITION });
    }
    let path = place.map_or_else(|| settings.path("data-dir"), |place| Path::new(place).to_owned());
    let directory = DataDirectory::look_at(&path)?;
    let archive = archive::open(settings, directory.path(), Purpose::Read)?;
    Ok(Source::Directory { directory: directory.partition(PARTITION), archive })
}

/// A sequence or a time.
pub(crate) fn moment(name: &str, text: &str) -> Result<Moment, Failure> {
    if let Ok(sequence) = text.parse() {
        return Ok(Moment::Sequence(Sequence(sequence)));
    }
    let wrong = || {
        Failure::usage(format!("--{name}: {text:?} is no sequence, and no time such as 2026-01-02T03:04:05Z"))
    };
    Ok(Moment::Time(parse_timestamp(text).ok_or_else(wrong)?))
}

/// Whether a store cannot be opened because of what is in it.
pub(crate) fn is_store_damage(error: &StoreError) -> bool {
    !matches!(error, StoreError::Io { .. } | StoreError::OtherEngine { .. } | StoreError::NotBuiltIn(_))
}

/// Whether a directory cannot be opened because of what is in it.
pub(crate) fn is_damage(error: &OpenError) -> bool {
    match error {
        OpenError::Store(error) => is_store_damage(error),
        OpenError::Journal(error) => is_journal_damage(error),
        _ => true,
    }
}

fn is_journal_damage(error: &journal::OpenError) -> bool {
    use journal::OpenError::{Directory, Io, Options, UnsupportedVersion};
    !matches!(error, Directory { .. } | Io(_) | UnsupportedVersion { .. } | Options(_))
}

/// How a command ends that cannot read a history.
pub(crate) fn source_exit(error: &SourceError) -> Exit {
    match error {
        SourceError::Journal(error) if is_journal_damage(error) => Exit::Damaged,
        SourceError::Journal(_) => Exit::Directory,
        SourceError::Archive(ArchiveError::Object(error)) => object_exit(error),
        SourceError::Archive(_) => Exit::Damaged,
        SourceError::Read(error) => read_exit(error),
        SourceError::Empty { .. } | SourceError::NoBeginning { .. } => Exit::Usage,
    }
}

fn read_exit(error: &ReadError) -> Exit {
    match error {
        ReadError::Archive { .. } => Exit::Unavailable,
        ReadError::Io(_) => Exit::Directory,
        ReadError::Damaged(_) | ReadError::ArchiveDamaged { .. } | ReadError::Released { .. } => {
            Exit::Damaged
        }
    }
}

pub(super) fn verify_exit(error: &VerifyError) -> Exit {
    match error {
        VerifyError::Source(error) => source_exit(error),
        VerifyError::Journal(error) => read_exit(error),
        VerifyError::Store(error) if !is_store_damage(error) => Exit::Directory,
        _ => Exit::Damaged,
    }
}

pub(super) fn replay_exit(error: &ReplayError) -> Exit {
    match error {
        ReplayError::Source(error) => source_exit(error),
        ReplayError::Read(error) => read_exit(error),
        ReplayError::Beyond { .. } => Exit::Usage,
        ReplayError::Body { .. } | ReplayError::DoesNotFollow { .. } => Exit::Damaged,
    }
}
