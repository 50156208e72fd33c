//! Every server starts, survives `kill -9` with a restart, and ends with its value. (HDFS, in the tests of `storage` and `jigap`.)
#![allow(clippy::unwrap_used, reason = "a test that unwraps nothing has failed")]

use std::net::TcpStream;
use std::time::{Duration, Instant};

use testbed::{Server, mariadb, nats, postgres, redis, zookeeper};

const PATIENCE: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(20);

/// True once nobody listens: a child that PostgreSQL had just begun has its port until it notices.
fn falls_silent(port: u16) -> bool {
    let deadline = Instant::now() + PATIENCE;
    while TcpStream::connect(("127.0.0.1", port)).is_ok() {
        if Instant::now() > deadline {
            return false;
        }
        std::thread::sleep(POLL);
    }
    true
}

fn survives(mut server: Server) {
    let port = server.port();
    server.kill();
    assert!(falls_silent(port), "nobody listens after kill -9");
    server.restart().unwrap();
    drop(server);
    assert!(falls_silent(port), "nobody listens once the value is dropped");
}

#[test]
fn databases_start_and_end() {
    survives(postgres().unwrap().0);
    survives(mariadb().unwrap().0);
}

#[test]
fn services_start_and_end() {
    survives(redis().unwrap().0);
    survives(nats().unwrap().0);
    let (nodes, url) = zookeeper(3).unwrap();
    assert_eq!(url.matches(',').count(), 2);
    nodes.into_iter().for_each(survives);
}
