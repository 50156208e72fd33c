//! Accepting connections, with limits that keep slow and idle clients cheap, and draining them at the end.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::{Shared, routes};

/// How long to wait when the operating system refuses a connection, for want of descriptors for instance.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

pub(crate) async fn serve(listener: TcpListener, shared: Arc<Shared>, stop: impl Future<Output = ()>) {
    let config = shared.config.clone();
    let wallet = Wallet { router: routes::router(Arc::clone(&shared)), shared };
    let graceful = GracefulShutdown::new();
    let permits = Arc::new(Semaphore::new(config.connections_max));
    let mut stop = std::pin::pin!(stop);
    loop {
        let accepted = tokio::select! {
            accepted = accept(&listener, &permits) => accepted,
            () = &mut stop => break,
        };
        let Some((stream, permit)) = accepted else { continue };
        let connection = graceful.watch(http(stream, wallet.clone(), config.header_timeout));
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection ended early");
            }
            drop(permit);
        });
    }
    drop(listener);
    if tokio::time::timeout(config.drain_timeout, graceful.shutdown()).await.is_err() {
        tracing::warn!("some connections were still busy when the time for draining was over");
    }
}

/// The next connection; `None` when the operating system refused it.
pub(crate) async fn accept(
    listener: &TcpListener,
    permits: &Arc<Semaphore>,
) -> Option<(TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    let permit = Arc::clone(permits).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, _)) => {
            // Answers are small and complete: waiting to fill a packet only adds latency.
            if let Err(error) = stream.set_nodelay(true) {
                tracing::debug!(%error, "cannot switch Nagle's algorithm off");
            }
            Some((stream, permit))
        }
        Err(error) => {
            tracing::warn!(%error, "cannot accept a connection");
            tokio::time::sleep(ACCEPT_PAUSE).await;
            None
        }
    }
}

fn http(
    stream: TcpStream,
    service: Wallet,
    header_timeout: Duration,
) -> http1::Connection<TokioIo<TcpStream>, Wallet> {
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(header_timeout)
        .max_buf_size(64 << 10)
        // An answer is small: to copy its body behind its head is cheaper than to write in two pieces.
        .writev(false)
        .serve_connection(TokioIo::new(stream), service)
}

/// The wallet as HTTP sees it.
#[derive(Clone)]
struct Wallet {
    router: Router,
    shared: Arc<Shared>,
}

impl Service<Request<Incoming>> for Wallet {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        if let Some(endpoint) = routes::direct(&request) {
            let shared = Arc::clone(&self.shared);
            return Box::pin(async move { Ok(routes::serve_direct(shared, endpoint, request).await) });
        }
        Box::pin(tower::Service::call(&mut self.router.clone(), request))
    }
}
