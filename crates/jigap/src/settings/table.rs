//! Every setting there is. Flags, environment variables, file keys and `jigap config` all come from this table.

use storage::store::Engine;

use super::value::Kind;

/// Which commands take a setting as a flag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    /// Everything that works on a data directory.
    Directory,
    /// `serve`.
    Serve,
    /// Commands that ask a running server.
    Client,
}

/// One setting.
#[derive(Debug)]
pub(crate) struct Setting {
    /// The key in the file, and the flag without its dashes.
    pub(crate) name: &'static str,
    /// What the flag's value is called in `--help`.
    pub(crate) value_name: &'static str,
    /// The unit of a plain number; empty without one.
    pub(crate) unit: &'static str,
    pub(crate) default: &'static str,
    pub(crate) kind: Kind,
    pub(crate) scope: Scope,
    /// One line.
    pub(crate) doc: &'static str,
}

impl Setting {
    /// The environment variable.
    pub(crate) fn variable(&self) -> String {
        format!("{}{}", super::ENVIRONMENT_PREFIX, self.name.replace('-', "_").to_uppercase())
    }

    /// The settings of one scope.
    pub(crate) fn of(scope: Scope) -> impl Iterator<Item = &'static Setting> {
        SETTINGS.iter().filter(move |setting| setting.scope == scope)
    }
}

/// The architecture that needs no other system.
pub(super) const EVENT_SOURCED: &str = "event-sourced";

