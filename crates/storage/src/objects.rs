//! Objects by name in a directory, in S3 or in HDFS, for threads that are not asynchronous.
//!
//! An object is written whole or not at all and never changed. Every call has a time limit, and says in its error whether it is
//! worth repeating.

mod directory;
#[cfg(feature = "hdfs")]
mod hdfs;

use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::TryStreamExt;
use object_store::aws::{AmazonS3Builder, S3ConditionalPut};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{ClientOptions, ObjectStore, ObjectStoreExt, PutMode, PutPayload, RetryConfig};
use tokio::runtime::Runtime;

use directory::Directory;

/// The crate whose stores are used, so that a store of one's own can be put behind [`Objects::over`].
pub use object_store;

/// How long one call may take unless told otherwise.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long the library repeats a request that failed for a passing reason.
const RETRY_TIMEOUT: Duration = Duration::from_secs(3);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// In the name of a file that is not an object yet, where a store cannot hide it otherwise.
const DRAFT_MARK: &str = ".draft-";

/// Why an object was not read or written.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ObjectError {
    /// No object has the name.
    #[error("{store}: there is no object {path}")]
    Missing {
        /// Where.
        store: String,
        /// The object's name.
        path: String,
    },
    /// The store refuses these credentials, or has none to go by.
    #[error(
        "{store}: access denied to {path}: {why}; for S3, check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT and the \
         rights on the bucket; for HDFS, HADOOP_USER_NAME or the ticket, and the rights on the directory"
    )]
    Denied {
        /// Where.
        store: String,
        /// What was asked for.
        path: String,
        /// What the store said.
        why: String,
    },
    /// No answer, or an answer that a later attempt may not get.
    #[error("{store}: cannot {action} {path}: {why}")]
    Unavailable {
        /// Where.
        store: String,
        /// What was tried.
        action: &'static str,
        /// The object's name.
        path: String,
        /// What the store said.
        why: String,
    },
    /// The address cannot be used.
    #[error("archive {url:?}: {why}")]
    Address {
        /// As it was given.
        url: String,
        /// What is wrong with it.
        why: String,
    },
}

/// Whether a directory that is missing is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// It must exist.
    Read,
    /// It is made.
    Write,
}

/// What became of an object that was to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// It was not there.
    New,
    /// An object has the name already, and was left as it is.
    Existed,
}

/// One object of a listing.
#[derive(Debug, Clone)]
pub struct Listed {
    /// Its name, without the address of the store.
    pub path: String,
    /// Its size.
    pub size_bytes: u64,
    /// When it was written.
    pub modified: SystemTime,
}

/// A store of objects. Clones share it.
#[derive(Clone)]
pub struct Objects {
    inner: Arc<Inner>,
}

struct Inner {
    store: Arc<dyn ObjectStore>,
    url: String,
    prefix: String,
    kind: Kind,
    patience: Duration,
    /// `None` only while it is being dropped.
    runtime: Option<Runtime>,
}

/// What is particular to a kind of store: how an object comes to be there, whole and for good.
enum Kind {
    /// A conditional put does all.
    Plain,
    /// Files are written by ourselves.
    Directory(Directory),
    /// A draft is synced and renamed.
    #[cfg(feature = "hdfs")]
    Hdfs(hdfs_native::Client),
}

impl fmt::Debug for Objects {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("Objects").field(&self.inner.url).finish()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // The last owner may be a thread of another runtime, which must not wait.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Objects {
    /// Opens `file:///DIRECTORY`, `s3://BUCKET/PREFIX` (credentials and endpoint from the `AWS_*` variables), or, with the feature
    /// `hdfs`, `hdfs://HOST:PORT/DIRECTORY`.
    pub fn open(url: &str, purpose: Purpose) -> Result<Objects, ObjectError> {
        let address =
            |why: &dyn fmt::Display| ObjectError::Address { url: url.to_owned(), why: why.to_string() };
        let (scheme, rest) = url.split_once("://").ok_or_else(|| {
            address(&"must be file:///DIRECTORY, s3://BUCKET/PREFIX or hdfs://HOST:PORT/DIRECTORY")
        })?;
        match scheme {
            "file" => {
                let directory = PathBuf::from(rest);
                if !directory.is_absolute() {
                    return Err(address(&"a directory must be absolute: file:///DIRECTORY"));
                }
                if purpose == Purpose::Write {
                    std::fs::create_dir_all(&directory).map_err(|error| address(&error))?;
                }
                let store = LocalFileSystem::new_with_prefix(&directory).map_err(|error| address(&error))?;
                let kind = Kind::Directory(Directory::new(directory));
                Ok(Self::assemble(Arc::new(store), url, "", kind, PATIENCE, runtime(url)?))
            }
            "s3" => {
                let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
                let store = s3(bucket).map_err(|error| address(&error))?;
                Ok(Self::assemble(Arc::new(store), url, prefix, Kind::Plain, PATIENCE, runtime(url)?))
            }
            #[cfg(feature = "hdfs")]
            "hdfs" => {
                let (host, prefix) = rest.split_once('/').unwrap_or((rest, ""));
                let runtime = runtime(url)?;
                let client = hdfs::client(&format!("hdfs://{host}"), runtime.handle());
                let client = client.map_err(|error| address(&error))?;
                let store = hdfs::store(&client);
                Ok(Self::assemble(Arc::new(store), url, prefix, Kind::Hdfs(client), PATIENCE, runtime))
            }
            #[cfg(not(feature = "hdfs"))]
            "hdfs" => Err(address(&"this jigap was built without HDFS; build it with --features hdfs")),
            _ => Err(address(&format!("unknown kind of store {scheme:?}; known are file, s3 and hdfs"))),
        }
    }

