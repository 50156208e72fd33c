//! A connection that can be cut: what the client sent may or may not have arrived.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    target: Arc<Mutex<SocketAddr>>,
    cut: Arc<Notify>,
}

impl Proxy {
    pub(crate) async fn to(target: SocketAddr) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("it listens");
        let address = listener.local_addr().expect("an address");
        let cut = Arc::new(Notify::new());
        let target = Arc::new(Mutex::new(target));
        let (cutting, targets) = (Arc::clone(&cut), Arc::clone(&target));
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let cut = Arc::clone(&cutting);
                let target = *targets.lock().expect("no panic");
                tokio::spawn(async move {
                    let Ok(mut server) = TcpStream::connect(target).await else { return };
                    tokio::select! {
                        _ = copy_bidirectional(&mut client, &mut server) => {}
                        () = cut.notified() => {}
                    }
                });
            }
        });
        Proxy { address, target, cut }
    }

    /// Ends every connection; the next ones go elsewhere.
    pub(crate) fn turn_to(&self, target: SocketAddr) {
        *self.target.lock().expect("no panic") = target;
        self.cut();
    }

    /// Ends every connection.
    pub(crate) fn cut(&self) {
        self.cut.notify_waiters();
    }
}
