//! `jigap serve`: lock the directory or reach the shards, listen, recover, serve, drain.

mod listener;
mod shards_wallet;
mod welcome;

use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use ledger::Sequence;
use server::{Config, EventsConfig, Reach, Ready, Server, WebhookStore, WebhookStoreError, WebhooksConfig};

use distributed::wallet::Wallet;
use shards::partition::{self, OnFatal, OpenError, Partition};
use storage::objects::Purpose;
use storage::open_files;
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use views::{History, HistoryError, HistoryOptions};

use crate::data_directory::DataDirectory;
use crate::exit::{Exit, Failure, OrExit};
use crate::journal::{is_damage, is_store_damage};
use crate::progress::Progress;
use crate::settings::{Flags, Settings};
use crate::traces::Traces;
use crate::{archive, logging, serve::listener::HistoryFeed};

/// The partition of a single node.
const PARTITION: u32 = 0;

/// Serves until a signal says to stop.
pub(crate) fn run(flags: &Flags) -> Result<(), Failure> {
    let settings = Settings::load(flags)?;
    let shards = settings.shards()?;
    let traces = Traces::start(&settings)?;
    logging::start(&settings, traces.as_ref());
    // Every connection is one, and every subscriber has a connection.
    open_files::raise_limit();
    let runtime = network_runtime(&settings).context("cannot start the asynchronous runtime")?;
    match shards {
        Some(shards) => runtime.block_on(serve_shards(&settings, shards))?,
        None => {
            let directory = DataDirectory::open_for_serving(&settings.path("data-dir"))?;
            let place = directory.path().display().to_string();
            let config = Config { webhooks: webhooks(&settings, &directory)?, ..config(&settings)? };
            let recovering = |ready| recover(&settings, &directory, ready);
            if let Some(node) = runtime.block_on(serve(config, &place, recovering))? {
                node.shut_down();
            }
        }
    }
    drop(traces);
    tracing::info!("stopped");
    Ok(())
}

/// A lone thread needs no queue that others could take work from, which makes it a third faster than one of several.
fn network_runtime(settings: &Settings) -> std::io::Result<Runtime> {
    let count = |name| usize::try_from(settings.number(name)).expect("the table keeps it below 2^32");
    match count("network-threads") {
        1 => Builder::new_current_thread().enable_all().build(),
        threads => Builder::new_multi_thread()
            .worker_threads(threads)
            .thread_name("jigap-network")
            .enable_all()
            .build(),
    }
}

/// What recovery makes.
struct Node {
    partition: Partition,
    history: Option<Arc<History>>,
}

impl Node {
    fn shut_down(self) {
        self.partition.shut_down();
        drop(self.history);
    }
}

/// Serves a wallet over shards.
async fn serve_shards(settings: &Settings, shards: distributed::Config) -> Result<(), Failure> {
    let place = format!("{} over {} shards", shards.architecture, shards.shards.len());
    let opening = async |ready: Ready| -> Result<Arc<dyn Wallet>, Failure> {
        let wallet = shards_wallet::open(shards).await?;
        ready.ready_distributed(Arc::clone(&wallet));
        Ok(wallet)
    };
    let config = config(settings)?;
    let patience = config.drain_timeout;
    if let Some(wallet) = serve(config, &place, opening).await?
        && tokio::time::timeout(patience, wallet.shut_down()).await.is_err()
    {
        tracing::warn!(
            "some transactions were still under way when the time for draining was over; any instance finishes them"
        );
    }
    Ok(())
}

