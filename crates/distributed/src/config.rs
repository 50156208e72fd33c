//! Which shards a wallet stands on, and what brings them to one outcome.

use std::fmt;
use std::time::Duration;

/// How money that is spread over shards is kept whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Architecture {
    /// Two-phase commit over XA.
    TwoPhaseCommit,
    /// Try, then confirm or cancel.
    Tcc,
    /// A Saga that one coordinator drives.
    Saga,
    /// A Saga in which shards follow each other's events.
    SagaChoreographed,
    /// Plain updates on Redis, as in the chapter: fast, and a crash between two of them loses half a transfer.
    Redis,
    /// Try, then confirm or cancel, on Redis.
    RedisTcc,
}

impl Architecture {
    /// Every one.
    pub const ALL: [Architecture; 6] = [
        Architecture::TwoPhaseCommit,
        Architecture::Tcc,
        Architecture::Saga,
        Architecture::SagaChoreographed,
        Architecture::Redis,
        Architecture::RedisTcc,
    ];

    /// The name in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Architecture::TwoPhaseCommit => "two-phase-commit",
            Architecture::Tcc => "tcc",
            Architecture::Saga => "saga",
            Architecture::SagaChoreographed => "saga-choreographed",
            Architecture::Redis => "redis",
            Architecture::RedisTcc => "redis-tcc",
        }
    }

    /// The one of this name.
    pub fn parse(name: &str) -> Option<Architecture> {
        Architecture::ALL.into_iter().find(|architecture| architecture.name() == name)
    }

    /// True where the shards are Redis nodes; SQL databases elsewhere.
    pub fn is_on_redis(self) -> bool {
        matches!(self, Architecture::Redis | Architecture::RedisTcc)
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// How a wallet over shards is set up.
#[derive(Clone)]
pub struct Config {
    /// What brings the shards to one outcome.
    pub architecture: Architecture,
    /// The shards by number: `postgres://…`, `mysql://…` or `redis://…`. Their number and order are settled when the first account is
    /// opened. Empty when `zookeeper` tells.
    pub shards: Vec<String>,
    /// Where the map of Redis shards is kept: `zookeeper://HOST:PORT[,…][/PATH]`.
    pub zookeeper: Option<String>,
    /// What carries the events of a choreographed Saga: `nats://HOST:PORT`.
    pub broker: Option<String>,
    /// This instance: a random number of its own.
    pub instance: u64,
    /// How long an instance drives a transaction alone; after that another may take over.
    pub lease: Duration,
    /// How long a shard may take to answer a step before it is asked again.
    pub step_timeout: Duration,
    /// Transactions that may be under way; past it the wallet answers `overloaded`.
    pub transactions_max: usize,
    /// Connections to each shard.
    pub connections_max: u32,
}

impl Config {
    /// The defaults for an architecture over these shards.
    pub fn new(architecture: Architecture, shards: Vec<String>) -> Config {
        Config {
            architecture,
            shards,
            zookeeper: None,
            broker: None,
            instance: 0,
            lease: Duration::from_secs(5),
            step_timeout: Duration::from_secs(5),
            transactions_max: 16_384,
            connections_max: 16,
        }
    }

    /// Whether the parts go together. Nothing is connected to.
    pub fn check(&self) -> Result<(), ConfigError> {
        let architecture = self.architecture;
        if self.zookeeper.is_some() && !architecture.is_on_redis() {
            return Err(ConfigError::NoUseFor { architecture, setting: "zookeeper" });
        }
        let choreographed = architecture == Architecture::SagaChoreographed;
        match &self.broker {
            Some(_) if !choreographed => {
                return Err(ConfigError::NoUseFor { architecture, setting: "broker" });
            }
            None if choreographed => return Err(ConfigError::NoBroker),
            Some(broker) if !broker.starts_with("nats://") => {
                return Err(ConfigError::Broker(redacted(broker)));
            }
            _ => {}
        }
        match (self.shards.is_empty(), &self.zookeeper) {
            (true, None) => return Err(ConfigError::NoShards { architecture }),
            (false, Some(_)) => return Err(ConfigError::ShardsTwice),
            _ => {}
        }
        for (number, url) in self.shards.iter().enumerate() {
            let right = match scheme(url) {
                Some(scheme) => architecture.is_on_redis() == (scheme == Scheme::Redis),
                None => false,
            };
            if !right {
                return Err(ConfigError::Shard { architecture, number, url: redacted(url) });
            }
            if self.shards[..number].contains(url) {
                return Err(ConfigError::SameShard { number, url: redacted(url) });
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shards: Vec<String> = self.shards.iter().map(|url| redacted(url)).collect();
        formatter
            .debug_struct("Config")
            .field("architecture", &self.architecture)
            .field("shards", &shards)
            .field("instance", &self.instance)
            .finish_non_exhaustive()
    }
}

/// Why a configuration cannot work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A setting that nothing would read.
    #[error("architecture {architecture} has no use for `{setting}`: leave it out")]
    NoUseFor {
        /// The architecture.
        architecture: Architecture,
        /// The setting.
        setting: &'static str,
    },
    /// Nowhere to keep the money.
    #[error("architecture {architecture} needs `shards`: {}", expected_shards(*.architecture))]
    NoShards {
        /// The architecture.
        architecture: Architecture,
    },
    /// Two lists of shards.
    #[error("the map of partitions is in ZooKeeper: leave out either `shards` or `zookeeper`")]
    ShardsTwice,
    /// A choreographed Saga without a way for its events.
    #[error("architecture saga-choreographed needs `broker`: nats://HOST:PORT")]
    NoBroker,
    /// A broker of another kind.
    #[error("`broker` is {0:?}, which must be nats://HOST:PORT")]
    Broker(String),
    /// A shard of another kind.
    #[error("shard {number} is {url:?}, but architecture {architecture} needs {}", expected_shards(*.architecture))]
    Shard {
        /// The architecture.
        architecture: Architecture,
        /// Which shard.
        number: usize,
        /// Its address, without its password.
        url: String,
    },
    /// One database given as two shards: its money would be counted twice.
    #[error("shard {number} is {url:?}, which is another shard already")]
    SameShard {
        /// Which shard.
        number: usize,
        /// Its address, without its password.
        url: String,
    },
}

fn expected_shards(architecture: Architecture) -> &'static str {
    match architecture.is_on_redis() {
        true => "redis://HOST:PORT addresses, or `zookeeper` to read them from",
        false => "postgres://… or mysql://… addresses",
    }
}

/// What kind of database an address is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// `postgres://`
    PostgreSql,
    /// `mysql://`; MariaDB speaks it too.
    MySql,
    /// `redis://`
    Redis,
}

