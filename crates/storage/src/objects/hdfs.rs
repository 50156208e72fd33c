//! Objects as files of HDFS, which has no conditional put: a *draft* is written beside the object, synced, and renamed without
//! overwriting. The NameNode decides who comes first, and nobody ever sees a part of an object.

use bytes::Bytes;
use hdfs_native::{Client, ClientBuilder, HdfsError, WriteOptions};
use hdfs_native_object_store::HdfsObjectStore;
use object_store::path::Path;
use object_store::{Error, Result};
use tokio::runtime::Handle;

use super::DRAFT_MARK;
use crate::random::random_bytes;

/// An object is one block, because a sync reaches the disks for the last block only.
const BLOCK_SIZE_BYTES: u64 = 128 << 20;
/// A NameNode that is away is asked again, for about three seconds; whoever asked is told then and repeats.
const PERSISTENCE: [(&str, &str); 2] =
    [("dfs.client.failover.max.attempts", "4"), ("dfs.client.failover.sleep.base.millis", "100")];

/// A client of the cluster at `hdfs://HOST:PORT`, or of a name service that the configuration in `HADOOP_CONF_DIR` knows. Its
/// connections are carried by `runtime`: left to itself, it takes that of the thread that asks first, and hangs once that one ends.
pub(super) fn client(url: &str, runtime: &Handle) -> Result<Client> {
    let builder = ClientBuilder::new().with_url(url).with_config(PERSISTENCE);
    builder.with_io_runtime(runtime.clone()).build().map_err(error)
}

/// Everything but writing.
pub(super) fn store(client: &Client) -> HdfsObjectStore {
    HdfsObjectStore::new(client.clone())
}

/// Writes a file that is not there yet. Its bytes are on the disks of all DataNodes that have it, and its name is in the NameNode's
/// journal, when this returns.
pub(super) async fn create(client: &Client, path: &Path, content: Bytes) -> Result<()> {
    let place = format!("/{path}");
    if content.len() as u64 > BLOCK_SIZE_BYTES {
        let why = format!("{} bytes are more than a block of {BLOCK_SIZE_BYTES}", content.len());
        return Err(error(HdfsError::InvalidArgument(why)));
    }
    // Saves writing it all in vain; the rename is what decides.
    match client.get_file_info(&place).await {
        Err(HdfsError::FileNotFound(_)) => {}
        Ok(_) => return Err(error(HdfsError::AlreadyExists(place))),
        Err(other) => return Err(error(other)),
    }
    let draft = draft_of(&place)?;
    let options = WriteOptions::default().block_size(BLOCK_SIZE_BYTES);
    let written = async {
        let mut writer = client.create(&draft, options).await?;
        let synced = async {
            writer.write_bytes(content).await?;
            writer.hsync().await
        };
        synced.await.map_err(not_on_disk)?;
        writer.close().await?;
        client.rename(&draft, &place, false).await
    };
    let written = written.await;
    if written.is_err() {
        // Whoever opens the archive next takes it away otherwise.
        let _ = client.delete(&draft, false).await;
    }
    written.map_err(error)
}

/// A name that no other writer chooses.
fn draft_of(place: &str) -> Result<String> {
    let random = random_bytes().map_err(|why| Error::Generic { store: "hdfs", source: why.into() })?;
    Ok(format!("{place}{DRAFT_MARK}{}", hex::encode(&random[..8])))
}

/// What failed is a DataNode, whose address a broken connection does not tell; the address of the NameNode is in every error.
fn not_on_disk(error: HdfsError) -> HdfsError {
    match error {
        HdfsError::IOError(why) => {
            HdfsError::DataTransferError(format!("the bytes did not reach the disk of a DataNode: {why}"))
        }
        other => other,
    }
}

fn error(error: HdfsError) -> Error {
    match error {
        HdfsError::AlreadyExists(path) => {
            Error::AlreadyExists { path: path.clone(), source: HdfsError::AlreadyExists(path).into() }
        }
        HdfsError::FileNotFound(path) => {
            Error::NotFound { path: path.clone(), source: HdfsError::FileNotFound(path).into() }
        }
        other => Error::Generic { store: "hdfs", source: other.into() },
    }
}
