//! The map in ZooKeeper: watched, over the loss of nodes, of the leader, and of the session.

use std::time::Duration;

use distributed::partition_map::{PartitionMap, PartitionMapError, ZooKeeper};
use testbed::zookeeper;
use tokio::sync::watch;

const PATIENCE: Duration = Duration::from_secs(30);

fn map(addresses: &[&str]) -> PartitionMap {
    PartitionMap { partitions: addresses.iter().map(|&address| address.to_owned()).collect() }
}

async fn becomes(map: &mut watch::Receiver<PartitionMap>, expected: &PartitionMap) {
    let changed = tokio::time::timeout(PATIENCE, map.wait_for(|map| map == expected)).await;
    changed.expect("the new map arrives").unwrap();
}

/// Nodes come and go, so a client may meet one that is not ready: asked again until it is.
pub(crate) async fn publish(zookeeper: &ZooKeeper, map: &PartitionMap) {
    tokio::time::timeout(PATIENCE, async {
        while zookeeper.publish(map).await.is_err() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await
    .expect("the map is published");
}

#[test]
fn addresses_are_read_strictly() {
    for url in ["zookeeper://a:2181", "zookeeper://a:1,b:2,c:3/wallets/eu"] {
        assert!(ZooKeeper::parse(url).is_ok(), "{url}");
    }
    for url in [
        "a:2181",
        "zookeeper://",
        "zookeeper://a",
        "zookeeper://a:b",
        "zookeeper://a:1,:2",
        "zookeeper://a:70000",
    ] {
        assert!(matches!(ZooKeeper::parse(url), Err(PartitionMapError::Address(_))), "{url}");
    }
}

#[tokio::test]
async fn a_changed_map_arrives_and_wallets_are_registered_while_they_run() {
    let (_nodes, url) = zookeeper(1).unwrap();
    let zookeeper = ZooKeeper::parse(&url).unwrap();
    assert!(matches!(zookeeper.read().await, Err(PartitionMapError::Missing(_))));
    let (first, second) = (map(&["redis://a:1", "redis://b:1"]), map(&["redis://a:1", "redis://c:1"]));
    publish(&zookeeper, &first).await;

    let watched = zookeeper.clone().watch("w1".into()).await.unwrap();
    let mut current = watched.subscribe();
    becomes(&mut current, &first).await;
    publish(&zookeeper, &second).await;
    becomes(&mut current, &second).await;
    assert_eq!(zookeeper.read().await.unwrap(), second);

    let larger = zookeeper.publish(&map(&["redis://a:1", "redis://c:1", "redis://d:1"])).await;
    assert!(matches!(larger, Err(PartitionMapError::OtherCount { current: 2, new: 3, .. })), "{larger:?}");
    let foreign = zookeeper.publish(&map(&["redis://a:1", "postgres://u:secret@c/x"])).await.unwrap_err();
    assert!(foreign.to_string().contains("\"postgres://u:***@c/x\" is no address of Redis"), "{foreign}");
    assert_eq!(zookeeper.read().await.unwrap(), second);

    registered(&zookeeper, &["w1"]).await;
    drop(watched);
    registered(&zookeeper, &[]).await;
}

async fn registered(zookeeper: &ZooKeeper, expected: &[&str]) {
    tokio::time::timeout(PATIENCE, async {
        while zookeeper.wallets().await.ok().is_none_or(|wallets| wallets != expected) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await
    .expect("the wallets that run are registered, and no others");
}

#[tokio::test]
async fn the_last_map_stays_in_force_while_zookeeper_is_away() {
    let (mut nodes, url) = zookeeper(3).unwrap();
    let zookeeper = ZooKeeper::parse(&url).unwrap();
    let (first, second) = (map(&["redis://a:1"]), map(&["redis://b:1"]));
    publish(&zookeeper, &first).await;
    let watched = zookeeper.clone().watch("w1".into()).await.unwrap();
    let mut current = watched.subscribe();

    // Whichever node leads, its loss is among these; the other two elect a new one, and a change still arrives.
    for (node, next) in nodes.iter_mut().zip([&second, &first, &second]) {
        node.kill();
        publish(&zookeeper, next).await;
        becomes(&mut current, next).await;
        node.restart().unwrap();
    }
    // Without a majority nobody can be asked: the last map stays, and what changes meanwhile arrives afterwards.
    nodes[0].kill();
    nodes[1].kill();
    assert!(zookeeper.read().await.is_err());
    assert_eq!(*current.borrow(), second);
    nodes[0].restart().unwrap();
    nodes[1].restart().unwrap();
    publish(&zookeeper, &first).await;
    becomes(&mut current, &first).await;
}