/// Listens at once, so that `/healthz` answers while the journal is being read or shards are being reached; serves once that is done.
/// What was recovered is given back at the end; nothing when a signal came first.
async fn serve<Recovered>(
    config: Config,
    place: &str,
    recover: impl AsyncFnOnce(Ready) -> Result<Recovered, Failure>,
) -> Result<Option<Recovered>, Failure> {
    let mut signals = Signals::new()?;
    let (listen, grpc_listen) = (config.listen, config.grpc_listen);
    let server = Server::bind(config).await.with_context(|| {
        format!("cannot listen on {listen} (HTTP) and {grpc_listen} (gRPC); is another process there?")
    })?;
    let http = server.local_address().context("cannot tell the address")?;
    let grpc = server.grpc_local_address().context("cannot tell the address")?;
    let recovering = recover(server.ready_handle());

    let (stop, stopped) = oneshot::channel::<()>();
    let serving = server.serve(async {
        // A dropped sender means to stop as well.
        let _ = stopped.await;
    });
    tokio::pin!(serving);
    let recovered = tokio::select! {
        () = &mut serving => return Err(anyhow!("the server ended by itself").into()),
        signal = signals.next() => {
            tracing::info!(signal, "stopped while recovering; the next start begins anew");
            return Ok(None);
        }
        recovered = recovering => recovered?,
    };
    welcome::print(http, grpc, place)?;
    tracing::info!(%http, %grpc, process = std::process::id(), "serving");

    tokio::select! {
        () = &mut serving => return Err(anyhow!("the server ended by itself").into()),
        signal = signals.next() => tracing::info!(signal, "draining: no more work is taken"),
    }
    drop(stop);
    tokio::select! {
        () = &mut serving => {}
        signal = signals.next() => tracing::warn!(signal, "stopping without waiting for open connections"),
    }
    Ok(Some(recovered))
}

fn config(settings: &Settings) -> Result<Config, Failure> {
    let count = |name| usize::try_from(settings.number(name)).expect("the table keeps it below 2^32");
    let time = |name| Duration::from_millis(settings.number(name));
    Ok(Config {
        listen: address(settings, "listen")?,
        grpc_listen: address(settings, "grpc-listen")?,
        request_timeout: time("request-timeout"),
        drain_timeout: time("drain-timeout"),
        connections_max: count("connections-max"),
        events: EventsConfig {
            subscribers_max: count("events-subscribers-max"),
            buffer_events: count("events-buffer"),
            patience: time("events-patience"),
            heartbeat: time("events-heartbeat"),
            ..EventsConfig::default()
        },
        ..Config::default()
    })
}

fn webhooks(settings: &Settings, directory: &DataDirectory) -> Result<Option<WebhooksConfig>, Failure> {
    let reach = match settings.text("webhooks-reach") {
        "off" => return Ok(None),
        "public" => Reach::Public,
        _ => Reach::Private,
    };
    let store = WebhookStore::open(&directory.path().join("webhooks")).map_err(|error| {
        let exit = match &error {
            WebhookStoreError::Io { .. } => Exit::Directory,
            WebhookStoreError::Damaged { .. } => Exit::Damaged,
        };
        Failure::new(exit, error)
    })?;
    let time = |name| Duration::from_millis(settings.number(name));
    let backoff_max = time("webhooks-backoff-max");
    let defaults = WebhooksConfig::new(store);
    Ok(Some(WebhooksConfig {
        reach,
        timeout: time("webhooks-timeout"),
        retry_time: time("webhooks-retry-time"),
        backoff_min: defaults.backoff_min.min(backoff_max),
        backoff_max,
        ..defaults
    }))
}

fn address(settings: &Settings, name: &str) -> Result<SocketAddr, Failure> {
    let text = settings.text(name);
    let addresses = text.to_socket_addrs();
    let found = addresses.with_context(|| format!("--{name} {text}")).or_exit(Exit::Usage)?.next();
    found.ok_or_else(|| Failure::usage(format!("--{name} {text}: the name has no address")))
}

