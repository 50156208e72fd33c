//! Where each partition lives, kept in ZooKeeper and watched.
//!
//! ```text
//! ROOT/map              {"partitions": ["redis://10.0.0.1:6379", "redis://10.0.0.2:6379"]}
//! ROOT/wallets/ID       ephemeral: one for each wallet service that runs
//! ```
//!
//! An account lives in the partition `hash(account_id) mod partitions`, so the number of partitions is settled when the first account
//! is opened; what may change while wallets run is where a partition is.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use zookeeper_client::{Acls, Client, CreateMode, Error, SessionState};

use super::{Scheme, redacted, scheme};

/// How long ZooKeeper may be away before a wallet's ephemeral node is gone.
const SESSION_TIMEOUT: Duration = Duration::from_secs(6);
/// How long to wait before the next attempt to reach ZooKeeper.
const RECONNECT_PAUSE: Duration = Duration::from_millis(500);

/// Where each partition lives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PartitionMap {
    /// The address of each partition, by number.
    pub partitions: Vec<String>,
}

/// What went wrong with the map.
#[derive(Debug, thiserror::Error)]
pub enum PartitionMapError {
    /// ZooKeeper cannot be reached, or refuses.
    #[error("ZooKeeper at {cluster}: {source}")]
    ZooKeeper {
        /// Whom we asked.
        cluster: String,
        /// What it said.
        source: Error,
    },
    /// There is no map yet.
    #[error("ZooKeeper has no partition map at {0}; publish one with `jigap partition-map set`")]
    Missing(String),
    /// The map cannot be read.
    #[error("the partition map at {path} cannot be read: {why}")]
    Malformed {
        /// Where it is.
        path: String,
        /// What is wrong with it.
        why: String,
    },
    /// A map of another size: accounts would be looked for where they are not.
    #[error(
        "the map at {path} has {current} partitions, and {new} were given: an account is in partition hash(account_id) mod partitions, so their \
             number cannot change; a wallet of another size has a map of its own at another path"
    )]
    OtherCount {
        /// Where it is.
        path: String,
        /// How many partitions there are.
        current: usize,
        /// How many there would be.
        new: usize,
    },
    /// The address of ZooKeeper cannot be read.
    #[error("{0:?} is no address of ZooKeeper: it must be zookeeper://HOST:PORT[,HOST:PORT…][/PATH]")]
    Address(String),
}

/// Where in which ZooKeeper the map is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ZooKeeper {
    cluster: String,
    root: String,
}

/// A watched map. Dropped, it stops watching and its ephemeral node goes.
pub struct WatchedMap {
    map: watch::Receiver<PartitionMap>,
    watching: tokio::task::JoinHandle<()>,
}

impl ZooKeeper {
    /// Reads `zookeeper://HOST:PORT[,HOST:PORT…][/PATH]`; the path is `/jigap` without one.
    pub fn parse(url: &str) -> Result<ZooKeeper, PartitionMapError> {
        let malformed = || PartitionMapError::Address(url.to_owned());
        let rest = url.strip_prefix("zookeeper://").ok_or_else(malformed)?;
        let (cluster, path) = rest.split_once('/').unwrap_or((rest, ""));
        let every_host_has_a_port = cluster.split(',').all(|host| {
            host.rsplit_once(':').is_some_and(|(name, port)| !name.is_empty() && port.parse::<u16>().is_ok())
        });
        if !every_host_has_a_port {
            return Err(malformed());
        }
        let path = path.trim_matches('/');
        let root = if path.is_empty() { "/jigap".to_owned() } else { format!("/{path}") };
        Ok(ZooKeeper { cluster: cluster.to_owned(), root })
    }

    /// Publishes a map, in place of the one of the same size that is there.
    pub async fn publish(&self, map: &PartitionMap) -> Result<(), PartitionMapError> {
        let client = self.connect().await?;
        let path = self.map_path();
        let data = serde_json::to_vec(map).expect("strings are written as JSON");
        self.parse_map(&data)?;
        self.make_directory(&client, &self.root).await?;
        let created =
            client.create(&path, &data, &CreateMode::Persistent.with_acls(Acls::anyone_all())).await;
        match created {
            Ok(_) => return Ok(()),
            Err(Error::NodeExists) => {}
            Err(source) => return Err(self.failed(source)),
        }
        let (current, stat) = client.get_data(&path).await.map_err(|source| self.failed(source))?;
        let (current, new) = (self.parse_map(&current)?.partitions.len(), map.partitions.len());
        if current != new {
            return Err(PartitionMapError::OtherCount { path, current, new });
        }
        client
            .set_data(&path, &data, Some(stat.version))
            .await
            .map(drop)
            .map_err(|source| self.failed(source))
    }

