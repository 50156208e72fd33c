//! Metrics in the text format of Prometheus.

mod over_shards;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use ledger::RefusalCode;
use shards::partition::Histogram;
use storage::archive::ArchiveMetrics;
use views::HistoryStatus;

use crate::Node;
use crate::backend::Backend;

/// What the network side counts.
#[derive(Default)]
pub(crate) struct NetworkMetrics {
    /// By route and status.
    requests: Mutex<BTreeMap<(&'static str, u16), u64>>,
    /// From the whole request read to its answer, in microseconds.
    latency_us: Histogram,
    /// Unary gRPC calls by method and status.
    calls: Mutex<BTreeMap<(&'static str, i32), u64>>,
    /// Batches of gRPC streams.
    pub(crate) batches: AtomicU64,
    /// Transfers in those batches.
    pub(crate) batch_transfers: AtomicU64,
}

impl NetworkMetrics {
    pub(crate) fn count(&self, route: &'static str, status: u16, micros: u64) {
        *self.requests.lock().unwrap_or_else(PoisonError::into_inner).entry((route, status)).or_default() +=
            1;
        self.latency_us.record(micros);
    }

    pub(crate) fn count_call(&self, method: &'static str, status: i32) {
        *self.calls.lock().unwrap_or_else(PoisonError::into_inner).entry((method, status)).or_default() += 1;
    }
}

/// Everything, as text.
pub(crate) fn exposition(network: &NetworkMetrics, backend: Option<&Backend>) -> String {
    let mut out = Exposition(String::new());
    out.head("jigap_http_requests_total", "counter", "HTTP requests by route and status.");
    for ((route, status), count) in network.requests.lock().unwrap_or_else(PoisonError::into_inner).iter() {
        out.line(&format!("jigap_http_requests_total{{route=\"{route}\",status=\"{status}\"}}"), *count);
    }
    out.histogram(
        "jigap_http_request_microseconds",
        "Time from a request to its answer.",
        &network.latency_us,
    );
    out.head("jigap_grpc_calls_total", "counter", "Unary gRPC calls by method and status number.");
    for ((method, status), count) in network.calls.lock().unwrap_or_else(PoisonError::into_inner).iter() {
        out.line(&format!("jigap_grpc_calls_total{{method=\"{method}\",status=\"{status}\"}}"), *count);
    }
    let load = |value: &AtomicU64| value.load(Ordering::Relaxed);
    out.single("jigap_grpc_batches_total", "counter", "Batches of gRPC streams.", load(&network.batches));
    let transfers = load(&network.batch_transfers);
    out.single("jigap_grpc_batch_transfers_total", "counter", "Transfers in those batches.", transfers);
    match backend {
        Some(Backend::EventSourced(node)) => event_sourced(&mut out, node),
        Some(Backend::Distributed(wallet)) => over_shards::write(&mut out, wallet.metrics()),
        None => {}
    }
    out.0
}

fn event_sourced(out: &mut Exposition, node: &Node) {
    let load = |value: &AtomicU64| value.load(Ordering::Relaxed);
    let metrics = node.partition.metrics();
    let events = node.events.metrics();
    out.refusals(&metrics.refusals);
    let counters = [
        ("jigap_commands_total", "Commands executed.", &metrics.commands),
        ("jigap_replayed_total", "Commands answered from their first event.", &metrics.replayed),
        ("jigap_overloaded_total", "Submissions refused because the queue was full.", &metrics.overloaded),
        (
            "jigap_journal_bytes_total",
            "Bytes of frame bodies written to the journal.",
            &metrics.journal_bytes,
        ),
        ("jigap_events_sent_total", "Events sent to subscribers.", &events.sent),
        (
            "jigap_events_fallen_behind_total",
            "Times that a subscriber's buffer overflowed and it read the journal instead.",
            &events.fallen_behind,
        ),
        ("jigap_events_dropped_total", "Subscribers dropped because they read nothing.", &events.dropped),
        (
            "jigap_verifier_rounds_total",
            "Times that the shadow verifier caught up with what was durable.",
            &metrics.verifier_rounds,
        ),
        (
            "jigap_verifier_differences_total",
            "What the shadow verifier found that is not as it must be: an alarm.",
            &metrics.verifier_differences,
        ),
        ("jigap_id_store_lookups_total", "Look-ups of an id beyond the filter.", &metrics.id_store_lookups),
        (
            "jigap_archive_lookups_total",
            "Commands whose past was read from the archive.",
            &metrics.archive_lookups,
        ),
    ];
    for (name, help, value) in counters {
        out.single(name, "counter", help, load(value));
    }
    let committed = load(&metrics.committed_sequence);
    let gauges = [
        ("jigap_queue_depth", "Commands waiting.", load(&metrics.queue_depth)),
        ("jigap_accounts", "Accounts ever opened.", load(&metrics.accounts)),
        ("jigap_holds", "Pending holds.", load(&metrics.holds)),
        ("jigap_committed_sequence", "The last durable event.", committed),
        (
            "jigap_checkpoint_lag_events",
            "Events that a restart replays.",
            committed.saturating_sub(load(&metrics.checkpoint_sequence)),
        ),
        (
            "jigap_checkpoint_pause_microseconds_max",
            "The longest that the state thread took to hand a checkpoint over.",
            load(&metrics.checkpoint_pause_us_max),
        ),
        (
            "jigap_snapshot_sequence",
            "The last event in this process's last snapshot.",
            load(&metrics.snapshot_sequence),
        ),
        ("jigap_snapshot_microseconds", "How long that snapshot took.", load(&metrics.snapshot_us)),
        ("jigap_snapshot_bytes", "Its size.", load(&metrics.snapshot_bytes)),
        (
            "jigap_verifier_sequence",
            "The last event that the shadow verifier has proven.",
            load(&metrics.verifier_sequence),
        ),
        ("jigap_events_subscribers", "Subscribers to events.", load(&events.subscribers)),
        ("jigap_events_lag_events", "Durable events not yet handed to live subscribers.", node.events.lag()),
        ("jigap_id_filter_bytes", "Memory of the filter of transaction_ids.", load(&metrics.id_filter_bytes)),
    ];
    for (name, help, value) in gauges {
        out.single(name, "gauge", help, value);
    }
    if let Some(history) = &node.read_side.kept {
        view(out, &history.status(), committed);
    }
    if let Some(webhooks) = &node.webhooks {
        webhooks.metrics(out);
    }
    if let Some(archiver) = node.partition.archiver() {
        archive(out, archiver.metrics(), committed);
    }
    out.histogram("jigap_batch_commands", "Commands per journal frame.", &metrics.batch_commands);
    out.histogram("jigap_journal_sync_microseconds", "Time until a frame is durable.", &metrics.sync_us);
}

fn view(out: &mut Exposition, view: &HistoryStatus, committed: u64) {
    let lag = committed.saturating_sub(view.position.0);
    let unstored = view.position.0 - view.stored.0.min(view.position.0);
    let waited_help = "Time that committing waited for the history: its back-pressure on the write side.";
    out.single("jigap_view_lag_events", "gauge", "Events not yet in the history.", lag);
    out.single(
        "jigap_view_unstored_events",
        "gauge",
        "Events in the history's memory, which a restart reads again.",
        unstored,
    );
    out.single("jigap_view_runs_total", "counter", "Runs written to the history's store.", view.runs);
    out.single(
        "jigap_view_images_total",
        "counter",
        "Images of 256 accounts written to the history's store.",
        view.images,
    );
    out.single("jigap_view_wait_microseconds_total", "counter", waited_help, view.waited_us);
}

fn archive(out: &mut Exposition, metrics: &ArchiveMetrics, committed: u64) {
    let load = |value: &AtomicU64| value.load(Ordering::Relaxed);
    let lag = committed.saturating_sub(load(&metrics.sequence));
    out.single("jigap_archive_lag_events", "gauge", "Events not yet in the archive.", lag);
    let first = load(&metrics.first_local_index);
    out.single(
        "jigap_journal_first_frame",
        "gauge",
        "The oldest frame that the journal holds itself.",
        first,
    );
    let counters = [
        ("jigap_archive_parcels_total", "Objects of frames written to the archive.", &metrics.parcels),
        ("jigap_archive_bytes_total", "Their bytes, without linked segments.", &metrics.bytes),
        ("jigap_archive_failures_total", "Attempts to archive that failed.", &metrics.failures),
    ];
    for (name, help, value) in counters {
        out.single(name, "counter", help, load(value));
    }
}

/// The text as far as it is written.
pub(crate) struct Exposition(String);

impl Exposition {
    pub(crate) fn head(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    pub(crate) fn line(&mut self, series: &str, value: u64) {
        let _ = writeln!(self.0, "{series} {value}");
    }

    fn single(&mut self, name: &str, kind: &str, help: &str, value: u64) {
        self.head(name, kind, help);
        self.line(name, value);
    }

    fn refusals(&mut self, by_code: &[AtomicU64; RefusalCode::ALL.len()]) {
        self.head("jigap_refusals_total", "counter", "Refused commands by code.");
        for code in RefusalCode::ALL {
            let count = by_code[usize::from(code.number()) - 1].load(Ordering::Relaxed);
            self.line(&format!("jigap_refusals_total{{code=\"{}\"}}", code.name()), count);
        }
    }

    fn histogram(&mut self, name: &str, help: &str, histogram: &Histogram) {
        self.head(name, "histogram", help);
        self.histogram_series(name, "", histogram);
    }

    /// One of several histograms of a name, told apart by a label: `key="value"`.
    fn histogram_series(&mut self, name: &str, label: &str, histogram: &Histogram) {
        let (buckets, sum) = histogram.snapshot();
        let count = buckets.last().map_or(0, |(_, count)| *count);
        let (separator, labels) =
            if label.is_empty() { ("", String::new()) } else { (",", format!("{{{label}}}")) };
        for (below, cumulative) in buckets {
            self.line(&format!("{name}_bucket{{{label}{separator}le=\"{below}\"}}"), cumulative);
        }
        self.line(&format!("{name}_bucket{{{label}{separator}le=\"+Inf\"}}"), count);
        self.line(&format!("{name}_sum{labels}"), sum);
        self.line(&format!("{name}_count{labels}"), count);
    }
}