    /// Any store, under the name that errors call it by.
    pub fn over(store: Arc<dyn ObjectStore>, url: &str, patience: Duration) -> Result<Objects, ObjectError> {
        Ok(Self::assemble(store, url, "", Kind::Plain, patience, runtime(url)?))
    }

    fn assemble(
        store: Arc<dyn ObjectStore>,
        url: &str,
        prefix: &str,
        kind: Kind,
        patience: Duration,
        runtime: Runtime,
    ) -> Objects {
        let prefix = prefix.trim_matches('/').to_owned();
        let url = url.trim_end_matches('/').to_owned();
        let inner = Inner { store, url, prefix, kind, patience, runtime: Some(runtime) };
        Objects { inner: Arc::new(inner) }
    }

    /// The address.
    pub fn url(&self) -> &str {
        &self.inner.url
    }

    /// A whole object.
    pub fn get(&self, path: &str) -> Result<Bytes, ObjectError> {
        let at = self.at(path);
        self.call("read", path, async { self.inner.store.get(&at).await?.bytes().await })
    }

    /// A part of an object.
    pub fn get_range(&self, path: &str, range: Range<u64>) -> Result<Bytes, ObjectError> {
        let wanted = range.end - range.start;
        let at = self.at(path);
        let bytes =
            self.call("read", path, async { self.inner.store.get_range(&at, range.clone()).await })?;
        if bytes.len() as u64 != wanted {
            let why = format!("{} of {wanted} bytes came", bytes.len());
            return Err(self.unavailable("read", path, why));
        }
        Ok(bytes)
    }

    /// Writes an object that is not there yet; durable when this returns.
    pub fn put_new(&self, path: &str, content: Bytes) -> Result<Written, ObjectError> {
        let at = self.at(path);
        self.call("write", path, async {
            let created = match &self.inner.kind {
                #[cfg(feature = "hdfs")]
                Kind::Hdfs(client) => hdfs::create(client, &at, content).await,
                Kind::Directory(directory) => directory.create(path, content).await,
                Kind::Plain => {
                    let options = PutMode::Create.into();
                    self.inner.store.put_opts(&at, PutPayload::from(content), options).await.map(drop)
                }
            };
            match created {
                Ok(()) => Ok(Written::New),
                Err(object_store::Error::AlreadyExists { .. }) => Ok(Written::Existed),
                Err(error) => Err(error),
            }
        })
    }

    /// Whether [`Objects::link`] can work.
    pub fn links_files(&self) -> bool {
        matches!(self.inner.kind, Kind::Directory(_))
    }

    /// Makes a durable file that never changes an object, by a second name: false where the store cannot do that, because it is no
    /// directory or is on another file system.
    pub fn link(&self, path: &str, file: &std::path::Path) -> Result<bool, ObjectError> {
        match &self.inner.kind {
            Kind::Directory(directory) => self.call("write", path, directory.link(path, file)),
            _ => Ok(false),
        }
    }

    /// Whether the object has exactly this content where it is kept, whatever a cache of this machine says.
    pub fn holds(&self, path: &str, content: &Bytes) -> Result<bool, ObjectError> {
        match &self.inner.kind {
            Kind::Directory(directory) => self.call("read", path, directory.holds(path, content.clone())),
            _ => Ok(self.get(path)? == *content),
        }
    }

    /// Every object whose name begins with this folder, sorted by name.
    pub fn list(&self, folder: &str) -> Result<Vec<Listed>, ObjectError> {
        let mut listed = self.list_with_drafts(folder)?;
        listed.retain(|listed| !is_draft(&listed.path));
        Ok(listed)
    }

    fn list_with_drafts(&self, folder: &str) -> Result<Vec<Listed>, ObjectError> {
        let at = self.at(folder);
        let prefix = match self.inner.prefix.as_str() {
            "" => String::new(),
            prefix => format!("{prefix}/"),
        };
        let found: Vec<_> =
            self.call("list", folder, async { self.inner.store.list(Some(&at)).try_collect().await })?;
        let mut listed: Vec<Listed> = found
            .into_iter()
            .filter_map(|meta| {
                let path = meta.location.as_ref().strip_prefix(&prefix)?.to_owned();
                Some(Listed { path, size_bytes: meta.size, modified: meta.last_modified.into() })
            })
            .collect();
        listed.sort_by(|one, two| one.path.cmp(&two.path));
        Ok(listed)
    }

