//! Objects as files of a directory. A *draft* is written beside the object, synced, and linked to the object's name, which fails where
//! the name is taken: nobody ever sees a part of an object.
//!
//! Objects are written, and compared, past the page cache: what is archived is seldom read soon, would push what is read out of
//! memory, and costs the processor more in fresh pages than in all else. A comparison is with the disk, too, not with memory.

use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSlice};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use object_store::{Error, Result};
use rustix::fs::OFlags;

use crate::journal::{BufferPool, create_file, open_direct, whole_blocks, write_all};
use crate::random::random_bytes;

/// How much one write or read covers.
const PIECE_SIZE_BYTES: usize = 1 << 20;
/// Between the name of an object and the number of a draft; `object_store` leaves such files out of its listings.
const DRAFT_MARK: char = '#';

/// A directory with objects in it. Clones share it.
#[derive(Clone)]
pub(super) struct Directory {
    root: Arc<Path>,
    buffers: BufferPool,
}

impl Directory {
    pub(super) fn new(root: PathBuf) -> Directory {
        Directory { root: root.into(), buffers: BufferPool::new() }
    }

    /// Writes an object that is not there yet; it and its name are durable when this returns.
    pub(super) async fn create(&self, path: &str, content: Bytes) -> Result<()> {
        let place = self.root.join(path);
        self.aside(path, move |directory| {
            let above = place.parent().expect("an object lies below the root");
            fs::create_dir_all(above)?;
            let draft = draft_of(&place)?;
            let linked = directory.write(&draft, &content).and_then(|()| fs::hard_link(&draft, &place));
            // One that stays is taken away by whoever opens the archive next.
            let _ = fs::remove_file(&draft);
            linked?;
            directory.sync_above(&place)
        })
        .await
    }

    /// Makes a file an object by giving it a second name, durably: false where the file system does not allow that, or something else
    /// has the name.
    pub(super) async fn link(&self, path: &str, file: &Path) -> Result<bool> {
        let (place, file) = (self.root.join(path), file.to_owned());
        self.aside(path, move |directory| {
            fs::create_dir_all(place.parent().expect("an object lies below the root"))?;
            match fs::hard_link(&file, &place) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    let inode = |path: &Path| fs::metadata(path).map(|file| (file.dev(), file.ino()));
                    if inode(&file)? != inode(&place)? {
                        return Ok(false);
                    }
                }
                Err(error) => {
                    tracing::debug!(file = %file.display(), %error, "a file cannot be linked into the archive");
                    return Ok(false);
                }
            }
            directory.sync_above(&place)?;
            Ok(true)
        })
        .await
    }

    /// Whether the object's file has exactly this content.
    pub(super) async fn holds(&self, path: &str, content: Bytes) -> Result<bool> {
        let place = self.root.join(path);
        self.aside(path, move |directory| directory.compare(&place, &content)).await
    }

    /// Takes away what writes that were cut off left behind. Nobody else may write there meanwhile.
    pub(super) fn remove_drafts(&self) -> io::Result<()> {
        let mut waiting = vec![self.root.to_path_buf()];
        while let Some(directory) = waiting.pop() {
            let Ok(entries) = fs::read_dir(&directory) else { continue };
            for entry in entries.flatten() {
                let path = entry.path();
                if path.is_dir() {
                    waiting.push(path);
                } else if entry.file_name().to_string_lossy().contains(DRAFT_MARK) {
                    let named = |error| io::Error::other(format!("{}: {error}", path.display()));
                    fs::remove_file(&path).map_err(named)?;
                }
            }
        }
        Ok(())
    }

    /// Files block, and the time limit of the call must not wait for them.
    async fn aside<Answer: Send + 'static>(
        &self,
        path: &str,
        work: impl FnOnce(&Directory) -> io::Result<Answer> + Send + 'static,
    ) -> Result<Answer> {
        let directory = self.clone();
        let worked = tokio::task::spawn_blocking(move || work(&directory)).await?;
        worked.map_err(|error| {
            let (path, kind) = (path.to_owned(), error.kind());
            match kind {
                io::ErrorKind::AlreadyExists => Error::AlreadyExists { path, source: error.into() },
                io::ErrorKind::NotFound => Error::NotFound { path, source: error.into() },
                io::ErrorKind::PermissionDenied => Error::PermissionDenied { path, source: error.into() },
                _ => Error::Generic { store: "directory", source: error.into() },
            }
        })
    }

    fn write(&self, draft: &Path, content: &[u8]) -> io::Result<()> {
        // Nothing cannot be reserved.
        let file = create_file(draft, whole_blocks(content.len().max(1)) as u64)?;
        let direct = open_direct(OpenOptions::new().write(true), draft, OFlags::empty())?;
        let mut piece = self.buffers.take(PIECE_SIZE_BYTES);
        let mut offset = 0;
        for part in content.chunks(PIECE_SIZE_BYTES) {
            let blocks_end = whole_blocks(part.len());
            piece[..part.len()].copy_from_slice(part);
            piece[part.len()..blocks_end].fill(0);
            write_all(direct.as_ref().unwrap_or(&file), offset, &[IoSlice::new(&piece[..blocks_end])])?;
            offset += blocks_end as u64;
        }
        file.set_len(content.len() as u64)?;
        file.sync_all()
    }

    fn compare(&self, place: &Path, content: &[u8]) -> io::Result<bool> {
        let mut options = OpenOptions::new();
        options.read(true);
        let direct = open_direct(&options, place, OFlags::empty())?;
        let file = direct.map_or_else(|| options.open(place), Ok)?;
        if file.metadata()?.len() != content.len() as u64 {
            return Ok(false);
        }
        let mut piece = self.buffers.take(PIECE_SIZE_BYTES);
        let mut offset = 0;
        for part in content.chunks(PIECE_SIZE_BYTES) {
            let mut end = 0;
            while end < part.len() {
                match file.read_at(&mut piece[end..whole_blocks(part.len())], offset + end as u64)? {
                    0 => return Ok(false),
                    read => end += read,
                }
            }
            if piece[..part.len()] != *part {
                return Ok(false);
            }
            offset += part.len() as u64;
        }
        Ok(true)
    }

    /// A new file's name is durable only once every directory above it is.
    fn sync_above(&self, place: &Path) -> io::Result<()> {
        let above = place.ancestors().skip(1).take_while(|directory| directory.starts_with(&self.root));
        above.map(File::open).try_for_each(|directory| directory?.sync_all())
    }
}

/// A name that no other writer chooses.
fn draft_of(place: &Path) -> io::Result<PathBuf> {
    let random = random_bytes().map_err(io::Error::other)?;
    let number = u64::from_le_bytes(random[..8].try_into().expect("eight bytes"));
    let mut draft = place.as_os_str().to_owned();
    draft.push(format!("{DRAFT_MARK}{number}"));
    Ok(draft.into())
}