/// In the order in which `jigap config` prints them.
pub(crate) const SETTINGS: &[Setting] = &[
    Setting {
        name: "data-dir",
        value_name: "DIR",
        unit: "",
        default: "jigap-data",
        kind: Kind::Path,
        scope: Scope::Directory,
        doc: "The directory that holds everything; made when missing",
    },
    Setting {
        name: "state-store",
        value_name: "ENGINE",
        unit: "",
        default: Engine::PREFERRED.name(),
        kind: Kind::Engine,
        scope: Scope::Directory,
        doc: "What keeps checkpoints and history on disk: lsm-tree, or rocksdb where it is built in; a directory keeps the one that made it",
    },
    Setting {
        name: "store-cache-size",
        value_name: "SIZE",
        unit: "bytes",
        default: "64MiB",
        kind: Kind::Size { from: 1 << 20, to: 1 << 40 },
        scope: Scope::Directory,
        doc: "Memory for the state store's block cache",
    },
    Setting {
        name: "archive-url",
        value_name: "URL",
        unit: "",
        default: "local",
        kind: Kind::Archive,
        scope: Scope::Directory,
        doc: "Where the journal's whole life and snapshots go: local (DATA-DIR/archive), file:///DIR, s3://BUCKET/PREFIX, \
              hdfs://HOST:PORT/DIR, or off",
    },
    Setting {
        name: "architecture",
        value_name: "ARCHITECTURE",
        unit: "",
        default: EVENT_SOURCED,
        kind: Kind::Choice(&[
            EVENT_SOURCED,
            "two-phase-commit",
            "tcc",
            "saga",
            "saga-choreographed",
            "redis",
            "redis-tcc",
        ]),
        scope: Scope::Serve,
        doc: "What keeps the money: event-sourced in DATA-DIR; two-phase-commit, tcc, saga, saga-choreographed over SQL shards; redis, \
              redis-tcc over Redis shards; see docs/architectures.md",
    },
    Setting {
        name: "shards",
        value_name: "URLS",
        unit: "",
        default: "",
        kind: Kind::Addresses,
        scope: Scope::Serve,
        doc: "Where the money is kept, for every architecture but event-sourced: postgres://…, mysql://… or redis://… addresses, separated \
              by commas; their number and order never change",
    },
    Setting {
        name: "zookeeper",
        value_name: "URL",
        unit: "",
        default: "",
        kind: Kind::Service("zookeeper"),
        scope: Scope::Serve,
        doc: "Where the map of Redis shards is kept, in place of `shards`: zookeeper://HOST:PORT[,HOST:PORT…][/PATH]",
    },
    Setting {
        name: "broker",
        value_name: "URL",
        unit: "",
        default: "",
        kind: Kind::Service("nats"),
        scope: Scope::Serve,
        doc: "What carries the events of saga-choreographed: nats://HOST:PORT",
    },
    Setting {
        name: "shard-connections-max",
        value_name: "COUNT",
        unit: "connections",
        default: "16",
        kind: Kind::Count { from: 1, to: 1 << 16 },
        scope: Scope::Serve,
        doc: "Connections to each shard",
    },
    Setting {
        name: "shard-timeout",
        value_name: "TIME",
        unit: "ms",
        default: "5s",
        kind: Kind::Time { from_ms: 10, to_ms: 3_600_000 },
        scope: Scope::Serve,
        doc: "A shard that does not answer a step in this time is asked again",
    },
    Setting {
        name: "transaction-lease",
        value_name: "TIME",
        unit: "ms",
        default: "5s",
        kind: Kind::Time { from_ms: 100, to_ms: 3_600_000 },
        scope: Scope::Serve,
        doc: "How long a wallet drives a transaction over shards alone; when it dies, another one finishes it after that",
    },
    Setting {
        name: "transactions-max",
        value_name: "COUNT",
        unit: "transactions",
        default: "16384",
        kind: Kind::Count { from: 1, to: 1 << 24 },
        scope: Scope::Serve,
        doc: "Transactions over shards that may be under way; past it the wallet answers `overloaded`",
    },
    Setting {
        name: "listen",
        value_name: "HOST:PORT",
        unit: "",
        default: "127.0.0.1:8080",
        kind: Kind::Address,
        scope: Scope::Serve,
        doc: "Where HTTP is served; port 0 takes a free one",
    },
    Setting {
        name: "grpc-listen",
        value_name: "HOST:PORT",
        unit: "",
        default: "127.0.0.1:8081",
        kind: Kind::Address,
        scope: Scope::Serve,
        doc: "Where gRPC is served; port 0 takes a free one",
    },
    Setting {
        name: "request-timeout",
        value_name: "TIME",
        unit: "ms",
        default: "10s",
        kind: Kind::Time { from_ms: 1, to_ms: 3_600_000 },
        scope: Scope::Serve,
        doc: "A request that is not answered in this time is answered `unavailable`",
    },
    Setting {
        name: "drain-timeout",
        value_name: "TIME",
        unit: "ms",
        default: "10s",
        kind: Kind::Time { from_ms: 0, to_ms: 3_600_000 },
        scope: Scope::Serve,
        doc: "How long connections may finish what they are doing when the server stops",
    },
    Setting {
        name: "connections-max",
        value_name: "COUNT",
        unit: "connections",
        default: "16384",
        kind: Kind::Count { from: 1, to: 1 << 20 },
        scope: Scope::Serve,
        doc: "HTTP connections beyond this number wait to be accepted",
    },
    Setting {
        name: "network-threads",
        value_name: "COUNT",
        unit: "threads",
        default: "1",
        kind: Kind::Count { from: 1, to: 1 << 8 },
        scope: Scope::Serve,
        doc: "Threads that serve HTTP and gRPC; the state and the journal have one each besides, so more pay from 4 cores on",
    },
    Setting {
        name: "journal-disk",
        value_name: "KIND",
        unit: "",
        default: "direct",
        kind: Kind::Choice(&["direct", "mmap"]),
        scope: Scope::Serve,
        doc: "How the journal is written: direct I/O, or through mmap",
    },
    Setting {
        name: "journal-segment-size",
        value_name: "SIZE",
        unit: "bytes",
        default: "64MiB",
        kind: Kind::Size { from: 1 << 20, to: 1 << 40 },
        scope: Scope::Serve,
        doc: "The size of a new journal segment, a multiple of 4KiB",
    },
    Setting {
        name: "queue-commands-max",
        value_name: "COUNT",
        unit: "commands",
        default: "131072",
        kind: Kind::Count { from: 1, to: 1 << 32 },
        scope: Scope::Serve,
        doc: "How many commands may wait; past it the wallet answers `overloaded`",
    },
    Setting {
        name: "checkpoint-events",
        value_name: "COUNT",
        unit: "events",
        default: "2097152",
        kind: Kind::Count { from: 1, to: 1 << 28 },
        scope: Scope::Serve,
        doc: "A checkpoint is cut after so many events; a restart replays up to three times as many",
    },
    Setting {
        name: "archive-interval",
        value_name: "TIME",
        unit: "ms",
        default: "60s",
        kind: Kind::Time { from_ms: 10, to_ms: 24 * 3_600_000 },
        scope: Scope::Serve,
        doc: "Events are archived at the latest after this time: what the loss of the disk may take with it",
    },
    Setting {
        name: "journal-keep-size",
        value_name: "SIZE",
        unit: "bytes",
        default: "1GiB",
        kind: Kind::Size { from: 0, to: 1 << 50 },
        scope: Scope::Serve,
        doc: "The journal keeps at least so much of its own; older segments are used again once they are archived",
    },
    Setting {
        name: "snapshot-events",
        value_name: "COUNT",
        unit: "events",
        default: "50000000",
        kind: Kind::Count { from: 0, to: 1 << 50 },
        scope: Scope::Serve,
        doc: "A snapshot is written into the archive after so many events; 0 for only when asked",
    },
    Setting {
        name: "snapshots-kept",
        value_name: "COUNT",
        unit: "snapshots",
        default: "8",
        kind: Kind::Count { from: 0, to: 1 << 20 },
        scope: Scope::Serve,
        doc: "Older snapshots are removed from the archive, never its journal; 0 keeps all",
    },
    Setting {
        name: "history-cache-size",
        value_name: "SIZE",
        unit: "bytes",
        default: "32MiB",
        kind: Kind::Size { from: 1 << 20, to: 1 << 40 },
        scope: Scope::Serve,
        doc: "Memory for the blocks that history queries read",
    },
    Setting {
        name: "verifier",
        value_name: "ON|OFF",
        unit: "",
        default: "off",
        kind: Kind::Choice(&["on", "off"]),
        scope: Scope::Serve,
        doc: "Whether a thread re-derives the state from the journal all the time, decides every command again, and raises an alarm \
              (jigap_verifier_differences_total, an error in the log) when anything differs; it holds a second copy of the state",
    },
    Setting {
        name: "verifier-events-per-second",
        value_name: "COUNT",
        unit: "events a second",
        default: "100000",
        kind: Kind::Count { from: 1, to: 1 << 32 },
        scope: Scope::Serve,
        doc: "How many events the verifier takes a second at most",
    },
    Setting {
        name: "events-subscribers-max",
        value_name: "COUNT",
        unit: "subscribers",
        default: "12000",
        kind: Kind::Count { from: 0, to: 1 << 20 },
        scope: Scope::Serve,
        doc: "Subscribers to events, over HTTP and gRPC together; further ones are refused as `overloaded`",
    },
    Setting {
        name: "events-buffer",
        value_name: "COUNT",
        unit: "events",
        default: "10000",
        kind: Kind::Count { from: 1, to: 1 << 24 },
        scope: Scope::Serve,
        doc: "Events that may wait for one subscriber; past it, it reads on from the journal at its own pace",
    },
    Setting {
        name: "events-patience",
        value_name: "TIME",
        unit: "ms",
        default: "30s",
        kind: Kind::Time { from_ms: 0, to_ms: 24 * 3_600_000 },
        scope: Scope::Serve,
        doc: "A subscriber that has fallen behind and then reads nothing for so long is dropped; it can resume without a gap",
    },
    Setting {
        name: "events-heartbeat",
        value_name: "TIME",
        unit: "ms",
        default: "15s",
        kind: Kind::Time { from_ms: 10, to_ms: 3_600_000 },
        scope: Scope::Serve,
        doc: "A stream of events that is silent for so long says that it lives",
    },
    Setting {
        name: "webhooks-reach",
        value_name: "WHERE",
        unit: "",
        default: "private",
        kind: Kind::Choice(&["private", "public", "off"]),
        scope: Scope::Serve,
        doc: "Where webhooks may go: private (public, private and loopback addresses, but not link-local ones and clouds' metadata), \
              public (public addresses alone), or off for no webhooks at all",
    },
    Setting {
        name: "webhooks-timeout",
        value_name: "TIME",
        unit: "ms",
        default: "15s",
        kind: Kind::Time { from_ms: 10, to_ms: 600_000 },
        scope: Scope::Serve,
        doc: "A receiver of webhooks that has not answered in this time has failed",
    },
    Setting {
        name: "webhooks-retry-time",
        value_name: "TIME",
        unit: "ms",
        default: "1440min",
        kind: Kind::Time { from_ms: 0, to_ms: 30 * 24 * 3_600_000 },
        scope: Scope::Serve,
        doc: "An event that a receiver has not taken in this time becomes a dead letter, and the next one is sent",
    },
    Setting {
        name: "webhooks-backoff-max",
        value_name: "TIME",
        unit: "ms",
        default: "5min",
        kind: Kind::Time { from_ms: 1, to_ms: 24 * 3_600_000 },
        scope: Scope::Serve,
        doc: "The longest wait between two attempts; waits begin with 1 s and double",
    },
    Setting {
        name: "log-format",
        value_name: "FORMAT",
        unit: "",
        default: "auto",
        kind: Kind::Choice(&["auto", "text", "json"]),
        scope: Scope::Serve,
        doc: "Log lines as text or JSON; auto is text on a terminal, JSON elsewhere",
    },
    Setting {
        name: "log-level",
        value_name: "FILTER",
        unit: "",
        default: "info",
        kind: Kind::LogFilter,
        scope: Scope::Serve,
        doc: "error, warn, info, debug or trace; also per part, such as `info,storage=debug`",
    },
    Setting {
        name: "server",
        value_name: "URL",
        unit: "",
        default: "http://127.0.0.1:8080",
        kind: Kind::Url,
        scope: Scope::Client,
        doc: "The HTTP address of the wallet that client commands ask",
    },
    Setting {
        name: "grpc-server",
        value_name: "URL",
        unit: "",
        default: "http://127.0.0.1:8081",
        kind: Kind::Url,
        scope: Scope::Client,
        doc: "The gRPC address of the wallet that `events`, `views` and `bench` ask",
    },
    Setting {
        name: "timeout",
        value_name: "TIME",
        unit: "ms",
        default: "10s",
        kind: Kind::Time { from_ms: 1, to_ms: 3_600_000 },
        scope: Scope::Client,
        doc: "How long a client command waits for its answer, repeats included",
    },
];