/// The kind of database at an address; `None` for one that no shard can be on.
pub fn scheme(url: &str) -> Option<Scheme> {
    let (scheme, rest) = url.split_once("://")?;
    if rest.is_empty() {
        return None;
    }
    match scheme {
        "postgres" | "postgresql" => Some(Scheme::PostgreSql),
        "mysql" | "mariadb" => Some(Scheme::MySql),
        "redis" => Some(Scheme::Redis),
        _ => None,
    }
}

/// An address without its password, for logs and messages.
pub fn redacted(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    // A password may hold any character but the `@` that ends it, so the last one before the path counts.
    let authority_end = rest.rfind('@').map_or(0, |at| at + 1);
    let (credentials, host) = rest.split_at(authority_end);
    match credentials.split_once(':') {
        Some((user, _)) => format!("{scheme}://{user}:***@{host}"),
        None => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_go_together_is_told() {
        let config = |architecture, shards: &[&str]| {
            Config::new(architecture, shards.iter().map(|url| (*url).to_owned()).collect())
        };
        let with = |mut config: Config, zookeeper: Option<&str>, broker: Option<&str>| {
            config.zookeeper = zookeeper.map(str::to_owned);
            config.broker = broker.map(str::to_owned);
            config
        };
        let (sql, redis) = (["postgres://a/x", "mysql://b/x"], ["redis://a:1", "redis://b:1"]);
        let (zookeeper, broker) = (Some("zookeeper://c:2181"), Some("nats://d:4222"));
        use Architecture::*;
        let right = [
            config(TwoPhaseCommit, &sql),
            config(Tcc, &sql[..1]),
            with(config(SagaChoreographed, &sql), None, broker),
            config(RedisTcc, &redis),
            with(config(Redis, &[]), zookeeper, None),
        ];
        for config in right {
            assert_eq!(config.check(), Ok(()), "{config:?}");
        }
        let wrong = [
            (config(Tcc, &[]), "architecture tcc needs `shards`: postgres://… or mysql://… addresses"),
            (
                config(Redis, &[]),
                "architecture redis needs `shards`: redis://HOST:PORT addresses, or `zookeeper`",
            ),
            (
                config(TwoPhaseCommit, &["postgres://a/x", "redis://u:secret@b:1"]),
                "shard 1 is \"redis://u:***@b:1\", but architecture two-phase-commit needs postgres://…",
            ),
            (
                config(RedisTcc, &sql),
                "shard 0 is \"postgres://a/x\", but architecture redis-tcc needs redis://",
            ),
            (
                config(Saga, &["postgres://a/x", "postgres://a/x"]),
                "shard 1 is \"postgres://a/x\", which is another",
            ),
            (config(Saga, &["sqlite://a"]), "shard 0 is \"sqlite://a\""),
            (with(config(Tcc, &sql), zookeeper, None), "architecture tcc has no use for `zookeeper`"),
            (with(config(Redis, &redis), zookeeper, None), "leave out either `shards` or `zookeeper`"),
            (with(config(Saga, &sql), None, broker), "architecture saga has no use for `broker`"),
            (config(SagaChoreographed, &sql), "saga-choreographed needs `broker`"),
            (with(config(SagaChoreographed, &sql), None, Some("kafka://d")), "`broker` is \"kafka://d\""),
        ];
        for (config, expected) in wrong {
            let error = config.check().expect_err(expected).to_string();
            assert!(error.contains(expected), "{error:?} should say {expected:?}");
        }
    }

    #[test]
    fn passwords_are_not_shown() {
        assert_eq!(redacted("postgres://jigap:se:c@ret@host:5432/x"), "postgres://jigap:***@host:5432/x");
        assert_eq!(redacted("redis://:secret@host"), "redis://:***@host");
        assert_eq!(redacted("postgres://jigap@host/x"), "postgres://jigap@host/x");
        assert_eq!(redacted("redis://host:6379"), "redis://host:6379");
    }

    #[test]
    fn every_architecture_has_its_name() {
        for architecture in Architecture::ALL {
            assert_eq!(Architecture::parse(architecture.name()), Some(architecture));
        }
        assert_eq!(Architecture::parse("event-sourced"), None);
    }
}
