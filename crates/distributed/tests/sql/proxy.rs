//! A proxy before a database that cuts connections in the middle of what they carry.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// How many bytes a connection carries before it is cut: some not even its beginning, some many statements.
const BYTES_BEFORE_CUT: std::ops::Range<usize> = 500..30_000;

#[derive(Default)]
struct Shared {
    is_cutting: AtomicBool,
    cuts: AtomicUsize,
}

pub(crate) struct Proxy(Arc<Shared>);

impl Proxy {
    /// Stands before the database of a URL; also answers the URL that leads through it.
    pub(crate) async fn before(url: &str, seed: u64) -> (Proxy, String) {
        let (before, rest) = url.split_once('@').unwrap();
        let (upstream, database) = rest.split_once('/').unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("{before}@{}/{database}", listener.local_addr().unwrap());
        let shared = Arc::new(Shared::default());
        tokio::spawn(serve(listener, upstream.to_owned(), shared.clone(), fastrand::Rng::with_seed(seed)));
        (Proxy(shared), url)
    }

    pub(crate) fn begin_cutting(&self) {
        self.0.is_cutting.store(true, Ordering::SeqCst);
    }

    pub(crate) fn stop_cutting(&self) {
        self.0.is_cutting.store(false, Ordering::SeqCst);
    }

    pub(crate) fn cuts(&self) -> usize {
        self.0.cuts.load(Ordering::SeqCst)
    }
}

async fn serve(listener: TcpListener, upstream: String, shared: Arc<Shared>, mut random: fastrand::Rng) {
    loop {
        let Ok((client, _)) = listener.accept().await else { return };
        let bytes_left = random.usize(BYTES_BEFORE_CUT);
        tokio::spawn(carry(client, upstream.clone(), shared.clone(), bytes_left));
    }
}

/// Carries both ways, until it has carried so many bytes while cutting is on. Half of a message may have gone on by then.
async fn carry(mut client: TcpStream, upstream: String, shared: Arc<Shared>, mut bytes_left: usize) {
    let Ok(mut server) = TcpStream::connect(upstream).await else { return };
    let (mut from_client, mut from_server) = (vec![0; 4_096], vec![0; 4_096]);
    loop {
        let (count, to, bytes) = tokio::select! {
            count = client.read(&mut from_client) => (count, &mut server, &from_client),
            count = server.read(&mut from_server) => (count, &mut client, &from_server),
        };
        let Ok(count @ 1..) = count else { return };
        let count = if shared.is_cutting.load(Ordering::SeqCst) { count.min(bytes_left) } else { count };
        if to.write_all(&bytes[..count]).await.is_err() {
            return;
        }
        if shared.is_cutting.load(Ordering::SeqCst) {
            bytes_left -= count;
            if bytes_left == 0 {
                shared.cuts.fetch_add(1, Ordering::SeqCst);
                return;
            }
        }
    }
}
