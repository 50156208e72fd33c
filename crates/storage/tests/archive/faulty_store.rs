//! A real store that fails, waits or lies when it is told to.

use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{BoxStream, StreamExt};
use storage::objects::object_store::path::Path;
use storage::objects::object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

/// What is wrong with the store now.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Fault {
    None,
    /// Every call fails.
    Refuse,
    /// It tells what is there, and reads fail.
    #[allow(dead_code, reason = "not every test that includes this file has it fail so")]
    RefuseReads,
    /// Every call takes so long.
    Slow(Duration),
    /// Reads answer other bytes.
    WrongBytes,
}

#[derive(Debug)]
pub(crate) struct FaultyStore {
    store: Arc<dyn ObjectStore>,
    fault: Mutex<Fault>,
}

impl FaultyStore {
    pub(crate) fn over(store: Arc<dyn ObjectStore>) -> FaultyStore {
        FaultyStore { store, fault: Mutex::new(Fault::None) }
    }

    pub(crate) fn set(&self, fault: Fault) {
        *self.fault.lock().expect("no test panics here") = fault;
    }

    fn fault(&self) -> Fault {
        *self.fault.lock().expect("no test panics here")
    }

    async fn suffer(&self) -> Result<()> {
        match self.fault() {
            Fault::Refuse => Err(refused()),
            Fault::Slow(time) => {
                tokio::time::sleep(time).await;
                Ok(())
            }
            Fault::None | Fault::RefuseReads | Fault::WrongBytes => Ok(()),
        }
    }
}

fn refused() -> Error {
    Error::Generic { store: "faulty", source: "the store is told to fail".into() }
}

impl fmt::Display for FaultyStore {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("faulty")
    }
}

#[async_trait::async_trait]
impl ObjectStore for FaultyStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.suffer().await?;
        self.store.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.suffer().await?;
        self.store.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.suffer().await?;
        if let Fault::RefuseReads = self.fault() {
            return Err(refused());
        }
        let result = self.store.get_opts(location, options).await?;
        let Fault::WrongBytes = self.fault() else { return Ok(result) };
        let (meta, attributes, range, extensions) =
            (result.meta.clone(), result.attributes.clone(), result.range.clone(), result.extensions.clone());
        let mut bytes = result.bytes().await?.to_vec();
        let middle = bytes.len() / 2;
        if let Some(byte) = bytes.get_mut(middle) {
            *byte ^= 0x20;
        }
        let payload = GetResultPayload::Stream(futures_util::stream::iter([Ok(Bytes::from(bytes))]).boxed());
        Ok(GetResult { payload, meta, range, attributes, extensions })
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.suffer().await?;
        self.store.get_ranges(location, ranges).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.store.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let listed = self.store.list(prefix);
        match self.fault() {
            Fault::Refuse => futures_util::stream::iter([Err(refused())]).boxed(),
            Fault::Slow(time) => futures_util::stream::once(tokio::time::sleep(time))
                .flat_map(|()| futures_util::stream::empty())
                .chain(listed)
                .boxed(),
            Fault::None | Fault::RefuseReads | Fault::WrongBytes => listed,
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.suffer().await?;
        self.store.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.suffer().await?;
        self.store.copy_opts(from, to, options).await
    }
}