    /// Reads the map once.
    pub async fn read(&self) -> Result<PartitionMap, PartitionMapError> {
        let client = self.connect().await?;
        match client.get_data(&self.map_path()).await {
            Ok((data, _)) => self.parse_map(&data),
            Err(Error::NoNode) => Err(PartitionMapError::Missing(self.map_path())),
            Err(source) => Err(self.failed(source)),
        }
    }

    /// The wallet services that run now, as they registered.
    pub async fn wallets(&self) -> Result<Vec<String>, PartitionMapError> {
        let client = self.connect().await?;
        match client.list_children(&self.wallets_path()).await {
            Ok(names) => Ok(names),
            Err(Error::NoNode) => Ok(Vec::new()),
            Err(source) => Err(self.failed(source)),
        }
    }

    /// Reads the map, registers this wallet service, and goes on watching. While ZooKeeper is away the last map stays in force: a wallet
    /// that works must not stop because its map cannot be asked for.
    pub async fn watch(self, wallet: String) -> Result<WatchedMap, PartitionMapError> {
        let (sender, map) = watch::channel(self.read().await?);
        let watching = tokio::spawn(async move {
            while !sender.is_closed() {
                if let Err(error) = self.follow(&wallet, &sender).await {
                    tracing::warn!(%error, "the partition map cannot be watched for now; the last one stays in force");
                }
                tokio::time::sleep(RECONNECT_PAUSE).await;
            }
        });
        Ok(WatchedMap { map, watching })
    }

    /// One session with ZooKeeper, until it ends.
    async fn follow(
        &self,
        wallet: &str,
        sender: &watch::Sender<PartitionMap>,
    ) -> Result<(), PartitionMapError> {
        let client = self.connect().await?;
        self.make_directory(&client, &self.wallets_path()).await?;
        let own = format!("{}/{wallet}", self.wallets_path());
        let ephemeral = CreateMode::Ephemeral.with_acls(Acls::anyone_all());
        match client.create(&own, b"", &ephemeral).await {
            // An ended session's node goes by itself once ZooKeeper notices; until then it stands for us all the same.
            Ok(_) | Err(Error::NodeExists) => {}
            Err(source) => return Err(self.failed(source)),
        }
        loop {
            let (data, _, watcher) =
                client.get_and_watch_data(&self.map_path()).await.map_err(|source| self.failed(source))?;
            match self.parse_map(&data) {
                Ok(map) => {
                    sender.send_if_modified(|current| std::mem::replace(current, map.clone()) != map);
                }
                // A mistake of an operator must not stop wallets that work.
                Err(error) => {
                    tracing::error!(%error, "the new partition map is not used; the last one stays in force")
                }
            }
            let event = watcher.changed().await;
            if sender.is_closed()
                || matches!(event.session_state, SessionState::Expired | SessionState::Closed)
            {
                return Ok(());
            }
        }
    }

    async fn connect(&self) -> Result<Client, PartitionMapError> {
        let connector = Client::connector().with_session_timeout(SESSION_TIMEOUT).with_fail_eagerly();
        connector.connect(&self.cluster).await.map_err(|source| self.failed(source))
    }

    async fn make_directory(&self, client: &Client, path: &str) -> Result<(), PartitionMapError> {
        let options = CreateMode::Persistent.with_acls(Acls::anyone_all());
        client.mkdir(path, &options).await.map_err(|source| self.failed(source))
    }

    fn map_path(&self) -> String {
        format!("{}/map", self.root)
    }

    fn wallets_path(&self) -> String {
        format!("{}/wallets", self.root)
    }

    fn parse_map(&self, data: &[u8]) -> Result<PartitionMap, PartitionMapError> {
        let malformed = |why: String| PartitionMapError::Malformed { path: self.map_path(), why };
        let map: PartitionMap = serde_json::from_slice(data).map_err(|error| malformed(error.to_string()))?;
        if map.partitions.is_empty() {
            return Err(malformed("it names no partition".to_owned()));
        }
        match map.partitions.iter().find(|address| scheme(address) != Some(Scheme::Redis)) {
            Some(address) => {
                Err(malformed(format!("{:?} is no address of Redis: redis://HOST:PORT", redacted(address))))
            }
            None => Ok(map),
        }
    }

    fn failed(&self, source: Error) -> PartitionMapError {
        PartitionMapError::ZooKeeper { cluster: self.cluster.clone(), source }
    }
}

impl WatchedMap {
    /// The map, now and whenever it changes.
    pub fn subscribe(&self) -> watch::Receiver<PartitionMap> {
        self.map.clone()
    }
}

impl Drop for WatchedMap {
    fn drop(&mut self) {
        // Ends the session, and with it the ephemeral node.
        self.watching.abort();
    }
}