fn options(settings: &Settings, directory: &DataDirectory) -> Result<partition::Options, Failure> {
    let count = |name| usize::try_from(settings.number(name)).expect("the table keeps it below 2^32");
    let mut options = partition::Options::new(directory.partition(PARTITION));
    options.partition = PARTITION;
    options.keys = Some(directory.path().to_owned());
    options.mmap = settings.text("journal-disk") == "mmap";
    options.segment_size_bytes = settings.number("journal-segment-size");
    options.queue_commands_max = settings.number("queue-commands-max");
    options.run_events = count("checkpoint-events");
    options.store_engine = settings.store_engine();
    options.store_cache_size_bytes = settings.number("store-cache-size");
    options.verifier_events_per_second =
        (settings.text("verifier") == "on").then(|| settings.number("verifier-events-per-second"));
    if let Some(objects) = archive::open(settings, directory.path(), Purpose::Write)? {
        let mut archive = partition::ArchiveOptions::new(objects);
        archive.interval = Duration::from_millis(settings.number("archive-interval"));
        archive.keep_size_bytes = settings.number("journal-keep-size");
        archive.snapshot_events = settings.number("snapshot-events");
        archive.snapshots_kept = count("snapshots-kept");
        options.archive = Some(archive);
    }
    Ok(options)
}

/// Recovers on a thread of its own, and hands the result to the server.
async fn recover(settings: &Settings, directory: &DataDirectory, ready: Ready) -> Result<Node, Failure> {
    let options = options(settings, directory)?;
    let views = directory.path().join("views").join("history");
    let history_options = (settings.text("history") == "on").then(|| HistoryOptions {
        engine: settings.store_engine(),
        cache_size_bytes: settings.number("history-cache-size"),
        ..HistoryOptions::default()
    });
    let (sender, recovered) = oneshot::channel();
    let spawned = std::thread::Builder::new().name("jigap-recovery".into()).spawn(move || {
        let node = open(options, &views, history_options);
        if let Ok(node) = &node {
            ready.ready(node.partition.clone(), node.history.clone());
        }
        // Nobody waits any more once a signal has come.
        let _ = sender.send(node);
    });
    spawned.context("cannot start a thread")?;
    recovered.await.context("recovery panicked")?
}

fn open(
    options: partition::Options,
    views: &std::path::Path,
    history_options: Option<HistoryOptions>,
) -> Result<Node, Failure> {
    let feed = HistoryFeed::new(on_fatal());
    let mut progress = Progress::new("recovering");
    let opened = Partition::open(options, Box::new(feed.clone()), on_fatal(), &mut |done, last| {
        progress.report(done.0, last.0);
    });
    progress.finish();
    let partition = opened.map_err(|error| Failure::new(open_exit(&error), error))?;
    let Some(history_options) = history_options else {
        feed.begin(None);
        partition.release_before(|| Sequence(u64::MAX));
        return Ok(Node { partition, history: None });
    };
    let history = History::open(views, partition.reader(), history_options, on_fatal());
    let history = Arc::new(history.map_err(|error| Failure::new(history_exit(&error), error))?);
    feed.begin(Some(&history));
    // A view that cannot tell keeps everything.
    let view = Arc::downgrade(&history);
    partition.release_before(move || {
        let stored = view.upgrade().and_then(|history| history.stored_position().ok());
        stored.unwrap_or_default()
    });
    Ok(Node { partition, history: Some(history) })
}

fn open_exit(error: &OpenError) -> Exit {
    if is_damage(error) { Exit::Damaged } else { Exit::Directory }
}

fn history_exit(error: &HistoryError) -> Exit {
    match error {
        HistoryError::Thread(_) => Exit::Failed,
        HistoryError::Store(error) if !is_store_damage(error) => Exit::Directory,
        _ => Exit::Damaged,
    }
}

/// A node that cannot keep its promises ends at once: it must not answer anything any more.
fn on_fatal() -> OnFatal {
    Arc::new(|why| {
        tracing::error!(
            why,
            next = "nothing that was not answered is lost or done twice by repeating it; mend the disk (space, health, mount), \
                    then start `jigap serve` again: it recovers from the journal",
            "the node stops: its storage failed"
        );
        std::process::exit(Exit::DiskFailed as i32);
    })
}

/// SIGTERM and SIGINT.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> Result<Signals, Failure> {
        let listen = |kind| signal(kind).context("cannot listen for signals");
        Ok(Signals {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
