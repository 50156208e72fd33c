//! What of webhooks must survive: two files each, replaced whole and synced.
//!
//! ```text
//! DIR/wh_….json           what it is: address, filters, secrets (mode 0600)
//! DIR/wh_….progress.json  how far it is: cursor, the event being retried, dead letters
//! ```
//!
//! The first is written after the second and removed before it: a webhook exists while its first file does.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::signature::Secret;

/// The version of both files.
pub(super) const FORMAT: u32 = 1;

const PROGRESS: &str = ".progress.json";
const SETTINGS: &str = ".json";
const DRAFT: &str = ".new";

/// Why the webhooks of a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum WebhookStoreError {
    /// The operating system refuses.
    #[error("webhooks: cannot use {}: {error}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The file is not what was written.
    #[error("webhooks: {} is damaged ({why}); mend it, or remove it and its neighbour to go on without this webhook", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

/// What a webhook is.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Settings {
    pub(super) format: u32,
    pub(super) id: String,
    pub(super) url: String,
    /// Empty for all.
    pub(super) types: Vec<String>,
    pub(super) account: Option<Account>,
    pub(super) status: Status,
    pub(super) created_us: u64,
    /// The newest first. Those after it sign beside it until they expire.
    pub(super) secrets: Vec<DatedSecret>,
}

/// The only account whose events are wanted.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Account {
    pub(super) account_id: String,
    pub(super) number: u32,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DatedSecret {
    pub(super) secret: Secret,
    pub(super) created_us: u64,
    /// `None` for the newest.
    pub(super) expires_us: Option<u64>,
}

/// Whether events are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Status {
    Active,
    /// An operator said so.
    Paused,
    /// The receiver answered 410 Gone.
    Gone,
}

/// How far a webhook is.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Progress {
    pub(super) format: u32,
    /// Every event up to here was delivered, not wanted, or has become a dead letter.
    pub(super) cursor: u64,
    pub(super) delivered_us: Option<u64>,
    /// The next event, when it was tried in vain.
    pub(super) pending: Option<Pending>,
    pub(super) last_error: Option<LastError>,
    /// In order of their sequence.
    pub(super) dead_letters: Vec<DeadLetter>,
}

/// An event that is being retried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Pending {
    pub(super) sequence: u64,
    pub(super) attempts: u32,
    pub(super) first_us: u64,
}

/// Why an attempt failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LastError {
    pub(super) sequence: u64,
    pub(super) at_us: u64,
    /// Of the receiver's answer, if there was one.
    pub(super) status: Option<u16>,
    pub(super) detail: String,
}

/// An event that was given up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DeadLetter {
    pub(super) sequence: u64,
    pub(super) r#type: String,
    pub(super) attempts: u32,
    pub(super) first_us: u64,
    pub(super) error: LastError,
    /// It is to be sent once more.
    pub(super) queued: bool,
}

#[derive(Debug, Clone)]
pub(super) struct Stored {
    pub(super) settings: Settings,
    pub(super) progress: Progress,
}

/// The directory of webhooks, with those that it held when it was opened.
#[derive(Debug, Clone)]
pub struct WebhookStore {
    directory: PathBuf,
    loaded: Arc<Vec<Stored>>,
}

impl WebhookStore {
    /// Opens or makes the directory. Nobody else may use it meanwhile.
    pub fn open(directory: &Path) -> Result<WebhookStore, WebhookStoreError> {
        let refused = |error| WebhookStoreError::Io { path: directory.to_owned(), error };
        DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(refused)?;
        let mut names = Vec::new();
        for entry in fs::read_dir(directory).map_err(refused)? {
            names.push(entry.map_err(refused)?.file_name().to_string_lossy().into_owned());
        }
        let mut loaded = Vec::new();
        for name in &names {
            let is_settings = name.ends_with(SETTINGS) && !name.ends_with(PROGRESS);
            let Some(id) = name.strip_suffix(SETTINGS).filter(|_| is_settings) else {
                // A crash may leave the draft of a file, or one of a pair of files.
                let id = name.strip_suffix(PROGRESS);
                let is_alone = id.is_some_and(|id| !names.contains(&format!("{id}{SETTINGS}")));
                if is_alone || name.ends_with(DRAFT) {
                    fs::remove_file(directory.join(name)).map_err(refused)?;
                }
                continue;
            };
            let settings: Settings = read(&directory.join(name))?;
            let path = directory.join(format!("{id}{PROGRESS}"));
            let progress: Progress = read(&path)?;
            if settings.id != id || settings.format != FORMAT || progress.format != FORMAT {
                let why = format!(
                    "it is of webhook {:?}, formats {} and {}",
                    settings.id, settings.format, progress.format
                );
                return Err(WebhookStoreError::Damaged { path: directory.join(name), why });
            }
            loaded.push(Stored { settings, progress });
        }
        Ok(WebhookStore { directory: directory.to_owned(), loaded: Arc::new(loaded) })
    }

    /// Those that were there when the directory was opened.
    pub(super) fn loaded(&self) -> &[Stored] {
        &self.loaded
    }

    /// Blocks on the disk.
    pub(super) fn save_settings(&self, settings: &Settings) -> io::Result<()> {
        self.replace(&format!("{}{SETTINGS}", settings.id), settings)
    }

    /// Blocks on the disk.
    pub(super) fn save_progress(&self, id: &str, progress: &Progress) -> io::Result<()> {
        self.replace(&format!("{id}{PROGRESS}"), progress)
    }

    /// Blocks on the disk.
    pub(super) fn remove(&self, id: &str) -> io::Result<()> {
        for suffix in [SETTINGS, PROGRESS] {
            match fs::remove_file(self.directory.join(format!("{id}{suffix}"))) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => File::open(&self.directory)?.sync_all()?,
            }
        }
        Ok(())
    }

    /// Writes beside the final name first, so that a crash leaves the old content or the new one.
    fn replace(&self, name: &str, content: &impl Serialize) -> io::Result<()> {
        let (path, draft) = (self.directory.join(name), self.directory.join(format!("{name}{DRAFT}")));
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
        file.write_all(&serde_json::to_vec(content)?)?;
        file.sync_all()?;
        fs::rename(&draft, &path)?;
        File::open(&self.directory)?.sync_all()
    }
}

fn read<Content: DeserializeOwned>(path: &Path) -> Result<Content, WebhookStoreError> {
    let bytes = fs::read(path).map_err(|error| WebhookStoreError::Io { path: path.to_owned(), error })?;
    serde_json::from_slice(&bytes)
        .map_err(|error| WebhookStoreError::Damaged { path: path.to_owned(), why: error.to_string() })
}