    /// The names directly below a folder that others lie below, sorted.
    pub fn folders(&self, folder: &str) -> Result<Vec<String>, ObjectError> {
        let below = self.list(folder)?;
        let names = below.iter().filter_map(|listed| {
            let rest = listed.path.strip_prefix(folder)?.strip_prefix('/')?;
            Some(rest.split_once('/')?.0.to_owned())
        });
        Ok(names.collect::<BTreeSet<_>>().into_iter().collect())
    }

    /// Removes an object; it may be gone already.
    pub fn remove(&self, path: &str) -> Result<(), ObjectError> {
        let at = self.at(path);
        match self.call("remove", path, async { self.inner.store.delete(&at).await }) {
            Err(ObjectError::Missing { .. }) => Ok(()),
            other => other,
        }
    }

    /// Takes away what writes that were cut off left behind. Nobody else may write there meanwhile.
    pub fn remove_drafts(&self) -> Result<(), ObjectError> {
        match &self.inner.kind {
            Kind::Plain => Ok(()),
            Kind::Directory(directory) => {
                let removed = directory.remove_drafts();
                removed.map_err(|error| self.unavailable("remove", "a draft", error.to_string()))
            }
            #[cfg(feature = "hdfs")]
            Kind::Hdfs(_) => {
                let listed = self.list_with_drafts("")?;
                let mut drafts = listed.iter().filter(|listed| is_draft(&listed.path));
                drafts.try_for_each(|draft| self.remove(&draft.path))
            }
        }
    }

    fn at(&self, path: &str) -> Path {
        match self.inner.prefix.as_str() {
            "" => Path::from(path),
            prefix => Path::from(format!("{prefix}/{path}")),
        }
    }

    fn call<Answer>(
        &self,
        action: &'static str,
        path: &str,
        call: impl Future<Output = object_store::Result<Answer>>,
    ) -> Result<Answer, ObjectError> {
        let runtime =
            self.inner.runtime.as_ref().expect("it is taken only when nobody has the store any more");
        let answer = runtime.block_on(async { tokio::time::timeout(self.inner.patience, call).await });
        match answer {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(self.error(action, path, &error)),
            Err(_) => {
                Err(self.unavailable(action, path, format!("no answer within {:?}", self.inner.patience)))
            }
        }
    }

    fn error(&self, action: &'static str, path: &str, error: &object_store::Error) -> ObjectError {
        let (store, path) = (self.inner.url.clone(), path.to_owned());
        match error {
            object_store::Error::NotFound { .. } => ObjectError::Missing { store, path },
            object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. } => {
                ObjectError::Denied { store, path, why: root_cause(error) }
            }
            other => {
                let why = root_cause(other);
                // Listings report a refusal as any other failure, and HDFS everything.
                let refusals = ["403 Forbidden", "401 Unauthorized", "AccessControlException"];
                match refusals.iter().any(|status| why.contains(status)) {
                    true => ObjectError::Denied { store, path, why },
                    false => ObjectError::Unavailable { store, action, path, why },
                }
            }
        }
    }

    fn unavailable(&self, action: &'static str, path: &str, why: String) -> ObjectError {
        ObjectError::Unavailable { store: self.inner.url.clone(), action, path: path.to_owned(), why }
    }
}

/// One thread that carries the connections of the store at this address.
fn runtime(url: &str) -> Result<Runtime, ObjectError> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .max_blocking_threads(4)
        .thread_name("jigap-objects")
        .enable_all()
        .build()
        .map_err(|error| ObjectError::Address {
            url: url.to_owned(),
            why: format!("cannot start a thread: {error}"),
        })
}

/// True for what a write left behind that was cut off.
fn is_draft(path: &str) -> bool {
    path.rsplit('/').next().is_some_and(|name| name.contains(DRAFT_MARK))
}

/// What lies below the wrappings, which repeat each other.
fn root_cause(error: &object_store::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    let text = cause.to_string();
    // A NameNode says after that where in its code it noticed.
    let lines = text.lines().take_while(|line| !line.starts_with("\tat "));
    lines.flat_map(str::split_whitespace).collect::<Vec<_>>().join(" ")
}

fn s3(bucket: &str) -> object_store::Result<impl ObjectStore> {
    // More than one part of a program may ask for it: the first wins, and all ask for the same.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let plain = ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"]
        .iter()
        .any(|name| std::env::var(name).is_ok_and(|endpoint| endpoint.starts_with("http://")));
    let client = ClientOptions::new().with_timeout(PATIENCE).with_connect_timeout(CONNECT_TIMEOUT);
    let retry = RetryConfig { retry_timeout: RETRY_TIMEOUT, max_retries: 5, ..RetryConfig::default() };
    AmazonS3Builder::from_env()
        .with_client_options(client)
        .with_allow_http(plain)
        .with_retry(retry)
        .with_conditional_put(S3ConditionalPut::ETagMatch)
        .with_bucket_name(bucket)
        .build()
}
